"""Do a tensor's values lie on a few evenly spaced levels, as a quantizer leaves them?

Derivation: in each sampled group the smallest gap between two distinct values is taken as the step,
and every value must be a whole number of steps from the lowest, within the rounding of the dtype it
is stored in, with at most 256 levels. n values drawn from a continuous law have a smallest gap of
about range / n^2, so they ask for thousands of levels and fail; the chance that they pass falls
with the tolerance to the power n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDING = {
    "F64": 2.0**-24, "F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8,
}  # fmt: skip
"""Half a unit in the last place, relative, of values stored in each dtype."""

_GROUPS = (0, 128, 64, 32)
"""Group lengths tried along a row; 0 is the whole row."""

_SAMPLED_ROWS = 24
_MAX_LEVELS = 256
_MIN_VALUES = 16


@dataclass(frozen=True, slots=True)
class Lattice:
    """Evenly spaced levels.

    Attributes:
        bits: Smallest number of bits that can number the levels; 0 where there is no lattice.
        group: Values along a row that share one step; 0 is the row.
    """

    bits: int = 0
    group: int = 0


def lattice(rows: NDArray[np.float32], dtype: str) -> Lattice:
    """Look for a lattice in sampled rows.

    Args:
        rows: float32, shape (rows, cols): some whole rows of a matrix, or their beginnings.
        dtype: What they are stored in; says how far rounding may have moved a value.
    """
    if dtype not in ROUNDING or rows.shape[1] < _MIN_VALUES:
        return Lattice()
    step = max(1, rows.shape[0] // _SAMPLED_ROWS)
    sample = rows[::step][:_SAMPLED_ROWS].astype(np.float64)
    for group in _GROUPS:
        if group >= rows.shape[1]:
            continue
        width = group or rows.shape[1]
        groups = sample[:, : rows.shape[1] // width * width].reshape(-1, width)
        levels = [_levels(g, ROUNDING[dtype]) for g in groups if np.any(g)]
        found = [n for n in levels if n]
        if len(levels) >= 4 and len(found) >= 0.75 * len(levels):
            return Lattice(bits=max(1, (max(found) - 1).bit_length()), group=group)
    return Lattice()


def _levels(values: NDArray[np.float64], rounding: float) -> int:
    """Return how many levels a group's values span, or 0 where they lie on no lattice."""
    distinct = np.unique(values)
    if distinct.size < 2:
        return 0
    blur = 2.0 * rounding * np.abs(distinct)
    gaps = np.diff(distinct)
    # Gaps that rounding cannot have made, nor changed much: they are found near zero.
    sharp_gaps = gaps[gaps > 4 * (blur[1:] + blur[:-1])]
    if sharp_gaps.size == 0:
        return 0
    step = float(sharp_gaps.min())
    if float(distinct[-1] - distinct[0]) / step >= 1.25 * _MAX_LEVELS:
        return 0
    # One gap carries the rounding of two values; fit the step through more and more of them.
    away = distinct - distinct[np.argmin(np.abs(distinct))]
    for reach in (4, 16, 64, _MAX_LEVELS):
        near = away[np.abs(away) <= reach * step]
        count = np.rint(near / step)
        if np.any(count):
            step = float(count @ near / (count @ count))
    count = np.rint(away / step)
    off = np.abs(away - count * step)
    sharp = blur < step / 6  # values whose place rounding cannot have blurred
    if int(sharp.sum()) < 4 or np.any(off[sharp] > blur[sharp] + blur.min() + 1e-6 * step):
        return 0
    levels = int(count.max() - count.min()) + 1
    return levels if levels <= _MAX_LEVELS else 0
