"""The verbs that hold weights against words: `claim` and `verify`."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import click

from lineage import audit, claims
from lineage.claims import Dataset, ModelRef, Parent, Split
from lineage.cli import say
from lineage.cli.measure import load
from lineage.cli.options import fraction, json_option
from lineage.cli.trust import FILE, about, load_key, open_envelope
from lineage.errors import ContradictionError, FormatError, VerificationError, printable
from lineage.files import write_whole
from lineage.relation import Relation
from lineage.signing import PublicKey

if TYPE_CHECKING:
    from lineage.claims import VerifiedClaim
    from lineage.fingerprints import Fingerprint


@click.command(short_help="Sign what a model is, and what it was made from.")
@click.argument("model")
@click.option(
    "--parent", "parents", multiple=True, metavar="MODEL", help="What it was made from; repeatable."
)
@click.option("--key", "key_path", type=FILE, required=True, help="Your private key.")
@click.option("--name", help="What the model is called; by default its file's or folder's name.")
@click.option(
    "--relation",
    type=click.Choice([str(r) for r in Relation if r is not Relation.SHARED_INIT]),
    help="What you know it to be, where the weights do not tell.",
)
@click.option("--rate", default="0", show_default=True, help="What descendants owe it, 0 to 1.")
@click.option(
    "--split",
    "splits",
    multiple=True,
    metavar="PAYEE:ROLE:SHARE",
    help="Who shares what it earns; shares sum to 1. By default you alone.",
)
@click.option(
    "--trained-on",
    "data",
    type=FILE,
    multiple=True,
    metavar="MANIFEST",
    help="Data it learned from.",
)
@click.option("--audience", default=claims.ANYONE, show_default=True, help="Whom it is for.")
@click.option("-o", "--output", type=FILE, help="Where to write it; by default NAME.claim.json.")
@json_option
def claim(
    model: str,
    parents: tuple[str, ...],
    key_path: Path,
    name: str | None,
    relation: str | None,
    rate: str,
    splits: tuple[str, ...],
    data: tuple[Path, ...],
    audience: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Sign what a model is, what it was made from, and who is paid for it.

    MODEL and each --parent are models or saved fingerprints. What the model is to its parents is
    measured; a parent that the weights deny is refused. What it was trained on is declared, by
    saved manifests of data sets.

    \b
    Example:
        lineage claim ./my-model --parent ./base --key alice.key --rate 0.05
    """
    signer = load_key(key_path)
    called = name or _called(model)
    shares = _splits(splits) or (Split(signer.key_id, "maker", Fraction(1)),)
    learned = [_data(path) for path in data]
    made = audit.draft(
        called,
        load(model),
        _named(parents),
        splits=shares,
        rate=fraction(rate, "--rate"),
        relation=None if relation is None else Relation(relation),
        audience=audience,
        datasets=[Dataset(ref.name, ref.manifest_sha256 or "") for ref in learned],
    )
    taught = (Parent(ref, Relation.TRAINED_ON) for ref in learned)
    made = replace(made, parents=(*made.parents, *taught))
    envelope = claims.sign(made, signer)
    target = output or Path(f"{PurePath(called).name}.claim.json")
    write_whole(target, envelope.to_bytes())
    document = {
        "path": str(target),
        "claim_id": claims.claim_id(envelope),
        "key_id": signer.key_id,
        "subject": {"name": made.subject.name, "id": made.subject.root},
        "parents": [
            {
                "name": parent.model.name,
                "id": parent.model.root,
                "relation": str(parent.relation),
                "how": parent.how,
                "coefficient": None if parent.coefficient is None else float(parent.coefficient),
            }
            for parent in made.parents
        ],
    }
    if made.delta is not None:
        document["delta_id"] = made.delta.id
    say.result(document, lambda: _claim_text(document), as_json=as_json)


def _data(path: Path) -> ModelRef:
    """Return a data set as a claim names it: its root, and the SHA-256 of its manifest's header."""
    from lineage import datasets

    found = datasets.load(path)
    return ModelRef(path.stem, found.head.root.hex(), found.sha256)


def _claim_text(document: dict[str, Any]) -> str:
    subject = document["subject"]
    lines = [f"{printable(subject['name'])}  {subject['id']}"]
    for parent in document["parents"]:
        how = f" ({parent['how']})" if parent["how"] else ""
        share = "" if parent["coefficient"] is None else f" {parent['coefficient']:.3f}"
        lines.append(f"  {parent['relation']}{how}{share} of {printable(parent['name'])}")
    if "delta_id" in document:
        lines.append(f"  delta {document['delta_id']}")
    return "\n".join([*lines, f"signed by {document['key_id']}", f"wrote {document['path']}"])


@click.command(short_help="Check a signed claim, also against the weights.")
@click.argument("path", type=FILE, metavar="CLAIM")
@click.option(
    "--key", "keys", type=FILE, multiple=True, required=True, help="An accepted key; repeatable."
)
@click.option("--weights", metavar="MODEL", help="The claimed model, or its saved fingerprint.")
@click.option(
    "--parent",
    "parents",
    multiple=True,
    metavar="MODEL",
    help="A claimed parent, or its fingerprint; repeatable.",
)
@click.option(
    "--trained-on",
    "data",
    type=FILE,
    multiple=True,
    metavar="MANIFEST",
    help="Data that the claim must name.",
)
@click.option("--threshold", default=1, show_default=True, help="Distinct keys that must sign.")
@click.option("--audience", help="Accept a claim addressed to this name, too.")
@click.option("--require-measured", is_flag=True, help="Every parent must be confirmed.")
@json_option
def verify(
    path: Path,
    keys: tuple[Path, ...],
    weights: str | None,
    parents: tuple[str, ...],
    data: tuple[Path, ...],
    threshold: int,
    audience: str | None,
    require_measured: bool,
    as_json: bool,
) -> int:
    """Check a signed claim: its signature, and where given its weights and its parents' weights.

    The fingerprint is recomputed, and what the model is to its parents is measured again; what the
    claim says of its own evidence is not believed. Exit status 1 if anything disagrees. Saved
    fingerprints stand in for weights; give only such as you made yourself. The data of
    --trained-on, by a manifest that you made of them, must be data that the claim names.

    \b
    Example:
        lineage verify my-model.claim.json --key alice.key.pub --weights ./my-model --parent ./base
    """
    if parents and weights is None:
        raise click.UsageError("--parent is measured against the model: give --weights too")
    accepted = tuple({key.raw: key for key in map(PublicKey.load, keys)}.values())
    if not 1 <= threshold <= len(accepted):
        raise click.UsageError(f"--threshold {threshold} with {len(accepted)} distinct keys")
    policy = claims.Policy(accepted, threshold, audience, require_measured)
    envelope = open_envelope(path)
    try:
        with about(path):
            found = audit.verify(
                envelope,
                policy,
                weights=None if weights is None else load(weights),
                parents=[load(parent) for parent in parents],
            )
            named = [_named_data(manifest, found) for manifest in data]
    except VerificationError as error:
        if as_json:
            say.result({"path": str(path), "valid": False, "reason": str(error)}, "", as_json=True)
        raise
    document = _verified_json(path, found, weights, parents) | {"data": named}
    say.result(document, lambda: _verified_text(document), as_json=as_json)
    return 0


def _named_data(path: Path, found: VerifiedClaim) -> dict[str, Any]:
    """Return a data set that a claim names.

    Raises:
        ContradictionError: If it names none of these records.
    """
    given = _data(path)
    taught = [p.model.root for p in found.claim.parents if p.relation is Relation.TRAINED_ON]
    if given.root not in taught:
        raise ContradictionError(
            f"'{found.claim.subject.name}' is not said to be trained on the records of {path}"
        )
    return {"path": str(path), "id": given.root}


def _verified_json(
    path: Path, found: VerifiedClaim, weights: str | None, parents: tuple[str, ...]
) -> dict[str, Any]:
    saved = [given for given in (weights, *parents) if given and given.endswith(".lineage")]
    return {
        "path": str(path),
        "valid": True,
        "trusts_saved": saved,
        "claim_id": found.claim_id,
        "key_ids": list(found.key_ids),
        "subject": {
            "name": found.claim.subject.name,
            "id": found.claim.subject.root,
            "recomputed": weights is not None and not weights.endswith(".lineage"),
        },
        **({} if found.claim.delta is None else {"delta_id": found.claim.delta.id}),
        "parents": [
            {
                "name": parent.model.name,
                "id": parent.model.root,
                "relation": str(edge.relation),
                "confirmed": edge.confirmed,
            }
            for parent, edge in zip(found.claim.parents, found.edges, strict=True)
        ],
    }


def _verified_text(document: dict[str, Any]) -> str:
    subject = document["subject"]
    how = "recomputed from the weights" if subject["recomputed"] else "not recomputed from weights"
    lines = [
        f"valid: {printable(subject['name'])}  {subject['id']}",
        f"  signed by {', '.join(document['key_ids'])}",
        f"  fingerprint {how}",
    ]
    if "delta_id" in document:
        lines.append(f"  delta {document['delta_id']}")
    for parent in document["parents"]:
        by = "saved fingerprints" if document["trusts_saved"] else "the weights"
        seen = f"confirmed by {by}" if parent["confirmed"] else "as claimed, not confirmed"
        lines.append(f"  {parent['relation']} of {printable(parent['name'])}: {seen}")
    lines += [f"  {printable(d['path'])} has the records that it names" for d in document["data"]]
    if document["trusts_saved"]:
        lines.append(
            "  a saved fingerprint proves nothing unless you made it: its sketches are not"
        )
        lines.append("  bound to its root")
    return "\n".join(lines)


def _called(path: str) -> str:
    return PurePath(PurePath(path).name).stem if Path(path).is_file() else Path(path).resolve().name


def _named(parents: tuple[str, ...]) -> dict[str, Fingerprint]:
    named: dict[str, Fingerprint] = {}
    for path in parents:
        called = _called(path)
        while called in named:
            called += "'"
        named[called] = load(path)
    return named


def _split(text: str) -> Split:
    parts = text.rsplit(":", 2)
    if len(parts) != 3:
        raise click.UsageError(f"--split {text!r}: expected PAYEE:ROLE:SHARE")
    share = fraction(parts[2], f"--split {text!r}")
    try:
        return Split(parts[0], parts[1], share)
    except FormatError as error:
        raise click.UsageError(f"--split {text!r}: {error.reason}") from None


def _splits(texts: tuple[str, ...]) -> tuple[Split, ...]:
    splits = tuple(map(_split, texts))
    total = sum((split.share for split in splits), Fraction(0))
    if splits and total != 1:
        raise click.UsageError(f"--split: the shares sum to {total}, not to 1")
    return splits
