"""Hash functions and the frame around what is hashed."""

from __future__ import annotations

from lineage.digest import SIZE, blake3_digest, frame, sha256_digest


def test_digests_are_the_published_ones() -> None:
    # FIPS 180-4 example "abc"; BLAKE3's test_vectors.json, input length 0.
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert sha256_digest(b"abc").hex() == abc
    assert blake3_digest(b"").hex() == empty
    assert len(blake3_digest(b"x")) == len(sha256_digest(b"x")) == SIZE


def test_a_frame_holds_tag_and_lengths() -> None:
    assert frame("t") == b"t\0"
    assert frame("t", b"ab", b"") == b"t\0" + b"\2" + bytes(7) + b"ab" + bytes(8)


def test_different_parts_never_share_one_frame() -> None:
    inputs = [(), (b"",), (b"", b""), (b"ab",), (b"a", b"b"), (b"b", b"a"), (b"", b"ab")]
    frames = {frame("t", *parts) for parts in inputs} | {frame("u", *parts) for parts in inputs}
    assert len(frames) == 2 * len(inputs)
