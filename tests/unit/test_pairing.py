"""A model in another format is the same model, tensor by tensor; strangers stay strangers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from makers import Array

from lineage import fingerprint, infer
from lineage.evidence import Comparison, compare_fingerprints
from lineage.evidence.matching import agree, match, table
from lineage.evidence.pairing import SAME_WITHIN, Pairing, pair
from lineage.evidence.stacked import stack
from lineage.fingerprints import from_bytes, to_bytes
from lineage.fingerprints.measure import TIERS

Model = dict[str, Array]

WIDTH, KV, HIDDEN = 96, 32, 200


def bert(seed: int, blocks: int = 2) -> Model:
    """An encoder under the names transformers gives it."""
    rng = np.random.default_rng([7, seed])

    def made(*shape: int) -> Array:
        return (rng.standard_t(5, size=shape) * 0.05).astype(np.float32)

    model = {"embeddings.word_embeddings.weight": made(120, WIDTH)}
    for block in range(blocks):
        stem = f"encoder.layer.{block}"
        for name in ("query", "key", "value"):
            model[f"{stem}.attention.self.{name}.weight"] = made(WIDTH, WIDTH)
            model[f"{stem}.attention.self.{name}.bias"] = made(WIDTH)
        model[f"{stem}.attention.output.dense.weight"] = made(WIDTH, WIDTH)
        model[f"{stem}.attention.output.LayerNorm.weight"] = 1 + made(WIDTH)
        model[f"{stem}.intermediate.dense.weight"] = made(HIDDEN, WIDTH)
        model[f"{stem}.intermediate.dense.bias"] = made(HIDDEN)
        model[f"{stem}.output.dense.weight"] = made(WIDTH, HIDDEN)
    return model


def keras(model: Model) -> Model:
    """The same under Keras's names, every linear layer transposed but the embeddings."""
    converted = {}
    for name, weights in model.items():
        new = name.replace(".", "/").replace("layer/", "layer_._")
        new = new.replace("LayerNorm/weight", "LayerNorm/gamma")
        new = f"tf_bert_model/bert/{new}:0"
        if weights.ndim == 2 and "embeddings" not in name:
            new, weights = new.replace("/weight", "/kernel"), np.ascontiguousarray(weights.T)
        converted[new] = weights
    return converted


def onnx(model: Model) -> Model:
    """The same as an exporter leaves it: matrices transposed and without names."""
    return {
        f"onnx::MatMul_{n}" if weights.ndim == 2 else name: np.ascontiguousarray(weights.T)
        for n, (name, weights) in enumerate(model.items())
    }


def torch_fused(model: Model) -> Model:
    """The same with each layer's query, key and value in one tensor, along the rows."""
    return fused(model, "self_attn.in_proj_", 0)


def gpt2_fused(model: Model) -> Model:
    """The same, along the columns of a transposed matrix."""
    return fused(model, "attn.c_attn.", 1)


def fused(model: Model, word: str, axis: int) -> Model:
    converted = dict(model)
    for block in range(2):
        for leaf in ("weight", "bias"):
            parts = [converted.pop(f"encoder.layer.{block}.attention.self.{n}.{leaf}")
                     for n in ("query", "key", "value")]  # fmt: skip
            if leaf == "weight" and axis == 1:
                joined = np.concatenate([part.T for part in parts], axis=1)
            else:
                joined = np.concatenate(parts)
            converted[f"encoder.layer.{block}.{word}{leaf}"] = joined
    return converted


FORMATS: dict[str, Callable[[Model], Model]] = {
    "keras": keras, "onnx": onnx, "torch": torch_fused, "gpt2": gpt2_fused,
}  # fmt: skip
BASE = bert(0)


def both_ways(a: Model, b: Model, tier: str = "full") -> Comparison:
    one, other = fingerprint(a, tier=tier), fingerprint(b, tier=tier)
    found, turned = compare_fingerprints(one, other), compare_fingerprints(other, one).reversed()
    for field in ("related", "relation", "how", "direction", "rank", "is_exact"):
        assert getattr(found, field) == getattr(turned, field), field
    return found


def paired(a: Model, b: Model) -> tuple[Pairing, dict[str, tuple[str, str]]]:
    """The pairing, and for each name of the first its name in the second and how it lies."""
    pairing = pair(fingerprint(a), fingerprint(b))
    first, second = pairing.first.names, pairing.second.names
    return pairing, {
        first[i]: (second[j], way)
        for i, j, way in zip(pairing.a, pairing.b, pairing.way, strict=True)
    }


def moved(model: Model, size: float, seed: int = 0) -> Model:
    rng = np.random.default_rng([8, seed])
    changed = {}
    for name, weights in model.items():
        step = rng.normal(size=weights.shape)
        step *= size * np.linalg.norm(weights) / np.linalg.norm(step)
        changed[name] = (weights + step).astype(np.float32)
    return changed


@pytest.mark.parametrize("name", FORMATS)
def test_another_format_is_the_same_model(name: str) -> None:
    found = both_ways(BASE, FORMATS[name](BASE))
    assert (found.related, str(found.relation), found.how) == (True, "identical", "converted")
    assert not found.is_exact
    assert (found.change, found.score) == (0.0, 1.0)
    assert "within rounding" in found.evidence[0].words


@pytest.mark.parametrize("one", FORMATS)
@pytest.mark.parametrize("other", FORMATS)
def test_any_two_formats_are(one: str, other: str) -> None:
    found = both_ways(FORMATS[one](BASE), FORMATS[other](BASE))
    assert str(found.relation) == "identical"


@pytest.mark.parametrize("name", FORMATS)
def test_a_light_finetune_in_another_format_is_none(name: str) -> None:
    for size in (1e-5, 1e-3, 0.05):
        found = both_ways(BASE, FORMATS[name](moved(BASE, size)))
        assert found.related
        assert found.relation in {"finetune", "noised"}
        assert found.change == pytest.approx(size, rel=0.1)


@pytest.mark.parametrize("name", FORMATS)
def test_a_stranger_in_another_format_stays_one(name: str) -> None:
    for seed in range(1, 6):
        found = both_ways(BASE, FORMATS[name](bert(seed)))
        assert not found.related
        assert found.score < 0.1


def test_a_difference_is_measured_across_formats() -> None:
    other = moved(BASE, 0.05)
    plain = pair(fingerprint(BASE), fingerprint(other))
    for convert in FORMATS.values():
        pairing = pair(fingerprint(BASE), fingerprint(convert(other)))
        assert pairing.change == pytest.approx(plain.change, rel=0.03)
        assert not pairing.same.any()
        for place in np.flatnonzero(pairing.is_matrix):
            difference = pairing.difference(int(place))
            assert np.sum(difference**2) == pytest.approx(pairing.energy_d[place], rel=1e-9)


def test_square_matrices_are_turned_by_their_values() -> None:
    square = {"a.weight": BASE["encoder.layer.0.attention.self.query.weight"]}
    turned = {"a.weight": square["a.weight"].T.copy()}
    pairing, found = paired(square, turned)
    assert found == {"a.weight": ("a.weight", "turned")}
    assert pairing.same.all()
    assert not pairing.equal.any()
    assert str(both_ways(square, turned).relation) == "identical"
    pairing, found = paired(square, moved(square, 0.1))
    assert found == {"a.weight": ("a.weight", "straight")}


def test_one_changed_value_of_the_same_layout_is_no_copy() -> None:
    other = copy.deepcopy(BASE)
    weights = other["encoder.layer.0.output.dense.weight"]
    weights[0, 0] = np.nextafter(weights[0, 0], np.float32(1))
    pairing, _ = paired(BASE, {f"model.{name}": weights for name, weights in other.items()})
    assert pairing.same.sum() == len(BASE) - 1
    assert both_ways(BASE, other).how != "converted"


def test_grouped_queries_are_split_by_their_shape() -> None:
    rng = np.random.default_rng(0)
    split = {
        f"model.layers.0.self_attn.{name}_proj.weight": rng.normal(size=(rows, WIDTH))
        for name, rows in (("q", WIDTH), ("k", KV), ("v", KV))
    }
    split["model.layers.0.mlp.gate_proj.weight"] = rng.normal(size=(HIDDEN, WIDTH))
    split["model.layers.0.mlp.up_proj.weight"] = rng.normal(size=(HIDDEN, WIDTH))
    names = list(split)
    joined = {
        "model.layers.0.self_attn.qkv_proj.weight": np.concatenate([split[n] for n in names[:3]]),
        "model.layers.0.mlp.gate_up_proj.weight": np.concatenate([split[n] for n in names[3:]]),
    }
    pairing, found = paired(split, joined)
    assert pairing.same.all()
    assert [found[name][0] for name in names] == [
        f"blk.0.{role}.weight" for role in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")
    ]
    assert both_ways(split, joined).how == "converted"


def test_heads_in_turns_are_compared_whole() -> None:
    weights = np.random.default_rng(0).normal(size=(3 * WIDTH, WIDTH)).astype(np.float32)
    name = "layers.0.attention.query_key_value.weight"
    assert not fingerprint({name: weights}).tensors[0].parts
    _, found = paired({name: weights}, {f"gpt_neox.{name}": weights + 1e-3})
    assert found == {name: (f"gpt_neox.{name}", "straight")}


def test_shapes_that_say_the_same() -> None:
    rng = np.random.default_rng(0)
    linear, kernel = rng.normal(size=(48, 64)), rng.normal(size=(48, 32, 3, 3))
    scale = rng.normal(size=48)
    torch = {"a.weight": linear, "b.weight": kernel, "c.weight": scale}
    other = {
        "a.weight": linear[:, :, None, None],
        "b/kernel:0": kernel.transpose(2, 3, 1, 0),
        "c.weight": scale[:, None],
    }
    pairing, found = paired(torch, {n: np.ascontiguousarray(w) for n, w in other.items()})
    assert pairing.same.all()
    assert found == {
        "a.weight": ("a.weight", "straight"),
        "b.weight": ("b/kernel:0", "reordered"),
        "c.weight": ("c.weight", "reordered"),
    }
    assert both_ways(torch, other).how == "converted"
    assert not np.any(pairing.difference(1))


def test_a_kernel_in_another_layout_is_known_only_while_it_is_equal() -> None:
    kernels = {"b.weight": np.random.default_rng(0).normal(size=(48, 32, 3, 3))}
    other = {"x/kernel:0": kernels["b.weight"].transpose(2, 3, 1, 0).copy()}
    assert paired(kernels, other)[1] == {"b.weight": ("x/kernel:0", "reordered")}
    assert paired(kernels, moved(other, 0.01))[1] == {}
    # Two of the same values: which is which cannot be said without a name.
    twice = {**kernels, "c.weight": kernels["b.weight"][::-1].copy()}
    assert paired(twice, other)[1] == {}
    assert set(paired(twice, {"b/kernel:0": other["x/kernel:0"]})[1]) == {"b.weight"}


def test_queries_whose_rows_a_converter_permuted() -> None:
    rng = np.random.default_rng(0)
    model = {
        f"model.layers.0.self_attn.{n}_proj.weight": rng.normal(size=(WIDTH, WIDTH))
        for n in ("q", "k", "v", "o")
    }

    def gguf(weights: Model) -> Model:
        converted = {}
        for name, values in weights.items():
            role = {"q": "q", "k": "k", "v": "v", "o": "output"}[name.split("_proj")[0][-1]]
            if role in {"q", "k"}:  # heads of 32 rows, their halves in turns
                values = values.reshape(3, 2, 16, WIDTH).swapaxes(1, 2).reshape(WIDTH, WIDTH)
            converted[f"blk.0.attn_{role}.weight"] = values
        return converted

    pairing, found = paired(model, gguf(model))
    assert [way for _, way in found.values()] == ["reordered", "straight", "reordered", "straight"]
    assert pairing.same.all()
    assert both_ways(model, gguf(model)).how == "converted"
    # Once they differ the permuted ones cannot be compared, and say nothing.
    tuned, found = paired(model, gguf(moved(model, 0.05)))
    assert [name for name, _ in found.values()] == [
        "blk.0.attn_output.weight",
        "blk.0.attn_v.weight",
    ]
    assert tuned.change == pytest.approx(0.05, rel=0.1)


def test_positions_and_masks_of_one_format_do_no_harm_but_weights_do() -> None:
    extra = {
        "position_ids": np.arange(512)[None],
        "mask": np.full((16, 16), -1e4, np.float32),
        "steps": np.float32(3.5),
    }
    assert both_ways(BASE, {**keras(BASE), **extra}).how == "converted"
    head = {"head": np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)}
    found = both_ways(BASE, {**keras(BASE), **head})
    assert found.related
    assert found.how != "converted"
    assert found.evidence[0].told("one", "other") == (
        "all that both have is the same; one has 0 weight tensors besides, other 1"
    )
    codes = {"codes": np.random.default_rng(0).integers(-9, 9, (9, 9)).astype(np.int8)}
    assert both_ways(BASE, {**keras(BASE), **codes}).how != "converted"


def test_one_step_for_a_whole_tensor_with_outliers_is_a_quantizers() -> None:
    """As exporters quantize, transposed: the outliers' step moves the rest by a third."""
    base = {name: weights.copy() for name, weights in BASE.items()}
    for name in list(base):
        if name.endswith("output.dense.weight"):
            base[name][0, :3] = 6.0
    coded = {}
    for name, weights in onnx(base).items():
        step = np.float32(np.abs(weights).max() / 127)
        if weights.ndim == 2:
            coded[f"{name}_scale"] = step
            weights = np.rint(weights / step).astype(np.int8)
        coded[name] = weights
    found = both_ways(base, coded)
    assert (str(found.relation), found.how, found.direction) == ("quantized", "int8", "a->b")
    assert found.change is not None
    assert found.change > 0.09  # 0.027 is what rounding to levels of each row leaves
    # Moved as far by training before, it is no rounding alone.
    assert str(both_ways(moved(BASE, 0.2), coded_of(BASE)).relation) != ("quantized")


def coded_of(model: Model) -> Model:
    steps = {name: np.float32(np.abs(w).max() / 127) for name, w in model.items()}
    return {
        name: (np.rint(w / steps[name]) * steps[name]).astype(np.float32)
        for name, w in model.items()
    }


def test_what_is_alike_by_convention_is_no_match() -> None:
    ones = {"a": np.ones((4, 5, 6)), "c": np.zeros((3, 3))}
    assert paired(ones, {"b": np.ones((6, 5, 4)), "d": np.zeros((3, 3, 1))})[1] == {}


def test_a_half_of_a_fused_tensor_is_no_copy() -> None:
    whole = torch_fused(BASE)
    less = {name: w for name, w in BASE.items() if "layer.1.attention.self.value" not in name}
    found = both_ways(whole, less)
    assert found.related
    assert found.how != "converted"


def test_parts_outlive_the_weights() -> None:
    stored = from_bytes(to_bytes(fingerprint(gpt2_fused(BASE))))
    found = compare_fingerprints(stored, fingerprint(BASE))
    assert found.how == "converted"


def test_few_rows_compare_with_few_columns_not_at_all() -> None:
    assert set(TIERS) == {"full", "fast", "exact"}
    tall = {f"{n}.weight": np.random.default_rng(n).normal(size=(900, 400)) for n in range(3)}
    other = {f"{name}.x": weights.T.copy() for name, weights in tall.items()}
    assert both_ways(tall, other).how == "converted"
    assert both_ways(tall, other, "fast").related is not False
    assert both_ways(torch_fused(BASE), BASE, "fast").how == "converted"


def test_a_family_in_two_formats_stacks() -> None:
    models = [BASE, keras(moved(BASE, 0.05, 1)), onnx(moved(BASE, 0.05, 2))]
    family = stack([fingerprint(model) for model in models])
    assert family is not None
    assert len(family.starts) == 13
    plain = stack([fingerprint(m) for m in (BASE, moved(BASE, 0.05, 1), moved(BASE, 0.05, 2))])
    assert plain is not None
    step, expected = family.cores[1] - family.cores[0], plain.cores[1] - plain.cores[0]
    assert step @ step == pytest.approx(expected @ expected, rel=1e-3)


def test_a_converted_copy_hangs_on_its_original() -> None:
    graph = infer({"base": BASE, "copy": keras(BASE)})
    (edge,) = graph.edges
    assert (str(edge.relation), edge.how) == ("identical", "converted")


def test_tolerances_hold_for_large_and_skewed_tensors() -> None:
    rng = np.random.default_rng(0)
    for shape in ((6000, 200), (1000, 3000)):
        for weights in (rng.normal(size=shape), rng.random(shape) + 1, rng.standard_t(3, shape)):
            one = fingerprint({"w": weights.astype(np.float32)}).tensors[0]
            other = fingerprint({"w": weights.astype(np.float32).T.copy()}).tensors[0]
            assert one.sketch is not None
            assert other.sketch is not None
            away = np.linalg.norm(one.sketch.core.astype(float) - other.sketch.core.T)
            assert away < SAME_WITHIN / 3 * np.sqrt(one.sketch.energy)
            assert agree(one, other)


def test_a_match_is_the_same_from_either_side() -> None:
    for name, convert in FORMATS.items():
        one, other = table(fingerprint(BASE)), table(fingerprint(convert(BASE)))
        forward = {(m.a, m.b, m.way) for m in match(one, other)}
        assert forward == {(m.b, m.a, m.way) for m in match(other, one)}, name


def test_nothing_matches_nothing() -> None:
    numbers: Any = {"a": np.array([[np.nan, 1.0]]), "b": np.zeros(0)}
    pairing, found = paired(numbers, {"c": np.array([[np.nan], [1.0]])})
    assert found == {}
    assert pairing.change == 0.0
