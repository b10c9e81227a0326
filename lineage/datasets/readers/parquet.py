"""Parquet: a record a row; the names and types of columns are those of Arrow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from lineage.datasets import columns
from lineage.datasets.readers.base import Columns, Done, Job, Near, Source, WatchedFile
from lineage.errors import FormatError, printable

unit = "row"
suffixes = (".parquet",)

LARGE = 64 << 20
"""Bytes of a row group from which it is cut, so that more than one core has work."""

SPANS = 4
"""Into how many parts; each reads the group up to its end, which is quick beside hashing."""

Span = tuple[int, int, int]
"""A row group, its first row and the one after the last."""


def jobs(file: WatchedFile, source: Source, near: Near | None) -> Iterator[Job | Columns]:
    """Return a job for every few megabytes of row groups; each reads the file by itself."""
    file.read_rest()
    with _opened(file.path) as opened:
        yield Columns(tuple(opened.schema_arrow.names))
        found = opened.metadata
        held: list[Span] = []
        size = 0
        for number in range(found.num_row_groups):
            group = found.row_group(number)
            spans = SPANS if group.total_byte_size > LARGE else 1
            cuts = [group.num_rows * cut // spans for cut in range(spans + 1)]
            for start, stop in pairwise(cuts):
                held.append((number, start, stop))
                size += group.total_byte_size // spans
                if size > columns.ROW_BYTES:
                    yield _digest, (file.path, held, near)
                    held, size = [], 0
        if held:
            yield _digest, (file.path, held, near)


def _digest(path: Path, spans: list[Span], near: Near | None) -> Done:
    """Digest some rows."""
    parts = []
    with _opened(path) as opened:
        for number, start, stop in spans:  # a group at a time, or many would be read ahead
            group = opened.metadata.row_group(number)
            each = max(1, group.total_byte_size // max(1, group.num_rows))
            rows = max(1, min(columns.MAX_ROWS, columns.ROW_BYTES // each))
            table = opened.iter_batches(batch_size=rows, row_groups=[number], use_threads=False)
            found = columns.batches(_between(table, start, stop))
            parts += [columns.digest(batch, near) for batch in found]
    return Done(
        b"".join(part.digests for part in parts),
        sum(part.lines for part in parts),
        (),
        b"".join(part.near for part in parts),
    )


def _between(batches: Iterator[Any], start: int, stop: int) -> Iterator[Any]:
    """Return the rows from `start` to `stop`."""
    at = 0
    for batch in batches:
        low, high = max(start - at, 0), min(stop - at, batch.num_rows)
        if low < high:
            yield batch.slice(low, high - low)
        at += batch.num_rows
        if at >= stop:
            return


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file; whatever goes wrong with it is a FormatError."""
    pa = columns.library()
    import pyarrow.parquet

    try:
        # By default all of the file is read ahead into memory.
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as opened:
            yield opened
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = f"broken or cut Parquet: {printable(str(error))}"
        raise FormatError(reason, file=path) from error
