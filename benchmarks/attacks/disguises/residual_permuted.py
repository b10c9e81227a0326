"""The coordinates of the residual stream in another order."""

from __future__ import annotations

import numpy as np
from networks import Maps, Network, reordered

from disguises import drawing


def fits(network: Network) -> bool:
    """Say whether the network can be disguised so."""
    return network.kind == "transformer"


def hide(network: Network, rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the network in disguise, and what was done."""
    order = drawing.order(rng, network.spaces["residual"])
    return reordered(network, "residual", order), {"order/residual": order}
