"""From signed bytes to a claim one may pay by, or a refusal that says why.

This room measures nothing. What a measuring program found comes in as `Measurement` values, and
the rules here say what each of them confirms or contradicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from typing import Literal, final

from lineage import merkle
from lineage.claims import statement
from lineage.claims.base import ANYONE, Claim, Parent
from lineage.errors import ContradictionError, FormatError, SignatureError, VerificationError
from lineage.relation import ADDS_NOTHING, DECLARED_ONLY, Relation
from lineage.signing import Envelope, PublicKey, verified_by

FORWARD: Literal["parent->child"] = "parent->child"
BACKWARD: Literal["child->parent"] = "child->parent"
Direction = Literal["parent->child", "child->parent"]

_SEAL = object()


@final
@dataclass(frozen=True, slots=True)
class Measurement:
    """What a measuring program found between two models, named by their fingerprint roots.

    Args:
        child: Root of the model that is asked about.
        parent: Root of its supposed parent.
        related: Whether their weights are related; None where undetermined.
        relation: What kind, where known.
        how: The relation's detail, where known.
        direction: Which way the weights went, where known.
        words: One line for people.
    """

    child: str
    parent: str
    related: bool | None
    relation: Relation | None = None
    how: str | None = None
    direction: Direction | None = None
    words: str = ""

    def turned(self) -> Measurement:
        """Return the same finding told from the other model's side."""
        turn: dict[Direction, Direction] = {FORWARD: BACKWARD, BACKWARD: FORWARD}
        direction = None if self.direction is None else turn[self.direction]
        return Measurement(
            self.parent, self.child, self.related, self.relation, self.how, direction, self.words
        )


@final
@dataclass(frozen=True, slots=True)
class Policy:
    """What a verifier asks of a claim.

    Args:
        keys: The public keys it accepts.
        threshold: How many distinct ones must have signed.
        audience: Who is asking: a claim for somebody else is refused. A claim for `any` is
            accepted by everyone, and only such claims where this is None.
        require_measured: Refuse a claim with a parent that no measurement confirms, except parents
            of a kind that weights cannot show.
    """

    keys: tuple[PublicKey, ...]
    threshold: int = 1
    audience: str | None = None
    require_measured: bool = False

    def __post_init__(self) -> None:
        """Refuse a threshold that nothing or everything would meet."""
        distinct = len({key.raw for key in self.keys})
        if not 1 <= self.threshold <= distinct:
            raise ValueError(f"a threshold of {self.threshold} with {distinct} distinct keys")


@final
@dataclass(frozen=True, slots=True)
class Edge:
    """One parent after verification: the relation money goes by, and whether weights show it."""

    parent: str
    relation: Relation
    confirmed: bool


@final
@dataclass(frozen=True, slots=True)
class VerifiedClaim:
    """A claim that passed `verify`; nothing else can make one.

    Args:
        claim: What it says.
        claim_id: RFC 9162 leaf hash of the envelope's bytes, 64 hexadecimal digits.
        key_ids: The accepted keys that signed, sorted.
        edges: The claim's parents in its order, each with its effective relation: the measured one
            where known, else the declared.
    """

    claim: Claim
    claim_id: str
    key_ids: tuple[str, ...]
    edges: tuple[Edge, ...]
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        """Refuse every maker but `verify`, which alone holds the seal."""
        if seal is not _SEAL:
            raise TypeError("only lineage.claims.verify makes a VerifiedClaim")

    @property
    def confirmed(self) -> frozenset[str]:
        """Roots of the parents that a measurement confirms."""
        return frozenset(edge.parent for edge in self.edges if edge.confirmed)


def claim_id(envelope: Envelope) -> str:
    """Return a claim's id: the leaf hash a log will hold it under, 64 hexadecimal digits."""
    return merkle.leaf_hash(envelope.to_bytes()).hex()


def verify(
    envelope: Envelope,
    policy: Policy,
    *,
    subject_root: str | None = None,
    measurements: Sequence[Measurement] = (),
) -> VerifiedClaim:
    """Check a signed claim against a policy and against what was measured.

    Args:
        envelope: The signed claim as received.
        policy: Whose word counts, and how much must be measured.
        subject_root: Root of the weights at hand; None if there are none.
        measurements: Findings between pairs of models, in any order and either way round; those
            about other pairs are passed over.

    Raises:
        SignatureError: If too few accepted keys signed.
        FormatError: If the payload is not such a claim.
        ContradictionError: If the weights disagree with it.
        VerificationError: If it is for another audience, or no measurement confirms a parent
            that the policy wants measured.

    The steps, in this order, because nothing in a payload means anything before step 1:

    1. signatures over the payload as received, counted by distinct accepted key;
    2. the kind: payloadType, then `_type` and `predicateType`;
    3. the payload parses as a claim;
    4. it is addressed to this verifier;
    5. its subject is the model at hand;
    6. no measurement contradicts a declared parent;
    7. measured parents are confirmed, all that can be if the policy asks so.
    """
    # 1
    key_ids = verified_by(envelope, policy.keys)
    if len(key_ids) < policy.threshold:
        raise SignatureError(f"{len(key_ids)} accepted keys signed, {policy.threshold} are needed")
    # 2, 3
    claim = read(envelope)
    # 4
    if claim.audience not in (ANYONE, policy.audience):
        asking = policy.audience or "anyone"
        raise VerificationError(f"the claim is addressed to '{claim.audience}', not to '{asking}'")
    # 5
    if subject_root is not None and subject_root != claim.subject.root:
        raise ContradictionError(
            f"the claim is about '{claim.subject.name}' ({claim.subject.root[:12]}…), "
            f"but the weights at hand are {subject_root[:12]}…"
        )
    # 6, 7
    edges = tuple(_judge(claim, parent, measurements) for parent in claim.parents)
    if policy.require_measured:
        for parent, edge in zip(claim.parents, edges, strict=True):
            if not edge.confirmed and parent.relation not in DECLARED_ONLY:
                raise VerificationError(
                    f"no measurement confirms that '{claim.subject.name}' comes from "
                    f"'{parent.model.name}'"
                )
    return VerifiedClaim(claim, claim_id(envelope), key_ids, edges, _SEAL)


def read(envelope: Envelope, *, file: object = None) -> Claim:
    """Return what an envelope says without asking whether it is true: for display, never for pay.

    Raises:
        FormatError: If the envelope is too large or holds no claim.
    """
    size = len(envelope.to_bytes())
    if size > statement.MAX_ENVELOPE_BYTES:
        raise FormatError(
            f"envelope: {size} bytes, more than {statement.MAX_ENVELOPE_BYTES}", file=file
        )
    if envelope.payload_type != statement.PAYLOAD_TYPE:
        raise FormatError(f"payloadType: expected {statement.PAYLOAD_TYPE}", file=file)
    return statement.from_bytes(envelope.payload, file=file)


def _judge(claim: Claim, parent: Parent, measurements: Sequence[Measurement]) -> Edge:
    """Hold every measurement of one declared pair against the declaration."""
    pair = (claim.subject.root, parent.model.root)
    known: set[Relation] = set()
    confirmed = False
    for given in measurements:
        found = given.turned() if (given.parent, given.child) == pair else given
        if (found.child, found.parent) != pair or found.related is None:
            continue
        problem = _contradiction(parent.relation, found)
        if problem is not None:
            detail = f" ({found.words})" if found.words else ""
            raise ContradictionError(
                f"'{claim.subject.name}' says it is {parent.relation} of '{parent.model.name}', "
                f"but {problem}{detail}"
            )
        if found.related and found.relation is not None:
            known.add(found.relation)
        if found.related:
            confirmed |= found.direction == FORWARD or found.relation is Relation.IDENTICAL
    # Where measurements differ in kind, one that agrees decides; the order they came in never does.
    agreed = not known or parent.relation in known
    return Edge(parent.model.root, parent.relation if agreed else min(known), confirmed)


def _contradiction(declared: Relation, found: Measurement) -> str | None:
    """Return what a determined measurement says against `declared`, or None."""
    if found.related and found.relation in ADDS_NOTHING and declared not in ADDS_NOTHING:
        # A shell: a copy that claims work of its own. Even a relation that weights cannot show is
        # no cover for weights that are the parent's.
        return f"its weights are the parent's own, {found.relation}"
    if declared in DECLARED_ONLY:
        return None
    if not found.related or found.relation is Relation.SHARED_INIT:
        return "the weights are not derived from it"
    if found.direction == BACKWARD:
        return "the weights went the other way: the supposed parent was made from it"
    if declared is Relation.IDENTICAL and found.relation not in (None, Relation.IDENTICAL):
        return f"the weights differ from it: {found.relation}"
    return None
