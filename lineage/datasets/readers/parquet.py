"""Parquet: a record a row; the names and types of columns are those of Arrow."""

from __future__ import annotations

from collections.abc import Iterator

from lineage.datasets import columns
from lineage.datasets.readers.base import Columns, Job, Near, Source, WatchedFile
from lineage.errors import FormatError, printable

unit = "row"
suffixes = (".parquet",)


def jobs(file: WatchedFile, source: Source, near: Near | None) -> Iterator[Job | Columns]:
    """Return a job for every few megabytes of rows."""
    pa = columns.library()
    import pyarrow.parquet

    file.read_rest()
    try:
        # By default all of the file is read ahead into memory.
        with pyarrow.parquet.ParquetFile(
            file.path, pre_buffer=False, buffer_size=1 << 20
        ) as opened:
            yield Columns(tuple(opened.schema_arrow.names))
            found = opened.metadata
            groups = [found.row_group(i) for i in range(found.num_row_groups)]
            each = max((g.total_byte_size // max(1, g.num_rows) for g in groups), default=1)
            rows = max(1, min(columns.MAX_ROWS, columns.ROW_BYTES // max(1, each)))
            for group in range(found.num_row_groups):
                table = opened.iter_batches(batch_size=rows, row_groups=[group])
                for batch in columns.batches(table):
                    yield columns.digest, (batch, near)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = f"broken or cut Parquet: {printable(str(error))}"
        raise FormatError(reason, file=file.path) from error
