"""Small files that prove something of a data set to one who has its root and nothing else.

    inclusion   a record is in it, and how often
    absence     a record is not in it
    removal     the newer is the older without these records, and nothing else changed
    append      the newer is the older and these records
    change      the newer is the older with these records more or fewer
    subset      every record of the older is in the newer, at least as often
    file        a file of this name, size and digest is in it

A proof says of which roots it speaks; whether these are the right ones is for the reader to know.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, final

from lineage import canonical, merkle
from lineage.digest import blake3_digest
from lineage.errors import FormatError, VerificationError
from lineage.manifests import opened
from lineage.manifests.records import hidden_digest
from lineage.manifests.tree import Head, count_of, digest_of, file_leaf, head_root
from lineage.signing import strict_base64

TYPE = "urn:model-lineage:dataset-proof:v1"
MAX_PROOF_BYTES = 1 << 31
KINDS = ("inclusion", "absence", "removal", "append", "change", "subset", "file")

_OF_ONE = {"_type", "kind", "of", "digest", "salt", "tree"}
_OF_TWO = {"_type", "kind", "old", "new", "tree"}
_OF_FILE = {"_type", "kind", "files_root", "index", "files", "file", "path"}


@final
@dataclass(frozen=True, slots=True)
class Proven:
    """What a proof has proven.

    Args:
        kind: One of `KINDS`.
        old: The data set it speaks of, or the older of two; None for a file.
        new: The newer of two; the same as `old` for a proof of one.
        digest: The record's digest, before it was hidden; None for proofs of two data sets.
        count: How often the record is there.
        changes: Each record whose count differs, with both counts.
        file: The file's name, size and digest, and the root of files.
    """

    kind: str
    old: Head | None = None
    new: Head | None = None
    digest: bytes | None = None
    count: int = 0
    changes: tuple[opened.Leaf, ...] = ()
    file: dict[str, Any] | None = None


def of_record(head: Head, digest: bytes, tree: bytes, salt: bytes | None = None) -> bytes:
    """Return the file that proves a record's inclusion, or its absence, whichever `tree` shows.

    Args:
        head: The data set.
        digest: The record's digest.
        tree: The opened tree that leads to the record's place.
        salt: What hides the record in a private manifest.
    """
    found = opened.read(tree)
    inside = digest if salt is None else hidden_digest(salt, digest)
    is_there = any(leaf.digest == inside for leaf in found.leaves)
    document = {
        "_type": TYPE,
        "kind": "inclusion" if is_there else "absence",
        "of": head.to_json(),
        "digest": digest.hex(),
        "salt": None if salt is None else salt.hex(),
        "tree": base64.b64encode(tree).decode(),
    }
    return canonical.dumps(document) + b"\n"


def of_two(kind: str, old: Head, new: Head, tree: bytes) -> bytes:
    """Return the file that proves how two data sets differ."""
    document = {
        "_type": TYPE,
        "kind": kind,
        "old": old.to_json(),
        "new": new.to_json(),
        "tree": base64.b64encode(tree).decode(),
    }
    return canonical.dumps(document) + b"\n"


def of_file(index: int, leaves: list[bytes], row: dict[str, Any]) -> bytes:
    """Return the file that proves file number `index`; `row` has its name, digest and counts."""
    proof = merkle.inclusion_proof(leaves, index, blake3_digest)
    document = {
        "_type": TYPE,
        "kind": "file",
        "files_root": merkle.root(leaves, blake3_digest).hex(),
        "files": len(leaves),
        "index": index,
        "file": {key: row[key] for key in ("name", "blake3", "bytes", "records")},
        "path": [step.hex() for step in proof],
    }
    return canonical.dumps(document) + b"\n"


def check(data: bytes, *, file: object = None) -> Proven:
    """Check a proof.

    Raises:
        FormatError: If `data` is no proof.
        VerificationError: If it does not prove what it says.
    """
    try:
        return _check(data)
    except FormatError as error:
        raise FormatError(error.reason, file=file, offset=error.offset) from error


def _check(data: bytes) -> Proven:
    value = canonical.loads(data, max_bytes=MAX_PROOF_BYTES)
    if not isinstance(value, dict) or value.get("_type") != TYPE:
        raise FormatError(f"_type: expected {TYPE}")
    if canonical.dumps(value) != data.removesuffix(b"\n"):
        raise FormatError("the proof is not in canonical form (RFC 8785)")
    kind = value.get("kind")
    if kind not in KINDS:
        raise FormatError(f"kind: expected one of {', '.join(KINDS)}")
    two = kind in ("removal", "append", "change", "subset")
    wanted = _OF_FILE if kind == "file" else _OF_TWO if two else _OF_ONE
    if set(value) != wanted:
        raise FormatError(f"expected the members {', '.join(sorted(wanted))}")
    if kind == "file":
        return _check_file(value)
    if not isinstance(value["tree"], str):
        raise FormatError("tree: expected base64")
    found = opened.read(strict_base64(value["tree"], "tree"))
    old = Head.from_json(value["old" if two else "of"], "old" if two else "of")
    new = Head.from_json(value["new"], "new") if two else old
    for head, tree, name in ((old, found.before, "older"), (new, found.after, "newer")):
        if head_root(tree, head.records, head.distinct) != head.root:
            which = f"the {name} root" if two else "the root"
            raise VerificationError(f"the opened tree does not lead to {which}")
    return _check_two(kind, old, new, found) if two else _check_one(value, old, found)


def _check_one(value: dict[str, Any], head: Head, found: opened.Opened) -> Proven:
    if found.is_added or any(leaf.before != leaf.after for leaf in found.leaves):
        raise FormatError("tree: two data sets in a proof of one")
    kind = value["kind"]
    digest = digest_of(value["digest"], "digest")
    inside = digest
    if value["salt"] is not None:
        if kind == "absence":  # another salt is another place
            raise FormatError("salt: the absence of a hidden record cannot be proven")
        inside = hidden_digest(digest_of(value["salt"], "salt"), digest)
    count = next((leaf.after for leaf in found.leaves if leaf.digest == inside), 0)
    if kind == "inclusion" and not count:
        raise VerificationError("the record is not among those in the open")
    if kind == "absence" and not found.has_place(inside):
        raise VerificationError("the record's place is not open and empty")
    return Proven(kind, head, head, digest, count)


def _check_two(kind: str, old: Head, new: Head, found: opened.Opened) -> Proven:
    changes = tuple(leaf for leaf in found.leaves if leaf.before != leaf.after)
    proven = Proven(kind, old, new, changes=changes)
    if kind == "subset":
        if any(leaf.before > leaf.after for leaf in changes):
            raise VerificationError("the older has a record more often than the newer")
        return proven
    if found.is_added:
        raise VerificationError("something changed that is not in the open")
    if kind == "removal" and any(leaf.after > leaf.before for leaf in changes):
        raise VerificationError("a record was added")
    if kind == "append" and any(leaf.after < leaf.before for leaf in changes):
        raise VerificationError("a record was removed")
    records = sum(leaf.after - leaf.before for leaf in changes)
    distinct = sum((leaf.after > 0) - (leaf.before > 0) for leaf in changes)
    if (new.records - old.records, new.distinct - old.distinct) != (records, distinct):
        raise VerificationError("the changes do not add up to the counts of the two data sets")
    return proven


def _check_file(value: dict[str, Any]) -> Proven:
    row = value["file"]
    if not isinstance(row, dict) or set(row) != {"name", "blake3", "bytes", "records"}:
        raise FormatError("file: expected name, blake3, bytes and records")
    if not isinstance(row["name"], str):
        raise FormatError("file.name: expected a string")
    index, size = (count_of(value[key], key) for key in ("index", "files"))
    if index >= size:
        raise FormatError(f"index: {index} of {size} files")
    if not isinstance(value["path"], list):
        raise FormatError("path: expected a list")
    proof = [digest_of(step, "path") for step in value["path"]]
    leaf = file_leaf(
        row["name"],
        digest_of(row["blake3"], "file.blake3"),
        count_of(row["bytes"], "file.bytes"),
        count_of(row["records"], "file.records"),
    )
    root = digest_of(value["files_root"], "files_root")
    try:
        merkle.verify_inclusion(leaf, index, size, proof, root, blake3_digest)
    except VerificationError as error:
        raise VerificationError("the path does not lead to the root of files") from error
    return Proven("file", file={**row, "files_root": value["files_root"]})
