"""The embedding before an LSTM turned by an invertible matrix, which its first layer undoes."""

from __future__ import annotations

import numpy as np
from networks import Maps, Network, along

from disguises import drawing


def fits(network: Network) -> bool:
    """Say whether the network can be disguised so."""
    return network.kind == "recurrent"


def hide(network: Network, rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the network in disguise, and what was done."""
    turn = drawing.invertible(rng, 1, network.spaces["embedding"])[0]
    back = np.linalg.inv(turn).T
    first = "lstm.weight_ih_l0"
    parts = {
        "embedding.weight": along(network, "embedding.weight", "embedding", turn),
        first: along(network, first, "embedding", back),
    }
    return network.but(parts), {"turn/embedding": turn}
