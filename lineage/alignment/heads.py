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

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from lineage.alignment.turning import Turn
    from lineage.fingerprints.stream import Attention

    Matrix = NDArray[np.float64]

__all__ = ["Heads", "head_size", "heads", "likeness"]

_SURELY_IN_PLACE, _IN_PLACE = 0.995, 0.1
"""Median cosine of rows from which they are the same rows, and from which they are unless a map
makes them much more alike. Of rows that are not the same it is about 0."""

_FAR_BETTER = 0.2
"""Of what rows in place lack of a cosine of 1, what a map may leave to be believed: every map makes
rows somewhat more alike."""

_MOVED = 0.7
"""The same of rows of which each was given the best of all others as its partner."""

_WHOLE = 0.98
"""Of what the best blocks hold of a map, what smaller ones must hold."""

_LEAST_WHOLE, _ONE_HEAD = 0.2, 256
"""Share under which heads of a size are not in each other; and the most rows that a head has."""

_RIDGE = 1e-12
"""Of the largest eigenvalue, which all others are taken to have at least."""


@dataclass(frozen=True, slots=True)
class Heads:
    """How b's attention becomes a's.

    Attributes:
        kind: `same`, `permuted` or `rotated`.
        q: Map of queries' rows: `q @ b_rows` are a's; square, float64. None for nothing to do.
        k: The same of keys.
        v: The same of values.
        o: The same of what heads write.
        size: Rows of a head, where that was found.
        way: How queries, keys and values follow each other in one matrix that holds all three, of
            `fingerprints.fused.WAYS`; None where each has its own.
    """

    kind: str
    q: Matrix | None = None
    k: Matrix | None = None
    v: Matrix | None = None
    o: Matrix | None = None
    size: int | None = None
    way: str | None = None


def heads(a: Attention, b: Attention, turn: Turn, scale: float, size: int | None) -> Heads | None:
    """Find how b's heads become a's; None where they cannot be told, or have other shapes.

    Args:
        a: One block's attention.
        b: The other's.
        turn: From b's stream to a's.
        scale: What b's stream is multiplied by.
        size: Rows of a head, if that is known; see `head_size`.
    """
    both = _rows_of(a, b, turn, scale)
    if both is None:
        return None
    ours, theirs = both
    in_place = _near(ours, theirs)
    if in_place > _SURELY_IN_PLACE:
        return Heads("same")
    found = _moved(ours, theirs)
    near = 0.0 if found is None else _near(ours, _after(found, theirs))
    if near < _SURELY_IN_PLACE and size is not None:
        turned = _turned(ours, theirs, size, is_held=a.has_norms)
        if turned is not None:
            is_better = 1 - _near(ours, _after(turned, theirs)) <= _FAR_BETTER * (1 - near)
            found = turned if found is None or is_better else found
    if in_place < _IN_PLACE:
        return found
    if found is None or 1 - _near(ours, _after(found, theirs)) > _FAR_BETTER * (1 - in_place):
        return Heads("same")
    return found


def head_size(pairs: Iterable[tuple[Attention, Attention]], turn: Turn, scale: float) -> int | None:
    """Find how many rows a head has, over the blocks whose rows are not where they were.

    Args:
        pairs: Attention of a's blocks, and of b's that are the same.
        turn: From b's stream to a's.
        scale: What b's stream is multiplied by.
    """
    held: dict[int, float] = {}
    blocks: dict[int, int] = {}
    count = 0
    for a, b in pairs:
        both = _rows_of(a, b, turn, scale)
        if both is None or _near(*both) > _SURELY_IN_PLACE:
            continue
        moved = _moved(*both)
        if moved is not None and _near(both[0], _after(moved, both[1])) > _SURELY_IN_PLACE:
            continue
        (_, k_a, v_a, _), (_, k_b, v_b, _) = both
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


def likeness(a: Attention, b: Attention, turn: Turn, scale: float, found: Heads | None) -> float:
    """Return the median cosine of rows once b's heads are as was found; see `heads`."""
    both = _rows_of(a, b, turn, scale)
    if both is None or found is None:
        return 0.0
    return _near(both[0], _after(found, both[1]))


def _rows_of(
    a: Attention, b: Attention, turn: Turn, scale: float
) -> tuple[list[Matrix], list[Matrix]] | None:
    """Return queries, keys, values and output of both in a's coordinates, biases as a column."""
    ours = [np.asarray(x, np.float64) for x in (a.q, a.k, a.v, a.o)]
    theirs = [np.asarray(turn.compared(x), np.float64) for x in (b.q, b.k, b.v, b.o)]
    theirs[3] = theirs[3] * scale
    if any(x.shape != y.shape for x, y in zip(ours, theirs, strict=True)):
        return None
    for place, (one, other) in enumerate(zip(a.biases, b.biases, strict=True)):
        if one is not None and other is not None:
            ours[place] = np.column_stack([ours[place], one])
            theirs[place] = np.column_stack([theirs[place], other])
    return ours, theirs


def _after(found: Heads, rows: list[Matrix]) -> list[Matrix]:
    maps = (found.q, found.k, found.v, found.o)
    return [y if by is None else by @ y for by, y in zip(maps, rows, strict=True)]


def _near(ours: list[Matrix], theirs: list[Matrix]) -> float:
    """Return the median cosine of rows with their own numbers, of the matrix where it is least."""
    return min(float(np.median(_cosines(x, y))) for x, y in zip(ours, theirs, strict=True))


def _moved(ours: list[Matrix], theirs: list[Matrix]) -> Heads | None:
    """Find the permutation of rows that makes all four the same, if there is one."""
    (q_a, k_a, v_a, o_a), (q_b, k_b, v_b, o_b) = ours, theirs
    outer = _assigned(_likeness(q_a, q_b) + _likeness(o_a, o_b))
    inner = _assigned(_likeness(k_a, k_b) + _likeness(v_a, v_b))
    pairs = ((q_a, q_b, outer), (o_a, o_b, outer), (k_a, k_b, inner), (v_a, v_b, inner))
    if _near([x for x, _, _ in pairs], [y[order] for _, y, order in pairs]) < _MOVED:
        return None
    q, k = np.eye(len(q_b))[outer], np.eye(len(k_b))[inner]
    return Heads("permuted", q, k, k, q)


def _turned(
    ours: list[Matrix], theirs: list[Matrix], size: int, *, is_held: bool = False
) -> Heads | None:
    """Find the blocks, one a head, that turn b's heads into a's.

    Args:
        ours: a's rows.
        theirs: b's.
        size: Rows of a head.
        is_held: Whether a norm within heads lets queries and keys change no more than their signs.
    """
    (q_a, k_a, v_a, o_a), (q_b, k_b, v_b, o_b) = ours, theirs
    each = len(q_a) // len(k_a)
    if each * len(k_a) != len(q_a) or len(k_a) % size:
        return None
    turned = [np.zeros((len(x), len(x))) for x in ours]
    groups = _assigned(_overlaps(k_a, k_b, size) + _overlaps(v_a, v_b, size))
    for to, came in enumerate(groups.tolist()):
        at_a, at_b = _rows(to, size), _rows(came, size)
        heads_a = [_rows(to * each + i, size) for i in range(each)]
        heads_b = [_rows(came * each + i, size) for i in range(each)]
        order = np.arange(each)
        for _ in range(1 if each == 1 else 2):  # first by keys and values alone
            use = range(each) if each == 1 or _ else ()
            k = _fitted(
                k_a[at_a],
                k_b[at_b],
                [q_a[heads_a[i]] for i in use],
                [q_b[heads_b[order[i]]] for i in use],
            )
            if is_held:
                k = np.diag(np.where(_cosines(k_a[at_a], k_b[at_b]) < 0, -1.0, 1.0))
            v = _fitted(
                v_a[at_a],
                v_b[at_b],
                [o_a[heads_a[i]] for i in use],
                [o_b[heads_b[order[i]]] for i in use],
            )
            back_k, back_v = _inverse(k).T, _inverse(v).T
            score = np.array([
                [
                    _overlap(q_a[x], back_k @ q_b[y]) + _overlap(o_a[x], back_v @ o_b[y])
                    for y in heads_b
                ]
                for x in heads_a
            ])  # fmt: skip
            order = _assigned(score)
        turned[1][np.ix_(at_a, at_b)], turned[2][np.ix_(at_a, at_b)] = k, v
        for x, y in enumerate(order.tolist()):
            turned[0][np.ix_(heads_a[x], heads_b[y])] = back_k
            turned[3][np.ix_(heads_a[x], heads_b[y])] = back_v
    q, k_all, v_all, o = turned
    return Heads("rotated", q, k_all, v_all, o, size)


def _fitted(to: Matrix, came: Matrix, back: list[Matrix], gone: list[Matrix]) -> Matrix:
    """Return the T with `T came` nearest to `to` and `T' back` nearest to `gone`.

    Each side is first put where its two matrices weigh alike, which is the same place whatever map
    was put between them; from there to there only a rotation is left.

    Args:
        to: a's rows.
        came: b's.
        back: What the rows of a are multiplied by, as often as they are.
        gone: The same of b.
    """
    here, there = _level(to, back), _level(came, gone)
    inner = here @ to @ (there @ came).T
    undone_here, undone_there = _inverse(here), _inverse(there)
    for x, y in zip(back, gone, strict=True):
        inner = inner + undone_here.T @ x @ (undone_there.T @ y).T
    left, _, right = np.linalg.svd(inner)
    found: Matrix = undone_here @ left @ right @ there
    return found


def _level(rows: Matrix, partners: list[Matrix]) -> Matrix:
    """Return the symmetric G for which `G rows` and `inv(G) partners` have one Gram matrix.

    With P = GG that is P X P = Y, whose solution is the geometric mean of inv(X) and Y. Without
    partners `G rows` has the Gram matrix 1.
    """
    gram = rows @ rows.T
    if not partners:
        return _power(gram, -0.5)
    other: Matrix = sum((x @ x.T for x in partners), np.zeros_like(gram))
    root, back = _power(gram, 0.5), _power(gram, -0.5)
    return _power(back @ _power(root @ other @ root, 0.5) @ back, 0.5)


def _power(gram: Matrix, exponent: float) -> Matrix:
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    values = np.maximum(values, _RIDGE * max(values[-1], 1e-300))
    found: Matrix = (vectors * values**exponent) @ vectors.T
    return found


def _held(a: Matrix, b: Matrix, size: int) -> float:
    """Return which share of a's heads of this size lies in one head of b's each.

    Counted is what is beyond the share that any head of this size has of another.
    """
    overlaps = _overlaps(a, b, size)
    share = float(overlaps[np.arange(len(overlaps)), _assigned(overlaps)].mean())
    chance = size / int(a.shape[1])
    return (share - chance) / (1 - chance)


def _overlaps(a: Matrix, b: Matrix, size: int) -> Matrix:
    """Return which share of the space of a's heads (down) lies in that of b's (across).

    Rows that were mapped within a head span what they spanned before.
    """
    one, other = (_spans(x, size) for x in (a, b))
    inner = (one @ other.T) ** 2
    count = len(a) // size
    found: Matrix = inner.reshape(count, size, count, size).sum(axis=(1, 3), dtype=np.float64)
    return found / size


def _spans(rows: Matrix, size: int) -> NDArray[np.float32]:
    """Return orthonormal rows that span what the rows of each head span."""
    heads = rows.reshape(-1, size, rows.shape[1])
    gram = heads @ heads.transpose(0, 2, 1)
    trace = np.trace(gram, axis1=1, axis2=2)[:, None, None]
    factor = np.linalg.cholesky(gram + (_RIDGE * trace + 1e-300) * np.eye(size))
    found: NDArray[np.float32] = (
        np.linalg.solve(factor, heads).reshape(rows.shape).astype(np.float32)
    )
    return found


def _inverse(block: Matrix) -> Matrix:
    found: Matrix = np.asarray(np.linalg.pinv(block, rcond=1e-8), np.float64)
    return found


def _rows(place: int, size: int) -> NDArray[np.intp]:
    return np.arange(place * size, (place + 1) * size)


def _overlap(x: Matrix, y: Matrix) -> float:
    norm = np.linalg.norm(x) * np.linalg.norm(y)
    return float(np.sum(x * y) / norm) if norm > 0 else 0.0


def _assigned(score: Matrix) -> NDArray[np.intp]:
    """Return for each place of a the place of b that is it."""
    _, cols = linear_sum_assignment(-score)
    return cols.astype(np.intp)


def _likeness(a: Matrix, b: Matrix) -> Matrix:
    found: Matrix = _unit(a) @ _unit(b).T
    return found


def _cosines(a: Matrix, b: Matrix) -> Matrix:
    found: Matrix = np.einsum("ij,ij->i", _unit(a), _unit(b))
    return found


def _unit(rows: Matrix) -> Matrix:
    norms: Matrix = np.asarray(np.linalg.norm(rows, axis=1, keepdims=True), np.float64)
    found: Matrix = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return found
