"""What is in memory already: a `datasets.Dataset`, an Arrow table, or records in a row."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from lineage.datasets import columns
from lineage.datasets.readers.base import Columns, Done, Job, Near, Source, WatchedFile, done
from lineage.errors import FormatError
from lineage.manifests.records import canonical

unit = "record"
suffixes: tuple[str, ...] = ()

_AT_ONCE = 10_000


def jobs(file: WatchedFile, source: Source, near: Near | None) -> Iterator[Job | Columns]:
    """Return a job for every few thousand records; there is no file."""
    value = source.extra
    if hasattr(value, "with_format") and hasattr(value, "features"):
        yield Columns(tuple(value.features or ()))
        for table in value.with_format("arrow").iter(batch_size=_AT_ONCE):
            for batch in columns.batches(table.to_batches()):
                yield columns.digest, (batch, near)
    elif hasattr(value, "to_batches"):
        yield Columns(tuple(value.schema.names))
        for batch in columns.batches(value.to_batches()):
            yield columns.digest, (batch, near)
    else:
        records = iter(value)
        while held := list(islice(records, _AT_ONCE)):
            yield _digest, (held, near)


def _digest(records: list[Any], near: Near | None) -> Done:
    texts, bad = [], []
    for number, record in enumerate(records):
        try:
            texts.append(canonical(record))
        except FormatError as error:
            bad.append((number, error.reason))
    return done(texts, len(records), bad, near)
