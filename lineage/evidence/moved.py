"""Did one of two models have scales moved from its gains into the columns of what follows them?

AWQ and SmoothQuant divide the gains of a norm by a scale for each channel, and multiply the columns
of the matrices that it leads to by the same: what is computed stays, and outliers go where rounding
hurts less. Weights one by one, and the course of the gains, then look like another training's.

What shows it: in each bucket of channels the columns' energy grew as the gains' energy fell. With
g and e the logarithms of both ratios, e = -g where a bucket has one channel, and nearly so where it
has some. Training moves gains far less, and columns with them, not against them.

Null: g and e know nothing of each other. The correlation over 36 buckets then has a deviation of
.17, and half of all matrices do not reach .5 by chance, also if each has several vectors to choose
from.

Sources: Lin et al. (2024), "AWQ"; Xiao et al. (2023), "SmoothQuant".
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lineage.artifacts.dialects import layered
from lineage.evidence.course import is_vector
from lineage.fingerprints.sketch import Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineage.evidence.pairing import Pairing

__all__ = ["MOVED", "Moved", "moved"]

MOVED = "moved-v1"
"""The detector's name."""

_LEAST_SPREAD = 0.02
"""Deviation of a logarithm over buckets from which gains moved: training leaves up to .012."""

_LEAST_CORRELATION, _SLOPES = 0.5, (0.5, 1.6)
"""Of -g and e in one matrix; and how much e grows with -g there."""

_LEAST_BUCKETS, _LEAST_MATRICES, _LEAST_SHARE = 12, 3, 0.5
"""Buckets and matrices that tell, and share of the matrices beside gains that moved."""

_LEAST_CHANGE = 1e-12
"""What equal matrices count in the mean of logarithms."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Scales that were moved.

    Attributes:
        matrices: In how many matrices.
        correlation: In the middle one.
        distance: Norm of the weights times the geometric mean of what matrices changed. Scales
            change some by much, whatever the source; it is in the others that sources differ.
    """

    matrices: int
    correlation: float
    distance: float


def moved(pairing: Pairing) -> Moved | None:
    """Find matrices whose columns have what the gains of their layer lost."""
    vectors: dict[tuple[str, int], list[NDArray[np.float64]]] = defaultdict(list)
    sizes: dict[tuple[str, int], list[int]] = defaultdict(list)
    for n, (i, j) in enumerate(zip(pairing.a, pairing.b, strict=True)):
        at = layered(pairing.first.names[i])
        if at is None or not (is_vector(pairing.first, i) and is_vector(pairing.second, j)):
            continue
        gains = _ratios(pairing, n, 0)
        if gains is not None and float(gains.std()) >= _LEAST_SPREAD:
            vectors[at.stack, at.number].append(gains)
            sizes[at.stack, at.number].append(pairing.first.shapes[i][0])
    if not vectors:
        return None
    best: dict[int, float] = {}
    for place in np.flatnonzero(pairing.is_matrix & ~pairing.same):
        at = layered(pairing.first.names[pairing.a[place]])
        key = ("", -1) if at is None else (at.stack, at.number)
        seen = [
            _fit(-gains, ratios)
            for gains, size in zip(vectors.get(key, ()), sizes.get(key, ()), strict=True)
            for ratios in _sides(pairing, int(place), size)
        ]
        if seen:
            best[int(place)] = max(seen)
    told = {place: one for place, one in best.items() if one >= _LEAST_CORRELATION}
    if len(told) < max(_LEAST_MATRICES, _LEAST_SHARE * len(best)):
        return None
    use = pairing.is_matrix & (pairing.energy_a > 0)
    changed = np.maximum(pairing.energy_d[use] / pairing.energy_a[use], _LEAST_CHANGE)
    whole = float(pairing.energy_a[use].sum())
    distance = (whole * float(np.exp(np.log(changed).mean()))) ** 0.5
    return Moved(len(told), float(np.median(list(told.values()))), distance)


def _sides(pairing: Pairing, n: int, size: int) -> list[NDArray[np.float64]]:
    """Return the logarithms of what rows, or columns, grew by, where there are so many."""
    layout = Layout.of(pairing.first.shapes[pairing.a[n]])
    found = []
    for axis, extent in enumerate((layout.rows, layout.cols)):
        ratios = _ratios(pairing, n, axis) if extent == size else None
        if ratios is not None:
            found.append(ratios)
    return found


def _ratios(pairing: Pairing, n: int, axis: int) -> NDArray[np.float64] | None:
    """Return logarithms of what the norms of buckets grew by: of rows, of columns, of a vector."""
    one = pairing.first.tensors[pairing.a[n]].sketch
    other = pairing.second.tensors[pairing.b[n]].sketch
    if one is None or other is None or pairing.way[n] != "straight":
        return None
    is_rows = axis == 0 and not Layout.of(pairing.first.shapes[pairing.a[n]]).is_vector
    a, b = (one.rows, other.rows) if is_rows else (one.cols, other.cols)
    if len(a) < _LEAST_BUCKETS or len(a) != len(b) or not (np.all(a > 0) and np.all(b > 0)):
        return None
    grown: NDArray[np.float64] = np.log(b.astype(np.float64) / a) / 2
    return grown


def _fit(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return a correlation, or 0 where the slope is none of scales."""
    if len(x) != len(y) or not float(y.std()):
        return 0.0
    correlation = float(np.corrcoef(x, y)[0, 1])
    slope = correlation * float(y.std() / x.std())
    return correlation if _SLOPES[0] <= slope <= _SLOPES[1] else 0.0
