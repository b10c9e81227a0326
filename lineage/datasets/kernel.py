"""The loops over records and trees: compiled where there is a compiler, in Python behind it.

`_records.c` takes the lines it is sure of; every other line, and every error, is `manifests`'.
`LINEAGE_KERNEL=numpy` asks for Python alone, as for the sketch.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from lineage.digest import SIZE
from lineage.errors import FormatError
from lineage.manifests import tree
from lineage.manifests.records import canonical, parse_json, record_digest

ENTRY = SIZE + 8
"""Bytes of a distinct digest and its count."""


def _found() -> Any:
    if os.environ.get("LINEAGE_KERNEL") == "numpy":
        return None
    try:
        return import_module("lineage.datasets._records")
    except ImportError:
        return None


compiled: Any = _found()
"""The compiled module (`_records.c` documents its functions), or None."""

Bad = tuple[int, str]
"""A line, counted from 0, and what is wrong with it."""


def digest_lines(data: bytes) -> tuple[bytes, int, list[Bad]]:
    """Return the digests of the records in lines of JSON, the lines, and those that are no record.

    Args:
        data: Whole lines; blank ones are no records.
    """
    bad: list[Bad] = []
    if compiled is None:
        digests = []
        lines = data.split(b"\n")
        for number, line in enumerate(lines):
            if line.strip(b" \t\r"):
                digests.append(_digest_line(line, number, bad))
        count = len(lines) - (lines[-1] == b"")
        return b"".join(digests), count, bad
    found, count, unsure = compiled.digest_lines(data)
    if not unsure:
        return found, count, bad
    pieces = []
    begin = 0
    for record, number, start, end in struct.iter_unpack("=4q", unsure):
        pieces.append(found[begin * SIZE : record * SIZE])
        pieces.append(_digest_line(data[start:end], number, bad))
        begin = record + 1
    pieces.append(found[begin * SIZE :])
    return b"".join(pieces), count, bad


def _digest_line(line: bytes, number: int, bad: list[Bad]) -> bytes:
    try:
        return record_digest(canonical(parse_json(line)))
    except FormatError as error:
        bad.append((number, error.reason))
        return b""


def digest_texts(texts: Sequence[bytes]) -> bytes:
    """Return the digests of records from their canonical texts."""
    if compiled is None:
        return b"".join(map(record_digest, texts))
    offsets = [0]
    for text in texts:
        offsets.append(offsets[-1] + len(text))
    packed = struct.pack(f"={len(offsets)}q", *offsets)
    digests: bytes = compiled.digest_texts(b"".join(texts), packed)
    return digests


def set_tree(entries: bytes | memoryview, depth: int = 0) -> bytes:
    """Return the hash of the set's tree from `depth` on; `entries` are `ENTRY` bytes each."""
    if compiled is not None:
        found: bytes = compiled.set_tree(entries, depth)
        return found
    data = bytes(entries)
    pairs = [(d, int.from_bytes(n, "little")) for d, n in struct.iter_unpack(f"{SIZE}s8s", data)]
    return tree.set_tree(pairs, depth)


def order_tree(digests: bytes | memoryview) -> bytes:
    """Return the RFC 9162 root over digests of 32 bytes, one or more."""
    if compiled is not None:
        found: bytes = compiled.order_tree(digests)
        return found
    return tree.order_tree([d for (d,) in struct.iter_unpack(f"{SIZE}s", bytes(digests))])
