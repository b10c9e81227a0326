"""The Merkle tree against published vectors and against a tree written the naive way."""

from __future__ import annotations

import hashlib

import pytest

from lineage import merkle
from lineage.digest import blake3_digest
from lineage.errors import ReceiptError

# The eight leaves and their roots are the test vectors of Google's certificate-transparency
# (merkletree/merkle_tree_test.cc), also in transparency-dev/merkle (testonly/).
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {  # (index, size): proof
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
}
CONSISTENCY = {  # (old, new): proof
    (1, 1): [],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
}

LARGEST = 70
MANY = [merkle.leaf_hash(bytes([number])) for number in range(LARGEST)]


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162, section 2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


ALL_ROOTS = [naive_root(MANY[:size]) for size in range(LARGEST + 1)]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_published_ones(size: int) -> None:
    leaves = [merkle.leaf_hash(leaf) for leaf in LEAVES[:size]]
    assert merkle.root(leaves).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_inclusion_proofs_are_the_published_ones(index: int, size: int) -> None:
    leaves = [merkle.leaf_hash(leaf) for leaf in LEAVES[:size]]
    assert [node.hex() for node in merkle.inclusion_proof(leaves, index)] == INCLUSION[index, size]


@pytest.mark.parametrize(("old", "new"), CONSISTENCY)
def test_consistency_proofs_are_the_published_ones(old: int, new: int) -> None:
    leaves = [merkle.leaf_hash(leaf) for leaf in LEAVES[:new]]
    assert [node.hex() for node in merkle.consistency_proof(leaves, old)] == CONSISTENCY[old, new]


def test_every_root_is_the_naive_one() -> None:
    assert [merkle.root(MANY[:size]) for size in range(LARGEST + 1)] == ALL_ROOTS


def test_a_million_leaves_need_no_recursion() -> None:
    calls = 0

    def count(data: bytes) -> bytes:
        nonlocal calls
        calls += 1
        return data[:1]

    merkle.root([b"x"] * 100_001, count)
    assert calls == 100_000


def test_the_hash_is_a_parameter() -> None:
    leaves = [merkle.leaf_hash(leaf, blake3_digest) for leaf in LEAVES]
    proof = merkle.inclusion_proof(leaves, 3, blake3_digest)
    root = merkle.root(leaves, blake3_digest)
    merkle.verify_inclusion(leaves[3], 3, 8, proof, root, blake3_digest)
    with pytest.raises(ReceiptError):
        merkle.verify_inclusion(leaves[3], 3, 8, proof, root)


def test_every_inclusion_proof_verifies_and_only_at_its_place() -> None:
    for size in range(1, LARGEST + 1):
        for index in range(size):
            proof = merkle.inclusion_proof(MANY[:size], index)
            merkle.verify_inclusion(MANY[index], index, size, proof, ALL_ROOTS[size])
            for other in {index ^ 1, size - 1, 0} - {index}:
                with pytest.raises(ReceiptError):
                    merkle.verify_inclusion(MANY[index], other, size, proof, ALL_ROOTS[size])


def test_every_consistency_proof_verifies() -> None:
    for new in range(LARGEST + 1):
        for old in range(new + 1):
            proof = merkle.consistency_proof(MANY[:new], old)
            merkle.verify_consistency(old, ALL_ROOTS[old], new, ALL_ROOTS[new], proof)


def flips(data: bytes) -> list[bytes]:
    """`data` with each single bit flipped."""
    return [
        data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]
        for bit in range(8 * len(data))
    ]


@pytest.mark.parametrize(("index", "size"), [(0, 1), (0, 2), (6, 7), (31, 70), (69, 70)])
def test_every_flipped_bit_of_an_inclusion_proof_is_refused(index: int, size: int) -> None:
    leaf, root = MANY[index], ALL_ROOTS[size]
    proof = merkle.inclusion_proof(MANY[:size], index)
    for wrong in flips(leaf):
        with pytest.raises(ReceiptError):
            merkle.verify_inclusion(wrong, index, size, proof, root)
    for wrong in flips(root):
        with pytest.raises(ReceiptError):
            merkle.verify_inclusion(leaf, index, size, proof, wrong)
    for at, node in enumerate(proof):
        for wrong in flips(node):
            with pytest.raises(ReceiptError):
                merkle.verify_inclusion(
                    leaf, index, size, (*proof[:at], wrong, *proof[at + 1 :]), root
                )


@pytest.mark.parametrize(("old", "new"), [(1, 2), (3, 7), (64, 70), (63, 64), (33, 70)])
def test_every_flipped_bit_of_a_consistency_proof_is_refused(old: int, new: int) -> None:
    before, after = ALL_ROOTS[old], ALL_ROOTS[new]
    proof = merkle.consistency_proof(MANY[:new], old)
    for wrong in flips(before):
        with pytest.raises(ReceiptError):
            merkle.verify_consistency(old, wrong, new, after, proof)
    for wrong in flips(after):
        with pytest.raises(ReceiptError):
            merkle.verify_consistency(old, before, new, wrong, proof)
    for at, node in enumerate(proof):
        for wrong in flips(node):
            with pytest.raises(ReceiptError):
                merkle.verify_consistency(
                    old, before, new, after, (*proof[:at], wrong, *proof[at + 1 :])
                )


def test_proofs_of_another_length_are_refused() -> None:
    proof = merkle.inclusion_proof(MANY[:7], 3)
    for wrong in (proof[:-1], (*proof, proof[0]), ()):
        with pytest.raises(ReceiptError, match="belong"):
            merkle.verify_inclusion(MANY[3], 3, 7, wrong, ALL_ROOTS[7])
    proof = merkle.consistency_proof(MANY[:7], 3)
    for wrong in (proof[:-1], (*proof, proof[0]), ()):
        with pytest.raises(ReceiptError, match="belong"):
            merkle.verify_consistency(3, ALL_ROOTS[3], 7, ALL_ROOTS[7], wrong)


def test_what_lies_outside_a_tree_is_refused() -> None:
    with pytest.raises(ReceiptError):
        merkle.verify_inclusion(MANY[0], 1, 1, (), ALL_ROOTS[1])
    with pytest.raises(ReceiptError):
        merkle.verify_inclusion(MANY[0], -1, 1, (), ALL_ROOTS[1])
    with pytest.raises(ReceiptError):
        merkle.verify_consistency(2, ALL_ROOTS[2], 1, ALL_ROOTS[1], ())
    with pytest.raises(ReceiptError):
        merkle.verify_consistency(0, ALL_ROOTS[1], 1, ALL_ROOTS[1], ())
    with pytest.raises(ReceiptError, match="two histories"):
        merkle.verify_consistency(2, ALL_ROOTS[2], 2, ALL_ROOTS[1], ())
    with pytest.raises(ValueError, match="no leaf 3"):
        merkle.inclusion_proof(MANY[:3], 3)
    with pytest.raises(ValueError, match="no prefix"):
        merkle.consistency_proof(MANY[:3], 4)


def test_a_node_cannot_pose_as_a_leaf() -> None:
    left, right = MANY[:2]
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)
