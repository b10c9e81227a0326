"""One weighted sum of some models, and whether another is no more than that, down to rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.base import Merge
from lineage.evidence.extrapolated import are_round, base_of, negated_around

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lineage.evidence.stacked import Stack

LEAST_COEFFICIENT = 0.02
"""A share below this is no ingredient."""

MOST_COEFFICIENT = 2.0
"""A difference is not added more often than this."""

_MOST_ADDED = 1.3
"""A difference is not added more often than this where the base's weight is negative."""

_SMALL = 0.97
"""Weights below this are clearly smaller than the child's own, which is 1."""

FLOOR = 9.0
"""Squared norm that a merge may leave, over what rounding is expected to: several roundings, where
it was computed in the precision in which it is stored."""

NEEDED = 5.0
"""Without any one parent it must leave this many times as much."""

_FINE, NEEDED_FINE, _QUIET = 1.2, 1.2, 1.05
"""The same, where what is left is the child's own rounding and nothing else: within so many times
what is expected of that, and no less white than this. Models that were trained lightly and stored
in few bits differ by little more than their rounding."""

_LEAST_LEFT = 0.2
"""What such a child's rounding must leave at least, as a share of what is expected: a model whose
values hardly moved is no sum of two."""

_BEYOND, _AS_ROUND, _NEGATED = 2.05, 2.2, 1.9
"""What speaks against a model that was taken beyond another by a round number, in parents: more
than against a mean of round shares, and less than against a mean of others; where the mean has
round shares too; and where that mean is the start of others."""

AS_GOOD = 0.3
"""Between the costs of two readings of three models on a line, of which then neither is sure."""

_MANY_STEPS, _USUAL_REST = 30.0, 1.1
"""How many times as far apart, squared, two models are at least whose sum tells by what is left of
it: of a lighter step most values are the same, and are not rounded; and the usual rest. Values that
are some steps apart are rounded by few numbers: 1.5 times as much for halves, not at all for whole
steps."""

_FEW = 4
"""Matrices from which that is told."""

PLAIN = 1e-3
"""A residual below this share of the distance to the nearest parent is no training's. A larger one
must be white, as rounding is."""

WHITE = 1.2
"""See `Stack.spikes`: roundings and masks leave .9 to 1.1, trainings of small networks 1.4 to 3."""


@dataclass(frozen=True, slots=True)
class Sum:
    """Some models' affine combination nearest to a child.

    Attributes:
        parents: In ascending order.
        weights: Theirs, which sum to 1.
        left: The row that is left.
        residual: Its squared norm.
        nearest: Squared distance to the nearest parent.
    """

    parents: list[int]
    weights: NDArray[np.float64]
    left: NDArray[np.float64]
    residual: float
    nearest: float

    @classmethod
    def of(cls, family: Stack, child: int, parents: Sequence[int]) -> Sum | None:
        """Fit the parents if they explain the child exactly, and each of them is needed."""
        parents = sorted(parents)
        if len(parents) < 2 or not _is_worth_a_look(family, child, parents):
            return None
        away = family.cores[parents] - family.cores[child]
        weights = affine_fit(away)
        left = weights @ away
        residual = float(left @ left)
        allowed = float(family.rounding[child] + weights**2 @ family.rounding[parents])
        inner = away @ away.T
        fit = cls(parents, weights, left, residual, float(np.diag(inner).min()))
        if residual > FLOOR * allowed:
            return None
        if _is_needless(inner, NEEDED * max(residual, allowed)) and not (
            fit.is_fine(family, child) and not _is_needless(inner, NEEDED_FINE * residual)
        ):
            return None
        return fit

    def is_fine(self, family: Stack, child: int) -> bool:
        """Whether what is left is the child's own rounding and nothing else."""
        if not family.is_coarse(child):
            return False  # sketches are rounded as much
        own = float(family.rounding[child])
        is_own = _LEAST_LEFT * own <= self.residual <= _FINE * own
        return is_own and family.spikes(self.left) <= _QUIET

    def misfit(self, family: Stack, child: int) -> float | None:
        """Return how often what is left is twice, or half, of what rounding the child leaves.

        None of more than two parents, which others than the child are seldom a sum with, and where
        sketches do not tell.
        """
        telling = self._telling(family, child)
        return self._misfit(family, child, 1.0, telling) if telling.any() else None

    def _telling(self, family: Stack, child: int) -> NDArray[np.bool_]:
        """Return the matrices whose sketches show which of three models on a line was rounded."""
        line = [child, *self.parents]
        if len(line) != 3 or not all(family.is_coarse(place) for place in line):
            return np.zeros(family.energy.shape[1], np.bool_)
        way = family.cores[self.parents[0]] - family.cores[self.parents[1]]
        steps = np.max([family.roundings(place) for place in line], axis=0)
        found = np.asarray(family.per_matrix(way, way) >= _MANY_STEPS * steps, np.bool_)
        return found & (np.count_nonzero(found) >= _FEW)

    def _misfit(self, family: Stack, made: int, weight: float, telling: NDArray[np.bool_]) -> float:
        """Return the same if another was made, which has this weight in the child."""
        usual = _USUAL_REST * float(family.roundings(made)[telling].sum())
        left = float(family.per_matrix(self.left, self.left)[telling].sum())
        return float(abs(np.log2(max(left / weight**2, 1e-3 * usual) / usual)))

    def beyond(self, family: Stack, child: int) -> tuple[Merge | None, float]:
        """Return the model as taken beyond one of two others, if that may be, and its cost."""
        if len(self.parents) != 2 or not are_round(self.weights):
            return None, 0.0
        middle, most = self.parents[int(np.argmax(self.weights))], float(self.weights.max())
        telling = self._telling(family, child)
        is_told = bool(telling.any()) and (
            self._misfit(family, child, 1.0, telling) + AS_GOOD
            < self._misfit(family, middle, most, telling)
        )
        base = base_of(family, child, self.parents, self.weights, is_told=is_told)
        if base is None:
            return None, 0.0
        cost = _BEYOND
        if not is_told and are_round(np.array([1, -self.weights.min()]) / most):
            ends = [child, *(parent for parent in self.parents if parent != middle)]
            is_negated = negated_around(family, middle, ends, is_strict=True) == child
            if telling.any() and not is_negated:
                return None, 0.0
            cost = _NEGATED if is_negated else _AS_ROUND
        return self._made(family, "task_arithmetic", base), cost

    def merge(self, family: Stack, base: int | None) -> Merge | None:
        """Return the merge, one of the parents being the base or none, if the weights allow it."""
        if len(self.parents) < (2 if base is None else 3):
            return None
        if not _are_plausible(family, self.parents, self.weights, base):
            return None
        return self._made(family, "linear" if base is None else "task_arithmetic", base)

    def _made(self, family: Stack, how: str, base: int | None) -> Merge | None:
        if self.residual > PLAIN * self.nearest and family.spikes(self.left) > WHITE:
            return None
        weights = tuple(float(w) for w in self.weights)
        left = float(np.sqrt(self.residual / self.nearest))
        return Merge(tuple(self.parents), weights, left, how, base)


def _is_worth_a_look(family: Stack, child: int, parents: Sequence[int]) -> bool:
    """Whether some models may explain a child, from distances alone: rows are long.

    In a family that moved little more than rounding does, any few explain any other.
    """
    inner = inner_products(family, child, parents)
    if _is_needless(inner, NEEDED_FINE * _LEAST_LEFT * float(family.rounding[child])):
        return False
    raised = inner + 1e-13 * float(np.trace(inner)) * np.eye(len(inner))
    weights = np.asarray(np.linalg.solve(raised, np.ones(len(inner))), np.float64)
    weights /= weights.sum()
    if base_of(family, child, parents, weights, is_told=family.is_coarse(child)) is not None:
        return True
    bases = (None, *parents) if len(parents) > 2 else (None,)
    return any(_are_plausible(family, parents, weights, base) for base in bases)


def _is_needless(inner: NDArray[np.float64], least: float) -> bool:
    """Whether without one of some models the others come as near to a child, from products."""
    return any(
        _left(np.delete(np.delete(inner, place, 0), place, 1)) < least
        for place in range(len(inner))
    )


def _are_plausible(
    family: Stack, parents: Sequence[int], fit: NDArray[np.float64], base: int | None
) -> bool:
    """Whether coefficients have the signs and sizes of a merge."""
    if base is None:
        return bool(np.all(fit >= LEAST_COEFFICIENT) and np.all(fit <= 1 - LEAST_COEFFICIENT))
    tasks = np.array([parent != base for parent in parents])
    if np.any(fit[tasks] < LEAST_COEFFICIENT) or np.any(fit[tasks] > MOST_COEFFICIENT):
        return False
    own = float(fit[~tasks][0])
    if abs(own) < LEAST_COEFFICIENT or (own > 0 and (base != family.start or np.ptp(fit) < 2e-3)):
        return False  # a mean that is as good without a base
    if own < 0 and np.any(np.abs(fit) > _MOST_ADDED):
        return False
    if own < 0 and np.all(np.abs(fit) < _SMALL):
        return True  # solved for any of the others the weights are larger
    return bool(np.all(family.is_before[base, np.array(parents)[tasks]]))


def _left(inner: NDArray[np.float64]) -> float:
    """Return the squared distance from the origin to the affine hull of rows, from their products.

    Where it is lost in rounding it is none.
    """
    scale = float(np.trace(inner))
    raised = inner + 1e-13 * scale * np.eye(len(inner))
    return 1 / max(float(np.linalg.solve(raised, np.ones(len(inner))).sum()), 1e-300)


def affine_fit(away: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights that sum to 1 and bring the weighted sum of rows nearest to 0."""
    base, rest = away[-1], away[:-1] - away[-1]
    solution = np.linalg.lstsq(rest @ rest.T, -rest @ base, rcond=None)[0]
    weights: NDArray[np.float64] = np.append(solution, 1 - solution.sum())
    return weights


def inner_products(family: Stack, origin: int, others: Sequence[int]) -> NDArray[np.float64]:
    """Return inner products of the ways from one model to some others."""
    away = family.distances[origin, list(others)]
    apart = family.distances[np.ix_(others, others)]
    return np.asarray((away[:, None] + away - apart) / 2, np.float64)
