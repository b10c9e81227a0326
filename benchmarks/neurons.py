"""What neuron sketches alone find: of relatives in other coordinates, and of strangers.

    python benchmarks/neurons.py FOLDER... [--json FILE]

FOLDER is a family that `benchmarks/attacks --make` wrote (with its `truth.json`), or one of the zoo
(with `FAMILY.truth.json` beside it). Every model is sketched once; then every pair of two sketches
is looked at, but for pairs of two disguised models, and no weights are. Trainings of one
initialisation count neither as kin nor as strangers, and what was put together from several models
is no stranger of any of these. Progress goes to stderr, a table to stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from lineage.artifacts import read
from lineage.artifacts.tokens import tokens_of
from lineage.evidence.neurons import common_units
from lineage.fingerprints.neurons import Neurons, neurons


@dataclass(frozen=True)
class Model:
    """One model of a family, and what is true of it.

    Attributes:
        name: Its folder or file.
        kind: Of what sort it is: `model`, or what was done to it.
        roots: Where its weights come from.
        partly: Where some of them come from, besides.
        starts: Initial weights that they were trained from.
        sketch: What is kept of it.
    """

    name: str
    kind: str
    roots: frozenset[str]
    partly: frozenset[str]
    starts: frozenset[Any]
    sketch: Neurons | None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--json", type=Path, help="Write every pair here too.")
    options = parser.parse_args()
    told: list[dict[str, Any]] = []
    print(
        "| family | pairs | of | count | found | open | least share | median | largest | log10 p |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for folder in options.folders:
        rows = pairs(models_of(folder))
        told += [{"family": folder.name, **row} for row in rows]
        by_kind: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            by_kind[row["truth"], row["kind"]].append(row)
        for (truth, kind), some in sorted(by_kind.items()):
            print(f"| {folder.name} | {truth} | {kind} | {line(some)} |", flush=True)
    if options.json:
        document = {"_type": "lineage-neurons-v1", "pairs": told}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


def line(rows: list[dict[str, Any]]) -> str:
    """Pairs of one sort in numbers; p is the one nearest to the threshold's other side."""
    shares = sorted(row["share"] for row in rows)
    found, open_ = (sum(row[key] for row in rows) for key in ("found", "open"))
    p = [row["log10_p"] for row in rows]
    worst = max(p) if rows[0]["truth"] == "kin" else min(p)
    middle = shares[len(shares) // 2]
    ends = f"{shares[0]:.3f} | {middle:.3f} | {shares[-1]:.3f}"
    return f"{len(rows)} | {found} | {open_} | {ends} | {worst:.1f}"


def pairs(models: list[Model]) -> list[dict[str, Any]]:
    """What each pair's sketches say, and what is true."""
    rows = []
    for a, b in combinations(models, 2):
        if a.kind != "model" and b.kind != "model":
            continue
        seen = common_units(a.sketch, b.sketch)
        rows.append(
            {
                "a": a.name,
                "b": b.name,
                "kind": b.kind if a.kind == "model" else a.kind,
                "truth": truth(a, b),
                "found": seen is not None and seen.related is True,
                "open": seen is not None and seen.related is None,
                "share": 0.0 if seen is None else seen.best.share,
                "log10_p": 0.0 if seen is None else seen.log10_p,
            }
        )
    return rows


def truth(a: Model, b: Model) -> str:
    """What two models are to each other."""
    if a.roots & b.roots:
        return "kin"
    if (a.roots | a.partly) & (b.roots | b.partly):
        return "partly kin"
    return "one start" if a.starts & b.starts else "strangers"


def models_of(folder: Path) -> list[Model]:
    """The models of a family, sketched."""
    truth_file = folder / "truth.json"
    if truth_file.is_file():
        document = json.loads(truth_file.read_text())
        roots = {m["id"]: frozenset(m["roots"]) for m in document["models"]}
        begun = {root: one["start"] for root, one in document["roots"].items()}
        nothing: frozenset[str] = frozenset()
        told = [
            (m["path"], m.get("kind", "model"), frozenset(m["roots"]),
             nothing.union(*(roots.get(s, nothing) for s in m.get("sources", ()))),
             frozenset(begun[r] for r in m["roots"]))
            for m in document["models"] + document["made"]
        ]  # fmt: skip
    else:
        document = json.loads((folder.parent / f"{folder.name}.truth.json").read_text())
        begun = {m["id"]: m["made"].get("initial_weights") for m in document["models"]}
        told = [
            (m["path"], "model", frozenset(m["root"]), frozenset(),
             frozenset(begun.get(r) for r in m["root"]) - {None})
            for m in document["models"] if m["path"]
        ]  # fmt: skip
    found = []
    for path, *rest in told:
        if (folder / path).exists():
            found.append(Model(path, *rest, sketched(folder / path)))
    print(f"neurons: {folder.name}: {len(found)} models sketched", file=sys.stderr, flush=True)
    return found


def sketched(path: Path) -> Neurons | None:
    """A model's neuron sketch."""
    with read(path) as artifact:
        return neurons(artifact, tokens_of(path))


if __name__ == "__main__":
    sys.exit(main())
