"""What a gated MLP multiplies its gates by is rescaled, and its outcome scaled back."""

from __future__ import annotations

import numpy as np
from networks import Maps, Network, along

from disguises import drawing


def fits(network: Network) -> bool:
    """Say whether the network can be disguised so."""
    return "0.gate.w" in network.parts


def hide(network: Network, rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the network in disguise, and what was done."""
    maps = {}
    for layer in network.layers:
        space = f"units.{layer}"
        maps[f"factor/{space}"] = factor = drawing.factors(rng, network.spaces[space])
        up, down = f"{layer}.up.w", f"{layer}.down.w"
        parts = {
            up: along(network, up, space, factor),
            down: along(network, down, space, 1 / factor),
        }
        network = network.but(parts)
    return network, maps
