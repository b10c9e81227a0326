"""Reads an HDF5 dataset that is kept in chunks: inflates them, and puts them in row-major order.

A slab of rows is held at a time, as high as one chunk, for which each chunk is read once.

Source: the HDF5 File Format Specification 3.0, sections III.A.1 (the index of chunks) and IV.A.2.l
(filters); Fletcher's checksum as in the HDF5 library.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lineage.artifacts.hdf5_groups import tree_leaves
from lineage.artifacts.hdf5_types import NotRead
from lineage.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lineage.artifacts.hdf5_file import Store

_FREE_SLAB_BYTES, _SLAB_RATIO, MAX_SLAB_BYTES = 64 << 20, 8, 1 << 30
"""What is held of one dataset at a time: so many bytes in any file, beyond them so many times the
file, and never more than the last."""

_DEFLATE, _SHUFFLE, _FLETCHER = 1, 2, 3
_NAMES = {4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf", 32001: "blosc", 32015: "zstd"}
_MAX_RATIO = 1032
"""Deflate spends at least two bits on 258 bytes (RFC 1951)."""


def most_held(store: Store) -> int:
    """Return how many bytes of one dataset may be held at a time."""
    return min(MAX_SLAB_BYTES, max(_FREE_SLAB_BYTES, _SLAB_RATIO * store.size))


class Chunk(NamedTuple):
    """Where a chunk lies, the bytes it takes, and which filters were left out."""

    start: int
    size: int
    mask: int


@dataclass(frozen=True, slots=True)
class Chunked:
    """The values of one dataset, in chunks.

    Attributes:
        store: Where they lie.
        name: Of the dataset, for errors.
        shape: Of the dataset.
        extents: Of a chunk.
        width: Bytes of one value.
        swapped: Bytes of the numbers to turn around; 1 for none.
        filters: In the order they were put on.
        index: The chunks by their place among chunks.
    """

    store: Store
    name: str
    shape: tuple[int, ...]
    extents: tuple[int, ...]
    width: int
    swapped: int
    filters: tuple[int, ...]
    index: dict[tuple[int, ...], Chunk]

    def slabs(self) -> Iterator[memoryview]:
        """Yield the values' bytes, one height of chunks after the other."""
        counts = [-(-n // step) for n, step in zip(self.shape, self.extents, strict=True)]
        high = self.extents[0]
        for row in range(counts[0]):
            rows = min(high, self.shape[0] - row * high)
            slab = np.empty((rows, *self.shape[1:], self.width), np.uint8)
            for rest in product(*(range(n) for n in counts[1:])):
                self._put(slab, row, rest)
            if self.swapped > 1:
                numbers = slab.reshape(-1, self.swapped)
                slab = np.ascontiguousarray(numbers[:, ::-1])
            yield slab.reshape(-1).data

    def _put(self, slab: NDArray[np.uint8], row: int, rest: tuple[int, ...]) -> None:
        """Put one chunk where it belongs in a slab; what reaches beyond the dataset is dropped."""
        corner = (0, *(n * step for n, step in zip(rest, self.extents[1:], strict=True)))
        target = tuple(slice(at, at + step) for at, step in zip(corner, self.extents, strict=True))
        place = slab[target]
        values = self._values(self.index[row, *rest])
        place[...] = values[tuple(slice(n) for n in place.shape)]

    def _values(self, chunk: Chunk) -> NDArray[np.uint8]:
        """Return a chunk's values, its filters undone in reverse."""
        size = math.prod(self.extents) * self.width
        data = self.store.file.read(self.store.base + chunk.start, chunk.size)
        for place in reversed(range(len(self.filters))):
            if chunk.mask >> place & 1:
                continue
            if self.filters[place] == _DEFLATE:
                data = self._inflated(data, size + 4)
            elif self.filters[place] == _SHUFFLE:
                data = _unshuffled(data, self.width)
            else:
                data = self._summed(data)
        if len(data) != size:
            raise self._fail(f"a chunk of {len(data)} bytes instead of {size}")
        return np.frombuffer(data, np.uint8).reshape(*self.extents, self.width)

    def _inflated(self, data: bytes, most: int) -> bytes:
        inflate = zlib.decompressobj()
        try:
            out = inflate.decompress(data, most + 1)
        except zlib.error:
            raise self._fail("a chunk that is damaged: it does not inflate") from None
        if not inflate.eof:
            raise self._fail("a chunk that is cut off, or inflates to more than it holds")
        return out

    def _summed(self, data: bytes) -> bytes:
        """Return the data before a checksum that must be theirs."""
        data, told = data[:-4], data[-4:]
        if int.from_bytes(told, "little") != fletcher32(data):
            raise self._fail("a chunk that is damaged: its checksum differs")
        return data

    def _fail(self, reason: str) -> FormatError:
        return FormatError(f"holds {reason}", file=self.store.file.path, tensor=self.name)


def _unshuffled(data: bytes, width: int) -> bytes:
    """Put the bytes of each value together again; those beyond the last whole value stay."""
    whole = len(data) // width * width
    planes = np.frombuffer(data, np.uint8, whole).reshape(width, -1)
    return planes.T.tobytes() + data[whole:]


def fletcher32(data: bytes) -> int:
    """Return Fletcher's checksum of 16-bit words, high byte first, as HDF5 folds it."""
    low = high = 0
    words = np.frombuffer(data, ">u2", len(data) // 2).astype(np.uint64)
    if len(data) % 2:
        words = np.append(words, np.uint64(data[-1] << 8))
    for at in range(0, len(words), 360):
        block = words[at : at + 360]
        count = len(block)
        weights = np.arange(count, 0, -1, dtype=np.uint64)
        high = high + count * low + int((block * weights).sum())
        low = low + int(block.sum())
        low, high = _folded(low), _folded(high)
    return _folded(high) << 16 | _folded(low)


def _folded(value: int) -> int:
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value


def filters_of(data: bytes) -> tuple[int, ...]:
    """Return the filters that a message lists.

    Raises:
        NotRead: If one is not known, comes twice, or the message is cut off.
    """
    if len(data) < 2 or data[0] not in {1, 2}:
        raise NotRead("a list of filters of an unknown version")
    version, count = data[:2]
    at = 8 if version == 1 else 2
    found: list[int] = []
    for _ in range(count):
        if len(data) < at + 8:
            raise NotRead("a list of filters that is cut off")
        number = int.from_bytes(data[at : at + 2], "little")
        if number not in {_DEFLATE, _SHUFFLE, _FLETCHER}:
            name = _NAMES.get(number, f"filter {number}")
            raise NotRead(f"is compressed by {name}; only gzip, shuffle and fletcher32 are read")
        named = version == 1
        name_size, _, values = (
            struct.unpack_from("<HHH", data, at + 2)
            if named
            else (0, *struct.unpack_from("<HH", data, at + 2))
        )
        at += (8 if named else 6) + -(-name_size // 8) * 8 + 4 * values
        at += 4 if named and values % 2 else 0
        found.append(number)
    if len(set(found)) != len(found):
        raise NotRead("has a filter twice")
    return tuple(found)


def index_of(
    store: Store, tree: int, shape: tuple[int, ...], extents: tuple[int, ...], *, largest: int
) -> dict[tuple[int, ...], Chunk]:
    """Return the chunks of a dataset, which must be all there.

    Args:
        store: The file.
        tree: Where their index is.
        shape: Of the dataset.
        extents: Of a chunk.
        largest: Bytes of a chunk before filters.

    Raises:
        NotRead: If one is missing, or is no part of the dataset.
    """
    counts = [-(-n // step) for n, step in zip(shape, extents, strict=True)]
    found: dict[tuple[int, ...], Chunk] = {}
    layout = struct.Struct(f"<II{len(shape) + 1}Q")
    for leaf in tree_leaves(store, tree, kind=1, key_size=layout.size):
        size, mask, *corner = layout.unpack(leaf.key)
        place = tuple(at // step for at, step in zip(corner, extents, strict=False))
        if any(at % step for at, step in zip(corner, extents, strict=False)) or corner[-1]:
            raise NotRead(f"has a chunk at {corner[:-1]}, between its chunks")
        if any(at >= n for at, n in zip(place, counts, strict=True)) or place in found:
            raise NotRead(f"has a chunk at {corner[:-1]}, where none is due")
        if leaf.child + size > store.size:
            raise NotRead("has a chunk beyond the end of the file; is it truncated?")
        if largest > size * _MAX_RATIO:
            raise NotRead(f"has a chunk of {size} bytes, which cannot hold {largest}")
        found[place] = Chunk(leaf.child, size, mask)
    missing = math.prod(counts) - len(found)
    if missing:
        raise NotRead(f"has {missing} chunks that were never written")
    return found
