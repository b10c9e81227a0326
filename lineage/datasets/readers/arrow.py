"""Arrow's own files, with or without an index (Feather is one with).

A record batch at a time is in memory, and not mapped: Arrow trusts the offsets of a batch that was
looked through, and a mapped file may become another under it.
"""

from __future__ import annotations

from collections.abc import Iterator

from lineage.datasets import arrays, batches
from lineage.datasets.readers.base import Columns, Job, Near, Source
from lineage.datasets.watched import WatchedFile
from lineage.errors import FormatError, printable

unit = "row"
suffixes = (".arrow", ".feather", ".arrows")

_MAGIC = b"ARROW1"


def jobs(file: WatchedFile, source: Source, near: Near | None) -> Iterator[Job | Columns]:
    """Return a job for every few megabytes of rows."""
    pa = arrays.library()
    import pyarrow.ipc

    has_index = file.read(len(_MAGIC)) == _MAGIC
    file.read_rest()
    try:
        with pa.OSFile(str(file.path)) as stream:
            if has_index:
                opened = pyarrow.ipc.open_file(stream)
                found = (opened.get_batch(i) for i in range(opened.num_record_batches))
            else:
                opened = pyarrow.ipc.open_stream(stream)
                found = iter(opened)
            yield Columns(tuple(opened.schema.names))
            for batch in batches.cut(map(batches.checked, found)):
                yield batches.digest, (batches.alone(batch), near)
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        reason = f"broken or cut Arrow: {printable(str(error))}"
        raise FormatError(reason, file=file.path) from error
