"""Is the difference of two models a merged low-rank adapter?

From sketches, where the adapter's weakest direction is above what rounding leaves in them, or where
all matrices show the same last gap between directions; else from the differences themselves, which
have many more directions for rounding to spread over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from lineage.fingerprints.sketch import SIDE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from lineage.evidence.pairing import Pairing

__all__ = ["LOW_RANK", "LowRank", "low_rank", "rank_of", "weaker_half"]

LOW_RANK = "low-rank-v1"
"""The detector's name, where sketches tell."""

_SMALLEST_SIDE = 8

_MOST_FULL = 0.1
"""Share of the matrices whose difference may have a full rank, or a higher one than the rest."""

_OVER_NOISE = 1.5
"""How far above the norm of white noise a singular value must be."""

_NEAR, _AT_RANK = 0.8, 0.8
"""A matrix has the rank where it shows this share of it, and this share of them must."""

_MOST_LEFT = 1.5
"""What the rank leaves, over what rounding does."""

_LEAST_TAKEN = 2.0
"""What the rank takes, over what rounding leaves: of less the first direction alone may be seen."""

_ROUNDED = 2.0
"""Roundings between two models at most: either may have been rounded by itself."""

_GAP, _MOST_GAP, _SHARP = 0.1, 0.5, 3.0
"""Mean logarithm of a singular value over the next, in the differences themselves, from which there
is a gap; what one matrix adds to the mean at most; and how many times it must be any gap behind."""

_SURE, _CLEAR = 5.0, 2.0
"""How far a gap between singular values is beyond that of white noise behind it: the mean over
matrices in its standard errors, and in standard deviations of one matrix."""

_STRAYS, _ALWAYS = 2.0, 0.1
"""How far mean gaps behind may be off those of white noise: in standard errors, and as much more in
standard deviations of one matrix, as what rounding leaves is not quite white."""

_FEW, _SEE_IT = 4, 0.5
"""Matrices from which a rank is told at least, and what share of them must have a gap there that
is as sharp: of a light adapter some matrices have less than rounding leaves."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """A difference whose every changed matrix has a low rank.

    Attributes:
        rank: The rank that few matrices exceed.
        modules: How many matrices changed.
    """

    rank: int
    modules: int


def low_rank(pairing: Pairing) -> LowRank | None:
    """Find one rank in the cores of changed matrices, above rounding or by a gap.

    Returns:
        None unless the changed matrices have one rank, of at most half of nearly all their sides.
    """
    seen: list[_Seen] = []
    full = 0
    changed = np.flatnonzero(pairing.is_matrix & ~pairing.same)
    for place in changed:
        if full > _MOST_FULL * len(changed):
            return None  # whatever the rest is
        core = pairing.difference(int(place))
        if min(core.shape) < _SMALLEST_SIDE:
            continue
        one = _Seen.of(core, _noise(pairing, int(place)), pairing.first.shapes[pairing.a[place]])
        full += one.rank(_ROUNDED) > SIDE // 2
        seen.append(one)
    found = [_above_rounding(seen)]
    if _is_as_of_adapters(pairing):
        found.append(_at_gap(seen))
    return max(filter(None, found), key=lambda one: one.rank, default=None)


def _above_rounding(seen: list[_Seen]) -> LowRank | None:
    """Count singular values above the rounding floor in the core of each changed matrix.

    The core of a product BA is the product of the sketched factors, so it has the rank of BA
    wherever that is below the core's side. The floor is what rounding to the stored dtype leaves:
    a Gaussian matrix of side m and entries of variance s^2 has a norm of about 2 s sqrt(m).

    The same rounding hides most of a light training of everything, whose few strongest directions
    stand out. But these are more in one matrix and fewer in another, and what they leave is more
    than rounding, where an adapter has one rank and leaves nothing.
    """
    rounded = _roundings(seen)
    ranks = [(one, rank) for one in seen if (rank := one.rank(rounded))]  # 0: rounding alone
    low = sorted(rank for one, rank in ranks if rank <= one.side // 2)
    if not low:
        return None
    rank = low[math.ceil((1 - _MOST_FULL) * len(low)) - 1]
    have_it = sum(_NEAR * rank <= found <= rank for _, found in ranks)
    have_more = sum(found > rank for _, found in ranks)
    if have_it < _AT_RANK * len(ranks) or have_more > _MOST_FULL * len(ranks):
        return None
    left = [one.left(rank) for one, _ in ranks if rank <= one.side // 2]
    noise = rounded * sum(noise for _, noise in left)
    taken = sum(float((one.values[:rank] ** 2).sum()) for one, _ in ranks)
    if sum(rest for rest, _ in left) > _MOST_LEFT * noise or taken < _LEAST_TAKEN * noise:
        return None
    return LowRank(rank, len(ranks))


def _is_as_of_adapters(pairing: Pairing) -> bool:
    """Whether some matrices alone changed: no vector, and not all that are matrices."""
    is_same, is_matrix = pairing.same, pairing.is_matrix
    return bool(is_same[~is_matrix].all() and is_same[is_matrix].any())


def _at_gap(seen: list[_Seen]) -> LowRank | None:
    """Find the last place at which the singular values of all matrices fall, to white noise.

    An adapter that is as small as rounding has directions in the noise, more in one matrix than in
    another, so that none shows its rank by itself. Behind the rank the mean gaps between logarithms
    of singular values are those of a Gaussian matrix without that many rows and columns, and at it
    the gap is larger. A training of everything falls off without such a gap. It, too, may end in
    noise, which is why this is asked only where nothing but some matrices changed.
    """
    seen = [one for one in seen if one.side >= 2 * _SMALLEST_SIDE and one.values[0] > 0]
    if len(seen) < _FEW:
        return None
    for rank in range(min(one.side for one in seen) // 2, 0, -1):
        ats, behinds = zip(*(one.gaps(rank) for one in seen), strict=True)
        shortest = min(map(len, behinds))
        strays = np.stack([one[:shortest] for one in behinds]).mean(axis=0)
        sharp, error = float(np.mean(ats)), len(seen) ** -0.5
        if sharp >= max(_SURE * error, _CLEAR):
            lefts, noises = zip(*(one.left(rank) for one in seen), strict=True)
            is_noise = sum(lefts) <= _MOST_LEFT * _ROUNDED * sum(noises)
            is_white = np.sqrt(np.mean(strays**2)) <= _STRAYS * error + _ALWAYS
            return LowRank(rank, len(seen)) if is_noise and is_white else None
    return None


def rank_of(differences: Iterable[tuple[NDArray[np.float64], float]]) -> LowRank | None:
    """Find the last gap between singular values, over the differences of many matrices.

    Rounding leaves most values of a light adapter as they were, so how much noise there is cannot
    be had from the dtype, and what it leaves is not white. But its singular values follow each
    other closely, while those of an adapter end at one place in all matrices. What a training of
    everything leaves falls off without a gap, or has more behind it than rounding leaves.

    Args:
        differences: Of changed matrices, or of corners of them, each of two extents, with the
            squared norm that one rounding leaves there.

    Returns:
        None unless they have one rank, of at most half of their sides.
    """
    gaps: list[NDArray[np.float64]] = []
    squares: list[NDArray[np.float64]] = []
    noise = 0.0
    for difference, one in differences:
        side = min(difference.shape)
        if side < 2 * _SMALLEST_SIDE or not np.isfinite(difference).all():
            continue
        values = np.asarray(np.linalg.svd(difference, compute_uv=False), np.float64)
        if values[0] > 0:
            logs = np.log(np.maximum(values, 1e-9 * values[0]))
            seen = side * 3 // 4
            gaps.append(np.minimum(logs[:seen] - logs[1 : seen + 1], _MOST_GAP))
            squares.append(values**2)
            noise += _ROUNDED * one
    if len(gaps) < _FEW:
        return None
    shortest = min(map(len, gaps))
    all_gaps = np.stack([gap[:shortest] for gap in gaps])
    mean = all_gaps.mean(axis=0)
    last = int(np.flatnonzero(mean >= _GAP)[-1]) if (mean >= _GAP).any() else shortest - 1
    behind = all_gaps[:, last + 1 :]
    have_it = np.mean(all_gaps[:, last] >= _SHARP * behind.mean(axis=1)) if behind.size else 0
    if 3 * (last + 1) > 2 * shortest or have_it < _SEE_IT:  # more than half of a side
        return None
    if mean[last] < _SHARP * behind.mean(axis=0).max():
        return None
    left = sum(float(square[last + 1 :].sum()) for square in squares)
    return LowRank(last + 1, len(gaps)) if left <= _MOST_LEFT * noise else None


@dataclass(frozen=True, slots=True)
class _Seen:
    """One changed matrix.

    Attributes:
        side: The most singular values that there could be.
        cells: Rows and columns of the core of its difference.
        values: Singular values of that, the largest first.
        noise: Squared norm that one rounding leaves.
    """

    side: int
    cells: tuple[int, ...]
    values: NDArray[np.float64]
    noise: float

    @classmethod
    def of(cls, core: NDArray[np.float64], noise: float, shape: tuple[int, ...]) -> _Seen:
        side = min(*core.shape, shape[0], math.prod(shape[1:]))
        values = np.asarray(np.linalg.svd(core, compute_uv=False), np.float64)
        return cls(side, core.shape, values, noise)

    def rank(self, rounded: float) -> int:
        """Return how many singular values are above what so many roundings leave."""
        floor = _OVER_NOISE * 2 * np.sqrt(rounded * self.noise / min(self.cells))
        return int(np.count_nonzero(self.values > floor))

    def gaps(self, rank: int) -> tuple[float, NDArray[np.float64]]:
        """Return the gap at a rank and those behind, as deviations from those of white noise."""
        rows, cols = self.cells
        mean, spread = _white_gaps(rows - rank, cols - rank)
        logs = np.log(np.maximum(self.values[: self.side], 1e-9 * self.values[0]))
        gaps = logs[:-1] - logs[1:]
        seen = max(2, (self.side - 1 - rank) * 2 // 3)  # the smallest ones vary
        behind = (gaps[rank : rank + seen] - mean[:seen]) / spread[:seen]
        return float((gaps[rank - 1] - mean[0]) / spread[0]), behind

    def left(self, rank: int) -> tuple[float, float]:
        """Return the squared norm beyond a rank, and what one rounding leaves of it."""
        rows, cols = self.cells
        share = (rows - rank) * (cols - rank) / (rows * cols)
        return float((self.values[rank:] ** 2).sum()), share * self.noise


def _roundings(seen: list[_Seen]) -> float:
    """Estimate by how many roundings two models differ, from the weaker half of what is seen.

    Of a low rank that half is nothing but rounding.
    """
    some = [one for one in seen if one.side == min(one.cells)]
    weak = sum(float((one.values[one.side // 2 :] ** 2).sum()) for one in some)
    expected = sum(weaker_half(*sorted(one.cells)) * one.noise for one in some)
    return min(max(weak / expected, 1.0), _ROUNDED) if expected else 1.0


@cache
def _white_gaps(rows: int, cols: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Simulate gaps between logarithms of singular values of noise: mean and spread."""
    drawn = np.random.default_rng(0).standard_normal((64, rows, cols))
    logs = np.log(np.linalg.svd(drawn, compute_uv=False))
    gaps = logs[:, :-1] - logs[:, 1:]
    return gaps.mean(axis=0), gaps.std(axis=0)


@cache
def weaker_half(rows: int, cols: int) -> float:
    """Simulate how much of a Gaussian matrix's squared norm the smaller singular values have."""
    drawn = np.random.default_rng(0).standard_normal((64, rows, cols))
    squares = np.linalg.svd(drawn, compute_uv=False) ** 2
    return float((squares[:, rows // 2 :].sum(axis=1) / squares.sum(axis=1)).mean())


def _noise(pairing: Pairing, place: int) -> float:
    """Squared norm that rounding, of the weights and of the sketches themselves, leaves."""
    stored = (2.0**-23) ** 2 * (pairing.energy_a[place] + pairing.energy_b[place])
    return float(pairing.noise[place] + stored)
