"""Arrow columns to canonical texts, a column at a time.

What this makes of a row is what `manifests.records.canonical` makes of its values; a column is
turned to text as a whole, and the rows are joined from their columns' texts, once.
"""

from __future__ import annotations

from itertools import pairwise
from json.encoder import encode_basestring
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt

from lineage.datasets import arrays, spelling
from lineage.datasets.hashing import FRAME, frame_heads
from lineage.errors import FormatError, printable


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


def frames_of(batch: Any) -> Frames:
    """Return what is hashed of the rows of a batch that was looked through.

    Raises:
        FormatError: On columns of one name, and on one of a type that has no canonical form.
    """
    pa = arrays.library()
    rows = batch.num_rows
    first, *parts = _object_parts(batch.schema.names, batch.columns)
    sizes = np.full(rows, len(first.encode()), np.int64)
    for part in parts:
        sizes += len(part.encode()) if isinstance(part, str) else np.diff(arrays.offsets_of(part))
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
        rest = (
            spelling.scalar(p).cast(binary) if isinstance(p, str) else p.cast(binary) for p in parts
        )
        end = pa.scalar(b"", binary)
        joined = pa.compute.binary_join_element_wise(joined, *rest, end)
    return Frames(arrays.data_of(joined), arrays.offsets_of(joined).tolist())


def texts_in(frames: Frames) -> list[bytes]:
    """Return the canonical texts of rows from their frames."""
    data, offsets = frames
    return [bytes(data[start + FRAME : stop]) for start, stop in pairwise(offsets)]


def _whole(spelled: Spelled) -> Any:
    """Return texts with what they begin and end with."""
    before, texts, after = spelled
    return spelling.joined(before, texts, after) if before or after else texts


def _objects(names: list[str], columns: list[Any], count: int) -> Any:
    """Return the objects that rows of columns are."""
    pa = arrays.library()
    parts = _object_parts(names, columns)
    if len(parts) == 1:
        return pa.array(parts * count, pa.large_string())
    return spelling.joined(*parts)


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
            parts += [spelling.joined(before, texts, after).fill_null(""), ""]
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
    texts = [spelling.joined(*member, ",").fill_null("") for member in members]
    return ["{", arrays.library().compute.ascii_rtrim(spelling.joined(*texts), ","), "}"]


def _named(name: str, column: Any) -> Spelled:
    try:
        return _values(column)
    except FormatError as error:
        raise FormatError(f"column {printable(name[:-1], 80)}: {error.reason}") from error


def _values(column: Any) -> Spelled:
    """Return the canonical texts of a column's values; null where the value is."""
    pa = arrays.library()
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
        return Spelled("", spelling.integers(column), "")
    if types.is_floating(kind):
        return Spelled("", spelling.floats(column.cast(pa.float64())), "")
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return Spelled('"', spelling.escaped(arrays.unviewed(column).cast(pa.large_string())), '"')
    if (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    ):
        return Spelled('!bytes"', spelling.hashes(column), '"')
    if types.is_decimal(kind):
        return Spelled('!decimal"', spelling.decimals(column), '"')
    if types.is_date(kind):
        days = column.cast(pa.date32()).cast(pa.int32())
        return Spelled('!date"', days.cast(pa.large_string()), '"')
    if types.is_timestamp(kind):
        name = "datetime" if kind.tz is None else "instant"
        return Spelled(f'!{name}"', spelling.seconds(column.cast(pa.int64()), kind.unit), '"')
    if types.is_time(kind) or types.is_duration(kind):
        counts = column.cast(pa.int32() if types.is_time32(kind) else pa.int64())
        name = "time" if types.is_time(kind) else "duration"
        return Spelled(f'!{name}"', spelling.seconds(counts.cast(pa.int64()), kind.unit), '"')
    if types.is_map(kind):
        start, offsets = arrays.window(column)
        size = int(offsets[-1])
        keys, items = (_filled(part.slice(start, size)) for part in (column.keys, column.items))
        return _lists(column, offsets, spelling.joined("[", keys, ",", items, "]"))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        start, offsets = arrays.window(column)
        return _lists(column, offsets, _filled(column.values.slice(start, int(offsets[-1]))))
    if types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        objects = _objects(names, column.flatten(), len(column))
        return Spelled("", spelling.where_valid(column, objects), "")
    if types.is_run_end_encoded(kind):
        return _values(compute.run_end_decode(column))
    raise FormatError(f"values of type {printable(str(kind), 80)} have no canonical form")


def _coded(column: Any) -> Spelled:
    """Spell what the codes stand for, once each where that is less."""
    types, inner = arrays.library().types, column.type.value_type
    is_decoded = not (
        types.is_nested(inner) or types.is_string_view(inner) or types.is_binary_view(inner)
    )
    if is_decoded and len(column.dictionary) > len(column):
        return _values(column.dictionary_decode())
    before, texts, after = _values(column.dictionary)
    return Spelled(before, texts.take(column.indices), after)


def _filled(column: Any) -> Any:
    return _whole(_values(column)).fill_null("null")


def _lists(column: Any, offsets: npt.NDArray[np.int64], texts: Any) -> Spelled:
    """Return the texts of lists, `offsets` being theirs in the texts of their values."""
    pa = arrays.library()
    places = pa.array(offsets)
    lists = pa.LargeListArray.from_arrays(places, texts)
    inner = pa.compute.binary_join(lists, spelling.scalar(","))
    return Spelled("[", spelling.where_valid(column, inner), "]")
