"""Writes a file whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_BUFFER = 1 << 20
"""Bytes of many small chunks that are written at once."""


def write_whole(path: Path, *chunks: bytes) -> None:
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
    file = partial.open("xb", buffering=_BUFFER)
    try:
        with file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
