"""One JSON text: a list of records, or a single record. What is really JSON lines is read so."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path

from lineage.datasets.json_texts import Bad, canonical_texts
from lineage.datasets.readers.base import (
    MOST_SKETCHED,
    Columns,
    Done,
    Job,
    Near,
    Source,
    done,
    pieces,
    without_mark,
)
from lineage.datasets.watched import PIECE, WatchedFile
from lineage.errors import FormatError
from lineage.manifests.records import MAX_RECORD_BYTES, parse_json

unit = "item"
suffixes = (".json", ".json.gz", ".json.zst")

_SPACE = re.compile(r"[ \t\r\n]*")
_SCANNER = json.JSONDecoder()
"""Finds where an item ends; what it is, the strict parser says."""


def jobs(file: WatchedFile, source: Source, near: Near | None) -> Iterator[Job | Columns]:
    """Return a job for every few megabytes of items."""
    held: list[str] = []
    size = 0
    is_first = True
    for item in items_of(file):
        if is_first:
            yield Columns(_names(item))
            is_first = False
        held.append(item)
        size += len(item)
        if size > PIECE or (near is not None and len(held) == MOST_SKETCHED):
            yield _digest, (held, near)
            held, size = [], 0
    if held:
        yield _digest, (held, near)


def items_of(file: WatchedFile) -> Iterator[str]:
    """Return the texts of a file's items."""
    return _items(_text(file), file.path)


def _digest(items: list[str], near: Near | None) -> Done:
    texts = [item.encode() for item in items]
    bad: list[Bad] = []
    for number, text in enumerate(texts):
        if len(text) > MAX_RECORD_BYTES:
            bad.append((number, f"longer than {MAX_RECORD_BYTES} bytes"))
            texts[number] = b""
    return done(canonical_texts(texts, bad), len(items), bad, near)


def _names(item: str) -> tuple[str, ...]:
    try:
        value = parse_json(item.encode())
    except FormatError:
        return ()
    return tuple(value) if isinstance(value, dict) else ()


def _text(file: WatchedFile) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    is_first = True
    try:
        for piece in pieces(file):
            begin, is_first = (without_mark(piece, file.path) if is_first else piece), False
            yield decoder.decode(begin)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise FormatError(f"not UTF-8: {error.reason}", file=file.path) from error


def _items(text: Iterator[str], path: Path) -> Iterator[str]:
    """Cut a list into its items, or a stream of values into them; hold little more than one."""
    buffer = _next(text).lstrip(" \t\r\n")
    while not buffer:
        more = _next(text)
        if not more:
            raise FormatError("no JSON in the file", file=path)
        buffer = more.lstrip(" \t\r\n")
    is_list = buffer[0] == "["
    at = 1 if is_list else 0
    count = 0
    is_over = False
    while True:
        at = _skip(buffer, at)
        if is_list and not count and buffer[at : at + 1] == "]":
            break
        end = _end_of(buffer, at)
        after = _skip(buffer, end) if end else 0
        if not end or (not is_over and (after == len(buffer) or _goes_on(buffer, at, end))):
            more = "" if is_over else _next(text)
            if more:
                buffer, at = buffer[at:] + more, 0
                if len(buffer) > MAX_RECORD_BYTES + 2 * PIECE:
                    reason = f"item {count + 1} is longer than {MAX_RECORD_BYTES} bytes, or broken"
                    raise FormatError(reason, file=path)
                continue
            is_over = True
            if not end:
                raise FormatError(f"item {count + 1} is not JSON, or the file is cut", file=path)
        yield buffer[at:end]
        count += 1
        at = after
        mark = buffer[at : at + 1]
        if is_list and mark == "]":
            break
        if is_list and mark == ",":
            at += 1
        elif is_list:
            reason = f"after item {count} a comma or bracket is missing, or the file is cut"
            raise FormatError(reason, file=path)
        elif not mark:
            return
        if at > PIECE:
            buffer, at = buffer[at:], 0
    if _skip(buffer, at + 1) != len(buffer) or any(_SPACE.fullmatch(t) is None for t in text):
        raise FormatError("something follows the list", file=path)


def _goes_on(buffer: str, at: int, end: int) -> bool:
    """Whether what was read is a number that was cut where its fraction or exponent begins."""
    return buffer[at] in "-0123456789" and buffer[end] in ".eE+-0123456789"


def _next(text: Iterator[str]) -> str:
    return next(text, "")


def _skip(buffer: str, at: int) -> int:
    found = _SPACE.match(buffer, at)
    assert found is not None
    return found.end()


def _end_of(buffer: str, at: int) -> int:
    """Return where the value that starts at `at` ends; 0 where the buffer has not all of it."""
    try:
        return _SCANNER.raw_decode(buffer, at)[1]
    except (json.JSONDecodeError, RecursionError):
        return 0
