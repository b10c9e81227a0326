"""Who contributed which records of a data set, signed by themselves; and what each is owed of it.

A contribution names a set of records by its root. Who has the manifests of the whole and of the
parts can see that the parts are in the whole and that no record is claimed twice in one role
(`lineage.datasets.parts`); the shares follow from counts, and weights where these are declared,
exactly. They go into the claim whose subject is the data set, and a model that was trained on it
names that data set as a parent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, final

from lineage import canonical
from lineage.claims import fields
from lineage.claims.base import Split
from lineage.errors import FormatError, VerificationError
from lineage.manifests.tree import Head
from lineage.signing import Envelope, PublicKey, Signer, sign_payload, verified_by

TYPE = "urn:model-lineage:contribution:v1"
PAYLOAD_TYPE = "application/vnd.model-lineage.contribution+json"
MAX_BYTES = 16 * 1024


@final
@dataclass(frozen=True, slots=True)
class Contribution:
    """What one contributor says of their records.

    Args:
        records: The records, as a multiset.
        payee: Where the money goes.
        role: What they did: curator, labeller, writer, ...
        weight: What one record counts for, where not 1; above 0.
        issued: When it was signed, RFC 3339 in UTC; nothing is decided by it.
    """

    records: Head
    payee: str
    role: str
    issued: str
    weight: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        """Check the fields."""
        fields.name(self.payee, "payee")
        fields.name(self.role, "role")
        fields.utc(self.issued, "issued")
        fields.fraction(self.weight, "weight")
        if self.weight <= 0:
            raise FormatError("weight: expected more than 0")
        if not self.records.records:
            raise FormatError("records: a contribution of nothing")

    def to_bytes(self) -> bytes:
        """Return the statement, in canonical form."""
        return canonical.dumps(
            {
                "_type": TYPE,
                "records": self.records.to_json(),
                "payee": self.payee,
                "role": self.role,
                "weight": fields.spell_fraction(self.weight),
                "issued": self.issued,
            }
        )


def from_bytes(data: bytes, *, file: object = None) -> Contribution:
    """Read a statement.

    Raises:
        FormatError: If it is none, or not in canonical form.
    """
    value = canonical.loads(data, file=file, max_bytes=MAX_BYTES)
    try:
        found = _read(value)
    except FormatError as error:
        raise FormatError(error.reason, file=file) from error
    if found.to_bytes() != data:
        raise FormatError("the contribution is not in canonical form (RFC 8785)", file=file)
    return found


def _read(value: Any) -> Contribution:
    wanted = {"_type", "records", "payee", "role", "weight", "issued"}
    if not isinstance(value, dict) or value.get("_type") != TYPE:
        raise FormatError(f"_type: expected {TYPE}")
    if set(value) != wanted:
        raise FormatError(f"expected the members {', '.join(sorted(wanted))}")
    return Contribution(
        Head.from_json(value["records"], "records"),
        value["payee"],
        value["role"],
        value["issued"],
        fields.parse_fraction(value["weight"], "weight"),
    )


def sign(contribution: Contribution, *signers: Signer) -> Envelope:
    """Sign a contribution."""
    return sign_payload(PAYLOAD_TYPE, contribution.to_bytes(), *signers)


def verify(envelope: Envelope, keys: Iterable[PublicKey], *, file: object = None) -> Contribution:
    """Return what an envelope says, if an accepted key signed it.

    Raises:
        FormatError: If it holds something else.
        SignatureError: If no accepted key signed it.
    """
    if envelope.payload_type != PAYLOAD_TYPE:
        raise FormatError("the envelope holds no contribution", file=file)
    verified_by(envelope, keys)
    return from_bytes(envelope.payload, file=file)


def shares(
    whole: Head,
    contributions: Iterable[Contribution],
    unclaimed: int,
    rest: tuple[str, str] | None = None,
) -> tuple[Split, ...]:
    """Return what each contributor is owed of what a data set earns; the shares sum to 1.

    Every record counts, in each role in which it is contributed, for its contribution's weight, and
    one that nobody claims for 1. One payee in one role gets one share. That the contributions are
    in the data set, and none twice in one role, is the caller's to see.

    Args:
        whole: The data set.
        contributions: What is contributed.
        unclaimed: How many records of it are in no contribution.
        rest: The payee and role of these.

    Raises:
        VerificationError: If they claim more records than there are, or leave some to nobody.
    """
    counted: dict[tuple[str, str], Fraction] = {}
    roles: dict[str, int] = {}
    for part in contributions:
        records = part.records.records
        key = part.payee, part.role
        counted[key] = counted.get(key, Fraction(0)) + part.weight * records
        roles[part.role] = roles.get(part.role, 0) + records
    claimed = whole.records - unclaimed
    most = max(roles.values(), default=0)
    if most > claimed:
        raise VerificationError(f"{most - claimed} records more are claimed than the data set has")
    if not 0 <= unclaimed <= whole.records or claimed > sum(roles.values()):
        raise VerificationError(f"{unclaimed} records cannot be unclaimed")
    if unclaimed and rest is None:
        raise VerificationError(f"{unclaimed} records are nobody's: say whose the rest is")
    if unclaimed and rest is not None:
        counted[rest] = counted.get(rest, Fraction(0)) + unclaimed
    total = sum(counted.values(), Fraction(0))
    if not total:
        raise VerificationError("a data set without records is nobody's")
    return tuple(Split(*key, value / total) for key, value in sorted(counted.items()))
