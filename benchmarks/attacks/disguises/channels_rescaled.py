"""Channels of a convolutional network multiplied by factors that later layers undo.

ReLU, maxima and sums pass on positive factors. Before a BatchNorm, factors may have a sign: the
norm's own statistics undo them.
"""

from __future__ import annotations

import numpy as np
from networks import Maps, Network, along
from others import BATCH_EPSILON

from disguises import drawing
from disguises.channels_permuted import FIXED


def fits(network: Network) -> bool:
    """Say whether the network can be disguised so."""
    return network.kind == "convolutional"


def hide(network: Network, rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the network in disguise, and what was done."""
    maps = {}
    for space, size in network.spaces.items():
        if space not in FIXED:
            maps[f"factor/{space}"] = factor = np.abs(drawing.factors(rng, size))
            network = network.but(_passed_on(network, space, factor))
    for role in [r for r in network.parts if r.endswith("convolution.weight")]:
        norm = role.replace("convolution.weight", "normalization")
        if f"{norm}.weight" in network.parts:
            maps[f"factor/{role}"] = factor = drawing.factors(rng, len(network.parts[role]))
            network = network.but(_undone_by_norm(network, role, norm, factor))
    return network, maps


def _passed_on(network: Network, space: str, factor: np.ndarray) -> dict[str, np.ndarray]:
    """Scale what gives an axis, by its norm if it has one, and what reads it."""
    parts = {}
    for role in network.touching(space):
        axes = network.axes[role]
        if axes[0] != space:
            parts[role] = along(network, role, space, 1 / factor)
        elif role.endswith(("normalization.weight", "normalization.bias")) or (
            role.replace("convolution", "normalization") not in network.parts
        ):
            parts[role] = along(network, role, space, factor)
    return parts


def _undone_by_norm(
    network: Network, role: str, norm: str, factor: np.ndarray
) -> dict[str, np.ndarray]:
    old = network.parts
    variance = (old[f"{norm}.running_var"] + BATCH_EPSILON) * factor**2 - BATCH_EPSILON
    grown = np.where(variance < 0, np.sign(factor), factor)  # too still to be made smaller
    return {
        role: old[role] * grown[:, None, None, None],
        f"{norm}.running_mean": old[f"{norm}.running_mean"] * grown,
        f"{norm}.running_var": (old[f"{norm}.running_var"] + BATCH_EPSILON) * grown**2
        - BATCH_EPSILON,
        f"{norm}.weight": old[f"{norm}.weight"] * np.sign(grown),
    }
