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
    from collections.abc import Iterable


class ContentHasher:
    """BLAKE3 of a tensor's dtype, shape and bytes; the bytes come piece by piece."""

    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        counts = 8 * len(shape), *shape, size_bytes(dtype, shape)  # the shape is framed, too
        self._hash = blake3(_head(dtype) + struct.pack(f"<{len(counts)}Q", *counts))

    def update(self, piece: memoryview | bytes) -> None:
        """Add the next bytes, in order."""
        self._hash.update(piece)

    def digest(self) -> bytes:
        """Return the 32-byte digest."""
        return self._hash.digest()


@lru_cache(maxsize=64)
def _head(dtype: str) -> bytes:
    return frame("lineage/content/v1", dtype.encode())


def root(named: Iterable[tuple[str, bytes]]) -> bytes:
    """Merkle root over (name, content digest), in the order of the names' UTF-8 bytes.

    The tree has the shape and the node prefix of RFC 9162; the hash is BLAKE3.
    """
    from lineage import merkle  # only once all is hashed

    leaves = [
        (encoded, blake3_digest(frame("lineage/leaf/v1", encoded, content)))
        for encoded, content in ((name.encode("utf-8"), content) for name, content in named)
    ]
    return merkle.root([leaf for _, leaf in sorted(leaves)], blake3_digest)


def unnamed_root(kind: str, digests: Iterable[bytes]) -> bytes:
    """Merkle root over digests alone, sorted, equal ones kept: the same under any names.

    Args:
        kind: `content` or `value`; it separates the two trees.
        digests: One per tensor.
    """
    from lineage import merkle

    head = frame(f"lineage/{kind}-leaf/v1", bytes(SIZE))[:-SIZE]  # all digests are as long
    leaves = [blake3_digest(head + digest) for digest in digests]
    return merkle.root(sorted(leaves), blake3_digest)
