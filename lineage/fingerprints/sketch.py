"""The linear sketch: a few numbers a tensor, from which differences between models can be read.

A matrix W becomes the core ΨWΩ, where Ψ and Ω add up rows and columns with fixed signs: row i goes
to bucket i mod 36 with sign s(i div 36), and columns likewise. That is a bilinear CountSketch
(Charikar, Chen and Farach-Colton 2002; Pagh 2013). It is linear, so the sketch of a difference is
the difference of the sketches, and its squared norm estimates the squared norm of the difference
without bias; the rank of a difference of low rank is the rank of its core.

The signs depend on nothing but the index. So tensors under other names compare, the sketch of a
transpose is the transpose of the sketch, and one seed serves every model.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from blake3 import blake3

from lineage.fingerprints.kernel import KINDS, compiled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FAST", "LARGEST", "NONE", "SCHEME", "SIDE", "VECTOR", "Layout", "Sketch", "Sketcher"]

SIDE = 36
"""Row and column buckets of a matrix: above 32, so that a difference of rank 32 can be told from a
full one, and few enough that a model's sketches are small."""

LARGEST = 2.0**40
"""Magnitudes above this (masks are filled with them) are no weights and would swamp the rest."""

VECTOR = (4, 4 * SIDE)
"""A tensor of one dimension is read as rows of 144 values, in 4 row buckets."""

SCHEME = f"bilinear-v1/side={SIDE}/vector={VECTOR[0]}x{VECTOR[1]}/seed=blake3"
"""Every value is sketched."""

FAST = f"{SCHEME}/rows=1in8"
"""Of every eight blocks of rows the first is sketched, and the rest is only hashed."""

NONE = "none"
"""No sketch: exact identity alone."""


_WITHOUT_SKETCH = {
    "F4", "F6_E2M3", "F6_E3M2", "I4", "U4", "C64", "C128", "Q8_1", "Q8_K",
}  # fmt: skip
"""Dtypes of packed, complex or internal numbers: hashed, not sketched."""


def has_numbers(dtype: str) -> bool:
    """Whether values of this dtype are sketched."""
    return dtype not in _WITHOUT_SKETCH


@lru_cache(maxsize=8)
def _stream(log2_size: int) -> bytes:
    return blake3(b"lineage/sketch-signs/v1").digest(length=1 << log2_size)


def sign_bits(count: int) -> bytes:
    """Return at least the first `count` bits of the one sign stream, lowest first; 1 is -1.

    The stream is BLAKE3's extended output for `lineage/sketch-signs/v1`.
    """
    return _stream(max(10, (count // 8 + 8).bit_length()))


class Layout(NamedTuple):
    """How a tensor of some shape is read as a matrix and folded.

    Attributes:
        rows: Extent of the first dimension; of a vector, how many rows of 144 it fills.
        cols: Product of the others; of a vector, 144, or its length if that is less.
        side: Row buckets.
    """

    rows: int
    cols: int
    side: int

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Layout:
        """Return the layout for a shape; a shape with fewer than two extents is a vector."""
        if len(shape) < 2:
            side, width = VECTOR
            return cls(-(-prod(shape) // width), min(prod(shape), width), side)
        return cls(shape[0], prod(shape[1:]), SIDE)

    @property
    def is_vector(self) -> bool:
        """Whether the tensor has fewer than two extents."""
        return self.side != SIDE

    @property
    def core_shape(self) -> tuple[int, int]:
        """Rows and columns of the sketch; never more than the tensor has."""
        return min(self.side, self.rows), min(SIDE, self.cols)


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """A tensor's sketch and its exact energies.

    Attributes:
        shape: Rows and columns of the core, see `Layout.core_shape`.
        raw: Memory that holds `core`, and memory that holds `rows` and `cols`, one after the other:
            float32, little-endian. Sketches of neighbours share theirs.
        start: Where in each they begin.
        energy: The exact squared norm (summed in float64).
        fourth: Sum of fourth powers.
        zeros: How many values are zero (either sign).
        is_flat: Whether all values that are not zero are the same: a mask, a table of ones.
    """

    shape: tuple[int, int]
    raw: tuple[bytes, bytes]
    start: tuple[int, int]
    energy: float
    fourth: float
    zeros: int
    is_flat: bool

    @property
    def core(self) -> NDArray[np.float32]:
        """float32, of the sketch's shape: the linear part."""
        height, width = self.shape
        return self._floats(0, 0, height * width).reshape(self.shape)

    @property
    def rows(self) -> NDArray[np.float32]:
        """float32, squared norms of the row buckets; they sum to the squared norm."""
        return self._floats(1, 0, self.shape[0])

    @property
    def cols(self) -> NDArray[np.float32]:
        """float32, the same for the column buckets."""
        height, width = self.shape
        return self._floats(1, height, width)

    def _floats(self, which: int, skipped: int, count: int) -> NDArray[np.float32]:
        import numpy as np

        return np.frombuffer(self.raw[which], "<f4", count, self.start[which] + 4 * skipped)


_spare: list[array[float]] = []
_MOST_SPARE = 64
"""Sums of finished sketches, used again: small tensors would else allocate more than compute."""


@lru_cache(maxsize=4)
def _zeros(side: int) -> array[float]:
    return array("d", bytes(8 * (side * SIDE + side + SIDE + 4)))


class Sketcher:
    """Accumulates one tensor's sketch from its pieces, in any order."""

    def __init__(
        self,
        layout: Layout,
        every: int = 1,
        *,
        within: Layout | None = None,
        first: tuple[int, int] = (0, 0),
    ) -> None:
        """Begin with nothing added.

        Args:
            layout: Of what is sketched.
            every: Of so many blocks of rows one is taken.
            within: Of the matrix whose pieces are added, where only some of its rows or columns
                are sketched: as if they were all there is.
            first: Their first row and column in it.
        """
        self._layout = layout
        side = layout.side
        zeros = _zeros(side)
        if side == SIDE and _spare:
            self._state = _spare.pop()
            self._state[:] = zeros
        else:
            self._state = zeros[:]
        self._signs = sign_bits(max(layout.rows // side, layout.cols // SIDE) + 8)
        stride = max((within or layout).cols, 1)
        rows = first[0], first[0] + layout.rows
        cols = first[1], first[1] + layout.cols
        self._view = (stride, *rows, *cols, side, every)

    def add(
        self,
        piece: memoryview | NDArray[np.float32],
        dtype: str,
        start: int,
        factors: array[float] | None = None,
    ) -> None:
        """Add the piece that begins at value `start`.

        Args:
            piece: Raw values of `dtype`, or float32 numbers made from them.
            dtype: What they are.
            start: Place of the first in the tensor, row-major.
            factors: float32: what stored numbers are multiplied with, one, or one per row.
        """
        if compiled is not None and dtype in KINDS:
            compiled.add(self._state, piece, KINDS[dtype], start, self._signs, *self._view, factors)
            return
        import numpy as np

        from lineage.fingerprints import folding, values

        numbers = values.as_float32(piece, dtype) if isinstance(piece, memoryview) else piece
        if compiled is not None:
            compiled.add(self._state, numbers, 0, start, self._signs, *self._view, factors)
            return
        state = np.frombuffer(self._state)
        scales = None if factors is None else np.frombuffer(factors, np.float32)
        folding.add(state, numbers, start, self._signs, self._view, scales)

    @property
    def left_out(self) -> int:
        """How many values were taken as 0: NaNs, infinities, and magnitudes above `LARGEST`."""
        return int(self._state[-2])

    def finish(self) -> Sketch:
        """Return what was added as a sketch; nothing can be added after."""
        side = self._layout.side
        height, width = self._layout.core_shape
        fourth, zeros, _, common = self._state[-4:]
        if compiled is not None:
            raw, energy = compiled.finish(self._state, side, height, width)
        else:
            from lineage.fingerprints import folding

            raw, energy = folding.finish(self._state, side, height, width)
        is_flat = common == common  # NaN once two values differed
        if side == SIDE and len(_spare) < _MOST_SPARE:
            _spare.append(self._state)
        start = 0, 4 * height * width
        return Sketch((height, width), (raw, raw), start, energy, fourth, int(zeros), is_flat)
