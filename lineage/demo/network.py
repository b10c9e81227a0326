"""A small real language model in NumPy: forward, hand-written backward, AdamW.

A decoder-only character model with Llama's parts and Llama's tensor names: RMSNorm before each
block, rotary positions (the half-split form), causal multi-head attention, SwiGLU, no biases, an
untied head. It exists so that the demonstration trains its own family in seconds with nothing
installed but NumPy; nothing in the measuring wing knows it.

Shapes in the comments: N = batch x context positions, D = width, H = heads, T = context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating[Any]]
Tokens: TypeAlias = NDArray[np.integer[Any]]
Weights: TypeAlias = dict[str, Array]
Gradient: TypeAlias = Callable[[Weights, Tokens], tuple[float, Weights]]

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
"""What the model can read: printable ASCII and the newline; token i is character i."""

_EPSILON = 1e-5
_ROPE_BASE = 10_000.0


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that fix every tensor: `width` is a multiple of twice `heads`."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    hidden: int = 176
    context: int = 64


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how hard to train: a linear warm-up over a tenth, then a cosine to a tenth."""

    steps: int
    rate: float
    batch: int = 8
    decay: float = 0.0

    def rate_at(self, step: int) -> float:
        """Return the learning rate of step `step`, counted from 0."""
        warm = max(1, self.steps // 10)
        if step < warm:
            return self.rate * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return self.rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def encode(text: str) -> Tokens:
    """Return the token of each character of `text`; characters outside the alphabet are dropped."""
    table = {character: token for token, character in enumerate(ALPHABET)}
    return np.array([table[c] for c in text if c in table], dtype=np.int64)


def projections(shape: Shape) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the name and (out, in) of every projection matrix inside the layers."""
    d, h = shape.width, shape.hidden
    for layer in range(shape.layers):
        for part in "qkvo":
            yield f"model.layers.{layer}.self_attn.{part}_proj.weight", (d, d)
        yield f"model.layers.{layer}.mlp.gate_proj.weight", (h, d)
        yield f"model.layers.{layer}.mlp.up_proj.weight", (h, d)
        yield f"model.layers.{layer}.mlp.down_proj.weight", (d, h)


def initial(shape: Shape, rng: np.random.Generator) -> Weights:
    """Return untrained float32 weights: normal with variance 1/(fan in), norm gains of one."""

    def normal(*size: int) -> Array:
        return rng.normal(0, size[-1] ** -0.5, size).astype(np.float32)

    weights = {name: normal(*size) for name, size in projections(shape)}
    gains = [
        f"model.layers.{layer}.{norm}_layernorm.weight"
        for layer in range(shape.layers)
        for norm in ("input", "post_attention")
    ]
    for name in [*gains, "model.norm.weight"]:
        weights[name] = np.ones(shape.width, np.float32)
    weights["model.embed_tokens.weight"] = normal(len(ALPHABET), shape.width)
    weights["lm_head.weight"] = normal(len(ALPHABET), shape.width)
    return weights


def loss_and_gradients(
    weights: Mapping[str, Array], tokens: Tokens, shape: Shape
) -> tuple[float, Weights]:
    """Return the mean next-character loss and its gradient by every weight.

    Args:
        weights: As `initial` names them, all of one float dtype, which is the dtype computed in.
        tokens: Batch x (context + 1) integers; each position predicts the next.
        shape: The sizes of `weights`.

    Returns:
        The cross-entropy in nats per character, and one gradient for each tensor, of its shape.
    """
    inputs, targets = tokens[:, :-1].ravel(), tokens[:, 1:].ravel()
    x = weights["model.embed_tokens.weight"][inputs]
    undo: list[Callable[[Array, Weights], Array]] = []
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        for block, norm in ((_attention, "input"), (_swiglu, "post_attention")):
            normed, back_norm = _rms_norm(x, weights, f"{prefix}{norm}_layernorm.weight")
            added, back_block = block(normed, weights, prefix, tokens.shape[0], shape)
            x = x + added
            undo.append(_residual(back_norm, back_block))
    x, back = _rms_norm(x, weights, "model.norm.weight")
    undo.append(back)
    logits, back = _linear(x, weights, "lm_head.weight")
    undo.append(back)

    logits -= logits.max(axis=1, keepdims=True)
    chosen = (np.arange(len(targets)), targets)
    at_target = logits[chosen]
    np.exp(logits, out=logits)
    total = logits.sum(axis=1, keepdims=True)
    loss: float = float((np.log(total[:, 0]) - at_target).mean())

    d = logits / total  # the softmax; less one at the target, over N, it is d loss / d logits
    d[chosen] -= 1
    d /= len(targets)
    gradients: Weights = {}
    for back in reversed(undo):
        d = back(d, gradients)
    embedding = np.zeros_like(weights["model.embed_tokens.weight"])
    np.add.at(embedding, inputs, d)
    gradients["model.embed_tokens.weight"] = embedding
    return loss, gradients


def loss_on(weights: Mapping[str, Array], text: Tokens, shape: Shape) -> float:
    """Return the loss on 32 windows spread evenly over `text`, in nats per character."""
    starts = np.linspace(0, len(text) - shape.context - 1, 32).astype(np.int64)
    windows = text[starts[:, None] + np.arange(shape.context + 1)]
    return loss_and_gradients(weights, windows, shape)[0]


# Each part returns its result and a function that takes d loss / d result, stores the gradients
# of the part's own weights, and returns d loss / d input.
_Back: TypeAlias = Callable[[Array, Weights], Array]


def _residual(back_norm: _Back, back_block: _Back) -> _Back:
    return lambda d, gradients: d + back_norm(back_block(d, gradients), gradients)


def _linear(x: Array, weights: Mapping[str, Array], name: str) -> tuple[Array, _Back]:
    """Return x Wᵀ, with W stored (out, in) as published checkpoints store it."""
    w = weights[name]

    def back(d: Array, gradients: Weights) -> Array:
        gradients[name] = d.T @ x
        return d @ w

    return x @ w.T, back


def _rms_norm(x: Array, weights: Mapping[str, Array], name: str) -> tuple[Array, _Back]:
    """Return x / rms(x) · gain. Source: Zhang and Sennrich (2019), arXiv 1910.07467."""
    gain = weights[name]
    scale = 1 / np.sqrt(np.square(x).mean(axis=1, keepdims=True) + _EPSILON)
    unit = x * scale

    def back(d: Array, gradients: Weights) -> Array:
        gradients[name] = (d * unit).sum(axis=0)
        d = d * gain
        inward: Array = scale * (d - unit * (d * unit).mean(axis=1, keepdims=True))
        return inward

    return unit * gain, back


def _swiglu(
    x: Array, weights: Mapping[str, Array], prefix: str, _batch: int, _shape: Shape
) -> tuple[Array, _Back]:
    """Return down(silu(gate x) · up x). Source: Shazeer (2020), arXiv 2002.05202."""
    gate, back_gate = _linear(x, weights, f"{prefix}mlp.gate_proj.weight")
    up, back_up = _linear(x, weights, f"{prefix}mlp.up_proj.weight")
    sigmoid = 0.5 * (1 + np.tanh(0.5 * gate))
    silu = gate * sigmoid
    out, back_down = _linear(silu * up, weights, f"{prefix}mlp.down_proj.weight")

    def back(d: Array, gradients: Weights) -> Array:
        d = back_down(d, gradients)
        d_gate = d * up * sigmoid * (1 + gate * (1 - sigmoid))
        return back_gate(d_gate, gradients) + back_up(d * silu, gradients)

    return out, back


def _attention(
    x: Array, weights: Mapping[str, Array], prefix: str, batch: int, shape: Shape
) -> tuple[Array, _Back]:
    """Return causal multi-head attention with rotary positions (arXiv 1706.03762, 2104.09864)."""
    context, head = len(x) // batch, shape.width // shape.heads
    cos, sin = _rotary(context, head, x.dtype)

    def split(flat: Array) -> Array:  # N x D -> batch x H x T x D/H
        return flat.reshape(batch, context, shape.heads, head).transpose(0, 2, 1, 3)

    def join(heads: Array) -> Array:
        return heads.transpose(0, 2, 1, 3).reshape(batch * context, shape.width)

    flat_q, back_q = _linear(x, weights, f"{prefix}self_attn.q_proj.weight")
    flat_k, back_k = _linear(x, weights, f"{prefix}self_attn.k_proj.weight")
    flat_v, back_v = _linear(x, weights, f"{prefix}self_attn.v_proj.weight")
    q, k, v = _rotate(split(flat_q), cos, sin), _rotate(split(flat_k), cos, sin), split(flat_v)
    scores = (q @ k.swapaxes(2, 3)) * head**-0.5
    scores += np.triu(np.full((context, context), -np.inf, x.dtype), 1)
    scores -= scores.max(axis=3, keepdims=True)
    np.exp(scores, out=scores)
    share = scores / scores.sum(axis=3, keepdims=True)
    out, back_o = _linear(join(share @ v), weights, f"{prefix}self_attn.o_proj.weight")

    def back(d: Array, gradients: Weights) -> Array:
        mixed = split(back_o(d, gradients))
        d_share = mixed @ v.swapaxes(2, 3)
        d_scores = share * (d_share - (d_share * share).sum(axis=3, keepdims=True)) * head**-0.5
        # a rotation's transpose turns the other way
        d_q, d_k = _rotate(d_scores @ k, cos, -sin), _rotate(d_scores.swapaxes(2, 3) @ q, cos, -sin)
        d_v = share.swapaxes(2, 3) @ mixed
        return (
            back_q(join(d_q), gradients)
            + back_k(join(d_k), gradients)
            + back_v(join(d_v), gradients)
        )

    return out, back


def _rotary(context: int, head: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return cos and sin, T x head, of each position's angles; the two halves are alike."""
    speeds = _ROPE_BASE ** (-np.arange(0, head, 2) / head)
    angles = np.outer(np.arange(context), np.concatenate([speeds, speeds]))
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)


def _rotate(x: Array, cos: Array, sin: Array) -> Array:
    half = x.shape[-1] // 2
    turned = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    return x * cos + turned * sin


def descend(
    parameters: Weights,
    gradient: Gradient,
    corpus: Tokens,
    schedule: Schedule,
    context: int,
    rng: np.random.Generator,
) -> tuple[Weights, tuple[float, ...]]:
    """Train with AdamW on random windows of `corpus`; the gradient is clipped to norm one.

    Args:
        parameters: Where to start; not changed.
        gradient: Gives the loss and the gradient of every parameter on a batch of windows.
        corpus: The training text as tokens, longer than `context`.
        schedule: Steps, rate, batch, and weight decay (of matrices only, as is usual).
        context: The length of a window less one.
        rng: Chooses the windows.

    Returns:
        The trained parameters and the loss of every step.

    Source: Kingma and Ba (2015), arXiv 1412.6980; decay, Loshchilov and Hutter, arXiv 1711.05101.
    """
    now = {name: value.copy() for name, value in parameters.items()}
    mean = {name: np.zeros_like(value) for name, value in now.items()}
    square = {name: np.zeros_like(value) for name, value in now.items()}
    losses = []
    for step in range(schedule.steps):
        starts = rng.integers(0, len(corpus) - context, schedule.batch)
        loss, gradients = gradient(now, corpus[starts[:, None] + np.arange(context + 1)])
        losses.append(loss)
        norm = math.sqrt(sum(float(np.square(g).sum()) for g in gradients.values()))
        clip, rate = min(1.0, 1 / (norm + 1e-12)), schedule.rate_at(step)
        unbias_mean, unbias_square = 1 - 0.9 ** (step + 1), 1 - 0.99 ** (step + 1)
        for name, value in now.items():
            g = gradients[name] * clip
            mean[name] += 0.1 * (g - mean[name])
            square[name] += 0.01 * (g * g - square[name])
            if value.ndim > 1:
                value *= 1 - rate * schedule.decay
            value -= (rate / unbias_mean) * (
                mean[name] / (np.sqrt(square[name] / unbias_square) + 1e-8)
            )
    return now, tuple(losses)


def train(
    weights: Weights, corpus: Tokens, shape: Shape, schedule: Schedule, rng: np.random.Generator
) -> tuple[Weights, tuple[float, ...]]:
    """Return `weights` trained on `corpus`, every tensor free, and the loss of every step."""
    return descend(
        weights,
        lambda now, tokens: loss_and_gradients(now, tokens, shape),
        corpus,
        schedule,
        shape.context,
        rng,
    )


def train_factors(
    weights: Weights,
    corpus: Tokens,
    shape: Shape,
    schedule: Schedule,
    rng: np.random.Generator,
    *,
    rank: int,
    scale: float = 2.0,
) -> tuple[Weights, tuple[float, ...]]:
    """Return an adapter trained on `corpus`, and the loss of every step; the weights stay.

    It changes every projection W to W + scale·B·A. Only A (rank x in, normal) and B (out x rank,
    zero at first) are trained; they are called `NAME/A` and `NAME/B`. `scale` is the usual
    alpha / rank.

    Source: Hu et al. (2021), arXiv 2106.09685.
    """
    parameters: Weights = {}
    for name, (rows, columns) in projections(shape):
        start = rng.normal(0, columns**-0.5, (rank, columns))
        parameters[f"{name}/A"] = start.astype(weights[name].dtype)
        parameters[f"{name}/B"] = np.zeros((rows, rank), weights[name].dtype)

    def gradient(now: Weights, tokens: Tokens) -> tuple[float, Weights]:
        loss, full = loss_and_gradients(with_factors(weights, now, scale), tokens, shape)
        by_factor: Weights = {}
        for name, _ in projections(shape):
            by_factor[f"{name}/A"] = scale * (now[f"{name}/B"].T @ full[name])
            by_factor[f"{name}/B"] = scale * (full[name] @ now[f"{name}/A"].T)
        return loss, by_factor

    return descend(parameters, gradient, corpus, schedule, shape.context, rng)


def with_factors(weights: Weights, factors: Weights, scale: float = 2.0) -> Weights:
    """Return `weights` with an adapter merged in, as `train_factors` made it."""
    return {
        name: w + scale * (factors[f"{name}/B"] @ factors[f"{name}/A"])
        if f"{name}/A" in factors
        else w
        for name, w in weights.items()
    }


def train_low_rank(
    weights: Weights,
    corpus: Tokens,
    shape: Shape,
    schedule: Schedule,
    rng: np.random.Generator,
    *,
    rank: int,
    scale: float = 2.0,
) -> tuple[Weights, tuple[float, ...]]:
    """Return `weights` with a trained adapter merged in, and the loss of every step.

    The difference of each projection has rank `rank` up to float32 rounding, and every other tensor
    is untouched.
    """
    factors, losses = train_factors(weights, corpus, shape, schedule, rng, rank=rank, scale=scale)
    return with_factors(weights, factors, scale), losses
