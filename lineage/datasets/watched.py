"""A file that is hashed while it is read, and must not change meanwhile."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import final

from blake3 import blake3

from lineage.errors import FormatError

PIECE = 1 << 20
"""Bytes read at once, and about what one job gets."""


@final
class WatchedFile:
    """A file that is hashed while it is read, and must be the same at the end.

    Leaving its `with` by a `FormatError` raises that the file changed, if it did: whatever was
    found wrong in it came of that.

    Args:
        path: The file.
        progress: Told of every byte read.
        also: Other hashes of the file to take.
    """

    def __init__(
        self,
        path: Path,
        progress: Callable[[int], None] | None = None,
        also: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self.size = 0
        self._progress = progress
        self._hasher = blake3()
        self._also = {n: hashlib.new(n, usedforsecurity=False) for n in also if n != "blake3"}
        self._file = path.open("rb", buffering=0)
        self._before = _state(os.fstat(self._file.fileno()))
        self.expected = self._before[0]

    def __enter__(self) -> WatchedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if isinstance(error, FormatError) and self._has_changed():
                raise self._changed() from error
        finally:
            self._file.close()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""
        data = self._file.read(size)
        self._pass(data)
        return data

    def _pass(self, data: bytes | memoryview) -> None:
        self.size += len(data)
        self._hasher.update(data)
        for hasher in self._also.values():
            hasher.update(data)
        if self._progress is not None and data:
            self._progress(len(data))

    def read_to(self, end: int) -> None:
        """Hash what is left before `end`."""
        buffer = bytearray(PIECE)
        whole = memoryview(buffer)
        while self.size < end and (size := self._file.readinto(whole)):
            self._pass(whole[:size])

    def read_rest(self) -> None:
        """Hash what is left."""
        self.read_to(self.expected + 1)  # one byte more tells a file that grew

    def finish(self) -> bytes:
        """Return the BLAKE3 of the whole file.

        Raises:
            FormatError: If it changed since it was opened.
        """
        self.read_rest()
        if self._has_changed() or self.size != self.expected:
            raise self._changed()
        return self._hasher.digest()

    def _has_changed(self) -> bool:
        try:
            now = [_state(os.fstat(self._file.fileno())), _state(self.path.stat())]
        except FileNotFoundError:
            return True
        return now != [self._before, self._before]

    def _changed(self) -> FormatError:
        return FormatError("the file changed while it was read", file=self.path)

    def digests(self) -> dict[str, str]:
        """Return the hexadecimal digests of the whole file, by the names of their hashes."""
        found = {name: hasher.hexdigest() for name, hasher in self._also.items()}
        return {"blake3": self._hasher.hexdigest(), **found}


def _state(stat: os.stat_result) -> tuple[int, int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev
