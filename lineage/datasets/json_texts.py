"""Canonical texts of many JSON texts at once, by orjson where it is sure to spell them alike.

`manifests.records` defines what a text is. orjson is many times faster; what it reads or spells
otherwise is found in the bytes of all texts together, going in and coming out, and only those are
read again the slow way, as is everything that orjson refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from lineage.errors import FormatError
from lineage.manifests.records import MAX_DEPTH, canonical, parse_json

Bad = tuple[int, str]
"""A text, counted from 0, and what is wrong with it."""

_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_KINDS = bytes.maketrans(b"+-123456789" + bytes(range(0xF1, 0x100)), b"0" * 11 + b"\xf0" * 15)
"""Digits and signs are one byte here, and all that begins four bytes of UTF-8 another."""

_LONG = re.compile(rb'(?<![.0-9])[0-9]{16,}(?![0-9"])')
"""What may be an integer that no double holds."""

_MINUS_ZERO = re.compile(rb"-0(?=[,\]} \t\r\n]|$)")

_WHOLE = re.compile(rb"\.0(?=[,\]}\n]|$)")
"""How orjson spells whole doubles, and RFC 8785 does not."""

_EXPONENT = re.compile(rb"[0-9]e[+-]?[0-9]+(?=[,\]}\n]|$)")
"""How it spells very small and large ones."""

_ASTRAL_NAME = re.compile(rb'[\xf0-\xff](?:[^"\\]|\\.)*":')
"""A name with characters that sort another way in UTF-16."""

_NULL = re.compile(rb":null[,}]")


def _found() -> Any:
    try:
        import orjson
    except ImportError:  # slower, and the same
        return None
    return orjson


GROUP = 256
"""Texts that are looked at together: so few that they stay in a processor's cache."""

fast: Any = _found()
"""orjson, if it is installed."""


def canonical_texts(lines: Sequence[bytes], bad: list[Bad]) -> Iterator[bytes]:
    """Return the canonical texts of JSON texts, in order.

    Args:
        lines: A record each; blank ones are no records.
        bad: Takes those that are not JSON, or not in a form that has one meaning.
    """
    for start in range(0, len(lines), GROUP):
        part = lines[start : start + GROUP]
        spelled: Sequence[bytes | None] = [None] * len(part) if fast is None else _spelled(part)
        for number, (line, text) in enumerate(zip(part, spelled, strict=True), start):
            if text is not None:
                yield text
            elif line.strip(b" \t\r\n"):
                try:
                    yield canonical(parse_json(line))
                except FormatError as error:
                    bad.append((number, error.reason))


def _spelled(lines: Sequence[bytes]) -> list[bytes | None]:
    """Return what orjson makes of each text; None where that is not sure to be canonical."""
    texts = _by_orjson(lines)
    before = b"\n".join(lines)
    after = b"\n".join([text or b"" for text in texts])
    unsure: set[int] = set()
    if b"\\u003" in before or before.count(b":") != after.count(b":"):
        unsure |= _lost_members(lines, texts)
    if b"0" * 16 in before.translate(_DIGITS):
        unsure |= _where(_LONG, lines)
    if _MINUS_ZERO.search(before):
        unsure |= _where(_MINUS_ZERO, lines)
    if _WHOLE.search(after):
        unsure |= _where(_WHOLE, texts)
    kinds = after.translate(_KINDS)
    if b"0e0" in kinds:
        unsure |= _where(_EXPONENT, texts)
    if b"\xf0" in kinds:
        unsure |= _where(_ASTRAL_NAME, texts)
    if len(before) > 2 * MAX_DEPTH and before.count(b"[") + before.count(b"{") > MAX_DEPTH:
        unsure |= {n for n, x in enumerate(lines) if x.count(b"[") + x.count(b"{") > MAX_DEPTH}
    for number in unsure:
        texts[number] = None
    if b":null" in after:
        for number in _where(_NULL, texts):
            value = _without_nulls(fast.loads(texts[number]))
            texts[number] = fast.dumps(value, option=fast.OPT_SORT_KEYS)
    return texts


def _where(what: re.Pattern[bytes], texts: Sequence[bytes | None]) -> set[int]:
    return {number for number, text in enumerate(texts) if text and what.search(text)}


def _by_orjson(lines: Sequence[bytes]) -> list[bytes | None]:
    """Return the texts with their members by name; None where orjson refuses."""
    loads, dumps, option = fast.loads, fast.dumps, fast.OPT_SORT_KEYS
    refused = (fast.JSONDecodeError, fast.JSONEncodeError)
    try:
        return [dumps(loads(line), option=option) for line in lines]
    except refused:
        pass
    texts: list[bytes | None] = []
    for line in lines:
        try:
            texts.append(dumps(loads(line), option=option))
        except refused:
            texts.append(None)
    return texts


def _lost_members(lines: Sequence[bytes], texts: Sequence[bytes | None]) -> set[int]:
    """Return the texts with a name twice, or perhaps.

    orjson keeps the last of two members of one name. Then a colon is missing from what it writes,
    and nothing else takes or adds one, unless one is written as an escape.
    """
    pairs = enumerate(zip(lines, texts, strict=True))
    return {
        number
        for number, (line, text) in pairs
        if text and (b"\\u003" in line or line.count(b":") != text.count(b":"))
    }


def _without_nulls(value: Any) -> Any:
    """Return a value without members that are null, at every depth."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
