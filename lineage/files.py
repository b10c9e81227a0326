"""Writes a file whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from io import BufferedWriter

_AT_ONCE = 1 << 20
"""Bytes of many small chunks that are written at once."""

_LARGE = 4 << 20
"""Bytes after which the disk is told to begin: it works while what follows is written."""


def write_whole(path: Path, *chunks: bytes | memoryview) -> None:
    """Write `chunks` to `path`, replacing what is there only when all of it is on disk.

    An interruption leaves the old file, or none; never a part of the new one. What is no file, a
    pipe or `/dev/null`, is written to; of a link, what it leads to is replaced.
    """
    write_all(path, chunks)


def write_all(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Do the same with chunks that are made while they are written."""
    try:
        _write(path, chunks)
    except OSError as error:  # say what the caller named, not the file beside it
        raise type(error)(error.errno, error.strerror, str(path)) from error


def _write(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("wb") as stream:
            stream.writelines(chunks)
        return
    path = Path(os.path.realpath(path))
    partial = path.parent / f".{path.name}.{os.urandom(4).hex()}"
    file = partial.open("xb")
    try:
        with file:
            _fill(file, chunks)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _fill(file: BufferedWriter, chunks: Iterable[bytes | memoryview]) -> None:
    """Write to a new file, and let the disk begin before all is there."""
    if isinstance(chunks, tuple) and (size := sum(map(len, chunks))) >= _LARGE:
        with suppress(OSError, AttributeError):  # where there is no such call, writing makes room
            os.posix_fallocate(file.fileno(), 0, size)
    begun = written = 0
    for some in _gathered(chunks):
        written += file.write(some)
        if written - begun >= _LARGE:
            with suppress(OSError, AttributeError):
                # Linux first writes what is to be dropped from memory, and does not wait for it.
                os.posix_fadvise(file.fileno(), begun, written - begun, os.POSIX_FADV_DONTNEED)
            begun = written


def _gathered(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Put small chunks together."""
    some: list[bytes | memoryview] = []
    size = 0
    for chunk in chunks:
        some.append(chunk)
        size += len(chunk)
        if size >= _AT_ONCE:
            yield chunk if len(some) == 1 else b"".join(some)
            some, size = [], 0
    yield b"".join(some)
