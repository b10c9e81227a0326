"""Cuts adapters out of full fine-tunes of the zoo, and counts whom `lineage infer` ties them to.

Beside them stand adapters that tell nothing of the kind: trained ones of the same bases, theirs cut
to a lower rank, and those cut out of a sibling that is not among the models.

    python benchmarks/extraction.py FAMILY... [--zoo DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

_HOME = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_HOME))

import ml_dtypes  # noqa: E402

from lineage.artifacts import read  # noqa: E402
from lineage.evidence.weights import some_rows  # noqa: E402
from lineage.graph import infer  # noqa: E402
from lineage.relation import Relation  # noqa: E402

Arrays = dict[str, np.ndarray]

SOURCES = ("light", "medium", "middle", "heavy", "medium-q8", "middle-q8", "other-z", "third-x")
"""Fine-tunes that adapters are cut out of, those that a family has; what was made of one hangs on
the same base."""

ABSENT = ("medium-again", "middle-again", "medium-w", "middle-z", "other-w", "third-y")
"""Siblings that are not among the models: what was cut out of them belongs to nobody."""

BESIDE = ("base", "other", "third", "twin", "touched", "base-int8", "medium-noise", "middle-noise",
          "base-lora8", "medium-chat", "middle-chat", "student")  # fmt: skip
"""Models that stand beside the sources."""

WAYS: dict[str, dict[str, Any]] = {
    "rank 2": {"rank": 2},
    "rank 8": {"rank": 8},
    "rank 48": {"rank": 48},
    "by threshold": {"least": 0.2},
    "rank 4, bfloat16": {"rank": 4, "dtype": ml_dtypes.bfloat16},
    "rank 4, alpha 16": {"rank": 4, "alpha": 16.0},
    "by threshold, one alpha": {"least": 0.2, "alpha": 16.0},
}
"""How adapters are cut out."""


def matrices(path: str) -> Arrays:
    """Return a model's weights of two dimensions, in float64."""
    with read(path) as model:
        return {
            item.name: some_rows(item, item.shape[0], 1 << 62).astype(np.float64)
            for item in model.items
            if len(item.shape) == 2 and item.dtype in {"F32", "F16", "BF16"}
        }


def cut_out(
    base: Arrays, child: Arrays, *, rank: int = 0, least: float = 0.0, alpha: float = 0.0,
    dtype: Any = np.float32,
) -> Arrays:  # fmt: skip
    """Return the largest directions of what a model changed, as PEFT stores an adapter.

    Args:
        base: What it was made from.
        child: The model.
        rank: Directions in each module; 0 for as many as are above `least` of the largest.
        least: A singular value over the largest.
        alpha: What a loader would multiply by, over the rank; 0 for 1.
        dtype: To store in.
    """
    found: Arrays = {}
    for name, weight in base.items():
        is_inside = any(part.isdigit() for part in name.split("."))
        if not is_inside or name not in child or child[name].shape != weight.shape:
            continue
        step = child[name] - weight
        if not step.any():
            continue
        left, values, right = np.linalg.svd(step, full_matrices=False)
        kept = min(rank or int((values > least * values[0]).sum()), len(values) // 2 + 8)
        root = np.sqrt(values[:kept] * (kept / alpha if alpha else 1.0))
        module = f"base_model.model.{name.removesuffix('.weight')}"
        found[f"{module}.lora_B.weight"] = (left[:, :kept] * root).astype(dtype)
        found[f"{module}.lora_A.weight"] = (root[:, None] * right[:kept]).astype(dtype)
    return found


def shortened(adapter: Arrays, rank: int) -> Arrays:
    """Return an adapter's largest directions."""
    found: Arrays = {}
    for name, right in adapter.items():
        if "lora_A" not in name:
            continue
        other = name.replace("lora_A", "lora_B")
        u, s, v = np.linalg.svd(adapter[other] @ right, full_matrices=False)
        found[other] = (u[:, :rank] * s[:rank]).astype(np.float32)
        found[name] = v[:rank].astype(np.float32)
    return found


def cases(zoo: Path, family: str) -> tuple[dict[str, Any], dict[str, tuple[str, str] | None]]:
    """Return models and adapters of a family, and of each adapter its base and source."""
    truth = json.loads((zoo / f"{family}.truth.json").read_text())
    by_id = {m["id"]: m for m in truth["models"]}
    path = {m["name"]: str(zoo / family / m["path"]) for m in truth["models"] if m["path"]}

    def base_of(name: str) -> str:
        model = next(m for m in truth["models"] if m["name"] == name)
        while model["relation"] not in (None, "finetune"):
            model = by_id[model["parents"][0]]
        return str(by_id[model["parents"][0]]["name"])

    sources = [name for name in SOURCES if name in path]
    models: dict[str, Any] = {n: path[n] for n in (*sources, *BESIDE) if n in path}
    answer: dict[str, tuple[str, str] | None] = {}
    for name in sources:
        base = base_of(name)
        if base not in path or ("-q" in name and base == name):
            continue
        pair = matrices(path[base]), matrices(path[name])
        for way, how in WAYS.items():
            key = f"{name} ({way})"
            models[key], answer[key] = cut_out(*pair, **how), (base, name)
    for name in ABSENT:
        if name in path and name not in models and (base := base_of(name)) in path:
            key = f"{name} (absent)"
            models[key] = cut_out(matrices(path[base]), matrices(path[name]), rank=8)
            answer[key] = None
    for one in truth["adapters"]:
        key = f"trained on {by_id[one['base']]['name']}, {one['kind']} {one['rank']}"
        models[key], answer[key] = str(zoo / one["path"]), None
        if one["kind"] == "lora" and one["rank"] >= 4:
            cut = f"{key}, cut (of a merged adapter)"
            models[cut] = shortened(matrices(models[key]), one["rank"] // 2)
            merged = by_id[one["merged"]]["name"]
            answer[cut] = (by_id[one["base"]]["name"], merged) if merged in models else None
    return models, answer


def score(zoo: Path, family: str, *, deep: bool) -> dict[str, list[tuple[str, bool]]]:
    """Return, by kind of adapter, whether each was tied to what it was cut out of.

    Those of nobody are right where none is said to be their source. What was cut out of a rounded
    model is right only where it is tied to that, and not to the model before the rounding. What was
    cut of a trained adapter is a part of what the model changed that it was merged into.
    """
    models, answer = cases(zoo, family)
    graph = infer(models, deep=deep)
    told = {
        edge.child: edge.parent
        for edge in graph.edges
        if edge.relation is Relation.ADAPTER and edge.how == "extracted"
    }
    bases = {
        edge.child: edge.parent
        for edge in graph.edges
        if edge.relation is Relation.ADAPTER and edge.how is None
    }
    found: dict[str, list[tuple[str, bool]]] = {}
    for key, true in answer.items():
        if true is None:
            found.setdefault("of nobody here", []).append((key, key not in told))
        else:
            way = key[key.rindex("(") + 1 : -1]
            is_right = (bases.get(key), told.get(key)) == true
            found.setdefault(way, []).append((key, is_right))
    return found


def main() -> None:
    """Run from a shell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="+", metavar="FAMILY")
    parser.add_argument("--zoo", type=Path, default=_HOME / "benchmarks" / ".cache" / "zoo")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Write every answer here.")
    args = parser.parse_args()
    answers: dict[str, Any] = {}
    table: dict[str, list[list[bool]]] = {}
    for family in args.families:
        for place, deep in enumerate((False, True)):
            found = score(args.zoo, family, deep=deep)
            answers[f"{family}, {'weights' if deep else 'fingerprints'}"] = found
            for kind, told in found.items():
                table.setdefault(kind, [[], []])[place] += [right for _, right in told]
    print("| adapters | from fingerprints | with --deep |\n| --- | --- | --- |")
    for kind, both in table.items():
        print(f"| {kind} | {' | '.join(f'{sum(one)}/{len(one)}' for one in both)} |")
    if args.json is not None:
        args.json.write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    main()
