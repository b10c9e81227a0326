"""The inner loops of the sketch in NumPy: what `_kernel.c` does, for where it was not compiled.

The two agree within rounding, and the tests hold them to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lineage.fingerprints.sketch import LARGEST, SIDE

if TYPE_CHECKING:
    from array import array

    from numpy.typing import NDArray

_SAFE = (1e-34, 2.0**100)
"""Mean and sum of fourth powers between these mean that float32 squares are good enough."""


def add(
    state: NDArray[np.float64],
    numbers: NDArray[np.float32],
    start: int,
    signs: bytes,
    view: tuple[int, int, int, int, int, int, int],
    factors: NDArray[np.float32] | None,
) -> None:
    """Add the values of a piece to a sketch's sums: its first row, its whole rows, its last row.

    Args:
        state: float64: core (side * 36), row energies (side), column energies (36), sum of fourth
            powers, zeros, values left out, and the value that all non-zero ones share (0 while
            none is known, NaN once two differ).
        numbers: Values of the tensor, from `start` on.
        start: Place of the first value in the whole tensor.
        signs: Bits of the sign stream, enough for every group of rows and of columns.
        view: Columns of the whole matrix; first and last row, first and last column taken; row
            buckets; and of how many blocks of rows one is taken.
        factors: What stored numbers are multiplied with: None, one, or one per row.
    """
    stride, row0, row1, col0, col1, side, every = view
    row, col = divmod(start, stride)
    while numbers.size:
        if col or numbers.size < stride:
            cut = numbers[: stride - col].reshape(1, -1)
        else:  # as many whole rows as share one sign
            to_next = side - max(row - row0, 0) % side
            cut = numbers[: min(numbers.size // stride, to_next) * stride].reshape(-1, stride)
        first, last = max(row, row0), min(row + cut.shape[0], row1)
        left, right = max(col, col0), min(col + cut.shape[1], col1)
        if first < last and left < right and (first - row0) // side % every == 0:
            taken = cut[first - row : last - row, left - col : right - col]
            if factors is not None:
                taken = taken * (factors if factors.size == 1 else factors[first:last, None])
            _add_rows(state, taken, (first - row0, left - col0), signs, side)
        numbers = numbers[cut.size :]
        row, col = row + cut.shape[0], 0


def _add_rows(
    state: NDArray[np.float64],
    taken: NDArray[np.float32],
    at: tuple[int, int],
    signs: bytes,
    side: int,
) -> None:
    """Add some rows of one block, all of one sign."""
    core = state[: side * SIDE].reshape(side, SIDE)
    rows, cols = state[side * SIDE :][:side], state[side * SIDE + side :][:SIDE]
    sums = state[side * SIDE + side + SIDE :]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        fourth = float(((taken * taken) ** 2).sum(dtype=np.float64))
    wide: Any = taken
    if not _SAFE[0] * taken.size < fourth < _SAFE[1]:
        with np.errstate(invalid="ignore"):  # signalling NaNs
            wide = taken.astype(np.float64)
        unfit = ~(np.abs(wide) <= LARGEST)
        sums[2] += np.count_nonzero(unfit)
        sums[1] -= np.count_nonzero(unfit)
        wide[unfit] = 0.0
        fourth = float((wide**4).sum())
    sums[0] += fourth
    sums[1] += np.count_nonzero(wide == 0)
    if not np.isnan(sums[3]):
        sums[3] = _common(wide, float(sums[3]))
    group, skip = divmod(at[1], SIDE)
    groups = -(-(skip + wide.shape[1]) // SIDE)
    padded = np.zeros((wide.shape[0], groups * SIDE), wide.dtype)
    padded[:, skip : skip + wide.shape[1]] = wide
    shaped = padded.reshape(-1, groups, SIDE)
    block, bucket = divmod(at[0], side)
    into = slice(bucket, bucket + wide.shape[0])
    along: Any = factors_of(signs, group, groups).astype(wide.dtype)
    core[into] += factors_of(signs, block, 1)[0] * np.einsum("rgq,g->rq", shaped, along)
    squares = (shaped * shaped).sum(axis=1, dtype=np.float64)
    rows[into] += squares.sum(axis=1)
    cols += squares.sum(axis=0)


def finish(state: array[float], side: int, height: int, width: int) -> tuple[bytes, float]:
    """Return a sketch's arrays as float32 bytes, cut to size, and the sum of column energies."""
    sums = np.frombuffer(state)
    core = sums[: side * SIDE].reshape(side, SIDE)[:height, :width]
    rows, cols = sums[side * SIDE :][:height], sums[side * SIDE + side :][:SIDE]
    raw = b"".join(part.astype("<f4").tobytes() for part in (core, rows, cols[:width]))
    return raw, float(cols.sum())


def _common(numbers: NDArray[Any], known: float) -> float:
    """Return the value all non-zero numbers share with the one known; see `add`."""
    found = numbers[numbers != 0]
    if not found.size:
        return known
    known = known or float(found[0])
    return known if np.all(found == known) else float("nan")


def factors_of(signs: bytes, start: int, count: int) -> NDArray[np.float64]:
    """Return signs `start` to `start + count` of a stream of bits: 0 is +1, 1 is -1."""
    cut = np.frombuffer(signs, np.uint8)[start // 8 : (start + count + 7) // 8]
    bits = np.unpackbits(cut, bitorder="little")[start % 8 :][:count]
    result: NDArray[np.float64] = np.where(bits, -1.0, 1.0)
    return result
