"""Thousands of tensors at once: compiled loops take what is taken one by one."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lineage.artifacts import columns, read, safetensors
from lineage.artifacts.base import BITS, Affine, Item
from lineage.artifacts.columns import entries, made
from lineage.errors import LineageError

W = b'"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}'
V = b'"v":{"dtype":"F4","shape":[],"data_offsets":[24,25]}'
GOOD = b'{"__metadata__":{"format":"pt"},' + W + b"," + V + b"}  "


def entered(header: bytes, room: int = 25, max_marks: int = 1000) -> columns.Entries | None:
    return entries(header, BITS, start=100, room=room, max_marks=max_marks)


def test_the_loops_were_compiled_where_the_tests_run() -> None:
    assert columns.compiled() is not None or sys.platform == "win32"


@pytest.mark.skipif(columns.compiled() is None, reason="asks the compiled loops")
def test_a_plain_header_is_read_at_once() -> None:
    found = entered(GOOD)
    assert found == (["w", "v"], ["F32", "F4"], [(2, 3), ()], [100, 124], [24, 1], {"format": "pt"})
    marks = sum(map(GOOD.count, (b"{", b"[", b",")))
    assert entered(GOOD, max_marks=marks) == found
    assert entered(GOOD, max_marks=marks - 1) is None
    assert entered(b"{}", room=0) == ([], [], [], [], [], {})


@pytest.mark.parametrize(
    "header",
    [
        b"", b"{", b"[]", GOOD + b"\n", GOOD + b"x", GOOD.replace(b",", b", ", 1),
        GOOD.replace(b'"w"', b'"\\u0077"'), GOOD.replace(b'"w"', b'"\xc3\xbc"'),
        GOOD.replace(b'"w"', b'"\x7f"'), GOOD.replace(b'"w"', b'"v"'), GOOD.replace(b"F32", b"F33"),
        GOOD.replace(b"[2,3]", b"[02,3]"), GOOD.replace(b"[2,3]", b"[2,3,]"),
        GOOD.replace(b"[2,3]", b"[2,-3]"), GOOD.replace(b"[2,3]", b"[2,0]"),
        GOOD.replace(b"[2,3]", b"[6.0]"), GOOD.replace(b"[2,3]", b"[2,4]"),
        GOOD.replace(b"[2,3]", b"[" + b"1," * 64 + b"6]"),
        GOOD.replace(b"[2,3]", b"[999999999999999,999999999999999]"),
        GOOD.replace(b"[2,3]", b"[1000000000000006]"), GOOD.replace(b"[0,24]", b"[0,23]"),
        GOOD.replace(b"[24,25]", b"[25,26]"), GOOD.replace(b"[24,25]", b"[23,24]"),
        GOOD.replace(b"[24,25]", b"[24,24]"), GOOD.replace(b'"pt"', b'"pt","format":"pt"'),
        GOOD.replace(b'"pt"', b"1"), GOOD.replace(W, b'"__metadata__":{}'),
        GOOD.replace(b'"shape":[]', b'"shape":[],"shape":[]'), GOOD.replace(b"dtype", b"dtypes"),
    ],
)  # fmt: skip
def test_any_other_header_takes_a_closer_look(header: bytes) -> None:
    assert entered(header) is None


def readings(header: bytes, room: int) -> list[Any]:
    """What is read of a file, or the error, with the compiled loops and without."""
    found: list[Any] = []
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        path = Path(folder) / "m.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(room))
        for least in (0, sys.maxsize):
            patched.setattr(safetensors, "LONG", least)
            try:
                with read(path) as artifact:
                    starts = [item.source.start for item in artifact.items]  # type: ignore[attr-defined]
                    found.append((artifact.items, starts, {item.file for item in artifact.items}))
            except LineageError as error:
                found.append(str(error))
    return found


@st.composite
def headers(draw: st.DrawFn) -> tuple[bytes, int]:
    """Headers that are good, or nearly, and the bytes behind them."""
    document: dict[str, Any] = {}
    if draw(st.booleans()):
        texts = st.text(st.sampled_from("ab,{[ü\\"), max_size=3)
        document["__metadata__"] = draw(st.dictionaries(texts, texts, max_size=2))
    at = 0
    for name in draw(st.lists(st.text(st.sampled_from("abc.[,"), max_size=3), max_size=4)):
        dtype = draw(st.sampled_from(["F32", "BF16", "F4", "F6_E2M3", "BOOL", "I4", "Q4_0"]))
        shape = draw(st.lists(st.integers(0, 5), max_size=3))
        size = -(-BITS.get(dtype, 8) * _product(shape) // 8)
        size += draw(st.sampled_from([0, 0, 0, 1]))
        document[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = bytearray(json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode())
    marks = st.sampled_from(b'{}[],:"0123456789 \\-.eaF\xc3')
    for place, mark in draw(st.lists(st.tuples(st.integers(0, len(text) - 1), marks), max_size=2)):
        text[place] = mark
    return bytes(text) + b" " * draw(st.integers(0, 3)), at


def _product(shape: list[int]) -> int:
    product = 1
    for extent in shape:
        product *= extent
    return product


@settings(max_examples=300, deadline=None)
@given(headers())
@example((GOOD, 25))
def test_the_reader_and_the_loops_read_the_same(given_: tuple[bytes, int]) -> None:
    with_loops, without = readings(*given_)
    assert with_loops == without


@pytest.mark.parametrize("count", [1, columns.FEW - 1, columns.FEW, 3 * columns.FEW])
def test_values_are_made_as_one_by_one(count: int) -> None:
    names, shapes = [f"w{i}" for i in range(count)], [(i,) for i in range(count)]
    sizes = [2 * i for i in range(count)]
    items = made(Item, names, "BF16", shapes, sizes, None, "file", None)
    rows = zip(names, shapes, sizes, strict=True)
    wanted = [Item(name, "BF16", shape, size, None, "file") for name, shape, size in rows]  # type: ignore[arg-type]
    assert items == wanted
    assert [item.file for item in items] == ["file"] * count
    with pytest.raises(AttributeError):
        items[0].name = "v"  # type: ignore[misc]


@pytest.mark.skipif(columns.compiled() is None, reason="asks the compiled loops")
def test_columns_that_do_not_fit_a_class_are_refused() -> None:
    make = columns.compiled().made
    slots = tuple(getattr(Item, name) for name in Item.__match_args__)
    for bad in ((slots, ([],) * 6, 1), ((1, 2), ([], []), 0), (slots, (1,) * 7, -1)):
        with pytest.raises(TypeError, match="as many slots"):
            make(Item, *bad)
    with pytest.raises(IndexError):
        make(Item, slots, (["a"],) * 7, 2)
    with pytest.raises(TypeError):
        make(Affine, slots, (1,) * 7, 1)
