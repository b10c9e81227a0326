"""The loops over records: digests from texts, and the set's tree from digests.

`manifests` defines what is hashed; the same is done here for many at once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from lineage.digest import SIZE
from lineage.manifests import tree
from lineage.manifests.records import RECORD_TAG
from lineage.manifests.tree import BUCKET, EMPTY

ENTRY = SIZE + 8
"""Bytes of a distinct digest and its count, little-endian: what a bucket hashes of each."""

_BEGIN = RECORD_TAG.encode() + b"\0"

FRAME = len(_BEGIN) + 8
"""Bytes that are hashed before a record's text: the tag, and how long the text is."""


def digest_texts(texts: Iterable[bytes]) -> bytes:
    """Return the digests of records, one behind the other, from their canonical texts."""
    hasher = blake3()  # making one takes as long as hashing a short record
    reset, update, digest = hasher.reset, hasher.update, hasher.digest
    found = []
    for text in texts:
        reset()
        update(_BEGIN + len(text).to_bytes(8, "little") + text)
        found.append(digest())
    return b"".join(found)


def frame_heads(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Return what is hashed before texts of these sizes: `FRAME` bytes each."""
    heads = np.empty((len(sizes), FRAME), np.uint8)
    heads[:, : len(_BEGIN)] = np.frombuffer(_BEGIN, np.uint8)
    heads[:, len(_BEGIN) :] = sizes.astype("<u8").view(np.uint8).reshape(-1, 8)
    return heads


def digest_frames(data: memoryview, offsets: Sequence[int]) -> bytes:
    """Return the digests of records from texts that each stand behind their head.

    Args:
        data: The heads and texts of all.
        offsets: Where each head begins, and the end.
    """
    hasher = blake3()  # making one takes as long as hashing a short record
    reset, update, digest = hasher.reset, hasher.update, hasher.digest
    found = []
    for start, stop in pairwise(offsets):
        reset()
        update(data[start:stop])
        found.append(digest())
    return b"".join(found)


def set_tree(entries: bytes, depth: int = 0) -> bytes:
    """Return the hash of the set's tree.

    Args:
        entries: `ENTRY` bytes each, in digest order.
        depth: The bits that all digests have in common.
    """
    rows = np.frombuffer(entries, np.uint8).reshape(-1, ENTRY)
    firsts: list[int] = rows[:, :8].copy().view(">u8").reshape(-1).tolist()
    return _over(entries, firsts, 0, len(firsts), depth)


def _over(entries: bytes, firsts: list[int], low: int, high: int, depth: int) -> bytes:
    """Return the hash of some entries; `firsts` are the first 64 bits of all."""
    if high - low <= BUCKET:
        held = entries[low * ENTRY : high * ENTRY]
        return blake3(b"\x00" + held).digest() if held else EMPTY
    if depth >= 64:  # nobody's hashes; whoever made these digests chose them
        return tree.set_tree(_pairs(entries[low * ENTRY : high * ENTRY]), depth)
    common = firsts[low] >> (64 - depth) << (64 - depth)
    middle = bisect_left(firsts, common + (1 << (63 - depth)), low, high)
    left = _over(entries, firsts, low, middle, depth + 1)
    right = _over(entries, firsts, middle, high, depth + 1)
    return blake3(b"\x01" + left + right).digest()


def subtree(entries: bytes, depth: int) -> tree.Side:
    """Return the subtree of entries, `ENTRY` bytes each, that have `depth` bits in common."""
    return set_tree(entries, depth) if len(entries) > BUCKET * ENTRY else _pairs(entries)


def _pairs(entries: bytes) -> tuple[tree.Entry, ...]:
    rows = (entries[at : at + ENTRY] for at in range(0, len(entries), ENTRY))
    return tuple((row[:SIZE], int.from_bytes(row[SIZE:], "little")) for row in rows)
