"""A log's signed head: a C2SP checkpoint inside a C2SP signed note.

    example.com/log          the origin, which says whose log it is
    42                       how many entries it has
    qINS1GRFhWHwdkUeqLEoP4yEMkTBBzxBkGwGQlVlVcs=    the root over them

    — example.com/log Az3grl...    who signed the lines above

Sources: C2SP tlog-checkpoint and signed-note.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import final

from lineage.digest import SIZE, sha256_digest
from lineage.errors import FormatError, ReceiptError, SignatureError, printable
from lineage.signing import Ed25519Key, PublicKey, strict_base64

MAX_NOTE_BYTES = 64 * 1024
MAX_SIGNATURES = 64
ED25519 = b"\x01"
"""The note's signature type for a plain Ed25519 signature over its text."""

_SIZE = re.compile(r"0|[1-9]\d{0,18}", re.ASCII)


@final
@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log at one moment.

    Args:
        origin: Whose log it is.
        size: How many entries it has.
        root: The RFC 9162 root over them, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Return the lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    def sign(self, key: Ed25519Key) -> bytes:
        """Return the signed note; the key's name in it is the origin."""
        text = self.text()
        signature = note_key_id(self.origin, key.public) + key.sign(text.encode())
        line = f"— {self.origin} {base64.b64encode(signature).decode()}\n"
        return f"{text}\n{line}".encode()


def check_origin(origin: str) -> str:
    """Return `origin` if it can name a log in a note.

    Raises:
        FormatError: If it is empty, too long, or has a space, a plus or a control character.
    """
    if not 1 <= len(origin) <= 256 or not origin.isprintable():
        raise FormatError("origin: expected 1 to 256 printable characters")
    if "+" in origin or any(character.isspace() for character in origin):
        raise FormatError(f"origin: '{printable(origin)}' may not hold a space or a plus")
    return origin


def note_key_id(name: str, key: PublicKey) -> bytes:
    """Return the four bytes by which a note names an Ed25519 key; a hint, never proof."""
    return sha256_digest(name.encode() + b"\n" + ED25519 + key.raw)[:4]


def open_note(note: bytes, name: str, key: PublicKey) -> str:
    """Return a note's text after checking the signature that `key` made under `name`.

    Signatures by others are passed over.

    Raises:
        FormatError: If it is not a signed note.
        ReceiptError: If `key` did not sign it under `name`, or a signature in its name is wrong.
    """
    if len(note) > MAX_NOTE_BYTES:
        raise FormatError(f"a signed note of {len(note)} bytes is too long")
    try:
        decoded = note.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("a signed note must be UTF-8", offset=error.start) from error
    if any(character < " " and character != "\n" for character in decoded):
        raise FormatError("a signed note holds a control character")
    text, blank, block = decoded.rpartition("\n\n")
    lines = block.split("\n")
    if not blank or not text or lines.pop() != "" or not 1 <= len(lines) <= MAX_SIGNATURES:
        raise FormatError("not a signed note: text, an empty line, then signature lines")
    text += "\n"
    wanted = note_key_id(name, key)
    signed = False
    for line in lines:
        dash, _, rest = line.partition(" ")
        signer, _, encoded = rest.partition(" ")
        signature = strict_base64(encoded, "signature line")
        if dash != "—" or not signer or "+" in signer or len(signature) < 5:
            raise FormatError("a signature line of the note is malformed")
        if signer == name and signature[:4] == wanted:
            try:
                key.verify(signature[4:], text.encode())
            except SignatureError as error:
                raise ReceiptError(
                    f"the signature of '{name}' on the log's head is wrong"
                ) from error
            signed = True
    if not signed:
        raise ReceiptError(f"the log's head is not signed by the given key as '{printable(name)}'")
    return text


def open_checkpoint(note: bytes, key: PublicKey, origin: str) -> Checkpoint:
    """Return the head in a signed note of the log `origin` whose key is `key`.

    Raises:
        FormatError: If it is not a signed checkpoint.
        ReceiptError: If it is another log's or was signed by another key.
    """
    found = claimed_origin(note)
    if found != origin:
        raise ReceiptError(
            f"the head is of the log '{printable(found)}', not '{printable(origin)}'"
        )
    lines = open_note(note, origin, key).removesuffix("\n").split("\n")
    # Extension lines, if any, are signed but mean nothing here.
    if len(lines) < 3 or not all(lines) or not _SIZE.fullmatch(lines[1]):
        raise FormatError("checkpoint: expected the lines origin, size and root")
    digest = strict_base64(lines[2], "checkpoint: root")
    if len(digest) != SIZE:
        raise FormatError(f"checkpoint: a root of {len(digest)} bytes")
    return Checkpoint(origin, int(lines[1]), digest)


def claimed_origin(note: bytes) -> str:
    """Return the first line of a note, which nobody has checked yet.

    Raises:
        FormatError: If it cannot be an origin.
    """
    try:
        return check_origin(note[:2048].partition(b"\n")[0].decode("utf-8"))
    except UnicodeDecodeError as error:
        raise FormatError("the origin is not UTF-8") from error
