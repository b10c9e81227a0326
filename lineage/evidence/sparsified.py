"""Merges that are not linear: differences trimmed and put to a vote (TIES), or dropped (DARE).

Both work on the differences d_i = m_i - b of some models from a base, entry by entry. DARE (Yu et
al. 2024) keeps a random share p of each and divides by it: the child is b + sum w_i d_i plus noise
that knows nothing of its neighbours. TIES (Yadav et al. 2023) keeps the largest entries, elects a
sign and averages those that agree: of this, least squares finds the linear part.

What tells them from a training: the rest. A model trained on the data of two others leans on both
of them as a merge does, but what it does not share with them has the few strong directions that
every training has, as a sibling's own noise has them too. The rest of a merge is white.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.affine import LEAST_COEFFICIENT, MOST_COEFFICIENT, MOST_PARENTS
from lineage.evidence.base import Merge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lineage.evidence.stacked import Stack

_LEAST_SHARE = 0.08
"""Coefficient of the least parent over the largest's."""

_SURE = 60.0
"""Squared size of a parent's part over that of the rest in one direction: eight standard errors."""

_ADDS = 0.004
"""Share of the child's squared difference that a parent must explain alone."""

_EXPLAINED = 0.02
"""All parents together."""

_WHITE, _SPIKED = 1.12, 0.3
"""Most spikes of the rest, and most that it exceeds white noise by as a share of what the parents'
differences do."""

_OVER_ROUNDING = 30.0
"""Least squared difference and least rest, over what rounding leaves: below, all is white."""

_ALONG = 0.15
"""How far from 1 the share of a step may be that lies in another's way."""

_NOISE = 0.95
"""What `Stack.spikes` gives for white noise, whose rows and columns it has made even."""


def sparsified_merge(family: Stack, child: int, others: Sequence[int]) -> Merge | None:
    """Find the models whose differences, dropped or voted on, make up the child's.

    The differences are taken from the family's start: from which of two bases they were is of no
    weight while the other is among the models.
    """
    base = family.start
    if child == base:
        return None
    left_out: set[int] = set()
    for _ in range(3):
        candidates = [i for i in others if i not in left_out and i not in (child, base)]
        found = _support(family, child, candidates, base)
        if not found:
            return None
        merge = _checked(family, child, found, base)
        if merge is not None:
            return merge
        # What was trained on from the child explains it better than its parents do.
        left_out.add(found[0])
    return None


def _support(family: Stack, child: int, candidates: Sequence[int], base: int) -> list[int]:
    """Return the models whose differences the child's needs, the best first.

    Forward selection, then removal of what later ones made needless, on the Gram matrix alone.
    """
    places = np.array([*candidates, child], np.intp)
    to_base = family.distances[base, places]
    inner = (to_base[:, None] + to_base - family.distances[np.ix_(places, places)]) / 2
    gram, goal, whole = inner[:-1, :-1], inner[:-1, -1], float(inner[-1, -1])
    usable = np.diag(gram) > 0
    if whole <= _OVER_ROUNDING * family.rounding[[child, base]].sum() or not usable.any():
        return []
    cells = family.cores.shape[1]
    chosen: list[int] = []
    rest = whole
    while len(chosen) < MOST_PARENTS:
        gains = _gains(gram, goal, chosen)
        gains[~usable] = 0
        best = int(np.argmax(gains))
        if gains[best] < max(_ADDS * whole, _SURE * (rest - gains[best]) / cells):
            break
        chosen.append(best)
        rest -= float(gains[best])
    while len(chosen) > 1:
        weights, needs = _needs(gram, goal, chosen)
        least = max(_ADDS * whole, _SURE * rest / cells)
        weak = (needs < least) | (weights < LEAST_COEFFICIENT)
        if not weak.any():
            break
        chosen.pop(int(np.argmin(np.where(weights < LEAST_COEFFICIENT, -1.0, needs))))
    return [int(places[i]) for i in chosen]


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


def _checked(family: Stack, child: int, found: Sequence[int], base: int) -> Merge | None:
    """Return the merge if what the parents leave is white and they do not."""
    if len(found) < 2:
        return None
    parents = sorted(found)
    steps = family.cores[parents] - family.cores[base]
    goal = family.cores[child] - family.cores[base]
    gram = steps @ steps.T
    weights = np.linalg.lstsq(gram, steps @ goal, rcond=None)[0]
    if np.any(weights < max(LEAST_COEFFICIENT, _LEAST_SHARE * weights.max())):
        return None
    if np.any(weights > MOST_COEFFICIENT):
        return None
    rest = goal - weights @ steps
    left, whole = float(rest @ rest), float(goal @ goal)
    if left > (1 - _EXPLAINED) * whole or left < _OVER_ROUNDING * family.rounding[child]:
        return None
    spikes = family.spikes(rest)
    if spikes > _WHITE:
        return None
    parents_spikes = float(np.mean([family.spikes(step) for step in steps]))
    if spikes - _NOISE > _SPIKED * (parents_spikes - _NOISE):
        return None
    base = _base(family, parents, base)
    return Merge(
        tuple(sorted((base, *parents))),
        tuple(_with_base(parents, weights, base)),
        float(np.sqrt(left / float(family.distances[child, parents].min()))),
        _kind(family, weights, steps, rest, goal),
        base,
    )


def _base(family: Stack, parents: Sequence[int], start: int) -> int:
    """Return the last model that lies on the way from the start to every parent."""
    to_start = family.distances[start]
    found, furthest = start, 0.0
    for middle in range(len(family.cores)):
        step = float(to_start[middle])
        if step <= furthest or not np.all(family.is_before[middle, parents]):
            continue
        along = (step + to_start[parents] - family.distances[middle, parents]) / (2 * step)
        if middle != start and np.all(np.abs(along - 1) < _ALONG):
            found, furthest = middle, step
    return found


def _with_base(parents: Sequence[int], weights: NDArray[np.float64], base: int) -> list[float]:
    shares = {p: float(w) for p, w in zip(parents, weights, strict=True)}
    shares[base] = 1 - sum(shares.values())
    return [shares[p] for p in sorted(shares)]


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
