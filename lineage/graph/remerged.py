"""Merges that were put in other coordinates afterwards: made again, and held against the weights.

A merge is an exact sum of its parents, but only in their coordinates, and those of a disguised one
are fitted to a parent, which it is not: what a fit takes for a turn of heads or a gain is a part of
the other parent. So the sum that sketches make likely is made of the parents' weights, and the
model is aligned with that: if it is the merge in other coordinates, nothing is left. What is left
before tells how far the shares are off.

Source: own method.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment.made import Made
from lineage.artifacts import Item
from lineage.evidence.pairing import ROUNDING_RMS
from lineage.evidence.panel import structure
from lineage.fingerprints.arrays import Arrays
from lineage.fingerprints.lattice import ROUNDING
from lineage.graph.rewriting import LARGE, UNCHANGED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lineage.fingerprints import Fingerprint
    from lineage.graph.rewriting import Writing

    Array = NDArray[np.float64]

__all__ = ["remerged"]

_NEAREST, _MOST_PARENTS, _LEAST_SHARE = 8, 3, 0.05
"""Models of which a sum is looked for; of how many it may be; and the least share of one."""

_EXPLAINED = 0.8
"""Of the squared distance to the nearest model, what a sum must leave at most to be made."""

_ROUNDS, _SLOW = 8, 0.5
"""How often a sum is made again, at most; and what is left of what was left each time, squared."""

_ROUNDED, _MOST_ROUNDED = 8.0, 0.01
"""Times the squared norm of what one rounding leaves: parents, merge and disguise have theirs. And
of the squared distance to the nearest model, what rounding a merge to bfloat16 may have left."""


def remerged(
    child: str, others: Sequence[str], written: Mapping[str, Fingerprint], writing: Writing
) -> dict[str, float] | None:
    """Return of which models one is the sum that it was before it was given other coordinates.

    Args:
        child: In coordinates of its own.
        others: Those that may be its parents, all in one set of coordinates.
        written: Path -> fingerprint; the child's as written in the others' coordinates.
        writing: Writes them.

    Returns:
        Parents and their shares, which sum to 1; None if it is no such sum, or if the models are so
        large that to make it would take long.
    """
    kind = structure(written[child])
    weights = writing.weights
    known = [path for path in others if path in weights and structure(written[path]) == kind]
    if len(known) < 2 or child not in weights:
        return None
    if writing.models[child].size_bytes >= LARGE:
        return None
    target = _cores(written[child])
    away = {path: float(np.sum((_cores(written[path]) - target) ** 2)) for path in known}
    known = sorted(known, key=lambda path: (away[path], writing.models[path].value_id))[:_NEAREST]
    shares = _convex(target, [_cores(written[path]) for path in known])
    likely = sorted(zip(shares, known, strict=True), reverse=True)[:_MOST_PARENTS]
    parents = [path for share, path in likely if share >= _LEAST_SHARE]
    if len(parents) < 2:
        return None
    rows = [_cores(written[path]) for path in parents]
    shares = _convex(target, rows)
    left = float(np.sum((shares @ np.stack(rows) - target) ** 2))
    if left > _EXPLAINED * away[known[0]]:
        return None
    most = _MOST_ROUNDED * away[known[0]]
    return _made_again(child, parents, shares, writing, most)


def _made_again(
    child: str, parents: Sequence[str], shares: Array, writing: Writing, most: float
) -> dict[str, float] | None:
    """Return the shares of the sum that the child is; None if it is none."""
    target = _cores(writing.models[child])
    energy = float(np.sum(target**2))
    allowed = max(
        UNCHANGED**2 * energy,
        *(_ROUNDED * _rounding(writing.models[path]) for path in parents),
    )
    most = min(most, 2 * (ROUNDING_RMS * ROUNDING["BF16"]) ** 2 * energy)
    last = np.inf
    for _ in range(_ROUNDS):
        step = _step(child, parents, shares, target, writing)
        if step is None:
            return None
        is_last = step.left > _SLOW * last
        if step.left <= allowed or (is_last and step.left <= most):
            return dict(zip(parents, shares.tolist(), strict=True))
        if is_last:
            return None
        shares, last = step.shares, step.left
        is_part = shares >= _LEAST_SHARE
        if not is_part.all():
            if is_part.sum() < 2:
                return None
            parents = [path for path, used in zip(parents, is_part, strict=True) if used]
            shares, last = shares[is_part] / shares[is_part].sum(), np.inf
    return None


@dataclass(frozen=True, slots=True)
class _Step:
    """What a sum that was made leaves of a model, squared, and shares that leave less."""

    left: float
    shares: Array


def _step(
    child: str, parents: Sequence[str], shares: Array, target: Array, writing: Writing
) -> _Step | None:
    """Make a sum, write it and its parents in the child's coordinates, and see what is left."""
    with ExitStack() as stack:
        opened = [stack.enter_context(writing.weights.opened(path)) for path in parents]
        try:
            items = _summed(opened, shares)
            written = writing.beside(child, parents[0], [items, *opened])
        except ValueError:  # what has a name in one has another shape in the other
            return None
    kind = structure(writing.models[child])
    if not written or any(structure(one) != kind for one in written):
        return None
    made, *each = (_cores(one) for one in written)
    off = target - made
    ways = np.stack([one - each[0] for one in each[1:]], axis=1)
    more = np.linalg.lstsq(ways, off, rcond=None)[0]
    changed = shares + np.concatenate([[-more.sum()], more])
    return _Step(float(np.sum(off**2)), changed)


def _summed(models: Sequence[Mapping[str, Item]], shares: Array) -> dict[str, Item]:
    """Return the tensors of a sum of models, made when they are read."""
    found = {}
    for name, item in models[0].items():
        each = [model.get(name) for model in models]
        if any(one is None or one.shape != item.shape for one in each):
            raise ValueError(name)
        if not item.dtype.startswith(("F", "BF")):
            found[name] = item
            continue
        made = Made(partial(_sum, [one for one in each if one is not None], shares))
        found[name] = Item(name, "F32", item.shape, 4 * prod(item.shape), made)
    return found


def _sum(items: Sequence[Item], shares: Array) -> NDArray[np.float32]:
    total: Array = sum(
        (
            share * Arrays([item]).whole(item).astype(np.float64)
            for share, item in zip(shares, items, strict=True)
        ),
        np.zeros(items[0].shape),
    )
    return total.astype(np.float32)


def _convex(target: Array, rows: Sequence[Array]) -> Array:
    """Return shares of models that sum to 1 and leave least of another."""
    from scipy.optimize import nnls

    matrix = np.stack(rows, axis=1)
    matrix = matrix - target[:, None]
    heavy = 1e3 * float(np.linalg.norm(matrix)) + 1e-30
    matrix = np.concatenate([matrix, np.full((1, len(rows)), heavy)])
    found: Array = nnls(matrix, np.concatenate([np.zeros(len(target)), [heavy]]))[0]
    return found / max(float(found.sum()), 1e-30)


def _cores(model: Fingerprint) -> Array:
    """Return the sketches of all matrices of a model, one after another."""
    found = [t.sketch.core.reshape(-1) for t in model.tensors if t.sketch and len(t.shape) > 1]
    return np.concatenate(found).astype(np.float64) if found else np.zeros(0)


def _rounding(model: Fingerprint) -> float:
    """Return the squared norm that storing a model's matrices leaves."""
    return sum(
        (ROUNDING_RMS * ROUNDING.get(t.dtype, 0.0)) ** 2 * t.sketch.energy
        for t in model.tensors
        if t.sketch and len(t.shape) > 1
    )
