"""Which of two related models came first?

Training moves weights in directions that have nothing to do with where they are: the difference
d = c - p is nearly orthogonal to the parent p, and therefore not to the child c = p + d. Measured
on 240 public pairs the sign of the margin below is right for 194; on 222 of one kind it is right
for 99 in 100 above .05, and worse than chance on the lightest changes. So it abstains there.

In one matrix the comparison below says no more than whether the norm grew. Training without decay
makes norms grow; strong weight decay shrinks them and turns the answer round, which this alone
does not show. Where the change is shows some of it: a step adds its own energy to its start's, so
that rows with more change grow more, while decay takes from all rows alike. What all of it and more
is worth together for a lone pair is weighed in `alone`; here is what a person can follow.

All this is a lean and no proof: it names a likely order, and refuses no claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineage.evidence.pairing import Pairing

    _Numbers = NDArray[np.float64]

CLEAR_SHARE = 0.4
"""How much of the margin of a pure step must be there. It is 1 for a pure step; for siblings that
moved by u and v it is (v^2 - u^2) / (v^2 + u^2): 0 when both moved alike, and .4 when one moved
half as far again, which a lone pair can hardly tell from a step."""

PURE_SHARES = (0.6, 1.1)
"""How much of the margin of a pure step what has nothing to do with the weights has, such as
noise."""

ADAPTER_MARGIN = 0.02
ADAPTER_SHARES = (0.6, 1.5)
"""The same for a difference of low rank, whose norm a sketch tells less exactly: to a third, for
one matrix of rank 1."""

EVEN_SHARE = 0.4
"""Below this both moved about as far from something they share."""

_BUCKETS = 8
"""Rows or columns of a sketch that a slope over them takes at least."""


@dataclass(frozen=True, slots=True)
class Orthogonality:
    """How much nearer to orthogonal the difference is to one model than to the other.

    Attributes:
        margin: Mean over tensors of |cos(d, b)| - |cos(d, a)|; positive speaks for a->b.
        share: `margin` over the margin that a step orthogonal to its start would have.
    """

    margin: float
    share: float

    def is_clear(self) -> bool:
        """Whether a lone pair that a low-rank step parts may be given this direction.

        Such a step may be light: one factor of an adapter starts at random and hardly moves, so its
        product is orthogonal to the weights by construction, not by the course of training.
        """
        size, share = abs(self.margin), abs(self.share)
        return size >= ADAPTER_MARGIN and ADAPTER_SHARES[0] <= share <= ADAPTER_SHARES[1]


def leans(pairing: Pairing) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return |cos(d, b)| - |cos(d, a)| of each matrix that differs.

    The inner products come from exact norms by polarisation, so their error is a fraction of the
    difference's norm and not of the weights'.

    Returns:
        Which tensors of the pairing those are, and one margin for each; positive speaks for a->b.
    """
    use = pairing.is_matrix & ~pairing.same & (pairing.energy_d > 0)
    use &= (pairing.energy_a > 0) & (pairing.energy_b > 0)
    d, a, b = pairing.energy_d[use], pairing.energy_a[use], pairing.energy_b[use]
    inner = pairing.inner[use]
    with_a = np.abs(inner - a) / np.sqrt(d * a)
    with_b = np.abs(b - inner) / np.sqrt(d * b)
    return use, with_b - with_a


def orthogonality(pairing: Pairing) -> Orthogonality:
    """Compare cos(d, a) with cos(d, b), tensor by tensor, weighted by size."""
    use, each = leans(pairing)
    if not np.any(use):
        return Orthogonality(0.0, 0.0)
    d, size = pairing.energy_d[use], pairing.size[use]
    margin = float(size @ each / size.sum())
    start = np.minimum(pairing.energy_a[use], pairing.energy_b[use])
    pure = float(size @ np.sqrt(d / (d + start)) / size.sum())
    return Orthogonality(margin, margin / pure)


def slope(pairing: Pairing) -> float:
    """Return how energy grows from the first model to the second where there is more change.

    In each matrix the growth of the sketch's rows, and of its columns, is regressed on the change
    there and on the energy itself, which takes decay out. Matrices count by what they explain.

    Returns:
        The slope over its deviation; positive speaks for a->b, 0 where there is nothing to say.
    """
    sums = np.zeros(7)
    for place in np.flatnonzero(pairing.is_matrix & ~pairing.same & (pairing.energy_d > 0)):
        for change, first, second in _sides(pairing, int(place)):
            middle = (first.mean() + second.mean()) / 2
            x, e, y = (
                (v - v.mean()) / middle for v in (change, (first + second) / 2, second - first)
            )
            if y @ y > 0:
                terms = [x @ x, x @ e, e @ e, x @ y, e @ y, y @ y, y @ y]
                sums += np.array(terms) / (y @ y) * len(y)
    xx, xe, ee, xy, ey, yy, count = sums
    determinant = xx * ee - xe**2
    if not determinant > 1e-9 * xx * ee:
        return 0.0
    by_change = (ee * xy - xe * ey) / determinant
    rest = yy - by_change * xy - (xx * ey - xe * xy) / determinant * ey
    variance = rest / count * ee / determinant
    return float(by_change / np.sqrt(variance)) if variance > 0 else 0.0


def _sides(pairing: Pairing, place: int) -> list[tuple[_Numbers, _Numbers, _Numbers]]:
    """Return the change and both energies of a matrix by row of its sketch, and by column."""
    one = pairing.first.tensors[pairing.a[place]].sketch
    other = pairing.second.tensors[pairing.b[place]].sketch
    if one is None or other is None or pairing.way[place] == "reordered":
        return []
    change = pairing.difference(place) ** 2
    theirs = (other.rows, other.cols)
    if pairing.way[place] == "turned":
        theirs = theirs[::-1]
    found = []
    for axis, first, second in zip((1, 0), (one.rows, one.cols), theirs, strict=True):
        moved = change.sum(axis=axis)
        if len(moved) >= _BUCKETS and len(moved) == len(first) == len(second):
            found.append((moved, first.astype(np.float64), second.astype(np.float64)))
    return found
