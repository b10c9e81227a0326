"""Finds the members of a zip archive without inflating them, and reads them where they lie.

The directory is parsed here and not by the standard library because an archive that two readers
could read differently must be refused: every member lies in one place that both its headers agree
on, and no two share a byte. Stored members are read in place, deflated ones as a stream.

A stored member's CRC is not asked for: torch can be told to leave it out, and it guards against
accidents only. A deflated member's is, for without it a damaged stream would pass for data.

Source: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 to 4.5.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from lineage.artifacts.inflated import Inflated
from lineage.artifacts.opened import Region
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from lineage.artifacts.base import Source
    from lineage.artifacts.opened import OpenFile

STORED, DEFLATED = 0, 8

MAX_DIRECTORY_BYTES = 100_000_000
"""As much as a safetensors header may take; some million members."""

_MAX_RATIO = 1032
"""Deflate spends at least two bits on 258 bytes (RFC 1951)."""

_END, _END64 = struct.Struct("<4s4H2IH"), struct.Struct("<4sQ2H2I4Q")
_LOCATOR, _ENTRY = struct.Struct("<4sIQI"), struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_SENTINELS = (_FULL16, _FULL16, _FULL16, _FULL16, _FULL32, _FULL32)
_ENCRYPTED, _PATCHED, _UTF8, _HIDDEN = 1, 1 << 5, 1 << 11, 1 << 13


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive.

    Attributes:
        name: As stored: relative, its folders joined by `/`.
        size: Bytes it holds.
        packed: Bytes it takes in the archive.
        method: `STORED` or `DEFLATED`.
        start: Where in the archive its data begin.
        crc: CRC-32 of what it holds, as the directory says.
    """

    name: str
    size: int
    packed: int
    method: int
    start: int
    crc: int


def members(file: OpenFile) -> dict[str, Member]:
    """Return an archive's files by name, in the directory's order; folders are left out.

    Raises:
        FormatError: If the archive lies or is ambiguous, or a member is encrypted or compressed in
            another way than deflate.
    """
    begin, end, count = _directory(file)
    data = file.read(begin, end - begin)
    found: dict[str, Member] = {}
    spans: list[tuple[int, int, str]] = []
    at = 0
    for _ in range(count):
        header, member, at = _entry(file, data, at, begin)
        if member.name in found:
            raise _lie(file, member.name, "comes twice")
        found[member.name] = member
        spans.append((header, member.start + member.packed, member.name))
    if at != len(data):
        raise FormatError(
            f"the zip directory has {len(data) - at} bytes after its last entry", file=file.path
        )
    for (_, first_end, _), (second, _, name) in pairwise(sorted(spans)):
        if second < first_end:
            raise _lie(file, name, f"overlaps the one before it by {first_end - second} bytes")
    return {name: member for name, member in found.items() if not name.endswith("/")}


def source(file: OpenFile, member: Member) -> Source:
    """Return where a member's bytes can be read; ask anew for every tensor that lies in it."""
    return Region(file, member.start) if member.method == STORED else _inflated(file, member)


def read_small(file: OpenFile, member: Member, *, limit: int) -> bytes:
    """Return a member's bytes if they are at most `limit`."""
    if member.size > limit:
        raise _lie(file, member.name, f"holds {member.size} bytes, more than the {limit} allowed")
    if member.method == STORED:
        return file.read(member.start, member.size)
    view = memoryview(bytearray(member.size))
    return bytes(_inflated(file, member).piece(0, member.size, view))


def _inflated(file: OpenFile, member: Member) -> Inflated:
    label = f"its member '{printable(member.name, 80)}'"
    return Inflated(file, label, member.start, member.packed, member.size, member.crc)


def _lie(file: OpenFile, name: str, reason: str) -> FormatError:
    return FormatError(f"its member '{printable(name, 80)}' {reason}", file=file.path)


def _directory(file: OpenFile) -> tuple[int, int, int]:
    """Return where the central directory begins and ends, and its number of entries."""

    def fail(reason: str) -> FormatError:
        return FormatError(reason, file=file.path)

    tail_start = max(0, file.size - _END.size - _FULL16)
    tail = file.read(tail_start, file.size - tail_start)
    at = len(tail) - _END.size
    if at < 0 or tail[at : at + 4] != b"PK\5\6" or tail[-2:] != b"\0\0":
        at = tail.rfind(b"PK\5\6")
        if at < 0 or at + _END.size > len(tail):
            raise fail("no zip archive, or its end is missing; is it truncated?")
    _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(tail, at)
    if at + _END.size + comment != len(tail):
        raise fail("bytes lie after the end of the zip archive")
    end = tail_start + at
    short = disk, first_disk, here, count, size, start
    wide = _directory64(file, end)
    if wide is not None:
        end, disk, first_disk, here, count, size, start = wide
        if any(a not in (b, full) for a, b, full in zip(short, wide[1:], _SENTINELS, strict=True)):
            raise fail("the zip archive's two ends disagree")
    elif any(a == full for a, full in zip(short, _SENTINELS, strict=True)):
        raise fail("the zip archive's ZIP64 record is missing")
    if disk or first_disk or here != count:
        raise fail("the zip archive is one part of several")
    if start + size != end:
        reason = f"the zip directory is said to lie at {start} to {start + size}, but ends at {end}"
        raise fail(reason)
    if size > MAX_DIRECTORY_BYTES or count * _ENTRY.size > size:
        raise fail(f"the zip directory claims {count} members in {size} bytes")
    return start, end, count


def _directory64(file: OpenFile, end: int) -> tuple[int, int, int, int, int, int, int] | None:
    """Return what a ZIP64 record before `end` says, its own place first; None if there is none."""
    at = end - _LOCATOR.size
    if at < 0:
        return None
    signature, _, record, disks = _LOCATOR.unpack(file.read(at, _LOCATOR.size))
    if signature != b"PK\6\7":
        return None
    if disks <= 1 and record + _END64.size <= at:
        fields = _END64.unpack(file.read(record, _END64.size))
        if fields[0] == b"PK\6\6" and record + 12 + fields[1] == at:
            _, _, _, _, disk, first_disk, here, count, size, start = fields
            return record, disk, first_disk, here, count, size, start
    raise FormatError("the zip archive's ZIP64 record is damaged", file=file.path)


def _entry(file: OpenFile, data: bytes, at: int, limit: int) -> tuple[int, Member, int]:
    """Read one directory entry; return its local header's place, the member, the next entry.

    Args:
        file: The archive.
        data: Its directory.
        at: Where in the directory the entry begins.
        limit: Where in the file the directory begins: members lie before it.
    """
    if at + _ENTRY.size > len(data) or data[at : at + 4] != b"PK\1\2":
        raise FormatError("the zip directory is damaged", file=file.path, offset=limit + at)
    fields = _ENTRY.unpack_from(data, at)
    _, _, _, flags, method, _, _, crc, packed, size, name_size, extra_size, note_size = fields[:13]
    disk, _, _, header = fields[13:17]
    name_end = at + _ENTRY.size + name_size
    following = name_end + extra_size + note_size
    if following > len(data):
        raise FormatError("the zip directory is damaged", file=file.path, offset=limit + at)
    stored_name = data[at + _ENTRY.size : name_end]
    name = _name(file, stored_name, flags)
    extra = data[name_end : name_end + extra_size]
    size, packed, header = _wide(file, name, extra, (size, packed, header))
    if disk not in (0, _FULL16):
        raise _lie(file, name, "lies on another disk")
    if flags & (_ENCRYPTED | _PATCHED | _HIDDEN):
        raise _lie(file, name, "is encrypted or a patch")
    if method not in (STORED, DEFLATED):
        raise _lie(file, name, f"is compressed by method {method}; store or deflate it")
    if method == STORED and size != packed:
        raise _lie(file, name, f"is stored, yet takes {packed} bytes to hold {size}")
    if size > packed * _MAX_RATIO:
        raise _lie(file, name, f"claims {size} bytes, more than {packed} can inflate to")
    start = _data_start(file, name, header, (stored_name, method), limit)
    if start + packed > limit:
        raise _lie(
            file, name, f"ends at byte {start + packed}, beyond the {limit} before the directory"
        )
    return header, Member(name, size, packed, method, start, crc), following


def _name(file: OpenFile, stored: bytes, flags: int) -> str:
    """Decode a member's name; one that is no place inside a folder is an error."""
    try:
        name = stored.decode("utf-8" if flags & _UTF8 else "cp437")
    except UnicodeDecodeError as error:
        raise FormatError("a zip member's name is not UTF-8", file=file.path) from error
    if name.startswith("/") or "\\" in name or "\0" in name or not name:
        raise _lie(file, name, "has a name that is no place in a folder")
    if ".." in name.split("/"):
        raise _lie(file, name, "has a name that climbs out of its folder")
    return name


def _wide(file: OpenFile, name: str, extra: bytes, values: tuple[int, ...]) -> tuple[int, int, int]:
    """Return size, packed size and place, those that 32 bits cannot hold from the ZIP64 field."""
    wide, at = b"", 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = extra[at + 4 : at + 4 + length]
        at += 4 + length
    out = []
    for value in values:
        if value == _FULL32:
            if len(wide) < 8:
                raise _lie(file, name, "has no ZIP64 sizes")
            value, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        out.append(value)
    size, packed, header = out
    return size, packed, header


def _data_start(
    file: OpenFile, name: str, header: int, expected: tuple[bytes, int], limit: int
) -> int:
    """Return where a member's data begin: after its local header, which must agree."""
    if header + _LOCAL.size + len(expected[0]) > limit:
        raise _lie(file, name, f"is said to begin at byte {header}, beyond the data")
    data = file.read(header, _LOCAL.size + len(expected[0]))
    fields = _LOCAL.unpack_from(data)
    signature, method = fields[0], fields[3]
    name_size: int = fields[9]
    extra_size: int = fields[10]
    if signature != b"PK\3\4" or (data[_LOCAL.size :], method) != expected:
        raise _lie(file, name, f"has no header of its own at byte {header}")
    if name_size != len(expected[0]):
        raise _lie(file, name, "has two names")
    return header + _LOCAL.size + name_size + extra_size
