"""Two implementations of deltas agree, on the vectors and on adapters drawn at random.

Expected values come from `tests/second/delta.py`, which knows the page, forms every change whole
and has nothing of `lineage`.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from second import delta as second
from second import stored
from vectors import make_delta

from lineage.errors import FormatError
from lineage.fingerprints import fingerprint, from_bytes, to_bytes
from lineage.fingerprints.delta import Delta

VECTORS = Path(__file__).parent / "vectors" / "delta" / "v1"
SCHEMA = json.loads((files("lineage") / "spec" / "fingerprint-v1.schema.json").read_text())


def delta(source: Any) -> Delta:
    found = fingerprint(source).delta
    assert found is not None
    return found


def expected(case: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / case / "expected.json").read_text())
    return found


def assert_same(found: Delta, made: dict[str, Any]) -> None:
    """Identities alike; cores and energies within rule 6."""
    assert (found.id, list(found.codes)) == (made["delta_id"], made["delta_codes"])
    assert set(found.ids) == set(made["delta_ids"])
    np.testing.assert_allclose(found.features, made["features"], atol=1e-9)
    for one, other in zip(found.changes, made["changes"], strict=True):
        assert (one.name, one.kind, list(one.shape)) == (
            other["name"], other["kind"], other["shape"],
        )  # fmt: skip
        norm = max(other["energy"] ** 0.5, 1e-300)
        assert abs(one.energy - other["energy"]) <= 1e-12 * norm**2
        np.testing.assert_allclose(one.core, other["core"], rtol=0, atol=1e-12 * norm)


@pytest.mark.parametrize("case", make_delta.CASES)
def test_a_case_is_measured_as_expected(case: str) -> None:
    found, made = delta(VECTORS / case), expected(case)
    assert_same(found, second.delta(make_delta.CASES[case][3]))
    assert (found.id, list(found.codes)) == (made["delta_id"], made["delta_codes"])
    assert set(found.ids) == set(made["delta_ids"])
    np.testing.assert_allclose(found.features, list(map(float, made["features"])), atol=1e-8)
    for one, other in zip(found.changes, made["changes"], strict=True):
        assert (one.name, one.kind) == (other["name"], other["kind"])
        assert one.energy == pytest.approx(float(other["energy"]), rel=1e-8)
        norm = one.energy**0.5
        assert one.core.sum() == pytest.approx(float(other["core_sum"]), abs=1e-8 * norm)


def test_the_cases_differ_where_they_say_so() -> None:
    ids = {case: expected(case)["delta_id"] for case in make_delta.CASES}
    same = {ids[case] for case in make_delta.SAME}
    assert len(same) == 1
    others = [found for case, found in ids.items() if case not in make_delta.SAME]
    assert len(set(others)) == len(others)
    assert not same & set(others)
    near = set(expected("rescaled")["delta_codes"]) & set(expected("peft")["delta_codes"])
    assert near
    assert not set(expected("dropped")["delta_codes"]) & set(expected("peft")["delta_codes"])


@pytest.mark.parametrize("case", make_delta.REFUSED)
def test_a_broken_adapter_is_refused(case: str) -> None:
    with pytest.raises(FormatError):
        fingerprint(VECTORS / f"{case}_fail")


@pytest.mark.parametrize("case", make_delta.STORED)
def test_each_reads_what_the_other_stores(case: str) -> None:
    data = (VECTORS / case / "full.lineage").read_bytes()
    made = second.delta(make_delta.CASES[case][3])
    read = from_bytes(data)
    assert read.delta is not None
    assert (read.delta.id, list(read.delta.codes)) == (made["delta_id"], made["delta_codes"])
    found = to_bytes(fingerprint(VECTORS / case))
    theirs = stored.from_bytes(found)["changed"]
    assert (theirs["delta_id"], theirs["delta_codes"]) == (made["delta_id"], made["delta_codes"])
    assert to_bytes(from_bytes(found)) == found
    for written in (data, found):
        metadata, manifest = stored.parts_of(written)
        jsonschema.validate({"lineage": metadata, "manifest": manifest}, SCHEMA)


@pytest.mark.parametrize("case", make_delta.REFUSED_STORED)
def test_a_bad_stored_form_is_refused_by_both(case: str) -> None:
    data = (VECTORS / f"{case}_fail" / "full.lineage").read_bytes()
    with pytest.raises((second.RefusedError, stored.RefusedError)):
        stored.from_bytes(data)
    with pytest.raises(FormatError):
        from_bytes(data)


def test_the_vectors_are_what_their_script_makes(tmp_path: Path) -> None:
    make_delta.make(tmp_path / "v1")
    assert contents(VECTORS) == contents(tmp_path / "v1")


def contents(folder: Path) -> dict[Path, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in found}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 90),
    cols=st.integers(1, 90),
    rank=st.integers(1, 40),
    places=st.integers(1, 700),
)
def test_an_adapter_is_measured_alike(
    seed: int, rows: int, cols: int, rank: int, places: int
) -> None:
    draw = np.random.default_rng(seed)
    b, a = draw.standard_normal((rows, rank)), draw.standard_normal((rank, cols))
    shift = draw.standard_normal(places)
    found = delta({"m.0.x.lora_A.weight": a, "m.0.x.lora_B.weight": b, "m.0.y.diff_b": shift})
    # Two that draw a line between them are as good as each other: rule 12.
    made = second.delta({("m.0.x.weight", "delta"): b @ a, ("m.0.y.bias", "delta"): shift})
    assert_same(found, made)
