"""Values of every head turned by an invertible matrix, and turned back in what reads them."""

from __future__ import annotations

import numpy as np
from networks import Maps, Network

from disguises import drawing


def fits(network: Network) -> bool:
    """Say whether the network can be disguised so."""
    return network.kind == "transformer"


def hide(network: Network, rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the network in disguise, and what was done."""
    maps = {}
    for layer in network.layers:
        spaces = network.spaces
        turn = drawing.invertible(rng, spaces[f"groups.{layer}"], spaces[f"value.{layer}"])
        back = np.linalg.inv(turn)
        v, b, o = f"{layer}.v.w", f"{layer}.v.b", f"{layer}.o.w"
        parts = {
            v: np.einsum("gij,gjr->gir", turn, network.parts[v]),
            o: np.einsum("rgmj,gji->rgmi", network.parts[o], back),
        }
        if b in network.parts:
            parts[b] = np.einsum("gij,gj->gi", turn, network.parts[b])
        network = network.but(parts)
        maps[f"turn/value.{layer}"] = turn
    return network, maps
