"""Any file as one record: its bytes."""

from __future__ import annotations

from collections.abc import Iterator

from lineage.datasets.readers.base import Columns, Done, Job, Near, Source, done
from lineage.datasets.watched import WatchedFile
from lineage.manifests.records import Typed, canonical

unit = "record"
suffixes: tuple[str, ...] = ()


def jobs(file: WatchedFile, source: Source, near: Near | None) -> Iterator[Job | Columns]:
    """Return the one job of a file: its record is the value `!bytes` of its BLAKE3."""
    yield _digest, (file.finish(), near)


def _digest(digest: bytes, near: Near | None) -> Done:
    return done([canonical(Typed("bytes", digest.hex()))], 1, [], near)
