"""What a saved manifest says of its data set: a line of JSON, and the section of its files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from lineage import canonical
from lineage.errors import FormatError, printable
from lineage.manifests.tree import Head, count_of, digest_of, file_leaf

TYPE = "urn:model-lineage:dataset-manifest:v1"
MAX_HEADER = 1 << 20
MAX_FILES_BYTES = 1 << 30
MAX_WORDS = 4096
NEAR_BYTES = 512
"""A record's sketch: 128 unsigned 32-bit numbers."""

NEAR_SCHEME = "minhash-v2/hashes=128/seed=1/words=5"

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


def file_leaves(rows: Any) -> list[bytes]:
    """Return the leaf hashes of files."""
    return [
        file_leaf(row["name"], bytes.fromhex(row["blake3"]), row["bytes"], row["records"])
        for row in rows
    ]


def header_of(line: bytes) -> tuple[Header, int]:
    """Return the header that a manifest's first line is, and the length of the files' section.

    Raises:
        FormatError: If it is none.
    """
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


def files_of(data: bytes, header: Header) -> tuple[tuple[dict[str, Any], ...], ...]:
    """Return the files of a section, and the bad records that were left out.

    Raises:
        FormatError: If it is none, or does not add up to the header's counts.
    """
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
