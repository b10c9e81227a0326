"""From verified claims and an amount to whole-unit payouts: the policy `measured-absolute`.

A model that earns owes each distinct ancestor that ancestor's own rate, once, however many paths
lead to it and however many copies lie between. Copies are contracted first: a model that computes
what its parent computes *is* its parent here, so a shell earns nothing and dilutes nobody. All
arithmetic is exact; only the last step rounds, and the payouts sum to the amount.

`lineage/spec/settlement-v1.md` says it in words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import final

from lineage import canonical
from lineage.claims import VerifiedClaim, fields
from lineage.digest import sha256_digest
from lineage.errors import SettlementError, printable
from lineage.relation import ADDS_NOTHING, Relation

TYPE = "urn:model-lineage:settlement:v1"
POLICY = "measured-absolute"


@final
@dataclass(frozen=True, slots=True)
class Terms:
    """What a settlement may be told to do otherwise.

    Args:
        ceiling: The most that all ancestors together take of what a model earns. Rates that sum to
            more are scaled down alike. One half by default: whoever builds on others keeps at
            least as much as all of them together.
        accept_asserted: Pay by parents that only a signature vouches for, too.
    """

    ceiling: Fraction = Fraction(1, 2)
    accept_asserted: bool = False

    def __post_init__(self) -> None:
        """Refuse a ceiling that is no part of a whole."""
        if not isinstance(self.ceiling, Fraction) or not 0 <= self.ceiling <= 1:
            raise ValueError("the ceiling is an exact Fraction from 0 to 1")


@final
@dataclass(frozen=True, slots=True, order=True)
class Link:
    """A declared edge that no measurement confirms, between two roots."""

    child: str
    parent: str
    relation: Relation


@final
@dataclass(frozen=True, slots=True)
class Reason:
    """Why a payee gets something: a role in one model, and the exact part of the whole amount."""

    model: str
    name: str
    role: str
    part: Fraction


@final
@dataclass(frozen=True, slots=True)
class Payout:
    """What one payee gets, in whole smallest units, and for what."""

    payee: str
    amount: int
    reasons: tuple[Reason, ...]


@final
@dataclass(frozen=True, slots=True)
class Settlement:
    """Who gets what of one amount; `to_bytes` is the same for everyone who computes it.

    Args:
        earner: Root of the model that earned.
        amount: What it earned, in the smallest unit.
        unit: What that unit is called.
        terms: How it was divided.
        payouts: By payee id; they and `unclaimed` sum to `amount`.
        unclaimed: What is held for `holder`: the earner turned out to be a copy of a model that
            nobody has claimed, so what would be its own waits for a claim.
        holder: Root of that model, or None.
        claims: Ids of the claims that were used, sorted.
        asserted: Edges that rest on a signature alone; paid by or not as `terms` say.
    """

    earner: str
    amount: int
    unit: str
    terms: Terms
    payouts: tuple[Payout, ...]
    unclaimed: int
    holder: str | None
    claims: tuple[str, ...]
    asserted: tuple[Link, ...]

    def to_bytes(self) -> bytes:
        """Return the settlement as RFC 8785 JSON; amounts and parts are strings."""
        return canonical.dumps(
            {
                "_type": TYPE,
                "policy": {
                    "name": POLICY,
                    "ceiling": _spelled(self.terms.ceiling),
                    "accept_asserted": self.terms.accept_asserted,
                },
                "earner": self.earner,
                "amount": _digits(self.amount),
                "unit": self.unit,
                "payouts": [
                    {
                        "payee": payout.payee,
                        "amount": _digits(payout.amount),
                        "reasons": [
                            {
                                "model": reason.model,
                                "name": reason.name,
                                "role": reason.role,
                                "part": _spelled(reason.part),
                            }
                            for reason in payout.reasons
                        ],
                    }
                    for payout in self.payouts
                ],
                "unclaimed": {"amount": _digits(self.unclaimed), "model": self.holder},
                "claims": list(self.claims),
                "asserted": [
                    {"child": link.child, "parent": link.parent, "relation": link.relation.value}
                    for link in self.asserted
                ],
            }
        )

    @property
    def sha256(self) -> str:
        """SHA-256 of `to_bytes`, 64 hexadecimal digits."""
        return sha256_digest(self.to_bytes()).hex()


def _digits(number: int) -> str:
    """Return a whole number in decimal, of any length: `str` refuses more than 4,300 digits."""
    return str(Decimal(number))


def _spelled(part: Fraction) -> str:
    """Return `p/q` in lowest terms, or a whole number. Exact parts of a large family are long."""
    whole = _digits(part.numerator)
    return whole if part.denominator == 1 else f"{whole}/{_digits(part.denominator)}"


def settle(
    claims: Iterable[VerifiedClaim],
    earner: str,
    amount: int,
    unit: str,
    terms: Terms = Terms(),
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
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise TypeError("an amount is a whole number of the smallest unit")
    if amount < 0:
        raise SettlementError(f"an amount of {amount} cannot be divided: it is negative")
    fields.name(unit, "unit")
    # 1
    family = _family(claims, earner, terms)
    # 2
    stands_for = _contract(family, terms)
    # 3
    takes = _takes(family, stands_for, earner, terms)
    # 4
    keeper = stands_for[earner]
    takes[keeper] = 1 - sum(takes.values(), Fraction(0))
    # 5
    reasons = _reasons(takes, family)
    parts = {
        payee: sum((reason.part for reason in found), Fraction(0))
        for payee, found in reasons.items()
    }
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


def _family(claims: Iterable[VerifiedClaim], earner: str, terms: Terms) -> dict[str, VerifiedClaim]:
    """Return the one claim about each model that paying edges reach from `earner`."""
    about: dict[str, list[VerifiedClaim]] = {}
    for verified in claims:
        if not isinstance(verified, VerifiedClaim):
            raise TypeError("settle takes only what lineage.claims.verify returned")
        about.setdefault(verified.claim.subject.root, []).append(verified)
    if earner not in about:
        raise SettlementError(f"no verified claim is about the earning model {earner[:12]}…")
    family: dict[str, VerifiedClaim] = {}
    waiting = [earner]
    while waiting:
        model = waiting.pop()
        if model not in family and model in about:
            family[model] = _only(about[model])
            waiting += _parents(family[model], terms)
    _refuse_cycles(family, terms)
    return family


def _only(found: list[VerifiedClaim]) -> VerifiedClaim:
    """Return the claim that several agree on; the best measured, then the lowest id.

    One claim that was verified against different measurements is told apart by its edges, so that
    the order in which claims came never decides.
    """
    first = found[0].claim
    for verified in found[1:]:
        claim = verified.claim
        same = (
            claim.rate == first.rate
            and set(claim.splits) == set(first.splits)
            and {(p.model.root, p.relation, p.how, p.coefficient) for p in claim.parents}
            == {(p.model.root, p.relation, p.how, p.coefficient) for p in first.parents}
        )
        if not same:
            raise SettlementError(
                f"two claims about '{printable(first.subject.name)}' ({first.subject.root[:12]}…) "
                "disagree on its parents, splits or rate"
            )
    return min(found, key=_rank)


def _rank(verified: VerifiedClaim) -> tuple[int, str, list[tuple[str, bool, str]]]:
    edges = [(edge.parent, not edge.confirmed, edge.relation.value) for edge in verified.edges]
    return -len(verified.confirmed), verified.claim_id, edges


def _parents(verified: VerifiedClaim, terms: Terms) -> list[str]:
    """Return the parents that money may go to: of a copy, only what it is a copy of."""
    paying = [edge for edge in verified.edges if edge.confirmed or terms.accept_asserted]
    copied = [edge.parent for edge in paying if edge.relation in ADDS_NOTHING]
    return copied or [edge.parent for edge in paying]


def _is_copy(verified: VerifiedClaim, parent: str) -> bool:
    """Whether the claim's model computes what `parent` computes."""
    return any(edge.parent == parent and edge.relation in ADDS_NOTHING for edge in verified.edges)


def _refuse_cycles(family: Mapping[str, VerifiedClaim], terms: Terms) -> None:
    """Raise where a model is its own ancestor, by taking away models without parents left."""
    children: dict[str, list[str]] = {}
    left = {}
    for model, verified in family.items():
        parents = [parent for parent in _parents(verified, terms) if parent in family]
        left[model] = len(parents)
        for parent in parents:
            children.setdefault(parent, []).append(model)
    ready = [model for model, count in left.items() if count == 0]
    while ready:
        model = ready.pop()
        del left[model]
        for child in children.get(model, ()):
            left[child] -= 1
            if left[child] == 0:
                ready.append(child)
    if left:
        model = min(left)
        name = printable(family[model].claim.subject.name)
        raise SettlementError(
            f"'{name}' ({model[:12]}…) is an ancestor of itself, or its parent is"
        )


def _contract(family: Mapping[str, VerifiedClaim], terms: Terms) -> dict[str, str]:
    """Return, for every model in sight, the one that it computes the same as."""
    next_up = {
        model: [parent for parent in _parents(verified, terms) if _is_copy(verified, parent)]
        for model, verified in family.items()
    }
    stands_for: dict[str, str] = {}

    def climb(start: str) -> None:
        path = [start]
        while path:  # a stack of our own: shells can be stacked deeper than Python's
            model = path[-1]
            originals = next_up.get(model, [])
            missing = [original for original in originals if original not in stands_for]
            if missing:
                path.append(missing[0])
                continue
            found = {stands_for[original] for original in originals} or {model}
            if len(found) > 1:
                name = printable(family[model].claim.subject.name)
                raise SettlementError(f"'{name}' ({model[:12]}…) is a copy of two different models")
            stands_for[model] = found.pop()
            path.pop()

    for model in sorted(family):
        for root in (model, *_parents(family[model], terms)):
            if root not in stands_for:
                climb(root)
    return stands_for


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
        parents = _parents(family[model], terms) if model in family else []
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
