"""The commands fingerprint, compare and infer, as a person and a program use them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers import Array, container, entry, small_model, write_index, write_model, write_sharded

from lineage import fingerprint
from lineage.cli import COMMANDS, prints, run
from lineage.fingerprints import cache

Say = pytest.CaptureFixture[str]


def model_of(seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {f"{n}.weight": rng.normal(size=(96, 80)).astype(np.float32) for n in range(3)}


def child_of(model: dict[str, Array], seed: int, size: float = 0.2) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {n: w + (size * rng.normal(size=w.shape)).astype(np.float32) for n, w in model.items()}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models: a base, its child, a stranger, and a file that lies."""
    monkeypatch.chdir(tmp_path)
    base = model_of(1)
    write_model(tmp_path / "models" / "base.safetensors", base)
    write_model(tmp_path / "models" / "child.safetensors", child_of(base, 2))
    write_model(tmp_path / "models" / "stranger.safetensors", model_of(3))
    lie = container({"w\x1b[2J": entry("F32", [3, 3], 0, 16)}, bytes(16))
    Path("lie.safetensors").write_bytes(lie)
    return tmp_path


def lineage(capsys: Say, *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = run(arguments)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert "\x1b" not in out + err
    return status, out, err


def as_json(capsys: Say, *arguments: str, status: int = 0) -> Any:
    found, out, err = lineage(capsys, *arguments, "--json")
    assert found == status, err
    return json.loads(out)


def refused(capsys: Say, *arguments: str) -> str:
    """The one line said where something could not be checked."""
    status, out, err = lineage(capsys, *arguments)
    assert status == 3, err
    assert out == ""
    assert err.startswith("lineage: ")
    assert err.count("\n") == 1
    return err


# fingerprint


def test_fingerprint_prints_the_contract(capsys: Say) -> None:
    path = "models/base.safetensors"
    document = as_json(capsys, "fingerprint", path)
    assert list(document) == ["fingerprints"]
    (row,) = document["fingerprints"]
    made = fingerprint(path)
    assert {"path", "id", "content_id", "bytes", "tensors", "seconds"} <= set(row)
    assert (row["path"], row["id"], row["content_id"]) == (path, made.root, made.content_id)
    assert (row["bytes"], row["tensors"]) == (3 * 96 * 80 * 4, 3)
    assert row["value_id"] == made.value_id
    assert row["seconds"] >= 0
    assert row["warnings"] == []
    status, out, err = lineage(capsys, "fingerprint", path)
    assert (status, err) == (0, "")
    assert out.startswith(f"{made.root}  {path}  3 tensors, 92.2 kB")


def test_paths_are_echoed_as_given(capsys: Say, folder: Path) -> None:
    for path in ("./models/base.safetensors", str(folder / "models" / "base.safetensors")):
        (row,) = as_json(capsys, "fingerprint", path)["fingerprints"]
        assert row["path"] == path
    rows = as_json(capsys, "fingerprint", "./models/")["fingerprints"]
    assert [os.path.normpath(row["path"]) for row in rows] == [
        f"models/{name}.safetensors" for name in ("base", "child", "stranger")
    ]


def test_a_saved_fingerprint_stands_for_its_model(capsys: Say) -> None:
    (one,) = as_json(capsys, "fingerprint", "models/base.safetensors", "-o", "b.lineage")[
        "fingerprints"
    ]
    (other,) = as_json(capsys, "fingerprint", "b.lineage")["fingerprints"]
    assert (one["id"], one["bytes"]) == (other["id"], other["bytes"])
    assert other["path"] == "b.lineage"
    assert sorted(path.name for path in Path().iterdir()) == [
        "b.lineage", "lie.safetensors", "models",
    ]  # fmt: skip
    first = Path("b.lineage").read_bytes()
    lineage(capsys, "fingerprint", "models/base.safetensors", "-o", "b.lineage")
    assert Path("b.lineage").read_bytes() == first


def test_several_models_are_saved_in_a_folder(capsys: Say) -> None:
    status, _, _ = lineage(capsys, "fingerprint", "models", "-o", "prints/new")
    assert status == 0
    saved = sorted(Path("prints/new").iterdir())
    assert len(saved) == 3
    assert {fingerprint(path).root for path in saved} == {
        fingerprint(path).root for path in Path("models").iterdir()
    }


def test_models_of_one_name_do_not_overwrite_each_other(capsys: Say) -> None:
    for seed, org in enumerate(("one", "two")):
        write_model(Path(org) / "x" / "model.safetensors", model_of(seed))
    status, _, _ = lineage(
        capsys, "fingerprint", "one/x/model.safetensors", "two/x/model.safetensors", "-o", "prints"
    )
    assert status == 0
    assert len({fingerprint(path).root for path in Path("prints").iterdir()}) == 2


def test_one_bad_model_among_several_does_not_hide_the_others(capsys: Say) -> None:
    paths = ["models/base.safetensors", "lie.safetensors", "models/child.safetensors"]
    status, out, err = lineage(capsys, "fingerprint", *paths, "--json")
    assert status == 3
    rows = json.loads(out)["fingerprints"]
    assert [row["path"] for row in rows] == [paths[0], paths[2]]
    assert err.count("\n") == 1
    for part in ("lineage: lie.safetensors: ", "takes 36 bytes", "\\x1b"):
        assert part in err


@pytest.mark.parametrize("bad", ["gone.safetensors", "empty", "gone/m.safetensors"])
def test_one_path_without_a_model_does_not_hide_the_others(capsys: Say, bad: str) -> None:
    Path("empty").mkdir()
    paths = ["models/base.safetensors", bad, "models/child.safetensors"]
    status, out, err = lineage(capsys, "fingerprint", *paths, "--json")
    assert status == 3
    assert err.count("\n") == 1
    assert bad in err
    assert len(json.loads(out)["fingerprints"]) == 2


def test_every_tier_gives_one_id_and_tiers_do_not_mix(capsys: Say) -> None:
    ids = set()
    for tier in ([], ["--fast"], ["--exact"]):
        name = f"{len(ids)}{''.join(tier)}.lineage"
        made = as_json(capsys, "fingerprint", "models/base.safetensors", *tier, "-o", name)
        (row,) = made["fingerprints"]
        ids.add((row["id"], row["content_id"], row["value_id"], row["scheme"]))
        assert as_json(capsys, "compare", name, name)["relation"] == "identical"
    assert len(ids) == 3
    assert len({found[:3] for found in ids}) == 1
    err = refused(capsys, "compare", "0.lineage", "1--fast.lineage")
    assert "cannot be compared" in err


def test_digests_are_those_of_the_files(capsys: Say) -> None:
    path = Path("models/base.safetensors")
    (row,) = as_json(capsys, "fingerprint", str(path), "--digests")["fingerprints"]
    data = path.read_bytes()
    (found,) = row["digests"]["files"]
    assert found["sha256"] == hashlib.sha256(data).hexdigest()
    after = data[8 + int.from_bytes(data[:8], "little") :]
    assert found["modelspec.hash_sha256"] == f"0x{hashlib.sha256(after).hexdigest()}"
    _, text, _ = lineage(capsys, "fingerprint", str(path), "--digests")
    assert found["sha256"] in text
    assert row["digests"]["oms"]["sha256"] in text


def test_a_claim_is_never_checked_from_the_cache(
    capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forged(self: object) -> dict[str, object]:
        raise AssertionError("the cache was asked")

    monkeypatch.setattr(cache.Cache, "load", forged)
    model, base = "models/child.safetensors", "models/base.safetensors"
    both = ("--parent", base, "--key")
    assert lineage(capsys, "key", "k.key")[0] == 0
    assert lineage(capsys, "claim", model, *both, "k.key", "-o", "c.json")[0] == 0
    found = lineage(capsys, "verify", "c.json", "--weights", model, *both, "k.key.pub")
    assert found[0] == 0, found
    with pytest.raises(AssertionError, match="was asked"):
        monkeypatch.setenv("LINEAGE_DEBUG", "1")
        run(["fingerprint", model])


def test_warnings_are_said_on_stderr(capsys: Say) -> None:
    broken = small_model()
    broken["norm.weight"][3] = np.nan
    write_model(Path("broken.safetensors"), broken)
    status, out, err = lineage(capsys, "fingerprint", "broken.safetensors", "--json")
    assert status == 0
    (line,) = json.loads(out)["fingerprints"][0]["warnings"]
    assert "norm.weight" in line
    assert err == f"broken.safetensors: {line}\n"


def test_sharded_models_and_their_file_have_one_id(capsys: Say) -> None:
    tensors = model_of(1)
    write_sharded(Path("sharded"), [{n: w} for n, w in tensors.items()])
    rows = as_json(capsys, "fingerprint", "sharded", "models/base.safetensors")["fingerprints"]
    assert rows[0]["id"] == rows[1]["id"]
    assert rows[0]["path"] == "sharded"


def test_output_that_cannot_be_written_is_named(capsys: Say) -> None:
    Path("taken").mkdir()
    assert "taken" in refused(capsys, "fingerprint", "models/base.safetensors", "-o", "taken")
    Path("file").write_text("x")
    err = refused(capsys, "fingerprint", "models/base.safetensors", "-o", "file/x.lineage")
    assert "file" in err


# compare


def test_compare_prints_the_contract(capsys: Say) -> None:
    a, b = "models/base.safetensors", "./models/child.safetensors"
    document = as_json(capsys, "compare", a, b)
    assert {
        "a", "b", "related", "relation", "how", "direction", "log10_p", "null", "evidence",
    } <= set(document)  # fmt: skip
    assert (document["a"], document["b"]) == (a, b)
    assert document["related"] is True
    assert (document["relation"], document["how"]) == ("finetune", "full")
    assert document["direction"] == "a->b"
    assert document["log10_p"] < -100
    assert document["null"]
    assert as_json(capsys, "compare", b, a)["direction"] == "b->a"
    status, out, err = lineage(capsys, "compare", a, b)
    assert (status, err) == (0, "")
    assert out.startswith(f"{a}  and  {b}: related\n  finetune (full): {a} -> {b}\n")
    assert "p = 10^-" in out


def test_compare_explains_itself_with_controls(capsys: Say) -> None:
    base, child, stranger = (f"models/{n}.safetensors" for n in ("base", "child", "stranger"))
    plain, full = (as_json(capsys, "compare", base, child, *more) for more in ([], ["--explain"]))
    assert {k: v for k, v in full.items() if k != "explanation"} == plain
    found = full["explanation"]
    assert found["relatedness"]["agree"] == found["relatedness"]["matrices"] == 3
    assert found["relatedness"]["z"] > 40 > 4 > abs(found["controls"][1]["cosine"]) * 40
    status, out, err = lineage(capsys, "compare", base, child, "--explain")
    assert (status, err) == (0, "")
    for words in ("agree in 3 of 3 matrices", "controls:", "signs by lot", "no  low rank: ",
                  "bf16 would leave", "base.safetensors -> child.safetensors: a lean"):  # fmt: skip
        assert words in out
    status, out, _ = lineage(capsys, "compare", base, stranger, "--explain")
    assert status == 1
    assert "agree in 0 of 3 matrices" in out
    assert "not asked: the two are not related" in out


def test_compare_says_no_and_cannot_say(capsys: Say) -> None:
    document = as_json(
        capsys, "compare", "models/base.safetensors", "models/stranger.safetensors", status=1
    )
    assert document["related"] is False
    assert document["relation"] is document["how"] is document["direction"] is None
    write_model(Path("other.safetensors"), small_model())
    document = as_json(capsys, "compare", "models/base.safetensors", "other.safetensors", status=3)
    assert document["related"] is None
    status, out, _ = lineage(capsys, "compare", "models/base.safetensors", "other.safetensors")
    assert status == 3
    assert "undetermined" in out


def test_models_of_one_name_are_told_apart(capsys: Say) -> None:
    base = model_of(1)
    write_model(Path("one/model.safetensors"), base)
    write_model(Path("two/model.safetensors"), child_of(base, 2))
    _, out, _ = lineage(capsys, "infer", "one", "two")
    assert "one/model.safetensors\n  two/model.safetensors  finetune" in out
    _, out, _ = lineage(capsys, "compare", "one/model.safetensors", "two/model.safetensors")
    assert "orthogonal to one/model.safetensors than to two/model.safetensors" in out
    os.chdir("one")
    _, out, _ = lineage(capsys, "compare", ".", "../two", "--explain")
    assert "orthogonal to . than to two" in out


def test_shares_are_said_where_they_say_something(capsys: Say) -> None:
    path = "models/base.safetensors"
    for other in (path, "models/child.safetensors"):
        assert as_json(capsys, "compare", path, other)["shares"] is not None
        assert "share:" not in lineage(capsys, "compare", path, other)[1]


def test_compare_takes_saved_fingerprints(capsys: Say) -> None:
    lineage(capsys, "fingerprint", "models/base.safetensors", "-o", "base.lineage")
    document = as_json(capsys, "compare", "base.lineage", "models/base.safetensors")
    assert (document["relation"], document["how"]) == ("identical", "same")
    assert "the same weights" in lineage(capsys, "compare", "base.lineage", "base.lineage")[1]


@pytest.mark.parametrize("command", ["compare", "infer", "fingerprint"])
def test_bad_input_is_one_line_that_names_it(capsys: Say, command: str) -> None:
    more = ["models/base.safetensors"] if command == "compare" else []
    err = refused(capsys, command, "lie.safetensors", *more)
    assert err.startswith("lineage: lie.safetensors: tensor 'w\\x1b[2J': ")
    assert "No such file" in refused(capsys, command, "gone\n.safetensors", *more)
    Path("m.bin").write_bytes(b"")
    assert "empty" in refused(capsys, command, "m.bin", *more)
    Path("junk.lineage").write_bytes(b"junk" * 9)
    assert "junk.lineage: not a fingerprint" in refused(capsys, command, "junk.lineage", *more)
    os.mkfifo("pipe.safetensors")
    assert "not a regular file" in refused(capsys, command, "pipe.safetensors", *more)
    Path("empty").mkdir()
    assert "empty: the folder is empty" in refused(capsys, command, "empty", *more)
    refused(capsys, command, "x" * 300, *more)
    write_model(Path("steered") / "m.safetensors", small_model())
    write_index(Path("steered"), {"w": "\x1b[2J\n.safetensors"})
    refused(capsys, command, "steered", *more)


# infer


def test_infer_prints_the_contract(capsys: Say) -> None:
    document = as_json(capsys, "infer", "models")
    assert {"models", "edges", "pairs"} <= set(document)
    paths = [f"models/{name}.safetensors" for name in ("base", "child", "stranger")]
    assert [set(model) for model in document["models"]] == [{"path", "id", "family"}] * 3
    assert [model["path"] for model in document["models"]] == paths
    assert [model["id"] for model in document["models"]] == [fingerprint(p).root for p in paths]
    (edge,) = document["edges"]
    assert set(edge) == {"parent", "child", "relation", "how", "coefficient", "probability"}
    assert (edge["parent"], edge["child"]) == (paths[0], paths[1])
    assert (edge["relation"], edge["how"], edge["coefficient"]) == ("finetune", "full", None)
    assert 0.5 < edge["probability"] < 1
    assert [set(pair) for pair in document["pairs"]] == [{"a", "b", "score", "related"}] * 3
    related = {(pair["a"], pair["b"]): pair["related"] for pair in document["pairs"]}
    assert related == {
        (paths[0], paths[1]): True, (paths[0], paths[2]): False, (paths[1], paths[2]): False,
    }  # fmt: skip


def test_infer_draws_what_it_prints(capsys: Say) -> None:
    status, out, err = lineage(
        capsys, "infer", "models", "--svg", "f.svg", "--html", "f.html", "--mermaid", "f.mmd"
    )
    assert status == 0
    assert err == "wrote f.svg\nwrote f.html\nwrote f.mmd\n"
    assert out.splitlines() == [
        "base.safetensors",
        out.splitlines()[1],
        "stranger.safetensors",
    ]
    assert out.splitlines()[1].startswith("  child.safetensors  finetune full  p=0.")
    for name in ("f.svg", "f.html", "f.mmd"):
        text = Path(name).read_text(encoding="utf-8")
        assert "child" in text
        assert "stranger" in text


def test_infer_takes_paths_fingerprints_and_folders_once_each(capsys: Say) -> None:
    lineage(capsys, "fingerprint", "models/base.safetensors", "-o", "base.lineage")
    document = as_json(
        capsys, "infer", "base.lineage", "models/child.safetensors", "models/child.safetensors"
    )
    (edge,) = document["edges"]
    assert (edge["parent"], edge["child"]) == ("base.lineage", "models/child.safetensors")
    assert len(document["models"]) == 2


def test_infer_holds_cards_against_weights(capsys: Say) -> None:
    base = model_of(1)
    for name, model, parent in (
        ("base", base, None), ("true", child_of(base, 5), "org/base"),
        ("liar", model_of(8), "base"),
    ):  # fmt: skip
        write_model(Path("hub") / name / "model.safetensors", model)
        Path("hub", name, "config.json").write_text("{}")
        said = f"base_model: {parent}\n" if parent else "license: mit\n"
        Path("hub", name, "README.md").write_text(f"---\n{said}---\n")
    document = as_json(capsys, "infer", "hub")
    found = {row["child"]: (row["parent"], row["verdict"]) for row in document["declared"]}
    assert found == {
        "hub/true": ("hub/base", "confirmed"), "hub/liar": ("hub/base", "contradicted"),
    }  # fmt: skip
    _, out, _ = lineage(capsys, "infer", "hub")
    assert "contradicted: liar declares base; unrelated" in out
    Path("hub", "true", "README.md").write_text("---\nbase_model: [\n---\n")
    # A card that cannot be read, or a model, is left out; the rest is not lost.
    status, out, err = lineage(capsys, "infer", "hub")
    assert (status, err.count("\n")) == (3, 1)
    assert "README.md" in err
    assert "true  finetune" in out
    Path("hub", "liar", "model.safetensors").write_bytes(b"short")
    status, out, err = lineage(capsys, "infer", "hub")
    assert (status, err.count("\n")) == (3, 2)
    assert "liar" not in out
    assert "true" in out


def test_names_in_files_cannot_steer_a_terminal(capsys: Say) -> None:
    name = "ev\x1b[2Jil\u202e.safetensors"
    write_model(Path("models") / name, model_of(9))
    for command in ("fingerprint", "infer"):
        status, out, err = lineage(capsys, command, "models")
        assert status == 0
        assert "\u202e" not in out + err
    status, out, err = lineage(capsys, "compare", f"models/{name}", f"models/{name}")
    assert (status, err) == (0, "")
    assert "\u202e" not in out


# The frame


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps_with_an_example(capsys: Say, command: str) -> None:
    for flag in ("--help", "-h"):
        status, out, err = lineage(capsys, command, flag)
        assert (status, err) == (0, "")
        assert f"\n  Example:\n      lineage {command} " in out
        assert "\\b" not in out


def test_the_group_lists_every_command(capsys: Say) -> None:
    status, out, _ = lineage(capsys, "--help")
    assert status == 0
    assert all(f"  {command} " in out for command in COMMANDS)
    assert "..." not in out.partition("Commands:")[2]  # each is said whole, in one line
    status, out, _ = lineage(capsys, "--version")
    assert status == 0
    assert out.startswith("lineage, version ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-verb"],
        ["fingerprint"],
        ["fingerprint", "--no-such-option", "x"],
        ["compare", "one"],
        ["compare", "one", "two", "three"],
        ["infer"],
        ["infer", "models", "--svg"],
        ["claim"],
        ["verify"],
        ["demo", "--seed", "x"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(capsys: Say, arguments: list[str]) -> None:
    status, out, err = lineage(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert err


def test_a_fault_of_ours_is_no_answer(capsys: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("slip\x1b[2J")

    monkeypatch.setattr("lineage.cli.measure.load", fail)
    status, out, err = lineage(capsys, "compare", "a", "b")
    assert (status, out, err.count("\n")) == (3, "", 1)
    assert "a fault in lineage itself" in err
    monkeypatch.setenv("LINEAGE_DEBUG", "1")
    with pytest.raises(RuntimeError):
        run(["compare", "a", "b"])


def test_an_empty_path_is_not_the_current_folder(capsys: Say) -> None:
    assert "the path is empty" in refused(capsys, "fingerprint", "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_the_terminal_has_no_characters_for_is_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    path = tmp_path / "modèle-模型.safetensors"
    write_model(path, small_model(0))
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding))
    assert run(["fingerprint", str(path), "--json"]) == 0
    assert json.loads(out.getvalue().decode(encoding))["fingerprints"][0]["path"] == str(path)
    assert run(["fingerprint", str(path)]) == 0
    assert ("模型" if encoding == "utf-8" else r"\u6a21\u578b") in out.getvalue().decode(encoding)


@pytest.mark.parametrize(
    "line",
    ["m", "m n", "--exact m", "m --fast", "m -o out", "--output out m --json", "--no-cache m",
     "m --digests --exact", "-o o --no-cache --fast a b --json --digests"],
)  # fmt: skip
def test_a_plain_line_means_what_click_makes_of_it(line: str) -> None:
    from lineage.cli.measure import fingerprint as command
    from lineage.cli.verbs import group

    words = line.split()
    # Within the group: a command keeps the help options of the first context that it was in.
    above = group.make_context("lineage", ["fingerprint", *words])
    assert prints.options(words) == command.make_context("fingerprint", words, above).params


@pytest.mark.parametrize(
    "line", ["", "--json", "m --help", "m -o", "m -o -x", "-oout m", "--output=out m", "-- m",
             "- m", "--exact --fast m", "m -o a -o b", "--no", "m --unknown"],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_click(line: str) -> None:
    assert prints.options(line.split()) is None
