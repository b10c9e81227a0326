"""A manifest as a file: a line of JSON, then its sections, each as long as the line says.

    header    RFC 8785 JSON and a line feed
    files     RFC 8785 JSON: the files and what was skipped
    order     32 bytes a record, in order
    set       40 bytes a distinct record: digest and count, in digest order
    near      512 bytes a record, where asked for, in order

Loading a file holds all of it to the header's roots, but for `near`, which no root covers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from lineage import canonical, merkle
from lineage.datasets import hashing
from lineage.datasets.sorting import Entries, prefixes_of
from lineage.digest import SIZE, blake3_digest, sha256_digest
from lineage.errors import FormatError, printable
from lineage.manifests.tree import (
    RUN,
    Head,
    Side,
    count_of,
    digest_of,
    file_leaf,
    hash_of,
    head_root,
    joined,
    ordered_root,
    run_hash,
)

TYPE = "urn:model-lineage:dataset-manifest:v1"
SUFFIX = ".manifest"
MAX_HEADER = 1 << 20
MAX_FILES_BYTES = 1 << 30
MAX_WORDS = 4096
NEAR_BYTES = 512
"""A record's sketch: 128 unsigned 32-bit numbers."""

NEAR_SCHEME = "minhash-v2/hashes=128/seed=1/words=5"

BLOCK = 1 << 16
"""Records that are looked at at once."""

_MEMBERS = {
    "_type", "bytes", "columns", "distinct", "files", "files_bytes", "files_root", "hidden",
    "licence", "near", "ordered_root", "records", "root", "skipped", "source", "splits",
}  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Header:
    """What a manifest says of a data set, in a few lines.

    Args:
        head: The root over the records as a multiset, how many there are and how many distinct.
        ordered_root: The root over the records in order.
        files_root: The root over the files in order.
        files: How many.
        size_bytes: The files' bytes.
        splits: Records by split; those of files that are of none are under "".
        columns: Names that records of some file have, as met.
        skipped: How many bad records were left out.
        hidden: Whether the digests are salted by a secret.
        licence: What the owner says, or the data set's card.
        source: Where it is from, likewise.
        near: The scheme of the sketches for near-duplicates, if there are any.
    """

    head: Head
    ordered_root: bytes
    files_root: bytes
    files: int
    size_bytes: int
    splits: dict[str, int]
    columns: tuple[str, ...]
    skipped: int
    hidden: bool
    licence: str | None
    source: str | None
    near: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the header's members but for its type and the length of the files' section."""
        return {
            "bytes": self.size_bytes,
            "columns": list(self.columns),
            "distinct": self.head.distinct,
            "files": self.files,
            "files_root": self.files_root.hex(),
            "hidden": self.hidden,
            "licence": self.licence,
            "near": self.near,
            "ordered_root": self.ordered_root.hex(),
            "records": self.head.records,
            "root": self.head.root.hex(),
            "skipped": self.skipped,
            "source": self.source,
            "splits": self.splits,
        }

    def to_line(self, files_bytes: int) -> bytes:
        """Return the header as the first line of a file."""
        value = {"_type": TYPE, "files_bytes": files_bytes, **self.to_json()}
        return canonical.dumps(value) + b"\n"


@final
@dataclass(frozen=True, slots=True)
class Manifest:
    """A saved manifest, its digests on disk.

    Args:
        path: The file.
        header: Its header.
        sha256: SHA-256 of the header's line, by which a claim names the data.
        rows: The files: name, kind, split, BLAKE3, bytes, records.
        skipped: Bad records that were left out, the first of them: file, where and why.
        order: The digests in order.
        entries: The distinct digests with their counts.
        near: Sketches in order; empty where there are none.
    """

    path: Path
    header: Header
    sha256: str
    rows: tuple[dict[str, Any], ...]
    skipped: tuple[dict[str, Any], ...]
    order: npt.NDArray[np.uint8]
    entries: Entries
    near: npt.NDArray[np.uint32]

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


def file_leaves(rows: Any) -> list[bytes]:
    """Return the leaf hashes of files."""
    return [
        file_leaf(row["name"], bytes.fromhex(row["blake3"]), row["bytes"], row["records"])
        for row in rows
    ]


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
        line = file.readline(MAX_HEADER)
        if not line.startswith(_BEGIN) or not line.endswith(b"\n"):
            raise FormatError("not a data set's manifest")
        header, files_bytes = _header(line)
        files = file.read(min(files_bytes, path.stat().st_size))
        at = len(line) + files_bytes
        records, distinct = header.head.records, header.head.distinct
        sizes = [SIZE * records, hashing.ENTRY * distinct, NEAR_BYTES * records * bool(header.near)]
        if path.stat().st_size != at + sum(sizes):
            raise FormatError(f"expected {at + sum(sizes)} bytes, found {path.stat().st_size}")
    order, entries, near = (
        _window(path, at + sum(sizes[:i]), size) for i, size in enumerate(sizes)
    )
    rows, skipped = _files(files, header)
    found = Manifest(
        path,
        header,
        sha256_digest(line).hex(),
        rows,
        skipped,
        order.reshape(-1, SIZE),
        entries.reshape(-1, hashing.ENTRY),
        near.view("<u4").reshape(-1, NEAR_BYTES // 4),
    )
    _check(found)
    return found


def _window(path: Path, at: int, size: int) -> npt.NDArray[np.uint8]:
    if not size:
        return np.zeros(0, np.uint8)
    return np.memmap(path, np.uint8, "r", at, (size,))


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


def _header(line: bytes) -> tuple[Header, int]:
    value = canonical.loads(line[:-1], max_bytes=MAX_HEADER)
    if set(value) != _MEMBERS:
        odd = sorted(set(value) ^ _MEMBERS)[0]
        raise FormatError(f"the member '{printable(odd, 80)}' is missing or not known")
    if canonical.dumps(value) + b"\n" != line:
        raise FormatError("the header is not in canonical form (RFC 8785)")
    files_bytes = count_of(value["files_bytes"], "files_bytes")
    if files_bytes > MAX_FILES_BYTES:
        raise FormatError(f"files_bytes: more than {MAX_FILES_BYTES}")
    splits, columns = value["splits"], value["columns"]
    if not isinstance(splits, dict) or len(splits) > MAX_WORDS:
        raise FormatError("splits: expected an object")
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise FormatError("columns: expected names")
    for key in ("licence", "source"):
        if not isinstance(value[key], str | None):
            raise FormatError(f"{key}: expected a string or null")
    if value["near"] not in (None, NEAR_SCHEME):
        raise FormatError(f"near: expected null or {NEAR_SCHEME}")
    if not isinstance(value["hidden"], bool):
        raise FormatError("hidden: expected true or false")
    head = Head.from_json({key: value[key] for key in ("distinct", "records", "root")}, "header")
    if sum(count_of(n, "splits") for n in splits.values()) != head.records:
        raise FormatError("splits: the records do not add up")
    made = Header(
        head,
        digest_of(value["ordered_root"], "ordered_root"),
        digest_of(value["files_root"], "files_root"),
        count_of(value["files"], "files"),
        count_of(value["bytes"], "bytes"),
        splits,
        tuple(columns),
        count_of(value["skipped"], "skipped"),
        value["hidden"],
        value["licence"],
        value["source"],
        value["near"],
    )
    return made, files_bytes


def _files(data: bytes, header: Header) -> tuple[tuple[dict[str, Any], ...], ...]:
    value = canonical.loads(data, max_bytes=MAX_FILES_BYTES)
    if not isinstance(value, dict) or set(value) != {"files", "skipped"}:
        raise FormatError("files: expected files and skipped")
    if not all(isinstance(part, list) for part in value.values()):
        raise FormatError("files: expected lists")
    wanted = {"name", "kind", "split", "blake3", "bytes", "records"}
    for row in value["files"]:
        if (
            not isinstance(row, dict)
            or set(row) != wanted
            or not isinstance(row["name"], str)
            or not isinstance(row["kind"], str)
            or not isinstance(row["split"], str | None)
        ):
            raise FormatError(f"files: expected {', '.join(sorted(wanted))}")
        digest_of(row["blake3"], "files.blake3")
        for key in ("bytes", "records"):
            count_of(row[key], f"files.{key}")
    for row in value["skipped"]:
        if not isinstance(row, dict) or set(row) != {"file", "where", "reason"}:
            raise FormatError("skipped: expected file, where and reason")
        if not all(isinstance(word, str) for word in row.values()):
            raise FormatError("skipped: expected strings")
    rows = value["files"]
    totals = [len(rows), *(sum(row[key] for row in rows) for key in ("bytes", "records"))]
    if totals != [header.files, header.size_bytes, header.head.records]:
        raise FormatError("files: they do not add up to the header's counts")
    return tuple(rows), tuple(value["skipped"])


def files_section(rows: list[dict[str, Any]], skipped: list[dict[str, Any]]) -> bytes:
    """Return the section of files."""
    return canonical.dumps({"files": rows, "skipped": skipped})


def pieces_of(path: Path) -> Iterator[bytes]:
    """Return a part of a manifest that was written beside it."""
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            yield piece


def json_of(found: Manifest) -> dict[str, Any]:
    """Return a manifest as the command line prints it."""
    return {**found.header.to_json(), "sha256": found.sha256, "path": str(found.path)}
