"""Sources for values that do not lie as they are wanted: part of a run, in strides, big-endian."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lineage.artifacts.base import Source

_HELD_BYTES = 32 << 20
"""Values gathered at a time: the more, the longer the runs read of a transposed matrix."""

_GAP, _RUN = 4, 1 << 16
"""A span is read at once if it is at most so many times its values, or so short."""


@dataclass(frozen=True, slots=True)
class Window:
    """The bytes of another source from `start` on."""

    source: Source
    start: int

    def piece(self, start: int, size: int, scratch: memoryview) -> memoryview:
        """Read from the other source; see `Source`."""
        return self.source.piece(self.start + start, size, scratch)


@dataclass(frozen=True, slots=True)
class Swapped:
    """Big-endian numbers of `width` bytes, turned little-endian."""

    source: Source
    width: int

    def piece(self, start: int, size: int, scratch: memoryview) -> memoryview:
        """Read whole numbers and turn them; see `Source`."""
        skipped = start % self.width
        whole = -(-(skipped + size) // self.width) * self.width
        held = memoryview(bytearray(whole))
        big = np.frombuffer(self.source.piece(start - skipped, whole, held), f">u{self.width}")
        scratch[:size] = big.astype(f"<u{self.width}").view(np.uint8).data[skipped : skipped + size]
        return scratch[:size]


@dataclass(slots=True)
class Strided:
    """Values that lie in strides, in row-major order: a transposed, sliced or expanded tensor.

    Attributes:
        source: What they lie in.
        width: Bytes of one value.
        shape: Row-major.
        strides: Values from one to the next along each extent, none negative.
        start: Bytes before the first.
    """

    source: Source
    width: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)
    _held: bytes = field(default=b"", repr=False, compare=False)
    _first: int = field(default=0, repr=False, compare=False)

    def piece(self, start: int, size: int, scratch: memoryview) -> memoryview:
        """Gather the values some megabytes at a time; see `Source`."""
        with self._lock:
            done = 0
            while done < size:
                at = start + done - self._first
                if not 0 <= at < len(self._held):
                    self._hold(start + done)
                    continue
                part = self._held[at : at + size - done]
                scratch[done : done + len(part)] = part
                done += len(part)
            if start + size == math.prod(self.shape) * self.width:
                self._held = b""
        return scratch[:size]

    def _hold(self, start: int) -> None:
        """Gather the values from the one at byte `start` on."""
        self._held = b""
        first = start // self.width
        last = min(first + _HELD_BYTES // self.width, math.prod(self.shape))
        parts = [self._box(*box) for box in _boxes(self.shape, self.strides, first, last)]
        self._first = first * self.width
        self._held = b"".join(parts)

    def _box(self, begin: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
        out = np.empty((*shape, self.width), np.uint8)
        self._gather(begin, strides, out)
        return out.tobytes()

    def _gather(self, begin: int, strides: tuple[int, ...], out: Any) -> None:
        """Fill `out` with the box whose first value is `begin`, halved until its span is short."""
        shape = out.shape[:-1]
        reach = [(n - 1) * step for n, step in zip(shape, strides, strict=True)]
        span = (sum(reach) + 1) * self.width
        distinct = math.prod(n for n, step in zip(shape, strides, strict=True) if step)
        if span <= max(_RUN, min(_GAP * distinct * self.width, _HELD_BYTES)):
            scratch = memoryview(bytearray(span))
            data = self.source.piece(self.start + begin * self.width, span, scratch)
            steps = (*(step * self.width for step in strides), 1)
            out[...] = as_strided(np.frombuffer(data, np.uint8), out.shape, steps)
            return
        axis = int(np.argmax(reach))
        half = shape[axis] // 2
        low, high = np.split(out, [half], axis)
        self._gather(begin, strides, low)
        self._gather(begin + half * strides[axis], strides, high)


def passes_of(shape: tuple[int, ...], width: int) -> int:
    """Return how often `Strided` may go over its source: some boxes for each of what it holds."""
    return -(-math.prod(shape) * width // _HELD_BYTES) * (2 * len(shape) - 1)


def _boxes(
    shape: tuple[int, ...], strides: tuple[int, ...], first: int, last: int
) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """Yield the boxes that hold values `first` to `last` of a row-major walk, in order.

    Each is the place of its first value, its shape and its strides.
    """
    if not shape:
        yield 0, (), ()
        return
    inner = shape[1:], strides[1:]
    row = math.prod(shape[1:])
    top, head = divmod(first, row)
    bottom, tail = divmod(last, row)
    if top == bottom:
        yield from _along(top * strides[0], _boxes(*inner, head, tail))
        return
    if head:
        yield from _along(top * strides[0], _boxes(*inner, head, row))
        top += 1
    if top < bottom:
        yield top * strides[0], (bottom - top, *shape[1:]), strides
    if tail:
        yield from _along(bottom * strides[0], _boxes(*inner, 0, tail))


def _along(
    place: int, boxes: Iterator[tuple[int, tuple[int, ...], tuple[int, ...]]]
) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    return ((place + begin, shape, strides) for begin, shape, strides in boxes)
