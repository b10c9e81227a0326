"""Settlements a second time, from the page alone: along every path, with sums of integers."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

import rfc8785

ADDS_NOTHING = ("identical", "quantized", "reparametrized", "noised")


class RefusedError(ValueError):
    """Claims that define no payout."""


@dataclass(frozen=True)
class Said:
    """One verified claim. Numbers are (top, below); an edge is (parent, relation, confirmed)."""

    id: str
    root: str
    name: str
    rate: tuple[int, int]
    splits: tuple[tuple[str, str, tuple[int, int]], ...]
    edges: tuple[tuple[str, str, bool], ...]


def settle(
    claims: list[Said],
    earner: str,
    amount: int,
    unit: str,
    ceiling: tuple[int, int],
    asserted: bool,
) -> bytes:
    """The settlement's bytes; at most one claim about each model."""
    family = _Family({claim.root: claim for claim in claims}, asserted)
    about = family.about
    if earner not in about:
        raise RefusedError("nobody speaks of the earner")
    reached = family.reached(earner)
    used = reached & about.keys()
    originals = {model: family.original(model) for model in reached}
    keeper = originals[earner]
    rates = {m: about[m].rate for m in set(originals.values()) - {keeper} if m in about}
    whole, pieces = _pieces(rates, keeper, ceiling)
    finer = lcm(*(share[1] for model in used for _, _, share in about[model].splits))
    whole, pieces = whole * finer, {model: count * finer for model, count in pieces.items()}
    reasons: dict[str, list[tuple[str, str, int]]] = {}
    for model, count in pieces.items():
        for payee, role, (top, below) in about[model].splits if model in about and count else ():
            reasons.setdefault(payee, []).append((model, role, count * top // below))
    counts = {payee: sum(row[2] for row in rows) for payee, rows in reasons.items()}
    units = _rounded(amount, whole, counts, 0 if keeper in about else pieces[keeper])
    return rfc8785.dumps(
        {
            "_type": "urn:model-lineage:settlement:v1",
            "policy": {
                "name": "measured-absolute",
                "ceiling": _part(*ceiling),
                "accept_asserted": asserted,
            },
            "earner": earner,
            "amount": str(amount),
            "unit": unit,
            "payouts": [
                {
                    "payee": payee,
                    "amount": str(units[payee]),
                    "reasons": [
                        {"model": m, "name": about[m].name, "role": r, "part": _part(n, whole)}
                        for m, r, n in sorted(reasons[payee])
                    ],
                }
                for payee in sorted(reasons)
            ],
            "unclaimed": {
                "amount": str(units[""]),
                "model": None if keeper in about else keeper,
            },
            "claims": sorted(about[model].id for model in used),
            "asserted": family.asserted_edges(used),
        }
    )


@dataclass(frozen=True)
class _Family:
    """What is said about each model, and whether edges pay that nobody measured."""

    about: dict[str, Said]
    asserted: bool

    def paying(self, model: str) -> list[tuple[str, str]]:
        """The edges of a model that pay; of a copy, those that make it one."""
        edges = self.about[model].edges if model in self.about else ()
        pay = [(parent, relation) for parent, relation, sure in edges if sure or self.asserted]
        return [edge for edge in pay if edge[1] in ADDS_NOTHING] or pay

    def reached(self, earner: str) -> set[str]:
        """The earner and all that paying edges lead to, along every path."""
        paths = [[earner]]
        for path in paths:  # which grows while it is walked
            for parent, _ in self.paying(path[-1]):
                if parent in path:
                    raise RefusedError("a cycle")
                paths.append([*path, parent])
        return {path[-1] for path in paths}

    def original(self, model: str) -> str:
        """The model that this one is a copy of, or itself."""
        found = {self.original(p) for p, how in self.paying(model) if how in ADDS_NOTHING}
        if len(found) > 1:
            raise RefusedError("a copy of two models")
        return found.pop() if found else model

    def asserted_edges(self, used: set[str]) -> list[dict[str, str]]:
        """The edges of some models that rest on a signature alone."""
        edges = ((model, *edge) for model in used for edge in self.about[model].edges)
        unsure = sorted((child, parent, how) for child, parent, how, sure in edges if not sure)
        return [{"child": c, "parent": p, "relation": how} for c, p, how in unsure]


def _pieces(
    rates: dict[str, tuple[int, int]], keeper: str, ceiling: tuple[int, int]
) -> tuple[int, dict[str, int]]:
    """Count everything in pieces of one size: how many the whole has, and each model takes."""
    whole = lcm(ceiling[1], *(below for _, below in rates.values()))
    pieces = {model: top * (whole // below) for model, (top, below) in rates.items()}
    most, total = ceiling[0] * (whole // ceiling[1]), sum(pieces.values())
    if total > most:
        whole, most = whole * total, most * total
        pieces = {model: count * most // total for model, count in pieces.items()}
    pieces[keeper] = whole - sum(pieces.values())
    return whole, pieces


def _rounded(amount: int, whole: int, counts: dict[str, int], held: int) -> dict[str, int]:
    """Whole units by payee, and what is held under "": one more each for the largest rests."""
    assert sum(counts.values()) + held == whole
    lines = [(-(amount * count % whole), 0, payee) for payee, count in counts.items()]
    lines.append((-(amount * held % whole), 1, ""))
    units = {payee: amount * count // whole for payee, count in counts.items()}
    units[""] = amount * held // whole
    for _, _, payee in sorted(lines)[: amount - sum(units.values())]:
        units[payee] += 1
    return units


def _part(count: int, whole: int) -> str:
    """A part of the whole as a reduced fraction."""
    top, below = count, whole
    while below:
        top, below = below, top % below
    return str(count // top) if whole == top else f"{count // top}/{whole // top}"
