"""Which of two related models came first?

Training moves weights in directions that have nothing to do with where they are: the difference
d = c - p is nearly orthogonal to the parent p, and therefore not to the child c = p + d. Measured
on 240 public pairs the sign of the margin below is right for 194; on 222 of one kind it is right
for 99 in 100 above .05, and worse than chance on the lightest changes. So it abstains there.

In one matrix the comparison below says no more than whether the norm grew. Training without decay
makes norms grow; strong weight decay shrinks them and turns the answer round, which a pair alone
does not show. So this is a lean and no proof: it names a likely order, and refuses no claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineage.evidence.pairing import Pairing

CLEAR_MARGIN = 0.05
"""The margin above which the direction of a lone pair is said."""

CLEAR_CHANGE = 0.05
"""The direction of a lone pair that changed by less of its norm than this is not said."""

CLEAR_SHARE = 0.6
"""How much of the margin of a pure step must be there. It is 1 for a pure step; for siblings that
moved by u and v it is (v^2 - u^2) / (v^2 + u^2): 0 when both moved alike, and .6 when one moved
twice as far, which a lone pair can hardly tell from a step."""

LARGEST_SHARE = 1.1
"""More than this no pure step has, either way: the difference undoes what one of them learned."""

ADAPTER_MARGIN = 0.02
ADAPTER_SHARES = (0.6, 1.5)
"""The same for a difference of low rank, whose norm a sketch tells less exactly: to a third, for
one matrix of rank 1."""

EVEN_SHARE = 0.4
"""Below this both moved about as far from something they share."""


@dataclass(frozen=True, slots=True)
class Orthogonality:
    """How much nearer to orthogonal the difference is to one model than to the other.

    Attributes:
        margin: Mean over tensors of |cos(d, b)| - |cos(d, a)|; positive speaks for a->b.
        share: `margin` over the margin that a step orthogonal to its start would have.
    """

    margin: float
    share: float

    def is_clear(self, change: float, *, is_low_rank: bool) -> bool:
        """Whether a lone pair may be given this direction.

        A low-rank step may be lighter: one factor of an adapter starts at random and hardly moves,
        so its product is orthogonal to the weights by construction, not by the course of training.

        Args:
            change: Norm of the difference over the norm of the first model.
            is_low_rank: Whether the difference has a low rank.
        """
        size, share = abs(self.margin), abs(self.share)
        if is_low_rank:
            return size >= ADAPTER_MARGIN and ADAPTER_SHARES[0] <= share <= ADAPTER_SHARES[1]
        is_pure = CLEAR_SHARE <= share <= LARGEST_SHARE
        return size >= CLEAR_MARGIN and change >= CLEAR_CHANGE and is_pure


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
