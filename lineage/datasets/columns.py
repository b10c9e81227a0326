"""Arrow columns to canonical texts, a column at a time.

What this makes of a row is what `manifests.records.canonical` makes of its values; a column is
turned to text as a whole, and the rows are joined from their columns' texts.
"""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from json.encoder import encode_basestring
from typing import Any

import numpy as np
from blake3 import blake3

from lineage.canonical import MAX_INTEGER
from lineage.datasets import hashing
from lineage.datasets.readers.base import Done, Near
from lineage.errors import FormatError, printable
from lineage.manifests.records import Typed, canonical, decimal_text

ROW_BYTES = 2 << 20
"""About what is spelled at once."""

MAX_ROWS = 1 << 15

ROWS_A_BYTE = 4096
"""How many rows a byte of an Arrow file may stand for."""

MAX_ROW_BYTES = 1 << 30
"""What a row may take once each of its values stands for itself."""

_SCALES = {"s": 0, "ms": 3, "us": 6, "ns": 9}


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


def digest(batch: Any, near: Near | None) -> Done:
    """Digest the rows of a record batch.

    Raises:
        FormatError: As `texts_of`, and where Arrow gives up.
    """
    try:
        texts = texts_of(batch)
    except (library().ArrowException, UnicodeDecodeError) as error:  # names are not looked through
        raise FormatError(f"broken columns: {printable(str(error))}") from error
    sketches = b"" if near is None else near(texts.to_pylist())
    return Done(hashing.digest_texts(texts.to_pylist()), len(texts), (), sketches)


def texts_of(batch: Any) -> Any:
    """Return the canonical texts of a batch's rows as a large binary array without nulls.

    Raises:
        FormatError: On columns of one name, of a type that has no canonical form, or broken.
    """
    held = checked(batch)
    rows = _objects(held.schema.names, held.columns, held.num_rows)
    return rows.cast(library().large_binary())


def checked(batch: Any) -> Any:
    """Return a batch that was looked through: nothing may be asked of one that was not.

    Arrow takes the offsets and lengths of a file as they are, and reads where they lead. Rows of
    nothing, or of one long run, take no bytes, so that any number of them could be told in a few.

    Raises:
        FormatError: If it is broken, or has more rows than its bytes have room for.
    """
    buffers = (buffer for column in batch.columns for buffer in column.buffers())
    size = sum(buffer.size for buffer in buffers if buffer is not None)
    if batch.num_rows > MAX_ROWS + ROWS_A_BYTE * size:
        raise FormatError(f"broken columns: {batch.num_rows} rows in {size} bytes")
    try:
        batch.validate(full=True)
    except library().ArrowInvalid as error:
        raise FormatError(f"broken columns: {printable(str(error))}") from error
    return batch


def batches(table: Any) -> Any:
    """Cut record batches so that a job is bounded in bytes and rows.

    Args:
        table: Batches that Arrow itself made, or that were looked through.

    Raises:
        FormatError: On a row of more than `MAX_ROW_BYTES`.
    """
    for batch in table:
        rows = batch.num_rows
        if not rows:
            continue
        each = max(1, batch.nbytes // rows)
        step = max(1, min(MAX_ROWS, ROW_BYTES // each))
        for start in range(0, rows, step):
            yield from _bounded(batch.slice(start, step))


def _bounded(batch: Any) -> Any:
    """Halve a batch until what it unpacks to is little: one long value may stand in every row."""
    size = sum(map(_unpacked_bytes, batch.columns))
    rows = batch.num_rows
    if size <= 2 * ROW_BYTES or (rows == 1 and size <= MAX_ROW_BYTES):
        yield batch
        return
    if rows == 1:
        raise FormatError(f"a row unpacks to {size} bytes, more than {MAX_ROW_BYTES}")
    yield from _bounded(batch.slice(0, rows // 2))
    yield from _bounded(batch.slice(rows // 2))


def _unpacked_bytes(column: Any) -> int:
    """Return about how many bytes a column's values take once none shares another's."""
    pa = library()
    types, kind = pa.types, column.type
    if isinstance(column, pa.ExtensionArray):
        return _unpacked_bytes(column.storage)
    if types.is_dictionary(kind):
        sizes = _value_sizes(column.dictionary)
        return int(pa.compute.sum(sizes.take(column.indices)).as_py() or 0)
    if types.is_run_end_encoded(kind):
        sizes = _value_sizes(column.values)
        every = pa.RunEndEncodedArray.from_arrays(column.run_ends, sizes)
        shown = pa.compute.run_end_decode(every.slice(column.offset, len(column)))
        return int(pa.compute.sum(shown).as_py() or 0)
    if types.is_struct(kind):
        return sum(map(_unpacked_bytes, column.flatten()))
    if types.is_map(kind):
        start, stop = column.offsets[0].as_py(), column.offsets[-1].as_py()
        parts = (part.slice(start, stop - start) for part in (column.keys, column.items))
        return sum(map(_unpacked_bytes, parts)) + 8 * len(column)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _unpacked_bytes(column.flatten()) + 8 * len(column)
    if types.is_string_view(kind) or types.is_binary_view(kind):
        return int(pa.compute.sum(_value_sizes(column)).as_py() or 0)
    return int(column.nbytes)


def _value_sizes(values: Any) -> Any:
    """Return the bytes of each value; of values that are no text, what all take, for each."""
    pa = library()
    types, kind = pa.types, values.type
    if types.is_string_view(kind) or types.is_binary_view(kind):
        words = 4 * (values.offset + len(values))  # the first of a view's four is its length
        views = pa.Array.from_buffers(pa.int32(), words, [None, values.buffers()[1]])
        return views.cast(pa.int64())[4 * values.offset :: 4]
    if (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
    ):
        return pa.compute.binary_length(values).cast(pa.int64())
    if types.is_primitive(kind):
        return pa.array([kind.bit_width // 8 or 1] * len(values), pa.int64())
    return pa.array([_unpacked_bytes(values)] * len(values), pa.int64())


def _text(value: str) -> Any:
    pa = library()
    return pa.scalar(value, pa.large_string())


def _joined(*parts: Any) -> Any:
    """Return the parts of every row as one text; null where a part is."""
    return library().compute.binary_join_element_wise(*parts, _text(""))


def _objects(names: list[str], columns: list[Any], count: int) -> Any:
    """Return the objects that rows of columns are."""
    pa = library()
    if len(set(names)) != len(names):
        raise FormatError("two columns have one name")
    order = sorted(range(len(names)), key=lambda i: names[i].encode("utf-16-be"))
    names = [encode_basestring(names[i]) + ":" for i in order]
    values = [_named(name, columns[i]) for name, i in zip(names, order, strict=True)]
    if not values:
        return pa.array(["{}"] * count, pa.large_string())
    if not any(value.null_count for value in values):
        marks = ["{", *[","] * (len(values) - 1)]
        begins = [_text(mark + name) for mark, name in zip(marks, names, strict=True)]
        parts = [part for pair in zip(begins, values, strict=True) for part in pair]
        return _joined(*parts, _text("}"))
    # Arrow loses rows of nothing but nulls where it skips nulls, so each member brings its comma.
    pairs = zip(names, values, strict=True)
    members = [_joined(_text(name), value, _text(",")).fill_null("") for name, value in pairs]
    return _joined(_text("{"), pa.compute.ascii_rtrim(_joined(*members), ","), _text("}"))


def _named(name: str, column: Any) -> Any:
    try:
        return _values(column)
    except FormatError as error:
        raise FormatError(f"column {printable(name[:-1], 80)}: {error.reason}") from error


def _values(column: Any) -> Any:
    """Return the canonical texts of a column's values; null where the value is."""
    pa = library()
    types, compute, kind = pa.types, pa.compute, column.type
    if isinstance(column, pa.ExtensionArray):
        return _values(column.storage)
    if types.is_dictionary(kind):
        return _coded(column)
    if types.is_null(kind):
        return pa.nulls(len(column), pa.large_string())
    if types.is_boolean(kind):
        return column.cast(pa.large_string())
    if types.is_integer(kind):
        return _integers(column)
    if types.is_floating(kind):
        return _floats(column.cast(pa.float64()))
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return _strings(column.cast(pa.large_string()))
    if (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    ):
        return _each(column, lambda value: f'!bytes"{blake3(value).hexdigest()}"')
    if types.is_decimal(kind):
        return _each(column, _decimal)
    if types.is_date(kind):
        return _scaled(column.cast(pa.date32()).cast(pa.int32()), "date", 0)
    if types.is_timestamp(kind):
        name = "datetime" if kind.tz is None else "instant"
        return _scaled(column.cast(pa.int64()), name, _SCALES[kind.unit])
    if types.is_time(kind) or types.is_duration(kind):
        bits = pa.int32() if types.is_time32(kind) else pa.int64()
        name = "time" if types.is_time(kind) else "duration"
        return _scaled(column.cast(bits), name, _SCALES[kind.unit])
    if types.is_map(kind):
        pairs = _joined(
            _text("["), _filled(column.keys), _text(","), _filled(column.items), _text("]")
        )
        return _lists(column, column.offsets, pairs)
    if types.is_fixed_size_list(kind):
        return _values(column.cast(pa.large_list(kind.value_field)))
    if types.is_list(kind) or types.is_large_list(kind):
        return _lists(column, column.offsets, _filled(column.values))
    if types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        objects = _objects(names, column.flatten(), len(column))
        return compute.if_else(column.is_valid(), objects, pa.scalar(None, pa.large_string()))
    if types.is_run_end_encoded(kind):
        return _values(compute.run_end_decode(column))
    raise FormatError(f"values of type {printable(str(kind), 80)} have no canonical form")


def _coded(column: Any) -> Any:
    """Spell what the codes stand for, once each where that is less."""
    types, inner = library().types, column.type.value_type
    is_decoded = not (
        types.is_nested(inner) or types.is_string_view(inner) or types.is_binary_view(inner)
    )
    if is_decoded and len(column.dictionary) > len(column):
        return _values(column.dictionary_decode())
    return _values(column.dictionary).take(column.indices)


def _filled(column: Any) -> Any:
    return _values(column).fill_null("null")


def _each(column: Any, spell: Any) -> Any:
    pa = library()
    texts = [None if value is None else spell(value) for value in column.to_pylist()]
    return pa.array(texts, pa.large_string())


def _decimal(value: Decimal) -> str:
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    unscaled = int("".join(map(str, digits))) * (-1 if sign else 1)
    return canonical(Typed("decimal", decimal_text(unscaled, -exponent))).decode()


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
    return compute.if_else(is_json, texts, _joined(_text('!int"'), texts, _text('"')))


def _floats(column: Any) -> Any:
    """Return Arrow's own texts, but for exponents, NaN, infinities and -0."""
    pa = library()
    compute = pa.compute
    texts = column.cast(pa.large_string())
    is_odd = compute.match_substring_regex(texts, "[en]|^-0$").fill_null(False)
    values = column.filter(is_odd).to_pylist()
    spelled = pa.array([canonical(value).decode() for value in values], pa.large_string())
    return compute.replace_with_mask(texts, is_odd, spelled)


def _is_plain(column: Any) -> bool:
    """Whether no value of a column of large strings has a character that JSON escapes."""
    _, offsets, data = column.buffers()
    if data is None or not len(column):
        return True
    whole = memoryview(offsets).cast("q")
    start, end = whole[column.offset], whole[column.offset + len(column)]
    if start == end:
        return True
    held = memoryview(data)[start:end].tobytes()
    return b'"' not in held and b"\\" not in held and np.frombuffer(held, np.uint8).min() >= 0x20


def _strings(column: Any) -> Any:
    pa = library()
    compute = pa.compute
    if _is_plain(column):
        return _joined(_text('"'), column, _text('"'))
    escaped = compute.replace_substring(column, "\\", "\\\\")
    escaped = compute.replace_substring(escaped, '"', '\\"')
    texts = _joined(_text('"'), escaped, _text('"'))
    has_control = compute.match_substring_regex(column, r"[\x00-\x1f]")
    if not compute.any(has_control).as_py():
        return texts
    rows = compute.indices_nonzero(has_control)
    spelled = [encode_basestring(value) for value in column.take(rows).to_pylist()]
    return compute.replace_with_mask(
        texts, has_control.fill_null(False), pa.array(spelled, pa.large_string())
    )


def _scaled(column: Any, kind: str, scale: int) -> Any:
    return _each(column, lambda value: f'!{kind}"{decimal_text(value, scale)}"')


def _lists(column: Any, offsets: Any, texts: Any) -> Any:
    pa = library()
    compute = pa.compute
    lists = pa.LargeListArray.from_arrays(offsets.cast(pa.int64()), texts)
    inner = compute.binary_join(lists, _text(","))
    whole = _joined(_text("["), inner, _text("]"))
    return compute.if_else(column.is_valid(), whole, pa.scalar(None, pa.large_string()))
