"""What is done of a manifest, kept beside it, so that a run that was broken off goes on.

A journal has a line a job, in order: how many records, lines and bad records it found, and the
BLAKE3 of their digests, which are in a file of their own. Nothing of it is trusted that does not
agree. Files that were read whole are not read again; of the one that was being read, only the bytes
are, for its hash. Whatever was given otherwise, or has changed since, begins anew.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, final

from filelock import FileLock, Timeout

from lineage import canonical
from lineage.datasets.readers.base import Done, Source
from lineage.digest import SIZE, blake3_digest
from lineage.errors import FormatError

_CUT = 2
"""How files are cut into jobs; another number whenever that is done otherwise."""

_NAMES = ("journal", "order", "near")
_OF_JOB = {"bad", "blake3", "lines", "near", "records"}
_OF_FILE = {"columns", "digests", "row"}


@final
@dataclass(frozen=True, slots=True)
class Whole:
    """A file that was read to its end.

    Args:
        row: What the manifest says of it.
        columns: The names that its records have.
        digests: Its digests by name.
    """

    row: dict[str, Any]
    columns: tuple[str, ...]
    digests: dict[str, str]


def partial_of(output: Path) -> Path:
    """Return the folder of what is done of a manifest that is not finished."""
    return output.with_name(f".{output.name}.partial")


@contextmanager
def journal(
    output: Path | None, settings: Sequence[Any], sources: Sequence[Source]
) -> Iterator[Journal | None]:
    """Keep what is done of a manifest that is to be saved, until it is or fails.

    Args:
        output: Where it is to be; without, nothing is kept.
        settings: What must be the same for an earlier run's work to be of use.
        sources: The files, which must be the same too; what is in memory is never known again.

    Raises:
        FormatError: If another run is at the same manifest.
    """
    if output is None:
        yield None
        return
    is_kept = all(source.path is not None for source in sources)
    key = _key(settings, sources) if is_kept else os.urandom(SIZE)
    kept = Journal(partial_of(output), key)
    is_over = True
    try:
        yield kept
    except (KeyboardInterrupt, SystemExit):
        is_over = not is_kept
        raise
    finally:
        kept.close(is_over=is_over)


def _key(settings: Sequence[Any], sources: Sequence[Source]) -> bytes:
    files = []
    for source in sources:
        assert source.path is not None
        found = source.path.stat()
        state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        files.append((source.name, source.kind, source.split, repr(source.extra), state))
    return blake3_digest(repr((_CUT, settings, files)).encode())


@final
class Journal:
    """Takes what is done, and tells what an earlier run had done.

    Args:
        folder: Where it is; made if it is not there.
        key: What must be the same for both runs.

    Raises:
        FormatError: If another run is at the same manifest.
    """

    def __init__(self, folder: Path, key: bytes) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._lock = FileLock(folder / "lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise FormatError("another run is writing this manifest", file=folder) from None
        for name in _NAMES:
            (folder / name).touch()
        self._earlier: deque[dict[str, Any]] = deque()
        begin = canonical.dumps({"key": key.hex()}) + b"\n"
        sizes = self._agreed(begin)
        self._file, self.order, self.sketches = (
            _cut(folder / name, size) for name, size in zip(_NAMES, sizes, strict=True)
        )
        if not sizes[0]:
            self._file.write(begin)
        self._old = [(folder / name).open("rb") for name in _NAMES[1:]]

    def earlier(self) -> Done | Whole | None:
        """Return the next thing that is done already; None if there is no more."""
        if not self._earlier:
            return None
        line = self._earlier.popleft()
        if "row" in line:
            return Whole(line["row"], tuple(line["columns"]), line["digests"])
        return self._done(line, *self._old)

    def keep(self, done: Done) -> None:
        """Write down a job."""
        self.order.write(done.digests)
        self.sketches.write(done.near)
        self._write(_job(done))

    def has_whole(self) -> bool:
        """Whether the next file was read to its end."""
        return any("row" in line for line in self._earlier)

    def keep_file(self, whole: Whole) -> None:
        """Write down that a file was read whole."""
        self._write({"columns": list(whole.columns), "digests": whole.digests, "row": whole.row})

    def _write(self, line: dict[str, Any]) -> None:
        self.flush()  # what the journal speaks of must be there first
        self._file.write(canonical.dumps(line) + b"\n")
        self._file.flush()

    def flush(self) -> None:
        """Have everything on disk that is known."""
        self.order.flush()
        self.sketches.flush()

    def close(self, *, is_over: bool) -> None:
        """Close what is open; remove all of it if nobody is to go on from here."""
        for file in (self.order, self.sketches, self._file, *self._old):
            file.close()
        self._lock.release()
        if is_over:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _agreed(self, begin: bytes) -> list[int]:
        """Collect an earlier run's lines as far as the other files agree; return all sizes."""
        order, near, journal = 0, 0, 0
        with (
            (self.folder / "journal").open("rb") as lines,
            (self.folder / "order").open("rb") as digests,
            (self.folder / "near").open("rb") as sketches,
        ):
            if lines.readline() != begin:
                return [0, 0, 0]
            journal = len(begin)
            for text in lines:
                line = _line(text)
                if line is None or set(line) not in (_OF_JOB, _OF_FILE):
                    break
                if "row" not in line:
                    try:
                        done = self._done(line, digests, sketches)
                    except (TypeError, ValueError):  # of other types than were written
                        break
                    if _job(done) != line:
                        break
                    order += len(done.digests)
                    near += len(done.near)
                journal += len(text)
                self._earlier.append(line)
        return [journal, order, near]

    @staticmethod
    def _done(line: dict[str, Any], order: BinaryIO, near: BinaryIO) -> Done:
        digests = order.read(line["records"] * SIZE)
        bad = tuple((number, reason) for number, reason in line["bad"])
        return Done(digests, line["lines"], bad, near.read(line["near"]))


def _cut(path: Path, size: int) -> BinaryIO:
    """Open a file behind what is known of it, the rest cut off."""
    file = path.open("r+b")
    file.truncate(size)
    file.seek(size)
    return file


def _job(done: Done) -> dict[str, Any]:
    return {
        "bad": [list(bad) for bad in done.bad],
        "blake3": blake3_digest(done.digests + done.near).hex(),
        "lines": done.lines,
        "near": len(done.near),
        "records": len(done.digests) // SIZE,
    }


def _line(text: bytes) -> dict[str, Any] | None:
    """Return a line of the journal; None for one that was cut."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) and text.endswith(b"\n") else None
