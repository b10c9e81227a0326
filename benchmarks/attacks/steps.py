"""What is done to a model, step by step, and what comes last."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import disguises
import experts
import numpy as np
import reshapes
from bench import Bench, Made
from folders import Folder
from lists import Row
from others import apart, together

_HEALING = {"steps": 60, "pace": 0.1}
_TUNING = {"steps": 36, "pace": 0.1}
_LONG = {"steps": 360, "pace": 1.0}
_ADAPTER = {"rank": 8, "where": "attention", "steps": 36, "pace": 0.3}


def done(bench: Bench, row: Row, at: Made, step: str) -> Made:
    """Return a model after one more step."""
    rng = np.random.default_rng([bench.seed(row), zlib.crc32(step.encode())])
    if step in STEPS:
        return STEPS[step](bench, at, rng)
    if step in reshapes.RESHAPES:
        network, maps = reshapes.RESHAPES[step].reshape(apart(at.model), rng)
        changes = at.changes or step != "units-split"
    else:
        network = apart(at.model)
        names = disguises.everything(network) if step == "everything" else [step]
        network, maps = disguises.hide(network, names, rng)
        changes = at.changes
    named = {_key(step, key): value for key, value in maps.items()}
    return replace(at, model=together(network), maps=at.maps | named, changes=changes)


def _key(step: str, key: str) -> str:
    return key if ":" in key else f"{step}:{key}"


def _number(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _layers(
    bench: Bench, at: Made, rng: np.random.Generator, maker: str, left: Sequence[int], **how: Any
) -> Made:
    model = bench.shop.mechanical(maker, [at.model], _number(rng), **how)
    maps = {f"layers-{maker}:order/layers": np.array(left)}
    return replace(at, model=model, maps=at.maps | maps, changes=True)


def _dropped(bench: Bench, at: Made, rng: np.random.Generator) -> Made:
    count = bench.shop.shape(at.model.config).layers
    gone = int(rng.integers(1, count - 1))
    left = [layer for layer in range(count) if layer != gone]
    return _layers(bench, at, rng, "dropped", left, layers=(gone,))


def _repeated(bench: Bench, at: Made, rng: np.random.Generator) -> Made:
    count = bench.shop.shape(at.model.config).layers
    first, again = count - 1, 1
    return _layers(bench, at, rng, "repeated", [*range(first), *range(again, count)], first=first,
                   again=again)  # fmt: skip


def _interleaved(bench: Bench, at: Made, rng: np.random.Generator) -> Made:
    """Take layers by turns of the child and of a sibling; `parents` says which."""
    count = bench.shop.shape(at.model.config).layers
    other = bench.models.siblings[int(rng.integers(len(bench.models.siblings)))]
    slices = [(i % 2, i, min(i + 2, count)) for i in range(count - 1)]
    both = [at.model, bench.folder(other)]
    model = bench.shop.mechanical("passthrough", both, _number(rng), slices=slices)
    picked = [(which, layer) for which, low, high in slices for layer in range(low, high)]
    maps = {
        "layers-interleaved:order/parents": np.array([which for which, _ in picked]),
        "layers-interleaved:order/layers": np.array([layer for _, layer in picked]),
    }
    sources = (*at.sources, other["id"])
    return Made(model, at.maps | maps, sources, changes=True)


def _grown(bench: Bench, at: Made, rng: np.random.Generator) -> Made:
    rows = bench.shop.shape(at.model.config).vocabulary
    model = bench.shop.mechanical("more_tokens", [at.model], _number(rng), count=16, noise=0.02)
    words = (at.model.vocabulary or {}) | {f"<added-{i}>": rows + i for i in range(16)}
    kept = np.concatenate([np.arange(rows), np.full(16, -1)])
    maps = {"tokens-grown:order/tokens": kept}
    return replace(at, model=replace(model, vocabulary=words), maps=at.maps | maps, changes=True)


def _copied(bench: Bench, at: Made, rng: np.random.Generator) -> Made:
    model = bench.shop.mechanical("experts", [at.model], _number(rng), count=4)
    model = replace(model, config=experts.mixed(at.model.config, 4))
    maps = {"experts-copied:experts": np.zeros(4, np.int64)}
    return replace(at, model=model, maps=at.maps | maps, changes=True)


def _trained(bench: Bench, at: Made, rng: np.random.Generator) -> Made:
    others = bench.models.siblings[:3]
    model, maps = experts.trained_apart([at.model, *map(bench.folder, others)], rng)
    named = {f"experts-trained:{key}": value for key, value in maps.items()}
    sources = (*at.sources, *(other["id"] for other in others))
    return Made(model, at.maps | named, sources, changes=True)


def _experts_cut(_bench: Bench, at: Made, rng: np.random.Generator) -> Made:
    model, maps = experts.cut(at.model, rng, left=2)
    named = {f"experts-cut:{key}": value for key, value in maps.items()}
    return replace(at, model=model, maps=at.maps | named)


def _experts_merged(_bench: Bench, at: Made, rng: np.random.Generator) -> Made:
    model, maps = experts.merged(at.model, rng, left=2)
    named = {f"experts-merged:{key}": value for key, value in maps.items()}
    return replace(at, model=model, maps=at.maps | named)


def _noise(share: float) -> Step:
    def add(bench: Bench, at: Made, rng: np.random.Generator) -> Made:
        model = bench.shop.mechanical("noised", [at.model], _number(rng), share=share)
        return replace(at, model=model, changes=True)

    return add


def _redrawn(bench: Bench, at: Made, rng: np.random.Generator) -> Made:
    model = bench.shop.with_new_rows(at.model, _number(rng), steps=120, pace=1.0)
    return replace(at, model=model, changes=True)


def _continued(bench: Bench, at: Made, rng: np.random.Generator) -> Made:
    model = _training(at, lambda m: bench.shop.tuned(m, _number(rng), part="q", **_LONG))
    return replace(at, model=model, changes=True)


def _embeddings(bench: Bench, at: Made, rng: np.random.Generator) -> Made:
    """Give a stranger the child's embeddings."""
    names = [n for n in bench.shop.architecture.tokens if n in at.model.arrays]
    return _given(bench, at, rng, names, layers=())


def _blocks(bench: Bench, at: Made, rng: np.random.Generator) -> Made:
    """Give a stranger one layer of the child's in the same place."""
    layer = int(rng.integers(bench.shop.shape(at.model.config).layers))
    names = [n for n in at.model.arrays if bench.shop.architecture.layer_of(n) == layer]
    return _given(bench, at, rng, names, layers=(layer,))


def _given(
    bench: Bench, at: Made, rng: np.random.Generator, names: Sequence[str], layers: Sequence[int]
) -> Made:
    other = bench.models.strangers[int(rng.integers(len(bench.models.strangers)))]
    stranger = bench.folder(other)
    arrays = stranger.arrays | {name: at.model.arrays[name] for name in names}
    size = sum(array.size for array in arrays.values())
    maps = {
        "partial:layers": np.array(layers, np.int64),
        "partial:share": np.array(sum(arrays[name].size for name in names) / size),
    }
    sources = (*at.sources, other["id"])
    return Made(replace(stranger, arrays=arrays), at.maps | maps, sources, changes=True)


Step = Callable[[Bench, Made, np.random.Generator], Made]
STEPS: dict[str, Step] = {
    "layers-dropped": _dropped,
    "layers-repeated": _repeated,
    "layers-interleaved": _interleaved,
    "tokens-grown": _grown,
    "experts-copied": _copied,
    "experts-trained": _trained,
    "experts-cut": _experts_cut,
    "experts-merged": _experts_merged,
    "rows-redrawn": _redrawn,
    "continued": _continued,
    "embeddings-copied": _embeddings,
    "blocks-copied": _blocks,
    "noise-3": _noise(0.03),
    "noise-10": _noise(0.1),
    "noise-30": _noise(0.3),
    "noise-100": _noise(1.0),
}


# Follow-ups


def followed(bench: Bench, row: Row, made: Made) -> Folder:
    """Do to a model what the row says comes last."""
    shop, seed = bench.shop, bench.seed(row) % 2**31
    healing = _HEALING if made.changes else _TUNING
    match row.follow_up:
        case "none" | "bf16":
            return made.model
        case "tuned":
            return _training(made, lambda m: shop.tuned(m, seed, part="w", **healing))
        case "lora":
            return _training(made, lambda m: shop.adapted(m, seed, part="w", **_ADAPTER))
        case "int8":
            return shop.mechanical("quantized", [made.model], seed, scheme="int8-rows")
        case "int4":
            scheme = "int4-groups-of-32"
            return shop.mechanical("quantized", [made.model], seed, scheme=scheme)
        case "pruned":
            return shop.mechanical("pruned", [made.model], seed, share=0.3)
        case other:
            raise ValueError(f"no such follow-up: {other!r}")


def _training(made: Made, train: Callable[[Folder], Folder]) -> Folder:
    """Train with the vocabulary in its old order, since texts are numbered by it.

    Training treats all rows alike, so their order makes no difference to it.
    """
    moves = [m for key, m in made.maps.items() if key.endswith(":order/tokens")]
    moved = [order for order in moves if (np.sort(order) == np.arange(len(order))).all()]
    model = made.model
    for order in reversed(moved):
        model = _renumbered(model, np.argsort(order))
    model = train(model)
    for order in moved:
        model = _renumbered(model, order)
    return model


def _renumbered(model: Folder, order: np.ndarray) -> Folder:
    return together(disguises.tokens_permuted.renumbered(apart(model), order))
