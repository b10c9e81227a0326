"""Every error this library raises on purpose, as one tree.

    LineageError
    ├── FormatError          bytes that cannot be what they say they are
    ├── ArchitectureError    an architecture that weights cannot be aligned in
    ├── SchemeError          sketches of two schemes were compared
    ├── VerificationError    a check was made and its answer is no
    │   ├── SignatureError       no accepted key signed these bytes
    │   ├── ContradictionError   the weights disagree with the claim
    │   └── ReceiptError         the log's head does not cover this entry
    ├── LedgerError          the log cannot do what was asked
    │   └── StaleHeadError       another writer moved the head first
    └── SettlementError      the claims do not define a payout

`FormatError`, `ArchitectureError` and `LedgerError` mean "could not check" (exit status 3); a
`VerificationError` means
"checked, and the answer is no" (exit status 1). A programmer's slip is a plain `ValueError` or
`TypeError` and is not in this tree.
"""

from __future__ import annotations


class LineageError(Exception):
    """The root of the tree; catch it to catch everything this library raises on purpose."""


class FormatError(LineageError):
    """Bytes that cannot be what they say they are.

    Args:
        reason: What was expected and what was found, in one line.
        file: The file as the caller named it.
        tensor: The tensor concerned.
        offset: The byte offset in the file.
    """

    def __init__(
        self,
        reason: str,
        *,
        file: object = None,
        tensor: str | None = None,
        offset: int | None = None,
    ) -> None:
        self.reason = reason
        self.file = None if file is None else str(file)
        self.tensor = tensor
        self.offset = offset
        super().__init__(reason)

    def __str__(self) -> str:
        """Return `file: tensor 'name': reason (at byte n)`, leaving out what is not known."""
        where = [printable(self.file)] if self.file is not None else []
        if self.tensor is not None:
            where.append(f"tensor '{printable(self.tensor)}'")
        tail = "" if self.offset is None else f" (at byte {self.offset})"
        return ": ".join([*where, self.reason]) + tail


class ArchitectureError(LineageError):
    """A model of an architecture in which weights cannot be aligned, or two that do not fit.

    Args:
        reason: What was looked for.
        name: The model as the caller named it.
    """

    def __init__(self, reason: str, name: str) -> None:
        self.reason, self.name = reason, name
        super().__init__(f"{printable(name)}: {reason}")


class SchemeError(LineageError):
    """Sketches of two schemes were compared; they are numbers of different kinds."""


class VerificationError(LineageError):
    """A check was made and its answer is no."""


class SignatureError(VerificationError):
    """No accepted key signed these bytes."""


class ContradictionError(VerificationError):
    """The weights disagree with what the claim says of them."""


class ReceiptError(VerificationError):
    """The log's head does not cover this entry."""


class LedgerError(LineageError):
    """The log cannot do what was asked."""


class StaleHeadError(LedgerError):
    """Another writer moved the head first; nothing was written."""


class SettlementError(LineageError):
    """The claims do not define a payout."""


def printable(text: str, limit: int = 200) -> str:
    """Return `text` on one line of at most `limit`, control and bidi characters escaped.

    Names come out of files that anyone can write; they must not steer a terminal.
    """
    begin = text[: limit + 1]  # a name may be as long as its file
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in begin)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
