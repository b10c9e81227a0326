"""Reads one GGUF file, versions 2 and 3: its header is walked without building what it skips.

A vocabulary has hundreds of thousands of strings and none of them is needed here, so the header is
read through a window that moves forwards, and every count is held against the bytes left before
anything is looped on. Tensors keep ggml's own blocks: their identity is of the bytes as stored.
ggml lists extents with the fastest first; here they are turned round, as in every other format.

Files written on big-endian machines are refused: their blocks mix bytes and wider numbers.

Source: the GGUF specification and gguf.cpp of ggml, https://github.com/ggml-org/ggml. As there,
tensors lie in one run with nothing but padding between them.
"""

from __future__ import annotations

import math
from struct import Struct
from typing import TYPE_CHECKING

from lineage.artifacts.base import MAX_VALUES, Item, size_bytes
from lineage.artifacts.opened import Region
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from lineage.artifacts.opened import Opener, OpenFile

    Value = int | float | bool | str

TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1",
    10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS",
    17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S",
    23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
"""ggml's numbers of its types; the gaps are types that were taken back."""

MAX_HEADER_BYTES, MAX_KEYS, MAX_TENSORS = 100_000_000, 1 << 16, 1 << 18
"""Many times what models have: the largest vocabularies take some 20 MB, the largest models list
some thousand tensors."""

MAX_KEPT_BYTES = 1 << 16
"""Longer texts of the metadata are not kept."""

_SMALLEST_KEY, _SMALLEST_TENSOR = 13, 24
"""Bytes of the shortest entries there can be: an empty name and the smallest value or tensor."""

_WINDOW = 1 << 20
_DEFAULT_ALIGNMENT = 32
_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: Struct("<B"), 1: Struct("<b"), 2: Struct("<H"), 3: Struct("<h"), 4: Struct("<I"),
    5: Struct("<i"), 6: Struct("<f"), 7: Struct("<?"), 10: Struct("<Q"), 11: Struct("<q"),
    12: Struct("<d"),
}  # fmt: skip
"""How each fixed-size value of the metadata is stored, by GGUF's number of its type."""

_U32, _U64, _COUNTS = Struct("<I"), Struct("<Q"), Struct("<QQ")


def items_of(file: OpenFile, opener: Opener) -> list[Item]:  # noqa: ARG001
    """Return the tensors of an open GGUF file; see `read_header`."""
    return read_header(file)[0]


def read_header(file: OpenFile) -> tuple[list[Item], dict[str, Value | None]]:
    """Return the tensors of an open GGUF file and its metadata, None for arrays and long texts.

    One file of a split model (`name-00001-of-00003.gguf`) gives its own tensors; its `split.no`
    (counted from 0), `split.count` and `split.tensors.count` are among the metadata.

    Raises:
        FormatError: Naming the file, the tensor and the lie. Nothing larger than the file itself
            is ever allocated.
    """
    header = _Header(file)

    # 1. The magic, the version, and counts that the file has room for.
    tensors, keys = _preamble(header)

    # 2. The metadata: known types, every key once; arrays are skipped.
    metadata: dict[str, Value | None] = {}
    for _ in range(keys):
        name = header.string("a metadata key")
        if name in metadata:
            raise header.fail(f"the metadata key {printable(repr(name), 80)} comes twice")
        metadata[name] = header.value(name)
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        shown = printable(repr(alignment), 60)
        raise header.fail(f"its general.alignment is {shown}, not a power of two")

    # 3. Each tensor: known type, honest shape, place.
    entries = [_entry(header) for _ in range(tensors)]
    start = -(-header.place // alignment) * alignment
    items = []
    for name, dtype, shape, offset in entries:
        size = size_bytes(dtype, shape)
        if offset % alignment:
            reason = f"its offset {offset} is not a multiple of the alignment, {alignment}"
            raise FormatError(reason, file=file.path, tensor=name)
        if offset + size > max(0, file.size - start):
            end = start + offset + size
            reason = f"ends at byte {end}, but the file has {file.size}; is it truncated?"
            raise FormatError(reason, file=file.path, tensor=name)
        items.append(Item(name, dtype, shape, size, Region(file, start + offset), file.path))

    # 4. Together they cover the data once, with only padding between.
    _check_cover(file, items, start, alignment)
    return items, metadata


def _preamble(header: _Header) -> tuple[int, int]:
    """Check magic and version; return how many tensors and metadata keys follow."""
    file = header.file
    if file.size < 24 or header.take(4) != b"GGUF":
        raise header.fail("not a GGUF file: it does not begin with a GGUF header")
    version = header.number(_U32)
    if version not in (2, 3):
        reason = f"GGUF version {version}; versions 2 and 3 are read"
        if version & 0xFFFF == 0:
            reason = "big-endian GGUF; only little-endian files are read"
        raise header.fail(reason)
    tensors, keys = _COUNTS.unpack(header.take(_COUNTS.size))
    header.check_count(tensors, _SMALLEST_TENSOR, "tensors")
    header.check_count(keys, _SMALLEST_KEY, "metadata keys")
    if tensors > MAX_TENSORS or keys > MAX_KEYS:
        reason = f"lists {tensors} tensors and {keys} metadata keys"
        raise header.fail(f"{reason}, more than the {MAX_TENSORS} and {MAX_KEYS} allowed")
    return tensors, keys


def _entry(header: _Header) -> tuple[str, str, tuple[int, ...], int]:
    """Read one tensor's entry: name, dtype, shape and offset into the data."""
    name = header.string("a tensor's name")

    def fail(reason: str) -> FormatError:
        return FormatError(reason, file=header.file.path, tensor=name)

    dims = header.number(_U32)
    if dims > 4:
        raise fail(f"has {dims} dimensions; ggml has at most 4")
    extents = Struct(f"<{dims}Q").unpack(header.take(8 * dims))
    number, offset = header.number(_U32), header.number(_U64)
    shape = tuple(reversed(extents))
    dtype = TYPES.get(number)
    if dtype is None:
        raise fail(f"its type is ggml's number {number}, which is not known")
    if math.prod(n for n in shape if n) > MAX_VALUES:
        raise fail(f"the shape {list(shape)} has more values than any file holds")
    return name, dtype, shape, offset


def _check_cover(file: OpenFile, items: list[Item], start: int, alignment: int) -> None:
    """Raise if tensors overlap or leave more than padding uncovered."""
    covered, last = start, None
    for begin, size, name in sorted((_start(item), item.size_bytes, item.name) for item in items):
        if begin < covered:
            reason = f"overlaps the tensor before it by {covered - begin} bytes"
            raise FormatError(reason, file=file.path, tensor=name)
        if begin - covered >= alignment:
            reason = f"a hole of {begin - covered} bytes lies before it"
            raise FormatError(reason, file=file.path, tensor=name)
        covered, last = begin + size, name
    if last is not None and file.size - covered >= alignment:
        reason = f"{file.size - covered} bytes lie after the last tensor"
        raise FormatError(reason, file=file.path)


def _start(item: Item) -> int:
    assert isinstance(item.source, Region)
    return item.source.start


class _Header:
    """A place in the header that moves forwards, and the window of the file around it."""

    def __init__(self, file: OpenFile) -> None:
        self.file = file
        self.limit = min(file.size, MAX_HEADER_BYTES)
        self._base = 0  # where the window begins in the file
        self._window = b""
        self._at = 0  # the place, in the window or beyond its end

    @property
    def place(self) -> int:
        """The offset in the file of the next byte."""
        return self._base + self._at

    def fail(self, reason: str) -> FormatError:
        """Return the error for a lie at this place."""
        return FormatError(reason, file=self.file.path, offset=self.place)

    def _end(self, size: int) -> FormatError:
        """Return the error for `size` bytes that are not there."""
        if self.place + size <= self.file.size:
            return self.fail(f"its header is larger than the {MAX_HEADER_BYTES} bytes allowed")
        missing = self.place + size - self.file.size
        return self.fail(f"the file ends {missing} bytes too soon for its header; is it truncated?")

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        if self._at + size > len(self._window):
            if self.place + size > self.limit:
                raise self._end(size)
            self._base, self._at = self.place, 0
            length = max(size, min(_WINDOW, self.limit - self._base))
            self._window = self.file.read(self._base, length)
        self._at += size
        return self._window[self._at - size : self._at]

    def skip(self, size: int) -> None:
        """Pass over bytes without reading them."""
        if self.place + size > self.limit:
            raise self._end(size)
        self._at += size

    def number(self, kind: Struct) -> int:
        """Return the next number."""
        found: int = kind.unpack(self.take(kind.size))[0]
        return found

    def string(self, what: str) -> str:
        """Return the next string; it must be UTF-8."""
        text = self.take(self.number(_U64))
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} is not UTF-8: {printable(repr(text[:64]))}") from None

    def value(self, key: str) -> Value | None:
        """Return the next metadata value if it is plain and short, else pass over it."""
        kind = self.number(_U32)
        if kind in _SCALARS:
            scalar: Value = _SCALARS[kind].unpack(self.take(_SCALARS[kind].size))[0]
            return scalar
        if kind == _ARRAY:
            self._skip_array(key)
            return None
        if kind != _STRING:
            raise self._unknown(key, kind)
        length = self.number(_U64)
        if length > MAX_KEPT_BYTES:
            self.skip(length)
            return None
        return self.take(length).decode("utf-8", "replace")

    def _unknown(self, key: str, kind: int) -> FormatError:
        shown = printable(repr(key), 80)
        if kind == _ARRAY:
            return self.fail(f"the metadata key {shown} holds an array of arrays")
        return self.fail(f"the metadata key {shown} has a value of unknown type {kind}")

    def _skip_array(self, key: str) -> None:
        kind, count = self.number(_U32), self.number(_U64)
        if kind in _SCALARS:
            self.check_count(count, _SCALARS[kind].size, f"values of {printable(repr(key), 80)}")
            self.skip(count * _SCALARS[kind].size)
        elif kind == _STRING:
            self.check_count(count, _U64.size, f"strings of {printable(repr(key), 80)}")
            self._skip_strings(count)
        else:
            raise self._unknown(key, kind)

    def _skip_strings(self, count: int) -> None:
        """Pass over strings: the one loop that a vocabulary makes long."""
        length_at = _U64.unpack_from
        while count:
            self.skip(self.number(_U64))  # moves the window when it is used up
            count -= 1
            window, at, last = self._window, self._at, len(self._window) - _U64.size
            while count and at <= last:
                at += _U64.size + length_at(window, at)[0]
                count -= 1
            self._at = at
            self.skip(0)  # the last string may end beyond the file

    def check_count(self, count: int, smallest: int, what: str) -> None:
        """Raise if the rest of the file cannot hold `count` entries."""
        left = self.file.size - self.place
        if count * smallest > left:
            raise self.fail(f"claims {count} {what}, but {left} bytes are left")
