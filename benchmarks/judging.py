"""Holds what `lineage` inferred against how the models were made.

Exact copies of one model are one model here: an edge from any of them is an edge from all.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import PurePath
from typing import Any

from descendants import TRUTH

IDENTICAL = "identical"


@dataclass(frozen=True, slots=True)
class Row:
    """One model: how it was made, what was inferred, and how they compare.

    Attributes:
        verdict: `right`, `right parent, wrong relation`, `right parent, wrong detail`,
            `an ancestor`, `wrong parent`, `missed`, `spurious`; for roots `right` or `spurious`.
    """

    model: str
    truth: str
    found: str
    verdict: str


def name_of(path: str) -> str:
    """Return a model's name from its path, or from its saved fingerprint's."""
    return PurePath(path).name.removesuffix(".lineage")


def standing_for(name: str) -> str:
    """Return the model that a copy stands for."""
    truth = TRUTH[name]
    return standing_for(next(iter(truth.parents))) if truth.relation == IDENTICAL else name


def root_of(name: str) -> str:
    """Return the first ancestor: two models are related if they have the same."""
    while TRUTH[name].parents:
        name = next(iter(TRUTH[name].parents))
    return name


def judge(document: dict[str, Any]) -> dict[str, Any]:
    """Compare the output of `lineage infer` with the truth."""
    edges = [{**e, "parent": name_of(e["parent"]), "child": name_of(e["child"])}
             for e in document["edges"]]  # fmt: skip
    copies = [name for name, truth in TRUTH.items() if truth.relation == IDENTICAL]
    found = _copies_found(edges, copies)
    rows = [_row(name, edges, found) for name in TRUTH]
    steps = _steps(edges)
    true = {(standing_for(p), c) for c, t in TRUTH.items() for p in t.parents if c not in copies}
    return {
        "copies": {"true": len(copies), "found": sorted(found),
                   "missed": sorted(set(copies) - found),
                   "spurious": _false_copies(edges)},
        "edges": {"true": len(true), "right": len(true & steps.keys()),
                  "missed": sorted(true - steps.keys()),
                  "spurious": sorted(steps.keys() - true)},
        "details": _details(true, steps),
        "merges": _merges(steps),
        "pairs": _pairs(document["pairs"]),
        "rows": [asdict(row) for row in rows],
        "undetermined": [[name_of(u["a"]), name_of(u["b"])] for u in document["undetermined"]],
    }  # fmt: skip


def _copies_found(edges: list[dict[str, Any]], copies: list[str]) -> set[str]:
    """Return the copies that identity edges, in either direction, tie to the model they copy."""
    ties = [{e["parent"], e["child"]} for e in edges if e["relation"] == IDENTICAL]
    found = set()
    for copy in copies:
        group = {copy}
        while grown := [tie for tie in ties if group & tie and not tie <= group]:
            group.update(*grown)
        if standing_for(copy) in group:
            found.add(copy)
    return found


def _false_copies(edges: list[dict[str, Any]]) -> list[list[str]]:
    ties = ((e["parent"], e["child"]) for e in edges if e["relation"] == IDENTICAL)
    return sorted([p, c] for p, c in ties if standing_for(p) != standing_for(c))


def _steps(edges: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the edges that are no copies, between the models that copies stand for."""
    return {
        (standing_for(e["parent"]), standing_for(e["child"])): e
        for e in edges
        if e["relation"] != IDENTICAL
    }


def _details(
    true: set[tuple[str, str]], steps: dict[tuple[str, str], dict[str, Any]]
) -> dict[str, int]:
    """Count the relations and their details that are right, among the edges that are."""
    both = [(TRUTH[child], steps[parent, child]) for parent, child in true & steps.keys()]
    relation = [truth.relation == edge["relation"] for truth, edge in both]
    how = [
        ok and edge["how"] in truth.hows for ok, (truth, edge) in zip(relation, both, strict=True)
    ]
    return {"edges": len(both), "relation_right": sum(relation), "how_right": sum(how)}


def _merges(steps: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each true coefficient beside the one found."""
    rows = []
    for child, truth in TRUTH.items():
        for parent, share in truth.parents.items():
            if share is None:
                continue
            found = steps.get((parent, child), {}).get("coefficient")
            error = None if found is None else round(abs(found - share), 6)
            rows.append({"child": child, "parent": parent, "true": share,
                         "found": found, "error": error})  # fmt: skip
    return rows


def _pairs(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Count pairs called related, against whether they share their first ancestor."""
    said = {frozenset((name_of(p["a"]), name_of(p["b"]))): p for p in pairs}
    related = {frozenset(p): root_of(p[0]) == root_of(p[1]) for p in combinations(TRUTH, 2)}
    missing = sorted(map(sorted, related.keys() - said.keys()))
    false_yes = [sorted(p) for p, is_related in related.items()
                 if not is_related and p in said and said[p]["related"] is True]  # fmt: skip
    missed = [sorted(p) for p, is_related in related.items()
              if is_related and (p not in said or said[p]["related"] is not True)]  # fmt: skip
    strangers = [said[p]["score"] for p, yes in related.items() if not yes and p in said]
    kin = [said[p]["score"] for p, yes in related.items() if yes and p in said]
    return {
        "related": sum(related.values()), "related_missed": missed,
        "unrelated": len(related) - sum(related.values()), "unrelated_called_related": false_yes,
        "unrelated_said_unknown": sum(
            not yes and p in said and said[p]["related"] is None for p, yes in related.items()
        ),
        "highest_unrelated_score": max(strangers), "lowest_related_score": min(kin),
        "not_reported": missing,
    }  # fmt: skip


def _row(name: str, edges: list[dict[str, Any]], copies: set[str]) -> Row:
    truth = TRUTH[name]
    own = [e for e in edges if e["child"] == name]
    found = "; ".join(_words(e["parent"], e["relation"], e["how"], e["coefficient"])
                      + f" (p {e['probability']:.2f})" for e in own)  # fmt: skip
    made = "; ".join(
        _words(parent, truth.relation, "/".join(filter(None, truth.hows)), share)
        for parent, share in truth.parents.items()
    )
    return Row(name, made or "none", found or "none", _verdict(name, own, copies))


def _words(parent: str, relation: str | None, how: str | None, share: float | None) -> str:
    weight = "" if share is None else f" {share:.4g}"
    return f"{relation} {how or ''}{weight} of {parent}".replace("  ", " ")


def _verdict(name: str, own: list[dict[str, Any]], copies: set[str]) -> str:
    truth = TRUTH[name]
    if truth.relation == IDENTICAL:
        return "right" if name in copies else "missed"
    steps = [e for e in own if e["relation"] != IDENTICAL]
    false = [e for e in own if e not in steps and standing_for(e["parent"]) != name]
    if not truth.parents:
        return "spurious" if steps or false else "right"
    if not steps:
        return "wrong parent" if false else "missed"
    parents = {standing_for(e["parent"]) for e in steps}
    if parents != {standing_for(p) for p in truth.parents}:
        return "an ancestor" if parents <= _ancestors(name) else "wrong parent"
    if any(e["relation"] != truth.relation for e in steps):
        return "right parent, wrong relation"
    if any(e["how"] not in truth.hows for e in steps):
        return "right parent, wrong detail"
    return "right"


def _ancestors(name: str) -> set[str]:
    found: set[str] = set()
    for parent in TRUTH[name].parents:
        found |= {standing_for(parent)} | _ancestors(parent)
    return found


def judge_part(document: dict[str, Any], present: tuple[str, ...]) -> dict[str, Any]:
    """Compare the output of `lineage infer` on some of the models with the truth about them."""
    found = {(name_of(e["parent"]), name_of(e["child"])) for e in document["edges"]}
    true = {(parent, child) for child in present for parent in _nearest(child, present)}
    return {
        "present": list(present), "true": len(true), "right": len(true & found),
        "missed": len(true - found), "spurious": sorted(found - true),
        "undetermined": len(document["undetermined"]),
    }  # fmt: skip


def _nearest(name: str, present: tuple[str, ...]) -> set[str]:
    """Return the nearest ancestors that are present."""
    found: set[str] = set()
    for parent in TRUTH[name].parents:
        found |= {parent} if parent in present else _nearest(parent, present)
    return found
