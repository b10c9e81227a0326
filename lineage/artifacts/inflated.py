"""Reads deflated bytes piece by piece, never more of them in memory than were asked for."""

from __future__ import annotations

import threading
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lineage.errors import FormatError

if TYPE_CHECKING:
    from lineage.artifacts.opened import OpenFile

_CHUNK = 1 << 16
"""Packed bytes read at a time, and bytes passed over at a time."""


@dataclass(slots=True)
class Inflated:
    """A raw deflate stream (RFC 1951) as a `Source`: quick in order, begun anew to go back.

    Attributes:
        file: Where it lies.
        label: What errors call it.
        start: Its place in the file.
        packed: Bytes it takes there.
        size: Bytes it inflates to: a stream that gives fewer or more is an error.
        crc: Their CRC-32, checked when the last one was read in order.
    """

    file: OpenFile
    label: str
    start: int
    packed: int
    size: int
    crc: int
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)
    _inflate: Any = field(default=None, repr=False, compare=False)
    _at: int = field(default=0, compare=False)
    _taken: int = field(default=0, compare=False)
    _sum: int = field(default=0, compare=False)

    def piece(self, start: int, size: int, scratch: memoryview) -> memoryview:
        """Inflate into `scratch`; see `Source`."""
        view = scratch[:size]
        with self._lock:
            if self._inflate is None or start < self._at:
                self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
                self._at = self._taken = self._sum = 0
            while self._at < start:
                self._some(min(start - self._at, _CHUNK))
            done = 0
            while done < size:
                part = self._some(size - done)
                view[done : done + len(part)] = part
                done += len(part)
            if self._at == self.size:
                self._finish()
        return view

    def _some(self, most: int) -> bytes:
        """Return the next 1 to `most` bytes."""
        part = self._step(most)
        if not part:
            raise self._fail(f"ends after {self._at} of its {self.size} bytes")
        self._at += len(part)
        self._sum = zlib.crc32(part, self._sum)
        return part

    def _finish(self) -> None:
        """Check that the stream ends where it says, and let go of its window."""
        if self._step(1):
            raise self._fail(f"goes on after its {self.size} bytes")
        if self._sum != self.crc:
            raise self._fail("is damaged: its CRC differs")
        self._inflate = None

    def _step(self, most: int) -> bytes:
        """Inflate until there is something, or nothing more."""
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._more()
            try:
                part: bytes = self._inflate.decompress(packed, most)
            except zlib.error as error:
                raise self._fail("is damaged: it does not inflate") from error
            if part:
                return part
            if not packed:
                raise self._fail(f"ends after {self._at} of its {self.size} bytes")
        return b""

    def _more(self) -> bytes:
        size = min(_CHUNK, self.packed - self._taken)
        self._taken += size
        return self.file.read(self.start + self._taken - size, size)

    def _fail(self, reason: str) -> FormatError:
        return FormatError(f"{self.label} {reason}", file=self.file.path)
