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
from lineage.digest import SIZE, blake3_digests, frame
from lineage.fingerprints.kernel import compiled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


STEP = 16 << 10
"""BLAKE3 hashes sixteen chunks of 1 KiB at once where the processor can, if they begin at a
multiple of sixteen; from anywhere else it begins with one, two, four and eight."""


class ContentHasher:
    """BLAKE3 of a tensor's dtype, shape and bytes; the bytes come piece by piece."""

    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        self._hash = blake3()
        held = head(dtype, shape, size_bytes(dtype, shape))
        self._held = held  # less than a step, to be hashed with what comes

    def update(self, piece: memoryview | bytes, *, is_near: bool = False) -> None:
        """Add the next bytes, in order.

        Args:
            piece: The bytes.
            is_near: Whether they are in a core's cache already, and need not be brought there.
        """
        first = STEP - len(self._held)
        last = len(piece) - (len(piece) - first) % STEP
        if last < first:
            self._held += piece
            return
        self._hash.update(b"".join((self._held, piece[:first])))
        with memoryview(piece)[first:last] as middle:
            if is_near or compiled is None:
                self._hash.update(middle)
            else:
                compiled.feed(self._hash.update, middle)
        self._held = bytes(piece[last:])

    def digest(self) -> bytes:
        """Return the 32-byte digest; nothing can be added after."""
        self._hash.update(self._held)
        return self._hash.digest()


def head(dtype: str, shape: tuple[int, ...], size: int) -> bytes:
    """Return what is hashed before a tensor's bytes: all but these, framed, and their length."""
    framed, packed = _framed(dtype, len(shape))
    return framed + packed(*shape, size)


@lru_cache(maxsize=256)
def _framed(dtype: str, extents: int) -> tuple[bytes, Callable[..., bytes]]:
    """Return what all heads with a dtype and so many extents begin with, and what packs the rest.

    The shape is framed, too.
    """
    framed = frame("lineage/content/v1", dtype.encode()) + (8 * extents).to_bytes(8, "little")
    return framed, struct.Struct(f"<{extents + 1}Q").pack


def root(named: Iterable[tuple[str, bytes]]) -> bytes:
    """Merkle root over (name, content digest), in the order of the names' UTF-8 bytes.

    The tree has the shape and the node prefix of RFC 9162; the hash is BLAKE3.
    """
    from lineage import merkle  # only once all is hashed

    ordered = sorted((name.encode("utf-8"), content) for name, content in named)
    tag = frame("lineage/leaf/v1")
    middle = SIZE.to_bytes(8, "little")  # all digests are as long
    hashed = blake3_digests()
    leaves = [
        hashed(b"".join((tag, len(name).to_bytes(8, "little"), name, middle, content)))
        for name, content in ordered
    ]
    return merkle.root(leaves, hashed)


def unnamed_root(kind: str, digests: Iterable[bytes]) -> bytes:
    """Merkle root over digests alone, sorted, equal ones kept: the same under any names.

    Args:
        kind: `content` or `value`; it separates the two trees.
        digests: One per tensor.
    """
    from lineage import merkle

    head = frame(f"lineage/{kind}-leaf/v1", bytes(SIZE))[:-SIZE]  # all digests are as long
    hashed = blake3_digests()
    leaves = sorted(hashed(head + digest) for digest in digests)
    return merkle.root(leaves, hashed)
