"""Which heads of two models' attention are the same, and how each was turned.

What a head computes is a product of two matrices, values and output, or queries and keys. Between
the two any map may be put and taken back: only the products count. So heads are found and turned in
pairs: T that takes b's values to a's must also take a's output to b's, and both say T at once.
Where T is a permutation of rows nothing was turned. Else heads are known by the spaces that their
rows span, and the smallest size of heads of which each lies in one of the other's is that of a
head: no configuration is asked. Rotary embeddings allow less than any map, and what they allow is
found the same way.

Source: the symmetries of attention as in Zhu et al. (2025), appendix on transformations, and
Ashkboos et al., QuaRot (2024). Geometric mean of positive matrices: Pusz and Woronowicz (1975).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment.head_rows import SURELY_IN_PLACE, Heads, assigned, cosines
from lineage.alignment.maps import between, sharper, undone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from lineage.alignment.head_rows import Look

    Matrix = NDArray[np.float64]
    Rows = NDArray[np.float32]

_IN_PLACE = 0.1
"""Median cosine from which rows are the same unless a map makes them much more alike."""

_FAR_BETTER = 0.2
"""Of what rows in place lack of a cosine of 1, what a map may leave to be believed: every map makes
rows somewhat more alike."""

_WHOLE = 0.98
"""Of what the best blocks hold of a map, what smaller ones must hold."""

_LEAST_WHOLE, _ONE_HEAD = 0.2, 256
"""Share under which heads of a size are not in each other; and the most rows that a head has."""

_RIDGE = 1e-12
"""Of the largest eigenvalue, which all others are taken to have at least."""

_LOOKED_AT = 512
"""Rows of which it is asked in which head of the other's they lie, at most."""


def heads(
    seen: Look, whole: Callable[[], Look | None], size: Callable[[], int | None]
) -> Heads | None:
    """Find how b's heads become a's; None where they cannot be told.

    Args:
        seen: A look at both along some directions.
        whole: Looks along as many as maps are fitted along.
        size: Finds how many rows a head has, None if that is not known; see `head_size`.
    """
    in_place = seen.nearness
    if in_place > SURELY_IN_PLACE:
        return Heads("same")
    found = seen.moved
    near = seen.likeness(found)
    if near < SURELY_IN_PLACE and (rows := size()) is not None:
        turned = None if found is None else _turned(seen, seen, rows)
        is_better = found is None or 1 - seen.likeness(turned) <= _FAR_BETTER * (1 - near)
        if is_better and (full := whole()):
            found = _sharpened(full, _turned(full, seen, rows)) or found
    if in_place < _IN_PLACE:
        return found
    if 1 - seen.likeness(found) > _FAR_BETTER * (1 - in_place):
        return Heads("same")
    return found


def head_size(looks: Iterable[Look]) -> int | None:
    """Find how many rows a head has, over the blocks whose rows are not where they were.

    Args:
        looks: At a's blocks, and those of b that are the same.
    """
    held: dict[int, float] = {}
    blocks: dict[int, int] = {}
    count = 0
    for seen in looks:
        if not seen.is_open:
            continue
        (_, k_a, v_a, _), (_, k_b, v_b, _) = seen.a, seen.b
        count = len(k_a)
        for size in (s for s in range(2, min(count, 1 + _ONE_HEAD)) if count % s == 0):
            held[size] = held.get(size, 0.0) + _held(k_a, k_b, size) + _held(v_a, v_b, size)
            blocks[size] = blocks.get(size, 0) + 2
    if not count:
        return None
    mean = {size: held[size] / blocks[size] for size in held}
    best = max(mean.values(), default=0.0)
    if best < _LEAST_WHOLE:
        return count if count <= _ONE_HEAD else None
    return next(size for size in mean if mean[size] >= _WHOLE * best)


def _turned(whole: Look, seen: Look, size: int) -> Heads | None:
    """Find the blocks, one a head, that turn b's heads into a's.

    Args:
        whole: A look along many directions, in which they are fitted.
        seen: One in which it is told which head is which.
        size: Rows of a head.
    """
    (q_a, k_a, v_a, o_a), (q_b, k_b, v_b, o_b) = whole.a, whole.b
    each = len(q_a) // len(k_a)
    if each * len(k_a) != len(q_a) or len(k_a) % size:
        return None
    overlaps = [_overlaps(x, y, size) for x, y in zip(seen.a[1:3], seen.b[1:3], strict=True)]
    inner = assigned(overlaps[0] + overlaps[1])
    outer = np.zeros(len(inner) * each, np.intp)
    inside, values = np.zeros((2, len(inner), size, size))
    for to, came in enumerate(inner.tolist()):
        members_a, members_b = to * each + np.arange(each), came * each + np.arange(each)
        keys = _head(k_a, to, size), _head(k_b, came, size)
        held = _head(v_a, to, size), _head(v_b, came, size)
        queries_a, outputs_a = ([_head(x, int(n), size) for n in members_a] for x in (q_a, o_a))
        queries_b, outputs_b = ([_head(x, int(n), size) for n in members_b] for x in (q_b, o_b))
        order = np.arange(each)
        for alone in (False,) if each == 1 else (True, False):  # first by keys and values alone
            use = () if alone else range(each)
            k = between(*keys, [queries_a[i] for i in use], [queries_b[order[i]] for i in use])
            if whole.has_norms:  # within heads, which let only signs change
                k = np.diag(np.where(cosines(*keys) < 0, -1.0, 1.0))
            v = between(*held, [outputs_a[i] for i in use], [outputs_b[order[i]] for i in use])
            if each == 1:
                break
            back_k, back_v = undone(np.stack([k, v]))
            score = np.array([
                [
                    _overlap(queries_a[x], back_k @ queries_b[y])
                    + _overlap(outputs_a[x], back_v @ outputs_b[y])
                    for y in range(each)
                ]
                for x in range(each)
            ])  # fmt: skip
            order = assigned(score)
        inside[to], values[to] = k, v
        outer[members_a] = members_b[order]
    return Heads("rotated", inner, outer, inside, values, size)


def _sharpened(whole: Look, found: Heads | None) -> Heads | None:
    """Ask maps of what an adapter spared, where one was merged after heads were turned."""
    if found is None or found.inner is None or found.outer is None:
        return found
    if found.inside is None or found.values is None:
        return found
    maps = []
    for sides, fitted in (((1, 0), found.inside), ((2, 3), found.values)):
        pairs = []
        for side in sides:
            order = found.inner if side == sides[0] else found.outer
            ours, theirs = (one[side].astype(np.float64) for one in (whole.a, whole.b))
            shape = (len(fitted), -1, fitted.shape[1], ours.shape[1])
            there = theirs.reshape(len(order), fitted.shape[1], -1)[order].reshape(shape)
            pairs.append((ours.reshape(shape), there))
        is_fixed = whole.has_norms and sides == (1, 0)
        maps.append(fitted if is_fixed else sharper(fitted, *pairs))
    return replace(found, inside=maps[0], values=maps[1])


def _head(rows: Rows, place: int, size: int) -> Matrix:
    found: Matrix = rows[place * size : (place + 1) * size].astype(np.float64)
    return found


def _held(a: Rows, b: Rows, size: int) -> float:
    """Return which share of a's heads of this size lies in one head of b's each.

    Counted is what is beyond the share that any head of this size has of another.
    """
    some = max(_LOOKED_AT // size, 1) * size
    overlaps = _overlaps(a[:some], b, size)
    share = float(overlaps[np.arange(len(overlaps)), assigned(overlaps)].mean())
    chance = size / int(a.shape[1])
    return (share - chance) / (1 - chance)


def _overlaps(a: Rows, b: Rows, size: int) -> Matrix:
    """Return which share of the space of a's heads (down) lies in that of b's (across).

    Rows that were mapped within a head span what they spanned before.
    """
    one, other = (_spans(x, size) for x in (a, b))
    inner = (one @ other.T) ** 2
    parts = inner.reshape(len(a) // size, size, len(b) // size, size)
    found: Matrix = parts.sum(axis=(1, 3), dtype=np.float64) / size
    return found


def _spans(rows: Rows, size: int) -> Rows:
    """Return orthonormal rows that span what the rows of each head span."""
    heads = rows.reshape(-1, size, rows.shape[1]).astype(np.float64)
    gram = heads @ heads.transpose(0, 2, 1)
    trace = np.trace(gram, axis1=1, axis2=2)[:, None, None]
    factor = np.linalg.cholesky(gram + (_RIDGE * trace + 1e-300) * np.eye(size))
    found: Rows = (np.linalg.inv(factor) @ heads).reshape(rows.shape).astype(np.float32)
    return found


def _overlap(x: Matrix, y: Matrix) -> float:
    norm = np.linalg.norm(x) * np.linalg.norm(y)
    return float(np.sum(x * y) / norm) if norm > 0 else 0.0
