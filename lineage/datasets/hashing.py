"""The loops over records and trees.

`manifests` defines what is hashed. Lines of JSON that orjson is sure to spell as it does are left
to orjson, which is many times faster; every other line, and every error, is `manifests`'.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Any

from lineage.digest import SIZE
from lineage.errors import FormatError
from lineage.manifests import tree
from lineage.manifests.records import MAX_DEPTH, canonical, parse_json, record_digest

ENTRY = SIZE + 8
"""Bytes of a distinct digest and its count."""

_UNSURE = re.compile(rb"(?<![.0-9])[0-9]{16}|[0-9][eE]|-0|null|\\u|[\xf0-\xff]")
"""What orjson reads otherwise, or spells otherwise than RFC 8785: long numbers, exponents, negative
zero, members that are left out, escapes, and names that sort another way in UTF-16."""

_OTHERWISE = re.compile(rb"\.0(?![0-9])|[0-9]e")
"""How orjson spells whole doubles and very small or large ones, and RFC 8785 does not."""


def _found() -> Any:
    try:
        import orjson
    except ImportError:  # slower, and the same
        return None
    return orjson


fast: Any = _found()
"""orjson, if it is installed."""

Bad = tuple[int, str]
"""A line, counted from 0, and what is wrong with it."""


def digest_lines(data: bytes) -> tuple[bytes, int, list[Bad]]:
    """Return the digests of the records in lines of JSON, the lines, and those that are no record.

    Args:
        data: Whole lines; blank ones are no records.
    """
    bad: list[Bad] = []
    digests = []
    lines = data.split(b"\n")
    for number, line in enumerate(lines):
        if line.strip(b" \t\r"):
            digests.append(_digest_line(line, number, bad))
    count = len(lines) - (lines[-1] == b"")
    return b"".join(digests), count, bad


def _digest_line(line: bytes, number: int, bad: list[Bad]) -> bytes:
    text = _spelled(line)
    try:
        return record_digest(canonical(parse_json(line)) if text is None else text)
    except FormatError as error:
        bad.append((number, error.reason))
        return b""


def _spelled(line: bytes) -> bytes | None:
    """Return the canonical text of a record as orjson spells it; None where that is not sure.

    orjson keeps the last of two members of one name. Then a colon is missing from what it writes,
    and nothing else takes or adds one where no character is escaped by its number.
    """
    if fast is None or _UNSURE.search(line) or line.count(b"[") + line.count(b"{") > MAX_DEPTH:
        return None
    try:
        text: bytes = fast.dumps(fast.loads(line), option=fast.OPT_SORT_KEYS)
    except (fast.JSONDecodeError, fast.JSONEncodeError):
        return None
    is_sure = text.count(b":") == line.count(b":") and not _OTHERWISE.search(text)
    return text if is_sure else None


def digest_texts(texts: Sequence[bytes]) -> bytes:
    """Return the digests of records from their canonical texts."""
    return b"".join(map(record_digest, texts))


def set_tree(entries: bytes | memoryview, depth: int = 0) -> bytes:
    """Return the hash of the set's tree from `depth` on; `entries` are `ENTRY` bytes each."""
    data = bytes(entries)
    pairs = [(d, int.from_bytes(n, "little")) for d, n in struct.iter_unpack(f"{SIZE}s8s", data)]
    return tree.set_tree(pairs, depth)


def order_tree(digests: bytes | memoryview) -> bytes:
    """Return the RFC 9162 root over digests of 32 bytes, one or more."""
    return tree.order_tree([d for (d,) in struct.iter_unpack(f"{SIZE}s", bytes(digests))])
