"""How long a data set's manifest takes, and how large its proofs are.

    python benchmarks/data [--records 10000000] [--rounds 3] [--proofs 1000 10000 ...] [--json FILE]

Tables go to stdout, progress to stderr. Exit status 1 if a container changes the root, a proof does
not hold, or the wanted throughput or memory is missed at the largest size.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import documents
import inputs
import proofs
import race

HOME = Path(__file__).resolve().parents[2]
CACHE = HOME / "benchmarks" / ".cache" / "data"
SHARE = 0.6
"""Of the throughput of b3sum and the parser alone."""

MEMORY = 500 << 20
"""Bytes of resident memory at most, the processes of a run together."""


def main() -> int:
    """Measure, print the tables, and say whether what was wanted is met."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--words", type=int, default=inputs.SHORT, help="of a record's text")
    parser.add_argument(
        "--documents",
        type=int,
        nargs="?",
        const=10 * 10**9,
        metavar="BYTES",
        help="race over a Parquet file of documents of so many bytes (10 GB), not over records",
    )
    parser.add_argument("--remove", action="store_true", help="remove the documents afterwards")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=["jsonl", "parquet"])
    parser.add_argument("--one-core", action="store_true", help="the parser on one core, too")
    parser.add_argument("--only", choices=("race", "proofs"))
    parser.add_argument("--proofs", type=int, nargs="+", default=[10**n for n in range(3, 8)])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    facts: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD")
        + (" and more" if _git("status", "--porcelain") else ""),
        "command": " ".join(["python benchmarks/data", *sys.argv[1:]]),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
    print(" · ".join(f"{key} {value}" for key, value in facts.items()))
    CACHE.mkdir(parents=True, exist_ok=True)
    is_good = True
    if options.only != "proofs":
        if options.documents is None:
            files = inputs.made(CACHE, options.records, options.words)
            files = {kind: files[kind] for kind in options.kinds}
            judged = {"jsonl"}
        else:
            files = {"parquet": documents.made(CACHE, options.documents)}
            judged = {"parquet"}
        facts["bytes"] = {kind: path.stat().st_size for kind, path in files.items()}
        facts["race"] = race.run(files, options.rounds, CACHE, one_core=options.one_core)
        is_good &= _race_table(facts, judged)
        if options.remove and options.documents is not None:
            files["parquet"].unlink()
    if options.only != "race":
        facts["proofs"] = [proofs.measured(CACHE, count) for count in options.proofs]
        _proof_table(facts["proofs"])
        is_good &= all(row["hold"] for row in facts["proofs"])
    if options.json is not None:
        options.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0 if is_good else 1


def _race_table(facts: dict[str, Any], judged: set[str]) -> bool:
    """Print a race, and say whether it shows one root, and the wanted throughput where judged."""
    rows = facts["race"]
    roots = {row["root"] for row in rows.values() if "root" in row}
    records = max(row.get("records", 0) for row in rows.values())
    sizes = ", ".join(f"{size} bytes of {kind}" for kind, size in facts["bytes"].items())
    print(f"\n{records} records, {sizes}; one root: {len(roots) == 1}\n")
    print("| what | seconds, median (least to most) | of processors | peak memory |")
    print("| --- | --- | --- | --- |")
    for name, row in rows.items():
        times = row["seconds"]
        peak = f"{max(row['peak']) / 2**20:.0f} MiB" if row["peak"] else ""
        shown = f"{median(times):.2f} ({min(times):.2f} to {max(times):.2f})"
        print(f"| {name} | {shown} | {median(row['cpu']):.2f} | {peak} |")
    is_good = len(roots) == 1
    print()
    for kind in facts["bytes"]:
        ours = rows[f"lineage manifest, {kind}"]
        share = median(
            (hashed + parsed) / mine
            for hashed, parsed, mine in zip(
                rows[f"b3sum, {kind}"]["seconds"],
                rows[f"parser alone, {kind}, all cores"]["seconds"],
                ours["seconds"],
                strict=True,
            )
        )
        peak = max(ours["peak"] + rows[f"lineage manifest, {kind}, saved"]["peak"])
        is_good &= (share >= SHARE or kind not in judged) and peak <= MEMORY
        words = "of the throughput of b3sum and the parser on all cores"
        print(f"{kind}: {share:.0%} {words}, {peak / 2**20:.0f} MiB, saved or not")
    return is_good


def _proof_table(rows: list[dict[str, Any]]) -> None:
    print(
        "\n| records | proof | bytes | made in s | checked in ms |\n| --- | --- | --- | --- | --- |"
    )
    for row in rows:
        for one in row["proofs"]:
            cells = row["records"], one["what"], one["bytes"]
            print(
                "| {} | {} | {} |".format(*cells),
                f"{one['made']:.3f} | {1000 * one['checked']:.2f} |",
            )
    print(
        "\n| records | manifest, bytes | loaded and held to its roots in s |\n| --- | --- | --- |"
    )
    for row in rows:
        print(f"| {row['records']} | {row['bytes']} | {row['loaded']:.3f} |")


def _git(*words: str) -> str:
    git = shutil.which("git")
    if git is None:
        return "unknown"
    done = subprocess.run([git, "-C", HOME, *words], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


if __name__ == "__main__":
    raise SystemExit(main())
