"""The Merkle tree of RFC 9162, section 2.1, over any hash function.

A ledger uses it with SHA-256 and a fingerprint with BLAKE3; the tree's shape is the same. A leaf
hash and a node hash start with different bytes, so that no leaf can pose as a node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lineage.digest import sha256_digest

Hash = Callable[[bytes], bytes]


def leaf_hash(data: bytes, hash: Hash = sha256_digest) -> bytes:  # noqa: A002 - the spec's word
    """Return the hash of one entry: `hash(0x00 || data)`."""
    return hash(b"\x00" + data)


def node_hash(left: bytes, right: bytes, hash: Hash = sha256_digest) -> bytes:  # noqa: A002
    """Return the hash of two subtrees: `hash(0x01 || left || right)`."""
    return hash(b"\x01" + left + right)


def root(leaves: Sequence[bytes], hash: Hash = sha256_digest) -> bytes:  # noqa: A002
    """Return the root over `leaves`, which are leaf hashes already; `hash(b"")` for none.

    Linear in the number of leaves, with a stack as deep as the tree.
    """
    stack: list[bytes] = []  # roots of the complete subtrees so far, the largest first
    for count, leaf in enumerate(leaves, start=1):
        node = leaf
        while count % 2 == 0:  # each factor of two closes one more complete subtree
            node = node_hash(stack.pop(), node, hash)
            count //= 2
        stack.append(node)
    if not stack:
        return hash(b"")
    node = stack.pop()
    while stack:
        node = node_hash(stack.pop(), node, hash)
    return node
