"""Real training: from nothing, of everything, of the last layers, of adapters, after a teacher.

Every run is on one thread with generators of its own, so that it can be repeated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bert
import data
import peft
import torch
from layout import Architecture, Weights, load, weights_of
from recipes import Recipe, Shape
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F  # noqa: N812 - what everyone calls it

Batch = tuple[torch.Tensor, ...]


@dataclass(slots=True)
class Run:
    """A training run that may be stopped and taken up again."""

    module: nn.Module
    recipe: Recipe
    generator: torch.Generator
    optimizer: torch.optim.Optimizer
    step: int = 0

    def state(self) -> dict[str, Any]:
        """Return what is needed to go on."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from where a run was."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step = state["step"]

    def go(
        self,
        batches: Callable[[], Batch],
        loss_of: Callable[[Batch], torch.Tensor],
        last: int | None = None,
        after: Callable[[], None] | None = None,
    ) -> list[float]:
        """Train up to a step, the recipe's last if none is given, and return the losses.

        Args:
            batches: Draws a batch.
            loss_of: Returns its loss.
            last: Where to stop.
            after: Called after every step.
        """
        losses: list[float] = []
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.module.train()
        while self.step < (self.recipe.steps if last is None else last):
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.rate_at(self.step)
            loss = loss_of(batches())
            self.optimizer.zero_grad()
            loss.backward()
            if self.recipe.clip:
                nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
            self.optimizer.step()
            if after is not None:
                after()
            losses.append(float(loss.detach()))
            self.step += 1
        return losses


def start(module: nn.Module, recipe: Recipe, generator: torch.Generator) -> Run:
    """Return a run over the parameters that are to be trained.

    Biases and gains are not decayed, as is usual.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    optimizer: torch.optim.Optimizer
    match recipe.optimizer:
        case "adamw":
            optimizer = torch.optim.AdamW(
                groups, lr=recipe.rate, betas=(0.9, recipe.beta2), fused=True
            )
        case "adam":
            optimizer = torch.optim.Adam(
                groups, lr=recipe.rate, betas=(0.9, recipe.beta2), fused=True
            )
        case "sgd":
            optimizer = torch.optim.SGD(groups, lr=recipe.rate, momentum=0.9, nesterov=True)
        case "plain-sgd":
            optimizer = torch.optim.SGD(groups, lr=recipe.rate)
        case "rmsprop":
            optimizer = torch.optim.RMSprop(groups, lr=recipe.rate)
        case other:
            raise ValueError(f"no such optimizer: {other!r}")
    return Run(module, recipe, generator, optimizer)


def first(
    architecture: Architecture, shape: Shape, settings: Mapping[str, Any], seed: int
) -> nn.Module:
    """Return an untrained network; the seed alone chooses its weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return architecture.build(shape, settings)


def filled(
    architecture: Architecture, shape: Shape, settings: Mapping[str, Any], weights: Weights
) -> nn.Module:
    """Return a network with some weights; what the file holds in less precision is widened."""
    wide = {n: t.float() if t.is_floating_point() else t for n, t in weights.items()}
    return load(first(architecture, shape, settings, seed=0), wide)


def freeze_below(architecture: Architecture, module: nn.Module, last: int, layers: int) -> None:
    """Leave only the last layers and the head to be trained."""
    for name, parameter in module.named_parameters():
        layer = architecture.layer_of(name)
        is_head = re.search(architecture.head, name) is not None
        parameter.requires_grad_(is_head or (layer is not None and layer >= layers - last))


def with_adapter(
    module: nn.Module, targets: tuple[str, ...], rank: int, options: Mapping[str, Any], turned: bool
) -> nn.Module:
    """Return the network with a new low-rank adapter of PEFT."""
    config = peft.LoraConfig(
        r=rank,
        target_modules=list(targets),
        lora_dropout=0.0,
        fan_in_fan_out=turned,
        bias="none",
        **options,
    )
    return peft.get_peft_model(module, config)


def save_adapter(module: nn.Module, folder: Path) -> None:
    """Write an adapter as PEFT does, without the words that say what it is an adapter of."""
    folder.mkdir(parents=True, exist_ok=True)
    state = peft.get_peft_model_state_dict(module)
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = module.peft_config["default"].to_dict()
    kept = ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "fan_in_fan_out")
    told = {key: config[key] for key in kept} | {"target_modules": sorted(config["target_modules"])}
    (folder / "adapter_config.json").write_text(json.dumps(told, indent=1, default=str) + "\n")


# What is learned: a function that draws a batch and one that returns its loss.

Task = tuple[Callable[[], Batch], Callable[[Batch], torch.Tensor]]


def task(
    kind: str,
    module: nn.Module,
    part: str,
    recipe: Recipe,
    generator: torch.Generator,
    settings: Mapping[str, Any],
    vocabulary: int,
) -> Task:
    """Return how to draw a batch of a part of the data, and its loss."""
    match kind:
        case "next":
            return _next(module, data.tokens(part, vocabulary), recipe, generator)
        case "words":
            return _next(module, data.words(part), recipe, generator)
        case "masked":
            return _masked(module, part, recipe, generator, vocabulary)
        case "images":
            return _images(module, part, recipe, generator, settings["image_size"])
        case "tones":
            return _tones(module, part, recipe, generator)
        case "sentences":
            return _sentences(module, part, recipe, generator)
        case other:
            raise ValueError(f"no such task: {other!r}")


def logits_of(module: nn.Module, given: torch.Tensor) -> torch.Tensor:
    """Return a network's logits, whatever it wraps them in."""
    out = module(given)
    return out if isinstance(out, torch.Tensor) else out.logits


def _windows(ids: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    starts = torch.randint(len(ids) - recipe.length - 1, (recipe.batch,), generator=generator)
    return torch.stack([ids[at : at + recipe.length] for at in starts.tolist()])


def _next(module: nn.Module, ids: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> Task:
    def loss(batch: Batch) -> torch.Tensor:
        logits = logits_of(module, batch[0])[:, :-1]
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch[0][:, 1:].reshape(-1))

    return lambda: (_windows(ids, recipe, generator),), loss


def _masked(
    module: nn.Module, part: str, recipe: Recipe, generator: torch.Generator, vocabulary: int
) -> Task:
    """A fifth of the tokens are replaced by the last id of the vocabulary."""
    ids = data.tokens(part, min(vocabulary - 1, 256))

    def draw() -> Batch:
        window = _windows(ids, recipe, generator)
        hidden = torch.rand(window.shape, generator=generator) < 0.2
        return window.masked_fill(hidden, vocabulary - 1), window.masked_fill(~hidden, -100)

    def loss(batch: Batch) -> torch.Tensor:
        logits = logits_of(module, batch[0])
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch[1].reshape(-1))

    return draw, loss


def _images(
    module: nn.Module, part: str, recipe: Recipe, generator: torch.Generator, size: int
) -> Task:
    pictures, classes = data.images(part, size)

    def draw() -> Batch:
        chosen = torch.randint(len(pictures), (recipe.batch,), generator=generator)
        return pictures[chosen], classes[chosen]

    return draw, lambda batch: F.cross_entropy(logits_of(module, batch[0]), batch[1])


def _tones(module: nn.Module, part: str, recipe: Recipe, generator: torch.Generator) -> Task:
    def loss(batch: Batch) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(logits_of(module, batch[0]), batch[1])

    return lambda: data.tones(part, recipe.batch, generator), loss


def _sentences(module: nn.Module, part: str, recipe: Recipe, generator: torch.Generator) -> Task:
    """Of a batch of sentences, say which follows each: as in `bert.py`."""
    pairs = data.sentence_pairs(part)

    def draw() -> Batch:
        chosen = torch.randperm(len(pairs), generator=generator)[: recipe.batch].tolist()
        rows = [pairs[i][side] for side in (0, 1) for i in chosen]
        return (bert.padded(rows),)

    def loss(batch: Batch) -> torch.Tensor:
        keep = batch[0] != 0
        out = module(input_ids=batch[0], attention_mask=keep.long())
        mean = (out.last_hidden_state * keep[:, :, None]).sum(1) / keep.sum(1, keepdim=True)
        return bert.contrast(mean) + 0.5 * bert.contrast(out.pooler_output)

    return draw, loss


def distilled_loss(student: nn.Module, teacher: nn.Module) -> Callable[[Batch], torch.Tensor]:
    """Return the loss of a student that has only its teacher's answers to learn from."""
    teacher.eval()

    def loss(batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            wanted = logits_of(teacher, batch[0])
        seen = logits_of(student, batch[0])
        return F.kl_div(
            seen.log_softmax(-1).flatten(0, -2),
            wanted.log_softmax(-1).flatten(0, -2),
            log_target=True,
            reduction="batchmean",
        )

    return loss


def trained(module: nn.Module, dtype: torch.dtype) -> Weights:
    """Return what a training run would publish."""
    return {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in weights_of(module).items()
    }
