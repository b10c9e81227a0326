"""What a reader gives: named tensors in name order, readable piece by piece."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from lineage.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64,
    "I4": 4, "U4": 4, "C128": 128,
}  # fmt: skip
"""Bits in one value of each plain dtype, spelled as safetensors spells them where it has them."""

BLOCKS = {
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34),
    "Q8_1": (32, 40), "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144),
    "Q5_K": (256, 176), "Q6_K": (256, 210), "Q8_K": (256, 292), "IQ1_S": (256, 50),
    "IQ1_M": (256, 56), "IQ2_XXS": (256, 66), "IQ2_XS": (256, 74), "IQ2_S": (256, 82),
    "IQ3_XXS": (256, 98), "IQ3_S": (256, 110), "IQ4_NL": (32, 18), "IQ4_XS": (256, 136),
    "TQ1_0": (256, 54), "TQ2_0": (256, 66), "MXFP4": (32, 17),
    "NVFP4": (64, 36), "Q1_0": (128, 18),
}  # fmt: skip
"""Values and bytes in one block of each block dtype of ggml, under ggml's names. Blocks lie along
the last extent, which is a whole number of them."""


MAX_EXTENTS, MAX_VALUES = 64, 2**60
"""More dimensions than arrays have, and more values than disks."""


class Source(Protocol):
    """Where the bytes of a tensor lie."""

    def piece(self, start: int, size: int, scratch: memoryview) -> memoryview:
        """Return bytes `start` to `start + size` of the tensor.

        The result is `scratch[:size]` filled, or a view of memory that already holds the bytes.
        It is good until the next call with the same `scratch`. Several threads may call at once,
        each with its own `scratch`. Bytes that are no longer there raise `FormatError`.
        """
        ...


# Named tuples where a plain fingerprint is waited for: dataclasses take much longer to make.
class Affine(NamedTuple):
    """How stored whole numbers stand for real ones: (stored - zero) * scale.

    Attributes:
        scales: One, or one per place along `axis`, or one a block, row by row.
        zeros: As many as scales.
        axis: The dimension the scales run along; None for one scale, and for blocks.
        block: Rows and columns of the square blocks of a matrix that have a scale each, those at
            its ends being less; None where there are none.
    """

    scales: tuple[float, ...]
    zeros: tuple[float, ...]
    axis: int | None = None
    block: int | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One named tensor of an artifact.

    Attributes:
        name: As stored.
        dtype: A key of `BITS` or `BLOCKS`.
        shape: Row-major; `()` is a scalar; a zero anywhere means no values.
        size_bytes: Little-endian bytes of all values.
        source: Gives the bytes.
        file: The file it lies in, for errors; None in memory.
        affine: What the stored numbers stand for, where the file says so. Identity is of what is
            stored; only the sketch is of what it stands for.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    source: Source = field(repr=False, compare=False)
    file: str | None = field(default=None, compare=False)
    affine: Affine | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        bits = BITS.get(self.dtype)
        if bits is not None and -(-math.prod(self.shape) * bits // 8) == self.size_bytes:
            return
        values, _ = BLOCKS.get(self.dtype, (1, 0))
        if values > 1 and (not self.shape or self.shape[-1] % values):
            reason = f"{self.dtype} comes in blocks of {values}, the shape is {list(self.shape)}"
            raise FormatError(reason, file=self.file, tensor=self.name)
        expected = size_bytes(self.dtype, self.shape)
        if expected != self.size_bytes:
            reason = (
                f"{self.dtype} of shape {list(self.shape)} takes {expected} bytes, "
                f"but the file gives it {self.size_bytes}"
            )
            raise FormatError(reason, file=self.file, tensor=self.name)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model's tensors, open for reading; a context manager that closes its files.

    Attributes:
        path: What the caller named.
        items: In the order of their names' UTF-8 bytes, each name once.
        watched: Open files, asked at the end whether they changed meanwhile.
    """

    path: str
    items: tuple[Item, ...]
    watched: tuple[Watched, ...] = ()
    _files: ExitStack = field(default_factory=ExitStack, repr=False, compare=False)

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(item.size_bytes for item in self.items)

    def check_unchanged(self) -> None:
        """Raise `FormatError` if a file was written to since it was opened."""
        for file in self.watched:
            file.check_unchanged()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()


class Watched(Protocol):
    """An open file that knows whether it changed since it was opened."""

    @property
    def stamp(self) -> tuple[int, int, int, int, int]:
        """Device, inode, size, modification and change time in ns, as the file was opened."""
        ...

    def check_unchanged(self) -> None:
        """Raise `FormatError` if the file is no longer what was opened."""
        ...


def in_name_order(items: Iterable[Item], *, path: str) -> tuple[Item, ...]:
    """Return `items` sorted by name; a name that comes twice is an error."""
    # UTF-8 sorts as code points do.
    ordered = tuple(sorted(items, key=attrgetter("name")))
    for one, other in pairwise(ordered):
        if one.name == other.name:
            both = f"also in {one.file}" if one.file != other.file else "twice in one file"
            raise FormatError(f"stored twice: {both}", file=other.file or path, tensor=one.name)
    if not ordered:
        raise FormatError("holds no tensors", file=path)
    return ordered


def size_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes that `shape` values of `dtype` take, sub-byte dtypes packed."""
    if dtype in BLOCKS:
        values, size = BLOCKS[dtype]
        return math.prod(shape) // values * size
    return -(-math.prod(shape) * BITS[dtype] // 8)
