"""What two data sets have in common, from their manifests alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from lineage.datasets.near import THRESHOLD, Near, near_duplicates
from lineage.datasets.proving import Compared, shared_by
from lineage.datasets.stored import Manifest, held
from lineage.digest import SIZE
from lineage.errors import FormatError

_AT_ONCE = 1 << 20


@final
@dataclass(frozen=True, slots=True)
class Overlap:
    """What two data sets, a and b, have in common.

    Args:
        shared: Each record that both have, with its count in both.
        a_records: How many records of a are in b.
        b_records: How many of b are in a.
        near_a: Records of a that have a near-duplicate in b, where both have sketches.
        near_b: The reverse.
    """

    shared: Compared
    a_records: int
    b_records: int
    near_a: Near | None
    near_b: Near | None


def overlap(a: Manifest, b: Manifest, threshold: float = THRESHOLD) -> Overlap:
    """Compare two manifests.

    Raises:
        FormatError: If exactly one of them is private: its digests match nothing.
    """
    if a.header.hidden != b.header.hidden:
        raise FormatError("one manifest is private and the other is not", file=b.path)
    has_near = a.header.near is not None and a.header.near == b.header.near
    with held(a, b):
        shared = shared_by(a.entries, b.entries)
        return Overlap(
            shared,
            int(shared.before.astype(object).sum()),
            int(shared.after.astype(object).sum()),
            near_duplicates(a.near, b.near, threshold) if has_near else None,
            near_duplicates(b.near, a.near, threshold) if has_near else None,
        )


def places(manifest: Manifest, shared: Compared, limit: int) -> list[dict[str, Any]]:
    """Return where in a data set the records are that both have: file and number from 0.

    Args:
        manifest: Either data set's.
        shared: What both have.
        limit: The most to return.
    """
    with held(manifest):
        return _places(manifest, shared, limit)


def _places(manifest: Manifest, shared: Compared, limit: int) -> list[dict[str, Any]]:
    firsts = shared.digests[:, :8].copy().view(">u8").reshape(-1).astype(np.uint64)
    found: list[dict[str, Any]] = []
    for start in range(0, len(manifest.order), _AT_ONCE):
        rows = manifest.order[start : start + _AT_ONCE]
        keys = np.ascontiguousarray(rows[:, :8]).view(">u8").reshape(-1).astype(np.uint64)
        for index in np.flatnonzero(np.isin(keys, firsts)):
            if len(found) == limit:
                return found
            digest = rows[index, :SIZE].tobytes()
            alike = shared.digests[np.searchsorted(firsts, keys[index]) :][:64]
            if not any(row.tobytes() == digest for row in alike):  # 64 bits alike, and no more
                continue
            found.append({**place(manifest, start + int(index)), "digest": digest.hex()})
    return found


def place(manifest: Manifest, number: int) -> dict[str, Any]:
    """Return the file of a record and its number there, from 0."""
    name, inside = manifest.where(number)
    return {"file": name, "record": inside}
