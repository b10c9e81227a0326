"""What a claim says, as values that cannot be made wrong.

Each value checks itself when it is made and raises a FormatError that names the field: a claim that
exists is a claim that may be signed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import final

from lineage.claims import fields
from lineage.errors import FormatError
from lineage.relation import HOW, Relation

MAX_PARENTS = 64
MAX_ITEMS = 256
MAX_CHANGED, MAX_PLACES, MAX_RANK = 1024, 4096, 2**31
ANYONE = "any"
KINDS = ("delta", "gain_in", "gain_out", "magnitude", "whole")
"""What an adapter may do to a tensor, as `delta-v1.md` has it."""


class Level(StrEnum):
    """How strong a finding is, weakest first."""

    ASSERTED = "asserted"
    INFERRED = "inferred"
    REPLAYED = "replayed"
    ATTESTED = "attested"


@final
@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model by its exact identity; the name is for people and is not trusted.

    Args:
        name: What its maker calls it.
        root: The fingerprint's BLAKE3 root, 64 hexadecimal digits.
        manifest_sha256: SHA-256 of the fingerprint's manifest, where known.
    """

    name: str
    root: str
    manifest_sha256: str | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        fields.name(self.name, "name")
        fields.hexadecimal(self.root, "digest.modelLineageV1", 64)
        if self.manifest_sha256 is not None:
            fields.hexadecimal(self.manifest_sha256, "digest.sha256", 64)


@final
@dataclass(frozen=True, slots=True)
class Parent:
    """One model the subject was made from.

    Args:
        model: The parent.
        relation: What the subject is to it; anything but `shared_init`.
        how: The relation's detail, one of `lineage.relation.HOW`.
        coefficient: The parent's weight in a merge, where that has a meaning.
    """

    model: ModelRef
    relation: Relation
    how: str | None = None
    coefficient: Fraction | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        if not isinstance(self.relation, Relation):
            raise FormatError("relation: expected one of the relations")
        if self.relation is Relation.SHARED_INIT:
            raise FormatError("relation: models with the same initial weights are not parents")
        if self.how is not None and self.how not in HOW.get(self.relation, ()):
            raise FormatError(f"how: not a detail of {self.relation}")
        if self.coefficient is not None:
            fields.fraction(self.coefficient, "coefficient")


@final
@dataclass(frozen=True, slots=True)
class Split:
    """One contributor's part of what the subject itself keeps.

    Args:
        payee: Where the money goes: an account, an address, a name both sides know.
        role: What they did: trainer, dataset curator, labeller, red-teamer, ...
        share: Their part, above 0 and at most 1; all shares of a claim sum to 1.
    """

    payee: str
    role: str
    share: Fraction

    def __post_init__(self) -> None:
        """Check the fields."""
        fields.name(self.payee, "payee")
        fields.name(self.role, "role")
        fields.fraction(self.share, "share")
        if not 0 < self.share <= 1:
            raise FormatError("share: expected more than 0 and at most 1")


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """What the signer found about a parent. Nobody pays by it: a verifier measures again.

    Args:
        parent: The parent's root.
        level: How strong it is.
        method: The method's name, which holds every parameter that changes its result.
        relation: What it found.
        statistic: The method's number, in decimal.
    """

    parent: str
    level: Level
    method: str
    relation: Relation
    statistic: str | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        fields.hexadecimal(self.parent, "parent", 64)
        if not isinstance(self.level, Level):
            raise FormatError("level: expected one of the levels")
        fields.name(self.method, "method")
        if not isinstance(self.relation, Relation):
            raise FormatError("relation: expected one of the relations")
        if self.statistic is not None:
            fields.statistic(self.statistic, "statistic")


@final
@dataclass(frozen=True, slots=True)
class Changed:
    """Tensors of one name but for its numbers, which an adapter changes in one way.

    Args:
        name: The tensors' name, a `*` in place of each number that is a word of it.
        at: The numbers of each tensor, joined by dots; one empty text where the name has none.
        kind: What is done to them, one of `KINDS`.
        rank: Of the factors, where there are any.
    """

    name: str
    at: tuple[str, ...]
    kind: str
    rank: int | None

    def __post_init__(self) -> None:
        """Check the fields."""
        object.__setattr__(self, "at", tuple(self.at))
        fields.name(self.name, "name")
        if self.kind not in KINDS:
            raise FormatError("kind: expected one of the kinds of changes")
        if self.rank is not None and (type(self.rank) is not int or not 0 < self.rank < MAX_RANK):
            raise FormatError("rank: expected a whole number above 0")
        stars = self.name.split(".").count("*")
        if not 1 <= len(self.at) <= MAX_PLACES:
            raise FormatError(f"at: expected 1 to {MAX_PLACES} places")
        for place in self.at:
            fields.numbers(place, "at", stars)
        _distinct(list(self.at), "at", "one place twice")


@final
@dataclass(frozen=True, slots=True)
class DeltaRef:
    """What an adapter changes: its identity, and which tensors by what rank.

    Args:
        scheme: The scheme of the identity.
        id: The identity, 64 hexadecimal digits; see `delta-v1.md`.
        changed: Every tensor that is changed, each in one way once.
    """

    scheme: str
    id: str
    changed: tuple[Changed, ...]

    def __post_init__(self) -> None:
        """Check the fields."""
        object.__setattr__(self, "changed", tuple(self.changed))
        fields.name(self.scheme, "scheme")
        fields.hexadecimal(self.id, "id", 64)
        if len(self.changed) > MAX_CHANGED:
            raise FormatError(f"changed: more than {MAX_CHANGED}")
        seen = [f"{one.name}\n{one.kind}\n{place}" for one in self.changed for place in one.at]
        _distinct(seen, "changed", "one tensor twice in one way")


@final
@dataclass(frozen=True, slots=True)
class Dataset:
    """Data that shaped the subject, by the SHA-256 of its manifest; declared, never inferred."""

    name: str
    sha256: str
    relation: Relation = Relation.TRAINED_ON

    def __post_init__(self) -> None:
        """Check the fields."""
        fields.name(self.name, "name")
        fields.hexadecimal(self.sha256, "digest.sha256", 64)
        if self.relation not in (
            Relation.TRAINED_ON,
            Relation.EVALUATED_BY,
            Relation.RED_TEAMED_BY,
            Relation.LABELLED_BY,
        ):
            raise FormatError("relation: not what a data set is to a model")


@final
@dataclass(frozen=True, slots=True)
class Claim:
    """What a model is, what it was made from, and who is paid for it.

    Args:
        subject: The model.
        parents: What it was made from, at most 64, each once.
        splits: Who shares what the subject earns; the shares sum to exactly 1.
        rate: The part of a descendant's earnings owed to the subject, 0 to 1.
        findings: Evidence the signer already has.
        datasets: Data the signer declares.
        issued: When it was signed, RFC 3339 in UTC; nothing is decided by it.
        nonce: 32 hexadecimal digits that make two alike claims two.
        audience: The log origin or party it is for, or `any`.
        delta: What the subject changes, if it is an adapter.
    """

    subject: ModelRef
    parents: tuple[Parent, ...]
    splits: tuple[Split, ...]
    rate: Fraction
    issued: str
    nonce: str
    findings: tuple[Finding, ...] = ()
    datasets: tuple[Dataset, ...] = ()
    audience: str = ANYONE
    delta: DeltaRef | None = None

    def __post_init__(self) -> None:
        """Check what the fields say together."""
        for key in ("parents", "splits", "findings", "datasets"):
            object.__setattr__(self, key, tuple(getattr(self, key)))
            limit = MAX_PARENTS if key == "parents" else MAX_ITEMS
            if len(getattr(self, key)) > limit:
                raise FormatError(f"{key}: more than {limit}")
        roots = [parent.model.root for parent in self.parents]
        if self.subject.root in roots:
            raise FormatError("parents: the subject is its own parent")
        _distinct(roots, "parents", "one model twice")
        _distinct(
            [f"{split.payee}\n{split.role}" for split in self.splits],
            "splits",
            "one payee twice in one role",
        )
        total = sum((split.share for split in self.splits), Fraction(0))
        if total != 1:
            raise FormatError(f"splits: the shares sum to {total}, not to 1")
        fields.fraction(self.rate, "rate")
        if not 0 <= self.rate <= 1:
            raise FormatError("rate: expected 0 to 1")
        if any(finding.parent not in roots for finding in self.findings):
            raise FormatError("findings: a finding about a model that is not a parent")
        fields.utc(self.issued, "issued")
        fields.hexadecimal(self.nonce, "nonce", 32)
        fields.name(self.audience, "audience")


def _distinct(values: list[str], field: str, reason: str) -> None:
    if len(set(values)) != len(values):
        raise FormatError(f"{field}: {reason}")
