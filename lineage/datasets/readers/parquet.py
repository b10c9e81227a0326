"""Parquet: a record a row; the names and types of columns are those of Arrow."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, final

from lineage.datasets import arrays, batches
from lineage.datasets.readers.base import Columns, Done, Job, Near, Source
from lineage.datasets.watched import WatchedFile
from lineage.errors import FormatError, printable

unit = "row"
suffixes = (".parquet",)

JOB_BYTES = 8 << 20
"""About what a job takes at least as texts: opening the file takes its time, too."""

JOB_ROWS = 1 << 19
"""The most rows of a job: their digests are held until their turn comes."""

LARGE = 64 << 20
"""Bytes of a last row group from which it is cut, so that more than one core has work."""

SPANS = 4
"""Into how many parts; each reads the group up to its end."""

MAX_SPANS = 64
"""Into how many parts any group is cut, whatever it says of its rows."""

SHARED = 64 << 20
"""Bytes that a batch may unpack to where one value may stand in many rows."""

RATIO = 1000
"""How much smaller than its values a column may be, whatever the file says of their size."""

ROW = 100
"""Bytes that a row takes as text at least, about."""

Span = tuple[int, int, int]
"""A row group, its first row and the one after the last."""

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}


def jobs(file: WatchedFile, source: Source, near: Near | None) -> Iterator[Job | Columns]:
    """Return a job for every few megabytes of row groups; each reads the file by itself.

    Meanwhile the file is hashed, as far as the jobs got.
    """
    with _opened(file.path) as opened:
        yield Columns(tuple(opened.schema_arrow.names))
        found = opened.metadata
        held: list[Span] = []
        size = 0
        for number in range(found.num_row_groups):
            group = found.row_group(number)
            is_last = number == found.num_row_groups - 1
            least = SPANS if is_last and group.total_byte_size > LARGE else 1
            spans = min(max(least, -(-group.num_rows // JOB_ROWS)), MAX_SPANS)
            cuts = [group.num_rows * cut // spans for cut in range(spans + 1)]
            for start, stop in pairwise(cuts):
                held.append((number, start, stop))
                size += (group.total_byte_size + ROW * group.num_rows) // spans
                if size > JOB_BYTES or spans > 1:
                    yield _digest, (file.path, held, near)
                    held, size = [], 0
                    file.read_to(_end(file.path, number))
        if held:
            yield _digest, (file.path, held, near)
    file.read_rest()


def size(path: Path) -> int:
    """Return about how many bytes a file's rows take as texts, which it may hold in far fewer."""
    with _opened(path) as opened:
        found = opened.metadata
    groups = map(found.row_group, range(found.num_row_groups))
    return ROW * int(found.num_rows) + sum(int(group.total_byte_size) for group in groups)


def _end(path: Path, number: int) -> int:
    """Return about where in its file a row group ends."""
    parts = _parts(path, number)
    return int(parts[-1].data_page_offset + parts[-1].total_compressed_size) if parts else 0


def _digest(path: Path, spans: list[Span], near: Near | None) -> Done:
    """Digest some rows."""
    parts = []
    for number, start, stop in spans:  # a group at a time, or many would be read ahead
        rows, coded = _plan(path, number)
        with _opened(path, coded) as opened:
            table = opened.iter_batches(batch_size=rows, row_groups=[number], use_threads=False)
            found = map(batches.checked, _between(table, start, stop))
            parts += [batches.digest(batch, near) for batch in batches.cut(found)]
    return Done(
        b"".join(part.digests for part in parts),
        sum(part.lines for part in parts),
        (),
        b"".join(part.near for part in parts),
    )


def _plan(path: Path, number: int) -> tuple[int, list[str]]:
    """Return how to read a row group so that little of it is in memory.

    A value that is in the file once may stand in every row, so the file's size says nothing of what
    is read; the longest value that rows can share does.

    Returns:
        How many rows to read at once, and the columns to read as codes, which are not unpacked.
    """
    parts = _parts(path, number)
    with _opened(path) as opened:
        found, schema = opened.metadata, opened.schema
    group = found.row_group(number)
    count = max(1, group.num_rows)
    fixed = sum(
        part.num_values * _WIDTHS.get(part.physical_type, max(0, schema.column(i).length or 0))
        for i, part in enumerate(parts)
    )
    each = max(1, max(group.total_byte_size, fixed) // count)
    rows = max(1, min(batches.MAX_ROWS, batches.ROW_BYTES // each))
    coded = []
    for i, part in enumerate(parts):
        is_delta = "DELTA_BYTE_ARRAY" in part.encodings  # a value may be what one before it is
        is_shared = part.has_dictionary_page or any("DICT" in e for e in part.encodings)
        if part.physical_type != "BYTE_ARRAY" or not (is_delta or is_shared):
            continue
        shown = part.num_values if schema.column(i).max_repetition_level else min(rows, count)
        if shown * max(part.total_uncompressed_size, RATIO * part.total_compressed_size) <= SHARED:
            continue
        longest = _longest(path, number, part, is_delta=is_delta)
        if shown * longest <= SHARED:
            continue
        if part.total_uncompressed_size <= SHARED and not is_delta:
            coded.append(part.path_in_schema)
        else:  # codes would hold all of its values
            rows = min(rows, max(1, SHARED * count // (longest * part.num_values)))
    return rows, coded


def _parts(path: Path, number: int) -> list[Any]:
    """Return what a row group says of each of its columns.

    Asked for what does not fit, such as histograms of levels that the column has not, Arrow ends
    the process; where it sets out to read the same, that is an error.
    """
    with _opened(path, is_read=False) as opened:
        found = opened.metadata
        if number >= found.num_row_groups:  # fewer than when the job was made
            raise FormatError("the file changed while it was read", file=path)
        group = found.row_group(number)
        if group.num_columns != found.num_columns:
            reason = f"columns of row group {number}: {group.num_columns}, not {found.num_columns}"
            raise FormatError(f"broken or cut Parquet: {reason}", file=path)
        with suppress(_Looked):  # all columns were, before the first byte is asked for
            next(opened.iter_batches(1, [number], use_threads=False), None)
        return [group.column(i) for i in range(group.num_columns)]


class _Looked(Exception):  # noqa: N818  (no error)
    """Arrow has looked at what a file says of itself, and wants to read."""


@final
class _Unread(io.RawIOBase):
    """A file that has its size, and from which nothing is read."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_CUR: self._at, os.SEEK_END: self._size}.get(whence, 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        raise _Looked


def _longest(path: Path, number: int, part: Any, *, is_delta: bool) -> int:
    """Return the bytes of the longest value that may stand in many rows of a row group's column."""
    name = part.path_in_schema
    rows = max(1, min(1024, SHARED // max(1, part.total_uncompressed_size))) if is_delta else 1
    found = 0
    with _opened(path, None if is_delta else [name]) as opened:
        for batch in opened.iter_batches(rows, [number], [name], use_threads=False):
            found = max([found, *map(batches.longest, batch.columns)])
            if not is_delta:  # the first row brings all that the others refer to
                break
    return found


def _between(table: Iterator[Any], start: int, stop: int) -> Iterator[Any]:
    """Return the rows from `start` to `stop`."""
    at = 0
    for batch in table:
        low, high = max(start - at, 0), min(stop - at, batch.num_rows)
        if low < high:
            yield batch.slice(low, high - low)
        at += batch.num_rows
        if at >= stop:
            return


@lru_cache(maxsize=2)
def _metadata(path: Path, state: tuple[int, int, int]) -> Any:
    """Return what a file says of itself, parsed once; `state` tells another file at its place."""
    import pyarrow.parquet

    return pyarrow.parquet.read_metadata(path)


@contextmanager
def _opened(path: Path, coded: list[str] | None = None, *, is_read: bool = True) -> Iterator[Any]:
    """Open a file; whatever goes wrong with it is a FormatError.

    Args:
        path: The file.
        coded: Columns to read as codes.
        is_read: Whether more is read than what the file says of itself.
    """
    try:
        pa = arrays.library()
    except FormatError as error:
        raise FormatError(error.reason, file=path) from error
    import pyarrow.parquet

    try:
        found = path.stat()
        known = _metadata(path, (found.st_size, found.st_mtime_ns, found.st_ino))
        # By default all of the file is read ahead into memory.
        with pyarrow.parquet.ParquetFile(
            path if is_read else _Unread(found.st_size),
            metadata=known,
            pre_buffer=False,
            buffer_size=1 << 20 if is_read else 1,
            read_dictionary=coded,
        ) as opened:
            yield opened
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = f"broken or cut Parquet: {printable(str(error))}"
        raise FormatError(reason, file=path) from error
