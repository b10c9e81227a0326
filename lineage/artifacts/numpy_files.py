"""Reads NumPy's files: `.npy`, one array, and `.npz`, a zip of them; never a pickle in either.

The header is a Python literal. It is matched here and not evaluated, so that a hostile one can
neither run nor nest. Arrays in Fortran order or big-endian are turned round as they are read.

A `.npy` file does not name its array; here it is `array`, whatever the file is called, so that
renaming a file changes no identity. A member of a `.npz` that is no `.npy` is refused: what is left
out would not be part of the identity.

Source: NEP 1, and `numpy.lib.format`; versions 1.0 to 3.0.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from lineage.artifacts import zipped
from lineage.artifacts.base import BITS, MAX_EXTENTS, MAX_VALUES, Item, size_bytes
from lineage.artifacts.opened import Region
from lineage.artifacts.streamed import Streamed
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lineage.artifacts.base import Source
    from lineage.artifacts.opened import Opener, OpenFile

NAME = "array"
"""What the one array of a `.npy` file is called."""

MAX_HEADER_BYTES = 10_000
"""The limit of NumPy itself."""

_DTYPES = {
    "b1": "BOOL", "u1": "U8", "i1": "I8", "u2": "U16", "i2": "I16", "u4": "U32", "i4": "I32",
    "u8": "U64", "i8": "I64", "f2": "F16", "f4": "F32", "f8": "F64", "c8": "C64", "c16": "C128",
}  # fmt: skip

_UNIT = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16"}
"""How values of each width are moved about."""

_PIECE = 1 << 20

_LOST = (
    "its dtype is lost: bfloat16 and 8-bit floats have none in this format; save them as float32, "
    "or in safetensors"
)
_REFUSED = {
    "O": "holds Python objects: a pickle, which could run code; save it with allow_pickle=False",
    "V": _LOST, "f1": _LOST,
    "U": "holds text, no numbers", "S": "holds text, no numbers", "a": "holds text, no numbers",
    "M": "holds dates, no numbers", "m": "holds dates, no numbers",
    "f": "its floats are of a size that not all machines share",
    "c": "its floats are of a size that not all machines share",
}  # fmt: skip
"""What to say of dtypes that are not read, by code or by kind."""

_ENTRY = re.compile(
    r"""\s*(["'])(?P<key>\w{1,20})\1\s*:\s*(?:
        (["'])(?P<text>[^"'\\]*)\3 | (?P<truth>True|False) | \((?P<counts>[\d\sL,]*)\) |
        (?P<list>\[).*
    )\s*(?:,|$)""",
    re.VERBOSE | re.DOTALL,
)
_DESCR = re.compile(r"(?P<order>[<>|])(?P<code>(?P<kind>[A-Za-z])(?P<size>\d{0,9}))(?:\[\w+\])?")
_COUNT = re.compile(r"\s*(\d{1,19})L?\s*")

_FREE_BYTES, _FREE_RATIO = 4 << 30, 64
"""An archive may inflate to this much, or to this many times its size; weights hardly shrink."""

_BAND_BYTES, _MAX_BAND_BYTES, _MAX_PASSES = 16 << 20, 256 << 20, 16
"""How much of an array in Fortran order is held: a band of rows. A compressed one is inflated once
for each of its bands, so its bands are larger, and there may be so many."""

_FREE_ROW_BYTES = 16 << 20
"""A row of a compressed one may take so many bytes, however few it was compressed to."""


def items_of(file: OpenFile, opener: Opener) -> list[Item]:  # noqa: ARG001
    """Return the array of an open `.npy` file, or the arrays of an open `.npz` file.

    Raises:
        FormatError: Naming the file, the array and the lie.
    """
    if file.location.suffix != ".npz":
        return [_Stored(file, NAME, Region(file, 0), file.size).item()]
    found = zipped.members(file)
    total = sum(member.size for member in found.values())
    if total > max(_FREE_BYTES, _FREE_RATIO * file.size):
        reason = f"claims {total} bytes in a file of {file.size}; is it a zip bomb?"
        raise FormatError(reason, file=file.path)
    return [_member(file, member).item() for member in found.values()]


def _member(file: OpenFile, member: zipped.Member) -> _Stored:
    name = member.name.removesuffix(".npy")
    if name == member.name:
        reason = f"its member '{printable(name, 80)}' is not a .npy file"
        raise FormatError(reason, file=file.path)
    packed = None if member.method == zipped.STORED else member.packed
    return _Stored(file, name, zipped.source(file, member), member.size, packed)


@dataclass(frozen=True, slots=True)
class _Stored:
    """A `.npy` file, by itself or in an archive.

    Attributes:
        file: Where it lies, for errors.
        name: Of its array.
        source: Its bytes, from its magic on.
        size: How many.
        packed: How many they take where they are compressed.
    """

    file: OpenFile
    name: str
    source: Source
    size: int
    packed: int | None = None

    def fail(self, reason: str) -> FormatError:
        return FormatError(reason, file=self.file.path, tensor=self.name)

    def item(self) -> Item:
        """Return the array, its header checked whole."""
        start, text = self._header()
        descr, is_fortran, shape = self._entries(text)
        dtype, is_big = self._dtype(descr)
        expected = size_bytes(dtype, shape)
        if expected > self.size - start:
            reason = f"{dtype} of shape {list(shape)} takes {expected} bytes, but "
            raise self.fail(f"{reason}{self.size - start} are left; is it truncated?")
        if expected < self.size - start:
            raise self.fail(f"{self.size - start - expected} bytes lie after the array")
        source: Source = Shifted(self.source, start)
        if isinstance(self.source, Region):
            source = Region(self.file, self.source.start + start)
        wide = tuple(n for n in shape if n != 1)  # the others change no order
        is_fortran = is_fortran and len(wide) > 1
        if expected and (is_big or is_fortran):
            band = self._band(expected, expected // wide[0]) if is_fortran else 0
            turn = _width(dtype) if is_big else 0
            stored = (source, wide, BITS[dtype] // 8)
            source = Streamed(partial(_as_ours, *stored, band=band, turn=turn), expected)
        return Item(self.name, dtype, shape, expected, source, self.file.path)

    def _header(self) -> tuple[int, str]:
        """Return where the values begin, and the header's text."""
        fixed = self._read(0, min(12, self.size))
        if len(fixed) < 10 or fixed[:6] != b"\x93NUMPY":
            raise self.fail("not a .npy file: it does not begin with NumPy's magic")
        version = (fixed[6], fixed[7])
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise self.fail(f"version {version[0]}.{version[1]} of the .npy format is not known")
        start = 10 if version == (1, 0) else 12
        length = int.from_bytes(fixed[8:start], "little")
        if len(fixed) < start or length > self.size - start:
            raise self.fail(f"the header claims {length} bytes, more than the file has")
        if length > MAX_HEADER_BYTES:
            raise self.fail(f"the header claims {length} bytes; NumPy allows {MAX_HEADER_BYTES}")
        try:
            text = self._read(start, length).decode("utf-8" if version == (3, 0) else "latin-1")
        except UnicodeDecodeError:
            raise self.fail("the header is not UTF-8") from None
        return start + length, text

    def _read(self, start: int, size: int) -> bytes:
        return bytes(self.source.piece(start, size, memoryview(bytearray(size))))

    def _entries(self, text: str) -> tuple[str, bool, tuple[int, ...]]:
        """Return what a header's literal says: dtype, Fortran order, shape."""
        inner = text.strip()
        entries: dict[str, re.Match[str]] = {}
        if inner[:1] == "{" and inner[-1:] == "}":
            inner = inner[1:-1].strip()
            at = 0
            while at < len(inner) and (match := _ENTRY.match(inner, at)):
                if match["key"] == "descr" and match["list"]:
                    raise self.fail("its dtype is structured; save each field as its own array")
                if match["key"] in entries:
                    raise self.fail(f"the header says {match['key']} twice")
                entries[match["key"]] = match
                at = match.end()
            if at == len(inner) and entries.keys() == {"descr", "fortran_order", "shape"}:
                descr, order = entries["descr"]["text"], entries["fortran_order"]["truth"]
                counts = entries["shape"]["counts"]
                if descr is not None and order is not None and counts is not None:
                    return descr, order == "True", self._shape(counts)
        raise self.fail(f"the header is not one of NumPy's: {printable(repr(text[:80]), 90)}")

    def _shape(self, counts: str) -> tuple[int, ...]:
        extents = counts.split(",")
        if not extents[-1].strip():
            extents.pop()  # (3,) ends in a comma, () holds nothing
        elif len(extents) == 1:
            extents = [""]  # (3) is a number in brackets, no tuple
        found = [_COUNT.fullmatch(extent) for extent in extents]
        shape = tuple(int(match[1]) for match in found if match)
        if len(shape) != len(found):
            raise self.fail(f"the shape ({printable(counts, 60)}) is not a tuple of counts")
        if len(shape) > MAX_EXTENTS or math.prod(n for n in shape if n) > MAX_VALUES:
            shown = printable(str(list(shape)), 60)
            raise self.fail(f"the shape {shown} has more values than any file holds")
        return shape

    def _dtype(self, descr: str) -> tuple[str, bool]:
        """Return the dtype and whether it is big-endian; what is no number is refused by name."""
        match = _DESCR.fullmatch(descr)
        if match is None or (match["code"] not in _DTYPES and match["kind"] not in _REFUSED):
            raise self.fail(f"unknown dtype {printable(repr(descr), 60)}")
        if match["code"] not in _DTYPES:
            reason = _REFUSED.get(match["code"], _REFUSED[match["kind"]])
            raise self.fail(f"{reason} (dtype {printable(repr(descr), 60)})")
        dtype = _DTYPES[match["code"]]
        if match["order"] == "|" and BITS[dtype] > 8:
            raise self.fail(f"the dtype {descr!r} does not say its byte order")
        return dtype, match["order"] == ">" and BITS[dtype] > 8

    def _band(self, size: int, row: int) -> int:
        """Return how many bytes of an array in Fortran order to hold; a row is the least."""
        if self.packed is None:
            return _BAND_BYTES
        band = max(_BAND_BYTES, min(4 * self.packed, _MAX_BAND_BYTES))
        if size > _MAX_PASSES * band or row > max(band, _FREE_ROW_BYTES):
            reason = f"{size} compressed bytes in Fortran order would be inflated many times over"
            raise self.fail(f"{reason}; save it uncompressed or in C order")
        return band


@dataclass(frozen=True, slots=True)
class Shifted:
    """A `Source` without its first bytes."""

    inner: Source
    offset: int

    def piece(self, start: int, size: int, scratch: memoryview) -> memoryview:
        """Return bytes of what is left; see `Source`."""
        return self.inner.piece(self.offset + start, size, scratch)


def _width(dtype: str) -> int:
    """Bytes of one number; a complex value is two."""
    return BITS[dtype] // (16 if dtype in {"C64", "C128"} else 8)


def _as_ours(
    inner: Source, shape: tuple[int, ...], width: int, *, band: int, turn: int
) -> Iterator[bytes]:
    """Yield an array's values in C order and little-endian.

    Args:
        inner: The bytes as stored.
        shape: None of its extents 0.
        width: Of one value.
        band: How many bytes of an array in Fortran order to hold; 0 for C order.
        turn: The width of a big-endian number; 0 for little-endian ones.
    """
    if band and len(shape) > 1:
        chunks = _by_rows(inner, shape, width, band)
    else:
        chunks = _in_order(inner, math.prod(shape) * width)
    for chunk in chunks:
        yield np.frombuffer(chunk, _UNIT[turn]).byteswap().tobytes() if turn else chunk


def _in_order(inner: Source, size: int) -> Iterator[bytes]:
    """Yield a source's bytes as they lie, in pieces of whole values."""
    scratch = memoryview(bytearray(min(size, _PIECE)))
    for start in range(0, size, _PIECE):
        yield bytes(inner.piece(start, min(_PIECE, size - start), scratch))


def _by_rows(inner: Source, shape: tuple[int, ...], width: int, band: int) -> Iterator[bytes]:
    """Yield an array in Fortran order, where the first index runs fastest, some rows at a time.

    Args:
        inner: The bytes as stored.
        shape: Two or more extents, none of them 0.
        width: Of one value.
        band: How many bytes may be held; one row is always.
    """
    height, *others = shape
    columns = math.prod(others)
    rows = min(height, max(1, band // (columns * width)))
    for first in range(0, height, rows):
        rows = min(rows, height - first)
        stored = np.empty((columns, rows * width), np.uint8)
        if rows == height:
            view = memoryview(stored.reshape(-1).data)
            view[:] = inner.piece(0, len(view), view)
        else:
            for column in range(columns):
                part = memoryview(stored[column].data)
                part[:] = inner.piece((column * height + first) * width, len(part), part)
        values = stored.view(_UNIT[width]).reshape(*reversed(others), rows)
        yield values.T.tobytes()
