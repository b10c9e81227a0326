"""Maps of rows that an adapter was merged into: what it leaves of them tells the maps exactly.

A map that is fitted to changed rows takes part of the change for its own, and what is left then has
no low rank any more. But an adapter changes all rows of a matrix along the same few directions. So
the map is asked of the other directions alone, the directions of what it leaves, and by turns until
nothing but the adapter is left. Where that does not come about, there was no adapter.

Source: least squares with errors of low rank, solved by alternating projections, as in Netrapalli
et al., "Non-convex Robust PCA" (2014); own code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Told", "told"]

_RANKS = (1, 2, 4, 8, 16, 32, 64)
"""Ranks that an adapter may have, each with all lower ones."""

_LARGEST = 0.25
"""Of directions, the most that an adapter may have changed."""

EXACT = 1e-11
"""Squared, as a share of a's: what is left where nothing else was done."""

_EXPLAINED = 0.05
"""Of what is left without an adapter, squared, what one must leave to be believed."""

_ROUNDS, _SLOW = 80, 0.97
"""How often directions are found again, at most; and what the next time must leave of the last."""

_FIRST, _LIKELY = 8, 0.5
"""Rounds after which so much of what was left must be gone, which a rank must also hold at first:
of a training of everything nothing more is asked."""

_SHARPER = 0.1
"""What a rank must leave of what the last one did, to be taken instead of it."""

_ALONG = 64
"""Directions of a wide stream that are looked along, at most, above four times a block's rows."""

_RIDGE = 1e-14


@dataclass(frozen=True, slots=True)
class Told:
    """Maps that leave nothing, or a change of low rank.

    Attributes:
        maps: One for each block of rows.
        rank: Of what they leave.
        left: Squared, as a share of a's, what is beyond that rank.
    """

    maps: Array
    rank: int
    left: float


def told(to: Array, came: Array) -> Told | None:
    """Find the maps that take blocks of rows to others up to a change of low rank.

    Args:
        to: a's rows: blocks, matrices that share a block's map, rows of a block, coordinates.
        came: b's rows that they are, of the same shape.

    Returns:
        The maps of the lowest rank that tells them; None if none does.
    """
    size, width = to.shape[2:]
    if width > 4 * size + _ALONG:
        draw = np.random.default_rng(0)
        plane = draw.standard_normal((width, 4 * size + _ALONG)) / np.sqrt(width)
        to, came = to @ plane, came @ plane
        width = plane.shape[1]
    whole = float(np.sum(to**2)) + 1e-300
    maps = _fitted(to, came, np.zeros((width, 0)))
    first = float(np.sum(_off(to, came, maps) ** 2)) / whole
    if first <= EXACT:
        return Told(maps, 0, first)
    spread = _energies(to, came, maps)[0]
    most = min(int(_LARGEST * width), int(_LARGEST * to.shape[0] * to.shape[1] * size))
    found: Told | None = None
    for rank in (rank for rank in _RANKS if rank <= min(most, width - size - 1)):
        if spread[-rank:].sum() < _LIKELY * spread.sum():
            continue
        start = maps if rank >= size else _fitted(to, came, _in_common(to, came, rank))
        there, left = _alternated(to, came, start, rank)
        if found is not None and left / whole > _SHARPER * found.left:
            break
        if left / whole <= max(_EXPLAINED * first, EXACT) and _is_low(to, came, there, rank):
            found = Told(there, rank, left / whole)
    return found


def _in_common(to: Array, came: Array, rank: int) -> Array:
    """Return the directions of a change as what the rows of all blocks, a's and b's, share.

    Those of a block span as many directions as it has rows, and those of the change besides.
    """
    rows = np.concatenate([to, came], axis=2).reshape(-1, 2 * to.shape[2], to.shape[3])
    spans = np.linalg.svd(rows, full_matrices=False)[2][:, : to.shape[2] + rank]
    spans = spans.reshape(-1, to.shape[3])
    found: Array = np.linalg.eigh(spans.T @ spans)[1][:, -rank:]
    return found


def _alternated(to: Array, came: Array, maps: Array, rank: int) -> tuple[Array, float]:
    """Return maps and what they leave beyond a rank, found by turns."""
    first = left = np.inf
    for turn in range(_ROUNDS):
        values, vectors = _energies(to, came, maps)
        now = float(values[:-rank].sum())
        if now > _SLOW * left or (turn == _FIRST and now > _LIKELY * first):
            return maps, min(now, left)
        first, left = (now if turn == 0 else first), now
        maps = _fitted(to, came, vectors[:, -rank:])
    return maps, left


def _is_low(to: Array, came: Array, maps: Array, rank: int) -> bool:
    """Whether what is left has a low rank in b's coordinates, too.

    Maps that stretch a few directions most make anything look like these in a's alone.
    """
    off = np.linalg.solve(maps[:, None], _off(to, came, maps)).reshape(-1, to.shape[3])
    values = np.maximum(np.linalg.eigvalsh(off.T @ off), 0)
    return bool(values[:-rank].sum() <= _EXPLAINED * values.sum())


def _off(to: Array, came: Array, maps: Array) -> Array:
    found: Array = maps[:, None] @ came - to
    return found


def _energies(to: Array, came: Array, maps: Array) -> tuple[Array, Array]:
    """Return what maps leave along each direction, squared, the least first, and the directions."""
    off = _off(to, came, maps).reshape(-1, to.shape[3])
    values, vectors = np.linalg.eigh(off.T @ off)
    return np.maximum(values, 0), vectors


def _fitted(to: Array, came: Array, away: Array) -> Array:
    """Return the maps that fit best along all directions but some."""
    ours, theirs = (one - (one @ away) @ away.T for one in (to, came))
    back = theirs.transpose(0, 1, 3, 2)
    gram, cross = ((one @ back).sum(axis=1) for one in (theirs, ours))
    trace = np.trace(gram, axis1=1, axis2=2)[:, None, None]
    gram = gram + (_RIDGE * trace + 1e-300) * np.eye(gram.shape[1])
    found: Array = np.linalg.solve(gram, cross.transpose(0, 2, 1)).transpose(0, 2, 1)
    return found
