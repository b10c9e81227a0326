"""The counting of `benchmarks/attacks`: which pairs are asked about, and what was found."""

from __future__ import annotations

import json
import math
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "attacks"))

import answers
import asking
import counting
import folders
import found
import pairs
import pictures
import scoring
from folders import Folder
from pairs import Pair


def pair(kind: str, score: float, called: bool | None = True, **more: Any) -> Pair:
    return Pair("f", more.pop("a", "a"), more.pop("b", "b"), kind, "units-permuted", "none",
                {"align": score, "AWM": score}, {"align": called}, **more)  # fmt: skip


STRANGERS = [pair("none", 0.3, None), pair("none", 0.5, False), pair("none", math.nan)]


def test_a_peer_must_be_above_all_strangers_and_our_command_above_those_it_accuses() -> None:
    over = counting.thresholds([*STRANGERS, pair("disguise", 0.9)])
    assert over == {"AWM": 0.5}
    assert counting.found_by(pair("disguise", 0.4), "align", over)
    assert not counting.found_by(pair("disguise", 0.4, None), "align", over)
    assert not counting.found_by(pair("disguise", 0.5), "AWM", over)
    assert counting.found_by(pair("disguise", 0.6, None), "AWM", over)
    assert not counting.found_by(pair("disguise", math.nan), "AWM", over)
    accused = counting.thresholds([*STRANGERS, pair("none", 0.4, True)])
    assert accused == {"align": 0.4, "AWM": 0.5}
    assert not counting.found_by(pair("disguise", 0.4), "align", accused)


def test_auroc_counts_pairs_above_strangers_and_silence_as_lowest() -> None:
    high, low, silent = (pair("disguise", s) for s in (0.6, 0.4, math.nan))
    assert counting.auroc([high], STRANGERS, "align") == 1
    assert counting.auroc([low], STRANGERS, "align") == pytest.approx(2 / 3)
    assert counting.auroc([silent], STRANGERS, "align") == pytest.approx(0.5 / 3)
    assert counting.auroc([high, low], STRANGERS, "align") == pytest.approx(5 / 6)
    assert math.isnan(counting.auroc([], STRANGERS, "align"))


def test_tables_tell_found_false_and_undone() -> None:
    strangers = [*STRANGERS[:2], pair("none", 0.35, True)]
    for number, stranger in enumerate(strangers):
        stranger.role, stranger.disguised = pairs.STRANGERS[number // 2], number
    told = counting.markdown(
        [*strangers, pair("disguise", 0.6), pair("disguise", 0.4, None, undone=1e-7)]
    )
    assert "2 positive pairs, 3 of strangers." in told
    assert "| f | student | 2 | 1 | 1 | 0 | 0 |" in told
    assert "| f | same data | 1 | 0 | 0 | 1 | 1 |" in told
    assert "| units-permuted | 1/2 (0.833) | - | - |" in told
    assert "| f | 1/2 (0.833) | 1/2 (0.833) |" in told
    assert "| child | 1/2 | 1/2 |" in told
    assert "| f | 1/2 | - | - | - | - | - |" in told


def test_a_method_that_says_nothing_of_a_family_is_not_counted() -> None:
    silent = Pair("g", "a", "b", "disguise", "norms-folded", "none", {"AWM": math.nan})
    told = counting.markdown([*STRANGERS, pair("disguise", 0.6), silent])
    assert "| g | 0/1 (-) | - |" in told
    assert "| disguise, then none | 1/2 | 1/1 |" in told


def test_p_of_strangers_is_counted_by_family() -> None:
    strangers = [pair("none", 0.1, None, log10_p=value) for value in (-0.1, -0.4, -1.5, -5.0)]
    told = counting.markdown([*strangers, pair("disguise", 0.6, log10_p=-99.0)])
    row = "| 4 | 0.7500 | 0.5000 | 0.5000 | 0.5000 | 0.2500 | 0.2500 | 1e-05 |"
    assert f"| f {row}" in told
    assert f"| all {row}" in told


def test_experts_of_a_mixture_are_told_apart_from_those_of_a_dense_model() -> None:
    of = {"child": 1.0, "base": 0.5, "mixture": 0.25}
    several = [pair("shape", 0.6, role=role, experts=share) for role, share in of.items()]
    assert "| f | - | - | - | - | 0.750 of 2 | 0.250 of 1 |" in counting.markdown(several)


def test_a_denial_is_told_from_silence() -> None:
    related = [pair("shape", 0.1, called) for called in (True, None, False)]
    assert "| f | shape | 1/3 |" in counting.markdown([*STRANGERS, *related])


def test_seconds_are_means_of_what_was_answered() -> None:
    several = [pair("none", 0.1, seconds={"align": s}) for s in (1.0, 2.0, None)]
    told = counting.markdown([*several, pair("disguise", 0.6, seconds={"align": 0.25})])
    assert "| f | 0.250 | 1.500 |" in told


# Pairs


def truth(siblings: int = 0) -> dict[str, Any]:
    """Two trees on one text, a twin of the second's start, a student of the first's base."""
    names = [
        ("base", "base", "r"), ("child", "child", "r"), ("other", "stranger", "s"),
        ("late", "stranger", "s"), ("twin", "shared_init", "t"), ("student", "student", "u"),
        *((f"sibling-{n}", "sibling", "r") for n in range(siblings)),
    ]  # fmt: skip
    made = [
        ("units-permuted+tuned", "disguise", True, "tuned", ["child"]),
        ("blocks-copied", "partial", True, "none", ["child", "other"]),
        ("experts-trained", "shape", True, "none", ["child"]),
        ("experts-trained+experts-cut", "shape", True, "none", ["child"]),
        ("other+everything", "stranger", False, "none", ["other"]),
    ]
    keys = ("path", "kind", "related", "follow_up", "sources")
    return {
        "family": "f", "base": "base.model", "child": "child.model",
        "models": [{"path": f"{n}.model", "id": n, "role": role, "roots": [root]}
                   for n, role, root in names],
        "made": [dict(zip(keys, row, strict=True)) for row in made],
        "roots": {
            "r": {"data": "p", "start": 1, "student_of": []},
            "s": {"data": "p", "start": 2, "student_of": []},
            "t": {"data": "q", "start": 2, "student_of": []},
            "u": {"data": "p", "start": 4, "student_of": ["r"]},
        },
    }  # fmt: skip


def test_what_was_made_is_asked_about_with_its_kin() -> None:
    asked = [p for p in pairs.pairs_of(truth(siblings=3), 0, seed=0) if p.is_positive]
    roles = {b: Counter(p.role for p in asked if p.b == b) for b in {p.b for p in asked}}
    kin = {"child": 1, "base": 1, "sibling": 2}
    assert roles == {
        "units-permuted+tuned": kin,
        "blocks-copied": {"child": 1},
        "experts-trained": kin,
        "experts-trained+experts-cut": {**kin, "mixture": 1},
    }
    tuned = next(p for p in asked if p.b == "units-permuted+tuned")
    assert (tuned.a, tuned.steps, tuned.follow_up) == ("child.model", "units-permuted", "tuned")
    mixture = next(p for p in asked if p.role == "mixture")
    assert mixture.a == "experts-trained"


def test_strangers_share_no_root_and_no_start() -> None:
    asked = [p for p in pairs.pairs_of(truth(), 999, seed=0) if not p.is_positive]
    told = {frozenset((p.a, p.b)): (p.role, p.disguised) for p in asked}
    assert len(told) == len(asked)
    hidden = "units-permuted+tuned"
    assert told[frozenset((hidden, "other.model"))] == ("same data", 1)
    assert told[frozenset((hidden, "other+everything"))] == ("same data", 2)
    assert told[frozenset((hidden, "student.model"))] == ("student", 1)
    assert told[frozenset(("other.model", "student.model"))] == ("same data", 0)
    assert told[frozenset(("base.model", "twin.model"))] == ("same recipe", 0)
    assert told[frozenset(("blocks-copied", "student.model"))] == ("student", 1)
    for a, b in [("blocks-copied", "other.model"), ("other+everything", "late.model"),
                 ("twin.model", "other.model"), ("twin.model", "blocks-copied"),
                 ("twin.model", "other+everything"), (hidden, "base.model")]:  # fmt: skip
        assert frozenset((a, b)) not in told


def test_strangers_are_drawn_of_every_sort_in_turns_and_the_same_each_time() -> None:
    first, again, other = (
        [p for p in pairs.pairs_of(truth(), 9, seed) if not p.is_positive] for seed in (0, 0, 1)
    )
    assert [(p.a, p.b) for p in first] == [(p.a, p.b) for p in again]
    assert [(p.a, p.b) for p in first] != [(p.a, p.b) for p in other]
    counts = Counter((p.role, p.disguised) for p in first)
    assert len(first) == 9
    # both disguised: only the tree of the other root is, beside the child's
    assert set(counts) == {("student", 0), ("student", 1), ("same data", 0), ("same data", 1),
                           ("same data", 2), ("same recipe", 0), ("same recipe", 1)}  # fmt: skip
    assert max(counts.values()) == 2


def test_a_truth_without_roots_is_refused() -> None:
    old = truth()
    del old["roots"]
    with pytest.raises(ValueError, match="no roots; make it again"):
        pairs.pairs_of(old, 1, seed=0)


# What was found


def test_layers_come_from_where_they_were_taken() -> None:
    assert found.layers({"layers-dropped:order/layers": np.array([0, 2])}, 2) == [0, 2]
    assert found.layers({"units-permuted:order/units.0": np.arange(3)}, 2) == [0, 1]
    assert found.layers({"partial:layers": np.array([1])}, 3) == [None, 1, None]


def test_units_are_right_when_they_come_from_where_they_do(tmp_path: Path) -> None:
    cut, moved = np.array([3, 0, 5, 2]), np.array([1, 0, 2, 3])
    arrays = {"block.0.mlp..b": np.array([0, 1, 2]), "block.0.mlp..a": np.array([0, 3, 4])}
    folders.write(tmp_path, Folder({}, arrays))
    true = {"units-cut:order/units.0": cut, "units-permuted:order/units.0": moved}
    assert found.units(tmp_path / "model.safetensors", true) == 0.5
    lost = {**true, "units-permuted:order/units.1": moved}
    assert found.units(tmp_path / "model.safetensors", lost) == 0.25


def blocks(*said: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {"a": place, "b": place, "units": [{"b": b, "a": a} for b, a in one]}
        for place, one in enumerate(said)
    ]


def test_experts_are_right_when_they_come_from_where_they_do() -> None:
    copied = {"experts-copied:experts": np.zeros(2, int)}
    assert found.experts(blocks([("0", ""), ("1", "")]), copied) == 1
    assert found.experts(blocks([("0", ""), ("1", "")], [("0", "")]), copied) == 0.75
    elsewhere = [{**blocks([("0", ""), ("1", "")])[0], "a": 1}]
    assert found.experts(elsewhere, copied) == 0
    before = {"experts-trained:experts": np.array([2, 0, 1])}
    # models 1, 2, 0 in this order, then the first and the last of them are kept
    cut = {"experts-trained:experts": np.array([1, 2, 0]), "experts-cut:experts": np.array([0, 2])}
    assert found.experts(blocks([("0", "2"), ("1", "1")]), cut, before) == 1
    assert found.experts(blocks([("0", "0"), ("1", "1")]), cut, before) == 0.5
    assert found.experts(blocks([("", "")]), {"units-cut:order/units.0": np.arange(3)}) is None


# Asking


def test_an_answer_is_kept_and_a_line_that_was_cut_off_is_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    one, two = pair("disguise", 0.1, b="one"), pair("disguise", 0.1, b="two")
    kept = answers.Answers(file)
    kept.keep("lineage", "x", one, {"scores": {"align": 2.0}, "undone": 1e-7, "notes": ["n"]})
    kept.keep("lineage", "x", two, {"scores": {"align": None}})
    assert one.scores == {"align": 2.0, "AWM": 0.1} and one.undone == 1e-7 and one.notes == ["n"]
    file.write_bytes(file.read_bytes()[:-5])

    again = answers.Answers(file)
    first, second = pair("disguise", 0.1, b="one"), pair("disguise", 0.1, b="two")
    assert again.take("lineage", "x", [first, second]) == [second]
    assert first.scores["align"] == 2.0
    assert again.take("lineage", "another", [first]) == [first]
    assert again.take("peers", "x", [first]) == [first]
    again.keep("lineage", "x", second, {"scores": {"align": None}})
    assert [json.loads(line)["b"] for line in file.read_text().splitlines()] == ["one", "two"]


def test_a_digest_is_of_what_files_hold(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text("1")
    before = answers.digest([file])
    assert before == answers.digest([file])
    file.write_text("2")
    assert before != answers.digest([file])


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[asking.Worker]:
    made = asking.Worker(sys.executable, tmp_path)
    yield made
    made.close()


def write_stream(folder: Path, seed: int) -> None:
    """Write a small model around a stream, its tokens with it."""
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (64, 16), "model.norm.weight": (16,)}
    for layer in range(2):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{x}_proj.weight": (16, 16) for x in "qkvo"}
        shapes |= {f"{at}.mlp.{x}_proj.weight": (48, 16) for x in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj.weight": (16, 48)}
        norms = ("input_layernorm", "post_attention_layernorm")
        shapes |= {f"{at}.{norm}.weight": (16,) for norm in norms}
    arrays = {n: rng.normal(size=shape).astype(np.float32) for n, shape in shapes.items()}
    vocabulary = {f"word-{row}": row for row in range(64)}
    folders.write(folder, Folder({"model_type": "llama"}, arrays, vocabulary))


def test_the_verbs_are_asked_in_a_process_that_stays(tmp_path: Path, worker: asking.Worker) -> None:
    place = tmp_path / "f"
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_stream(place / name, seed)
    np.savez(place / "b.maps.npz", nothing=np.zeros(1))
    same = asking.asked(pair("disguise", math.nan), place, worker)
    assert same["called"] == {"compare": True, "align": True}
    assert same["undone"] == 0 and same["layers"] is True and same["units"] == 1
    assert same["seconds"]["align"] > 0 and not same["notes"]
    process = worker._process
    strangers = asking.asked(pair("none", math.nan, b="c"), place, worker)
    assert strangers["called"]["align"] is None and "undone" not in strangers
    assert worker._process is process
    missing = asking.asked(pair("none", math.nan, b="no-such"), place, worker)
    assert len(missing["notes"]) == 2 and missing["log10_p"] is None


def test_a_run_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    told = truth() | {"made": []}
    told["models"] = told["models"][:3:2]  # the base and a stranger
    for name, seed in (("base", 1), ("other", 2)):
        write_stream(tmp_path / "f" / f"{name}.model", seed)
    (tmp_path / "f" / "truth.json").write_text(json.dumps(told))
    asked = scoring.Questions(tmp_path, ["f"], cores=1, peers=False)
    said: list[str] = []
    first = scoring.score(asked, answers.Answers(tmp_path / "kept.jsonl"), said.append)
    assert [(p.role, p.called["align"]) for p in first] == [("same data", None)]
    again = scoring.score(asked, answers.Answers(tmp_path / "kept.jsonl"), said.append)
    assert again == first
    assert said == ["f: lineage: 0 of 1 pairs are known", "f: 1 of 1 asked",
                    "f: lineage: 1 of 1 pairs are known"]  # fmt: skip
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 1


# Pictures


def test_pictures_show_every_cell_and_every_family(tmp_path: Path) -> None:
    strangers = [pair("none", 0.1, None, log10_p=value) for value in (-0.1, -0.4, -1.5, -500.0)]
    drawn = scoring.draw([*strangers, pair("disguise", 0.6), pair("disguise", 0.4, None)], tmp_path)
    assert [path.name for path in drawn] == ["matrix-f.svg", "null.svg"]
    shapes = [ET.fromstring(path.read_text()) for path in drawn]
    words = [[e.text for e in shape.iter() if e.tag.endswith("text")] for shape in shapes]
    assert words[0].count("1/2") == 1 and words[0].count("-") == 6
    assert "units-permuted" in words[0]
    assert "f, 4" in words[1]
    line = next(e for e in shapes[1].iter() if e.tag.endswith("polyline"))
    numbers = [float(x) for point in line.attrib["points"].split() for x in point.split(",")]
    assert all(math.isfinite(x) and x >= 0 for x in numbers)


def test_all_and_none_are_far_apart_in_colour() -> None:
    assert pictures._shade(1.0) == "#0b5fa5"
    assert pictures._shade(0.0) == "#b5651d"
    assert len({pictures._shade(share) for share in (0.0, 0.25, 0.75, 1.0)}) == 4
