"""The laws of the trust wing, for any claims, families, amounts and orders."""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path

import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from second import settlement as second
from strategies import KEY, POLICY, Family, claim_of, parent_of, root_of, verified

from lineage import canonical, merkle
from lineage.claims import Claim, VerifiedClaim, fields, sign, statement, verify
from lineage.errors import (
    FormatError,
    LineageError,
    ReceiptError,
    SettlementError,
    SignatureError,
)
from lineage.ledgers import Ledger, Receipt
from lineage.relation import ADDS_NOTHING, Relation
from lineage.settlement import Settlement, Terms, settle
from lineage.signing import Envelope

laws = settings(deadline=None, max_examples=60)
ORIGIN = "example.com/log"

amounts = st.sampled_from([0, 1, 2, 3, 10**6, 2**200]) | st.integers(0, 10**12)
ceilings = st.fractions(0, 1, max_denominator=20)


def divide(family: Family, amount: int, terms: Terms) -> Settlement:
    return settle(family.verified(), family.earner, amount, "unit", terms)


# Money


@laws
@given(strategies.families(), amounts, ceilings)
def test_every_unit_is_paid_or_held(family: Family, amount: int, ceiling: Fraction) -> None:
    done = divide(family, amount, Terms(ceiling))
    assert sum(payout.amount for payout in done.payouts) + done.unclaimed == amount
    assert all(payout.amount >= 0 for payout in done.payouts)
    assert done.unclaimed == 0 or done.holder is not None


@laws
@given(strategies.families(), amounts)
def test_nobody_is_a_unit_away_from_the_exact_part(family: Family, amount: int) -> None:
    for payout in divide(family, amount, Terms()).payouts:
        exact = amount * sum((reason.part for reason in payout.reasons), Fraction(0))
        assert abs(payout.amount - exact) < 1


@laws
@given(strategies.families(copies=False), ceilings)
def test_ancestors_take_their_rates_and_never_more_than_the_ceiling(
    family: Family, ceiling: Fraction
) -> None:
    done = divide(family, 10**6, Terms(ceiling))
    rates = {claim.subject.root: claim.rate for claim in family.claims}
    takes: dict[str, Fraction] = {}
    for payout in done.payouts:
        for reason in payout.reasons:
            takes[reason.model] = takes.get(reason.model, Fraction(0)) + reason.part
    takes.pop(family.earner, None)
    assert sum(takes.values(), Fraction(0)) <= ceiling
    assert all(take <= rates[model] for model, take in takes.items())


@laws
@given(strategies.families(), amounts, st.randoms(use_true_random=False))
def test_order_and_repetition_change_nothing(family: Family, amount: int, random: object) -> None:
    claims = family.verified()
    wanted = settle(claims, family.earner, amount, "unit").to_bytes()
    again = [*claims, *claims]
    random.shuffle(again)  # type: ignore[attr-defined]
    assert settle(again, family.earner, amount, "unit").to_bytes() == wanted


@laws
@given(strategies.families(), amounts)
def test_strangers_change_nothing(family: Family, amount: int) -> None:
    wanted = divide(family, amount, Terms())
    strangers = [
        verified(claim_of(5001, (parent_of(1),), rate=Fraction(1))),
        verified(claim_of(5002, (parent_of(5003),))),
        verified(claim_of(5003, (parent_of(5002),))),
    ]
    found = settle([*family.verified(), *strangers], family.earner, amount, "unit")
    assert found.to_bytes() == wanted.to_bytes()


def parts(done: Settlement) -> dict[tuple[str, str], Fraction]:
    """What each payee gets for each model."""
    found: dict[tuple[str, str], Fraction] = {}
    for payout in done.payouts:
        for reason in payout.reasons:
            key = (payout.payee, reason.model)
            found[key] = found.get(key, Fraction(0)) + reason.part
    return found


@laws
@given(
    strategies.families(),
    amounts,
    st.lists(st.sampled_from(sorted(ADDS_NOTHING)), min_size=1, max_size=4),
    st.data(),
)
def test_shells_change_nothing(
    family: Family, amount: int, shells: list[Relation], data: st.DataObject
) -> None:
    """A tower of copies, each asking for everything, put between a model and one parent."""
    wanted = divide(family, amount, Terms())
    edges = [
        (at, number)
        for at, claim in enumerate(family.claims)
        for number in range(len(claim.parents))
    ]
    top = family.earner
    claims = list(family.claims)
    if edges:
        at, number = data.draw(st.sampled_from(edges))
        top = claims[at].parents[number].model.root
    tower = []
    below = int(top, 16)
    for number_of_shell, relation in enumerate(shells):
        shell = 9000 + number_of_shell
        tower.append(claim_of(shell, (parent_of(below, relation),), rate=Fraction(1)))
        below = shell
    earner = family.earner
    if edges:
        old = claims[at].parents
        moved = parent_of(below, old[number].relation)
        claims[at] = claim_of(
            int(claims[at].subject.root, 16),
            (*old[:number], moved, *old[number + 1 :]),
            rate=claims[at].rate,
            splits=claims[at].splits,
        )
    else:
        earner = root_of(below)  # a copy of the earner earns for it
    found = divide(Family((*tower, *claims)), amount, Terms()) if edges else None
    if found is None:
        all_claims = [verified(claim) for claim in (*claims, *tower)]
        found = settle(all_claims, earner, amount, "unit")
    assert parts(found) == parts(wanted)
    assert [(p.payee, p.amount) for p in found.payouts] == [
        (p.payee, p.amount) for p in wanted.payouts
    ]
    assert found.unclaimed == wanted.unclaimed


@laws
@given(st.integers(1, 6), st.fractions(0, "1/10", max_denominator=100), amounts)
def test_a_diamond_pays_its_top_once(width: int, rate: Fraction, amount: int) -> None:
    middle = [claim_of(2 + at, (parent_of(1),)) for at in range(width)]
    earner = claim_of(100, tuple(parent_of(2 + at) for at in range(width)))
    family = Family((claim_of(1, rate=rate), *middle, earner))
    found = parts(divide(family, amount, Terms()))
    assert found.get(("payee-1", root_of(1)), 0) == rate
    assert found["payee-100", root_of(100)] == 1 - rate


@laws
@given(strategies.families(), amounts)
def test_one_who_becomes_two_gets_no_more(family: Family, amount: int) -> None:
    def halved(claim: Claim) -> Claim:
        splits = tuple(
            type(split)(split.payee + half, split.role, split.share / 2)
            for split in claim.splits
            for half in ("", "-too")
        )
        number = int(claim.subject.root, 16)
        return claim_of(number, claim.parents, rate=claim.rate, splits=splits)

    one = divide(family, amount, Terms())
    two = divide(Family(tuple(map(halved, family.claims))), amount, Terms())
    for payout in one.payouts:
        both = sum(
            p.amount for p in two.payouts if p.payee in (payout.payee, f"{payout.payee}-too")
        )
        assert abs(both - payout.amount) <= 2  # each half rounds by less than one


def said(found: VerifiedClaim) -> second.Said:
    """A verified claim in the words of the second computation."""
    claim = found.claim
    return second.Said(
        found.claim_id,
        claim.subject.root,
        claim.subject.name,
        claim.rate.as_integer_ratio(),
        tuple((s.payee, s.role, s.share.as_integer_ratio()) for s in claim.splits),
        tuple((edge.parent, str(edge.relation), edge.confirmed) for edge in found.edges),
    )


@settings(deadline=None, max_examples=400)
@given(strategies.tangles(), amounts, ceilings, st.booleans())
def test_a_second_computation_pays_the_same_to_the_byte(
    claims: list[VerifiedClaim], amount: int, ceiling: Fraction, asserted: bool
) -> None:
    """Or refuses, too: written from the page, over integers, along every path."""
    earner = claims[-1].claim.subject.root
    rows = [said(found) for found in claims]
    try:
        wanted = second.settle(rows, earner, amount, "unit", ceiling.as_integer_ratio(), asserted)
    except second.RefusedError:
        with pytest.raises(SettlementError):
            settle(claims, earner, amount, "unit", Terms(ceiling, asserted))
        return
    done = settle(claims, earner, amount, "unit", Terms(ceiling, asserted))
    assert done.to_bytes() == wanted
    assert sum(payout.amount for payout in done.payouts) + done.unclaimed == amount


# Claims


@laws
@given(strategies.claims())
def test_canonical_bytes_are_a_fixed_point(claim: Claim) -> None:
    data = statement.to_bytes(claim)
    assert statement.from_bytes(data) == claim
    envelope = sign(claim, KEY)
    assert Envelope.from_bytes(envelope.to_bytes()) == envelope
    assert canonical.dumps(canonical.loads(data)) == data


@laws
@given(strategies.claims(), st.data())
def test_a_tampered_envelope_is_refused(claim: Claim, data: st.DataObject) -> None:
    good = sign(claim, KEY).to_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    bit = data.draw(st.integers(0, 7))
    wrong = good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :]
    with pytest.raises((FormatError, SignatureError)):
        verify(Envelope.from_bytes(wrong), POLICY)


@laws
@given(
    st.binary(max_size=300) | st.text('{}[]",:0123456789.eE-abu\\ \n', max_size=80).map(str.encode)
)
def test_parsers_raise_only_format_errors(data: bytes) -> None:
    for parse in (statement.from_bytes, Envelope.from_bytes, Receipt.from_bytes):
        try:
            value = parse(data)
        except FormatError:
            continue
        assert value is not None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)


@laws
@given(json_values)
def test_json_comes_back(value: canonical.Json) -> None:
    data = canonical.dumps(value)
    assert canonical.loads(data) == value
    assert canonical.dumps(canonical.loads(data)) == data


@laws
@given(strategies.claims(), st.data(), json_values)
def test_a_claim_with_any_field_replaced_is_a_claim_or_refused(
    claim: Claim, data: st.DataObject, value: canonical.Json
) -> None:
    document = canonical.loads(statement.to_bytes(claim))
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not inner or not isinstance(inner, dict | list) or data.draw(st.booleans()):
            place[key] = value
            break
        place = inner
    changed = canonical.dumps(document)
    try:
        found = statement.from_bytes(changed)
    except FormatError as error:
        assert "\n" not in str(error)
    else:
        assert statement.to_bytes(found) == changed


@laws
@given(st.fractions(max_denominator=10**9).filter(lambda value: abs(value) < 2**30))
def test_a_number_has_one_spelling(value: Fraction) -> None:
    assert fields.parse_fraction(fields.spell_fraction(value), "x") == value


# Ledgers


@laws
@given(st.integers(1, 40), st.data())
def test_a_tampered_receipt_is_refused(size: int, data: st.DataObject) -> None:
    """Any bit but those of the origin's public words, which `verify` compares to its own."""
    entries = [b"%d" % number for number in range(size)]
    leaves = [merkle.leaf_hash(entry) for entry in entries]
    index = data.draw(st.integers(0, size - 1))
    from lineage.ledgers import Checkpoint

    note = Checkpoint(ORIGIN, size, merkle.root(leaves)).sign(KEY)
    good = Receipt(index, merkle.inclusion_proof(leaves, index), note).to_bytes()
    Receipt.from_bytes(good).verify(entries[index], KEY.public, ORIGIN)
    at = data.draw(st.integers(0, len(good) - 1))
    wrong = good[:at] + bytes([good[at] ^ 1 << data.draw(st.integers(0, 7))]) + good[at + 1 :]
    with pytest.raises((FormatError, ReceiptError)):
        Receipt.from_bytes(wrong).verify(entries[index], KEY.public, ORIGIN)


class AgainstAList(RuleBasedStateMachine):
    """A log used by two writers and a reader, against a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "log.sqlite"
        self.writers = [Ledger.create(path, KEY, ORIGIN), Ledger.open(path, KEY)]
        self.reader = Ledger.open(path, KEY.public, ORIGIN)
        self.list: list[bytes] = []
        self.pinned = self.reader.checkpoint()

    def teardown(self) -> None:
        self.reader.audit()
        self.folder.cleanup()

    @rule(who=st.integers(0, 1), entries=st.lists(st.binary(max_size=2), max_size=5))
    def append(self, who: int, entries: list[bytes]) -> None:
        for entry in entries:
            if entry not in self.list:
                self.list.append(entry)
        receipts = self.writers[who].append(entries)
        for entry, receipt in zip(entries, receipts, strict=True):
            assert receipt.index == self.list.index(entry)
            receipt.verify(entry, KEY.public, ORIGIN)

    @rule(who=st.integers(0, 1), count=st.integers(200, 300))
    def append_many(self, who: int, count: int) -> None:
        self.append(who, [b"%d more" % (len(self.list) + number) for number in range(count)])

    @rule(data=st.data())
    def get(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(-1, len(self.list)))
        if 0 <= index < len(self.list):
            assert self.reader.get(index) == self.list[index]
            assert self.reader.find(merkle.leaf_hash(self.list[index])) == index
            self.reader.receipt(index).verify(self.list[index], KEY.public, ORIGIN)
        else:
            with pytest.raises(LineageError):
                self.reader.get(index)

    @rule()
    def pin(self) -> None:
        self.reader.check_since(self.pinned)
        self.pinned = self.reader.checkpoint()

    @invariant()
    def same(self) -> None:
        head = self.reader.checkpoint()
        assert head.root == merkle.root([merkle.leaf_hash(entry) for entry in self.list])
        assert list(self.reader) == self.list


AgainstAList.TestCase.settings = settings(deadline=None, max_examples=20, stateful_step_count=12)
test_a_log_is_a_list = AgainstAList.TestCase
