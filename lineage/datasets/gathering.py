"""What is known of a data set while it is read: digests in order and to sort, files, columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, final

from lineage import merkle
from lineage.cores import cores
from lineage.datasets import finding, hashing
from lineage.datasets.base import Built, Options
from lineage.datasets.headers import (
    MAX_HEADER,
    MAX_WORDS,
    NEAR_SCHEME,
    Header,
    file_leaves,
    files_section,
)
from lineage.datasets.readers.base import Done, Near
from lineage.datasets.resuming import Journal
from lineage.datasets.sorting import Sorter, tree_over
from lineage.digest import SIZE, blake3_digest, sha256_digest
from lineage.files import write_all
from lineage.manifests.records import hidden_digest, salt_of
from lineage.manifests.tree import RUN, Head, Side, ordered_root, run_hash


@final
class Gathered:
    """What is known so far.

    Attributes:
        rows: Of the files that were read, what the manifest says of them.
        digests: Their digests by name.
        skipped: The first bad records left out, of `skipped_count`.
        columns: The names of columns, in the order in which they were met.
        records: How many there are.
    """

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
            pieces = (piece for part in parts for piece in _pieces_of(part))
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


def _pieces_of(path: Path) -> Iterator[bytes]:
    """Return a part of a manifest that was written beside it."""
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            yield piece


def _chained(begin: list[bytes], rest: Iterator[bytes]) -> Iterator[bytes]:
    yield from begin
    yield from rest


def _hidden(digests: bytes, secret: bytes) -> bytes:
    found = []
    for start in range(0, len(digests), SIZE):
        digest = digests[start : start + SIZE]
        found.append(hidden_digest(salt_of(secret, digest), digest))
    return b"".join(found)
