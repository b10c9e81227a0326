"""The commands claim and verify: a maker signs, an auditor checks, a liar is caught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers import Array, write_model
from strategies import KEY, OTHER_KEY

from lineage import fingerprint
from lineage.claims import read as read_claim
from lineage.cli import run
from lineage.signing import Envelope

Say = pytest.CaptureFixture[str]


def model_of(seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {f"{n}.weight": rng.normal(size=(96, 80)).astype(np.float32) for n in range(3)}


def moved(model: dict[str, Array], seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {n: w + (0.2 * rng.normal(size=w.shape)).astype(np.float32) for n, w in model.items()}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base, two children, their merge, a stranger, and two people's keys."""
    monkeypatch.chdir(tmp_path)
    base = model_of(1)
    left, right = moved(base, 2), moved(base, 3)
    blend = {n: (0.7 * left[n] + 0.3 * right[n]).astype(np.float32) for n in base}
    models = {"base": base, "left": left, "right": right, "blend": blend, "stranger": model_of(9)}
    for name, model in models.items():
        write_model(Path(name) / "model.safetensors", model)
    for name, key in (("alice", KEY), ("mallory", OTHER_KEY)):
        key.save(f"{name}.key")
        key.public.save(f"{name}.key.pub")
    return tmp_path


def lineage(capsys: Say, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = run(arguments)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return status, out, err


def as_json(capsys: Say, *arguments: str, status: int = 0) -> Any:
    found, out, err = lineage(capsys, *arguments, "--json")
    assert found == status, err
    return json.loads(out)


def refused(capsys: Say, *arguments: str, status: int = 3) -> str:
    found, out, err = lineage(capsys, *arguments)
    assert found == status, err
    assert out == ""
    assert err.startswith("lineage: ")
    assert err.count("\n") == 1
    return err


CLAIM = ("claim", "left", "--parent", "base", "--key", "alice.key")
VERIFY = ("verify", "left.claim.json", "--key", "alice.key.pub")


def test_a_claim_says_what_the_weights_say(capsys: Say) -> None:
    document = as_json(capsys, *CLAIM)
    assert document["path"] == "left.claim.json"
    assert document["key_id"] == KEY.key_id
    assert document["subject"] == {"name": "left", "id": fingerprint("left").root}
    (parent,) = document["parents"]
    assert parent == {
        "name": "base",
        "id": fingerprint("base").root,
        "relation": "finetune",
        "how": "full",
        "coefficient": None,
    }
    made = read_claim(Envelope.from_bytes(Path("left.claim.json").read_bytes()))
    assert made.subject.root == document["subject"]["id"]
    assert made.splits[0].payee == KEY.key_id
    status, out, err = lineage(capsys, *CLAIM, "-o", "again.json")
    assert (status, err) == (0, "")
    assert "  finetune (full) of base\n" in out
    assert "wrote again.json" in out


def test_a_claim_is_verified_with_and_without_weights(capsys: Say) -> None:
    lineage(capsys, *CLAIM)
    document = as_json(capsys, *VERIFY)
    assert (document["path"], document["valid"]) == ("left.claim.json", True)
    assert document["subject"]["recomputed"] is False
    assert [parent["confirmed"] for parent in document["parents"]] == [False]
    document = as_json(capsys, *VERIFY, "--weights", "left", "--parent", "base")
    assert document["subject"] == {
        "name": "left", "id": fingerprint("left").root, "recomputed": True,
    }  # fmt: skip
    assert document["key_ids"] == [KEY.key_id]
    assert [parent["confirmed"] for parent in document["parents"]] == [True]
    status, out, err = lineage(capsys, *VERIFY, "--weights", "left", "--parent", "base")
    assert (status, err) == (0, "")
    assert "finetune of base: confirmed by the weights" in out
    out = lineage(capsys, *VERIFY)[1]
    assert "not recomputed from weights" in out
    assert "as claimed, not confirmed" in out


def test_saved_fingerprints_stand_for_models(capsys: Say) -> None:
    for name in ("left", "base"):
        lineage(capsys, "fingerprint", name, "-o", f"{name}.lineage")
    lineage(
        capsys, "claim", "left.lineage", "--parent", "base.lineage", "--key", "alice.key",
        "-o", "left.claim.json",
    )  # fmt: skip
    made = read_claim(Envelope.from_bytes(Path("left.claim.json").read_bytes()))
    assert made.subject.root == fingerprint("left").root
    document = as_json(capsys, *VERIFY, "--weights", "left", "--parent", "base.lineage")
    assert document["parents"][0]["confirmed"] is True


def test_a_merge_is_claimed_with_its_shares(capsys: Say) -> None:
    arguments = ("claim", "blend", "--parent", "left", "--parent", "right", "--key", "alice.key")
    document = as_json(capsys, *arguments)
    assert {p["name"]: (p["relation"], p["how"]) for p in document["parents"]} == {
        "left": ("merge", "linear"), "right": ("merge", "linear"),
    }  # fmt: skip
    shares = [parent["coefficient"] for parent in document["parents"]]
    assert shares == pytest.approx([0.7, 0.3], abs=1e-3)
    parents = ("--parent", "left", "--parent", "right")
    verified = as_json(
        capsys, "verify", "blend.claim.json", "--key", "alice.key.pub", "--weights", "blend",
        *parents, "--require-measured",
    )  # fmt: skip
    assert all(parent["confirmed"] for parent in verified["parents"])


def test_a_false_parent_is_refused(capsys: Say) -> None:
    err = refused(capsys, "claim", "left", "--parent", "stranger", "--key", "alice.key", status=1)
    assert "no: " in err
    assert "'left' is not derived from 'stranger'" in err
    assert not Path("left.claim.json").exists()


def test_a_quantized_copy_is_refused_as_its_sources_parent(capsys: Say) -> None:
    rounded = {}
    for name, weights in model_of(1).items():
        step = np.abs(weights).max(axis=1, keepdims=True) / 127
        rounded[name] = (np.rint(weights / step) * step).astype(np.float32)
    write_model(Path("small") / "model.safetensors", rounded)
    refused(capsys, "claim", "base", "--parent", "small", "--key", "alice.key", status=1)
    assert not Path("base.claim.json").exists()
    document = as_json(capsys, "claim", "small", "--parent", "base", "--key", "alice.key")
    assert document["parents"][0]["relation"] == "quantized"


def test_tampered_weights_are_found(capsys: Say) -> None:
    lineage(capsys, *CLAIM)
    weights = Path("left/model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    err = refused(capsys, *VERIFY, "--weights", "left", status=1)
    assert "the weights at hand are" in err
    status, out, err = lineage(capsys, *VERIFY, "--weights", "left", "--json")
    assert status == 1
    document = json.loads(out)
    assert (document["path"], document["valid"]) == ("left.claim.json", False)
    assert document["reason"] in err


def test_a_tampered_claim_is_found(capsys: Say) -> None:
    lineage(capsys, *CLAIM)
    path = Path("left.claim.json")
    envelope = Envelope.from_bytes(path.read_bytes())
    forged = envelope.payload.replace(b'"left"', b'"leet"')
    assert forged != envelope.payload
    made = Envelope(envelope.payload_type, forged, envelope.signatures)
    path.write_bytes(made.to_bytes())
    refused(capsys, *VERIFY, status=1)


def test_only_accepted_keys_count(capsys: Say) -> None:
    lineage(capsys, *CLAIM)
    refused(capsys, "verify", "left.claim.json", "--key", "mallory.key.pub", status=1)
    both = ("--key", "alice.key.pub", "--key", "mallory.key.pub")
    assert lineage(capsys, "verify", "left.claim.json", *both)[0] == 0
    assert "1 accepted" in refused(
        capsys, "verify", "left.claim.json", *both, "--threshold", "2", status=1
    )


def test_an_audience_and_a_strict_policy_are_kept(capsys: Say) -> None:
    lineage(capsys, *CLAIM, "--audience", "example.com/log")
    refused(capsys, *VERIFY, status=1)
    refused(capsys, *VERIFY, "--audience", "example.org", status=1)
    assert lineage(capsys, *VERIFY, "--audience", "example.com/log")[0] == 0
    lineage(capsys, *CLAIM)
    assert "no measurement confirms" in refused(capsys, *VERIFY, "--require-measured", status=1)


def test_shares_and_rates_are_exact(capsys: Say) -> None:
    splits = ("--split", "ann:fine-tuner:2/3", "--split", "urn:bob:labeller:1/3")
    status, _, err = lineage(capsys, *CLAIM, *splits, "--rate", "0.05", "--name", "my left")
    assert (status, err) == (0, "")
    made = read_claim(Envelope.from_bytes(Path("my left.claim.json").read_bytes()))
    assert [(s.payee, s.role, str(s.share)) for s in made.splits] == [
        ("ann", "fine-tuner", "2/3"), ("urn:bob", "labeller", "1/3"),
    ]  # fmt: skip
    assert str(made.rate) == "1/20"


def test_numbers_are_read_as_people_spell_them(capsys: Say) -> None:
    splits = ("--split", "ann:tuner:.50", "--split", "bob:labeller:2/4")
    assert lineage(capsys, *CLAIM, *splits, "--rate", "0.10")[0] == 0
    made = read_claim(Envelope.from_bytes(Path("left.claim.json").read_bytes()))
    assert {str(split.share) for split in made.splits} == {"1/2"}
    assert str(made.rate) == "1/10"


def test_a_split_that_cannot_be_is_wrong_usage_and_named(capsys: Say) -> None:
    for option, words in (
        ("ann:trainer:1/2", "sum to 1/2, not to 1"),
        (":trainer:1", "':trainer:1': payee"),
        ("ann:trainer:0", "'ann:trainer:0': share"),
        ("ann:trainer:1e-3", "like 0.25 or 1/3"),
        ("ann:trainer:1/0", "like 0.25 or 1/3"),
        ("ann:trainer:" + "9" * 5000, "like 0.25 or 1/3"),
    ):
        status, _, err = lineage(capsys, *CLAIM, "--split", option)
        assert status == 2
        assert "--split" in err
        assert words in err


@pytest.mark.parametrize(
    "option",
    [
        ("--rate", "much"),
        ("--rate", "nan"),
        ("--rate", "2"),
        ("--rate", "1/0"),
        ("--split", "ann"),
        ("--split", "ann:trainer:most"),
        ("--split", "ann:trainer:1/2"),
        ("--split", ":trainer:1"),
        ("--name", ""),
        ("--name", "a\nb"),
        ("--name", "x" * 5000),
        ("--relation", "cousin"),
    ],
    ids=" ".join,
)
def test_a_bad_option_writes_nothing(capsys: Say, option: tuple[str, str]) -> None:
    before = sorted(path.name for path in Path().iterdir())
    status, out, err = lineage(capsys, *CLAIM, *option)
    if option == ("--name", ""):
        assert status == 0  # no name is the default name
        return
    assert status in {2, 3}, err
    assert out == ""
    assert err.splitlines()[-1].startswith(("lineage: ", "Error: "))
    assert sorted(path.name for path in Path().iterdir()) == before


def test_a_relation_only_people_know_is_taken_where_weights_do_not_tell(capsys: Say) -> None:
    siblings = ("claim", "left", "--parent", "right", "--key", "alice.key")
    document = as_json(capsys, *siblings, "--relation", "distilled_from")
    assert document["parents"][0]["relation"] == "distilled_from"
    document = as_json(capsys, *CLAIM, "--relation", "merge")
    assert document["parents"][0]["relation"] == "finetune"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("claim", "gone", "--key", "alice.key"), "gone"),
        (("claim", "left", "--key", "gone.key"), "gone.key"),
        (("claim", "left", "--key", "alice.key.pub"), "alice.key.pub"),
        (("claim", "left", "--parent", "gone", "--key", "alice.key"), "gone"),
        (("claim", "left", "--key", "alice.key", "-o", "no/such/folder.json"), "no/such"),
        (("verify", "gone.json", "--key", "alice.key.pub"), "gone.json"),
        (("verify", "left/model.safetensors", "--key", "alice.key.pub"), "left/model.safetensors"),
        (("verify", "left", "--key", "alice.key.pub"), "left"),
    ],
    ids=range(8),
)
def test_what_cannot_be_checked_is_one_line(
    capsys: Say, arguments: tuple[str, ...], part: str
) -> None:
    assert part in refused(capsys, *arguments)


@pytest.mark.parametrize(
    "more",
    [("--parent", "base"), ("--threshold", "2"), ("--threshold", "0"), ("--weights",)],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(capsys: Say, more: tuple[str, ...]) -> None:
    lineage(capsys, *CLAIM)
    status, out, err = lineage(capsys, *VERIFY, *more)
    assert status == 2
    assert out == ""
    assert "Error: " in err


def test_parents_of_one_name_are_kept_apart(capsys: Say) -> None:
    for org, name in (("one", "left"), ("two", "right")):
        write_model(
            Path(org) / "m" / "model.safetensors", moved(model_of(1), {"left": 2, "right": 3}[name])
        )
    document = as_json(
        capsys, "claim", "blend", "--parent", "one/m", "--parent", "two/m", "--key", "alice.key"
    )
    assert len({parent["name"] for parent in document["parents"]}) == 2
    assert {parent["relation"] for parent in document["parents"]} == {"merge"}


def test_one_parent_given_twice_is_refused_or_counted_once(capsys: Say) -> None:
    status, out, err = lineage(
        capsys, "claim", "left", "--parent", "base", "--parent", "./base", "--key", "alice.key"
    )
    assert status in {0, 2, 3}
    if status == 0:
        assert out.count(" of base") == 1
    else:
        assert err.count("\n") == 1
