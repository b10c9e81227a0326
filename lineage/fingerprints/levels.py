"""Do a tensor's values lie on a few levels, as a quantizer leaves them?

Evenly spaced ones: in each sampled group the smallest gap between two distinct values is taken as
the step, and every value must be a whole number of steps from the lowest, within the rounding of
the dtype it is stored in, with at most 256 levels. n values drawn from a continuous law have a
smallest gap of about range / n^2, so they ask for thousands of levels and fail; the chance that
they pass falls with the tolerance to the power n.

Uneven ones, of a table of codes as in NF4, of floats of 4 or 8 bits times a scale, of a palette:
the same values come again and again. Of 32 weights that are stored in bfloat16 about one comes
twice, as there are 128 values from one power of two to the next on either side of zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lineage.fingerprints.lattice import MIN_VALUES, ROUNDING, SAMPLED_ROWS, Lattice

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_GROUPS = (0, 128, 64, 32)
"""Group lengths tried along a row; 0 is the whole row."""

_FIRST = 3
"""Groups looked at before the others: most tensors have no lattice, and that is soon seen."""

_MAX_LEVELS = 256

_MOST_GROUPS = 0.75
"""Share of the groups that must lie on levels."""

_FEW_BITS = 4
"""Evenly spaced levels of a row that more bits number may be those of a few codes, with steps of a
power of two between groups."""

_CODED = (*_GROUPS, 16)
"""The same for codes; 16 values share the scale of an NVFP4 block."""

_CODES_OF_16, _MAY_BE_ZERO = 11, 4
"""Of 16 values on sixteen codes about half are different, of 16 on 256 codes 14; and so many may
round to zero."""

_MANY, _COME_AGAIN = (64, 128), 0.75
"""Values of which many codes are told, and the share of these that are different: .6 on an 8-bit
float, .93 and more in bfloat16, of more values less."""


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
    even = _searched(sample, _GROUPS, lambda group: _levels(group, ROUNDING[dtype]))
    if 0 < even.bits <= _FEW_BITS:
        return even
    few = _searched(sample, _CODED, _few_codes)
    return few if few.bits else even if even.bits else _searched(sample, _GROUPS, _many_codes)


def _searched(
    sample: NDArray[np.float64],
    lengths: tuple[int, ...],
    count: Callable[[NDArray[np.float64]], int],
) -> Lattice:
    """Return the first length of groups of which most have few levels.

    Args:
        sample: Rows, or their beginnings.
        lengths: Of groups along a row, 0 for the whole row.
        count: Returns how many levels a group has, 0 where it is on none.
    """
    cols = sample.shape[1]
    for group in lengths:
        if group >= cols:
            continue
        width = group or cols
        groups = sample[:, : cols // width * width].reshape(-1, width)
        groups = groups[np.any(groups, axis=1)]
        groups = groups[:: max(1, len(groups) // SAMPLED_ROWS)][:SAMPLED_ROWS]
        if len(groups) < 4 or not any(count(one) for one in groups[:_FIRST]):
            continue
        levels = [count(one) for one in groups]
        found = [n for n in levels if n]
        if len(found) >= _MOST_GROUPS * len(levels):
            return Lattice(bits=max(1, (max(found) - 1).bit_length()), group=group)
    return Lattice()


def _few_codes(values: NDArray[np.float64]) -> int:
    """Return how many different values a group has, or 0 if that is not few for its length.

    Zeros, which pruning leaves too, count for one code and say nothing.
    """
    codes, others = _codes(values)
    if values.size == MIN_VALUES:
        is_few = codes <= _CODES_OF_16 and others >= MIN_VALUES - _MAY_BE_ZERO
        return 1 << _FEW_BITS if is_few else 0
    return codes if 2 <= codes <= 1 << _FEW_BITS and 2 * codes <= others else 0


def _many_codes(values: NDArray[np.float64]) -> int:
    """Return the most levels there are if a group's values come again, or 0 if they do not."""
    codes, others = _codes(values)
    is_told = _MANY[0] <= others and values.size <= _MANY[1]
    return _MAX_LEVELS if is_told and 2 <= codes <= _COME_AGAIN * others else 0


def _codes(values: NDArray[np.float64]) -> tuple[int, int]:
    """Return how many different values there are, and how many values are not 0."""
    others = values[values != 0]
    return int(np.unique(others).size) + (others.size < values.size), others.size


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
