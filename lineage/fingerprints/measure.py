"""One pass over an artifact: every byte is read once, hashed and sketched while it is in cache.

NumPy is imported only where the compiled loops are missing or a dtype needs it: a program that
prints an identity should not wait for it.
"""

from __future__ import annotations

import os
from array import array
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import TYPE_CHECKING

from lineage.artifacts.base import BITS, BLOCKS
from lineage.artifacts.opened import Region
from lineage.errors import FormatError
from lineage.fingerprints.base import Fingerprint, TensorPrint
from lineage.fingerprints.identity import ContentHasher, content_digest
from lineage.fingerprints.lattice import NO_LATTICE, Lattice, lattice
from lineage.fingerprints.narrowing import ROUNDED, TRIED, Narrower
from lineage.fingerprints.sketch import FAST, NONE, SCHEME, Layout, Sketcher, has_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from lineage.artifacts import Affine, Artifact, Item
    from lineage.fingerprints.base import PartPrint
    from lineage.fingerprints.parts import PartSketcher
    from lineage.fingerprints.sketch import Sketch
    from lineage.fingerprints.small import Glance

PIECE = 1 << 20
"""Bytes read at once: they stay in a core's cache while they are hashed and sketched."""

_WINDOW = 16 << 20
"""Bytes of a file mapped at once by a thread: reading through a mapping saves a copy, and windows
keep what is resident small. Where there are more than four cores they share four windows' worth."""

_SMALL = 1 << 18
"""Neighbours in a file that are smaller than this are read together."""

_KEEP_EVERY = 30.0
"""Seconds between two savings of what a long pass has measured."""

TIERS = {"full": SCHEME, "fast": FAST, "exact": NONE}
"""How much is measured, and the scheme of the sketches that gives: every value, one block of rows
in eight, or none. Identity is exact in each."""


@dataclass(slots=True)
class Pass:
    """What one pass over an artifact needs and leaves.

    Attributes:
        tier: A key of `TIERS`.
        progress: Called from any thread with the bytes just done.
        keep: Called with `done` now and then, and at the end however it comes.
        done: Name -> what is known already, and what was measured, even if interrupted.
    """

    tier: str = "full"
    progress: Callable[[int], None] | None = None
    keep: Callable[[dict[str, TensorPrint]], None] | None = None
    done: dict[str, TensorPrint] = field(default_factory=dict)
    _affine: dict[str, Affine] = field(default_factory=dict)
    _stop: Event = field(default_factory=Event)

    def over(self, artifact: Artifact) -> Fingerprint:
        """Fingerprint an open artifact with one thread per core, biggest tensors first.

        Memory is bounded by the pieces in flight (a few MiB a thread), never by a tensor's size.

        Raises:
            FormatError: If the bytes cannot be read, or the file changed meanwhile.
        """
        if self.tier != "exact" and any(_may_be_scaled(item) for item in artifact.items):
            from lineage.fingerprints.values import affine_of

            self._affine = affine_of(artifact.items)
        left = [item for item in artifact.items if item.name not in self.done]
        if self.progress is not None:
            self.progress(artifact.size_bytes - sum(item.size_bytes for item in left))
        tasks = deque(sorted(_grouped(left), key=lambda items: -sum(i.size_bytes for i in items)))
        try:
            self._run(tasks, min(_cores(), len(tasks)))
        except BaseException:
            if self.keep is not None:
                with suppress(FormatError):  # the first error says more
                    self.keep(self.done)
            raise
        artifact.check_unchanged()
        if self.keep is not None:
            self.keep(self.done)
        tensors = tuple(self.done[item.name] for item in artifact.items)
        return Fingerprint(tensors, TIERS[self.tier], artifact.size_bytes)

    def _run(self, tasks: deque[list[Item]], count: int) -> None:
        """Work through the tasks with some threads; the first error of any ends all."""
        errors: list[BaseException] = []

        def work() -> None:
            try:
                room = memoryview(bytearray(PIECE)), memoryview(bytearray(2 * PIECE))
                while not self._stop.is_set() and (task := _next(tasks)):
                    self._task(task, *room)
            except BaseException as error:  # noqa: BLE001  (raised again below)
                errors.append(error)
                self._stop.set()

        threads = [Thread(target=work) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                for thread in threads:
                    thread.join(_KEEP_EVERY)
                    if thread.is_alive() and self.keep is not None:
                        self.keep(self.done)
        except BaseException:
            self._stop.set()
            for thread in threads:
                thread.join()
            raise
        if errors:
            raise errors[0]

    def _task(self, items: list[Item], scratch: memoryview, narrowed: memoryview) -> None:
        if len(items) == 1:
            item = items[0]
            self.done[item.name] = self._tensor(item, _Pieces(item, scratch), narrowed)
            return
        base, end = _start(items[0]), _start(items[-1]) + items[-1].size_bytes
        assert isinstance(items[0].source, Region)
        with items[0].source.window(0, end - base) as both:
            for some in _within(items, PIECE):
                self._neighbours([(item, _start(item) - base) for item in some], both, narrowed)

    def _neighbours(
        self, placed: list[tuple[Item, int]], both: memoryview, narrowed: memoryview
    ) -> None:
        """Measure small tensors, few enough to stay in a core's cache."""
        glances = self._glances(placed, both)
        for item, at in placed:
            with both[at : at + item.size_bytes] as piece:
                glance = glances.get(item.name)
                if glance is None:
                    self.done[item.name] = self._tensor(item, [(0, piece)], narrowed)
                else:
                    self.done[item.name] = self._small(item, piece, glance, narrowed)
        if glances and self.progress is not None:
            self.progress(sum(item.size_bytes for item, _ in placed if item.name in glances))

    def _glances(self, placed: list[tuple[Item, int]], data: memoryview) -> dict[str, Glance]:
        """Look at those of some neighbours that hold plain numbers, all at once."""
        from lineage.fingerprints import parts, small

        every = {"exact": 0, "fast": 8}.get(self.tier, 1)
        plain = [one for one in placed if small.is_plain(one[0])]
        if every:
            plain = [one for one in plain if one[0].name not in self._affine]
            if parts.may_be_fused("\n".join(item.name for item, _ in plain)):
                plain = [one for one in plain if not parts.sketchers(one[0], every)]
        return small.glances(plain, data, every) if plain else {}

    def _small(
        self, item: Item, piece: memoryview, glance: Glance, narrowed: memoryview
    ) -> TensorPrint:
        """Hash a tensor that was looked at already."""
        if self._stop.is_set():
            raise FormatError("interrupted", file=item.file, tensor=item.name)
        digest = content_digest(item.dtype, item.shape, piece)
        narrower = self._narrowers(item, glance.held)
        for one in narrower:
            one.update(piece, narrowed)
        found = NO_LATTICE
        if glance.has_steps and not glance.left_out:
            found = lattice(piece, Layout.of(item.shape), item.dtype)
        return _print(item, digest, narrower, glance.sketch, glance.left_out, found)

    def _narrowers(self, item: Item, held: Iterable[str]) -> list[Narrower]:
        """Return one for each dtype that may hold a tensor's values, or whose digest is kept."""
        tried = TRIED.get(item.dtype, ())
        rounded = ROUNDED.get(item.dtype, ()) if self.tier == "full" else ()
        if not held and not rounded:
            return []
        return [
            Narrower(item, to, keeps_rounded=to in rounded)
            for to in tried
            if to in held or to in rounded
        ]

    def _tensor(
        self, item: Item, pieces: Iterable[tuple[int, memoryview]], narrowed: memoryview
    ) -> TensorPrint:
        """Hash and sketch one tensor."""
        content = ContentHasher(item.dtype, item.shape)
        narrower = self._narrowers(item, TRIED.get(item.dtype, ()))
        layout = Layout.of(item.shape)
        sketcher: Sketcher | None = None
        parts: list[PartSketcher] = []
        if self.tier != "exact" and has_numbers(item.dtype) and item.size_bytes:
            from lineage.fingerprints.parts import sketchers as parts_of

            every = 8 if self.tier == "fast" else 1
            sketcher, parts = Sketcher(layout, every), parts_of(item, every)
        found = NO_LATTICE
        width, size = _unit(item.dtype)
        for start, piece in pieces:
            if self._stop.is_set():
                raise FormatError("interrupted", file=item.file, tensor=item.name)
            if sketcher is not None:
                at = start // size * width
                numbers = self._numbers(item, piece, at)
                sketcher.add(*numbers[:2], at, numbers[2])
                for part in parts:
                    part.add(*numbers[:2], at, numbers[2])
                if start == 0 and not sketcher.left_out:
                    found = lattice(piece, layout, item.dtype)
            for one in narrower:
                one.update(piece, narrowed)
            narrower = [one for one in narrower if one.is_wanted]
            if sketcher is None and not narrower and isinstance(pieces, _Pieces):
                pieces.most = _WINDOW
            content.update(piece)
            if self.progress is not None:
                self.progress(len(piece))
        left_out = 0 if sketcher is None else sketcher.left_out
        sketch = None if sketcher is None else sketcher.finish()
        finished = tuple(part.finish() for part in parts)
        return _print(item, content.digest(), narrower, sketch, left_out, found, finished)

    def _numbers(
        self, item: Item, piece: memoryview, start: int
    ) -> tuple[memoryview | NDArray[np.float32], str, array[float] | None]:
        """Return a piece as the sketch takes it: numbers, their dtype, and factors of rows."""
        affine = self._affine.get(item.name)
        if affine is None:
            return piece, item.dtype, None
        is_plain = all(1e-30 < abs(scale) < 1e9 for scale in affine.scales)
        if affine.axis in {None, 0} and len(item.shape) > 1 and is_plain and not any(affine.zeros):
            return piece, item.dtype, array("f", affine.scales)
        from lineage.fingerprints import values

        raw = values.as_float32(piece, item.dtype)
        return values.applied(raw, affine, item.shape, start), "F32", None


def _print(
    item: Item,
    digest: bytes,
    narrower: list[Narrower],
    sketch: Sketch | None,
    left_out: int,
    found: Lattice,
    parts: tuple[PartPrint, ...] = (),
) -> TensorPrint:
    """Put together what the pass over one tensor has found."""
    value = digest
    rounded: tuple[tuple[str, bytes], ...] = ()
    if narrower:
        value = next((n.digest() for n in narrower if n.exact), digest)
        kept = (n for n in narrower if n.is_rounded and not n.exact and not left_out)
        rounded = tuple((n.to, n.digest()) for n in kept)
    return TensorPrint(
        item.name, item.dtype, item.shape, digest, value, rounded, sketch, left_out, found, parts
    )


def _next(tasks: deque[list[Item]]) -> list[Item] | None:
    try:
        return tasks.popleft()
    except IndexError:
        return None


def _may_be_scaled(item: Item) -> bool:
    return item.affine is not None or item.dtype in {"I8", "F8_E4M3", "F8_E5M2"}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _unit(dtype: str) -> tuple[int, int]:
    """Return the values and bytes that a piece must be a whole number of."""
    if dtype in BLOCKS:
        return BLOCKS[dtype]
    return (1, BITS[dtype] // 8) if BITS[dtype] >= 8 else (8 // BITS[dtype], 1)


class _Pieces:
    """Yields (first byte, bytes) of a tensor, in order; each is good until the next is asked for.

    Attributes:
        most: Bytes of the next pieces. May be raised when they are only hashed.
    """

    def __init__(self, item: Item, scratch: memoryview) -> None:
        self.most = PIECE
        self._item, self._scratch = item, scratch
        self._unit = _unit(item.dtype)[1]

    def __iter__(self) -> Iterator[tuple[int, memoryview]]:
        """Yield from mapped windows of a large tensor in a file, or else from copies."""
        item, end = self._item, self._item.size_bytes
        if isinstance(item.source, Region) and end >= 2 * PIECE:
            reach = _reach() // self._unit * self._unit
            for start in range(0, end, reach):
                count = min(reach, end - start)
                with item.source.window(start, count) as window:
                    at = 0
                    while at < count:
                        size = self.most // self._unit * self._unit
                        with window[at : at + size] as piece:
                            yield start + at, piece
                        at += size
            return
        step = PIECE // self._unit * self._unit
        for start in range(0, end, step):
            yield start, item.source.piece(start, min(step, end - start), self._scratch)


def _start(item: Item) -> int:
    assert isinstance(item.source, Region)
    return item.source.start


def _grouped(items: list[Item]) -> list[list[Item]]:
    """Put small tensors that lie next to each other in one file together, up to a window.

    Windows are so large because all threads wait while one is unmapped.
    """
    tasks: list[list[Item]] = []
    small: list[Item] = []
    for item in items:
        if item.size_bytes < _SMALL and isinstance(item.source, Region):
            small.append(item)
        else:
            tasks.append([item])
    share = sum(item.size_bytes for item in small) // (8 * _cores())  # so that none is left over
    placed = sorted(small, key=lambda item: (item.file or "", _start(item)))
    return tasks + _within(placed, max(PIECE, min(_reach(), share)))


def _within(placed: Iterable[Item], most: int) -> list[list[Item]]:
    """Cut small tensors, in the order of their places, into runs without gaps of `most` bytes."""
    runs: list[list[Item]] = []
    run: list[Item] = []
    where, base, end = None, 0, 0
    for item in placed:
        start = _start(item)
        after = start + item.size_bytes
        if not run or item.file != where or start != end or after - base > most:
            run, where, base = [], item.file, start
            runs.append(run)
        run.append(item)
        end = after
    return runs


def _reach() -> int:
    """Return the bytes of a window."""
    return _WINDOW * min(4, _cores()) // _cores()
