"""Queries of every head turned by a matrix, and keys by the inverse of its transpose.

Where positions turn pairs of coordinates (RoPE), the matrix must commute with that: a rotation and
a factor for each pair. Halves are paired, as in `rotate_half`: coordinate j with j + half. Queries
that share a key head share its matrix.
"""

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
        spaces, inside = network.spaces, network.spaces[f"inside.{layer}"]
        rotary, count = rotary_of(network, inside), spaces[f"groups.{layer}"]
        turn = np.zeros((count, inside, inside))
        turn[:, :rotary, :rotary] = _of_pairs(rng, count, rotary)
        turn[:, rotary:, rotary:] = drawing.invertible(rng, count, inside - rotary)
        back = np.linalg.inv(turn).transpose(0, 2, 1)
        parts = {}
        for role, by, axes in (("q.w", turn, "gmjr"), ("q.b", turn, "gmj"), ("k.w", back, "gjr"),
                               ("k.b", back, "gj")):  # fmt: skip
            name = f"{layer}.{role}"
            if name in network.parts:
                rule = f"gij,{axes}->{axes.replace('j', 'i')}"
                parts[name] = np.einsum(rule, by, network.parts[name])
        network = network.but(parts)
        maps[f"turn/inside.{layer}"] = turn
    return network, maps


def rotary_of(network: Network, inside: int) -> int:
    """Return how many coordinates of a head positions turn: whole pairs."""
    assert network.dialect is not None
    told = network.config.get("rope_parameters") or {}
    share = told.get("partial_rotary_factor", network.dialect.rotary)
    return 2 * ((int(inside * share) + 1) // 2)


def _of_pairs(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    half = size // 2
    angle = rng.uniform(0, 2 * np.pi, (count, half))
    factor = np.exp2(rng.uniform(-1, 1, (count, half)))
    turn, at = np.zeros((count, size, size)), np.arange(half)
    turn[:, at, at] = turn[:, at + half, at + half] = factor * np.cos(angle)
    turn[:, at, at + half] = -factor * np.sin(angle)
    turn[:, at + half, at] = factor * np.sin(angle)
    return turn
