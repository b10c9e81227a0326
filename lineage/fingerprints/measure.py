"""One pass over an artifact: every byte is read once, hashed and sketched while it is in cache.

NumPy is imported only where the compiled loops are missing or a dtype needs it: a program that
prints an identity should not wait for it.
"""

from __future__ import annotations

from array import array
from collections import deque
from contextlib import suppress
from dataclasses import replace
from threading import Event, Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING

from lineage.artifacts.opened import Region
from lineage.cores import cores
from lineage.errors import FormatError
from lineage.fingerprints.base import Fingerprint, TensorPrint
from lineage.fingerprints.identity import ContentHasher
from lineage.fingerprints.lattice import NO_LATTICE, lattice
from lineage.fingerprints.narrowing import LOOK, ROUNDED, TRIED, Narrower, narrow
from lineage.fingerprints.pieces import (
    PIECE,
    WINDOW,
    Pieces,
    Room,
    is_mapped,
    start_of,
    tasks,
    unit,
)
from lineage.fingerprints.sketch import FAST, NONE, SCHEME, Layout, Sketcher, has_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from lineage.artifacts import Affine, Artifact, Item
    from lineage.fingerprints.parts import PartSketcher

_SKETCHED = 4 * PIECE
"""Bytes read at once where no other dtype is made of them: they stay near, and calls are fewer."""

_KEEP_EVERY = 30.0
"""Seconds between two savings of what a long pass has measured."""

TIERS = {"full": SCHEME, "fast": FAST, "exact": NONE}
"""How much is measured, and the scheme of the sketches that gives: every value, one block of rows
in eight, or none. Identity is exact in each."""


class Pass:
    """What one pass over an artifact needs and leaves.

    Attributes:
        tier: A key of `TIERS`.
        progress: Called from any thread with the bytes just done.
        keep: Called from any thread with `done` now and then, and at the end however it comes.
        done: Name -> what is known already, and what was measured, even if interrupted.
    """

    def __init__(
        self,
        tier: str = "full",
        progress: Callable[[int], None] | None = None,
        keep: Callable[[dict[str, TensorPrint]], None] | None = None,
    ) -> None:
        self.tier, self.progress, self.keep = tier, progress, keep
        self.done: dict[str, TensorPrint] = {}
        self._affine: dict[str, Affine] = {}
        self._stop = Event()
        self._saving, self._due = Lock(), monotonic() + _KEEP_EVERY

    @property
    def _every(self) -> int:
        """Of so many blocks of rows one is sketched; 0 for none."""
        return {"exact": 0, "fast": 8}.get(self.tier, 1)

    @property
    def _rounded(self) -> Mapping[str, tuple[str, ...]]:
        """The dtypes whose digests are kept although they lose something, by what is stored."""
        return ROUNDED if self.tier == "full" else {}

    def over(self, artifact: Artifact) -> Fingerprint:
        """Fingerprint an open artifact with one thread per core, biggest tensors first.

        Memory is bounded by the windows in flight (100 MiB in all), never by a tensor's size.

        Raises:
            FormatError: If the bytes cannot be read, or the file changed meanwhile.
            OSError: If the disk fails.
        """
        if self.tier != "exact" and any(_may_be_scaled(item) for item in artifact.items):
            from lineage.fingerprints.values import affine_of

            self._affine = affine_of(artifact.items)
        left = [item for item in artifact.items if item.name not in self.done]
        if self.progress is not None:
            self.progress(artifact.size_bytes - sum(item.size_bytes for item in left))
        try:
            self._run(deque(tasks(left)))
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

    def _run(self, left: deque[list[Item]]) -> None:
        """Work through tasks with a thread a core, this one among them; the first error ends all.

        If this one only waited there would be one more than cores: two that begin at once were seen
        to share a core for a while.
        """
        errors: list[BaseException] = []

        def work() -> None:
            try:
                room = Room.new()
                while not self._stop.is_set() and (task := _next(left)):
                    self._task(task, room)
                    self._save()
            except BaseException as error:  # noqa: BLE001  (raised again below)
                errors.append(error)
                self._stop.set()

        others = [Thread(target=work) for _ in range(min(cores(), len(left)) - 1)]
        try:
            for thread in others:
                thread.start()
            work()
            for thread in others:
                thread.join()
        except BaseException:
            self._stop.set()
            for thread in others:
                if thread.ident is not None:
                    thread.join()
            raise
        if errors:
            raise errors[0]

    def _save(self) -> None:
        """Save what is done, if it is time for that and no other thread is at it."""
        if self.keep is None or monotonic() < self._due or not self._saving.acquire(blocking=False):
            return
        try:
            self.keep(self.done)
            self._due = monotonic() + _KEEP_EVERY
        finally:
            self._saving.release()

    def _task(self, items: list[Item], room: Room) -> None:
        first, last = items[0], items[-1]
        if not is_mapped(first):
            self.done[first.name] = self._tensor(Pieces(first, room.read), room)
            return
        assert isinstance(first.source, Region)
        base = start_of(first)
        with first.source.window(0, start_of(last) + last.size_bytes - base) as window:
            found = self._whole(self._plain(items), base, window, room)
            for item in items if len(found) < len(items) else ():
                if item.name not in found:
                    at = start_of(item) - base
                    with window[at : at + item.size_bytes] as whole:
                        found[item.name] = self._tensor(Pieces(item, whole, is_all=True), room)
        self.done.update(found)  # now that the window was left, and so was whole

    def _plain(self, items: list[Item]) -> list[Item]:
        """Return those of some tensors that hold plain numbers, and no parts."""
        from lineage.fingerprints import neighbours, parts

        plain = neighbours.plain(items, self._rounded)
        if self._every:
            plain = [item for item in plain if item.name not in self._affine]
            if parts.may_be_fused("\n".join(item.name for item in plain)):
                plain = [item for item in plain if not parts.sketchers(item, self._every)]
        return plain

    def _whole(
        self, items: list[Item], base: int, window: memoryview, room: Room
    ) -> dict[str, TensorPrint]:
        """Look at plain tensors all at once, hash them, and put together what is known of them."""
        if not items:
            return {}
        from lineage.fingerprints import neighbours

        starts = [start_of(item) - base for item in items]
        prints, held = neighbours.prints(items, starts, window, room, self._every)
        rounded = self._rounded
        for at, item in enumerate(items) if any(held) or rounded else ():
            if prints[at].content and (held[at] or item.dtype in rounded):
                narrower = self._narrowers(item, neighbours.dtypes_of(item, held[at]))
                with window[starts[at] : starts[at] + item.size_bytes] as whole:
                    for one in narrower:
                        one.update(whole, room.narrowed)
                prints[at] = _narrowed(prints[at], narrower)
        found = {done.name: done for done in prints if done.content}
        if self.progress is not None:
            self.progress(sum(item.size_bytes for item in items if item.name in found))
        return found

    def _narrowers(self, item: Item, held: Collection[str]) -> list[Narrower]:
        """Return one for each dtype that may hold a tensor's values, or whose digest is kept."""
        tried = TRIED.get(item.dtype, ())
        rounded = self._rounded.get(item.dtype, ())
        if not held and not rounded:
            return []
        return [
            Narrower(item, to, keeps_rounded=to in rounded)
            for to in tried
            if to in held or to in rounded
        ]

    def _tensor(self, pieces: Pieces, room: Room) -> TensorPrint:
        """Hash and sketch one tensor."""
        item = pieces.item
        content = ContentHasher(item.dtype, item.shape)
        narrower = self._narrowers(item, _may_hold(pieces, room))
        layout = Layout.of(item.shape)
        sketcher: Sketcher | None = None
        parts: list[PartSketcher] = []
        if self.tier != "exact" and has_numbers(item.dtype) and item.size_bytes:
            from lineage.fingerprints.parts import sketchers as parts_of

            sketcher, parts = Sketcher(layout, self._every), parts_of(item, self._every)
        found = NO_LATTICE
        width, size = unit(item.dtype)
        at_most = WINDOW if sketcher is None else _SKETCHED
        pieces.most = PIECE if narrower else at_most
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
                one.update(piece, room.narrowed)
            content.update(piece, is_near=bool(narrower))
            narrower = [one for one in narrower if one.is_wanted]
            if not narrower:
                pieces.most = at_most
            if self.progress is not None:
                self.progress(len(piece))
            self._save()
        left_out = 0 if sketcher is None else sketcher.left_out
        sketch = None if sketcher is None else sketcher.finish()
        finished = tuple(part.finish() for part in parts)
        digest = content.digest()
        known = TensorPrint(
            item.name, item.dtype, item.shape, digest, digest, (), sketch, left_out, found, finished
        )
        return _narrowed(known, narrower) if narrower else known

    def _numbers(
        self, item: Item, piece: memoryview, start: int
    ) -> tuple[memoryview | NDArray[np.float32], str, array[float] | None]:
        """Return a piece as the sketch takes it: numbers, their dtype, and factors of rows."""
        affine = self._affine.get(item.name)
        if affine is None:
            return piece, item.dtype, None
        is_plain = all(1e-30 < abs(scale) < 1e9 for scale in affine.scales)
        is_plain = is_plain and affine.block is None and not any(affine.zeros)
        if affine.axis in {None, 0} and len(item.shape) > 1 and is_plain:
            return piece, item.dtype, array("f", affine.scales)
        from lineage.fingerprints import values

        raw = values.as_float32(piece, item.dtype)
        return values.applied(raw, affine, item.shape, start), "F32", None


def _narrowed(known: TensorPrint, narrower: list[Narrower]) -> TensorPrint:
    """Add to what is known of a tensor what it would be in narrower dtypes."""
    value = next((n.digest() for n in narrower if n.exact), known.content)
    kept = (n for n in narrower if n.is_rounded and not n.exact and not known.nonfinite)
    return replace(known, value=value, rounded=tuple((n.to, n.digest()) for n in kept))


def _may_hold(pieces: Pieces, room: Room) -> Collection[str]:
    """Return the dtypes that may hold a tensor's values in less, as far as its first values say."""
    dtype = pieces.item.dtype
    tried = TRIED.get(dtype, ())
    if not pieces.is_all:
        return tried
    with pieces.memory[:LOOK] as head:
        return [to for to in tried if narrow(head, dtype, to, room.narrowed, only_exact=True)]


def _next(tasks: deque[list[Item]]) -> list[Item] | None:
    try:
        return tasks.popleft()
    except IndexError:
        return None


def _may_be_scaled(item: Item) -> bool:
    return item.affine is not None or item.dtype in {"I8", "F8_E4M3", "F8_E5M2"}
