"""What models hold besides trained weights, and what is broken in them, misleads nobody."""

from __future__ import annotations

import time

import numpy as np
import pytest
from makers import Array
from test_structure import BASE, D, Model, both_ways, kind, network, tuned

from lineage import compare, fingerprint, infer
from lineage.evidence.matching import table
from lineage.graph import LineageGraph

STRANGER = network(21)
CHILD = tuned(BASE, 1, 0.15)

WIDE = 400


def waves(rows: int = WIDE, cols: int = D) -> Array:
    """The fixed table of positions: sines and cosines."""
    angle = np.arange(rows)[:, None] / 10000 ** (np.arange(0, cols, 2) / cols)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def filters(rows: int = 80, cols: int = 201) -> Array:
    """Overlapping triangles, as a bank of mel filters is: not trained, and not of two values."""
    at = np.arange(cols)
    centres = np.linspace(0, cols, rows)[:, None]
    return np.maximum(0, 1 - np.abs(at - centres) / 4).astype(np.float32)


def buffers(seed: int) -> Model:
    """What a network carries along without training it; some of it alike in every network."""
    rng = np.random.default_rng([31, seed])
    swin = np.abs(np.arange(49)[:, None] - np.arange(49))
    return {
        "model.embed_positions.weight": waves(),
        "model.rotary_emb.inv_freq": (1 / 10000 ** (np.arange(0, D, 2) / D)).astype(np.float32),
        "model.rotary_emb.cos_cached": np.cos(np.outer(np.arange(WIDE), np.arange(D) / D)).astype(
            np.float32
        ),
        "model.embeddings.position_ids": np.arange(512)[None],
        "model.layers.0.attn.bias": np.tril(np.ones((128, 128), np.float32)),
        "model.layers.0.attn.relative_position_index": swin,
        "model.layers.0.mask": np.triu(np.full((96, 96), -1e4, np.float32), 1),
        "model.bn.running_mean": (0.1 * rng.normal(size=D)).astype(np.float32),
        "model.bn.running_var": (1 + 0.1 * rng.normal(size=D) ** 2).astype(np.float32),
        "model.bn.num_batches_tracked": np.array(1000 + seed),
    }


def optimizer(model: Model, seed: int) -> Model:
    """Adam's state beside the weights, in one file."""
    rng = np.random.default_rng([32, seed])
    state: Model = {}
    for name, weights in model.items():
        size = np.exp(rng.normal(-12, 0.5, weights.shape))
        state[f"optimizer.state.{name}.exp_avg"] = (size * rng.normal(size=weights.shape)).astype(
            np.float32
        )
        state[f"optimizer.state.{name}.exp_avg_sq"] = (size**2 * 1e9).astype(np.float32)
    return state


def edges(graph: LineageGraph) -> set[tuple[str, str, str, str | None]]:
    return {(e.parent, e.child, str(e.relation), e.how) for e in graph.edges}


def check_told_apart(base: Model, child: Model, stranger: Model, how: str = "full") -> None:
    """A child is found, in full, and a stranger is none, in a pair and in a family."""
    assert kind(both_ways(base, child)) == (True, "finetune", how, "a->b")
    assert not both_ways(base, stranger).related
    graph = infer({"base": base, "child": child, "stranger": stranger})
    assert edges(graph) == {("base", "child", "finetune", how)}
    assert graph.family("stranger") != graph.family("base")


def test_buffers_make_no_relatives_and_no_frozen_tensors() -> None:
    check_told_apart(BASE | buffers(0), CHILD | buffers(1), STRANGER | buffers(2))


def test_buffers_that_outweigh_the_weights() -> None:
    small = [
        {n: w for n, w in model.items() if ".layers.0." in n} for model in (BASE, CHILD, STRANGER)
    ]
    check_told_apart(*(model | buffers(n) for n, model in enumerate(small)))


def test_fixed_filters_make_no_relatives() -> None:
    made = [m | {"frontend.filters": filters()} for m in (BASE, CHILD, STRANGER)]
    assert not both_ways(made[0], made[2]).related
    graph = infer(dict(zip(("base", "child", "stranger"), made, strict=True)))
    assert {(e.parent, e.child) for e in graph.edges} == {("base", "child")}
    assert graph.family("stranger") != graph.family("base")


def test_a_tenth_that_is_frozen_is_partial_all_the_same() -> None:
    frozen = {n: w if "embed" in n or "lm_head" in n else CHILD[n] for n, w in BASE.items()}
    assert both_ways(BASE, frozen).how == "partial"


def test_optimizer_state_makes_no_relatives() -> None:
    base = BASE | optimizer(BASE, 0)
    check_told_apart(base, CHILD | optimizer(CHILD, 1), STRANGER | optimizer(STRANGER, 2))
    # Nor does it hide that one file has it and the other has not.
    assert kind(both_ways(base, CHILD)) == (True, "finetune", "full", "a->b")
    assert kind(both_ways(base, BASE)) == (True, "identical", "converted", None)


@pytest.mark.parametrize("other", ["stored", "left out"])
def test_tied_weights(other: str) -> None:
    tied = {n: w for n, w in BASE.items() if n != "lm_head.weight"}
    twice = tied | {"lm_head.weight": tied["model.embed_tokens.weight"].copy()}
    assert kind(both_ways(tied, twice)) == (True, "identical", "converted", None)
    child = tuned(tied, 3, 0.15)
    if other == "stored":
        child["lm_head.weight"] = child["model.embed_tokens.weight"].copy()
    stranger = {n: w for n, w in STRANGER.items() if n != "lm_head.weight"}
    check_told_apart(twice if other == "stored" else tied, child, stranger)
    assert kind(both_ways(twice, child))[:3] == (True, "finetune", "full")
    graph = infer({"twice": twice, "child": child, "cousin": tuned(twice, 4, 0.2)})
    assert {(e.parent, e.child) for e in graph.edges} == {("twice", "child"), ("twice", "cousin")}
    assert edges(infer({"tied": tied, "twice": twice})) in (
        {("tied", "twice", "identical", "converted")},
        {("twice", "tied", "identical", "converted")},
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_tensors_that_are_not_finite_are_left_out(value: float) -> None:
    def broken(model: Model) -> Model:
        return model | {"model.layers.1.mlp.up_proj.weight": np.full((160, D), value, np.float32)}

    check_told_apart(broken(BASE), broken(CHILD), broken(STRANGER))
    check_told_apart(BASE, broken(CHILD), STRANGER)
    whole = {name: np.full_like(w, value) for name, w in BASE.items()}
    assert both_ways(BASE, whole).related is None
    assert not infer(
        {"base": BASE, "whole": whole, "again": {**whole, "x": BASE["model.norm.weight"]}}
    ).edges


def test_constant_tensors_make_no_relatives() -> None:
    flat = {name: np.full_like(w, 0.02) for name, w in BASE.items()}
    other = flat | {"model.norm.weight": BASE["model.norm.weight"]}
    assert both_ways(flat, other).related is None
    assert not infer({"a": flat, "b": other}).edges
    some = {f"extra.{n}.weight": np.full((90, 90), 0.5, np.float32) for n in range(20)}
    check_told_apart(BASE | some, CHILD | some, STRANGER | some)
    zeros = {name: np.zeros_like(w) for name, w in BASE.items()}
    assert both_ways(BASE, zeros).related is None or not both_ways(BASE, zeros).related


def test_models_with_no_tensor_in_common() -> None:
    rng = np.random.default_rng(5)
    other = {f"conv{n}": rng.normal(size=(70, 50)).astype(np.float32) for n in range(4)}
    found = both_ways(BASE, other)
    assert (found.related, found.relation) == (None, None)
    graph = infer({"base": BASE, "child": CHILD, "other": other})
    assert {(e.parent, e.child) for e in graph.edges} == {("base", "child")}
    vectors = {"a": {"b": np.ones(4, np.float32)}, "c": {"d": np.arange(3.0)}}
    assert compare(vectors["a"], vectors["c"]).related is None
    assert not infer(vectors).edges


def test_one_member_and_one_tensor() -> None:
    assert not infer({"alone": BASE}).edges
    one = {"w": BASE["lm_head.weight"]}
    graph = infer({"one": one, "child": {"w": CHILD["lm_head.weight"]}, "all": BASE})
    assert all(name not in graph.ancestors(name) for name in ("one", "child", "all"))


def test_other_names_and_another_head_are_one_family() -> None:
    def renamed(model: Model) -> Model:
        words = {"model.layers": "blk", "self_attn.q_proj": "attn_q", "mlp.up_proj": "ffn_up"}
        made = {}
        for name, weights in model.items():
            for old, new in words.items():
                name = name.replace(old, new)
            made[name] = weights
        return made

    rng = np.random.default_rng(8)
    head = {"classifier.weight": rng.normal(size=(10, D)).astype(np.float32)}
    headless = {n: w for n, w in tuned(BASE, 4, 0.2).items() if n != "lm_head.weight"}
    child = tuned(BASE, 3, 0.15)
    graph = infer({
        "base": BASE, "child": renamed(child), "other": headless | head,
        "grandchild": tuned(child, 5, 0.15), "stranger": renamed(STRANGER),
    })  # fmt: skip
    assert {(e.parent, e.child) for e in graph.edges} == {
        ("base", "child"), ("base", "other"), ("child", "grandchild"),
    }  # fmt: skip


def test_one_huge_tensor_beside_small_ones() -> None:
    rng = np.random.default_rng(6)
    huge = rng.normal(0, 0.05, (6000, 200)).astype(np.float32)
    step = (0.2 * 0.05 * rng.normal(size=huge.shape)).astype(np.float32)
    other = np.random.default_rng(7).normal(0, 0.05, huge.shape).astype(np.float32)
    check_told_apart(
        BASE | {"table": huge}, CHILD | {"table": huge + step}, STRANGER | {"table": other}
    )


def tiny(seed: int, count: int, stem: str = "block") -> Model:
    rng = np.random.default_rng([33, seed])
    return {
        f"{stem}.{n}.weight": rng.normal(size=(8, 12)).astype(np.float32) for n in range(count)
    } | {f"{stem}.{n}.bias": rng.normal(size=8).astype(np.float32) for n in range(count)}


def test_thousands_of_tiny_tensors() -> None:
    count = 2500
    base, stranger = tiny(0, count), tiny(1, count)
    child = tuned(base, 2, 0.2)
    renamed = {
        name.replace("block", "part").replace(".weight", ".w"): w for name, w in child.items()
    }
    start = time.process_time()
    assert both_ways(base, child).related
    assert both_ways(base, stranger).related is False
    graph = infer({"base": base, "child": child, "stranger": stranger})
    assert graph.family("base") == graph.family("child") != graph.family("stranger")
    assert both_ways(base, renamed).related
    assert not both_ways(base, tiny(3, count - 7, "other")).related
    # Generous: it takes a tenth of this on an idle machine, and did take all memory once.
    assert time.process_time() - start < 100


def test_what_is_no_weight_is_known_as_such() -> None:
    of = table(fingerprint(BASE | buffers(0) | optimizer(BASE, 0)))
    matrices = {name for name, is_matrix in zip(of.names, of.is_matrix, strict=True) if is_matrix}
    flat = {name for name, is_flat in zip(of.names, of.is_flat, strict=True) if is_flat}
    assert matrices - flat == {name for name, w in BASE.items() if w.ndim > 1}
