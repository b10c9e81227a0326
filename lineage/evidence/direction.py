"""Which of two related models came first?

Training moves weights in directions that have nothing to do with where they are: the difference
d = c - p is nearly orthogonal to the parent p, and therefore not to the child c = p + d. Measured
on 240 public pairs the sign of the margin below is right for 194; on 222 of one kind it is right
for 99 in 100 above .05, and worse than chance on the lightest changes. So it abstains there.
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

CLEAR_TILT = -0.25
"""A direction that the energy slopes deny by more than this is not said."""

EVEN_SHARE = 0.4
"""Below this both moved about as far from something they share."""


@dataclass(frozen=True, slots=True)
class Orthogonality:
    """How much nearer to orthogonal the difference is to one model than to the other.

    Attributes:
        margin: Mean over tensors of |cos(d, b)| - |cos(d, a)|; positive speaks for a->b.
        share: `margin` over the margin that a step orthogonal to its start would have.
        tilt: Energy slope seen from a less that seen from b; positive speaks for a->b.
    """

    margin: float
    share: float
    tilt: float = 0.0

    @property
    def is_clear(self) -> bool:
        """Whether a lone pair may be given this direction."""
        is_large = abs(self.margin) >= CLEAR_MARGIN
        is_pure = CLEAR_SHARE <= abs(self.share) <= LARGEST_SHARE
        return is_large and is_pure and self.tilt * np.sign(self.margin) > CLEAR_TILT


def orthogonality(pairing: Pairing) -> Orthogonality:
    """Compare cos(d, a) with cos(d, b), tensor by tensor, weighted by size.

    The inner products come from exact norms by polarisation, so their error is a fraction of the
    difference's norm and not of the weights'.
    """
    use = pairing.is_matrix & ~pairing.equal & (pairing.energy_d > 0)
    use &= (pairing.energy_a > 0) & (pairing.energy_b > 0)
    if not np.any(use):
        return Orthogonality(0.0, 0.0)
    d, a, b = pairing.energy_d[use], pairing.energy_a[use], pairing.energy_b[use]
    inner, size = pairing.inner[use], pairing.size[use]
    with_a = np.abs(inner - a) / np.sqrt(d * a)
    with_b = np.abs(b - inner) / np.sqrt(d * b)
    margin = float(size @ (with_b - with_a) / size.sum())
    start = np.minimum(a, b)
    pure = float(size @ np.sqrt(d / (d + start)) / size.sum())
    tilt = _energy_slope(pairing, use, forward=True) - _energy_slope(pairing, use, forward=False)
    return Orthogonality(margin, margin / pure, tilt)


def _energy_slope(pairing: Pairing, use: NDArray[np.bool_], *, forward: bool) -> float:
    """Regress <d, p> / |p|^2 on |d|^2 / |p|^2 over the buckets of rows and columns of each matrix.

    Where training shrinks or unlearns, d leans on p by a constant share, which fools orthogonality
    but only shifts the intercept; the slope stays near 0 seen from the parent and is near -1 seen
    from the child, since <-d, c> = -<d, p> - |d|^2. Noise in |d|^2, which the sketch estimates,
    draws both slopes towards -1/2: their difference keeps its sign and loses size.
    """
    covariance = variance = 0.0
    for place in np.flatnonzero(use):
        one = pairing.first.tensors[pairing.a[place]].sketch
        other = pairing.second.tensors[pairing.b[place]].sketch
        assert one is not None
        assert other is not None
        start, end = (one, other) if forward else (other, one)
        squared = pairing.difference(int(place)) ** 2
        for p, c, d in (
            (start.rows, end.rows, squared.sum(1)),
            (start.cols, end.cols, squared.sum(0)),
        ):
            if p.size < _LEAST_BUCKETS or not np.all(p > 0):
                continue
            weight = p / p.sum()
            moved, leaned = d / p, (c - p - d) / 2 / p
            mean = float(weight @ moved)
            if mean <= 0:
                continue
            off = (moved - mean) / mean
            size = float(pairing.size[place])
            covariance += size * float(weight @ (off * (leaned - weight @ leaned))) / mean
            variance += size * float(weight @ off**2)
    return covariance / variance if variance else -0.5


_LEAST_BUCKETS = 8
