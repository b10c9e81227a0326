"""A data set's tree of which only some leaves are open, for one manifest or for two at once.

It is a string of steps from the root down, left before right. From it alone both sides' trees are
hashed again; what is not open is a hash that either both sides share or only the newer has.

A step that is open shows all records under its bits, of both sides. Where one side has so few that
they are hashed at once further up, each must be open on the way down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from lineage.digest import SIZE
from lineage.errors import FormatError
from lineage.manifests.tree import Side, hash_of, joined

OPEN, SHARED, ADDED, NODE = range(4)

MAX_BYTES = 1 << 31


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
        places: Prefixes under which all is open, each as its length in bits and its number.
    """

    before: bytes
    after: bytes
    leaves: tuple[Leaf, ...]
    is_added: bool
    places: frozenset[tuple[int, int]]

    def has_place(self, digest: bytes) -> bool:
        """Whether the place where `digest` would be is open, and it is not there."""
        number = int.from_bytes(digest, "big")
        depths = range(8 * SIZE + 1)
        if any((depth, number >> (8 * SIZE - depth)) in self.places for depth in depths):
            return all(found.digest != digest for found in self.leaves)
        return False


def encode(leaves: Sequence[Leaf]) -> bytes:
    """Return the step that shows records, in digest order."""
    counts = (
        (leaf.before.to_bytes(8, "little"), leaf.after.to_bytes(8, "little")) for leaf in leaves
    )
    shown = (leaf.digest + b"".join(pair) for leaf, pair in zip(leaves, counts, strict=True))
    return bytes([OPEN, len(leaves)]) + b"".join(shown)


def read(data: bytes) -> Opened:
    """Hash an opened tree again.

    Raises:
        FormatError: If it is not one: steps missing or left over, records out of order or not under
            their own bits, too deep.
    """
    if len(data) > MAX_BYTES:
        raise FormatError(f"an opened tree of {len(data)} bytes, more than {MAX_BYTES}")
    walk = _Walk(data)
    old, new = walk.step(0, 0)
    if walk.position != len(data):
        raise FormatError("bytes after the opened tree", offset=walk.position)
    sides = hash_of(old, 0), hash_of(new, 0)
    return Opened(*sides, tuple(walk.leaves), walk.is_added, frozenset(walk.places))


@final
class _Walk:
    """Reads steps, and collects what they show."""

    def __init__(self, data: bytes) -> None:
        self.position = 0
        self.leaves: list[Leaf] = []
        self.places: list[tuple[int, int]] = []
        self.is_added = False
        self._data = data

    def step(self, depth: int, prefix: int) -> tuple[Side, Side]:
        """Read the step of a prefix and all below it; return both sides' subtrees."""
        at = self.position
        kind = self._take(1)[0]
        if kind == OPEN:
            shown = self._shown(depth, prefix)
            self.leaves += shown
            self.places.append((depth, prefix))
            old = tuple((leaf.digest, leaf.before) for leaf in shown if leaf.before)
            return old, tuple((leaf.digest, leaf.after) for leaf in shown if leaf.after)
        if kind in (SHARED, ADDED):
            shut = self._take(SIZE)
            self.is_added |= kind == ADDED
            return (shut if kind == SHARED else ()), shut
        if kind != NODE or depth >= 8 * SIZE:
            raise FormatError(f"no step of an opened tree: {kind}", offset=at)
        left = self.step(depth + 1, 2 * prefix)
        right = self.step(depth + 1, 2 * prefix + 1)
        return joined(left[0], right[0], depth), joined(left[1], right[1], depth)

    def _shown(self, depth: int, prefix: int) -> list[Leaf]:
        shown = []
        last = b""
        for _ in range(self._take(1)[0]):
            at = self.position
            digest = self._take(SIZE)
            before, after = (int.from_bytes(self._take(8), "little") for _ in range(2))
            if int.from_bytes(digest, "big") >> (8 * SIZE - depth) != prefix:
                raise FormatError("a record is not under its own bits", offset=at)
            if digest <= last:
                raise FormatError("records of a step are not in order", offset=at)
            if not before | after:
                raise FormatError("a record that neither side has", offset=at)
            last = digest
            shown.append(Leaf(digest, before, after))
        return shown

    def _take(self, size: int) -> bytes:
        piece = self._data[self.position : self.position + size]
        if len(piece) != size:
            raise FormatError("the opened tree ends early", offset=len(self._data))
        self.position += size
        return piece
