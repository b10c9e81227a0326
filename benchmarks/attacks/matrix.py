"""Makes the matrix: one model folder a row, and the truth about all of a family.

A family's folder holds what a solver may see (model folders) and `truth.json`: a list of records
with `path`, `related` (to the models that the truth's head calls `base` and `child`), the model it
was made of, every step and follow-up, where its maps are, and how far its answers moved.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import disguises
import folders
import lists
import numpy as np
import reshapes
import steps
from bench import Bench, Made
from folders import Folder
from lists import Row
from others import apart

TYPE = "lineage-attacks-truth-v1"
TOLERANCE = 1e-5
"""Of a pure disguise: the largest difference of answers, over their largest size."""


class MakingError(Exception):
    """A disguise that changed what a model says."""


def make(bench: Bench, row: Row) -> dict[str, Any]:
    """Make one row, write its folder and maps, and return its record.

    Raises:
        MakingError: If only disguises were worn and the model says something else.
    """
    known = bench.models.child if row.of == "child" else bench.shop.named(row.of)
    start = Made(bench.folder(known), {}, (known["id"],))
    made = functools.reduce(lambda at, step: steps.done(bench, row, at, step), row.steps, start)
    error = None
    if not made.changes:
        made = replace(made, model=_stored(made.model, bench.dtype))
        error = _moved(bench, known, made)
        if error is not None and error > TOLERANCE and bench.dtype == "F32":
            raise MakingError(f"{bench.shop.family.name} {row.name}: answers moved by {error:.1e}")
    model = steps.followed(bench, row, made)
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


# Families


def plan(bench: Bench, small: bool = False) -> list[Row]:
    """Return the rows that make sense for a family."""
    network = apart(bench.folder(bench.models.child))
    fitting = disguises.everything(network)
    alone = [n for n in disguises.OTHER_NAMES if disguises.DISGUISES[n].fits(network)]
    together = [both for both in lists.TOGETHER if set(both) <= set(fitting)]
    rows = lists.disguised([*((name,) for name in fitting), *together, ("everything",)], alone)
    others = [Row("shape", tuple(s.split("+")), f) for s, after in lists.SHAPES for f in after]
    others += [Row("shape", (s, "everything")) for s in lists.BOTH]
    others += [Row("partial", (s,)) for s in lists.PARTIAL if bench.models.strangers]
    others += [Row("limit", tuple(s.split("+")), f) for s, f in lists.LIMITS]
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


def make_family(bench: Bench, rows: Sequence[Row], go_on: bool = False) -> dict[str, Any]:
    """Make all rows of a family and the models they are compared with, and write the truth.

    Args:
        bench: Where.
        rows: What.
        go_on: Whether rows that the truth there already tells of are kept.
    """
    bench.out.mkdir(parents=True, exist_ok=True)
    there = _made_before(bench) if go_on else {}
    records = []
    for row in rows:
        if row.name in there:
            records.append(there[row.name])
            continue
        records.append(make(bench, row))
        bench.say(f"{bench.shop.family.name}/{row.name}")
        _write(bench, records)
    return _write(bench, records)


def _made_before(bench: Bench) -> dict[str, dict[str, Any]]:
    """Return the records of rows that are there whole, by name."""
    truth = bench.out / "truth.json"
    made = json.loads(truth.read_text())["made"] if truth.is_file() else []
    known = {model["id"] for model in bench.shop.truth["models"]}
    return {r["path"]: r for r in made if r["source"]["id"] in known}


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
        "roots": _roots(bench.shop.truth),
        "base": _path(models.base),
        "child": _path(models.child),
        "models": plain,
        "made": list(records),
    }
    partial = bench.out / "truth.json.partial"
    partial.write_text(json.dumps(document, indent=1) + "\n")
    partial.replace(bench.out / "truth.json")
    return document


def _roots(truth: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return of every root of a family its data, its first weights and whose student it is."""
    taught, known = truth["groups"]["distilled"], {m["id"]: m for m in truth["models"]}
    return {
        name: {
            "data": known[name]["made"].get("data"),
            "start": known[name]["made"].get("initial_weights"),
            "student_of": [root for m in taught.get(name, ()) for root in known[m]["root"]],
        }
        for name in truth["groups"]["trees"]
    }


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
