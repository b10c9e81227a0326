"""Cells of an LSTM, and the units after it, in another order: all gates of a cell together."""

from __future__ import annotations

import numpy as np
from networks import Maps, Network, reordered

from disguises import drawing


def fits(network: Network) -> bool:
    """Say whether the network can be disguised so."""
    return network.kind == "recurrent"


def hide(network: Network, rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the network in disguise, and what was done."""
    maps = {}
    for space, size in network.spaces.items():
        if space.startswith(("cells.", "hidden")):
            maps[f"order/{space}"] = order = drawing.order(rng, size)
            network = reordered(network, space, order)
    return network, maps
