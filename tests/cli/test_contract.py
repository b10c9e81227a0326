"""What the commands print with --json is what the schema says."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest
from safetensors.numpy import save_file

from lineage.cli import run

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = json.loads((files("lineage") / "spec" / "commands-v1.schema.json").read_text())


def check(command: str, document: Any) -> None:
    jsonschema.validate(document, {**SCHEMA, "$ref": f"#/$defs/{command}"})


@pytest.fixture
def models(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    base = {f"w{i}": rng.standard_normal((80, 64)).astype(np.float32) for i in range(4)}
    child = {}
    for name, values in base.items():  # along a few directions, as training goes, and all others
        step = rng.standard_normal((80, 4)) @ rng.standard_normal((4, 64)) / 2
        step += rng.standard_normal(values.shape) / 2
        child[name] = (values + 0.2 * step).astype(np.float32)
    save_file(base, tmp_path / "base.safetensors")
    save_file(child, tmp_path / "child.safetensors")
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> Any:
    assert run([str(a) for a in arguments] + ["--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_the_whole_way_prints_what_the_schema_says(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models)
    base, child = "base.safetensors", "child.safetensors"
    check("fingerprint", printed(capsys, "fingerprint", base, child))
    check("compare", printed(capsys, "compare", base, child))
    check("compare", printed(capsys, "compare", base, child, "--explain"))
    inferred = printed(capsys, "infer", ".")
    check("infer", inferred)
    assert [(e["parent"], e["child"]) for e in inferred["edges"]] == [("./" + base, "./" + child)]
    check("key", printed(capsys, "key", "maker.key"))
    made = printed(capsys, "claim", child, "--parent", base, "--key", "maker.key")
    check("claim", made)
    asked = ["verify", made["path"], "--key", "maker.key.pub", "--weights"]
    seen = printed(capsys, *asked, child, "--parent", base)
    check("verify", seen)
    assert seen["parents"][0]["confirmed"]
    refused = printed(capsys, *asked, base, status=1)
    check("verify", refused)
    assert not refused["valid"]
    log = ["append", "log.sqlite", made["path"], "--key", "maker.key", "--origin", "test.example/l"]
    check("append", printed(capsys, *log))
    receipt = made["path"].replace(".json", ".receipt")
    check("check", printed(capsys, "check", made["path"], receipt, "--log-key", "maker.key.pub"))
    check("check", printed(capsys, "check", "log.sqlite", "--log-key", "maker.key.pub"))
    earned = ["--earner", "child", "--amount", "7", "--unit", "cent", "--key", "maker.key.pub"]
    paid = printed(capsys, "settle", made["path"], *earned, "--weights", base, "--weights", child)
    check("settle", paid)
    assert [payout["amount"] for payout in paid["payouts"]] == ["7"]


def test_the_schema_refuses_a_word_that_is_no_relation() -> None:
    edge = {"parent": "a", "child": "b", "relation": "cousin", "how": None}
    document = {"models": [], "edges": [{**edge, "coefficient": None, "probability": 1}]}
    with pytest.raises(jsonschema.ValidationError):
        check("infer", {**document, "pairs": [], "undetermined": [], "declared": []})
