"""Asks `lineage infer` whom each model of the matrix comes from, among all that stand beside it.

A run of `infer` sees the plain models of a family (base, child, siblings, strangers, students) and
one model that was made of one of them, under names that tell nothing. The child is that model's
parent, not the base, and not a sibling that was trained alike.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from shutil import copyfile
from typing import Any

from lists import FOLLOW_UPS

sys.path.append(str(Path(__file__).resolve().parents[1] / "quality"))

from commands import Nameless

_HOME = Path(__file__).resolve().parents[2]
_INFERRED = Path(__file__).with_name("inferred.py")
KINDS = ("disguise", "shape", "stranger", "partial", "limit")
AFTER: Mapping[str, Sequence[str]] = {
    "none": (),
    "tuned": ("finetune full", "finetune partial", "finetune continued"),
    "lora": ("finetune low_rank",),
    "int8": ("quantized int8",),
    "int4": ("quantized int4",),
    "pruned": ("pruned unstructured",),
    "bf16": ("quantized bf16",),
}
"""What may be said of each follow-up."""

SHAPES: Mapping[str, Sequence[str]] = {
    "layers-dropped": ("pruned depth",),
    "layers-repeated": ("expanded depth",),
    "layers-interleaved": ("merge passthrough",),
    "units-cut": ("pruned width",),
    "heads-cut": ("pruned width",),
    "width-cut": ("pruned width",),
    "tokens-grown": ("expanded vocabulary",),
    "tokens-cut": ("pruned width", "pruned None"),
    "experts-copied": ("expanded experts",),
    "experts-trained": ("expanded experts", "merge passthrough", "merge linear"),
    "experts-merged": ("expanded experts", "merge passthrough", "merge linear"),
    "experts-cut": ("expanded experts", "pruned width", "merge passthrough", "merge linear"),
}
"""And of each other shape; what was healed or rounded may be called that as well."""


@dataclass(slots=True)
class Child:
    """A model of the matrix and what was said of it.

    Attributes:
        family: Its.
        path: Its folder.
        kind, steps, follow_up: How it was made.
        sources: Folders of the models it was made of.
        told: The edges at it: `parent`, `child`, `relation`, `how`, `probability`, `then`.
        parent: Whether what it was made of, and nothing else, is called its parent.
        direction: Whether nothing is said to come from it.
        way: Whether what was done is named right; None where no parent is.
        accused: Folders that share no root with it and are called its parent, child or kin.
        seconds: That inferring took, with all models beside it; their fingerprints were known.
        note: What went wrong.
    """

    family: str
    path: str
    kind: str
    steps: str
    follow_up: str
    sources: list[str]
    told: list[dict[str, Any]] = field(default_factory=list)
    parent: bool = False
    direction: bool = False
    way: bool | None = None
    accused: list[str] = field(default_factory=list)
    seconds: float = inf
    note: str = ""


def children_of(truth: Mapping[str, Any], rows: Sequence[str]) -> list[Child]:
    """Return what was made in a family, or some of it."""
    path = {model["id"]: model["path"] for model in truth["models"]}
    found = []
    for made in truth["made"]:
        if made["kind"] in KINDS and (not rows or made["path"] in rows):
            steps = made["path"].removesuffix(f"+{made['follow_up']}")
            sources = [path[source] for source in made["sources"] if source in path]
            told = (truth["family"], made["path"], made["kind"], steps, made["follow_up"], sources)
            found.append(Child(*told))
    return found


def ask(
    children: Sequence[Child], truth: Mapping[str, Any], folder: Path, python: str, cores: int,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Infer once for each child, and note what is said of it."""
    plain = [model["path"] for model in truth["models"]]
    with tempfile.TemporaryDirectory() as work:
        names = [*plain, *(child.path for child in children)]
        place = Nameless(Path(work) / "models", {n: folder / n for n in names}, seed=0)
        for name, path in place.paths.items():  # token strings, which only say which row is which
            for file in (folder / name).glob("vocab.json"):
                copyfile(file, path / file.name)
        beside = [str(place.paths[name]) for name in plain]

        def some(members: Sequence[Child]) -> None:
            lines = [[*beside, str(place.paths[child.path])] for child in members]
            told = _told(lines, python)
            for number, child in enumerate(members, 1):
                judge(child, truth, next(told), place.name)
                if number % 10 == 0 or number == len(members):
                    say(f"{truth['family']}: {number} of {len(members)} inferred")

        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(some, (children[start::cores] for start in range(cores))))


def _told(lines: Sequence[Sequence[str]], python: str) -> Iterator[dict[str, Any]]:
    """Yield what `inferred.py` says of each line; where it ends early, that it did."""
    env = {**os.environ, "PYTHONPATH": str(_HOME), "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as words:
        words.writelines(json.dumps(line) + "\n" for line in lines)
        words.seek(0)
        with subprocess.Popen(
            [python, "-P", str(_INFERRED)], stdin=words, stdout=subprocess.PIPE, text=True, env=env
        ) as asked:
            assert asked.stdout is not None
            for line in asked.stdout:
                yield json.loads(line)
    while True:
        yield {"failed": f"exit status {asked.returncode}"}


def judge(
    child: Child, truth: Mapping[str, Any], told: Mapping[str, Any],
    name: Callable[[str], str | None],
) -> None:  # fmt: skip
    """Hold what `infer` says against the truth.

    Args:
        child: Filled in.
        truth: Of the family.
        told: A line of `inferred.py`.
        name: The model at a path.
    """
    if "failed" in told:
        child.note = str(told["failed"])
        return
    child.seconds, told = round(told["seconds"], 2), told["graph"]
    edges = [{**e, "parent": name(e["parent"]), "child": name(e["child"])} for e in told["edges"]]
    child.told = [edge for edge in edges if child.path in (edge["parent"], edge["child"])]
    into = [edge for edge in child.told if edge["child"] == child.path]
    parents = {edge["parent"] for edge in into}
    wanted = set(child.sources)
    is_merged = "layers-interleaved" in child.steps or "experts-trained" in child.steps
    child.parent = parents == wanted or (is_merged and bool(parents) and parents < wanted)
    child.direction = len(into) == len(child.told)
    child.way = all(_is_named(child, edge) for edge in into) if into else None
    roots = {model["path"]: set(model["roots"]) for model in truth["models"]}
    own = set().union(*(roots[source] for source in child.sources))
    kin = {frozenset((name(p["a"]), name(p["b"]))) for p in told["pairs"] if p["related"]}
    child.accused = [
        path
        for path, root in roots.items()
        if not root & own and frozenset((path, child.path)) in kin
    ]


def _is_named(child: Child, edge: Mapping[str, Any]) -> bool:
    """Whether an edge says what was done to a child."""
    steps = child.steps.split("+")
    shapes = [way for step in steps for way in SHAPES.get(step, ())]
    after = [*shapes, *AFTER[child.follow_up]]
    is_disguised = any(step not in SHAPES for step in steps)
    said = (edge["relation"], edge["how"])
    if is_disguised:
        if edge["relation"] != "reparametrized":
            return False
        then = edge.get("then")
        if then is None:
            return not after
        said = (then["relation"], then["how"])
    return f"{said[0]} {said[1]}" in after


def run(
    out: Path, names: Sequence[str], *, rows: Sequence[str], python: str, cores: int,
    say: Callable[[str], None],
) -> list[Child]:  # fmt: skip
    """Ask about every family of a made matrix.

    Args:
        out: Where the matrix lies.
        names: Of families.
        rows: Which of the models that were made; all if there are none.
        python: Runs `lineage`.
        cores: Processes at a time.
        say: Told how far it is.
    """
    found: list[Child] = []
    for name in names:
        truth = json.loads((out / name / "truth.json").read_text())
        children = children_of(truth, rows)
        ask(children, truth, out / name, python, cores, say)
        found += children
    return found


def markdown(children: Sequence[Child]) -> str:
    """Return the tables: by kind and follow-up, and every wrong answer by its name."""
    lines = ["| made | parent | direction | what was done | strangers | seconds |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    groups: dict[str, list[Child]] = {}
    order = {name: place for place, name in enumerate(FOLLOW_UPS)}
    for child in sorted(children, key=lambda c: (KINDS.index(c.kind), order[c.follow_up])):
        title = child.steps if child.kind in ("limit", "partial") else child.kind
        hidden = child.kind == "shape" and "everything" in child.steps.split("+")
        more = ", everything" if hidden else ""
        groups.setdefault(f"{title}{more}, then {child.follow_up}", []).append(child)
    for title, members in groups.items():
        cells = (
            f"{sum(c.parent for c in members)}/{len(members)}",
            f"{sum(c.direction for c in members)}/{len(members)}",
            f"{sum(c.way is True for c in members)}/{len(members)}",
            str(sum(len(c.accused) for c in members)),
            f"{max(c.seconds for c in members):.1f}",
        )
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += ["", "Wrong:", ""]
    for child in children:
        if not (child.parent and child.direction and child.way) or child.accused:
            lines.append(f"- {child.family}/{child.path}: {_said(child)}")
    return "\n".join(lines)


def _said(child: Child) -> str:
    said = []
    for edge in child.told:
        then = edge.get("then")
        more = f", then {then['relation']} {then['how']}" if then else ""
        way = f"{edge['relation']} {edge['how']}{more} ({edge['probability']})"
        said.append(f"{edge['parent']} -> {edge['child']} {way}")
    if child.accused:
        said.append(f"accused: {', '.join(child.accused)}")
    return "; ".join(said) or child.note or "nothing"


def document(children: Sequence[Child]) -> list[dict[str, Any]]:
    """Return what was said of every child, for JSON."""
    return [asdict(child) for child in children]
