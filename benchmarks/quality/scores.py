"""Holds an answer against the truth: truth and answer in, one record per case out.

Nothing here reads a file or knows who answered. `figures.py` sums the records up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import networkx as nx
from truth import IDENTICAL, NOT_BY_WEIGHTS, Truth

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Said:
    """One edge of an answer; what the answerer does not say is None."""

    parent: str
    child: str
    relation: str | None = None
    how: str | None = None
    coefficient: float | None = None
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody inferred about some models.

    Attributes:
        edges: Those between two models at hand.
        scores: Pair -> how surely the two are related; higher is surer.
        related: Pair -> what is said by default; None where it is left open.
    """

    edges: tuple[Said, ...] = ()
    scores: Mapping[frozenset[str], float] = field(default_factory=dict)
    related: Mapping[frozenset[str], bool | None] = field(default_factory=dict)

    @property
    def steps(self) -> tuple[Said, ...]:
        """Return the edges that say parent and child."""
        return tuple(edge for edge in self.edges if edge.relation not in NOT_BY_WEIGHTS)


def pairs(truth: Truth, answer: Answer) -> list[Record]:
    """Return a record for every pair: are the two related?"""
    return [
        {
            "a": a, "b": b, "kind": truth.kind(a, b),
            "score": answer.scores.get(frozenset((a, b)), -inf),
            "related": answer.related.get(frozenset((a, b))),
        }
        for a, b in truth.pairs()
    ]  # fmt: skip


def edges(truth: Truth, answer: Answer) -> list[Record]:
    """Return a record for every true edge: was it found, and what was said of it?

    Of a model's copies each but one is an edge of its own, found in either direction and through
    other copies. `is_direct` is false where a hidden parent lies between, `needed` where an edge is
    right and may be left out.
    """
    said = _by_classes(truth, answer)
    records = [
        _found(truth, said, parent, child)
        for child in truth.classes
        for parent in truth.parents(child)
    ]
    tied = _tied(truth, answer)
    for standing, members in truth.classes.items():
        for copy in members:
            if copy != standing:
                own = [e for e in answer.steps if {e.parent, e.child} <= set(members)
                       and copy in {e.parent, e.child}]  # fmt: skip
                best = max(own, key=lambda e: e.relation == IDENTICAL, default=None)
                records.append(
                    {**_said(best), "parent": standing, "child": copy, "is_direct": True,
                     "needed": True, "true": _copied(truth, members), "true_coefficient": None,
                     "found": tied[copy] == tied[standing], "reversed": False}
                )  # fmt: skip
    return records


def _copied(truth: Truth, members: Sequence[str]) -> list[Any]:
    """Return what may be said of the step between copies of one model."""
    return [list(a) for name in members if truth.models[name].is_copy
            for a in truth.models[name].answers]  # fmt: skip


def _found(truth: Truth, said: Mapping[tuple[str, str], Said], parent: str, child: str) -> Record:
    model, is_direct = truth.made(child), truth.parents(child)[parent]
    named = next((p for p in model.parents if truth.standing_for(p) == parent), None)
    return {
        **_said(said.get((parent, child))),
        "parent": parent, "child": child, "is_direct": is_direct,
        "needed": parent in truth.needed(child),
        "true": [list(a) for a in (model.answers if is_direct else model.seen_answers)],
        "true_coefficient": model.coefficients.get(named) if named else None,
        "found": (parent, child) in said, "reversed": (child, parent) in said,
    }  # fmt: skip


def _said(edge: Said | None) -> Record:
    names = ("relation", "how", "coefficient", "probability")
    return {name: None if edge is None else getattr(edge, name) for name in names}


def _by_classes(truth: Truth, answer: Answer) -> dict[tuple[str, str], Said]:
    """Return the edges between different models, copies standing for each other."""
    found: dict[tuple[str, str], Said] = {}
    for edge in answer.steps:
        ends = truth.standing_for(edge.parent), truth.standing_for(edge.child)
        if ends[0] != ends[1]:
            known = found.get(ends)
            if known is None or (edge.probability or 0.0) > (known.probability or 0.0):
                found[ends] = edge
    return found


def _tied(truth: Truth, answer: Answer) -> dict[str, int]:
    """Model -> the number of the set of copies that the answer's edges tie it to."""
    ties = nx.Graph()
    ties.add_nodes_from(truth.published)
    ties.add_edges_from(
        (e.parent, e.child) for e in answer.steps
        if truth.standing_for(e.parent) == truth.standing_for(e.child)
    )  # fmt: skip
    parts = nx.connected_components(ties)
    return {name: number for number, part in enumerate(parts) for name in part}


def said(truth: Truth, answer: Answer) -> list[Record]:
    """Return a record for every edge of the answer: is it right?

    `verdict` is `right`, or what the named parent truly is to the child: `reversed` (its child),
    `sibling`, `ancestor`, `descendant`, `kin`, `shared_init`, `stranger`.
    """
    records = []
    for edge in answer.steps:
        verdict = _verdict(truth, edge.parent, edge.child)
        records.append(
            {**_said(edge), "parent": edge.parent, "child": edge.child, "verdict": verdict,
             "right": verdict == "right",
             "is_copy": edge.relation == IDENTICAL}
        )  # fmt: skip
    return records


def _verdict(truth: Truth, parent: str, child: str) -> str:
    p, c = truth.standing_for(parent), truth.standing_for(child)
    if p == c or p in truth.parents(c):
        return "right"
    if c in truth.parents(p):
        return "reversed"
    if p in truth.ancestors(c):
        return "ancestor"
    if c in truth.ancestors(p):
        return "descendant"
    if set(truth.made(p).parents) & set(truth.made(c).parents):
        return "sibling"
    kind = truth.kind(p, c)
    return "kin" if kind == "related" else kind


def models(truth: Truth, answer: Answer) -> list[Record]:
    """Return a record for every model: is its set of parents exactly right?

    A copy is right if it is tied to what it copies; what that came from is that model's own
    matter. Parents that need not be found may be there or not, as may the ancestors of a hidden
    ingredient of a merge.
    """
    found = _by_classes(truth, answer)
    tied = _tied(truth, answer)
    named: dict[str, set[str]] = {}
    for parent, child in found:
        named.setdefault(child, set()).add(parent)
    records = []
    for name in truth.published:
        standing = truth.standing_for(name)
        true = truth.parents(standing)
        guessed = named.get(standing, set())
        copied = next((m for m in truth.classes[standing] if not truth.models[m].is_copy), standing)
        right = truth.needed(standing) <= guessed <= set(true)
        if name != copied:
            true, guessed, right = {copied: True}, set(), tied[name] == tied[copied]
        records.append(
            {"model": name, "right": right, "true": sorted(true), "said": sorted(guessed)}
        )
    return records


def roots(truth: Truth, answer: Answer) -> list[Record]:
    """Return a record for every connected family of two models or more whose root is at hand.

    The root said is the model without a parent that reaches the most others; `reached` is their
    share. Two that reach equally many are no answer.
    """
    graph = nx.DiGraph()
    graph.add_nodes_from(truth.classes)
    graph.add_edges_from(_by_classes(truth, answer))
    parts: dict[int, list[str]] = {}
    for name in truth.classes:
        parts.setdefault(truth.component[name], []).append(name)
    records = []
    for members in parts.values():
        true = {name for name in members if not truth.ancestors(name)}
        firsts = {truth.standing_for(m.id) for m in truth.models.values() if not m.parents
                  and truth.component[m.id] == truth.component[members[0]]}  # fmt: skip
        if len(members) < 2 or true != firsts or len(true) != 1:
            continue
        reach = {
            name: len(nx.descendants(graph, name) & set(members)) for name in members
            if graph.in_degree(name) == 0
        }  # fmt: skip
        most = max(reach.values(), default=0)
        best = [name for name, count in reach.items() if count == most and most > 0]
        guess = best[0] if len(best) == 1 else None
        records.append(
            {"root": next(iter(true)), "said": guess, "right": guess in true,
             "members": len(members), "reached": most / (len(members) - 1)}
        )  # fmt: skip
    return records


def initialisation(truth: Truth, answer: Answer) -> list[Record]:
    """Return a record for every true step and every pair that only an initialisation joins.

    A step is right if the two are called related, and if an edge joins them it is no
    `shared_init`. The others, two trainings and what came from each, are right if they are not
    called related and no edge says parent.
    """
    joined = {frozenset((e.parent, e.child)) for e in answer.steps}
    apart = {frozenset((e.parent, e.child)) for e in answer.edges} - joined
    records = []
    for a, b in truth.pairs():
        ends = frozenset((a, b))
        if truth.kind(a, b) == "shared_init":
            right = answer.related.get(ends) is not True and ends not in joined
            records.append({"a": a, "b": b, "kind": "shared_init", "right": right})
        elif a in truth.models[b].parents or b in truth.models[a].parents:
            right = answer.related.get(ends) is True and ends not in apart
            records.append({"a": a, "b": b, "kind": "step", "right": right})
    return records


def initialisation_alone(
    truth: Truth, compared: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[Record]:
    """Return the same for pairs compared alone.

    A step is right if the two are called related, not `shared_init`; two trainings if they are not
    called related.
    """
    records = []
    for (a, b), found in compared.items():
        if truth.kind(a, b) == "shared_init":
            right = found["related"] is not True
            named = found["relation"] == "shared_init"
            records.append({"a": a, "b": b, "kind": "shared_init", "right": right, "named": named})
        elif a in truth.models[b].parents or b in truth.models[a].parents:
            right = found["related"] is True and found["relation"] != "shared_init"
            records.append({"a": a, "b": b, "kind": "step", "right": right, "named": None})
    return records


def lone(truth: Truth, compared: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[Record]:
    """Return a record for every pair compared alone between which there is one training step.

    Args:
        truth: How the models were made.
        compared: (a, b) -> what `lineage compare a b` said; either may be the parent.
    """
    records = []
    for (a, b), found in compared.items():
        for parent, child, arrow in ((a, b, "a->b"), (b, a, "b->a")):
            model = truth.models[child]
            if parent in model.parents and model.answers[0][0] == "finetune":
                records.append(
                    {"parent": parent, "child": child, "how": model.answers[0][1],
                     "change": model.changes.get(parent),
                     "answered": found["direction"] is not None,
                     "right": found["direction"] == arrow,
                     "rank": found.get("rank"), "true_rank": model.rank,
                     "said_how": found["how"]}
                )  # fmt: skip
    return records


def lone_edges(truth: Truth, inferred: Mapping[tuple[str, str], Answer]) -> list[Record]:
    """Return a record for every edge said between two models at hand alone, parent and child.

    Args:
        truth: How the models were made.
        inferred: (parent, child) -> what `lineage infer` said of the two.
    """
    return [
        {"parent": parent, "child": child, "how": truth.models[child].answers[0][1],
         "probability": edge.probability, "right": (edge.parent, edge.child) == (parent, child)}
        for (parent, child), answer in inferred.items()
        for edge in answer.steps
        if edge.relation != IDENTICAL
    ]  # fmt: skip


def lone_siblings(
    truth: Truth, compared: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[Record]:
    """Return a record for every two siblings compared alone: a direction would be wrong."""
    pairs = {frozenset(pair) for pair in truth.siblings()}
    return [
        {"a": a, "b": b, "answered": found["direction"] is not None}
        for (a, b), found in compared.items()
        if frozenset((a, b)) in pairs
    ]


def misses(truth: Truth, answer: Answer) -> list[Record]:
    """Return, for every model whose parents are not right, what was said instead."""
    by_child: dict[str, list[str]] = {}
    for edge in said(truth, answer):
        words = edge["verdict"] if not edge["right"] else edge["relation"] or "right"
        if edge["probability"] is not None:
            words += f" p {edge['probability']:.2f}"
        by_child.setdefault(edge["child"], []).append(f"{edge['parent']} ({words})")
    return [
        {"model": record["model"], "made": _words(truth, record["model"]),
         "true": record["true"], "said": by_child.get(record["model"], [])}
        for record in models(truth, answer) if not record["right"]
    ]  # fmt: skip


def _words(truth: Truth, name: str) -> str:
    model = truth.models[name]
    hidden = " (hidden)" if any(truth.models[p].is_hidden for p in model.parents) else ""
    relation, how = model.answers[0] if model.answers else ("training", None)
    parents = ", ".join(model.parents) or "nothing"
    return f"{relation} {how or ''} of {parents}{hidden}".replace("  ", " ")


def only(records: Iterable[Record], **wanted: Any) -> Sequence[Record]:
    """Return the records whose fields have the wanted values."""
    return [r for r in records if all(r[name] == value for name, value in wanted.items())]
