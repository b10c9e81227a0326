"""Adapters merged into a model that is not at hand: neither of two came from the other."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from lineage.evidence.panel import Panel
from lineage.evidence.siblings import Siblings
from lineage.fingerprints import fingerprint
from lineage.graph import infer_graph

Arrays = dict[str, np.ndarray]
LAYERS, SIDE = 6, 96
KINDS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")


def base() -> Arrays:
    draw = np.random.default_rng(91)
    found = {
        f"model.layers.{n}.{kind}.weight": draw.normal(size=(SIDE, SIDE)).astype(np.float32)
        for n in range(LAYERS)
        for kind in KINDS
    }
    found["model.embed_tokens.weight"] = draw.normal(size=(300, SIDE)).astype(np.float32)
    found["model.norm.weight"] = (1 + 0.1 * draw.normal(size=SIDE)).astype(np.float32)
    return found


def merged(
    model: Arrays,
    seed: int,
    rank: int = 4,
    *,
    kinds: tuple[str, ...] = KINDS,
    size: float = 0.1,
    read: int | None = None,
) -> Arrays:
    """Merge an adapter into a model.

    Args:
        model: What it is merged into.
        seed: Of the adapter.
        rank: The same.
        kinds: The modules it changes.
        size: Of the step, over the weights.
        read: Seed of what it reads, which it has hardly left; its own if None.
    """
    found = dict(model)
    for place, name in enumerate(sorted(model)):
        if any(kind in name for kind in kinds):
            draw = np.random.default_rng([92, seed, place])
            up = draw.normal(size=(SIDE, rank)) * np.linspace(1, 0.5, rank)
            down = draw.normal(size=(rank, SIDE))
            if read is not None:
                first = np.random.default_rng([93, read, place]).normal(size=(rank, SIDE))
                down = first + 1e-8 * down
            step = up @ down
            step *= size * np.linalg.norm(model[name]) / np.linalg.norm(step)
            found[name] = (model[name] + step).astype(np.float32)
    return found


def apart(*models: Arrays) -> set[tuple[int, int]]:
    seen = Siblings(Panel([fingerprint(model) for model in models]))
    return {(a, b) for a, b in seen.parted(combinations(range(len(models)), 2)) if a < b}


def edges(models: dict[str, Arrays]) -> set[tuple[str, str]]:
    graph = infer_graph({name: fingerprint(model) for name, model in models.items()})
    return {(edge.parent, edge.child) for edge in graph.edges}


BASE = base()
CHILDREN = {
    "one": merged(BASE, 1, 4),
    "two": merged(BASE, 2, 8, size=0.15),
    "three": merged(BASE, 3, 2, kinds=KINDS[:2]),
    "four": merged(BASE, 4, 8, size=0.05),
}


def test_of_children_of_what_is_not_at_hand_none_came_from_another() -> None:
    graph = infer_graph({name: fingerprint(model) for name, model in CHILDREN.items()})
    assert graph.edges == ()
    assert all(pair.related for pair in graph.pairs)
    said = {name for unclear in graph.undetermined for name in (unclear.a, unclear.b)}
    assert said == CHILDREN.keys()
    assert all("a model that is not here" in unclear.why for unclear in graph.undetermined)


def test_of_many_children_none_is_taken_for_the_parent_of_the_rest() -> None:
    sizes = np.geomspace(0.02, 0.3, 9)
    models = {f"m{n}": merged(BASE, 10 + n, 4, size=float(s)) for n, s in enumerate(sizes)}
    assert edges(models) == set()


def test_with_their_parent_at_hand_they_hang_on_it() -> None:
    assert apart(BASE, *CHILDREN.values()) == set(combinations(range(1, 5), 2))
    graph = infer_graph({n: fingerprint(m) for n, m in {"base": BASE, **CHILDREN}.items()})
    assert {(e.parent, e.child) for e in graph.edges} == {("base", name) for name in CHILDREN}
    assert graph.undetermined == ()


def test_what_came_from_one_of_them_hangs_on_it() -> None:
    models = {**CHILDREN, "then": merged(CHILDREN["one"], 5, 2)}
    names = list(models)
    assert ("one", "then") not in {(names[a], names[b]) for a, b in apart(*models.values())}
    assert edges(models) == {("one", "then")}


def test_a_parent_before_what_is_not_at_hand_stays_one() -> None:
    middle = merged(BASE, 6, 4)
    models = {"base": BASE, "one": merged(middle, 7, 4), "two": merged(middle, 8, 4)}
    assert apart(*models.values()) == {(1, 2)}
    assert edges(models) == {("base", "one"), ("base", "two")}


@pytest.mark.parametrize("size", [0.1, 0.01])
def test_adapters_that_began_alike_feign_nothing(size: float) -> None:
    """The rank of their difference is too low, as if the base had directions of its own."""
    one, two, three = (merged(BASE, n, 4, read=1, size=size) for n in (1, 2, 3))
    assert not [pair for pair in apart(BASE, one, two, three) if 0 in pair]


@pytest.mark.parametrize("size", [0.05, 0.01, 0.005, 0.003])
def test_rounding_feigns_nothing(size: float) -> None:
    models = [BASE, *(merged(BASE, n, 8, size=size) for n in (1, 2, 3))]
    rounded = [
        {name: (w.view(np.uint32) & 0xFFFF0000).view(np.float32) for name, w in model.items()}
        for model in models
    ]
    seen = Siblings(Panel([fingerprint({n: _bf16(w) for n, w in m.items()}) for m in rounded]))
    assert not [pair for pair in seen.parted(combinations(range(4), 2)) if 0 in pair]


def _bf16(values: np.ndarray) -> np.ndarray:
    import ml_dtypes

    return values.astype(ml_dtypes.bfloat16)


def test_states_of_one_adapter_are_steps() -> None:
    states = [BASE]
    for seed in (1, 2, 3):
        states.append({
            name: (w + 0.3 * (merged(BASE, seed)[name] - BASE[name])).astype(np.float32)
            for name, w in states[-1].items()
        })  # fmt: skip
    found = apart(*states, *CHILDREN.values())
    assert not found & set(pairwise(range(4)))


def test_trainings_of_everything_are_not_asked_about() -> None:
    draw = np.random.default_rng(94)
    tuned = [
        {n: (w + 0.01 * draw.normal(size=w.shape)).astype(np.float32) for n, w in BASE.items()}
        for _ in range(3)
    ]
    assert apart(BASE, *tuned) == set()


def test_each_is_told_once_that_its_parent_is_not_here() -> None:
    graph = infer_graph({name: fingerprint(model) for name, model in CHILDREN.items()})
    pairs = [(unclear.a, unclear.b) for unclear in graph.undetermined]
    assert len(pairs) == len(set(pairs)) == len(CHILDREN) - 1
