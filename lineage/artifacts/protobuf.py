"""Walks protobuf's wire format in an open file: tags and lengths are read, contents are not.

A walk tells where each field lies, so that a tensor of gigabytes costs a dozen bytes to pass by.

Source: the wire format, https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lineage.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lineage.artifacts.opened import OpenFile

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""The wire types. Groups (3 and 4) were given up before the formats read here were made."""

WIDTHS = {FIXED64: 8, FIXED32: 4}
"""Bytes of a number of fixed length."""

MAX_FIELDS = 1 << 24
"""Fields walked over in one file: some seconds, and a hundred times the largest graph."""

MAX_TEXT = 4096
"""Bytes of a name. The longest that exporters make take some hundreds."""

_WINDOW = 1 << 14


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        number: As in the schema.
        wire: Its wire type.
        tag: The byte of the file where its tag is.
        start: Where its content begins.
        end: Where its content ends.
        value: Of a varint, its number; else 0.
    """

    number: int
    wire: int
    tag: int
    start: int
    end: int
    value: int


class Wire:
    """Protobuf messages of an open file, read through a small window that moves along."""

    def __init__(self, file: OpenFile) -> None:
        self.file = file
        self.walked = 0
        self._window = b""
        self._at = 0

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """Yield the fields of the message that lies at `start` to `end`.

        Raises:
            FormatError: If a field is malformed or leaves the message, or there are too many.
        """
        at = start
        while at < end:
            self.walked += 1
            if self.walked > MAX_FIELDS:
                raise self.fail(f"more than {MAX_FIELDS} fields", at)
            tag, begin = self._varint(at, end)
            number, wire = tag >> 3, tag & 7
            if not number or tag >> 32 or (begin - at > 1 and tag >> 7 * (begin - at - 1) == 0):
                raise self.fail(f"{tag} is no field's tag", at)
            value, stop = 0, begin
            if wire == VARINT:
                value, stop = self._varint(begin, end)
            elif wire == LENGTH:
                length, begin = self._varint(begin, end)
                stop = begin + length
            elif wire in WIDTHS:
                stop = begin + WIDTHS[wire]
            else:
                raise self.fail(f"a field of wire type {wire}, which is not in use", at)
            if stop > end:
                reason = f"a field ends {stop - end} bytes after the message it is in"
                raise self.fail(f"{reason}; is the file truncated?", at)
            yield Field(number, wire, at, begin, stop, value)
            at = stop

    def inside(self, field: Field) -> Iterator[Field]:
        """Yield the fields of the message that a field holds."""
        self.expect(field, LENGTH)
        return self.fields(field.start, field.end)

    def text(self, field: Field) -> str:
        """Return the text that a field holds."""
        self.expect(field, LENGTH)
        if field.end - field.start > MAX_TEXT:
            raise self.fail(f"a name of {field.end - field.start} bytes", field.start)
        try:
            return self._bytes(field.start, field.end).decode()
        except UnicodeDecodeError:
            raise self.fail("a name is not UTF-8", field.start) from None

    def varints(self, field: Field, most: int) -> list[int]:
        """Return the signed 64-bit numbers that one field holds, packed or alone."""
        if field.wire == VARINT:
            return [_signed(field.value)]
        self.expect(field, LENGTH)
        found: list[int] = []
        at = field.start
        while at < field.end:
            value, at = self._varint(at, field.end)
            found.append(_signed(value))
            if len(found) > most:
                raise self.fail(f"more than {most} numbers in one field", field.tag)
        return found

    def expect(self, field: Field, wire: int) -> None:
        """Raise unless a field has this wire type."""
        if field.wire != wire:
            reason = f"field {field.number} has wire type {field.wire}, not {wire}"
            raise self.fail(reason, field.tag)

    def fail(self, reason: str, offset: int) -> FormatError:
        """Return the error that says where in the file."""
        return FormatError(reason, file=self.file.path, offset=offset)

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """Return the unsigned number at `at`, cut to 64 bits, and where it ends."""
        if not (self._at <= at and at + 10 <= self._at + len(self._window)):
            self._move(at)
        window, here = self._window, at - self._at
        value = shift = 0
        for byte in window[here : here + min(10, end - at)]:
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, at + shift // 7
        raise self.fail("a number that does not end within 10 bytes and its message", at)

    def _bytes(self, start: int, end: int) -> bytes:
        here = start - self._at
        if here >= 0 and end <= self._at + len(self._window):
            return self._window[here : here + end - start]
        return self.file.read(start, end - start)

    def _move(self, at: int) -> None:
        self._window = self.file.read(at, min(_WINDOW, self.file.size - at))
        self._at = at


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
