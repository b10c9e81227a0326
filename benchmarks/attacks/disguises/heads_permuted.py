"""Attention heads in another order: key heads with their queries, and the queries of each."""

from __future__ import annotations

import numpy as np
from networks import Maps, Network, reordered

from disguises import drawing


def fits(network: Network) -> bool:
    """Say whether the network can be disguised so."""
    return network.kind == "transformer"


def hide(network: Network, rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the network in disguise, and what was done.

    `order/members.N` has a row for each key head, in the new order of these.
    """
    maps = {}
    for layer in network.layers:
        groups = drawing.order(rng, network.spaces[f"groups.{layer}"])
        network = reordered(network, f"groups.{layer}", groups)
        count = network.spaces[f"members.{layer}"]
        members = np.stack([drawing.order(rng, count) for _ in groups])
        parts = {
            role: _members(
                network.parts[role], network.axes[role].index(f"groups.{layer}"), members
            )
            for role in network.touching(f"members.{layer}")
        }
        network = network.but(parts)
        maps |= {f"order/groups.{layer}": groups, f"order/members.{layer}": members}
    return network, maps


def _members(value: np.ndarray, axis: int, members: np.ndarray) -> np.ndarray:
    """Return a part with the queries of each key head reordered; their axis is the next."""
    first = np.moveaxis(value, (axis, axis + 1), (0, 1))
    moved = first[np.arange(len(members))[:, None], members]
    return np.moveaxis(moved, (0, 1), (axis, axis + 1))
