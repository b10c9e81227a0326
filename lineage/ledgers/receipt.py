"""Proof that a log holds an entry, checked without the log: a C2SP tlog-proof.

c2sp.org/tlog-proof@v1
index 7
<the inclusion proof, one base64 hash a line, the leaf's sibling first>

<the signed checkpoint, as the log issued it>
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import final

from lineage import merkle
from lineage.digest import SIZE
from lineage.errors import FormatError
from lineage.ledgers.checkpoint import Checkpoint, claimed_origin, open_checkpoint
from lineage.signing import PublicKey, strict_base64

HEADER = "c2sp.org/tlog-proof@v1"
MAX_RECEIPT_BYTES = 256 * 1024

_INDEX = re.compile(r"index (0|[1-9]\d{0,18})", re.ASCII)


@final
@dataclass(frozen=True, slots=True)
class Receipt:
    """Where an entry sits and why to believe it. It is worth nothing before `verify`.

    Args:
        index: The entry's number in the log, from 0.
        proof: The inclusion proof's hashes.
        checkpoint: The signed head, as the log issued it.
        extra: Bytes that nobody signed; kept, never trusted.
    """

    index: int
    proof: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes = b""

    @property
    def claimed_origin(self) -> str:
        """The origin that the receipt names, unchecked."""
        return claimed_origin(self.checkpoint)

    def verify(self, entry: bytes, key: PublicKey, origin: str) -> Checkpoint:
        """Check that the log `origin`, whose key is `key`, holds `entry`; needs no log.

        Returns:
            The head that covers the entry.

        Raises:
            FormatError: If the checkpoint is not one.
            ReceiptError: If the head is another log's or key's, or does not cover the entry.
        """
        head = open_checkpoint(self.checkpoint, key, origin)
        merkle.verify_inclusion(
            merkle.leaf_hash(entry), self.index, head.size, self.proof, head.root
        )
        return head

    def to_bytes(self) -> bytes:
        """Return the receipt as text."""
        lines = [HEADER]
        if self.extra:
            lines.append(f"extra {base64.b64encode(self.extra).decode()}")
        lines.append(f"index {self.index}")
        lines += [base64.b64encode(node).decode() for node in self.proof]
        return "\n".join(lines).encode() + b"\n\n" + self.checkpoint

    @classmethod
    def from_bytes(cls, data: bytes, *, file: object = None) -> Receipt:
        """Parse a receipt.

        Raises:
            FormatError: If it is not one.
        """
        try:
            return cls._parse(data)
        except FormatError as error:
            raise FormatError(error.reason, file=file) from error

    @classmethod
    def _parse(cls, data: bytes) -> Receipt:
        head, blank, checkpoint = data.partition(b"\n\n")
        if not data.startswith(HEADER.encode() + b"\n") or not blank:
            raise FormatError(f"not a receipt: the first line must be {HEADER}")
        if len(data) > MAX_RECEIPT_BYTES:
            raise FormatError("too long to be a receipt")
        try:
            lines = head.decode("ascii").split("\n")[1:]
        except UnicodeDecodeError as error:
            raise FormatError("receipt: a line is not ASCII", offset=error.start) from error
        extra = b""
        if lines and lines[0].startswith("extra "):
            extra = strict_base64(lines.pop(0).removeprefix("extra "), "receipt: extra")
        index = _INDEX.fullmatch(lines.pop(0)) if lines else None
        if index is None:
            raise FormatError("receipt: expected a line with the index")
        proof = tuple(strict_base64(line, "receipt: proof") for line in lines)
        if any(len(node) != SIZE for node in proof) or len(proof) > 64:
            raise FormatError("receipt: expected at most 64 hashes of 32 bytes")
        return cls(int(index[1]), proof, checkpoint, extra)
