"""Opens a family of the zoo: its models as folders, its training, its quantizers and pruners.

This is the one room here that needs torch.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
_BENCHMARKS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_BENCHMARKS / "zoo"), str(_BENCHMARKS)]

import data  # noqa: E402 - of the zoo
import folders  # noqa: E402 - beside this
import torch  # noqa: E402 - late
import train  # noqa: E402 - of the zoo
import training  # noqa: E402 - of the zoo
from architectures import ARCHITECTURES, Architecture, Weights  # noqa: E402 - of the zoo
from folders import Arrays, Config, Folder  # noqa: E402 - beside this
from mechanical import MAKERS, Bench, Model  # noqa: E402 - of the zoo
from recipes import Family, Recipe, Shape  # noqa: E402 - of the zoo
from torch import nn  # noqa: E402 - late

_SIZES = {
    "layers": ("num_hidden_layers", "n_layer"),
    "vocabulary": ("vocab_size",),
    "mlp": ("intermediate_size", "n_inner"),
}
"""Size of a network that descendants may change -> what configurations call it."""
_TEXT = ("next", "masked", "words", "sentences")


@dataclass(frozen=True, slots=True)
class Workshop:
    """One family of the zoo.

    Attributes:
        truth: What the zoo says of it.
        models: Where its models lie.
        family: How it was trained.
    """

    truth: Mapping[str, Any]
    models: Path
    family: Family

    @property
    def architecture(self) -> Architecture:
        """Return how its networks are laid out."""
        return ARCHITECTURES[self.family.architecture]

    def named(self, name: str) -> Mapping[str, Any]:
        """Return what the truth says of a model that people call so."""
        return next(model for model in self.truth["models"] if model["name"] == name)

    def read(self, known: Mapping[str, Any]) -> Folder:
        """Return a model with its configuration and vocabulary, which the zoo does not write."""
        model = folders.read(self.models / known["path"])
        shape = self._shape_of(model.arrays)
        kind, rows = self.architecture.task, shape.vocabulary
        words = data.vocabulary(kind, rows) if kind in _TEXT else None
        return Folder(self.config(shape), model.arrays, words)

    def _shape_of(self, arrays: Arrays) -> Shape:
        shape = self.family.shape
        layers = {self.architecture.layer_of(name) for name in arrays} - {None}
        rows = [arrays[name].shape[0] for name in self.architecture.tokens if name in arrays]
        mlp = [
            array.shape[1 if self.architecture.turned else 0]
            for name, array in arrays.items()
            if name.endswith(self.architecture.mlp_in) and array.ndim == 2
        ]
        mlp = mlp if self.architecture.mlp_in else []
        return Shape(
            len(layers) or shape.layers, rows[0] if rows else 0, mlp[0] if mlp else shape.mlp
        )

    def config(self, shape: Shape) -> Config:
        """Return the configuration of a network of the family."""
        module = train.first(self.architecture, shape, self.family.settings, seed=0)
        if not hasattr(module, "config"):
            return {"model_type": self.family.architecture, **self.family.settings}
        told = json.loads(module.config.to_json_string(use_diff=False))
        return {k: v for k, v in told.items() if k not in ("transformers_version", "_name_or_path")}

    def shape(self, config: Config) -> Shape:
        """Return the sizes that a configuration tells."""
        found = {
            size: next((config[name] for name in names if config.get(name)), None)
            for size, names in _SIZES.items()
        }
        known = {size: value for size, value in found.items() if value is not None}
        return replace(self.family.shape, **known)

    def family_of(self, model: Folder) -> tuple[Family, Architecture]:
        """Return the family and architecture with the settings that a disguise has changed."""
        changed = self._changed(model.config)
        changed = {k: v for k, v in changed.items() if not k.endswith("_token_id")}
        if changed and model.config.get("head_dim"):
            changed["head_dim"] = model.config["head_dim"]  # else it follows from the width
        architecture = self.architecture
        if any(name.endswith("embedder.convolution.bias") for name in model.arrays):
            architecture = replace(architecture, build=_without_norms(architecture))
        settings = {**self.family.settings, **changed}
        return replace(self.family, settings=settings, stored="fp32"), architecture

    def _changed(self, config: Config) -> Config:
        """Return what a configuration says that the family's own for those sizes does not."""
        usual = self.config(self.shape(config))
        return {key: value for key, value in config.items() if usual.get(key) != value}

    def module(self, model: Folder) -> nn.Module:
        """Return a network that computes what a folder holds."""
        family, architecture = self.family_of(model)
        shape = self.shape(model.config)
        return train.filled(architecture, shape, family.settings, weights_of(model))

    def mechanical(self, maker: str, models: Sequence[Folder], seed: int, **options: Any) -> Folder:
        """Do to models what the zoo does without training; the first gives the configuration."""
        bench = Bench(self.architecture, torch.Generator().manual_seed(seed))
        parents = [Model(weights_of(one), self.shape(one.config)) for one in models]
        made = MAKERS[maker](bench, parents, **options).model
        config = {**self.config(made.shape), **self._changed(models[0].config)}
        return Folder(config, _arrays(made.weights), models[0].vocabulary)

    def tuned(self, model: Folder, seed: int, part: str, **options: Any) -> Folder:
        """Train all weights on a part of the family's data."""
        return self._trained(training.tune, model, seed, part=part, **options)

    def adapted(self, model: Folder, seed: int, part: str, **options: Any) -> Folder:
        """Train an adapter and merge it."""
        return self._trained(training.adapt, model, seed, part=part, **options)

    def _trained(self, how: Any, model: Folder, seed: int, **options: Any) -> Folder:
        family, architecture = self.family_of(model)
        with tempfile.TemporaryDirectory() as kept, _patched(family, architecture) as name:
            place = Path(kept)
            shop = training.Shop(
                replace(family, architecture=name), seed, place / "s", None, place / "a"
            )
            parent = Model(weights_of(model), self.shape(model.config))
            made = how(shop, [parent], **options)
        return replace(model, arrays=_arrays(made.model.weights))

    def with_new_rows(self, model: Folder, seed: int, steps: int, pace: float) -> Folder:
        """Draw embeddings (and head) anew and train nothing else.

        Args:
            model: A transformer or LSTM over tokens.
            seed: Of what is drawn and of the order of the data.
            steps: Of training.
            pace: Learning rate, over that of the family.
        """
        family, architecture = self.family_of(model)
        generator = torch.Generator().manual_seed(seed)
        weights = weights_of(model)
        for name in architecture.tokens:
            if name in weights:
                old = weights[name]
                drawn = torch.randn(old.shape, generator=generator)
                weights[name] = drawn * old.std()
        module = train.filled(architecture, self.shape(model.config), family.settings, weights)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in architecture.tokens)
        recipe: Recipe = replace(
            family.recipe, **{**family.tuning, "steps": steps, "rate": pace * family.recipe.rate}
        )
        run = train.start(module, recipe, generator)
        draw, loss = train.task(
            architecture.task, module, family.parts["p"], recipe, generator, family.settings,
            family.shape.vocabulary,
        )  # fmt: skip
        run.go(draw, loss)
        return replace(model, arrays=_arrays(train.trained(module, torch.float32)))

    def answers(self, model: Folder, seed: int, rows: np.ndarray | None = None) -> np.ndarray:
        """Return what a model says of some inputs, computed in float64.

        Args:
            model: Any of the family's architecture.
            seed: Chooses the inputs.
            rows: The row of the embeddings that each token now has.
        """
        module = self.module(model).double().eval()
        inputs = self._inputs(seed)
        if rows is not None:
            inputs = torch.from_numpy(rows)[inputs]
        with torch.no_grad():
            said = module(inputs)
        for name in ("logits", "pooler_output"):
            said = getattr(said, name, said)
        found: np.ndarray = said.numpy()
        return found if rows is None else found[..., rows]

    def _inputs(self, seed: int) -> torch.Tensor:
        """Return random tokens, or real pictures."""
        generator = torch.Generator().manual_seed(seed)
        if self.architecture.task == "images":
            pictures, _ = data.images(self.family.parts["p"], self.family.settings["image_size"])
            return pictures[torch.randperm(len(pictures), generator=generator)[:8]].double()
        return torch.randint(self.family.shape.vocabulary, (4, 24), generator=generator)


def workshop(zoo: Path, family: str) -> Workshop:
    """Open a family.

    Raises:
        OSError: If the zoo has none of that name.
    """
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    truth = json.loads((zoo / f"{family}.truth.json").read_text())
    told = dict(truth["architecture"])
    kind, shape = told.pop("name"), Shape(*(told.pop(k) for k in ("layers", "vocabulary", "mlp")))
    recipe = dict(truth["recipe"])
    tuning, stored = recipe.pop("for_fine_tunes"), recipe.pop("stored")
    made = Family(
        name=family, split=truth["split"], architecture=kind, seed=truth["seed"], shape=shape,
        settings=told, parts=truth["data"], recipe=Recipe(**recipe), plan=(), tuning=tuning,
        stored=stored,
    )  # fmt: skip
    return Workshop(truth, zoo / family, made)


def weights_of(model: Folder) -> Weights:
    """Return arrays as tensors, every float in fp32."""
    return {
        name: torch.from_numpy(
            array.astype(np.float32) if folders.is_float(array) else array.copy()
        )
        for name, array in model.arrays.items()
    }


def _arrays(weights: Weights) -> Arrays:
    return {
        name: (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        for name, tensor in weights.items()
    }


class _patched:  # noqa: N801 - reads as a verb where it is used
    """Puts an architecture into the zoo's table for the time of a run, if it is not its own."""

    def __init__(self, family: Family, architecture: Architecture) -> None:
        self._name, self._architecture = family.architecture, architecture

    def __enter__(self) -> str:
        if ARCHITECTURES[self._name] is self._architecture:
            return self._name
        ARCHITECTURES["attacked"] = self._architecture
        return "attacked"

    def __exit__(self, *_: object) -> None:
        ARCHITECTURES.pop("attacked", None)


def _without_norms(architecture: Architecture) -> Any:
    """Return a way to build the network with BatchNorm folded into biased convolutions."""

    def build(shape: Shape, settings: Mapping[str, Any]) -> nn.Module:
        module = architecture.build(shape, settings)
        for part in module.modules():
            if isinstance(getattr(part, "normalization", None), nn.BatchNorm2d):
                conv = part.convolution
                conv.bias = nn.Parameter(torch.zeros(conv.out_channels))
                part.normalization = nn.Identity()
        return module

    return build
