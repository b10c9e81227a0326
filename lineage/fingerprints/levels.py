"""Do a tensor's values lie on a few evenly spaced levels, as a quantizer leaves them?

Derivation: in each sampled group the smallest gap between two distinct values is taken as the step,
and every value must be a whole number of steps from the lowest, within the rounding of the dtype it
is stored in, with at most 256 levels. n values drawn from a continuous law have a smallest gap of
about range / n^2, so they ask for thousands of levels and fail; the chance that they pass falls
with the tolerance to the power n.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lineage.fingerprints.lattice import MIN_VALUES, ROUNDING, SAMPLED_ROWS, Lattice

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GROUPS = (0, 128, 64, 32)
"""Group lengths tried along a row; 0 is the whole row."""

_FIRST = 3
"""Groups looked at before the others: most tensors have no lattice, and that is soon seen."""

_MAX_LEVELS = 256


def lattice(rows: NDArray[np.float32], dtype: str) -> Lattice:
    """Look for a lattice in sampled rows.

    Args:
        rows: float32, shape (rows, cols), at most `SAMPLED_ROWS` by `SAMPLED_VALUES`: some rows of
            a matrix, or their beginnings.
        dtype: What they are stored in; says how far rounding may have moved a value.
    """
    if dtype not in ROUNDING or rows.shape[1] < MIN_VALUES or not rows.shape[0]:
        return Lattice()
    sample = rows.astype(np.float64)
    for group in _GROUPS:
        if group >= rows.shape[1]:
            continue
        width = group or rows.shape[1]
        groups = sample[:, : rows.shape[1] // width * width].reshape(-1, width)
        groups = groups[np.any(groups, axis=1)]
        groups = groups[:: max(1, len(groups) // SAMPLED_ROWS)][:SAMPLED_ROWS]
        if len(groups) < 4 or not any(_levels(g, ROUNDING[dtype]) for g in groups[:_FIRST]):
            continue
        levels = [_levels(g, ROUNDING[dtype]) for g in groups]
        found = [n for n in levels if n]
        if len(found) >= 0.75 * len(levels):
            return Lattice(bits=max(1, (max(found) - 1).bit_length()), group=group)
    return Lattice()


def _levels(values: NDArray[np.float64], rounding: float) -> int:
    """Return how many levels a group's values span, or 0 where they lie on no lattice."""
    distinct = np.unique(values)
    if distinct.size < 2:
        return 0
    blur = 2.0 * rounding * np.abs(distinct)
    away = distinct - distinct[np.argmin(np.abs(distinct))]
    largest = float(np.abs(distinct).max())
    steps = [largest / top for top in _TOPS]
    # A gap that rounding cannot have made, nor changed much, lies near zero.
    gaps = np.diff(distinct)
    around = blur[1:] + blur[:-1]
    is_sharp = gaps > 4 * around
    if np.any(is_sharp):
        is_step = is_sharp & (gaps < 1.3 * gaps[is_sharp].min())
        steps.insert(0, float(gaps[is_step][np.argmin(around[is_step])]))
    return next((n for step in steps if (n := _fit(away, blur, step))), 0)


_TOPS = (127, 7, 128, 8, 3)
"""Largest codes of symmetric 8-, 4- and 3-bit quantizers: the step may be the largest value over
one of these, where no gap near zero shows it (small groups stored in few digits)."""


def _fit(away: NDArray[np.float64], blur: NDArray[np.float64], step: float) -> int:
    """Return how many levels fit values at these distances from one of them, or 0."""
    if float(away[-1] - away[0]) / step >= 1.25 * _MAX_LEVELS:
        return 0
    close = np.abs(away) <= 8 * step
    if np.any(np.abs(away - np.rint(away / step) * step)[close] > 0.3 * step):
        return 0  # already the nearest values are off it
    # A first step carries the rounding of two values; fit it through more and more of them.
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
