"""Families of which some are in other coordinates: who is whose parent, and what came after."""

from __future__ import annotations

import sys
from typing import Any

import by_hand
import ml_dtypes
import numpy as np
import pytest
from architectures_by_hand import DIALECTS
from by_hand import drawn, written
from makers import Array
from test_alignment import (
    LAYERS,
    WIDTH,
    Model,
    everything,
    heads_turned,
    llama,
    permuted,
    rotated,
    stored,
    tuned,
    units_moved,
    wide,
)

from lineage import compare, fingerprint, infer
from lineage.alignment import solve
from lineage.cli import say
from lineage.evidence.weights import Weights
from lineage.graph import LineageGraph, infer_graph, rewriting
from lineage.relation import Relation


def family() -> dict[str, Model]:
    base = llama()
    return {
        "base": base,
        "touched": tuned(base, 0.002, 9),
        "child": tuned(base, 0.06, 1),
        "sibling": tuned(base, 0.06, 2),
        "heavy": tuned(base, 0.3, 3),
        "stranger": llama(1),
        "another": llama(2),
    }


FAMILY = family()
CHILD = FAMILY["child"]


def matrices(model: Model, change: Any) -> Model:
    return {
        name: change(values).astype(values.dtype) if values.ndim > 1 else values
        for name, values in model.items()
    }


def int8(values: Array) -> Array:
    step = np.abs(values).max(axis=1, keepdims=True) / 127
    return np.round(values / step) * step


def int4(values: Array) -> Array:
    step = np.abs(values).max(axis=1, keepdims=True) / 7
    return np.round(values / step) * step


def sparse(values: Array) -> Array:
    return np.where(np.abs(values) < np.quantile(np.abs(values), 0.3), 0, values)


def half(model: Model) -> Model:
    return {name: values.astype(np.float16) for name, values in model.items()}


def low_rank(model: Model) -> Model:
    draw = np.random.default_rng(4)
    changed = dict(model)
    for n in range(LAYERS):
        for name in ("down_proj", "up_proj"):
            full = f"model.layers.{n}.mlp.{name}.weight"
            rows, cols = model[full].shape
            step = draw.normal(size=(rows, 2)) @ draw.normal(size=(2, cols))
            changed[full] = model[full] + 0.003 * step
    return stored(changed)


def only_edge(graph: LineageGraph, child: str) -> tuple[str, str, str | None]:
    (edge,) = graph.parents(child)
    assert not [e for e in graph.edges if e.parent == child]
    assert edge.relation is Relation.REPARAMETRIZED
    return edge.parent, *(("same", None) if edge.then is None else edge.then)


@pytest.mark.parametrize("hide", [everything, heads_turned, units_moved, permuted, rotated])
def test_a_disguise_alone_hangs_on_the_very_model(hide: Any) -> None:
    graph = infer({**FAMILY, "hidden": hide(CHILD, 3)})
    assert only_edge(graph, "hidden") == ("child", "same", None)
    assert graph.parents("hidden")[0].probability > 0.9


@pytest.mark.parametrize(
    ("change", "then"),
    [
        (lambda m: matrices(m, int8), ("quantized", "int8")),
        (lambda m: matrices(m, int4), ("quantized", "int4")),
        (lambda m: matrices(m, sparse), ("pruned", "unstructured")),
        (half, ("quantized", "fp16")),
        (lambda m: tuned(m, 0.04, 8), ("finetune", "full")),
    ],
)
@pytest.mark.parametrize("hide", [everything, permuted])
def test_what_came_after_a_disguise_is_told(hide: Any, change: Any, then: Any) -> None:
    graph = infer({**FAMILY, "hidden": change(hide(CHILD, 3))})
    assert only_edge(graph, "hidden") == ("child", *then)


def test_an_adapter_that_was_merged_after_a_disguise_is_told() -> None:
    found = only_edge(infer({**FAMILY, "hidden": low_rank(permuted(CHILD, 3))}), "hidden")
    assert found == ("child", "finetune", "low_rank")
    found = only_edge(infer({**FAMILY, "hidden": low_rank(everything(CHILD, 3))}), "hidden")
    assert found == ("child", "finetune", "low_rank")


@pytest.mark.parametrize("parts", [("q_proj", "v_proj"), ("q_proj", "k_proj", "v_proj", "o_proj")])
def test_an_adapter_on_heads_that_had_been_turned_is_told(parts: tuple[str, ...]) -> None:
    draw = np.random.default_rng(6)
    hidden = dict(heads_turned(CHILD, 3))
    for name, values in hidden.items():
        if name.endswith(tuple(f"{part}.weight" for part in parts)):
            rows, cols = values.shape
            step = draw.normal(size=(rows, 2)) @ draw.normal(size=(2, cols))
            hidden[name] = (values + 0.003 * step).astype("f4")
    assert only_edge(infer({**FAMILY, "hidden": hidden}), "hidden") == (
        "child",
        "finetune",
        "low_rank",
    )
    words = compare(CHILD, hidden).evidence[0].told("a", "b")
    assert "low_rank of rank 2" in words


SHIFTED = DIALECTS["phi"]


@pytest.mark.parametrize(
    ("change", "then"),
    [
        (lambda m: m, ("same", None)),
        (lambda m: matrices(m, int8), ("quantized", "int8")),
        (lambda m: tuned(m, 0.04, 8), ("finetune", "full")),
    ],
)
def test_an_amount_that_was_added_to_the_whole_stream_is_told(change: Any, then: Any) -> None:
    parts = drawn(SHIFTED, 1)
    child = by_hand.tuned(parts, 0.06, 1)
    models = {
        "base": written(parts, SHIFTED),
        "child": written(child, SHIFTED),
        "sibling": written(by_hand.tuned(parts, 0.06, 2), SHIFTED),
        "stranger": written(drawn(SHIFTED, 9), SHIFTED),
    }
    hidden = change(written(by_hand.hidden(child, SHIFTED, 3, "shifted"), SHIFTED))
    graph = infer({**models, "hidden": hidden})
    assert only_edge(graph, "hidden") == ("child", *then)
    assert graph.parents("hidden")[0].how == "shifted"
    assert not [e for e in infer(models).edges if e.relation is Relation.REPARAMETRIZED]


def test_a_hidden_base_comes_from_the_base() -> None:
    graph = infer({**FAMILY, "hidden": everything(FAMILY["base"], 3)})
    assert only_edge(graph, "hidden") == ("base", "same", None)
    graph = infer({**FAMILY, "hidden": tuned(everything(FAMILY["base"], 3), 0.05, 8)})
    assert only_edge(graph, "hidden") == ("base", "finetune", "full")


def test_a_start_that_is_there_in_other_coordinates_alone_is_the_parent() -> None:
    models = {name: FAMILY[name] for name in ("child", "sibling", "heavy", "stranger")}
    graph = infer({**models, "hidden": everything(FAMILY["base"], 3)})
    for name in ("child", "sibling", "heavy"):
        (edge,) = graph.parents(name)
        assert (edge.parent, edge.relation) == ("hidden", Relation.REPARAMETRIZED)


def test_what_has_a_copys_coordinates_comes_from_the_copy() -> None:
    hidden = everything(CHILD, 3)
    graph = infer({
        **FAMILY,
        "hidden": hidden,
        "again": everything(hidden, 7),
        "after": tuned(hidden, 0.05, 8),
        "rounded": matrices(hidden, int8),
    })  # fmt: skip
    found = {e.child: (e.parent, str(e.relation)) for e in graph.edges}
    assert found["hidden"] == ("child", "reparametrized")
    assert found["again"][1] == "reparametrized"
    assert found["again"][0] in {"child", "hidden"}
    assert found["after"] == ("hidden", "finetune")
    assert found["rounded"] == ("hidden", "quantized")


def test_two_hidden_children_of_one_model_hang_on_it_and_not_on_each_other() -> None:
    graph = infer({
        **FAMILY,
        "one": tuned(everything(CHILD, 3), 0.05, 8),
        "two": tuned(everything(CHILD, 4), 0.05, 9),
    })  # fmt: skip
    assert [graph.parents(name)[0].parent for name in ("one", "two")] == ["child", "child"]


def test_what_was_merged_in_other_coordinates_has_both_parents() -> None:
    one, other = everything(CHILD, 3), everything(FAMILY["sibling"], 3)
    merged = stored({name: (one[name] + other[name]) / 2 for name in one})
    graph = infer({**FAMILY, "one": one, "other": other, "merged": merged})
    edges = graph.parents("merged")
    assert {(edge.parent, edge.relation) for edge in edges} == {
        ("one", Relation.MERGE),
        ("other", Relation.MERGE),
    }
    assert {graph.parents(name)[0].parent for name in ("one", "other")} == {"child", "sibling"}


APART = {
    "base": FAMILY["base"],
    "child": tuned(FAMILY["base"], 0.15, 1),
    "sibling": tuned(FAMILY["base"], 0.15, 2),
    "heavy": tuned(FAMILY["base"], 0.3, 3),
    "touched": tuned(FAMILY["base"], 0.01, 9),
    "stranger": FAMILY["stranger"],
}


def summed(shares: dict[str, float], of: dict[str, Model] = APART) -> Model:
    def total(name: str) -> Array:
        return np.sum([s * of[m][name].astype(np.float64) for m, s in shares.items()], axis=0)

    return stored({name: total(name) for name in of["base"]})


@pytest.mark.parametrize("hide", [everything, heads_turned, units_moved, rotated, permuted])
@pytest.mark.parametrize(
    "shares",
    [{"child": 0.7, "sibling": 0.3}, {"child": 0.3, "sibling": 0.3, "heavy": 0.4}],
    ids=["two", "three"],
)
def test_a_merge_that_was_disguised_afterwards_has_its_parents(
    hide: Any, shares: dict[str, float]
) -> None:
    graph = infer({**APART, "hidden": hide(summed(shares), 3)})
    edges = {edge.parent: edge for edge in graph.parents("hidden")}
    assert edges.keys() == shares.keys()
    for name, share in shares.items():
        edge = edges[name]
        assert edge.relation is Relation.REPARAMETRIZED
        assert edge.then == (Relation.MERGE, "linear")
        assert edge.coefficient == pytest.approx(share, abs=1e-3)


def test_a_merge_of_models_in_half_precision_is_made_again() -> None:
    rounded = {name: half(model) for name, model in APART.items()}
    merged = half(summed({"child": 0.6, "sibling": 0.4}, rounded))
    graph = infer({**rounded, "hidden": everything(merged, 3)})
    found = {edge.parent: edge.coefficient for edge in graph.parents("hidden")}
    assert found == {
        "child": pytest.approx(0.6, abs=1e-2),
        "sibling": pytest.approx(0.4, abs=1e-2),
    }


def test_a_merge_that_was_rounded_before_it_was_disguised_is_made_again() -> None:
    merged = summed({"child": 0.6, "sibling": 0.4})
    rounded = {n: v.astype(ml_dtypes.bfloat16).astype("f4") for n, v in merged.items()}
    graph = infer({**APART, "hidden": everything(rounded, 3)})
    assert {edge.parent for edge in graph.parents("hidden")} == {"child", "sibling"}


def test_what_was_trained_on_from_near_a_merge_is_no_merge() -> None:
    trained = tuned(summed({"child": 0.6, "sibling": 0.4}), 0.02, 4)
    toward = summed({"child": 1.0, "sibling": 0.3, "base": -0.3})
    for model in (trained, tuned(toward, 0.1, 4), tuned(APART["child"], 0.1, 4)):
        graph = infer({**APART, "hidden": everything(model, 3)})
        for edge in graph.parents("hidden"):
            assert edge.then is not None
            assert edge.then[0] is not Relation.MERGE


def test_tokens_alone_in_another_order_are_seen(tmp_path: Any) -> None:
    from json import dumps

    from safetensors.numpy import save_file

    order = np.random.default_rng(5).permutation(160)
    moved = dict(CHILD)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        moved[name] = CHILD[name][order]
    for name, model in {**FAMILY, "hidden": moved}.items():
        words = order if name == "hidden" else range(160)
        (tmp_path / name).mkdir()
        save_file(stored(model), tmp_path / name / "model.safetensors")
        known = {f"word-{word}": row for row, word in enumerate(words)}
        (tmp_path / name / "vocab.json").write_text(dumps(known))
    graph = infer([tmp_path])
    path = {name: str(tmp_path / name / "model.safetensors") for name in ("hidden", "child")}
    (edge,) = graph.parents(path["hidden"])
    assert (edge.parent, edge.relation) == (path["child"], Relation.REPARAMETRIZED)
    assert (edge.how, edge.then) == ("permuted", None)


def test_a_start_in_common_in_other_coordinates_makes_no_parent() -> None:
    start = wide(llama())
    for name in start:
        if "norm" in name:
            start[name] = np.ones(WIDTH)
        elif name.endswith("bias"):
            start[name] = np.zeros_like(start[name])

    def trained(seed: int) -> Model:
        draw = np.random.default_rng(seed)
        return stored({
            name: values + 0.04 * draw.normal(size=values.shape)
            + (0.2 * draw.normal(size=values.shape) if values.ndim == 1 else 0)
            for name, values in start.items()
        })  # fmt: skip

    base, twin = trained(1), trained(2)
    kin = {"base": base, "child": tuned(base, 0.06, 1), "other child": tuned(base, 0.06, 2)}
    for hide in (lambda m, _: m, permuted, lambda m, s: units_moved(permuted(m, s), s)):
        graph = infer({**kin, "twin": hide(twin, 3)})
        assert not [e for e in graph.edges if "twin" in (e.parent, e.child)]
        assert not any(p.related for p in graph.pairs if "twin" in (p.a, p.b))


def prints(models: dict[str, Model]) -> dict[str, Any]:
    return {name: fingerprint(model) for name, model in models.items()}


def test_of_many_strangers_hardly_any_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(a: Any, b: Any) -> Any:
        asked.append(1)
        return solve(a, b)

    monkeypatch.setattr(rewriting, "solve", counted)
    models = {f"stranger {n}": llama(n) for n in range(1, 13)}
    infer(models)
    assert not asked
    graph = infer({**models, "base": llama(), "hidden": everything(llama(), 3)})
    assert {edge.relation for edge in graph.edges} == {Relation.REPARAMETRIZED}
    assert len(asked) <= 3


def test_long_work_says_what_it_does_and_can_be_stopped() -> None:
    models = {"base": llama(), "hidden": everything(llama(), 3)}
    told: list[str] = []
    infer_graph(prints(models), weights=Weights.of(models), watch=told.append)
    assert "aligning hidden with base" in told or "aligning base with hidden" in told
    assert any("in the coordinates of" in words for words in told)

    def stop(_words: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        infer_graph(prints(models), weights=Weights.of(models), watch=stop)


def test_progress_is_shown_to_who_watches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with say.watching("comparing") as watch:
        assert watch is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with say.watching("comparing") as watch:
        assert watch is not None
        watch("aligning [b]one[/b] with\nanother")
    assert "aligning [b]one[/b] with" in capsys.readouterr().err
    assert capsys.readouterr().out == ""
