"""The verbs for a data set's contributors: `contribute` and `shares`."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lineage import claims
from lineage.claims import Claim, ModelRef, Split, contributions, fields
from lineage.cli import say
from lineage.cli.options import fraction, json_option, number
from lineage.cli.trust import FILE, about, load_key, open_envelope
from lineage.errors import FormatError, VerificationError, printable
from lineage.files import write_whole
from lineage.signing import Envelope, PublicKey

if TYPE_CHECKING:
    from lineage.claims.contributions import Contribution
    from lineage.datasets import Manifest


@click.command(short_help="Sign that the records of a manifest are yours to be paid for.")
@click.argument("path", type=FILE, metavar="PART")
@click.option("--payee", required=True, help="Where the money goes.")
@click.option("--role", required=True, help="What you did: curator, labeller, writer, ...")
@click.option("--weight", default="1", show_default=True, help="What one record counts for.")
@click.option("--key", "key_path", type=FILE, required=True, help="Your private key.")
@click.option("-o", "--output", type=FILE, required=True, help="Where to write it.")
@json_option
def contribute(
    path: Path, payee: str, role: str, weight: str, key_path: Path, output: Path, as_json: bool
) -> None:
    """Sign that the records of PART, a saved manifest, are your contribution.

    \b
    Example:
        lineage contribute mine.manifest --payee alice --role labeller --key alice.key -o alice.json
    """
    from lineage import datasets

    head = datasets.load(path).head
    each = number(weight, "--weight")
    try:
        made = contributions.Contribution(head, payee, role, _now(), each)
    except FormatError as error:
        raise click.UsageError(error.reason) from None
    signer = load_key(key_path)
    write_whole(output, contributions.sign(made, signer).to_bytes())
    document = {"path": str(output), "root": head.root.hex(), "records": head.records}
    document |= {"payee": payee, "role": role, "weight": fields.spell_fraction(each)}
    document["key_id"] = signer.key_id
    records = say.count(head.records, "record")
    text = f"{records} by {printable(payee)}, {printable(role)}\nwrote {output}"
    say.result(document, text, as_json=as_json)


@click.command(short_help="Share what a data set earns among its contributors.")
@click.argument("path", type=FILE, metavar="DATA")
@click.option(
    "--part",
    "parts",
    type=FILE,
    nargs=2,
    multiple=True,
    metavar="MANIFEST CONTRIBUTION",
    help="A part's manifest, and who contributed it.",
)
@click.option(
    "--key", "keys", type=FILE, multiple=True, help="An accepted contributor's key; repeatable."
)
@click.option("--rest", metavar="PAYEE:ROLE", help="Whose the records are that nobody claims.")
@click.option("--sign", "key_path", type=FILE, help="Sign the data set's claim with this key.")
@click.option(
    "--name", help="What the data set is called in the claim; by default its file's name."
)
@click.option(
    "--rate", default="0", show_default=True, help="What models trained on it owe, 0 to 1."
)
@click.option("-o", "--output", type=FILE, help="Where the claim goes; by default NAME.claim.json.")
@json_option
def shares(
    path: Path,
    parts: tuple[tuple[Path, Path], ...],
    keys: tuple[Path, ...],
    rest: str | None,
    key_path: Path | None,
    name: str | None,
    rate: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Share what a data set earns among its contributors, by the records that they signed for.

    Every part must be in DATA, a saved manifest, and in one role no record may be claimed twice;
    who wrote and who labelled a record are both paid for it. With --sign, the shares go into a
    claim about the data set, which the claim of a model trained on it can name.

    \b
    Example:
        lineage shares data.manifest --part a.manifest a.json --key a.key.pub --rest owner:curator
    """
    from lineage import datasets
    from lineage.datasets.parts import hold_parts

    whole = datasets.load(path)
    accepted = [PublicKey.load(each) for each in keys]
    said = [_believed(*part, accepted) for part in parts]
    roles: dict[str, list[Manifest]] = {}
    for made, part in said:
        roles.setdefault(made.role, []).append(part)
    unclaimed = hold_parts(whole, roles)
    owner = None if rest is None else _payee(rest)
    splits = contributions.shares(whole.head, [made for made, _ in said], unclaimed, owner)
    document: dict[str, Any] = {
        "path": str(path),
        "root": whole.head.root.hex(),
        "sha256": whole.sha256,
        "splits": [
            {"payee": s.payee, "role": s.role, "share": fields.spell_fraction(s.share)}
            for s in splits
        ],
        "claim": None,
    }
    if key_path is not None:
        subject = ModelRef(name or path.stem, whole.head.root.hex(), whole.sha256)
        envelope = _signed(subject, splits, fraction(rate, "--rate"), key_path)
        target = output or Path(f"{subject.name}.claim.json")
        write_whole(target, envelope.to_bytes())
        document["claim"] = {"path": str(target), "claim_id": claims.claim_id(envelope)}
    say.result(document, lambda: _text(splits, document), as_json=as_json)


def _believed(
    manifest: Path, contribution: Path, accepted: list[PublicKey]
) -> tuple[Contribution, Manifest]:
    """Return what is said of a part, by somebody whose key is accepted, and the part."""
    from lineage import datasets

    part = datasets.load(manifest)
    with about(contribution):
        made = contributions.verify(open_envelope(contribution), accepted)
        if made.records != part.head:
            raise VerificationError(f"it is about other records than {manifest} has")
    return made, part


def _signed(
    subject: ModelRef, splits: tuple[Split, ...], rate: Fraction, key_path: Path
) -> Envelope:
    """Sign the claim that a data set's contributors have these shares."""
    claim = Claim(subject, (), splits, rate, _now(), secrets.token_hex(16))
    return claims.sign(claim, load_key(key_path))


def _text(splits: tuple[Split, ...], document: dict[str, Any]) -> str:
    lines = [
        f"{fields.spell_fraction(s.share):>12}  {printable(s.payee)}, {printable(s.role)}"
        for s in splits
    ]
    if document["claim"]:
        lines.append(f"wrote {document['claim']['path']}")
    return "\n".join(lines)


def _payee(text: str) -> tuple[str, str]:
    payee, mark, role = text.rpartition(":")
    try:
        if not mark:
            raise FormatError("expected PAYEE:ROLE")
        Split(payee, role, Fraction(1))
    except FormatError as error:
        raise click.UsageError(f"--rest {text!r}: {error.reason}") from None
    return payee, role


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
