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
    about = {claim.root: claim for claim in claims}
    if earner not in about:
        raise RefusedError("nobody speaks of the earner")

    def paying(model: str) -> list[tuple[str, str]]:
        edges = about[model].edges if model in about else ()
        pay = [(parent, relation) for parent, relation, sure in edges if sure or asserted]
        return [edge for edge in pay if edge[1] in ADDS_NOTHING] or pay

    paths = [[earner]]
    for path in paths:  # which grows while it is walked
        for parent, _ in paying(path[-1]):
            if parent in path:
                raise RefusedError("a cycle")
            paths.append([*path, parent])
    used = {path[-1] for path in paths} & about.keys()

    def original(model: str) -> str:
        found = {original(p) for p, relation in paying(model) if relation in ADDS_NOTHING}
        if len(found) > 1:
            raise RefusedError("a copy of two models")
        return found.pop() if found else model

    for model in used:
        original(model)
    keeper = original(earner)
    above = {original(path[-1]) for path in paths} - {keeper}
    rates = {model: about[model].rate for model in above & about.keys()}
    # From here on everything is counted in pieces of one size, `whole` of which are the amount.
    whole = lcm(ceiling[1], *(below for _, below in rates.values()))
    pieces = {model: top * (whole // below) for model, (top, below) in rates.items()}
    most, total = ceiling[0] * (whole // ceiling[1]), sum(pieces.values())
    if total > most:
        whole, most = whole * total, most * total
        pieces = {model: count * most // total for model, count in pieces.items()}
    pieces[keeper] = whole - sum(pieces.values())
    finer = lcm(*(share[1] for model in used for _, _, share in about[model].splits))
    whole, pieces = whole * finer, {model: count * finer for model, count in pieces.items()}
    reasons: dict[str, list[tuple[str, str, int]]] = {}
    for model, count in pieces.items():
        for payee, role, (top, below) in about[model].splits if model in about and count else ():
            reasons.setdefault(payee, []).append((model, role, count * top // below))
    counts = {payee: sum(row[2] for row in rows) for payee, rows in reasons.items()}
    held = 0 if keeper in about else pieces[keeper]
    assert sum(counts.values()) + held == whole
    lines = [(-(amount * count % whole), 0, payee) for payee, count in counts.items()]
    lines.append((-(amount * held % whole), 1, ""))
    units = {payee: amount * count // whole for payee, count in counts.items()}
    units[""] = amount * held // whole
    left = amount - sum(units.values())
    for _, _, payee in sorted(lines)[:left]:
        units[payee] += 1

    def part(count: int) -> str:
        top, below = count, whole
        while below:
            top, below = below, top % below
        return str(count // top) if whole == top else f"{count // top}/{whole // top}"

    return rfc8785.dumps(
        {
            "_type": "urn:model-lineage:settlement:v1",
            "policy": {
                "name": "measured-absolute",
                "ceiling": str(ceiling[0]) if ceiling[1] == 1 else f"{ceiling[0]}/{ceiling[1]}",
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
                        {
                            "model": model,
                            "name": about[model].name,
                            "role": role,
                            "part": part(count),
                        }
                        for model, role, count in sorted(reasons[payee])
                    ],
                }
                for payee in sorted(reasons)
            ],
            "unclaimed": {
                "amount": str(units[""]),
                "model": None if keeper in about else keeper,
            },
            "claims": sorted(about[model].id for model in used),
            "asserted": [
                {"child": child, "parent": parent, "relation": relation}
                for child, parent, relation in sorted(
                    (model, parent, relation)
                    for model in used
                    for parent, relation, sure in about[model].edges
                    if not sure
                )
            ],
        }
    )
