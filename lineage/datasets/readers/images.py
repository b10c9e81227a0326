"""A folder of images: a record a file, `{"image": bytes, "label": folder}` and what is told of it.

Other values come from `metadata.jsonl` or `metadata.csv` beside the images, by `file_name`.
"""

from __future__ import annotations

from collections.abc import Iterator

from lineage.datasets.readers.base import Columns, Done, Job, Near, Source, done
from lineage.datasets.watched import WatchedFile
from lineage.errors import FormatError
from lineage.manifests.records import Typed, canonical

unit = "image"
suffixes: tuple[str, ...] = ()


def jobs(file: WatchedFile, source: Source, near: Near | None) -> Iterator[Job | Columns]:
    """Return the one job of an image."""
    values = dict(source.extra or {})
    yield Columns(("image", *values))
    yield _digest, (file.finish(), values, near)


def _digest(digest: bytes, values: dict[str, object], near: Near | None) -> Done:
    try:
        texts = [canonical({**values, "image": Typed("bytes", digest.hex())})]
    except FormatError as error:
        return done([], 1, [(0, error.reason)], near)
    return done(texts, 1, [], near)
