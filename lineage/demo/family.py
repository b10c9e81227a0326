"""A family of eleven small, really trained models, laid out as a hub would, with its truth.

    base ─┬─ base-sft-code ─┬─ base-sft-code-v2
          │                 └──────────┐
          ├─ base-sft-docs ─┬────────── blend (0.6 code + 0.4 docs)
          │                 ├─ base-sft-docs-int8
          │                 └─ false-origin      (its card says: stranger)
          ├─ docs-lora
          └─ base-mirror                         (no card)
    stranger                                     (its card names no parent)
    false-heir                                   (its card says: base)

Every change is made by gradient descent on text that ships with Python, a different text for each
child; nothing is downloaded. Inference must not read the truth: it is for tests and readers.
"""

from __future__ import annotations

import importlib
import importlib.resources
import inspect
import json
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
from safetensors.numpy import save_file

from lineage.demo.network import (
    ALPHABET,
    Array,
    Schedule,
    Shape,
    Tokens,
    Weights,
    encode,
    initial,
    loss_on,
    projections,
    train,
    train_low_rank,
)
from lineage.relation import Relation


@dataclass(frozen=True, slots=True)
class Recipe:
    """How big the models are and how long each kind of training lasts."""

    shape: Shape
    scratch: Schedule
    tune: Schedule
    low_rank: Schedule
    rank: int = 4
    shards: int = 3


STANDARD = Recipe(
    shape=Shape(width=64, layers=2, heads=4, hidden=176, context=64),
    scratch=Schedule(steps=300, rate=4e-3, decay=0.5),
    tune=Schedule(steps=100, rate=2e-3),
    low_rank=Schedule(steps=100, rate=6e-3),
)
"""118,000 weights a model; about a quarter of a minute for the family on two cores."""

MINIATURE = Recipe(
    shape=Shape(width=48, layers=1, heads=2, hidden=96, context=32),
    scratch=Schedule(steps=120, rate=6e-3, decay=0.5),
    tune=Schedule(steps=40, rate=3e-3),
    low_rank=Schedule(steps=40, rate=1e-2),
)
"""The same family in two or three seconds, for tests."""


@dataclass(frozen=True, slots=True)
class Parent:
    """One true parent: `coefficient` is the weight of a merge's ingredient, else None."""

    name: str
    relation: Relation
    how: str
    coefficient: float | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """What is true of one model.

    `change` is ‖c - p‖ / ‖p‖ over all matrices against the single parent; `losses` are the
    losses on its training text, in nats per character, before and after.
    """

    parents: tuple[Parent, ...] = ()
    declared: tuple[str, ...] = ()
    rank: int | None = None
    change: float | None = None
    losses: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Truth:
    """The whole family by model name, as it was really made."""

    seed: int
    members: Mapping[str, Member] = field(default_factory=lambda: MappingProxyType({}))

    def edges(self) -> tuple[tuple[str, str], ...]:
        """Return every true (parent, child), in the order the children were made."""
        return tuple((p.name, name) for name, m in self.members.items() for p in m.parents)

    def to_json(self) -> str:
        """Return the truth as indented JSON, for a person."""
        members = {name: asdict(member) for name, member in self.members.items()}
        return json.dumps({"seed": self.seed, "models": members}, indent=2) + "\n"


def make_family(
    out: Path,
    *,
    seed: int = 0,
    recipe: Recipe = STANDARD,
    progress: Callable[[str], None] | None = None,
) -> Truth:
    """Train the family and write one folder a model under `out`, and `out/truth.json`.

    Args:
        out: Where to write; made if missing, files of the same names are replaced.
        seed: Chooses every initial weight and batch. On one machine the same seed gives the same
            bytes; another BLAS may round otherwise.
        recipe: Sizes and lengths.
        progress: Told the name of each model when it is written.

    Returns:
        What was really done, which no model folder holds.
    """
    maker = _Maker(out, seed, recipe, progress or (lambda _: None))
    base = maker.train("base", None, "general")
    code = maker.train("base-sft-code", "base", "code")
    docs = maker.train("base-sft-docs", "base", "docs")
    maker.train("base-sft-code-v2", "base-sft-code", "mail")
    maker.train_low_rank("docs-lora", "base", "docstrings")
    maker.write(
        "blend",
        {name: np.float32(0.6) * code[name] + np.float32(0.4) * docs[name] for name in base},
        Member(
            (
                Parent("base-sft-code", Relation.MERGE, "linear", 0.6),
                Parent("base-sft-docs", Relation.MERGE, "linear", 0.4),
            ),
            ("base-sft-code", "base-sft-docs"),
        ),
    )
    maker.write(
        "base-sft-docs-int8",
        round_to_int8(docs, recipe),
        Member((Parent("base-sft-docs", Relation.QUANTIZED, "int8"),), ("base-sft-docs",)),
    )
    maker.write_mirror("base-mirror", "base")
    maker.train("stranger", None, "general")
    maker.train("false-heir", None, "general", declared=("base",))
    maker.train("false-origin", "base-sft-docs", "names", declared=("stranger",))
    truth = Truth(seed, MappingProxyType(maker.members))
    (out / "truth.json").write_text(truth.to_json(), encoding="utf-8")
    return truth


def round_to_int8(weights: Weights, recipe: Recipe) -> Weights:
    """Return `weights` with every projection rounded to 8-bit integers and scaled back.

    Symmetric, absmax, round to nearest, one scale for each output row; embeddings, head and norms
    stay as they are, and the result is stored dequantised as float32, code times scale. Eight-bit
    copies are usually published so: the scheme is that of LLM.int8 (arXiv 2208.07339) less its
    outlier columns, and a dequantised copy loads wherever the original did.
    """
    rounded = dict(weights)
    for name, _ in projections(recipe.shape):
        w = weights[name]
        scale = np.abs(w).max(axis=1, keepdims=True) / np.float32(127)
        rounded[name] = np.rint(w / np.where(scale > 0, scale, 1)) * scale
    return rounded


def relative_change(child: Mapping[str, Array], parent: Mapping[str, Array]) -> float:
    """Return ‖child - parent‖ / ‖parent‖ over all matrices together."""
    matrices = [name for name, value in parent.items() if value.ndim > 1]
    change = sum(float(np.square(child[n] - parent[n], dtype=np.float64).sum()) for n in matrices)
    size = sum(float(np.square(parent[n], dtype=np.float64).sum()) for n in matrices)
    return float((change / size) ** 0.5)


@cache
def corpus(domain: str) -> Tokens:
    """Return the text of one domain as tokens, at most 250,000 of them; all ship with Python."""
    return encode(_DOMAINS[domain]())[:250_000]


def _sources(*packages: str) -> str:
    files = [f for p in packages for f in importlib.resources.files(p).iterdir()]
    sources = sorted((f for f in files if f.name.endswith(".py")), key=str)
    return "".join(f.read_text(encoding="utf-8") for f in sources)


def _topics() -> str:
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    return "".join(topics[name] for name in sorted(topics))


def _docstrings() -> str:
    texts = []
    for module in map(importlib.import_module, ("builtins", "math", "itertools", "os", "decimal")):
        for _, thing in sorted(vars(module).items()):
            members = vars(thing).values() if inspect.isclass(thing) else ()
            texts += [inspect.getdoc(part) or "" for part in (thing, *members)]
    return "\n\n".join(texts)


def _names() -> str:
    return "\n".join(filter(None, (unicodedata.name(chr(i), "") for i in range(0x20, 0x2C00))))


_DOMAINS: dict[str, Callable[[], str]] = {
    "general": lambda: _sources("logging", "unittest", "json", "http"),
    "code": lambda: _sources("asyncio"),
    "mail": lambda: _sources("email"),
    "docs": _topics,
    "docstrings": _docstrings,
    "names": _names,
}


class _Maker:
    """Trains and writes models in turn, and keeps their weights and their truth."""

    def __init__(
        self, out: Path, seed: int, recipe: Recipe, progress: Callable[[str], None]
    ) -> None:
        self.out, self.seed, self.recipe, self.progress = out, seed, recipe, progress
        self.weights: dict[str, Weights] = {}
        self.members: dict[str, Member] = {}

    def train(
        self, name: str, parent: str | None, domain: str, declared: tuple[str, ...] | None = None
    ) -> Weights:
        """Train every weight, from scratch or from `parent`; the card is honest by default."""
        recipe, rng = self.recipe, self._rng()
        before = initial(recipe.shape, rng) if parent is None else self.weights[parent]
        schedule = recipe.scratch if parent is None else recipe.tune
        after, _ = train(before, corpus(domain), recipe.shape, schedule, rng)
        parents = () if parent is None else (Parent(parent, Relation.FINETUNE, "full"),)
        member = Member(
            parents,
            tuple(p.name for p in parents) if declared is None else declared,
            change=relative_change(after, before) if parents else None,
            losses=self._losses(before, after, domain),
        )
        return self.write(name, after, member)

    def train_low_rank(self, name: str, parent: str, domain: str) -> Weights:
        """Train an adapter on `parent` and merge it."""
        recipe, before = self.recipe, self.weights[parent]
        after, _ = train_low_rank(
            before, corpus(domain), recipe.shape, recipe.low_rank, self._rng(), rank=recipe.rank
        )
        member = Member(
            (Parent(parent, Relation.FINETUNE, "low_rank"),),
            (parent,),
            recipe.rank,
            relative_change(after, before),
            self._losses(before, after, domain),
        )
        return self.write(name, after, member)

    def _losses(self, before: Weights, after: Weights, domain: str) -> tuple[float, float]:
        text, shape = corpus(domain), self.recipe.shape
        return loss_on(before, text, shape), loss_on(after, text, shape)

    def write(self, name: str, weights: Weights, member: Member) -> Weights:
        """Write the folder of one model: weights, configuration, card."""
        folder = self._folder(name)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "README.md").write_text(_card(name, member.declared), encoding="utf-8")
        return self._keep(name, weights, member)

    def write_mirror(self, name: str, original: str) -> Weights:
        """Write a copy under other tensor names, in shards with an index, and with no card."""
        weights = {
            "transformer." + tensor.removeprefix("model."): value
            for tensor, value in self.weights[original].items()
        }
        folder, shards = self._folder(name), self.recipe.shards
        index: dict[str, str] = {}
        for shard in range(shards):
            file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
            tensors = {tensor: weights[tensor] for tensor in sorted(weights)[shard::shards]}
            save_file(tensors, folder / file, metadata={"format": "pt"})
            index |= dict.fromkeys(tensors, file)
        size = sum(value.nbytes for value in weights.values())
        _dump(
            folder / "model.safetensors.index.json",
            {"metadata": {"total_size": size}, "weight_map": dict(sorted(index.items()))},
        )
        renamed = Parent(original, Relation.IDENTICAL, "renamed")
        return self._keep(name, weights, Member((renamed,)))

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, len(self.members)])

    def _folder(self, name: str) -> Path:
        folder = self.out / name
        folder.mkdir(parents=True, exist_ok=True)
        _dump(folder / "config.json", _config(self.recipe.shape))
        return folder

    def _keep(self, name: str, weights: Weights, member: Member) -> Weights:
        self.weights[name], self.members[name] = weights, member
        self.progress(name)
        return weights


def _card(name: str, declared: tuple[str, ...]) -> str:
    if not declared:
        head = ""
    elif len(declared) == 1:
        head = f"base_model: {declared[0]}\n"
    else:
        head = "base_model:\n" + "".join(f"- {parent}\n" for parent in declared)
    return f"---\nlibrary_name: transformers\n{head}---\n\n# {name}\n"


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "max_position_embeddings": shape.context,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "vocab_size": len(ALPHABET),
    }


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
