"""Turns races into JSON with every figure, and into Markdown tables of medians."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from inputs import SEED, Input
from race import Entrant, Race
from rows import ROWS, Bench
from tools import HOME, OURS


def document(bench: Bench, facts: dict[str, Any]) -> dict[str, Any]:
    """Return all that was measured, round by round."""
    rows = {
        row: [_race(result, given) for result, given in races] for row, races in bench.races.items()
    }
    return {**facts, "seed": SEED, "rows": rows, "roots": bench.roots, "notes": bench.notes}


def _race(result: Race, given: Sequence[Input]) -> dict[str, Any]:
    read = [{"name": each.name, "bytes": each.size_bytes, "blake3": each.digests} for each in given]
    entrants = [
        {
            "name": entrant.name,
            "command": _readable(entrant.command),
            "wall_cpu_seconds_peak_mib": [
                None
                if run is None
                else [round(run.wall, 4), round(run.cpu, 4), round(run.peak_mib)]
                for run in result.runs.get(entrant.name, [])
            ],
            "error": result.errors.get(entrant.name, "").replace(f"{HOME}/", ""),
        }
        for entrant in result.entrants
    ]
    return {
        "title": result.title,
        "inputs": read,
        "least_share_in_page_cache": result.cached_share,
        "entrants": entrants,
    }


def _readable(command: Sequence[str]) -> str:
    return " ".join(command).replace(sys.executable, "python").replace(f"{HOME}/", "")


def markdown(bench: Bench, facts: dict[str, Any]) -> str:
    """Return every table, and what to know of them."""
    parts = [_head(facts), *bench.notes]
    for row, races in bench.races.items():
        parts.append(f"### {ROWS[row][0]}")
        several = len(races) > 1
        parts.append(_table([result for result, _ in races], several=several))
    if len(bench.races.get("main", [])) > 1:
        parts += ["### Memory, peak MiB by size", _memory([r for r, _ in bench.races["main"]])]
    if bench.roots:
        parts += [f"### {ROWS['roots'][0]}", _roots(bench.roots)]
    return "\n\n".join(part for part in parts if part)


def _head(facts: dict[str, Any]) -> str:
    told = facts["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return "\n".join(
        [
            f"{facts['date'][:10]}, commit {facts['commit']}, `{facts['command']}`.",
            f"{told['cpu']}, {told['cores']} cores, {told['memory']}, {told['system']}.",
            f"{versions}.",
            f"Compiled kernel: {facts['kernel']}. Load average at the start {facts['load'][0]}.",
            facts["busy"],
            "Medians, in parentheses the least and the largest; of memory the largest. Ratios are "
            "medians of same-round ratios of wall time.",
        ]
    ).replace("\n\n", "\n")


def _table(races: Sequence[Race], *, several: bool) -> str:
    labels = list(dict.fromkeys(label for result in races for label in _rivals(result)))
    head = ["tool", "rounds", "wall s", "CPU s", "peak MiB", *(f"x {label}" for label in labels)]
    lines = []
    for result in races:
        for entrant in result.entrants:
            cells = [entrant.name, *_cells(result, entrant, labels)]
            lines.append([result.title, *cells] if several else cells)
    return _lines(["input", *head] if several else head, lines)


def _rivals(result: Race) -> Iterator[str]:
    """Yield the columns of ratios that a race can fill."""
    there = {entrant.name for entrant in result.entrants}
    for entrant in result.entrants:
        yield from (label for label, rival in entrant.against.items() if rival in there)


def _cells(result: Race, entrant: Entrant, labels: Sequence[str]) -> list[str]:
    runs = result.measured(entrant.name)
    if entrant.name in result.errors:
        failed = f"not supported: {result.errors[entrant.name]}".replace("|", "/")
        if not runs:
            return [failed.replace(f"{HOME}/", ""), *[""] * (3 + len(labels))]
    cells = [
        str(len(runs)),
        _spread([run.wall for run in runs]),
        _spread([run.cpu for run in runs]),
        f"{max((run.peak_mib for run in runs), default=0):.0f}",
    ]
    for label in labels:
        rival = entrant.against.get(label)
        itself = rival is None or rival == entrant.name
        cells.append("" if itself else _spread(result.ratios(entrant.name, rival or "")))
    return cells


def _spread(figures: Sequence[float]) -> str:
    if not figures:
        return ""
    middle, least, most = median(figures), min(figures), max(figures)
    return f"{_short(middle)} ({_short(least)}..{_short(most)})"


def _short(figure: float) -> str:
    return (
        f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}" if figure >= 0.1 else f"{figure:.3f}"
    )


def _memory(races: Sequence[Race]) -> str:
    names = dict.fromkeys(entrant.name for result in races for entrant in result.entrants)
    lines = [[name, *(_peak(result, name) for result in races)] for name in names if name in OURS]
    return _lines(["tool", *(result.title for result in races)], lines)


def _peak(result: Race, name: str) -> str:
    runs = result.measured(name)
    return f"{max(run.peak_mib for run in runs):.0f}" if runs else ""


def _roots(roots: dict[str, str]) -> str:
    return _lines(["tier", "root"], [[name, root] for name, root in roots.items()])


def roots_differ(roots: dict[str, str]) -> bool:
    """Return whether two tiers gave two roots."""
    return len({root for root in roots.values() if not root.startswith("not supported")}) > 1


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
