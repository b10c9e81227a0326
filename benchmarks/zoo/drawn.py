"""Families drawn by lot, to fit odds on: other sizes, recipes and trees than anyone would think of.

Each is one small architecture with one base, perhaps checkpoints of its run, and fine-tunes of
whatever came before, on data that are the same, near or far. All of them are for tuning. Those of
`others` have architectures that no named family has; those of `plain` are networks that train in
seconds, by any optimizer, until there is little left to learn.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from recipes import Family, Recipe, Row, Shape, row

_ARCHITECTURES = ("llama", "gpt2", "vit", "neox", "resnet", "qwen2", "lstm", "bert")
_OTHERS = ("opt", "convnext", "gru", "bart", "bloom", "mixer", "phi", "gemma")
_PICTURES = frozenset({"vit", "resnet", "convnext", "mixer"})
_TEXTS = (
    "models", "licences", "algebra", "numbers", "manual", "headers", "stubs", "network", "tools",
    "tables", "unicode", "torch",
)  # fmt: skip
_IMAGES = (
    "digits", "digits-turned", "digits-inverted", "digits-mirrored", "digits-even", "digits-odd",
)  # fmt: skip
_GLYPH_PARTS = ("capitals", "small", "signs", "greek", "cyrillic")
_LAYERS = {"resnet": 4, "lstm": 2, "gru": 2, "convnext": 2}
_FINE_TUNES = 20
_DECAYS = (0.0, 0.01, 0.1)


def drawn(count: int) -> dict[str, Family]:
    """Return so many families, always the same ones."""
    return _families("drawn", _ARCHITECTURES, count, 7000, 700)


def others(count: int) -> dict[str, Family]:
    """Return so many families of the architectures of `others`, always the same ones."""
    return _families("other", _OTHERS, count, 11000, 11000)


def _families(
    name: str, kinds: Sequence[str], count: int, lots: int, seeds: int
) -> dict[str, Family]:
    found = {}
    for number in range(1, count + 1):
        kind = kinds[(number - 1) % len(kinds)]
        own = f"{name}-{number:02}"
        found[own] = _family(own, kind, seeds + number, random.Random(lots + number))
    return found


def _family(name: str, kind: str, seed: int, lot: random.Random) -> Family:
    layers = _LAYERS.get(kind) or lot.choice((2, 3, 4))
    shape, settings = _sizes(kind, layers, lot)
    names = lot.sample(_IMAGES if kind in _PICTURES else _TEXTS, 6)
    parts = dict(zip("pqwxyz", names, strict=True))
    if kind not in _PICTURES and lot.random() < 0.5:
        parts["z"] = f"{parts['p']}+{parts['z']}"
    recipe = Recipe(
        optimizer="sgd" if kind == "resnet" else lot.choice(("adamw", "adamw", "adam")),
        rate=0.04 if kind == "resnet" else 10 ** lot.uniform(-3.2, -2.5),
        schedule=lot.choice(("linear", "cosine", "constant")),
        warmup=lot.choice((0.0, 0.05, 0.15)),
        decay=5e-4 if kind == "resnet" else lot.choice((0.0, 0.01, 0.1)),
        length=lot.choice((40, 64)),
        batch=16 if kind in _PICTURES else 8,
        steps=lot.randrange(160, 320),
        clip=lot.choice((0.0, 1.0)) if kind != "resnet" else 5.0,
        beta2=lot.choice((0.95, 0.98, 0.999)),
    )
    tuning: dict[str, Any] = {"schedule": lot.choice(("linear", "cosine", "constant"))}
    if kind != "resnet":
        tuning["optimizer"] = "adamw"
    stored = lot.choice(("fp32", "fp32", "bf16"))
    plan = tuple(_plan(lot, layers))
    return Family(
        name, "tuning", kind, seed, shape, settings, parts, recipe, plan, tuning, stored
    )  # fmt: skip


def plain(count: int) -> dict[str, Family]:
    """Return so many families of plain networks, always the same ones."""
    found = (_plain_family(number) for number in range(1, count + 1))
    return {family.name: family for family in found}


_RATES = {
    "adamw": (-3.4, -2.3), "adam": (-3.4, -2.3), "rmsprop": (-3.6, -2.7), "sgd": (-2.2, -1.2),
    "plain-sgd": (-1.4, -0.4),
}  # fmt: skip
"""Logarithms of the least and the greatest learning rate of each optimizer."""


def _plain_family(number: int) -> Family:
    lot = random.Random(9000 + number)
    kind = "perceptron" if number % 3 else "convolutions"
    layers = lot.choice((2, 2, 2, 3)) if kind == "perceptron" else lot.choice((2, 3, 4))
    norms = ("none", "none", "layer", "batch") if kind == "perceptron" else ("none", "batch")
    settings = {
        "image_size": lot.choice((8, 8, 12)),
        "num_labels": 26,
        "activation": lot.choice(("relu", "relu", "gelu", "tanh", "silu")),
        "norm": lot.choice(norms),
        "start": lot.choice(("pytorch", "pytorch", "xavier", "he")),
    }
    wide = lot.choice((48, 64, 96, 128, 192)) if kind == "perceptron" else lot.choice((12, 16, 24))
    pictures = _IMAGES if lot.random() < 0.7 else (*_GLYPH_PARTS, "digits")
    names = lot.sample(pictures, 6)
    optimizer = lot.choice(tuple(_RATES))
    recipe = Recipe(
        optimizer=optimizer,
        rate=10 ** lot.uniform(*_RATES[optimizer]),
        schedule=lot.choice(("linear", "cosine", "constant", "constant")),
        warmup=lot.choice((0.0, 0.0, 0.1)),
        decay=lot.choice(_decays(optimizer)),
        batch=lot.choice((16, 32, 64)),
        steps=lot.choice((200, 400, 800, 1600)),
        clip=0.0,
    )
    tuning: dict[str, Any] = {"schedule": lot.choice(("linear", "cosine", "constant"))}
    if lot.random() < 0.4:
        other = lot.choice(tuple(_RATES))
        tuning |= {"optimizer": other, "rate": 10 ** lot.uniform(*_RATES[other])}
    decays = _decays(tuning.get("optimizer", optimizer))
    plan = tuple(_plan(lot, layers, decays, longer=lot.choice((1, 1, 4))))
    return Family(
        f"plain-{number:02}", "tuning", kind, 9000 + number, Shape(layers, mlp=wide), settings,
        dict(zip("pqwxyz", names, strict=True)), recipe, plan, tuning,
        lot.choice(("fp32", "fp32", "bf16")),
    )  # fmt: skip


def _decays(optimizer: str) -> tuple[float, ...]:
    """Return what is usual; all but AdamW decay by way of the gradient."""
    return _DECAYS if optimizer == "adamw" else (0.0, 0.0, 1e-4, 1e-3)


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
    if kind in {"convnext", "mixer", "gru"}:
        return _other_sizes(kind, layers, width, mlp, lot)
    if kind == "bart":
        both = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
        return Shape(layers, 257, mlp), {
            "d_model": width, **both, "init_std": spread["initializer_range"],
        }  # fmt: skip
    if kind == "bloom":
        return Shape(layers, 256), {"hidden_size": width, "n_head": 4, **spread}
    if kind == "gpt2":
        return Shape(layers, 256, mlp), {"n_embd": width, "n_head": 4, **spread}
    heads: dict[str, Any] = {"hidden_size": width, "num_attention_heads": 4, **spread}
    if kind in {"llama", "qwen2", "gemma"}:
        heads["num_key_value_heads"] = lot.choice((2, 4))
    if kind == "gemma":
        heads["head_dim"] = width // 4
    return Shape(layers, 257 if kind == "bert" else 256, mlp), heads


def _other_sizes(
    kind: str, layers: int, width: int, mlp: int, lot: random.Random
) -> tuple[Shape, Mapping[str, Any]]:
    images = {"image_size": 8, "patch_size": 2, "num_labels": 10}
    if kind == "gru":
        return Shape(layers, 256), {"width": width}
    if kind == "mixer":
        return Shape(layers, mlp=mlp), {"width": width, **images}
    sizes = {"hidden_sizes": (width // 2, width), "layer_scale_init_value": lot.choice((0.1, 1.0))}
    return Shape(layers), {**sizes, **images, "initializer_range": lot.choice((0.02, 0.05))}


def _plan(
    lot: random.Random, layers: int, decays: Sequence[float] = _DECAYS, longer: int = 1
) -> Iterator[Row]:
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
            options = _options(lot, layers, decays, longer)
        yield row(name, "tune", parent, hidden=hidden, **options)
        told.append((name, parent, options))
        weight[name] = 1.5 if hidden else 0.7
    names = [name for name, _, _ in told]
    parents = {name: parent for name, parent, _ in told}
    beside = [(a, b) for a, b in combinations(names, 2) if parents[a] == parents[b]]
    a, b = lot.choice(beside) if beside else lot.sample(names, 2)
    share = lot.choice((0.3, 0.5, 0.6))
    yield row("merged", "linear", a, b, weights=(share, 1 - share))
    yield row("merged-on", "tune", "merged", **_options(lot, layers, decays, longer))


def _run(name: str, before: str | None, until: float) -> Row:
    if before is None:
        return row(name, "begin", seed=1, until=until)
    return row(name, "go_on", before, until=until)


def _options(
    lot: random.Random, layers: int, decays: Sequence[float], longer: int
) -> dict[str, Any]:
    options: dict[str, Any] = {
        "part": lot.choice("pqwwxxyyzz"),
        "steps": longer * lot.choice((20, 30, 40, 60, 90)),
        "decay": lot.choice(decays),
    }
    if lot.random() < 0.08:
        options["rate"] = 2e-5
    else:
        options["pace"] = 10 ** lot.uniform(-1.8, 0.0)
    if lot.random() < 0.06 and layers > 2:
        options["last"] = 1
    return options
