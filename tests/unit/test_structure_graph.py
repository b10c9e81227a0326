"""Families whose members differ in structure: every model gets its parent, and only that."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from test_structure import (
    Model,
    narrowed,
    network,
    tuned,
    with_experts,
    with_layers,
    with_stacked_experts,
    with_tokens,
)

from lineage import fingerprint, infer
from lineage.evidence.passthrough import passthrough
from lineage.graph import LineageGraph

Edges = dict[tuple[str, str], tuple[str, str | None]]

BASE = network(0)
ONE, TWO = tuned(BASE, 1, 0.15), tuned(BASE, 2, 0.2)
CHANGES = {
    ("expanded", "vocabulary"): lambda model: with_tokens(model, 32),
    ("pruned", "depth"): lambda model: with_layers(model, [0, 1, 2, 4, 5]),
    ("expanded", "depth"): lambda model: with_layers(model, [0, 1, 2, 3, 2, 3, 4, 5]),
    ("pruned", "width"): lambda model: narrowed(model, 100),
    ("expanded", "experts"): lambda model: with_experts(model, 4),
}


def edges(graph: LineageGraph) -> Edges:
    return {(e.parent, e.child): (str(e.relation), e.how) for e in graph.edges}


def mixed(bottom: Model, top: Model, layers: int = 3) -> Model:
    """Take the first layers and all outside of layers from one, the other layers from another."""
    return {
        name: (top if ".layers." in name and int(name.split(".")[2]) >= layers else bottom)[
            name
        ].copy()
        for name in bottom
    }


@pytest.mark.parametrize("how", CHANGES, ids=" ".join)
@pytest.mark.parametrize("healed", [0, 0.1])
def test_a_changed_model_and_its_children(how: tuple[str, str], healed: float) -> None:
    changed = CHANGES[how](ONE)
    if healed:
        changed = tuned(changed, 3, healed)
    models = {
        "base": BASE, "one": ONE, "two": TWO, "changed": changed,
        "child": tuned(changed, 4, 0.12), "other-child": tuned(changed, 5, 0.15),
    }  # fmt: skip
    models["grandchild"] = tuned(models["child"], 6, 0.12)
    assert edges(infer(models)) == {
        ("base", "one"): ("finetune", "full"),
        ("base", "two"): ("finetune", "full"),
        ("one", "changed"): how,
        ("changed", "child"): ("finetune", "full"),
        ("changed", "other-child"): ("finetune", "full"),
        ("child", "grandchild"): ("finetune", "full"),
    }


@pytest.mark.parametrize("how", CHANGES, ids=" ".join)
@pytest.mark.parametrize("healed", [0, 0.1])
def test_two_changed_models_of_two_parents(how: tuple[str, str], healed: float) -> None:
    changed = {
        f"{name}-changed": CHANGES[how](model) for name, model in (("one", ONE), ("two", TWO))
    }
    if healed:
        changed = {
            name: tuned(model, 3 + n, healed) for n, (name, model) in enumerate(changed.items())
        }
    found = edges(infer({"base": BASE, "one": ONE, "two": TWO, **changed}))
    assert found == {
        ("base", "one"): ("finetune", "full"),
        ("base", "two"): ("finetune", "full"),
        ("one", "one-changed"): how,
        ("two", "two-changed"): how,
    }


@pytest.mark.parametrize("how", CHANGES, ids=" ".join)
def test_a_changed_model_and_its_light_child(how: tuple[str, str]) -> None:
    changed = CHANGES[how](BASE)
    models = {"base": BASE, "changed": changed, "child": tuned(changed, 4, 0.01)}
    found = edges(infer(models))  # a light step that knows nothing of the weights passes as noise
    assert found.pop(("changed", "child"))[0] in {"finetune", "noised"}
    assert found == {("base", "changed"): how}
    assert edges(infer({n: models[n] for n in ("base", "child")})) == {("base", "child"): how}


def test_two_changes_one_after_the_other() -> None:
    deep = with_layers(ONE, [0, 1, 2, 3, 2, 3, 4, 5])
    models = {"base": BASE, "one": ONE, "deep": deep, "grown": with_tokens(deep, 32)}
    assert edges(infer(models)) == {
        ("base", "one"): ("finetune", "full"),
        ("one", "deep"): ("expanded", "depth"),
        ("deep", "grown"): ("expanded", "vocabulary"),
    }


def test_a_rounded_child_of_a_changed_model_hangs_on_that() -> None:
    changed = with_tokens(BASE, 32)
    half = {name: weights.astype(np.float16) for name, weights in changed.items()}
    found = edges(infer({"base": BASE, "changed": changed, "half": half, "one": ONE}))
    assert found["changed", "half"] == ("quantized", "fp16")
    assert found["base", "changed"] == ("expanded", "vocabulary")
    assert len(found) == 3


def test_siblings_that_dropped_other_layers_both_get_their_parent() -> None:
    models = {
        "base": BASE, "one": with_layers(BASE, [0, 1, 2, 4, 5]),
        "two": tuned(with_layers(BASE, [0, 2, 3, 4, 5]), 1, 0.1),
    }  # fmt: skip
    depth = ("pruned", "depth")
    assert edges(infer(models)) == {("base", "one"): depth, ("base", "two"): depth}


def test_the_order_of_the_input_never_matters() -> None:
    models = {
        "base": BASE, "deep": with_layers(BASE, [0, 1, 2, 1, 2, 3, 4, 5]),
        "wide": with_experts(BASE, 2), "mixed": mixed(ONE, TWO),
    }  # fmt: skip
    prints = {name: fingerprint(model) for name, model in models.items()}
    want = infer(prints).to_json()
    for order in permutations(prints):
        assert infer({name: prints[name] for name in order}).to_json() == want


# Passthrough


def test_a_model_of_others_layers() -> None:
    models = {"base": BASE, "one": ONE, "two": TWO, "mixed": mixed(ONE, TWO)}
    graph = infer(models)
    assert edges(graph) == {
        ("base", "one"): ("finetune", "full"),
        ("base", "two"): ("finetune", "full"),
        ("one", "mixed"): ("merge", "passthrough"),
        ("two", "mixed"): ("merge", "passthrough"),
    }
    shares = {e.parent: e.coefficient for e in graph.parents("mixed")}
    inside = sum(w.size for n, w in BASE.items() if ".layers." in n) / 2
    whole = sum(w.size for w in BASE.values())
    assert shares == {
        "one": pytest.approx(1 - inside / whole), "two": pytest.approx(inside / whole)
    }  # fmt: skip


def test_a_taller_model_of_others_layers_and_its_child() -> None:
    tall = with_layers(ONE, [0, 1, 2, 3, 4, 5, 5, 5])
    for layer, old in ((4, 2), (5, 3), (6, 4), (7, 5)):
        for name, weights in TWO.items():
            if f".layers.{old}." in name:
                tall[name.replace(f".layers.{old}.", f".layers.{layer}.")] = weights.copy()
    models = {"base": BASE, "one": ONE, "two": TWO, "tall": tall, "child": tuned(tall, 7, 0.1)}
    found = edges(infer(models))
    assert found["one", "tall"] == found["two", "tall"] == ("merge", "passthrough")
    assert found["tall", "child"] == ("finetune", "full")
    assert len(found) == 5


def test_a_child_of_a_model_of_others_layers() -> None:
    made = mixed(ONE, TWO)
    models = {"base": BASE, "one": ONE, "two": TWO, "mixed": made, "child": tuned(made, 7, 0.08)}
    found = edges(infer(models))
    assert found["mixed", "child"] == ("finetune", "full")
    assert len(found) == 5


def frozen(model: Model, seed: int, layers: set[int]) -> Model:
    """Train these layers and nothing else."""
    moved = tuned(model, seed, 0.15)
    return {
        name: moved[name] if ".layers." in name and int(name.split(".")[2]) in layers else weights
        for name, weights in model.items()
    }


def test_frozen_tensors_are_no_passthrough() -> None:
    one, two = frozen(BASE, 1, {0, 1}), frozen(BASE, 2, {4, 5})
    last = frozen(one, 3, {5})
    models = {"base": BASE, "one": one, "two": two, "last": last}
    prints = {name: fingerprint(model) for name, model in models.items()}
    for child in prints:
        assert passthrough(prints[child], [f for n, f in prints.items() if n != child]) is None
    assert {how for _, how in edges(infer(prints)).values()} == {"partial"}


def test_one_parent_explains_what_one_parent_has() -> None:
    child = with_layers(BASE, [0, 1, 2, 1, 2, 3, 4, 5])
    others = [fingerprint(model) for model in (BASE, frozen(BASE, 1, {5}), ONE)]
    assert passthrough(fingerprint(child), others) is None
    assert passthrough(fingerprint(mixed(ONE, TWO)), others) is None  # one of its two is not there


def test_two_that_are_each_made_of_the_other_are_left_alone() -> None:
    models = {"one": ONE, "two": TWO, "x": mixed(ONE, TWO), "y": mixed(TWO, ONE)}
    assert not [e for e in infer(models).edges if e.how == "passthrough"]


def test_stacked_experts_in_a_family() -> None:
    changed = with_stacked_experts(ONE, 4)
    models = {"base": BASE, "one": ONE, "two": TWO, "moe": changed, "child": tuned(changed, 4, 0.1)}
    found = edges(infer(models))
    assert found["one", "moe"] == ("expanded", "experts")
    assert found["moe", "child"] == ("finetune", "full")
    assert len(found) == 4
