"""A random quarter of every MLP's neurons stands twice, each with half of the outgoing weights.

The shape changes and no output does.
"""

from __future__ import annotations

import numpy as np
from networks import Maps, Network, along, reordered

_SHARE = 0.25
_SIZES = ("intermediate_size", "n_inner")


def fits(network: Network) -> bool:
    """Say whether the network can be reshaped so."""
    return network.kind == "transformer"


def reshape(network: Network, rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the wider network, and which unit each of its units comes from."""
    maps, wide = {}, 0
    for layer in network.layers:
        space = f"units.{layer}"
        size = network.spaces[space]
        again = rng.permutation(size)[: round(_SHARE * size)]
        order = rng.permutation(np.concatenate([np.arange(size), again]))
        share = 1 / np.bincount(order, minlength=size)[order]
        network = reordered(network, space, order)
        role = f"{layer}.down.w"
        network = network.but({role: along(network, role, space, share)})
        maps |= {f"order/{space}": order, f"share/{space}": share}
        wide = len(order)
    return network.but({}, **{s: wide for s in _SIZES if network.config.get(s)}), maps
