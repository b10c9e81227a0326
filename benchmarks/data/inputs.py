"""Makes the records: short ones, as JSON lines and as Parquet, the same every time."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

_WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dogs",
    "while",
    "seven",
    "boxes",
]
_AT_ONCE = 100_000

SHORT = 6
"""Words of a short record."""


def made(folder: Path, records: int, words: int = SHORT) -> dict[str, Path]:
    """Return the files of so many records of so many words, made if they are not there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    called = f"{records}" if words == SHORT else f"{records}-of-{words}"
    files = {kind: folder / f"{called}.{kind}" for kind in ("jsonl", "parquet")}
    if all(path.exists() for path in files.values()):
        return files
    print(f"making {records} records", file=sys.stderr)
    schema = pa.schema(
        {"id": pa.int64(), "text": pa.string(), "label": pa.string(), "score": pa.float64()}
    )
    parts = {kind: path.with_suffix(f".{kind}.part") for kind, path in files.items()}
    with parts["jsonl"].open("w") as lines, pq.ParquetWriter(parts["parquet"], schema) as table:
        for rows in _rows(records, words):
            lines.writelines(
                f'{{"id":{n},"text":"{text}","label":"{label}","score":{score}}}\n'
                for n, text, label, score in rows
            )
            columns = [
                pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), schema, strict=True)
            ]
            table.write_table(pa.table(columns, schema=schema))
    for kind, path in parts.items():
        path.rename(files[kind])
    return files


def lines(records: int) -> Iterator[bytes]:
    """Return the same records as JSON lines, some thousand at a time."""
    for rows in _rows(records):
        yield "".join(
            f'{{"id":{n},"text":"{text}","label":"{label}","score":{score}}}\n'
            for n, text, label, score in rows
        ).encode()


def _rows(records: int, words: int = SHORT) -> Iterator[list[tuple[int, str, str, float]]]:
    for start in range(0, records, _AT_ONCE):
        random_ = random.Random(start)
        yield [
            (
                n,
                " ".join(random_.choices(_WORDS, k=words)),
                _WORDS[n % 5],
                random_.randrange(1, 1000) / 1000,
            )
            for n in range(start, min(records, start + _AT_ONCE))
        ]
