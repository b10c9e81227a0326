"""Hashes whole files with SHA-256: every byte read once, by a thread a core, in bounded memory."""

from __future__ import annotations

import hashlib
from concurrent.futures import FIRST_EXCEPTION, Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING

from lineage.artifacts.opened import OpenFile
from lineage.cores import cores
from lineage.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

PIECE = 4 << 20
"""Bytes read at once, and all the memory that a file takes."""


@dataclass(frozen=True, slots=True)
class Task:
    """A file to hash.

    Attributes:
        file: Open, and left open; or where it is.
        size_bytes: Files are begun in the order of their size, so that none is left over at last.
        body_at: Where a part begins that has a digest of its own, to the file's end.
    """

    file: OpenFile | Path
    size_bytes: int
    body_at: int | None = None


@dataclass(frozen=True, slots=True)
class Hashed:
    """Digests of a file and of its body, hexadecimal."""

    whole: str
    body: str | None


def hash_all(
    tasks: dict[str, Task], progress: Callable[[int], None] | None = None
) -> dict[str, Hashed]:
    """Return the digests of files under the names of their tasks.

    Args:
        tasks: Name -> file.
        progress: Called with the number of bytes just done, from any thread.

    Raises:
        FormatError: If a file is no regular file, is mostly holes, or changed meanwhile.
        OSError: If one cannot be opened or read.
    """
    # A body is hashed beside the whole from the same piece. Those threads never wait for others, so
    # the first kind can wait for them.
    with ThreadPoolExecutor(cores()) as files, ThreadPoolExecutor(cores()) as bodies:
        run = _Run(bodies, progress)
        ordered = sorted(tasks, key=lambda name: -tasks[name].size_bytes)
        futures = {name: files.submit(run.task, tasks[name]) for name in ordered}
        try:
            done = wait(futures.values(), return_when=FIRST_EXCEPTION).done
            _raise_first(future.exception() for future in done)
        finally:
            run.stop.set()
            files.shutdown(cancel_futures=True)
        return {name: futures[name].result() for name in tasks}


class _Run:
    """One call of `hash_all`.

    Attributes:
        stop: Set when nobody wants the rest.
    """

    def __init__(self, bodies: Executor, progress: Callable[[int], None] | None) -> None:
        self.stop = Event()
        self._bodies = bodies
        self._progress = progress

    def task(self, task: Task) -> Hashed:
        """Hash one file, opening it if need be."""
        if isinstance(task.file, OpenFile):
            return self._hash(task.file, task.body_at)
        file = OpenFile.open(task.file, label=str(task.file))
        try:
            file.check_written()
            return self._hash(file, task.body_at)
        finally:
            file.close()

    def _hash(self, file: OpenFile, body_at: int | None) -> Hashed:
        whole = hashlib.sha256()
        body = None if body_at is None else hashlib.sha256()
        room = memoryview(bytearray(min(PIECE, file.size)))
        for start in range(0, file.size, PIECE):
            if self.stop.is_set():
                raise FormatError("interrupted", file=file.path)
            piece = room[: file.size - start]
            file.read_into(start, piece)
            if body is None or body_at is None:
                whole.update(piece)
            else:
                beside = self._bodies.submit(body.update, piece[max(0, body_at - start) :])
                whole.update(piece)
                beside.result()
            if self._progress is not None:
                self._progress(len(piece))
        file.check_unchanged()
        return Hashed(whole.hexdigest(), None if body is None else body.hexdigest())


def _raise_first(errors: Iterable[BaseException | None]) -> None:
    for error in errors:
        if error is not None:
            raise error
