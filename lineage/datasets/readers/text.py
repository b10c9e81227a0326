"""Text: a record a line, `{"text": line}`, as other readers of text make it; no line is dropped."""

from __future__ import annotations

from collections.abc import Iterator
from json.encoder import encode_basestring

from lineage.datasets.readers.base import Columns, Done, Job, Near, Source, done, whole_lines
from lineage.datasets.watched import WatchedFile

unit = "line"
suffixes = (".txt", ".text", ".txt.gz", ".txt.zst")


def jobs(file: WatchedFile, source: Source, near: Near | None) -> Iterator[Job | Columns]:
    """Return a job for every few megabytes of lines."""
    yield Columns(("text",))
    for lines in whole_lines(file, near):
        yield _digest, (lines, near)


def _digest(data: bytes, near: Near | None) -> Done:
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    texts, bad = [], []
    for number, line in enumerate(lines):
        try:
            text = line.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            bad.append((number, f"not UTF-8 (byte {error.start} of the line)"))
            continue
        texts.append(b'{"text":%b}' % encode_basestring(text).encode())
    return done(texts, len(lines), bad, near)
