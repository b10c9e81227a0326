"""Says what the values of an HDF5 dataset are: dtype, byte order, shape.

Source: the HDF5 File Format Specification 3.0, sections IV.A.2.b (dataspace) and IV.A.2.d
(datatype); for bool, bfloat16 and complex numbers, what h5py makes of NumPy's.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

_WHOLE, _FLOAT, _STRING, _OPAQUE, _COMPOUND, _ENUM, _VARIABLE = 0, 1, 3, 5, 6, 8, 9
_NAMES = {
    2: "times", 4: "bit fields", _OPAQUE: "opaque bytes", 7: "references",
    _VARIABLE: "lists of any length", 10: "arrays",
}  # fmt: skip
_FLOATS = {
    (2, 10, 5, 0, 10, 15): "F16", (4, 23, 8, 0, 23, 127): "F32", (8, 52, 11, 0, 52, 1023): "F64",
    (2, 7, 8, 0, 7, 127): "BF16", (1, 3, 4, 0, 3, 7): "F8_E4M3", (1, 2, 5, 0, 2, 15): "F8_E5M2",
}  # fmt: skip
"""By bytes, place and size of the exponent, place and size of the mantissa, and bias."""

TEXT = "text"
"""The dtype of what is text: names of layers, configurations."""

MAX_RANK = 32


class Kind(NamedTuple):
    """What the values are.

    Attributes:
        dtype: A key of `BITS`, or `TEXT`.
        width: Bytes of one value.
        swapped: Bytes of the numbers to turn around: 1 if they are little-endian.
    """

    dtype: str
    width: int
    swapped: int


class NotRead(Exception):  # noqa: N818  (it never leaves the reader)
    """A datatype or a space that is not one of a tensor; says which."""


def kind_of(data: bytes) -> Kind:
    """Return what a datatype message says.

    Raises:
        NotRead: If it is no type of a tensor's values.
    """
    if len(data) < 8 or not 1 <= data[0] >> 4 <= 5:
        raise NotRead("a datatype of an unknown version")
    kind, flags, size = data[0] & 15, data[1], int.from_bytes(data[4:8], "little")
    more = data[8:]
    if kind == _STRING or (kind == _VARIABLE and flags & 15 == 1):
        return Kind(TEXT, size, 1)
    if kind == _WHOLE and size in {1, 2, 4, 8} and more[:4] == struct.pack("<HH", 0, 8 * size):
        return Kind(f"{'I' if flags & 8 else 'U'}{8 * size}", size, size if flags & 1 else 1)
    if kind == _FLOAT and len(more) >= 12 and not flags & 0x40:
        dtype = _FLOATS.get((size, *more[4:8], int.from_bytes(more[8:12], "little")))
        if dtype and more[:4] == struct.pack("<HH", 0, 8 * size):
            return Kind(dtype, size, size if flags & 1 else 1)
    if kind == _ENUM:
        return _enumeration(more, size)
    if kind == _COMPOUND:
        return _complex(data, size)
    if kind == _OPAQUE and size == 2 and not any(more):
        return Kind("BF16", 2, 1)  # all that h5py can make of NumPy's dtype of it
    shown = _NAMES.get(kind, f"numbers of {size} bytes in an unusual form")
    raise NotRead(f"holds {shown}, which are no tensor's values")


def _enumeration(base: bytes, size: int) -> Kind:
    """Return the numbers that stand for names; h5py's booleans are such."""
    kind = kind_of(base[:12])
    if kind.width != size or kind.dtype[0] not in "IU":
        raise NotRead("holds names for values of an unusual form")
    is_bool = kind.dtype == "I8" and b"FALSE\0" in base and b"TRUE\0" in base
    return kind._replace(dtype="BOOL") if is_bool else kind


def _complex(data: bytes, size: int) -> Kind:
    """Return complex numbers, which h5py writes as records of `r` and `i`."""
    version, half = data[0] >> 4, size // 2
    if int.from_bytes(data[1:3], "little") == 2 and size in {8, 16}:
        parts, at = [], 8
        for name, offset in ((b"r", 0), (b"i", half)):
            start = at + (8 if version < 3 else 2)
            width = 1 if version >= 3 else 4
            if data[at : at + 2] != name + b"\0" or data[start : start + width] != offset.to_bytes(
                width, "little"
            ):
                break
            at = start + width + (28 if version == 1 else 0)
            parts.append(kind_of(data[at : at + 20]))
            at += 20
        if len(parts) == 2 and parts[0] == parts[1] and parts[0].dtype == f"F{4 * size}":
            return Kind(f"C{8 * size}", size, parts[0].swapped)
    raise NotRead("holds records, which are no tensor's values")


def shape_of(data: bytes) -> tuple[int, ...] | None:
    """Return what a dataspace message says: extents, or None if there is no space at all.

    Raises:
        NotRead: If it is of an unknown version, or cut off.
    """
    if len(data) < 4 or data[0] not in {1, 2}:
        raise NotRead("a dataspace of an unknown version")
    version, rank, _, kind = data[:4]
    start = 8 if version == 1 else 4
    if rank > MAX_RANK:
        raise NotRead(f"{rank} extents, more than the {MAX_RANK} that HDF5 knows")
    if len(data) < start + 8 * rank:
        raise NotRead("a dataspace that is cut off")
    if version == 2 and kind == 2:
        return None
    return struct.unpack_from(f"<{rank}Q", data, start)
