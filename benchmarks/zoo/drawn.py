"""Families drawn by lot, to fit odds on: other sizes, recipes and trees than anyone would think of.

Each is one small architecture with one base, perhaps checkpoints of its run, and fine-tunes of
whatever came before, on data that are the same, near or far. All of them are for tuning.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from recipes import Family, Recipe, Row, Shape, row

_ARCHITECTURES = ("llama", "gpt2", "vit", "neox", "resnet", "qwen2", "lstm", "bert")
_TEXTS = (
    "models", "licences", "algebra", "numbers", "manual", "headers", "stubs", "network", "tools",
    "tables", "unicode", "torch",
)  # fmt: skip
_IMAGES = (
    "digits", "digits-turned", "digits-inverted", "digits-mirrored", "digits-even", "digits-odd",
)  # fmt: skip
_FINE_TUNES = 20


def drawn(count: int) -> dict[str, Family]:
    """Return so many families, always the same ones."""
    found = (_family(number) for number in range(1, count + 1))
    return {family.name: family for family in found}


def _family(number: int) -> Family:
    lot = random.Random(7000 + number)
    kind = _ARCHITECTURES[(number - 1) % len(_ARCHITECTURES)]
    layers = 4 if kind == "resnet" else 2 if kind == "lstm" else lot.choice((2, 3, 4))
    shape, settings = _sizes(kind, layers, lot)
    names = lot.sample(_IMAGES if kind in {"vit", "resnet"} else _TEXTS, 6)
    parts = dict(zip("pqwxyz", names, strict=True))
    if kind not in {"vit", "resnet"} and lot.random() < 0.5:
        parts["z"] = f"{parts['p']}+{parts['z']}"
    recipe = Recipe(
        optimizer="sgd" if kind == "resnet" else lot.choice(("adamw", "adamw", "adam")),
        rate=0.04 if kind == "resnet" else 10 ** lot.uniform(-3.2, -2.5),
        schedule=lot.choice(("linear", "cosine", "constant")),
        warmup=lot.choice((0.0, 0.05, 0.15)),
        decay=5e-4 if kind == "resnet" else lot.choice((0.0, 0.01, 0.1)),
        length=lot.choice((40, 64)),
        batch=16 if kind in {"vit", "resnet"} else 8,
        steps=lot.randrange(160, 320),
        clip=lot.choice((0.0, 1.0)) if kind != "resnet" else 5.0,
        beta2=lot.choice((0.95, 0.98, 0.999)),
    )
    tuning: dict[str, Any] = {"schedule": lot.choice(("linear", "cosine", "constant"))}
    if kind != "resnet":
        tuning["optimizer"] = "adamw"
    stored = lot.choice(("fp32", "fp32", "bf16"))
    name, seed = f"drawn-{number:02}", 700 + number
    plan = tuple(_plan(lot, layers))
    return Family(
        name, "tuning", kind, seed, shape, settings, parts, recipe, plan, tuning, stored
    )  # fmt: skip


def _sizes(kind: str, layers: int, lot: random.Random) -> tuple[Shape, Mapping[str, Any]]:
    width = lot.choice((64, 80, 96))
    mlp = 4 * lot.randrange(width // 3, width)
    spread = {"initializer_range": lot.choice((0.01, 0.02, 0.05))}
    if kind == "resnet":
        sizes = {"embedding_size": 16, "hidden_sizes": (16, 32, 48, 64), "depth": 1}
        images = {"image_size": 8, "num_labels": 10, "downsample_in_first_stage": False}
        return Shape(layers), sizes | images
    if kind == "lstm":
        return Shape(layers, 256), {"width": width + 32, "embedding": 48}
    if kind == "vit":
        images = {"image_size": 8, "patch_size": 2, "num_labels": 10}
        return Shape(layers, mlp=mlp), {
            "hidden_size": width, "num_attention_heads": 4, **images, **spread,
        }  # fmt: skip
    if kind == "gpt2":
        return Shape(layers, 256, mlp), {"n_embd": width, "n_head": 4, **spread}
    heads: dict[str, Any] = {"hidden_size": width, "num_attention_heads": 4, **spread}
    if kind in {"llama", "qwen2"}:
        heads["num_key_value_heads"] = lot.choice((2, 4))
    return Shape(layers, 257 if kind == "bert" else 256, mlp), heads


def _plan(lot: random.Random, layers: int) -> Iterator[Row]:
    """Yield a base and what was made of it; who gets a child is drawn, the base most often."""
    weight = {"base": 5.0}
    if lot.random() < 0.5:
        early = [until for until in (0.4, 0.7) if lot.random() < 0.7]
        before: str | None = None
        for until in early:
            name = f"base-{round(until * 100)}"
            yield _run(name, before, until)
            weight[name], before = 0.5, name
        yield _run("base", before, 1.0)
    else:
        yield _run("base", None, 1.0)
    told: list[tuple[str, str, dict[str, Any]]] = []
    for number in range(_FINE_TUNES):
        name, hidden = f"tune-{number:02}", lot.random() < 0.12
        parent = lot.choices(list(weight), list(weight.values()))[0]
        if told and lot.random() < 0.15:  # the same again, with another order of the data
            _, parent, options = lot.choice(told)
        elif lot.random() < 0.1:
            options = {"rank": lot.choice((2, 4, 8)), "pace": 0.4, "steps": 36, "part": "w"}
            yield row(name, "adapt", parent, **options)
            continue
        else:
            options = _options(lot, layers)
        yield row(name, "tune", parent, hidden=hidden, **options)
        told.append((name, parent, options))
        weight[name] = 1.5 if hidden else 0.7
    names = [name for name, _, _ in told]
    parents = {name: parent for name, parent, _ in told}
    beside = [(a, b) for a, b in combinations(names, 2) if parents[a] == parents[b]]
    a, b = lot.choice(beside) if beside else lot.sample(names, 2)
    share = lot.choice((0.3, 0.5, 0.6))
    yield row("merged", "linear", a, b, weights=(share, 1 - share))
    yield row("merged-on", "tune", "merged", **_options(lot, layers))


def _run(name: str, before: str | None, until: float) -> Row:
    if before is None:
        return row(name, "begin", seed=1, until=until)
    return row(name, "go_on", before, until=until)


def _options(lot: random.Random, layers: int) -> dict[str, Any]:
    options: dict[str, Any] = {
        "part": lot.choice("pqwwxxyyzz"),
        "steps": lot.choice((20, 30, 40, 60, 90)),
        "decay": lot.choice((0.0, 0.01, 0.1)),
    }
    if lot.random() < 0.08:
        options["rate"] = 2e-5
    else:
        options["pace"] = 10 ** lot.uniform(-1.8, 0.0)
    if lot.random() < 0.06 and layers > 2:
        options["last"] = 1
    return options
