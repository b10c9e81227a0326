"""The two roots of a data set: over its records as a multiset, and over them in order.

The set's tree follows the digests' bits: a subtree of no digest is 32 zero bytes, one of up to
`BUCKET` digests is one hash over all of them, and any other is a node over the digests whose next
bit is 0 and those where it is 1. Its shape depends on what is in it and on nothing else, so that a
record that comes or goes changes one path and leaves all other subtrees as they were.

The order's tree is RFC 9162's over runs of `RUN` digests. Both are framed with their counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from lineage import merkle
from lineage.digest import SIZE, blake3_digest, frame
from lineage.errors import FormatError

EMPTY = bytes(SIZE)
"""The hash of a subtree without records; no digest of anything is known to be this."""

MAX_RECORDS = 1 << 48


BUCKET = 16
"""The most digests that are hashed at once, not bit by bit."""

RUN = 1024
"""Digests of one entry of the order's tree."""

Entry = tuple[bytes, int]
"""A digest and how often its record is there."""

Side = tuple[Entry, ...] | bytes
"""A subtree: what is in it, in order, or its hash where that is more than `BUCKET` or not known."""


def bucket(entries: Sequence[Entry]) -> bytes:
    """Return the hash of a few distinct digests, in their order, with their counts."""
    held = b"".join([digest + count.to_bytes(8, "little") for digest, count in entries])
    return blake3_digest(b"\x00" + held)


def node(left: bytes, right: bytes) -> bytes:
    """Return the hash of two subtrees that hold more than `BUCKET` digests."""
    return blake3_digest(b"\x01" + left + right)


def bit(digest: bytes, depth: int) -> int:
    """Return bit `depth` of a digest, the highest of the first byte being 0."""
    return digest[depth >> 3] >> (7 - (depth & 7)) & 1


def set_tree(entries: Sequence[Entry], depth: int = 0) -> bytes:
    """Return the hash of the tree over distinct digests, in their order, and their counts."""
    if len(entries) <= BUCKET:
        return bucket(entries) if entries else EMPTY
    low = 0
    high = len(entries)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if bit(entries[middle][0], depth) else (middle + 1, high)
    return node(set_tree(entries[:low], depth + 1), set_tree(entries[low:], depth + 1))


def hash_of(side: Side, depth: int) -> bytes:
    """Return the hash of a subtree whose digests have `depth` bits in common."""
    return side if isinstance(side, bytes) else set_tree(side, depth)


def joined(left: Side, right: Side, depth: int) -> Side:
    """Return what two neighbouring subtrees make, their parent's digests having `depth` bits alike.

    Few entries stay what they are, as they may yet be hashed further up.
    """
    if isinstance(left, tuple) and isinstance(right, tuple) and len(left) + len(right) <= BUCKET:
        return left + right
    return node(hash_of(left, depth + 1), hash_of(right, depth + 1))


def run_hash(digests: bytes) -> bytes:
    """Return the leaf hash of up to `RUN` digests in their order."""
    return merkle.leaf_hash(digests, blake3_digest)


@final
@dataclass(frozen=True, slots=True)
class Head:
    """A multiset of records in three values; `root` binds the other two.

    Args:
        root: BLAKE3 over both counts and the set's tree.
        records: How many there are.
        distinct: How many different ones.
    """

    root: bytes
    records: int
    distinct: int

    @classmethod
    def over(cls, tree: bytes, records: int, distinct: int) -> Head:
        """Return the head of a tree."""
        return cls(head_root(tree, records, distinct), records, distinct)

    def to_json(self) -> dict[str, Any]:
        """Return the head as JSON."""
        return {"distinct": self.distinct, "records": self.records, "root": self.root.hex()}

    @classmethod
    def from_json(cls, value: Any, field: str) -> Head:
        """Read a head, or raise a FormatError that names the `field`."""
        if not isinstance(value, dict) or set(value) != {"distinct", "records", "root"}:
            raise FormatError(f"{field}: expected distinct, records and root")
        records, distinct = (
            count_of(value[key], f"{field}.{key}") for key in ("records", "distinct")
        )
        if not distinct <= records or (records and not distinct):
            raise FormatError(f"{field}: {distinct} distinct of {records} records")
        return cls(digest_of(value["root"], f"{field}.root"), records, distinct)


def head_root(tree: bytes, records: int, distinct: int) -> bytes:
    """Return the root that binds a tree to its counts."""
    counts = (count.to_bytes(8, "little") for count in (records, distinct))
    return blake3_digest(frame("lineage/records/v1", *counts, tree))


def ordered_root(runs: Sequence[bytes], records: int) -> bytes:
    """Return the root that binds an order to its length, from the hashes of its runs."""
    tree = merkle.root(runs, blake3_digest)
    return blake3_digest(frame("lineage/ordered-records/v1", records.to_bytes(8, "little"), tree))


def file_leaf(name: str, digest: bytes, size: int, records: int) -> bytes:
    """Return the leaf hash of one file of a data set."""
    counts = (count.to_bytes(8, "little") for count in (size, records))
    framed = frame("lineage/data-file/v1", name.encode(), digest, *counts)
    return merkle.leaf_hash(framed, blake3_digest)


def count_of(value: Any, field: str) -> int:
    """Require a count."""
    if type(value) is not int or not 0 <= value < MAX_RECORDS:
        raise FormatError(f"{field}: expected a count")
    return value


def digest_of(value: Any, field: str) -> bytes:
    """Require 64 hexadecimal digits."""
    if not isinstance(value, str) or len(value) != 2 * SIZE or set(value) - set("0123456789abcdef"):
        raise FormatError(f"{field}: expected 64 lower-case hexadecimal digits")
    return bytes.fromhex(value)
