"""JSON lines: a record a line; blank lines are none."""

from __future__ import annotations

from collections.abc import Iterator

from lineage.datasets.json_texts import Bad, canonical_texts
from lineage.datasets.readers.base import Columns, Done, Job, Near, Source, done, whole_lines
from lineage.datasets.watched import WatchedFile
from lineage.errors import FormatError
from lineage.manifests.records import parse_json

unit = "line"
suffixes = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".jsonl.zst", ".ndjson.zst")

LOOKED_AT = 100
"""The lines whose members' names are told as columns."""


def jobs(file: WatchedFile, source: Source, near: Near | None) -> Iterator[Job | Columns]:
    """Return a job for every few megabytes of lines."""
    is_first = True
    for lines in whole_lines(file, near):
        if is_first:
            yield Columns(names_in(lines))
            is_first = False
        yield digest, (lines, near)


def digest(lines: bytes, near: Near | None) -> Done:
    """Digest whole lines."""
    split = lines.split(b"\n")
    bad: list[Bad] = []
    texts = canonical_texts(split, bad)
    return done(texts, len(split) - (split[-1] == b""), bad, near)


def names_in(lines: bytes) -> tuple[str, ...]:
    """Return the names of the members of the first records, as far as these can be read."""
    names: dict[str, None] = {}
    for line in lines.split(b"\n", LOOKED_AT)[:LOOKED_AT]:
        try:
            value = parse_json(line)
        except FormatError:
            continue
        if isinstance(value, dict):
            names.update(dict.fromkeys(value))
    return tuple(names)
