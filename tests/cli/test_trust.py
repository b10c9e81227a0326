"""The commands key, append, check and settle, as a person uses them."""

from __future__ import annotations

import json
import sqlite3
import stat
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import pytest
from strategies import KEY, claim_of, parent_of, root_of

from lineage.claims import sign
from lineage.cli import run
from lineage.cli.trust import load_key
from lineage.ledgers import Ledger
from lineage.relation import Relation
from lineage.signing import Ed25519Key, Envelope, PublicKey, sign_payload

ORIGIN = "example.com/log"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two claims, their key and a log's key."""
    monkeypatch.chdir(tmp_path)
    KEY.save("alice.key")
    KEY.public.save("alice.key.pub")
    log = Ed25519Key.from_seed(bytes(32))
    log.save("log.key")
    log.public.save("log.key.pub")
    base = claim_of(1, rate=Fraction(1, 10))
    child = claim_of(2, (parent_of(1),))
    Path("base.json").write_bytes(sign(base, KEY).to_bytes())
    Path("child.json").write_bytes(sign(child, KEY).to_bytes())
    return tmp_path


def lineage(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = run(arguments)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return status, out, err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 3) -> str:
    """The one line that a command says when it refuses."""
    found, out, err = lineage(capsys, *arguments)
    assert found == status, err
    assert out == ""
    assert err.startswith("lineage: ")
    assert err.count("\n") == 1
    return err


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    status, out, err = lineage(capsys, *arguments, "--json")
    assert status == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["append", "log.sqlite", "base.json", "child.json", "--key", "log.key"]
    assert run([*arguments, "--origin", ORIGIN]) == 0


# key


def test_key_writes_two_files(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = lineage(capsys, "key", "bob.key")
    assert status == 0
    assert stat.S_IMODE(Path("bob.key").stat().st_mode) == 0o600
    assert out.strip() == Ed25519Key.load("bob.key").key_id == PublicKey.load("bob.key.pub").key_id
    assert "secret" in err
    assert as_json(capsys, "key", "carl.key")["public"] == "carl.key.pub"


def test_key_overwrites_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert "alice.key" in refused(capsys, "key", "alice.key")
    Path("dan.key.pub").touch()
    assert "dan.key.pub" in refused(capsys, "key", "dan.key")
    assert not Path("dan.key").exists()
    assert "no/such" in refused(capsys, "key", "no/such/folder.key")
    assert Ed25519Key.load("alice.key").key_id == KEY.key_id


def test_key_can_be_locked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(click, "prompt", lambda *_, **__: "open sesame")
    assert lineage(capsys, "key", "bob.key", "--passphrase")[0] == 0
    assert load_key(Path("bob.key")).key_id == PublicKey.load("bob.key.pub").key_id
    monkeypatch.setattr(click, "prompt", lambda *_, **__: "open barley")
    arguments = ["append", "log.sqlite", "base.json", "--key", "bob.key", "--origin", ORIGIN]
    assert "does not open" in refused(capsys, *arguments)
    assert not Path("log.sqlite").exists()


# append


def test_append_makes_a_log_and_receipts(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["append", "log.sqlite", "base.json", "child.json", "--key", "log.key"]
    found = as_json(capsys, *command, "--origin", ORIGIN)
    assert (found["origin"], found["size"]) == (ORIGIN, 2)
    assert [entry["index"] for entry in found["entries"]] == [0, 1]
    assert [entry["receipt"] for entry in found["entries"]] == ["base.receipt", "child.receipt"]
    assert Path("child.receipt").read_text().startswith("c2sp.org/tlog-proof@v1\n")
    status, out, _ = lineage(capsys, *command)
    assert status == 0
    assert "was there" in out
    assert "has 2 entries" in out
    assert sorted(path.suffix for path in Path().iterdir()).count("") == 0


def test_append_can_leave_receipts_out(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["append", "log.sqlite", "base.json", "--key", "log.key", "--origin", ORIGIN]
    found = as_json(capsys, *command, "--no-receipts")
    assert found["entries"][0]["receipt"] is None
    assert not Path("base.receipt").exists()


def test_append_refuses_all_or_nothing(capsys: pytest.CaptureFixture[str], log: None) -> None:
    Path("junk.json").write_text("{}")
    Path("large.json").write_bytes(bytes(300_000))
    Path("text.json").write_bytes(sign_payload("text/plain", b"hello", KEY).to_bytes())
    for name in ("text.json", "junk.json", "large.json", "missing.json", "log.sqlite"):
        error = refused(capsys, "append", "log.sqlite", "base.json", name, "--key", "log.key")
        assert name in error
    assert len(Ledger.open("log.sqlite", PublicKey.load("log.key.pub"))) == 2


def test_what_is_wrong_with_a_log_is_said_with_its_name_once(
    capsys: pytest.CaptureFixture[str], log: None
) -> None:
    damages = {
        "UPDATE head SET size = 7": "size, 7,",
        "UPDATE resource SET bytes = substr(bytes, 1, 20)": "20 bytes",
        "DELETE FROM resource": "there is no tile",
    }
    whole = Path("log.sqlite").read_bytes()
    for damage, words in damages.items():
        Path("log.sqlite").write_bytes(whole)
        with sqlite3.connect("log.sqlite") as connection:
            connection.execute(damage)
        connection.close()
        append = ["append", "log.sqlite", "base.json", "--key", "log.key"]
        for asked in (append, ["check", "log.sqlite", "--log-key", "log.key.pub"]):
            error = refused(capsys, *asked)
            assert words in error
            assert error.count("log.sqlite") == 1


def test_append_refuses_other_files_keys_and_names(
    capsys: pytest.CaptureFixture[str], log: None
) -> None:
    command = ["append", "log.sqlite", "base.json", "--key"]
    assert "not signed by the given key" in refused(capsys, *command, "alice.key", status=1)
    assert "this is a public key" in refused(capsys, *command, "log.key.pub")
    other = [*command, "log.key", "--origin", "example.com/other"]
    assert "example.com/other" in refused(capsys, *other, status=1)
    assert "not a log" in refused(capsys, "append", "base.json", "base.json", "--key", "log.key")
    new = ["append", "new.sqlite", "base.json", "--key", "log.key"]
    assert "space" in refused(capsys, *new, "--origin", "a b")
    assert not Path("new.sqlite").exists()
    status, _, err = lineage(capsys, *new)
    assert status == 2
    assert "--origin" in err


def test_append_refuses_two_claims_with_one_receipt(capsys: pytest.CaptureFixture[str]) -> None:
    Path("base.txt").write_bytes(Path("base.json").read_bytes())
    command = ["append", "log.sqlite", "base.json", "base.txt", "--key", "log.key"]
    status, _, err = lineage(capsys, *command, "--origin", ORIGIN)
    assert status == 2
    assert "one receipt" in err


# check


def test_check_needs_no_log(capsys: pytest.CaptureFixture[str], log: None) -> None:
    Path("log.sqlite").unlink()
    command = ["check", "child.json", "child.receipt", "--log-key", "log.key.pub"]
    status, out, _ = lineage(capsys, *command)
    assert (status, out) == (0, "yes: child.json is entry 1 of example.com/log, which then had 2\n")
    assert as_json(capsys, *command, "--origin", ORIGIN)["index"] == 1


def test_check_says_no(capsys: pytest.CaptureFixture[str], log: None) -> None:
    good = ["check", "child.json", "child.receipt", "--log-key", "log.key.pub"]
    for wrong in (
        ["check", "child.json", "base.receipt", "--log-key", "log.key.pub"],
        ["check", "child.json", "child.receipt", "--log-key", "alice.key.pub"],
        [*good, "--origin", "example.com/other"],
    ):
        assert refused(capsys, *wrong, status=1).startswith("lineage: no: ")
    Path("child.json").write_bytes(Path("child.json").read_bytes() + b" ")
    assert "child.receipt" in refused(capsys, *good, status=1)


def test_check_refuses_what_it_cannot_read(capsys: pytest.CaptureFixture[str], log: None) -> None:
    Path("junk.receipt").write_text("hello")
    key = ["--log-key", "log.key.pub"]
    assert "junk.receipt" in refused(capsys, "check", "child.json", "junk.receipt", *key)
    assert "missing" in refused(capsys, "check", "child.json", "missing.receipt", *key)
    assert "base.json" in refused(
        capsys, "check", "child.json", "child.receipt", "--log-key", "base.json"
    )
    both = ["check", "child.json", "child.receipt", *key, "--since", "base.receipt"]
    assert lineage(capsys, *both)[0] == 2


def test_check_recomputes_a_log(capsys: pytest.CaptureFixture[str], log: None) -> None:
    command = ["check", "log.sqlite", "--log-key", "log.key.pub"]
    old = Ledger.open("log.sqlite", PublicKey.load("log.key.pub")).signed_checkpoint()
    Path("old.checkpoint").write_bytes(old)
    Path("more.json").write_bytes(sign(claim_of(3), KEY).to_bytes())
    assert run(["append", "log.sqlite", "more.json", "--key", "log.key"]) == 0
    for pinned in ("base.receipt", "old.checkpoint"):
        assert as_json(capsys, *command, "--since", pinned)["size"] == 3
    assert "yes: example.com/log holds 3 entries" in lineage(capsys, *command)[1]


def test_check_finds_a_forked_log(capsys: pytest.CaptureFixture[str], log: None) -> None:
    Path("log.sqlite").rename("real.sqlite")
    fork = ["append", "log.sqlite", "child.json", "--key", "log.key", "--origin", ORIGIN]
    assert run([*fork, "--no-receipts"]) == 0
    Path("more.json").write_bytes(sign(claim_of(3), KEY).to_bytes())
    assert run(["append", "log.sqlite", "more.json", "--key", "log.key"]) == 0
    command = ["check", "log.sqlite", "--log-key", "log.key.pub", "--since", "base.receipt"]
    assert "two histories" in refused(capsys, *command, status=1)


def test_check_finds_a_changed_entry(capsys: pytest.CaptureFixture[str], log: None) -> None:
    data = Path("log.sqlite").read_bytes()
    good = Path("child.json").read_bytes()
    assert good in data
    Path("log.sqlite").write_bytes(data.replace(good, good[:-3] + b"x" + good[-2:]))
    assert "log.sqlite" in refused(capsys, "check", "log.sqlite", "--log-key", "log.key.pub")


# settle

SETTLE = ["settle", "base.json", "child.json", "--amount", "1000", "--unit", "cent"]
BY_ALICE = ["--key", "alice.key.pub"]


def test_settle_says_what_it_rests_on(capsys: pytest.CaptureFixture[str]) -> None:
    command = [*SETTLE, "--earner", "model-2", *BY_ALICE, "--accept-asserted"]
    status, out, _ = lineage(capsys, *command, "-o", "done.json")
    assert status == 0
    assert "model-2 earned 1,000 cent" in out
    assert "payee-1  100  trainer of model-1" in out
    assert "model-2 is finetune of model-1" in out
    found = as_json(capsys, *command, "--earner", root_of(2))
    assert [payout["amount"] for payout in found["payouts"]] == ["100", "900"]
    digest = found.pop("sha256")
    assert digest in out
    assert json.loads(Path("done.json").read_text()) == found


def test_settle_pays_by_no_mere_word(capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, *SETTLE, "--earner", "model-2", *BY_ALICE)
    assert "--accept-asserted" in error
    assert "model-2 is finetune of model-1" in error
    assert lineage(capsys, *SETTLE, "--earner", "model-1", *BY_ALICE)[0] == 0


def test_settle_holds_what_nobody_claims(capsys: pytest.CaptureFixture[str]) -> None:
    copy = claim_of(3, (parent_of(4, Relation.IDENTICAL),))
    Path("copy.json").write_bytes(sign(copy, KEY).to_bytes())
    command = ["settle", "copy.json", "--earner", "model-3", "--amount", "7", "--unit", "cent"]
    out = lineage(capsys, *command, *BY_ALICE, "--accept-asserted")[1]
    assert "(held)  7" in out


def test_settle_verifies_first(capsys: pytest.CaptureFixture[str]) -> None:
    command = [*SETTLE, "--earner", "model-2", "--accept-asserted"]
    assert "base.json" in refused(capsys, *command, "--key", "log.key.pub", status=1)
    good = Envelope.from_bytes(Path("base.json").read_bytes())
    changed = good.payload.replace(b'"0.1"', b'"0.2"')
    wrong = Envelope(good.payload_type, changed, good.signatures)
    Path("base.json").write_bytes(wrong.to_bytes())
    assert "is wrong" in refused(capsys, *command, *BY_ALICE, status=1)


def test_settle_wants_claims_for_itself(capsys: pytest.CaptureFixture[str]) -> None:
    claim = claim_of(3, audience=ORIGIN)
    Path("mine.json").write_bytes(sign(claim, KEY).to_bytes())
    command = ["settle", "mine.json", "--earner", "model-3", "--amount", "1", "--unit", "cent"]
    assert "addressed to" in refused(capsys, *command, *BY_ALICE, status=1)
    assert lineage(capsys, *command, *BY_ALICE, "--audience", ORIGIN)[0] == 0


@pytest.mark.parametrize(
    "extra",
    [
        ["--earner", "nobody"],
        ["--earner", root_of(9)],
        ["--earner", "model-2", "--unit", "\x1b[2J"],
        ["--earner", "model-2", "--key", "base.json"],
        ["--earner", "model-2", "--key", "missing.pub"],
        ["--earner", "model-2", "-o", "no/such/folder.json"],
    ],
)
def test_settle_refuses_in_one_line(capsys: pytest.CaptureFixture[str], extra: list[str]) -> None:
    refused(capsys, *SETTLE, *BY_ALICE, "--accept-asserted", *extra)


@pytest.mark.parametrize("extra", [["--amount", "-1"], ["--ceiling", "2"], ["--ceiling", "lots"]])
def test_numbers_that_are_none_are_wrong_usage(
    capsys: pytest.CaptureFixture[str], extra: list[str]
) -> None:
    asked = [*SETTLE, *BY_ALICE, "--accept-asserted", "--earner", "model-2", *extra]
    status, out, err = lineage(capsys, *asked)
    assert (status, out) == (2, "")
    assert extra[0] in err


def test_settle_asks_which_of_two(capsys: pytest.CaptureFixture[str]) -> None:
    import dataclasses

    from lineage.claims import ModelRef

    twin = dataclasses.replace(claim_of(3), subject=ModelRef("model-2", root_of(3)))
    Path("twin.json").write_bytes(sign(twin, KEY).to_bytes())
    command = ["settle", "twin.json", *SETTLE[1:], *BY_ALICE, "--earner", "model-2"]
    assert "2 models" in refused(capsys, *command)
