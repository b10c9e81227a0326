"""Contributors of records: signed, held to the data, and shared among exactly."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from strategies import ISSUED, KEY, OTHER_KEY, POLICY, claim_of

from lineage import claims
from lineage.claims import Claim, ModelRef, Parent, contributions
from lineage.claims.contributions import Contribution, from_bytes, shares
from lineage.cli import run
from lineage.datasets import Options, build, load
from lineage.datasets.parts import hold_parts
from lineage.datasets.stored import Manifest
from lineage.errors import FormatError, SignatureError, VerificationError
from lineage.manifests import Head
from lineage.relation import Relation
from lineage.settlement import Terms, settle
from lineage.signing import Envelope

SCHEMA = json.loads((files("lineage") / "spec" / "commands-v1.schema.json").read_text())


def fits(command: str, document: Any) -> None:
    jsonschema.validate(document, {**SCHEMA, "$ref": f"#/$defs/{command}"})


def head_of(records: int) -> Head:
    return Head.over(bytes(32), records, min(records, 1))


def made_of(folder: Path, name: str, numbers: list[int]) -> Manifest:
    build([[{"n": n} for n in numbers]], folder / f"{name}.manifest")
    return load(folder / f"{name}.manifest")


def said(
    payee: str, records: Head, weight: Fraction = Fraction(1), role: str = "labeller"
) -> Contribution:
    return Contribution(records, payee, role, ISSUED, weight)


PARTS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(["labeller", "writer"]),
        st.integers(1, 10**6),
        st.integers(1, 40).map(lambda n: Fraction(n, 7)),
    ),
    max_size=6,
)


@given(PARTS, st.integers(0, 10**6))
def test_shares_are_exact_and_sum_to_one(
    parts: list[tuple[str, str, int, Fraction]], left: int
) -> None:
    roles = {role: sum(n for _, r, n, _ in parts if r == role) for _, role, _, _ in parts}
    whole = head_of(max(roles.values(), default=0) + left)
    listed = [said(payee, head_of(n), weight, role) for payee, role, n, weight in parts]
    if not whole.records:
        with pytest.raises(VerificationError, match="without records"):
            shares(whole, listed, left, ("owner", "curator"))
        return
    found = shares(whole, listed, left, ("owner", "curator"))
    assert sum(split.share for split in found) == 1
    total = sum((w * n for _, _, n, w in parts), Fraction(left))
    for payee, role in {(payee, role) for payee, role, _, _ in parts}:
        share = next(s.share for s in found if (s.payee, s.role) == (payee, role))
        counted = sum((w * n for p, r, n, w in parts if (p, r) == (payee, role)), Fraction(0))
        assert share == counted / total
    assert any(split.payee == "owner" for split in found) == (left > 0)
    if left:
        with pytest.raises(VerificationError, match=f"{left} records are nobody's"):
            shares(whole, listed, left)
    with pytest.raises(VerificationError, match="1 records more are claimed"):
        shares(whole, [said("d", head_of(whole.records + 1))], 0, ("owner", "curator"))
    for unclaimed in (-1, whole.records + 1):
        with pytest.raises(
            VerificationError, match=r"records cannot be unclaimed|more are claimed"
        ):
            shares(whole, listed, unclaimed, ("owner", "curator"))
    with pytest.raises(VerificationError, match=r"0 records cannot be unclaimed"):
        shares(head_of(sum(roles.values()) + 1), listed, 0, ("owner", "curator"))


def test_a_contribution_is_believed_by_its_signature() -> None:
    made = said("alice", head_of(3), Fraction(3, 2))
    envelope = contributions.sign(made, KEY)
    assert contributions.verify(envelope, [KEY.public, OTHER_KEY.public]) == made
    with pytest.raises(SignatureError):
        contributions.verify(envelope, [OTHER_KEY.public])
    forged = Envelope(
        envelope.payload_type, made.to_bytes().replace(b"alice", b"mallo"), envelope.signatures
    )
    with pytest.raises(SignatureError):
        contributions.verify(forged, [KEY.public])
    with pytest.raises(FormatError, match="holds no contribution"):
        contributions.verify(claims.sign(claim_of(1), KEY), [KEY.public])


@pytest.mark.parametrize(
    "change",
    [
        {"_type": "urn:model-lineage:contribution:v2"}, {"note": 1}, {"weight": "0"},
        {"weight": "-1"},
        {"weight": "1.50"}, {"payee": ""}, {"role": 7}, {"issued": "today"}, {"records": {}},
        {"records": {"root": "00" * 32, "records": 0, "distinct": 0}},
        {"records": {"root": "00" * 32, "records": 1, "distinct": 2}},
        {"records": {"root": "00", "records": 1, "distinct": 1}},
        {"records": {"root": "00" * 32, "records": -1, "distinct": 1}},
    ],
)  # fmt: skip
def test_what_is_no_contribution_is_refused(change: dict[str, Any]) -> None:
    value = json.loads(said("alice", head_of(3)).to_bytes()) | change
    with pytest.raises(FormatError):
        from_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())
    with pytest.raises(FormatError, match="canonical"):
        from_bytes(json.dumps(json.loads(said("alice", head_of(3)).to_bytes())).encode())


def test_parts_are_held_to_the_whole(tmp_path: Path) -> None:
    whole = made_of(tmp_path, "whole", [*range(10), 3])
    a, b = made_of(tmp_path, "a", [1, 2, 3]), made_of(tmp_path, "b", [3, 4])
    assert hold_parts(whole, {"labeller": [a, b]}) == 6
    assert hold_parts(whole, {}) == hold_parts(whole, {"labeller": []}) == 11
    assert hold_parts(whole, {"labeller": [a, b], "writer": [whole]}) == 0
    assert hold_parts(whole, {"labeller": [a], "writer": [b]}) == 7  # one of the two 3 is nobody's
    assert hold_parts(whole, {"labeller": [b], "writer": [b]}) == 9
    more = [a, b, made_of(tmp_path, "c", [4])]
    with pytest.raises(
        VerificationError, match=r"1 distinct records .*'labeller' are claimed more"
    ):
        hold_parts(whole, {"labeller": more})
    assert hold_parts(whole, {"labeller": more[:2], "writer": more[2:]}) == 6
    with pytest.raises(VerificationError, match=r"2 distinct records .* are not in the data set"):
        hold_parts(whole, {"writer": [a], "x": [made_of(tmp_path, "d", [77, 78, 1])]})
    secret = Options(secret=bytes(32))
    build([[{"n": 1}]], tmp_path / "hidden.manifest", secret)
    with pytest.raises(FormatError, match="private"):
        hold_parts(whole, {"writer": [load(tmp_path / "hidden.manifest")]})


@given(st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=3), st.data())
def test_the_unclaimed_are_what_no_role_has(
    tmp_path_factory: pytest.TempPathFactory, roles: list[list[int]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    counts = [Counter(numbers) for numbers in roles]
    most = Counter({n: max(c[n] for c in counts) for n in range(6)} if counts else {})
    extra = data.draw(st.lists(st.integers(0, 9), max_size=5))
    whole = made_of(folder, "whole", [*most.elements(), *extra])
    parts = {}
    for number, numbers in enumerate(roles):
        cut = data.draw(st.integers(0, len(numbers)))
        halves = numbers[:cut], numbers[cut:]
        parts[str(number)] = [made_of(folder, f"{number}{n}", h) for n, h in enumerate(halves)]
    assert hold_parts(whole, parts) == len(extra)


def test_who_signs_what_is_not_theirs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A record that two sign in one role; one that is not there; and two roles at one record."""
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"n": n}) for n in range(6)]
    parts = {"whole": lines, "ann": lines[:3], "bob": lines[2:4], "eve": [*lines[4:], '{"n": 99}']}
    for name, part in parts.items():
        Path(f"{name}.jsonl").write_text("\n".join(part))
        assert run(["manifest", f"{name}.jsonl", "-o", f"{name}.manifest"]) == 0
    for name in ("ann", "bob", "eve"):
        assert run(["key", f"{name}.key"]) == 0
        for role in ("writer", "labeller"):
            words = ["--payee", name, "--role", role, "--key", f"{name}.key"]
            out = f"{name}.{role}.json"
            assert run(["contribute", f"{name}.manifest", *words, "-o", out]) == 0

    def shared(*said: str) -> tuple[int, str, str]:
        keys = [w for name in ("ann", "bob", "eve") for w in ("--key", f"{name}.key.pub")]
        part = [w for s in said for w in ("--part", f"{s.split('.')[0]}.manifest", f"{s}.json")]
        capsys.readouterr()
        status = run(["shares", "whole.manifest", *part, *keys, "--rest", "owner:curator"])
        return status, *capsys.readouterr()

    status, _, error = shared("ann.writer", "bob.writer")
    assert status == 1
    assert "1 distinct records of the parts of role 'writer' are claimed more often" in error
    status, _, error = shared("eve.writer")
    assert status == 1
    assert "1 distinct records of the parts of role 'writer' are not in the data set" in error
    status, _, error = shared("ann.writer", "ann.writer")
    assert status == 1
    assert "3 distinct records" in error
    status, out, _ = shared("ann.writer", "bob.labeller")  # 3, 2, and 2 that are nobody's
    assert status == 0
    assert [line.split() for line in out.splitlines()] == [
        ["3/7", "ann,", "writer"], ["2/7", "bob,", "labeller"], ["2/7", "owner,", "curator"],
    ]  # fmt: skip


@pytest.fixture
def labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sign for five of seven records in this folder; return the command that shares them."""
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"n": n, "label": "x"}) for n in range(7)]
    for name, part in (("whole", lines), ("ann", lines[:3]), ("bob", lines[3:5])):
        Path(f"{name}.jsonl").write_text("\n".join(part))
        assert run(["manifest", f"{name}.jsonl", "-o", f"{name}.manifest"]) == 0
    for name in ("ann", "bob", "owner"):
        assert run(["key", f"{name}.key"]) == 0
    for name, weight in (("ann", "1"), ("bob", "1.5")):
        words = ["--payee", name, "--role", "labeller", "--weight", weight, "--key", f"{name}.key"]
        assert run(["contribute", f"{name}.manifest", *words, "-o", f"{name}.json"]) == 0
    parts = [f"--part {n}.manifest {n}.json --key {n}.key.pub".split() for n in ("ann", "bob")]
    return ["shares", "whole.manifest", *parts[0], *parts[1], "--rest", "owner:curator"]


def test_what_a_data_set_earns_is_shared_by_records(
    labelled: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run([*labelled, "--sign", "owner.key", "--rate", "0.2", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    fits("shares", made)
    assert made["splits"] == [
        {"payee": "ann", "role": "labeller", "share": "0.375"},
        {"payee": "bob", "role": "labeller", "share": "0.375"},
        {"payee": "owner", "role": "curator", "share": "0.25"},
    ]
    assert run(labelled) == 0
    assert "0.375  ann, labeller" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (2, "contribute ann.manifest --payee a --role b --weight 0 --key ann.key -o x"),
        (1, "shares whole.manifest --part ann.manifest ann.json --key ann.key.pub"),  # and the rest
        (2, "shares whole.manifest --part ann.manifest ann.json --key ann.key.pub --rest owner"),
        (
            1,
            "shares whole.manifest --part ann.manifest bob.json --key bob.key.pub --rest o:curator",
        ),
        (
            1,
            "shares whole.manifest --part ann.manifest ann.json --key bob.key.pub --rest o:curator",
        ),
    ],
)
@pytest.mark.usefixtures("labelled")
def test_what_nobody_signed_for_is_not_shared(status: int, words: str) -> None:
    assert run(words.split()) == status


def test_labellers_are_paid_by_a_model_trained_on_their_records(
    labelled: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*labelled, "--sign", "owner.key", "--rate", "0.2"]) == 0
    data = Envelope.from_bytes(Path("whole.claim.json").read_bytes())
    said_of_data = claims.read(data)
    save_file({"w": np.ones((4, 4), np.float32)}, "model.safetensors")
    capsys.readouterr()
    words = ["--key", "owner.key", "--trained-on", "whole.manifest", "--split", "maker:trainer:1"]
    assert run(["claim", "model.safetensors", *words, "--json"]) == 0
    fits("claim", json.loads(capsys.readouterr().out))
    signed = Envelope.from_bytes(Path("model.claim.json").read_bytes())
    model = claims.read(signed)
    assert model.parents == (Parent(said_of_data.subject, Relation.TRAINED_ON),)
    assert [d.sha256 for d in model.datasets] == [said_of_data.subject.manifest_sha256]
    owner = claims.Policy((POLICY.keys[0], load_public("owner.key.pub")))
    verified = [claims.verify(envelope, owner) for envelope in (data, signed)]
    terms = Terms(accept_asserted=True)
    done = settle(verified, earner=model.subject.root, amount=4000, unit="cent", terms=terms)
    paid = {payout.payee: payout.amount for payout in done.payouts}
    assert paid == {"ann": 300, "bob": 300, "owner": 200, "maker": 3200}


def load_public(path: str) -> Any:
    from lineage.signing import PublicKey

    return PublicKey.load(path)


def test_a_data_set_is_a_subject_by_its_root_and_header(tmp_path: Path) -> None:
    whole = made_of(tmp_path, "whole", [1, 2])
    subject = ModelRef("data", whole.head.root.hex(), whole.sha256)
    claim = claim_of(1)
    about = Claim(subject, (), claim.splits, claim.rate, claim.issued, claim.nonce)
    assert claims.read(claims.sign(about, KEY)).subject == subject
