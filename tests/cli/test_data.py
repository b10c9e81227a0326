"""The verbs for data sets, as a person runs them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_contract import check as fits

from lineage.cli import run
from lineage.datasets.watched import WatchedFile


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"id": n, "text": f"record {n} of a set"}) for n in range(50)]
    Path("v1.jsonl").write_text("\n".join(lines))
    Path("v2.jsonl").write_text("\n".join(lines[:7] + lines[8:]))
    Path("test.jsonl").write_text("\n".join([*lines[40:43], '{"id": 1000}']))
    for name in ("v1", "v2", "test"):
        assert run(["manifest", f"{name}.jsonl", "-o", f"{name}.manifest"]) == 0
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> Any:
    capsys.readouterr()
    assert run([*words, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_a_manifest_is_printed_as_promised(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = printed(capsys, "manifest", "v1.jsonl")
    fits("manifest", made)
    assert (made["records"], made["files"], made["bytes"]) == (
        50,
        1,
        Path("v1.jsonl").stat().st_size,
    )
    saved = printed(capsys, "manifest", "v1.manifest")
    fits("manifest", saved)
    assert saved["root"] == made["root"]
    assert saved["ordered_root"] == made["ordered_root"]
    Path("turned.json").write_text(
        json.dumps([json.loads(x) for x in Path("v1.jsonl").read_text().split("\n")[::-1]])
    )
    turned = printed(capsys, "manifest", "turned.json", "--license", "mit", "--source", "here")
    assert turned["root"] == made["root"]
    assert turned["ordered_root"] != made["ordered_root"]
    assert (turned["licence"], turned["source"]) == ("mit", "here")


def test_an_interrupted_manifest_is_gone_on_with(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path("v1.manifest").read_bytes()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    try:
        with monkeypatch.context() as patch:
            patch.setattr(WatchedFile, "finish", lambda _: signal.raise_signal(signal.SIGINT))
            assert run(["manifest", "v1.jsonl", "-o", "again.manifest"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "the same command goes on from there" in capsys.readouterr().err
    assert Path(".again.manifest.partial").is_dir()
    assert run(["manifest", "v1.jsonl", "-o", "again.manifest"]) == 0
    assert Path("again.manifest").read_bytes() == whole
    assert not Path(".again.manifest.partial").exists()


def test_bad_records_are_one_line_or_a_list(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.jsonl").write_text('{"a": 1}\n{"a": 1, "a": 2}\n{"a": 3}\n')
    capsys.readouterr()
    assert run(["manifest", "bad.jsonl"]) == 3
    error = capsys.readouterr().err
    assert error == "lineage: bad.jsonl: line 2: the key 'a' twice in one object\n"
    made = printed(capsys, "manifest", "bad.jsonl", "--skip-bad-records")
    fits("manifest", made)
    assert (made["records"], made["skipped"]) == (2, 1)
    assert made["skipped_records"][0]["where"] == "line 2"
    assert run(["manifest", "bad.jsonl", "--skip-bad-records"]) == 0
    assert "bad.jsonl: line 2: the key 'a' twice" in capsys.readouterr().out
    assert run(["manifest", "missing.jsonl"]) == 3
    assert run(["manifest", "v1.jsonl", "--as", "cobol"]) == 2
    assert run(["manifest", "v1.jsonl", "--private", "s", "--near"]) == 2


def test_proofs_go_from_hand_to_hand(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = printed(capsys, "manifest", "v1.manifest")["root"]
    record = '{"text": "record 7 of a set", "id": 7}'
    made = printed(capsys, "prove", "v1.manifest", "--record", record, "-o", "there.json")
    fits("prove", made)
    assert (made["kind"], made["count"]) == ("inclusion", 1)
    made = printed(capsys, "prove", "v2.manifest", "--record", record, "-o", "gone.json")
    assert made["kind"] == "absence"
    made = printed(capsys, "prove", "v1.manifest", "v2.manifest", "-o", "removed.json")
    assert made["kind"] == "removal"
    made = printed(capsys, "prove", "v2.manifest", "v1.manifest", "--subset", "-o", "subset.json")
    assert made["kind"] == "subset"
    made = printed(capsys, "prove", "v1.manifest", "--file", "v1.jsonl", "-o", "file.json")
    fits("prove", made)
    for kept in Path().glob("*.jsonl"):
        kept.unlink()  # the data are gone
    for name in ("there", "gone", "removed", "subset", "file"):
        fits("check-proof", printed(capsys, "check-proof", f"{name}.json"))
        assert run(["check-proof", f"{name}.json"]) == 0
    assert run(["check-proof", "there.json", "--root", root, "--record", record]) == 0
    assert (
        run(
            [
                "check-proof",
                "removed.json",
                "--manifest",
                "v1.manifest",
                "--manifest",
                "v2.manifest",
            ]
        )
        == 0
    )
    assert run(["check-proof", "file.json", "--manifest", "v1.manifest"]) == 0


def test_proofs_that_do_not_hold_are_no(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = '{"text": "record 7 of a set", "id": 7}'
    run(["prove", "v1.manifest", "--record", record, "-o", "there.json"])
    run(["prove", "v1.manifest", "v2.manifest", "-o", "removed.json"])
    for words in (
        ["there.json", "--root", "00" * 32],
        ["there.json", "--manifest", "v2.manifest"],
        ["there.json", "--record", "7"],
        ["there.json", "--digest", "00" * 32],
        ["removed.json", "--manifest", "v2.manifest", "--manifest", "v1.manifest"],
    ):
        refused = printed(capsys, "check-proof", *words, status=1)
        fits("check-proof", refused)
        assert not refused["valid"]
    text = Path("there.json").read_text().replace('"inclusion"', '"absence"')
    Path("there.json").write_text(text)
    assert run(["check-proof", "there.json"]) == 1
    Path("there.json").write_text("{}")
    assert run(["check-proof", "there.json"]) == 3
    assert run(["check-proof", "missing.json"]) == 3
    assert run(["check-proof", "there.json", "--root", "8a3c..."]) == 2
    assert run(["prove", "v1.manifest", "v2.manifest", "--subset", "-o", "no.json"]) == 1
    assert not Path("no.json").exists()
    for words in (
        [],
        ["--record", "1", "--digest", "00"],
        ["v2.manifest", "--record", "1"],
        ["--subset"],
    ):
        assert run(["prove", "v1.manifest", *words, "-o", "x.json"]) == 2
    assert run(["prove", "v1.manifest", "--record", "{", "-o", "x.json"]) == 2
    assert run(["prove", "there.json", "--record", "1", "-o", "x.json"]) == 3


def test_a_private_manifest_opens_by_its_secret(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = printed(capsys, "manifest", "v1.jsonl", "--private", "s.key", "-o", "p.manifest")
    assert made["hidden"]
    assert Path("s.key").stat().st_mode & 0o777 == 0o600
    assert printed(capsys, "manifest", "v1.jsonl", "--private", "s.key")["root"] == made["root"]
    record = ["--record", '{"text": "record 7 of a set", "id": 7}']
    assert run(["prove", "p.manifest", *record, "--private", "s.key", "-o", "p.json"]) == 0
    assert run(["check-proof", "p.json", "--root", made["root"], *record]) == 0
    assert run(["prove", "p.manifest", *record, "-o", "p.json"]) == 3
    assert run(["prove", "p.manifest", *record, "--private", "none.key", "-o", "p.json"]) == 3
    Path("bad.key").write_text("not a secret")
    assert run(["prove", "p.manifest", *record, "--private", "bad.key", "-o", "p.json"]) == 3
    assert run(["overlap", "p.manifest", "v1.manifest"]) == 3


def test_overlap_lists_what_leaked(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "overlap", "v1.manifest", "test.manifest")
    fits("overlap", found)
    assert found["distinct_shared"] == 3
    assert (found["a"]["in_other"], found["b"]["in_other"]) == (3, 3)
    assert [row["record"] for row in found["b"]["shared"]] == [0, 1, 2]
    assert found["a"]["near"] is None
    for name in ("v1", "test"):
        assert run(["manifest", f"{name}.jsonl", "--near", "-o", f"{name}.manifest"]) == 0
    found = printed(capsys, "overlap", "v1.manifest", "test.manifest")
    fits("overlap", found)
    assert found["b"]["near"]["records"] >= 3
    assert run(["overlap", "v1.manifest", "test.manifest"]) == 0
    assert "3 of 4 records (75.00%) are in the other" in capsys.readouterr().out
    assert run(["overlap", "v1.manifest", "test.manifest", "--threshold", "0"]) == 2


def test_checking_a_proof_needs_no_numbers(data: Path) -> None:
    run(["prove", "v1.manifest", "v2.manifest", "-o", "removed.json"])
    code = (
        "import sys; from lineage.cli import run\n"
        "assert run(['check-proof', 'removed.json']) == 0\n"
        "assert not {'numpy', 'pyarrow', 'lineage.datasets', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_words_of_the_test_are_found_in_training(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "the quick brown fox jumps over the lazy dog and then it sleeps all day"
    Path("train").mkdir()
    Path("train/0.jsonl").write_text(json.dumps({"text": "other"}) + "\n")
    Path("train/1.txt").write_text(f"nothing\n{text.title()}, as it was told.\n")
    Path("test.json").write_text(json.dumps([{"q": "short"}, {"q": text, "a": "fox"}]))
    found = printed(capsys, "overlap", "train", "test.json", "--ngrams", "13", "--near")
    fits("overlap", found)
    assert found["distinct_shared"] == 0
    assert found["b"]["near"]["records"] == 0
    assert found["ngrams"] == {
        "words": 13, "share": "0", "records": 2, "too_short": 1, "contaminated": 1,
        "contaminated_records": [
            {
                "file": "test.json", "record": 1, "runs": 3, "seen": 3,
                "training": {"file": "1.txt", "record": 1},
            }
        ],
    }  # fmt: skip
    assert run(["overlap", "train", "test.json", "--ngrams", "8", "--share", "0.7"]) == 0
    told = capsys.readouterr().out
    assert "1 of 1 records with 8 words or more have such a run in the other" in told
    assert "  test.json: record 1, 8 of 8 runs, as in 1.txt: record 1" in told
    for words, status in (
        (["train", "test.json", "--share", "0.7"], 2),
        (["train", "test.json", "--ngrams", "8", "--share", "1.5"], 2),
        (["train", "test.json", "--ngrams", "8", "--share", "most"], 2),
        (["train", "test.json", "--ngrams", "0"], 2),
        (["v1.manifest", "test.json", "--ngrams", "8"], 2),
        (["train", "missing.json"], 3),
    ):
        assert run(["overlap", *words]) == status
    found = printed(capsys, "overlap", "v1.manifest", "v2.jsonl")  # a manifest, and data
    assert found["distinct_shared"] == 49
    assert found["ngrams"] is None
