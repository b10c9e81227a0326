"""Arrow arrays as they lie in memory: their buffers, offsets and views."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lineage.errors import FormatError

_Number = TypeVar("_Number", np.int64, np.float64)

_VIEW = 16
"""Bytes of a view: the length of a text, and the text or where it is."""


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


def offsets_of(texts: Any) -> npt.NDArray[np.int64]:
    """Return where each of an array's large strings or binaries begins, and the end."""
    held = texts.buffers()[1]
    if held is None or not len(texts):
        return np.zeros(1, np.int64)
    return np.frombuffer(held, np.int64, len(texts) + 1, 8 * texts.offset)


def data_of(texts: Any) -> memoryview:
    """Return the bytes that an array of large strings or binaries lies in."""
    held = texts.buffers()[2]
    return memoryview(b"" if held is None else held)


def numbers_of(column: Any, kind: type[_Number]) -> npt.NDArray[_Number]:
    """Return the numbers of a column, those that are null being anything."""
    held = column.buffers()[1]
    if held is None:
        return np.zeros(len(column), kind)
    return np.frombuffer(held, kind, len(column), np.dtype(kind).itemsize * column.offset)


def window(column: Any) -> tuple[int, npt.NDArray[np.int64]]:
    """Return where lists or maps begin in their column's values, and their offsets from there."""
    if library().types.is_fixed_size_list(column.type):
        each = column.type.list_size
        return column.offset * each, np.arange(len(column) + 1, dtype=np.int64) * each
    offsets = np.asarray(column.offsets).astype(np.int64)
    if not len(offsets):
        offsets = np.zeros(1, np.int64)
    return int(offsets[0]), offsets - offsets[0]


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
