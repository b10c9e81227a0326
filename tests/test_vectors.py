"""Two implementations of the fingerprint agree: on the vectors, and on models drawn at random.

Expected values come from `tests/second`, which knows the page and nothing of `lineage`. All of it
is run for both kernels: the last test runs this file again with the NumPy one.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import Array, model_bytes
from second import fingerprint as second
from second import stored
from tensors import halves, models, names
from vectors import make_fingerprint

from lineage.artifacts.base import BITS, BLOCKS
from lineage.errors import FormatError, SchemeError
from lineage.fingerprints import Fingerprint, fingerprint, from_bytes, to_bytes

VECTORS = Path(__file__).parent / "vectors" / "fingerprint" / "v1"
CASES = sorted(make_fingerprint.CASES)
NEURONS = sorted(make_fingerprint.NEURONS)
REFUSED = sorted(
    f"{name}_fail" for name in (make_fingerprint.REFUSED | make_fingerprint.REFUSED_NEURONS)
)
TIERS = sorted(second.SCHEMES)
SCHEMA = json.loads((files("lineage") / "spec" / "fingerprint-v1.schema.json").read_text())
SCHEMA_SEES = [
    "type", "scheme", "upper_case_digest", "short_digest", "zeros_below", "rounded_dtype",
    "rounded_digest", "neurons_scheme", "neurons_labels", "neurons_gated", "neurons_no_blocks",
    "neurons_no_units", "neurons_many_units",
]  # fmt: skip


def assert_same(found: Fingerprint, expected: dict[str, Any]) -> None:
    """What `lineage` holds is what the second implementation holds, within the page's bounds."""
    for key in ("root", "content_id", "value_id", "scheme", "size_bytes"):
        assert getattr(found, key) == expected[key], key
    for one, other in zip(found.tensors, expected["tensors"], strict=True):
        assert (one.name, one.dtype, list(one.shape)) == (
            other["name"], other["dtype"], other["shape"],
        )  # fmt: skip
        assert (one.content.hex(), one.value.hex()) == (other["content"], other["value"]), one.name
        assert {to: digest.hex() for to, digest in one.rounded} == other["rounded"], one.name
        assert one.nonfinite == other["nonfinite"], one.name
        assert (one.sketch is None) == (other["sketch"] is None), one.name
        if one.sketch is not None:
            assert_same_sketch(one.name, one.sketch, other["sketch"])


def assert_same_sketch(name: str, one: Any, other: dict[str, Any]) -> None:
    """Counts alike; cores within 1e-6 of the norm, energies within rule 11's error."""
    assert (one.zeros, one.is_flat) == (other["zeros"], other["flat"]), name
    norm = float(np.sqrt(other["energy"]))
    assert np.asarray(one.core).shape == other["core"].shape, name
    # The second implementation rounds once to float32 what it summed exactly: 2^-24 and 2^-150.
    np.testing.assert_allclose(
        one.core, other["core"], rtol=1e-7, atol=1e-6 * norm + 2.0**-149, err_msg=name
    )
    for key in ("rows", "cols", "energy", "fourth"):
        np.testing.assert_allclose(
            getattr(one, key), other[key], rtol=4.1e-6, atol=2.0**-126, err_msg=f"{name} {key}"
        )


def assert_numbers(made: dict[str, Any], expected: dict[str, Any], tier: str) -> None:
    """The few numbers in `expected.json` are those of the stored form beside it."""
    for key in ("root", "content_id", "value_id", "size_bytes"):
        assert made[key] == expected[key]
    assert make_fingerprint.expected_of(made) == expected[tier]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("case", CASES)
def test_a_case_is_measured_as_expected(case: str, tier: str) -> None:
    path = VECTORS / case / "model.safetensors"
    made = second.load(path, tier)
    assert_numbers(made, json.loads((VECTORS / case / "expected.json").read_text()), tier)
    assert_same(fingerprint(path, tier=tier), made)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("case", CASES)
def test_each_reads_what_the_other_stores(case: str, tier: str) -> None:
    path = VECTORS / case / "model.safetensors"
    found, made = fingerprint(path, tier=tier), second.load(path, tier)
    assert_same(from_bytes(stored.to_bytes(made)), made)
    assert_same(found, stored.from_bytes(to_bytes(found)))
    assert_same(from_bytes(to_bytes(found)), made)


@pytest.mark.parametrize("case", CASES)
def test_the_stored_form_of_a_case_is_read(case: str) -> None:
    data = (VECTORS / case / "full.lineage").read_bytes()
    made = stored.from_bytes(data)
    assert_numbers(made, json.loads((VECTORS / case / "expected.json").read_text()), "full")
    assert_same(from_bytes(data), made)


@pytest.mark.parametrize("case", NEURONS)
def test_neurons_are_sketched_alike(case: str) -> None:
    """By rule 21 one bit in 1,000 may differ."""
    data = (VECTORS / case / "full.lineage").read_bytes()
    made, read = stored.from_bytes(data), from_bytes(data)
    found = fingerprint(VECTORS / case / "model.safetensors", neurons=True)
    assert_same(found, made)
    check_schema(data)
    assert found.neurons is not None
    assert read.neurons is not None
    again = from_bytes(to_bytes(read)).neurons
    assert again is not None
    for one in (found.neurons, read.neurons, again):
        assert one.to_json() == made["neurons"]["entry"]
    assert again.raw == read.neurons.raw == made["neurons"]["data"]
    ours, theirs = (np.frombuffer(raw, np.uint8) for raw in (found.neurons.raw, again.raw))
    assert np.unpackbits(ours ^ theirs).mean() <= 0.001
    assert stored.from_bytes(to_bytes(found))["neurons"]["data"] == found.neurons.raw


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_stored_form_is_refused_by_both(case: str) -> None:
    data = (VECTORS / case / "full.lineage").read_bytes()
    with pytest.raises(stored.RefusedError):
        stored.from_bytes(data)
    with pytest.raises(SchemeError if case == "scheme_fail" else FormatError):
        from_bytes(data)


def test_the_vectors_are_what_their_script_makes(tmp_path: Path) -> None:
    make_fingerprint.make(tmp_path / "v1")
    assert contents(VECTORS) == contents(tmp_path / "v1")
    assert {path.parts[0] for path in contents(VECTORS)} == {*CASES, *NEURONS, *REFUSED}


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file's bytes."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in found}


def id_of(case: str, key: str) -> str:
    """One identity that a case expects."""
    return str(json.loads((VECTORS / case / "expected.json").read_text())[key])


def test_the_cases_differ_where_they_say_so() -> None:
    assert id_of("upcast", "value_id") == id_of("upcast_wide", "value_id")
    assert id_of("upcast", "content_id") != id_of("upcast_wide", "content_id")
    assert id_of("base", "root") != id_of("renamed", "root")
    assert id_of("base", "content_id") == id_of("renamed", "content_id")
    traps = [case for case in CASES if case.startswith("trap_")]
    assert len({id_of(case, "root") for case in traps}) == len(traps) == 5
    assert id_of("trap_base", "content_id") == id_of("trap_name", "content_id")
    assert len({id_of(case, "content_id") for case in traps}) == len(traps) - 1


def measured_alike(data: bytes) -> None:
    """Both implementations, in every tier, through both stored forms."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "m.safetensors"
        path.write_bytes(data)
        for tier in TIERS:
            found, made = fingerprint(path, tier=tier), second.load(path, tier)
            assert_same(found, made)
            assert_same(from_bytes(stored.to_bytes(made)), made)
            assert_same(found, stored.from_bytes(to_bytes(found)))
            check_schema(to_bytes(found))


@settings(max_examples=80, deadline=None)
@given(model=models())
def test_any_model_is_measured_alike(model: dict[str, Array]) -> None:
    measured_alike(model_bytes(model))


@settings(max_examples=80, deadline=None)
@given(model=st.dictionaries(names, halves(), min_size=1, max_size=3))
def test_any_halves_are_measured_alike(model: dict[str, Array]) -> None:
    measured_alike(model_bytes(model))


@st.composite
def any_bits(draw: st.DrawFn) -> bytes:
    """One tensor of any sketched dtype, its bits whatever they are."""
    dtype = draw(st.sampled_from(sorted(set(second.NUMPY) - {"BOOL"})))
    rows, cols = draw(st.integers(1, 80)), draw(st.integers(1, 6))
    size = rows * cols * BITS[dtype] // 8
    data = np.random.default_rng(draw(st.integers(0, 2**32))).bytes(size)
    return second.write_safetensors({"w": (dtype, [rows, cols], data)})


@settings(max_examples=150, deadline=None)
@given(data=any_bits())
def test_any_bits_are_measured_alike(data: bytes) -> None:
    measured_alike(data)


@st.composite
def scaled(draw: st.DrawFn) -> bytes:
    """Whole numbers or 8-bit floats beside tensors that are their scales, or are not."""
    rows, cols = draw(st.integers(1, 50) | st.integers(127, 130)), draw(st.integers(1, 5))
    dtype = draw(st.sampled_from(["I8", "F8_E4M3", "F8_E5M2", "U8", "I16", "F16"]))
    model = {"x.weight": make_fingerprint.as_(dtype, rows, cols, times=30)}
    shapes = [[], [1], [1, 1], [2, 1], [rows], [rows, 1], [cols], [1, rows]]
    names = ["x.SCB", "x.weight.scale", "x.weight_scale", "x.weight_scale_inv"]
    for name in draw(st.sets(st.sampled_from(names))):
        shape, kind = (
            draw(st.sampled_from(shapes)),
            draw(st.sampled_from(["F16", "BF16", "F32", "F64"])),
        )
        model[name] = make_fingerprint.as_(kind, *shape, seed=name)
    return second.write_safetensors(model)


@settings(max_examples=80, deadline=None)
@given(data=scaled())
def test_any_scales_are_taken_alike(data: bytes) -> None:
    measured_alike(data)


def check_schema(data: bytes) -> None:
    """A stored form's metadata entry and manifest hold to the schema."""
    metadata, manifest = stored.parts_of(data)
    jsonschema.validate({"lineage": metadata, "manifest": manifest}, SCHEMA)


@pytest.mark.parametrize("case", CASES)
def test_every_stored_vector_holds_to_the_schema(case: str) -> None:
    check_schema((VECTORS / case / "full.lineage").read_bytes())
    for tier in TIERS:
        check_schema(to_bytes(fingerprint(VECTORS / case / "model.safetensors", tier=tier)))


def test_the_schema_knows_the_dtypes_there_are() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["$defs"]["dtype"]["enum"]) == set(BITS) | set(BLOCKS)
    assert set(SCHEMA["$defs"]["lineage"]["properties"]["scheme"]["enum"]) == set(
        second.SCHEMES.values()
    )


@pytest.mark.parametrize("case", SCHEMA_SEES)
def test_the_schema_refuses_what_it_can_see(case: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check_schema((VECTORS / f"{case}_fail" / "full.lineage").read_bytes())


PART = {"name": "q", "axis": 0, "start": 0, "stop": 2, "zeros": 0}


@pytest.mark.parametrize(
    "change",
    [
        lambda _, entry: entry.update(more=1),
        lambda _, entry: entry.update(flat=False),
        lambda _, entry: entry.update(nonfinite=0),
        lambda _, entry: entry.update(nonfinite=1),
        lambda _, entry: entry.update(rounded={}),
        lambda _, entry: entry.update(lattice=[8]),
        lambda _, entry: entry.update(lattice=[8, 0, 0]),
        lambda _, entry: entry.update(shape=[2, -1]),
        lambda _, entry: entry.update(shape=[2.5]),
        lambda _, entry: entry.update(dtype="F33"),
        lambda _, entry: entry.update(parts=[]),
        lambda _, entry: entry.update(parts=[{**PART, "axis": 2}]),
        lambda _, entry: entry.update(parts=[{**PART, "stop": 0}]),
        lambda _, entry: entry.pop("content"),
        lambda _, entry: entry.pop("zeros") and entry.update(flat=True),
        lambda metadata, _: metadata.update(size_bytes=3),
        lambda metadata, _: metadata.update(size_bytes="03"),
        lambda metadata, _: metadata.pop("root"),
        lambda metadata, _: metadata.update(more="1"),
    ],
)
def test_the_schema_refuses_what_no_writer_writes(change: Callable[[Any, Any], object]) -> None:
    data = (VECTORS / "rounded" / "full.lineage").read_bytes()
    metadata, manifest = copy.deepcopy(stored.parts_of(data))
    manifest[0].update(lattice=[8, 0], parts=[dict(PART)], zeros=1)
    jsonschema.validate({"lineage": metadata, "manifest": manifest}, SCHEMA)
    change(metadata, manifest[0])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"lineage": metadata, "manifest": manifest}, SCHEMA)


@pytest.mark.skipif(os.environ.get("LINEAGE_KERNEL") == "numpy", reason="this is that run")
def test_the_numpy_kernel_holds_to_all_of_this_too() -> None:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    alone = ["-p", "no:randomly", "-p", "no:xdist", "-p", "no:cacheprovider", "-p", "no:cov"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *alone, "-q", __file__],
        env={**kept, "LINEAGE_KERNEL": "numpy"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
