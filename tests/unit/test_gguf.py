"""GGUF files as the gguf package writes and reads them, and every lie a header can tell."""

from __future__ import annotations

import struct
import sys
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import _type_traits, dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import Array, small_model

from lineage.artifacts import ggml
from lineage.artifacts import gguf as reader
from lineage.artifacts.base import BITS, BLOCKS, Item, in_name_order
from lineage.artifacts.ggml import WITHOUT_VALUES, dequantized
from lineage.artifacts.gguf import TYPES, read_header
from lineage.artifacts.opened import OpenFile
from lineage.errors import FormatError

Kind = GGMLQuantizationType

F32, Q8_0 = 0, 8
U8, I8, U16, I16, U32, I32, FLOAT, BOOL, STRING, ARRAY, U64, I64, DOUBLE = range(13)


# Files made by hand: every byte is the test's own choice.


def text(value: str | bytes) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value)) + value


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def alignment(value: int) -> bytes:
    return key("general.alignment", U32, struct.pack("<I", value))


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def tensor(
    name: str | bytes, extents: tuple[int, ...] = (2, 2), kind: int = F32, offset: int = 0
) -> bytes:
    dims = struct.pack(f"<I{len(extents)}Q", len(extents), *extents)
    return text(name) + dims + struct.pack("<IQ", kind, offset)


def container(
    keys: list[bytes] = [],  # noqa: B006
    tensors: list[bytes] = [],  # noqa: B006
    data: bytes = b"",
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    align: int = 32,
) -> bytes:
    """A file with these entries, its data padded as ggml pads."""
    listed = counts or (len(tensors), len(keys))
    head = b"GGUF" + struct.pack("<IQQ", version, *listed) + b"".join([*keys, *tensors])
    return head + bytes(-len(head) % align) + data


DATA = bytes(range(32))
GOOD = tensor("w")

LIES: dict[str, tuple[bytes, str | None, str]] = {
    "no bytes": (b"", None, "not a GGUF file"),
    "23 bytes": (container([], [])[:23], None, "not a GGUF file"),
    "another magic": (b"GGML" + container([], [GOOD], DATA)[4:], None, "not a GGUF file"),
    "version 1": (container([], [GOOD], DATA, version=1), None, "version 1;"),
    "version 4": (container([], [GOOD], DATA, version=4), None, "version 4;"),
    "version 0": (container([], [GOOD], DATA, version=0), None, "big-endian"),
    "big-endian": (container([], [GOOD], DATA, version=3 << 24), None, "big-endian"),
    "24 bytes that ask for 137 GB": (
        container(counts=(2**32, 0))[:24], None, "claims 4294967296 tensors, but 0 bytes are left",
    ),
    "2^64-1 tensors": (container(counts=(2**64 - 1, 0)), None, "18446744073709551615 tensors"),
    "2^64-1 keys": (container(counts=(0, 2**64 - 1)), None, "18446744073709551615 metadata keys"),
    "more tensors than are allowed": (
        container(counts=(2**18 + 1, 0), data=bytes(24 * 2**18 + 99)), None, "262144 and 65536",
    ),
    "more keys than are allowed": (
        container(counts=(0, 2**16 + 1), data=bytes(13 * 2**16 + 99)), None, "262144 and 65536",
    ),
    "more tensors than it lists": (
        container([], [tensor("w" * 30)], counts=(2, 0), align=1), None, "too soon for its header",
    ),
    "a key longer than the file": (
        container([struct.pack("<Q", 999) + b"k" * 20]), None, "too soon for its header",
    ),
    "a key of 2^64-1 bytes": (container([b"\xff" * 8 + b"k" * 20]), None, "too soon"),
    "a key that is not UTF-8": (
        container([key(b"\xff\xfe", U8, b"\0")]), None, "a metadata key is not UTF-8",
    ),
    "a key twice": (
        container([key("a", U8, b"\0"), key("a", I8, b"\1")], [GOOD], DATA),
        None,
        "'a' comes twice",
    ),
    "a value of unknown type": (
        container([key("a", 13, bytes(40))]), None, "'a' has a value of unknown type 13",
    ),
    "an array of unknown type": (
        container([key("a", ARRAY, array(77, 0))], [GOOD], DATA), None, "unknown type 77",
    ),
    "an array of arrays": (
        container([key("a", ARRAY, array(ARRAY, 1, array(U8, 1, b"\0")))], [GOOD], DATA),
        None,
        "'a' holds an array of arrays",
    ),
    "an array longer than the file": (
        container([key("a", ARRAY, array(U64, 2**61))], [GOOD], DATA), None, "values of 'a', but",
    ),
    "strings more than the file holds": (
        container([key("a", ARRAY, array(STRING, 2**40))], [GOOD], DATA), None, "strings of 'a'",
    ),
    "a string of an array beyond the file": (
        container([key("a", ARRAY, array(STRING, 2, text("x") + struct.pack("<Q", 2**40)))],
                  [GOOD], DATA),
        None,
        "too soon for its header",
    ),
    "a last string that ends beyond the file": (
        container([key("a", ARRAY, array(STRING, 2, text("x") + struct.pack("<Q", 2**40)))]),
        None,
        "too soon for its header",
    ),
    "a string value longer than the file": (
        container([key("a", STRING, struct.pack("<Q", 2**63))]), None, "too soon for its header",
    ),
    "alignment 0": (container([alignment(0)], [GOOD], DATA), None, "general.alignment is 0"),
    "alignment 24": (container([alignment(24)], [GOOD], DATA), None, "is 24, not a power"),
    "alignment 2^31": (container([alignment(2**31)], [GOOD], DATA), "w", "but the file has"),
    "alignment negative": (
        container([key("general.alignment", I32, struct.pack("<i", -32))], [GOOD], DATA),
        None,
        "is -32",
    ),
    "alignment a string": (
        container([key("general.alignment", STRING, text("32"))], [GOOD], DATA), None, "is '32'",
    ),
    "alignment true": (
        container([key("general.alignment", BOOL, b"\1")], [GOOD], DATA), None, "is True",
    ),
    "alignment a fraction": (
        container([key("general.alignment", FLOAT, struct.pack("<f", 32))], [GOOD], DATA),
        None,
        "is 32.0",
    ),
    "a name that is not UTF-8": (
        container([], [tensor(b"w\xff")], DATA), None, "a tensor's name is not UTF-8",
    ),
    "a name of 2^64-1 bytes": (container([], [b"\xff" * 8 + bytes(40)]), None, "too soon"),
    "a tensor twice": (
        container([], [GOOD, tensor("w", offset=32)], DATA * 2), "w", "twice in one file",
    ),
    "two tensors in one place": (
        container([], [GOOD, tensor("x")], DATA), "x", "overlaps the tensor before it by 16 bytes",
    ),
    "a tensor over the one before": (
        container([], [tensor("v", (12,)), tensor("w", offset=32)], DATA * 2),
        "w",
        "overlaps the tensor before it by 16 bytes",
    ),
    "a hole": (
        container([], [GOOD, tensor("x", offset=64)], DATA * 3), "x", "a hole of 48 bytes",
    ),
    "a hole before the first": (
        container([], [tensor("w", offset=32)], DATA * 2), "w", "a hole of 32 bytes",
    ),
    "bytes after the last": (
        container([], [GOOD], DATA * 2), None, "48 bytes lie after the last tensor",
    ),
    "an offset that is not aligned": (
        container([], [tensor("w", offset=8)], DATA), "w", "offset 8 is not a multiple",
    ),
    "an offset beyond the file": (
        container([], [tensor("w", offset=2**40)], DATA), "w", "truncated",
    ),
    "an offset of 2^64-32": (
        container([], [tensor("w", offset=2**64 - 32)], DATA), "w", "truncated",
    ),
    "data cut short": (container([], [GOOD], DATA[:15]), "w", "truncated"),
    "no data, not even padding": (container([], [GOOD], align=1), "w", "truncated"),
    "a shape whose product is 2^64": (
        container([], [tensor("w", (2**32, 2**32))], DATA), "w", "more values than any file holds",
    ),
    "a shape whose product is beyond 2^64, one extent 0": (
        container([], [tensor("w", (2**63, 2**63, 0))], DATA), "w", "more values",
    ),
    "a shape of 2^40": (container([], [tensor("w", (2**40,))], DATA), "w", "truncated"),
    "five dimensions": (container([], [tensor("w", (1,) * 5)], DATA), "w", "has 5 dimensions"),
    "2^32-1 dimensions": (
        container([], [text("w") + b"\xff" * 4 + bytes(40)]), "w", "has 4294967295 dimensions",
    ),
    "an unknown type": (container([], [tensor("w", kind=99)], DATA), "w", "number 99, which"),
    "a type that was taken back": (
        container([], [tensor("w", (32,), kind=4)], DATA), "w", "number 4, which is not known",
    ),
    "a row that is not whole blocks": (
        container([], [tensor("w", (33, 1), kind=Q8_0)], DATA * 3), "w", "in blocks of 32",
    ),
    "a scalar of blocks": (
        container([], [tensor("w", (), kind=Q8_0)], DATA * 3), "w", "in blocks of 32",
    ),
    "no tensors": (container([alignment(32)]), None, "holds no tensors"),
}  # fmt: skip


def opened(path: Path) -> tuple[tuple[Item, ...], dict[str, Any], OpenFile]:
    file = OpenFile.open(path, label=str(path))
    try:
        items, metadata = read_header(file)
        return in_name_order(items, path=str(path)), metadata, file
    except BaseException:
        file.close()
        raise


def of_bytes(path: Path, data: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    path.write_bytes(data)
    items, _, file = opened(path)
    found = {item.name: (item.dtype, item.shape, content(item)) for item in items}
    file.close()
    return found


def content(item: Item) -> bytes:
    return bytes(item.source.piece(0, item.size_bytes, memoryview(bytearray(item.size_bytes))))


def refusal(path: Path, data: bytes) -> FormatError:
    with pytest.raises(FormatError) as caught:
        of_bytes(path, data)
    words = str(caught.value)
    assert words.isprintable()
    assert str(path) in words
    return caught.value


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_of_a_header_gives_one_named_error(tmp_path: Path, lie: str) -> None:
    data, name, reason = LIES[lie]
    error = refusal(tmp_path / "liar.gguf", data)
    assert reason in error.reason
    assert error.tensor == name
    assert len(str(error)) < 600 + len(str(tmp_path))


def test_a_long_lie_gives_a_short_line_that_steers_no_terminal(tmp_path: Path) -> None:
    name = "a\x1b[2J\n\u202e" * 9000
    for lie in (
        container([key(name, 13, b"")], [GOOD], DATA),
        container([key(name, U8, b"\0")] * 2, [GOOD], DATA),
        container([], [tensor(name, kind=99)], DATA),
        container([], [tensor(name.encode() + b"\xff")], DATA),
        container([key("general.alignment", STRING, text(name))], [GOOD], DATA),
        container([key("general.alignment", STRING, text(name[:9000]))], [GOOD], DATA),
    ):
        error = refusal(tmp_path / "long.gguf", lie)
        assert len(str(error)) < 1000 + len(str(tmp_path))


@pytest.mark.parametrize("where", ["string", "strings", "array"])
def test_a_header_beyond_the_limit_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(reader, "MAX_HEADER_BYTES", 10_000_000)
    path = tmp_path / "sparse.gguf"
    size = 1 << 40
    value = {
        "string": key("a", STRING, struct.pack("<Q", size // 2)),
        "strings": key("a", ARRAY, array(STRING, size // 16)),
        "array": key("a", ARRAY, array(FLOAT, size // 16)),
    }[where]
    with path.open("wb") as file:
        file.write(container([value], counts=(1, 1)))
        file.truncate(size)
    with pytest.raises(FormatError, match="larger than the 10000000 bytes allowed"):
        opened(path)


# Honest files


def test_a_file_made_by_hand_is_read_as_it_is(tmp_path: Path) -> None:
    keys = [
        key("u8", U8, b"\xff"), key("i8", I8, b"\xff"), key("u16", U16, b"\xff\xff"),
        key("i16", I16, b"\xff\xff"), key("i32", I32, b"\xff" * 4), key("f", FLOAT, bytes(4)),
        key("yes", BOOL, b"\1"), key("u64", U64, b"\xff" * 8), key("i64", I64, b"\xff" * 8),
        key("d", DOUBLE, bytes(8)), key("general.architecture", STRING, text("llama")),
        key("odd", STRING, text(b"\xff")), key("long", STRING, text("x" * 70_000)),
        key("numbers", ARRAY, array(U16, 3, bytes(6))),
        key("words", ARRAY, array(STRING, 3, text("") + text("abc") + text("d"))),
        key("nothing", ARRAY, array(STRING, 0)),
        alignment(64),
    ]  # fmt: skip
    tensors = [
        tensor("b", (3, 2)), tensor("a", (), offset=64), tensor("none", (4, 0), offset=128),
        tensor("ä", (32, 1, 2), Q8_0, 128),
    ]  # fmt: skip
    data = bytes(range(192)) + b"q" * 4
    for version in (2, 3):
        made = container(keys, tensors, data, version=version, align=64)
        path = tmp_path / "m.gguf"
        found = of_bytes(path, made)
        assert found == {
            "a": ("F32", (), data[64:68]),
            "b": ("F32", (2, 3), data[:24]),
            "none": ("F32", (0, 4), b""),
            "ä": ("Q8_0", (2, 1, 32), data[128:196]),
        }
        _, metadata, file = opened(path)
        file.close()
        assert metadata == {
            "u8": 255, "i8": -1, "u16": 65535, "i16": -1, "i32": -1, "f": 0.0, "yes": True,
            "u64": 2**64 - 1, "i64": -1, "d": 0.0, "general.architecture": "llama",
            "odd": "\ufffd", "general.alignment": 64,
            "long": None, "numbers": None, "words": None, "nothing": None,
        }  # fmt: skip


@pytest.mark.parametrize("window", [1, 8, 13, 100])
def test_no_window_changes_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    words = b"".join(text("x" * (n * 7 % 40)) for n in range(50))
    keys = [
        key("words", ARRAY, array(STRING, 50, words)),
        key("numbers", ARRAY, array(U16, 30, bytes(60))),
        key("last", STRING, text("abc")),
    ]
    made = container(keys, [tensor("a" * 30), tensor("w", offset=32)], DATA * 2)
    whole = of_bytes(tmp_path / "m.gguf", made)
    monkeypatch.setattr(reader, "_WINDOW", window)
    assert of_bytes(tmp_path / "m.gguf", made) == whole
    cut = refusal(tmp_path / "cut.gguf", made[:900])
    assert "too soon for its header" in cut.reason


def write(path: Path, tensors: dict[str, Array], **how: Any) -> Path:
    """A file as the gguf package writes it."""
    writer = gguf.GGUFWriter(path, "llama", **how)
    writer.add_block_count(2)
    writer.add_token_list(["<s>", "ä", ""])
    writer.add_token_scores([0.0, 1.5, -2.0])
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def blocks(kind: Kind, shape: tuple[int, ...], seed: int = 0) -> Array:
    """Blocks of this type: quantized where the package can, else scales of sane sizes."""
    values, size = GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    try:
        return quantize(rng.normal(size=shape).astype(np.float32), kind)
    except (NotImplementedError, AttributeError):
        return rng.integers(0, 256, (*shape[:-1], shape[-1] // values * size), dtype=np.uint8)


def unpacked(raw: Array, kind: Kind) -> Array:
    """What the package makes of blocks; their scales may be no numbers."""
    with np.errstate(all="ignore"):
        return dequantize(raw, kind)


def test_files_of_the_package_are_read_as_it_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    writer.add_token_list([f"word {n}" for n in range(500)])
    for kind in Kind:
        if kind.name in BLOCKS:
            writer.add_tensor(f"{kind.name}.weight", blocks(kind, (3, 2, 512)), raw_dtype=kind)
    for dtype in ("f2", "f4", "f8", "i1", "i2", "i4", "i8"):
        writer.add_tensor(dtype, (9 * rng.normal(size=(5, 3, 7))).astype(dtype))
        writer.add_tensor(f"vector.{dtype}", (9 * rng.normal(size=11)).astype(dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    items, metadata, file = opened(path)
    theirs = gguf.GGUFReader(path)
    assert len(items) == len(theirs.tensors) > 30
    by_name = {item.name: item for item in items}
    for expected in theirs.tensors:
        item = by_name[expected.name]
        assert item.dtype == expected.tensor_type.name
        assert item.shape == tuple(int(n) for n in reversed(expected.shape))
        assert item.size_bytes == expected.n_bytes
        assert item.source.start == expected.data_offset  # type: ignore[attr-defined]
        raw = content(item)
        assert raw == expected.data.tobytes()
        if item.dtype in BLOCKS.keys() - WITHOUT_VALUES:
            numbers = unpacked(expected.data, expected.tensor_type)
            ours = dequantized(np.frombuffer(raw, np.uint8), item.dtype)
            np.testing.assert_array_equal(ours.reshape(item.shape), numbers)
    assert metadata["general.architecture"] == "llama"
    assert metadata["general.alignment"] == 64
    file.close()


def test_one_file_of_a_split_model_gives_its_own_tensors(tmp_path: Path) -> None:
    model = {**small_model(), "last": np.ones(3, np.float32)}
    write(tmp_path / "m.gguf", model, split_max_tensors=2)
    shards = sorted(tmp_path.glob("m-*.gguf"))
    assert [path.name for path in shards] == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    found: dict[str, Any] = {}
    for number, path in enumerate(shards):
        items, metadata, file = opened(path)
        found |= {item.name: content(item) for item in items}
        file.close()
        assert metadata["split.no"] == number
        assert metadata["split.count"] == 2
        assert metadata["split.tensors.count"] == len(model)
        assert len(items) == 2
    assert found == {name: tensor.tobytes() for name, tensor in model.items()}


def test_a_large_vocabulary_is_passed_over_quickly(tmp_path: Path) -> None:
    count = 128_256
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_token_list([f"word{n}" for n in range(count)])
    writer.add_token_merges([f"a{n} b{n}" for n in range(count)])
    writer.add_token_scores([0.5] * count)
    writer.add_tensor("w", np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    took = []
    for _ in range(5):
        begin = time.perf_counter()
        items, metadata, file = opened(tmp_path / "m.gguf")
        took.append(time.perf_counter() - begin)
        file.close()
    assert [item.name for item in items] == ["w"]
    assert metadata["tokenizer.ggml.tokens"] is None
    assert min(took) < 0.5  # 0.03 s on an idle machine; building the strings takes seconds


def test_the_types_are_those_of_the_package() -> None:
    assert {kind.value: kind.name for kind in Kind} == TYPES
    for kind in Kind:
        if kind.name in BLOCKS:
            assert BLOCKS[kind.name] == GGML_QUANT_SIZES[kind]
        elif kind.name in BITS:
            assert GGML_QUANT_SIZES[kind] == (1, BITS[kind.name] // 8)
    assert BLOCKS.keys() <= set(TYPES.values()) <= BLOCKS.keys() | BITS.keys()


# The numbers that blocks stand for


@pytest.mark.parametrize("dtype", sorted(BLOCKS.keys() - WITHOUT_VALUES))
def test_blocks_unpack_to_the_numbers_of_the_package(dtype: str) -> None:
    kind = Kind[dtype]
    values, size = BLOCKS[dtype]
    rng = np.random.default_rng(5)
    any_bytes = rng.integers(0, 256, 300 * size, dtype=np.uint8)
    expected = unpacked(any_bytes, kind)
    found = dequantized(any_bytes, dtype)
    assert found.shape == (300 * values,)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        np.signbit(found[found == 0]), np.signbit(expected[expected == 0])
    )
    sane = blocks(kind, (7, 512))
    np.testing.assert_array_equal(dequantized(sane, dtype), unpacked(sane, kind).reshape(-1))
    assert dequantized(np.zeros(0, np.uint8), dtype).shape == (0,)


@pytest.mark.parametrize("dtype", ["Q8_0", "Q5_1", "Q4_0", "Q4_1", "Q5_0", "MXFP4"])
def test_what_is_quantized_comes_back_nearly(dtype: str) -> None:
    rng = np.random.default_rng(2)
    numbers = rng.normal(size=(8, 256)).astype(np.float32)
    found = dequantized(quantize(numbers, Kind[dtype]), dtype).reshape(numbers.shape)
    near = np.linalg.norm(found - numbers) / np.linalg.norm(numbers)
    assert 0.001 < near < 0.2


def test_every_exponent_of_a_scale_is_unpacked() -> None:
    raw = np.zeros((256, 17), np.uint8)
    raw[:, 0] = np.arange(256)
    raw[:, 1:] = np.arange(16) * 17
    expected = unpacked(raw, Kind.MXFP4)
    np.testing.assert_array_equal(dequantized(raw, "MXFP4"), expected.reshape(-1))


def test_types_without_values_are_those_the_package_cannot_unpack() -> None:
    known = {kind.name for kind in _type_traits} | {"F16", "F32"}
    for dtype in WITHOUT_VALUES:
        assert dtype not in known
        with pytest.raises(ValueError, match=dtype):
            dequantized(np.zeros(0, np.uint8), dtype)
    assert BLOCKS.keys() - WITHOUT_VALUES <= known
    with pytest.raises(ValueError, match="F32"):
        dequantized(np.zeros(0, np.uint8), "F32")
    with pytest.raises(ValueError, match="reshape"):
        dequantized(np.zeros(33, np.uint8), "Q8_0")


def test_without_the_package_the_common_types_are_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("gguf", "gguf.constants", "gguf.quants"):
        monkeypatch.setitem(sys.modules, module, None)
    for dtype in ggml._UNPACK:
        assert dequantized(np.zeros(BLOCKS[dtype][1], np.uint8), dtype).size
    with pytest.raises(FormatError, match=r"pip install 'model-lineage\[formats\]'"):
        dequantized(np.zeros(84, np.uint8), "Q2_K")


# Hostile bytes


MODEL = container(
    [
        key("general.architecture", STRING, text("llama")),
        alignment(32),
        key("words", ARRAY, array(STRING, 3, text("") + text("abc") + text("d"))),
        key("numbers", ARRAY, array(FLOAT, 2, bytes(8))),
    ],
    [tensor("a", (3, 2)), tensor("b", (32, 1), Q8_0, 32)],
    bytes(range(32)) + bytes(range(34)) + bytes(30),
)


@settings(max_examples=400)
@given(data=st.data())
def test_a_mutated_file_is_read_or_refused_in_one_way(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    mutated = bytearray(MODEL)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(mutated) - 1))
        how = data.draw(st.sampled_from(["flip", "insert", "delete"]))
        if how == "flip":
            mutated[place] = data.draw(st.integers(0, 255))
        elif how == "insert":
            mutated[place:place] = data.draw(st.binary(max_size=9))
        else:
            del mutated[place : place + data.draw(st.integers(0, 9))]
    if data.draw(st.booleans()):
        del mutated[data.draw(st.integers(0, len(mutated))) :]
    path = tmp_path_factory.getbasetemp() / "mutated.gguf"
    try:
        of_bytes(path, bytes(mutated))
    except FormatError as error:
        assert str(error).isprintable()


@settings(max_examples=200)
@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_after_the_magic_are_refused_in_one_way(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    try:
        of_bytes(path, b"GGUF\3\0\0\0" + data)
    except FormatError as error:
        assert str(error).isprintable()
