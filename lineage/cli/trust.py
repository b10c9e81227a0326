"""The commands that need no weights: keys, logs, receipts and payouts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lineage import canonical, claims, merkle, settlement
from lineage.cli import say
from lineage.cli.options import fraction, json_option
from lineage.errors import FormatError, LedgerError, SettlementError, VerificationError, printable
from lineage.files import write_whole
from lineage.ledgers import Ledger, Receipt, open_checkpoint
from lineage.ledgers.receipt import HEADER, MAX_RECEIPT_BYTES
from lineage.signing import Ed25519Key, Envelope, PublicKey, is_locked

if TYPE_CHECKING:
    from lineage.fingerprints import Fingerprint

FILE = click.Path(path_type=Path)
"""A path as given; the library opens it and says in one line what is wrong with it."""


@click.command(short_help="Make a key: PATH to sign with, and PATH.pub for everyone.")
@click.argument("path", type=FILE)
@click.option("--passphrase", is_flag=True, help="Ask for a passphrase that locks the key.")
@json_option
def key(path: Path, passphrase: bool, as_json: bool) -> None:
    """Make a key: PATH, which only you can read, and PATH.pub, which is for everyone.

    \b
    Example:
        lineage key alice.key
    """
    public = path.with_name(f"{path.name}.pub")
    for taken in (path, public):
        if taken.exists():
            raise FormatError("there is a file already; a key is never overwritten", file=taken)
    words = ""
    if passphrase:
        words = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
    made = Ed25519Key.generate()
    made.save(path, words.encode() or None)
    made.public.save(public)
    say.result(
        {"path": str(path), "public": str(public), "key_id": made.key_id},
        made.key_id,
        as_json=as_json,
    )
    say.note(f"{path} signs: keep it secret. {public} checks: give it to everyone.")


@click.command(short_help="Append signed claims to a log, with a receipt for each.")
@click.argument("log", type=FILE)
@click.argument("paths", type=FILE, nargs=-1, required=True, metavar="CLAIM...")
@click.option("--key", "key_path", type=FILE, required=True, help="The log's private key.")
@click.option("--origin", help="The log's name, such as example.com/log; needed for a new log.")
@click.option("--no-receipts", is_flag=True, help="Write no receipt beside each claim.")
@json_option
def append(
    log: Path,
    paths: tuple[Path, ...],
    key_path: Path,
    origin: str | None,
    no_receipts: bool,
    as_json: bool,
) -> None:
    """Append signed claims to a log, and write a receipt beside each.

    All are appended or none. A claim that the log has already keeps its place. A new log is made
    when LOG is not there.

    \b
    Example:
        lineage append log.sqlite child.json --key log.key --origin example.com/log
    """
    entries = [read_envelope(path).to_bytes() for path in paths]
    receipts = [path.with_suffix(".receipt") for path in paths]
    if len(set(receipts)) != len(set(paths)) and not no_receipts:
        raise click.UsageError("two claims would share one receipt file; use --no-receipts")
    signer = load_key(key_path)
    if origin is None and not log.exists():
        raise click.UsageError(f"{log} is a new log: give it a name with --origin")
    with about(log):
        if origin is not None and not log.exists():
            ledger = Ledger.create(log, signer, origin)
        else:
            ledger = Ledger.open(log, signer, origin)
        before = len(ledger)
        proofs = ledger.append(entries)
        head = open_checkpoint(proofs[0].checkpoint, signer.public, ledger.origin)
    rows: list[dict[str, Any]] = []
    for path, target, entry, proof in zip(paths, receipts, entries, proofs, strict=True):
        if not no_receipts:
            write_whole(target, proof.to_bytes())
        rows.append(
            {
                "path": str(path),
                "claim_id": merkle.leaf_hash(entry).hex(),
                "index": proof.index,
                "new": proof.index >= before,
                "receipt": None if no_receipts else str(target),
            }
        )
    document = {"log": str(log), "origin": head.origin, "size": head.size, "root": head.root.hex()}
    say.result(
        {**document, "entries": rows},
        lambda: "\n".join(
            [
                *(f"{row['index']:>6}  {row['path']}{_there(row)}" for row in rows),
                f"{head.origin} has {say.count(head.size, 'entry', 'entries')}",
            ]
        ),
        as_json=as_json,
    )


@click.command(short_help="Check that a log holds a claim, or check a whole log.")
@click.argument("path", type=FILE, metavar="CLAIM|LOG")
@click.argument("receipt", type=FILE, required=False)
@click.option("--log-key", type=FILE, required=True, help="The log's public key.")
@click.option("--origin", help="The log's name; by default the one found, which is printed.")
@click.option(
    "--since", type=FILE, help="A receipt or checkpoint of this log from before, to hold it to."
)
@json_option
def check(
    path: Path,
    receipt: Path | None,
    log_key: Path,
    origin: str | None,
    since: Path | None,
    as_json: bool,
) -> None:
    """Check that a log holds a claim, without the log; or check a whole log.

    With a receipt, nothing but the log's public key is needed. With a log alone, every hash in it
    is computed again from its entries.

    \b
    Example:
        lineage check child.json child.receipt --log-key log.key.pub
        lineage check log.sqlite --log-key log.key.pub --since child.receipt
    """
    public = PublicKey.load(log_key)
    if receipt is None:
        _check_log(path, public, origin, since, as_json)
        return
    if since is not None:
        raise click.UsageError("--since goes with a log, not with a receipt")
    entry = _read(path)
    with about(receipt):
        proof = Receipt.from_bytes(_read(receipt))
        head = proof.verify(entry, public, proof.claimed_origin if origin is None else origin)
    say.result(
        {
            "ok": True,
            "claim_id": merkle.leaf_hash(entry).hex(),
            "index": proof.index,
            "origin": head.origin,
            "size": head.size,
            "root": head.root.hex(),
        },
        f"yes: {path} is entry {proof.index} of {head.origin}, which then had {head.size}",
        as_json=as_json,
    )


def _check_log(
    path: Path, public: PublicKey, origin: str | None, since: Path | None, as_json: bool
) -> None:
    """Check a log file as a whole, and against an older head where one is given."""
    with about(path):
        ledger = Ledger.open(path, public, origin)
        head = ledger.audit()
    if since is not None:
        note = _read(since)
        with about(since):
            if note.startswith(HEADER.encode()):
                note = Receipt.from_bytes(note).checkpoint
            head = ledger.check_since(open_checkpoint(note, public, ledger.origin))
    say.result(
        {"ok": True, "origin": head.origin, "size": head.size, "root": head.root.hex()},
        f"yes: {head.origin} holds {say.count(head.size, 'entry', 'entries')} "
        f"under {head.root.hex()}",
        as_json=as_json,
    )


@click.command
@click.argument("paths", type=FILE, nargs=-1, required=True, metavar="CLAIM...")
@click.option("--earner", required=True, help="The model that earned: its root or its name.")
@click.option("--amount", type=int, required=True, help="What it earned, in the smallest unit.")
@click.option("--unit", required=True, help="What the unit is called.")
@click.option(
    "--key",
    "key_paths",
    type=FILE,
    multiple=True,
    required=True,
    help="An accepted public key; repeatable.",
)
@click.option("--audience", help="Accept claims addressed to this name, too.")
@click.option("--ceiling", default="0.5", show_default=True, help="Most that all ancestors take.")
@click.option(
    "--weights",
    "weights",
    multiple=True,
    metavar="PATH",
    help="Models, saved fingerprints, or folders of them, to measure the claims against.",
)
@click.option("--accept-asserted", is_flag=True, help="Pay by edges that nobody has measured.")
@click.option("-o", "--output", type=FILE, help="Write the settlement's bytes to this file.")
@json_option
def settle(
    paths: tuple[Path, ...],
    earner: str,
    amount: int,
    unit: str,
    key_paths: tuple[Path, ...],
    audience: str | None,
    ceiling: str,
    weights: tuple[str, ...],
    accept_asserted: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Divide what a model earned among everyone its claims name.

    Each claim is measured again against the --weights at hand. An edge that they do not confirm
    rests on a signature alone, and nothing is paid until --accept-asserted says to pay by such
    edges too.

    \b
    Example:
        lineage settle child.json base.json --earner child --amount 100000 --unit EUR-cent \\
            --key alice.key.pub --key bob.key.pub --weights ./models
    """
    keys = tuple({found.raw: found for found in map(PublicKey.load, key_paths)}.values())
    policy = claims.Policy(keys, audience=audience)
    share = fraction(ceiling, "--ceiling")
    if amount < 0:
        raise click.UsageError("--amount: expected a whole number, 0 or more")
    measured = _fingerprints(weights)
    verified = []
    for path in paths:
        with about(path):
            verified.append(_verified(open_envelope(path), policy, measured))
    names = {found.claim.subject.root: found.claim.subject.name for found in verified}
    terms = settlement.Terms(share, accept_asserted)
    done = settlement.settle(verified, _root_of(earner, names), amount, unit, terms)
    if done.asserted and not accept_asserted:
        edges = say.count(len(done.asserted), "edge rests", "edges rest")
        first = _link_text(done.asserted[0], names)
        more = ", ..." if len(done.asserted) > 1 else ""
        raise SettlementError(
            f"{edges} on a signature alone ({first}{more}): measure with --weights, or pay with "
            "--accept-asserted"
        )
    if output is not None:
        write_whole(output, done.to_bytes())
    say.result(_settlement_json(done), lambda: _settlement_text(done, names), as_json=as_json)


def _fingerprints(weights: tuple[str, ...]) -> dict[str, Fingerprint]:
    """Return the fingerprints of models at hand by their roots."""
    if not weights:
        return {}
    from lineage.artifacts import models_in
    from lineage.fingerprints import fingerprint

    made = [fingerprint(found) for path in weights for found in models_in(path)]
    return {one.root: one for one in made}


def _verified(
    envelope: Envelope, policy: claims.Policy, measured: dict[str, Fingerprint]
) -> claims.VerifiedClaim:
    """Verify a claim, against its model's weights where they are at hand."""
    signed = claims.verify(envelope, policy)
    child = measured.get(signed.claim.subject.root)
    if child is None:
        return signed
    from lineage.audit import verify

    return verify(envelope, policy, weights=child, parents=measured.values())


def load_key(path: Path) -> Ed25519Key:
    """Read a private key file, asking for its passphrase if it has one."""
    if is_locked(_read(path)):
        words = click.prompt(f"Passphrase of {path}", hide_input=True, err=True)
        return Ed25519Key.load(path, str(words).encode())
    return Ed25519Key.load(path)


def _settlement_json(done: settlement.Settlement) -> dict[str, Any]:
    """Return the settlement as its own document, and the digest that names it."""
    document: dict[str, Any] = canonical.loads(done.to_bytes())
    return {**document, "sha256": done.sha256}


def _settlement_text(done: settlement.Settlement, names: dict[str, str]) -> str:
    """Return the payouts as a small table, and what they rest on."""

    def name(root: str) -> str:
        return _named(root, names)

    rows = [
        (
            payout.payee,
            f"{payout.amount:,}",
            ", ".join(f"{reason.role} of {reason.name}" for reason in payout.reasons),
        )
        for payout in done.payouts
    ]
    if done.holder is not None:
        rows.append(("(held)", f"{done.unclaimed:,}", f"for whoever claims {name(done.holder)}"))
    widths = [max((len(row[at]) for row in rows), default=0) for at in (0, 1)]
    lines = [f"{name(done.earner)} earned {done.amount:,} {done.unit}", ""]
    lines += [f"  {who:<{widths[0]}}  {what:>{widths[1]}}  {why}" for who, what, why in rows]
    if done.asserted:
        lines += ["", "These rest on a signature alone; nobody has measured them:"]
        lines += [f"  {_link_text(link, names)}" for link in done.asserted]
    return "\n".join([*lines, "", f"settlement {done.sha256}"])


def _named(root: str, names: dict[str, str]) -> str:
    return names.get(root, f"{root[:12]}…")


def _link_text(link: settlement.Link, names: dict[str, str]) -> str:
    return f"{_named(link.child, names)} is {link.relation} of {_named(link.parent, names)}"


def _root_of(earner: str, names: dict[str, str]) -> str:
    """Return the root that a person means by a root or a name."""
    if earner in names:
        return earner
    found = [root for root, name in names.items() if name == earner]
    if len(found) != 1:
        reason = "no claim is" if not found else f"{len(found)} models in the claims are"
        raise SettlementError(f"{reason} about '{printable(earner)}'")
    return found[0]


def open_envelope(path: Path) -> Envelope:
    """Read a file that must hold an envelope; what is signed is not looked at yet."""
    return Envelope.from_bytes(_read(path), file=path)


def read_envelope(path: Path) -> Envelope:
    """Read a file that must hold a claim, whoever signed it."""
    envelope = open_envelope(path)
    claims.read(envelope, file=path)
    return envelope


def _read(path: Path, limit: int = MAX_RECEIPT_BYTES) -> bytes:
    """Read a small file; what is larger is not what it should be."""
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise FormatError(f"longer than {limit} bytes", file=path)
    return data


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Put the file's name in front of what is wrong with it, if it is not there."""
    name = printable(str(path))
    try:
        yield
    except FormatError as error:
        raise FormatError(error.reason, file=error.file or path, offset=error.offset) from error
    except (VerificationError, LedgerError) as error:
        if str(error).startswith(f"{name}: "):
            raise
        raise type(error)(f"{name}: {error}") from error


def _there(row: dict[str, Any]) -> str:
    return "" if row["new"] else "  (was there)"
