"""Arrow columns of plain values to canonical texts: numbers, times, decimals, texts and bytes."""

from __future__ import annotations

from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from lineage.canonical import MAX_INTEGER
from lineage.datasets import arrays
from lineage.manifests.records import canonical, decimal_text

_SCALES = {"s": 0, "ms": 3, "us": 6, "ns": 9}

_AT_ONCE = 1 << 18
"""Bytes of text that are looked at together: few enough to stay in a processor's cache."""

_PLAIN = 1e-4, 1e10
"""Doubles of sizes that Arrow spells without an exponent."""


def scalar(value: str) -> Any:
    """Return a text that Arrow takes for one in every row."""
    pa = arrays.library()
    return pa.scalar(value, pa.large_string())


def joined(*parts: Any) -> Any:
    """Return the parts of every row as one text; null where a part is."""
    parts = tuple(scalar(part) if isinstance(part, str) else part for part in parts)
    return arrays.library().compute.binary_join_element_wise(*parts, scalar(""))


def where_valid(column: Any, texts: Any) -> Any:
    """Return texts, null where a column is."""
    pa = arrays.library()
    if not column.null_count:
        return texts
    return pa.compute.if_else(column.is_valid(), texts, pa.scalar(None, pa.large_string()))


def integers(column: Any) -> Any:
    """Return Arrow's own texts, those marked that no JSON number can be."""
    pa = arrays.library()
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
    return compute.if_else(is_json, texts, joined('!int"', texts, '"'))


def floats(column: Any) -> Any:
    """Return Arrow's own texts, but for what may have an exponent, NaN, infinities and -0."""
    pa = arrays.library()
    held = arrays.numbers_of(column, np.float64)
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


def decimals(column: Any) -> Any:
    """Return Arrow's own texts without trailing zeros, but for those with an exponent."""
    pa = arrays.library()
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


def seconds(counts: Any, unit: str) -> Any:
    """Return counts of a unit of time as seconds, without trailing zeros."""
    pa = arrays.library()
    compute = pa.compute
    if unit == "s":
        return counts.cast(pa.large_string())
    each = np.uint64(10 ** _SCALES[unit])
    held = arrays.numbers_of(counts, np.int64)
    whole, rest = np.divmod(np.abs(held).view(np.uint64), each)  # the least has no positive
    texts = pa.array(whole).cast(pa.large_string())
    if (held < 0).any():
        texts = joined(compute.if_else(pa.array(held < 0), scalar("-"), scalar("")), texts)
    if rest.any():
        shown = compute.utf8_replace_slice(pa.array(rest + each).cast(pa.large_string()), 0, 1, ".")
        texts = joined(texts, compute.ascii_rtrim(compute.ascii_rtrim(shown, "0"), "."))
    return where_valid(counts, texts)


def hashes(column: Any) -> Any:
    """Return the BLAKE3 of binary values, in hexadecimal digits."""
    pa = arrays.library()
    held = arrays.unviewed(column).cast(pa.large_binary())
    data, places = arrays.data_of(held), arrays.offsets_of(held).tolist()
    rows = zip(held.is_valid().to_pylist(), places, places[1:], strict=False)
    texts = [blake3(data[start:stop]).hexdigest() if valid else None for valid, start, stop in rows]
    return pa.array(texts, pa.large_string())


def escaped(column: Any) -> Any:
    """Return large strings with those characters escaped that JSON escapes."""
    pa = arrays.library()
    offsets = arrays.offsets_of(column)
    start = int(offsets[0])
    data = arrays.data_of(column)[start : int(offsets[-1])]
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


def _replaced(texts: Any, where: npt.NDArray[np.bool_], others: Any) -> Any:
    """Return texts, those where it is said replaced by others."""
    pa = arrays.library()
    if not len(others):
        return texts
    others = pa.array(others, pa.large_string())
    return pa.compute.replace_with_mask(texts, pa.array(where), others)
