"""From verified claims and an amount to whole-unit payouts: the policy `measured-absolute`.

A model that earns owes each distinct ancestor that ancestor's own rate, once, however many paths
lead to it and however many copies lie between. Copies are contracted first: a model that computes
what its parent computes *is* its parent here, so a shell earns nothing and dilutes nobody. All
arithmetic is exact; only the last step rounds, and the payouts sum to the amount.

`lineage/spec/settlement-v1.md` says it in words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

from lineage.claims import VerifiedClaim, fields
from lineage.errors import SettlementError
from lineage.settlement.base import POLICY, TYPE, Link, Payout, Reason, Settlement, Terms
from lineage.settlement.family import contracted, family_of, parents_of

__all__ = ["POLICY", "TYPE", "Link", "Payout", "Reason", "Settlement", "Terms", "settle"]

_USUAL = Terms()
"""What holds where nothing else is said."""


def settle(
    claims: Iterable[VerifiedClaim],
    earner: str,
    amount: int,
    unit: str,
    terms: Terms = _USUAL,
) -> Settlement:
    """Divide what a model earned among everyone its claims name.

    Args:
        claims: Verified claims, in any order; those that have nothing to do with `earner` change
            nothing, and the same claim twice counts once.
        earner: Root of the model that earned; one of the claims is about it.
        amount: What it earned, a whole number of the smallest unit.
        unit: What that unit is called; it is only carried along.
        terms: The ceiling, and whether an unmeasured edge pays.

    Raises:
        FormatError: If `unit` is not fit to be shown.
        SettlementError: If `amount` is negative, no claim is about `earner`, its ancestry has a
            cycle, two claims about one model disagree, or a model is a copy of two different ones.

    The steps:

    1. the claims that matter: those about `earner` and the ancestors that paying edges reach;
    2. contract copies, so that each model stands for all that compute the same;
    3. every ancestor takes its own rate, once; down to the ceiling if it is more;
    4. the earner keeps the rest;
    5. each model's take is divided by its claim's splits;
    6. round to whole units, largest remainder first, ties by payee id.
    """
    _check(amount, unit)
    # 1
    family = family_of(claims, earner, terms)
    # 2
    stands_for = contracted(family, terms)
    # 3
    takes = _takes(family, stands_for, earner, terms)
    # 4
    keeper = stands_for[earner]
    takes[keeper] = 1 - sum(takes.values(), Fraction(0))
    # 5
    reasons = _reasons(takes, family)
    parts = {payee: sum((r.part for r in found), Fraction(0)) for payee, found in reasons.items()}
    # 6
    held = Fraction(0) if keeper in family else takes[keeper]
    units, unclaimed = _apportion(amount, parts, held)
    return Settlement(
        earner=earner,
        amount=amount,
        unit=unit,
        terms=terms,
        payouts=tuple(
            Payout(payee, units[payee], found) for payee, found in sorted(reasons.items())
        ),
        unclaimed=unclaimed,
        holder=None if keeper in family else keeper,
        claims=tuple(sorted(verified.claim_id for verified in family.values())),
        asserted=_asserted(family),
    )


def _check(amount: int, unit: str) -> None:
    """Raise unless these are an amount and the name of a unit."""
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise TypeError("an amount is a whole number of the smallest unit")
    if amount < 0:
        raise SettlementError(f"an amount of {amount} cannot be divided: it is negative")
    fields.name(unit, "unit")


def _takes(
    family: Mapping[str, VerifiedClaim], stands_for: Mapping[str, str], earner: str, terms: Terms
) -> dict[str, Fraction]:
    """Return each ancestor's part of the whole, without the earner's own."""
    start = stands_for[earner]
    seen = {start}
    waiting = [start]
    rates: dict[str, Fraction] = {}
    while waiting:
        model = waiting.pop()
        # A parent known only by its digest set no rate, and nobody says what lies above it.
        parents = parents_of(family[model], terms) if model in family else []
        for parent in sorted({stands_for[parent] for parent in parents} - seen):
            seen.add(parent)
            waiting.append(parent)
            if parent in family and family[parent].claim.rate:
                rates[parent] = family[parent].claim.rate
    total = sum(rates.values(), Fraction(0))
    if total > terms.ceiling:
        rates = {model: rate * terms.ceiling / total for model, rate in rates.items()}
    return rates


def _reasons(
    takes: Mapping[str, Fraction], family: Mapping[str, VerifiedClaim]
) -> dict[str, tuple[Reason, ...]]:
    """Divide each model's take by its claim's splits: payee -> for what, by model and role."""
    found: dict[str, list[Reason]] = {}
    for model in sorted(takes.keys() & family.keys()):
        claim = family[model].claim
        if takes[model]:
            for split in sorted(claim.splits, key=lambda split: split.role):
                part = takes[model] * split.share
                reason = Reason(model, claim.subject.name, split.role, part)
                found.setdefault(split.payee, []).append(reason)
    return {payee: tuple(reasons) for payee, reasons in found.items()}


def _asserted(family: Mapping[str, VerifiedClaim]) -> tuple[Link, ...]:
    """Return the edges that no measurement confirms, whether they pay or not."""
    return tuple(
        sorted(
            Link(child, edge.parent, edge.relation)
            for child, verified in family.items()
            for edge in verified.edges
            if not edge.confirmed
        )
    )


def _apportion(
    amount: int, parts: Mapping[str, Fraction], held: Fraction
) -> tuple[dict[str, int], int]:
    """Divide `amount` by exact parts that sum to 1: floors, then a unit each by remainder.

    Largest remainder (Hamilton's method); ties go to the lower payee id, and what is held comes
    last among equals.
    """
    units: dict[str | None, int] = {}
    order: list[tuple[Fraction, bool, str]] = []
    for payee, part in [*parts.items(), (None, held)]:
        exact = amount * part
        units[payee] = exact.numerator // exact.denominator
        order.append((units[payee] - exact, payee is None, payee or ""))
    for _, is_held, payee in sorted(order)[: amount - sum(units.values())]:
        units[None if is_held else payee] += 1
    return {payee: units[payee] for payee in parts}, units[None]
