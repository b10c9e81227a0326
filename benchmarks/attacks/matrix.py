"""Makes the matrix: one model folder a row, and the truth about all of a family.

A family's folder holds what a solver may see (model folders) and `truth.json`: a list of records
with `path`, `related` (to the models that the truth's head calls `base` and `child`), the model it
was made of, every step and follow-up, where its maps are, and how far its answers moved.
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import disguises
import experts
import folders
import lists
import numpy as np
import reshapes
from folders import Folder
from lists import Row
from networks import Maps
from others import apart, together
from workshop import Workshop

TYPE = "lineage-attacks-truth-v1"
TOLERANCE = 1e-5
"""Of a pure disguise: the largest difference of answers, over their largest size."""
_HEALING = {"steps": 60, "pace": 0.1}
_TUNING = {"steps": 36, "pace": 0.1}
_LONG = {"steps": 360, "pace": 1.0}
_ADAPTER = {"rank": 8, "where": "attention", "steps": 36, "pace": 0.3}


class MakingError(Exception):
    """A disguise that changed what a model says."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The models of a family that the matrix is made of.

    Attributes:
        base: Its root among what is published.
        child: A fine-tune of it; what is disguised.
        siblings: Other fine-tunes of the base.
        strangers: Roots and their descendants that share nothing with it.
        twins: Models of the same initial weights that share no training.
        students: Models trained on answers of others.
    """

    base: Mapping[str, Any]
    child: Mapping[str, Any]
    siblings: Sequence[Mapping[str, Any]]
    strangers: Sequence[Mapping[str, Any]]
    twins: Sequence[Mapping[str, Any]]
    students: Sequence[Mapping[str, Any]]


def chosen(shop: Workshop) -> Chosen:
    """Choose the child: the fully trained fine-tune of a base that has the most siblings.

    Raises:
        ValueError: If the family has no two fine-tunes of one base.
    """
    shown = [model for model in shop.truth["models"] if model["path"] is not None]
    full = [m for m in shown if m["accept"][:1] == [["finetune", "full"]] and _folder(m)]
    by_base: dict[str, list[Mapping[str, Any]]] = {}
    for model in full:
        by_base.setdefault(model["parents"][0], []).append(model)
    known = {model["id"]: model for model in shown}
    usual = {
        k: v for k, v in by_base.items() if k in known and known[k]["name"] in ("base", "other")
    }
    if not usual or max(map(len, usual.values())) < 2:
        raise ValueError(f"{shop.family.name}: no base with two fine-tunes")
    at = max(usual, key=lambda key: len(usual[key]))
    named = [m for m in usual[at] if m["name"] in ("medium", "middle")]
    child = (named or usual[at])[0]
    root = set(known[at]["root"])
    alone = [m for m in shown if not root & set(m["root"])]
    students = [m for m in alone if m["made"]["by"] == "distil"]
    starts = [set(group) for group in shop.truth["groups"]["shared_init"]]
    same = set().union(*(group for group in starts if group & root))
    twins = [m for m in alone if same & set(m["root"])]
    apart_ = [m for m in alone if m not in twins and m not in students and _folder(m)]
    siblings = [m for m in usual[at] if m is not child]
    return Chosen(known[at], child, siblings, apart_, twins, students)


def _folder(model: Mapping[str, Any]) -> bool:
    """Say whether a model is a folder of its own names, no copy and of the usual shape."""
    made = model["made"]["by"] not in ("renamed", "copied", "dropped", "narrowed", "repeated",
                                       "passthrough", "experts", "more_tokens")  # fmt: skip
    return made and "before" not in model["made"] and "." not in model["path"]


@dataclass(slots=True)
class Bench:
    """Where one family's matrix is made.

    Attributes:
        shop: The family.
        models: What the matrix is made of.
        out: The family's folder.
        dtype: What files are stored in.
        say: Told what has been made.
    """

    shop: Workshop
    models: Chosen
    out: Path
    dtype: str
    say: Callable[[str], None]
    _read: dict[str, Folder] = field(default_factory=dict)

    def folder(self, known: Mapping[str, Any]) -> Folder:
        """Return a model of the zoo."""
        if known["id"] not in self._read:
            self._read[known["id"]] = self.shop.read(known)
        return self._read[known["id"]]

    def seed(self, row: Row) -> int:
        """Return the seed of a row: its steps draw the same for every follow-up."""
        told = f"{self.shop.family.name}/{row.of}/{'+'.join(row.steps)}"
        return zlib.crc32(told.encode())


@dataclass(frozen=True, slots=True)
class Made:
    """A model on its way.

    Attributes:
        model: As it is.
        maps: What was done so far.
        sources: Which models of the zoo it was made of.
        changes: Whether a step changed what it says.
    """

    model: Folder
    maps: Maps
    sources: tuple[str, ...]
    changes: bool = False


def make(bench: Bench, row: Row) -> dict[str, Any]:
    """Make one row, write its folder and maps, and return its record.

    Raises:
        MakingError: If only disguises were worn and the model says something else.
    """
    known = bench.models.child if row.of == "child" else bench.shop.named(row.of)
    start = Made(bench.folder(known), {}, (known["id"],))
    made = functools.reduce(lambda at, step: _step(bench, row, at, step), row.steps, start)
    error = None
    if not made.changes:
        made = replace(made, model=_stored(made.model, bench.dtype))
        error = _moved(bench, known, made)
        if error is not None and error > TOLERANCE and bench.dtype == "F32":
            raise MakingError(f"{bench.shop.family.name} {row.name}: answers moved by {error:.1e}")
    model = _follow(bench, row, made)
    dtype = "BF16" if row.follow_up == "bf16" else bench.dtype
    folders.write(bench.out / row.name, _stored(model, dtype))
    maps = f"{row.name}.maps.npz"
    np.savez_compressed(bench.out / maps, **made.maps)
    return {
        "path": row.name,
        "kind": row.kind,
        "source": {"id": known["id"], "name": known["name"], "path": _path(known)},
        "sources": list(made.sources),
        "roots": known["root"],
        "related": row.kind != "stranger",
        "disguise": list(_spelled(bench, row)),
        "follow_up": row.follow_up,
        "maps": maps,
        "answers_moved": error,
    }


def _stored(model: Folder, dtype: str) -> Folder:
    return replace(model, arrays=folders.stored(model.arrays, dtype))


def _path(known: Mapping[str, Any]) -> str:
    return f"{known['name']}.model"


def _spelled(bench: Bench, row: Row) -> tuple[str, ...]:
    """Return the steps of a row, `everything` as what it is."""
    network = apart(bench.folder(bench.models.child))
    spelled: list[str] = []
    for step in row.steps:
        spelled += disguises.everything(network) if step == "everything" else [step]
    return tuple(spelled)


def _moved(bench: Bench, known: Mapping[str, Any], made: Made) -> float | None:
    """Return how far answers moved, over their largest size; None for another format."""
    if made.model.config["model_type"] == "lstm-onnx":
        return None
    order = next((m for key, m in made.maps.items() if key.endswith("order/tokens")), None)
    before = bench.shop.answers(bench.folder(known), seed=1)
    after = bench.shop.answers(made.model, 1, None if order is None else np.argsort(order))
    return float(np.abs(after - before).max() / np.abs(before).max())


# Steps


def _step(bench: Bench, row: Row, at: Made, step: str) -> Made:
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


def _follow(bench: Bench, row: Row, made: Made) -> Folder:
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


# Families


def plan(bench: Bench, small: bool = False) -> list[Row]:
    """Return the rows that make sense for a family."""
    network = apart(bench.folder(bench.models.child))
    fitting = disguises.everything(network)
    alone = [n for n in disguises.OTHER_NAMES if disguises.DISGUISES[n].fits(network)]
    rows = lists.disguised([*fitting, "everything"], alone)
    others = [Row("shape", tuple(s.split("+")), f) for s, after in lists.SHAPES for f in after]
    others += [Row("shape", (s, "everything")) for s in lists.BOTH]
    others += [Row("partial", (s,)) for s in lists.PARTIAL if bench.models.strangers]
    others += [Row("limit", tuple(steps.split("+")), f) for steps, f in lists.LIMITS]
    rows += [row for row in others if _makes_sense(bench, row)]
    strangers = [*bench.models.strangers, *bench.models.students]
    for model in [m for m in strangers if not m["parents"]][:4]:
        rows += [Row("stranger", ("everything",), f, of=model["name"]) for f in ("none", "tuned")]
    if small:
        kept = ("none", "tuned", "int4")
        rows = [row for row in rows if row.kind != "limit" and row.follow_up in kept]
    return rows


def _makes_sense(bench: Bench, row: Row) -> bool:
    network = apart(bench.folder(bench.models.child))
    gated, words = "0.gate.w" in network.parts, network.vocabulary is not None
    transformer = network.kind == "transformer"
    for step in row.steps:
        if step in reshapes.RESHAPES:
            if not reshapes.RESHAPES[step].fits(network):
                return False
        elif step.startswith("experts"):
            if not gated or len(bench.models.siblings) < 3:
                return False
        elif step in ("tokens-grown", "rows-redrawn", "embeddings-copied"):
            if not words:
                return False
        elif step.startswith(("layers", "blocks")) and not transformer:
            return False
    if "rows-redrawn" in row.steps and bench.shop.architecture.task == "sentences":
        return False
    return not ("tokens-cut" in row.steps and row.follow_up == "tuned")


def make_family(bench: Bench, rows: Sequence[Row]) -> dict[str, Any]:
    """Make all rows of a family and the models they are compared with, and write the truth."""
    bench.out.mkdir(parents=True, exist_ok=True)
    records = []
    for row in rows:
        records.append(make(bench, row))
        bench.say(f"{bench.shop.family.name}/{row.name}")
        _write(bench, records)
    return _write(bench, records)


def _write(bench: Bench, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    models = bench.models
    known = {
        "base": [models.base], "child": [models.child], "sibling": models.siblings,
        "stranger": models.strangers, "shared_init": models.twins, "student": models.students,
    }  # fmt: skip
    plain = [_plain(bench, model, role) for role, several in known.items() for model in several]
    document = {
        "_type": TYPE,
        "family": bench.shop.family.name,
        "split": bench.shop.family.split,
        "base": _path(models.base),
        "child": _path(models.child),
        "models": plain,
        "made": list(records),
    }
    (bench.out / "truth.json").write_text(json.dumps(document, indent=1) + "\n")
    return document


def _plain(bench: Bench, known: Mapping[str, Any], role: str) -> dict[str, Any]:
    """Write a model of the zoo with its configuration and vocabulary; return its record."""
    path = bench.out / _path(known)
    if not path.is_dir():
        folders.write(path, bench.folder(known))
    return {
        "path": path.name,
        "id": known["id"],
        "role": role,
        "roots": known["root"],
        "related": role in ("base", "child", "sibling"),
    }
