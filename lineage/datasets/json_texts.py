"""Canonical texts of many JSON texts at once, by orjson where it is sure to spell them alike.

`manifests.records` defines what a text is. orjson is many times faster; what it reads or spells
otherwise is found in the bytes of all texts together, going in and coming out, and only those are
read again the slow way, as is everything that orjson refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lineage.errors import FormatError
from lineage.manifests.records import MAX_DEPTH, canonical, parse_json

Bad = tuple[int, str]
"""A text, counted from 0, and what is wrong with it."""

_Bytes = npt.NDArray[np.uint8]

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


GROUP = 32 << 10
"""Bytes of texts that are looked at together: few enough to stay in a processor's cache."""

fast: Any = _found()
"""orjson, if it is installed."""


def canonical_texts(lines: Sequence[bytes], bad: list[Bad]) -> Iterator[bytes]:
    """Return the canonical texts of JSON texts, in order.

    Args:
        lines: A record each; blank ones are no records.
        bad: Takes those that are not JSON, or not in a form that has one meaning.
    """
    count = max(1, GROUP * len(lines) // (1 + sum(map(len, lines))))
    for start in range(0, len(lines), count):
        part = lines[start : start + count]
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
    """Return what orjson makes of each text; None where that is not sure to be canonical.

    Most often nothing of all texts together is unsure, and no text is looked at by itself.
    """
    texts = _by_orjson(lines)
    whole = b"\n".join(lines)
    before = np.frombuffer(whole, np.uint8)
    after = np.frombuffer(b"\n".join([text or b"" for text in texts]), np.uint8)
    colons = after == ord(":")
    unsure: set[int] = set()
    if b"\\" in whole or np.count_nonzero(before == ord(":")) != np.count_nonzero(colons):
        unsure |= _lost_members(lines, texts)
    if _has_sixteen_digits(before):
        unsure |= _where(_LONG, lines)
    if _has(before, b"-0"):
        unsure |= _where(_MINUS_ZERO, lines)
    if max(map(len, lines)) > 2 * MAX_DEPTH:
        unsure |= _deep(before, lines)
    if _has(after, b".0"):
        unsure |= _where(_WHOLE, texts)
    if _has_exponent(after):
        unsure |= _where(_EXPONENT, texts)
    if after.max(initial=0) >= 0xF0:
        unsure |= _where(_ASTRAL_NAME, texts)
    for number in unsure:
        texts[number] = None
    if (colons[:-1] & (after[1:] == ord("n"))).any():
        for number in _where(_NULL, texts):
            value = _without_nulls(fast.loads(texts[number]))
            texts[number] = fast.dumps(value, option=fast.OPT_SORT_KEYS)
    return texts


def _has(held: _Bytes, two: bytes) -> bool:
    return bool(((held[:-1] == two[0]) & (held[1:] == two[1])).any())


def _has_sixteen_digits(held: _Bytes) -> bool:
    run = _digits(held)
    for step in (1, 2, 4, 8):
        run = run[:-step] & run[step:]
    return bool(run.any())


def _has_exponent(held: _Bytes) -> bool:
    """Whether an e stands between a digit and a digit or sign."""
    is_digit, after = _digits(held), held[2:]
    follows = is_digit[2:] | (after == ord("-")) | (after == ord("+"))
    return bool((is_digit[:-2] & (held[1:-1] == ord("e")) & follows).any())


def _digits(held: _Bytes) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = (held - np.uint8(ord("0"))) < 10  # wraps round below
    return found


def _deep(held: _Bytes, lines: Sequence[bytes]) -> set[int]:
    """Return the texts with so many brackets and braces that they may be nested too deep."""
    places = np.flatnonzero(held & 0xDF == ord("["))  # a brace is a bracket and one bit
    if len(places) <= MAX_DEPTH:
        return set()
    ends = np.cumsum([len(line) + 1 for line in lines])
    counts = np.bincount(np.searchsorted(ends, places, "right"))
    return set(np.flatnonzero(counts > MAX_DEPTH).tolist())


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
