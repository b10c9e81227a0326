"""Merges of two models or more that weigh them anew in every matrix.

Model Stock (Jang et al. 2024) moves each matrix from a base towards the mean of its fine-tunes, as
far as their angles say; a Karcher mean goes along arcs between several; tools that merge take
weights by layer. All these have in common that each matrix of the child is a weighted sum of its
parents', down to rounding, with weights of its own. As with one sum for all matrices, the signs
show which of the models is the child: its weights are positive, while each of its parents is a sum
with a negative one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.base import Merge
from lineage.evidence.sums import FLOOR, LEAST_COEFFICIENT, NEEDED, PLAIN, WHITE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lineage.evidence.stacked import Stack

__all__ = ["spanned_merge"]

_CANDIDATES = 40
"""Models that are weighed together at most, the nearest."""

_MOST_PARENTS = 5

_HALF = 0.5
"""What a parent must leave, as a share of what is left without it, where that is rounding too."""

_LEAST_MATRICES = 6
"""That the models differ in: few are explained by weights of their own too easily."""

_GLANCED = 2
"""Matrices at which one looks first whether any sum explains them, the largest."""

_BELOW, _FEW = -0.05, 0.1
"""What a weight in one matrix may be, and the share of matrices in which one may be less: where two
fine-tunes moved against each other Model Stock goes the other way."""

_ABOVE = 1.2
"""The most that the weights of a matrix sum to: arcs are longer than lines."""

_WHOLE = 1e-3
"""How far from 0 and 1 all weights are where whole matrices were taken over: then two models may as
well be steps before and after one, each of which left other matrices alone."""

_ON_ARCS = 2e-3
"""By how much the weights of a matrix sum to more than 1, on average, where they go along arcs."""


def spanned_merge(family: Stack, child: int, others: Sequence[int]) -> Merge | None:
    """Write every matrix of a model as a weighted sum of those of some others, down to rounding."""
    away = family.distances[child, list(others)]
    if len(others) < 2 or away.min() <= NEEDED * float(family.rounding[child]):
        return None  # a copy
    near = [others[int(i)] for i in np.argsort(away, kind="stable")[:_CANDIDATES]]
    moved = _moved(family, near)
    if len(moved) < _LEAST_MATRICES:
        return None
    energy = [float(np.sum(family.cores[child, where] ** 2)) for where in moved]
    allowed = 2 * FLOOR * float(family.rounding[[child, *near]].max()) / sum(energy)
    for i in np.argsort(energy)[::-1][:_GLANCED]:
        left = _fitted(family, child, near, moved[i])[1]
        if float(left @ left) > allowed * energy[i]:
            return None
    parents = _chosen(family, child, near, moved)
    return None if parents is None else _checked(family, child, parents, moved)


def _moved(family: Stack, places: Sequence[int]) -> list[slice]:
    """Return the matrices in which some models are not all alike."""
    first, *others = places
    found = np.zeros(len(family.starts), bool)
    for place in others:
        if found.all():
            break
        unlike = family.cores[place] != family.cores[first]
        found |= np.logical_or.reduceat(unlike, family.starts)
    return [where for where, is_moved in zip(family.slices(), found, strict=True) if is_moved]


def _fitted(
    family: Stack, child: int, parents: Sequence[int], where: slice
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weights of some models that come nearest to a child's matrix, and what is left.

    From the first one on: along itself, which arcs add, and on the ways to the others.
    """
    first = family.cores[parents[0], where]
    basis = np.vstack([first, family.cores[list(parents[1:]), where] - first])
    goal = family.cores[child, where] - first
    along = np.linalg.lstsq(basis.T, goal, rcond=None)[0]
    weights = np.append(1 + along[0] - along[1:].sum(), along[1:])
    return weights, goal - along @ basis


def _left(family: Stack, child: int, parents: Sequence[int], moved: Sequence[slice]) -> float:
    """Return the squared norm of what some models leave of a child."""
    rest = (_fitted(family, child, parents, where)[1] for where in moved)
    return sum(float(left @ left) for left in rest)


def _chosen(
    family: Stack, child: int, near: Sequence[int], moved: Sequence[slice]
) -> list[int] | None:
    """Return the models that explain a child with nothing left, added one by one, the best first.

    None of them is needless: the first ones may have become so.
    """
    chosen: list[int] = []
    least, is_all = np.inf, False
    while len(chosen) < _MOST_PARENTS:
        tried = [i for i in near if i not in chosen]
        left = [_left(family, child, [*chosen, i], moved) for i in tried]
        if not tried or (is_all and min(left) > _HALF * least):
            break
        best = int(np.argmin(left))
        chosen.append(tried[best])
        least = left[best]
        is_all = least <= _allowed(family, child, chosen)
    if not is_all:
        return None
    for one in list(chosen):
        rest = [i for i in chosen if i != one]
        if len(rest) > 1 and _HALF * _left(family, child, rest, moved) <= least:
            chosen = rest
    return sorted(chosen) if len(chosen) > 1 else None


def _allowed(family: Stack, child: int, parents: Sequence[int]) -> float:
    return FLOOR * float(family.rounding[child] + family.rounding[list(parents)].max())


def _checked(family: Stack, child: int, parents: list[int], moved: Sequence[slice]) -> Merge | None:
    """Return the merge if the weights are those of one, and what is left is rounding."""
    left = np.zeros_like(family.cores[child])
    found, sizes = [], []
    for where in moved:
        ways = family.cores[parents, where] - family.cores[child, where]
        if not (ways[1:] != ways[0]).any():
            continue
        weights, left[where] = _fitted(family, child, parents, where)
        found.append(weights)
        sizes.append(float(np.sum(ways**2)))
    shares, size = np.array(found), np.array(sizes)
    if len(shares) < _LEAST_MATRICES or np.mean(np.any(shares < _BELOW, axis=1)) > _FEW:
        return None
    total = shares.sum(axis=1)
    if np.any(total > _ABOVE):
        return None
    mean = size @ shares / size.sum()
    nearest = float(family.distances[child, parents].min())
    residual = float(left @ left)
    if np.any(mean < LEAST_COEFFICIENT) or residual * NEEDED > nearest:
        return None
    if residual > PLAIN * nearest and family.spikes(left) > WHITE:
        return None
    if np.all(np.minimum(np.abs(shares), np.abs(1 - shares)) < _WHOLE):
        return None
    mean /= mean.sum()
    return Merge(
        tuple(parents),
        tuple(float(share) for share in mean),
        float(np.sqrt(residual / nearest)),
        "slerp" if float(np.mean(total - 1)) > _ON_ARCS else "linear",
    )
