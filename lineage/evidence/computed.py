"""Is a model what computing it from two others leaves, to the bit?

An equation between three models, c = u a + v b, holds for each of them, down to rounding. But only
the one that was computed from the others is that sum, rounded once or a few times on the way, in
nearly every value. Another of the three, computed back, is off by the weight that it has: of values
rounded at random a fifth and more is not what it should be, already for steps of a quarter.

Which sums are tried: the two products added, and a difference times a weight added to either, in
single precision as merging tools compute, or in double, rounded to what the model is stored in.

Null: rounding errors are even between half a unit down and half a unit up, so that of values that
were not computed from the others a share of |w| / 2 and more is another number, w its weight there.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from lineage.fingerprints.lattice import ROUNDING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Numbers = NDArray[np.float32]

__all__ = ["is_computed"]

_NEARLY_ALL, _FEWEST = 0.98, 256
"""Share of the values in which the parents differ that must be the sum's; and how many of these
tell."""

_CHOSEN, _OFF = 20, 1e-3
"""Weights that people choose are whole parts of this, or thirds; how far fitted ones are off."""

_STORED = {
    ROUNDING["BF16"]: np.dtype(ml_dtypes.bfloat16),
    ROUNDING["F16"]: np.dtype(np.float16),
    ROUNDING["F32"]: np.dtype(np.float32),
}
"""How values were rounded whose half unit in the last place is this, relative."""


def is_computed(
    child: Numbers, parents: Sequence[Numbers], weights: Sequence[float], rounding: float
) -> bool:
    """Whether a model's values are the rounded sum of two others', to the bit.

    Args:
        child: Some of its values.
        parents: Those of two models, in the same places.
        weights: What the child has of each, about.
        rounding: Half a unit in the child's last place, relative; see `ROUNDING`.
    """
    stored = _STORED.get(rounding)
    moved = (parents[0] != parents[1]) & np.isfinite(child)
    if stored is None or len(parents) != 2 or np.count_nonzero(moved) < _FEWEST:
        return False
    one, other, made = parents[0][moved], parents[1][moved], child[moved]
    share = _chosen(float(weights[0]))
    sums = _sums(one, other, share)
    return any(
        float(np.mean(total.astype(stored).astype(np.float32) == made)) >= _NEARLY_ALL
        for total in sums
    )


def _chosen(weight: float) -> float:
    """Return the round number that a fitted weight is next to, or the weight."""
    for parts in (_CHOSEN, 3):
        near = round(weight * parts)
        if abs(weight - near / parts) <= _OFF:
            return float(Fraction(near, parts))
    return weight


def _sums(one: Numbers, other: Numbers, share: float) -> Iterator[NDArray[np.floating]]:
    """Yield what share * one + (1 - share) * other may be computed as."""
    first, second = np.float32(share), np.float32(1 - share)
    yield first * one + second * other
    yield one + second * (other - one)
    yield other + first * (one - other)
    yield share * one.astype(np.float64) + (1 - share) * other.astype(np.float64)
