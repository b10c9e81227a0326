"""Whole columns are spelled as their cells are, one by one."""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from second import dataset as second

from lineage.datasets import batches, columns, hashing
from lineage.manifests import Typed, canonical

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.text(
    st.sampled_from('a"\\\n\t\r\b\f\0\x1f\x7fé\u2028\U0001f600/'), max_size=40
)
BITS = {8: st.integers(-128, 127), 16: st.integers(-(2**15), 2**15 - 1)}
BITS |= {32: st.integers(-(2**31), 2**31 - 1)}
EDGES = st.sampled_from([0, 1, -1, 2**53 - 1, 2**53, 1 - 2**53, -(2**53), 2**63 - 1, -(2**63)])
BITS |= {64: st.integers(-(2**63), 2**63 - 1) | EDGES}
NUMBERS = (
    st.floats()
    | st.integers(-(2**60), 2**60).map(float)
    | st.sampled_from([-0.0, 0.0, 1e13, 9999999999999.9, 1e14, 1e21, 1e-4, 0.00009, 1e-7, 5e-324])
)
UNITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
DAY = 86400


def _kinds() -> list[tuple[Any, st.SearchStrategy[Any]]]:
    """Types without parts, and their values: integers where Arrow holds such."""
    kinds: list[tuple[Any, st.SearchStrategy[Any]]] = [
        (pa.null(), st.none()),
        (pa.bool_(), st.booleans()),
        (pa.float64(), NUMBERS),
        (pa.float32(), st.floats(width=32)),
        (pa.float16(), st.floats(width=16).map(np.float16)),
        (pa.binary(3), st.binary(min_size=3, max_size=3)),
        (pa.date32(), BITS[32]),
        (pa.date64(), st.integers(-(10**5), 10**5).map(lambda day: day * DAY * 1000)),
        (pa.time32("s"), st.integers(0, DAY - 1)),
        (pa.time32("ms"), st.integers(0, DAY * 1000 - 1)),
        (pa.time64("us"), st.integers(0, DAY * 10**6 - 1)),
        (pa.time64("ns"), st.integers(0, DAY * 10**9 - 1)),
    ]
    kinds += [(kind, TEXT) for kind in (pa.string(), pa.large_string(), pa.string_view())]
    kinds += [
        (k, st.binary(max_size=9)) for k in (pa.binary(), pa.large_binary(), pa.binary_view())
    ]
    for bits, values in BITS.items():
        kinds.append((getattr(pa, f"int{bits}")(), values))
        unsigned = values.map(lambda value, bits=bits: value % 2**bits)
        kinds.append((getattr(pa, f"uint{bits}")(), unsigned))
    for unit in UNITS:
        kinds += [(pa.timestamp(unit, zone), BITS[64]) for zone in (None, "UTC", "+05:30")]
        kinds.append((pa.duration(unit), BITS[64]))
    for make, digits in ((pa.decimal128, 38), (pa.decimal256, 76)):
        for scale in (0, 3, 20, -2):
            most = 10 ** (digits - 1) - 1
            unscaled = st.integers(-most, most) | st.integers(-99, 99).map(lambda n: n * 100)
            kinds.append((make(digits, scale), unscaled))
    return kinds


SIMPLE = _kinds()


@st.composite
def arrays(draw: st.DrawFn, size: int, depth: int = 2) -> Any:
    """Arrays of all types that have canonical texts: some nulls, some in other windows."""
    before, after = draw(st.tuples(st.integers(0, 3), st.integers(0, 2)))
    whole = draw(_arrays(before + size + after, depth))
    return whole.slice(before, size)


@st.composite
def _arrays(draw: st.DrawFn, size: int, depth: int) -> Any:
    shapes = ["simple", "simple", "codes", "runs"]
    shapes += ["list", "large_list", "fixed", "map", "struct"] * (depth > 0)
    shape = draw(st.sampled_from(shapes))
    nulls = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    if draw(st.booleans()):
        nulls = [False] * size
    if shape == "simple":
        kind, values = draw(st.sampled_from(SIMPLE))
        drawn = draw(st.lists(values, min_size=size, max_size=size))
        return _array([None if null else v for null, v in zip(nulls, drawn, strict=True)], kind)
    if shape == "codes":
        held = draw(arrays(draw(st.integers(1, 4)), depth - 1))
        codes = draw(st.lists(st.integers(0, len(held) - 1), min_size=size, max_size=size))
        indices = pa.array(
            codes, draw(st.sampled_from([pa.int8(), pa.uint32()])), mask=np.array(nulls, bool)
        )
        return pa.DictionaryArray.from_arrays(indices, held)
    if shape == "runs":
        kind = draw(st.sampled_from([pa.string(), pa.int64(), pa.float64()]))
        values = {str(k): v for k, v in SIMPLE}[str(kind)]
        ends = sorted(draw(st.sets(st.integers(1, max(1, size)), max_size=3)) | {max(1, size)})
        held = _array(
            draw(st.lists(st.none() | values, min_size=len(ends), max_size=len(ends))), kind
        )
        return pa.RunEndEncodedArray.from_arrays(pa.array(ends, pa.int32()), held).slice(0, size)
    mask = pa.array(nulls, pa.bool_())
    if shape == "struct":
        names = draw(st.lists(TEXT, unique=True, max_size=3))
        parts = [draw(arrays(size, depth - 1)) for _ in names]
        if not names:
            return pa.array([None if null else {} for null in nulls], pa.struct([]))
        return pa.StructArray.from_arrays(parts, names, mask=mask)
    if shape == "fixed":
        return pa.FixedSizeListArray.from_arrays(draw(arrays(2 * size, depth - 1)), 2, mask=mask)
    cuts = sorted(draw(st.lists(st.integers(0, 6), min_size=size + 1, max_size=size + 1)))
    held = draw(arrays(cuts[-1], depth - 1))
    if shape == "map":
        keys = _array(draw(st.lists(TEXT, min_size=cuts[-1], max_size=cuts[-1])), pa.string())
        offsets = pa.array(
            [None if n else c for n, c in zip([*nulls, False], cuts, strict=True)], pa.int32()
        )
        return pa.MapArray.from_arrays(offsets, keys, held)
    kind, wide = (
        (pa.LargeListArray, pa.int64()) if shape == "large_list" else (pa.ListArray, pa.int32())
    )
    return kind.from_arrays(pa.array(cuts, wide), held, mask=mask)


def _array(values: list[Any], kind: Any) -> Any:
    if pa.types.is_decimal(kind):
        width = kind.bit_width // 8
        data = b"".join((v or 0).to_bytes(width, "little", signed=True) for v in values)
        valid = np.packbits([v is not None for v in values], bitorder="little")
        return pa.Array.from_buffers(kind, len(values), [pa.py_buffer(valid), pa.py_buffer(data)])
    if pa.types.is_temporal(kind):
        return pa.array(values, pa.int32() if kind.bit_width == 32 else pa.int64()).cast(kind)
    return pa.array(values, kind)


def plain(scalar: Any) -> Any:
    """What `manifests.records.canonical` takes for a cell, by the rules of the specification."""
    kind = scalar.type
    if not scalar.is_valid or pa.types.is_null(kind):
        return None
    if pa.types.is_dictionary(kind):
        return plain(scalar.dictionary[scalar.index.as_py()])
    if pa.types.is_run_end_encoded(kind):
        return scalar.as_py()
    if pa.types.is_struct(kind):
        return {kind.field(i).name: plain(scalar[i]) for i in range(kind.num_fields)}
    if pa.types.is_map(kind):
        pairs = scalar.values
        return [[plain(pair[0]), plain(pair[1])] for pair in pairs]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [plain(item) for item in scalar.values]
    if pa.types.is_decimal(kind):
        value = scalar.as_py()
        assert isinstance(value, Decimal)
        sign, digits, exponent = value.as_tuple()
        unscaled = int("".join(map(str, digits))) * (-1) ** sign
        return Typed("decimal", exact(unscaled, -int(exponent)))
    if pa.types.is_date(kind):
        count = scalar.value
        return Typed("date", str(count if pa.types.is_date32(kind) else count // (DAY * 1000)))
    if pa.types.is_temporal(kind):
        name = "time" if pa.types.is_time(kind) else "duration"
        if pa.types.is_timestamp(kind):
            name = "datetime" if kind.tz is None else "instant"
        return Typed(name, exact(scalar.value, UNITS[kind.unit]))
    value = scalar.as_py()
    if isinstance(value, bytes):
        return Typed("bytes", blake3(value).hexdigest())
    return float(value) if pa.types.is_floating(kind) else value


def exact(unscaled: int, scale: int) -> str:
    """`unscaled` / 10^`scale` as a decimal without exponent and trailing zeros, digit by digit."""
    digits = f"{abs(unscaled) * 10 ** max(0, -scale):0{max(scale, 0) + 1}d}"
    whole, rest = digits[: len(digits) - max(scale, 0)], digits[len(digits) - max(scale, 0) :]
    rest = rest.rstrip("0")
    return "-" * (unscaled < 0) + whole + ("." + rest if rest else "")


@st.composite
def record_batches(draw: st.DrawFn) -> Any:
    size = draw(st.integers(1, 8))
    names = draw(st.lists(TEXT, unique=True, min_size=1, max_size=4))
    return pa.record_batch([draw(arrays(size)) for _ in names], names)


@settings(max_examples=150)
@given(record_batches())
def test_columns_are_spelled_as_their_cells_are(batch: Any) -> None:
    rows = [
        canonical({name: plain(batch.column(i)[row]) for i, name in enumerate(batch.schema.names)})
        for row in range(batch.num_rows)
    ]
    batches.checked(batch)
    frames = columns.frames_of(batch)
    assert columns.texts_in(frames) == rows
    expected = [second.record(text.decode()) for text in rows]
    assert hashing.digest_frames(*frames) == b"".join(expected)
    assert hashing.digest_texts(rows) == b"".join(expected)
    pieces = [columns.texts_in(columns.frames_of(piece)) for piece in batches.cut([batch])]
    assert [text for piece in pieces for text in piece] == rows


@settings(max_examples=100)
@given(
    st.lists(
        NUMBERS
        | st.integers(0, 2**64 - 1).map(lambda b: struct.unpack("d", b.to_bytes(8, "little"))[0])
    )
)
def test_doubles_of_every_size_are_spelled_alike(numbers: list[float]) -> None:
    batch = pa.record_batch([pa.array(numbers, pa.float64())], ["x"])
    assert columns.texts_in(columns.frames_of(batch)) == [canonical({"x": x}) for x in numbers]
