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
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, final

from lineage import merkle
from lineage.cores import cores
from lineage.datasets import finding, hashing, resuming
from lineage.datasets.readers import parquet, reader
from lineage.datasets.readers.base import PIECE, Columns, Done, Near, Source, WatchedFile
from lineage.datasets.resuming import Journal, Whole
from lineage.datasets.sorting import Sorter, tree_over
from lineage.datasets.stored import (
    MAX_HEADER,
    MAX_WORDS,
    NEAR_BYTES,
    NEAR_SCHEME,
    TYPE,
    Header,
    file_leaves,
    files_section,
    pieces_of,
)
from lineage.digest import SIZE, blake3_digest, sha256_digest
from lineage.errors import FormatError
from lineage.files import write_all
from lineage.manifests.records import hidden_digest, salt_of
from lineage.manifests.tree import RUN, Head, Side, ordered_root, run_hash

MAX_SKIPPED = 1000
"""Bad records that are listed; all are counted."""


WORTH_PROCESSES = 64 << 20
"""Bytes from which starting processes is worth it."""


@final
@dataclass(frozen=True, slots=True)
class Options:
    """How a data set is read.

    Args:
        kind: What all files are read as; by default each by its name.
        skip_bad: Whether bad records are left out, counted and listed, instead of refused.
        licence: What the manifest says of the licence; by default what a card in the folder says.
        source: Where the data are from.
        secret: 32 bytes that salt every digest, for a manifest that does not tell what is in it.
        near: Whether to sketch records for near-duplicates.
        digests: Other hashes of the files to take: `md5`, `sha256`, ...
    """

    kind: str | None = None
    skip_bad: bool = False
    licence: str | None = None
    source: str | None = None
    secret: bytes | None = None
    near: bool = False
    digests: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Built:
    """A manifest that was made.

    Args:
        header: What it says.
        sha256: SHA-256 of its header's line.
        skipped: The first bad records left out.
        rows: Its files.
        digests: The files' digests by name, with those of other hashes that were asked for.
    """

    header: Header
    sha256: str
    skipped: tuple[dict[str, Any], ...]
    rows: tuple[dict[str, Any], ...]
    digests: dict[str, dict[str, str]]


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
        work = _Work(folder, journal, how, Sorter(folder, threads))
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


@final
class _Work:
    """What is known so far: digests in order, digests to sort, files, columns, bad records."""

    def __init__(self, folder: Path, journal: Journal | None, how: Options, sorter: Sorter) -> None:
        self.folder = folder
        self.journal = journal
        self.how = how
        self.near: Near | None = None
        if how.near:
            from lineage.datasets.near import empty, sketches

            empty()  # if datasketch is missing, it is said before anything is read
            self.near = sketches
        self.rows: list[dict[str, Any]] = []
        self.digests: dict[str, dict[str, str]] = {}
        self.skipped: list[dict[str, Any]] = []
        self.skipped_count = 0
        self.columns: dict[str, None] = {}
        self.records = 0
        self._sorter = sorter
        self._runs: list[bytes] = []
        self._rest = b""

    def add(self, done: Done) -> None:
        """Take the digests of a job, the next in order."""
        if self.how.secret is not None:
            done = replace(done, digests=_hidden(done.digests, self.how.secret))
        if self.journal is not None:
            self.journal.keep(done)
        self.take(done)

    def take(self, done: Done) -> None:
        """Take digests as they are kept."""
        self.records += len(done.digests) // SIZE
        self._sorter.add(done.digests)
        held = self._rest + done.digests
        whole = len(held) // (RUN * SIZE) * RUN * SIZE
        self._runs += [run_hash(held[at : at + RUN * SIZE]) for at in range(0, whole, RUN * SIZE)]
        self._rest = held[whole:]

    def finish(self, output: Path | None, found: finding.Found, pool: Executor) -> Built:
        """Sort, hash what is left, and write the file."""
        if self._rest:
            self._runs.append(run_hash(self._rest))
        tree, distinct = self._sorted(None if output is None else self.folder / "set", pool)
        splits: dict[str, int] = {}
        for row in self.rows:
            split = row["split"] or ""
            splits[split] = splits.get(split, 0) + row["records"]
        header = Header(
            head=Head.over(tree, self.records, distinct),
            ordered_root=ordered_root(self._runs, self.records),
            files_root=merkle.root(file_leaves(self.rows), blake3_digest),
            files=len(self.rows),
            size_bytes=sum(row["bytes"] for row in self.rows),
            splits=splits,
            columns=_told(self.columns),
            skipped=self.skipped_count,
            hidden=self.how.secret is not None,
            licence=self.how.licence or found.licence,
            source=self.how.source or found.source,
            near=NEAR_SCHEME if self.near else None,
        )
        files = files_section(self.rows, self.skipped)
        line = header.to_line(len(files))
        if output is not None and self.journal is not None:
            self.journal.flush()
            kept = self.journal.folder
            parts = (kept / "order", self.folder / "set", kept / "near")
            pieces = (piece for part in parts for piece in pieces_of(part))
            write_all(output, _chained([line, files], pieces))
        skipped, rows = tuple(self.skipped), tuple(self.rows)
        return Built(header, sha256_digest(line).hex(), skipped, rows, self.digests)

    def _sorted(self, path: Path | None, pool: Executor) -> tuple[bytes, int]:
        """Merge all runs; return the tree's hash and the number of distinct digests."""
        distinct = depth = 0
        parts: list[Future[Side]] = []
        with ExitStack() as stack:
            file = None if path is None else stack.enter_context(path.open("wb"))
            for depth, _, entries in self._sorter.parts():
                distinct += len(entries)
                if len(parts) > 2 * cores():
                    parts[-2 * cores()].result()  # no more than a few parts in memory
                data = entries.tobytes()
                parts.append(pool.submit(hashing.subtree, data, depth))
                if file is not None:
                    file.write(data)
        return tree_over([future.result() for future in parts], depth), distinct


def _told(names: Iterable[str]) -> tuple[str, ...]:
    """Return the first names, as many as a header has room for, however they are escaped."""
    told: list[str] = []
    left = MAX_HEADER // 8
    for name in names:
        left -= len(name.encode()) + 1
        if left < 0 or len(told) == MAX_WORDS:
            break
        told.append(name)
    return tuple(told)


def _chained(begin: list[bytes], rest: Iterator[bytes]) -> Iterator[bytes]:
    yield from begin
    yield from rest


def _hidden(digests: bytes, secret: bytes) -> bytes:
    found = []
    for start in range(0, len(digests), SIZE):
        digest = digests[start : start + SIZE]
        found.append(hidden_digest(salt_of(secret, digest), digest))
    return b"".join(found)


def _read(
    source: Source, work: _Work, pool: Executor, progress: Callable[[int], None] | None
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

    def __init__(self, source: Source, work: _Work, pool: Executor) -> None:
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


def _bad(source: Source, line: int, reason: str, work: _Work) -> None:
    where = f"{reader(source.kind).unit} {line}"
    if not work.how.skip_bad:
        raise FormatError(f"{where}: {reason}", file=source.path or source.name)
    work.skipped_count += 1
    if len(work.skipped) < MAX_SKIPPED:
        work.skipped.append({"file": source.name, "where": where, "reason": reason})
