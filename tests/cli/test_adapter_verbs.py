"""Adapters at the command line: identity, what is in a merged model, and whose base it is."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest
from safetensors.numpy import save_file

from lineage.cli import run

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = json.loads((files("lineage") / "spec" / "commands-v1.schema.json").read_text())
MODULES = [f"model.layers.{n}.self_attn.{part}_proj" for n in range(4) for part in "qv"]


def printed(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> Any:
    assert run([str(word) for word in words] + ["--json"]) == status
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, {**SCHEMA, "$ref": f"#/$defs/{words[0]}"})
    return document


def drawn(seed: int, *shape: int) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base, two adapters of it as peft saves them, one of them as kohya does, and merges."""
    monkeypatch.chdir(tmp_path)
    base = {f"{name}.weight": drawn(n, 64, 48) for n, name in enumerate(MODULES)}
    save_file(base, "base.safetensors")
    save_file({k: v[:, :40].copy() for k, v in base.items()}, "narrow.safetensors")
    save_file({k: v[::-1].copy() for k, v in base.items()}, "other.safetensors")
    digest = hashlib.sha256((tmp_path / "base.safetensors").read_bytes()).hexdigest()
    merged = dict(base)
    for seed, folder, weight in ((100, "one", 0.5), (200, "two", 0.25), (300, "three", 0.0)):
        tensors, flat = {}, {}
        for n, name in enumerate(MODULES):
            b, a = 0.1 * drawn(seed + n, 64, 8), drawn(seed + n, 8, 48)
            tensors |= {f"base_model.model.{name}.lora_A.weight": a}
            tensors |= {f"base_model.model.{name}.lora_B.weight": b}
            key = f"lycoris_{name.replace('.', '_')}"
            flat |= {f"{key}.lora_down.weight": a, f"{key}.lora_up.weight": b}
            flat |= {f"{key}.alpha": np.full((), 16, np.float32)}
            merged[f"{name}.weight"] = merged[f"{name}.weight"] + np.float32(2 * weight) * (b @ a)
        (tmp_path / folder).mkdir()
        save_file(tensors, tmp_path / folder / "adapter_model.safetensors")
        config = {
            "peft_type": "LORA", "r": 8, "lora_alpha": 16, "base_model_name_or_path": "me/base",
            "target_modules": ["q_proj", "v_proj"],
        }  # fmt: skip
        (tmp_path / folder / "adapter_config.json").write_text(json.dumps(config))
        save_file(flat, f"{folder}-kohya.safetensors", {"ss_new_sd_model_hash": digest})
    save_file(merged, "merged.safetensors")
    return tmp_path


def test_one_change_has_one_identity_in_two_dialects(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = printed(capsys, "fingerprint", "one", "one-kohya.safetensors")["fingerprints"]
    assert rows[0]["delta_id"] == rows[1]["delta_id"]
    assert rows[0]["delta_ids"] == rows[1]["delta_ids"]
    assert rows[0]["delta_ids"][0] == rows[0]["delta_id"]
    assert rows[0]["delta_codes"] == rows[1]["delta_codes"]
    assert rows[0]["id"] != rows[1]["id"]
    assert {change["rank"] for change in rows[0]["delta"]["changes"]} == {8}
    other = printed(capsys, "fingerprint", "two", "-o", "two.lineage")["fingerprints"][0]
    assert not set(rows[0]["delta_codes"]) & set(other["delta_codes"])
    again = printed(capsys, "fingerprint", "two.lineage")["fingerprints"][0]
    assert again["delta_id"] == other["delta_id"]
    assert again["delta_codes"] == other["delta_codes"]
    plain = printed(capsys, "fingerprint", "base.safetensors")["fingerprints"][0]
    assert "delta_id" not in plain
    assert run(["fingerprint", "one"]) == 0
    assert "of rank 8" in capsys.readouterr().out


def test_adapters_in_a_merged_model_are_named_with_their_weights(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word for name in ("one", "two", "three") for word in ("--adapter", name)]
    found = printed(capsys, "compare", "merged.safetensors", "base.safetensors", *given)
    shares = found["adapters"]["shares"]
    assert [share["present"] for share in shares] == [True, True, False]
    assert [share["weight"] for share in shares] == pytest.approx([0.5, 0.25, 0], abs=1e-3)
    given = ["--adapter", "three"]
    found = printed(capsys, "compare", "merged.safetensors", "base.safetensors", *given, status=1)
    assert found["adapters"]["left"] > 0.9
    printed(capsys, "compare", "base.safetensors", "base.safetensors", *given, status=3)
    assert run(["compare", "merged.safetensors", "base.safetensors", *given]) == 1
    assert "not in it" in capsys.readouterr().out
    found = printed(capsys, "compare", "one", "two", "--adapter", "one-kohya.safetensors")
    assert [share["present"] for share in found["adapters"]["shares"]] == [False, True]
    assert run(["compare", "one", "two", "--adapter", "base.safetensors"]) == 3
    assert "it is no adapter" in capsys.readouterr().err


def test_a_base_is_denied_by_shapes_and_proved_by_digests_or_weights(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(capsys, "verify-base", "one", "base.safetensors", status=3)
    assert found["is_base"] is None
    found = printed(capsys, "verify-base", "one", "narrow.safetensors", status=1)
    assert len(found["misshapen"]) == len(MODULES)
    merged = ["--merged", "merged.safetensors"]
    printed(capsys, "verify-base", "three", "base.safetensors", *merged, status=1)
    found = printed(capsys, "verify-base", "one-kohya.safetensors", "base.safetensors")
    assert found["declared"][0]["agrees"] is True
    found = printed(capsys, "verify-base", "one-kohya.safetensors", "other.safetensors", status=3)
    assert found["declared"][0]["agrees"] is False
    assert run(["verify-base", "one-kohya.safetensors", "other.safetensors"]) == 3
    assert "declares another base" in capsys.readouterr().err


def test_a_merge_of_one_adapter_proves_its_base(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.numpy import load_file

    base, low = load_file("base.safetensors"), load_file("one/adapter_model.safetensors")
    for name in MODULES:
        a, b = (low[f"base_model.model.{name}.lora_{half}.weight"] for half in "AB")
        base[f"{name}.weight"] = base[f"{name}.weight"] + np.float32(2) * (b @ a)
    save_file(base, "only.safetensors")
    given = ["--merged", "only.safetensors"]
    found = printed(capsys, "verify-base", "one", "base.safetensors", *given)
    assert found["weight"] == pytest.approx(1, abs=1e-4)
    found = printed(capsys, "verify-base", "one", "other.safetensors", *given, status=1)
    assert found["left"] > 0.5
    assert "was not made of it: over 8 matrices" in found["reason"]
    asked = ["compare", "one", "only.safetensors", "--base", "other.safetensors"]
    found = printed(capsys, *asked, status=3)
    assert "was not made of the base" in found["evidence"][0]["words"]


def test_broken_adapters_are_refused_in_one_line(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((here / "one" / "adapter_config.json").read_text())
    (here / "one" / "adapter_config.json").write_text(json.dumps({**config, "r": 4}))
    assert run(["fingerprint", "one"]) == 3
    error = capsys.readouterr().err
    assert "adapter_config.json says 4" in error
    assert "Traceback" not in error


def test_a_claim_binds_the_delta_and_the_scale_beside_the_files(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed(capsys, "key", "maker.key")
    printed(capsys, "claim", "one", "--key", "maker.key", "-o", "one.json")
    identity = printed(capsys, "fingerprint", "one")["fingerprints"][0]["delta_id"]
    asked = ["verify", "one.json", "--key", "maker.key.pub", "--weights", "one"]
    assert printed(capsys, *asked)["delta_id"] == identity
    envelope = json.loads((here / "one.json").read_text())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["predicate"]["delta"]["changed"] == [
        {"at": ["0", "1", "2", "3"], "kind": "delta", "name": name, "rank": "8"}
        for name in ("blk.*.attn_q.weight", "blk.*.attn_v.weight")
    ]
    config = json.loads((here / "one" / "adapter_config.json").read_text())
    path = here / "one" / "adapter_config.json"
    path.write_text(json.dumps({**config, "lora_alpha": 17}))
    found = printed(capsys, *asked, status=1)
    assert "identity" in found["reason"]
    path.unlink()
    assert "identity" in printed(capsys, *asked, status=1)["reason"]


def test_an_adapter_is_claimed_of_its_base(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed(capsys, "key", "maker.key")
    made = ["claim", "one", "--parent", "base.safetensors", "--key", "maker.key"]
    found = printed(capsys, *made, "--relation", "adapter", "-o", "one.json")
    assert found["parents"][0]["relation"] == "adapter"
    asked = ["verify", "one.json", "--key", "maker.key.pub", "--weights", "one"]
    seen = printed(capsys, *asked, "--parent", "base.safetensors")
    assert seen["delta_id"] == found["delta_id"]


def test_a_model_with_adapters_merged_in_is_measured_against_all_it_was_made_of(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed(capsys, "key", "maker.key")
    words = ["--parent", "base.safetensors", "--parent", "one", "--parent", "two"]
    made = printed(capsys, "claim", "merged.safetensors", *words, "--key", "maker.key")
    assert [(p["relation"], p["how"], p["coefficient"]) for p in made["parents"]] == [
        ("finetune", "low_rank", None),
        ("merge", "task_arithmetic", 0.5),
        ("merge", "task_arithmetic", 0.25),
    ]
    asked = ["verify", made["path"], "--key", "maker.key.pub", "--weights", "merged.safetensors"]
    seen = printed(capsys, *asked, *words, "--require-measured")
    assert all(parent["confirmed"] for parent in seen["parents"])
    # One adapter is not all that was merged, and a third is not in it: neither is confirmed.
    for others in (["one"], ["one", "two", "three"]):
        words = [word for path in ("base.safetensors", *others) for word in ("--parent", path)]
        made = printed(capsys, "claim", "merged.safetensors", *words, "--key", "maker.key")
        seen = printed(capsys, *asked, *words)
        assert [parent["confirmed"] for parent in seen["parents"][1:]] == [False] * len(others)
    # The other way round, an adapter was taken off.
    words = ["--parent", "merged.safetensors", "--parent", "one", "--parent", "two"]
    made = printed(capsys, "claim", "base.safetensors", *words, "--key", "maker.key")
    assert not {"merge"} & {parent["relation"] for parent in made["parents"]}


def test_the_data_that_a_claim_names_are_held_against_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, rows in (("mine", [1, 2]), ("again", [2, 1]), ("other", [1, 2, 3])):
        (here / f"{name}.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in rows))
        printed(capsys, "manifest", f"{name}.jsonl", "-o", f"{name}.manifest")
    printed(capsys, "key", "maker.key")
    printed(capsys, "claim", "one", "--trained-on", "mine.manifest", "--key", "maker.key")
    asked = ["verify", "one.claim.json", "--key", "maker.key.pub", "--trained-on"]
    seen = printed(capsys, *asked, "again.manifest")
    assert [one["path"] for one in seen["data"]] == ["again.manifest"]
    assert seen["data"][0]["id"] == seen["parents"][0]["id"]
    assert run([*asked, "again.manifest"]) == 0
    assert "again.manifest has the records that it names" in capsys.readouterr().out
    refused = printed(capsys, *asked, "other.manifest", status=1)
    assert "not said to be trained on the records of other.manifest" in refused["reason"]


def test_an_adapter_whose_change_is_not_in_its_files_says_why(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "vera").mkdir()
    stem = f"base_model.model.{MODULES[0]}.vera_lambda"
    save_file(
        {f"{stem}_b": drawn(1, 64), f"{stem}_d": drawn(1, 4)}, here / "vera" / "adapter.safetensors"
    )
    config = {"peft_type": "VERA", "r": 4, "target_modules": ["q_proj"]}
    (here / "vera" / "adapter_config.json").write_text(json.dumps(config))
    why = "they can be drawn anew where its base is given"
    assert "delta_id" not in printed(capsys, "fingerprint", "vera")["fingerprints"][0]
    assert run(["fingerprint", "vera"]) == 0
    assert why in capsys.readouterr().err
    assert run(["compare", "one", "two", "--adapter", "vera"]) == 3
    assert why in capsys.readouterr().err
    if find_spec("torch") is None:
        assert run(["fingerprint", "vera", "--base", "base.safetensors"]) == 0
        assert "takes torch, which is not installed" in capsys.readouterr().err
        return
    asked = ["fingerprint", "vera", "--base", "base.safetensors"]
    assert printed(capsys, *asked)["fingerprints"][0]["delta"]["family"] == "vera"
    found = printed(capsys, "verify-base", "vera", "base.safetensors", status=3)
    assert found["is_base"] is None
    assert run(["verify-base", "vera", "narrow.safetensors"]) == 3


def test_gains_in_a_merged_model_are_told_by_the_bases_weights(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.numpy import load_file

    gains = {f"{name}.ia3_l": 1 + 0.1 * drawn(n, 64, 1) for n, name in enumerate(MODULES)}
    save_file(gains, "gains.safetensors")
    merged = load_file("base.safetensors")
    for name in MODULES:
        merged[f"{name}.weight"] = merged[f"{name}.weight"] * gains[f"{name}.ia3_l"]
    save_file(merged, "gained.safetensors")
    given = ["gained.safetensors", "base.safetensors", "--adapter", "gains.safetensors"]
    found = printed(capsys, "compare", *given)
    assert found["adapters"]["shares"][0]["weight"] == pytest.approx(1, abs=1e-4)
    asked = ["verify-base", "gains.safetensors", "base.safetensors"]
    assert printed(capsys, *asked, "--merged", "gained.safetensors")["is_base"] is True
    printed(capsys, "fingerprint", "base.safetensors", "-o", "base.lineage")
    given[1] = "base.lineage"
    assert run(["compare", *given]) == 3
    assert "that takes the base's weights" in capsys.readouterr().err
