"""Makes real descendants and copies of one public sentence encoder, and strangers beside it.

`TRUTH` says how each model was made. It is for the benchmark's judgement alone: nothing of it is
written beside the weights, and no model card names a parent.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import bert
import torch
from bert import Recipe, Weights
from safetensors.torch import load_file, save_file

BASE = "minilm"
_SHARDS = 3
_LAST_TWO = r"encoder\.layer\.[45]\."


@dataclass(frozen=True, slots=True)
class Truth:
    """How one model was made.

    Attributes:
        parents: Name -> share; the share is None but in merges. Empty for a root.
        relation: In the words of `lineage`; None for a root.
        hows: The details that are right.
        rank: Of a merged low-rank adapter.
    """

    parents: Mapping[str, float | None] = field(default_factory=dict)
    relation: str | None = None
    hows: tuple[str | None, ...] = ()
    rank: int | None = None


def _child(relation: str, *hows: str, of: str = BASE, rank: int | None = None) -> Truth:
    return Truth({of: None}, relation, hows, rank)


TRUTH: dict[str, Truth] = {
    BASE: Truth(),
    "minilm-resaved": _child("identical", "same"),
    "minilm-sharded": _child("identical", "same"),
    "minilm-renamed": _child("identical", "renamed"),
    "minilm-fp16": _child("quantized", "fp16"),
    "minilm-bf16": _child("quantized", "bf16"),
    "minilm-int8": _child("quantized", "int8"),
    "minilm-int8-stored": _child("quantized", "int8"),
    "minilm-lora8": _child("finetune", "low_rank", rank=8),
    "minilm-lora16": _child("finetune", "low_rank", rank=16),
    "minilm-full": _child("finetune", "full"),
    # Every layer is trained, but the mean objective never reaches the pooler: some tensors equal.
    "minilm-other": _child("finetune", "full", "partial"),
    "minilm-partial": _child("finetune", "partial"),
    "minilm-second": _child("finetune", "full", of="minilm-full"),
    "minilm-full-fp16": _child("quantized", "fp16", of="minilm-full"),
    "minilm-merge-even": Truth({"minilm-full": 0.5, "minilm-other": 0.5}, "merge", ("linear",)),
    "minilm-merge-uneven": Truth({"minilm-full": 0.7, "minilm-other": 0.3}, "merge", ("linear",)),
    "bert-untrained": Truth(),
    "bert-scratch": Truth(),
    "silero-vad": Truth(),
    "crepe-full": Truth(),
    "crepe-tiny": Truth(),
    "mtcnn-onet": Truth(),
    "mtcnn-rnet": Truth(),
    "mtcnn-pnet": Truth(),
}

_CHAINS: tuple[dict[str, Recipe], ...] = (
    {
        "minilm-full": Recipe("reference", steps=240, rate=5e-4, with_pooler=True),
        "minilm-second": Recipe("network", steps=200, rate=3e-4, with_pooler=True),
    },
    {"minilm-other": Recipe("tests", steps=200, rate=5e-4)},
    {"bert-scratch": Recipe("reference", steps=150, rate=1e-4, with_pooler=True)},
    {"minilm-partial": Recipe("files", steps=200, rate=5e-4, only=_LAST_TWO)},
    {"minilm-lora8": Recipe("process", steps=200, rate=1e-3, rank=8)},
    {"minilm-lora16": Recipe("numbers", steps=200, rate=1e-3, rank=16)},
)
"""Training runs; each model of a chain starts from the one before, the first from the base."""

_FROM_NOTHING = "bert-scratch"


def make(
    inputs: Mapping[str, Path], folder: Path, cache: Path, seed: int, say: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Write every model of `TRUTH` into its own folder.

    Args:
        inputs: The fetched files.
        folder: Where the models go.
        cache: Where trained weights are kept for the next run.
        seed: Chooses batches, adapters and untrained weights.
        say: Told what is being done.

    Returns:
        What is worth reporting of each trained model.
    """
    base = load_file(inputs["minilm.safetensors"])
    config = inputs["minilm-config.json"].read_bytes()
    trained, report = _trained(inputs, base, cache, seed, say)
    models = {BASE: base, "bert-untrained": bert.initial(base, seed + 1000), **trained}
    models |= _reduced(base, trained["minilm-full"])
    models |= _merged(trained["minilm-full"], trained["minilm-other"])
    models["minilm-renamed"] = {f"model.bert.{name}": tensor for name, tensor in base.items()}
    for name, weights in models.items():
        _save(folder / name, weights, config)
    _copy_file(folder / BASE, inputs["minilm.safetensors"], config)
    _save_reordered(folder / "minilm-resaved", base, config)
    _save_sharded(folder / "minilm-sharded", base, config)
    _strangers(inputs, folder)
    return report


def _trained(
    inputs: Mapping[str, Path], base: Weights, cache: Path, seed: int, say: Callable[[str], None]
) -> tuple[dict[str, Weights], dict[str, dict[str, float]]]:
    """Return the trained models, training those that the cache has not."""
    kept = {name: _kept(cache, inputs, chain, seed) for chain in _CHAINS for name in chain}
    missing = [chain for chain in _CHAINS if not all(_is_kept(kept[name], name) for name in chain)]
    if missing:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(2, os.cpu_count() or 1), mp_context=context) as pool:
            runs = [
                pool.submit(_train_chain, chain, dict(inputs), kept[next(iter(chain))], seed)
                for chain in missing
            ]
            for run, chain in zip(runs, missing, strict=True):
                run.result()
                say(f"trained {', '.join(chain)}")
    names = [name for chain in _CHAINS for name in chain]
    models = {name: load_file(kept[name] / f"{name}.safetensors") for name in names}
    report = {name: json.loads((kept[name] / f"{name}.json").read_text()) for name in names}
    for name, made in report.items():
        parent = next(iter(TRUTH[name].parents), None)
        if parent is not None:
            made["change"] = bert.mean_change({BASE: base, **models}[parent], models[name])
    return models, report


def _kept(cache: Path, inputs: Mapping[str, Path], chain: Mapping[str, Recipe], seed: int) -> Path:
    """Return where a chain's models are kept: by everything that makes them what they are."""
    source = Path(bert.__file__).read_bytes() + repr(chain).encode()
    source += inputs["minilm.safetensors"].read_bytes() + torch.__version__.encode()
    folder = cache / "trained" / f"seed{seed}-{hashlib.sha256(source).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _is_kept(folder: Path, name: str) -> bool:
    return (folder / f"{name}.safetensors").is_file() and (folder / f"{name}.json").is_file()


def _train_chain(
    chain: Mapping[str, Recipe], inputs: Mapping[str, Path], kept: Path, seed: int
) -> None:
    """Train a chain of models in a process of its own, on one core, so that runs repeat."""
    torch.set_num_threads(1)
    tokenizer = bert.Tokenizer(inputs["minilm-vocab.txt"])
    weights = load_file(inputs["minilm.safetensors"])
    for name, recipe in chain.items():
        own_seed = seed + int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        if name == _FROM_NOTHING:
            weights = bert.initial(weights, own_seed)
        pairs = bert.pairs_of(recipe.text, tokenizer)
        weights, losses = bert.train(weights, recipe, pairs, own_seed)
        save_file(weights, kept / f"{name}.safetensors", {"format": "pt"})
        tenth = max(1, len(losses) // 10)
        report = {
            "steps": recipe.steps,
            "pairs": len(pairs),
            "loss_first_tenth": sum(losses[:tenth]) / tenth,
            "loss_last_tenth": sum(losses[-tenth:]) / tenth,
        }
        (kept / f"{name}.json").write_text(json.dumps(report))


def _reduced(base: Weights, full: Weights) -> dict[str, Weights]:
    """Return the casts and the two int8 forms."""
    return {
        "minilm-fp16": _cast(base, torch.float16),
        "minilm-bf16": _cast(base, torch.bfloat16),
        "minilm-full-fp16": _cast(full, torch.float16),
        "minilm-int8": _cast({**base, **_dequantized(base)}, torch.float16),
        "minilm-int8-stored": _stored_int8(base),
    }


def _cast(weights: Weights, dtype: torch.dtype) -> Weights:
    return {n: t.to(dtype) if t.is_floating_point() else t for n, t in weights.items()}


def _quantize(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round to nearest on 255 levels, one scale an output row: symmetric absmax int8."""
    scale = matrix.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
    return (matrix / scale).round().to(torch.int8), scale


def _matrices(weights: Weights) -> list[str]:
    return [n for n, t in weights.items() if t.ndim == 2 and t.is_floating_point()]


def _dequantized(weights: Weights) -> Weights:
    made: Weights = {}
    for name in _matrices(weights):
        levels, scale = _quantize(weights[name])
        made[name] = levels * scale
    return made


def _stored_int8(weights: Weights) -> Weights:
    """Store levels and scales side by side, as `compressed-tensors` names them."""
    made = _cast(weights, torch.float16)
    for name in _matrices(weights):
        made[name], made[f"{name}_scale"] = _quantize(weights[name])
    return made


def _merged(one: Weights, other: Weights) -> dict[str, Weights]:
    """Return the linear merges of two children."""

    def mean(share: float) -> Weights:
        return {
            name: share * tensor + (1 - share) * other[name]
            if tensor.is_floating_point()
            else tensor.clone()
            for name, tensor in one.items()
        }

    return {"minilm-merge-even": mean(0.5), "minilm-merge-uneven": mean(0.7)}


def _save(folder: Path, weights: Weights, config: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(whole, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_bytes(config)


def _copy_file(folder: Path, file: Path, config: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(file.read_bytes())
    (folder / "config.json").write_bytes(config)


def _save_reordered(folder: Path, weights: Weights, config: bytes) -> None:
    """Write tensors in the opposite order under other metadata; no library writes it so."""
    header: dict[str, object] = {"__metadata__": {"saved_by": "somebody else", "format": "np"}}
    blocks, at = [], 0
    for name in sorted(weights, reverse=True):
        tensor = weights[name]
        block = tensor.numpy().tobytes()
        dtype = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        shape, span = list(tensor.shape), [at, at + len(block)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": span}
        blocks.append(block)
        at += len(block)
    words = json.dumps(header).encode()
    words += b" " * (-len(words) % 8)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(words).to_bytes(8, "little") + words)
        file.writelines(blocks)
    (folder / "config.json").write_bytes(config)


def _save_sharded(folder: Path, weights: Weights, config: bytes) -> None:
    """Split over shards with an index, as hubs do."""
    folder.mkdir(parents=True, exist_ok=True)
    placed: dict[str, str] = {}
    for shard in range(_SHARDS):
        file = f"model-{shard + 1:05}-of-{_SHARDS:05}.safetensors"
        part = {name: weights[name] for name in sorted(weights)[shard::_SHARDS]}
        save_file(part, folder / file, {"format": "pt"})
        placed |= dict.fromkeys(part, file)
    total = sum(t.numel() * t.element_size() for t in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_bytes(config)


def _strangers(inputs: Mapping[str, Path], folder: Path) -> None:
    """Write the networks from other packages; their pickles are read as data only."""
    for name in ("crepe-full", "crepe-tiny", "mtcnn-onet", "mtcnn-rnet", "mtcnn-pnet"):
        file = next(path for key, path in inputs.items() if key.startswith(f"{name}."))
        state = torch.load(file, map_location="cpu", weights_only=True)
        _save(folder / name, dict(state), b'{"model_type": "other"}')
    silero = inputs["silero-vad.safetensors"]
    _copy_file(folder / "silero-vad", silero, b'{"model_type": "other"}')
