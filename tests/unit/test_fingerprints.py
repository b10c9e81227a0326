"""Identity is as its words say, sketches are linear, lattices are found, stored bytes strict."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from makers import Array, as_bfloat16, container, entry, raw, small_model, write_model
from safetensors.numpy import load

from lineage import canonical
from lineage.artifacts.dialects import Part
from lineage.errors import FormatError, LineageError, SchemeError
from lineage.fingerprints import Fingerprint, fingerprint, from_bytes, levels, sketch, to_bytes
from lineage.fingerprints import folding as folding_loops
from lineage.fingerprints.base import PartPrint
from lineage.fingerprints.lattice import Lattice
from lineage.fingerprints.sketch import SIDE, VECTOR, Layout, Sketch

# Identity, written again from its words


def framed(tag: str, *parts: bytes) -> bytes:
    return tag.encode() + b"\0" + b"".join(struct.pack("<Q", len(p)) + p for p in parts)


def hashed(data: bytes) -> bytes:
    return blake3(data).digest()


def content_of(dtype: str, array: Array) -> bytes:
    shape = b"".join(struct.pack("<Q", n) for n in array.shape)
    return hashed(framed("lineage/content/v1", dtype.encode(), shape, raw(array)))


def merkle_root(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    cut = 1
    while cut * 2 < len(leaves):
        cut *= 2
    return hashed(b"\x01" + merkle_root(leaves[:cut]) + merkle_root(leaves[cut:]))


def named_root(contents: dict[str, bytes]) -> str:
    ordered = sorted((name.encode(), content) for name, content in contents.items())
    return merkle_root([hashed(framed("lineage/leaf/v1", n, c)) for n, c in ordered]).hex()


def unnamed_root(kind: str, digests: Iterable[bytes]) -> str:
    leaves = sorted(hashed(framed(f"lineage/{kind}-leaf/v1", digest)) for digest in digests)
    return merkle_root(leaves).hex()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 33])
def test_roots_agree_with_another_implementation(count: int) -> None:
    rng = np.random.default_rng(count)
    names = ["é", "Z", "a", "a.b", "\U0001f600", "￮"] + [f"layer.{n}" for n in range(40)]
    model = {name: rng.integers(0, 9, (n % 4, 3)) for n, name in enumerate(names[:count])}
    made = fingerprint(model)
    contents = {name: content_of("I64", array) for name, array in model.items()}
    assert made.root == named_root(contents)
    assert made.content_id == unnamed_root("content", contents.values())
    assert made.value_id == unnamed_root("value", contents.values())
    rows = [[n, "I64", list(model[n].shape), contents[n].hex()] for n in sorted(model, key=_utf8)]
    assert made.manifest_sha256 == sha256(canonical.dumps(rows)).hexdigest()


def _utf8(name: str) -> bytes:
    return name.encode()


def test_identity_covers_name_dtype_shape_and_bytes_and_nothing_else() -> None:
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    root = fingerprint({"w": weight}).root
    others = [
        {"v": weight},
        {"w": weight.view(np.int32)},
        {"w": weight.reshape(4, 3)},
        {"w": weight.reshape(12)},
        {"w": weight.reshape(1, 3, 4)},
        {"w": -weight},
        {"w": weight, "x": np.zeros(0)},
    ]
    assert len({root, *(fingerprint(other).root for other in others)}) == len(others) + 1
    negative_zero = np.array([-0.0], np.float32)
    assert fingerprint({"w": negative_zero}).root != fingerprint({"w": np.zeros(1, "f4")}).root


def test_large_tensors_are_hashed_whole(tmp_path: Path) -> None:
    # Several pieces each: matrices, wide matrices, vectors, and bytes without numbers.
    rng = np.random.default_rng(0)
    model = {
        "matrix": rng.normal(size=(900, 700)).astype(np.float32),
        "wide": rng.normal(size=(9, 70_001)).astype(np.float16),
        "vector": rng.normal(size=700_001).astype(np.float32),
        "complex": rng.normal(size=600_000).astype(np.complex64),
    }
    dtypes = {"matrix": "F32", "wide": "F16", "vector": "F32", "complex": "C64"}
    done: list[int] = []
    made = fingerprint(write_model(tmp_path / "m.safetensors", model), progress=done.append)
    assert made.root == named_root({n: content_of(dtypes[n], a) for n, a in model.items()})
    assert sum(done) == made.size_bytes == sum(a.nbytes for a in model.values())


# Values and rounded copies

EXACT_IN = {
    "bf16": as_bfloat16(np.random.default_rng(1).normal(size=(9, 8))),
    "f16": np.random.default_rng(2).normal(size=(9, 8)).astype(np.float16),
    "f32": np.random.default_rng(3).normal(size=(9, 8)).astype(np.float32),
    "f8": np.random.default_rng(4).normal(size=(9, 8)).astype(ml_dtypes.float8_e4m3fn),
    "f8b": np.random.default_rng(4).normal(size=(9, 8)).astype(ml_dtypes.float8_e5m2),
}


@pytest.mark.parametrize("kind", EXACT_IN)
def test_a_lossless_cast_keeps_the_value_digest(kind: str) -> None:
    array = EXACT_IN[kind]
    wider = {"bf16": ["f4", "f8"], "f16": ["f4", "f8"], "f32": ["f8"]}.get(kind, ["f2", "f4", "f8"])
    if kind.startswith("f8"):
        wider = [*wider, "bfloat16"]
    value = fingerprint({"w": array}).tensors[0].value
    for dtype in wider:
        cast = array.astype(as_bfloat16(array).dtype if dtype == "bfloat16" else dtype)
        found = fingerprint({"w": cast})
        assert found.tensors[0].value == value, dtype
        assert found.value_id == fingerprint({"other": array}).value_id
        assert found.content_id != fingerprint({"w": array}).content_id


def test_the_value_digest_is_the_content_of_the_narrowest_dtype() -> None:
    wide = EXACT_IN["bf16"].astype(np.float32)
    assert fingerprint({"w": wide}).tensors[0].value == content_of("BF16", EXACT_IN["bf16"])
    half = EXACT_IN["f16"].astype(np.float64)
    assert fingerprint({"w": half}).tensors[0].value == content_of("F16", EXACT_IN["f16"])
    wide[0, 0] = 1 + 2.0**-20
    assert fingerprint({"w": wide}).tensors[0].value == content_of("F32", wide)


def test_one_lost_bit_is_not_a_lossless_cast() -> None:
    array = np.ones((600, 600), np.float32)
    array[-1, -1] = 1 + 2.0**-8
    assert fingerprint({"w": array}).tensors[0].value == content_of("F16", array.astype("f2"))
    for value in (65520.0, 1e-30, 1 + 2.0**-11):
        array[-1, -1] = value
        found = dict(fingerprint({"w": array}).tensors[0].rounded)
        assert found.keys() == {"BF16", "F16"} - ({"BF16"} if value == 1e5 else set()), value


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounded_digests_are_those_of_a_cast_copy(dtype: Any) -> None:
    rng = np.random.default_rng(5)
    array = np.concatenate([
        rng.normal(size=2000) * 10.0 ** rng.integers(-6, 4, 2000),
        # Halfway between two bfloat16 values, both parities, and the ends of the range.
        [1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8, 65519, 65504, 2.0**-25, 3 * 2.0**-25, 0, -0.0],
    ]).astype(dtype)  # fmt: skip
    found = dict(fingerprint({"w": array}).tensors[0].rounded)
    assert found["F16"] == content_of("F16", array.astype(np.float16))
    assert found["BF16"] == content_of("BF16", as_bfloat16(array.astype(np.float32)))
    if dtype is np.float64:
        assert found["F32"] == content_of("F32", array.astype(np.float32))


def test_rounding_beyond_the_range_of_half_precision_is_infinite() -> None:
    array = np.array([1.5, 1e6, -70000.0, np.pi], np.float32)
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    assert dict(fingerprint({"w": array}).tensors[0].rounded)["F16"] == content_of("F16", half)


@pytest.mark.torch
def test_rounded_digests_are_those_of_a_torch_cast() -> None:
    import torch

    tensor = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    found = dict(fingerprint({"w": tensor}).tensors[0].rounded)
    assert found["BF16"] == fingerprint({"w": tensor.bfloat16()}).tensors[0].content
    assert found["F16"] == fingerprint({"w": tensor.half()}).tensors[0].content


# Sketches, written again as dense linear algebra


def reference_signs(count: int) -> Array:
    stream = blake3(b"lineage/sketch-signs/v1").digest(length=(count + 7) // 8)
    bits = [(byte >> bit) & 1 for byte in stream for bit in range(8)]
    return np.array([-1.0 if bit else 1.0 for bit in bits[:count]])


def folding(extent: int, buckets: int) -> Array:
    """The matrix that adds `extent` signed entries into `buckets`."""
    signs = reference_signs(-(-extent // buckets))
    matrix = np.zeros((min(buckets, extent), extent))
    for i in range(extent):
        matrix[i % buckets, i] = signs[i // buckets]
    return matrix


def reference_core(array: Array) -> Array:
    matrix, side = as_matrix(array)
    return folding(matrix.shape[0], side) @ matrix @ folding(matrix.shape[1], SIDE).T


def as_matrix(array: Array) -> tuple[Array, int]:
    """The matrix a tensor is read as, a vector's last row filled up with zeros; row buckets."""
    if array.ndim >= 2:
        return array.reshape(array.shape[0], -1), SIDE
    side, width = VECTOR
    if array.size <= width:
        return array.reshape(1, -1), side
    filled = np.append(array.reshape(-1), np.zeros(-array.size % width))
    return filled.reshape(-1, width), side


def sketch_of(array: Array) -> Sketch:
    found = fingerprint({"w": array}).tensors[0].sketch
    assert found is not None
    return found


def assert_sketches(array: Array, numbers: Array | None = None) -> None:
    """Check the sketch of `array` against dense sums over `numbers`, its values in float64."""
    numbers = array.astype(np.float64) if numbers is None else numbers
    found = sketch_of(array)
    norm = float(np.linalg.norm(numbers))
    want = reference_core(numbers)
    assert found.core.dtype == np.float32
    assert found.core.shape == want.shape == Layout.of(array.shape).core_shape
    np.testing.assert_allclose(found.core, want, rtol=0, atol=2e-6 * norm)
    matrix, side = as_matrix(numbers)
    height, width = want.shape
    rows = [float((matrix[r::side] ** 2).sum()) for r in range(height)]
    cols = [float((matrix[:, c::SIDE] ** 2).sum()) for c in range(width)]
    np.testing.assert_allclose(found.rows, rows, rtol=2e-6)
    np.testing.assert_allclose(found.cols, cols, rtol=2e-6)
    assert found.energy == pytest.approx(norm**2, rel=1e-6)
    assert float(found.rows.sum()) == pytest.approx(norm**2, rel=1e-6)
    assert found.fourth == pytest.approx(float((numbers**4).sum()), rel=2e-5)
    assert found.zeros == int((numbers == 0).sum())


SHAPES = [
    (), (1,), (5,), (143,), (144,), (145,), (577,), (5000,), (300_001,),
    (1, 1), (1, 300), (300, 1), (5, 7), (35, 37), (36, 36), (37, 35), (72, 144), (100, 129),
    (8, 3, 5, 5), (64, 3, 7, 7), (2, 2, 2, 2, 2), (1, 1, 64, 64), (3000, 130), (1500, 700),
    (3, 28_340), (40, 28_339), (75, 28_340), (2, 300_007),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_sketch_agrees_with_dense_linear_algebra(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(shape))
    array = rng.normal(size=shape).astype(np.float32)
    array[rng.random(shape) < 0.1] = 0
    assert_sketches(array)


@pytest.mark.parametrize(
    "dtype",
    [
        "f2",
        "f4",
        "f8",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "i1",
        "u1",
        "i2",
        "i4",
        "i8",
        "?",
    ],
)
def test_every_numeric_dtype_is_sketched(dtype: str) -> None:
    spelled = getattr(ml_dtypes, dtype, None) or dtype
    array = (3 * np.random.default_rng(6).normal(size=(90, 70))).astype(spelled)
    assert_sketches(array, array.astype(np.float32).astype(np.float64))


def test_sketches_are_linear() -> None:
    rng = np.random.default_rng(7)
    for shape in ((200, 90), (70, 300), (1000,), (20, 4, 9)):
        x, y = rng.integers(-50, 50, (2, *shape)).astype(np.float32)
        total = sketch_of(2 * x - 3 * y).core
        np.testing.assert_array_equal(total, 2 * sketch_of(x).core - 3 * sketch_of(y).core)


def test_the_sketch_of_a_transpose_is_the_transpose() -> None:
    rng = np.random.default_rng(8)
    for shape in ((200, 90), (5, 90), (37, 74), (2, 30_000)):
        array = rng.integers(-50, 50, shape).astype(np.float32)
        one, other = sketch_of(array), sketch_of(array.T)
        np.testing.assert_array_equal(one.core, other.core.T)
        np.testing.assert_allclose(one.rows, other.cols, rtol=1e-6)
        np.testing.assert_allclose(one.cols, other.rows, rtol=1e-6)


def test_a_sketch_estimates_the_distance_and_keeps_the_rank() -> None:
    rng = np.random.default_rng(9)
    ratios = []
    for _ in range(60):
        x, y = rng.normal(size=(2, 120, 150)).astype(np.float32)
        estimate = float(((sketch_of(x).core - sketch_of(y).core) ** 2).sum())
        ratios.append(estimate / float(((x - y) ** 2).sum()))
    assert float(np.mean(ratios)) == pytest.approx(1, abs=0.02)
    assert float(np.std(ratios)) == pytest.approx((2 / SIDE**2) ** 0.5, rel=0.35)
    for rank in (1, 4, 16, 32):
        product = rng.normal(size=(200, rank)) @ rng.normal(size=(rank, 150))
        values = np.linalg.svd(sketch_of(product.astype(np.float32)).core, compute_uv=False)
        assert int((values > 1e-4 * values[0]).sum()) == rank


def test_signs_are_one_stream_wherever_one_looks() -> None:
    want = reference_signs(5000)
    for count in (1, 1000, 5000):
        stream = sketch.sign_bits(count)
        found = folding_loops.factors_of(stream, 0, count)
        np.testing.assert_array_equal(found, want[:count])
    assert abs(float(want.mean())) < 0.06


def test_threads_and_pieces_never_change_a_sketch() -> None:
    rng = np.random.default_rng(10)
    model = {f"{n}": rng.normal(size=(400, 90 + n)).astype(np.float32) for n in range(24)}
    stored = to_bytes(fingerprint(model))
    assert all(to_bytes(fingerprint(model)) == stored for _ in range(3))


def test_8_bit_floats_with_a_scale_a_block_have_the_sketch_of_their_values() -> None:
    rng = np.random.default_rng(12)
    weights = rng.normal(0, 0.02, (300, 200))
    blocks = np.kron(rng.uniform(1e-4, 1e-3, (3, 2)), np.ones((128, 128)))[:300, :200]
    codes = (weights / blocks).astype(ml_dtypes.float8_e4m3fn)
    scale = blocks[::128, ::128].astype(np.float32)
    made = fingerprint({"l.weight": codes, "l.weight_scale_inv": scale}).tensors[0]
    wide = np.kron(scale, np.ones((128, 128), np.float32))[:300, :200]
    want = sketch_of(codes.astype(np.float32) * wide)
    assert made.sketch is not None
    np.testing.assert_allclose(made.sketch.core, want.core, rtol=0, atol=1e-5 * want.energy**0.5)
    assert made.sketch.energy == pytest.approx(want.energy, rel=1e-5)
    assert made.content == content_of("F8_E4M3", codes)


@pytest.mark.parametrize("layout", ["scale", "scale.flat", "scalar", "dotted", "SCB"])
def test_scaled_integers_have_the_sketch_of_their_values(layout: str) -> None:
    rng = np.random.default_rng(11)
    codes = rng.integers(-127, 128, (90, 70)).astype(np.int8)
    scale = rng.uniform(0.001, 0.01, (90, 1)).astype(np.float32)
    if layout == "scalar":
        scale = scale[:1]
    stored = {
        "scale": ("l.weight_scale", scale),
        "scale.flat": ("l.weight_scale", scale.reshape(-1)),
        "scalar": ("l.weight_scale", scale.reshape(())) if scale.size == 1 else ("", scale),
        "dotted": ("l.weight.scale", scale),
        "SCB": ("l.SCB", (scale * 127).reshape(-1)),
    }[layout]
    packed = {"l.weight": codes, stored[0]: stored[1]}
    made = {t.name: t for t in fingerprint(packed).tensors}
    found = made["l.weight"].sketch
    want = sketch_of((codes * scale).astype(np.float32))
    assert found is not None
    np.testing.assert_allclose(found.core, want.core, rtol=0, atol=1e-5 * want.energy**0.5)
    assert found.energy == pytest.approx(want.energy, rel=1e-5)
    assert made["l.weight"].content == content_of("I8", codes)
    assert made["l.weight"].lattice.bits == 8


# What is not a number, and what is hardly one


@pytest.mark.parametrize("shape", [(50, 40), (700,), (3, 30_000)], ids=str)
def test_numbers_that_are_none_are_counted_and_left_out(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(12).normal(size=shape).astype(np.float32)
    broken = array.copy()
    broken.reshape(-1)[[0, 7, -1]] = np.nan, np.inf, -np.inf
    made = fingerprint({"good": array, "w": broken})
    tensor = made.tensors[1]
    assert tensor.nonfinite == 3
    assert tensor.content == content_of("F32", broken)
    assert tensor.rounded == ()
    assert tensor.sketch is not None
    assert np.isfinite(tensor.sketch.core).all()
    (line,) = made.warnings
    assert "'w'" in line
    assert f"3 of {array.size}" in line


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "bfloat16", "float8_e5m2"])
def test_nan_is_seen_in_every_float_dtype(dtype: str) -> None:
    spelled = getattr(ml_dtypes, dtype, None) or dtype
    array = np.array([[1.0, np.nan], [np.inf, 2.0]]).astype(spelled)
    made = fingerprint({"w": array})
    assert made.tensors[0].nonfinite == 2
    assert from_bytes(to_bytes(made)).root == made.root


def test_zeros_and_nothing_have_an_identity() -> None:
    made = fingerprint({"zeros": np.zeros((40, 40), np.float32), "none": np.zeros((0, 3), "f4")})
    none, zeros = made.tensors
    assert none.sketch is None
    assert none.size == 0
    assert zeros.sketch is not None
    assert (zeros.sketch.energy, zeros.sketch.zeros) == (0.0, 1600)
    assert not zeros.lattice.bits
    (line,) = made.warnings
    assert "'none'" in line
    assert "no values" in line


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e5, 1e7, 1e10, 2.0**40])
def test_large_values_are_measured_and_stored(size: float, dtype: Any) -> None:
    # Attention masks are often stored filled with a large negative number.
    mask = np.triu(np.full((64, 64), -size, dtype), 1)
    made = fingerprint({"mask": mask})
    tensor = made.tensors[0]
    assert tensor.nonfinite == 0
    assert made.warnings == ()
    assert from_bytes(to_bytes(made)).root == made.root
    assert tensor.sketch is not None
    assert tensor.sketch.energy == pytest.approx(float((mask.astype(float) ** 2).sum()), rel=1e-5)


@pytest.mark.parametrize("shape", [(64, 64), (900,), (2, 30_000)], ids=str)
@pytest.mark.parametrize(
    ("size", "dtype"), [(1e13, "f4"), (1e30, "f4"), (3.4e38, "f4"), (1e20, "f8"), (1e300, "f8")]
)
def test_values_beyond_2_to_the_40_are_left_out_and_warned_about(
    size: float, dtype: str, shape: tuple[int, ...]
) -> None:
    array = np.ones(shape, dtype)
    array.reshape(-1)[5:8] = -size
    made = fingerprint({"mask": array})
    tensor = made.tensors[0]
    assert tensor.nonfinite == 3
    assert tensor.sketch is not None
    assert np.isfinite(tensor.sketch.core).all()
    (line,) = made.warnings
    assert f"3 of {array.size}" in line
    assert tensor.content == content_of(dtype.upper().replace("4", "32").replace("8", "64"), array)
    assert from_bytes(to_bytes(made)).root == made.root


@pytest.mark.parametrize("size", [1e-10, 1e-18, 1e-25])
def test_tiny_values_keep_their_energy(size: float) -> None:
    array = (size * np.random.default_rng(13).normal(size=(64, 64))).astype(np.float32)
    assert sketch_of(array).energy == pytest.approx(float((array.astype(float) ** 2).sum()), 1e-5)


# Lattices

STORED = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def quantize(weights: Array, bits: int, group: int | str) -> Array:
    """Round to evenly spaced levels, one step per tensor, row or group of a row."""
    top = 2 ** (bits - 1) - 1
    parts = weights.reshape(-1)[None] if group == "tensor" else weights
    if isinstance(group, int):
        parts = weights.reshape(-1, group)
    step = np.abs(parts).max(axis=1, keepdims=True) / top
    return (np.rint(parts / step) * step).reshape(weights.shape)


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("group", ["tensor", "row", 32, 64, 128])
@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_values_are_recognised(bits: int, group: int | str, dtype: str) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        weights = 0.02 * rng.normal(size=(96, 256))
        stored = quantize(weights, bits, group).astype(STORED[dtype])
        found = fingerprint({"w": stored}).tensors[0].lattice
        assert found.bits == bits or (group == "tensor" and bits - 2 <= found.bits < bits)
        assert found.group == (group if isinstance(group, int) else 0)


def test_asymmetric_levels_are_recognised() -> None:
    weights = np.random.default_rng(14).uniform(-0.01, 0.05, (64, 128))
    low, high = weights.min(axis=1, keepdims=True), weights.max(axis=1, keepdims=True)
    step = (high - low) / 15
    zero = np.rint(-low / step)
    levels = (np.clip(np.rint(weights / step) + zero, 0, 15) - zero) * step
    assert fingerprint({"w": levels.astype(np.float32)}).tensors[0].lattice.bits == 4


LAWS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Array]] = {
    "gaussian": lambda rng, shape: rng.normal(size=shape),
    "laplace": lambda rng, shape: rng.laplace(size=shape),
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
    "heavy tails": lambda rng, shape: rng.standard_t(3, shape),
    "trained": lambda rng, shape: (
        rng.normal(size=shape) * rng.lognormal(0, 0.5, (shape[0], 1))
        + 0.5 * rng.normal(size=(shape[0], 4)) @ rng.normal(size=(4, shape[1]))
    ),
    "sparse": lambda rng, shape: rng.normal(size=shape) * (rng.random(shape) < 0.5),
    "one-sided": lambda rng, shape: np.abs(rng.normal(size=shape)),
}


@pytest.mark.parametrize("law", LAWS)
def test_ordinary_weights_lie_on_no_lattice(law: str) -> None:
    # 7 laws x 4 dtypes x 30 matrices: 840 chances to be wrong.
    found = []
    for seed in range(30):
        rng = np.random.default_rng([15, seed])
        shape = [(16, 16), (24, 64), (64, 48), (32, 300), (128, 130)][seed % 5]
        weights = [1.0, 0.02, 0.3][seed % 3] * LAWS[law](rng, shape)
        for dtype, stored in {**STORED, "F64": np.float64}.items():
            rows = weights.astype(stored).astype(np.float32)
            if levels.lattice(rows[:24], dtype) != Lattice():
                found.append((seed, shape, dtype))
    assert found == []


NF4 = (
    -1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0,
    0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0,
)  # fmt: skip
E2M1 = tuple(sign * value / 6 for value in (0, 0.5, 1, 1.5, 2, 3, 4, 6) for sign in (1, -1))


def coded(weights: Array, table: tuple[float, ...], group: int, *, by_two: bool = False) -> Array:
    """Round to a table's nearest code, times the largest value of a group or a power of two."""
    parts = weights.reshape(-1, group)
    scale = np.abs(parts).max(axis=1, keepdims=True)
    scale = 2.0 ** np.ceil(np.log2(scale)) if by_two else scale
    codes = np.array(table)
    nearest = np.abs((parts / scale)[..., None] - codes).argmin(axis=-1)
    return (codes[nearest] * scale).reshape(weights.shape)


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize(
    ("table", "group", "by_two"), [(NF4, 64, False), (E2M1, 32, True), (E2M1, 16, False)]
)
@pytest.mark.parametrize("cols", [64, 256, 1024])
def test_values_of_a_small_table_are_recognised(
    table: tuple[float, ...], group: int, by_two: bool, cols: int, dtype: str
) -> None:
    weights = 0.02 * np.random.default_rng(cols).normal(size=(64, cols))
    stored = coded(weights, table, group, by_two=by_two).astype(STORED[dtype])
    assert fingerprint({"w": stored}).tensors[0].lattice.bits == 4


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("group", [0, 128, "block"])
@pytest.mark.parametrize("code", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_scaled_8_bit_floats_are_levels(code: Any, group: int | str, dtype: str) -> None:
    weights = 0.02 * np.random.default_rng(17).normal(size=(256, 256))
    parts = weights.reshape(2, 128, 2, 128) if group == "block" else weights.reshape(256, -1, 128)
    axes = {0: (1, 2), 128: (2,), "block": (1, 3)}[group]
    scale = np.abs(parts).max(axis=axes, keepdims=True) / 440
    stored = ((parts / scale).astype(code).astype(np.float64) * scale).reshape(weights.shape)
    assert fingerprint({"w": stored.astype(STORED[dtype])}).tensors[0].lattice.bits == 8


@pytest.mark.parametrize("law", LAWS)
def test_long_rows_in_few_digits_are_no_table(law: str) -> None:
    # Of 4,096 values in bfloat16 many come twice.
    for seed, dtype in enumerate(STORED):
        weights = 0.02 * LAWS[law](np.random.default_rng([18, seed]), (32, 4096))
        assert fingerprint({"w": weights.astype(STORED[dtype])}).tensors[0].lattice == Lattice()


def test_half_the_rows_quantized_is_no_lattice() -> None:
    weights = np.random.default_rng(16).normal(size=(64, 128)).astype(np.float32)
    half = np.arange(64) // 2 % 2 == 0  # whichever rows are looked at, half of them
    weights[half] = quantize(weights, 8, "row")[half]
    assert fingerprint({"w": weights}).tensors[0].lattice == Lattice()


# Stored fingerprints


def stored_model() -> bytes:
    model = small_model(20)
    model["half"] = as_bfloat16(model["embed.weight"] + 1)
    model["steps"] = np.array(7)
    model["none"] = np.zeros((0, 2), np.float32)
    model["packed"] = np.zeros(5, np.complex64)
    model["broken"] = np.array([[np.nan, 1.0]], np.float32)
    return to_bytes(fingerprint(model))


STORED_MODEL = stored_model()


def test_the_stored_form_is_a_fixed_point(tmp_path: Path) -> None:
    made = from_bytes(STORED_MODEL)
    assert to_bytes(made) == STORED_MODEL
    path = tmp_path / "m.lineage"
    path.write_bytes(STORED_MODEL)
    loaded = fingerprint(path)
    assert (loaded.root, loaded.content_id, loaded.value_id) == (
        made.root, made.content_id, made.value_id,
    )  # fmt: skip
    assert loaded.size_bytes == made.size_bytes
    assert loaded.warnings == made.warnings
    assert fingerprint(loaded) is loaded
    for one, other in zip(made.tensors, loaded.tensors, strict=True):
        assert (one.name, one.dtype, one.shape, one.content, one.value, one.rounded) == (
            other.name, other.dtype, other.shape, other.content, other.value, other.rounded,
        )  # fmt: skip
        assert one.lattice == other.lattice


@given(
    names=st.lists(
        st.text(st.characters(codec="utf-8"), max_size=9)
        | st.sampled_from(["w", "w.0", "w\x7f", 'a"b', "a\\b"]),
        min_size=1, max_size=4, unique=True,
    ),
    changes=st.lists(
        st.sampled_from(
            ["value", "rounded", "nonfinite", "lattice", "flat", "no sketch", "parts", "no values"]
        ),
        max_size=4,
    ),
)  # fmt: skip
def test_every_row_of_a_manifest_is_canonical(names: list[str], changes: list[str]) -> None:
    """Plain rows are put together by hand: they are what the library for all JSON writes."""
    tensors = []
    for at, name in enumerate(sorted(names, key=str.encode)):
        model = {name: np.arange(1, 13, dtype=np.float32).reshape(3, 4) + at}
        tensor = fingerprint(model, cache=False).tensors[0]
        assert tensor.sketch is not None
        more: dict[str, Any] = {
            "value": {"value": bytes(32)},
            "rounded": {"rounded": (("F16", bytes(32)), ("BF16", b"\1" * 32))},
            "nonfinite": {"nonfinite": 3},
            "lattice": {"lattice": Lattice(4, 32)},
            "flat": {"sketch": replace(tensor.sketch, is_flat=True)},
            "no sketch": {"sketch": None},
            "parts": {"parts": (PartPrint(Part("p", 0, 0, 3), tensor.sketch),)},
            "no values": {"shape": (2**40, 0)},
        }
        for change in changes if at % 2 else ():
            tensor = replace(tensor, **more[change])
        tensors.append(tensor)
    raw = to_bytes(Fingerprint(tuple(tensors), sketch.SCHEME, 48 * len(tensors)))
    manifest = load(raw)["manifest"].tobytes()
    rows = json.loads(manifest)
    assert canonical.dumps(rows) == manifest
    for row, tensor in zip(rows, tensors, strict=True):
        assert (row["name"], row["dtype"]) == (tensor.name, "F32")
        assert tuple(row["shape"]) == tensor.shape
        assert bytes.fromhex(row["content"]) == tensor.content
        assert bytes.fromhex(row.get("value", row["content"])) == tensor.value
        assert row.get("rounded", {}) == {dtype: raw.hex() for dtype, raw in tensor.rounded}
        assert row.get("nonfinite", 0) == tensor.nonfinite
        assert tuple(row.get("lattice", (0, 0))) == tensor.lattice
        assert [part["name"] for part in row.get("parts", ())] == [
            p.part.name for p in tensor.parts
        ]
        found = tensor.sketch
        assert row.get("zeros") == (None if found is None else found.zeros)
        assert row.get("flat", False) == (found is not None and found.is_flat)


def test_other_tools_can_read_the_stored_form() -> None:
    from safetensors.numpy import load

    arrays = load(STORED_MODEL)
    rows = json.loads(arrays["manifest"].tobytes())
    assert [row["name"] for row in rows] == sorted(row["name"] for row in rows)
    assert arrays["sums"].size == 12


def rebuilt(change: Callable[[list[Any], dict[str, Any], dict[str, Array]], None]) -> bytes:
    """The stored model after a change to its manifest, its head or its arrays."""
    from safetensors.numpy import load, save

    arrays: dict[str, Array] = dict(load(STORED_MODEL))
    length = int.from_bytes(STORED_MODEL[:8], "little")
    head = json.loads(json.loads(STORED_MODEL[8 : 8 + length])["__metadata__"]["lineage"])
    rows = json.loads(arrays["manifest"].tobytes())
    change(rows, head, arrays)
    if "manifest" in arrays:
        arrays["manifest"] = np.frombuffer(json.dumps(rows).encode(), np.uint8)
    return save(arrays, metadata={"lineage": json.dumps(head)})


def test_rebuilding_without_a_change_is_read() -> None:
    assert from_bytes(rebuilt(lambda *_: None)).root == from_bytes(STORED_MODEL).root


def put(key: str, value: object, row: int = 2) -> Callable[..., None]:
    def change(rows: list[Any], head: dict[str, Any], arrays: dict[str, Array]) -> None:
        rows[row][key] = value

    return change


def drop(key: str) -> Callable[..., None]:
    def change(rows: list[Any], head: dict[str, Any], arrays: dict[str, Array]) -> None:
        del rows[2][key]

    return change


def head(key: str, value: object) -> Callable[..., None]:
    def change(rows: list[Any], found: dict[str, Any], arrays: dict[str, Array]) -> None:
        found[key] = value

    return change


def arrays(key: str, alter: Callable[[Array], Array]) -> Callable[..., None]:
    def change(rows: list[Any], found: dict[str, Any], held: dict[str, Array]) -> None:
        held[key] = alter(held[key])

    return change


TAMPERED: dict[str, Callable[..., None]] = {
    "another type": head("_type", "urn:model-lineage:fingerprint:v2"),
    "another root": head("root", "0" * 64),
    "root missing": head("root", None),
    "size is text": head("size_bytes", "many"),
    "size is negative": head("size_bytes", "-1"),
    "size is huge": head("size_bytes", "9" * 5000),
    "name": put("name", "embed.weighs"),
    "name is a number": put("name", 7),
    "name missing": drop("name"),
    "content": put("content", "00" * 32),
    "content short": put("content", "00"),
    "content upper-case": put("content", "AB" * 32),
    "content no hex": put("content", "zz" * 32),
    "content a number": put("content", 3),
    "dtype unknown": put("dtype", "Q7"),
    "dtype a list": put("dtype", []),
    "shape other": put("shape", [5, 5]),
    "shape negative": put("shape", [-40, -24]),
    "shape text": put("shape", "40"),
    "shape of a fraction": put("shape", [40.0, 24.0]),
    "shape null": put("shape", None),
    "shape of more values than disks": put("shape", [2**50] * 25),
    "rounded a list": put("rounded", []),
    "rounded null": put("rounded", None),
    "rounded of numbers": put("rounded", {"BF16": 3}),
    "lattice short": put("lattice", [3]),
    "lattice null": put("lattice", None),
    "lattice text": put("lattice", ["a", "b"]),
    "nonfinite null": put("nonfinite", None),
    "zeros missing": drop("zeros"),
    "entry is a list": lambda rows, *_: rows.__setitem__(2, []),
    "entry is null": lambda rows, *_: rows.__setitem__(2, None),
    "entry is text": lambda rows, *_: rows.__setitem__(2, "embed.weight"),
    "entry twice": lambda rows, *_: rows.insert(2, rows[2]),
    "entries out of order": lambda rows, *_: rows.reverse(),
    "entry gone": lambda rows, *_: rows.pop(),
    "no entries": lambda rows, *_: rows.clear(),
    "cores short": arrays("cores", lambda a: a[:-1].copy()),
    "cores long": arrays("cores", lambda a: np.append(a, a[:1])),
    "cores not finite": arrays("cores", lambda a: a * np.float32(np.nan)),
    "cores doubled": arrays("cores", lambda a: a.astype(np.float64)),
    "energies short": arrays("energies", lambda a: a[:-1].copy()),
    "energies huge": arrays("energies", lambda a: a + np.float32(1e30)),
    "energies that do not add up": arrays("energies", lambda a: a * np.float32(1.01)),
    "sums huge": arrays("sums", lambda a: a + 1e300),
    "flat a number": put("flat", 1),
    "energies negative": arrays("energies", lambda a: -a),
    "sums long": arrays("sums", lambda a: np.append(a, 1.0)),
    "no manifest": lambda rows, found, held: held.pop("manifest"),
    "one array more": lambda rows, found, held: held.update(extra=np.zeros(1)),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_tampered_fingerprint_is_refused(how: str) -> None:
    with pytest.raises(FormatError) as caught:
        from_bytes(rebuilt(TAMPERED[how]), file="m.lineage")
    words = str(caught.value)
    assert words.startswith("m.lineage: ")
    assert "\n" not in words


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("nonfinite", "3"),
        ("nonfinite", -1),
        ("nonfinite", True),
        ("zeros", "3"),
        ("zeros", -1),
        ("zeros", 10**6),
        ("lattice", [-4, 0]),
        ("lattice", [4, -1]),
        ("lattice", ["8", "0"]),
        ("rounded", {"Q7": "00" * 32}),
    ],
)
def test_counts_that_cannot_be_are_refused(key: str, value: object) -> None:
    with pytest.raises(FormatError):
        from_bytes(rebuilt(put(key, value)))


@pytest.mark.parametrize("dtype", ["F\x7f4", "\x1b[2J", "Q" * 5000])
def test_what_a_stored_file_says_cannot_steer_a_terminal(dtype: str) -> None:
    length = int.from_bytes(STORED_MODEL[:8], "little")
    metadata = json.loads(STORED_MODEL[8 : 8 + length])["__metadata__"]
    header = {"__metadata__": metadata, "manifest": entry(dtype, [8], 0, 8)}
    with pytest.raises(FormatError) as caught:
        from_bytes(container(header, bytes(8)))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_half_a_surrogate_pair_is_no_head() -> None:
    header = {"__metadata__": {"lineage": "\ud800"}, "manifest": entry("U8", [8], 0, 8)}
    with pytest.raises(FormatError, match="not a fingerprint"):
        from_bytes(container(header, bytes(8)))


def test_another_scheme_is_a_scheme_error() -> None:
    with pytest.raises(SchemeError, match="bilinear-v9"):
        from_bytes(rebuilt(head("scheme", "bilinear-v9/rows=1")))
    with pytest.raises(SchemeError):
        from_bytes(rebuilt(head("scheme", None)))


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E8M0", "F4", "C64", "BF16", "BOOL"])
def test_arrays_of_an_unexpected_dtype_are_refused(dtype: str) -> None:
    length = int.from_bytes(STORED_MODEL[:8], "little")
    header = json.loads(STORED_MODEL[8 : 8 + length])
    count = {"F4": 16, "C64": 1, "BF16": 4}.get(dtype, 8)
    header = {"__metadata__": header["__metadata__"], "manifest": entry(dtype, [count], 0, 8)}
    with pytest.raises(FormatError):
        from_bytes(container(header, bytes(8)))


def test_every_flipped_bit_of_names_and_digests_is_found() -> None:
    rows = canonical.dumps(json.loads(_manifest()))
    start = STORED_MODEL.index(rows)
    flips = 0
    for field in (b'"name":"', b'"content":"'):
        at = rows.index(field) + len(field)
        for place in range(at, rows.index(b'"', at)):
            for bit in (1, 2, 4, 16):
                data = bytearray(STORED_MODEL)
                data[start + place] ^= bit
                flips += 1
                with pytest.raises(FormatError):
                    from_bytes(bytes(data))
    assert flips > 250


def _manifest() -> bytes:
    from safetensors.numpy import load

    return bytes(load(STORED_MODEL)["manifest"].tobytes())


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 100, 1000, -1000, -8, -1])
def test_a_truncated_fingerprint_is_refused(cut: int) -> None:
    with pytest.raises(FormatError):
        from_bytes(STORED_MODEL[:cut])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 64,
        container([]),
        container({}),
        container({"__metadata__": {"lineage": "{"}}),
        container({"__metadata__": {"lineage": "[]"}}),
        container({"__metadata__": {"lineage": "[" * 100_000}}),
        container({"__metadata__": []}),
        container(b"[" * 100_000),
        container(b'{"__metadata__": {"lineage": 1' + b"0" * 5000 + b"}}"),
    ],
    ids=range(10),
)
def test_what_is_no_fingerprint_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        from_bytes(data)


def test_mutated_fingerprints_give_no_other_error() -> None:
    chance = random.Random(17)
    survived = 0
    for _ in range(2500):
        data = bytearray(STORED_MODEL)
        # Most of the interesting bytes are the header and the manifest at the end.
        near = chance.choice([range(600), range(len(data) - 2600, len(data)), range(len(data))])
        for _ in range(chance.choice([1, 1, 2, 5])):
            place = min(chance.choice(near), len(data) - 1)
            kind = chance.random()
            if kind < 0.5:
                data[place] = chance.choice(b'0123456789abcdef"{}[],:-.eE truefalsn\x00\xff')
            elif kind < 0.75:
                data[place] ^= 1 << chance.randrange(8)
            else:
                del data[place : place + chance.randrange(1, 9)]
        try:
            from_bytes(bytes(data))
        except LineageError as error:
            assert "\n" not in str(error)
        else:
            survived += 1
    assert 0 < survived < 2300


def test_mutated_manifests_give_no_other_error() -> None:
    chance = random.Random(18)
    values = [None, True, 0, -1, 2**53, 1.5, "", "a", [], [0], {}, {"a": 1}, [[]], "00" * 32]
    for _ in range(400):
        key = chance.choice(
            [
                "name",
                "dtype",
                "shape",
                "content",
                "value",
                "rounded",
                "nonfinite",
                "lattice",
                "zeros",
            ]
        )
        data = rebuilt(put(key, chance.choice(values), chance.randrange(8)))
        try:
            from_bytes(data)
        except LineageError:
            continue


def test_a_saved_fingerprint_is_a_fingerprint_wherever_a_model_is(tmp_path: Path) -> None:
    made = fingerprint(small_model(1))
    path = tmp_path / "m.lineage"
    path.write_bytes(to_bytes(made))
    assert fingerprint(str(path)).root == made.root
    (tmp_path / "lie.lineage").write_bytes(b"lie")
    with pytest.raises(FormatError, match=r"lie\.lineage"):
        fingerprint(tmp_path / "lie.lineage")


def test_fingerprints_are_values() -> None:
    made = fingerprint(small_model(1))
    with pytest.raises(AttributeError):
        made.scheme = "other"  # type: ignore[misc]
    assert isinstance(made, Fingerprint)
    assert replace(made, scheme="other").root == made.root
