"""Exact identity: what is hashed, and how leaves become one root.

Nothing here knows a file format or a number: only names, dtypes, shapes and raw little-endian
bytes, so a container, its header, its shards and its order can never change an identity.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING

from blake3 import blake3

from lineage.artifacts.base import size_bytes
from lineage.digest import SIZE, blake3_digest, frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_STEP = 16 << 10
"""BLAKE3 hashes sixteen chunks of 1 KiB at once where the processor can, if they begin at a
multiple of sixteen; from anywhere else it begins with one, two, four and eight."""


class ContentHasher:
    """BLAKE3 of a tensor's dtype, shape and bytes; the bytes come piece by piece."""

    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        self._hash = blake3()
        held = _head(dtype, shape, size_bytes(dtype, shape))
        self._held = held  # less than a step, to be hashed with what comes

    def update(self, piece: memoryview | bytes) -> None:
        """Add the next bytes, in order."""
        first = _STEP - len(self._held)
        last = len(piece) - (len(piece) - first) % _STEP
        if last < first:
            self._held += piece
            return
        self._hash.update(b"".join((self._held, piece[:first])))
        self._hash.update(piece[first:last])
        self._held = bytes(piece[last:])

    def digest(self) -> bytes:
        """Return the 32-byte digest; nothing can be added after."""
        self._hash.update(self._held)
        return self._hash.digest()


def content_digests(tensors: Sequence[tuple[str, tuple[int, ...], memoryview]]) -> list[bytes]:
    """Return what `ContentHasher` does of tensors that are all there: dtype, shape and bytes each.

    Heads are hashed by themselves: a call that copies no data is the only one in which the
    interpreter changes hands, and that costs two threads more than chunks out of step do. It costs
    them least where little else is done between the calls.
    """
    heads = [_head(dtype, shape, len(data)) for dtype, shape, data in tensors]
    digests = []
    for head, (_, _, data) in zip(heads, tensors, strict=True):
        hasher = blake3(head)
        hasher.update(data)
        digests.append(hasher.digest())
    return digests


def _head(dtype: str, shape: tuple[int, ...], size: int) -> bytes:
    """Return what is hashed before a tensor's bytes: all but these, framed, and their length."""
    counts = 8 * len(shape), *shape, size  # the shape is framed, too
    return _framed(dtype) + struct.pack(f"<{len(counts)}Q", *counts)


@lru_cache(maxsize=64)
def _framed(dtype: str) -> bytes:
    return frame("lineage/content/v1", dtype.encode())


def root(named: Iterable[tuple[str, bytes]]) -> bytes:
    """Merkle root over (name, content digest), in the order of the names' UTF-8 bytes.

    The tree has the shape and the node prefix of RFC 9162; the hash is BLAKE3.
    """
    from lineage import merkle  # only once all is hashed

    ordered = sorted((name.encode("utf-8"), content) for name, content in named)
    tag = frame("lineage/leaf/v1")
    middle = SIZE.to_bytes(8, "little")  # all digests are as long
    leaves = [
        blake3(b"".join((tag, len(name).to_bytes(8, "little"), name, middle, content))).digest()
        for name, content in ordered
    ]
    return merkle.root(leaves, blake3_digest)


def unnamed_root(kind: str, digests: Iterable[bytes]) -> bytes:
    """Merkle root over digests alone, sorted, equal ones kept: the same under any names.

    Args:
        kind: `content` or `value`; it separates the two trees.
        digests: One per tensor.
    """
    from lineage import merkle

    head = frame(f"lineage/{kind}-leaf/v1", bytes(SIZE))[:-SIZE]  # all digests are as long
    leaves = [blake3(head + digest).digest() for digest in digests]
    return merkle.root(sorted(leaves), blake3_digest)
