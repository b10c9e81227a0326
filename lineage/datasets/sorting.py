"""Digests in order and counted, whatever their number: sorted runs on disk, merged by first bits.

Memory is bounded by the run and by one part of the merge. Digests are even, so the parts are; a
digest that occurs very often is one entry in every run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt

from lineage.datasets.hashing import ENTRY
from lineage.digest import SIZE
from lineage.manifests.tree import Side, hash_of, joined

Entries = npt.NDArray[np.uint8]
"""Rows of `ENTRY` bytes: a digest and its count, little-endian."""

RUN = 1 << 18
"""Digests sorted at once."""

PART = 1 << 16
"""About how many entries are merged at once."""


def counted(digests: bytes) -> Entries:
    """Return digests of 32 bytes in order, each once with its count."""
    rows = np.frombuffer(digests, np.uint8).reshape(-1, SIZE)
    return _counted(rows, None)


def _counted(rows: npt.NDArray[np.uint8], counts: npt.NDArray[np.uint64] | None) -> Entries:
    if not len(rows):
        return np.zeros((0, ENTRY), np.uint8)
    order, starts = grouped(rows)
    entries = np.empty((len(starts), ENTRY), np.uint8)
    entries[:, :SIZE] = rows[order[starts]]
    if counts is None:
        totals = np.diff(np.append(starts, len(rows))).astype(np.uint64)
    else:
        totals = np.add.reduceat(counts[order], starts)
    entries[:, SIZE:] = totals.astype("<u8").view(np.uint8).reshape(-1, 8)
    return entries


def grouped(rows: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the order of digests, and where in that order each different one begins."""
    rows = np.ascontiguousarray(rows)
    first = rows[:, :8].copy().view(">u8").reshape(-1).astype(np.uint64)
    order = np.argsort(first)
    first = first[order]
    is_same = first[1:] == first[:-1]
    if is_same.any():
        alike = np.flatnonzero(is_same)
        is_same[alike] = (rows[order[alike]] == rows[order[alike + 1]]).all(axis=1)
        if not is_same[alike].all():  # 64 bits alike, and not the rest
            words = rows.view(">u8").astype(np.uint64)
            order = np.lexsort(words.T[::-1])
            words = words[order]
            is_same = (words[1:] == words[:-1]).all(axis=1)
    return order, np.flatnonzero(np.concatenate([[True], ~is_same]))


def merged(parts: list[Entries]) -> Entries:
    """Return the entries of several parts as one, counts added."""
    whole = np.concatenate(parts) if parts else np.zeros((0, ENTRY), np.uint8)
    if len(parts) < 2:
        return whole
    return _counted(whole[:, :SIZE], counts_of(whole))


def counts_of(entries: Entries) -> npt.NDArray[np.uint64]:
    """Return the counts of entries."""
    found: npt.NDArray[np.uint64] = (
        np.ascontiguousarray(entries[:, SIZE:]).view("<u8").reshape(-1).astype(np.uint64)
    )
    return found


def prefixes_of(entries: Entries) -> npt.NDArray[np.uint64]:
    """Return the first 64 bits of every digest."""
    found: npt.NDArray[np.uint64] = (
        np.ascontiguousarray(entries[:, :8]).view(">u8").reshape(-1).astype(np.uint64)
    )
    return found


@final
class Sorter:
    """Takes digests in any order, and gives them in order.

    Args:
        folder: Where runs are written, once there is more than one.
        pool: Where runs are sorted.
    """

    def __init__(self, folder: Path, pool: Executor) -> None:
        self._folder = folder
        self._pool = pool
        self._held: list[bytes] = []
        self._size = 0
        self._runs: list[_Run] = []
        self._sorting: list[Future[Entries]] = []
        self._spilled = 0

    def add(self, digests: bytes) -> None:
        """Take digests of 32 bytes."""
        self._held.append(digests)
        self._size += len(digests)
        if self._size >= RUN * SIZE:
            self._cut()

    def _cut(self) -> None:
        if self._sorting:  # one at a time: sorting is little beside what else is done
            self._spill(self._sorting.pop().result())
        self._sorting.append(self._pool.submit(counted, b"".join(self._held)))
        self._held, self._size = [], 0

    def _spill(self, run: Entries) -> None:
        path = self._folder / f"run-{self._spilled}"
        self._spilled += 1
        with path.open("wb") as file:
            file.write(run.data)
        self._runs.append(_Run(path, prefixes_of(run)[:: _Run.STEP].copy(), len(run)))

    def parts(self) -> Iterator[tuple[int, int, Entries]]:
        """Return all entries in order, as parts of one prefix each.

        Returns:
            The prefix's length in bits, the prefix and its entries, for every prefix.
        """
        if self._held:
            self._cut()
        last = [future.result() for future in self._sorting]
        self._sorting = []
        if not self._runs and len(last) < 2:
            yield 0, 0, merged(last)
            return
        for run in last:
            self._spill(run)
        total = sum(run.size for run in self._runs)
        depth = max(0, (total // PART).bit_length())
        waiting: deque[tuple[int, Future[Entries]]] = deque()
        for prefix in range(1 << depth):
            pieces = [run.part(prefix, depth) for run in self._runs]
            waiting.append((prefix, self._pool.submit(merged, pieces)))
            if len(waiting) > 2:
                ready, future = waiting.popleft()
                yield depth, ready, future.result()
        for ready, future in waiting:
            yield depth, ready, future.result()


@final
class _Run:
    """Entries on disk, in order, with some of their prefixes to find the others by."""

    STEP = 64

    def __init__(self, path: Path, index: npt.NDArray[np.uint64], size: int) -> None:
        self.size = size
        self._path = path
        self._index = index

    def part(self, prefix: int, depth: int) -> Entries:
        """Return the entries whose first `depth` bits are `prefix`."""
        low, high = (number << (64 - depth) for number in (prefix, prefix + 1))
        start = max(0, int(np.searchsorted(self._index, np.uint64(low), "left")) - 1) * self.STEP
        stop = self.size
        if high < 1 << 64:
            stop = min(stop, int(np.searchsorted(self._index, np.uint64(high), "left")) * self.STEP)
        with self._path.open("rb") as file:
            file.seek(start * ENTRY)
            found = np.frombuffer(file.read((stop - start) * ENTRY), np.uint8).reshape(-1, ENTRY)
        keys = prefixes_of(found)
        first = int(np.searchsorted(keys, np.uint64(low), "left"))
        last = len(found) if high >> 64 else int(np.searchsorted(keys, np.uint64(high), "left"))
        return found[first:last]


def tree_over(subtrees: Sequence[Side], depth: int) -> bytes:
    """Return the tree's hash from the subtrees of all prefixes of `depth` bits, in order."""
    while depth:
        depth -= 1
        pairs = zip(subtrees[::2], subtrees[1::2], strict=True)
        subtrees = [joined(left, right, depth) for left, right in pairs]
    return hash_of(subtrees[0], 0)
