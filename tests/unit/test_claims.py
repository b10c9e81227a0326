"""Claims: what may be said, how it is spelled, and what verification makes of it."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from fractions import Fraction
from importlib import resources
from typing import Any

import jsonschema
import pytest
from strategies import (
    ISSUED,
    KEY,
    NONCE,
    OTHER_KEY,
    POLICY,
    claim_of,
    measured,
    parent_of,
    root_of,
)

from lineage import canonical
from lineage.claims import (
    Changed,
    Claim,
    Dataset,
    DeltaRef,
    Finding,
    Level,
    Measurement,
    ModelRef,
    Parent,
    Policy,
    Split,
    VerifiedClaim,
    claim_id,
    fields,
    read,
    sign,
    statement,
    verify,
)
from lineage.digest import sha256_digest
from lineage.errors import (
    ContradictionError,
    FormatError,
    SignatureError,
    VerificationError,
)
from lineage.relation import Relation
from lineage.signing import Envelope, sign_payload

WHOLE = Claim(
    subject=ModelRef("child", root_of(1), "ab" * 32),
    parents=(
        Parent(ModelRef("base", root_of(2)), Relation.FINETUNE, "full"),
        Parent(ModelRef("other", root_of(3), "cd" * 32), Relation.MERGE, "linear", Fraction(-1, 3)),
    ),
    splits=(
        Split("alice", "trainer", Fraction(1, 3)),
        Split("bob", "dataset curator", Fraction(2, 3)),
    ),
    rate=Fraction(1, 8),
    issued=ISSUED,
    nonce=NONCE,
    findings=(Finding(root_of(2), Level.INFERRED, "pair-v1/seed=7", Relation.FINETUNE, "-12.5"),),
    datasets=(Dataset("letters", "ef" * 32),),
    audience="example.com/log",
    delta=DeltaRef(
        "delta-v1",
        "0f" * 32,
        (
            Changed("blk.*.attn_q.weight", ("0", "1", "12"), "delta", 16),
            Changed("score.weight", ("",), "whole", None),
        ),
    ),
)


def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(statement.to_bytes(WHOLE))
    return found


def test_a_claim_comes_back_from_its_bytes() -> None:
    assert statement.from_bytes(statement.to_bytes(WHOLE)) == WHOLE


def test_a_claim_is_an_in_toto_statement() -> None:
    found = document()
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == "urn:model-lineage:claim:v1"
    assert found["subject"] == [
        {"name": "child", "digest": {"modelLineageV1": root_of(1), "sha256": "ab" * 32}}
    ]
    assert found["predicate"]["rate"] == "0.125"
    assert found["predicate"]["parents"][1]["coefficient"] == "-1/3"
    assert sign(WHOLE, KEY).payload_type == "application/vnd.in-toto+json"


def test_the_schema_and_the_page_agree_with_the_code() -> None:
    spec = resources.files("lineage") / "spec"
    schema = json.loads((spec / "claim-v1.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(document())
    page = (spec / "claim-v1.md").read_text()
    example = json.loads(page.split("```json\n")[1].split("```")[0])
    validator.validate(example)
    data = canonical.dumps(example)
    assert statement.to_bytes(statement.from_bytes(data)) == data


def test_a_claim_id_is_the_leaf_hash_of_the_envelope() -> None:
    envelope = sign(WHOLE, KEY)
    assert claim_id(envelope) == sha256_digest(b"\0" + envelope.to_bytes()).hex()


Change = Callable[[dict[str, Any]], object]


def put(value: object, *path: str | int) -> Change:
    """A change that sets one field of the document."""

    def change(found: dict[str, Any]) -> None:
        place: Any = found
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


def drop(*path: str | int) -> Change:
    """A change that removes one field of the document."""

    def change(found: dict[str, Any]) -> None:
        place: Any = found
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]

    return change


P = "predicate"
REFUSED: list[tuple[str, Change]] = [
    ("_type", put("https://in-toto.io/Statement/v0.1", "_type")),
    ("predicateType", put("https://slsa.dev/provenance/v1", "predicateType")),
    ("statement", put(1, "extra")),
    ("statement", drop("subject")),
    ("subject", put([], "subject")),
    ("subject", put({}, "subject")),
    ("subject", lambda d: d["subject"].append(d["subject"][0])),
    ("subject[0]", put("x", "subject", 0)),
    ("digest", put("x", "subject", 0, "digest")),
    ("digest", drop("subject", 0, "digest", "modelLineageV1")),
    ("digest", put("00", "subject", 0, "digest", "md5")),
    ("digest.sha256", put(None, "subject", 0, "digest", "sha256")),
    ("digest.modelLineageV1", put("AB" * 32, "subject", 0, "digest", "modelLineageV1")),
    ("digest.modelLineageV1", put("ab" * 31, "subject", 0, "digest", "modelLineageV1")),
    ("digest.modelLineageV1", put(5, "subject", 0, "digest", "modelLineageV1")),
    ("name", put("a\u202egood", "subject", 0, "name")),
    ("name", put("a\x1b[2J", "subject", 0, "name")),
    ("name", put("a\u200bb", "subject", 0, "name")),
    ("name", put("a\u00a0b", "subject", 0, "name")),
    ("name", put("e\u0301", "subject", 0, "name")),
    ("name", put(" a", "subject", 0, "name")),
    ("name", put("", "subject", 0, "name")),
    ("name", put("x" * 257, "subject", 0, "name")),
    ("name", put(["x"], "subject", 0, "name")),
    ("predicate", put([], P)),
    ("rate", drop(P, "rate")),
    ("unknown", put(1, P, "unknown")),
    ("predicate.parents", put(None, P, "parents")),
    ("predicate.parents[0].parent", put([], P, "parents", 0)),
    ("parents[0].parent", drop(P, "parents", 0, "how")),
    ("parents[0].relation", put("shared_init", P, "parents", 0, "relation")),
    ("parents[0].relation", put("cousin", P, "parents", 0, "relation")),
    ("parents[0].relation", put(["finetune"], P, "parents", 0, "relation")),
    ("parents[0].how", put("int8", P, "parents", 0, "how")),
    ("parents[0].how", put([], P, "parents", 0, "how")),
    ("parents[0].coefficient", put("0.50", P, "parents", 0, "coefficient")),
    ("parents[0].model.name", put("\u2067", P, "parents", 0, "model", "name")),
    ("its own parent", put(root_of(1), P, "parents", 0, "model", "digest", "modelLineageV1")),
    ("one model twice", lambda d: d[P]["parents"].append(d[P]["parents"][0])),
    ("splits", put([], P, "splits")),
    ("splits[0].share", put("0", P, "splits", 0, "share")),
    ("splits[0].share", put("2/6", P, "splits", 0, "share")),
    ("splits[0].share", put("1/0", P, "splits", 0, "share")),
    ("splits[0].share", put(1, P, "splits", 0, "share")),
    ("sum to 2/3", put("1/3", P, "splits", 1, "share")),
    ("splits[1].payee", put("\n", P, "splits", 1, "payee")),
    ("twice in one role", lambda d: d[P]["splits"].append(d[P]["splits"][0])),
    ("rate", put("1.1", P, "rate")),
    ("rate", put("-0.1", P, "rate")),
    ("rate", put("1e-3", P, "rate")),
    ("rate", put("+0.1", P, "rate")),
    ("rate", put("\u0660", P, "rate")),
    ("rate", put(f"1/{2**63}", P, "rate")),
    ("rate", put(None, P, "rate")),
    ("findings[0].level", put("certain", P, "findings", 0, "level")),
    ("findings[0].statistic", put("nan", P, "findings", 0, "statistic")),
    ("findings[0].relation", put("x", P, "findings", 0, "relation")),
    ("findings", put(root_of(9), P, "findings", 0, "parent")),
    ("datasets[0].relation", put("finetune", P, "datasets", 0, "relation")),
    ("datasets[0].digest", put({}, P, "datasets", 0, "digest")),
    ("issued", put("2026-02-30T00:00:00Z", P, "issued")),
    ("issued", put("2026-01-31T09:30:00+00:00", P, "issued")),
    ("issued", put(0, P, "issued")),
    ("nonce", put("00", P, "nonce")),
    ("nonce", put(None, P, "nonce")),
    ("audience", put("", P, "audience")),
]


@pytest.mark.parametrize(
    ("field", "change"), REFUSED, ids=[f"{n}-{field}" for n, (field, _) in enumerate(REFUSED)]
)
def test_what_is_no_claim_is_refused_by_field(field: str, change: Change) -> None:
    found = document()
    change(found)
    with pytest.raises(FormatError) as caught:
        statement.from_bytes(canonical.dumps(found), file="claim.json")
    assert field in str(caught.value)
    assert str(caught.value).startswith("claim.json: ")
    assert "\n" not in str(caught.value)


def test_a_statement_is_canonical() -> None:
    data = statement.to_bytes(WHOLE)
    for wrong in (data + b" ", data.replace(b":", b": ", 1), b"[]", b"1", b'"_type"'):
        with pytest.raises(FormatError):
            statement.from_bytes(wrong)


def test_numbers_are_not_json_numbers() -> None:
    data = statement.to_bytes(WHOLE).replace(b'"0.125"', b"0.125")
    with pytest.raises(FormatError, match="only integers"):
        statement.from_bytes(data)


def test_a_claim_has_at_most_64_parents() -> None:
    claim_of(1, tuple(parent_of(number) for number in range(2, 66)))
    with pytest.raises(FormatError, match="more than 64"):
        claim_of(1, tuple(parent_of(number) for number in range(2, 67)))


def test_a_claim_is_at_most_60_kib() -> None:
    splits = tuple(Split(f"{n:03}" + "ß" * 200, "r" * 100, Fraction(1, 128)) for n in range(128))
    claim = claim_of(1, splits=splits)
    with pytest.raises(FormatError, match="envelope: "):
        sign(claim, KEY)
    large = sign_payload(statement.PAYLOAD_TYPE, statement.to_bytes(claim), KEY)
    with pytest.raises(FormatError, match="envelope: "):
        verify(large, POLICY)


def test_values_of_the_wrong_type_are_refused_at_birth() -> None:
    with pytest.raises(FormatError, match="exact Fraction"):
        Split("a", "b", 0.5)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="relation"):
        Parent(ModelRef("a", root_of(1)), "finetune")  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="level"):
        Finding(root_of(1), "inferred", "m", Relation.FINETUNE)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="relation"):
        Finding(root_of(1), Level.INFERRED, "m", "finetune")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(0), "0"),
        (Fraction(1), "1"),
        (Fraction(10), "10"),
        (Fraction(-1, 2), "-0.5"),
        (Fraction(1, 10**8), "0.00000001"),
        (Fraction(1, 10**9), "1/1000000000"),
        (Fraction(-2, 3), "-2/3"),
        (Fraction(123456789, 10**8), "1.23456789"),
    ],
)
def test_a_number_has_one_spelling(value: Fraction, text: str) -> None:
    assert fields.spell_fraction(value) == text
    assert fields.parse_fraction(text, "x") == value


def test_a_verified_claim_comes_only_from_verify() -> None:
    good = verify(sign(WHOLE, KEY), Policy((KEY.public,), audience="example.com/log"))
    with pytest.raises(TypeError):
        VerifiedClaim(good.claim, good.claim_id, good.key_ids, good.edges)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="only"):
        VerifiedClaim(good.claim, good.claim_id, good.key_ids, good.edges, object())
    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(good, claim_id="0")
    with pytest.raises(dataclasses.FrozenInstanceError):
        good.claim_id = "0"  # type: ignore[misc]
    assert copy.copy(good) == good


CHILD = claim_of(1, (parent_of(2),))


def test_an_unmeasured_parent_is_asserted() -> None:
    found = verify(sign(CHILD, KEY), POLICY, subject_root=root_of(1))
    assert found.claim == CHILD
    assert found.key_ids == (KEY.key_id,)
    assert found.confirmed == frozenset()
    assert found.edges[0].relation is Relation.FINETUNE


def test_a_measured_parent_is_confirmed_from_either_side() -> None:
    forward = measured(1, 2)
    for found in (forward, forward.turned()):
        result = verify(sign(CHILD, KEY), POLICY, measurements=[found])
        assert result.confirmed == {root_of(2)}
    assert forward.turned().turned() == forward


def test_the_measured_relation_is_the_one_that_counts() -> None:
    result = verify(sign(CHILD, KEY), POLICY, measurements=[measured(1, 2, Relation.PRUNED)])
    assert result.edges[0].relation is Relation.PRUNED
    both = [measured(1, 2, Relation.PRUNED), measured(1, 2)]
    for order in (both, both[::-1]):
        result = verify(sign(CHILD, KEY), POLICY, measurements=order)
        assert result.edges[0].relation is Relation.FINETUNE


def finding(
    related: bool | None, relation: Relation | None = None, turn: Any = None
) -> Measurement:
    return Measurement(root_of(1), root_of(2), related, relation, None, turn, "in words")


FORWARD, BACKWARD = "parent->child", "child->parent"


@pytest.mark.parametrize(
    ("declared", "found"),
    [
        (Relation.FINETUNE, finding(False)),
        (Relation.FINETUNE, finding(False, Relation.SHARED_INIT)),
        (Relation.FINETUNE, finding(True, Relation.SHARED_INIT)),
        (Relation.FINETUNE, finding(True, Relation.FINETUNE, BACKWARD)),
        (Relation.FINETUNE, finding(True, None, BACKWARD)),
        (Relation.FINETUNE, finding(True, Relation.IDENTICAL)),
        (Relation.FINETUNE, finding(True, Relation.QUANTIZED, FORWARD)),
        (Relation.MERGE, finding(True, Relation.NOISED, FORWARD)),
        (Relation.PRUNED, finding(True, Relation.REPARAMETRIZED)),
        (Relation.DISTILLED_FROM, finding(True, Relation.IDENTICAL)),
        (Relation.IDENTICAL, finding(True, Relation.QUANTIZED, FORWARD)),
        (Relation.IDENTICAL, finding(False)),
        (Relation.QUANTIZED, finding(True, Relation.QUANTIZED, BACKWARD)),
    ],
)
def test_weights_contradict_a_claim(declared: Relation, found: Measurement) -> None:
    envelope = sign(claim_of(1, (parent_of(2, declared),)), KEY)
    for given in (found, found.turned()):
        with pytest.raises(ContradictionError) as caught:
            verify(envelope, POLICY, measurements=[given])
        line = str(caught.value)
        assert "model-1" in line
        assert "model-2" in line
        assert "in words" in line
        assert "\n" not in line


@pytest.mark.parametrize(
    ("declared", "found", "confirmed"),
    [
        (Relation.FINETUNE, finding(None), False),
        (Relation.FINETUNE, finding(None, Relation.IDENTICAL, BACKWARD), False),
        (Relation.FINETUNE, finding(True), False),
        (Relation.FINETUNE, finding(True, Relation.FINETUNE), False),
        (Relation.FINETUNE, finding(True, Relation.FINETUNE, FORWARD), True),
        (Relation.IDENTICAL, finding(True, Relation.IDENTICAL), True),
        (Relation.IDENTICAL, finding(True, None, FORWARD), True),
        (Relation.QUANTIZED, finding(True, Relation.IDENTICAL), True),
        (Relation.DISTILLED_FROM, finding(False), False),
        (Relation.DISTILLED_FROM, finding(True, Relation.FINETUNE, FORWARD), True),
    ],
)
def test_weights_confirm_a_claim_or_say_nothing(
    declared: Relation, found: Measurement, confirmed: bool
) -> None:
    envelope = sign(claim_of(1, (parent_of(2, declared),)), KEY)
    assert bool(verify(envelope, POLICY, measurements=[found]).confirmed) is confirmed


def test_measurements_of_other_pairs_say_nothing() -> None:
    stranger = Measurement(root_of(1), root_of(9), False)
    assert not verify(sign(CHILD, KEY), POLICY, measurements=[stranger]).confirmed


def test_weights_of_another_model_contradict_the_subject() -> None:
    with pytest.raises(ContradictionError, match="model-1"):
        verify(sign(CHILD, KEY), POLICY, subject_root=root_of(7))


def test_a_policy_may_want_every_parent_measured() -> None:
    strict = Policy((KEY.public,), require_measured=True)
    with pytest.raises(VerificationError, match="no measurement confirms"):
        verify(sign(CHILD, KEY), strict)
    verify(sign(CHILD, KEY), strict, measurements=[measured(1, 2)])
    told = claim_of(1, (parent_of(2, Relation.DISTILLED_FROM),))
    verify(sign(told, KEY), strict)


def test_distinct_keys_are_counted() -> None:
    both = Policy((KEY.public, OTHER_KEY.public), threshold=2)
    with pytest.raises(SignatureError, match="2 are needed"):
        verify(sign(CHILD, KEY), both)
    assert len(verify(sign(CHILD, KEY, OTHER_KEY), both).key_ids) == 2
    for keys, threshold in (((), 1), ((KEY.public, KEY.public), 2), ((KEY.public,), 0)):
        with pytest.raises(ValueError, match="threshold"):
            Policy(keys, threshold)


def test_a_claim_for_another_audience_is_refused() -> None:
    envelope = sign(WHOLE, KEY)
    for audience in (None, "example.com/other"):
        with pytest.raises(VerificationError, match=r"addressed to 'example\.com/log'"):
            verify(envelope, Policy((KEY.public,), audience=audience))
    verify(sign(CHILD, KEY), Policy((KEY.public,), audience="example.com/other"))


def test_signatures_come_before_everything() -> None:
    with pytest.raises(SignatureError):
        verify(sign_payload("text/plain", b"junk", OTHER_KEY), POLICY)
    with pytest.raises(FormatError, match="payloadType"):
        verify(sign_payload("text/plain", statement.to_bytes(CHILD), KEY), POLICY)
    with pytest.raises(FormatError, match="payloadType"):
        read(sign_payload("text/plain", statement.to_bytes(CHILD), KEY))
    with pytest.raises(FormatError):
        verify(sign_payload(statement.PAYLOAD_TYPE, b"{}", KEY), POLICY)
    good = sign(CHILD, KEY)
    with pytest.raises(SignatureError):
        verify(Envelope(good.payload_type, good.payload + b" ", good.signatures), POLICY)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(id="0F" * 32), "hexadecimal"),
        (lambda d: d.pop("scheme"), "'scheme' is missing"),
        (lambda d: d.update(codes=[]), "'codes' is not known"),
        (lambda d: d.update(changed={}), "expected a list"),
        (lambda d: d["changed"][0].update(rank=16), "in a string"),
        (lambda d: d["changed"][0].update(rank="016"), "in a string"),
        (lambda d: d["changed"][0].update(rank="9999999999"), "above 0"),
        (lambda d: d["changed"][0].update(kind="product"), "kinds of changes"),
        (lambda d: d["changed"][0].update(at=[]), "places"),
        (lambda d: d["changed"][0].update(at="0"), "expected a list"),
        (lambda d: d["changed"][0].update(at=["0", "0"]), "one place twice"),
        (lambda d: d["changed"][0].update(at=["0.1"]), "1 numbers"),
        (lambda d: d["changed"][0].update(at=[0]), "string"),
        (lambda d: d["changed"][0].update(at=["00"]), "numbers joined"),
        (lambda d: d["changed"][1].update(at=["0"]), "0 numbers"),
        (lambda d: d["changed"].append(d["changed"][1]), "one tensor twice"),
    ],
)
def test_a_delta_that_is_none_is_refused(change: Callable[[Any], Any], reason: str) -> None:
    found = document()
    change(found["predicate"]["delta"])
    with pytest.raises(FormatError, match=reason):
        statement.from_bytes(canonical.dumps(found))


def test_a_delta_has_no_more_changes_than_a_claim_may() -> None:
    one = Changed("x", ("",), "delta", 1)
    with pytest.raises(FormatError, match="more than 1024"):
        DeltaRef("delta-v1", "0f" * 32, (one,) * 1025)


def test_a_claim_without_a_delta_has_no_such_key() -> None:
    plain = dataclasses.replace(WHOLE, delta=None)
    data = statement.to_bytes(plain)
    assert b"delta" not in data.replace(b"delta-v1", b"")
    assert statement.from_bytes(data) == plain
