"""One pass over an artifact: every byte is read once, hashed and sketched while it is in cache."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Event, local
from typing import TYPE_CHECKING

import numpy as np

from lineage.artifacts.base import BITS
from lineage.errors import FormatError
from lineage.fingerprints import values
from lineage.fingerprints.base import Fingerprint, TensorPrint
from lineage.fingerprints.identity import ContentHasher
from lineage.fingerprints.lattice import Lattice, lattice
from lineage.fingerprints.sketch import SCHEME, Layout, Sketcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lineage.artifacts import Artifact, Item

_RAW_PIECE = 1 << 20
_LATTICE_VALUES = 1 << 10
"""How much of a row is looked at for a lattice."""


def measure(artifact: Artifact, progress: Callable[[int], None] | None = None) -> Fingerprint:
    """Fingerprint an open artifact with one thread per core, biggest tensors first.

    Memory is bounded by the pieces in flight (some 30 MiB a thread), never by a tensor's size.

    Args:
        artifact: What `read` returned.
        progress: Called from any thread with the bytes just done.

    Raises:
        FormatError: If the bytes cannot be read, or the file changed meanwhile.
    """
    factors = values.scales(artifact.items)
    per_thread = local()
    stop = Event()

    def work(item: Item) -> TensorPrint:
        if not hasattr(per_thread, "scratch"):
            per_thread.scratch = bytearray(0)
        largest = _largest_piece(item)
        if len(per_thread.scratch) < largest:
            per_thread.scratch = bytearray(largest)
        scratch = memoryview(per_thread.scratch)
        return _tensor(item, factors.get(item.name), scratch, stop, progress)

    order = sorted(range(len(artifact.items)), key=lambda i: -artifact.items[i].size_bytes)
    with ThreadPoolExecutor(max_workers=_cores()) as pool:
        try:
            done = list(pool.map(work, [artifact.items[i] for i in order]))
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    artifact.check_unchanged()
    in_order: list[TensorPrint] = [done[k] for k in np.argsort(order)]
    return Fingerprint(tuple(in_order), SCHEME, artifact.size_bytes)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _largest_piece(item: Item) -> int:
    if not values.has_numbers(item.dtype):
        return min(item.size_bytes, _RAW_PIECE)
    width = BITS[item.dtype] // 8
    return max((count * width for _, count in Layout.of(item.shape).pieces()), default=0)


def _tensor(
    item: Item,
    factor: NDArray[np.float32] | None,
    scratch: memoryview,
    stop: Event,
    progress: Callable[[int], None] | None,
) -> TensorPrint:
    """Hash and sketch one tensor."""
    content = ContentHasher(item.dtype, item.shape)
    narrower = [_Narrower(item, narrow) for narrow in values.NARROWER.get(item.dtype, ())]
    numeric = values.has_numbers(item.dtype) and item.size_bytes > 0
    layout = Layout.of(item.shape)
    sketcher = Sketcher(layout) if numeric else None
    found = Lattice()
    nonfinite = 0
    for start, count in layout.pieces() if numeric else _raw_pieces(item):
        if stop.is_set():
            raise FormatError("interrupted", file=item.file, tensor=item.name)
        width = BITS[item.dtype] // 8 if numeric else 1
        piece = item.source.piece(start * width, count * width, scratch)
        content.update(piece)
        for narrow in narrower:
            narrow.update(piece)
        if sketcher is not None:
            numbers = values.as_float32(piece, item.dtype)
            if factor is not None:
                numbers = _scaled(numbers, factor, start, layout)
            nonfinite += sketcher.add(numbers, start)
            if start == 0 and not nonfinite:
                found = _lattice(numbers, layout, item.dtype)
        if progress is not None:
            progress(count * width)
    exact = [n for n in narrower if n.exact]
    return TensorPrint(
        name=item.name,
        dtype=item.dtype,
        shape=item.shape,
        content=content.digest(),
        value=exact[0].digest() if exact else content.digest(),
        rounded=tuple((n.narrow, n.digest()) for n in narrower if not n.exact and not nonfinite),
        sketch=None if sketcher is None else sketcher.finish(),
        nonfinite=nonfinite,
        lattice=found,
    )


class _Narrower:
    """Hashes what a tensor would be in a narrower dtype, and sees whether that loses anything."""

    def __init__(self, item: Item, narrow: str) -> None:
        self.narrow = narrow
        self.exact = True
        self._dtype = item.dtype
        self._hash = ContentHasher(narrow, item.shape)

    def update(self, piece: memoryview) -> None:
        half, exact = values.rounded(piece, self._dtype, self.narrow)
        self.exact = self.exact and exact
        self._hash.update(half)

    def digest(self) -> bytes:
        return self._hash.digest()


def _raw_pieces(item: Item) -> list[tuple[int, int]]:
    """Return (first byte, bytes) of each piece of a tensor without numbers."""
    return [
        (start, min(_RAW_PIECE, item.size_bytes - start))
        for start in range(0, item.size_bytes, _RAW_PIECE)
    ]


def _scaled(
    numbers: NDArray[np.float32], factor: NDArray[np.float32], start: int, layout: Layout
) -> NDArray[np.float32]:
    """Multiply stored integers by their tensor's or their rows' scale."""
    if factor.size == 1:
        return numbers * factor.reshape(())
    rows = np.arange(start, start + numbers.size) // layout.cols
    return numbers * factor.reshape(-1)[rows]


def _lattice(numbers: NDArray[np.float32], layout: Layout, dtype: str) -> Lattice:
    """Look for a lattice in the whole rows of a matrix's first piece."""
    if layout.is_vector or numbers.size < layout.cols:
        return Lattice()
    if dtype in {"I8", "U8", "F8_E4M3", "F8_E5M2"}:
        return Lattice(bits=8)
    rows = numbers.size // layout.cols
    sample = numbers[: rows * layout.cols].reshape(rows, layout.cols)
    return lattice(sample[:, :_LATTICE_VALUES], dtype)
