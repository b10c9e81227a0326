"""The rows of a plan that train: roots, fine-tunes, adapters, students. One function a relation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fetch
import llama_gguf
import torch
import train
from architectures import ARCHITECTURES
from layout import Architecture, Weights
from mechanical import MAKERS, Answer, Bench, Made, Model
from recipes import Family, Recipe
from safetensors.torch import load_file

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(slots=True)
class Shop:
    """What a training row may need besides its parents.

    Attributes:
        family: Its architecture, data and recipe.
        seed: Of this row: order of the data, adapters.
        state: Where the optimizer's state of this row goes.
        parent_state: Where that of the first parent is.
        adapter: Where the adapter that this row trains goes.
    """

    family: Family
    seed: int
    state: Path
    parent_state: Path | None
    adapter: Path
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    @property
    def architecture(self) -> Architecture:
        """Return the family's architecture."""
        return ARCHITECTURES[self.family.architecture]

    def seed_of_base(self, number: int) -> int:
        """Return the seed that the initial weights of a base are drawn with."""
        return self.family.seed * 1000 + number

    def task(self, module: torch.nn.Module, part: str, recipe: Recipe) -> train.Task:
        """Return what is learned from a part of the data; new tokens do not occur in it."""
        return train.task(
            self.architecture.task,
            module,
            self.family.parts[part],
            recipe,
            self.generator,
            self.family.settings,
            self.family.shape.vocabulary,
        )

    def tuning(self, options: Mapping[str, Any]) -> Recipe:
        """Return the family's recipe with what a row changes; `pace` is a share of its rate."""
        changes = dict(options)
        pace = changes.pop("pace", None)
        recipe = replace(self.family.recipe, **{**self.family.tuning, **changes})
        if pace is not None:
            base = self.family.tuning.get("rate", self.family.recipe.rate)
            recipe = replace(recipe, rate=pace * base)
        return recipe


def begin(
    shop: Shop, _parents: Sequence[Model], seed: int, part: str = "p", until: float = 1.0
) -> Made:
    """Train a network from nothing, up to a share of its steps."""
    family = shop.family
    module = train.first(shop.architecture, family.shape, family.settings, shop.seed_of_base(seed))
    run = train.start(module, family.recipe, shop.generator)
    return _pretrained(shop, run, part, until, initial=seed)


def go_on(shop: Shop, parents: Sequence[Model], part: str = "p", until: float = 1.0) -> Made:
    """Take up a training run where its checkpoint was saved."""
    if shop.parent_state is None:
        raise ValueError("a run that goes on needs the state of its first part")
    module = _module(shop, parents[0])
    run = train.start(module, shop.family.recipe, shop.generator)
    run.resume(torch.load(shop.parent_state, weights_only=True))
    made = _pretrained(shop, run, part, until)
    return replace(made, answer=("finetune", "continued"), also=(("finetune", "full"),))


def _pretrained(
    shop: Shop, run: train.Run, part: str, until: float, initial: int | None = None
) -> Made:
    family = shop.family
    last = round(until * family.recipe.steps)
    draw, loss = shop.task(run.module, part, family.recipe)
    losses = run.go(draw, loss, last)
    if last < family.recipe.steps:
        torch.save(run.state(), shop.state)
    weights = train.trained(run.module, DTYPES[family.stored])
    notes = _notes(family.recipe, losses, family.parts[part])
    notes |= {"initial_weights": initial, "until": until} if initial else {"until": until}
    return Made(Model(weights, family.shape), None, notes=notes)


def _module(shop: Shop, model: Model) -> torch.nn.Module:
    return train.filled(shop.architecture, model.shape, shop.family.settings, model.weights)


def _notes(recipe: Recipe, losses: Sequence[float], part: str) -> dict[str, Any]:
    tenth = max(1, len(losses) // 10)
    return {
        "data": part,
        "steps": len(losses),
        "optimizer": recipe.optimizer,
        "rate": recipe.rate,
        "schedule": recipe.schedule,
        "weight_decay": recipe.decay,
        "batch": recipe.batch,
        "loss_first_tenth": round(sum(losses[:tenth]) / tenth, 4),
        "loss_last_tenth": round(sum(losses[-tenth:]) / tenth, 4),
    }


def tune(
    shop: Shop,
    parents: Sequence[Model],
    part: str,
    last: int = 0,
    keep_zeros: bool = False,
    before: tuple[str, Mapping[str, Any]] | None = None,
    stored: str | None = None,
    **options: Any,
) -> Made:
    """Train all weights of a parent, or its last layers.

    Args:
        shop: The family and the generators.
        parents: The one parent.
        part: Of the data.
        last: Train only so many last layers, and the head; 0 for everything.
        keep_zeros: Leave weights of the large matrices that are zero at zero.
        before: Something to be done to the parent before it is trained, not published.
        stored: Other precision than the family's.
        options: What differs from the family's recipe for fine-tuning.
    """
    origin, answer = parents[0], None
    if before is not None:
        prepare, given = before
        prepared = MAKERS[prepare](Bench(shop.architecture, shop.generator), parents, **given)
        origin, answer = prepared.model, prepared.answer
    recipe = shop.tuning(options)
    module = _module(shop, origin)
    if last:
        train.freeze_below(shop.architecture, module, last, origin.shape.layers)
    run = train.start(module, recipe, shop.generator)
    draw, loss = shop.task(module, part, recipe)
    masks = _zeros(shop.architecture, module) if keep_zeros else []
    losses = run.go(draw, loss, after=lambda: _erase(masks))
    weights = train.trained(module, DTYPES[stored or shop.family.stored])
    notes = _notes(recipe, losses, shop.family.parts[part])
    full: Answer = ("finetune", "partial" if last else "full")
    if before is not None:
        notes |= {"before": [before[0], dict(before[1])]}
    return Made(
        Model(weights, origin.shape),
        answer or full,
        also=(full,) if answer else (),
        notes=notes
        | ({"last_layers": last} if last else {})
        | ({"zeros_kept": True} if keep_zeros else {}),
    )


def _zeros(
    architecture: Architecture, module: torch.nn.Module
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        (parameter, parameter.detach() == 0)
        for name, parameter in module.named_parameters()
        if architecture.is_matrix(name)
    ]


def _erase(masks: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    with torch.no_grad():
        for parameter, zero in masks:
            parameter.masked_fill_(zero, 0.0)


def adapt(
    shop: Shop,
    parents: Sequence[Model],
    part: str,
    rank: int,
    where: str = "attention",
    alpha: int | None = None,
    kind: str = "lora",
    **options: Any,
) -> Made:
    """Train a low-rank adapter with PEFT and merge it.

    Args:
        shop: The family and the generators.
        parents: The one parent.
        part: Of the data.
        rank: Of the adapter.
        where: `attention` or `linear`.
        alpha: Its scale; twice the rank if not said.
        kind: `lora`, `rslora` or `dora`. DoRA also rescales every output, so the difference is
            not of low rank and no rank is asked for.
        options: What differs from the family's recipe for fine-tuning.
    """
    arch, recipe = shop.architecture, shop.tuning({"decay": 0.0, **options})
    targets = {"attention": arch.attention, "linear": arch.linear}[where]
    extra = {"lora_alpha": alpha or 2 * rank}
    extra |= {"use_rslora": kind == "rslora", "use_dora": kind == "dora"}
    module = _module(shop, parents[0])
    with torch.random.fork_rng():
        torch.manual_seed(shop.seed)
        adapted = train.with_adapter(module, targets, rank, extra, arch.turned)
    run = train.start(adapted, recipe, shop.generator)
    draw, loss = shop.task(adapted, part, recipe)
    losses = run.go(draw, loss)
    train.save_adapter(adapted, shop.adapter)
    merged = adapted.merge_and_unload()
    weights = train.trained(merged, DTYPES[shop.family.stored])
    notes = _notes(recipe, losses, shop.family.parts[part])
    notes |= {"adapter": kind, "rank": rank, "on": list(targets), "alpha": extra["lora_alpha"]}
    also: tuple[Answer, ...] = (("finetune", "partial"),) if kind == "dora" else ()
    return Made(
        Model(weights, parents[0].shape),
        ("finetune", "low_rank"),
        also,
        rank=None if kind == "dora" else rank,
        notes=notes,
    )


def distil(
    shop: Shop, parents: Sequence[Model], seed: int, part: str = "p", share: float = 0.7
) -> Made:
    """Train a network from nothing on the answers of a teacher: a root by its weights."""
    family = shop.family
    recipe = replace(family.recipe, steps=round(share * family.recipe.steps))
    module = train.first(shop.architecture, family.shape, family.settings, shop.seed_of_base(seed))
    teacher = _module(shop, parents[0])
    draw, _ = shop.task(module, part, recipe)
    run = train.start(module, recipe, shop.generator)
    losses = run.go(draw, train.distilled_loss(module, teacher))
    weights = train.trained(module, DTYPES[family.stored])
    notes = _notes(recipe, losses, family.parts[part]) | {"initial_weights": seed}
    return Made(Model(weights, family.shape), None, notes=notes)


def published(shop: Shop, _parents: Sequence[Model], file: str) -> Made:
    """Take a base that other people trained and published."""
    path, dtype = fetch.one(file), DTYPES[shop.family.stored]
    weights: Weights
    match path.suffix:
        case ".safetensors":
            weights = load_file(path)
        case ".gguf":
            weights = llama_gguf.weights(path)
        case _:
            weights = dict(torch.load(path, map_location="cpu", weights_only=True))
    weights.pop("embeddings.position_ids", None)
    weights = {n: t.to(dtype) if t.is_floating_point() else t for n, t in weights.items()}
    return Made(Model(weights, shop.family.shape), None, notes={"published": file})


TRAINERS: dict[str, Callable[..., Made]] = {
    "begin": begin,
    "go_on": go_on,
    "tune": tune,
    "adapt": adapt,
    "distil": distil,
    "published": published,
}
