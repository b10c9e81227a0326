"""Keys, and envelopes of signed bytes.

Keys are Ed25519 (RFC 8032). A key id is `ed25519:` and the SHA-256 of the 32 raw public bytes in
full: the kind of key is part of its name, and no short form is ever compared. An envelope is DSSE:
what is signed is a payload together with its type, so bytes signed as one thing cannot be read as
another.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from lineage import canonical
from lineage.digest import sha256_digest
from lineage.errors import FormatError, SignatureError

MAX_SIGNATURES = 64
MAX_KEY_FILE_BYTES = 16 * 1024


class Signer(Protocol):
    """Whatever can sign: a key file here, or hardware and services elsewhere."""

    @property
    def key_id(self) -> str:
        """The id under which a verifier knows the public key."""

    def sign(self, message: bytes) -> bytes:
        """Return a signature over exactly `message`."""


@final
@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key.

    Args:
        raw: Its 32 bytes.
    """

    raw: bytes

    def __post_init__(self) -> None:
        """Refuse bytes of another length."""
        if len(self.raw) != 32:
            raise ValueError(f"an Ed25519 public key is 32 bytes, not {len(self.raw)}")

    @property
    def key_id(self) -> str:
        """`ed25519:` and the SHA-256 of the raw key, 64 hex digits."""
        return f"ed25519:{sha256_digest(self.raw).hex()}"

    def verify(self, signature: bytes, message: bytes) -> None:
        """Check one signature over `message`.

        Raises:
            SignatureError: If this key did not make it.
        """
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise SignatureError(f"the signature by {self.key_id} is wrong") from error

    def to_pem(self) -> bytes:
        """Return the key as PEM (SubjectPublicKeyInfo, RFC 8410)."""
        return Ed25519PublicKey.from_public_bytes(self.raw).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @classmethod
    def from_pem(cls, pem: bytes, *, file: object = None) -> PublicKey:
        """Read a public PEM; a FormatError names `file`."""
        try:
            key = serialization.load_pem_public_key(pem)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            private = b"PRIVATE KEY" in pem
            found = "this is a private key" if private else "none could be read"
            raise FormatError(f"expected a public key in PEM; {found}", file=file) from error
        if not isinstance(key, Ed25519PublicKey):
            raise FormatError("the public key is not Ed25519", file=file)
        return cls(key.public_bytes_raw())

    def save(self, path: Path | str) -> None:
        """Write the PEM to a new file.

        Raises:
            FileExistsError: If there is a file already; none is ever overwritten.
        """
        _write_new(Path(path), self.to_pem(), 0o644)

    @classmethod
    def load(cls, path: Path | str) -> PublicKey:
        """Read a public key file."""
        return cls.from_pem(_read_small(Path(path)), file=path)


@final
@dataclass(frozen=True, slots=True)
class Ed25519Key:
    """An Ed25519 private key; it never appears in a `repr`."""

    _private: Ed25519PrivateKey = field(repr=False)
    public: PublicKey = field(init=False)

    def __post_init__(self) -> None:
        """Keep the public half beside the private one."""
        raw = self._private.public_key().public_bytes_raw()
        object.__setattr__(self, "public", PublicKey(raw))

    @classmethod
    def generate(cls) -> Ed25519Key:
        """Make a new key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Ed25519Key:
        """Return the key of a 32-byte secret (RFC 8032, section 5.1.5)."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @property
    def key_id(self) -> str:
        """The id of the public half."""
        return self.public.key_id

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature over `message`."""
        return self._private.sign(message)

    def save(self, path: Path | str, passphrase: bytes | None = None) -> None:
        """Write the key to a new file of mode 0600, as PKCS#8 PEM.

        Raises:
            FileExistsError: If there is a file already; none is ever overwritten.
        """
        lock: serialization.KeySerializationEncryption = (
            serialization.BestAvailableEncryption(passphrase)
            if passphrase
            else serialization.NoEncryption()
        )
        pem = self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock
        )
        _write_new(Path(path), pem, 0o600)

    @classmethod
    def load(cls, path: Path | str, passphrase: bytes | None = None) -> Ed25519Key:
        """Read a private key file.

        Raises:
            FormatError: If it holds no Ed25519 private key, or the passphrase does not fit.
        """
        pem = _read_small(Path(path))
        locked = is_locked(pem)
        if locked and not passphrase:
            raise FormatError("the private key is locked with a passphrase", file=path)
        try:
            key = serialization.load_pem_private_key(pem, passphrase if locked else None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            if locked:
                reason = "the passphrase does not open this private key"
            else:
                public = b"PUBLIC KEY" in pem
                found = "this is a public key" if public else "none could be read"
                reason = f"expected a private key in PEM; {found}"
            raise FormatError(reason, file=path) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise FormatError("the private key is not Ed25519", file=path)
        return cls(key)


def is_locked(pem: bytes) -> bool:
    """Whether a private PEM needs a passphrase."""
    return b"ENCRYPTED" in pem


@final
@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload, its type and who signed both (DSSE v1.0).

    Args:
        payload_type: A media type.
        payload: The bytes that were signed.
        signatures: Pairs of key id and signature, in key id order, one per key.
    """

    payload_type: str
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]

    def __post_init__(self) -> None:
        """Refuse signatures that are missing, out of order or twice by one key."""
        ids = [key_id for key_id, _ in self.signatures]
        if not 1 <= len(ids) <= MAX_SIGNATURES:
            raise FormatError(f"an envelope has 1 to {MAX_SIGNATURES} signatures, not {len(ids)}")
        if ids != sorted(set(ids)):
            raise FormatError("signatures must be sorted by key id, one per key")

    def to_bytes(self) -> bytes:
        """Return the envelope as RFC 8785 JSON, the only spelling `from_bytes` takes."""
        return canonical.dumps(
            {
                "payload": base64.b64encode(self.payload).decode(),
                "payloadType": self.payload_type,
                "signatures": [
                    {"keyid": key_id, "sig": base64.b64encode(signature).decode()}
                    for key_id, signature in self.signatures
                ],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, *, file: object = None) -> Envelope:
        """Parse an envelope.

        Raises:
            FormatError: If it is not one, or is spelled otherwise than `to_bytes` would: an
                envelope's id is the hash of its bytes, so there is one spelling.
        """
        value = canonical.loads(data, file=file)
        try:
            body = _members(value, "envelope", {"payload", "payloadType", "signatures"})
            kind = _text(body["payloadType"], "payloadType")
            payload = strict_base64(_text(body["payload"], "payload"), "payload")
            if not isinstance(body["signatures"], list):
                raise FormatError("signatures: expected a list")
            signatures = []
            for item in body["signatures"]:
                entry = _members(item, "signatures", {"keyid", "sig"})
                signature = strict_base64(_text(entry["sig"], "sig"), "sig")
                signatures.append((_text(entry["keyid"], "keyid"), signature))
            envelope = cls(kind, payload, tuple(signatures))
        except FormatError as error:
            raise FormatError(error.reason, file=file) from error
        if envelope.to_bytes() != data:
            raise FormatError("the envelope is not in canonical form (RFC 8785)", file=file)
        return envelope


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes a DSSE signature covers: type and payload behind their lengths."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_payload(payload_type: str, payload: bytes, *signers: Signer) -> Envelope:
    """Sign `payload` with every signer.

    Raises:
        ValueError: If there is no signer, or two share a key.
    """
    ids = [signer.key_id for signer in signers]
    if not ids or len(set(ids)) != len(ids):
        raise ValueError("at least one signer is needed, each with a key of its own")
    message = pae(payload_type, payload)
    signatures = sorted((signer.key_id, signer.sign(message)) for signer in signers)
    return Envelope(payload_type, payload, tuple(signatures))


def verified_by(envelope: Envelope, keys: Iterable[PublicKey]) -> tuple[str, ...]:
    """Return the ids of the accepted keys that signed, sorted and distinct; at least one.

    Signatures by keys that are not accepted say nothing and are passed over.

    Raises:
        SignatureError: If no accepted key signed, or a signature by one of them is wrong.
    """
    accepted = {key.key_id: key for key in keys}
    message = pae(envelope.payload_type, envelope.payload)
    found = []
    for key_id, signature in envelope.signatures:
        if key_id in accepted:
            accepted[key_id].verify(signature, message)
            found.append(key_id)
    if not found:
        raise SignatureError("no accepted key signed this envelope")
    return tuple(found)


def strict_base64(text: str, name: str) -> bytes:
    """Decode base64 (RFC 4648, section 4) that has exactly one spelling.

    Raises:
        FormatError: On other characters, missing padding or stray bits, calling the field `name`.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"{name}: not base64") from error
    if base64.b64encode(data).decode() != text:
        raise FormatError(f"{name}: base64 with stray bits at its end")
    return data


def _members(value: object, name: str, keys: set[str]) -> dict[str, object]:
    """Return `value` as an object with exactly `keys`."""
    if not isinstance(value, dict) or set(value) != keys:
        raise FormatError(f"{name}: expected an object with {', '.join(sorted(keys))}")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{name}: expected a string")
    return value


def _read_small(path: Path) -> bytes:
    """Read a key file, but not a mistaken gigabyte."""
    with path.open("rb") as file:
        data = file.read(MAX_KEY_FILE_BYTES + 1)
    if len(data) > MAX_KEY_FILE_BYTES:
        raise FormatError("too long to be a key", file=path)
    return data


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Create `path` with `mode` from its first moment, and flush it to disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
