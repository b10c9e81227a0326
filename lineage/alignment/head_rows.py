"""Rows of the heads of two attentions, and how those of one become the other's.

Wide streams are looked at along some directions, the same of both: few to see which head is which,
many to fit maps within them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment.maps import undone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lineage.alignment.turning import Turn
    from lineage.fingerprints.stream import Attention

    Matrix = NDArray[np.float64]
    Rows = NDArray[np.float32]
    Order = NDArray[np.intp]

SURELY_IN_PLACE = 0.995
"""Median cosine of rows from which they are the same rows. Of rows that are not it is about 0."""

_MOVED = 0.7
"""The same of rows of which each was given the best of all others as its partner."""

_PROJECTED = 512
"""Directions of a stream along which rows are looked at, at most."""

_FITTED = 2048
"""Coordinates of a turned stream along which maps within heads are fitted, at most."""

_FEW = 1024
"""Rows above which those that are each other's nearest are partners and only others assigned."""


@dataclass(frozen=True, slots=True)
class Heads:
    """How b's attention becomes a's: by blocks of rows, each moved whole and mapped within.

    Attributes:
        kind: `same`, `permuted` or `rotated`.
        inner: Of keys and of values: for each block of a's rows the one of b's that it is; None for
            nothing to do.
        outer: The same of queries and of what heads write.
        inside: Maps of the blocks of keys, `inside[i] @ b_rows` are a's; float64, shape (blocks,
            size, size). None where rows were only moved.
        values: The same of values.
        size: Rows of a head, where that was found.
        way: How queries, keys and values follow each other in one matrix that holds all three, of
            `fingerprints.fused.WAYS`; None where each has its own.
    """

    kind: str
    inner: Order | None = None
    outer: Order | None = None
    inside: Matrix | None = None
    values: Matrix | None = None
    size: int | None = None
    way: str | None = None

    def applied(self, role: str, rows: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return rows of b as a's: of queries and of what is written the maps are taken back.

        Args:
            role: `q`, `k`, `v` or `o`.
            rows: Shape (rows, any).
        """
        order = self.outer if role in "qo" else self.inner
        if order is None or len(rows) % len(order):
            return rows
        blocks = rows.reshape(len(order), -1, rows.shape[1])[order]
        maps = self.inside if role in "qk" else self.values
        if maps is None or maps.shape[1] != blocks.shape[1] or len(order) % len(maps):
            return blocks.reshape(rows.shape)
        if role in "qo":
            maps = np.repeat(undone(maps), len(order) // len(maps), axis=0)
        mapped: NDArray[np.floating] = (maps.astype(rows.dtype) @ blocks).reshape(rows.shape)
        return mapped


@dataclass(frozen=True, eq=False)
class Look:
    """Rows of two attentions along the same directions of one stream, biases as a column.

    Attributes:
        a: Of queries, keys, values and output.
        b: The same, in a's coordinates.
        has_norms: Whether queries and keys pass a norm of their own.
    """

    a: tuple[Rows, ...]
    b: tuple[Rows, ...]
    has_norms: bool

    @cached_property
    def nearness(self) -> float:
        """The median cosine of rows with their own numbers, of the matrix where it is least."""
        return _near(self.a, self.b)

    @cached_property
    def moved(self) -> Heads | None:
        """The permutation of rows that makes all four the same, if there is one."""
        return _moved(self)

    @cached_property
    def is_open(self) -> bool:
        """Whether rows are not where they were, nor surely only moved."""
        if self.nearness > SURELY_IN_PLACE:
            return False
        return self.likeness(self.moved) <= SURELY_IN_PLACE

    def likeness(self, found: Heads | None) -> float:
        """Return the median cosine of rows once b's heads are as was found; see `heads`."""
        return 0.0 if found is None else _near(self.a, _after(found, self.b))


def look(
    a: Attention, b: Attention, turn: Turn, scale: float, rng: np.random.Generator | None
) -> Look | None:
    """Look at the heads of two blocks; None where they have other shapes.

    Args:
        a: One block's attention.
        b: The other's.
        turn: From b's stream to a's.
        scale: What b's stream is multiplied by.
        rng: Draws a few directions to look along, of a wide stream; None for as many as maps are
            fitted along.
    """
    ours, theirs = [a.q, a.k, a.v, a.o], [b.q, b.k, b.v, b.o]
    if any(len(x) != len(y) for x, y in zip(ours, theirs, strict=True)):
        return None
    width = a.q.shape[1]
    if rng is None and turn.order is None and width > _FITTED:
        some = np.linspace(0, width - 1, _FITTED).astype(np.intp)
        back = np.ascontiguousarray(turn.matrix[:, some])
        ours, theirs = [x[:, some] for x in ours], [x @ back for x in theirs]
    elif rng is None or width <= _PROJECTED:
        theirs = [turn.apply(x) for x in theirs]
    else:
        plane = rng.standard_normal((width, _PROJECTED), np.float32) / np.float32(_PROJECTED**0.5)
        back = turn.undone(plane)
        ours, theirs = [x @ plane for x in ours], [x @ back for x in theirs]
    theirs[3] = theirs[3] * np.float32(scale)
    for place, (one, other) in enumerate(zip(a.biases, b.biases, strict=True)):
        if one is not None and other is not None:
            ours[place] = np.column_stack([ours[place], one])
            theirs[place] = np.column_stack([theirs[place], other])
    return Look(tuple(ours), tuple(theirs), a.has_norms)


def _after(found: Heads, rows: Sequence[Rows]) -> list[NDArray[np.floating]]:
    return [found.applied(role, y) for role, y in zip("qkvo", rows, strict=True)]


def _near(ours: Sequence[NDArray[np.floating]], theirs: Sequence[NDArray[np.floating]]) -> float:
    return min(float(np.median(cosines(x, y))) for x, y in zip(ours, theirs, strict=True))


def _moved(seen: Look) -> Heads | None:
    """Find the permutation of rows that makes all four the same, if there is one."""
    (q_a, k_a, v_a, o_a), (q_b, k_b, v_b, o_b) = seen.a, seen.b
    outer = _partners((q_a, o_a), (q_b, o_b))
    inner = None if outer is None else _partners((k_a, v_a), (k_b, v_b))
    if outer is None or inner is None:
        return None
    pairs = ((q_a, q_b, outer), (o_a, o_b, outer), (k_a, k_b, inner), (v_a, v_b, inner))
    if _near([x for x, _, _ in pairs], [y[order] for _, y, order in pairs]) < _MOVED:
        return None
    return Heads("permuted", inner, outer)


def _partners(ours: Sequence[Rows], theirs: Sequence[Rows]) -> Order | None:
    """Return for each row of a the one of b that it is, by two looks; None if rows have none.

    Of some rows the nearest are looked at first: where these are not alike in both, rows were not
    only moved.
    """
    one, other = [_unit(x) for x in ours], [_unit(y) for y in theirs]
    some = np.unique(np.linspace(0, len(one[0]) - 1, _FEW // 4).astype(np.intp))
    looks = one[0][some] @ other[0].T, one[1][some] @ other[1].T
    nearest = np.arange(len(some)), (looks[0] + looks[1]).argmax(axis=1)
    if min(np.median(x[nearest]) for x in looks) < _MOVED:
        return None
    score = one[0] @ other[0].T + one[1] @ other[1].T
    if len(score) <= _FEW:
        return assigned(score)
    order, back = score.argmax(axis=1).astype(np.intp), score.argmax(axis=0)
    left = np.flatnonzero(back[order] != np.arange(len(order)))
    free = np.setdiff1d(np.arange(len(order)), np.delete(order, left))
    order[left] = free[assigned(score[np.ix_(left, free)])]
    found: Order = order
    return found


def assigned(score: NDArray[np.floating]) -> Order:
    """Return for each place of a the place of b that is it."""
    from scipy.optimize import linear_sum_assignment

    _, cols = linear_sum_assignment(-score)
    return cols.astype(np.intp)


def cosines(a: NDArray[np.floating], b: NDArray[np.floating]) -> Matrix:
    """Return the cosine of each row of a with the row of b in its place; 0 where one is nothing."""
    found: Matrix = np.einsum("ij,ij->i", _unit(a), _unit(b), dtype=np.float64)
    return found


def _unit(rows: NDArray[np.floating]) -> Rows:
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))[:, None]
    found = np.divide(rows, norms, out=np.zeros(rows.shape), where=norms > 0)
    single: Rows = found.astype(np.float32)
    return single
