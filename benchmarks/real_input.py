"""The whole job on real input: copies, casts and trained descendants of a public sentence encoder.

    python benchmarks/real_input.py --json result.json

Fetches public weights (`fetch.py`), makes descendants (`descendants.py`), runs the public commands
as a person would, each in a process of its own, and holds what they say against the truth, which no
command reads. Exit status 1 if an exact copy is missed, an unrelated pair is called related, or a
claim, receipt or payout fails; other misses are in the table.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fetch
from descendants import BASE, TRUTH, make
from job import HOME, Job, saved, say
from judging import judge, judge_part, name_of, standing_for
from paying import prove
from telling import table

_SIBLINGS = (
    ("minilm-full", "minilm-other"),
    ("minilm-full", "minilm-partial"),
    ("minilm-other", "minilm-second"),
    ("minilm-lora8", "minilm-lora16"),
)
"""Related pairs of which neither comes from the other."""

_CHILDREN = ("minilm-full", "minilm-other", "minilm-partial", "minilm-lora8", "minilm-lora16",
             "minilm-second")  # fmt: skip
_PARTS = {
    "all trained children and the base": (BASE, *_CHILDREN),
    "the same, the base absent": _CHILDREN,
    "base and one child": (BASE, "minilm-full"),
    "base and two children": (BASE, "minilm-full", "minilm-other"),
    "three generations": (BASE, "minilm-full", "minilm-second"),
    "base and grandchild, its parent absent": (BASE, "minilm-second", "minilm-other"),
    "base, two children, their merge": (BASE, "minilm-full", "minilm-other", "minilm-merge-even"),
    "base, one child, a merge of it with an absent one": (
        BASE, "minilm-full", "minilm-merge-even"),
}  # fmt: skip
"""Some of the models at a time: in practice a family is never complete."""


def measure(job: Job) -> dict[str, Any]:
    """Fingerprint and infer; return what `lineage` said, judged."""
    with job.stage("fingerprint"):
        prints = job.must("fingerprint", "models", "-o", "prints")
    with job.stage("infer from weights"):
        graph = job.must("infer", "models")
    with job.stage("infer from fingerprints"):
        again = job.must("infer", "prints")
    if _named(graph) != _named(again):
        job.fail("infer: weights and saved fingerprints give two answers")
    with job.stage("compare each edge"):
        compared = [_compared(job, p, c) for c, t in TRUTH.items() for p in t.parents]
    with job.stage("compare siblings"):
        siblings = [_compared(job, a, b) for a, b in _SIBLINGS]
    with job.stage("infer parts"):
        parts = {
            title: judge_part(job.must("infer", *map(saved, names)), names)
            for title, names in _PARTS.items()
        }
    found = judge(graph)
    if found["copies"]["missed"] or found["copies"]["spurious"]:
        job.fail(f"copies: {found['copies']}")
    if found["pairs"]["unrelated_called_related"] or found["pairs"]["not_reported"]:
        job.fail(f"pairs: {found['pairs']}")
    size = sum(row["bytes"] for row in prints.get("fingerprints", []))
    return {**found, "bytes": size, "compared": compared, "siblings": siblings, "parts": parts,
            "graph": graph}  # fmt: skip


def _named(graph: dict[str, Any]) -> list[Any]:
    """Return a graph's steps and pairs by model, in one order; copies are one model."""
    steps = {
        json.dumps(
            {**e, "parent": standing_for(name_of(e["parent"])), "child": name_of(e["child"])}
        )
        for e in graph.get("edges", [])
        if e["relation"] != "identical"
    }
    pairs = {
        (*sorted((name_of(p["a"]), name_of(p["b"]))), p["score"], p["related"])
        for p in graph.get("pairs", [])
    }
    return [steps, pairs]


def _compared(job: Job, parent: str, child: str) -> dict[str, Any]:
    """Run `lineage compare` on one true edge."""
    status, seen, _ = job.run("compare", saved(parent), saved(child))
    truth = TRUTH[child]
    has_order = parent in truth.parents and truth.relation != "identical"
    right = {"a->b": "right", "b->a": "wrong", None: "not said"}[seen.get("direction")]
    return {
        "parent": parent, "child": child, "exit": status, "related": seen.get("related"),
        "relation": seen.get("relation"), "how": seen.get("how"), "rank": seen.get("rank"),
        "true_rank": truth.rank, "change": seen.get("change"),
        "direction": right if has_order else {"not said": "right"}.get(right, "wrong"),
        "why": (seen.get("evidence") or [{}])[0].get("words"),
    }  # fmt: skip


def about(seed: int, inputs: dict[str, Path]) -> dict[str, Any]:
    """Say what was run, on what and when."""
    digests = {m.name: m.sha256 for package in fetch.PACKAGES for m in package.members}
    git = [shutil.which("git") or "git", "-C", str(HOME)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    status = subprocess.run(
        [*git, "status", "--porcelain", "--", "lineage", "benchmarks"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    packages = ("model-lineage", "numpy", "scipy", "torch", "safetensors", "blake3", "cryptography")
    return {
        "commit": head.stdout.strip() or None,
        "changed_since_commit": status.stdout.splitlines(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": " ".join(["python", "benchmarks/real_input.py", *sys.argv[1:]]),
        "seed": seed,
        "inputs": {name: digests[name] for name in inputs},
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform()},
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def work(out: Path, seed: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Do everything and return the result."""
    folder = out.resolve()
    for part in ("models", "prints", "keys", "claims"):
        shutil.rmtree(folder / part, ignore_errors=True)
        (folder / part).mkdir(parents=True)
    for left in folder.glob("log.sqlite*"):
        left.unlink()
    job = Job(folder)
    with job.stage("fetch"):
        inputs = fetch.fetch()
    with job.stage("train and derive"):
        trained = make(inputs, folder / "models", fetch.CACHE, seed, tell)
    measured = measure(job)
    proved = prove(job)
    return {**about(seed, inputs), "trained": trained, "measured": measured, "proved": proved,
            "seconds": job.seconds, "failures": job.failures}  # fmt: skip


def main() -> int:
    """Run, print the tables, write the JSON."""
    sys.path.insert(0, str(HOME))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=fetch.CACHE / "run", help="working folder")
    parser.add_argument("--json", type=Path, help="write the whole result here")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        result = work(options.out, options.seed, say)
    except (fetch.FetchError, OSError) as error:
        say(f"real_input: {error}")
        return 3
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))
    for failure in result["failures"]:
        print(f"\nFAILED: {failure}")
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
