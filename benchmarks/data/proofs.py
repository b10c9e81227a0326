"""The sizes of proofs, and how long they take to make and to check."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inputs

from lineage.datasets import build, load, proving
from lineage.manifests import canonical, check, parse_json, record_digest


def measured(folder: Path, records: int) -> dict[str, Any]:
    """Make manifests of so many records, and of some fewer, and prove what is to be proven."""
    print(f"proofs of {records} records", file=sys.stderr, flush=True)
    whole, fewer, part = (folder / f"{records}-{name}.jsonl" for name in ("whole", "fewer", "part"))
    skipped = {records // 3 + n for n in range(10)}
    count = 0
    with whole.open("wb") as a, fewer.open("wb") as b, part.open("wb") as c:
        for lines in inputs.lines(records):
            a.write(lines)
            for line in lines.splitlines(keepends=True):
                if count not in skipped:
                    b.write(line)
                if count < 10:
                    c.write(line)
                    first = line
                count += 1
    made = {}
    for path in (whole, fewer, part):
        build([path], path.with_suffix(".manifest"))
        path.unlink()
    started = time.perf_counter()
    made["whole"] = load(whole.with_suffix(".manifest"))
    loaded = time.perf_counter() - started
    made |= {
        name: load(path.with_suffix(".manifest"))
        for name, path in (("fewer", fewer), ("part", part))
    }
    there = record_digest(canonical(parse_json(first)))
    absent = record_digest(canonical({"id": -1}))
    asked: dict[str, Callable[[], bytes]] = {
        "inclusion": lambda: proving.prove_record(made["whole"], there),
        "absence": lambda: proving.prove_record(made["whole"], absent),
        "removal of 10": lambda: proving.prove_change(made["whole"], made["fewer"])[1],
        "append of 10": lambda: proving.prove_change(made["fewer"], made["whole"])[1],
        "subset of 10": lambda: proving.prove_subset(made["part"], made["whole"]),
    }
    rows, holds = [], True
    for what, make in asked.items():
        started = time.perf_counter()
        data = make()
        seconds = time.perf_counter() - started
        started = time.perf_counter()
        holds &= check(data).kind == what.split()[0]
        rows.append(
            {
                "what": what,
                "bytes": len(data),
                "made": seconds,
                "checked": time.perf_counter() - started,
            }
        )
    size = made["whole"].path.stat().st_size
    for path in (whole, fewer, part):
        path.with_suffix(".manifest").unlink()
    return {"records": records, "bytes": size, "loaded": loaded, "proofs": rows, "hold": holds}
