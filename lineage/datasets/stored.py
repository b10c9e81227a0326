"""A manifest as a file: a line of JSON, then its sections, each as long as the line says.

    header    RFC 8785 JSON and a line feed
    files     RFC 8785 JSON: the files and what was skipped
    order     32 bytes a record, in order
    set       40 bytes a distinct record: digest and count, in digest order
    near      512 bytes a record, where asked for, in order

Loading a file holds all of it to the header's roots, but for `near`, which no root covers. The
sections stay on disk, mapped: whoever reads them does so while `held` lasts.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from lineage import merkle
from lineage.artifacts.guard import Guard
from lineage.datasets import hashing
from lineage.datasets.headers import (
    MAX_HEADER,
    NEAR_BYTES,
    TYPE,
    Header,
    file_leaves,
    files_of,
    header_of,
)
from lineage.datasets.sorting import Entries, prefixes_of
from lineage.digest import SIZE, blake3_digest, sha256_digest
from lineage.errors import FormatError
from lineage.manifests.tree import (
    RUN,
    Head,
    Side,
    hash_of,
    head_root,
    joined,
    ordered_root,
    run_hash,
)

BLOCK = 1 << 16
"""Records that are looked at at once."""

_CHANGED = "the file changed while it was read"


@final
@dataclass(frozen=True, slots=True)
class Manifest:
    """A saved manifest, its digests on disk: read them while it is `held`.

    Args:
        path: The file.
        header: Its header.
        sha256: SHA-256 of the header's line, by which a claim names the data.
        rows: The files: name, kind, split, BLAKE3, bytes, records.
        skipped: Bad records that were left out, the first of them: file, where and why.
        order: The digests in order.
        entries: The distinct digests with their counts.
        near: Sketches in order; empty where there are none.
        mapped: The bytes of the file that these three lie in.
        state: Device, inode, size and modification time in ns of the file as it was mapped.
    """

    path: Path
    header: Header
    sha256: str
    rows: tuple[dict[str, Any], ...]
    skipped: tuple[dict[str, Any], ...]
    order: npt.NDArray[np.uint8]
    entries: Entries
    near: npt.NDArray[np.uint32]
    mapped: mmap.mmap = field(repr=False)
    state: tuple[int, int, int, int] = field(repr=False)

    @property
    def head(self) -> Head:
        """The root over the records, with its counts."""
        return self.header.head

    def where(self, number: int) -> tuple[str, int]:
        """Return the file that record `number` is from, and its number there, both from 0."""
        for row in self.rows:
            if number < row["records"]:
                return row["name"], number
            number -= row["records"]
        raise ValueError("no such record")

    def file_leaves(self) -> list[bytes]:
        """Return the leaf hashes of the files."""
        return file_leaves(self.rows)

    def fail(self) -> None:
        """Raise what it means that bytes of the file cannot be read which were there.

        Raises:
            FormatError: If the file changed, as one that was cut short did.
            OSError: If it did not: the disk failed.
        """
        if not self.path.exists() or _state(self.path.stat()) != self.state:
            raise FormatError(_CHANGED, file=self.path)
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(self.path))


def _state(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def held(*manifests: Manifest) -> Iterator[None]:
    """Read manifests while the `with` lasts; what was read of one that was cut is of no use.

    Raises:
        FormatError: On leaving it, if a file was cut short meanwhile.
    """
    with ExitStack() as stack:
        for found in manifests:
            stack.enter_context(Guard(memoryview(found.mapped), found.fail))
        yield


def is_manifest(path: Path) -> bool:
    """Whether a file begins as a manifest does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_BEGIN)) == _BEGIN


_BEGIN = b'{"_type":"%b"' % TYPE.encode()


def load(path: Path | str) -> Manifest:
    """Read a manifest and hold its digests to its roots.

    Raises:
        FormatError: If it is none, is cut, or does not lead to its own roots.
    """
    path = Path(path)
    try:
        return _load(path)
    except FormatError as error:
        raise FormatError(error.reason, file=path, offset=error.offset) from error


def _load(path: Path) -> Manifest:
    with path.open("rb") as file:
        state = _state(os.fstat(file.fileno()))
        size = state[2]
        line = file.readline(MAX_HEADER)
        if not line.startswith(_BEGIN) or not line.endswith(b"\n"):
            raise FormatError("not a data set's manifest")
        header, files_bytes = header_of(line)
        records, distinct = header.head.records, header.head.distinct
        sizes = [SIZE * records, hashing.ENTRY * distinct, NEAR_BYTES * records * bool(header.near)]
        *starts, end = accumulate([len(line) + files_bytes, *sizes])
        if size != end:
            raise FormatError(f"expected {end} bytes, found {size}")
        files = file.read(files_bytes)
        try:
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        except ValueError as error:  # "mmap length is greater than file size"
            raise FormatError(_CHANGED) from error
    if len(files) != files_bytes:
        raise FormatError(_CHANGED)
    order, entries, near = map(np.frombuffer, [mapped] * 3, [np.uint8] * 3, sizes, starts)
    rows, skipped = files_of(files, header)
    found = Manifest(
        path,
        header,
        sha256_digest(line).hex(),
        rows,
        skipped,
        order.reshape(-1, SIZE),
        entries.reshape(-1, hashing.ENTRY),
        near.view("<u4").reshape(-1, NEAR_BYTES // 4),
        mapped,
        state,
    )
    with held(found):
        _check(found)
    return found


def _check(found: Manifest) -> None:
    head = found.head
    for start in range(0, len(found.entries), BLOCK):
        window = found.entries[start : start + BLOCK + 1]
        if not _is_sorted(window):
            raise FormatError("the distinct digests are not in order")
    total = sum(
        int(found.entries[i : i + BLOCK, SIZE:].copy().view("<u8").astype(object).sum())
        for i in range(0, len(found.entries), BLOCK)
    )
    if total != head.records or bool((found.entries[:, SIZE:] == 0).all(axis=1).any()):
        raise FormatError(f"the counts add up to {total}, not to {head.records} records")
    if head_root(set_hash(found.entries), head.records, head.distinct) != head.root:
        raise FormatError("the distinct digests do not lead to the root")
    starts = range(0, len(found.order), RUN)
    runs = [run_hash(found.order[start : start + RUN].tobytes()) for start in starts]
    if ordered_root(runs, head.records) != found.header.ordered_root:
        raise FormatError("the digests in order do not lead to the ordered root")
    if merkle.root(found.file_leaves(), blake3_digest) != found.header.files_root:
        raise FormatError("the files do not lead to the root of files")


def set_hash(entries: Entries, depth: int = 0) -> bytes:
    """Return the hash of the set's tree, some of it in memory at a time."""
    return hash_of(_subtree(entries, depth), depth)


def _subtree(entries: Entries, depth: int) -> Side:
    if len(entries) <= 1 << 18 or depth > 200:
        return hashing.subtree(entries.tobytes(), depth)
    low, high = halves(entries, depth)
    return joined(_subtree(low, depth + 1), _subtree(high, depth + 1), depth)


def halves(entries: Entries, depth: int) -> tuple[Entries, Entries]:
    """Cut entries where bit `depth` of the digest turns from 0 to 1."""
    low, high = 0, len(entries)
    byte, mask = depth >> 3, 128 >> (depth & 7)
    while low < high:
        middle = (low + high) // 2
        if entries[middle, byte] & mask:
            high = middle
        else:
            low = middle + 1
    return entries[:low], entries[low:]


def _is_sorted(entries: Entries) -> bool:
    """Whether digests rise, none twice."""
    first = prefixes_of(entries)
    if bool((first[1:] > first[:-1]).all()):
        return True
    texts = [row.tobytes() for row in entries[:, :SIZE]]
    return all(a < b for a, b in pairwise(texts))


def json_of(found: Manifest) -> dict[str, Any]:
    """Return a manifest as the command line prints it."""
    return {**found.header.to_json(), "sha256": found.sha256, "path": str(found.path)}
