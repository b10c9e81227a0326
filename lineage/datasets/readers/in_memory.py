"""What is in memory already: a `datasets.Dataset`, an Arrow table, or records in a row."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from lineage.datasets import batches
from lineage.datasets.readers.base import Columns, Done, Job, Near, Source, done
from lineage.datasets.watched import WatchedFile
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
        found = _batches(value)
    elif hasattr(value, "to_batches"):
        yield Columns(tuple(value.schema.names))
        found = map(batches.checked, value.to_batches())
    else:
        records = iter(value)
        while held := list(islice(records, _AT_ONCE)):
            yield _digest, (held, near)
        return
    for batch in batches.cut(found):
        yield batches.digest, (batch, near)


def _batches(value: Any) -> Iterator[Any]:
    """Return the rows of a `datasets.Dataset`, or of one that is made as it goes."""
    if hasattr(value, "data"):  # rows are gathered from it by their offsets
        for batch in value.data.to_batches():
            batches.checked(batch)
    for table in value.with_format("arrow").iter(batch_size=_AT_ONCE):
        yield from map(batches.checked, table.to_batches())


def _digest(records: list[Any], near: Near | None) -> Done:
    texts, bad = [], []
    for number, record in enumerate(records):
        try:
            texts.append(canonical(record))
        except FormatError as error:
            bad.append((number, error.reason))
    return done(texts, len(records), bad, near)
