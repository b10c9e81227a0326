"""Serves a tensor whose bytes must be made in order: decoded, inflated, gathered."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Streamed:
    """The `Source` of bytes that come one chunk after the other.

    Args:
        chunks: Starts over from the first byte. Its chunks join to exactly `size` bytes, or it
            raises `FormatError`; it is asked on until it ends, so that it may check its end.
        size: Bytes of the whole tensor.

    Read in order, each byte is made once and no more than a chunk is held; read otherwise, it
    starts over, which is slow and right.
    """

    def __init__(self, chunks: Callable[[], Iterator[bytes | memoryview]], size: int) -> None:
        self._chunks, self._size = chunks, size
        self._lock = Lock()
        self._stream: Iterator[bytes | memoryview] = iter(())
        self._rest = memoryview(b"")
        self._at: int | None = None

    def piece(self, start: int, size: int, scratch: memoryview) -> memoryview:
        """Fill `scratch` with the next bytes; see `Source`."""
        view = scratch[:size]
        with self._lock:
            at, self._at = self._at, None  # an error on the way leaves nothing to go on from
            if not at or at > start:
                self._stream, self._rest, at = self._chunks(), memoryview(b""), 0
            while at < start:
                at += len(self._next(start - at))
            done = 0
            while done < size:
                got = self._next(size - done)
                view[done : done + len(got)] = got
                done += len(got)
            if at + done == self._size:
                next(self._stream, None)
            self._at = at + done
        return view

    def _next(self, most: int) -> memoryview:
        while not self._rest:
            self._rest = memoryview(next(self._stream))
        got, self._rest = self._rest[:most], self._rest[most:]
        return got
