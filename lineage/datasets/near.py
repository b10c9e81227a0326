"""Near-duplicates: MinHash of the words in a record's strings, five at a time.

A sketch is the 128 numbers of datasketch's `MinHash`. The share of numbers that two sketches have
in common estimates the share of runs of five words that the two records have in common (Jaccard),
with a standard error of sqrt(J (1 - J) / 128): .035 at J = .8. Only whole records are compared: a
short text inside a long one is not found.

Which sketches are compared is found here and not by its `MinHashLSH`: see
`lineage/spec/decisions/near-duplicates.md`.

Source: Broder (1997).
"""

from __future__ import annotations

import functools
import json
import math
import re
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from lineage.errors import FormatError

PERMUTATIONS = 128
SEED = 1
WORDS = 5
BANDS = 32
"""Sketches that have a band of 4 numbers in common are compared: 1 - (1 - J^4)^32 of pairs at J."""

THRESHOLD = 0.8
_AT_ONCE = 1 << 12

_STRINGS = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")(:?)')
_WORD = re.compile(r"\w+")

Sketches = npt.NDArray[np.uint32]


def strings_of(text: bytes) -> list[list[str]]:
    """Return the words of each of a record's strings; names of members do not count.

    Args:
        text: Its canonical text.
    """
    found = (quoted for quoted, is_name in _STRINGS.findall(text.decode()) if not is_name)
    strings = (json.loads(quoted) if "\\" in quoted else quoted for quoted in found)
    return [_WORD.findall(string.lower()) for string in strings]


def shingles(text: bytes) -> set[bytes]:
    """Return the runs of five words of a record's strings, from its canonical text.

    A record of fewer words is one run; without words, its whole text.
    """
    words = [word for string in strings_of(text) for word in string]
    if not words:
        return {text}
    runs = range(max(1, len(words) - WORDS + 1))
    return {" ".join(words[i : i + WORDS]).encode() for i in runs}


@functools.cache
def empty() -> Any:
    """Return the sketch of no shingles, a `datasketch.MinHash`; to be copied.

    Raises:
        FormatError: If datasketch is not installed.
    """
    try:
        from datasketch import MinHash
    except ImportError:
        reason = "near-duplicates need datasketch: pip install 'model-lineage[data]'"
        raise FormatError(reason) from None
    return MinHash(num_perm=PERMUTATIONS, seed=SEED, scheme="affine32")


def sketches(texts: list[bytes]) -> bytes:
    """Return the sketch of every canonical text, 512 bytes each.

    Raises:
        FormatError: If datasketch is not installed.
    """
    sketch = empty().copy()
    found = np.empty((len(texts), PERMUTATIONS), "<u4")
    for row, text in zip(found, texts, strict=True):
        sketch.clear()
        sketch.update_batch(shingles(text))
        row[:] = sketch.hashvalues
    return found.tobytes()


@final
@dataclass(frozen=True, slots=True)
class Near:
    """How many records of one data set have a near-duplicate in another.

    Args:
        threshold: The Jaccard from which two records are near.
        count: Records whose best estimate reaches it.
        at_least: Those that reach it by two standard errors more.
        at_most: Those that miss it by two standard errors at most.
        pairs: For each that reaches it: the record, its best match, and the estimate.
    """

    threshold: float
    count: int
    at_least: int
    at_most: int
    pairs: tuple[tuple[int, int, float], ...]

    def to_json(self) -> dict[str, Any]:
        """Return the counts."""
        return {
            "threshold": self.threshold,
            "records": self.count,
            "at_least": self.at_least,
            "at_most": self.at_most,
            "standard_error": round(error_of(self.threshold), 4),
        }


def error_of(jaccard: float) -> float:
    """Return the standard error of an estimate."""
    return math.sqrt(max(0.0, jaccard * (1 - jaccard)) / PERMUTATIONS)


def near_duplicates(ours: Sketches, others: Sketches, threshold: float = THRESHOLD) -> Near:
    """Find, for every record, the nearest of the others.

    Args:
        ours: [records, 128].
        others: [records, 128].
        threshold: The Jaccard from which two records are near.
    """
    best = np.full(len(ours), -1.0)
    match = np.zeros(len(ours), np.int64)
    width = PERMUTATIONS // BANDS
    for band in range(BANDS):
        columns = slice(band * width, (band + 1) * width)
        _compare(ours, others, columns, best, match)
    margin = 2 * error_of(threshold)
    rows = np.flatnonzero(best >= threshold)
    return Near(
        threshold,
        len(rows),
        int((best >= threshold + margin).sum()),
        int((best >= threshold - margin).sum()),
        tuple((int(i), int(match[i]), round(float(best[i]), 4)) for i in rows),
    )


def _compare(
    ours: Sketches,
    others: Sketches,
    columns: slice,
    best: npt.NDArray[np.float64],
    match: npt.NDArray[np.int64],
) -> None:
    """Compare the records that have a band in common, and keep the nearest of each."""
    kind = f"V{4 * (columns.stop - columns.start)}"
    a, b = (np.ascontiguousarray(s[:, columns]).view(kind).reshape(-1) for s in (ours, others))
    _, inverse = np.unique(np.concatenate([a, b]), return_inverse=True)
    mine, theirs = inverse[: len(a)], inverse[len(a) :]
    order = np.argsort(theirs, kind="stable")
    starts = np.searchsorted(theirs[order], mine, "left")
    ends = np.searchsorted(theirs[order], mine, "right")
    sizes = np.minimum(ends - starts, 64)  # a band that very many share tells little
    for begin in range(0, len(a), _AT_ONCE):
        window = sizes[begin : begin + _AT_ONCE]
        rows = np.repeat(np.arange(begin, begin + len(window)), window)
        places = np.arange(len(rows)) - np.repeat(np.cumsum(window) - window, window)
        found = order[starts[rows] + places]
        for first in range(0, len(rows), _AT_ONCE):
            i, j = rows[first : first + _AT_ONCE], found[first : first + _AT_ONCE]
            near = (ours[i] == others[j]).mean(axis=1)
            best_first = np.lexsort((-near, i))
            _, heads = np.unique(i[best_first], return_index=True)
            nearest = best_first[heads]  # the nearest of each row
            nearest = nearest[near[nearest] > best[i[nearest]]]
            best[i[nearest]], match[i[nearest]] = near[nearest], j[nearest]
