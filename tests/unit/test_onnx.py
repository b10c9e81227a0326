"""ONNX models as the onnx package writes and reads them, and every lie a file can tell."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import Array, write_model
from onnx import TensorProto, helper, numpy_helper

from lineage import fingerprint, read
from lineage.artifacts import Affine, Item, protobuf, streamed
from lineage.artifacts import onnx as reader
from lineage.artifacts.opened import Opener
from lineage.artifacts.streamed import Streamed
from lineage.errors import FormatError

# Files made by hand: every byte is the test's own choice.


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def part(field: int, *data: bytes | str) -> bytes:
    joined = b"".join(d.encode() if isinstance(d, str) else d for d in data)
    return varint(field << 3 | 2) + varint(len(joined)) + joined


def tensor(
    *data: bytes, name: str = "w", dims: Sequence[int] = (2, 2), kind: int = TensorProto.FLOAT
) -> bytes:
    dimensions = b"".join(number(1, n) for n in dims)
    return dimensions + number(2, kind) + part(8, name) + b"".join(data)


def model(*initializers: bytes) -> bytes:
    return number(1, 10) + part(7, *(part(5, one) for one in initializers))


def beside(**pairs: str) -> bytes:
    held = b"".join(part(13, part(1, key), part(2, value)) for key, value in pairs.items())
    return held + number(14, 1)


RAW = part(9, bytes(range(16)))
GOOD = tensor(RAW)
INTS = {"kind": TensorProto.INT32, "dims": (3,)}


def nested(depth: int, name: str = "o") -> bytes:
    graph = part(5, GOOD)
    for _ in range(depth):
        graph = part(1, part(2, name), part(4, "If"), part(5, part(1, "b"), part(6, graph)))
    return part(7, graph)


LIES: dict[str, tuple[bytes, str | None, str]] = {
    "no bytes": (b"", None, "no graph"),
    "text": (b"hello, this is not a model", None, "wire type"),
    "zeros": (bytes(64), None, "no field's tag"),
    "no graph": (number(1, 10), None, "no graph"),
    "two graphs": (model(GOOD) + part(7), None, "a second graph"),
    "an empty graph": (part(7), None, "holds no tensors"),
    "a graph that is a number": (number(7, 3), None, "field 7 has wire type 0, not 2"),
    "a group": (part(7, b"\x2b\x2c"), None, "wire type 3"),
    "field 0": (part(7, b"\x02\x00"), None, "no field's tag"),
    "a tag in two bytes where one will do": (part(7, b"\xaa\x00\x00"), None, "no field's tag"),
    "a tag of 40 bits": (part(7, varint(1 << 40 | 2), b"\0"), None, "no field's tag"),
    "a tag that does not end": (part(7, b"\x80"), None, "does not end"),
    "a length that does not end": (b"\x3a" + b"\xff" * 20, None, "does not end within 10 bytes"),
    "a length of 2^63": (b"\x3a" + varint(2**63), None, "truncated"),
    "a length of 2^64-1": (b"\x3a" + varint(2**64 - 1) + b"abc", None, "truncated"),
    "a tensor that leaves its graph": (part(7, b"\x2a\x7f\x01") + bytes(200), None, "truncated"),
    "a number that leaves its tensor": (model(b"\x09\0\0"), None, "truncated"),
    "truncated": (model(GOOD)[:-1], None, "truncated"),
    "no name": (model(tensor(RAW, name="")), None, "without a name"),
    "two names": (model(GOOD + part(8, "v")), None, "field 8 twice"),
    "a name of bytes": (model(part(8, b"\xff")), None, "not UTF-8"),
    "a name of 5000 bytes": (model(tensor(RAW, name="w" * 5000)), None, "a name of 5000 bytes"),
    "a name that is a number": (model(number(8, 3)), None, "wire type 0"),
    "two dtypes": (model(GOOD + number(2, 1)), None, "field 2 twice"),
    "two locations": (model(GOOD + number(14, 0) * 2), None, "field 14 twice"),
    "a dtype that is text": (model(part(2, "FLOAT")), None, "wire type 2"),
    "stored twice": (model(GOOD, GOOD), "w", "stored twice"),
    "no dtype": (model(part(8, "w") + RAW), "w", "unknown data_type 0"),
    "dtype 25, of two bits": (model(tensor(RAW, kind=25)), "w", "unknown data_type 25"),
    "dtype -1": (model(tensor(RAW, kind=-1)), "w", "unknown data_type"),
    "a segment": (model(GOOD + part(3)), None, "segments"),
    "a negative dimension": (model(tensor(RAW, dims=(-2, -2))), "w", "not one of a tensor"),
    "2^80 values": (model(tensor(RAW, dims=(2**40, 2**40))), "w", "not one of a tensor"),
    "65 dimensions": (model(tensor(RAW, dims=[1] * 65)), None, "more than 64"),
    "65 packed dimensions": (model(part(1, b"\1" * 65) + GOOD), None, "more than 64"),
    "dimensions in fixed width": (model(b"\x0d\0\0\0\0" + GOOD), None, "wire type 5"),
    "too few bytes": (model(tensor(RAW, dims=(5,))), "w", "takes 20 bytes"),
    "too many bytes": (model(tensor(RAW, dims=(3,))), "w", "takes 12 bytes"),
    "no bytes for a shape": (model(tensor()), "w", "takes 16 bytes, but the file gives it 0"),
    "raw data twice": (model(GOOD + RAW), "w", "raw_data is given twice"),
    "raw and typed": (model(GOOD + part(4, bytes(16))), "w", "float_data and raw_data"),
    "raw data that is a number": (model(tensor(number(9, 1))), None, "wire type 0"),
    "floats in int64_data": (
        model(tensor(part(7, bytes(4)))), "w", "in int64_data, which is not for F32",
    ),
    "floats in double_data": (model(tensor(part(10, bytes(32)))), "w", "not for F32"),
    "six bits in int32_data": (model(tensor(part(5, b"\1"), kind=27)), "w", "not for F6_E2M3"),
    "half a float": (model(tensor(part(4, bytes(15)))), "w", "takes 16 bytes"),
    "half a float in each of two": (
        model(tensor(part(4, bytes(6)), part(4, bytes(10)))), "w", "float_data has",
    ),
    "floats one short in two runs": (
        model(tensor(part(4, bytes(4)), part(4, bytes(8)))), "w", "asks for 4 numbers",
    ),
    "floats that are varints": (model(tensor(number(4, 1))), None, "wire type 0, not 5"),
    "numbers in fixed width": (
        model(tensor(b"\x2d\0\0\0\0", **INTS)), None, "wire type 5, not 0",
    ),
    "more numbers than bytes": (model(tensor(part(5, b"\1\1"), **INTS)), "w", "asks for 3"),
    "more bytes than numbers": (model(tensor(part(5, b"\1" * 31), **INTS)), "w", "asks for 3"),
    "one number too many": (model(tensor(part(5, b"\1" * 4), **INTS)), "w", "has more"),
    "one number too few": (model(tensor(part(5, b"\x81\1\1"), **INTS)), "w", "has 2"),
    "one unpacked number too few": (model(tensor(number(5, 1) * 2, **INTS)), "w", "has 1 to 2"),
    "a number that does not end": (model(tensor(part(5, b"\1\1\x81"), **INTS)), "w", "not end"),
    "a number of 11 bytes": (
        model(tensor(part(5, b"\1\1" + b"\x80" * 10 + b"\1"), **INTS)), "w", "not end",
    ),
    "300 in a byte": (
        model(tensor(part(5, varint(300), b"\1\1"), dims=(3,), kind=TensorProto.UINT8)),
        "w", "does not fit in 8 bits",
    ),
    "-129 in a byte": (
        model(tensor(part(5, varint(-129)), dims=(1,), kind=TensorProto.INT8)), "w", "8 bits",
    ),
    "2^32 in 32 bits": (
        model(tensor(part(11, varint(2**32)), dims=(1,), kind=TensorProto.UINT32)), "w", "32 bits",
    ),
    "in 1001 parts": (model(tensor(part(4, bytes(4)) * 1001)), None, "more than 1000 parts"),
    "beside, without a place": (model(tensor(number(14, 1))), "w", "not a place beside it"),
    "beside, and here": (
        model(tensor(RAW, beside(location="data"))), "w", "both here and in a file",
    ),
    "beside, but not said to be": (
        model(tensor(part(13, part(1, "location"), part(2, "data")))), "w", "does not say",
    ),
    "in a location 2": (model(tensor(RAW, number(14, 2))), "w", "does not say"),
    "beside, two places": (
        model(tensor(beside(location="data") * 2)), None, "location is given twice",
    ),
    "beside, climbing out": (model(tensor(beside(location="../data"))), "w", "not a place beside"),
    "beside, absolute": (model(tensor(beside(location="/etc/passwd"))), "w", "not a place beside"),
    "beside, missing": (model(tensor(beside(location="gone"))), "w", "gone is missing"),
    "beside, offset -1": (
        model(tensor(beside(location="data", offset="-1"))), "w", "not a count",
    ),
    "beside, offset of words": (
        model(tensor(beside(location="data", offset="ten"))), "w", "not a count",
    ),
    "beside, offset in other digits": (
        model(tensor(beside(location="data", offset="\u0661"))), "w", "not a count",
    ),
    "beside, a length of 30 digits": (
        model(tensor(beside(location="data", length="9" * 30))), "w", "not a count",
    ),
    "beside, beyond its end": (
        model(tensor(beside(location="data", offset="90"))), "w", "ends at byte 106 of data",
    ),
    "beside, too long": (
        model(tensor(beside(location="data", length="17"))), "w", "takes 16 bytes",
    ),
    "a sparse initializer": (part(7, part(15)), None, "sparse"),
    "a sparse constant": (
        part(7, part(1, part(2, "o"), part(5, part(1, "sparse_value"), part(22)))), None, "sparse",
    ),
    "an attribute with two tensors": (
        part(7, part(1, part(5, part(5, GOOD), part(5, GOOD)))), None, "a second value",
    ),
    "two constants of one name": (
        part(7, part(1, part(2, "o"), part(4, "Constant"),
                     part(5, part(1, "value"), part(5, GOOD))) * 2), "o", "stored twice",
    ),
    "graphs 33 deep": (nested(33), None, "more than 32 deep"),
    "graphs 5000 deep": (nested(5000), None, "more than 32 deep"),
    "graphs with long names": (nested(3, "n" * 400), None, "more than 1000 characters"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").write_bytes(bytes(range(100)))
    return tmp_path


def refusal(path: Path) -> FormatError:
    with pytest.raises(FormatError) as caught:
        fingerprint(path)
    assert str(caught.value).isprintable()
    return caught.value


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_gives_one_named_error(folder: Path, lie: str) -> None:
    data, name, reason = LIES[lie]
    path = folder / "liar.onnx"
    path.write_bytes(data)
    error = refusal(path)
    assert reason in error.reason
    assert error.tensor == name
    assert str(path) in str(error)


def content(item: Item) -> bytes:
    view = memoryview(bytearray(item.size_bytes))
    return bytes(item.source.piece(0, item.size_bytes, view))


def items(path: Path, *data: bytes) -> dict[str, Item]:
    """What the reader finds, read before its files are closed: sources hold the bytes."""
    if data:
        path.write_bytes(b"".join(data))
    opener = Opener()
    with opener.stack:
        found = reader.items_of(opener.open(path, label=str(path)), opener)
        return {item.name: _held(item) for item in found}


class _Held:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def piece(self, start: int, size: int, scratch: memoryview) -> memoryview:
        return memoryview(self.data)[start : start + size]


def _held(item: Item) -> Item:
    data = content(item)
    return Item(item.name, item.dtype, item.shape, len(data), _Held(data), affine=item.affine)


def saved(path: Path, nodes: list[Any], tensors: dict[str, Array], **more: Any) -> Path:
    held = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "graph", [], [], initializer=held)
    onnx.save(helper.make_model(graph, **more), path)
    return path


# Where values lie


def test_every_dtype_is_read_as_the_package_reads_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    wanted = {}
    protos = []
    for name, kind in TensorProto.DataType.items():
        if name in {"UNDEFINED", "STRING", "UINT2", "INT2"}:
            continue
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        bits = rng.integers(0, 256, 7 * dtype.itemsize, dtype=np.uint8)
        if "4" in dtype.name and dtype.itemsize == 1 and "float8" not in dtype.name:
            bits &= 15
        if "float6" in dtype.name:
            bits &= 63
        if name == "BOOL":
            bits &= 1
        proto = numpy_helper.from_array(bits.view(dtype), name)
        protos.append(proto)
        wanted[name] = proto.raw_data
    graph = helper.make_graph([], "graph", [], [], initializer=protos)
    path = tmp_path / "every.onnx"
    onnx.save(helper.make_model(graph), path)
    found = items(path)
    assert {name: content(item) for name, item in found.items()} == wanted
    assert (found["FLOAT16"].dtype, found["INT4"].dtype) == ("F16", "I4")
    assert len({item.dtype for item in found.values()}) == len(found) > 20


def test_four_bits_are_two_to_a_number(tmp_path: Path) -> None:
    made = helper.make_tensor("w", TensorProto.INT4, [5], [-8, 7, 1, -1, 3])
    assert made.int32_data
    graph = helper.make_graph([], "graph", [], [], initializer=[made])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    assert content(items(tmp_path / "m.onnx")["w"]) == b"\x78\xf1\x03"


@pytest.mark.parametrize("packed", [True, False, None], ids=["packed", "each", "in runs"])
@pytest.mark.parametrize(
    ("kind", "field", "dtype"),
    [
        (TensorProto.FLOAT, 4, "<f4"),
        (TensorProto.COMPLEX64, 4, "<c8"),
        (TensorProto.DOUBLE, 10, "<f8"),
        (TensorProto.INT64, 7, "<i8"),
        (TensorProto.INT32, 5, "<i4"),
        (TensorProto.INT8, 5, "i1"),
        (TensorProto.FLOAT16, 5, "<u2"),
        (TensorProto.UINT32, 11, "<u4"),
        (TensorProto.UINT64, 11, "<u8"),
    ],
)
def test_typed_values_are_read_however_they_are_split(
    tmp_path: Path, kind: int, field: int, dtype: str, packed: bool | None
) -> None:
    count = 30_000  # more than is decoded at a time
    bits = np.random.default_rng(3).integers(0, 256, count * np.dtype(dtype).itemsize, np.uint8)
    bits.view(dtype)[:1000] = np.arange(1000) % 100  # numbers of one byte and of ten
    values = bits.view({"<c8": "<f4"}.get(dtype, dtype))
    if dtype in {"<f4", "<f8", "<c8"}:
        one = [v.tobytes() for v in values]
        tag = bytes([field << 3 | (1 if dtype == "<f8" else 5)])
    else:
        one = [varint(int(v)) for v in values]
        tag = bytes([field << 3])
    each = [tag + v for v in one]
    data = {
        True: part(field, *one),
        False: b"".join(each),
        None: b"".join(each[:50]) + part(field, *one[50:99]) + each[99] + part(field, *one[100:]),
    }[packed]
    path = tmp_path / "m.onnx"
    found = items(path, model(tensor(data, dims=(count,), kind=kind)))["w"]
    assert content(found) == bits.tobytes()
    proto = onnx.load(path).graph.initializer[0]
    assert numpy_helper.to_array(proto).tobytes() == bits.tobytes()


def test_a_field_without_values_says_nothing(tmp_path: Path) -> None:
    both = tensor(RAW, part(4), part(7))
    none = tensor(part(9), name="none", dims=(0, 3))
    found = items(tmp_path / "m.onnx", model(both, none))
    assert content(found["w"]) == bytes(range(16))
    assert found["none"].size_bytes == 0


def test_dimensions_may_be_packed_and_fields_may_be_unknown(tmp_path: Path) -> None:
    odd = number(900, 5) + part(901, "what") + varint(902 << 3 | 1) + bytes(8)
    packed = part(1, b"\2\2") + number(2, 1) + part(8, "w") + RAW + odd
    found = items(tmp_path / "m.onnx", odd, model(packed + odd), odd)
    assert found["w"].shape == (2, 2)


def test_strings_and_training_are_left_out(tmp_path: Path) -> None:
    words = numpy_helper.from_array(np.array(["a", "b"], dtype=object), "words")
    weight = numpy_helper.from_array(np.ones(3, np.float32), "w")
    graph = helper.make_graph([], "graph", [], [], initializer=[words, weight])
    made = helper.make_model(graph)
    moment = numpy_helper.from_array(np.ones(3, np.float32), "moment")
    made.training_info.add().initialization.initializer.append(moment)
    onnx.save(made, tmp_path / "m.onnx")
    assert list(items(tmp_path / "m.onnx")) == ["w"]


def test_values_beside_the_model_are_read_where_they_lie(folder: Path) -> None:
    here = {"location": "data", "offset": "8", "length": "16"}
    rest = {"location": "data", "offset": "80"}
    (folder / "sub").mkdir()
    (folder / "sub" / "more").write_bytes(bytes(16))
    found = items(
        folder / "m.onnx",
        model(
            tensor(beside(**here)),
            tensor(beside(**rest), name="tied"),
            tensor(beside(location="sub/more"), name="below"),
        ),
    )
    assert content(found["w"]) == bytes(range(8, 24))
    assert content(found["tied"]) == bytes(range(80, 96))
    assert content(found["below"]) == bytes(16)


def test_values_beside_cannot_be_links_to_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "data").symlink_to(tmp_path / "secret")
    path = tmp_path / "model" / "m.onnx"
    path.write_bytes(model(tensor(beside(location="data"))))
    assert "outside" in refusal(path).reason


def test_values_beside_may_be_shared_but_not_multiplied(tmp_path: Path) -> None:
    size = 20 << 20
    with (tmp_path / "data").open("wb") as file:
        file.truncate(size)
    path = tmp_path / "m.onnx"
    same = [tensor(beside(location="data"), name=f"w{n}", dims=(size // 4,)) for n in range(5)]
    assert len(_opened(path, model(*same[:4]))) == 4
    with pytest.raises(FormatError, match=f"tensors take {5 * size} bytes of a file of {size}"):
        _opened(path, model(*same))


def _opened(path: Path, data: bytes) -> list[Item]:
    path.write_bytes(data)
    opener = Opener()
    with opener.stack:
        return reader.items_of(opener.open(path, label=str(path)), opener)


# What tensors are called


def constant(output: str, *values: float, **more: Any) -> Any:
    held = numpy_helper.from_array(np.array(values, np.float32), "any")
    return helper.make_node("Constant", [], [output], value=held, **more)


def test_constants_branches_and_functions_have_names_of_their_own(tmp_path: Path) -> None:
    one = numpy_helper.from_array(np.ones(1, np.float32), "w")
    two = numpy_helper.from_array(np.ones(2, np.float32), "w")
    then = helper.make_graph([constant("c", 1)], "g", [], [], initializer=[one])
    other = helper.make_graph([constant("c", 2)], "g", [], [], initializer=[two])
    nodes = [
        helper.make_node("If", ["x"], ["", "y"], then_branch=then, else_branch=other),
        helper.make_node("Many", ["x"], ["z"], bodies=[then, other], tables=[one, two]),
        helper.make_node("ConstantOfShape", ["s"], ["fill"], value=one),
        helper.make_node("Sink", ["s"], [], value=one),
        constant("c", 3),
        helper.make_node("Constant", [], ["list"], value_floats=[1.0, 2.0]),
    ]
    opset = [helper.make_opsetid("", 20)]
    first = helper.make_function("local", "f", [], ["k"], [constant("k", 4)], opset)
    second = helper.make_function("local", "f", [], ["k"], [constant("k", 5)], opset)
    second.overload = "more"
    path = saved(tmp_path / "m.onnx", nodes, {"w": np.ones(3, np.float32)})
    made = onnx.load(path)
    made.functions.extend([first, second])
    onnx.save(made, path)
    found = items(path)
    assert {name: item.shape for name, item in found.items()} == {
        "w": (3,), "c": (1,),
        "y/then_branch/w": (1,), "y/then_branch/c": (1,),
        "y/else_branch/w": (2,), "y/else_branch/c": (1,),
        "z/bodies/0/w": (1,), "z/bodies/0/c": (1,), "z/bodies/1/w": (2,), "z/bodies/1/c": (1,),
        "z/tables/0": (1,), "z/tables/1": (2,),
        "fill/value": (1,), "Sink/value": (1,), "local::f/k": (1,), "local::f:more/k": (1,),
    }  # fmt: skip
    assert content(found["y/else_branch/c"]) == np.float32(2).tobytes()


def test_a_model_has_the_root_of_its_weights(tmp_path: Path) -> None:
    tensors = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.float64(3) + np.zeros(2)}
    path = saved(tmp_path / "m.onnx", [], tensors)
    assert (
        fingerprint(path).root == fingerprint(write_model(tmp_path / "m.safetensors", tensors)).root
    )


# What quantized weights stand for

WEIGHT = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
SCALE = np.float32(0.5)
SCALES = {n: np.arange(1, n + 1, dtype=np.float32) for n in (3, 4)}
EIGHT = np.zeros((), np.int8)


def affine(
    path: Path, kind: str, inputs: list[str], tensors: dict[str, Array], **numbers: int
) -> Affine | None:
    node = helper.make_node(kind, inputs, ["y"], **numbers)
    return items(saved(path / "m.onnx", [node], {"w": WEIGHT, **tensors}))["w"].affine


PLACES: dict[str, tuple[str, list[str], dict[str, int], int]] = {
    "DequantizeLinear": ("DequantizeLinear", ["w", "s", "z"], {}, 1),
    "DequantizeLinear, axis 0": ("DequantizeLinear", ["w", "s", "z"], {"axis": 0}, 0),
    "DequantizeLinear, axis -1": ("DequantizeLinear", ["w", "s", "z"], {"axis": -1}, 1),
    "QLinearConv": ("QLinearConv", ["x", "a", "b", "w", "s", "z", "c", "d"], {}, 0),
    "QLinearMatMul": ("QLinearMatMul", ["x", "a", "b", "w", "s", "z", "c", "d"], {}, 1),
    "QLinearMatMul, left": ("QLinearMatMul", ["w", "s", "z", "x", "a", "b", "c", "d"], {}, 0),
    "MatMulIntegerToFloat": ("MatMulIntegerToFloat", ["x", "w", "a", "s", "b", "z"], {}, 1),
    "DynamicQuantizeMatMul": ("DynamicQuantizeMatMul", ["x", "w", "s", "z"], {}, 1),
    "QGemm": ("QGemm", ["x", "a", "b", "w", "s", "z"], {}, 1),
    "QGemm, transposed": ("QGemm", ["x", "a", "b", "w", "s", "z"], {"transB": 1}, 0),
    "QAttention": ("QAttention", ["x", "w", "h", "a", "s", "m", "b", "z"], {}, 1),
}


@pytest.mark.parametrize("place", PLACES)
def test_operators_say_what_their_weights_stand_for(tmp_path: Path, place: str) -> None:
    kind, inputs, numbers, axis = PLACES[place]
    count = WEIGHT.shape[axis]
    scales = SCALES[count]
    zeros = np.arange(count, dtype=np.int8)
    found = affine(tmp_path, kind, inputs, {"s": scales, "z": zeros}, **numbers)
    assert found == Affine(tuple(scales.tolist()), tuple(zeros.tolist()), axis)
    found = affine(tmp_path, kind, inputs, {"s": scales, "z": EIGHT}, **numbers)
    assert found == Affine(tuple(scales.tolist()), (0.0,) * count, axis)
    found = affine(tmp_path, kind, inputs, {"s": SCALE, "z": np.int8(3)}, **numbers)
    assert found == Affine((0.5,), (3.0,))


@pytest.mark.parametrize(
    ("inputs", "tensors", "numbers"),
    [
        (["w"], {}, {}),
        (["", "s"], {"s": SCALE}, {}),
        (["w", "s"], {}, {}),
        (["w", "s", "computed"], {"s": SCALE}, {}),
        (["w", "s"], {"s": SCALES[3]}, {}),
        (["w", "s"], {"s": SCALES[4]}, {"axis": 2}),
        (["w", "s"], {"s": SCALES[4]}, {"axis": -3}),
        (["w", "s"], {"s": np.ones((3, 2), np.float32)}, {"axis": 1, "block_size": 2}),
        (["w", "s"], {"s": np.ones((2, 2), np.float32)}, {}),
        (["w", "s"], {"s": np.float32("nan")}, {}),
        (["w", "s"], {"s": np.array(0x7F800001, np.uint32).view(np.float32)}, {}),
        (["w", "s"], {"s": np.zeros((0,), np.float32)}, {}),
        (["w", "s"], {"s": np.array([True])}, {}),
        (["w", "s"], {"s": np.ones(2**20 + 1, np.float32)}, {}),
        (["w", "s", "z"], {"s": SCALE, "z": np.zeros(4, np.int8)}, {}),
    ],
    ids=[
        "no scale", "no weight", "a scale computed", "a zero computed", "wrong axis",
        "no such axis", "no such axis below", "blocks", "a matrix", "not a number",
        "a signalling NaN", "none",
        "not numbers", "too many", "zeros without scales",
    ],
)  # fmt: skip
def test_scales_that_do_not_fit_say_nothing(
    tmp_path: Path, inputs: list[str], tensors: dict[str, Any], numbers: dict[str, int]
) -> None:
    arrays = {name: np.asarray(value) for name, value in tensors.items()}
    assert affine(tmp_path, "DequantizeLinear", inputs, arrays, **numbers) is None


def test_scales_of_other_floats_and_zeros_of_four_bits_are_read(tmp_path: Path) -> None:
    import ml_dtypes

    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
        found = affine(tmp_path, "DequantizeLinear", ["w", "s"], {"s": np.array(0.25, dtype)})
        assert found == Affine((0.25,), (0.0,))
    four = np.array([-8, 7, -1, 0], np.int8)
    for dtype, zeros in ((ml_dtypes.int4, four), (ml_dtypes.uint4, four + 8)):
        tensors = {"w": zeros.astype(dtype), "s": SCALES[4], "z": zeros.astype(dtype)}
        found = affine(tmp_path, "DequantizeLinear", ["w", "s", "z"], tensors, axis=0)
        assert found == Affine((1.0, 2.0, 3.0, 4.0), tuple(zeros.tolist()), 0)


def test_a_weight_that_is_no_whole_number_or_has_no_values_has_no_scales(tmp_path: Path) -> None:
    for array in (np.ones(3, np.float32), np.zeros((0, 1), np.int8)):
        tensors = {"w": array, "s": SCALE}
        assert affine(tmp_path, "DequantizeLinear", ["w", "s"], tensors) is None


def test_two_nodes_that_disagree_say_nothing(tmp_path: Path) -> None:
    nodes = [helper.make_node("DequantizeLinear", ["w", s], [f"y{s}"]) for s in "abc"]
    tensors = {"w": WEIGHT, "a": SCALE, "b": SCALE, "c": np.float32(2) * SCALE}
    named = {name: np.asarray(array) for name, array in tensors.items()}
    assert items(saved(tmp_path / "m.onnx", nodes[:2], named))["w"].affine == Affine((0.5,), (0.0,))
    assert items(saved(tmp_path / "m.onnx", nodes, named))["w"].affine is None


@pytest.mark.parametrize(
    ("node", "axis"),
    [
        (helper.make_node("MatMulInteger", ["x", "w_quantized", "xz", "w_zero_point"], ["y"]), 1),
        (helper.make_node("MatMulInteger", ["w_quantized", "x", "w_zero_point"], ["y"]), 0),
        (helper.make_node("ConvInteger", ["x", "w_quantized", "xz", "w_zero_point"], ["y"]), 0),
        (helper.make_node("Gather", ["w_quantized", "i"], ["y"]), None),
    ],
    ids=["matrix", "matrix left", "convolution", "embedding"],
)
def test_where_the_scale_comes_later_names_tell(
    tmp_path: Path, node: Any, axis: int | None
) -> None:
    # As onnxruntime's quantize_dynamic makes it: the scale is multiplied in after the node.
    count = 1 if axis is None else WEIGHT.shape[axis]
    tensors = {
        "w_quantized": WEIGHT,
        "w_scale": np.arange(1, count + 1, dtype=np.float32),
        "w_zero_point": np.arange(count).astype(np.int8),
    }
    found = items(saved(tmp_path / "m.onnx", [node], tensors))["w_quantized"].affine
    expected = tuple(range(1, count + 1)), tuple(range(count))
    assert found == Affine(*expected, axis)


def test_scales_are_seen_from_a_branch(tmp_path: Path) -> None:
    node = helper.make_node("DequantizeLinear", ["w", "s"], ["y"])
    inner = helper.make_graph([node], "g", [], [])
    outer = helper.make_node("If", ["x"], ["y"], then_branch=inner)
    tensors = {"s": np.asarray(SCALE), "w": WEIGHT}
    found = items(saved(tmp_path / "m.onnx", [outer], tensors))["w"]
    assert found.affine == Affine((0.5,), (0.0,))


# Bounds


def test_opening_does_not_read_the_weights(tmp_path: Path) -> None:
    size = 3 << 30
    head = tensor(name="big", dims=(size // 4,)) + varint(9 << 3 | 2) + varint(size)
    initializer = varint(5 << 3 | 2) + varint(len(head) + size) + head
    last = part(5, GOOD)
    path = tmp_path / "big.onnx"
    with path.open("wb") as file:
        file.write(varint(7 << 3 | 2) + varint(len(initializer) + size + len(last)) + initializer)
        file.seek(size, os.SEEK_CUR)
        file.write(last)
    began = time.perf_counter()
    opener = Opener()
    with opener.stack:
        found = reader.items_of(opener.open(path, label="big"), opener)
        assert [item.size_bytes for item in found] == [size, 16]
        assert content(found[1]) == bytes(range(16))
    assert time.perf_counter() - began < 1


def test_fields_and_tensors_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model(*(tensor(RAW, name=str(n)) for n in range(11))))
    monkeypatch.setattr(reader, "MAX_TENSORS", 10)
    assert "more than 10 tensors" in refusal(path).reason
    monkeypatch.setattr(protobuf, "MAX_FIELDS", 50)
    assert "more than 50 fields" in refusal(path).reason


def test_graphs_32_deep_are_read(tmp_path: Path) -> None:
    assert list(items(tmp_path / "m.onnx", nested(32))) == ["o/b/" * 32 + "w"]


def test_a_stream_begins_anew_wherever_it_is_asked() -> None:
    begun = []

    def chunks() -> Any:
        begun.append(1)
        yield from (b"abc", b"", b"de", b"fghi")

    source = Streamed(chunks, 9)
    scratch = memoryview(bytearray(9))
    assert bytes(source.piece(0, 4, scratch)) == b"abcd"
    assert bytes(source.piece(6, 3, scratch)) == b"ghi"
    assert len(begun) == 1
    assert bytes(source.piece(2, 3, scratch)) == b"cde"
    assert bytes(source.piece(0, 9, scratch)) == b"abcdefghi"
    assert len(begun) == 3
    assert streamed.__doc__


def test_a_stream_that_failed_begins_anew() -> None:
    state = {"fails": True}

    def chunks() -> Any:
        yield b"ab"
        if state["fails"]:
            raise FormatError("no")
        yield b"cd"

    source = Streamed(chunks, 4)
    scratch = memoryview(bytearray(4))
    assert bytes(source.piece(0, 2, scratch)) == b"ab"
    with pytest.raises(FormatError):
        source.piece(2, 2, scratch)
    state["fails"] = False
    assert bytes(source.piece(2, 2, scratch)) == b"cd"


# Anything at all


def _sample() -> bytes:
    then = helper.make_graph([constant("c", 1, 2)], "g", [], [])
    held = [
        numpy_helper.from_array(WEIGHT, "w"),
        numpy_helper.from_array(SCALES[4], "s"),
        helper.make_tensor("f", TensorProto.FLOAT, [3], [1, 2, 3]),
        helper.make_tensor("i", TensorProto.INT64, [3], [1, -2, 300]),
        helper.make_tensor("h", TensorProto.FLOAT16, [2], [1, 2]),
    ]
    away = TensorProto(name="b", data_type=TensorProto.FLOAT, dims=[2], data_location=1)
    for key, value in {"location": "data", "offset": "4", "length": "8"}.items():
        away.external_data.add(key=key, value=value)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["y"], axis=1),
        helper.make_node("If", ["x"], ["z"], then_branch=then),
    ]
    graph = helper.make_graph(nodes, "graph", [], [], initializer=[*held, away])
    return helper.make_model(graph).SerializeToString()


SAMPLE = _sample()


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(SAMPLE)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["flip", "cut", "insert", "repeat", "number"])):
            case "flip":
                data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del data[place : place + draw(st.integers(1, 20))]
            case "insert":
                data[place:place] = draw(st.binary(max_size=12))
            case "repeat":
                data[place:place] = data[place : place + draw(st.integers(1, 60))]
            case _:
                data[place:place] = varint(draw(st.integers(0, 2**64 - 1)))
    return bytes(data)


@settings(deadline=None, max_examples=300)
@given(data=st.one_of(_damaged(), st.binary(max_size=60)))
def test_whatever_the_bytes_only_a_format_error(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "onnx"
    folder.mkdir(exist_ok=True)
    (folder / "data").write_bytes(bytes(40))
    path = folder / "m.onnx"
    path.write_bytes(data)
    try:
        with read(path) as artifact:
            for item in artifact.items:
                assert len(content(item)) == item.size_bytes <= len(SAMPLE) * 11
    except FormatError as error:
        assert "m.onnx" in str(error)
        assert str(error).isprintable()


def test_the_sample_is_whole(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(struct.pack("<3f", 1, 2, 3))
    found = items(tmp_path / "m.onnx", SAMPLE)
    assert set(found) == {"w", "s", "f", "i", "h", "b", "z/then_branch/c"}
    assert content(found["b"]) == struct.pack("<2f", 2, 3)
    assert found["w"].affine == Affine((1.0, 2.0, 3.0, 4.0), (0.0,) * 4, 1)
