"""The neurons of every MLP in another order."""

from __future__ import annotations

import numpy as np
from networks import Maps, Network, reordered

from disguises import drawing


def fits(network: Network) -> bool:
    """Say whether the network can be disguised so."""
    return network.kind == "transformer"


def hide(network: Network, rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the network in disguise, and what was done."""
    maps = {}
    for layer in network.layers:
        space = f"units.{layer}"
        maps[f"order/{space}"] = order = drawing.order(rng, network.spaces[space])
        network = reordered(network, space, order)
    return network, maps
