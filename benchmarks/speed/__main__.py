"""How long a fingerprint takes, beside the tools that people hash models with today.

    python benchmarks/speed [--sizes 1 4 16] [--rounds 7] [--json out.json] [--only ROW ...]

Tables go to stdout, progress to stderr. Exit status 1 if two tiers of ours give two roots.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import machine
import plot
import report
import rows
from tools import HOME, Tools

_CACHE = HOME / "benchmarks" / ".cache" / "speed"
_PICTURE = Path(__file__).resolve().with_name("cost.svg")


def main() -> int:
    options = _options()
    facts: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "command": shlex.join(["python", "benchmarks/speed", *sys.argv[1:]]),
        "machine": machine.machine(),
        "load": [machine.load()],
        "busy": machine.busy(),
    }
    if facts["busy"]:
        print(facts["busy"], file=sys.stderr, flush=True)
    bench = rows.Bench(_CACHE, Tools(_CACHE), tuple(sorted(set(options.sizes))), options.rounds)
    facts["versions"] = machine.versions()
    facts["kernel"] = rows.settle(bench)

    def save() -> None:
        if options.json:
            told = report.document(bench, facts | {"peers": bench.tools.versions})
            options.json.write_text(json.dumps(told, indent=1) + "\n")

    bench.save = save
    status = 0
    try:
        for name in options.only:
            rows.ROWS[name][1](bench)
    except KeyboardInterrupt:
        bench.notes.append("Interrupted: what is missing was not run.")
        status = 130
    facts["load"].append(machine.load())
    save()
    _draw(bench, options.svg)
    print(report.markdown(bench, facts))
    return status or int(report.roots_differ(bench.roots))


def _draw(bench: rows.Bench, path: Path) -> None:
    """Draw the main row, if it has two sizes or more."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for result, (given,) in bench.races.get("main", []):
        for entrant in result.entrants:
            seconds = result.wall(entrant.name)
            if seconds is not None:
                size = round(given.size_bytes / 1e9, 1)
                lines.setdefault(entrant.name, []).append((size, seconds))
    lines = {name: points for name, points in lines.items() if len(points) > 1}
    if lines:
        path.write_text(plot.svg(lines, title="Fingerprinting a bf16 checkpoint, page cache warm"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/speed", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--sizes", type=float, nargs="+", default=[1, 4, 16], metavar="GB")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--svg", type=Path, default=_PICTURE, help="draw the main row here")
    parser.add_argument("--only", nargs="+", choices=rows.ROWS, default=list(rows.ROWS))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
