"""The truth about a family, as the scoring of inference reads it."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recipes import Family

TYPE = "lineage-zoo-truth-v1"
Record = Mapping[str, Any]


def write(family: Family, records: Sequence[Record], path: Path) -> dict[str, Any]:
    """Write a family's truth and return it."""
    document = of(family, records)
    path.write_text(json.dumps(document, indent=1) + "\n")
    return document


def of(family: Family, records: Sequence[Record]) -> dict[str, Any]:
    """Return a family's truth."""
    by_id = {record["id"]: record for record in records}
    recipe = {**asdict(family.recipe), "for_fine_tunes": dict(family.tuning)}
    return {
        "_type": TYPE,
        "family": family.name,
        "split": family.split,
        "seed": family.seed,
        "architecture": {
            "name": family.architecture,
            **asdict(family.shape),
            **dict(family.settings),
        },
        "recipe": recipe | {"stored": family.stored},
        "data": dict(family.parts),
        "versions": {
            name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")
        },
        "models": [_model(record, by_id) for record in records],
        "groups": _groups(records, by_id),
        "adapters": [_adapter(family, record) for record in records if "adapter" in record["made"]],
    }


def _model(record: Record, by_id: Mapping[str, Record]) -> dict[str, Any]:
    relation, how = record["answers"][0] if record["answers"] else (None, None)
    number = record["id"]
    file = {"folder": number, "shards": number, "file": f"{number}.safetensors"}[record["form"]]
    shares = record["coefficients"]
    return {
        "id": number,
        "name": record["name"],
        "path": None if record["hidden"] else file,
        "hidden": record["hidden"],
        "parents": record["parents"],
        "relation": relation,
        "how": how,
        "accept": record["answers"],
        "accept_parents": _parent_sets(record),
        "coefficients": dict(zip(record["parents"], shares, strict=True)) if shares else None,
        "rank": record["rank"],
        "norm_change": dict(zip(record["parents"], record["change"] or [], strict=True)),
        "root": _roots(record, by_id),
        "visible": _visible(record, by_id),
        "made": record["made"],
    }


def _adapter(family: Family, record: Record) -> dict[str, Any]:
    """Return where an adapter's own file is, what it is an adapter of and what it was merged to."""
    return {
        "path": f"{family.name}.adapters/{record['id']}",
        "base": record["parents"][0],
        "merged": record["id"],
        "rank": record["made"]["rank"],
        "kind": record["made"]["adapter"],
    }


def _parent_sets(record: Record) -> list[list[str]]:
    """Return the sets of parents that are right: with and without those that need not be found."""
    needed = [parent for parent in record["parents"] if parent not in record["unneeded"]]
    return [record["parents"]] + ([needed] if record["unneeded"] else [])


def _roots(record: Record, by_id: Mapping[str, Record]) -> list[str]:
    """Return the roots that a model comes from: itself if it is one."""
    if not record["parents"]:
        return [record["id"]]
    found = [root for parent in record["parents"] for root in _roots(by_id[parent], by_id)]
    return list(dict.fromkeys(found))


def _visible(record: Record, by_id: Mapping[str, Record]) -> dict[str, Any]:
    """Return the nearest published ancestors, and what may be said of the step from them."""
    nearest: list[str] = []
    answers = list(record["answers"])
    for parent in record["parents"]:
        above = by_id[parent]
        if not above["hidden"]:
            nearest.append(parent)
            continue
        upper = _visible(above, by_id)
        nearest += upper["parents"]
        answers += [*upper["accept"], ("finetune", "full")]
    unique = [list(pair) for pair in dict.fromkeys(map(tuple, answers))]
    return {"parents": list(dict.fromkeys(nearest)), "accept": unique if nearest else []}


def _groups(records: Sequence[Record], by_id: Mapping[str, Record]) -> dict[str, Any]:
    """Return who belongs together: trees by their roots, equal starts, hidden siblings."""
    trees: dict[str, list[str]] = {}
    starts: dict[int, list[str]] = {}
    for record in records:
        roots = _roots(record, by_id)
        for root in roots:
            trees.setdefault(root, []).append(record["id"])
        initial = record["made"].get("initial_weights")
        if initial is not None:
            starts.setdefault(initial, []).append(record["id"])
    hidden = {record["id"] for record in records if record["hidden"]}
    return {
        "strangers": list(trees),
        "trees": trees,
        "shared_init": [group for group in starts.values() if len(group) > 1],
        "siblings_of_hidden": [
            [r["id"] for r in records if parent in r["parents"] and not r["hidden"]]
            for parent in sorted(hidden)
        ],
        "distilled": {
            r["id"]: [by_name["id"] for by_name in records if by_name["name"] in r["made"]["from"]]
            for r in records
            if r["made"]["by"] == "distil"
        },
    }


def summary(document: Mapping[str, Any]) -> str:
    """Return a line about a family."""
    models = document["models"]
    shown = [model for model in models if not model["hidden"]]
    edges = sum(len(model["parents"]) for model in shown)
    return (
        f"{document['family']}: {len(shown)} models, {edges} edges, "
        f"{sum(not model['parents'] for model in models)} roots, "
        f"{len(models) - len(shown)} hidden"
    )
