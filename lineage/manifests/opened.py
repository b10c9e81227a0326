"""A data set's tree of which only some leaves are open, for one manifest or for two at once.

It is a string of steps from the root down, left before right. From it alone both sides' trees are
hashed again; what is not open is a hash that either both sides share or only the newer has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from lineage.digest import SIZE
from lineage.errors import FormatError
from lineage.manifests.tree import EMPTY, leaf, node

NOTHING, LEAF, SHARED, ADDED, NODE = range(5)

MAX_BYTES = 1 << 31

_VOID, _SINGLE, _INNER = range(3)
_Side = tuple[int, bytes]


@final
@dataclass(frozen=True, slots=True)
class Leaf:
    """A record in the open.

    Args:
        digest: Its digest.
        before: How often the older manifest has it; for proofs of one manifest, as `after`.
        after: How often the newer has it.
    """

    digest: bytes
    before: int
    after: int


@final
@dataclass(frozen=True, slots=True)
class Opened:
    """What an opened tree shows.

    Args:
        before: The hash of the older tree.
        after: The hash of the newer.
        leaves: The records in the open, in digest order.
        is_added: Whether something that is not open is in the newer alone.
        gaps: Prefixes, as bits, under which neither has anything.
    """

    before: bytes
    after: bytes
    leaves: tuple[Leaf, ...]
    is_added: bool
    gaps: frozenset[tuple[int, int]]

    def has_place(self, digest: bytes) -> bool:
        """Whether the place where `digest` would be is open, and it is not there."""
        number = int.from_bytes(digest, "big")
        depths = range(8 * SIZE + 1)
        if any((depth, number >> (8 * SIZE - depth)) in self.gaps for depth in depths):
            return all(found.digest != digest for found in self.leaves)
        return False


def encode_leaf(digest: bytes, before: int, after: int) -> bytes:
    """Return the step of a record in the open."""
    counts = before.to_bytes(8, "little") + after.to_bytes(8, "little")
    return bytes([LEAF]) + digest + counts


def read(data: bytes) -> Opened:
    """Hash an opened tree again.

    Raises:
        FormatError: If it is not one: steps missing or left over, a record not under its own bits,
            too deep.
    """
    if len(data) > MAX_BYTES:
        raise FormatError(f"an opened tree of {len(data)} bytes, more than {MAX_BYTES}")
    leaves: list[Leaf] = []
    gaps: list[tuple[int, int]] = []
    added = [False]
    position = 0

    def take(size: int) -> bytes:
        nonlocal position
        piece = data[position : position + size]
        if len(piece) != size:
            raise FormatError("the opened tree ends early", offset=len(data))
        position += size
        return piece

    def step(depth: int, prefix: int) -> tuple[_Side, _Side]:
        at = position
        kind = take(1)[0]
        if kind == NOTHING:
            gaps.append((depth, prefix))
            return (_VOID, EMPTY), (_VOID, EMPTY)
        if kind == LEAF:
            digest = take(SIZE)
            before, after = (int.from_bytes(take(8), "little") for _ in range(2))
            if int.from_bytes(digest, "big") >> (8 * SIZE - depth) != prefix:
                raise FormatError("a record is not under its own bits", offset=at)
            leaves.append(Leaf(digest, before, after))
            gaps.append((depth, prefix))  # whoever else would be here is not
            sides = [(_SINGLE, leaf(digest, n)) if n else (_VOID, EMPTY) for n in (before, after)]
            return sides[0], sides[1]
        if kind in (SHARED, ADDED):
            inner = (_INNER, take(SIZE))
            added[0] |= kind == ADDED
            return (inner if kind == SHARED else (_VOID, EMPTY)), inner
        if kind != NODE or depth >= 8 * SIZE:
            raise FormatError(f"no step of an opened tree: {kind}", offset=at)
        left = step(depth + 1, 2 * prefix)
        right = step(depth + 1, 2 * prefix + 1)
        return _join(left[0], right[0]), _join(left[1], right[1])

    old, new = step(0, 0)
    if position != len(data):
        raise FormatError("bytes after the opened tree", offset=position)
    return Opened(old[1], new[1], tuple(leaves), added[0], frozenset(gaps))


def _join(left: _Side, right: _Side) -> _Side:
    """Return what two neighbouring subtrees make: a single record moves up."""
    if left[0] == _VOID and right[0] != _INNER:
        return right
    if right[0] == _VOID and left[0] != _INNER:
        return left
    return _INNER, node(left[1], right[1])
