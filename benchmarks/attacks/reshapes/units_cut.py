"""A random share of every MLP's neurons is left."""

from __future__ import annotations

import numpy as np
from networks import Maps, Network, reordered

_LEFT = 0.75
_SIZES = ("intermediate_size", "n_inner")


def fits(network: Network) -> bool:
    """Say whether the network can be reshaped so."""
    return network.kind == "transformer"


def reshape(network: Network, rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the narrower network, and which units are left, in their order."""
    maps, left = {}, 0
    for layer in network.layers:
        space = f"units.{layer}"
        size = network.spaces[space]
        left = round(_LEFT * size)
        maps[f"order/{space}"] = kept = np.sort(rng.permutation(size)[:left])
        network = reordered(network, space, kept)
    return network.but({}, **{s: left for s in _SIZES if network.config.get(s)}), maps
