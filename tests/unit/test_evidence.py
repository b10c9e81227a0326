"""Each detector speaks where it should, and is silent where it should be."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from makers import Array

from lineage import compare, fingerprint, infer
from lineage.errors import SchemeError
from lineage.evidence import Comparison, compare_fingerprints
from lineage.evidence.merging import find_merges, linear_merge
from lineage.evidence.pairing import pair
from lineage.evidence.stacked import stack
from lineage.relation import Relation

Model = dict[str, Array]

SHAPES = {"q": (64, 96), "k": (96, 96), "up": (256, 96), "down": (96, 256)}
DTYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}


def network(seed: int, blocks: int = 2, prefix: str = "") -> Model:
    """A small 'model': matrices that no other seed has, and vectors that all have."""
    rng = np.random.default_rng([1, seed])
    model: Model = {f"{prefix}embed.weight": rng.normal(0, 0.02, (96, 64)).astype(np.float32)}
    for block in range(blocks):
        for name, shape in SHAPES.items():
            weights = rng.normal(0, shape[1] ** -0.5, shape)
            model[f"{prefix}layers.{block}.{name}.weight"] = weights.astype(np.float32)
        model[f"{prefix}layers.{block}.norm.weight"] = np.ones(96, np.float32)
        model[f"{prefix}layers.{block}.norm.bias"] = np.zeros(96, np.float32)
    return model


def cast(model: Model, dtype: Any) -> Model:
    return {name: weights.astype(dtype) for name, weights in model.items()}


def matrices(model: Model) -> list[str]:
    return [name for name, weights in model.items() if weights.ndim > 1]


def changed(model: Model, alter: Callable[[str, Array], Array]) -> Model:
    """Apply `alter` to every matrix."""
    return {
        name: alter(name, weights).astype(weights.dtype) if weights.ndim > 1 else weights
        for name, weights in model.items()
    }


def noisy(model: Model, seed: int, size: float) -> Model:
    """Move every weight by noise of `size` times its matrix's norm."""
    return tuned(model, seed, size, grain=1.0)


def tuned(model: Model, seed: int, size: float, grain: float = 0.8) -> Model:
    """Move every matrix by `size` times its norm: as gradients do, a few directions, and noise."""
    rng = np.random.default_rng([2, seed])

    def alter(_: str, weights: Array) -> Array:
        step = grain * rng.normal(size=weights.shape)
        if grain < 1 and weights.ndim > 1:
            rows, cols = len(weights), weights[0].size
            strength = np.array([3.0, 1.5, 1.0]) * min(rows, cols) ** 0.5 / 4
            few = (rng.normal(size=(rows, 3)) * strength) @ rng.normal(size=(3, cols))
            step = step + (few / 3).reshape(weights.shape)
        return weights + step * size * np.linalg.norm(weights) / np.linalg.norm(step)

    return changed(model, alter)


def low_rank(model: Model, seed: int, rank: int, size: float = 0.1) -> Model:
    """Add a product of two thin matrices to every matrix of the blocks."""
    rng = np.random.default_rng([3, seed])

    def alter(name: str, weights: Array) -> Array:
        if "layers" not in name:
            return weights
        step = rng.normal(size=(weights.shape[0], rank)) @ rng.normal(size=(rank, weights.shape[1]))
        return weights + step * size * np.linalg.norm(weights) / np.linalg.norm(step)

    return changed(model, alter)


def quantized(model: Model, bits: int) -> Model:
    top = 2 ** (bits - 1) - 1

    def alter(_: str, weights: Array) -> Array:
        step = np.abs(weights).max(axis=1, keepdims=True) / top
        return np.rint(weights / step) * step

    return changed(model, alter)


def pruned(model: Model, share: float) -> Model:
    def alter(_: str, weights: Array) -> Array:
        return np.where(np.abs(weights) < np.quantile(np.abs(weights), share), 0, weights)

    return changed(model, alter)


BASE = network(0)


def both_ways(a: Model, b: Model) -> Comparison:
    """Compare a with b, and check that b with a says the same, turned round."""
    one, other = fingerprint(a), fingerprint(b)
    found, turned = compare_fingerprints(one, other), compare_fingerprints(other, one).reversed()
    for field in ("related", "relation", "how", "direction", "rank", "is_exact"):
        assert getattr(found, field) == getattr(turned, field), field
    assert found.margin == pytest.approx(turned.margin, abs=1e-9)
    assert found.score == pytest.approx(turned.score, abs=1e-9)
    return found


def kind(found: Comparison) -> tuple[bool | None, str | None, str | None, str | None]:
    relation = None if found.relation is None else str(found.relation)
    return found.related, relation, found.how, found.direction


# Copies


def test_a_copy_is_identical_however_it_is_named_or_stored() -> None:
    assert kind(both_ways(BASE, dict(BASE))) == (True, "identical", "same", None)
    renamed = {f"{n:02}": weights for n, weights in enumerate(BASE.values())}
    assert kind(both_ways(BASE, renamed)) == (True, "identical", "renamed", None)
    half = cast(BASE, ml_dtypes.bfloat16)
    found = both_ways(half, cast(half, np.float32))
    assert kind(found) == (True, "identical", "cast", None)
    assert (found.score, found.change, found.is_exact) == (1.0, 0.0, True)
    wide = {f"model.{name}": weights for name, weights in cast(half, np.float64).items()}
    assert kind(both_ways(half, wide)) == (True, "identical", "cast", None)


def test_one_bit_is_enough_not_to_be_identical() -> None:
    other = {name: weights.copy() for name, weights in BASE.items()}
    weights = other["layers.0.q.weight"]
    weights[0, 0] = np.nextafter(weights[0, 0], np.float32(1))
    found = both_ways(BASE, other)
    assert found.related
    assert found.relation is not Relation.IDENTICAL


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_a_rounded_copy_is_found_digest_for_digest(name: str) -> None:
    found = both_ways(BASE, cast(BASE, DTYPES[name]))
    assert kind(found) == (True, "quantized", name, "a->b")
    assert found.is_exact
    # Stored wide again, it is still the rounded copy.
    again = cast(cast(BASE, DTYPES[name]), np.float32)
    assert kind(both_ways(again, BASE)) == (True, "quantized", name, "b->a")


def test_a_rounded_copy_with_one_other_value_is_not_exact() -> None:
    half = cast(BASE, ml_dtypes.bfloat16)
    half["layers.0.q.weight"][0, 0] *= 2
    assert not both_ways(BASE, half).is_exact


@pytest.mark.parametrize("bits", [8, 4])
def test_a_lossy_copy_is_a_quantized_one(bits: int) -> None:
    found = both_ways(BASE, quantized(BASE, bits))
    assert kind(found) == (True, "quantized", f"int{bits}", "a->b")
    assert not found.is_exact
    assert kind(both_ways(cast(quantized(BASE, bits), np.float16), BASE)) == (
        True, "quantized", f"int{bits}", "b->a",
    )  # fmt: skip


def test_packed_integers_are_a_quantized_copy() -> None:
    packed: Model = {}
    for name, weights in BASE.items():
        if weights.ndim < 2:
            packed[name] = weights
            continue
        scale = np.abs(weights).max(axis=1, keepdims=True) / 127
        packed[name] = np.rint(weights / scale).astype(np.int8)
        packed[f"{name}_scale"] = scale.astype(np.float32)
    assert kind(both_ways(BASE, packed)) == (True, "quantized", "int8", "a->b")


def test_a_quantized_stranger_and_two_quantized_models_are_not_each_others_copies() -> None:
    assert kind(both_ways(BASE, quantized(network(9), 8))) == (False, None, None, None)
    eight, four = quantized(BASE, 8), quantized(BASE, 4)
    found = both_ways(eight, quantized(tuned(BASE, 1, 0.3), 8))
    assert found.relation is not Relation.QUANTIZED
    assert both_ways(eight, four).related


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7])
def test_a_pruned_copy(share: float) -> None:
    assert kind(both_ways(BASE, pruned(BASE, share))) == (True, "pruned", "unstructured", "a->b")


def test_zeros_alone_are_no_pruning() -> None:
    found = both_ways(BASE, tuned(pruned(BASE, 0.5), 1, 0.5))
    assert found.relation is not Relation.PRUNED
    sparse = pruned(BASE, 0.5)
    kept = changed(tuned(sparse, 1, 0.2), lambda n, w: np.where(sparse[n] == 0, 0, w))
    found = both_ways(sparse, kept)
    assert kind(found) == (True, "finetune", "full", "a->b")
    assert both_ways(pruned(network(9), 0.5), BASE).related is False


# Training


@pytest.mark.parametrize("storage", DTYPES)
@pytest.mark.parametrize("size", [0.1, 0.2, 0.4])
def test_a_full_finetune_and_its_direction(size: float, storage: str) -> None:
    parent = cast(BASE, DTYPES[storage])
    for seed in range(4):
        child = cast(tuned(BASE, seed, size), DTYPES[storage])
        found = both_ways(parent, child)
        assert kind(found) == (True, "finetune", "full", "a->b")
        matrices = {n: w for n, w in parent.items() if w.ndim > 1}
        moved = sum(float(((child[n] - w).astype(float) ** 2).sum()) for n, w in matrices.items())
        whole = sum(float((w.astype(float) ** 2).sum()) for w in matrices.values())
        assert found.change == pytest.approx((moved / whole) ** 0.5, rel=0.05)
        assert found.rank is None


def test_a_large_change_is_continued_training() -> None:
    assert kind(both_ways(BASE, tuned(BASE, 1, 0.7))) == (True, "finetune", "continued", "a->b")


@pytest.mark.parametrize("size", [0.001, 0.005, 0.015])
def test_a_light_finetune_is_related_and_its_direction_left_open(size: float) -> None:
    found = both_ways(BASE, tuned(BASE, 1, size))
    assert kind(found) == (True, "finetune", "full", None)


@pytest.mark.parametrize("storage", DTYPES)
@pytest.mark.parametrize("rank", [1, 4, 8, 16])
def test_a_merged_adapter_and_its_rank(rank: int, storage: str) -> None:
    for seed in range(3):
        parent = cast(BASE, DTYPES[storage])
        child = cast(low_rank(BASE, seed, rank), DTYPES[storage])
        found = both_ways(parent, child)
        assert kind(found) == (True, "finetune", "low_rank", "a->b")
        assert found.rank == rank


def fallen(model: Model, seed: int, size: float, rank: int) -> Model:
    """Add to every matrix of the blocks, and store in bfloat16, directions of falling strength."""
    draw = np.random.default_rng([18, seed])

    def alter(name: str, weights: Array) -> Array:
        if "layers" not in name:
            return weights
        rows, cols = weights.shape
        strengths = 4.0 ** -np.linspace(0, 1, min(rank, rows, cols))
        left, right = draw.normal(size=(rows, rank)), draw.normal(size=(rank, cols))
        left, right = np.linalg.qr(left)[0], np.linalg.qr(right.T)[0].T
        moved = (left * strengths) @ right
        return weights + size * moved * np.linalg.norm(weights) / np.linalg.norm(moved)

    return cast(changed(cast(model, np.float32), alter), ml_dtypes.bfloat16)


@pytest.mark.parametrize("rank", [2, 4, 8])
def test_the_rank_of_an_adapter_that_rounding_half_hides(rank: int) -> None:
    base = cast(network(0, blocks=4), ml_dtypes.bfloat16)
    for seed in range(3):
        found = both_ways(base, fallen(base, seed, 0.002 * rank**0.5, rank))
        assert (found.relation, found.how, found.rank) == ("finetune", "low_rank", rank)


@pytest.mark.parametrize("size", [0.002, 0.004, 0.01])
def test_matrices_that_were_trained_lightly_alone_have_no_low_rank(size: float) -> None:
    base = cast(network(0, blocks=4), ml_dtypes.bfloat16)
    for seed in range(3):
        assert both_ways(base, fallen(base, seed, size, 64)).how != "low_rank"


def test_noise_beside_the_rounding_of_half_floats_is_noise() -> None:
    base = cast(BASE, ml_dtypes.bfloat16)
    child = cast(noisy(cast(base, np.float32), 1, 0.01), ml_dtypes.bfloat16)
    assert both_ways(base, child).relation == "noised"


@pytest.mark.parametrize("size", [0.001, 0.01, 0.03])
def test_noise_is_called_noise_whatever_it_was_scaled_by(size: float) -> None:
    assert kind(both_ways(BASE, noisy(BASE, 1, size)))[:2] in {
        (True, "noised"),
        (True, "quantized"),  # of an 8-bit float's strength
    }
    even = changed(
        BASE, lambda _, w: w + size * 0.03 * np.random.default_rng(4).normal(size=w.shape)
    )
    assert kind(both_ways(BASE, even))[:2] == (True, "noised")


def test_masks_and_large_changes_are_no_noise() -> None:
    assert both_ways(BASE, noisy(BASE, 1, 0.1)).relation != "noised"
    rng = np.random.default_rng(5)
    moved = tuned(BASE, 1, 0.02)
    dropped = {n: np.where(rng.random(w.shape) < 0.5, w, BASE[n]) for n, w in moved.items()}
    assert both_ways(BASE, dropped).relation != "noised"


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_what_lost_a_direction_came_after_what_has_it(dtype: Any) -> None:
    # As refusals are removed: the difference is orthogonal to the child, a LoRA's to its parent.
    rng = np.random.default_rng(7)
    base = network(0, blocks=4)
    one = rng.normal(size=96)
    one /= np.linalg.norm(one)

    def taken_out(name: str, weights: Array) -> Array:
        if ".k." in name or ".down." in name:
            return weights - np.outer(one, one @ weights)
        return weights

    child = cast(changed(base, taken_out), dtype)
    found = both_ways(cast(base, dtype), child)
    assert kind(found) == (True, "finetune", "low_rank", "a->b")
    assert found.evidence[0].detector == "projected-v1"
    (edge,) = infer({"base": cast(base, dtype), "child": child}).edges
    assert (edge.parent, edge.child) == ("base", "child")
    each = {name: rng.normal(size=(96, 1)) @ rng.normal(size=(1, w.shape[1])) * 0.03
            for name, w in base.items() if ".k." in name or ".down." in name}  # fmt: skip
    adapted = changed(base, lambda name, weights: weights + each.get(name, 0))
    found = both_ways(cast(base, dtype), cast(adapted, dtype))
    assert kind(found) == (True, "finetune", "low_rank", "a->b")
    assert found.evidence[0].detector != "projected-v1"


def test_a_full_change_has_no_low_rank() -> None:
    for size in (0.02, 0.1, 0.3):
        found = both_ways(BASE, tuned(BASE, 2, size))
        assert found.rank is None
        assert found.how == "full"
    mixed = low_rank(tuned(BASE, 3, 0.05), 3, 4, 0.2)
    assert both_ways(BASE, mixed).how != "low_rank"


def test_frozen_tensors_make_a_partial_finetune() -> None:
    moved = tuned(BASE, 4, 0.3)
    partial = {n: moved[n] if "layers.1" in n else weights for n, weights in BASE.items()}
    found = both_ways(BASE, partial)
    assert kind(found) == (True, "finetune", "partial", "a->b")
    assert "equal to the bit" in found.evidence[-1].words


def test_siblings_have_no_direction() -> None:
    for seed in range(5):
        found = both_ways(tuned(BASE, seed, 0.2), tuned(BASE, 100 + seed, 0.2))
        assert found.related is True
        assert found.direction is None
        assert found.relation is None
        assert "siblings" in found.evidence[0].words


def test_one_beginning_and_two_trainings_are_no_parenthood() -> None:
    for size in (0.7, 1.0, 1.3):
        found = both_ways(tuned(BASE, 1, size), tuned(BASE, 2, size))
        assert kind(found) == (False, "shared_init", None, None)


def test_a_chain_is_related_from_end_to_end() -> None:
    middle = tuned(BASE, 1, 0.15)
    end = tuned(middle, 2, 0.15)
    assert kind(both_ways(BASE, end)) == (True, "finetune", "full", "a->b")
    assert kind(both_ways(middle, end)) == (True, "finetune", "full", "a->b")


# Strangers


def shared_parts() -> Model:
    """What networks of one design have in common without being related."""
    place = np.arange(64)[:, None] / 10000 ** (np.arange(0, 64, 2) / 64)
    return {
        "positions.ids": np.arange(512)[None],
        "rotary.inv_freq": (10000 ** -(np.arange(32) / 32)).astype(np.float32),
        "positions.weight": np.hstack([np.sin(place), np.cos(place)]).astype(np.float32),
        "final.norm.weight": np.ones(96, np.float32),
        "final.bias": np.zeros(96, np.float32),
        "scale": np.full((1, 96, 1, 1), 1e-6, np.float32),
    }


def test_strangers_are_never_related() -> None:
    # 25 models, 300 pairs, with equal gains, biases and positions.
    prints = [fingerprint({**network(100 + n, 1), **shared_parts()}) for n in range(25)]
    wrong = []
    scores = []
    for i, one in enumerate(prints):
        for j in range(i):
            found = compare_fingerprints(prints[j], one)
            scores.append(found.score)
            if found.related is True or found.relation is not None or found.direction is not None:
                wrong.append((j, i))
    assert wrong == []
    assert len(scores) == 300
    assert max(scores) < 0.2


def test_strangers_p_values_are_valid_under_their_null() -> None:
    from scipy.special import ndtri_exp

    prints = [fingerprint(network(200 + n)) for n in range(36)]
    logs = []
    for i, one in enumerate(prints):
        for other in prints[:i]:
            found = compare_fingerprints(one, other)
            assert kind(found) == (False, None, None, None)
            assert found.log10_p is not None
            assert found.null
            logs.append(found.log10_p)
    # Were the null to hold, these would be draws of a standard normal law.
    deviates = -ndtri_exp(np.array(logs) * np.log(10))
    assert 0.8 < float(np.mean(deviates**2)) ** 0.5 < 1.2
    assert np.mean(np.array(logs) < -2) < 0.025


@pytest.mark.parametrize("length", [128, 512])
def test_causal_masks_make_no_family(length: int) -> None:
    # Checkpoints of one design hold the same mask or index table in every block.
    mask = np.tril(np.ones((1, 1, length, length), np.float32))
    masks = {f"layers.{block}.mask": mask for block in range(2)}
    found = both_ways({**network(1), **masks}, {**network(2), **masks})
    assert found.related is not True


def test_index_tables_make_no_family() -> None:
    table = np.abs(np.arange(128)[:, None] - np.arange(128))
    tables = {f"layers.{block}.index": table + block for block in range(2)}
    found = both_ways({**network(1), **tables}, {**network(2), **tables})
    assert found.related is not True


@pytest.mark.parametrize("likeness", [0.0, 0.15, 0.25])
def test_a_large_fixed_table_does_not_make_likeness_kinship(likeness: float) -> None:
    # Most values are a fixed basis, and the trained rest is as alike as one recipe may make it.
    angle = np.outer(np.arange(256), np.arange(384)) / 61
    basis = {"stft.basis": np.cos(angle).astype(np.float32)}
    one, other = network(1, blocks=1), network(2, blocks=1)
    rest = {n: w + np.float32(likeness) * one[n] if w.ndim > 1 else w for n, w in other.items()}
    found = both_ways({**one, **basis}, {**rest, **basis})
    assert found.score > 0.3
    assert found.related is None
    graph = infer({"one": {**one, **basis}, "other": {**rest, **basis}})
    assert (graph.pairs[0].related, graph.edges) == (None, ())
    # The same table beside a rest that is alike enough is a family.
    found = both_ways({**one, **basis}, {**tuned(one, 1, 0.5), **basis})
    assert found.related is True


def test_small_strangers_are_never_related() -> None:
    def tiny(seed: int) -> Model:
        rng = np.random.default_rng([4, seed])
        return {"w": rng.normal(size=(8, 8)), "b": np.zeros(8), "v": rng.normal(size=(2, 40))}

    prints = [fingerprint(tiny(n)) for n in range(40)]
    for i, one in enumerate(prints):
        for other in prints[:i]:
            assert compare_fingerprints(one, other).related is not True


def test_other_architectures_cannot_be_compared() -> None:
    rng = np.random.default_rng(5)
    other = {"conv.weight": rng.normal(size=(32, 3, 3, 3)).astype(np.float32)}
    found = both_ways(BASE, other)
    assert kind(found) == (None, None, None, None)
    assert found.log10_p == 0 or found.log10_p is None
    assert "no matrix" in found.evidence[0].words
    assert both_ways({"b": np.zeros(9)}, {"b": np.ones(9)}).related is None


# Odd models


def test_one_tensor_is_enough() -> None:
    rng = np.random.default_rng(6)
    weights = rng.normal(size=(128, 128)).astype(np.float32)
    step = 0.2 * rng.normal(size=(128, 128)).astype(np.float32)
    *what, direction = kind(both_ways({"w": weights}, {"w": weights + step}))
    assert what == [True, "finetune", "full"]
    assert direction != "b->a"  # one drawn matrix tells little of the order
    assert both_ways({"w": weights}, {"w": step}).related is False


def test_broken_tensors_are_left_out_and_the_rest_compared() -> None:
    child = tuned(BASE, 1, 0.2)
    child["layers.0.q.weight"][0, 0] = np.nan
    assert kind(both_ways(BASE, child)) == (True, "finetune", "full", "a->b")
    stranger = network(9)
    stranger["layers.0.q.weight"][0, 0] = np.inf
    assert both_ways(BASE, stranger).related is False
    broken = changed(BASE, lambda _, w: np.full_like(w, np.nan))
    assert both_ways(BASE, broken).related is None
    assert kind(both_ways(broken, dict(broken))) == (True, "identical", "same", None)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5])
def test_constant_tensors_say_nothing_of_strangers(value: float) -> None:
    constant = {"layer_scale": np.full((96, 96), value, np.float32)}
    found = both_ways({**network(1), **constant}, {**network(2), **constant})
    assert found.related is not True
    assert math.isfinite(found.score)


def test_models_of_zeros_are_compared_without_a_warning() -> None:
    zeros = changed(BASE, lambda _, w: np.zeros_like(w))
    found = both_ways(BASE, zeros)
    assert found.related is not True
    assert math.isfinite(found.score)
    ones = changed(BASE, lambda _, w: np.ones_like(w))
    assert both_ways(zeros, ones).related is not True


def test_vectors_alone_say_nothing() -> None:
    rng = np.random.default_rng(7)
    one = {f"norm.{n}": (1 + 0.01 * rng.normal(size=96)).astype(np.float32) for n in range(9)}
    other = {name: (1 + 0.01 * rng.normal(size=96)).astype(np.float32) for name in one}
    assert both_ways(one, other).related is None


# Which tensor is which


def test_names_and_wrappers_do_not_hide_a_finetune() -> None:
    child = tuned(BASE, 1, 0.2)
    for prefix in ("model.", "module.", "_orig_mod.module.model.", "transformer."):
        wrapped = {f"{prefix}{name}": weights for name, weights in child.items()}
        assert kind(both_ways(BASE, wrapped)) == (True, "finetune", "full", "a->b")
    # Names that say nothing: nearness has to find each tensor.
    names = [f"t{n:02}" for n in np.random.default_rng(8).permutation(len(child))]
    hidden = dict(zip(names, child.values(), strict=True))
    found = both_ways(BASE, hidden)
    assert kind(found) == (True, "finetune", "full", "a->b")
    matched = pair(fingerprint(BASE), fingerprint(hidden))
    assert int(matched.is_matrix.sum()) == len(matrices(BASE))


def test_a_new_head_or_fewer_layers_do_not_hide_a_finetune() -> None:
    child = tuned(BASE, 1, 0.2)
    rng = np.random.default_rng(9)
    child["score.weight"] = rng.normal(size=(3, 64)).astype(np.float32)
    child["embed.weight"] = np.vstack([child["embed.weight"], rng.normal(size=(4, 64))])
    child = {name: w.astype(np.float32) for name, w in child.items() if "layers.1" not in name}
    found = both_ways(BASE, child)
    assert found.related is True
    assert found.direction == "a->b"


def test_renamed_strangers_stay_strangers() -> None:
    hidden = {f"t{n}": weights for n, weights in enumerate(network(9).values())}
    assert both_ways(BASE, hidden).related is not True


def test_two_schemes_are_never_compared() -> None:
    one = fingerprint(BASE)
    with pytest.raises(SchemeError, match="another"):
        compare_fingerprints(one, replace(one, scheme="another"))


# What is printed


def test_the_json_form_is_complete_and_plain() -> None:
    import json

    for other in (dict(BASE), tuned(BASE, 1, 0.2), network(9), {"b": np.zeros(3)}):
        document = compare(BASE, other).to_json()
        assert list(document) == [
            "related", "relation", "how", "direction", "score", "change", "rank", "layers",
            "shares", "log10_p", "null", "evidence",
        ]  # fmt: skip
        text = json.dumps(document, allow_nan=False)
        assert json.loads(text) == document
        assert document["evidence"]
        for evidence in document["evidence"]:
            assert set(evidence) == {"detector", "words", "statistic", "log10_p", "null"}
            assert "\n" not in evidence["words"]
        assert (document["log10_p"] is None) == (document["null"] is None)


def test_scores_order_pairs() -> None:
    scores = [
        both_ways(BASE, other).score
        for other in (
            BASE,
            tuned(BASE, 1, 0.05),
            tuned(BASE, 1, 0.4),
            tuned(BASE, 1, 1.5),
            network(9),
        )
    ]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 1.0
    assert scores[-1] < 0.1


# More than two


def test_a_merge_is_found_with_its_coefficients() -> None:
    parts = [tuned(BASE, n, 0.2) for n in range(3)]
    for shares in ((0.6, 0.4), (0.2, 0.3, 0.5), (0.05, 0.95)):
        blend = {
            name: sum(s * p[name] for s, p in zip(shares, parts, strict=False)).astype(np.float32)
            for name in BASE
        }
        family = stack([fingerprint(m) for m in (blend, BASE, *parts)])
        assert family is not None
        merge = linear_merge(family, 0, range(1, 5))
        assert merge is not None
        assert merge.parents == tuple(range(2, 2 + len(shares)))
        assert merge.coefficients == pytest.approx(shares, abs=1e-3)
        assert sum(merge.coefficients) == pytest.approx(1)
        for other in range(1, 5):
            assert linear_merge(family, other, [n for n in range(5) if n != other]) is None


def test_finetunes_are_no_merges() -> None:
    models = [BASE, *(tuned(BASE, n, 0.2) for n in range(3)), tuned(tuned(BASE, 0, 0.2), 9, 0.1)]
    family = stack([fingerprint(model) for model in models])
    assert family is not None
    for child in range(5):
        assert linear_merge(family, child, [n for n in range(5) if n != child]) is None


@pytest.mark.parametrize(("own", "is_merge"), [(0.0, True), (0.3, False)])
@pytest.mark.parametrize("lean", [0.1, 0.2])
def test_a_little_of_others_and_noise_are_no_merge(own: float, lean: float, is_merge: bool) -> None:
    # A mask that keeps few values leaves noise and nothing else. What began at a rounding and was
    # trained on leans on what saw like data, and has directions of its own.
    base = network(0, blocks=4)
    one, other, third = (tuned(base, seed, 0.1, grain=0.2) for seed in (1, 2, 4))

    def alter(name: str, weights: Array) -> Array:
        steps = ((one, lean), (other, lean / 2), (third, own))
        return weights + sum(share * (to[name] - base[name]) for to, share in steps)

    child = noisy(changed(base, alter), 3, 0.05)
    family = stack([fingerprint(model) for model in (base, one, other, child)])
    assert family is not None
    assert (3 in find_merges(family)) == is_merge


def test_models_without_a_common_matrix_do_not_stack() -> None:
    assert stack([fingerprint(BASE), fingerprint({"b": np.zeros(3)})]) is None


def test_a_buffer_of_positions_does_not_hide_a_change() -> None:
    # Classic encoders store their position ids, whose norm is far above the weights'.
    ids = {"position_ids": np.arange(512)[None]}
    child = tuned(BASE, 1, 0.1)
    plain, with_ids = both_ways(BASE, child), both_ways(BASE | ids, child | ids)
    assert with_ids.change == plain.change
    assert kind(with_ids) == kind(plain)


def test_words_seen_from_the_other_side_name_both_models() -> None:
    found = compare_fingerprints(fingerprint(BASE), fingerprint(tuned(BASE, 1, 0.2)))
    there, back = found.evidence[0], found.reversed().evidence[0]
    assert "{a}" in there.words
    assert "{b}" in there.words
    assert back.told("x", "y") == there.told("y", "x")


@pytest.mark.parametrize("dtype", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2])
def test_weights_stored_as_8_bit_floats_are_quantized_to_them(dtype: Any) -> None:
    child = {name: w.astype(dtype) if w.ndim > 1 else w for name, w in BASE.items()}
    assert kind(both_ways(BASE, child)) == (True, "quantized", "fp8", "a->b")


def test_8_bit_floats_are_seen_in_bfloat16() -> None:
    values = cast(cast(BASE, ml_dtypes.float8_e4m3fn), ml_dtypes.bfloat16)
    child = {name: w if w.ndim > 1 else BASE[name] for name, w in values.items()}
    assert kind(both_ways(BASE, child)) == (True, "quantized", "fp8", "a->b")
    assert kind(both_ways(child, tuned(child, 1, 0.1)))[1] != "quantized"


def test_scaled_8_bit_floats_are_seen_where_some_matrices_are_left_out() -> None:
    base = network(0, blocks=4)

    def scaled(name: str, weights: Array) -> Array:
        if "embed" in name or "layers.3" in name:
            return weights.astype(ml_dtypes.bfloat16).astype(np.float32)
        steps = 448 / np.abs(weights).max(axis=1, keepdims=True)
        return (weights * steps).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) / steps

    child = cast(changed(base, scaled), ml_dtypes.bfloat16)
    assert kind(both_ways(base, child))[:3] == (True, "quantized", "fp8")


NF4 = np.array([
    -1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0,
    0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0,
])  # fmt: skip


def test_codes_of_a_table_are_quantized_and_not_pruned() -> None:
    # Of NF4 a twelfth of the values is 0.
    def to_codes(_: str, weights: Array) -> Array:
        if weights.ndim < 2:
            return weights
        parts = weights.reshape(-1, 32).astype(np.float64)
        scale = np.abs(parts).max(axis=1, keepdims=True)
        nearest = np.abs((parts / scale)[..., None] - NF4).argmin(axis=-1)
        return (NF4[nearest] * scale).reshape(weights.shape).astype(np.float32)

    child = changed(BASE, to_codes)
    assert kind(both_ways(BASE, child)) == (True, "quantized", "int4", "a->b")
    assert kind(both_ways(network(9), child)) == (False, None, None, None)
    onward = tuned(child, 1, 0.05, grain=0.3)  # by as much as rounding changes, but not as white
    assert kind(both_ways(child, onward))[1:3] == ("finetune", "full")


def test_scaled_8_bit_floats_come_after_what_they_round() -> None:
    # Rounding to the nearest leaves no lean that would tell.
    def to_float8(_: str, weights: Array) -> Array:
        if weights.ndim < 2:
            return weights
        scale = np.abs(weights).max(axis=1, keepdims=True) / 448
        return (weights / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale

    for stored in (np.float32, ml_dtypes.bfloat16):
        child = cast(changed(BASE, to_float8), stored)
        assert kind(both_ways(BASE, child)) == (True, "quantized", "fp8", "a->b")


def test_rounding_to_unseen_steps_is_no_pruning() -> None:
    # As activation-aware quantizers leave it: every column has a scale of its own, taken out again.
    rng = np.random.default_rng(5)

    def scaled(_: str, weights: Array) -> Array:
        if weights.ndim < 2:
            return weights
        columns = rng.lognormal(0, 0.2, weights.shape[1])
        parts = (weights * columns).reshape(-1, 32)
        step = np.abs(parts).max(axis=1, keepdims=True) / 7
        levels = (np.rint(parts / step) * step).reshape(weights.shape)
        return (levels / columns).astype(np.float32)

    child = changed(BASE, scaled)
    assert kind(both_ways(BASE, child)) == (True, "quantized", "int4", "a->b")
    for share in (0.06, 0.1, 0.15):
        assert kind(both_ways(BASE, pruned(BASE, share)))[1:3] == ("pruned", "unstructured")


def test_pruning_that_moved_the_other_weights_too() -> None:
    # As second-order pruners do, to make up for what they took.
    for size in (0.1, 0.3):
        sparse = pruned(BASE, 0.5)
        moved = noisy(sparse, 1, size)
        child = {name: moved[name] * (sparse[name] != 0) for name in sparse}
        assert kind(both_ways(BASE, child)) == (True, "pruned", "unstructured", "a->b")


@pytest.mark.parametrize("bits", [4, 8])
def test_what_was_trained_on_from_levels_is_not_their_source(bits: int) -> None:
    base = quantized(BASE, bits)
    for size in (0.0005, 0.1 / 2**bits):
        found = both_ways(base, tuned(base, 1, size))
        assert found.related
        assert found.relation != "quantized"
    assert both_ways(base, pruned(base, 0.5)).relation != "quantized"


def test_a_bfloat16_model_in_half_precision_is_a_rounding() -> None:
    tiny = changed(BASE, lambda _, w: np.where(np.arange(w.size).reshape(w.shape) % 9, w, 1.3e-7))
    base = cast(cast(tiny, np.float32), ml_dtypes.bfloat16)
    child = cast(cast(base, np.float32), np.float16)
    assert kind(both_ways(base, child)) == (True, "quantized", "fp16", "a->b")
    moved = cast(tuned(cast(base, np.float32), 1, 0.001), np.float16)
    assert both_ways(base, moved).relation != "quantized"


@pytest.mark.parametrize("size", [0.002, 0.005, 0.02])
def test_light_full_finetunes_in_bfloat16_have_no_low_rank(size: float) -> None:
    base = cast(network(0, blocks=6), ml_dtypes.bfloat16)
    for seed in range(5):
        draw = np.random.default_rng([17, seed])

        def step(_: str, weights: Array, draw: np.random.Generator = draw) -> Array:
            # Directions of falling strength, more or less of them, as gradients leave them.
            rows, cols = weights.shape
            count = min(rows, cols)
            strengths = np.arange(1, count + 1) ** -draw.uniform(0.5, 1.5)
            left, right = draw.normal(size=(rows, count)), draw.normal(size=(count, cols))
            moved = (left * strengths) @ right
            return weights + size * moved * np.linalg.norm(weights) / np.linalg.norm(moved)

        child = cast(changed(cast(base, np.float32), step), ml_dtypes.bfloat16)
        assert both_ways(base, child).how != "low_rank"


def weighed_anew(shares: Array, models: list[Model]) -> Model:
    """Sum models with weights of their own in each matrix, of shape (matrices, models)."""
    rows = dict(zip(matrices(models[0]), shares, strict=True))
    child = {}
    for name, first in models[0].items():
        row = rows.get(name, shares.mean(axis=0))
        wide = sum(s * model[name].astype(np.float64) for s, model in zip(row, models, strict=True))
        child[name] = np.asarray(wide).astype(first.dtype)
    return child


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_merges_with_weights_of_their_own_in_each_matrix(count: int, dtype: Any) -> None:
    base = network(0, blocks=3)
    models = [
        cast(m, dtype) for m in (base, *(tuned(base, s, 0.1, grain=0.3) for s in range(1, 4)))
    ]
    rng = np.random.default_rng(count)
    shares = rng.dirichlet(np.full(count, 2.0), len(matrices(base)))
    child = weighed_anew(shares, models[:count])
    family = stack([fingerprint(model) for model in (*models, child)])
    assert family is not None
    found = find_merges(family)
    assert set(found) == {4}
    assert found[4].parents == tuple(range(count))
    assert found[4].how == "linear"
    away = [
        np.linalg.norm(models[1][n].astype(float) - models[0][n].astype(float))
        for n in matrices(base)
    ]
    expected = np.average(shares, axis=0, weights=np.square(away))
    assert found[4].coefficients == pytest.approx(expected, abs=0.05)


def test_what_was_trained_on_from_such_a_merge_is_none() -> None:
    base = network(0, blocks=3)
    models = [base, *(tuned(base, seed, 0.1, grain=0.3) for seed in (1, 2, 3))]
    shares = np.random.default_rng(1).dirichlet(np.full(4, 2.0), len(matrices(base)))
    onward = tuned(weighed_anew(shares, models), 9, 0.03, grain=0.3)
    family = stack([fingerprint(model) for model in (*models, onward)])
    assert family is not None
    assert find_merges(family) == {}
