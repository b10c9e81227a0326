"""A model whose matrices are packed integers is told by what can be read beside them."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from makers import Array

from lineage import compare, fingerprint, infer
from lineage.audit import measure
from lineage.relation import Relation

Model = dict[str, Array]

_LAYER = "model.layers.{}."
_SHAPES = {
    "self_attn.q_proj": (64, 64), "self_attn.o_proj": (64, 64),
    "mlp.up_proj": (128, 64), "mlp.down_proj": (64, 128),
}  # fmt: skip


def network(seed: int) -> Model:
    rng = np.random.default_rng([21, seed])
    model = {"model.embed_tokens.weight": rng.normal(0, 0.02, (96, 64))}
    for layer in range(3):
        for name, shape in _SHAPES.items():
            model[f"{_LAYER.format(layer)}{name}.weight"] = rng.normal(0, 0.1, shape)
        norm = 1 + 0.1 * rng.normal(size=64)
        model[f"{_LAYER.format(layer)}input_layernorm.weight"] = norm
    return {name: weights.astype(np.float32) for name, weights in model.items()}


def tuned(model: Model, *, everything: bool) -> Model:
    """Train all of a model, or its layers' matrices alone, as with an adapter."""
    rng = np.random.default_rng(22)
    return {
        name: (w + 0.01 * rng.normal(size=w.shape)).astype(np.float32)
        if everything or name.endswith("proj.weight")
        else w
        for name, w in model.items()
    }


def codes(weights: Array) -> Array:
    step = np.abs(weights).max() / 7
    return np.asarray(np.rint(weights / step) + 8, np.uint32)


def words(values: Array) -> Array:
    """Put eight values of 4 bits that follow each other along a row into one of 32."""
    parts = values.reshape(len(values), -1, 8) << (4 * np.arange(8, dtype=np.uint32))
    return np.asarray(parts.sum(axis=2, dtype=np.uint32))


def gptq(stem: str, weights: Array) -> Model:
    return {
        f"{stem}.qweight": words(codes(weights)).T.astype(np.int32).copy(),
        f"{stem}.qzeros": np.full((2, 8), 0x77777777, np.int32),
        f"{stem}.scales": np.ones((2, len(weights)), np.float16),
        f"{stem}.g_idx": np.zeros(weights.shape[1], np.int32),
    }


def compressed(stem: str, weights: Array) -> Model:
    return {
        f"{stem}.weight_packed": words(codes(weights)).astype(np.int32),
        f"{stem}.weight_scale": np.ones((len(weights), 2), ml_dtypes.bfloat16),
        f"{stem}.weight_shape": np.array(weights.shape, np.int64),
    }


def bytes_of_two(stem: str, weights: Array) -> Model:
    halves = codes(weights).reshape(-1, 2).astype(np.uint8)
    return {
        f"{stem}.weight": (halves[:, :1] << 4) | halves[:, 1:],
        f"{stem}.weight.absmax": np.ones(weights.size // 64, np.float32),
        f"{stem}.weight.quant_map": np.linspace(-1, 1, 16, dtype=np.float32),
    }


def mlx(stem: str, weights: Array) -> Model:
    return {
        f"{stem}.weight": words(codes(weights)),
        f"{stem}.scales": np.ones((len(weights), 1), np.float16),
        f"{stem}.biases": np.zeros((len(weights), 1), np.float16),
    }


LAYOUTS: dict[str, Callable[[str, Array], Model]] = {
    "gptq": gptq, "compressed": compressed, "bytes": bytes_of_two, "mlx": mlx,
}  # fmt: skip


def packed(model: Model, layout: str) -> Model:
    """Pack the layers' matrices, with MLX the embeddings too; the rest is stored in fewer bits."""
    made: Model = {}
    for name, weights in model.items():
        stem = name.removesuffix(".weight")
        if name.endswith("proj.weight") or (layout == "mlx" and weights.ndim > 1):
            made |= LAYOUTS[layout](stem, weights)
        else:
            made[name] = weights.astype(np.float16 if layout == "gptq" else ml_dtypes.bfloat16)
    return made


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_packed_copy_is_a_quantized_one_and_never_the_source(layout: str) -> None:
    base, child = network(0), packed(network(0), layout)
    for a, b, direction in ((base, child, "a->b"), (child, base, "b->a")):
        found = compare(a, b)
        seen = found.related, found.relation, found.how, found.direction
        assert seen == (True, Relation.QUANTIZED, "int4", direction)
    assert not compare(network(1), child).related
    graph = infer({"base": base, "child": child, "stranger": network(1)})
    (edge,) = graph.edges
    assert (edge.parent, edge.child, edge.relation) == ("base", "child", Relation.QUANTIZED)
    assert edge.probability == 0.6  # an adapter may have been merged first
    related = {frozenset((pair.a, pair.b)): pair.related for pair in graph.pairs}
    assert related[frozenset(("base", "child"))] is True
    assert not related[frozenset(("stranger", "child"))]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_trained_before_it_was_packed_is_no_copy_of_the_base(layout: str) -> None:
    base = network(0)
    child = packed(tuned(base, everything=True), layout)
    found = compare(base, child)
    assert found.relation is None
    assert found.related is (None if layout == "mlx" else True)
    graph = infer({"base": base, "child": child, "stranger": network(1)})
    assert not graph.edges
    tuned_one = infer({"base": base, "tuned": tuned(base, everything=True), "child": child})
    sources = {e.parent for e in tuned_one.edges if e.child == "child"}
    assert sources == {"tuned"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_packed_adapter_accuses_nobody(layout: str) -> None:
    # Who trained the matrices alone and packed them says so; nothing that is read denies it.
    base = network(0)
    child = packed(tuned(base, everything=False), layout)
    (found,) = measure(fingerprint(child), [fingerprint(base)], is_only=True)
    assert (found.measurement.related, found.measurement.relation) == (True, None)


def test_a_matrix_without_a_counterpart_is_no_packed_copy() -> None:
    base = network(0)
    child = packed(base, "gptq")
    del child["model.layers.1.mlp.up_proj.qweight"]
    assert compare(base, child).relation is None
    other = packed(base, "gptq")
    other["model.layers.1.mlp.up_proj.qweight"] = np.zeros((3, 5), np.int32)
    assert compare(base, other).relation is None


def test_gains_of_one_tell_nothing() -> None:
    def plain(model: Model) -> Model:
        return {n: np.ones_like(w) if "norm" in n else w for n, w in model.items()}

    found = compare(plain(network(0)), packed(plain(network(1)), "mlx"))
    assert not found.related
    assert found.relation is None
