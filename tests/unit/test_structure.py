"""Changed structure: vocabularies, layers, widths and experts, one way and not the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from makers import Array

from lineage import fingerprint
from lineage.evidence import Comparison, compare_fingerprints
from lineage.evidence.layers import layer_maps
from lineage.evidence.matching import table
from lineage.evidence.pairing import pair

Model = dict[str, Array]

D, HIDDEN, TOKENS = 64, 160, 96
SHAPES = {
    "self_attn.q_proj": (D, D), "self_attn.k_proj": (D // 2, D), "self_attn.o_proj": (D, D),
    "mlp.gate_proj": (HIDDEN, D), "mlp.up_proj": (HIDDEN, D), "mlp.down_proj": (D, HIDDEN),
}  # fmt: skip


def network(seed: int, layers: int = 6, *, tied: bool = False) -> Model:
    """A small language model's weights; no other seed has one of its matrices."""
    rng = np.random.default_rng([11, seed])
    scale = np.exp(rng.normal(0, 0.5, D))  # trained embeddings have columns of many sizes
    model = {"model.embed_tokens.weight": rng.normal(0, 0.05, (TOKENS, D)) * scale}
    for layer in range(layers):
        stem = f"model.layers.{layer}"
        for name, shape in SHAPES.items():
            model[f"{stem}.{name}.weight"] = rng.normal(0, shape[1] ** -0.5, shape)
        model[f"{stem}.input_layernorm.weight"] = 1 + 0.1 * rng.normal(size=D)
    model["model.norm.weight"] = 1 + 0.1 * rng.normal(size=D)
    if not tied:
        model["lm_head.weight"] = rng.normal(0, 0.05, (TOKENS, D))
    return {name: weights.astype(np.float32) for name, weights in model.items()}


def tuned(model: Model, seed: int, size: float) -> Model:
    """Move every weight by noise of `size` times its tensor's norm."""
    rng = np.random.default_rng([12, seed])
    moved = {}
    for name, weights in model.items():
        step = rng.normal(size=weights.shape)
        step *= size * np.linalg.norm(weights) / max(float(np.linalg.norm(step)), 1e-30)
        moved[name] = (weights + step).astype(weights.dtype)
    return moved


def with_layers(model: Model, layers: Sequence[int], stem: str = "model.layers") -> Model:
    """Build a model of some layers of another, in this order."""
    made = {name: w for name, w in model.items() if not name.startswith(f"{stem}.")}
    for new, old in enumerate(layers):
        for name, weights in model.items():
            if name.startswith(f"{stem}.{old}."):
                made[name.replace(f"{stem}.{old}.", f"{stem}.{new}.")] = weights.copy()
    return made


def with_tokens(model: Model, more: int, seed: int = 0) -> Model:
    """Put rows after those of embedding and head."""
    rng = np.random.default_rng([13, seed])
    made = dict(model)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in model:
            rows = rng.normal(0, 0.05, (more, D)).astype(np.float32)
            made[name] = np.concatenate([model[name], rows])
    return made


def narrowed(model: Model, units: int, seed: int = 0) -> Model:
    """Keep some units of each feed-forward block."""
    rng = np.random.default_rng([14, seed])
    made = dict(model)
    for name in [n for n in model if "gate_proj" in n]:
        kept = np.sort(rng.choice(HIDDEN, units, replace=False))
        for part in ("gate_proj", "up_proj"):
            inward = name.replace("gate_proj", part)
            made[inward] = model[inward][kept]
        outward = name.replace("gate_proj", "down_proj")
        made[outward] = model[outward][:, kept]
    return made


MIXTRAL = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def with_experts(model: Model, count: int, seed: int = 0) -> Model:
    """Copy each feed-forward block, as mixtures of experts name them, and add routers."""
    rng = np.random.default_rng([15, seed])
    made: Model = {}
    for name, weights in model.items():
        if ".mlp." not in name:
            made[name] = weights
            continue
        stem, _, part = name.removesuffix(".weight").rpartition(".mlp.")
        for expert in range(count):
            inner = f"{stem}.block_sparse_moe.experts.{expert}.{MIXTRAL[part]}.weight"
            made[inner] = weights.copy()
        gate = rng.normal(0, 0.02, (count, D)).astype(np.float32)
        made[f"{stem}.block_sparse_moe.gate.weight"] = gate
    return made


def with_stacked_experts(model: Model, count: int) -> Model:
    """The same where one tensor holds all experts of a layer."""
    made = {name: w for name, w in model.items() if ".mlp." not in name}
    for name in [n for n in model if "gate_proj" in n]:
        gate, up, down = (
            model[name.replace("gate_proj", part)] for part in ("gate_proj", "up_proj", "down_proj")
        )
        stem = name.removesuffix(".gate_proj.weight")
        made[f"{stem}.experts.gate_up_proj"] = np.stack([np.concatenate([gate, up])] * count)
        made[f"{stem}.experts.down_proj"] = np.stack([down] * count)
    return made


BASE = network(0)


def both_ways(a: Model, b: Model) -> Comparison:
    """Compare a with b, and check that b with a says the same, turned round."""
    one, other = fingerprint(a), fingerprint(b)
    found, turned = compare_fingerprints(one, other), compare_fingerprints(other, one).reversed()
    for field in ("related", "relation", "how", "direction", "is_exact", "structure", "layers"):
        assert getattr(found, field) == getattr(turned, field), field
    return found


def kind(found: Comparison) -> tuple[bool | None, str | None, str | None, str | None]:
    relation = None if found.relation is None else str(found.relation)
    return found.related, relation, found.how, found.direction


# Vocabulary


@pytest.mark.parametrize("more", [1, 8, 32, 200])
@pytest.mark.parametrize("change", [0, 0.01, 0.3])
@pytest.mark.parametrize("tied", [False, True])
def test_a_grown_vocabulary(more: int, change: float, tied: bool) -> None:
    base = network(0, 2, tied=tied)
    child = with_tokens(base, more)
    found = both_ways(base, tuned(child, 1, change) if change else child)
    assert kind(found) == (True, "expanded", "vocabulary", "a->b")
    assert found.is_exact == (change == 0)
    assert found.structure == ("vocabulary",)


def test_new_tokens_that_begin_as_the_mean_of_the_old_ones() -> None:
    base = BASE | {n: BASE[n] + 0.1 for n in ("model.embed_tokens.weight", "lm_head.weight")}
    child = dict(base)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = np.tile(base[name].mean(axis=0), (16, 1))
        child[name] = np.concatenate([base[name], rows])
    found = both_ways(base, child)
    assert kind(found) == (True, "expanded", "vocabulary", "a->b")
    assert found.is_exact
    moved = child["lm_head.weight"].copy()
    moved[:TOKENS] *= np.linspace(0.99, 1.01, TOKENS, dtype=np.float32)[:, None]
    assert not both_ways(base, child | {"lm_head.weight": moved}).is_exact


def test_an_embedding_that_was_made_anew_is_no_grown_one() -> None:
    child = tuned(BASE, 1, 0.05) | {"model.embed_tokens.weight": network(9)["lm_head.weight"]}
    child["model.embed_tokens.weight"] = np.tile(child["model.embed_tokens.weight"], (2, 1))
    assert both_ways(BASE, child).structure == ()
    # Nor is the head of a classifier with other classes, nor a table of more positions.
    base = BASE | {"classifier.weight": network(3)["lm_head.weight"]}
    child = BASE | {"classifier.weight": network(4)["lm_head.weight"][:40]}
    assert both_ways(base, tuned(child, 1, 0.1)).structure == ()
    longer = np.random.default_rng(0).normal(size=(200, D)).astype(np.float32)
    base = BASE | {"model.embed_positions.weight": longer[:100]}
    found = both_ways(base, tuned(BASE | {"model.embed_positions.weight": longer}, 1, 0.1))
    assert found.structure == ()


def test_strangers_of_two_vocabularies_are_strangers() -> None:
    assert kind(both_ways(BASE, with_tokens(network(5), 30))) == (False, None, None, None)


def test_a_vocabulary_that_kept_some_tokens_is_a_pruned_width() -> None:
    rng = np.random.default_rng(0)
    kept = np.sort(rng.choice(TOKENS, 70, replace=False))
    child = BASE | {"model.embed_tokens.weight": BASE["model.embed_tokens.weight"][kept]}
    child["lm_head.weight"] = BASE["lm_head.weight"][kept]
    scaled = dict(zip(("model.embed_tokens.weight", "lm_head.weight"), (0, 1), strict=True))
    columns = np.exp(rng.normal(0, 1, D)).astype(np.float32)
    for name in scaled:
        child[name] = child[name] * columns
    base = BASE | {name: BASE[name] * columns for name in scaled}
    assert kind(both_ways(base, child)) == (True, "pruned", "width", "a->b")
    # A head need not keep its profile, where tokens that never occur are far out.
    out = base["lm_head.weight"].copy()
    out[np.setdiff1d(np.arange(TOKENS), kept)] += 3 * rng.normal(size=D).astype(np.float32)
    assert kind(both_ways(base | {"lm_head.weight": out}, child)) == (
        True, "pruned", "width", "a->b",
    )  # fmt: skip


def test_weak_tokens_that_were_put_in_front_are_no_cut() -> None:
    rng = np.random.default_rng(1)
    columns = np.exp(rng.normal(0, 1, D)).astype(np.float32)
    names = "model.embed_tokens.weight", "lm_head.weight"
    base = BASE | {name: BASE[name] * columns for name in names}
    more = {name: np.tile(base[name].mean(axis=0), (3, 1)) for name in names}
    child = base | {name: np.concatenate([more[name], base[name]]) for name in names}
    assert both_ways(base, child).relation != "pruned"


# Depth


@pytest.mark.parametrize("kept", [(0, 1, 2, 3), (0, 1, 4, 5), (0, 2, 4), (5, 4)])
@pytest.mark.parametrize("change", [0, 0.02, 0.4])
def test_dropped_layers(kept: tuple[int, ...], change: float) -> None:
    child = with_layers(BASE, kept)
    found = both_ways(BASE, tuned(child, 1, change) if change else child)
    assert kind(found) == (True, "pruned", "depth", "a->b")
    assert found.is_exact == (change == 0)
    (layers,) = found.layers
    assert layers.pairs == tuple(sorted((old, new) for new, old in enumerate(kept)))
    assert found.change == pytest.approx(change, abs=0.01)


@pytest.mark.parametrize("kept", [(0, 1, 2, 3, 2, 3, 4, 5), (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)])
@pytest.mark.parametrize("change", [0, 0.02, 0.4])
def test_repeated_layers(kept: tuple[int, ...], change: float) -> None:
    child = with_layers(BASE, kept)
    found = both_ways(BASE, tuned(child, 1, change) if change else child)
    assert kind(found) == (True, "expanded", "depth", "a->b")
    assert found.is_exact == (change == 0)
    (layers,) = found.layers
    assert layers.pairs == tuple(sorted((old, new) for new, old in enumerate(kept)))
    assert found.change == pytest.approx(change, abs=0.01)


def test_the_layer_map_is_told_in_words() -> None:
    found = both_ways(BASE, with_layers(BASE, [0, 1, 2, 3, 2, 3, 4, 5]))
    assert found.evidence[0].told("a", "b") == (
        "every layer of b is one of a's: blk 0-3, 2-5"
    )  # fmt: skip
    assert found.to_json()["layers"][0]["pairs"][2:4] == [[2, 2], [2, 4]]


def test_repeats_that_only_copy_what_reads_and_write_nothing_yet() -> None:
    child = with_layers(BASE, [0, 1, 2, 2, 3, 4, 5, 5])
    for layer in (3, 7):
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            child[f"model.layers.{layer}.{name}.weight"][:] = 0
    assert kind(both_ways(BASE, child)) == (True, "expanded", "depth", "a->b")


def test_two_that_dropped_other_layers_are_siblings() -> None:
    one, other = with_layers(BASE, [0, 1, 2, 4, 5]), with_layers(BASE, [0, 2, 3, 4, 5])
    for found in (both_ways(one, other), both_ways(tuned(one, 1, 0.1), tuned(other, 2, 0.1))):
        assert (found.related, found.relation, found.direction) == (True, None, None)
        assert found.structure == ("depth",)
        assert found.layers[0].pairs == ((0, 0), (2, 1), (3, 3), (4, 4))
    shorter = with_layers(BASE, [0, 3, 4, 5])
    assert both_ways(one, shorter).direction is None


def test_strangers_of_other_depth_are_strangers() -> None:
    for layers in (4, 8):
        found = both_ways(BASE, network(7, layers))
        assert kind(found) == (False, None, None, None)
        assert found.layers == ()


def test_a_head_put_on_top_of_a_stack_is_no_layer() -> None:
    rng = np.random.default_rng(2)
    base = {f"{n}.weight": rng.normal(size=(70, 70)).astype(np.float32) for n in range(0, 8, 2)}
    child = base | {"8.weight": rng.normal(size=(10, 70)).astype(np.float32)}
    assert both_ways(base, child).structure == ()
    assert both_ways(base, tuned(child, 1, 0.2)).structure == ()


def test_layers_of_one_depth_keep_their_numbers() -> None:
    one, other = fingerprint(BASE), fingerprint(tuned(BASE, 1, 0.3))
    assert pair(one, other).maps == ()
    assert all(m.keeps_numbers for m in layer_maps(table(one), table(other)))
    # One layer made anew is no dropped one.
    anew = {n: network(8)[n] if ".layers.3." in n else w for n, w in BASE.items()}
    assert both_ways(BASE, tuned(anew, 1, 0.1)).structure == ()


# Width


@pytest.mark.parametrize("change", [0, 0.02, 0.2])
def test_a_narrowed_model(change: float) -> None:
    child = narrowed(BASE, 100)
    found = both_ways(BASE, tuned(child, 1, change) if change else child)
    assert kind(found) == (True, "pruned", "width", "a->b")
    assert found.is_exact == (change == 0)
    assert found.evidence[0].statistic == pytest.approx(100 / HIDDEN, abs=0.05)


def test_a_narrower_model_with_more_energy_was_not_cut() -> None:
    child = narrowed(BASE, 100)
    louder = {n: w * 2 if ".mlp." in n else w for n, w in child.items()}
    assert both_ways(BASE, louder).structure == ()
    assert kind(both_ways(BASE, narrowed(network(5), 100))) == (False, None, None, None)


# Experts


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("change", [0, 0.05, 0.4])
def test_experts_made_of_a_dense_layer(count: int, change: float) -> None:
    child = with_experts(BASE, count)
    found = both_ways(BASE, tuned(child, 1, change) if change else child)
    assert kind(found) == (True, "expanded", "experts", "a->b")
    assert found.is_exact == (change == 0)
    assert found.evidence[0].statistic == count


@pytest.mark.parametrize("change", [0, 0.05])
def test_experts_in_one_tensor(change: float) -> None:
    child = with_stacked_experts(BASE, 4)
    found = both_ways(BASE, tuned(child, 1, change) if change else child)
    assert kind(found) == (True, "expanded", "experts", "a->b")
    assert found.is_exact == (change == 0)


def test_experts_of_another_model_are_not_copies() -> None:
    other = with_experts(network(6), 4)
    mixed = {n: BASE.get(n, w) for n, w in other.items()}  # attention of one, experts of another
    assert both_ways(BASE, mixed).structure == ()
    one = with_experts(BASE, 4)
    assert both_ways(one, tuned(one, 1, 0.1)).structure == ()


def test_two_changes_at_once() -> None:
    child = with_tokens(with_layers(BASE, [0, 1, 4, 5]), 32)
    found = both_ways(BASE, tuned(child, 1, 0.1))
    assert kind(found) == (True, "pruned", "depth", "a->b")
    assert found.structure == ("depth", "vocabulary")
    crossed = both_ways(with_tokens(BASE, 32), with_layers(BASE, [0, 1, 4, 5]))
    assert crossed.direction == "a->b" or crossed.relation is None


@pytest.mark.parametrize("how", ["depth", "width", "vocabulary"])
def test_a_change_of_structure_is_no_kinship_of_two_trainings_from_one_start(how: str) -> None:
    one, other = tuned(BASE, 1, 0.8), tuned(BASE, 2, 0.8)
    changed = {
        "depth": lambda: with_layers(other, [0, 1, 4, 5]),
        "width": lambda: narrowed(other, 100),
        "vocabulary": lambda: with_tokens(other, 32),
    }[how]()
    assert kind(both_ways(one, changed)) == (False, "shared_init", None, None)
    assert kind(both_ways(other, changed))[3] == "a->b"
