"""Merges that are not linear: differences trimmed and put to a vote (TIES), or dropped (DARE).

Both work on the differences d_i = m_i - b of some models from a base, entry by entry. DARE (Yu et
al. 2024) keeps a random share p of each and divides by it: the child is b + sum w_i d_i plus noise
that knows nothing of its neighbours. TIES (Yadav et al. 2023) keeps the largest entries, elects a
sign and averages those that agree: of this, least squares finds the linear part.

What tells them from a training: the rest. A model trained on the data of two others leans on both
of them as a merge does, and so does one that both of them were trained on from; but what is between
two trained models has the few strong directions that every training has. The rest of a merge is
white. That is evidence only where training is not white itself, so it is held to what the rest of
the family looks like: a family whose steps have no directions has no such merges that one can see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.affine import MOST_PARENTS
from lineage.evidence.base import Merge
from lineage.evidence.sums import LEAST_COEFFICIENT, MOST_COEFFICIENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lineage.evidence.stacked import Stack

_LEAST_SHARE = 0.12
"""Coefficient of the least parent over the largest's."""

_SURE = 60.0
"""Squared size of a parent's part over that of the rest in one direction: eight standard errors."""

_ADDS = 0.002
"""Share of the child's squared difference that a parent must explain alone."""

_PART = 0.004
"""The same as a share of what all parents leave."""

_EXPLAINED = 0.02
"""All parents together."""

_PLAINLY, _PURE = 0.15, 1.0
"""Of a child's distance to the nearest of all that it is made from, the share that they explain at
least together; of less the rest must be white but for chance. A mask that keeps a tenth leaves pure
noise. A training whose steps are white, as orthogonalized ones are, or that began at a rounding,
leans a little on all that was trained on like data, and keeps some directions of its own."""

_WHITE = 0.95
"""What `Stack.spikes` gives for white noise, whose rows and columns it has made even; a random mask
leaves .93 to .97."""

_DIRECTED = 0.12
"""Least that what lies between trained models exceeds white noise by: below, all is white."""

_SPIKED = 0.2
"""Most that a rest exceeds white noise by, as a share of what trainings do."""

_DILUTED = 0.4
"""The same times the number of trainings that it might be a mean of: a model lies amid its
children, and what they leave of it is white where they are many."""

_RESOLVED = 0.02
"""Least that this limit must exceed white noise by: spikes of noise differ by as much."""

_OVER_ROUNDING = 30.0
"""Least squared difference and least rest, over what rounding leaves: below, all is white."""

_FURTHEST = 0.8
"""Squared distance from the base, as a share of the weights, beyond which nobody's merge is."""

_HOPELESS = 3 * _SPIKED
"""A rest that exceeds white noise by more is not that of a merge from another base either."""

_CANDIDATES = 20
"""Models whose differences are weighed together at most: those that explain most alone."""

_BASES = 4
"""Models that are tried as the base: those before most others."""

_TRIED = 3


def sparsified_merge(family: Stack, child: int, others: Sequence[int]) -> Merge | None:
    """Find the models whose differences, dropped or voted on, make up the child's.

    Of several bases the one from which the others explain most counts, a parent more weighed
    against what it explains (Schwarz 1978).
    """
    if family.directed - _WHITE < _DIRECTED:
        return None
    found = []
    for rank, base in enumerate(family.starts_of(others, _BASES)):
        ways = _Ways.to(family, child, others, base)
        if ways is None:
            continue
        left_out: set[int] = set()
        nearly = False
        for _ in range(_TRIED):
            parents = ways.support(left_out)
            if len(parents) < 2:
                break
            seen = _Seen.of(family, ways, parents)
            merge = seen.merge(family)
            if merge is not None:
                found.append((seen.cost(family) + _SURE * rank, merge))
                break
            nearly = nearly or seen.stands_out(family) < _HOPELESS
            # What was trained on from the child explains it better than its parents do.
            left_out.add(parents[0])
        if not found and not nearly:
            break  # another base leaves about the same rest
    return min(found, key=lambda one: one[0])[1] if found else None


@dataclass(frozen=True, slots=True)
class _Ways:
    """The ways from a base to a child and to those that may be its parents.

    Every matrix counts by how far the child moved in it, so that one does not hide the others.

    Attributes:
        places: Of the models that may be parents.
        gram: Inner products of the ways to them, and `goal` with the way to the child.
        whole: Squared length of that.
        cells: Numbers it is measured in.
    """

    child: int
    base: int
    places: tuple[int, ...]
    gram: NDArray[np.float64]
    goal: NDArray[np.float64]
    whole: float
    cells: int

    @classmethod
    def to(cls, family: Stack, child: int, others: Sequence[int], base: int) -> _Ways | None:
        """Measure the ways; None where the child did not move, or moved too far for a merge."""
        candidates = np.array([i for i in others if i not in {child, base}], np.intp)
        to_base, away = family.distances[base, candidates], float(family.distances[base, child])
        if not away < _FURTHEST * float(family.energy[base].sum()):
            return None
        if away <= _OVER_ROUNDING * float(family.rounding[[child, base]].sum()):
            return None
        goal = (to_base + away - family.distances[child, candidates]) / 2
        alone = np.divide(goal.clip(0) ** 2, to_base, out=np.zeros_like(goal), where=to_base > 0)
        near = [i for i in np.argsort(-alone, kind="stable")[:_CANDIDATES] if alone[i] > 0]
        if len(near) < 2:
            return None
        way = family.cores[child] - family.cores[base]
        scale = 1 / family.strengths(way)
        way *= scale
        places = tuple(int(i) for i in candidates[near])
        steps = family.cores[list(places)]
        steps -= family.cores[base]
        steps *= scale
        cells = int(np.count_nonzero(scale > 0))
        return cls(child, base, places, steps @ steps.T, steps @ way, float(way @ way), cells)

    def support(self, left_out: set[int]) -> list[int]:
        """Return the models whose differences the child's needs, the best first.

        Forward selection, then removal of what later ones made needless.
        """
        chosen: list[int] = []
        rest = self.whole
        usable = np.array([place not in left_out for place in self.places])
        while len(chosen) < MOST_PARENTS:
            gains = _gains(self.gram, self.goal, chosen) * usable
            best = int(np.argmax(gains))
            if gains[best] < max(_ADDS * self.whole, _SURE * (rest - gains[best]) / self.cells):
                break
            chosen.append(best)
            rest -= float(gains[best])
        least = max(_ADDS * self.whole, _PART * rest, _SURE * rest / self.cells)
        while len(chosen) > 1:
            weights, needs = _needs(self.gram, self.goal, chosen)
            weak = (needs < least) | (weights < LEAST_COEFFICIENT)
            if not weak.any():
                break
            chosen.pop(int(np.argmin(np.where(weights < LEAST_COEFFICIENT, -1.0, needs))))
        return [self.places[i] for i in chosen]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What some parents leave of a child.

    Attributes:
        weights: Of the parents, in ascending order of their places.
        steps: The ways to them from the base.
        goal: The way to the child.
        spikes: See `Stack.spikes`.
    """

    child: int
    base: int
    parents: tuple[int, ...]
    weights: NDArray[np.float64]
    steps: NDArray[np.float64]
    goal: NDArray[np.float64]
    rest: NDArray[np.float64]
    spikes: float

    @classmethod
    def of(cls, family: Stack, ways: _Ways, found: Sequence[int]) -> _Seen:
        """Take from a child what it has of some parents."""
        parents = tuple(sorted(found))
        at = [ways.places.index(parent) for parent in parents]
        weights = np.asarray(np.linalg.pinv(ways.gram[np.ix_(at, at)]) @ ways.goal[at], np.float64)
        steps = family.cores[list(parents)] - family.cores[ways.base]
        goal = family.cores[ways.child] - family.cores[ways.base]
        rest = goal - weights @ steps
        spikes = family.spikes(rest)
        return cls(ways.child, ways.base, parents, weights, steps, goal, rest, spikes)

    def stands_out(self, family: Stack) -> float:
        """How far the rest exceeds white noise, as a share of what trainings do."""
        return (self.spikes - _WHITE) / (family.directed - _WHITE)

    def cost(self, family: Stack) -> float:
        """Return how much is left, in logarithms, and that each parent is one more to fit."""
        sizes = family.strengths(self.rest)
        return 2 * float(np.log(sizes[np.isfinite(sizes)]).sum()) + _SURE * len(self.parents)

    def together(self, family: Stack) -> float:
        """Return how many trainings the rest would be a mean of, if the child came first.

        Of k independent steps of one size the mean stands out by a k-th of what each does.
        """
        shares = np.append(self.weights, 1 - self.weights.sum())
        away = family.distances[self.child, [*self.parents, self.base]]
        sizes = shares**2 * away
        return float(sizes.sum() ** 2 / (sizes**2).sum())

    def turned(self, family: Stack, parent: int) -> float:
        """Return how far the rest stands out where a parent is explained by the child instead.

        The same noise is in that rest, and besides it what of the parent is not in the child. So
        the child is the one whose rest is the whitest.
        """
        first, *others = [i for i in (self.base, *self.parents) if i != parent]
        steps = family.cores[[self.child, *others]] - family.cores[first]
        goal = family.cores[parent] - family.cores[first]
        scale = 1 / family.strengths(goal)
        weights = np.linalg.lstsq((steps * scale).T, goal * scale, rcond=None)[0]
        return family.spikes(goal - weights @ steps)

    def merge(self, family: Stack) -> Merge | None:
        """Return the merge if what the parents leave is white and trainings are not."""
        weights = self.weights
        if np.any(weights < max(LEAST_COEFFICIENT, _LEAST_SHARE * weights.max())):
            return None
        if np.any(weights > MOST_COEFFICIENT):
            return None
        most = min(_SPIKED, _DILUTED / self.together(family))
        if most * (family.directed - _WHITE) < _RESOLVED or self.stands_out(family) > most:
            return None
        left, whole = float(self.rest @ self.rest), float(self.goal @ self.goal)
        least = _OVER_ROUNDING * float(family.rounding[self.child])
        if not least <= left <= (1 - _EXPLAINED) * whole:
            return None
        near = family.distances[self.child, [*self.parents, self.base]]
        if left > (1 - _PLAINLY) * float(near.min()) and self.spikes > _PURE:
            return None
        turned = list(self.parents)
        if 1 - weights.sum() > LEAST_COEFFICIENT:
            turned.append(self.base)
        if any(self.turned(family, place) <= self.spikes for place in turned):
            return None
        shares = dict(zip(self.parents, weights.tolist(), strict=True))
        shares[self.base] = 1 - sum(shares.values())
        nearest = float(family.distances[self.child, list(self.parents)].min())
        return Merge(
            tuple(sorted(shares)),
            tuple(shares[place] for place in sorted(shares)),
            float(np.sqrt(left / nearest)),
            _kind(family, weights, self.steps, self.rest, self.goal),
            self.base,
        )


def _gains(
    gram: NDArray[np.float64], goal: NDArray[np.float64], chosen: Sequence[int]
) -> NDArray[np.float64]:
    """Return what each further model would explain besides the chosen ones."""
    size, part = np.diag(gram).copy(), goal.copy()
    if chosen:
        inside = gram[np.ix_(chosen, chosen)]
        solved = np.linalg.lstsq(inside, np.column_stack([gram[chosen], goal[chosen]]), rcond=None)[
            0
        ]
        size -= np.einsum("ij,ij->j", gram[chosen], solved[:, :-1])
        part -= gram[chosen].T @ solved[:, -1]
    new = size > 1e-6 * np.diag(gram)
    gains = np.divide(part.clip(0) ** 2, size, out=np.zeros_like(size), where=new)
    gains[list(chosen)] = 0
    return np.asarray(gains, np.float64)


def _needs(
    gram: NDArray[np.float64], goal: NDArray[np.float64], chosen: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the chosen models' weights, and what each alone explains besides the others."""
    inverse = np.linalg.pinv(gram[np.ix_(chosen, chosen)], hermitian=True)
    weights = inverse @ goal[chosen]
    return weights, weights**2 / np.diag(inverse).clip(1e-300)


def _kind(
    family: Stack,
    weights: NDArray[np.float64],
    steps: NDArray[np.float64],
    rest: NDArray[np.float64],
    goal: NDArray[np.float64],
) -> str:
    """Tell a vote from a random mask.

    A mask leaves the same weights in every matrix, but for what its noise adds; a vote's depend on
    how often the signs agree there.
    """
    noise = family.per_matrix(rest, rest)
    cells = np.diff(np.append(family.starts, family.cores.shape[1]))
    strange = []
    for number, where in enumerate(family.slices()):
        step = steps[:, where]
        if noise[number] <= 0 or float((step**2).sum()) <= 0:
            continue
        own = np.linalg.lstsq(step.T, goal[where], rcond=None)[0]
        off = (own - weights) @ step
        strange.append(float(off @ off) / (len(weights) * noise[number] / cells[number]))
    return "ties" if np.median(strange) > 4 else "dare"
