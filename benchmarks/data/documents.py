"""Makes a large Parquet file of documents that models are trained on, the same every time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

WORDS = 20_000
POOL = 64 << 20
"""Bytes of text that documents are cut from: far more than a codec looks back."""

GROUP = 50_000
"""Rows of a row group: about 128 MB of text, a usual size."""

MEAN = 2500
"""Bytes of a text, about."""


def made(folder: Path, size: int) -> Path:
    """Return a Parquet file of at least so many bytes, made if it is not there.

    A row has an id, a URL, a text of some 2.5 kB, a score and a date. Texts are of words drawn by
    Zipf's law, with line ends, quotation marks and letters beyond ASCII, so that a codec takes off
    about two fifths, as it does of real text.
    """
    import pyarrow.parquet as pq

    path = folder / f"documents-{size}.parquet"
    if path.exists():
        return path
    print(f"making documents of {size} bytes", file=sys.stderr)
    part = path.with_suffix(".part")
    groups = _groups()
    first = next(groups)
    with part.open("wb") as file, pq.ParquetWriter(file, first.schema) as writer:
        writer.write_batch(first)
        while file.tell() < size:
            writer.write_batch(next(groups))
    part.rename(path)
    return path


def _groups() -> Iterator[Any]:
    """Return record batches of `GROUP` rows without end."""
    import pyarrow as pa

    random = np.random.default_rng(7)
    pool, begins = _pool(random)
    held = memoryview(pool)
    while True:
        sizes = np.exp(random.normal(np.log(MEAN) - 0.5, 1, GROUP)).clip(100, 100_000)
        at = begins[random.integers(0, len(begins) - 20_000, GROUP)]
        ends = (
            begins[np.searchsorted(begins, at + sizes.astype(np.int64)).clip(0, len(begins) - 1)]
            - 1
        )
        pairs = zip(at.tolist(), ends.tolist(), strict=True)
        text = b"".join([held[start:stop] for start, stop in pairs])
        offsets = np.concatenate([[0], np.cumsum(ends - at)]).astype(np.int32)
        ids = [
            f"{high:016x}{low:016x}"
            for high, low in random.integers(0, 1 << 62, (GROUP, 2)).tolist()
        ]
        yield pa.record_batch(
            {
                "id": pa.array(ids),
                "url": pa.array(
                    [f"https://www.{i[:9]}.example/{i[9:14]}/{i[14:]}.html" for i in ids]
                ),
                "text": pa.StringArray.from_buffers(
                    GROUP, pa.py_buffer(offsets), pa.py_buffer(text)
                ),
                "score": pa.array(random.random(GROUP)),
                "date": pa.array(
                    random.integers(1_400_000_000, 1_700_000_000, GROUP) * 1000,
                    pa.timestamp("ms", "UTC"),
                ),
            }
        )


def _pool(random: np.random.Generator) -> tuple[bytes, np.ndarray[Any, np.dtype[np.int64]]]:
    """Return a long text, and where its words begin."""
    letters = np.array([*"etaoinshrdlcumwfgypbvkjxqz", "é", "ß", "—"])
    shares = np.array([*np.linspace(12, 0.5, 26), 0.2, 0.1, 0.05])
    drawn = random.choice(letters, (WORDS, 12), p=shares / shares.sum())
    lengths = random.integers(1, 12, WORDS)
    words = ["".join(row[:n]).encode() for row, n in zip(drawn, lengths, strict=True)]
    zipf = 1 / np.arange(1, WORDS + 1)
    ends = [b" "] * 80 + [b", "] * 6 + [b". "] * 8 + [b"\n"] * 3 + [b' "', b'" ', b".\n\n"]
    count = POOL // 5
    chosen = random.choice(WORDS, count, p=zipf / zipf.sum()).tolist()
    after = random.integers(0, len(ends), count).tolist()
    pieces = [words[word] + ends[end] for word, end in zip(chosen, after, strict=True)]
    sizes = np.fromiter(map(len, pieces), np.int64, count)
    return b"".join(pieces), np.cumsum(sizes) - sizes
