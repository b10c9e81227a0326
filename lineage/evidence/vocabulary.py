"""Was a model's vocabulary grown to make the other's, or cut?

New tokens are rows after the old ones: in the embedding, in the head, and in nothing else. Row i
is in bucket i mod 36 of a sketch with a sign that depends on i div 36, so the core of the grown
matrix is the old one's and the new rows' core, and its inner product with the old one's is that
of the old rows alone: |old|^2 where they are unchanged, near it where they were trained on, and
around 0, with a standard deviation of |old| |new| sqrt(1/k + 1/n), where they are another model's.

A vocabulary that lost its last rows looks the same from the other side and is read as grown, which
is commoner. One that kept other rows is known by its columns: each column's energy falls by about
one share, so the profile over columns stays, which a matrix that was made anew does not have. A
head need not show it: tokens that never occur are pushed one way there. Where the rows that one has
less are far weaker than the others, as means of others are, they may as well have been put in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lineage.artifacts.dialects import layered
from lineage.evidence.base import Evidence, Structure
from lineage.relation import Relation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineage.evidence.base import Direction
    from lineage.evidence.matching import Table
    from lineage.evidence.pairing import Pairing, Resized

KEPT = 0.5
"""Least share of itself that an embedding has left in the first rows of the grown one."""

DEVIATIONS = 8.0
"""Standard deviations of chance that it must have besides."""

SAME_PROFILE = 0.95
"""Correlation of two profiles over columns above which one matrix is some rows of the other: those
of trained embeddings have .96 to 1, strangers and embeddings that were made anew up to .84."""

_LEAST_OF_A_ROW = 0.4
"""Energy of a row that was left out over that of one that was kept, on average, at least."""

_POSITIONS = ("position_embd", "pos_emb", "position_emb")


def vocabulary(pairing: Pairing) -> Structure | None:
    """Say which model's embedding or head is the other's with more rows, or with some of them."""
    outside = [r for r in pairing.resized if _may_hold_tokens(pairing.first.labels[r.a])]
    grown = [r for r in outside if _is_grown(pairing, r)]
    cut = [] if grown else [r for r in outside if _is_less(pairing, r)]
    if not any(_has_profile(pairing, r) for r in cut):
        cut = []
    found = grown or cut
    signs = {r.extents[1] > r.extents[0] for r in found}
    if len(signs) != 1 or len(found) < len(outside):
        return None
    is_b_larger = signs.pop()
    small, large = ("{a}", "{b}") if is_b_larger else ("{b}", "{a}")
    fewer, more = sorted(found[0].extents)
    if grown:
        is_whole = all(_is_kept(pairing, r) for r in grown)
        unchanged = "the same" if is_whole else "still near"
        words = (
            f"{len(grown)} matrices have {more} rows in {large}, of which the first {fewer} are "
            f"{unchanged}: tokens were added to {small}"
        )
        direction: Direction = "a->b" if is_b_larger else "b->a"
        seen = Evidence("vocabulary-v1", words, statistic=float(more - fewer))
        return Structure("vocabulary", Relation.EXPANDED, "vocabulary", direction, is_whole, seen)
    words = (
        f"{len(cut)} matrices have {fewer} of {large}'s {more} rows in {small}, by their profile "
        "over columns: tokens were left out"
    )
    direction = "b->a" if is_b_larger else "a->b"
    seen = Evidence("vocabulary-v1", words, statistic=float(more - fewer))
    return Structure("vocabulary", Relation.PRUNED, "width", direction, False, seen)


def _may_hold_tokens(label: str) -> bool:
    """Whether a tensor stands outside of the layers, and is not called one of positions."""
    return layered(label) is None and not any(word in label for word in _POSITIONS)


def _small_and_large(
    pairing: Pairing, found: Resized
) -> tuple[tuple[Table, int], tuple[Table, int]]:
    one, other = (pairing.first, found.a), (pairing.second, found.b)
    return (one, other) if found.extents[0] < found.extents[1] else (other, one)


def _is_grown(pairing: Pairing, found: Resized) -> bool:
    (small, i), (large, j) = _small_and_large(pairing, found)
    energy, size = _core_energy(small, i), small.sizes[i]
    if energy <= 0:
        return False
    chance = (energy * float(large.energy[j]) * (1 / small.matrix(i).size + 1 / size)) ** 0.5
    return found.cross >= max(KEPT * energy, float(DEVIATIONS * chance))


def _is_kept(pairing: Pairing, found: Resized) -> bool:
    """Whether nothing speaks against the first rows being the same to the bit.

    What the larger has besides cannot take energy from any bucket, and its core is orthogonal to
    the smaller's but for chance: that of the signs of rows alone, since new rows are often the mean
    of the old ones.
    """
    (small, i), (large, j) = _small_and_large(pairing, found)
    for axis in ("rows", "cols"):
        x, y = _buckets(small, i, axis), _buckets(large, j, axis)
        if np.any(y[: len(x)] < x * (1 - 1e-5)):
            return False
    energy, more = _core_energy(small, i), float(large.energy[j] - small.energy[i])
    chance = (energy * max(more, 0.0) / len(small.matrix(i))) ** 0.5
    return abs(found.cross - energy) <= float(6 * chance) + 1e-5 * energy


def _is_less(pairing: Pairing, found: Resized) -> bool:
    """Whether no column has more energy in the smaller matrix than in the larger."""
    x, y = _columns(pairing, found)
    return len(x) >= 8 and len(x) == len(y) and not bool(np.any(x > y))


def _has_profile(pairing: Pairing, found: Resized) -> bool:
    """Whether columns have energies in proportion, and what is missing is as strong as the rest."""
    x, y = _columns(pairing, found)
    fewer, more = sorted(found.extents)
    missing = float((y - x).sum()) / (more - fewer)
    if np.ptp(x) == 0 or np.ptp(y) == 0 or missing < _LEAST_OF_A_ROW * float(x.sum()) / fewer:
        return False
    return float(np.corrcoef(x, y)[0, 1]) >= SAME_PROFILE


def _columns(pairing: Pairing, found: Resized) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    (small, i), (large, j) = _small_and_large(pairing, found)
    axis = "cols" if found.axis == 0 else "rows"
    return _buckets(small, i, axis), _buckets(large, j, axis)


def _core_energy(of: Table, place: int) -> float:
    """Squared norm of a core: what its inner product with itself is, and not of the weights."""
    core = of.matrix(place).astype(np.float64)
    return float(np.vdot(core, core))


def _buckets(of: Table, place: int, axis: str) -> NDArray[np.float64]:
    sketch = of.tensors[place].sketch
    assert sketch is not None
    return (sketch.rows if axis == "rows" else sketch.cols).astype(np.float64)
