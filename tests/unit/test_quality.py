"""The scoring of `benchmarks/quality`, on families small enough to score by hand."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "quality"))

import baselines
import figures
import intervals
import scores
from commands import Lineage, Nameless, answer
from figures import Scored
from scores import Answer, Said
from truth import Model, Truth, together

FULL = (("finetune", "full"),)
LINEAR = (("merge", "linear"),)


def step(name: str, *parents: str, **known: Any) -> Model:
    return Model(name, parents, **{"answers": FULL, **known})


ROOT = Model("root", init="seed-1")
TWIN = Model("twin", init="seed-1")
COPY = Model("copy", ("root",), (("identical", "renamed"),))
LEFT, RIGHT = step("left", "root"), step("right", "root")
GRANDCHILD = step("grandchild", "left")
SECRET = step("secret", "root", is_hidden=True)
HEIR = step("heir", "secret", seen_answers=FULL)
BLEND = step("blend", "left", "right", answers=LINEAR, coefficients={"left": 0.6, "right": 0.4})
STRANGER = Model("stranger", init="seed-2")
STUDENT = Model("student", init="seed-3", teachers=("root",))
TREE = Truth([ROOT, TWIN, COPY, LEFT, RIGHT, GRANDCHILD, SECRET, HEIR, BLEND, STRANGER, STUDENT])


def said(parent: str, child: str, relation: str = "finetune", how: str | None = "full",
         coefficient: float | None = None, probability: float | None = 0.9) -> Said:  # fmt: skip
    return Said(parent, child, relation, how, coefficient, probability)


PERFECT = (
    said("copy", "root", "identical", "renamed"), said("root", "left"), said("copy", "right"),
    said("left", "grandchild"), said("root", "heir"), said("left", "blend", "merge", "linear", 0.6),
    said("right", "blend", "merge", "linear", 0.4),
)  # fmt: skip


def rights(records: list[dict[str, Any]], key: str) -> dict[str, bool]:
    return {record[key]: record["right"] for record in records}


def test_a_perfect_answer_has_nothing_wrong() -> None:
    perfect = Answer(PERFECT)
    assert all(e["found"] for e in scores.edges(TREE, perfect))
    assert all(e["right"] for e in scores.said(TREE, perfect))
    assert all(m["right"] for m in scores.models(TREE, perfect))
    assert [r["right"] for r in scores.roots(TREE, perfect)] == [True]
    assert scores.misses(TREE, perfect) == []


def test_an_answer_without_edges_is_right_about_lone_models_only() -> None:
    found = rights(scores.models(TREE, Answer()), "model")
    assert {n for n, right in found.items() if right} == {"root", "twin", "stranger", "student"}
    assert not any(e["found"] for e in scores.edges(TREE, Answer()))
    assert [r["said"] for r in scores.roots(TREE, Answer())] == [None]


@pytest.mark.parametrize(
    ("parent", "child", "verdict"),
    [
        ("root", "left", "right"),
        ("copy", "left", "right"),
        ("root", "copy", "right"),
        ("copy", "root", "right"),
        ("root", "heir", "right"),
        ("left", "root", "reversed"),
        ("left", "copy", "reversed"),
        ("left", "right", "sibling"),
        ("root", "grandchild", "ancestor"),
        ("grandchild", "root", "descendant"),
        ("left", "heir", "kin"),
        ("root", "twin", "shared_init"),
        ("root", "stranger", "stranger"),
        ("root", "student", "distilled"),
    ],
)
def test_what_a_named_parent_truly_is(parent: str, child: str, verdict: str) -> None:
    (record,) = scores.said(TREE, Answer((said(parent, child),)))
    assert (record["verdict"], record["right"]) == (verdict, verdict == "right")


def test_one_wrong_parent_costs_recall_precision_and_its_model() -> None:
    edges = (*(e for e in PERFECT if e.child != "grandchild"), said("root", "grandchild"))
    scored = Scored(
        edges=scores.edges(TREE, Answer(edges)), said=scores.said(TREE, Answer(edges)),
        models=scores.models(TREE, Answer(edges)), roots=scores.roots(TREE, Answer(edges)),
    )  # fmt: skip
    assert figures.recall()(scored).value == pytest.approx(6 / 7)
    assert figures.precision()(scored).value == pytest.approx(6 / 7)
    assert [m["model"] for m in scored.models if not m["right"]] == ["grandchild"]
    assert figures.right_roots(scored).value == 1
    (missed,) = scores.misses(TREE, Answer(edges))
    assert missed["said"] == ["root (ancestor p 0.90)"]


def test_a_reversed_edge_is_found_in_either_direction_only() -> None:
    scored = Scored(edges=scores.edges(TREE, Answer((said("left", "root"),))))
    assert figures.recall()(scored).value == 0
    assert figures.undirected(scored).value == pytest.approx(1 / 7)


def test_half_a_merge_is_not_its_set_of_parents() -> None:
    edges = tuple(e for e in PERFECT if (e.parent, e.child) != ("right", "blend"))
    assert rights(scores.models(TREE, Answer(edges)), "model")["blend"] is False


def test_a_copy_not_tied_to_its_model_is_missed_though_its_children_are_found() -> None:
    edges = PERFECT[1:]
    found = {e["child"]: e["found"] for e in scores.edges(TREE, Answer(edges))}
    assert [child for child, seen in found.items() if not seen] == ["root"]
    wrong = {m["model"] for m in scores.models(TREE, Answer(edges)) if not m["right"]}
    assert wrong == {"copy"}


def test_a_copy_is_not_charged_for_what_its_model_came_from() -> None:
    truth = Truth([ROOT, LEFT, RIGHT, Model("again", ("left",), (("identical", "same"),))])
    edges = (said("right", "again"), said("again", "left", "identical"), said("root", "right"))
    wrong = {m["model"] for m in scores.models(truth, Answer(edges)) if not m["right"]}
    assert wrong == {"left"}


def test_a_copy_found_through_another_copy_is_found() -> None:
    second = Model("second", ("copy",), (("identical", "same"),))
    truth = Truth([ROOT, COPY, second])
    edges = (said("root", "second", "identical"), said("second", "copy", "identical"))
    assert [e["found"] for e in scores.edges(truth, Answer(edges))] == [True, True]


def test_children_of_a_hidden_root_have_no_parent_among_each_other() -> None:
    truth = Truth([Model("top", is_hidden=True), step("a", "top"), step("b", "top")])
    assert all(m["right"] for m in scores.models(truth, Answer()))
    assert scores.edges(truth, Answer()) == []
    assert scores.roots(truth, Answer()) == []
    (wrong,) = scores.said(truth, Answer((said("a", "b"),)))
    assert wrong["verdict"] == "sibling"
    assert truth.kind("a", "b") == "related"


def test_of_a_merge_with_a_hidden_ingredient_the_others_are_enough() -> None:
    blend = step("blend", "left", "secret", answers=LINEAR)
    truth = Truth([ROOT, LEFT, SECRET, blend])
    for parents, right in ((("left",), True), (("left", "root"), True), (("root",), False)):
        edges = (said("root", "left"), *(said(p, "blend") for p in parents))
        assert rights(scores.models(truth, Answer(edges)), "model")["blend"] is right


def test_the_base_of_a_merge_need_not_be_found_but_may_be() -> None:
    blend = step("blend", "root", "left", "right", answers=(("merge", "ties"),),
                 unneeded=frozenset({"root"}))  # fmt: skip
    truth = Truth([ROOT, LEFT, RIGHT, blend])
    edges = (said("root", "left"), said("root", "right"), said("left", "blend"),
             said("right", "blend"))  # fmt: skip
    for named in (Answer(edges), Answer((*edges, said("root", "blend")))):
        assert all(m["right"] for m in scores.models(truth, named))
        assert all(e["right"] for e in scores.said(truth, named))
        assert figures.recall()(Scored(edges=scores.edges(truth, named))).value == 1


def test_two_starts_that_reach_as_far_are_no_root() -> None:
    truth = Truth([ROOT, LEFT, RIGHT, GRANDCHILD, step("other", "right")])
    edges = (said("left", "grandchild"), said("right", "other"))
    assert [r["said"] for r in scores.roots(truth, Answer(edges))] == [None]


def test_kinds_of_pairs() -> None:
    kinds = {(p["a"], p["b"]): p["kind"] for p in scores.pairs(TREE, Answer())}
    assert kinds["grandchild", "heir"] == "related"
    assert kinds["root", "twin"] == kinds["left", "twin"] == "shared_init"
    assert kinds["root", "stranger"] == "stranger"
    assert kinds["left", "student"] == "distilled"
    assert len(kinds) == 10 * 9 // 2


def test_figures_of_pairs() -> None:
    truth = Truth([ROOT, LEFT, RIGHT, STRANGER])
    values = {("root", "left"): 0.9, ("root", "right"): 0.8, ("left", "right"): 0.4,
              ("root", "stranger"): 0.5, ("left", "stranger"): 0.1}  # fmt: skip
    named = Answer(
        scores={frozenset(k): v for k, v in values.items()},
        related={frozenset(k): v > 0.45 for k, v in values.items()},
    )
    records = [{**record, "same_sizes": True} for record in scores.pairs(truth, named)]
    scored = Scored(pairs=records)
    assert figures.related_auroc(scored).value == pytest.approx(8 / 9)
    assert figures.related_at_zero(scored).value == pytest.approx(2 / 3)
    assert figures.called_related("stranger")(scored).value == pytest.approx(1 / 3)
    assert figures.called_related("related")(scored).value == pytest.approx(2 / 3)


def test_shared_initialisation_against_parenthood() -> None:
    related = {frozenset(("root", "left")): True, frozenset(("root", "twin")): False}
    told = {(r["a"], r["b"]): r["right"]
            for r in scores.initialisation(TREE, Answer(related=related))}  # fmt: skip
    assert told["left", "root"] is True
    assert told["root", "twin"] is True
    assert told["right", "root"] is False  # not called related
    assert told["left", "twin"] is True
    wrong = Answer((said("root", "twin"),), related=related)
    told = {(r["a"], r["b"]): r["right"] for r in scores.initialisation(TREE, wrong)}
    assert (told["root", "twin"], told["left", "twin"]) == (False, True)


def test_an_edge_of_shared_initialisation_is_no_parenthood() -> None:
    named = Answer((said("root", "twin", "shared_init"), said("root", "left", "shared_init")),
                   related={frozenset(("root", "left")): True})  # fmt: skip
    assert scores.said(TREE, named) == []
    told = {(r["a"], r["b"]): r["right"] for r in scores.initialisation(TREE, named)}
    assert (told["root", "twin"], told["left", "root"]) == (True, False)


def compared(direction: str | None, **known: Any) -> dict[str, Any]:
    found = {"related": True, "relation": "finetune", "how": "full", "rank": None}
    return {**found, "direction": direction, **known}


def test_lone_pairs_in_either_order() -> None:
    found = {
        ("root", "left"): compared("a->b"), ("right", "root"): compared("a->b"),
        ("left", "grandchild"): compared(None), ("left", "right"): compared("b->a"),
    }  # fmt: skip
    sizes = {"left": ("root", 0.3), "right": ("root", 0.04), "grandchild": ("left", 0.06)}
    steps = [step(child, parent, changes={parent: c}) for child, (parent, c) in sizes.items()]
    truth = Truth([ROOT, *steps])
    scored = Scored(
        lone=scores.lone(truth, found), lone_siblings=scores.lone_siblings(truth, found)
    )
    assert {(r["parent"], r["child"]): r["right"] for r in scored.lone} == {
        ("root", "left"): True, ("root", "right"): False, ("left", "grandchild"): False,
    }  # fmt: skip
    assert figures.answered()(scored).value == pytest.approx(2 / 3)
    assert figures.right_when_answered()(scored).value == pytest.approx(1 / 2)
    assert figures.answered(least=0.05)(scored).value == pytest.approx(1 / 2)
    assert figures.right_when_answered(least=0.05)(scored).value == 1
    assert figures.siblings_given_direction(scored).value == 1
    counts = [row["answered"].count for row in figures.direction_curve(scored)]
    assert counts == [0, 0, 1, 1, 0, 1, 0]


def test_shared_initialisation_by_pairs_alone() -> None:
    found = {
        ("root", "left"): compared(None, related=False, relation="shared_init"),
        ("twin", "root"): compared(None, related=False, relation=None),
        ("right", "root"): compared("b->a"),
    }
    told = scores.initialisation_alone(TREE, found)
    assert [(r["kind"], r["right"], r["named"]) for r in told] == [
        ("step", False, None), ("shared_init", True, False), ("step", True, None),
    ]  # fmt: skip
    accuracy = figures.balanced("initialisation_alone")(Scored(initialisation_alone=told))
    assert accuracy.value == pytest.approx(0.75)


def test_ranks() -> None:
    lora = step("lora", "root", answers=(("finetune", "low_rank"),), rank=8)
    large = step("large", "root", answers=(("finetune", "low_rank"),), rank=64)
    truth = Truth([ROOT, lora, large])
    for rank, how, value in ((8, "low_rank", 1), (9, "low_rank", 0), (8, "full", 0)):
        found = {("root", "lora"): compared("a->b", rank=rank, how=how),
                 ("root", "large"): compared("a->b", rank=2, how="low_rank")}  # fmt: skip
        scored = Scored(lone=scores.lone(truth, found))
        assert figures.rank_right(scored).value == value
        assert figures.rank_right(scored).count == 1


def test_relations_details_and_coefficients() -> None:
    edges = (said("root", "left", "finetune", "continued"), said("root", "right", "noised", None),
             said("left", "blend", "merge", "linear", 0.7),
             said("right", "blend", "merge", "ties", None))  # fmt: skip
    scored = Scored(edges=scores.edges(TREE, Answer(edges)))
    assert figures.relation_right(scored).value == pytest.approx(3 / 4)
    assert figures.how_right(scored).value == pytest.approx(1 / 4)
    assert figures.coefficient_error("linear", "slerp")(scored).value == pytest.approx(0.1)
    assert figures.coefficients_found("linear")(scored).value == pytest.approx(1 / 2)
    assert figures.confusion(scored)["finetune", "full"] == {
        "true": 3, "missed": 1, "finetune continued": 1, "noised": 1,
    }  # fmt: skip
    either = Truth([ROOT, step("left", "root", answers=(*FULL, ("finetune", "continued")))])
    scored = Scored(edges=scores.edges(either, Answer(edges[:1])))
    assert figures.how_right(scored).value == 1


def test_calibration() -> None:
    edges = (said("root", "left", probability=0.9), said("root", "grandchild", probability=0.9),
             said("copy", "root", "identical", probability=0.5))  # fmt: skip
    scored = Scored(said=scores.said(TREE, Answer(edges)))
    assert figures.probable(scored) == [(0.9, True), (0.9, False)]
    assert figures.calibration_error()(scored).value == pytest.approx(0.4)
    assert figures.brier()(scored).value == pytest.approx((0.01 + 0.81) / 2)


def test_directions_of_pairs_alone_have_probabilities() -> None:
    inferred = {
        ("root", "left"): Answer((said("root", "left", probability=0.8),)),
        ("root", "right"): Answer((said("right", "root", probability=0.6),)),
        ("left", "grandchild"): Answer(),
        ("root", "heir"): Answer((said("root", "heir", "identical"),)),
    }
    scored = Scored(lone_edges=scores.lone_edges(TREE, inferred))
    assert figures.probable_alone(scored) == [(0.8, True), (0.6, False)]
    table = figures.table(scored)
    assert table["lone_calibration"].value == pytest.approx((0.2 + 0.6) / 2)
    assert table["lone_brier"].value == pytest.approx((0.04 + 0.36) / 2)
    assert math.isnan(table["calibration"].value)


def test_shares_have_wilsons_interval() -> None:
    # 95 of 100: .8882 to .9785, as in published tables of the score interval.
    figure = intervals.share([True] * 95 + [False] * 5)
    assert (round(figure.low, 4), round(figure.high, 4)) == (0.8882, 0.9785)
    assert intervals.share([True] * 10).high == pytest.approx(1)
    assert math.isnan(intervals.share([]).value)


def test_auroc_counts_ties_half_and_missing_scores_last() -> None:
    ends = [("a", "b"), ("a", "c"), ("b", "c"), ("a", "d")]
    figure = intervals.auroc([0.5, 0.5, -math.inf, 0.1], [True, False, True, False], ends, seed=0)
    assert figure.value == pytest.approx((0.5 + 1 + 0 + 0) / 4)
    assert figure.low <= figure.value <= figure.high
    assert intervals.auroc([1.0], [True], [("a", "b")], seed=0) is intervals.NOTHING


def test_families_together_keep_their_own_names() -> None:
    truth = Truth(together({"x": [ROOT, LEFT], "y": [STUDENT, ROOT]}))
    assert truth.kind("x/root", "x/left") == "related"
    assert truth.kind("x/left", "y/student") == "stranger"
    assert truth.kind("y/root", "y/student") == "distilled"


def test_a_ring_or_an_unknown_parent_is_no_truth() -> None:
    with pytest.raises(ValueError, match="ancestor"):
        Truth([step("a", "b"), step("b", "a")])
    with pytest.raises(ValueError, match="unknown parents"):
        Truth([step("a", "nobody")])


def write(folder: Path, name: str, values: dict[str, np.ndarray]) -> Path:
    (folder / name).mkdir(parents=True)
    save_file(values, folder / name / "model.safetensors")
    return folder / name


def test_names_and_cards_tell_nothing(tmp_path: Path) -> None:
    models = {
        name: write(tmp_path / "zoo", name, {"w": np.full((2, 2), i, np.float32)})
        for i, name in enumerate(("base", "child", "other"))
    }
    (models["child"] / "README.md").write_text("base_model: base")
    (models["child"] / "config.json").write_text('{"_name_or_path": "base", "layers": 2}')
    place = Nameless(tmp_path / "run", models, seed=1)
    assert sorted(p.name for p in place.folder.iterdir()) == ["m0", "m1", "m2"]
    for file in place.folder.rglob("*"):
        assert not file.is_symlink()
        assert file.is_dir() or b"base" not in file.read_bytes()
    assert not list(place.folder.rglob("README.md"))
    assert place.name("hidden-1") is None
    assert place.name(str(place.folder)) is None
    for name, path in place.paths.items():
        assert place.name(str(path)) == place.name(str(path / "model.safetensors")) == name
        source = models[name] / "model.safetensors"
        assert (path / "model.safetensors").read_bytes() == source.read_bytes()
    orders = {tuple(Nameless(tmp_path / "run", models, seed=s).paths.items()) for s in range(8)}
    assert len(orders) > 1


def test_what_the_command_prints_becomes_an_answer(tmp_path: Path) -> None:
    models = {name: write(tmp_path / "zoo", name, {"w": np.eye(2)}) for name in ("base", "child")}
    place = Nameless(tmp_path / "run", models, seed=0)
    base, child = (str(place.paths[name]) for name in ("base", "child"))
    edge = {"parent": base, "child": child, "relation": "finetune", "how": "full",
            "coefficient": None, "probability": 0.8}  # fmt: skip
    told = {"edges": [edge, {**edge, "parent": "hidden-1"}],
            "pairs": [{"a": base, "b": child, "score": 0.9, "related": True}]}  # fmt: skip
    found = answer(place, told)
    assert found.edges == (said("base", "child", probability=0.8),)
    assert found.scores == {frozenset(("base", "child")): 0.9}
    assert found.related == {frozenset(("base", "child")): True}


def test_many_pairs_in_one_process_get_the_answers_of_single_commands(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    base = {"w": draw.normal(size=(64, 48)).astype(np.float32)}
    child = {"w": base["w"] + np.float32(0.3) * draw.normal(size=(64, 48)).astype(np.float32)}
    models = {name: write(tmp_path / "zoo", name, w) for name, w in
              {"base": base, "child": child, "broken": base}.items()}  # fmt: skip
    (models["broken"] / "model.safetensors").write_bytes(b"no model")
    lineage = Lineage(tmp_path / "work", seed=0)
    place = Nameless(tmp_path / "run", models, seed=0)
    pairs = [("base", "child"), ("base", "broken"), ("broken", "child"), ("child", "base")]
    found = lineage.compare(place, pairs)
    assert {frozenset(pair) for pair in found} == {frozenset(("base", "child"))}
    assert len(lineage.notes) == 2
    for (a, b), told in found.items():
        assert told == lineage._run("compare", str(place.paths[a]), str(place.paths[b]))
    (said_alone,) = lineage.infer_alone(place, [("base", "child")]).values()
    assert [(e.parent, e.child) for e in said_alone.edges] == [("base", "child")]


@pytest.fixture
def measured(tmp_path: Path) -> baselines.Measured:
    """A root with two children, one of which has a child, each step as long as the last."""
    draw = np.random.default_rng(0)
    root = draw.standard_normal((4, 16, 16)).astype(np.float32)

    def moved(start: np.ndarray) -> np.ndarray:
        return start + 0.1 * draw.standard_normal(start.shape).astype(np.float32)

    left, right = moved(root), moved(root)
    values = {"root": root, "left": left, "right": right, "grandchild": moved(left)}
    paths = {name: write(tmp_path, name, {f"layer.{i}.w": w for i, w in enumerate(stack)})
             for name, stack in values.items()}  # fmt: skip
    return baselines.measure(paths)


def test_distances_are_those_of_the_weights(measured: baselines.Measured) -> None:
    at = measured.names.index
    step_length = measured.relative[at("root"), at("left")]
    two_steps = measured.relative[at("root"), at("grandchild")]
    assert step_length == pytest.approx(0.1, rel=0.1)
    assert two_steps / step_length == pytest.approx(math.sqrt(2), rel=0.1)
    assert measured.mean_distance[at("root"), at("left")] == pytest.approx(1.6, rel=0.1)
    assert measured.relative[0, 0] == 0


def test_a_distance_tree_finds_a_tree_without_drift(measured: baselines.Measured) -> None:
    truth = Truth([ROOT, LEFT, RIGHT, GRANDCHILD])
    found = baselines.distance_tree(truth, measured)
    assert {(e.parent, e.child) for e in found.edges} == {
        ("root", "left"), ("root", "right"), ("left", "grandchild"),
    }  # fmt: skip
    for ask in baselines.BASELINES.values():
        edges = ask(truth, measured).edges
        assert len(edges) in {0, 3}  # a tree, or no edges at all


def test_mother_separates_strangers_when_told_how_many(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    values = {}
    for name, parent in (("root", None), ("left", "root"), ("stranger", None)):
        start = values[parent] if parent else np.zeros((8, 8), np.float32)
        size = 0.05 if parent else 1.0
        values[name] = start + size * draw.standard_normal((8, 8)).astype(np.float32)
    paths = {name: write(tmp_path, name, {"w": w}) for name, w in values.items()}
    found = baselines.mother(Truth([ROOT, LEFT, STRANGER]), baselines.measure(paths))
    assert [(e.parent, e.child) for e in found.edges] == [("root", "left")]
    assert found.related[frozenset(("root", "stranger"))] is False


def test_kurtosis_and_stable_rank_of_known_matrices() -> None:
    assert baselines._kurtosis(np.array([-1.0, 1.0, -1.0, 1.0])) == pytest.approx(1)
    assert baselines._stable_rank(np.eye(5)[:, :3]) == pytest.approx(3)
