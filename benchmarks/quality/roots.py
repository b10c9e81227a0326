"""Roots of small families: who came first among two to five models that training alone made?

    python benchmarks/quality/roots.py [--zoo DIR ...] [--split tuning] [--only FAMILY ...]
                                       [--whole] [--json FILE] [--seed N]

Whole families have one root each, few for a share. Here parts are cut from them by lot, in which
the truth says who came first:

- `pair`: a model and one that a step of training made of it;
- `chain`: one, what came from it, and what came from that;
- `fork`: one and two that came from it;
- `run`: the states of one training run at hand, three or more;
- `run and more`: the same, two or more, and up to three that came from the last.

Each part is given to `infer`, from fingerprints, without names or order that tell. The root said is
counted as in the whole benchmark (`scores.roots`); without an answer it is not right. Beside it
stands how often a root is said, how often that is right, and the expected calibration error of its
probability: of the least probable edge that leaves it. Siblings whose parent is not at hand have no
root; said of them is how often one is said to be the other's parent.

With `--whole` families are given whole, with all that was made in them, and beside roots stands
what else the whole benchmark says of their edges.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import families as zoo
import numpy as np
import scores
from families import Family
from intervals import share
from scores import Answer, Said
from truth import Model, Truth

from lineage.fingerprints import Fingerprint, fingerprint
from lineage.graph import infer_graph

_MOST = {"pair": 16, "chain": 8, "fork": 8, "siblings": 8}
"""Parts of a kind that are drawn from a family, at most."""

_BINS = 10


def parts(truth: Truth, rng: random.Random) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the kind and the members of parts of a family."""
    children: dict[str, list[str]] = {}
    for name in truth.published:
        model = truth.models[name]
        if len(model.parents) == 1 and model.answers[0][0] == "finetune":
            children.setdefault(model.parents[0], []).append(name)
    at_hand = {name for name in truth.published if _is_trained(truth, name)}
    steps = [(p, c) for p in sorted(children) for c in children[p] if p in at_hand]
    found: dict[str, list[tuple[str, ...]]] = {"pair": list(steps)}
    found["chain"] = [(p, c, g) for p, c in steps for g in children.get(c, ())]
    found["fork"] = [(p, a, b) for p, a in steps for b in children[p] if a < b]
    apart = [(a, b) for p in sorted(children) for a in children[p] for b in children[p] if a < b]
    found["siblings"] = apart
    for kind, all_of_them in found.items():
        for members in rng.sample(all_of_them, min(_MOST[kind], len(all_of_them))):
            yield kind, members
    for run in _runs(truth, children, at_hand):
        if len(run) > 2:
            yield "run", run
        after = [c for c in children.get(run[-1], ()) if not _goes_on(truth, c)]
        if after:
            yield "run and more", (*run, *rng.sample(after, min(3, len(after))))


def _is_trained(truth: Truth, name: str) -> bool:
    model = truth.models[name]
    return not model.parents or model.answers[0][0] == "finetune"


def _goes_on(truth: Truth, name: str) -> bool:
    return truth.models[name].answers[:1] == (("finetune", "continued"),)


def _runs(
    truth: Truth, children: Mapping[str, Sequence[str]], at_hand: set[str]
) -> Iterator[tuple[str, ...]]:
    """Yield the states of every run of which two or more are at hand."""
    for first in sorted(at_hand):
        if truth.models[first].parents:
            continue
        run = [first]
        while following := [c for c in children.get(run[-1], ()) if _goes_on(truth, c)]:
            run.append(following[0])
        if len(run) > 1:
            yield tuple(run)


def cut(truth: Truth, members: Sequence[str]) -> Truth:
    """Return the truth of a part of a family: each has its nearest ancestor among the members."""
    of = {name: truth.models[name] for name in members}

    def above(name: str) -> tuple[str, ...]:
        for parent in truth.models[name].parents:
            return (parent,) if parent in of else above(parent)
        return ()

    return Truth(
        Model(name, above(name), model.answers, model.answers) for name, model in of.items()
    )


def said(prints: Mapping[str, Fingerprint], members: Sequence[str]) -> Answer:
    """Infer who came from whom among some models."""
    graph = infer_graph({name: prints[name] for name in members})
    return Answer(
        tuple(
            Said(e.parent, e.child, str(e.relation), e.how, e.coefficient, e.probability)
            for e in graph.edges
        )
    )


def record(truth: Truth, kind: str, members: Sequence[str], answer: Answer) -> dict[str, Any]:
    """Return what was said of a part's root, and whether that is right."""
    if kind == "siblings":
        return {"kind": kind, "members": list(members), "said": bool(answer.steps)}
    (found,) = scores.roots(cut(truth, members), answer)
    leaving = [e.probability or 0.0 for e in answer.steps if e.parent == found["said"]]
    return {
        "kind": kind, "members": list(members), "root": found["root"], "said": found["said"],
        "right": found["right"], "probability": min(leaving, default=None),
    }  # fmt: skip


def records(family: Family, seed: int) -> Iterator[dict[str, Any]]:
    """Yield a record for every part of a family."""
    truth, rng = family.truth, random.Random(f"{seed} {family.name}")
    prints: dict[str, Fingerprint] = {}
    for kind, members in parts(truth, rng):
        for name in members:
            if name not in prints:
                prints[name] = fingerprint(family.paths[name], cache=True)
        told = record(truth, kind, members, said(prints, members))
        yield {"family": family.name, "architecture": family.architecture, **told}


def whole(family: Family, seed: int) -> dict[str, Any]:
    """Return records of a whole family, by what they are of."""
    truth, names = family.truth, sorted(family.paths)
    random.Random(f"{seed} {family.name}").shuffle(names)
    known = {f"{k:04}": name for k, name in enumerate(names)}
    prints = {k: fingerprint(family.paths[name], cache=True) for k, name in known.items()}
    told = said(prints, list(prints))
    steps = [replace(e, parent=known[e.parent], child=known[e.child]) for e in told.edges]
    answer = Answer(tuple(steps))
    return {
        "roots": scores.roots(truth, answer), "edges": scores.edges(truth, answer),
        "said": scores.said(truth, answer), "models": scores.models(truth, answer),
    }  # fmt: skip


def of_whole(told: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the rows of the table of whole families."""
    roots, edges, said, models = (
        [r for one in told for r in one[kind]] for kind in ("roots", "edges", "said", "models")
    )
    edges = [r for r in edges if r["needed"]]
    sure = [r for r in said if not r["is_copy"] and r["probability"] is not None]
    yield f"| root of the family | {_words([r['right'] for r in roots])} |"
    yield f"| parent edges: recall | {_words([r['found'] for r in edges])} |"
    yield f"| parent edges: precision | {_words([r['right'] for r in said])} |"
    yield f"| exact set of parents | {_words([r['right'] for r in models])} |"
    error = f"{calibration(sure):.4f} of {len(sure)}"
    yield f"| edge probability: expected calibration error | {error} |"


def calibration(of: Sequence[Mapping[str, Any]]) -> float:
    """Return the expected calibration error of what records say with a probability."""
    told = [(r["probability"], r["right"]) for r in of if r["probability"] is not None]
    if not told:
        return float("nan")
    chance, right = np.array(told, float).T
    bins = np.minimum((chance * _BINS).astype(int), _BINS - 1)
    return float(sum(abs((chance - right)[bins == k].sum()) for k in range(_BINS)) / len(told))


def line(title: str, of: Sequence[Mapping[str, Any]]) -> str:
    """Return a row of the table."""
    told = [r for r in of if r["said"] is not None]
    cells = [
        title,
        _words([r["right"] for r in of]),
        _words([r["said"] is not None for r in of]),
        _words([r["right"] for r in told]),
        f"{calibration(told):.3f}",
    ]
    return f"| {' | '.join(cells)} |"


def _words(hits: Sequence[bool]) -> str:
    found = share(hits)
    if not found.count:
        return ""
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f}) of {found.count}"


def main() -> int:
    home = Path(__file__).parents[1]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, nargs="+", default=[home / ".cache" / "zoo"])
    parser.add_argument("--split", choices=("tuning", "report", "all"), default="tuning")
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--whole", action="store_true", help="families whole, and their edges")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    found: list[dict[str, Any]] = []
    try:
        for folder in chosen.zoo:
            for family in zoo.load(folder, split=chosen.split, only=chosen.only):
                print(family.name, file=sys.stderr)
                found += (
                    [whole(family, chosen.seed)] if chosen.whole else records(family, chosen.seed)
                )
    except zoo.ZooError as error:
        print(f"roots: {error}", file=sys.stderr)
        return 3
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))
    if chosen.whole:
        print("| figure | found |\n| --- | --- |", *of_whole(found), sep="\n")
        return 0
    with_root = [r for r in found if r["kind"] != "siblings"]
    print("| part | root right | root said | right when said | calibration error |")
    print("| --- | --- | --- | --- | --- |")
    print(line("all", with_root))
    for field in ("kind", "architecture"):
        for value in sorted({r[field] for r in with_root}):
            print(line(value, [r for r in with_root if r[field] == value]))
    apart = [r for r in found if r["kind"] == "siblings"]
    print(f"\nsiblings of whom one is said to be the other's parent: "
          f"{_words([r['said'] for r in apart])}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
