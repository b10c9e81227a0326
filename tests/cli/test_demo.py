"""The demonstration, told on its miniature family."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from makers import train_family

from lineage.cli import run
from lineage.cli.measure import graph_text
from lineage.demo import story
from lineage.demo.family import MINIATURE
from lineage.errors import FormatError
from lineage.ledgers import Ledger
from lineage.signing import Ed25519Key

Say = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, story.Outcome, list[str]]:
    out = tmp_path_factory.mktemp("demo") / "new"
    heard: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(story, "make_family", lambda out, seed, **_: train_family(out, seed))
        return out, story.tell(out, seed=1, recipe=MINIATURE, progress=heard.append), heard


def test_the_story_ends_as_it_should(told: tuple[Path, story.Outcome, list[str]]) -> None:
    _, outcome, heard = told
    assert {(e.parent, e.child) for e in outcome.graph.edges} == set(outcome.truth.edges())
    assert set(outcome.refused) == {"false-heir", "false-origin"}
    assert len(outcome.accepted) == 9
    assert outcome.log_size == 11
    assert {v.child for v in outcome.verdicts if v.verdict == "contradicted"} == {
        "false-heir", "false-origin",
    }  # fmt: skip
    assert sum(payout.amount for payout in outcome.settlement.payouts) == story.AMOUNT
    paid = {payout.payee for payout in outcome.settlement.payouts}
    assert {"emil", "ben", "chen", "ada", "cora", "lea"} == paid
    assert list(outcome.seconds) == [
        "train", "fingerprint", "infer", "sign, log, verify, pay",
    ]  # fmt: skip
    assert "fingerprinting" in heard


def test_the_readme_shows_the_family_that_is_found(
    told: tuple[Path, story.Outcome, list[str]],
) -> None:
    """But for the numbers: those are of larger networks."""

    def lines(text: str) -> set[str]:
        plain = re.sub(r"  p=.*|  \(.*| -?\d\.\d+|: .*|unrelated.*", "", text)
        return {line.strip() for line in plain.splitlines()}

    readme = (Path(__file__).parents[2] / "README.md").read_text()
    shown = readme.split("From the weights alone:\n\n")[1].split("\n\n")[0]
    _, outcome, _ = told
    assert lines(shown) == lines(graph_text(outcome.graph, list(outcome.verdicts)))


def test_everything_it_made_is_left_in_its_folder(
    told: tuple[Path, story.Outcome, list[str]], capsys: Say
) -> None:
    out, _, _ = told
    assert sorted(path.name for path in out.iterdir()) == [
        "claims", "family.html", "family.json", "family.svg", "fingerprints", "keys", "log.sqlite",
        "models",
    ]  # fmt: skip
    ET.parse(out / "family.svg")
    document = json.loads((out / "family.json").read_text())
    assert {"models", "edges", "pairs", "declared", "refused", "settlement"} <= set(document)
    assert len(Ledger.open(out / "log.sqlite", Ed25519Key.load(out / "keys" / "log.key"))) == 11
    # A visitor can check it with the commands alone.
    for name, status in (("blend", 0), ("docs-lora", 0), ("false-heir", 1), ("false-origin", 1)):
        found = run(
            [
                "verify", str(out / "claims" / f"{name}.claim.json"),
                "--key", str(out / "keys" / f"{name}.key.pub"),
                "--weights", str(out / "models" / name),
                *(
                    part
                    for parent in ("base", "base-sft-code", "base-sft-docs", "stranger")
                    for part in ("--parent", str(out / "fingerprints" / f"{parent}.lineage"))
                ),
            ]
        )  # fmt: skip
        assert found == status, capsys.readouterr().err
        found = run(
            [
                "check", str(out / "claims" / f"{name}.claim.json"),
                str(out / "claims" / f"{name}.claim.receipt"),
                "--log-key", str(out / "keys" / "log.key.pub"), "--origin", story.ORIGIN,
            ]
        )  # fmt: skip
        assert found == 0, capsys.readouterr().err


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(story, "tell", partial(story.tell, recipe=MINIATURE))
    monkeypatch.setattr(story, "make_family", lambda out, seed, **_: train_family(out, seed))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_prints_the_contract_and_can_be_run_again(quick: Path, capsys: Say) -> None:
    assert run(["demo", "--out", "d", "--seed", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    document: dict[str, Any] = json.loads(out)
    assert list(document) == [
        "models", "edges", "pairs", "undetermined", "declared", "refused", "payouts", "seconds",
        "files",
    ]  # fmt: skip
    assert document["files"] == ["d/family.svg", "d/family.html", "d/family.json"]
    assert all((quick / name).is_file() for name in document["files"])
    assert sum(payout["amount"] for payout in document["payouts"]) == story.AMOUNT
    first = {model["path"]: model["id"] for model in document["models"]}

    assert run(["demo", "--out", "d", "--seed", "1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0].startswith("Trained 11 small networks in ")
    assert "9 signed claims accepted, 2 refused (false-heir, false-origin); 11 logged" in out
    assert "blend earned 100,000 credits: " in out
    assert "d/family.svg" in out
    again = json.loads(Path("d/family.json").read_text())
    assert {model["path"]: model["id"] for model in again["models"]} == first


def test_a_folder_with_something_else_is_left_alone(
    quick: Path, capsys: Say, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for name, words in (("mine", "no demonstration"), ("file", "not a folder")):
        assert run(["demo", "--out", name]) == 3
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"lineage: {name}: ")
        assert words in err
        assert err.count("\n") == 1
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(FormatError):
        story.tell(tmp_path / "mine")
