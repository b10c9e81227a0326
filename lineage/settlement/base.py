"""What a settlement is told, and what it says: terms, payouts, and the reasons for each."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import final

from lineage import canonical
from lineage.digest import sha256_digest
from lineage.relation import Relation

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
