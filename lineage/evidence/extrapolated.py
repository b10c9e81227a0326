"""Models taken beyond another: c = p + s (p - q), on the line through two models, outside of them.

Extrapolation (ExPO) goes on from a base q through its fine-tune p; negation goes from a base p away
from its fine-tune q. Of three models on a line the middle one can as well be a mean of the outer
two, to the bit of what is stored here: c = 1.5 p - .5 q is p = 2/3 c + 1/3 q. What tells:

1. People choose round numbers. A mean of round shares is a mean; where only the weights beyond are
   round, the outer model was made. Chance makes 1 + s as round as that once in twelve times.
2. The base of the two came first, and a step leans on its start by nothing. The mean of two that
   were made of others lies behind both: from each of them the way to it leans back.
3. What lies between a model and its negation is the start of others. A mean of siblings u and v
   lies off their start by (u + v) / 2, so that the ways from it to all others lean back by as much;
   those from a start do not. The negation of a model is the one of the two that others' steps point
   away from: trainings have something in common. This tells where both ways have round numbers too.
4. Where models are stored in half precision, what is left of the equation is the rounding of the
   one that was made; see `affine`.

Sources: Zheng et al. (2024), "Weak-to-strong extrapolation expedites alignment"; Ilharco et al.
(2023), "Editing models with task arithmetic".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lineage.evidence.stacked import Stack

__all__ = ["MOST_BEYOND", "are_round", "base_of", "negated_around"]

MOST_BEYOND = 1.0
"""Steps that a model is taken beyond another, at most."""

_STEP, _WITHIN = 0.05, 2e-3
"""Shares that people choose are whole numbers of the first, and within the second of them."""

_LEAST_LEAN = -0.3
"""Of a step on its start, where siblings have -1/2 and what led back has -1."""

_OTHERS = 2
"""Models beside the three, from which they tell whether one is a start."""


def are_round(weights: NDArray[np.float64]) -> bool:
    """Whether weights are such as people choose."""
    return bool(np.all(np.abs(weights - _STEP * np.round(weights / _STEP)) <= _WITHIN))


def base_of(
    family: Stack,
    child: int,
    parents: Sequence[int],
    weights: NDArray[np.float64],
    *,
    is_told: bool = False,
) -> int | None:
    """Return which of two models a child beyond one of them was taken from, the base; or None.

    Args:
        family: The sketches of all.
        child: Its place.
        parents: Two places.
        weights: Theirs, which sum to 1, one of them negative.
        is_told: Whether what rounding left tells that the child is the one that was made.
    """
    if len(parents) != 2 or not -MOST_BEYOND - _WITHIN <= float(weights.min()) < -_WITHIN:
        return None
    first, last = (parents[int(i)] for i in np.argsort(-weights))  # the nearer one, and the other
    are_thirds = not is_told and _are_thirds(family, child, last, weights)
    if family.leans[last, first] >= _LEAST_LEAN and not are_thirds:
        return last
    if is_told and abs(family.leans[first, last]) <= -_LEAST_LEAN and not _is_mirror(weights):
        return first
    return first if negated_around(family, first, (last, child)) == child else None


def _is_mirror(weights: NDArray[np.float64]) -> bool:
    """Whether a model is as far beyond the middle as another is before it: each is the other's."""
    return abs(float(weights.min()) + 1) <= _WITHIN


def _are_thirds(family: Stack, child: int, base: int, weights: NDArray[np.float64]) -> bool:
    """Whether the middle may as well be a third of one and two of the other, which are no starts.

    Half a step beyond is the commonest extrapolation, but a mean of thirds is one of three, too.
    """
    if abs(float(weights.min()) + 0.5) > _WITHIN:
        return False
    return family.starts_of([i for i in range(len(family.cores)) if i != child], 1) != [base]


def negated_around(
    family: Stack, middle: int, ends: Sequence[int], *, is_strict: bool = False
) -> int | None:
    """Return which of two ends is the other's negation around a start, if it is one.

    Args:
        family: The sketches of all.
        middle: The place of what is half of each.
        ends: Two places.
        is_strict: Whether the middle must have come before both ends, too.
    """
    others = [i for i in range(len(family.cores)) if i not in {middle, *ends}]
    if len(others) < _OTHERS or family.starts_of([middle, *others], 1) != [middle]:
        return None
    if is_strict and family.start != middle:
        return None
    back = family.leans[middle, others] * family.distances[middle, others]
    if float(np.median(back)) < _LEAST_LEAN * float(family.distances[middle, list(ends)].mean()):
        return None
    way = family.cores[ends[0]] - family.cores[middle]
    along = (family.cores[others] - family.cores[middle]) @ way
    size = np.sqrt(family.distances[middle, others]).clip(1e-300)
    return ends[0] if float((along / size).sum()) < 0 else ends[1]
