"""Which feed-forward units of two models are the same, and how sure that is.

A unit shows itself twice, in two matrices that were drawn independently: by what its gate reads and
by what the unit reads (or, without gates, by what it reads and what it writes). In two models of
which one came from the other both looks find the same partner. Between strangers they agree about
as seldom as two random choices do. Not quite: models of one kind of data have units that read one
token and write another, so the looks are taken along those directions of the stream alone that
labelled vectors hardly use, where that cannot show.

Source: two independent matchings, Zhu et al., "Independence Tests for Language Models" (2025),
section on unconstrained tests; nearest partners in place of an assignment, and the quiet
directions, are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment.spared import told
from lineage.fingerprints.agreement import Agreement

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from lineage.alignment.turning import Turn
    from lineage.fingerprints.stream import Mlp

    Matrix = NDArray[np.floating]
    Rows = NDArray[np.float32]

__all__ = ["LOOKED_AT", "Units", "View", "agreement", "partners", "units", "view"]

LOOKED_AT = 512
"""Units of the second model that are looked at, at most: evenly spread."""

_PROJECTED = 768
"""Numbers to which all that a unit reads and writes is projected before partners are looked for."""

_MEASURED = 1024
"""Units of a turned wide stream that are compared in full, at most."""

_AT_ONCE = 1 << 23
"""Cosines of two models' units that are held at once."""

_MISTAKEN = 0.1
"""Share of units that may be followed by one of a lower number without being in another order: of
units in an order drawn by lot it is a half."""

_AS_ALIKE = 0.02
"""Mean cosine that units may lose by being left in their places."""

_RESCALED = 3.0
"""How much more the scales of reading and writing must go against each other than together."""

_LEAST_RESCALED = 1e-3
"""Spread of the logarithms of scales under which units are not called rescaled."""


@dataclass(frozen=True, slots=True)
class View:
    """Units as two looks along some directions see them.

    Attributes:
        first: float32, shape (units, directions), rows of norm 1.
        second: The same.
        is_gated: Whether the looks are at gates and what units read, or at reading and writing.
    """

    first: NDArray[np.float32]
    second: NDArray[np.float32]
    is_gated: bool


def view(mlp: Mlp, quiet: Matrix, most: int | None = None) -> View:
    """Look at the units of a block.

    Args:
        mlp: The units.
        quiet: The directions of their stream to look along, shape (width, directions).
        most: Units to look at, evenly spread; None for all.
    """
    looks: Iterable[Matrix] = mlp.pair()
    some = _spread(len(mlp.up), most)
    first, second = (_unit(one[some] @ quiet.astype(np.float32)) for one in looks)
    return View(first, second, mlp.gate is not None)


def agreement(a: View, b: View) -> Agreement:
    """Look for the partners of b's units among a's, twice."""
    if a.is_gated != b.is_gated:
        return Agreement(0, 0, 0.0)
    first = (b.first @ a.first.T).argmax(axis=1)
    second = np.abs(b.second @ a.second.T).argmax(axis=1)
    units = len(a.first)
    popular = np.bincount(first, minlength=units) @ np.bincount(second, minlength=units)
    return Agreement(int(np.sum(first == second)), len(first), float(popular / len(first)))


@dataclass(frozen=True, slots=True)
class Units:
    """Which units of b are which of a's, in the order of a's.

    Attributes:
        a: Places in a, ascending.
        b: Places in b, of the same units.
        scales: What b's reading must be multiplied by, and its writing divided by; nothing where
            the units were not rescaled.
        likeness: Mean cosine of matched units, over what they read and write.
        reads: Median ratio of what a's units read to what b's do, their scales taken off.
        writes: The same of what they write.
    """

    a: NDArray[np.intp]
    b: NDArray[np.intp]
    scales: NDArray[np.float64] | None
    likeness: float
    reads: float
    writes: float

    @property
    def is_same(self) -> bool:
        """Whether nothing was moved or rescaled."""
        return self.scales is None and bool(np.array_equal(self.a, self.b))

    @property
    def is_moved(self) -> bool:
        """Whether they are in another order: a few that changed places are mistakes."""
        back = int(np.sum(self.b[1:] < self.b[:-1]))
        return back > _MISTAKEN * len(self.b)


def units(a: Mlp, b: Mlp, turn: Turn, rng: np.random.Generator) -> Units:
    """Match the units of two blocks, one to one; each unit of the smaller one has a partner.

    Args:
        a: Units of one model.
        b: Units of the other.
        turn: From b's stream to a's.
        rng: Draws the projection that makes many wide units quick to compare.
    """
    ours = [one for one in (a.gate, a.up, a.down) if one is not None]
    theirs = [one for one in (b.gate, b.up, b.down) if one is not None]
    seen = _projected(ours, theirs, turn, rng)
    order = _nearest(ours, theirs, seen, turn, is_gated=a.gate is not None)
    if len(ours[0]) == len(theirs[0]) and _is_in_place(*seen, order):
        order = np.arange(len(order))
    kept = order >= 0
    at_b = np.flatnonzero(kept)
    at_a = order[kept]
    by_a = np.argsort(at_a, kind="stable")
    at_a, at_b = at_a[by_a], at_b[by_a]
    is_square = turn.matrix.shape[0] == turn.matrix.shape[1]
    some = _spread(len(at_a), _MEASURED if turn.order is None and is_square else None)
    pairs = [(x[at_a[some]], turn.apply(y[at_b[some]])) for x, y in zip(ours, theirs, strict=True)]
    reading, writing = (_ratio(x, y) for x, y in pairs[-2:])
    measured = reading, writing
    if len(some) < len(at_a):
        reading, writing = (
            np.sign(_inner(x_seen[at_a], y_seen[at_b])) * _ratio_of_lengths(x, y, at_a, at_b)
            for x, y, x_seen, y_seen in list(zip(ours, theirs, *seen, strict=True))[-2:]
        )
    scales = _scales(reading, writing)
    if scales is not None and len(some) == len(at_a):  # an adapter may have spared what tells them
        rows = (one.astype(np.float64)[:, None, None] for one in pairs[-2])
        spared = told(*rows)
        scales = scales if spared is None else spared.maps[:, 0, 0]
    each = [_cosines(x, y) for x, y in pairs]
    if scales is None or np.all(scales > 0):
        likeness = float(np.mean(each))
    else:
        likeness = float(np.mean(np.abs(each)))
    by = np.ones(len(some)) if scales is None else scales[some]
    reads = float(np.median(measured[0] / by))
    writes = float(np.median(measured[1] * by))
    return Units(at_a.astype(np.intp), at_b.astype(np.intp), scales, likeness, reads, writes)


def _spread(count: int, most: int | None) -> NDArray[np.intp]:
    """Return places of so many, evenly spread; of all where there is no limit."""
    if most is None or most >= count:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).astype(np.intp))


def _projected(
    ours: Sequence[Rows], theirs: Sequence[Rows], turn: Turn, rng: np.random.Generator
) -> tuple[list[Rows], list[Rows]]:
    """Return all looks at the units of both in one stream, of a wide one along some directions."""
    each = _PROJECTED // len(ours)
    width = ours[0].shape[1]
    if width <= each:
        return list(ours), [turn.apply(one) for one in theirs]
    plane = rng.standard_normal((width, each), np.float32)
    back = turn.undone(plane)
    return [one @ plane for one in ours], [one @ back for one in theirs]


def _nearest(
    ours: Sequence[Rows],
    theirs: Sequence[Rows],
    seen: tuple[list[Rows], list[Rows]],
    turn: Turn,
    *,
    is_gated: bool,
) -> NDArray[np.intp]:
    """Return for each unit of b the place of its partner in a, or -1.

    Units that are each other's nearest are partners; only the others are assigned, which for
    thousands of units would take long.
    """
    from scipy.optimize import linear_sum_assignment

    x, y = (_unit(_signed(one, is_gated=is_gated)) for one in seen)
    order = _mutual(x, y)
    mutual = order >= 0
    left = np.flatnonzero(~mutual)
    free = np.setdiff1d(np.arange(len(x)), order[mutual])
    if len(left) and len(free):
        rest = sum(
            np.abs(_likeness(one[free], turn.apply(other[left])))
            for one, other in zip(ours, theirs, strict=True)
        )
        rows, cols = linear_sum_assignment(-np.asarray(rest))
        order[left[rows]] = free[cols]
    return order


def _mutual(x: Rows, y: Rows) -> NDArray[np.intp]:
    """Return for each row of y the row of x of which it is the nearest as well, or -1."""
    order, own = np.empty(len(y), np.intp), np.empty(len(y), np.float32)
    best = np.full(len(x), -np.inf, np.float32)
    step = max(_AT_ONCE // len(x), 1)
    for at in range(0, len(y), step):
        score = y[at : at + step] @ x.T
        found = score.argmax(axis=1)
        order[at : at + step], own[at : at + step] = found, score[np.arange(len(found)), found]
        best = np.maximum(best, score.max(axis=0))
    mutual = own >= best[order]
    _, first = np.unique(np.where(mutual, order, -1), return_index=True)
    is_first = np.zeros(len(y), np.bool_)
    is_first[first] = True
    return np.where(mutual & is_first, order, -1)


def _is_in_place(ours: Sequence[Matrix], theirs: Sequence[Matrix], order: NDArray[np.intp]) -> bool:
    """Whether units with their own numbers are as much alike as those that were found."""
    found = [np.mean(np.abs(_cosines(x[order], y))) for x, y in zip(ours, theirs, strict=True)]
    own = [np.mean(np.abs(_cosines(x, y))) for x, y in zip(ours, theirs, strict=True)]
    return bool(np.mean(own) > np.mean(found) - _AS_ALIKE)


def _signed(looks: Sequence[Matrix], *, is_gated: bool) -> NDArray[np.float32]:
    """Put a unit's looks side by side, each of norm 1.

    Behind a gate a unit may have been multiplied by a negative number: it is given the sign that
    makes the sum of what it reads positive.
    """
    rows = [_unit(one) for one in looks]
    if is_gated:
        sign = np.where(rows[-2].sum(axis=1, keepdims=True) < 0, np.float32(-1), np.float32(1))
        rows[-2:] = [rows[-2] * sign, rows[-1] * sign]
    return np.concatenate(rows, axis=1)


def _scales(
    reading: NDArray[np.float64], writing: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Find by what units were multiplied where they read and divided where they write.

    Training moves both norms of a unit the same way, so they are called rescaled only if the two
    go against each other.
    """
    if not np.all(np.isfinite(reading) & np.isfinite(writing) & (reading * writing > 0)):
        return None
    up, down = np.log(np.abs(reading)), np.log(np.abs(writing))
    down = down - np.median(up + down)  # what the whole stream was scaled by
    against, together = np.std(up - down), np.std(up + down)
    if against < _LEAST_RESCALED or against < _RESCALED * together:
        return None
    found: NDArray[np.float64] = np.sign(reading) * np.exp((up - down) / 2)
    return found


def _ratio(a: Rows, b: Rows) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        found: NDArray[np.float64] = _inner(a, b) / _inner(b, b)
    return found


def _ratio_of_lengths(
    a: Rows, b: Rows, at_a: NDArray[np.intp], at_b: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return the same without its sign: of rows of two streams, turning keeps lengths."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: NDArray[np.float64] = np.sqrt(_inner(a, a)[at_a] / _inner(b, b)[at_b])
    return found


def _inner(a: Rows, b: Rows) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.einsum("ij,ij->i", a, b, dtype=np.float64)
    return found


def _cosines(a: Rows, b: Rows) -> NDArray[np.float64]:
    return _inner(_unit(a), _unit(b))


def _likeness(a: Matrix, b: Matrix) -> NDArray[np.float32]:
    """Return the cosines of b's rows (down) with a's (across); of nothing they are 0."""
    found: NDArray[np.float32] = _unit(b) @ _unit(a).T
    return found


def _unit(rows: Rows) -> Rows:
    norms = np.sqrt(_inner(rows, rows))[:, None]
    found = np.divide(rows, norms, out=np.zeros(rows.shape), where=norms > 0)
    single: Rows = found.astype(np.float32)
    return single


def partners(a: Mlp, b: Mlp, turn: Turn) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the units on whose partner both looks agree: places in a, and in b."""
    along = np.eye(turn.matrix.shape[1]) if turn.seen is None else turn.seen
    back = turn.undone(along)
    looks = [
        _likeness(one @ along.astype(np.float32), other @ back)
        for one, other in zip(a.pair(), b.pair(), strict=True)
    ]
    first, second = looks[0].argmax(axis=1), np.abs(looks[1]).argmax(axis=1)
    at_b = np.flatnonzero(first == second)
    return first[at_b], at_b
