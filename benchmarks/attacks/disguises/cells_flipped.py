"""Signs of an LSTM's cells, and of the units after it, flipped: tanh is odd, gates are not."""

from __future__ import annotations

import numpy as np
from networks import Maps, Network, along
from others import GATES


def fits(network: Network) -> bool:
    """Say whether the network can be disguised so."""
    return network.kind == "recurrent"


def hide(network: Network, rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the network in disguise, and what was done."""
    maps = {}
    for space, size in network.spaces.items():
        if space.startswith(("cells.", "hidden")):
            maps[f"factor/{space}"] = signs = rng.choice([-1.0, 1.0], size)
            network = network.but({r: _flipped(network, r, space, signs)
                                   for r in network.touching(space)})  # fmt: skip
    return network, maps


def _flipped(network: Network, role: str, space: str, signs: np.ndarray) -> np.ndarray:
    """Flip what reads cells, and of what makes them the one gate that is not a share."""
    value, axes = network.parts[role].copy(), network.axes[role]
    if axes[0] != "gates":
        return along(network, role, space, signs)
    if len(axes) == 3 and axes[2] == space:
        value *= signs
    if axes[1] == space:
        cell = value[GATES.index("cell")]
        cell *= signs.reshape(-1, *[1] * (cell.ndim - 1))
    return value
