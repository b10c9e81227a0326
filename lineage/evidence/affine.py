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
from lineage.evidence.sums import (
    AS_GOOD,
    FLOOR,
    LEAST_COEFFICIENT,
    NEEDED_FINE,
    Sum,
    inner_products,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from lineage.evidence.stacked import Stack

    Computed = Callable[[int, Sequence[int], Sequence[float]], bool]

MOST_PARENTS = 8

_UNNATURAL = 0.5
"""What weights count, as parts of a parent, by how much their sizes sum to more than 1."""

_COARSE = 0.1
"""What a rest of twice what rounding leaves counts, as a part of a parent."""

_MISFIT = 1.5
"""What a rest of twice, or half, of what rounding one model leaves counts, as a part of a parent,
if there are only two parents."""

_LOOSE = 1.0
"""What a sum counts, in parents, that leaves something else than the child's own rounding."""

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
    fit = Sum.of(family, child, _convex(family, child, others))
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
    exact = (1 / size <= 2 * FLOOR * allowed) & (near.min(axis=1) > NEEDED_FINE * noise)
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
        is_open = any(r.child != child and r.cost - option.cost < AS_GOOD for r in rivals)
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
    fits: list[Sum] = []
    for parents in found:
        key = tuple(sorted(parents))
        if key in tried or not 2 <= len(key) <= MOST_PARENTS + 1:
            continue
        tried.add(key)
        fit = Sum.of(family, child, key)
        if fit is not None:
            fits.append(fit)
    fine = [fit for fit in fits if fit.is_fine(family, child)]
    for fit in fine or fits:  # beside one that leaves its rounding alone the others leave more
        misfit = fit.misfit(family, child)
        loose = (0.0 if fine else _LOOSE) if misfit is None else _MISFIT * misfit
        for base in (None, *fit.parents):
            merge = fit.merge(family, base)
            if merge is not None:
                cost = _cost(merge) + loose + _COARSE * _over(family, child, merge)
                yield _Option(child, merge, cost)
        beyond, cost = fit.beyond(family, child)
        if beyond is not None:
            yield _Option(child, beyond, cost + loose + _COARSE * _over(family, child, beyond))


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
    inner = inner_products(family, child, others)
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
    inner = inner_products(family, base, [*tasks, child])
    weights = _positive(inner[:-1, :-1], inner[:-1, -1])
    return (base, *(tasks[int(i)] for i in np.flatnonzero(weights > LEAST_COEFFICIENT)))


def _positive(gram: NDArray[np.float64], goal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return non-negative least squares from inner products: of the rows, and with the goal."""
    from scipy.optimize import nnls

    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-13 * values[-1]
    root = np.sqrt(values[kept])
    weights, _ = nnls(root[:, None] * vectors[:, kept].T, vectors[:, kept].T @ goal / root)
    return np.asarray(weights, np.float64)


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
