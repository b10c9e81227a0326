"""Cosines of two networks' channels, and which are assigned to which by them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]
    Order = NDArray[np.intp]
    Orders = dict[int, Order]

__all__ = ["Fit", "Look", "unit"]


@dataclass(frozen=True, slots=True)
class Fit:
    """Which of b's channels are a's, and with which signs.

    Attributes:
        orders: Group -> for each of a's channels the place of b's.
        signs: Group -> what these are multiplied by, -1 or 1; groups of no -1 are left out.
    """

    orders: Orders
    signs: dict[int, Matrix] = field(default_factory=dict)

    def put(self, group: int, order: Order, signs: Matrix | None) -> None:
        """Take what was found of a group."""
        self.orders[group] = order
        self.signs.pop(group, None)
        if signs is not None:
            self.signs[group] = signs

    def is_same(self, group: int, order: Order, signs: Matrix | None) -> bool:
        """Whether that is what is known already."""
        known = self.signs.get(group)
        if (known is None) != (signs is None) or not np.array_equal(order, self.orders[group]):
            return False
        return known is None or signs is None or np.array_equal(known, signs)


@dataclass
class Look:
    """Cosines of b's channels (down) with a's (across), summed over tensors.

    Attributes:
        total: Of what stays as it is when a channel changes its sign.
        is_quiet: Whether tensors are seen along directions alone that data leave alone.
        parts: Of the channels, if they must stay together.
        signed: Of what changes its own with it; None where channels cannot.
        directions: That a quiet look has looked along.
    """

    total: Matrix
    is_quiet: bool = False
    parts: int = 1
    signed: Matrix | None = None
    directions: int = 0

    def add(
        self, a: Matrix, b: Matrix, changes: slice | None = None, *, is_inside: bool = True
    ) -> None:
        """Add the cosines of two tensors, a row for each channel.

        Args:
            a: Rows of a.
            b: Rows of b.
            changes: Which columns change their sign with the channel.
            is_inside: Whether the columns are channels, not labels.
        """
        if self.is_quiet:
            a, b = _quiet(a, b, is_inside=is_inside)
            self.directions += a.shape[1]
        by = _inverse(b)[:, None], _inverse(a)
        if self.signed is None or changes is None or changes == slice(0, a.shape[1]):
            whole = (b @ a.T) * by[0] * by[1]
            if self.signed is None or changes is None:
                self.total += whole
            else:
                self.signed += whole
            return
        part = b[:, changes] @ a[:, changes].T
        self.signed += part * by[0] * by[1]
        self.total += (b @ a.T - part) * by[0] * by[1]

    def __iadd__(self, other: Look) -> Look:
        """Add what another look saw."""
        self.total += other.total
        if self.signed is not None and other.signed is not None:
            self.signed += other.signed
        return self

    @property
    def best(self) -> Matrix:
        """What each pair agrees at most, with either sign."""
        return self.total if self.signed is None else self.total + np.abs(self.signed)

    def assigned(self) -> tuple[Order, Matrix | None]:
        """Return for each of a's channels the place of b's, and signs if any is -1.

        Parts of channels stay together.
        """
        if self.parts == 1:
            order = _assigned(self.best)
            if self.signed is None:
                return order, None
            turned = self.signed[order, np.arange(len(order))] < 0
            return order, np.where(turned, -1.0, 1.0) if turned.any() else None
        size = len(self.total) // self.parts
        blocks = self.total.reshape(self.parts, size, self.parts, size).transpose(2, 0, 3, 1)
        inner = [[_assigned(one.T) for one in row] for row in blocks]  # a's part, then b's
        place = np.arange(size)
        score = [
            [float(one[place, order].sum()) for one, order in zip(row, orders, strict=True)]
            for row, orders in zip(blocks, inner, strict=True)
        ]
        outer = _assigned(np.array(score).T)
        parts = [inner[to][came] + came * size for to, came in enumerate(outer)]
        return np.concatenate(parts), None


def _assigned(score: Matrix) -> Order:
    """Return for each of a's channels (across) the place of b's (down)."""
    from scipy.optimize import linear_sum_assignment

    rows, cols = linear_sum_assignment(-score)
    order = np.empty(len(rows), np.intp)
    order[cols] = rows
    return order


def _inverse(rows: Matrix) -> Matrix:
    """Return one over the norm of each row; of nothing 0."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    found: Matrix = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return found


def unit(rows: Matrix) -> Matrix:
    """Return rows of norm 1; those of nothing but zeros as they are."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Matrix = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return found


def _quiet(a: Matrix, b: Matrix, *, is_inside: bool) -> tuple[Matrix, Matrix]:
    """Return the rows of both, of norm 1, along what directions the two together use least.

    Networks of one kind of data come to use some directions alike; what an initialisation left is
    in the others. What both use is used most by the two together, and of what one uses and the
    other does not nothing can agree: so neither alone tells which directions to leave out. Of all
    the two use none are seen beyond as many as one has: what sets relatives apart is quieter than
    what they share. As no row is told from another, rows in an order drawn by lot stay so.

    Args:
        a: Rows of a.
        b: Rows of b, the same or others.
        is_inside: Whether the columns are channels. Where they are labels, tokens or classes or
            places, data tell what each is for: of these more is left out, and all of few.
    """
    ours, theirs = unit(a.astype(np.float64)), unit(b.astype(np.float64))
    count = min(_rank(ours), _rank(theirs))
    least = int(count * (_USED_INSIDE if is_inside else _USED_BY_LABELS))
    if not is_inside and count < _LEAST_DIRECTIONS:
        least = count
    kept = _along_directions(np.concatenate([ours, theirs]))[:, least:count]
    return kept[: len(a)], kept[len(a) :]


def _rank(rows: Matrix) -> int:
    """Return how many directions rows use."""
    is_wide = rows.shape[0] <= rows.shape[1]
    squares = np.linalg.eigvalsh(rows @ rows.T if is_wide else rows.T @ rows)
    return int(np.sum(squares > _LEAST_VALUE**2 * squares[-1:]))


def _along_directions(rows: Matrix) -> Matrix:
    """Return rows along the directions that they use, the most used first.

    These are their right singular vectors. The products of a wide matrix's rows are few, so that
    their eigenvectors are found many times sooner.
    """
    is_wide = rows.shape[0] <= rows.shape[1]
    squares, vectors = np.linalg.eigh(rows @ rows.T if is_wide else rows.T @ rows)
    used = np.flatnonzero(squares > _LEAST_VALUE**2 * squares[-1:])[::-1]
    found: Matrix = vectors[:, used]
    return found * np.sqrt(squares[used]) if is_wide else rows @ found


_LEAST_VALUE, _LEAST_DIRECTIONS = 1e-5, 16
"""Of the largest singular value, from which a direction is used; so many of labels must be for some
of them to be left alone by data."""

_USED_INSIDE, _USED_BY_LABELS = 0.25, 0.6
"""Of directions those that data have used up, between channels and from labels to channels: set on
recurrent networks over bytes and on classifiers of digits, trained from other first weights."""
