"""The compiled loops and their NumPy twin give the same sketch within rounding, the same codes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from array import array
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from blake3 import blake3
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import example, given, settings
from hypothesis import strategies as st
from makers import Array, write_model

from lineage.artifacts import guard
from lineage.artifacts.base import BLOCKS
from lineage.fingerprints import fingerprint, folding, from_bytes, neighbours, to_bytes, values
from lineage.fingerprints.kernel import KINDS, NARROWED, compiled
from lineage.fingerprints.narrowing import NARROW, narrow
from lineage.fingerprints.sketch import Layout, Sketcher, sign_bits

DTYPES: dict[str, Any] = {
    "F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16, "F64": np.float64,
    "I8": np.int8, "U8": np.uint8, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}  # fmt: skip


def test_the_loops_were_compiled_where_the_tests_run() -> None:
    # Without a compiler the library works, and these tests would compare NumPy with itself.
    asked_for_numpy = os.environ.get("LINEAGE_KERNEL") == "numpy"
    assert (compiled is None) == asked_for_numpy
    assert guard.compiled() is not None or sys.platform == "win32"  # or its own tests skip


def test_a_model_has_one_fingerprint_by_either(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    model: dict[str, Array] = {
        "m": rng.normal(size=(300, 500)).astype(np.float32),
        "half": rng.normal(size=(73, 145)).astype(np.float16),
        "brain": rng.normal(size=(2, 90_000)).astype(ml_dtypes.bfloat16),
        "vector": rng.normal(size=5000),
        "codes": rng.integers(-127, 128, (64, 200)).astype(np.int8),
        "codes_scale": rng.uniform(0.1, 1, (64, 1)).astype(np.float32),
        "flat": np.full((40, 50), 0.5, np.float32),
        "mask": np.triu(np.full((64, 64), -np.inf, np.float32)),
        "sparse": rng.normal(size=(90, 90)) * (rng.random((90, 90)) < 0.1),
        "levels": np.float32(0.01) * rng.integers(-7, 8, (64, 256)).astype(np.float32),
    }
    path = write_model(tmp_path / "m.safetensors", model)
    code = (
        "import sys; from lineage.fingerprints import fingerprint, to_bytes;"
        "sys.stdout.buffer.write(to_bytes(fingerprint(sys.argv[1])))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "LINEAGE_KERNEL": "numpy"},
        capture_output=True,
        check=True,
    )
    other = from_bytes(child.stdout)
    for one, two in zip(fingerprint(path).tensors, other.tensors, strict=True):
        for field in ("name", "content", "value", "rounded", "nonfinite", "lattice"):
            assert getattr(one, field) == getattr(two, field), (one.name, field)
        assert one.sketch is not None
        assert two.sketch is not None
        assert (one.sketch.zeros, one.sketch.is_flat) == (two.sketch.zeros, two.sketch.is_flat)
        norm = one.sketch.energy**0.5
        np.testing.assert_allclose(one.sketch.core, two.sketch.core, rtol=0, atol=1e-6 * norm)
        np.testing.assert_allclose(one.sketch.rows, two.sketch.rows, rtol=1e-5)
        np.testing.assert_allclose(one.sketch.cols, two.sketch.cols, rtol=1e-5)
        assert one.sketch.fourth == pytest.approx(two.sketch.fourth, rel=1e-5)


def sums(array: Array, dtype: str, cuts: list[int], every: int, factors: Array | None) -> Array:
    """The state that NumPy's loop makes of an array cut into pieces."""
    layout = Layout.of(array.shape)
    signs = sign_bits(max(layout.rows, layout.cols))
    state = np.zeros(layout.side * 36 + layout.side + 36 + 4)
    stride = max(layout.cols, 1)
    view = (stride, 0, layout.rows, 0, layout.cols, layout.side, every)
    flat = array.reshape(-1)
    for start, end in pairwise([0, *cuts, flat.size]):
        numbers = values.as_float32(memoryview(flat[start:end].tobytes()), dtype)
        folding.add(state, numbers, start, signs, view, factors)
    return state


@settings(max_examples=150, deadline=None)
@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    shape=st.sampled_from(
        [(1, 1), (5, 7), (40, 15), (37, 144), (80, 150), (3, 700), (700,), (0, 3)]
    ),
    every=st.sampled_from([1, 8]),
    scaled=st.sampled_from(["no", "one", "rows"]),
    salt=st.sampled_from(["", "zeros", "nan", "inf", "huge", "tiny", "same"]),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_pieces_of_any_size_add_up_alike(
    dtype: str, shape: tuple[int, ...], every: int, scaled: str, salt: str, seed: int, data: Any
) -> None:
    rng = np.random.default_rng(seed)
    numbers = 3 * rng.normal(size=shape)
    if salt in {"zeros", "nan", "inf", "huge"}:
        salted = {"zeros": 0.0, "nan": np.nan, "inf": -np.inf, "huge": 1e30}[salt]
        numbers = np.where(rng.random(shape) < 0.2, salted, numbers)
    numbers = {"tiny": 1e-12 * numbers, "same": np.full(shape, 2.0)}.get(salt, numbers)
    with np.errstate(all="ignore"):
        if dtype in {"I8", "U8"}:
            numbers = np.nan_to_num(numbers, posinf=9, neginf=9).clip(0, 100)
        array = numbers.astype(DTYPES[dtype])
    layout = Layout.of(shape)
    factors = None
    if scaled != "no" and len(shape) == 2:
        factors = rng.uniform(0.5, 2, 1 if scaled == "one" else shape[0]).astype(np.float32)
    cuts = sorted(data.draw(st.lists(st.integers(0, array.size), max_size=4)))
    want = sums(array, dtype, cuts, every, factors)
    sketcher = Sketcher(layout, every)
    flat = array.reshape(-1)
    held = None if factors is None else __import__("array").array("f", factors.tolist())
    for start, end in pairwise([0, *cuts, flat.size]):
        sketcher.add(memoryview(flat[start:end].tobytes()), dtype, start, held)
    found = np.array(sketcher._state)
    side = layout.side
    energy = want[side * 36 + side :][:36].sum()
    np.testing.assert_allclose(found[: side * 36], want[: side * 36], atol=2e-6 * energy**0.5)
    np.testing.assert_allclose(found[side * 36 : -4], want[side * 36 : -4], rtol=1e-5)
    np.testing.assert_allclose(found[-4], want[-4], rtol=1e-5)
    np.testing.assert_array_equal(found[-3:-1], want[-3:-1])
    assert np.isnan(found[-1]) == np.isnan(want[-1])
    assert KINDS[dtype] >= 0


@pytest.mark.parametrize("to", NARROW[:4])
@pytest.mark.parametrize("dtype", sorted(NARROWED))
def test_every_code_is_rounded_alike(dtype: str, to: str) -> None:
    rng = np.random.default_rng(2)
    width = np.dtype(DTYPES[dtype]).itemsize
    if width < 4:
        raw = np.arange(2 ** (8 * width), dtype=f"u{width}")
    else:  # all sixteen-bit floats, their neighbours, and random bits
        brain = np.arange(2**16, dtype=np.uint32) << 16
        half = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
        around = np.concatenate([brain, half.view(np.uint32)])
        near = np.concatenate([around, around + 1, around - 1, around + 0x8000])
        raw = np.concatenate([near, rng.integers(0, 2**32, 2**16, np.uint64).astype(np.uint32)])
    numbers = raw.view(DTYPES[dtype])
    raw = raw[~np.isnan(numbers.astype(np.float32))]
    piece = memoryview(raw.tobytes())
    out = memoryview(bytearray(2 * len(piece)))
    exact = narrow(piece, dtype, to, out, only_exact=False)
    codes, want = values.rounded(piece, dtype, to)
    assert exact == want
    if to in {"BF16", "F16"}:
        assert bytes(out[: len(codes)]) == codes
    # One by one: which survive, and as what.
    for start in rng.integers(0, raw.size, 300).tolist():
        single = memoryview(raw[start : start + 1].tobytes())
        alone, kept = values.rounded(single, dtype, to)
        assert narrow(single, dtype, to, out, only_exact=True) == kept
        if kept:
            assert bytes(out[: len(alone)]) == alone


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_nan_is_never_held(dtype: str) -> None:
    piece = memoryview(np.full(9, np.nan, DTYPES[dtype]).tobytes())
    out = memoryview(bytearray(64))
    assert not any(narrow(piece, dtype, to, out, only_exact=True) for to in NARROW[:4])


def test_ordinary_weights_are_told_from_levels_at_once() -> None:
    if compiled is None:
        return
    rng = np.random.default_rng(3)
    asked = []
    for shape in ((300, 1536), (700, 64), (30, 4096)) * 10:
        weights = (0.02 * rng.normal(size=shape)).astype(ml_dtypes.bfloat16)
        asked.append(compiled.stepped(weights.tobytes(), KINDS["BF16"], shape[1], shape[0], 12))
        levels = (0.01 * rng.integers(-127, 128, shape)).astype(ml_dtypes.bfloat16)
        assert compiled.stepped(levels.tobytes(), KINDS["BF16"], shape[1], shape[0], 12)
    assert not any(asked)


def keeps_apart(run: np.ndarray) -> bool | None:
    """Return whether distinct values are half of a 255th of their reach apart; None if all are one.

    The distance is that of floats, as nothing finer is asked.
    """
    values = np.unique(run.astype(np.float32))
    reach = values[-1] - values[0]
    return bool(np.all(np.diff(values) * np.float32(640) >= reach)) if reach > 0 else None


@settings(max_examples=300)
@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    cols=st.integers(16, 80),
    rows=st.integers(1, 14),
    levels=st.sampled_from([1, 2, 3, 17, 255, 300, 320, 10_000]),
    apart=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_levels_are_possible_where_values_of_most_runs_keep_apart(
    dtype: str, cols: int, rows: int, levels: int, apart: float, seed: int
) -> None:
    """Whatever the processor's loops: here in NumPy, run by run."""
    if compiled is None:
        return
    rng = np.random.default_rng(seed)
    numbers = rng.integers(-(levels // 2), levels // 2 + 1, (rows, cols)).astype(np.float64)
    loose = rng.random(numbers.shape) < apart / 8
    numbers[loose] = rng.normal(size=int(loose.sum())) * levels / 2
    weights = numbers.astype(np.uint8 if dtype == "U8" else np.float32).astype(DTYPES[dtype])
    step = max(rows // 12, 1)
    places = (0, min(cols, 1024) // 64 * 32)
    runs = [
        weights[row * step, at : at + 32] for row in range(min(rows // step, 12)) for at in places
    ]
    said = [keeps_apart(run) for run in runs]
    seen, kept = sum(one is not None for one in said), sum(one is True for one in said)
    expected = (seen - kept) * 4 <= len(runs) and (seen < 8 or kept * 4 >= seen * 3)
    assert compiled.stepped(weights.tobytes(), KINDS[dtype], cols, rows, 12) == expected


@given(
    dtype=st.sampled_from(["F32", "BF16", "F16", "F64"]),
    cols=st.integers(16, 90),
    known=st.integers(1, 90),
    seed=st.integers(0, 2**32),
)
def test_tables_are_looked_for_where_values_come_again(
    dtype: str, cols: int, known: int, seed: int
) -> None:
    if compiled is None:
        return
    rng = np.random.default_rng(seed)
    table = rng.normal(size=known)
    weights = rng.choice(table, (12, cols)).astype(np.float32).astype(DTYPES[dtype])
    raw = weights.tobytes()
    row = array("q", [0, len(raw), KINDS[dtype], 12])
    given_ = blake3(), (b"",), memoryview(raw), row, memoryview(bytearray(64))
    looks = compiled.many(*given_, bytes(8), 1, 12, sign_bits(64))[2]
    is_stepped = compiled.stepped(raw, KINDS[dtype], cols, 12, 12)
    again = min(cols, 64) - len(np.unique(weights[0, :64].view(f"u{weights.itemsize}")))
    pairs = min(cols, 64) * (min(cols, 64) - 1) / 2
    assert bool(looks[0]) == (is_stepped or again > 2 + 3 / 496 * pairs)


def test_the_compiled_loops_refuse_parts_that_do_not_fit() -> None:
    if compiled is None:
        return  # NumPy was asked for; the first test of this page holds that to be so
    state, signs = bytearray(8 * (36 * 36 + 36 + 36 + 4)), sign_bits(100)
    good = [state, b"\0" * 40, 0, 0, signs, 10, 0, 1, 0, 10, 36, 1, None]
    compiled.add(*good)
    bad = {0: bytearray(8), 1: b"\0" * 7, 2: 14, 3: -1, 4: b"", 5: 0, 6: -1, 8: -1, 9: 11, 10: 0,
           11: 0, 12: b""}  # fmt: skip
    for place, value in bad.items():
        with pytest.raises(ValueError, match="do not fit"):
            compiled.add(*good[:place], value, *good[place + 1 :])
    with pytest.raises(ValueError, match="no such rounding"):
        compiled.narrow(b"\0" * 8, 3, 1, None, True)
    with pytest.raises(ValueError, match="no room"):
        compiled.narrow(b"\0" * 8, 0, 1, bytearray(1), True)
    with pytest.raises(ValueError, match="no such rows"):
        compiled.stepped(b"\0" * 8, 0, 16, 1, 4)
    with pytest.raises(ValueError, match="do not fit"):
        compiled.finish(bytes(8), 36, 1, 1)


@given(size=st.integers(0, 1 << 22))
@example(size=1 << 20)
@settings(max_examples=20)
def test_bytes_are_fed_in_order(size: int) -> None:
    if compiled is None:
        return
    data, taken = os.urandom(size), list[bytes]()
    compiled.feed(lambda view: taken.append(bytes(view)), memoryview(data))
    assert b"".join(taken) == data
    assert all(len(one) == 1 << 20 for one in taken[:-1])


class Hasher:
    """Keeps what it is given, and gives that for a digest."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def reset(self) -> None:
        self.parts = []

    def update(self, piece: memoryview) -> None:
        self.parts.append(bytes(piece))

    def digest(self) -> list[bytes]:
        return self.parts


def table_of(*sizes: int) -> tuple[bytes, array[int]]:
    """Return so many bytes of vectors, and the table of where each lies."""
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    rows = [(start, size, KINDS["U8"], 0) for start, size in zip(starts, sizes, strict=True)]
    return os.urandom(sum(sizes)), array("q", chain.from_iterable(rows))


@given(
    sizes=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 200)), max_size=5),
    large=st.sampled_from([0, 262_144, 262_145, 600_000, 2_500_000]),
    tier=st.sampled_from([0, 1, 8]),
)
@settings(max_examples=60)
def test_heads_and_bytes_of_each_are_hashed(
    sizes: list[tuple[int, int]], large: int, tier: int
) -> None:
    if compiled is None:
        return
    if large:  # 256 KiB is kept near at once
        sizes = [(7, large), *sizes, (9, large)]
    heads = tuple(os.urandom(head) for head, _ in sizes)
    data, table = table_of(*(size for _, size in sizes))
    given_ = Hasher(), heads, memoryview(data), table, memoryview(bytearray(64)), bytes(8)
    if tier:
        found = compiled.many(*given_, tier, 12, sign_bits(80_000))[0]
    else:
        found, held = compiled.hash_each(*given_)
        assert held == bytes(len(sizes))
    assert len(found) == len(sizes)
    for head, parts, start, (_, size) in zip(heads, found, table[::4], sizes, strict=True):
        assert b"".join(parts) == head + data[start : start + size]
        assert len(parts[0]) == min(64, len(head) + size)
        assert len(parts) <= 2 or size > 1 << 20
        assert all(len(part) % 64 == 0 for part in parts[:-1])  # as many as there is room for


@pytest.mark.parametrize("tier", [0, 1])
def test_a_large_tensor_that_less_may_hold_is_left_out(tier: int) -> None:
    if compiled is None:
        return
    small, large = (np.ones(size, np.float32).tobytes() for size in (1 << 16, 1 << 17))
    rows = [(0, 1 << 18), (1 << 18, 1 << 19), (3 << 18, 1 << 18)]
    table = array("q", chain.from_iterable((*row, KINDS["F32"], 0) for row in rows))
    data = small + large + small
    for bits in (0, 1 << KINDS["BF16"]):
        tried = bytes([bits]) + bytes(7)
        given_ = blake3(), (b"",) * 3, memoryview(data), table, memoryview(bytearray(64)), tried
        digests, held, *_ = (
            compiled.many(*given_, 1, 12, sign_bits(80_000))
            if tier
            else compiled.hash_each(*given_)
        )
        assert held == bytes([bits] * 3)
        want = [blake3(part).digest() for part in (small, large, small)]
        assert digests == [want[0], None if bits else want[1], want[2]]


def test_what_fails_ends_the_feeding() -> None:
    if compiled is None:
        return
    view = memoryview(bytes(3 << 20))
    calls = []

    def stop(piece: memoryview) -> None:
        calls.append(len(piece))
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        compiled.feed(stop, view)
    assert calls == [1 << 20]
    view.release()  # nobody holds it


ENDED = """
import signal
from lineage.fingerprints.kernel import compiled
signal.signal(signal.SIGINT, signal.default_int_handler)  # who started this may ignore it
calls = []
def update(piece):
    calls.append(len(piece))
    signal.raise_signal(signal.SIGINT)
try:
    compiled.feed(update, memoryview(bytes(3 << 20)))
except KeyboardInterrupt:
    assert calls == [1 << 20]
    print("heard")
"""


def test_who_asks_for_an_end_is_heard_while_bytes_are_fed() -> None:
    if compiled is None:
        return
    done = subprocess.run(  # signals are heard in the first thread alone
        [sys.executable, "-c", ENDED], capture_output=True, text=True, check=True
    )
    assert done.stdout == "heard\n"


@pytest.mark.parametrize("method", ["reset", "update", "digest"])
def test_a_hasher_that_fails_ends_the_hashing(method: str) -> None:
    if compiled is None:
        return
    data, table = table_of(30, 40)
    view, scratch = memoryview(bytearray(data)), memoryview(bytearray(8))
    hasher = Hasher()

    def fails(*_: object) -> None:
        raise KeyError("enough")

    setattr(hasher, method, fails)
    given_ = hasher, (b"a", b"b"), view, table, scratch, bytes(8)
    with pytest.raises(KeyError, match="enough"):
        compiled.hash_each(*given_)
    with pytest.raises(KeyError, match="enough"):
        compiled.many(*given_, 1, 12, sign_bits(64))
    view.release()
    scratch.release()


@pytest.mark.parametrize(
    ("at", "wrong", "error", "reason"),
    [
        (0, object(), AttributeError, "reset"),
        (1, (), ValueError, "not as many heads"),
        (1, (b"",), ValueError, "not as many heads"),
        (1, [b"", b""], TypeError, "tuple"),
        (1, ("", b""), TypeError, "bytes"),
        (1, (b"123456789", b""), ValueError, "no room for a head of 9 bytes"),
        (2, "", TypeError, "bytes-like"),
        (4, memoryview(b"12345678"), BufferError, "writable"),
    ],
)
def test_what_cannot_be_hashed_is_refused(
    at: int, wrong: object, error: type[Exception], reason: str
) -> None:
    if compiled is None:
        return
    data, table = table_of(30, 40)
    given_ = [Hasher(), (b"a", b"b"), memoryview(data), table, memoryview(bytearray(8)), bytes(8)]
    given_[at] = wrong
    for call in (
        compiled.hash_each,
        lambda *given_: compiled.many(*given_, 1, 12, sign_bits(64)),
    ):
        with pytest.raises(error, match=reason):
            call(*given_)


@pytest.mark.parametrize("are_sane", [True, False])
@pytest.mark.parametrize("dtype", ["Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
def test_blocks_are_sketched_as_the_numbers_they_stand_for(dtype: str, are_sane: bool) -> None:
    kind, (per_block, size) = GGMLQuantizationType[dtype], BLOCKS[dtype]
    rng = np.random.default_rng(6)
    layout = Layout(67, 512, 36)
    raw = rng.integers(0, 256, (67 * 512 // per_block, size), dtype=np.uint8)  # any scales: NaNs
    if are_sane:  # the halves that scale a block, in place of random ones
        halves = {"Q6_K": [208], "Q4_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2]}.get(dtype, [0])
        for at in halves:
            scales = rng.normal(0, 0.01, len(raw)).astype("<f2")
            raw[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    with np.errstate(all="ignore"):
        numbers = dequantize(raw, kind).astype(np.float32).reshape(-1)
    sketcher, cut = Sketcher(layout), 11 * 512 // per_block + 1  # pieces that begin within a row
    for start, end in pairwise([0, cut, len(raw)]):
        sketcher.add(memoryview(raw[start:end].tobytes()), dtype, start * per_block)
    found, want = np.array(sketcher._state), np.zeros(36 * 36 + 36 + 36 + 4)
    signs = sign_bits(max(layout.rows, layout.cols))
    folding.add(want, numbers, 0, signs, (512, 0, 67, 0, 512, 36, 1), None)
    assert want[-2] == 0 if are_sane else want[-2] > 0
    energy = want[36 * 37 :][:36].sum()
    np.testing.assert_allclose(found[: 36 * 36], want[: 36 * 36], atol=2e-6 * energy**0.5)
    np.testing.assert_allclose(found[36 * 36 : -3], want[36 * 36 : -3], rtol=1e-5)
    np.testing.assert_array_equal(found[-3:-1], want[-3:-1])


@settings(max_examples=60, deadline=None)
@given(
    tier=st.sampled_from(["full", "fast", "exact"]),
    salt=st.sampled_from(["", "zeros", "nan", "huge", "same", "narrow", "levels"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_small_neighbours_are_measured_as_each_alone(tier: str, salt: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = [(40, 50), (7,), (), (300,), (37, 145), (80, 20, 3), (0, 4), (400, 17), (1, 1)]
    model: dict[str, Array] = {}
    for number, name in enumerate(rng.permutation([*DTYPES] * 2)):
        numbers = rng.normal(size=shapes[number % len(shapes)])
        if salt in {"zeros", "nan", "huge"}:
            salted = {"zeros": 0.0, "nan": np.nan, "huge": 1e30}[salt]
            numbers = np.where(rng.random(numbers.shape) < 0.2, salted, numbers)
        numbers = {"same": np.full_like(numbers, 2.0), "narrow": np.rint(2 * numbers)}.get(
            salt, numbers
        )
        if salt == "levels":
            numbers = 0.01 * rng.integers(-7, 8, numbers.shape)
        with np.errstate(all="ignore"):
            if name in {"I8", "U8"}:
                numbers = np.nan_to_num(numbers, posinf=9, neginf=9).clip(0, 100)
            model[f"{number}.{'attn.c_attn.weight' if number == 3 else 'w'}"] = np.asarray(
                numbers, DTYPES[name]
            )
    with tempfile.TemporaryDirectory() as folder:
        path = write_model(Path(folder) / "m.safetensors", model)
        together = fingerprint(path, tier=tier)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(neighbours, "plain", lambda *_: [])
            alone = fingerprint(path, tier=tier)
    assert to_bytes(together) == to_bytes(alone)


@pytest.mark.parametrize("tier", ["full", "fast", "exact"])
@pytest.mark.parametrize("salt", ["", "nan", "narrow", "levels", "table"])
def test_large_neighbours_are_measured_as_each_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: str, salt: str
) -> None:
    rng = np.random.default_rng(8)
    shapes = [(700, 900), (40, 17_000), (650_000,), (1, 700_000), (600_001, 1), (90, 80, 100)]
    model: dict[str, Array] = {"first": rng.normal(size=(3, 5)).astype(np.float32)}
    for number, name in enumerate([*DTYPES, *DTYPES]):
        numbers = rng.normal(size=shapes[number % len(shapes)])
        if salt == "nan":
            numbers[-1] = np.nan
        numbers = {
            "narrow": np.rint(2 * numbers).clip(-16, 16),
            "levels": 0.01 * rng.integers(-7, 8, numbers.shape),
            "table": rng.choice(rng.normal(size=16), numbers.shape),
        }.get(salt, numbers)
        numbers = np.nan_to_num(numbers).clip(0, 100) if name in {"I8", "U8"} else numbers
        model[f"{number}.w"] = numbers.astype(DTYPES[name])
    path = write_model(tmp_path / "m.safetensors", model)
    together = fingerprint(path, tier=tier)
    monkeypatch.setattr(neighbours, "plain", lambda *_: [])
    alone = fingerprint(path, tier=tier)
    assert together.root == alone.root
    for one, other in zip(together.tensors, alone.tensors, strict=True):
        for field in one.__slots__:
            assert field == "sketch" or getattr(one, field) == getattr(other, field)
        a, b = one.sketch, other.sketch
        assert (a is None) == (b is None) == (tier == "exact")
        if a is None or b is None:
            continue
        assert (a.shape, a.zeros, a.is_flat) == (b.shape, b.zeros, b.is_flat)
        np.testing.assert_allclose(a.core, b.core, atol=2e-6 * b.energy**0.5)
        for x, y in (
            (a.rows, b.rows),
            (a.cols, b.cols),
            (a.energy, b.energy),
            (a.fourth, b.fourth),
        ):
            np.testing.assert_allclose(x, y, rtol=1e-5)


@pytest.mark.parametrize("shape", [(14_000_000,), (2, 7_000_000), (7_000_000, 2)])
def test_extents_of_millions_have_as_many_signs_as_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    numbers = np.random.default_rng(9).integers(-90, 90, shape, dtype=np.int8)
    path = write_model(tmp_path / "m.safetensors", {"w": numbers})
    together = fingerprint(path).tensors[0].sketch
    monkeypatch.setattr(neighbours, "plain", lambda *_: [])
    alone = fingerprint(path).tensors[0].sketch
    assert together is not None
    assert alone is not None
    np.testing.assert_allclose(together.core, alone.core, atol=2e-6 * alone.energy**0.5)


@pytest.mark.skipif(compiled is None, reason="asks the compiled loops")
@pytest.mark.parametrize(
    "row",
    [
        (-1, 16, 0, 2),
        (0, 20, 0, 5),
        (1, 16, 0, 2),
        (0, -4, 0, 1),
        (0, 14, 0, 1),
        (0, 16, 8, 2),
        (0, 16, -1, 2),
        (0, 2**62, 0, 2),
    ],
)
def test_a_table_that_does_not_fit_the_bytes_is_refused(row: tuple[int, ...]) -> None:
    table = np.array([(0, 16, 0, 2), row], np.int64)
    for call in (hashed_of, sketched_of):
        call(table[:1])
        for bad in (table, table.view(np.uint8)[:1, :5].copy()):
            with pytest.raises(ValueError, match="do not fit"):
                call(bad)
    for call in (hashed_of, sketched_of):
        for bad_bits in (b"\0", b"\x01" * 8, bytes(4) + b"\x02" + bytes(3)):
            with pytest.raises(ValueError, match="no such dtypes"):
                call(table[:1], tried=bad_bits)


@pytest.mark.skipif(compiled is None, reason="asks the compiled loops")
@pytest.mark.parametrize("first", [3, 5, -1])
def test_a_matrix_has_whole_rows_and_enough_signs(first: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        sketched_of(np.array([(0, 16, 0, first)], np.int64))
    for every, most, signs in ((0, 12, sign_bits(64)), (1, 0, sign_bits(64)), (1, 12, b"")):
        with pytest.raises(ValueError, match="do not fit"):
            sketched_of(np.array([(0, 16, 0, 2)]), every=every, most=most, signs=signs)


FOUR = np.ones(4, np.float32).tobytes()


def hashed_of(table: np.ndarray, tried: bytes = bytes(8)) -> tuple[list[bytes], bytes]:
    found: tuple[list[bytes], bytes] = compiled.hash_each(*hashing(table), tried)
    return found


def sketched_of(
    table: np.ndarray,
    tried: bytes = bytes(8),
    every: int = 1,
    most: int = 12,
    signs: bytes = sign_bits(64),
) -> tuple[object, ...]:
    found: tuple[object, ...] = compiled.many(*hashing(table), tried, every, most, signs)
    return found


def hashing(table: np.ndarray) -> tuple[object, ...]:
    rows = table.nbytes // 32
    return blake3(), (b"",) * rows, memoryview(FOUR), table, memoryview(bytearray(8))
