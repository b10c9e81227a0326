"""Merges that take each value from one parent or another, seen in the values themselves.

DARE drops each value of a difference by lot, TIES keeps the largest of each difference and lets the
signs vote. In either, within every matrix, some values of the child are the base's to the bit, and
of the others many are the base's and one parent's difference times one number. Training leaves
nothing of the kind: there the ratio of two differences is a different number for every value.

Sources: Yu et al. (2024), "Language models are super Mario"; Yadav et al. (2023), "TIES-Merging".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.base import Merge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Values", "masked_merge"]

_KEPT = (0.002, 0.995)
"""Share of a matrix's values that must be the base's, at least and at most."""

_MATRICES = 0.6
"""Share of the matrices in which that must be so."""

_EXPLAINED = 0.95
"""Share of the values that the base and the parents must explain, to the last digits."""

_ROUNDINGS, _STEPS = 1.5, 6.0
"""Error of a value of the child: roundings of its dtype, and of the arithmetic in float32."""

_CLEAR = ((100.0, 0.01), (12.0, 0.08))
"""How much larger than that error a difference must be, and within which share of each other ratios
are then one; the second is for coarse dtypes alone."""

_COARSE = 2.0**-16
"""Half a unit in the last place, relative, above which a dtype is coarse."""

_LEAST, _FEW = 0.02, 30
"""Share of the values, and how many, that one number must stand out by."""

_OVER_BACKGROUND = 5.0
"""And over the ratios beside it."""

_RATIOS = (0.05, 4.0)

_MOST_PARENTS = 4

_BASES = 6

_DRAWN = 200
"""Values that are tried for what two parents' numbers are where both count."""

_LOOKED = 4000
"""Values that ratios are counted in, at most."""

_BY_SIZE = 1.3
"""By how much more often than small differences large ones are kept where they were voted on."""


@dataclass(frozen=True, slots=True)
class Values:
    """Some values of every model, the same places in each.

    Attributes:
        numbers: float32, shape (models, values).
        starts: Where each matrix's values begin.
        rounding: float64, shape (models,): half a unit in the last place, relative.
    """

    numbers: NDArray[np.float32]
    starts: NDArray[np.intp]
    rounding: NDArray[np.float64]

    def kept(self, child: int) -> NDArray[np.float64]:
        """Return the share of the child's values that each model has, shape (models, matrices)."""
        same = self.numbers == self.numbers[child]
        sizes = np.diff(np.append(self.starts, self.numbers.shape[1]))
        return np.asarray(np.add.reduceat(same, self.starts, axis=1, dtype=np.float64) / sizes)


def masked_merge(values: Values, child: int, others: Sequence[int]) -> Merge | None:
    """Find the base and the parents of a masked merge.

    Args:
        values: Of a family's models.
        child: The place of the one that may be a merge.
        others: Places of those that it may come from, those that came first before the others.
    """
    kept = values.kept(child)
    is_mixed = np.mean((kept >= _KEPT[0]) & (kept <= _KEPT[1]), axis=1) >= _MATRICES
    for base in [place for place in others if is_mixed[place]][:_BASES]:
        found = _explained(values, child, base, others)
        if len(found.parents) > 1 and found.explained >= _EXPLAINED:
            # Where parents are kept whole, the base and they look alike, but for where they mix.
            turned = [_explained(values, child, place, others) for place in found.parents]
            return max([found, *turned], key=lambda one: one.explained).merge()
    return None


def _explained(values: Values, child: int, base: int, others: Sequence[int]) -> _Rest:
    rest = _Rest(values, child, base)
    rest.explain([place for place in others if place != base])
    return rest


@dataclass(slots=True)
class _Rest:
    """What is left of a child's difference from a base.

    Attributes:
        parents: Those found, the clearest first.
        left: Which values are not explained yet.
    """

    values: Values
    child: int
    base: int
    parents: list[int] = field(default_factory=list)
    steps: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    goal: NDArray[np.float64] = field(init=False)
    error: NDArray[np.float64] = field(init=False)
    left: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        child, base = self.values.numbers[[self.child, self.base]].astype(np.float64)
        rounding = _ROUNDINGS * self.values.rounding[self.child] + _STEPS * 2.0**-24
        self.goal = child - base
        size = np.maximum(np.abs(child), np.abs(base))
        self.error = rounding * size + 1e-30
        self.left = self.goal != 0

    @property
    def explained(self) -> float:
        """Share of the values that are the base's, or a parent's, or a mix of parents'."""
        return 1 - float(np.mean(self.left))

    def explain(self, others: Sequence[int]) -> None:
        """Find parents, one after the other, and what they explain alone and together."""
        base = self.values.numbers[self.base].astype(np.float64)
        while len(self.parents) < _MOST_PARENTS and np.any(self.left):
            found: tuple[float, int, float] | None = None
            for place in others:
                if place in self.parents:
                    continue
                step = self.values.numbers[place] - base
                seen = self._ratio(step)
                if seen is not None and (found is None or seen[0] > found[0]):
                    found = (seen[0], place, seen[1])
            if found is None:
                return
            _, place, ratio = found
            self.steps[place] = self.values.numbers[place] - base
            before = self.left.copy()
            self.left &= ~self._is(ratio * self.steps[place])
            self.parents.append(place)
            for count in range(2, len(self.parents) + 1):
                for some in combinations(self.parents, count):
                    if place in some:
                        self._mix(some)
            if np.mean(before) - np.mean(self.left) < _LEAST / 4:
                self.parents.pop()
                return

    def _is(self, step: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which values of the child the base and a step make."""
        found: NDArray[np.bool_] = np.abs(self.goal - step) <= self.error + 1e-6 * np.abs(step)
        return found & (np.abs(step) > self.error)

    def _ratio(self, step: NDArray[np.float64]) -> tuple[float, float] | None:
        """Return the number that a step was multiplied with, after how far it stands out."""
        is_coarse = self.values.rounding[self.child] > _COARSE
        for clear, width in _CLEAR[: 1 + is_coarse]:
            places = np.flatnonzero(self.left & (np.abs(step) > clear * self.error))
            places = places[:: max(1, len(places) // _LOOKED)]
            found = _outstanding(self.goal[places] / step[places], width)
            if found is not None:
                return found
        return None

    def _mix(self, some: Sequence[int]) -> None:
        """Take away the values in which several parents count, each with a number of its own."""
        steps = np.stack([self.steps[place] for place in some])
        use = self.left & np.all(np.abs(steps) > self.error, axis=0)
        places = np.flatnonzero(use)
        places = places[:: max(1, len(places) // _LOOKED)]
        if len(places) < _FEW:
            return
        lot = np.random.default_rng(0).integers(len(places), size=(_DRAWN, len(some)))
        inside, goal, error = steps[:, places], self.goal[places], self.error[places]
        systems = inside[:, lot].transpose(1, 2, 0)
        solvable = np.abs(np.linalg.det(systems)) > 1e-30
        if not np.any(solvable):
            return
        numbers = np.linalg.solve(systems[solvable], goal[lot[solvable]][..., None])[..., 0]
        numbers = numbers[np.all((numbers > 0) & (numbers < _RATIOS[1]), axis=1)]
        if not len(numbers):
            return
        hits = np.abs(numbers @ inside - goal) <= error + 1e-6 * np.abs(goal)
        best = int(np.argmax(hits.sum(axis=1)))
        if hits[best].sum() < _FEW:
            return
        for _ in range(2):
            numbers_ = np.linalg.lstsq(inside[:, hits[best]].T, goal[hits[best]], rcond=None)[0]
            hits[best] = np.abs(numbers_ @ inside - goal) <= error + 1e-6 * np.abs(goal)
            if hits[best].sum() < _FEW:
                return
        self.left &= ~(self._is(numbers_ @ steps) & use)

    def merge(self) -> Merge:
        """Return what was found."""
        parents = sorted(self.parents)
        steps = np.stack([self.steps[place] for place in parents])
        weights = np.linalg.pinv(steps @ steps.T) @ (steps @ self.goal)
        shares = dict(zip(parents, weights.tolist(), strict=True))
        shares[self.base] = 1 - sum(shares.values())
        return Merge(
            tuple(sorted(shares)),
            tuple(shares[place] for place in sorted(shares)),
            1 - self.explained,
            "ties" if self._is_voted(steps) else "dare",
            self.base,
            is_seen=True,
        )

    def _is_voted(self, steps: NDArray[np.float64]) -> bool:
        """Whether large differences were kept more often than small ones, matrix by matrix."""
        large = np.abs(steps).max(axis=0)
        ends = np.append(self.values.starts[1:], len(large))
        counts = np.zeros((2, 2))
        for start, end in zip(self.values.starts.tolist(), ends.tolist(), strict=True):
            size, kept = large[start:end], self.goal[start:end] != 0
            is_large = size > np.median(size)
            counts[0] += kept[is_large].sum(), is_large.sum()
            counts[1] += kept[~is_large & (size > 0)].sum(), (~is_large & (size > 0)).sum()
        shares = counts[:, 0] / np.maximum(counts[:, 1], 1)
        return bool(shares[0] > _BY_SIZE * shares[1])


def _outstanding(ratios: NDArray[np.float64], width: float) -> tuple[float, float] | None:
    """Find the ratio that many values share: its excess over those beside it, and the ratio."""
    count = len(ratios)
    ratios = np.sort(ratios[(ratios > _RATIOS[0]) & (ratios < _RATIOS[1])])
    if len(ratios) < _FEW:
        return None
    ends = np.searchsorted(ratios, ratios * (1 + width), side="right")
    first = int(np.argmax(ends - np.arange(len(ratios))))
    ratio = float(np.median(ratios[first : ends[first]]))
    near = np.abs(ratios / ratio - 1)
    inside = int(np.count_nonzero(near <= width))
    beside = (np.count_nonzero(near <= 5 * width) - inside) / 4
    excess = inside - beside
    if excess < _LEAST * count + _FEW or inside < _OVER_BACKGROUND * beside:
        return None
    return excess / count, ratio
