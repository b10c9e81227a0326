"""Takes apart what is not a transformer: ResNets and LSTMs, whose parts keep their own names."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from folders import Folder, is_float
from networks import Network, put_together, taken_apart

GATES = ("input", "forget", "cell", "output")
"""How torch orders the gates of an LSTM."""
BATCH_EPSILON = 1e-5
_COUNTER = "num_batches_tracked"


def apart(model: Folder) -> Network:
    """Return any model that has a table or rules here, taken apart.

    Raises:
        ValueError: If there are none for it.
    """
    match model.config.get("model_type"):
        case "resnet":
            return _convolutional(model)
        case "lstm":
            return _recurrent(model)
        case _:
            return taken_apart(model)


def together(network: Network) -> Folder:
    """Return a model's arrays under their names, in float64."""
    if network.kind == "transformer":
        return put_together(network)
    arrays = {name: np.ascontiguousarray(part) for name, part in network.parts.items()}
    if network.kind == "recurrent":
        arrays = {name: _gates_flat(name, part) for name, part in arrays.items()}
    return Folder(network.config, arrays | network.others, network.vocabulary)


def _convolutional(model: Folder) -> Network:
    """Return a ResNet of basic layers; tensors that are added share their channels."""
    axes: dict[str, tuple[str, ...]] = {}
    stem = "resnet.embedder.embedder"
    axes |= _block(stem, "stem", "colours")
    space = "stem"
    for stage, layer in _numbers(model.arrays):
        at = f"resnet.encoder.stages.{stage}.layers.{layer}"
        before, inner = space, f"inner.{stage}.{layer}"
        if f"{at}.shortcut.convolution.weight" in model.arrays:
            space = f"stage.{stage}.{layer}"
            axes |= _block(f"{at}.shortcut", space, before)
        axes |= _block(f"{at}.layer.0", inner, before) | _block(f"{at}.layer.1", space, inner)
    axes |= {"classifier.1.weight": ("classes", space), "classifier.1.bias": ("classes",)}
    return _kept(model, axes, "convolutional")


def _numbers(names: Iterable[str]) -> list[tuple[int, int]]:
    found = (re.match(r"resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.", name) for name in names)
    return sorted({(int(match[1]), int(match[2])) for match in found if match})


def _block(name: str, out: str, into: str) -> dict[str, tuple[str, ...]]:
    """Return the axes of a convolution and of what normalizes its channels."""
    ends = ("weight", "bias", "running_mean", "running_var")
    axes: dict[str, tuple[str, ...]] = {f"{name}.normalization.{end}": (out,) for end in ends}
    axes[f"{name}.convolution.weight"] = (out, into, "own", "own")
    axes[f"{name}.convolution.bias"] = (out,)
    return axes


def _recurrent(model: Folder) -> Network:
    layers = 1 + max(int(n[-1]) for n in model.arrays if n.startswith("lstm.weight_hh_l"))
    axes: dict[str, tuple[str, ...]] = {"embedding.weight": ("tokens", "embedding")}
    for layer in range(layers):
        cells, before = f"cells.{layer}", f"cells.{layer - 1}" if layer else "embedding"
        axes[f"lstm.weight_ih_l{layer}"] = ("gates", cells, before)
        axes[f"lstm.weight_hh_l{layer}"] = ("gates", cells, cells)
        axes[f"lstm.bias_ih_l{layer}"] = axes[f"lstm.bias_hh_l{layer}"] = ("gates", cells)
    axes |= {"project.weight": ("hidden", f"cells.{layers - 1}"), "project.bias": ("hidden",)}
    axes |= {"decoder.weight": ("tokens", "hidden"), "decoder.bias": ("tokens",)}
    arrays = {
        n: a.reshape(4, -1, *a.shape[1:]) if n.startswith("lstm.") else a
        for n, a in model.arrays.items()
    }
    return _kept(Folder(model.config, arrays, model.vocabulary), axes, "recurrent")


def _gates_flat(name: str, part: np.ndarray) -> np.ndarray:
    return part.reshape(-1, *part.shape[2:]) if name.startswith("lstm.") else part


def _kept(model: Folder, axes: dict[str, tuple[str, ...]], kind: str) -> Network:
    others = {n: a for n, a in model.arrays.items() if n.endswith(_COUNTER)}
    parts = {n: a.astype(np.float64) for n, a in model.arrays.items() if is_float(a)}
    lost = sorted(set(parts) - set(axes))
    if lost:
        raise ValueError(f"{model.config['model_type']}: no role for {lost[:3]}")
    axes = {name: axes[name] for name in parts}
    network = Network(parts, axes, model.config, model.vocabulary, None, others, kind)
    network.spaces  # noqa: B018 - refuses what does not fit together
    return network
