"""How well lineage inference does on families of real small networks, beside what is done today.

    python benchmarks/quality [--zoo DIR ...] [--split report] [--baselines] [--json FILE]

Tables go to stdout, progress to stderr. Exit status 3 if a family got no answer.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import random
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import baselines
import dna
import families as zoo
import figures
import plots
import scores
import tables
from commands import HOME, CommandError, Lineage, Nameless
from families import Family
from figures import LISTS, Scored
from scores import Answer
from truth import Truth, together

_CACHE = HOME / "benchmarks" / ".cache"
_PICTURES = Path(__file__).resolve().parent
_ALONE = 40
"""Pairs of siblings, and of an initialisation, drawn by lot, that a family has compared alone."""


def main() -> int:
    options = _options()
    try:
        families = zoo.load(*options.zoo, split=options.split, only=options.only)
    except zoo.ZooError as error:
        print(f"quality: {error}", file=sys.stderr)
        return 3
    lineage = Lineage(options.work / "run", seed=options.seed, deep=options.deep)
    scored = {tables.OURS: Scored()}
    most = None if options.all_pairs else _ALONE
    failed = _score_lineage(lineage, families, scored[tables.OURS], options.seed, most)
    notes = list(lineage.notes)
    if options.baselines:
        notes += _score_baselines(families, scored, options.work)
    about = _about(options, families) | {"notes": notes, "failed": failed,
                                         "seconds": lineage.seconds}  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(_document(scored, about), indent=1) + "\n")
    if options.pictures:
        _draw(scored[tables.OURS], options.pictures)
    print(tables.markdown(scored, about))
    return 3 if failed else 0


def _score_lineage(
    lineage: Lineage, families: Sequence[Family], scored: Scored, seed: int, most: int | None
) -> list[str]:
    """Run the commands on each family, then on all of one architecture; return what failed."""
    failed = []
    answers: dict[str, Answer] = {}
    for family in families:
        _say(f"lineage: {family.name}, {len(family.truth.published)} models")
        try:
            answers[family.name], place = lineage.infer(family.name, family.paths)
        except CommandError as error:
            failed.append(f"{family.name}: {error}")
            continue
        _add_family(scored, family, answers[family.name])
        _add_alone(scored, family, lineage, place, seed, most)
    for architecture, members in zoo.by_architecture(families).items():
        truth, paths = _pool(members)
        try:
            if len(members) > 1:
                _say(f"lineage: all of {architecture}, {len(paths)} models")
                answer, _ = lineage.infer(f"all of {architecture}", paths)
            else:
                answer = _renamed(answers.get(members[0].name, Answer()), members[0].name)
        except CommandError as error:
            failed.append(f"all of {architecture}: {error}")
            continue
        _add_pool(scored, members, truth, answer)
    return failed


def _add_family(scored: Scored, family: Family, answer: Answer) -> None:
    for name in ("edges", "said", "models", "roots", "initialisation", "misses"):
        _add(scored, name, getattr(scores, name)(family.truth, answer),
             family=family.name, architecture=family.architecture)  # fmt: skip


def _add_alone(
    scored: Scored, family: Family, lineage: Lineage, place: Nameless, seed: int, most: int | None
) -> None:
    """Add what is said of pairs alone: every step, and of the others at most so many of a kind."""
    truth = family.truth
    steps = {
        (p, c) for c in truth.published for p in truth.models[c].parents if p in truth.published
    }
    starts = [(a, b) for a, b in truth.pairs() if truth.kind(a, b) == "shared_init"]
    chance = random.Random(seed)
    drawn = {
        pair for group in (starts, truth.siblings())
        for pair in chance.sample(group, len(group) if most is None else min(most, len(group)))
    }  # fmt: skip
    compared = lineage.compare(place, steps | drawn)
    about = {"family": family.name, "architecture": family.architecture}
    lone = scores.lone(truth, compared)
    inferred = lineage.infer_alone(place, [(r["parent"], r["child"]) for r in lone])
    _add(scored, "lone", lone, **about)
    _add(scored, "lone_edges", scores.lone_edges(truth, inferred), **about)
    _add(scored, "lone_siblings", scores.lone_siblings(truth, compared), **about)
    _add(scored, "initialisation_alone", scores.initialisation_alone(truth, compared), **about)


def _add_pool(scored: Scored, members: Sequence[Family], truth: Truth, answer: Answer) -> None:
    """Add what concerns all families of an architecture; a pair of one family is that family's."""
    architecture = members[0].architecture
    sizes = {family.name: family.sizes for family in members}
    for record in scores.pairs(truth, answer):
        a, b = (record[end].partition("/")[0] for end in "ab")
        record["same_sizes"] = sizes[a] == sizes[b]
        _add(scored, "pairs", [record], architecture=architecture, family=a if a == b else "")
    for name, field in (("pooled_edges", "child"), ("pooled_said", "child")):
        records = getattr(scores, name.removeprefix("pooled_"))(truth, answer)
        for record in records:
            family = record[field].partition("/")[0]
            _add(scored, name, [record], architecture=architecture, family=family)


def _add(scored: Scored, name: str, records: Sequence[dict[str, Any]], **about: str) -> None:
    getattr(scored, name).extend({**about, **record} for record in records)


def _pool(families: Sequence[Family]) -> tuple[Truth, dict[str, Path]]:
    truth = Truth(together({f.name: list(f.truth.models.values()) for f in families}))
    paths = {f"{f.name}/{name}": path for f in families for name, path in f.paths.items()}
    return truth, paths


def _renamed(answer: Answer, family: str) -> Answer:
    """Return an answer about the same models by the names that they have among other families."""

    def pairs(known: Mapping[frozenset[str], Any]) -> dict[frozenset[str], Any]:
        return {frozenset(f"{family}/{n}" for n in ends): value for ends, value in known.items()}

    edges = tuple(
        scores.Said(f"{family}/{e.parent}", f"{family}/{e.child}", e.relation, e.how,
                    e.coefficient, e.probability)
        for e in answer.edges
    )  # fmt: skip
    return Answer(edges, pairs(answer.scores), pairs(answer.related))


def _score_baselines(
    families: Sequence[Family], scored: dict[str, Scored], work: Path
) -> list[str]:
    """Let every baseline answer for each family and for all of one architecture."""
    notes = []
    peer = None
    try:
        peer = dna.Dna(work / "peers")
    except dna.DnaError as error:
        notes.append(f"modeldna: {error}.")
    for name in (*baselines.BASELINES, *(["modeldna"] if peer else [])):
        scored[name] = Scored()

    def answers(title: str, truth: Truth, paths: Mapping[str, Path]) -> dict[str, Answer]:
        _say(f"baselines: {title}")
        measured = baselines.measure(paths)
        found = {name: ask(truth, measured) for name, ask in baselines.BASELINES.items()}
        if peer is not None:
            place = Nameless(work / "run" / "peer", paths, seed=0, folders_only=True)
            said = peer.pairs(place.paths)
            found["modeldna"] = dna.answer(truth, said)
            unread = dna.unread(truth, said)
            if unread:
                notes.append(f"modeldna says nothing of {len(unread)} models of {title}.")
        return found

    for family in families:
        for name, answer in answers(family.name, family.truth, family.paths).items():
            _add_family(scored[name], family, answer)
            scored[name].initialisation.clear()  # it has no threshold, or no word for it
            if name in baselines.TOLD_THE_ROOT:
                scored[name].roots.clear()
    for architecture, members in zoo.by_architecture(families).items():
        truth, paths = _pool(members)
        for name, answer in answers(f"all of {architecture}", truth, paths).items():
            _add_pool(scored[name], members, truth, answer)
    for name in set(scored) - {tables.OURS}:
        if not any(scored[name].said):  # a baseline without edges has no recall of zero
            for field in set(LISTS) - {"pairs"}:
                getattr(scored[name], field).clear()
    return notes


def _document(scored: Mapping[str, Scored], about: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"about": about, "figures": {}, "by_family": {}, "records": {}}
    for name, records in scored.items():
        told["figures"][name] = {k: f.to_json() for k, f in figures.table(records).items()}
    ours = scored[tables.OURS]
    for family in sorted({m["family"] for m in ours.models}):
        found = figures.table(ours.of(family=family))
        told["by_family"][family] = {k: f.to_json() for k, f in found.items()}
    told["records"] = {
        name: [{k: None if v == float("-inf") else v for k, v in r.items()}
               for r in getattr(ours, name)]
        for name in LISTS
    }  # fmt: skip
    return told


def _draw(ours: Scored, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cases = figures.probable(ours)
    if cases:
        picture = plots.reliability(figures.reliability(cases))
        (folder / "reliability.svg").write_text(picture)
    if alone := figures.probable_alone(ours):
        picture = plots.reliability(figures.reliability(alone), "Directions of pairs alone")
        (folder / "reliability-alone.svg").write_text(picture)
    if figures.full_steps(ours):
        (folder / "direction.svg").write_text(plots.directions(figures.direction_curve(ours)))


def _about(options: argparse.Namespace, families: Sequence[Family]) -> dict[str, Any]:
    names = ("model-lineage", "numpy", "scipy", "networkx", "safetensors", "ml_dtypes")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(), "seed": options.seed,
        "command": shlex.join(["python", "benchmarks/quality", *sys.argv[1:]]),
        "machine": f"{_processor()}, {len(os.sched_getaffinity(0))} cores, "
                   f"{platform.system()} {platform.release()}",
        "versions": versions,
        "families": [
            {"name": f.name, "architecture": f.architecture, "split": f.split,
             "models": len(f.truth.published), "truth_sha256": f.digest,
             "weights_sha256": _digest(f.paths)} for f in families
        ],
    }  # fmt: skip


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(HOME), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "lineage")
        return git("rev-parse", "HEAD") + (" and uncommitted changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _digest(paths: Mapping[str, Path]) -> str:
    """Return one digest of all weights of a family, in the order of the models' names."""
    whole = hashlib.sha256()
    for name, path in sorted(paths.items()):
        files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
        for file in files:
            with file.open("rb") as opened:
                whole.update(f"{name}/{file.name}\0".encode())
                whole.update(hashlib.file_digest(opened, "sha256").digest())
    return whole.hexdigest()


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/quality", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--zoo", type=Path, default=[_CACHE / "zoo"], nargs="+", metavar="DIR")
    parser.add_argument("--split", choices=("tuning", "report", "all"), default="report")
    parser.add_argument("--only", nargs="+", metavar="FAMILY", help="these families alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every record here")
    parser.add_argument("--pictures", type=Path, metavar="DIR", nargs="?", const=_PICTURES,
                        help="draw the plots here; without DIR, beside the README")  # fmt: skip
    parser.add_argument("--baselines", action="store_true", help="let the baselines answer too")
    parser.add_argument("--deep", action="store_true", help="let `lineage` read weights again")
    parser.add_argument("--all-pairs", action="store_true",
                        help=f"compare all siblings alone, not {_ALONE} a family")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the models' order and of lots")
    parser.add_argument("--work", type=Path, default=_CACHE / "quality", metavar="DIR")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
