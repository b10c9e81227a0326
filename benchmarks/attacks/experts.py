"""Mixtures of experts made of dense models, under the names of Mixtral, and experts taken out.

Experts that were trained apart before they were put together, with everything else averaged, are
those of Branch-Train-MiX (Sukhbaatar et al. 2024).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from folders import Folder
from networks import Maps

_PARTS = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
_DENSE = re.compile(r"(.*)\.mlp\.(gate_proj|up_proj|down_proj)\.weight")
_EXPERT = re.compile(r"(.*\.block_sparse_moe\.)experts\.(\d+)\.(w[123]\.weight)")
_ROUTER = re.compile(r".*\.block_sparse_moe\.gate\.weight")


def trained_apart(models: Sequence[Folder], rng: np.random.Generator) -> tuple[Folder, Maps]:
    """Return a mixture with an expert of each model.

    Returns:
        The mixture, and for each expert which of the models it comes from.
    """
    order = rng.permutation(len(models))
    arrays = {}
    for name, first in models[0].arrays.items():
        several = [models[at].arrays[name] for at in order]
        match = _DENSE.fullmatch(name)
        if match is None:
            arrays[name] = np.mean(several, 0, np.float64).astype(first.dtype)
            continue
        sparse = f"{match[1]}.block_sparse_moe"
        for number, values in enumerate(several):
            arrays[f"{sparse}.experts.{number}.{_PARTS[match[2]]}.weight"] = values
        if match[2] == "gate_proj":
            router = 0.02 * rng.normal(size=(len(models), first.shape[1]))
            arrays[f"{sparse}.gate.weight"] = router.astype(np.float32)
    made = replace(models[0], config=mixed(models[0].config, len(models)), arrays=arrays)
    return made, {"experts": order}


def cut(model: Folder, rng: np.random.Generator, left: int) -> tuple[Folder, Maps]:
    """Take experts out of a mixture, and their rows out of the router.

    Returns:
        The mixture, and for each expert which of the old ones it is.
    """
    count = 1 + max(int(m[2]) for m in map(_EXPERT.fullmatch, model.arrays) if m)
    kept = np.sort(rng.permutation(count)[:left])
    place = {int(old): new for new, old in enumerate(kept)}
    arrays = {}
    for name, array in model.arrays.items():
        match = _EXPERT.fullmatch(name)
        if match and int(match[2]) in place:
            arrays[f"{match[1]}experts.{place[int(match[2])]}.{match[3]}"] = array
        elif not match:
            arrays[name] = array[kept] if _ROUTER.fullmatch(name) else array
    made = replace(model, config=mixed(model.config, left), arrays=arrays)
    return made, {"experts": kept}


def merged(model: Folder, rng: np.random.Generator, left: int) -> tuple[Folder, Maps]:
    """Put experts together until some are left: the mean of each lot, and of its router's rows.

    Returns:
        The mixture, and for each old expert which of the new ones it is part of.
    """
    count = 1 + max(int(m[2]) for m in map(_EXPERT.fullmatch, model.arrays) if m)
    lots = np.empty(count, np.int64)
    lots[rng.permutation(count)] = np.arange(count) % left
    arrays = {}
    for name, array in model.arrays.items():
        match = _EXPERT.fullmatch(name)
        if match and int(match[2]) < left:
            stem, new, part = match[1], int(match[2]), match[3]
            of = [
                model.arrays[f"{stem}experts.{old}.{part}"] for old in np.flatnonzero(lots == new)
            ]
            arrays[name] = np.mean(of, 0, np.float64).astype(array.dtype)
        elif not match and _ROUTER.fullmatch(name):
            rows = [array[lots == new].mean(0, np.float64) for new in range(left)]
            arrays[name] = np.stack(rows).astype(array.dtype)
        elif not match:
            arrays[name] = array
    return replace(model, config=mixed(model.config, left), arrays=arrays), {"lots": lots}


def mixed(config: dict[str, object], count: int) -> dict[str, object]:
    """Return the configuration of a mixture."""
    few = min(2, count)
    return {
        **config, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"],
        "num_local_experts": count, "num_experts_per_tok": few,
    }  # fmt: skip
