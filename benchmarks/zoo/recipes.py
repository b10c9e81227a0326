"""What a family and a model of the zoo are: the columns of `plans.py` and `named.py`.

A plan is a list of rows: a name, what is done (a key of `training.TRAINERS` or
`mechanical.MAKERS`), to which models, with which options. The names are for people and stand in the
truth only; a published model is called by a number that tells nothing.

In the options of training rows, `part` is a letter that each family's `parts` gives a meaning,
`rate` is a learning rate and `pace` is one as a share of the family's. Bases are trained on "p"
or "q".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes that depth pruning, depth expansion, width pruning and new tokens change."""

    layers: int
    vocabulary: int = 0
    mlp: int = 0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a run goes.

    Attributes:
        optimizer: `adamw`, `adam`, `rmsprop`, `sgd` (with momentum) or `plain-sgd`.
        rate: Highest learning rate.
        schedule: `linear`, `cosine` or `constant`, after the warm-up.
        warmup: Share of the steps over which the rate rises.
        decay: Weight decay.
        batch: Examples in a batch.
        length: Tokens in an example.
        steps: How many batches.
        clip: Largest norm of a gradient; 0 for none.
        beta2: Of Adam.
    """

    optimizer: str = "adamw"
    rate: float = 1e-3
    schedule: str = "cosine"
    warmup: float = 0.05
    decay: float = 0.01
    batch: int = 8
    length: int = 64
    steps: int = 100
    clip: float = 1.0
    beta2: float = 0.999

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        rising = self.warmup * self.steps
        if step < rising:
            return self.rate * (step + 1) / rising
        if self.schedule == "constant":
            return self.rate
        done = (step - rising) / max(1.0, self.steps - rising)
        if self.schedule == "linear":
            return self.rate * (1 - done)
        return self.rate * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)


@dataclass(frozen=True, slots=True)
class Row:
    """One model of a plan.

    Attributes:
        name: For people.
        make: What is done.
        parents: Names of rows above.
        hidden: Whether it is left unpublished.
        form: `file`, `folder` or `shards`.
        options: Of what is done.
    """

    name: str
    make: str
    parents: tuple[str, ...]
    hidden: bool
    form: str
    options: Mapping[str, Any]


def row(
    name: str,
    make: str,
    *parents: str,
    hidden: bool = False,
    form: str = "folder",
    **options: Any,
) -> Row:
    """Return a row; short to write."""
    return Row(name, make, parents, hidden, form, options)


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one architecture and one recipe.

    Attributes:
        name: Of the folder.
        split: `tuning` or `report`.
        architecture: Key of `ARCHITECTURES`.
        seed: Of all that is drawn.
        shape: Sizes that descendants may change.
        settings: The architecture's other sizes.
        parts: Letter -> a part of the data.
        recipe: How bases are trained.
        tuning: What fine-tunes do otherwise.
        plan: Its models.
        stored: Precision of the files.
    """

    name: str
    split: str
    architecture: str
    seed: int
    shape: Shape
    settings: Mapping[str, Any]
    parts: Mapping[str, str]
    recipe: Recipe
    plan: tuple[Row, ...]
    tuning: Mapping[str, Any] = field(default_factory=dict)
    stored: str = "fp32"

    def rows(self) -> tuple[Row, ...]:
        """Return the rows of the plan that make sense for the architecture."""
        kept: dict[str, Row] = {}
        for one in self.plan:
            fits = self.architecture in _ONLY.get(one.make, (self.architecture,))
            before = one.options.get("before")
            if before is not None:
                fits = fits and self.architecture in _ONLY.get(before[0], (self.architecture,))
            if fits and all(parent in kept for parent in one.parents):
                kept[one.name] = one
        return tuple(kept.values())


_TEXT = ("llama", "smollm2", "qwen2", "gpt2", "neox", "bert")
_LAYERED = (*_TEXT, "vit", "sentences")
_STACKED = (*_LAYERED, "mixtral", "mamba")
_ONLY: dict[str, tuple[str, ...]] = {
    "more_tokens": (*_TEXT, "lstm", "sentences", "t5", "mixtral", "mamba"),
    "narrowed": _LAYERED,
    "dropped": _STACKED,
    "repeated": _STACKED,
    "passthrough": (*_STACKED, "resnet"),
    "experts": ("llama", "smollm2", "qwen2"),
    "distil": (*_TEXT, "lstm", "vit", "resnet", "t5", "mixtral", "mamba", "swin"),
}
"""What is done -> the architectures for which it means something."""
