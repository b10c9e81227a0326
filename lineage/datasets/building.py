"""Builds a manifest: finds files, reads their records in order, hashes and sorts them.

Files are read one after the other, in the order of their names; jobs run on all cores and are
collected in order. Whatever is kept meanwhile is in a folder beside the result, which is gone when
the work is done or broken off; the result appears whole or not at all.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, final

from lineage import merkle
from lineage.datasets import finding, hashing
from lineage.datasets.readers import reader
from lineage.datasets.readers.base import Columns, Done, Near, Source, WatchedFile
from lineage.datasets.sorting import Sorter, subtree, tree_over
from lineage.datasets.stored import (
    BLOCK,
    MAX_HEADER,
    MAX_WORDS,
    NEAR_SCHEME,
    Header,
    file_leaves,
    files_section,
    order_hash,
    pieces_of,
)
from lineage.digest import SIZE, blake3_digest, sha256_digest
from lineage.errors import FormatError
from lineage.files import write_all
from lineage.manifests.records import hidden_digest, salt_of
from lineage.manifests.tree import Head, ordered_root

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
    with ExitStack() as stack:
        folder = stack.enter_context(_spill_beside(output))
        size = sum(s.path.stat().st_size for s in found.sources if s.path is not None)
        pool = stack.enter_context(_workers(size))
        threads = stack.enter_context(ThreadPoolExecutor(_cores()))
        work = _Work(folder, output is not None, how, threads)
        stack.callback(work.close)
        for source in found.sources:
            _read(source, work, pool, progress)
        return work.finish(output, found)


@contextmanager
def _spill_beside(output: Path | None) -> Iterator[Path]:
    """Make a folder for what does not fit in memory; a full disk is told as one."""
    where = None if output is None else output.parent
    if where is not None:
        where.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".manifest-", dir=where))
    try:
        yield folder
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            full = "the disk is full" if error.errno != errno.EFBIG else "no file may be so large"
            reason = f"{full}: sorting digests needs about 120 bytes a record here"
            raise OSError(error.errno, reason, str(where or folder.parent)) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _workers(size: int) -> Executor:
    """Return processes, if it is worth to start them; else threads."""
    if size > WORTH_PROCESSES:
        return ProcessPoolExecutor(_cores(), multiprocessing.get_context("spawn"))
    return ThreadPoolExecutor(_cores())


@final
class _Work:
    """What is known so far: digests in order, digests to sort, files, columns, bad records."""

    def __init__(self, folder: Path, is_saved: bool, how: Options, threads: Executor) -> None:
        self.folder = folder
        self.how = how
        self.near: Near | None = None
        if how.near:
            from lineage.datasets.near import sketches

            self.near = sketches
        self.rows: list[dict[str, Any]] = []
        self.digests: dict[str, dict[str, str]] = {}
        self.skipped: list[dict[str, Any]] = []
        self.skipped_count = 0
        self.columns: dict[str, None] = {}
        self.records = 0
        self._sorter = Sorter(folder, threads)
        self._threads = threads
        self._held: list[bytes] = []
        self._held_size = 0
        self._blocks: list[Future[bytes]] = []
        names = ["order", "near"] if is_saved else []
        self._files: dict[str, BinaryIO] = {name: (folder / name).open("wb") for name in names}

    def close(self) -> None:
        """Close what is open."""
        for file in self._files.values():
            file.close()

    def add(self, done: Done) -> None:
        """Take the digests of a job, the next in order."""
        digests = done.digests
        if self.how.secret is not None:
            digests = _hidden(digests, self.how.secret)
        self.records += len(digests) // SIZE
        if self._files:
            self._files["order"].write(digests)
            self._files["near"].write(done.near)
        self._sorter.add(digests)
        self._held.append(digests)
        self._held_size += len(digests)
        if self._held_size >= 8 * BLOCK * SIZE:
            self._cut(BLOCK * SIZE)

    def _cut(self, size: int) -> None:
        """Hash all that is held but for less than `size` bytes."""
        held = memoryview(b"".join(self._held))
        whole = len(held) // size * size
        for start in range(0, whole, BLOCK * SIZE):
            piece = held[start : min(whole, start + BLOCK * SIZE)]
            self._blocks.append(self._threads.submit(hashing.order_tree, piece))
        self._held, self._held_size = [bytes(held[whole:])], len(held) - whole

    def finish(self, output: Path | None, found: finding.Found) -> Built:
        """Sort, hash what is left, and write the file."""
        if self._held_size:
            self._cut(SIZE)
        ordered = order_hash([future.result() for future in self._blocks])
        tree, distinct = self._sorted(self.folder / "set" if output is not None else None)
        splits: dict[str, int] = {}
        for row in self.rows:
            split = row["split"] or ""
            splits[split] = splits.get(split, 0) + row["records"]
        header = Header(
            head=Head.over(tree, self.records, distinct),
            ordered_root=ordered_root(ordered, self.records),
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
        self.close()
        if output is not None:
            parts = (self.folder / name for name in ("order", "set", "near"))
            pieces = (piece for part in parts for piece in pieces_of(part))
            write_all(output, _chained([line, files], pieces))
        skipped, rows = tuple(self.skipped), tuple(self.rows)
        return Built(header, sha256_digest(line).hex(), skipped, rows, self.digests)

    def _sorted(self, path: Path | None) -> tuple[bytes, int]:
        """Merge all runs; return the tree's hash and the number of distinct digests."""
        distinct = 0
        hashing: list[Future[tuple[int, bytes]]] = []
        with ExitStack() as stack:
            file = None if path is None else stack.enter_context(path.open("wb"))
            for depth, _, entries in self._sorter.parts():
                distinct += len(entries)
                if len(hashing) > 2:
                    hashing[-2].result()  # no more than a few parts in memory
                hashing.append(self._threads.submit(subtree, entries, depth))
                if file is not None:
                    file.write(entries.data)
        return tree_over([future.result() for future in hashing]), distinct


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
    using = reader(source.kind)
    before = work.records
    if source.path is None:  # what is in memory counts as an empty file
        _collect(source, using.jobs(None, source, work.near), work, pool)  # type: ignore[arg-type]
        digest, size = blake3_digest(b""), 0
        work.digests[source.name] = {"blake3": digest.hex()}
    else:
        with WatchedFile(source.path, progress, work.how.digests) as file:
            _collect(source, using.jobs(file, source, work.near), work, pool)
            digest = file.finish()
            size = file.size
            work.digests[source.name] = file.digests()
    if work.how.secret is not None:
        digest = hidden_digest(salt_of(work.how.secret, digest), digest)
    work.rows.append(
        {
            "name": source.name,
            "kind": source.kind,
            "split": source.split,
            "blake3": digest.hex(),
            "bytes": size,
            "records": work.records - before,
        }
    )


def _collect(source: Source, jobs: Iterator[Any], work: _Work, pool: Executor) -> None:
    """Run jobs a few at a time and take their digests in order."""
    running: deque[Future[Done]] = deque()
    line = 0

    def take() -> None:
        nonlocal line
        done = running.popleft().result()
        for number, reason in done.bad:
            _bad(source, line + number + 1, reason, work)
        line += done.lines
        work.add(done)

    try:
        for job in jobs:
            if isinstance(job, Columns):
                work.columns.update(dict.fromkeys(job.names))
                continue
            function, arguments = job
            running.append(pool.submit(function, *arguments))
            if len(running) > 2 * _cores():
                take()
        while running:
            take()
    except FormatError as error:
        if error.file is None:
            raise FormatError(error.reason, file=source.path or source.name) from error
        raise
    finally:
        for future in running:
            future.cancel()


def _bad(source: Source, line: int, reason: str, work: _Work) -> None:
    where = f"{reader(source.kind).unit} {line}"
    if not work.how.skip_bad:
        raise FormatError(f"{where}: {reason}", file=source.path or source.name)
    work.skipped_count += 1
    if len(work.skipped) < MAX_SKIPPED:
        work.skipped.append({"file": source.name, "where": where, "reason": reason})
