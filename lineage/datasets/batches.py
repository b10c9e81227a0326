"""Record batches: looked through before anything is asked of them, cut small, and digested."""

from __future__ import annotations

from typing import Any

from lineage.datasets import arrays, columns, hashing
from lineage.datasets.readers.base import Done, Near
from lineage.errors import FormatError, printable

ROW_BYTES = 2 << 20
"""About what is spelled at once."""

MAX_ROWS = 1 << 15

ROWS_A_BYTE = 4096
"""How many rows a byte of an Arrow file may stand for."""

MAX_ROW_BYTES = 1 << 30
"""What a row may take once each of its values stands for itself."""


def digest(batch: Any, near: Near | None) -> Done:
    """Digest the rows of a record batch that was looked through.

    Raises:
        FormatError: As `columns.frames_of`, and where Arrow gives up.
    """
    try:
        frames = columns.frames_of(batch)
    except (
        arrays.library().ArrowException,
        UnicodeDecodeError,
    ) as error:  # names are not looked through
        raise FormatError(f"broken columns: {printable(str(error))}") from error
    sketches = b"" if near is None else near(columns.texts_in(frames))
    return Done(hashing.digest_frames(*frames), batch.num_rows, (), sketches)


def alone(batch: Any) -> Any:
    """Return a batch that was looked through, copied if it is a small part of another.

    Such a part takes all of the other along where it goes to another process (as of Arrow 26).
    """
    if batch.get_total_buffer_size() <= 2 * batch.nbytes + ROW_BYTES:
        return batch
    pa = arrays.library()
    import pyarrow.ipc

    sink = pa.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return pyarrow.ipc.open_stream(sink.getvalue()).read_next_batch()


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
    except arrays.library().ArrowInvalid as error:
        raise FormatError(f"broken columns: {printable(str(error))}") from error
    return batch


def cut(table: Any) -> Any:
    """Cut record batches so that each is bounded in bytes and rows.

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
    pa = arrays.library()
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
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if is_list or types.is_map(kind):
        start, offsets = arrays.window(column)
        parts = (column.values,) if is_list else (column.keys, column.items)
        held = (part.slice(start, int(offsets[-1])) for part in parts)
        return sum(map(_unpacked_bytes, held)) + 8 * len(column)
    if types.is_string_view(kind) or types.is_binary_view(kind):
        return int(pa.compute.sum(_value_sizes(column)).as_py() or 0)
    return int(column.nbytes)


def longest(column: Any) -> int:
    """Return the bytes of the longest text that a column's rows have or can share, at any depth."""
    pa = arrays.library()
    types, kind = pa.types, column.type
    if isinstance(column, pa.ExtensionArray):
        return longest(column.storage)
    if types.is_dictionary(kind):
        column = column.dictionary
    if _is_text(column.type):
        return int(pa.compute.max(_value_sizes(column)).as_py() or 0)
    if types.is_struct(kind):
        return max(map(longest, column.flatten()), default=0)
    if types.is_map(kind):
        return max(longest(column.keys), longest(column.items))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return longest(column.values)
    return 0


def _value_sizes(values: Any) -> Any:
    """Return the bytes of each value; of values that are no text, what all take, for each."""
    pa = arrays.library()
    types, kind = pa.types, values.type
    if types.is_string_view(kind) or types.is_binary_view(kind):
        words = 4 * (values.offset + len(values))  # the first of a view's four is its length
        views = arrays.unviewed(values).buffers()[1]
        lengths = pa.Array.from_buffers(pa.int32(), words, [None, views])
        return lengths.cast(pa.int64())[4 * values.offset :: 4]
    if _is_text(kind):
        return pa.compute.binary_length(values).cast(pa.int64())
    if types.is_primitive(kind):
        return pa.array([kind.bit_width // 8 or 1] * len(values), pa.int64())
    return pa.array([_unpacked_bytes(values)] * len(values), pa.int64())


def _is_text(kind: Any) -> bool:
    types = arrays.library().types
    is_kind = types.is_string, types.is_large_string, types.is_binary, types.is_large_binary
    return any(is_it(kind) for is_it in is_kind)
