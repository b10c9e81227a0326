"""The Merkle tree of RFC 9162, section 2.1, over any hash function.

A ledger uses it with SHA-256 and a fingerprint with BLAKE3; the tree's shape is the same. A leaf
hash and a node hash start with different bytes, so that no leaf can pose as a node.

A proof is a list of subtree roots. Which subtrees is a question about numbers alone, answered by
`inclusion_ranges` and `consistency_ranges`; a caller who keeps subtree roots (a log's tiles) looks
them up, and one who holds all leaves computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lineage.digest import sha256_digest
from lineage.errors import ReceiptError

Hash = Callable[[bytes], bytes]
Range = tuple[int, int]
"""Leaves from the first number up to, not including, the second."""


def leaf_hash(data: bytes, hash: Hash = sha256_digest) -> bytes:  # noqa: A002 - the spec's word
    """Return the hash of one entry: `hash(0x00 || data)`."""
    return hash(b"\x00" + data)


def node_hash(left: bytes, right: bytes, hash: Hash = sha256_digest) -> bytes:  # noqa: A002
    """Return the hash of two subtrees: `hash(0x01 || left || right)`."""
    return hash(b"\x01" + left + right)


def root(leaves: Sequence[bytes], hash: Hash = sha256_digest) -> bytes:  # noqa: A002
    """Return the root over `leaves`, which are leaf hashes already; `hash(b"")` for none.

    Linear in the number of leaves. A last one without a neighbour goes up a level as it is, which
    gives the tree of the specification: every left subtree is complete.
    """
    level = list(leaves)
    while len(level) > 1:
        last = level[-1:] if len(level) % 2 else []
        level = [hash(b"\x01" + a + b) for a, b in zip(level[::2], level[1::2], strict=False)]
        level += last
    return level[0] if level else hash(b"")


def fold(subtrees: Sequence[bytes], hash: Hash = sha256_digest) -> bytes:  # noqa: A002
    """Return the root over neighbouring complete subtrees, the largest first; at least one."""
    *rest, node = subtrees
    for left in reversed(rest):
        node = node_hash(left, node, hash)
    return node


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """Return the subtrees that prove leaf `index` of a tree of `size` leaves, the lowest first.

    Raises:
        ValueError: If there is no such leaf.

    Source: RFC 9162, section 2.1.3.1.
    """
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    ranges: list[Range] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _left_width(high - low)
        if index < middle:
            ranges.append((middle, high))
            high = middle
        else:
            ranges.append((low, middle))
            low = middle
    return ranges[::-1]


def consistency_ranges(old: int, new: int) -> list[Range]:
    """Return the subtrees that prove the first `old` leaves are a prefix of `new` leaves.

    Raises:
        ValueError: If `old` is larger than `new` or negative.

    Source: RFC 9162, section 2.1.4.1; nothing is needed when `old` is 0 or equals `new`.
    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {old} leaves is no prefix of one of {new}")
    if old in (0, new):
        return []
    ranges: list[Range] = []
    low, high = 0, new
    while high != old:
        middle = low + _left_width(high - low)
        if old <= middle:
            ranges.append((middle, high))
            high = middle
        else:
            ranges.append((low, middle))
            low = middle
    if low:  # when the old tree is one complete subtree of the new, the verifier has its root
        ranges.append((low, high))
    return ranges[::-1]


def inclusion_proof(
    leaves: Sequence[bytes],
    index: int,
    hash: Hash = sha256_digest,  # noqa: A002
) -> tuple[bytes, ...]:
    """Return the proof that `leaves[index]` is under `root(leaves)`."""
    return tuple(root(leaves[a:b], hash) for a, b in inclusion_ranges(index, len(leaves)))


def consistency_proof(
    leaves: Sequence[bytes],
    old: int,
    hash: Hash = sha256_digest,  # noqa: A002
) -> tuple[bytes, ...]:
    """Return the proof that `root(leaves[:old])` was over a prefix of `leaves`."""
    return tuple(root(leaves[a:b], hash) for a, b in consistency_ranges(old, len(leaves)))


def verify_inclusion(
    leaf: bytes,
    index: int,
    size: int,
    proof: Sequence[bytes],
    expected_root: bytes,
    hash: Hash = sha256_digest,  # noqa: A002
) -> None:
    """Check that `leaf`, a leaf hash, is number `index` of the `size` under `expected_root`.

    Raises:
        ReceiptError: If it is not, or the proof has another length than such a proof has.

    Source: RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        raise ReceiptError(f"index {index} is outside a tree of {size} entries")
    ranges = inclusion_ranges(index, size)
    if len(proof) != len(ranges):
        raise ReceiptError(f"an inclusion proof of {len(proof)} hashes, where {len(ranges)} belong")
    node = leaf
    for (low, _), sibling in zip(ranges, proof, strict=True):
        left, right = (sibling, node) if low < index else (node, sibling)
        node = node_hash(left, right, hash)
    if node != expected_root:
        raise ReceiptError("the inclusion proof does not lead to the log's root")


def verify_consistency(
    old: int,
    old_root: bytes,
    new: int,
    new_root: bytes,
    proof: Sequence[bytes],
    hash: Hash = sha256_digest,  # noqa: A002
) -> None:
    """Check that the tree of `new` leaves only adds to the tree of `old` leaves.

    Every tree adds to the empty one, so `old` 0 says nothing of `new_root`.

    Raises:
        ReceiptError: If it does not, or the proof has another length than such a proof has.

    Source: RFC 9162, section 2.1.4.2.
    """
    if not 0 <= old <= new:
        raise ReceiptError(f"a log of {new} entries cannot follow one of {old}")
    ranges = consistency_ranges(old, new)
    if len(proof) != len(ranges):
        raise ReceiptError(
            f"a consistency proof of {len(proof)} hashes, where {len(ranges)} belong"
        )
    if old == 0 and old_root != hash(b""):
        raise ReceiptError("the root of the empty tree is wrong")
    if old == new and old_root != new_root:
        raise ReceiptError(f"two roots for one size, {old}: the log has told two histories")
    if old in (0, new):
        return
    # What lies below `old` rebuilds the old root; all of it together rebuilds the new one.
    nodes = list(zip(ranges, proof, strict=True))
    (start, _), seed = nodes.pop(0) if ranges[0][1] == old else ((0, old), old_root)
    before = after = seed
    for (low, _), node in nodes:
        if low < start:
            before, after = node_hash(node, before, hash), node_hash(node, after, hash)
        else:
            after = node_hash(after, node, hash)
    if before != old_root:
        raise ReceiptError("the consistency proof does not lead to the older root")
    if after != new_root:
        raise ReceiptError("the consistency proof does not lead to the newer root")


def _left_width(count: int) -> int:
    """Return the largest power of two smaller than `count`, which is at least 2."""
    width: int = 1 << ((count - 1).bit_length() - 1)
    return width
