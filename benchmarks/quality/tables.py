"""The tables that are printed, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf, isnan
from typing import Any

import figures
from figures import ROWS, Scored
from intervals import Figure, share

OURS = "lineage"
_ERRORS = {"coefficients", "calibration", "brier", "lone_calibration", "lone_brier"}
"""Rows whose figures are small and want more digits."""


def markdown(scored: Mapping[str, Scored], about: Mapping[str, Any]) -> str:
    """Return everything, the answerers side by side first."""
    ours = scored[OURS]
    parts = [
        _head(about),
        "### Figures", _side_by_side(scored),
        "### By architecture", _by(ours, "architecture"),
        "### By family", _by(ours, "family"),
        "### Edges by relation", _confusion(ours),
        "### Merges", _merges(ours),
        "### Pairs by kind", _pairs(ours),
        "### Shared initialisation", _initialisation(ours),
        "### Wrong edges, by what the named parent truly is", _verdicts(scored),
        "### Direction of lone full fine-tunes, by the size of the change", _curve(ours),
        "### Edge probabilities", _reliability(figures.probable(ours), "edges"),
        "### Directions of pairs alone", _reliability(figures.probable_alone(ours), "pairs"),
        "### Models whose parents are not right", _misses(ours),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _head(about: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    families = ", ".join(f"{f['name']} ({f['models']})" for f in about["families"])
    lines = [
        f"{about['date']}, commit {about['commit']}, seed {about['seed']}, `{about['command']}`.",
        f"{about['machine']}. {versions}.", f"Families, with their models: {families}.",
        *about["notes"],
    ]  # fmt: skip
    return "\n".join(lines)


def _side_by_side(scored: Mapping[str, Scored]) -> str:
    tables = {name: figures.table(records) for name, records in scored.items()}
    rows = [
        (row.title, row.least, row.aim, *(_shown(row.key, t[row.key]) for t in tables.values()))
        for row in ROWS
    ]
    return _rows(("figure", "at least", "aim", *tables), rows)


def _by(ours: Scored, field: str) -> str:
    names = sorted({record[field] for record in ours.models})
    tables = {name: figures.table(ours.of(**{field: name})) for name in names}
    rows = [
        (row.title, *(_shown(row.key, table[row.key], short=True) for table in tables.values()))
        for row in ROWS
    ]
    return _rows(("figure", *names), rows)


def _shown(key: str, figure: Figure, *, short: bool = False) -> str:
    if isnan(figure.value):
        return ""
    digits = 4 if key in _ERRORS else 3
    value = _number(figure.value, digits)
    if short:
        return f"{value} of {figure.count}"
    ends = f"{_number(figure.low, digits)} to {_number(figure.high, digits)}"
    return f"{value} ({ends}) of {figure.count}"


def _number(value: float, digits: int = 3) -> str:
    """Write a figure without the zero before its point.

    Example:
        >>> _number(0.25), _number(1.0)
        ('.250', '1')
    """
    if isnan(value):
        return "?"
    if value in (0.0, 1.0):
        return f"{value:.0f}"
    return f"{value:.{digits}f}".removeprefix("0")


def _confusion(ours: Scored) -> str:
    rows = []
    for (relation, how), counts in figures.confusion(ours).items():
        known = ("true", "right", "missed", "reversed", "found")
        others = "; ".join(f"{k} {v}" for k, v in sorted(counts.items()) if k not in known)
        rows.append(
            (relation, how, counts["true"], counts.get("right", 0) + counts.get("found", 0), others,
             counts.get("missed", 0), counts.get("reversed", 0))
        )  # fmt: skip
    head = ("relation", "how", "edges", "found and rightly named", "found, named otherwise",
            "missed", "reversed")  # fmt: skip
    return _rows(head, rows)


def _merges(ours: Scored) -> str:
    merges = [e for e in ours.edges if figures.kind_of(e)[0] == "merge" and e["needed"]]
    rows = []
    for how in sorted({figures.kind_of(e)[1] for e in merges}):
        edges = [e for e in merges if figures.kind_of(e)[1] == how]
        rows.append(
            (how, len(edges), sum(e["found"] for e in edges),
             _shown("coefficients", figures.coefficient_error(how)(ours)))
        )  # fmt: skip
    return _rows(("method", "edges", "found", "coefficients, mean absolute error"), rows)


def _pairs(ours: Scored) -> str:
    rows = []
    for kind in ("related", "shared_init", "distilled", "stranger"):
        cases = [p for p in ours.pairs if p["kind"] == kind]
        if cases:
            scores = [p["score"] for p in cases]
            rows.append(
                (kind, len(cases), sum(p["related"] is True for p in cases),
                 sum(p["related"] is None for p in cases), f"{min(scores):.4f}",
                 f"{max(scores):.4f}")
            )  # fmt: skip
    head = ("kind", "pairs", "called related", "left open", "lowest score", "highest")
    return _rows(head, rows)


def _initialisation(ours: Scored) -> str:
    rows = []
    for kind, words in (("step", "parent and child"), ("shared_init", "one initialisation")):
        graph = [r["right"] for r in ours.initialisation if r["kind"] == kind]
        alone = [r["right"] for r in ours.initialisation_alone if r["kind"] == kind]
        named = [r["named"] for r in ours.initialisation_alone if r["named"] is not None]
        rows.append(
            (words, _shown("", share(graph)), _shown("", share(alone)),
             _shown("", share(named)) if kind == "shared_init" else "")
        )  # fmt: skip
    head = ("two models are", "told right in the graph", "by the pair alone",
            "called `shared_init` by the pair alone")  # fmt: skip
    return _rows(head, rows)


def _verdicts(scored: Mapping[str, Scored]) -> str:
    kinds = ("right", "reversed", "sibling", "ancestor", "descendant", "kin", "shared_init",
             "stranger")  # fmt: skip
    rows = [
        (name, *(sum(e["verdict"] == kind for e in records.said) for kind in kinds))
        for name, records in scored.items()
        if records.said
    ]
    return _rows(("said by", *kinds), rows)


def _curve(ours: Scored) -> str:
    rows = []
    for row in figures.direction_curve(ours):
        most = "" if row["most"] == inf else f" to {row['most']:.0%}"
        words = f"{row['least']:.0%}{most}" if most else f"{row['least']:.0%} and more"
        rows.append((words, row["answered"].count, _shown("", row["answered"]),
                     _shown("", row["right"])))  # fmt: skip
    return _rows(("change", "pairs", "direction said", "right when said"), rows)


def _reliability(cases: Sequence[tuple[float, bool]], of: str) -> str:
    rows = [
        (f"{row['from']:.1f} to {row['from'] + 0.1:.1f}", row["count"],
         _number(row["said"]), _shown("", row["right"]))
        for row in figures.reliability(cases) if row["count"]
    ]  # fmt: skip
    return _rows(("probability said", of, "mean", "right"), rows)


def _misses(ours: Scored) -> str:
    rows = [
        (m["family"], m["model"], m["made"], "; ".join(m["said"]) or "none") for m in ours.misses
    ]
    return _rows(("family", "model", "truly", "said"), rows) if rows else "None."


def _rows(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
