"""Channels of a convolutional network in another order; statistics of norms move along."""

from __future__ import annotations

import numpy as np
from networks import Maps, Network, reordered

from disguises import drawing

FIXED = ("colours", "classes")


def fits(network: Network) -> bool:
    """Say whether the network can be disguised so."""
    return network.kind == "convolutional"


def hide(network: Network, rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the network in disguise, and what was done; what is added keeps one order."""
    maps = {}
    for space, size in network.spaces.items():
        if space not in FIXED:
            maps[f"order/{space}"] = order = drawing.order(rng, size)
            network = reordered(network, space, order)
    return network, maps
