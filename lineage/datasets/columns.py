"""Arrow columns to canonical texts, a column at a time.

What this makes of a row is what `manifests.records.canonical` makes of its values; a column is
turned to text as a whole, and the rows are joined from their columns' texts, once.
"""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from itertools import pairwise
from json.encoder import encode_basestring
from typing import Any, NamedTuple, TypeVar, final

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from lineage.canonical import MAX_INTEGER
from lineage.datasets.hashing import FRAME, frame_heads
from lineage.errors import FormatError, printable
from lineage.manifests.records import canonical, decimal_text

_Number = TypeVar("_Number", np.int64, np.float64)

_SCALES = {"s": 0, "ms": 3, "us": 6, "ns": 9}

_AT_ONCE = 1 << 18
"""Bytes of text that are looked at together: few enough to stay in a processor's cache."""

_PLAIN = 1e-4, 1e10
"""Doubles of sizes that Arrow spells without an exponent."""


@final
class Spelled(NamedTuple):
    """The canonical texts of a column's values.

    Args:
        before: What every text begins with.
        texts: What differs, as an array of large strings; null where the value is.
        after: What every text ends with.
    """

    before: str
    texts: Any
    after: str


@final
class Frames(NamedTuple):
    """What is hashed of each row, one behind the other.

    Args:
        data: The bytes of all: `FRAME` of each and its text.
        offsets: Where each begins, and the end.
    """

    data: memoryview
    offsets: list[int]


@cache
def library() -> Any:
    """Return pyarrow.

    Raises:
        FormatError: If it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.types
    except ImportError:
        raise FormatError("needs pyarrow: pip install 'model-lineage[data]'") from None
    return pyarrow


def frames_of(batch: Any) -> Frames:
    """Return what is hashed of the rows of a batch that was looked through.

    Raises:
        FormatError: On columns of one name, and on one of a type that has no canonical form.
    """
    pa = library()
    rows = batch.num_rows
    first, *parts = _object_parts(batch.schema.names, batch.columns)
    sizes = np.full(rows, len(first.encode()), np.int64)
    for part in parts:
        sizes += len(part.encode()) if isinstance(part, str) else np.diff(_offsets(part))
    begin = np.frombuffer(first.encode(), np.uint8)
    heads = np.empty((rows, FRAME + len(begin)), np.uint8)
    heads[:, :FRAME] = frame_heads(sizes)
    heads[:, FRAME:] = begin
    width = heads.shape[1]
    places = pa.py_buffer(np.arange(0, rows * width + 1, width, dtype=np.int64))
    joined = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), rows, [None, places, pa.py_buffer(heads)]
    )
    if parts:
        binary = pa.large_binary()
        rest = (_text(p).cast(binary) if isinstance(p, str) else p.cast(binary) for p in parts)
        end = pa.scalar(b"", binary)
        joined = pa.compute.binary_join_element_wise(joined, *rest, end)
    return Frames(_data(joined), _offsets(joined).tolist())


def texts_in(frames: Frames) -> list[bytes]:
    """Return the canonical texts of rows from their frames."""
    data, offsets = frames
    return [bytes(data[start + FRAME : stop]) for start, stop in pairwise(offsets)]


def _offsets(texts: Any) -> npt.NDArray[np.int64]:
    """Return where each of an array's large strings or binaries begins, and the end."""
    held = texts.buffers()[1]
    if held is None or not len(texts):
        return np.zeros(1, np.int64)
    return np.frombuffer(held, np.int64, len(texts) + 1, 8 * texts.offset)


def _text(value: str) -> Any:
    pa = library()
    return pa.scalar(value, pa.large_string())


def _joined(*parts: Any) -> Any:
    """Return the parts of every row as one text; null where a part is."""
    parts = tuple(_text(part) if isinstance(part, str) else part for part in parts)
    return library().compute.binary_join_element_wise(*parts, _text(""))


def _whole(spelled: Spelled) -> Any:
    """Return texts with what they begin and end with."""
    before, texts, after = spelled
    return _joined(before, texts, after) if before or after else texts


def _objects(names: list[str], columns: list[Any], count: int) -> Any:
    """Return the objects that rows of columns are."""
    pa = library()
    parts = _object_parts(names, columns)
    if len(parts) == 1:
        return pa.array(parts * count, pa.large_string())
    return _joined(*parts)


def _object_parts(names: list[str], columns: list[Any]) -> list[Any]:
    """Return what to join to the objects that rows of columns are.

    Returns:
        Texts of all rows and arrays without nulls in turn, a text first.
    """
    if len(set(names)) != len(names):
        raise FormatError("two columns have one name")
    order = sorted(range(len(names)), key=lambda i: names[i].encode("utf-16-be"))
    members = []
    for i in order:
        name = encode_basestring(names[i]) + ":"
        before, texts, after = _named(name, columns[i])
        members.append(Spelled(name + before, texts, after))
    kept = [number for number, member in enumerate(members) if not member.texts.null_count]
    if not kept:
        return _sparse_parts(members)
    # Commas stand on the far side of a member that every row has.
    parts: list[Any] = ["{"]
    for number, (before, texts, after) in enumerate(members):
        before = "," * (number > kept[0]) + before
        after += "," * (number < kept[0])
        if texts.null_count:
            parts += [_joined(before, texts, after).fill_null(""), ""]
        else:
            parts[-1] += before
            parts += [texts, after]
    parts[-1] += "}"
    return parts


def _sparse_parts(members: list[Spelled]) -> list[Any]:
    """Return the parts of objects in which any member may be missing."""
    if not members:
        return ["{}"]
    # Arrow loses rows of nothing but nulls where it skips nulls, so each member brings its comma.
    texts = [_joined(*member, ",").fill_null("") for member in members]
    return ["{", library().compute.ascii_rtrim(_joined(*texts), ","), "}"]


def _named(name: str, column: Any) -> Spelled:
    try:
        return _values(column)
    except FormatError as error:
        raise FormatError(f"column {printable(name[:-1], 80)}: {error.reason}") from error


def _values(column: Any) -> Spelled:
    """Return the canonical texts of a column's values; null where the value is."""
    pa = library()
    types, compute, kind = pa.types, pa.compute, column.type
    if isinstance(column, pa.ExtensionArray):
        return _values(column.storage)
    if types.is_dictionary(kind):
        return _coded(column)
    if types.is_null(kind):
        return Spelled("", pa.nulls(len(column), pa.large_string()), "")
    if types.is_boolean(kind):
        return Spelled("", column.cast(pa.large_string()), "")
    if types.is_integer(kind):
        return Spelled("", _integers(column), "")
    if types.is_floating(kind):
        return Spelled("", _floats(column.cast(pa.float64())), "")
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return Spelled('"', _escaped(unviewed(column).cast(pa.large_string())), '"')
    if (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    ):
        return Spelled('!bytes"', _hashes(column), '"')
    if types.is_decimal(kind):
        return Spelled('!decimal"', _decimals(column), '"')
    if types.is_date(kind):
        days = column.cast(pa.date32()).cast(pa.int32())
        return Spelled('!date"', days.cast(pa.large_string()), '"')
    if types.is_timestamp(kind):
        name = "datetime" if kind.tz is None else "instant"
        return Spelled(f'!{name}"', _seconds(column.cast(pa.int64()), kind.unit), '"')
    if types.is_time(kind) or types.is_duration(kind):
        counts = column.cast(pa.int32() if types.is_time32(kind) else pa.int64())
        name = "time" if types.is_time(kind) else "duration"
        return Spelled(f'!{name}"', _seconds(counts.cast(pa.int64()), kind.unit), '"')
    if types.is_map(kind):
        start, offsets = window(column)
        size = int(offsets[-1])
        keys, items = (_filled(part.slice(start, size)) for part in (column.keys, column.items))
        return _lists(column, offsets, _joined("[", keys, ",", items, "]"))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        start, offsets = window(column)
        return _lists(column, offsets, _filled(column.values.slice(start, int(offsets[-1]))))
    if types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        objects = _objects(names, column.flatten(), len(column))
        return Spelled("", _where_valid(column, objects), "")
    if types.is_run_end_encoded(kind):
        return _values(compute.run_end_decode(column))
    raise FormatError(f"values of type {printable(str(kind), 80)} have no canonical form")


def _where_valid(column: Any, texts: Any) -> Any:
    """Return texts, null where a column is."""
    pa = library()
    if not column.null_count:
        return texts
    return pa.compute.if_else(column.is_valid(), texts, pa.scalar(None, pa.large_string()))


def _coded(column: Any) -> Spelled:
    """Spell what the codes stand for, once each where that is less."""
    types, inner = library().types, column.type.value_type
    is_decoded = not (
        types.is_nested(inner) or types.is_string_view(inner) or types.is_binary_view(inner)
    )
    if is_decoded and len(column.dictionary) > len(column):
        return _values(column.dictionary_decode())
    before, texts, after = _values(column.dictionary)
    return Spelled(before, texts.take(column.indices), after)


def _filled(column: Any) -> Any:
    return _whole(_values(column)).fill_null("null")


def _hashes(column: Any) -> Any:
    """Return the BLAKE3 of binary values, in hexadecimal digits."""
    pa = library()
    held = unviewed(column).cast(pa.large_binary())
    data, places = _data(held), _offsets(held).tolist()
    rows = zip(held.is_valid().to_pylist(), places, places[1:], strict=False)
    texts = [blake3(data[start:stop]).hexdigest() if valid else None for valid, start, stop in rows]
    return pa.array(texts, pa.large_string())


def unviewed(column: Any) -> Any:
    """Return a column of views whose nulls are views of nothing; any other column as it is.

    A null's view may be anything, and is followed by Arrow as any other.
    """
    pa = library()
    is_view = pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type)
    if not is_view or not column.null_count:
        return column
    rows = column.offset + len(column)
    validity, views, *data = column.buffers()
    held = np.frombuffer(views, np.uint8, rows * _VIEW).reshape(rows, _VIEW).copy()
    held[column.offset :][~column.is_valid().to_numpy(zero_copy_only=False)] = 0
    buffers = [validity, pa.py_buffer(held), *data]
    return pa.Array.from_buffers(column.type, len(column), buffers, offset=column.offset)


_VIEW = 16
"""Bytes of a view: the length of a text, and the text or where it is."""


def _decimals(column: Any) -> Any:
    """Return Arrow's own texts without trailing zeros, but for those with an exponent."""
    pa = library()
    compute = pa.compute
    texts = column.cast(pa.large_string())
    is_odd = compute.match_substring(texts, "E")
    if column.type.scale > 0:  # so that each has a point, or an exponent
        texts = compute.ascii_rtrim(compute.ascii_rtrim(texts, "0"), ".")
    is_odd = is_odd.fill_null(False).to_numpy(zero_copy_only=False)
    spelled = [_decimal(value) for value in column.filter(pa.array(is_odd)).to_pylist()]
    return _replaced(texts, is_odd, spelled)


def _decimal(value: Decimal) -> str:
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    unscaled = int("".join(map(str, digits))) * (-1 if sign else 1)
    return decimal_text(unscaled, -exponent)


def _replaced(texts: Any, where: npt.NDArray[np.bool_], others: Any) -> Any:
    """Return texts, those where it is said replaced by others."""
    pa = library()
    if not len(others):
        return texts
    others = pa.array(others, pa.large_string())
    return pa.compute.replace_with_mask(texts, pa.array(where), others)


def _seconds(counts: Any, unit: str) -> Any:
    """Return counts of a unit of time as seconds, without trailing zeros."""
    pa = library()
    compute = pa.compute
    if unit == "s":
        return counts.cast(pa.large_string())
    each = np.uint64(10 ** _SCALES[unit])
    held = _numbers(counts, np.int64)
    whole, rest = np.divmod(np.abs(held).view(np.uint64), each)  # the least has no positive
    texts = pa.array(whole).cast(pa.large_string())
    if (held < 0).any():
        texts = _joined(compute.if_else(pa.array(held < 0), _text("-"), _text("")), texts)
    if rest.any():
        shown = compute.utf8_replace_slice(pa.array(rest + each).cast(pa.large_string()), 0, 1, ".")
        texts = _joined(texts, compute.ascii_rtrim(compute.ascii_rtrim(shown, "0"), "."))
    return _where_valid(counts, texts)


def _numbers(column: Any, kind: type[_Number]) -> npt.NDArray[_Number]:
    """Return the numbers of a column, those that are null being anything."""
    held = column.buffers()[1]
    if held is None:
        return np.zeros(len(column), kind)
    return np.frombuffer(held, kind, len(column), np.dtype(kind).itemsize * column.offset)


def _integers(column: Any) -> Any:
    pa = library()
    compute = pa.compute
    texts = column.cast(pa.large_string())
    if column.type.bit_width < 64:
        return texts
    is_json = compute.less_equal(column, pa.scalar(MAX_INTEGER, column.type))
    if pa.types.is_signed_integer(column.type):
        least = pa.scalar(-MAX_INTEGER, column.type)
        is_json = compute.and_(is_json, compute.greater_equal(column, least))
    if compute.all(is_json).as_py() in (True, None):
        return texts
    return compute.if_else(is_json, texts, _joined('!int"', texts, '"'))


def _floats(column: Any) -> Any:
    """Return Arrow's own texts, but for what may have an exponent, NaN, infinities and -0."""
    pa = library()
    held = _numbers(column, np.float64)
    size = np.abs(held)
    is_odd = ~((size >= _PLAIN[0]) & (size < _PLAIN[1]) | (held.view(np.uint64) == 0))
    texts = column.cast(pa.large_string())
    if not is_odd.any():
        return texts
    is_odd &= column.is_valid().to_numpy(zero_copy_only=False)
    is_whole = is_odd & (size >= 1) & (size <= MAX_INTEGER)
    is_whole[is_whole] = held[is_whole] % 1 == 0
    whole = pa.array(held[is_whole].astype(np.int64)).cast(pa.large_string())
    is_odd &= ~is_whole
    spelled = [canonical(value).decode() for value in held[is_odd].tolist()]
    return _replaced(_replaced(texts, is_whole, whole), is_odd, spelled)


def _data(texts: Any) -> memoryview:
    """Return the bytes that an array of large strings or binaries lies in."""
    held = texts.buffers()[2]
    return memoryview(b"" if held is None else held)


def _escaped(column: Any) -> Any:
    """Return large strings with those characters escaped that JSON escapes."""
    pa = library()
    offsets = _offsets(column)
    start = int(offsets[0])
    data = _data(column)[start : int(offsets[-1])]
    places = _escapes(np.frombuffer(data, np.uint8))
    if not len(places):
        return column
    found = np.frombuffer(data, np.uint8)[places]
    text = data.tobytes()
    grows = np.zeros(256, np.int64)
    codes = np.flatnonzero(np.bincount(found)).tolist()
    for code in reversed(codes):  # the backslash first, as all others bring one
        shown = encode_basestring(chr(code))[1:-1].encode()
        text = text.replace(bytes([code]), shown)
        grows[code] = len(shown) - 1
    grown = np.concatenate([[0], np.cumsum(grows[found])])
    places_of_rows = np.searchsorted(places, offsets - start)
    moved = pa.py_buffer(offsets - start + grown[places_of_rows])
    valid = None
    if column.null_count:
        is_valid = column.is_valid().to_numpy(zero_copy_only=False)
        valid = pa.py_buffer(np.packbits(is_valid, bitorder="little"))
    return pa.LargeStringArray.from_buffers(len(column), moved, pa.py_buffer(text), valid)


def _escapes(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return where characters are that JSON escapes."""
    found = []
    for start in range(0, len(data), _AT_ONCE):
        part = data[start : start + _AT_ONCE]
        marks = part < 0x20
        marks |= part == ord('"')
        marks |= part == ord("\\")
        found.append(np.flatnonzero(marks) + start)
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def window(column: Any) -> tuple[int, npt.NDArray[np.int64]]:
    """Return where lists or maps begin in their column's values, and their offsets from there."""
    if library().types.is_fixed_size_list(column.type):
        each = column.type.list_size
        return column.offset * each, np.arange(len(column) + 1, dtype=np.int64) * each
    offsets = np.asarray(column.offsets).astype(np.int64)
    if not len(offsets):
        offsets = np.zeros(1, np.int64)
    return int(offsets[0]), offsets - offsets[0]


def _lists(column: Any, offsets: npt.NDArray[np.int64], texts: Any) -> Spelled:
    """Return the texts of lists, `offsets` being theirs in the texts of their values."""
    pa = library()
    places = pa.array(offsets)
    lists = pa.LargeListArray.from_arrays(places, texts)
    inner = pa.compute.binary_join(lists, _text(","))
    return Spelled("[", _where_valid(column, inner), "]")
