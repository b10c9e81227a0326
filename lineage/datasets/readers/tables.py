"""CSV and TSV: a header, then a record a row, every value a string."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from json.encoder import encode_basestring
from typing import final

from lineage.datasets.readers.base import Columns, Done, Job, Near, Source, done, whole_lines
from lineage.datasets.watched import PIECE, WatchedFile
from lineage.errors import FormatError, printable
from lineage.manifests.records import MAX_RECORD_BYTES


@final
class Table:
    """A reader of rows.

    Args:
        mark: What stands between two values.
        suffixes: The file names it takes.
    """

    unit = "line"

    def __init__(self, mark: str, suffixes: tuple[str, ...]) -> None:
        self.mark = mark
        self.suffixes = suffixes

    def jobs(self, file: WatchedFile, source: Source, near: Near | None) -> Iterator[Job | Columns]:
        """Return a job for every few thousand rows."""
        # The module's one limit is everyone's; it is only ever raised.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_RECORD_BYTES))
        rows = csv.reader(lines_of(file), delimiter=self.mark, strict=True)
        try:
            names = next(rows, None)
            if names is None:
                return
            if len(set(names)) != len(names):
                raise FormatError("the header has a column twice", file=file.path)
            yield Columns(tuple(names))
            held: list[tuple[int, list[str]]] = []
            size = 0
            last = rows.line_num
            for row in rows:
                held.append((last, row))
                last = rows.line_num
                size += sum(map(len, row))
                if size > PIECE or len(held) == 20_000:
                    yield _digest, (names, held, near)
                    held, size = [], 0
            yield _digest, (names, held, near)
        except csv.Error as error:
            reason = f"line {rows.line_num}: {printable(str(error))}"
            raise FormatError(reason, file=file.path) from error


csv_files = Table(",", (".csv", ".csv.gz", ".csv.zst"))
tsv_files = Table("\t", (".tsv", ".tsv.gz", ".tsv.zst"))


def lines_of(file: WatchedFile) -> Iterator[str]:
    """Return the lines of a table as text, their ends kept."""
    line = 0
    for lines in whole_lines(file):
        try:
            text = lines.decode()
        except UnicodeDecodeError as error:
            line += lines.count(b"\n", 0, error.start) + 1
            raise FormatError(f"line {line}: not UTF-8", file=file.path) from error
        line += lines.count(b"\n")
        yield from io.StringIO(text, newline="")


def _digest(names: list[str], rows: list[tuple[int, list[str]]], near: Near | None) -> Done:
    order = sorted(range(len(names)), key=lambda i: names[i].encode("utf-16-be"))
    prefixes = [encode_basestring(names[i]) + ":" for i in order]
    texts: list[bytes] = []
    bad: list[tuple[int, str]] = []
    for line, row in rows:
        if len(row) == len(names):
            parts = [p + encode_basestring(row[i]) for p, i in zip(prefixes, order, strict=True)]
            texts.append(("{" + ",".join(parts) + "}").encode())
        elif row:  # a blank line is no record
            bad.append((line, f"{len(row)} values where the header has {len(names)}"))
    return done(texts, 0, bad, near)  # the lines are told from the file's first on
