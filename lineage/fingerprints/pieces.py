"""How an artifact's bytes are taken: tasks for threads, and pieces that stay in a core's cache."""

from __future__ import annotations

import mmap
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, Self

from lineage.artifacts.base import BITS, BLOCKS
from lineage.artifacts.opened import Region
from lineage.cores import cores

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lineage.artifacts import Item

PIECE = 1 << 20
"""Bytes read at once: they stay in a core's cache while they are hashed and sketched."""

WINDOW = 48 << 20
"""Bytes of a file mapped at once by a thread: reading through a mapping saves a copy, and windows
keep what is resident small. Where there are more than two cores they share two windows' worth."""

SMALL = 1 << 18
"""Tensors up to this stay near a core as a whole while more is made of them (compiled: `NEAR`)."""

_SHARES = 4
"""Each task is at most this part of a core's share of what is left, so that all end together."""


def tasks(items: Iterable[Item]) -> list[list[Item]]:
    """Share out tensors: one each, or neighbours that lie in a window of one file; largest first.

    Windows are large because all threads wait while one is unmapped.
    """
    found: list[list[Item]] = []
    mapped: list[Item] = []
    for item in items:
        if is_mapped(item):
            mapped.append(item)
        else:
            found.append([item])
    mapped.sort(key=attrgetter("source.file.path", "source.start"))
    found += _windows(mapped)
    return sorted(found, key=lambda some: -sum(item.size_bytes for item in some))


def _windows(placed: Iterable[Item]) -> Iterator[list[Item]]:
    """Cut tensors, in the order of their places, into runs without gaps, the later the shorter."""
    left = sum(item.size_bytes for item in placed)
    run: list[Item] = []
    where, base, end, most = None, 0, 0, 0
    for item in placed:
        start = start_of(item)
        after = start + item.size_bytes
        if not run or item.file != where or start != end or after - base > most:
            if run:
                yield run
            left -= end - base
            run, where, base = [], item.file, start
            most = min(_reach(), max(PIECE, left // (_SHARES * cores())))
        run.append(item)
        end = after
    if run:
        yield run


class Room(NamedTuple):
    """Memory of a thread, used again for every piece.

    Attributes:
        read: For pieces that are copied, or put together.
        narrowed: For a piece in another dtype.
    """

    read: memoryview
    narrowed: memoryview

    @classmethod
    def new(cls) -> Self:
        """Take memory that costs nothing until it is written to."""
        return cls(memoryview(mmap.mmap(-1, PIECE)), memoryview(mmap.mmap(-1, 2 * PIECE)))


class Pieces:
    """Yields (first byte, bytes) of a tensor, in order; each is good until the next is asked for.

    Attributes:
        item: The tensor.
        memory: Room for a piece, or all of the bytes.
        is_all: Which of the two.
        most: Bytes of the next pieces. May be raised where there is little to do but hash them.
    """

    def __init__(self, item: Item, memory: memoryview, *, is_all: bool = False) -> None:
        self.item, self.memory, self.is_all, self.most = item, memory, is_all, PIECE
        self._unit = unit(item.dtype)[1]

    def __iter__(self) -> Iterator[tuple[int, memoryview]]:
        """Yield parts of what is at hand, of mapped windows of a large tensor, or else copies."""
        item, end = self.item, self.item.size_bytes
        if self.is_all:
            yield from self._cut(0, self.memory)
        elif isinstance(item.source, Region) and end > PIECE:
            reach = _reach() // self._unit * self._unit
            for start in range(0, end, reach):
                with item.source.window(start, min(reach, end - start)) as window:
                    yield from self._cut(start, window)
        else:
            step = PIECE // self._unit * self._unit
            for start in range(0, end, step):
                yield start, item.source.piece(start, min(step, end - start), self.memory)

    def _cut(self, start: int, window: memoryview) -> Iterator[tuple[int, memoryview]]:
        at = 0
        while at < len(window):
            size = self.most // self._unit * self._unit
            with window[at : at + size] as piece:
                yield start + at, piece
            at += size


def is_mapped(item: Item) -> bool:
    """Return whether a tensor lies in a file and within a window."""
    return isinstance(item.source, Region) and 0 < item.size_bytes <= _reach()


def start_of(item: Item) -> int:
    """Return where in its file a tensor begins."""
    assert isinstance(item.source, Region)
    return item.source.start


def unit(dtype: str) -> tuple[int, int]:
    """Return the values and bytes that a piece must be a whole number of."""
    if dtype in BLOCKS:
        return BLOCKS[dtype]
    return (1, BITS[dtype] // 8) if BITS[dtype] >= 8 else (8 // BITS[dtype], 1)


@lru_cache(maxsize=1)
def _reach() -> int:
    """Return the bytes of a window; kept, as it is asked for every tensor, and asks the system."""
    return WINDOW * min(2, cores()) // cores()
