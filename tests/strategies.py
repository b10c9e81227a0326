"""Hypothesis strategies shared by the tests."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from hypothesis import strategies as st

from lineage.claims import (
    Claim,
    Dataset,
    Finding,
    Level,
    Measurement,
    ModelRef,
    Parent,
    Policy,
    Split,
    VerifiedClaim,
    sign,
    verify,
)
from lineage.relation import ADDS_NOTHING, HOW, Relation
from lineage.signing import Ed25519Key

KEY = Ed25519Key.from_seed(b"a key for tests, no secret at all"[:32])
OTHER_KEY = Ed25519Key.from_seed(b"another key for tests, not secret"[:32])
POLICY = Policy((KEY.public,))
ISSUED = "2026-01-31T09:30:00Z"
NONCE = "00112233445566778899aabbccddeeff"


def root_of(number: int) -> str:
    """A root that is easy to recognise."""
    return f"{number:064x}"


def claim_of(
    number: int,
    parents: tuple[Parent, ...] = (),
    *,
    rate: Fraction = Fraction(0),
    splits: tuple[Split, ...] | None = None,
    **rest: object,
) -> Claim:
    """A plain claim about model `number`, all of it for one payee."""
    splits = splits or (Split(f"payee-{number}", "trainer", Fraction(1)),)
    rest = {"issued": ISSUED, "nonce": NONCE, **rest}
    return Claim(ModelRef(f"model-{number}", root_of(number)), parents, splits, rate, **rest)  # type: ignore[arg-type]


def parent_of(number: int, relation: Relation = Relation.FINETUNE) -> Parent:
    """A parent that is model `number`."""
    return Parent(ModelRef(f"model-{number}", root_of(number)), relation)


def measured(child: int, parent: int, relation: Relation | None = Relation.FINETUNE) -> Measurement:
    """A measurement that confirms an edge."""
    return Measurement(root_of(child), root_of(parent), True, relation, None, "parent->child")


def verified(claim: Claim, *, confirm: bool = True) -> VerifiedClaim:
    """`claim`, signed and verified, its parents measured as they are declared."""
    child = claim.subject.root
    found = [
        Measurement(child, p.model.root, True, p.relation, p.how, "parent->child")
        for p in claim.parents
    ]
    return verify(sign(claim, KEY), POLICY, measurements=found if confirm else ())


hexes = st.binary(min_size=32, max_size=32).map(bytes.hex)
names = st.text("abcdefghij ÄßあЖ-_.0129/", min_size=1, max_size=12).map(str.strip).filter(bool)
parts = st.fractions(0, 1, max_denominator=1000)


@st.composite
def splits(draw: st.DrawFn, payees: st.SearchStrategy[str] = names) -> tuple[Split, ...]:
    """Splits whose shares sum to one."""
    who = draw(st.lists(payees, min_size=1, max_size=4, unique=True))
    weights = draw(st.lists(st.integers(1, 99), min_size=len(who), max_size=len(who)))
    return tuple(
        Split(payee, "trainer", Fraction(weight, sum(weights)))
        for payee, weight in zip(who, weights, strict=True)
    )


@st.composite
def parents(draw: st.DrawFn, root: str) -> Parent:
    """A parent of any kind."""
    relation = draw(st.sampled_from([r for r in Relation if r is not Relation.SHARED_INIT]))
    how = draw(st.sampled_from([None, *HOW.get(relation, ())]))
    coefficient = draw(st.none() | st.fractions(-2, 2, max_denominator=10**6))
    return Parent(ModelRef(draw(names), root, draw(st.none() | hexes)), relation, how, coefficient)


@st.composite
def claims(draw: st.DrawFn) -> Claim:
    """Any claim."""
    subject, *roots = draw(st.lists(hexes, min_size=1, max_size=4, unique=True))
    finding = st.builds(
        Finding,
        parent=st.sampled_from(roots or [subject]),
        level=st.sampled_from(Level),
        method=names,
        relation=st.sampled_from(Relation),
        statistic=st.none()
        | st.decimals(allow_nan=False, allow_infinity=False, places=3).map(
            lambda value: f"{value:f}"[:30].rstrip(".")
        ),
    )
    dataset = st.builds(Dataset, name=names, sha256=hexes)
    return Claim(
        subject=ModelRef(draw(names), subject, draw(st.none() | hexes)),
        parents=tuple(draw(parents(root)) for root in roots),
        splits=draw(splits()),
        rate=draw(parts),
        issued=draw(st.datetimes().map(lambda when: f"{when.replace(microsecond=0).isoformat()}Z")),
        nonce=draw(st.binary(min_size=16, max_size=16)).hex(),
        findings=tuple(draw(st.lists(finding, max_size=2))) if roots else (),
        datasets=tuple(draw(st.lists(dataset, max_size=2))),
        audience=draw(st.just("any") | names),
    )


@dataclass(frozen=True)
class Family:
    """Claims whose parents always have lower numbers; `earner` is the last."""

    claims: tuple[Claim, ...]

    @property
    def earner(self) -> str:
        return self.claims[-1].subject.root

    def verified(self) -> list[VerifiedClaim]:
        return [verified(claim) for claim in self.claims]


@st.composite
def families(draw: st.DrawFn, largest: int = 6, *, copies: bool = True) -> Family:
    """An acyclic family, with diamonds; a copy has one parent, and some parents have no claim."""
    made = []
    shared = st.sampled_from(["ann", "bob", "cem", "dee", "eve"])
    for number in range(1, draw(st.integers(1, largest)) + 1):
        numbers = st.sampled_from([*range(1, number), 1000 + number])
        above = sorted(draw(st.sets(numbers, max_size=3)))
        relation = Relation.FINETUNE
        if copies and len(above) == 1 and draw(st.booleans()):
            relation = draw(st.sampled_from(sorted(ADDS_NOTHING)))
        made.append(
            claim_of(
                number,
                tuple(parent_of(root, relation) for root in above),
                rate=draw(parts),
                splits=draw(splits(shared)),
            )
        )
    return Family(tuple(made))


@st.composite
def tangles(draw: st.DrawFn, largest: int = 6) -> list[VerifiedClaim]:
    """Claims about models in no order: circles, copies of two, parents that nobody measured."""
    made = []
    shared = st.sampled_from(["ann", "bob", "cem", "dée", "\U0001f98a"])
    kinds = st.sampled_from([Relation.FINETUNE, Relation.MERGE, *sorted(ADDS_NOTHING)])
    count = draw(st.integers(1, largest))
    forward = draw(st.booleans())  # most are trees: circles are refused before the sums
    for number in range(1, count + 1):
        numbers = st.sampled_from([*range(1, number if forward else count + 1), 1000])
        above = sorted(draw(st.sets(numbers, max_size=3)) - {number})
        kind = draw(kinds)
        claim = claim_of(
            number,
            tuple(
                parent_of(root, kind if at == 0 else draw(kinds)) for at, root in enumerate(above)
            ),
            rate=draw(parts),
            splits=draw(splits(shared)),
        )
        found = [
            Measurement(claim.subject.root, p.model.root, True, p.relation, p.how, "parent->child")
            for p in claim.parents
            if draw(st.integers(0, 4))
        ]
        made.append(verify(sign(claim, KEY), POLICY, measurements=found))
    return made


_numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(
    allow_nan=False, allow_infinity=False
).filter(lambda x: x != 0 or str(x) == "0.0")
json_values = st.recursive(
    st.none() | st.booleans() | _numbers | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4) | st.sampled_from("abc"), inner, max_size=5)
    ),
    max_leaves=12,
)
"""Values whose JSON every reader takes."""
