"""What the zoo has to know of an architecture, and how a network's tensors go in and out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from recipes import Shape
from torch import nn

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Architecture:
    """One way to lay out a network.

    Attributes:
        task: What it is trained on: a key of `train.LOSSES`.
        build: Makes the module; gets the shape and the family's own settings.
        layer: Expression for a tensor inside a layer; its group is the number of the layer.
        matrices: Expression for the large matrices that quantizers and pruners touch.
        attention: Modules that an adapter on attention changes.
        linear: Modules that an adapter on everything linear changes.
        mlp_in: Ends of the names of tensors whose neurons are rows (Conv1D: columns).
        mlp_out: Ends of the names of tensors whose neurons are columns (Conv1D: rows).
        tokens: Tensors with a row for each token.
        turned: Matrices are stored (in, out), as Conv1D does.
        head: Expression for what comes after the last layer.
    """

    task: str
    build: Callable[[Shape, Mapping[str, Any]], nn.Module]
    layer: str
    matrices: str
    attention: tuple[str, ...] = ()
    linear: tuple[str, ...] = ()
    mlp_in: tuple[str, ...] = ()
    mlp_out: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    turned: bool = False
    head: str = field(default=r"^(lm_head|classifier)\.")

    def layer_of(self, name: str) -> int | None:
        """Return the number of the layer that a tensor is in."""
        found = re.match(self.layer, name)
        return int(found[1]) if found else None

    def is_matrix(self, name: str) -> bool:
        """Say whether quantizers and pruners touch a tensor."""
        return re.search(self.matrices, name) is not None


def weights_of(module: nn.Module) -> Weights:
    """Return a copy of a module's tensors; of tied ones only the first is kept, as on disk."""
    seen: set[int] = set()
    kept: Weights = {}
    for name, tensor in module.state_dict().items():
        if tensor.data_ptr() not in seen or not tensor.numel():
            seen.add(tensor.data_ptr())
            kept[name] = tensor.detach().clone().contiguous()
    return kept


def load(module: nn.Module, weights: Weights) -> nn.Module:
    """Fill a module; every tensor that is not tied to another must be there.

    Raises:
        ValueError: If names are missing or left over.
    """
    missing, unexpected = module.load_state_dict(weights, strict=False)
    untied = set(weights_of(module))
    lost = [name for name in missing if name in untied]
    if lost or unexpected:
        raise ValueError(f"weights do not fit the network: missing {lost}, left over {unexpected}")
    return module


def language(shape: Shape, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes that most language models of `transformers` have under these names."""
    return {
        "vocab_size": shape.vocabulary,
        "num_hidden_layers": shape.layers,
        "intermediate_size": shape.mlp,
        "max_position_embeddings": 128,
        "bos_token_id": None,
        "eos_token_id": None,
        **settings,
    }
