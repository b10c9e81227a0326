"""Merges that are exact: one model is a weighted sum of others, down to rounding.

An exact relation names no child by itself: from c = b + .7 (m - b) + .6 (n - b) follow three more
equations, one for each of b, m and n. The rule by which one of them is chosen:

1. Where one weight alone is negative when all are brought to one side, its model is the child: it
   lies between the others, and none of them between the rest. (A model that was taken beyond its
   parent, c = b + 1.5 (m - b), makes m such a child: see `extrapolated` for what tells them apart.)
2. Otherwise the sum is task arithmetic: all weights are positive but that of the base, and all are
   smaller than 1, or the base came before all others, as far as the ways to them lean (see
   `Stack.leans`). A convex sum with the start of the whole family in it, and two others or more, is
   task arithmetic as well.
3. Of several ways to write one child, or to choose it, the one with the fewest parents; parents
   that are no merges themselves, weights in round numbers and small ones count for a part of one
   parent. Solved for a model that it was made from, a sum has larger weights than for its child.
4. Of models on one line the one that was made was rounded when it was stored, and nothing else was.
   What is left of it is then that rounding; read as if another had been made, it is by the square
   of that one's weight more or less. That tells where models are stored in half precision; where it
   does not, and two readings are as good, neither is sure.
5. No model is among its own ancestors.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

from lineage.evidence.base import Merge
from lineage.evidence.extrapolated import are_round, base_of, negated_around

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from lineage.evidence.stacked import Stack

    Computed = Callable[[int, Sequence[int], Sequence[float]], bool]

LEAST_COEFFICIENT = 0.02
"""A share below this is no ingredient."""

MOST_COEFFICIENT = 2.0
"""A difference is not added more often than this."""

_MOST_ADDED = 1.3
"""A difference is not added more often than this where the base's weight is negative."""

_SMALL = 0.97
"""Weights below this are clearly smaller than the child's own, which is 1."""

MOST_PARENTS = 8

FLOOR = 9.0
"""Squared norm that a merge may leave, over what rounding is expected to: several roundings, where
it was computed in the precision in which it is stored."""

NEEDED = 5.0
"""Without any one parent it must leave this many times as much."""

_UNNATURAL = 0.5
"""What weights count, as parts of a parent, by how much their sizes sum to more than 1."""

_BEYOND, _AS_ROUND, _NEGATED = 2.05, 2.2, 1.9
"""What speaks against a model that was taken beyond another by a round number, in parents: more
than against a mean of round shares, and less than against a mean of others; where the mean has
round shares too; and where that mean is the start of others."""

_COARSE = 0.1
"""What a rest of twice what rounding leaves counts, as a part of a parent."""

_MISFIT, _MANY_STEPS, _USUAL_REST = 1.5, 30.0, 1.1
"""What a rest of twice, or half, of what rounding one model leaves counts, as a part of a parent,
if there are only two parents; how many times as far apart, squared, these are at least: of a
lighter step most values are the same, and are not rounded; and the usual rest. Values that are some
steps apart are rounded by few numbers: 1.5 times as much for halves, not at all for whole steps."""

_AS_GOOD = 0.3
"""Between the costs of two readings of three models on a line, of which then neither is sure."""

PLAIN = 1e-3
"""A residual below this share of the distance to the nearest parent is no training's. A larger one
must be white, as rounding is."""

WHITE = 1.2
"""See `Stack.spikes`: roundings and masks leave .9 to 1.1, trainings of small networks 1.4 to 3."""

_BASES = 3
"""Models that are tried as the base of many: those before most others."""

_MOST_SETS = 24
"""Sets of one size that are looked at closely for a child."""

_EXHAUSTIVE = 40
"""Models of one relation up to which all threes are tried, and not only all pairs."""


@dataclass(frozen=True, slots=True)
class _Option:
    """One way to write one model as a sum of others."""

    child: int
    merge: Merge
    cost: float

    @property
    def line(self) -> tuple[int, ...]:
        """The models that it is about."""
        return tuple(sorted((self.child, *self.merge.parents)))


def affine_merges(family: Stack, computed: Computed | None = None) -> dict[int, Merge]:
    """Find all exact merges of a family.

    Args:
        family: The sketches of its models.
        computed: Tells by the weights whether a model is the rounded sum of two others.
    """
    merges: dict[int, Merge] = {}
    for members in _related(family):
        merges.update(_choose(family, members, computed))
    return merges


def affine_merge(family: Stack, child: int, others: Sequence[int]) -> Merge | None:
    """Write one model as a convex combination of at least two of some others, down to rounding.

    A parent lies near the mean of its children too, so nearness is not enough: what is left must
    be no more than rounding leaves, and each coefficient clearly between 0 and 1. Only the merged
    model passes; solving for one of its parents instead gives coefficients outside [0, 1].

    Method: non-negative least squares on the sketches (Lawson and Hanson 1974), the sum of the
    coefficients held at 1; then a plain fit on the support.
    """
    fit = _Fit.of(family, child, _convex(family, child, others))
    return None if fit is None else fit.merge(family, None)


def _related(family: Stack) -> list[list[int]]:
    """Return sets of models that hang together by exact relations, from one matrix inverse.

    The inverse of the Gram matrix, with each model's rounding on its diagonal, holds for each
    model what all others together leave of it and with which weights (as in a Gaussian graphical
    model). Where that is no more than rounding, the model is part of a relation.
    """
    count = len(family.cores)
    scale = float(family.distances.max())
    if count < 3 or scale == 0:
        return []
    noise = family.rounding + 1e-15 * scale
    inverse = np.linalg.inv(family.gram + scale + np.diag(noise))
    size = np.diag(inverse).clip(1e-300)
    weights = -inverse / size[:, None]
    np.fill_diagonal(weights, 0)
    allowed = noise + weights**2 @ noise
    near = family.distances + np.diag(np.full(count, np.inf))
    exact = (1 / size <= 2 * FLOOR * allowed) & (near.min(axis=1) > NEEDED * noise)
    links = nx.Graph()
    links.add_nodes_from(np.flatnonzero(exact).tolist())
    linked = np.argwhere((np.abs(weights) > LEAST_COEFFICIENT / 2) & exact[:, None])
    links.add_edges_from(linked.tolist())
    return sorted(sorted(found) for found in nx.connected_components(links) if len(found) > 2)


def _choose(family: Stack, members: Sequence[int], computed: Computed | None) -> dict[int, Merge]:
    """Choose children until nothing more can be told from the others, the likeliest first."""
    options = [option for child in members for option in _options(family, child, members)]
    if computed is not None:
        options = _as_computed(options, computed)
    inside = {option.child for option in options if option.merge.base is None}

    def rank(option: _Option) -> tuple[float, float, int, tuple[int, ...]]:
        merge = option.merge
        if merge.base is not None and len(merge.parents) == 2:
            return option.cost, merge.residual, option.child, merge.parents
        cost = option.cost + 0.3 * any(parent in inside for parent in merge.parents)
        if merge.base is not None:  # what lies within a rounding of a base came after it
            cost += 0.1 * float(family.is_before[members, merge.base].mean())
        return cost, merge.residual, option.child, merge.parents

    on_line: dict[tuple[int, ...], list[_Option]] = defaultdict(list)
    for option in options:
        on_line[option.line].append(option)
    chosen: dict[int, Merge] = {}
    order = nx.DiGraph()
    order.add_nodes_from(members)
    for option in sorted(options, key=rank):
        child, parents = option.child, option.merge.parents
        if child in chosen or any(nx.has_path(order, child, parent) for parent in parents):
            continue
        rivals = on_line[option.line] if len(parents) == 2 else ()
        is_open = any(r.child != child and r.cost - option.cost < _AS_GOOD for r in rivals)
        chosen[child] = replace(option.merge, is_open=is_open)
        order.add_edges_from((parent, child) for parent in parents)
    return chosen


def _as_computed(options: Sequence[_Option], computed: Computed) -> list[_Option]:
    """Leave out readings of three models on a line, if another is what was computed, to the bit.

    What lies between two is within a rounding of their mean where one of these was computed, too,
    so that what is computed beyond comes first.
    """
    readings: dict[tuple[int, ...], list[_Option]] = defaultdict(list)
    for option in options:
        readings[option.line].append(option)
    kept: list[_Option] = []
    for line, read in readings.items():
        found = read
        if len(line) == 3 and len({option.child for option in read}) > 1:
            exact = [o for o in read if computed(o.child, o.merge.parents, o.merge.coefficients)]
            beyond = [o for o in exact if min(o.merge.coefficients) < 0]
            told = beyond or exact
            if len({option.child for option in told}) == 1:
                found = told
        kept += found
    return kept


def _options(family: Stack, child: int, members: Sequence[int]) -> Iterator[_Option]:
    """Yield the ways to write a child as a sum of others that pass every check."""
    others = [i for i in members if i != child]
    tried: set[tuple[int, ...]] = set()
    sizes = (2, 3) if len(others) < _EXHAUSTIVE else (2,)
    found = [places for size in sizes for places in _exact_sets(family, child, others, size)]
    if len(others) > 3 or len(sizes) == 1:
        found.append(_convex(family, child, others))
        found += [
            _from_base(family, child, others, base) for base in family.starts_of(others, _BASES)
        ]
    for parents in found:
        key = tuple(sorted(parents))
        if key in tried or not 2 <= len(key) <= MOST_PARENTS + 1:
            continue
        tried.add(key)
        fit = _Fit.of(family, child, key)
        if fit is None:
            continue
        misfit = _MISFIT * fit.misfit(family, child)
        for base in (None, *key):
            merge = fit.merge(family, base)
            if merge is not None:
                cost = _cost(merge) + misfit
                yield _Option(child, merge, cost + _COARSE * _over(family, child, merge))
        beyond, cost = fit.beyond(family, child)
        if beyond is not None:
            yield _Option(child, beyond, cost + misfit + _COARSE * _over(family, child, beyond))


def _over(family: Stack, child: int, merge: Merge) -> float:
    """Return how often what is left is twice what rounding is expected to leave."""
    parents = list(merge.parents)
    left = merge.residual**2 * float(family.distances[child, parents].min())
    shares = np.array(merge.coefficients)
    allowed = float(family.rounding[child] + shares**2 @ family.rounding[parents])
    return float(np.log2(max(1.0, left / allowed)))


def _exact_sets(
    family: Stack, child: int, others: Sequence[int], size: int
) -> list[tuple[int, ...]]:
    """Return the sets of so many others of which the child is an affine combination.

    Where many are, in a family that moved little more than rounding does, those that explain the
    child best, with weights that may be a merge's: negative for one at most, the base.
    """
    sets = np.array(list(combinations(others, size)), np.intp)
    if not len(sets):
        return []
    away = family.distances[child][sets]
    inner = (
        away[:, :, None] + away[:, None, :] - family.distances[sets[:, :, None], sets[:, None, :]]
    ) / 2
    noise = family.rounding[child] + family.rounding[sets].mean(axis=1)
    inner += (noise[:, None] + 1e-13 * inner.max(axis=(1, 2))[:, None])[:, :, None] * np.eye(size)
    raw = np.linalg.solve(inner, np.ones((len(sets), size, 1)))[..., 0]
    total = raw.sum(axis=1)
    weights = raw / total[:, None]
    allowed = noise + (weights**2 * family.rounding[sets]).sum(axis=1)
    passed = (1 / total <= 2 * FLOOR * allowed) & (np.abs(weights) >= LEAST_COEFFICIENT / 2).all(1)
    passed &= np.count_nonzero(weights < 0, axis=1) <= 1
    order = np.flatnonzero(passed)
    if len(order) > _MOST_SETS:
        order = np.sort(order[np.argsort((1 / total / allowed)[order], kind="stable")[:_MOST_SETS]])
    return [tuple(int(i) for i in found) for found in sets[order]]


def _convex(family: Stack, child: int, others: Sequence[int]) -> tuple[int, ...]:
    """Return which others a convex combination nearest to the child needs."""
    if len(others) < 2:
        return ()
    inner = _inner(family, child, others)
    scale = float(inner.max())
    if scale == 0:
        return ()
    # min |w A|^2 with sum w = 1: the sum is one more column, with a heavy weight.
    heavy = 1e3 * scale
    weights = _positive(inner + heavy, np.full(len(others), heavy))
    return tuple(others[int(i)] for i in np.flatnonzero(weights > LEAST_COEFFICIENT))


def _from_base(family: Stack, child: int, others: Sequence[int], base: int) -> tuple[int, ...]:
    """Return the base and which others' differences from it, none negative, make the child."""
    tasks = [i for i in others if i != base]
    inner = _inner(family, base, [*tasks, child])
    weights = _positive(inner[:-1, :-1], inner[:-1, -1])
    return (base, *(tasks[int(i)] for i in np.flatnonzero(weights > LEAST_COEFFICIENT)))


def _inner(family: Stack, origin: int, others: Sequence[int]) -> NDArray[np.float64]:
    """Return inner products of the ways from one model to some others."""
    away = family.distances[origin, list(others)]
    apart = family.distances[np.ix_(others, others)]
    return np.asarray((away[:, None] + away - apart) / 2, np.float64)


def _positive(gram: NDArray[np.float64], goal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return non-negative least squares from inner products: of the rows, and with the goal."""
    from scipy.optimize import nnls

    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-13 * values[-1]
    root = np.sqrt(values[kept])
    weights, _ = nnls(root[:, None] * vectors[:, kept].T, vectors[:, kept].T @ goal / root)
    return np.asarray(weights, np.float64)


@dataclass(frozen=True, slots=True)
class _Fit:
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
    def of(cls, family: Stack, child: int, parents: Sequence[int]) -> _Fit | None:
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
        if residual > FLOOR * allowed or _is_needless(inner, NEEDED * max(residual, allowed)):
            return None
        return cls(parents, weights, left, residual, float(np.diag(inner).min()))

    def misfit(self, family: Stack, child: int) -> float:
        """Return how often what is left is twice, or half, of what rounding the child leaves.

        It is 0 of more than two parents, which others than the child are seldom a sum with, and
        where sketches do not tell.
        """
        return self._misfit(family, child, 1.0) if self._tells(family, child) else 0.0

    def _tells(self, family: Stack, child: int) -> bool:
        """Whether sketches show which of three models on a line was rounded."""
        line = [child, *self.parents]
        if len(line) != 3 or not all(family.is_coarse(place) for place in line):
            return False
        apart = float(family.distances[self.parents[0], self.parents[1]])
        return apart >= _MANY_STEPS * float(family.rounding[line].max())

    def _misfit(self, family: Stack, made: int, weight: float) -> float:
        """Return the same if another was made, which has this weight in the child."""
        usual = _USUAL_REST * float(family.rounding[made])
        rest = max(self.residual / weight**2, 1e-3 * usual)
        return float(abs(np.log2(rest / usual)))

    def beyond(self, family: Stack, child: int) -> tuple[Merge | None, float]:
        """Return the model as taken beyond one of two others, if that may be, and its cost."""
        if len(self.parents) != 2 or not are_round(self.weights):
            return None, 0.0
        middle, most = self.parents[int(np.argmax(self.weights))], float(self.weights.max())
        tells = self._tells(family, child)
        own = self._misfit(family, child, 1.0)
        is_told = tells and own + _AS_GOOD < self._misfit(family, middle, most)
        base = base_of(family, child, self.parents, self.weights, is_told=is_told)
        if base is None:
            return None, 0.0
        cost = _BEYOND
        if not is_told and are_round(np.array([1, -self.weights.min()]) / most):
            ends = [child, *(parent for parent in self.parents if parent != middle)]
            is_negated = negated_around(family, middle, ends, is_strict=True) == child
            if tells and not is_negated:
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
    inner = _inner(family, child, parents)
    if _is_needless(inner, NEEDED / 2 * float(family.rounding[child])):
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


def _cost(merge: Merge) -> float:
    """Return how much speaks against a merge, in parents."""
    shares = np.array(merge.coefficients)
    cost = float(len(shares))
    if len(shares) > 2 and np.ptp(shares) < 2e-3:
        cost -= 0.5
    elif np.any(np.abs(shares * 20 - np.round(shares * 20)) > 0.04):
        cost += 0.4
    if merge.base is not None:
        cost -= 0.1  # of a convex sum the same holds without a base
    return cost + _UNNATURAL * (float(np.abs(shares).sum()) - 1)
