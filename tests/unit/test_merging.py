"""Merges: each kind is found with its parents and weights, and no training passes for one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import ml_dtypes
import numpy as np
import pytest
from makers import Array
from test_evidence import Model, cast, changed, low_rank, network, noisy, pruned, tuned
from test_structure import network as layered_network
from test_structure import with_layers

from lineage import fingerprint, infer
from lineage.evidence.merging import Merge, find_merges
from lineage.evidence.passthrough import passthrough
from lineage.evidence.stacked import stack
from lineage.graph import LineageGraph, infer_graph
from lineage.relation import Relation

BASE = network(0, blocks=4)
PARTS = {name: tuned(BASE, seed, 0.1) for seed, name in enumerate("abcd", start=1)}
FAMILY = {"base": BASE, **PARTS, "a2": tuned(PARTS["a"], 11, 0.06)}


# Ways of merging, entry by entry


def over(rule: Callable[..., Array], *models: Model) -> Model:
    """Apply a rule to each matrix of some models."""
    return changed(models[0], lambda name, _: rule(*(m[name].astype(np.float64) for m in models)))


def linear(shares: Sequence[float], *models: Model) -> Model:
    return over(lambda *ws: sum(s * w for s, w in zip(shares, ws, strict=True)), *models)


def added(weights: Sequence[float], base: Model, *models: Model) -> Model:
    return linear((1 - sum(weights), *weights), base, *models)


def arc(t: float, one: Model, other: Model) -> Model:
    def rule(a: Array, b: Array) -> Array:
        angle = np.arccos(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b))
        found: Array = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
        return found

    return over(rule, one, other)


def dropped(weights: Sequence[float], kept: float, base: Model, *models: Model) -> Model:
    draw = np.random.default_rng(5)

    def rule(b: Array, *ws: Array) -> Array:
        steps = (w * (m - b) for w, m in zip(weights, ws, strict=True))
        return b + sum(step * (draw.random(b.shape) < kept) / kept for step in steps)

    return over(rule, base, *models)


def elected(weights: Sequence[float], kept: float, base: Model, *models: Model) -> Model:
    def rule(b: Array, *ws: Array) -> Array:
        steps = np.stack([w * (m - b) for w, m in zip(weights, ws, strict=True)])
        least = np.quantile(np.abs(steps), 1 - kept, axis=(1, 2), keepdims=True)
        steps = np.where(np.abs(steps) >= least, steps, 0)
        agree = np.sign(steps) == np.sign(steps.sum(0))
        share = np.array(weights)[:, None, None] * agree
        return b + (steps * agree).sum(0) / np.maximum(share.sum(0), 1e-8)

    return over(rule, base, *models)


def merges(models: Mapping[str, Model]) -> dict[str, Merge]:
    """Find the merges among models, and check that their order does not matter."""
    prints = {name: fingerprint(model) for name, model in models.items()}
    answers = []
    for names in (list(prints), sorted(prints, reverse=True)):
        family = stack([prints[name] for name in names])
        assert family is not None
        found = find_merges(family)
        answers.append({names[child]: (names, merge) for child, merge in found.items()})
    forth, back = (
        {child: {names[p] for p in merge.parents} for child, (names, merge) in answer.items()}
        for answer in answers
    )
    assert forth == back
    return {child: merge for child, (_, merge) in answers[0].items()}


def shares(models: Mapping[str, Model], merge: Merge) -> dict[str, float]:
    names = list(models)
    return {names[p]: w for p, w in zip(merge.parents, merge.coefficients, strict=True)}


# Where it must speak


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    ("child", "how", "wanted"),
    [
        (linear((0.7, 0.3), PARTS["a"], PARTS["b"]), "linear", {"a": 0.7, "b": 0.3}),
        (
            linear((0.5, 0.3, 0.2), PARTS["a"], PARTS["b"], PARTS["c"]),
            "linear",
            {"a": 0.5, "b": 0.3, "c": 0.2},
        ),
        (
            added((0.8, 0.7), BASE, PARTS["a"], PARTS["b"]),
            "task_arithmetic",
            {"base": -0.5, "a": 0.8, "b": 0.7},
        ),
        (
            added((1.0, 1.0), BASE, PARTS["c"], PARTS["d"]),
            "task_arithmetic",
            {"base": -1.0, "c": 1.0, "d": 1.0},
        ),
    ],
    ids=["two", "three", "added", "added-whole"],
)
def test_a_sum_of_models(child: Model, how: str, wanted: dict[str, float], dtype: type) -> None:
    models = {**FAMILY, "child": cast(child, dtype)}
    found = merges(models)
    assert set(found) == {"child"}
    assert found["child"].how == how
    assert shares(models, found["child"]) == pytest.approx(wanted, abs=0.01)


HALF = {name: cast(model, ml_dtypes.bfloat16) for name, model in {
    "base": BASE, **{name: tuned(BASE, seed, 0.003) for seed, name in enumerate("abcd", start=1)}
}.items()}  # fmt: skip
"""Trained so lightly that storing them changes them half as much."""


@pytest.mark.parametrize("shares", [{"a": 0.5, "b": 0.5}, {"a": 0.7, "d": 0.3}])
def test_a_mean_of_models_that_moved_little_more_than_they_are_rounded(
    shares: dict[str, float],
) -> None:
    child = linear(list(shares.values()), *(HALF[name] for name in shares))
    models = {**HALF, "child": cast(child, ml_dtypes.bfloat16)}
    found = merges(models)
    assert list(found) == ["child"]
    assert {list(models)[parent] for parent in found["child"].parents} == set(shares)


def test_no_light_training_is_a_mean_of_others() -> None:
    # Nor is a model that hardly moved, or one that began where another was on its way.
    touched = cast(tuned(BASE, 7, 0.0003), ml_dtypes.bfloat16)
    after = cast(tuned(cast(HALF["a"], np.float32), 8, 0.002), ml_dtypes.bfloat16)
    assert not merges({**HALF, "touched": touched, "after": after})


def test_an_arc() -> None:
    far = {name: tuned(BASE, seed, 0.5) for seed, name in ((31, "far"), (32, "off"))}
    models = {**FAMILY, **far, "child": arc(0.3, far["far"], far["off"])}
    found = merges(models)
    assert {child: merge.how for child, merge in found.items()} == {"child": "slerp"}
    assert shares(models, found["child"]) == pytest.approx({"far": 0.7, "off": 0.3}, abs=0.01)


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.7, 0.4), (0.7, 0.7)])
def test_a_merge_with_a_random_mask(weights: tuple[float, ...], kept: float) -> None:
    models = {**FAMILY, "child": dropped(weights, kept, BASE, PARTS["a"], PARTS["b"])}
    found = merges(models)
    assert set(found) == {"child"}
    merge = found["child"]
    assert merge.how == "dare"
    assert merge.base is not None
    seen = shares(models, merge)
    assert seen["a"] == pytest.approx(weights[0], abs=0.05)
    assert seen["b"] == pytest.approx(weights[1], abs=0.05)
    assert sum(seen.values()) == pytest.approx(1)
    assert set(seen) - {list(models)[merge.base]} == {"a", "b"}


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.8])
def test_a_merge_by_vote(kept: float) -> None:
    models = {**FAMILY, "child": elected((0.5, 0.5), kept, BASE, PARTS["a"], PARTS["c"])}
    found = merges(models)
    assert set(found) == {"child"}
    merge = found["child"]
    assert merge.how in {"ties", "dare"}
    assert merge.base is not None
    assert set(shares(models, merge)) - {list(models)[merge.base]} == {"a", "c"}


def test_three_parents_and_a_mask() -> None:
    parents = (PARTS["a"], PARTS["b"], PARTS["c"])
    models = {**FAMILY, "child": dropped((0.4, 0.4, 0.4), 0.5, BASE, *parents)}
    merge = merges(models)["child"]
    assert merge.base is not None
    assert set(shares(models, merge)) - {list(models)[merge.base]} == {"a", "b", "c"}


def test_a_graph_says_the_same() -> None:
    models = {
        **FAMILY,
        "sum": linear((0.6, 0.4), PARTS["a"], PARTS["b"]),
        "mask": dropped((0.5, 0.5), 0.5, BASE, PARTS["c"], PARTS["d"]),
    }
    graph = infer(models)
    assert {e.parent: e.how for e in graph.parents("sum")} == {"a": "linear", "b": "linear"}
    assert {e.parent: e.how for e in graph.parents("mask")} == {"c": "dare", "d": "dare"}
    others = {e.child for e in graph.edges if e.relation is Relation.MERGE}
    assert others == {"sum", "mask"}


# Where it must not


def scaled_by_column(model: Model, seed: int, size: float) -> Model:
    """Move every matrix by white noise whose columns have strengths of a long tail."""
    draw = np.random.default_rng([7, seed])

    def alter(_: str, weights: Array) -> Array:
        step = draw.normal(size=weights.shape) * draw.gamma(1.0, size=weights.shape[1])
        return weights + step * size * np.linalg.norm(weights) / np.linalg.norm(step)

    return changed(model, alter)


def on_one_set_of_data(seeds: Sequence[int], own: float) -> dict[str, Model]:
    """Move models alike, and each by noise of its own that has directions too."""
    signal = tuned(BASE, 50, 0.1)
    found = {}
    for seed in seeds:
        noise = tuned(BASE, seed, own)
        found[f"s{seed}"] = added((1.0, 1.0), BASE, signal, noise)
    return found


@cache
def ordinary(kind: str) -> dict[str, Model]:
    """Return families without a merge: a base, its children, theirs, and so on."""
    step: dict[str, Callable[[Model, int, float], Model]] = {
        "trained": tuned, "white": noisy, "columns": scaled_by_column,
        "mostly white": lambda m, seed, size: tuned(m, seed, size, grain=0.97),
    }  # fmt: skip
    if kind in step:
        move, draw = step[kind], np.random.default_rng(3)
        models = {"m0": BASE}
        for n in range(1, 24):
            parent = models[f"m{int(draw.integers((n + 2) // 3))}"]
            models[f"m{n}"] = move(parent, 100 + n, float(draw.choice([0.05, 0.1, 0.15])))
        return models
    if kind == "siblings":
        return {"base": BASE, **on_one_set_of_data((51, 52, 53, 54), 0.08)}
    if kind == "adapters":
        return {**FAMILY, **{f"l{n}": low_rank(BASE, n, rank) for n, rank in enumerate((4, 8, 16))}}
    if kind == "pruned":
        return {**FAMILY, "p": pruned(PARTS["a"], 0.5), "q": pruned(BASE, 0.3)}
    assert kind == "long chain"
    models = {"m0": BASE}
    for n in range(1, 8):
        models[f"m{n}"] = tuned(models[f"m{n - 1}"], 200 + n, 0.08)
    return models


KINDS = (
    "trained", "white", "columns", "mostly white", "siblings", "adapters", "pruned", "long chain",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_no_training_is_a_merge(kind: str) -> None:
    models = ordinary(kind)
    assert merges(models) == {}
    assert not [e for e in infer(models).edges if e.relation is Relation.MERGE]


@pytest.mark.parametrize("kind", ["trained", "white", "columns", "mostly white"])
def test_a_sum_is_found_whatever_training_looks_like(kind: str) -> None:
    models = {**ordinary(kind), "child": linear((0.6, 0.4), *list(ordinary(kind).values())[20:22])}
    found = merges(models)
    assert set(found) == {"child"}
    assert shares(models, found["child"]) == pytest.approx({"m20": 0.6, "m21": 0.4}, abs=0.01)


def test_a_mask_is_not_told_from_a_white_step() -> None:
    models = ordinary("columns")
    child = dropped((0.5, 0.5), 0.5, models["m0"], models["m20"], models["m21"])
    assert merges({**models, "child": child}) == {}


def test_a_merge_trained_on_is_none() -> None:
    made = linear((0.6, 0.4), PARTS["a"], PARTS["b"])
    assert merges({**FAMILY, "on": tuned(made, 60, 0.05)}) == {}


def test_a_merge_of_one_that_is_not_there_is_none() -> None:
    hidden = tuned(BASE, 70, 0.1)
    for child in (
        linear((0.6, 0.4), PARTS["a"], hidden),
        dropped((0.5, 0.5), 0.5, BASE, PARTS["a"], hidden),
    ):
        assert merges({**FAMILY, "child": child}) == {}


# Whole layers


def cut(model: Model, layers: Sequence[int]) -> Model:
    return with_layers(model, list(layers))


def test_what_was_cut_from_a_model_is_no_parent_of_it() -> None:
    base = layered_network(0)
    models = {"base": base, "top": cut(base, range(2, 6)), "bottom": cut(base, range(4))}
    prints = {name: fingerprint(model) for name, model in models.items()}
    assert passthrough(prints["base"], [prints["top"], prints["bottom"]]) is None
    assert told(infer_graph(prints)) == {
        ("base", "top"): ("pruned", "depth"),
        ("base", "bottom"): ("pruned", "depth"),
    }


def test_what_kept_the_layers_that_another_lost_is_no_parent_either() -> None:
    base = layered_network(0)
    moved = tuned(base, 71, 0.1)
    kept = {n for n in base if ".0." in n or ".1." in n or ".2." in n}
    rest = set(base) - kept
    frozen = {n: w if n in kept else moved[n] for n, w in base.items()}
    models = [fingerprint(m) for m in (cut(base, range(3, 6)), frozen)]
    assert passthrough(fingerprint(base), models) is None
    put = {n: w if n in kept else moved[n] for n, w in base.items()}
    whole = [fingerprint(base), fingerprint(tuned(moved, 72, 0.1) | {n: moved[n] for n in rest})]
    assert passthrough(fingerprint(put), whole) is not None


def test_a_model_that_has_layers_twice_was_put_together() -> None:
    base = layered_network(0)
    parts = [fingerprint(cut(base, layers)) for layers in (range(3), range(3, 6))]
    assert passthrough(fingerprint(base), parts) is None
    found = passthrough(fingerprint(cut(base, [0, 1, 2, 0, 1, 2, 3, 4, 5])), parts)
    assert found is not None
    assert set(found.parents) == {0, 1}


# Steps that are no training, through the graph


def told(graph: LineageGraph) -> dict[tuple[str, str], tuple[str, str | None]]:
    return {(e.parent, e.child): (str(e.relation), e.how) for e in graph.edges}


def test_a_pruned_model_hangs_on_its_source_and_what_kept_the_zeros_on_it() -> None:
    sparse = pruned(PARTS["a"], 0.5)
    moved = tuned(sparse, 80, 0.05)
    kept = {name: np.where(sparse[name] == 0, 0, w).astype(w.dtype) for name, w in moved.items()}
    found = told(infer({**FAMILY, "sparse": sparse, "kept": kept, "other": pruned(BASE, 0.3)}))
    assert found["a", "sparse"] == ("pruned", "unstructured")
    assert found["sparse", "kept"][0] == "finetune"
    assert found["base", "other"] == ("pruned", "unstructured")
    assert {p for p, c in found if c in {"sparse", "kept", "other"}} == {"a", "sparse", "base"}


@pytest.mark.parametrize("size", [0.002, 0.01, 0.02])
def test_where_every_step_is_noise_merges_chains_and_pruned_models_are_what_they_are(
    size: float,
) -> None:
    steps = {name: noisy(BASE, seed, size) for seed, name in enumerate("abcd", start=90)}
    steps["a2"] = noisy(steps["a"], 95, size)
    steps["a3"] = noisy(steps["a2"], 96, size)
    made = {"merged": linear([0.3, 0.7], steps["a"], steps["b"]), "sparse": pruned(steps["c"], 0.5)}
    found = told(infer({"base": BASE, **steps, **made}))
    assert found["a", "merged"] == found["b", "merged"] == ("merge", "linear")
    (source,) = (parent for parent, child in found if child == "sparse")
    assert source == "c" or size < 0.02  # so little more noise is below that of sketches
    steps_said = {(p, c) for p, c in found if c not in made}
    true = {*(("base", name) for name in "abcd"), ("a", "a2"), ("a2", "a3")}
    assert set(map(frozenset, steps_said)) == set(map(frozenset, true))
    assert len(steps_said - true) <= 1  # which of base and child had noise added hardly shows


@pytest.mark.parametrize("source", ["base", "a", "a2"])
def test_a_copy_with_noise_hangs_on_what_the_noise_was_added_to(source: str) -> None:
    found = told(infer({**FAMILY, "noisy": noisy(FAMILY[source], 90, 0.01)}))
    assert found[source, "noisy"] == ("noised", None)
    assert [edge for edge in found if "noisy" in edge] == [(source, "noisy")]
