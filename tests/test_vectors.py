"""Two implementations of the fingerprint, one written from the specification alone, agree.

Expected values come from the second one (`tests/second`), never from the library. The script that
made them makes the same bytes again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from makers import Array, model_bytes
from second import fingerprint as second
from second import stored
from tensors import models

import lineage
from lineage.errors import LineageError
from lineage.fingerprints import Fingerprint, from_bytes, to_bytes

HERE = Path(__file__).parent / "vectors"
FOLDERS = sorted((HERE / "fingerprint" / "v1").iterdir())
CASES = [folder for folder in FOLDERS if not folder.name.endswith("_fail")]
LIES = [folder for folder in FOLDERS if folder.name.endswith("_fail")]
SCHEMA = json.loads(
    (Path(lineage.__file__).parent / "spec" / "fingerprint-v1.schema.json").read_text("utf-8")
)


def named(folder: Path) -> str:
    return folder.name


def assert_agree(ours: Fingerprint, theirs: dict[str, Any]) -> None:
    """Digests and counts are equal, sketches within what the specification allows."""
    assert (ours.root, ours.content_id, ours.value_id) == (
        theirs["root"], theirs["content_id"], theirs["value_id"],
    )  # fmt: skip
    assert (ours.scheme, ours.size_bytes) == (theirs["scheme"], theirs["size_bytes"])
    for one, two in zip(ours.tensors, theirs["tensors"], strict=True):
        assert (one.name, one.dtype, list(one.shape)) == (two["name"], two["dtype"], two["shape"])
        assert (one.content.hex(), one.value.hex()) == (two["content"], two["value"])
        assert {to: digest.hex() for to, digest in one.rounded} == two["rounded"], one.name
        assert one.nonfinite == two["nonfinite"]
        want = two["sketch"]
        assert (one.sketch is None) == (want is None)
        if one.sketch is None:
            continue
        norm = want["energy"] ** 0.5
        np.testing.assert_allclose(one.sketch.core, want["core"], rtol=0, atol=2e-6 * norm + 1e-37)
        for field in ("rows", "cols", "energy", "fourth"):
            found = getattr(one.sketch, field)
            np.testing.assert_allclose(found, want[field], rtol=1e-5, atol=2.0**-120)
        assert one.sketch.zeros == want["zeros"]
        assert one.sketch.is_flat == want["flat"]


@pytest.mark.parametrize("tier", ["full", "fast", "exact"])
@pytest.mark.parametrize("folder", CASES, ids=named)
def test_the_library_agrees_with_the_second_implementation(folder: Path, tier: str) -> None:
    path = folder / "model.safetensors"
    theirs = second.load(path, tier)
    assert_agree(lineage.fingerprint(path, tier=tier), theirs)
    expected = json.loads((folder / "expected.json").read_text("utf-8"))
    assert theirs["root"] == expected["root"]


@pytest.mark.parametrize("folder", CASES, ids=named)
def test_each_reads_what_the_other_stores(folder: Path) -> None:
    data = (folder / "full.lineage").read_bytes()
    assert_agree(from_bytes(data), stored.from_bytes(data))
    ours = lineage.fingerprint(folder / "model.safetensors")
    assert_agree(ours, stored.from_bytes(to_bytes(ours)))


@pytest.mark.parametrize("folder", LIES, ids=named)
def test_both_refuse_what_must_be_refused(folder: Path) -> None:
    data = (folder / "full.lineage").read_bytes()
    with pytest.raises(LineageError):
        from_bytes(data)
    with pytest.raises(stored.RefusedError):
        stored.from_bytes(data)


@pytest.mark.parametrize("folder", CASES, ids=named)
def test_stored_vectors_follow_the_schema(folder: Path) -> None:
    ours = to_bytes(lineage.fingerprint(folder / "model.safetensors"))
    for data in ((folder / "full.lineage").read_bytes(), ours):
        head, manifest = stored.parts_of(data)
        jsonschema.validate({"lineage": head, "manifest": manifest}, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        broken = [{**manifest[0], "content": "AB"}]
        jsonschema.validate({"lineage": head, "manifest": broken}, SCHEMA)


def test_the_vectors_are_made_again_byte_for_byte(tmp_path: Path) -> None:
    made = tmp_path / "v1"
    script = HERE / "make_fingerprint.py"
    subprocess.run([sys.executable, str(script), str(made)], check=True)
    assert sorted(path.name for path in made.iterdir()) == [folder.name for folder in FOLDERS]
    for folder in FOLDERS:
        for file in folder.iterdir():
            assert (made / folder.name / file.name).read_bytes() == file.read_bytes(), file


@settings(max_examples=60, deadline=None)
@given(model=models())
def test_random_models_have_one_fingerprint(model: dict[str, Array]) -> None:
    data = model_bytes(model)
    assert_agree(lineage.fingerprint(model), second.fingerprint(data))
