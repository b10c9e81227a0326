"""The linear sketch: a few numbers a tensor, from which differences between models can be read.

A matrix W becomes the core ΨWΩ, where Ψ and Ω add up rows and columns with fixed signs: row i goes
to bucket i mod 37 with sign s(i div 37), and columns likewise. That is a bilinear CountSketch
(Charikar, Chen and Farach-Colton 2002; Pagh 2013). It is linear, so the sketch of a difference is
the difference of the sketches, and its squared norm estimates the squared norm of the difference
without bias; the rank of a difference of low rank is the rank of its core.

The signs depend on nothing but the index. So tensors under other names compare, the sketch of a
transpose is the transpose of the sketch, and one seed serves every model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float32] | NDArray[np.float64]

SIDE = 37
"""Row and column buckets of a matrix: prime, so that heads and groups of 2^n do not line up, and
above 32, so that a difference of rank 32 can be told from a full one."""

VECTOR = 257
"""Buckets of a tensor with one dimension."""

SCHEME = f"bilinear-v1/rows={SIDE}/cols={SIDE}/vector={VECTOR}/seed=blake3"

_PIECE = 1 << 18
"""Values in a piece of about this many: 1 MiB of float32, which stays in a core's cache."""

LARGEST = 2.0**60
"""Magnitudes above this (masks are filled with them) are no weights and would swamp the rest."""

_SAFE = (2.0**-60, 2.0**100)
"""Sums of fourth powers between these mean that float32 squares neither overflow nor vanish."""

_FLUSH = 32
"""Blocks summed in float32 before they are added up in float64: the error stays below rounding."""

_MAX_BLOCK = 1 << 20
"""Widest block of 37 rows that is kept whole; wider matrices are read a part of a row at a time."""


@lru_cache(maxsize=8)
def _sign_table(log2_size: int) -> NDArray[np.float32]:
    stream = blake3(b"lineage/sketch-signs/v1").digest(length=max(1, (1 << log2_size) // 8))
    bits = np.unpackbits(np.frombuffer(stream, np.uint8), bitorder="little")
    table: NDArray[np.float32] = 1.0 - 2.0 * bits.astype(np.float32)
    table.flags.writeable = False
    return table


def signs(start: int, count: int) -> NDArray[np.float32]:
    """Return signs `start` to `start + count` of the one fixed stream: bit 0 is +1, bit 1 is -1.

    The stream is BLAKE3's extended output for `lineage/sketch-signs/v1`, lowest bit first.
    """
    return _sign_table(max(10, (start + count - 1).bit_length()))[start : start + count]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a tensor of some shape is cut and folded.

    Attributes:
        rows: Extent of the first dimension; 1 for vectors and scalars.
        cols: Product of the others.
    """

    rows: int
    cols: int
    is_vector: bool

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Layout:
        """Return the layout for a shape; a shape with fewer than two extents is a vector."""
        if len(shape) < 2:
            return cls(1, prod(shape), is_vector=True)
        return cls(shape[0], prod(shape[1:]), is_vector=False)

    @property
    def core_shape(self) -> tuple[int, int]:
        """Rows and columns of the sketch; never more than the tensor has."""
        if self.is_vector:
            return 1, min(VECTOR, self.cols)
        return min(SIDE, self.rows), min(SIDE, self.cols)

    @property
    def is_wide(self) -> bool:
        """Whether 37 rows are too much to hold, so that rows are read in parts."""
        return self.is_vector or self.cols * SIDE > _MAX_BLOCK

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yield (first value, count) of each piece to read, in order."""
        if not self.is_wide:
            block = self.cols * SIDE
            step = block * max(1, _PIECE // block) if block else 1
            total = self.rows * self.cols
            for start in range(0, total, step):
                yield start, min(step, total - start)
            return
        width = VECTOR if self.is_vector else SIDE
        step = _PIECE // width * width
        for row in range(self.rows):
            for start in range(0, self.cols, step):
                yield row * self.cols + start, min(step, self.cols - start)


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """A tensor's sketch and its exact energies.

    Attributes:
        core: float32, shape `Layout.core_shape`.
        rows: float64, exact squared norms of the row buckets; they sum to the squared norm.
        cols: float64, the same for the column buckets.
        total: Sum of the values.
        fourth: Sum of their fourth powers.
        zeros: How many values are zero (either sign).
    """

    core: NDArray[np.float32]
    rows: NDArray[np.float64]
    cols: NDArray[np.float64]
    total: float
    fourth: float
    zeros: int

    @property
    def energy(self) -> float:
        """The exact squared norm (summed in float64)."""
        return float(self.cols.sum())


class Sketcher:
    """Accumulates one tensor's sketch from its pieces: few at a time in float32, all in float64."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        width = VECTOR if layout.is_vector else SIDE
        if layout.is_wide:
            self._core = np.zeros((1 if layout.is_vector else SIDE, width))
            self._rows = np.zeros(self._core.shape[0])
            self._cols = np.zeros(width)
        else:
            self._sum: Floats = np.zeros(SIDE * layout.cols)
            self._squares: Floats = np.zeros(SIDE * layout.cols)
            self._part_sum: Floats = np.zeros(SIDE * layout.cols, np.float32)
            self._part_squares: Floats = np.zeros(SIDE * layout.cols, np.float32)
            self._pending = 0
        self._total = 0.0
        self._fourth = 0.0
        self._zeros = 0

    def add(self, values: NDArray[np.float32], start: int) -> int:
        """Add the piece that begins at value `start`.

        Returns:
            How many values were taken as 0: NaNs, infinities, and magnitudes above `LARGEST`.
        """
        left_out = 0
        wide: Floats = values
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            squares: Floats = values * values
            fourth = float(np.einsum("i,i->", squares, squares))
        if not _SAFE[0] < fourth < _SAFE[1]:  # float32 is not wide enough for these squares
            wide = values.astype(np.float64)
            unfit = ~(np.abs(wide) <= LARGEST)
            left_out = int(np.count_nonzero(unfit))
            wide[unfit] = 0.0
            squares = wide * wide
            fourth = float(np.einsum("i,i->", squares, squares))
        self._total += float(np.einsum("i->", wide))
        self._fourth += fourth
        self._zeros += int(np.count_nonzero(values == 0))  # three times as fast as on floats
        if self._layout.is_wide:
            self._add_run(wide, squares, start)
        else:
            self._add_block(wide, squares, start)
        return left_out

    def _add_block(self, values: Floats, squares: Floats, start: int) -> None:
        block = self._sum.size
        into, squared = self._sum, self._squares
        if values.dtype == np.float32:
            into, squared = self._part_sum, self._part_squares
        for begin in range(0, values.size, block):
            cut = values[begin : begin + block]
            if signs((start + begin) // block, 1)[0] > 0:
                into[: cut.size] += cut
            else:
                into[: cut.size] -= cut
            squared[: cut.size] += squares[begin : begin + block]
            self._pending += 1
            if self._pending >= _FLUSH:
                self._flush()

    def _flush(self) -> None:
        """Move the float32 sums of a few blocks into the float64 ones."""
        self._sum += self._part_sum
        self._squares += self._part_squares
        self._part_sum[:] = 0
        self._part_squares[:] = 0
        self._pending = 0

    def _add_run(self, values: Floats, squares: Floats, start: int) -> None:
        row, col = divmod(start, self._layout.cols)
        core_rows, width = self._core.shape
        bucket = row % core_rows
        sign = 1.0 if self._layout.is_vector else float(signs(row // SIDE, 1)[0])
        folded, energy = _fold(values, squares, col // width, width)
        self._core[bucket] += sign * folded
        self._cols += energy
        self._rows[bucket] += float(energy.sum())

    def finish(self) -> Sketch:
        """Fold what was added into the sketch."""
        core_rows, core_cols = self._layout.core_shape
        if self._layout.is_wide:
            core, rows, cols = self._core, self._rows, self._cols
        else:
            self._flush()
            count = self._layout.cols
            groups = -(-count // SIDE)
            padded = np.zeros((SIDE, groups * SIDE))
            padded[:, :count] = self._sum.reshape(SIDE, count)
            core = np.einsum("rpc,p->rc", padded.reshape(SIDE, groups, SIDE), signs(0, groups))
            padded[:, :count] = self._squares.reshape(SIDE, count)
            rows = padded.sum(axis=1)
            cols = padded.reshape(SIDE * groups, SIDE).sum(axis=0)
        return Sketch(
            core[:core_rows, :core_cols].astype(np.float32),
            rows[:core_rows].copy(),
            cols[:core_cols].copy(),
            self._total,
            self._fourth,
            self._zeros,
        )


def _fold(
    values: Floats, squares: Floats, first_group: int, width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fold a run that starts on a group boundary into `width` buckets: signed sums, energies."""
    whole = values.size // width
    cut = whole * width
    folded, energy = np.zeros(width), np.zeros(width)
    if whole:
        shaped = values[:cut].reshape(whole, width)
        folded += np.einsum("p,pc->c", signs(first_group, whole).astype(np.float64), shaped)
        energy += squares[:cut].reshape(whole, width).sum(axis=0, dtype=np.float64)
    rest = values.size - cut
    if rest:
        folded[:rest] += signs(first_group + whole, 1)[0] * values[cut:]
        energy[:rest] += squares[cut:]
    return folded, energy
