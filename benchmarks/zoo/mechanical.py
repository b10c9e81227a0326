"""What is done to weights without training: one function a relation.

Merges follow mergekit's definitions. Each function takes the parents and returns the child with the
words for what it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from layout import Architecture, Weights
from recipes import Shape
from roundings import SCHEMES

Answer = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Model:
    """Weights and the sizes they were made with."""

    weights: Weights
    shape: Shape


@dataclass(frozen=True, slots=True)
class Made:
    """A child and how it came about.

    Attributes:
        model: The child.
        answer: Relation and detail; None for a root.
        also: Other answers that are right.
        coefficients: One for each parent, where it has a meaning.
        rank: Of a merged adapter.
        unneeded: Places of parents that need not be found, such as the base of a merge.
        notes: How it was made.
    """

    model: Model
    answer: Answer | None
    also: tuple[Answer, ...] = ()
    coefficients: tuple[float, ...] | None = None
    rank: int | None = None
    unneeded: tuple[int, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bench:
    """What a function may need besides the parents."""

    architecture: Architecture
    generator: torch.Generator


Maker = Callable[..., Made]


def _floating(weights: Weights) -> list[str]:
    return [name for name, tensor in weights.items() if tensor.is_floating_point()]


def _wide(weights: Weights) -> Weights:
    """Return weights with every number in fp32."""
    return {n: t.float() if t.is_floating_point() else t for n, t in weights.items()}


def _like(weights: Weights, model: Weights) -> Weights:
    """Return weights stored in the dtypes of a model."""
    return {n: t.to(model[n].dtype) if n in model else t for n, t in weights.items()}


# Copies


def renamed(_bench: Bench, parents: Sequence[Model], prefix: str) -> Made:
    """Give every tensor another name."""
    weights = {f"{prefix}{name}": t for name, t in reversed(parents[0].weights.items())}
    return Made(replace(parents[0], weights=weights), ("identical", "renamed"))


def copied(_bench: Bench, parents: Sequence[Model]) -> Made:
    """Change nothing: the file or its shards differ."""
    return Made(parents[0], ("identical", "same"))


# Less precision


def cast(_bench: Bench, parents: Sequence[Model], to: str) -> Made:
    """Store every number in fewer bits; where nothing is lost, the child is a copy."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[to]
    before = parents[0].weights
    weights = {n: t.to(dtype) if t.is_floating_point() else t for n, t in before.items()}
    answer: Answer = ("quantized", to)
    if all(torch.equal(before[name].double(), weights[name].double()) for name in before):
        is_stored_so = all(before[name].dtype == weights[name].dtype for name in before)
        answer = ("identical", "same" if is_stored_so else "cast")
    return Made(replace(parents[0], weights=weights), answer, notes={"to": to})


def quantized(bench: Bench, parents: Sequence[Model], scheme: str, stored: str = "fp32") -> Made:
    """Round the large matrices to levels and store what the levels mean."""
    round_it, how = SCHEMES[scheme]
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[stored]
    weights: Weights = {}
    for name, tensor in parents[0].weights.items():
        if bench.architecture.is_matrix(name):
            flat = tensor.float().flatten(1)
            weights[name] = round_it(flat).reshape(tensor.shape).to(dtype)
        else:
            weights[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    notes = {"scheme": scheme, "stored": stored}
    return Made(replace(parents[0], weights=weights), ("quantized", how), notes=notes)


# Fewer weights


def pruned(bench: Bench, parents: Sequence[Model], share: float, per_row: bool = False) -> Made:
    """Set the smallest weights of every large matrix to zero."""
    weights = dict(parents[0].weights)
    for name, tensor in weights.items():
        if bench.architecture.is_matrix(name):
            flat = tensor.float().flatten(1) if per_row else tensor.float().flatten()[None]
            least = flat.abs().sort(1).values[:, int(share * flat.shape[1]), None]
            weights[name] = (flat * (flat.abs() >= least)).reshape(tensor.shape).to(tensor.dtype)
    notes = {"share": share, "per_row": per_row}
    return Made(replace(parents[0], weights=weights), ("pruned", "unstructured"), notes=notes)


def _picked(bench: Bench, model: Model, picked: Sequence[int]) -> Model:
    """Return a model made of some layers of another, numbered anew."""
    weights: Weights = {}
    for name, tensor in model.weights.items():
        layer = bench.architecture.layer_of(name)
        if layer is None:
            weights[name] = tensor
    for new, old in enumerate(picked):
        for name, tensor in model.weights.items():
            if bench.architecture.layer_of(name) == old:
                weights[_at_layer(bench.architecture, name, new)] = tensor.clone()
    return Model(weights, replace(model.shape, layers=len(picked)))


def _at_layer(architecture: Architecture, name: str, layer: int) -> str:
    """Return a tensor's name in another layer."""
    found = re.match(architecture.layer, name)
    if found is None:
        raise ValueError(f"{name} is in no layer")
    return f"{name[: found.start(1)]}{layer}{name[found.end(1) :]}"


def dropped(bench: Bench, parents: Sequence[Model], layers: Sequence[int]) -> Made:
    """Take layers out; those behind move up."""
    left = [at for at in range(parents[0].shape.layers) if at not in layers]
    notes = {"dropped": list(layers)}
    return Made(_picked(bench, parents[0], left), ("pruned", "depth"), notes=notes)


def narrowed(bench: Bench, parents: Sequence[Model], share: float) -> Made:
    """Keep the neurons of each layer's MLP that have the greatest norm, in their order."""
    model, arch = parents[0], bench.architecture
    keep_count = int(model.shape.mlp * share)
    weights = dict(model.weights)
    for layer in range(model.shape.layers):
        inside = [n for n in weights if arch.layer_of(n) == layer]
        into = [n for n in inside if n.endswith(arch.mlp_in)]
        out = [n for n in inside if any(re.search(f"{end}$", n) for end in arch.mlp_out)]
        norm = torch.zeros(model.shape.mlp)
        for name in into:
            wide = weights[name].float()
            if wide.ndim == 2:
                norm += wide.square().sum(0 if arch.turned else 1)
        kept = norm.topk(keep_count).indices.sort().values
        for name in into:
            axis = 1 if arch.turned and weights[name].ndim == 2 else 0
            weights[name] = weights[name].index_select(axis, kept).contiguous()
        for name in out:
            weights[name] = weights[name].index_select(0 if arch.turned else 1, kept).contiguous()
    shape = replace(model.shape, mlp=keep_count)
    return Made(Model(weights, shape), ("pruned", "width"), notes={"share": share})


# More weights


def repeated(bench: Bench, parents: Sequence[Model], first: int, again: int) -> Made:
    """Run layers up to `first`, then from `again` to the end (SOLAR, Kim et al. 2023)."""
    layers = [*range(first), *range(again, parents[0].shape.layers)]
    return Made(_picked(bench, parents[0], layers), ("expanded", "depth"), notes={"layers": layers})


def more_tokens(bench: Bench, parents: Sequence[Model], count: int, noise: float) -> Made:
    """Add tokens that start as the mean of all others, with a little noise."""
    weights = dict(parents[0].weights)
    for name in bench.architecture.tokens:
        old = weights[name].float()
        drawn = torch.randn(count, *old.shape[1:], generator=bench.generator)
        rows = old.mean(0, keepdim=True) + noise * old.std() * drawn
        weights[name] = torch.cat([old, rows]).to(weights[name].dtype)
    shape = replace(parents[0].shape, vocabulary=parents[0].shape.vocabulary + count)
    notes = {"count": count, "noise": noise}
    return Made(Model(weights, shape), ("expanded", "vocabulary"), notes=notes)


def experts(bench: Bench, parents: Sequence[Model], count: int) -> Made:
    """Copy every MLP into experts behind a new router, under the names of Mixtral."""
    arch, weights = bench.architecture, {}
    parts = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
    for name, tensor in parents[0].weights.items():
        found = re.match(r"(.*)\.mlp\.(gate_proj|up_proj|down_proj)\.(weight)$", name)
        if found is None or arch.layer_of(name) is None:
            weights[name] = tensor
            continue
        sparse = f"{found[1]}.block_sparse_moe"
        for expert in range(count):
            weights[f"{sparse}.experts.{expert}.{parts[found[2]]}.weight"] = tensor.clone()
        if found[2] == "gate_proj":
            router = torch.randn(count, tensor.shape[1], generator=bench.generator)
            weights[f"{sparse}.gate.weight"] = 0.02 * router
    made = replace(parents[0], weights=weights)
    return Made(made, ("expanded", "experts"), notes={"experts": count})


# Noise


def noised(bench: Bench, parents: Sequence[Model], share: float) -> Made:
    """Add normal noise, a share of each tensor's own spread."""
    weights = dict(parents[0].weights)
    for name in _floating(weights):
        tensor = weights[name].float()
        if tensor.ndim > 1:
            drawn = torch.randn(tensor.shape, generator=bench.generator)
            weights[name] = (tensor + share * tensor.std() * drawn).to(weights[name].dtype)
    return Made(replace(parents[0], weights=weights), ("noised", None), notes={"share": share})


# Merges


def _merged(parents: Sequence[Model], rule: Callable[[list[torch.Tensor]], torch.Tensor]) -> Model:
    """Apply a rule to each tensor of the parents; counters are the first parent's."""
    models = [_wide(parent.weights) for parent in parents]
    weights = {
        name: rule([model[name] for model in models]) if tensor.is_floating_point() else tensor
        for name, tensor in models[0].items()
    }
    return replace(parents[0], weights=_like(weights, parents[0].weights))


def linear(_bench: Bench, parents: Sequence[Model], weights: Sequence[float]) -> Made:
    """Average, the weights brought to a sum of one."""
    total = sum(weights)
    shares = tuple(weight / total for weight in weights)
    merged = _merged(
        parents, lambda ts: torch.stack([s * t for s, t in zip(shares, ts, strict=True)]).sum(0)
    )
    return Made(merged, ("merge", "linear"), coefficients=shares, notes={"weights": list(weights)})


_SAME_WAY = 0.9995


def slerp(_bench: Bench, parents: Sequence[Model], t: float) -> Made:
    """Go along the arc from the first parent to the second, tensor by tensor.

    As in mergekit, tensors that point the same way (cosine over .9995) are averaged instead; a
    merge where most weights are so is a linear one as well.
    """
    counts = {"arc": 0, "line": 0}

    def rule(tensors: list[torch.Tensor]) -> torch.Tensor:
        a, b = tensors
        cosine = (a / a.norm().clamp_min(1e-8) * (b / b.norm().clamp_min(1e-8))).sum()
        if abs(cosine) > _SAME_WAY:
            counts["line"] += a.numel()
            return (1 - t) * a + t * b
        counts["arc"] += a.numel()
        angle = torch.arccos(cosine)
        return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)

    merged = _merged(parents, rule)
    arc = counts["arc"] / sum(counts.values())
    also: tuple[Answer, ...] = (("merge", "linear"),) if arc < 0.5 else ()
    notes = {"t": t, "share_of_weights_on_an_arc": round(arc, 3)}
    return Made(merged, ("merge", "slerp"), also, (1 - t, t), notes=notes)


def task_arithmetic(_bench: Bench, parents: Sequence[Model], weights: Sequence[float]) -> Made:
    """Add weighted differences to the base, which is the first parent (Ilharco et al. 2023)."""

    def rule(tensors: list[torch.Tensor]) -> torch.Tensor:
        base, *others = tensors
        deltas = [w * (t - base) for w, t in zip(weights, others, strict=True)]
        return base + torch.stack(deltas).sum(0)

    left = 1 - sum(weights)
    return Made(
        _merged(parents, rule),
        ("merge", "task_arithmetic"),
        also=(("merge", "linear"),) if left >= -1e-9 else (),
        coefficients=(left, *weights),
        unneeded=(0,) if abs(left) < 1e-9 else (),
        notes={"weights": list(weights)},
    )


def ties(_bench: Bench, parents: Sequence[Model], weights: Sequence[float], density: float) -> Made:
    """Trim, elect a sign, average those that agree (Yadav et al. 2023); the base comes first."""

    def rule(tensors: list[torch.Tensor]) -> torch.Tensor:
        base, *others = tensors
        deltas = torch.stack(
            [w * _trimmed(t - base, density) for w, t in zip(weights, others, strict=True)]
        )
        share = torch.tensor(weights).reshape(-1, *[1] * base.ndim)
        agree = deltas.sign() == deltas.sum(0).sign()
        total = (agree * share).sum(0)
        mean = (deltas * agree).sum(0) / torch.where(total.abs() < 1e-8, 1.0, total)
        return base + mean

    notes = {"weights": list(weights), "density": density}
    made = _merged(parents, rule)
    return Made(made, ("merge", "ties"), unneeded=(0,), notes=notes)


def _trimmed(delta: torch.Tensor, density: float) -> torch.Tensor:
    """Keep the largest differences."""
    kept = max(1, int(density * delta.numel()))
    chosen = delta.flatten().abs().topk(kept).indices
    mask = torch.zeros(delta.numel())
    mask[chosen] = 1
    return delta * mask.reshape(delta.shape)


def dare(bench: Bench, parents: Sequence[Model], weights: Sequence[float], density: float) -> Made:
    """Drop differences at random, rescale the others and add them (Yu et al. 2024; linear)."""

    def rule(tensors: list[torch.Tensor]) -> torch.Tensor:
        base, *others = tensors
        total = torch.zeros_like(base)
        for w, tensor in zip(weights, others, strict=True):
            kept = torch.rand(base.shape, generator=bench.generator) < density
            total += w * (tensor - base) * kept / density
        return base + total

    notes = {"weights": list(weights), "density": density}
    made = _merged(parents, rule)
    return Made(made, ("merge", "dare"), unneeded=(0,), notes=notes)


def passthrough(bench: Bench, parents: Sequence[Model], slices: Sequence[Sequence[int]]) -> Made:
    """Stack slices of the parents' layers; what is outside the layers is the first parent's.

    Args:
        bench: The architecture.
        parents: Where the layers come from.
        slices: Triples: which parent, first layer, one past the last.
    """
    picked = [(which, layer) for which, low, high in slices for layer in range(low, high)]
    outside = bench.architecture.layer_of
    weights = {n: t for n, t in parents[0].weights.items() if outside(n) is None}
    for new, (which, old) in enumerate(picked):
        for name, tensor in parents[which].weights.items():
            if bench.architecture.layer_of(name) == old:
                weights[_at_layer(bench.architecture, name, new)] = tensor.clone()
    model = Model(weights, replace(parents[0].shape, layers=len(picked)))
    return Made(model, ("merge", "passthrough"), notes={"slices": [list(s) for s in slices]})


MAKERS: dict[str, Maker] = {
    "renamed": renamed,
    "copied": copied,
    "cast": cast,
    "quantized": quantized,
    "pruned": pruned,
    "dropped": dropped,
    "narrowed": narrowed,
    "repeated": repeated,
    "more_tokens": more_tokens,
    "experts": experts,
    "noised": noised,
    "linear": linear,
    "slerp": slerp,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
    "dare": dare,
    "passthrough": passthrough,
}
