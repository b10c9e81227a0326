"""Every family and every model of the zoo, as tables.

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
from dataclasses import dataclass, field, replace
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
        optimizer: `adamw`, `adam` or `sgd`.
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
_ONLY: dict[str, tuple[str, ...]] = {
    "more_tokens": (*_TEXT, "lstm", "sentences"),
    "narrowed": _LAYERED,
    "dropped": _LAYERED,
    "repeated": _LAYERED,
    "passthrough": (*_LAYERED, "resnet"),
    "experts": ("llama", "smollm2", "qwen2"),
    "distil": (*_TEXT, "lstm", "vit", "resnet"),
}
"""What is done -> the architectures for which it means something."""


_TUNING_ONE = (
    # bases, one of them with the checkpoints of its run; the same first weights with other data
    row("base-40", "begin", seed=1, until=0.4),
    row("base-70", "go_on", "base-40", until=0.7),
    row("base", "go_on", "base-70"),
    row("other", "begin", seed=2),
    row("third", "begin", seed=3),
    row("twin", "begin", seed=2, part="q"),
    row("student", "distil", "base", seed=4),
    # fine-tunes, lightest first
    row("touched", "tune", "base", part="w", steps=20, rate=2e-5, decay=0.0),
    row("light", "tune", "base", part="x", steps=40, pace=0.03, decay=0.01),
    row("medium", "tune", "base", part="x", steps=50, pace=0.1, decay=0.1),
    row("medium-again", "tune", "base", part="x", steps=50, pace=0.1, decay=0.1),
    row("medium-w", "tune", "base", part="w", steps=50, pace=0.1, decay=0.0),
    row("heavy", "tune", "base", part="y", steps=150, pace=1.0, decay=0.1),
    row("top", "tune", "base", part="w", steps=36, pace=0.1, last=1),
    row("medium-chat", "tune", "medium", part="z", steps=36, pace=0.08),
    row("medium-chat-w", "tune", "medium-chat", part="w", steps=36, pace=0.1, decay=0.1),
    row("medium-chat-w-x", "tune", "medium-chat-w", part="x", steps=40, pace=0.05),
    row("secret", "tune", "base", part="y", steps=60, pace=0.2, hidden=True),
    row("secret-one", "tune", "secret", part="w", steps=40, pace=0.05),
    row("secret-two", "tune", "secret", part="z", steps=36, pace=0.1, decay=0.1),
    row("other-z", "tune", "other", part="z", steps=50, pace=0.1),
    row("other-w", "tune", "other", part="w", steps=36, pace=0.3, decay=0.1),
    row("other-w-x", "tune", "other-w", part="x", steps=40, pace=0.1),
    row("third-x", "tune", "third", part="x", steps=50, pace=0.1, decay=0.0),
    row("third-y", "tune", "third", part="y", steps=36, pace=0.03),
    # adapters
    row("base-lora1", "adapt", "base", part="w", rank=1, steps=36, pace=0.5),
    row("base-lora8", "adapt", "base", part="x", rank=8, where="linear", steps=36, pace=0.3),
    row("other-lora4", "adapt", "other", part="w", rank=4, steps=36, pace=0.3),
    row(
        "medium-rslora16",
        "adapt",
        "medium",
        part="z",
        rank=16,
        kind="rslora",
        alpha=16,
        where="linear",
        steps=36,
        pace=0.2,
    ),
    row("base-dora4", "adapt", "base", part="y", rank=4, kind="dora", steps=36, pace=0.3),
    # merges
    row("linear-two", "linear", "medium", "medium-w", weights=(0.7, 0.3)),
    row("linear-three", "linear", "light", "medium", "medium-w", weights=(0.5, 0.2, 0.3)),
    row("arc", "slerp", "medium", "heavy", t=0.4),
    row("elected", "ties", "base", "medium", "medium-w", weights=(0.6, 0.4), density=0.4),
    row("dropped-out", "dare", "base", "medium", "base-lora8", weights=(0.5, 0.5), density=0.6),
    row("added", "task_arithmetic", "base", "medium-w", "base-lora8", weights=(0.8, 0.7)),
    row("stacked", "passthrough", "medium", "medium-w", slices=((0, 0, 2), (1, 2, 4))),
    row("linear-two-y", "tune", "linear-two", part="y", steps=40, pace=0.1),
    # less precision
    row("base-int8", "quantized", "base", scheme="int8-rows"),
    row("base-bf16", "cast", "base", to="bf16", form="file"),
    row("medium-q8", "quantized", "medium", scheme="gguf-q8_0", stored="fp16"),
    row("heavy-fp8", "quantized", "heavy", scheme="fp8-scaled", stored="bf16"),
    row("other-fp16", "cast", "other", to="fp16"),
    row(
        "medium-chat-w-int4",
        "quantized",
        "medium-chat-w",
        scheme="int4-groups-of-32",
        stored="bf16",
    ),
    # fewer and more weights
    row("base-half", "pruned", "base", share=0.5),
    row("base-half-healed", "tune", "base-half", part="p", steps=36, pace=0.1, keep_zeros=True),
    row("medium-sparse", "pruned", "medium", share=0.3, per_row=True),
    row("base-shallow", "dropped", "base", layers=(2,)),
    row("other-narrow", "narrowed", "other", share=0.75),
    row("base-deep", "repeated", "base", first=3, again=1),
    row("medium-words", "more_tokens", "medium", count=16, noise=0.02),
    row(
        "base-words-z",
        "tune",
        "base",
        part="z",
        steps=36,
        pace=0.1,
        before=("more_tokens", {"count": 8, "noise": 0.1}),
    ),
    row("base-experts", "experts", "base", count=4),
    # copies and noise
    row("medium-copy", "renamed", "medium", prefix="wrapped."),
    row("other-shards", "copied", "other", form="shards"),
    row("base-noise", "noised", "base", share=0.01),
    row("medium-noise", "noised", "medium", share=0.001),
)

_TUNING_TWO = (
    row("base", "begin", seed=1),
    row("other-50", "begin", seed=2, until=0.5),
    row("other", "go_on", "other-50"),
    row("third", "begin", seed=3, hidden=True),
    row("twin", "begin", seed=1, part="q"),
    row("student", "distil", "other", seed=4),
    row("touched", "tune", "base", part="x", steps=20, rate=2e-5, decay=0.1),
    row("light", "tune", "base", part="w", steps=36, pace=0.02, decay=0.0),
    row("light-again", "tune", "base", part="w", steps=36, pace=0.02, decay=0.0),
    row("medium", "tune", "base", part="w", steps=55, pace=0.1, decay=0.01),
    row("medium-x", "tune", "base", part="x", steps=36, pace=0.2, decay=0.1),
    row("heavy", "tune", "other", part="x", steps=130, pace=0.7, decay=0.1),
    row("top", "tune", "other", part="z", steps=36, pace=0.2, last=2),
    row("light-y", "tune", "light", part="y", steps=36, pace=0.1, decay=0.1),
    row("light-y-z", "tune", "light-y", part="z", steps=40, pace=0.1),
    row("secret", "tune", "other", part="w", steps=50, pace=0.1, hidden=True),
    row("secret-y", "tune", "secret", part="y", steps=36, pace=0.1),
    row("secret-lora", "adapt", "secret", part="x", rank=8, steps=36, pace=0.3),
    row("other-y", "tune", "other", part="y", steps=36, pace=0.05, decay=0.0),
    row("third-w", "tune", "third", part="w", steps=36, pace=0.1),
    row("third-y", "tune", "third", part="y", steps=36, pace=0.1, decay=0.1),
    row("twin-z", "tune", "twin", part="z", steps=36, pace=0.1),
    row("base-lora16", "adapt", "base", part="z", rank=16, where="linear", steps=36, pace=0.3),
    row("base-lora4", "adapt", "base", part="y", rank=4, steps=36, pace=0.5),
    row("medium-lora1", "adapt", "medium", part="x", rank=1, where="linear", steps=36, pace=0.3),
    row("linear-two", "linear", "medium", "medium-x", weights=(2.0, 1.0)),
    row("linear-again", "linear", "linear-two", "base-lora16", weights=(0.45, 0.55)),
    row("arc", "slerp", "heavy", "other-y", t=0.3),
    row("elected", "ties", "base", "light-y", "medium-x", weights=(0.5, 0.5), density=0.5),
    row("dropped-out", "dare", "base", "medium", "medium-x", weights=(0.4, 0.6), density=0.4),
    row("added", "task_arithmetic", "base", "medium", "medium-x", weights=(0.6, 0.6)),
    row("stacked", "passthrough", "medium-x", "light-y", slices=((0, 0, 1), (1, 1, 3), (0, 3, 4))),
    row("elected-int8", "quantized", "elected", scheme="int8-rows", stored="bf16"),
    row("base-q4", "quantized", "base", scheme="gguf-q4_0"),
    row("other-fp8", "quantized", "other", scheme="fp8-cast"),
    row("light-y-z-bf16", "cast", "light-y-z", to="bf16"),
    row("medium-fp16", "cast", "medium", to="fp16", form="file"),
    row("other-sparse", "pruned", "other", share=0.5, per_row=True),
    row("medium-x-sparse", "pruned", "medium-x", share=0.3),
    row(
        "medium-x-sparse-z",
        "tune",
        "medium-x-sparse",
        part="z",
        steps=36,
        pace=0.1,
        keep_zeros=True,
    ),
    row(
        "base-shallow-healed",
        "tune",
        "base",
        part="p",
        steps=36,
        pace=0.1,
        before=("dropped", {"layers": (1,)}),
    ),
    row("other-deep", "repeated", "other", first=3, again=2),
    row("base-narrow", "narrowed", "base", share=0.5),
    row("other-words", "more_tokens", "other", count=10, noise=0.05),
    row("light-copy", "renamed", "light", prefix="network."),
    row("base-shards", "copied", "base", form="shards"),
    row("other-noise", "noised", "other", share=0.01),
)

_REPORT_ONE = (
    row("base", "begin", seed=1),
    row("other-30", "begin", seed=2, until=0.3),
    row("other-60", "go_on", "other-30", until=0.6),
    row("other", "go_on", "other-60"),
    row("third", "begin", seed=3),
    row("twin", "begin", seed=3, part="q"),
    row("student", "distil", "base", seed=4),
    row("touched", "tune", "base", part="z", steps=20, rate=2e-5, decay=0.01),
    row("light", "tune", "base", part="w", steps=35, pace=0.04, decay=0.1),
    row("middle", "tune", "base", part="y", steps=50, pace=0.15, decay=0.0),
    row("middle-again", "tune", "base", part="y", steps=50, pace=0.15, decay=0.0),
    row("middle-z", "tune", "base", part="z", steps=65, pace=0.12, decay=0.1),
    row("heavy", "tune", "base", part="x", steps=140, pace=0.8, decay=0.1),
    row("bottomless", "tune", "base", part="y", steps=40, pace=0.2, last=2),
    row("light-x", "tune", "light", part="x", steps=40, pace=0.1, decay=0.01),
    row("light-x-y", "tune", "light-x", part="y", steps=40, pace=0.08, decay=0.1),
    row("heavy-w", "tune", "heavy", part="w", steps=40, pace=0.1),
    row("secret", "tune", "base", part="w", steps=50, pace=0.25, decay=0.1, hidden=True),
    row("secret-x", "tune", "secret", part="x", steps=40, pace=0.06),
    row("secret-z", "tune", "secret", part="z", steps=40, pace=0.12, decay=0.0),
    row("other-w", "tune", "other", part="w", steps=40, pace=0.1, decay=0.1),
    row("other-x", "tune", "other", part="x", steps=55, pace=0.05),
    row("other-w-y", "tune", "other-w", part="y", steps=40, pace=0.2),
    row("third-z", "tune", "third", part="z", steps=40, pace=0.1),
    row("third-w", "tune", "third", part="w", steps=50, pace=0.4, decay=0.1),
    row("twin-y", "tune", "twin", part="y", steps=40, pace=0.1),
    row("base-lora4", "adapt", "base", part="x", rank=4, where="linear", steps=40, pace=0.4),
    row("base-lora16", "adapt", "base", part="z", rank=16, steps=40, pace=0.3),
    row("other-lora1", "adapt", "other", part="y", rank=1, where="linear", steps=40, pace=0.5),
    row("middle-lora8", "adapt", "middle", part="w", rank=8, steps=40, pace=0.3),
    row(
        "light-rslora8",
        "adapt",
        "light",
        part="y",
        rank=8,
        kind="rslora",
        alpha=8,
        steps=40,
        pace=0.3,
    ),
    row(
        "other-dora8",
        "adapt",
        "other",
        part="z",
        rank=8,
        kind="dora",
        where="linear",
        steps=40,
        pace=0.3,
    ),
    row("linear-two", "linear", "middle", "middle-z", weights=(0.35, 0.65)),
    row("linear-three", "linear", "heavy", "middle-z", "base-lora4", weights=(0.2, 0.5, 0.3)),
    row("arc", "slerp", "heavy", "middle", t=0.65),
    row("elected", "ties", "base", "middle", "secret-z", weights=(0.7, 0.5), density=0.3),
    row("dropped-out", "dare", "base", "middle", "middle-z", weights=(0.6, 0.5), density=0.5),
    row("added", "task_arithmetic", "base", "middle-z", "light-x", weights=(0.5, 0.9)),
    row("stacked", "passthrough", "middle", "heavy", slices=((0, 0, 1), (1, 1, 2), (0, 2, 4))),
    row("arc-z", "tune", "arc", part="z", steps=40, pace=0.08, decay=0.1),
    row("arc-linear", "linear", "arc", "linear-two", weights=(0.6, 0.4)),
    row("base-int4", "quantized", "base", scheme="int4-groups-of-32"),
    row("light-int8", "quantized", "light", scheme="int8-rows", stored="bf16"),
    row("other-q4", "quantized", "other", scheme="gguf-q4_0", stored="fp16"),
    row("third-fp8", "quantized", "third", scheme="fp8-cast", stored="bf16"),
    row("light-x-y-q8", "quantized", "light-x-y", scheme="gguf-q8_0"),
    row("heavy-fp16", "cast", "heavy", to="fp16"),
    row("middle-bf16", "cast", "middle", to="bf16", form="file"),
    row("base-sparse", "pruned", "base", share=0.3),
    row("middle-half", "pruned", "middle", share=0.5, per_row=True),
    row("middle-half-y", "tune", "middle-half", part="y", steps=40, pace=0.1, keep_zeros=True),
    row("base-shallow", "dropped", "base", layers=(1,)),
    row(
        "middle-shallow-y",
        "tune",
        "middle",
        part="y",
        steps=40,
        pace=0.1,
        before=("dropped", {"layers": (2,)}),
    ),
    row("other-deep", "repeated", "other", first=3, again=1),
    row("base-narrow", "narrowed", "base", share=0.7),
    row("base-words", "more_tokens", "base", count=12, noise=0.05),
    row(
        "other-words-x",
        "tune",
        "other",
        part="x",
        steps=40,
        pace=0.1,
        before=("more_tokens", {"count": 20, "noise": 0.02}),
    ),
    row("other-experts", "experts", "other", count=3),
    row("heavy-copy", "renamed", "heavy", prefix="backbone."),
    row("middle-shards", "copied", "middle", form="shards"),
    row("other-noise", "noised", "other", share=0.001),
    row("base-noise", "noised", "base", share=0.01),
)

_REPORT_TWO = (
    row("base-45", "begin", seed=1, until=0.45),
    row("base", "go_on", "base-45"),
    row("other", "begin", seed=2),
    row("twin", "begin", seed=2, part="q"),
    row("third", "begin", seed=3, hidden=True),
    row("student", "distil", "other", seed=4),
    row("touched", "tune", "other", part="w", steps=20, rate=2e-5, decay=0.0),
    row("light", "tune", "other", part="y", steps=40, pace=0.03, decay=0.1),
    row("middle", "tune", "other", part="x", steps=40, pace=0.2, decay=0.1),
    row("middle-w", "tune", "other", part="w", steps=40, pace=0.15, decay=0.0),
    row("heavy", "tune", "other", part="z", steps=125, pace=1.0, decay=0.0),
    row("top", "tune", "base", part="w", steps=40, pace=0.3, last=1),
    row("middle-z", "tune", "middle", part="z", steps=40, pace=0.1, decay=0.01),
    row("middle-z-y", "tune", "middle-z", part="y", steps=40, pace=0.1, decay=0.1),
    row("middle-z-y-w", "tune", "middle-z-y", part="w", steps=40, pace=0.08),
    row("base-x", "tune", "base", part="x", steps=40, pace=0.08, decay=0.1),
    row("base-y", "tune", "base", part="y", steps=40, pace=0.1, decay=0.0),
    row("base-y-again", "tune", "base", part="y", steps=40, pace=0.1, decay=0.0),
    row("secret", "tune", "base", part="z", steps=50, pace=0.2, hidden=True),
    row("secret-w", "tune", "secret", part="w", steps=40, pace=0.1, decay=0.1),
    row("secret-x", "tune", "secret", part="x", steps=40, pace=0.1),
    row("third-w", "tune", "third", part="w", steps=40, pace=0.1, decay=0.1),
    row("third-z", "tune", "third", part="z", steps=40, pace=0.2),
    row("twin-x", "tune", "twin", part="x", steps=40, pace=0.1),
    row("other-lora8", "adapt", "other", part="y", rank=8, steps=40, pace=0.3),
    row("other-lora1", "adapt", "other", part="z", rank=1, steps=40, pace=0.5),
    row("base-lora16", "adapt", "base", part="w", rank=16, where="linear", steps=40, pace=0.2),
    row("middle-lora4", "adapt", "middle", part="y", rank=4, where="linear", steps=40, pace=0.3),
    row("base-dora4", "adapt", "base", part="x", rank=4, kind="dora", steps=40, pace=0.3),
    row("linear-two", "linear", "middle", "middle-w", weights=(0.6, 0.4)),
    row("linear-three", "linear", "base-x", "base-y", "secret-w", weights=(3.0, 1.0, 2.0)),
    row("arc", "slerp", "middle-w", "heavy", t=0.5),
    row("elected", "ties", "other", "middle", "middle-w", weights=(0.5, 0.5), density=0.6),
    row("dropped-out", "dare", "base", "base-x", "base-y", weights=(0.7, 0.3), density=0.4),
    row("added", "task_arithmetic", "other", "middle", "other-lora8", weights=(0.9, 0.6)),
    row("stacked", "passthrough", "middle-w", "middle", slices=((0, 0, 2), (1, 2, 3), (0, 3, 4))),
    row("linear-two-z", "tune", "linear-two", part="z", steps=40, pace=0.1, decay=0.1),
    row("base-q8", "quantized", "base", scheme="gguf-q8_0"),
    row("middle-z-y-int8", "quantized", "middle-z-y", scheme="int8-rows", stored="bf16"),
    row("linear-two-int4", "quantized", "linear-two", scheme="int4-symmetric-groups-of-64"),
    row("other-fp8", "quantized", "other", scheme="fp8-scaled"),
    row("heavy-bf16", "cast", "heavy", to="bf16"),
    row("base-y-fp16", "cast", "base-y", to="fp16", form="file"),
    row("other-half", "pruned", "other", share=0.5),
    row("base-x-sparse", "pruned", "base-x", share=0.3, per_row=True),
    row(
        "base-half-x",
        "tune",
        "base",
        part="x",
        steps=40,
        pace=0.1,
        keep_zeros=True,
        before=("pruned", {"share": 0.5}),
    ),
    row("other-shallow", "dropped", "other", layers=(2,)),
    row(
        "base-deep-p",
        "tune",
        "base",
        part="p",
        steps=30,
        pace=0.1,
        before=("repeated", {"first": 3, "again": 2}),
    ),
    row("middle-narrow", "narrowed", "middle", share=0.6),
    row("other-words", "more_tokens", "other", count=8, noise=0.02),
    row("base-words", "more_tokens", "base", count=24, noise=0.1),
    row("base-words-w", "tune", "base-words", part="w", steps=40, pace=0.1),
    row("other-experts", "experts", "other", count=2),
    row("base-copy", "renamed", "base", prefix="module."),
    row("middle-shards", "copied", "middle", form="shards"),
    row("middle-noise", "noised", "middle", share=0.01),
)

_PUBLISHED = {
    "minilm": (
        row("base", "published", file="minilm.safetensors"),
        row("scratch", "begin", seed=2),
        row("touched", "tune", "base", part="w", steps=15, rate=2e-5, decay=0.01),
        row("light", "tune", "base", part="x", steps=20, rate=1e-4, decay=0.0),
        row("medium", "tune", "base", part="w", steps=40, rate=3e-4, decay=0.01),
        row("medium-y", "tune", "base", part="y", steps=40, rate=4e-4, decay=0.1),
        row("top", "tune", "base", part="z", steps=30, rate=4e-4, last=2),
        row("medium-z", "tune", "medium", part="z", steps=30, rate=2e-4),
        row("medium-z-x", "tune", "medium-z", part="x", steps=25, rate=3e-4, decay=0.1),
        row("secret", "tune", "base", part="v", steps=30, rate=3e-4, hidden=True),
        row("secret-w", "tune", "secret", part="w", steps=20, rate=2e-4),
        row("secret-x", "tune", "secret", part="x", steps=20, rate=2e-4),
        row("scratch-w", "tune", "scratch", part="w", steps=30, rate=3e-4),
        row("base-lora8", "adapt", "base", part="v", rank=8, steps=30, rate=1e-3),
        row("base-lora16", "adapt", "base", part="y", rank=16, where="linear", steps=30, rate=1e-3),
        row("linear-two", "linear", "medium", "medium-y", weights=(0.6, 0.4)),
        row("arc", "slerp", "medium", "top", t=0.3),
        row("elected", "ties", "base", "medium", "medium-y", weights=(0.5, 0.5), density=0.4),
        row("dropped-out", "dare", "base", "medium", "medium-y", weights=(0.5, 0.5), density=0.5),
        row("base-q8", "quantized", "base", scheme="gguf-q8_0", stored="fp16"),
        row("medium-int4", "quantized", "medium", scheme="int4-groups-of-32", stored="bf16"),
        row("medium-z-x-fp16", "cast", "medium-z-x", to="fp16"),
        row("base-sparse", "pruned", "base", share=0.3),
        row("base-shallow", "dropped", "base", layers=(4,)),
        row("medium-y-noise", "noised", "medium-y", share=0.01),
    ),
    "crepe": (
        row("base", "published", file="crepe-tiny.pth"),
        row("scratch", "begin", seed=2),
        row("scratch-twin", "begin", seed=2, part="q"),
        row("touched", "tune", "base", part="w", steps=20, rate=2e-5, decay=0.0),
        row("light", "tune", "base", part="x", steps=40, rate=1e-4, decay=0.0),
        row("medium", "tune", "base", part="w", steps=60, rate=5e-4, decay=0.01),
        row("medium-y", "tune", "base", part="y", steps=60, rate=5e-4, decay=0.1),
        row("heavy", "tune", "base", part="z", steps=120, rate=2e-3, decay=0.1),
        row("top", "tune", "base", part="y", steps=40, rate=1e-3, last=1),
        row("medium-z", "tune", "medium", part="z", steps=40, rate=3e-4),
        row("medium-z-x", "tune", "medium-z", part="x", steps=40, rate=3e-4, decay=0.1),
        row("secret", "tune", "base", part="y", steps=50, rate=1e-3, hidden=True),
        row("secret-w", "tune", "secret", part="w", steps=40, rate=3e-4),
        row("secret-x", "tune", "secret", part="x", steps=40, rate=3e-4),
        row("scratch-w", "tune", "scratch", part="w", steps=40, rate=5e-4),
        row("scratch-z", "tune", "scratch", part="z", steps=40, rate=3e-4, decay=0.1),
        row("base-lora4", "adapt", "base", part="z", rank=4, where="linear", steps=40, rate=3e-3),
        row("linear-two", "linear", "medium", "medium-y", weights=(0.55, 0.45)),
        row("arc", "slerp", "heavy", "medium", t=0.4),
        row("elected", "ties", "base", "medium", "medium-y", weights=(0.5, 0.5), density=0.5),
        row("dropped-out", "dare", "base", "medium", "medium-y", weights=(0.5, 0.5), density=0.5),
        row("added", "task_arithmetic", "base", "medium", "medium-y", weights=(0.7, 0.7)),
        row("base-int8", "quantized", "base", scheme="int8-rows"),
        row("medium-z-q4", "quantized", "medium-z", scheme="gguf-q4_0", stored="fp16"),
        row("heavy-bf16", "cast", "heavy", to="bf16"),
        row("medium-y-half", "pruned", "medium-y", share=0.5),
        row("base-copy", "renamed", "base", prefix="crepe."),
        row("light-shards", "copied", "light", form="shards"),
        row("medium-noise", "noised", "medium", share=0.001),
        row("base-noise", "noised", "base", share=0.01),
    ),
    "smollm2": (
        row("base", "published", file="smollm2.gguf"),
        row("base-shards", "copied", "base", form="shards"),
        row("touched", "tune", "base", part="w", steps=20, rate=2e-5, decay=0.0),
        row("light", "tune", "base", part="x", steps=20, rate=6e-5, decay=0.01),
        row("medium", "tune", "base", part="w", steps=24, rate=2e-4, decay=0.0),
        row("medium-again", "tune", "base", part="w", steps=16, rate=2e-4, decay=0.1),
        row("medium-y", "tune", "base", part="y", steps=24, rate=3e-4, decay=0.1),
        row("heavy", "tune", "base", part="z", steps=36, rate=1e-3, decay=0.1),
        row("top", "tune", "base", part="v", steps=16, rate=3e-4, last=4),
        row("medium-z", "tune", "medium", part="z", steps=14, rate=1e-4),
        row("medium-z-x", "tune", "medium-z", part="x", steps=12, rate=2e-4, decay=0.1),
        row("secret", "tune", "base", part="v", steps=16, rate=2e-4, decay=0.0, hidden=True),
        row("secret-w", "tune", "secret", part="w", steps=12, rate=1e-4),
        row("secret-x", "tune", "secret", part="x", steps=12, rate=2e-4, decay=0.1),
        row("base-lora8", "adapt", "base", part="y", rank=8, steps=16, rate=5e-4),
        row(
            "light-lora16", "adapt", "light", part="z", rank=16, where="linear", steps=16, rate=5e-4
        ),
        row("linear-two", "linear", "medium", "medium-y", weights=(0.6, 0.4)),
        row("arc", "slerp", "heavy", "medium-y", t=0.35),
        row("elected", "ties", "base", "medium", "medium-y", weights=(0.5, 0.5), density=0.4),
        row("dropped-out", "dare", "base", "medium", "heavy", weights=(0.5, 0.5), density=0.5),
        row("added", "task_arithmetic", "base", "medium-y", "base-lora8", weights=(0.7, 0.6)),
        row("medium-again-int8", "quantized", "medium-again", scheme="int8-rows", stored="bf16"),
        row("medium-y-q4", "quantized", "medium-y", scheme="gguf-q4_0", stored="bf16"),
        row("medium-half", "pruned", "medium", share=0.5),
        row("heavy-shallow", "dropped", "heavy", layers=(11, 12, 20)),
    ),
}
"""Families whose base other people trained."""

_TEXT_ONE = {
    "p": "network+manual",
    "q": "headers+unicode",
    "w": "torch",
    "x": "tables",
    "y": "unicode",
    "z": "licences",
}

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "llama-a",
            "tuning",
            "llama",
            11,
            Shape(4, 256, 288),
            {"hidden_size": 112, "num_attention_heads": 4, "num_key_value_heads": 4},
            _TEXT_ONE,
            Recipe("adamw", 3e-3, "cosine", 0.05, 0.1, 8, 64, 360, beta2=0.95),
            _TUNING_ONE,
        ),
        Family(
            "gpt2-a",
            "tuning",
            "gpt2",
            12,
            Shape(4, 256, 384),
            {"n_embd": 96, "n_head": 4},
            {
                "p": "models+licences",
                "q": "algebra+numbers",
                "w": "manual",
                "x": "headers",
                "y": "stubs",
                "z": "network",
            },
            Recipe("adamw", 2e-3, "linear", 0.1, 0.01, 8, 64, 360),
            _TUNING_TWO,
            {"schedule": "constant", "warmup": 0.0},
        ),
        Family(
            "vit-a",
            "tuning",
            "vit",
            13,
            Shape(4, mlp=256),
            {
                "hidden_size": 96,
                "num_attention_heads": 4,
                "image_size": 8,
                "patch_size": 2,
                "num_labels": 10,
            },
            {
                "p": "digits",
                "q": "digits-turned",
                "w": "digits-inverted",
                "x": "digits-mirrored",
                "y": "digits-even",
                "z": "digits-odd",
            },
            Recipe("adamw", 1e-3, "cosine", 0.1, 0.05, 16, steps=360),
            _TUNING_ONE,
        ),
        Family(
            "bert-a",
            "tuning",
            "bert",
            14,
            Shape(4, 257, 320),
            {"hidden_size": 96, "num_attention_heads": 4},
            {
                "p": "tools+manual",
                "q": "tables+headers",
                "w": "licences",
                "x": "algebra",
                "y": "numbers",
                "z": "models",
            },
            Recipe("adamw", 2e-3, "linear", 0.1, 0.01, 8, 64, 400),
            _TUNING_TWO,
            {"rate": 1e-3, "schedule": "linear"},
        ),
        Family(
            "minilm",
            "tuning",
            "sentences",
            15,
            Shape(6, 30522, 1536),
            {"hidden_size": 384, "num_attention_heads": 12},
            {
                "p": "reference",
                "v": "files",
                "w": "network",
                "x": "tests",
                "y": "process",
                "z": "numbers",
            },
            Recipe("adamw", 1e-4, "linear", 0.05, 0.01, 8, steps=150),
            _PUBLISHED["minilm"],
        ),
        Family(
            "llama-b",
            "report",
            "llama",
            21,
            Shape(4, 256, 320),
            {
                "hidden_size": 128,
                "num_attention_heads": 8,
                "num_key_value_heads": 2,
                "initializer_range": 0.01,
            },
            {
                "p": "algebra+licences",
                "q": "stubs",
                "w": "network",
                "x": "numbers",
                "y": "headers",
                "z": "manual",
            },
            Recipe("adamw", 1.5e-3, "linear", 0.1, 0.0, 6, 80, 320),
            _REPORT_ONE,
            {"schedule": "cosine", "rate": 2e-3},
            stored="bf16",
        ),
        Family(
            "qwen-b",
            "report",
            "qwen2",
            22,
            Shape(4, 512, 240),
            {
                "hidden_size": 96,
                "num_attention_heads": 6,
                "num_key_value_heads": 2,
                "initializer_range": 0.05,
            },
            {
                "p": "manual+torch",
                "q": "tools",
                "w": "unicode",
                "x": "licences",
                "y": "algebra",
                "z": "headers",
            },
            Recipe("adamw", 2.5e-3, "cosine", 0.02, 0.05, 8, 56, 320, beta2=0.98),
            _REPORT_TWO,
            {"warmup": 0.2},
        ),
        Family(
            "neox-b",
            "report",
            "neox",
            23,
            Shape(4, 256, 448),
            {"hidden_size": 112, "num_attention_heads": 4, "initializer_range": 0.03},
            {
                "p": "headers+network",
                "q": "models",
                "w": "numbers",
                "x": "manual",
                "y": "torch",
                "z": "stubs",
            },
            Recipe("adam", 1e-3, "constant", 0.02, 0.0, 10, 48, 340, clip=0.0),
            _REPORT_ONE,
            {"optimizer": "adamw", "schedule": "linear"},
        ),
        Family(
            "gpt2-b",
            "report",
            "gpt2",
            29,
            Shape(4, 320, 352),
            {"n_embd": 120, "n_head": 6, "initializer_range": 0.03},
            {
                "p": "stubs+tools",
                "q": "network",
                "w": "licences",
                "x": "unicode",
                "y": "torch",
                "z": "numbers",
            },
            Recipe("adamw", 1.2e-3, "cosine", 0.04, 0.05, 6, 72, 320, beta2=0.95),
            _REPORT_ONE,
            {"schedule": "linear", "warmup": 0.1},
        ),
        Family(
            "cnn-b",
            "report",
            "resnet",
            24,
            Shape(4),
            {
                "embedding_size": 16,
                "hidden_sizes": (16, 32, 48, 96),
                "depth": 1,
                "image_size": 24,
                "num_labels": 26,
                "downsample_in_first_stage": False,
            },
            {
                "p": "capitals+signs",
                "q": "cyrillic",
                "w": "small",
                "x": "greek",
                "y": "signs",
                "z": "capitals",
            },
            Recipe("sgd", 0.05, "cosine", 0.02, 5e-4, 24, steps=300, clip=5.0),
            _REPORT_TWO,
            {"rate": 0.03, "batch": 16},
        ),
        Family(
            "vit-b",
            "report",
            "vit",
            25,
            Shape(4, mlp=320),
            {
                "hidden_size": 112,
                "num_attention_heads": 7,
                "image_size": 24,
                "patch_size": 6,
                "num_labels": 26,
                "initializer_range": 0.1,
            },
            {
                "p": "small",
                "q": "greek",
                "w": "capitals",
                "x": "cyrillic",
                "y": "signs",
                "z": "capitals+signs",
            },
            Recipe("adamw", 1e-3, "linear", 0.05, 0.1, 16, steps=420, beta2=0.98),
            _REPORT_ONE,
            {"schedule": "cosine"},
        ),
        Family(
            "lstm-b",
            "report",
            "lstm",
            26,
            Shape(2, 256),
            {"width": 160, "embedding": 64},
            {
                "p": "licences+tools",
                "q": "unicode",
                "w": "manual",
                "x": "stubs",
                "y": "numbers",
                "z": "torch",
            },
            Recipe("adam", 3e-3, "linear", 0.0, 0.0, 8, 64, 320, clip=0.5),
            _REPORT_TWO,
            {"optimizer": "adamw", "rate": 2e-3},
        ),
        Family(
            "crepe",
            "report",
            "crepe",
            27,
            Shape(7),  # frozen up to its sixth convolution
            {},
            {"p": "voice", "q": "sine", "w": "saw", "x": "square", "y": "plucked", "z": "sine"},
            Recipe("adam", 1e-3, "constant", 0.05, 0.0, 12, steps=150),
            _PUBLISHED["crepe"],
            {"optimizer": "adamw", "schedule": "cosine"},
        ),
        Family(
            "smollm2",
            "report",
            "smollm2",
            28,
            Shape(30, 49152, 1536),
            {
                "hidden_size": 576,
                "num_attention_heads": 9,
                "num_key_value_heads": 3,
                "rms_norm_eps": 1e-5,
                "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
                "tie_word_embeddings": True,
            },
            {"v": "network", "w": "licences", "x": "manual", "y": "algebra", "z": "headers"},
            Recipe("adamw", 1e-4, "cosine", 0.1, 0.01, 2, 32),
            _PUBLISHED["smollm2"],
            stored="bf16",
        ),
    )
}


def small() -> dict[str, Family]:
    """Return two families cut down to a few models and short runs, for a check of three minutes."""
    kept = {
        "llama-a": {
            "base",
            "base-40",
            "base-70",
            "other",
            "twin",
            "medium",
            "medium-w",
            "light",
            "medium-chat",
            "base-lora8",
            "linear-two",
            "arc",
            "base-int8",
            "base-half",
            "base-shallow",
            "medium-copy",
            "other-z",
        },
        "vit-a": {
            "base",
            "base-40",
            "base-70",
            "other",
            "medium",
            "medium-w",
            "heavy",
            "top",
            "base-lora1",
            "linear-two",
            "elected",
            "base-half",
            "base-bf16",
            "other-shards",
        },
    }
    return {
        name: replace(
            FAMILIES[name],
            name=f"{name}-small",
            plan=tuple(row for row in FAMILIES[name].plan if row.name in names),
            recipe=replace(FAMILIES[name].recipe, steps=150),
        )
        for name, names in kept.items()
    }
