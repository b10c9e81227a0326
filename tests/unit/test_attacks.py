"""The disguises of `benchmarks/attacks`: no output changes, every weight does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import erf

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "attacks"))

import disguises
import experts
import folders
import networks
import peers
import reshapes
from folders import Arrays, Folder
from others import apart, together

WIDTH, HEADS, UNITS, WORDS, LAYERS = 24, 4, 40, 30, 2
IDS = np.random.default_rng(7).integers(WORDS, size=9)
VOCABULARY = {f"word-{row}": row for row in range(WORDS)}

# A few lines of forward pass for each architecture, on arrays under their own names.


def softmax(x: np.ndarray) -> np.ndarray:
    grown = np.exp(x - x.max(-1, keepdims=True))
    return grown / grown.sum(-1, keepdims=True)


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / 2**0.5)) / 2


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def rms(x: np.ndarray, w: np.ndarray, epsilon: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * w


def layer(a: Arrays, name: str, x: np.ndarray, epsilon: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return rms(centred, a[f"{name}.weight"], epsilon) + a[f"{name}.bias"]


def linear(a: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    return x @ a[f"{name}.weight"].T + a.get(f"{name}.bias", 0.0)


def turned(x: np.ndarray, rotary: int) -> np.ndarray:
    """Turn the first coordinates of each head by positions; x has shape (heads, length, inside)."""
    half = rotary // 2
    angle = np.arange(x.shape[1])[:, None] / 10_000 ** (np.arange(half) / half)
    angle = np.concatenate([angle, angle], 1)
    first, rest = x[..., :rotary], x[..., rotary:]
    other = np.concatenate([-first[..., half:], first[..., :half]], -1)
    return np.concatenate([first * np.cos(angle) + other * np.sin(angle), rest], -1)


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int, groups: int, rotary: int = 0,
    causal: bool = True,
) -> np.ndarray:  # fmt: skip
    length = len(q)
    q, k, v = (
        x.reshape(length, n, -1).transpose(1, 0, 2)
        for x, n in ((q, heads), (k, groups), (v, groups))
    )
    if rotary:
        q, k = turned(q, rotary), turned(k, rotary)
    k, v = np.repeat(k, heads // groups, 0), np.repeat(v, heads // groups, 0)
    scores = q @ k.transpose(0, 2, 1) / q.shape[-1] ** 0.5
    if causal:
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
    return (softmax(scores) @ v).transpose(1, 0, 2).reshape(length, -1)


def llama(model: Folder, ids: np.ndarray) -> np.ndarray:
    a, c = model.arrays, model.config
    e, heads, groups = c["rms_norm_eps"], c["num_attention_heads"], c["num_key_value_heads"]
    x = a["model.embed_tokens.weight"][ids]
    for n in range(c["num_hidden_layers"]):
        at = f"model.layers.{n}"
        y = rms(x, a[f"{at}.input_layernorm.weight"], e)
        q, k, v = (linear(a, f"{at}.self_attn.{p}_proj", y) for p in "qkv")
        seen = attention(q, k, v, heads, groups, q.shape[1] // heads)
        x = x + linear(a, f"{at}.self_attn.o_proj", seen)
        y = rms(x, a[f"{at}.post_attention_layernorm.weight"], e)
        gate, up = (linear(a, f"{at}.mlp.{p}_proj", y) for p in ("gate", "up"))
        x = x + linear(a, f"{at}.mlp.down_proj", gate * sigmoid(gate) * up)
    head = a.get("lm_head.weight", a["model.embed_tokens.weight"])
    return rms(x, a["model.norm.weight"], e) @ head.T


def gpt2(model: Folder, ids: np.ndarray) -> np.ndarray:
    a, e = model.arrays, model.config["layer_norm_epsilon"]
    t = {n: v.T if n.startswith("transformer.h.") and v.ndim == 2 else v for n, v in a.items()}
    x = a["transformer.wte.weight"][ids] + a["transformer.wpe.weight"][: len(ids)]
    for n in range(LAYERS):
        at = f"transformer.h.{n}"
        qkv = linear(t, f"{at}.attn.c_attn", layer(a, f"{at}.ln_1", x, e))
        seen = attention(*np.split(qkv, 3, 1), HEADS, HEADS)
        x = x + linear(t, f"{at}.attn.c_proj", seen)
        y = gelu(linear(t, f"{at}.mlp.c_fc", layer(a, f"{at}.ln_2", x, e)))
        x = x + linear(t, f"{at}.mlp.c_proj", y)
    return (
        layer(a, "transformer.ln_f", x, e) @ a.get("lm_head.weight", a["transformer.wte.weight"]).T
    )


def neox(model: Folder, ids: np.ndarray) -> np.ndarray:
    a, e = model.arrays, model.config["layer_norm_eps"]
    x = a["gpt_neox.embed_in.weight"][ids]
    for n in range(LAYERS):
        at = f"gpt_neox.layers.{n}"
        qkv = linear(a, f"{at}.attention.query_key_value", layer(a, f"{at}.input_layernorm", x, e))
        q, k, v = qkv.reshape(len(ids), HEADS, 3, -1).transpose(2, 0, 1, 3).reshape(3, len(ids), -1)
        seen = attention(q, k, v, HEADS, HEADS, rotary=2)  # a quarter of six, up to a whole pair
        y = linear(a, f"{at}.mlp.dense_h_to_4h", layer(a, f"{at}.post_attention_layernorm", x, e))
        x = x + linear(a, f"{at}.attention.dense", seen)
        x = x + linear(a, f"{at}.mlp.dense_4h_to_h", gelu(y))
    return linear(a, "lm_head", layer(a, "gpt_neox.final_layer_norm", x, e))


def bert(model: Folder, ids: np.ndarray) -> np.ndarray:
    a, e = model.arrays, model.config["layer_norm_eps"]
    word, place, kind = (
        a[f"bert.embeddings.{n}_embeddings.weight"] for n in ("word", "position", "token_type")
    )
    x = layer(a, "bert.embeddings.LayerNorm", word[ids] + place[: len(ids)] + kind[0], e)
    for n in range(LAYERS):
        at = f"bert.encoder.layer.{n}"
        q, k, v = (linear(a, f"{at}.attention.self.{p}", x) for p in ("query", "key", "value"))
        seen = attention(q, k, v, HEADS, HEADS, causal=False)
        x = layer(a, f"{at}.attention.output.LayerNorm",
                  x + linear(a, f"{at}.attention.output.dense", seen), e)  # fmt: skip
        y = linear(a, f"{at}.output.dense", gelu(linear(a, f"{at}.intermediate.dense", x)))
        x = layer(a, f"{at}.output.LayerNorm", x + y, e)
    x = gelu(linear(a, "cls.predictions.transform.dense", x))
    return (
        layer(a, "cls.predictions.transform.LayerNorm", x, e) @ word.T + a["cls.predictions.bias"]
    )


def convolved(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    side = kernel.shape[-1]
    padded = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))
    return np.einsum("chwij,ocij->ohw", windows[:, ::stride, ::stride], kernel)


def block(a: Arrays, name: str, x: np.ndarray, stride: int = 1) -> np.ndarray:
    x = convolved(x, a[f"{name}.convolution.weight"], stride)
    if f"{name}.convolution.bias" in a:
        x = x + a[f"{name}.convolution.bias"][:, None, None]
    if f"{name}.normalization.weight" in a:
        w, b, mean, var = (
            a[f"{name}.normalization.{n}"][:, None, None].astype(np.float64)
            for n in ("weight", "bias", "running_mean", "running_var")
        )
        x = (x - mean) / np.sqrt(var + 1e-5) * w + b
    return x


def resnet(model: Folder, _ids: np.ndarray) -> np.ndarray:
    a = model.arrays
    x = np.maximum(block(a, "resnet.embedder.embedder", PICTURE, 2), 0)
    for stage, stride in enumerate((1, 2)):
        for n in range(2):
            at = f"resnet.encoder.stages.{stage}.layers.{n}"
            step = stride if n == 0 else 1
            y = np.maximum(block(a, f"{at}.layer.0", x, step), 0)
            y = block(a, f"{at}.layer.1", y)
            if f"{at}.shortcut.convolution.weight" in a:
                x = block(a, f"{at}.shortcut", x, step)
            x = np.maximum(x + y, 0)
    return linear(a, "classifier.1", x.mean((1, 2)))


def lstm(model: Folder, ids: np.ndarray) -> np.ndarray:
    a = model.arrays
    x = a["embedding.weight"][ids]
    for n in range(LAYERS):
        h = c = np.zeros(a[f"lstm.weight_hh_l{n}"].shape[1])
        out = []
        for step in x:
            given = a[f"lstm.weight_ih_l{n}"] @ step + a[f"lstm.bias_ih_l{n}"]
            i, f, g, o = np.split(
                given + a[f"lstm.weight_hh_l{n}"] @ h + a[f"lstm.bias_hh_l{n}"], 4
            )
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            out.append(h)
        x = np.stack(out)
    return linear(a, "decoder", np.tanh(linear(a, "project", x)))


# Small networks with random weights


def drawn(shapes: dict[str, tuple[int, ...]]) -> Arrays:
    rng = np.random.default_rng(3)
    arrays: Arrays = {}
    for name, shape in shapes.items():
        values = 0.4 * rng.normal(size=shape)
        is_gain = len(shape) == 1 and name.endswith("weight")
        arrays[name] = np.float32(values + 1 if is_gain else values)
        if name.endswith("running_var"):
            arrays[name] = np.float32(values**2 + 0.2)
    return arrays


def layers_of(template: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {template.format(n) + name: s for n in range(LAYERS) for name, s in shapes.items()}


def biased(shapes: dict[str, tuple[int, ...]], turned: bool = False) -> dict[str, tuple[int, ...]]:
    """Give every weight a bias."""
    told = {}
    for name, shape in shapes.items():
        told[f"{name}.weight"] = shape[::-1] if turned else shape
        told[f"{name}.bias"] = shape[:1]
    return told


D, U, V = WIDTH, UNITS, WORDS
_LLAMA_LAYER = {
    "input_layernorm.weight": (D,), "post_attention_layernorm.weight": (D,),
    "self_attn.q_proj.weight": (D, D), "self_attn.k_proj.weight": (D // 2, D),
    "self_attn.v_proj.weight": (D // 2, D), "self_attn.o_proj.weight": (D, D),
    "mlp.gate_proj.weight": (U, D), "mlp.up_proj.weight": (U, D), "mlp.down_proj.weight": (D, U),
}  # fmt: skip
_BIASES = {f"self_attn.{p}_proj.bias": (D if p == "q" else D // 2,) for p in "qkv"}
_LLAMA_CONFIG = {
    "num_hidden_layers": LAYERS, "hidden_size": D, "num_attention_heads": HEADS,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "intermediate_size": U, "vocab_size": V,
    "bos_token_id": 3, "eos_token_id": None,
}  # fmt: skip


def made(
    kind: str, shapes: dict[str, tuple[int, ...]], words: bool = True, **config: Any
) -> Folder:
    return Folder({"model_type": kind, **config}, drawn(shapes), VOCABULARY if words else None)


def a_llama() -> Folder:
    outside = {
        "model.embed_tokens.weight": (V, D),
        "lm_head.weight": (V, D),
        "model.norm.weight": (D,),
    }
    return made("llama", outside | layers_of("model.layers.{}.", _LLAMA_LAYER), **_LLAMA_CONFIG)


def a_qwen() -> Folder:
    outside = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    inside = layers_of("model.layers.{}.", _LLAMA_LAYER | _BIASES)
    return made("qwen2", outside | inside, **_LLAMA_CONFIG, tie_word_embeddings=True)


def a_gpt2() -> Folder:
    outside = {"transformer.wte.weight": (V, D), "transformer.wpe.weight": (16, D)}
    outside |= biased({"transformer.ln_f": (D,)})
    norms = biased({"ln_1": (D,), "ln_2": (D,)})
    matrices = {
        "attn.c_attn": (3 * D, D),
        "attn.c_proj": (D, D),
        "mlp.c_fc": (U, D),
        "mlp.c_proj": (D, U),
    }
    inside = layers_of("transformer.h.{}.", norms | biased(matrices, turned=True))
    sizes = {"n_embd": D, "n_head": HEADS, "n_layer": LAYERS, "n_inner": U, "vocab_size": V}
    return made("gpt2", outside | inside, **sizes, layer_norm_epsilon=1e-5)


def a_neox() -> Folder:
    outside = {"gpt_neox.embed_in.weight": (V, D), "lm_head.weight": (V, D)}
    outside |= biased({"gpt_neox.final_layer_norm": (D,)})
    matrices = {
        "input_layernorm": (D,), "post_attention_layernorm": (D,),
        "attention.query_key_value": (3 * D, D), "attention.dense": (D, D),
        "mlp.dense_h_to_4h": (U, D), "mlp.dense_4h_to_h": (D, U),
    }  # fmt: skip
    inside = layers_of("gpt_neox.layers.{}.", biased(matrices))
    sizes = {"hidden_size": D, "num_attention_heads": HEADS, "layer_norm_eps": 1e-5}
    return made("gpt_neox", outside | inside, **sizes, intermediate_size=U, vocab_size=V)


def a_bert() -> Folder:
    outside: dict[str, tuple[int, ...]] = {
        f"bert.embeddings.{n}_embeddings.weight": (rows, D)
        for n, rows in (("word", V), ("position", 16), ("token_type", 2))
    }
    outside |= biased({"bert.embeddings.LayerNorm": (D,), "cls.predictions.transform.dense": (D, D),
                       "cls.predictions.transform.LayerNorm": (D,)})  # fmt: skip
    matrices = {
        "attention.self.query": (D, D), "attention.self.key": (D, D),
        "attention.self.value": (D, D),
        "attention.output.dense": (D, D), "attention.output.LayerNorm": (D,),
        "intermediate.dense": (U, D), "output.dense": (D, U), "output.LayerNorm": (D,),
    }  # fmt: skip
    inside = layers_of("bert.encoder.layer.{}.", biased(matrices))
    sizes = {"hidden_size": D, "num_attention_heads": HEADS, "layer_norm_eps": 1e-12}
    return made("bert", outside | inside | {"cls.predictions.bias": (V,)}, **sizes,
                intermediate_size=U, vocab_size=V)  # fmt: skip


PICTURE = np.random.default_rng(5).normal(size=(1, 12, 12))


def _convolution(name: str, out: int, into: int, side: int) -> dict[str, tuple[int, ...]]:
    ends = ("weight", "bias", "running_mean", "running_var")
    shapes: dict[str, tuple[int, ...]] = {f"{name}.normalization.{end}": (out,) for end in ends}
    return shapes | {f"{name}.convolution.weight": (out, into, side, side)}


def a_resnet() -> Folder:
    shapes = _convolution("resnet.embedder.embedder", 8, 1, 7)
    for stage, (before, width) in enumerate(((8, 8), (8, 12))):
        for n in range(2):
            at, into = f"resnet.encoder.stages.{stage}.layers.{n}", width if n else before
            shapes |= _convolution(f"{at}.layer.0", width, into, 3)
            shapes |= _convolution(f"{at}.layer.1", width, width, 3)
            if into != width:
                shapes |= _convolution(f"{at}.shortcut", width, into, 1)
    shapes |= biased({"classifier.1": (5, 12)})
    model = made("resnet", shapes, words=False)
    counter = {"resnet.embedder.embedder.normalization.num_batches_tracked": np.array(7)}
    return replace(model, arrays=model.arrays | counter)


def an_lstm() -> Folder:
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (V, 14)}
    for n, into in enumerate((14, 10)):
        shapes |= {f"lstm.weight_ih_l{n}": (40, into), f"lstm.weight_hh_l{n}": (40, 10)}
        shapes |= {f"lstm.bias_ih_l{n}": (40,), f"lstm.bias_hh_l{n}": (40,)}
    return made("lstm", shapes | biased({"project": (10, 10), "decoder": (V, 10)}))


Forward = Callable[[Folder, np.ndarray], np.ndarray]
MODELS: dict[str, tuple[Callable[[], Folder], Forward]] = {
    "llama": (a_llama, llama),
    "qwen2": (a_qwen, llama),
    "gpt2": (a_gpt2, gpt2),
    "neox": (a_neox, neox),
    "bert": (a_bert, bert),
    "resnet": (a_resnet, resnet),
    "lstm": (an_lstm, lstm),
}
WORN = [
    (kind, name)
    for kind, (make, _) in MODELS.items()
    for name in [*disguises.everything(apart(make())), "everything"]
]
PARTLY = {"units-rescaled", "residual-rescaled", "residual-shifted", "norms-folded"}
PARTLY |= {"channels-rescaled", "cells-flipped", "tokens-permuted"}
"""Disguises that leave some of what they touch pointing the same way."""


def worn(model: Folder, name: str, dtype: str = "F32") -> tuple[Folder, networks.Maps]:
    network = apart(model)
    names = disguises.everything(network) if name == "everything" else [name]
    hidden, maps = disguises.hide(network, names, np.random.default_rng(11))
    made = together(hidden)
    return replace(made, arrays=folders.stored(made.arrays, dtype)), maps


def said(forward: Forward, model: Folder) -> np.ndarray:
    """Return what a model says of the same words, whatever rows they have, by word."""
    wide = replace(model, arrays=folders.stored(model.arrays, "F64"))
    if model.vocabulary is None:
        return forward(wide, IDS)
    rows = np.array([model.vocabulary[f"word-{row}"] for row in range(WORDS)])
    return forward(wide, rows[IDS])[..., rows]


def relative(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.abs(after - before).max() / np.abs(before).max())


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(abs(x @ y) / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize("kind", MODELS)
def test_taking_apart_and_putting_together_changes_nothing(kind: str) -> None:
    model = MODELS[kind][0]()
    again = together(apart(model))
    assert again.arrays.keys() == model.arrays.keys()
    assert all(np.array_equal(again.arrays[name], array) for name, array in model.arrays.items())


@pytest.mark.parametrize(("kind", "name"), WORN)
def test_a_disguise_keeps_what_a_model_says(kind: str, name: str) -> None:
    make, forward = MODELS[kind]
    model = make()
    hidden, _ = worn(model, name)
    assert relative(said(forward, model), said(forward, hidden)) < 1e-5


@pytest.mark.parametrize(("kind", "name"), WORN)
def test_a_disguise_changes_the_weights(kind: str, name: str) -> None:
    model = MODELS[kind][0]()
    hidden, maps = worn(model, name)
    assert maps
    alike = [
        cosine(array, hidden.arrays[n])
        for n, array in model.arrays.items()
        if n in hidden.arrays and array.ndim > 1 and not np.array_equal(array, hidden.arrays[n])
    ]
    assert alike
    if name not in PARTLY:
        fused = kind in ("gpt2", "neox") and name in ("values-turned", "queries-turned")
        assert np.mean(alike) < (0.6 if fused else 0.25)
    assert (
        min(alike) < 0.5 or name == "norms-folded" or (kind, name) == ("bert", "residual-rescaled")
    )


@pytest.mark.parametrize("kind", MODELS)
def test_everything_at_once_leaves_nothing_to_compare(kind: str) -> None:
    model = MODELS[kind][0]()
    hidden, _ = worn(model, "everything")
    large = [
        n for n, a in model.arrays.items() if a.ndim > 1 and a.size > 200 and "token_type" not in n
    ]
    assert len(large) > 4
    assert np.mean([cosine(model.arrays[n], hidden.arrays[n]) for n in large]) < 0.15


def test_maps_say_what_was_done() -> None:
    model = a_qwen()
    hidden, maps = worn(model, "everything")
    order, turn = maps["residual-permuted:order/residual"], maps["residual-rotated:turn/residual"]
    tokens, factor = maps["tokens-permuted:order/tokens"], maps["residual-rescaled:factor/residual"]
    old = model.arrays["model.embed_tokens.weight"].astype(np.float64)
    expected = old[tokens][:, order] @ turn.T * factor
    assert relative(expected, hidden.arrays["model.embed_tokens.weight"]) < 1e-6
    assert hidden.vocabulary is not None
    assert all(hidden.vocabulary[f"word-{old}"] == new for new, old in enumerate(tokens))
    assert hidden.config["bos_token_id"] == list(tokens).index(3)
    assert hidden.config["rms_norm_eps"] == pytest.approx(1e-5 * factor[0] ** 2)
    assert hidden.config["tie_word_embeddings"] is False


def test_keys_share_one_turn_with_all_their_queries() -> None:
    network = apart(a_llama())
    hidden, maps = disguises.hide(network, ["queries-turned"], np.random.default_rng(2))
    turn = maps["queries-turned:turn/inside.1"]
    expected = np.einsum("gij,gmjr->gmir", turn, network.parts["1.q.w"])
    np.testing.assert_allclose(hidden.parts["1.q.w"], expected)
    half = turn.shape[-1] // 2
    off = turn[:, :half, :half] - np.stack([np.diag(np.diag(t)) for t in turn[:, :half, :half]])
    assert turn.shape == (2, 6, 6)
    assert not off.any()


def test_norms_of_what_is_added_to_cannot_be_turned() -> None:
    network = apart(a_bert())
    assert "residual-rotated" not in disguises.everything(network)
    with pytest.raises(ValueError, match="does not fit"):
        disguises.hide(network, ["residual-rotated"], np.random.default_rng(0))


def test_gates_are_stored_in_the_order_of_onnx() -> None:
    model = an_lstm()
    stored, _ = worn(model, "gates-reordered")
    wi, wo, wf, wc = np.split(stored.arrays["rnn.1.W"][0], 4)
    torch_order = np.concatenate([wi, wf, wc, wo])
    assert np.array_equal(torch_order, model.arrays["lstm.weight_ih_l1"])
    assert stored.arrays["rnn.0.B"].shape == (1, 80)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "neox", "bert"])
def test_split_units_say_the_same(kind: str) -> None:
    make, forward = MODELS[kind]
    model = make()
    network, maps = reshapes.RESHAPES["units-split"].reshape(apart(model), np.random.default_rng(4))
    split = together(network)
    assert len(maps["order/units.0"]) == UNITS * 5 // 4
    assert relative(said(forward, model), said(forward, split)) < 1e-9


@pytest.mark.parametrize("name", ["units-cut", "heads-cut", "width-cut", "tokens-cut"])
def test_a_cut_leaves_what_its_map_says(name: str) -> None:
    network = apart(a_llama())
    cut, maps = reshapes.RESHAPES[name].reshape(network, np.random.default_rng(4))
    space, order = next((k.removeprefix("order/"), v) for k, v in maps.items())
    assert cut.spaces[space] == len(order) < network.spaces[space]
    role = cut.touching(space)[0]
    axis = cut.axes[role].index(space)
    assert np.array_equal(cut.parts[role], network.parts[role].take(order, axis))
    again = apart(together(cut))
    assert again.spaces == cut.spaces


def test_experts_come_from_the_models_that_the_map_says() -> None:
    several = [a_llama() for _ in range(3)]
    for number, model in enumerate(several):
        model.arrays["model.layers.1.mlp.up_proj.weight"][:] += number
    mixture, maps = experts.trained_apart(several, np.random.default_rng(1))
    left, kept = experts.cut(mixture, np.random.default_rng(1), left=2)
    for place, old in enumerate(kept["experts"]):
        source = several[maps["experts"][old]]
        found = left.arrays[f"model.layers.1.block_sparse_moe.experts.{place}.w3.weight"]
        assert np.array_equal(found, source.arrays["model.layers.1.mlp.up_proj.weight"])
    assert left.arrays["model.layers.0.block_sparse_moe.gate.weight"].shape == (2, WIDTH)
    assert left.config["num_local_experts"] == 2


def test_experts_that_are_merged_are_the_mean_of_their_lot() -> None:
    several = [a_llama() for _ in range(3)]
    for number, model in enumerate(several):
        model.arrays["model.layers.1.mlp.up_proj.weight"][:] += number
    mixture, _ = experts.trained_apart(several, np.random.default_rng(1))
    left, maps = experts.merged(mixture, np.random.default_rng(2), left=2)
    stem = "model.layers.1.block_sparse_moe."
    for new in range(2):
        lot = np.flatnonzero(maps["lots"] == new)
        old = [mixture.arrays[f"{stem}experts.{one}.w3.weight"] for one in lot]
        assert np.allclose(left.arrays[f"{stem}experts.{new}.w3.weight"], np.mean(old, 0))
        rows = mixture.arrays[f"{stem}gate.weight"][lot]
        assert np.allclose(left.arrays[f"{stem}gate.weight"][new], rows.mean(0))
    assert f"{stem}experts.2.w3.weight" not in left.arrays
    assert sorted(np.bincount(maps["lots"])) == [1, 2]


def test_a_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    model = a_resnet()
    folders.write(tmp_path / "a", model)
    again = folders.read(tmp_path / "a")
    assert again.config == model.config
    assert all(np.array_equal(again.arrays[n], a) for n, a in model.arrays.items())
    rounded = replace(model, arrays=folders.stored(model.arrays, "BF16"))
    folders.write(tmp_path / "b", rounded)
    assert folders.read(tmp_path / "b").dtype == "BF16"


def test_what_has_no_role_is_refused() -> None:
    model = a_llama()
    with pytest.raises(ValueError, match="no role for"):
        apart(replace(model, arrays=model.arrays | {"odd.weight": np.ones(3, np.float32)}))
    with pytest.raises(ValueError, match="no table of roles"):
        apart(replace(model, config={"model_type": "unheard-of"}))


# The peers and the counting


def score(peer: str, name: str, kind: str = "llama") -> float:
    model = MODELS[kind][0]()
    return peers.PEERS[peer](apart(model), apart(worn(model, name)[0]))


@pytest.mark.parametrize("peer", peers.PEERS)
def test_a_peer_knows_a_copy(peer: str) -> None:
    network = apart(a_llama())
    found = peers.scores(network, network)[peer]
    assert found > 8 if peer == "unit matching" else found == pytest.approx(1)


def test_peers_lose_what_their_papers_do_not_undo() -> None:
    assert score("raw cosine", "everything") < 0.1
    assert score("AWM", "residual-permuted") == pytest.approx(1)
    assert score("AWM", "residual-rotated") < 0.5
    assert score("invariant terms", "values-turned") == pytest.approx(1)
    assert abs(score("invariant terms", "residual-rescaled")) < 0.5
    assert score("std profiles", "units-permuted") == pytest.approx(1)
    assert score("unit matching", "units-permuted") > 8
    assert abs(score("unit matching", "residual-rotated")) < 4


def test_peers_have_nothing_to_say_of_other_networks() -> None:
    network = apart(a_resnet())
    found = peers.scores(network, network)
    assert found.pop("raw cosine") == pytest.approx(1)
    assert np.isnan(list(found.values())).all()
