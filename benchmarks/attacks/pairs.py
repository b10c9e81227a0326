"""Pairs of models of a made matrix: what was made with its relatives, and strangers drawn by lot.

Strangers share no root and no first weights. Pairs of the same first weights and nothing else are
left out altogether: whether they are related is a matter of words.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import combinations
from math import isnan
from typing import Any

STRANGERS = ("student", "same data", "same recipe")
"""What strangers have in common besides the recipe: one learned from the other's root what to
answer; their roots saw the same data; nothing more."""

_SIBLINGS = 2
_WITH_RELATIVES = ("disguise", "shape")


@dataclass(slots=True)
class Pair:
    """Two models and what was said of them.

    Attributes:
        family: Theirs.
        a, b: Folders; `b` is what was made, in a positive pair.
        kind: `disguise`, `shape`, `limit`, `partial`, or `none` for strangers.
        steps: What was done to `b`.
        follow_up: And then.
        role: What `a` is: `child`, `base`, `sibling` or `mixture`; of strangers, a key of
            `STRANGERS`.
        disguised: How many of the two were made here.
        scores: Method -> number, higher for more alike; not a number where it says nothing.
        called: Method -> whether it calls the two related; only of our own commands.
        seconds: Method -> of one processor.
        log10_p: Of `align`.
        undone: Largest relative error of a tensor once the disguise was undone; null if it was not.
        blocks: The layer of `a` that each layer of `b` is said to come from.
        layers: Whether each layer was found to come from where it does.
        units: Share of units found to come from where they do.
        experts: Share of experts found to come from where they do.
        share: Of `b`'s weights, what truly is `a`'s, where that is a part.
        shares: Method -> that share as it is told; only of our own commands.
        notes: What a command said that gave no answer.
    """

    family: str
    a: str
    b: str
    kind: str
    steps: str
    follow_up: str
    scores: dict[str, float] = field(default_factory=dict)
    called: dict[str, bool | None] = field(default_factory=dict)
    role: str = "child"
    disguised: int = 1
    seconds: dict[str, float] = field(default_factory=dict)
    log10_p: float | None = None
    undone: float | None = None
    blocks: list[int | None] = field(default_factory=list)
    layers: bool | None = None
    units: float | None = None
    experts: float | None = None
    share: float | None = None
    shares: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def is_positive(self) -> bool:
        """Say whether one of the two was made of the other."""
        return self.kind != "none"

    def to_json(self) -> dict[str, Any]:
        """Return all of it; what is not a number is null."""
        told = asdict(self)
        told["scores"] = {k: None if isnan(v) else v for k, v in self.scores.items()}
        return told


def pairs_of(truth: Mapping[str, Any], strangers: int, seed: int) -> list[Pair]:
    """Return the pairs of a family: every positive one, and so many of the negative ones.

    Raises:
        ValueError: If the truth does not tell where roots come from.
    """
    if "roots" not in truth:
        raise ValueError(f"{truth['family']}: its truth has no roots; make it again")
    return [*_relatives(truth, seed), *_strangers(truth, strangers, seed)]


def _relatives(truth: Mapping[str, Any], seed: int) -> Iterator[Pair]:
    """Yield what was made with the child; disguises and shapes with its kin, too."""
    lot = random.Random(f"{truth['family']}/{seed}/relatives")
    siblings = [m["path"] for m in truth["models"] if m["role"] == "sibling"]
    there = {record["path"] for record in truth["made"]}
    for record in truth["made"]:
        if not record["related"]:
            continue
        steps = _steps(record)
        kin = [("child", truth["child"])]
        if record["kind"] in _WITH_RELATIVES:
            drawn = lot.sample(siblings, min(_SIBLINGS, len(siblings)))
            kin += [("base", truth["base"]), *(("sibling", name) for name in drawn)]
        if steps[1:] in (["experts-cut"], ["experts-merged"]) and steps[0] in there:
            kin.append(("mixture", steps[0]))
        for role, name in kin:
            yield Pair(
                truth["family"], name, record["path"], record["kind"], "+".join(steps),
                record["follow_up"], role=role, disguised=2 if role == "mixture" else 1,
            )  # fmt: skip


def _steps(record: Mapping[str, Any]) -> list[str]:
    """Return the steps as the name of the folder tells them."""
    names: list[str] = record["path"].split("+")
    return names[:-1] if names[-1] == record["follow_up"] else names


def _strangers(truth: Mapping[str, Any], count: int, seed: int) -> list[Pair]:
    """Return pairs by lot, as many of each sort as there are.

    A sort is what the two have in common and how many of them are disguised.
    """
    made = {record["path"]: record for record in truth["made"]}
    from_where = _roots_of(truth)
    sorts: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for a, b in combinations(sorted(from_where), 2):
        common = in_common(from_where[a], from_where[b], truth["roots"])
        if common is not None:
            sorts.setdefault((common, (a in made) + (b in made)), []).append((a, b))
    lot = random.Random(f"{truth['family']}/{seed}")
    found = []
    for (common, disguised), (a, b) in _in_turns(sorts, lot, count):
        a, b = (b, a) if a in made and b not in made else (a, b)
        steps = "+".join(_steps(made[b])) if b in made else ""
        after = made[b]["follow_up"] if b in made else "none"
        found.append(
            Pair(truth["family"], a, b, "none", steps, after, role=common, disguised=disguised)
        )
    return found


def _in_turns(
    sorts: Mapping[tuple[str, int], list[tuple[str, str]]], lot: random.Random, count: int
) -> list[tuple[tuple[str, int], tuple[str, str]]]:
    """Draw one of each sort, and again, until there are enough or none is left."""
    left = {sort: lot.sample(sorts[sort], len(sorts[sort])) for sort in sorted(sorts)}
    drawn = []
    while len(drawn) < count and any(left.values()):
        drawn += [(sort, pairs.pop()) for sort, pairs in left.items() if pairs]
    return drawn[:count]


def _roots_of(truth: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Return for every folder the roots of all that had a part in it."""
    by_id = {m["id"]: frozenset(m["roots"]) for m in truth["models"]}
    plain = {m["path"]: frozenset(m["roots"]) for m in truth["models"]}
    made = {
        record["path"]: frozenset().union(*(by_id[source] for source in record["sources"]))
        for record in truth["made"]
    }
    return plain | made


def in_common(
    a: frozenset[str], b: frozenset[str], roots: Mapping[str, Mapping[str, Any]]
) -> str | None:
    """Return what two strangers have in common; None if they are none.

    Args:
        a: The roots of one.
        b: Of the other.
        roots: Of every root its data, its first weights and whose student it is.
    """
    start, data = (
        [{roots[root][key] for root in one} - {None} for one in (a, b)] for key in ("start", "data")
    )
    if a & b or start[0] & start[1]:
        return None
    teachers = [{t for root in one for t in roots[root]["student_of"]} for one in (a, b)]
    if teachers[0] & b or teachers[1] & a:
        return "student"
    return "same data" if data[0] & data[1] else "same recipe"
