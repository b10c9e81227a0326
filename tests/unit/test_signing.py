"""Keys, key files and envelopes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from strategies import KEY, OTHER_KEY

from lineage import canonical
from lineage.digest import sha256_digest
from lineage.errors import FormatError, SignatureError
from lineage.signing import (
    Ed25519Key,
    Envelope,
    PublicKey,
    pae,
    sign_payload,
    strict_base64,
    verified_by,
)


def test_signatures_are_those_of_rfc_8032() -> None:
    # RFC 8032, section 7.1, TEST 2.
    seed = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
    public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    key = Ed25519Key.from_seed(bytes.fromhex(seed))
    assert key.public.raw.hex() == public
    assert key.sign(b"\x72").hex() == signature
    key.public.verify(bytes.fromhex(signature), b"\x72")


def test_what_is_signed_is_the_published_pre_authentication_encoding() -> None:
    # The DSSE specification, protocol.md, its test vector.
    wanted = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae("http://example.com/HelloWorld", b"hello world") == wanted


def test_a_key_id_is_the_whole_digest_behind_the_kind_of_key() -> None:
    assert KEY.key_id == f"ed25519:{sha256_digest(KEY.public.raw).hex()}"


def test_a_key_never_shows_itself() -> None:
    seed = b"s" * 32
    assert "_private" not in repr(Ed25519Key.from_seed(seed))


def test_key_files_come_back(tmp_path: Path) -> None:
    key = Ed25519Key.generate()
    key.save(tmp_path / "k")
    key.public.save(tmp_path / "k.pub")
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600
    assert Ed25519Key.load(tmp_path / "k").key_id == key.key_id
    assert PublicKey.load(tmp_path / "k.pub") == key.public


def test_key_files_are_never_overwritten(tmp_path: Path) -> None:
    KEY.save(tmp_path / "k")
    for save in (OTHER_KEY.save, OTHER_KEY.public.save):
        with pytest.raises(FileExistsError):
            save(tmp_path / "k")
    assert Ed25519Key.load(tmp_path / "k").key_id == KEY.key_id


def test_a_locked_key_needs_its_passphrase(tmp_path: Path) -> None:
    KEY.save(tmp_path / "k", b"open")
    assert Ed25519Key.load(tmp_path / "k", b"open").key_id == KEY.key_id
    with pytest.raises(FormatError, match="locked"):
        Ed25519Key.load(tmp_path / "k")
    with pytest.raises(FormatError, match="does not open"):
        Ed25519Key.load(tmp_path / "k", b"shut")


def test_a_passphrase_for_an_unlocked_key_is_not_needed(tmp_path: Path) -> None:
    KEY.save(tmp_path / "k")
    assert Ed25519Key.load(tmp_path / "k", b"open").key_id == KEY.key_id


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "none could be read"),
        (b"\x00\xff" * 50, "none could be read"),
        (b"x" * 20_000, "too long"),
        (KEY.public.to_pem()[:60], "could be read|public key"),
    ],
)
def test_what_is_no_key_is_refused_by_name(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "no-key"
    path.write_bytes(content)
    for load in (Ed25519Key.load, PublicKey.load):
        with pytest.raises(FormatError, match=reason) as caught:
            load(path)
        assert "no-key" in str(caught.value)


def test_the_other_half_is_refused_with_a_hint(tmp_path: Path) -> None:
    KEY.save(tmp_path / "k")
    KEY.public.save(tmp_path / "k.pub")
    with pytest.raises(FormatError, match="this is a public key"):
        Ed25519Key.load(tmp_path / "k.pub")
    with pytest.raises(FormatError, match="this is a private key"):
        PublicKey.load(tmp_path / "k")


def test_keys_of_another_kind_are_refused(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "k").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (tmp_path / "k.pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    with pytest.raises(FormatError, match="not Ed25519"):
        Ed25519Key.load(tmp_path / "k")
    with pytest.raises(FormatError, match="not Ed25519"):
        PublicKey.load(tmp_path / "k.pub")
    with pytest.raises(ValueError, match="32 bytes"):
        PublicKey(b"short")


def test_several_sign_one_envelope_in_key_id_order() -> None:
    envelope = sign_payload("text/plain", b"hello", KEY, OTHER_KEY)
    assert envelope == sign_payload("text/plain", b"hello", OTHER_KEY, KEY)
    both = tuple(sorted([KEY.key_id, OTHER_KEY.key_id]))
    assert verified_by(envelope, [KEY.public, OTHER_KEY.public, KEY.public]) == both
    assert verified_by(envelope, [KEY.public]) == (KEY.key_id,)
    assert Envelope.from_bytes(envelope.to_bytes()) == envelope


def test_signers_must_be_distinct_and_there() -> None:
    for signers in ((), (KEY, KEY)):
        with pytest.raises(ValueError, match="signer"):
            sign_payload("text/plain", b"hello", *signers)


def test_strangers_and_changed_bytes_are_refused() -> None:
    envelope = sign_payload("text/plain", b"hello", KEY)
    with pytest.raises(SignatureError, match="no accepted key"):
        verified_by(envelope, [OTHER_KEY.public])
    for payload_type, payload in (("text/plain", b"hellp"), ("text/html", b"hello")):
        with pytest.raises(SignatureError, match="is wrong"):
            verified_by(Envelope(payload_type, payload, envelope.signatures), [KEY.public])


def test_one_wrong_signature_of_an_accepted_key_spoils_the_envelope() -> None:
    good = sign_payload("text/plain", b"hello", KEY, OTHER_KEY)
    bad = tuple(
        (key_id, bytes(64) if key_id == OTHER_KEY.key_id else signature)
        for key_id, signature in good.signatures
    )
    envelope = Envelope("text/plain", b"hello", bad)
    with pytest.raises(SignatureError, match="is wrong"):
        verified_by(envelope, [KEY.public, OTHER_KEY.public])


GOOD = sign_payload("text/plain", b"hello", KEY, OTHER_KEY)


def spelled(**changes: object) -> bytes:
    return canonical.dumps({**canonical.loads(GOOD.to_bytes()), **changes})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        GOOD.to_bytes() + b"\n",
        GOOD.to_bytes().replace(b",", b", ", 1),
        spelled(extra=1),
        spelled(payload="aGVsbG8"),
        spelled(payload="aGVsbG9="),
        spelled(payload="aGVs bG8="),
        spelled(payload="é"),
        spelled(payload=1),
        spelled(payloadType=None),
        spelled(signatures=[]),
        spelled(signatures={}),
        spelled(signatures=[1]),
        spelled(signatures=[{"keyid": "a"}]),
        spelled(signatures=[{"keyid": 1, "sig": ""}]),
        spelled(signatures=[{"keyid": "a", "sig": ""}] * 2),
        spelled(signatures=[{"keyid": "b", "sig": ""}, {"keyid": "a", "sig": ""}]),
        spelled(signatures=[{"keyid": f"{n:03}", "sig": ""} for n in range(65)]),
    ],
)
def test_envelopes_have_one_spelling(data: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        Envelope.from_bytes(data, file="claim.json")
    assert str(caught.value).startswith("claim.json: ")


def test_base64_has_one_spelling() -> None:
    assert strict_base64("aGVsbG8=", "x") == b"hello"
    for text in ("aGVsbG9=", "aGVsbG8", "aGVs\nbG8=", "aGV_bG8="):
        with pytest.raises(FormatError, match="x: "):
            strict_base64(text, "x")
