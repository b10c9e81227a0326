"""Builds a manifest: finds files, reads their records in order, hashes and sorts them.

Files are read one after the other, in the order of their names; jobs run on all cores and are
collected in order. Whatever is kept meanwhile is in a folder beside the result, which is gone when
the work is done or fails; if it is interrupted, the same call goes on from there. The result
appears whole or not at all.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, final

from lineage.cores import cores
from lineage.datasets import finding, resuming
from lineage.datasets.base import Built, Options
from lineage.datasets.gathering import Gathered
from lineage.datasets.headers import NEAR_BYTES, NEAR_SCHEME, TYPE
from lineage.datasets.readers import parquet, reader
from lineage.datasets.readers.base import Columns, Done, Source
from lineage.datasets.resuming import Journal, Whole
from lineage.datasets.sorting import Sorter
from lineage.datasets.watched import PIECE, WatchedFile
from lineage.digest import blake3_digest
from lineage.errors import FormatError
from lineage.manifests.records import hidden_digest, salt_of

MAX_SKIPPED = 1000
"""Bad records that are listed; all are counted."""

WORTH_PROCESSES = 64 << 20
"""Bytes from which starting processes is worth it."""


def build(
    paths: Iterable[Any],
    output: Path | None = None,
    options: Options | None = None,
    progress: Callable[[int], None] | None = None,
) -> Built:
    """Make the manifest of files, folders and data sets in memory.

    Args:
        paths: Paths; or `datasets.Dataset`s, Arrow tables, iterables of records.
        output: Where to save it; by default only its header is made.
        options: How to read.
        progress: Told of every byte read.

    Raises:
        FormatError: On whatever cannot be read; it names the file and the record.
        OSError: If a file is not there, or the disk is full.
    """
    how = options or Options()
    if how.secret is not None and how.near:
        raise ValueError("sketches for near-duplicates tell what a private manifest hides")
    found = finding.find(paths, how.kind)
    where = Path(tempfile.gettempdir()) if output is None else output.parent
    where.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(_told_when_full(where))
        journal = stack.enter_context(resuming.journal(output, _settings(how), found.sources))
        folder = stack.enter_context(_spill(journal))
        pool = stack.enter_context(_workers(found.sources))
        threads = stack.enter_context(ThreadPoolExecutor(cores()))
        work = Gathered(folder, journal, how, Sorter(folder, threads))
        for source in found.sources:
            _read(source, work, pool, progress)
        return work.finish(output, found, pool)


def _settings(how: Options) -> list[Any]:
    """Return what of the options changes what is found in a file, and no secret."""
    secret = None if how.secret is None else blake3_digest(b"resuming" + how.secret).hex()
    near = NEAR_BYTES * how.near
    return [TYPE, NEAR_SCHEME, near, how.skip_bad, sorted(how.digests), PIECE, secret]


@contextmanager
def _told_when_full(where: Path) -> Iterator[None]:
    """Say of a full disk what it was needed for."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            full = "the disk is full" if error.errno != errno.EFBIG else "no file may be so large"
            reason = f"{full}: sorting digests needs about 120 bytes a record here"
            raise OSError(error.errno, reason, str(where)) from error
        raise


@contextmanager
def _spill(journal: Journal | None) -> Iterator[Path]:
    """Make a folder for what does not fit in memory."""
    if journal is None:
        with tempfile.TemporaryDirectory(prefix="manifest-") as name:
            yield Path(name)
        return
    folder = journal.folder / "sorting"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder  # goes with the journal's


def _workers(sources: Iterable[Source]) -> Executor:
    """Return processes, if it is worth to start them; else threads."""
    if any(size > WORTH_PROCESSES for size in accumulate(map(_size, sources))):
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(cores(), context, initializer=_prepare)
    return ThreadPoolExecutor(cores())


def _size(source: Source) -> int:
    """Return about how many bytes of records a file has."""
    if source.path is None:
        return 0
    return parquet.size(source.path) if source.kind == "parquet" else source.path.stat().st_size


def _prepare() -> None:
    """Have Arrow, once it is imported, take memory from the system.

    Its own pool gives back what it could use for the next batch: a fifth of the time, and 50 MiB.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")


def _read(
    source: Source, work: Gathered, pool: Executor, progress: Callable[[int], None] | None
) -> None:
    """Read one file: its records, and its row."""
    file = _File(source, work, pool)
    whole = file.known() if work.journal is not None and work.journal.has_whole() else None
    if whole is None:
        whole = file.read(progress)
        if work.journal is not None:
            work.journal.keep_file(whole)
    elif progress is not None:
        progress(whole.row["bytes"])
    work.columns.update(dict.fromkeys(whole.columns))
    work.digests[source.name] = whole.digests
    work.rows.append(whole.row)


@final
class _File:
    """Takes the jobs of one file in order, whether they are done already or not."""

    def __init__(self, source: Source, work: Gathered, pool: Executor) -> None:
        self._source = source
        self._work = work
        self._pool = pool
        self._running: deque[Future[Done]] = deque()
        self._line = 0

    def known(self) -> Whole:
        """Take all of a file that an earlier run read."""
        assert self._work.journal is not None
        while isinstance(done := self._work.journal.earlier(), Done):
            self._take(done, is_new=False)
        assert done is not None
        return done

    def read(self, progress: Callable[[int], None] | None) -> Whole:
        """Read a file, and run those of its jobs that no earlier run did."""
        source, work = self._source, self._work
        using = reader(source.kind)
        before = work.records
        if source.path is None:  # what is in memory counts as an empty file
            columns = self._collect(using.jobs(None, source, work.near))  # type: ignore[arg-type]
            digest, size = blake3_digest(b""), 0
            digests = {"blake3": digest.hex()}
        else:
            with WatchedFile(source.path, progress, work.how.digests) as file:
                columns = self._collect(using.jobs(file, source, work.near))
                digest = file.finish()
                size = file.size
                digests = file.digests()
        if work.how.secret is not None:
            digest = hidden_digest(salt_of(work.how.secret, digest), digest)
        row = {
            "name": source.name,
            "kind": source.kind,
            "split": source.split,
            "blake3": digest.hex(),
            "bytes": size,
            "records": work.records - before,
        }
        return Whole(row, columns, digests)

    def _collect(self, jobs: Iterator[Any]) -> tuple[str, ...]:
        """Run jobs, a few at a time, and take their digests in order; return the columns."""
        names: dict[str, None] = {}
        source, journal = self._source, self._work.journal
        try:
            for job in jobs:
                if isinstance(job, Columns):
                    names.update(dict.fromkeys(job.names))
                    continue
                known = None if journal is None else journal.earlier()
                if isinstance(known, Done):
                    self._take(known, is_new=False)
                    continue
                function, arguments = job
                self._running.append(self._pool.submit(function, *arguments))
                if len(self._running) > 2 * cores():
                    self._take(self._running.popleft().result(), is_new=True)
            while self._running:
                self._take(self._running.popleft().result(), is_new=True)
        except FormatError as error:
            if error.file is None:
                raise FormatError(error.reason, file=source.path or source.name) from error
            raise
        finally:
            for future in self._running:
                future.cancel()
        return tuple(names)

    def _take(self, done: Done, *, is_new: bool) -> None:
        for number, reason in done.bad:
            _bad(self._source, self._line + number + 1, reason, self._work)
        self._line += done.lines
        if is_new:
            self._work.add(done)
        else:
            self._work.take(done)


def _bad(source: Source, line: int, reason: str, work: Gathered) -> None:
    where = f"{reader(source.kind).unit} {line}"
    if not work.how.skip_bad:
        raise FormatError(f"{where}: {reason}", file=source.path or source.name)
    work.skipped_count += 1
    if len(work.skipped) < MAX_SKIPPED:
        work.skipped.append({"file": source.name, "where": where, "reason": reason})
