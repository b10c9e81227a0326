"""Reads one safetensors file: its header is checked whole before a tensor is touched.

The header is parsed here and not by the safetensors package because identity needs what that
package does not give: where each tensor's bytes lie, an error that names the tensor, and no
tolerance for a header two readers could read differently.

Source: the safetensors format, https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import math
from itertools import chain
from operator import itemgetter, le
from typing import TYPE_CHECKING, Any

from lineage import canonical
from lineage.artifacts.base import BITS, MAX_EXTENTS, MAX_VALUES, Item
from lineage.artifacts.columns import entries, made
from lineage.artifacts.opened import Region
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from lineage.artifacts.columns import Entries
    from lineage.artifacts.opened import Opener, OpenFile

_BITS = {dtype: bits for dtype, bits in BITS.items() if dtype not in {"I4", "U4", "C128"}}

_DICT, _LIST, _STR, _INT = {dict}, {list}, {str}, {int}
_MEMBERS = {"dtype", "shape", "data_offsets"}
_MEMBERS_OF = itemgetter("dtype", "shape", "data_offsets")

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors package itself."""

MAX_MARKS = 1 << 21
"""Brackets and commas of a header, seven to thirteen for a tensor: the largest models, of a hundred
thousand tensors, could be kept in one file."""

LONG = 16 << 10
"""Bytes of a header from which on compiled loops are worth loading."""


def items_of(file: OpenFile, opener: Opener) -> list[Item]:  # noqa: ARG001
    """Return the tensors of an open safetensors file; see `read_header`."""
    return read_header(file)[0]


def read_header(file: OpenFile) -> tuple[list[Item], dict[str, str]]:
    """Return the tensors of an open safetensors file and its metadata.

    Raises:
        FormatError: Naming the file, the tensor and the lie. Nothing larger than the file itself
            is ever allocated.
    """

    def fail(reason: str, tensor: str | None = None) -> FormatError:
        return FormatError(reason, file=file.path, tensor=tensor)

    # 1. The length, bounded by the file before anything is allocated.
    if file.size < 8:
        raise fail(f"not a safetensors file: {file.size} bytes cannot hold a header")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > min(MAX_HEADER_BYTES, file.size - 8):
        reason = f"the header claims {length} bytes, but the file has {file.size - 8} after it"
        if length > MAX_HEADER_BYTES and length <= file.size - 8:
            reason = f"the header claims {length} bytes, more than the {MAX_HEADER_BYTES} allowed"
        raise fail(reason)

    # 2 to 4 at once, where there is much to check and all is good.
    data, start = file.read(8, length), 8 + length
    room = file.size - start
    if length >= LONG:
        plain = entries(data, _BITS, start=start, room=room, max_marks=MAX_MARKS)
        if plain is not None:
            return _items(plain, file), plain[-1]

    # 2. The JSON: an object, every key once.
    header = canonical.loads(
        data, file=f"{file.path}: header", max_bytes=MAX_HEADER_BYTES, max_marks=MAX_MARKS
    )
    if not isinstance(header, dict):
        raise fail("the header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise fail("the header's __metadata__ does not map text to text")

    # 3. Each tensor: known dtype, honest shape, offsets inside the file.
    path, found = file.path, _entries(header, file)
    items: list[Item] = []
    for name, dtype, shape, begin, end in found:
        if end > room:
            reason = f"ends at byte {start + end}, but the file has {file.size}; is it truncated?"
            raise fail(reason, name)
        items.append(Item(name, dtype, shape, end - begin, Region(file, start + begin), path))

    # 4. Together they cover the data once: no overlap, no hole, nothing after.
    covered = 0
    for begin, end, name in sorted((begin, end, name) for name, _, _, begin, end in found):
        if begin < covered:
            raise fail(f"overlaps the tensor before it by {covered - begin} bytes", name)
        if begin > covered:
            raise fail(f"a hole of {begin - covered} bytes lies before it", name)
        covered = end
    if covered != room:
        raise fail(f"{room - covered} bytes lie after the last tensor")
    return items, metadata


def _items(found: Entries, file: OpenFile) -> list[Item]:
    """Return the tensors of a header in which all was found good."""
    names, dtypes, shapes, starts, sizes, _ = found
    regions = made(Region, file, starts)
    return made(Item, names, dtypes, shapes, sizes, regions, file.path, None)


Entry = tuple[str, str, tuple[int, ...], int, int]
"""Name, dtype, shape, first byte among the data, and the one after the last."""


def _entries(header: dict[str, Any], file: OpenFile) -> list[Entry]:
    """Return what the header says of each tensor, checked by itself."""
    try:
        rows = [*map(_MEMBERS_OF, header.values())]
        dtypes, shapes, offsets = zip(*rows, strict=True)
        begins, ends = zip(*offsets, strict=True)
        numbers = [*chain.from_iterable(shapes), *begins, *ends]
        is_plain = (
            _DICT.issuperset(map(type, header.values()))
            and _STR.issuperset(map(type, dtypes))
            and _BITS.keys() >= set(dtypes)
            and _LIST.issuperset(map(type, shapes + offsets))
            and _INT.issuperset(map(type, numbers))
            and min(numbers) >= 0
            and all(map(all, shapes))
            and max(map(len, shapes)) <= MAX_EXTENTS
            and max(map(math.prod, shapes)) <= MAX_VALUES
            and all(map(le, begins, ends))
        )
    except (KeyError, TypeError, ValueError):
        is_plain = False
    if is_plain:  # thousands of tensors are looked at together; to say what is wrong, one by one
        return [*zip(header, dtypes, map(tuple, shapes), begins, ends, strict=True)]
    return [_entry(name, entry, file) for name, entry in header.items()]


def _entry(name: str, entry: Any, file: OpenFile) -> Entry:
    """Check one header entry."""

    def fail(reason: str) -> FormatError:
        return FormatError(reason, file=file.path, tensor=name)

    if not isinstance(entry, dict) or not entry.keys() >= _MEMBERS:
        raise fail("the header entry lacks dtype, shape or data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise fail(f"unknown dtype {printable(repr(dtype), 60)}")
    if not _are_counts(shape):
        raise fail(f"the shape {printable(repr(shape), 60)} is not a list of counts")
    if len(shape) > MAX_EXTENTS or math.prod([n for n in shape if n]) > MAX_VALUES:
        raise fail(f"the shape {printable(repr(shape), 60)} has more values than any file holds")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise fail(f"the data_offsets {printable(repr(offsets), 60)} are not [begin, end]")
    return name, dtype, tuple(shape), offsets[0], offsets[1]


def _are_counts(value: Any) -> bool:
    return type(value) is list and _INT.issuperset(map(type, value)) and min(value, default=0) >= 0
