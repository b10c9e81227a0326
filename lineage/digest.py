"""Hash functions and the one way bytes are framed before they are hashed.

A digest always covers a tag that says what is hashed and length-prefixed parts, so that no two
different inputs share one string of bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 32
"""Bytes in every digest used here (BLAKE3 and SHA-256 alike)."""


def frame(tag: str, *parts: bytes) -> bytes:
    """Return `tag`, NUL, then every part behind its length as an unsigned 64-bit little-endian.

    Example:
        >>> frame("t", b"ab")
        b't\\x00\\x02\\x00\\x00\\x00\\x00\\x00\\x00\\x00ab'
    """
    framed = [tag.encode("ascii"), b"\0"]
    for part in parts:
        framed += len(part).to_bytes(8, "little"), part
    return b"".join(framed)


def blake3_digest(data: bytes) -> bytes:
    """BLAKE3 of `data`, 32 bytes."""
    return blake3(data).digest()


def blake3_digests() -> Callable[[bytes], bytes]:
    """Return `blake3_digest` for many small inputs in one thread: one hasher does for all."""
    hasher = blake3()
    reset, update, digest = hasher.reset, hasher.update, hasher.digest

    def hashed(data: bytes) -> bytes:
        reset()
        update(data)
        return digest()

    return hashed


def sha256_digest(data: bytes) -> bytes:
    """SHA-256 of `data`, 32 bytes."""
    import hashlib  # brings all of OpenSSL

    return hashlib.sha256(data).digest()
