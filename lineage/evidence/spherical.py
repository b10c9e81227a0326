"""Merges of two models that differ from matrix to matrix: along an arc, by layer, in slices.

SLERP (Shoemake 1985; as tools for merging apply it) takes each tensor along the arc between the
parents' tensors: sin((1-t) a)/sin(a) of the first and sin(t a)/sin(a) of the second, where `a` is
the angle between them; nearly parallel ones are averaged. So every matrix of the child lies in the
plane of its parents' two, down to rounding, and its two weights give t and must agree on it.
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

_LEFT = 0.4
"""Most that one pair of weights for all matrices leaves, as a share of the squared distance to the
nearer parent, where a pair of its own for each matrix is tried."""

_PARALLEL = 0.9995
"""Cosine above which tools average instead."""

_TRIED = 3
"""Best pairs tried for each child."""


def plane_merge(family: Stack, child: int, others: Sequence[int]) -> Merge | None:
    """Find two of the others in whose planes all matrices of the child lie, down to rounding."""
    for pair in _pairs(family, child, others):
        merge = _checked(family, child, pair)
        if merge is not None:
            return merge
    return None


def _pairs(family: Stack, child: int, others: Sequence[int]) -> list[tuple[int, int]]:
    """Return the pairs between which the child lies best, if well enough."""
    places = np.array(others, np.intp)
    away = family.distances[child, places]
    apart = family.distances[np.ix_(places, places)]
    # The foot of the perpendicular on the line from i to j, at share t of j.
    share = np.divide(
        away[:, None] - away + apart, 2 * apart, out=np.zeros_like(apart), where=apart > 0
    )
    left = away[:, None] - share**2 * apart
    left[(share < LEAST_COEFFICIENT) | (share > 1 - LEAST_COEFFICIENT)] = np.inf
    left[np.tril_indices(len(places))] = np.inf
    left[left > _LEFT * np.minimum(away[:, None], away)] = np.inf
    best = np.argsort(left, axis=None, kind="stable")[:_TRIED]
    return [
        (int(places[i]), int(places[j]))
        for i, j in zip(*np.unravel_index(best, left.shape), strict=True)
        if np.isfinite(left[i, j])
    ]


def arc_of(family: Stack, child: int, merge: Merge) -> Merge:
    """Return the same merge as one along an arc, where that is what its matrices tell.

    In low precision a light arc passes for the line that it is near to.
    """
    if merge.how != "linear" or len(merge.parents) != 2:
        return merge
    found = _checked(family, child, (merge.parents[0], merge.parents[1]))
    return found if found is not None and found.how == "slerp" else merge


def _checked(family: Stack, child: int, pair: tuple[int, int]) -> Merge | None:
    """Return the merge if every matrix of the child lies in the plane of the pair's."""
    first, way = family.cores[pair[0]], family.cores[pair[1]] - family.cores[pair[0]]
    goal = family.cores[child] - first
    moved = family.per_matrix(way, way) > 0
    weights, left = np.zeros((len(moved), 2)), goal.copy()
    for number, where in enumerate(family.slices()):
        if moved[number]:
            # From the first on: along itself, which an arc adds, and on the way to the second.
            basis = np.stack([first[where], way[where]], 1)
            along = np.linalg.lstsq(basis, goal[where], rcond=None)[0]
            weights[number] = 1 + along[0] - along[1], along[1]
            left[where] -= basis @ along
    residual = float(left @ left)
    nearest = float(family.distances[child, list(pair)].min())
    shares = weights[moved].mean(axis=0)
    allowed = float(family.rounding[child] + shares**2 @ family.rounding[list(pair)])
    if residual > FLOOR * allowed or residual * NEEDED > nearest:
        return None
    if residual > PLAIN * nearest and family.spikes(left) > WHITE:
        return None
    told = _told(family, pair, weights[moved], moved, residual)
    if told is None:
        return None
    how, t = told
    shares_of = dict(zip(pair, (1 - t, t), strict=True))
    return Merge(
        tuple(sorted(pair)),
        tuple(shares_of[i] for i in sorted(pair)),
        float(np.sqrt(residual / nearest)),
        how,
    )


def _told(
    family: Stack,
    pair: tuple[int, int],
    weights: NDArray[np.float64],
    moved: NDArray[np.bool_],
    residual: float,
) -> tuple[str, float] | None:
    """Return which kind of merge the weights of the matrices tell, and its mean share."""
    one, other = (family.energy[i][moved] for i in pair)
    way = family.cores[pair[1]] - family.cores[pair[0]]
    apart = family.per_matrix(way, way)[moved]
    cosine = ((one + other - apart) / (2 * np.sqrt(one * other))).clip(-1, 1)
    angle = np.maximum(np.arccos(cosine), 1e-9)
    first, second = weights.T
    t = np.arctan2(second * np.sin(angle), first + second * np.cos(angle)) / angle
    if np.any(t < -0.05) or np.any(t > 1.05):
        return None
    mean = float(apart @ t / apart.sum())
    if np.all(np.minimum(np.abs(t), np.abs(1 - t)) < 1e-3):
        return "passthrough", mean
    # On an arc the two weights sum to more than 1 by `over`; on a line by nothing.
    over = (np.sin((1 - t) * angle) + np.sin(t * angle)) / np.sin(angle) - 1
    over[cosine > _PARALLEL] = 0
    noise = residual / float(one.sum()) / (family.cores.shape[1] / len(family.starts))
    seen = float(over @ over)
    if seen < 25 * noise or float(over @ (first + second - 1)) < 0.5 * seen:
        return "linear", mean
    return "slerp", mean
