"""The verbs `prove` and `check-proof`: what is in a data set, or how one became another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from lineage.cli import say
from lineage.cli.data import FILE, read_secret
from lineage.cli.options import json_option
from lineage.errors import FormatError, printable
from lineage.files import write_whole

_ROOT = re.compile("[0-9a-f]{64}")


@click.command(short_help="Prove what is in a data set, or how it became another.")
@click.argument("path", type=FILE, metavar="MANIFEST")
@click.argument("newer", type=FILE, required=False, metavar="[NEWER]")
@click.option("--record", metavar="JSON", help="The record, as JSON.")
@click.option("--blob", type=FILE, help="The record, as a file of any bytes.")
@click.option("--digest", metavar="HEX", help="The record's digest.")
@click.option("--file", "name", help="The name of a file of the data set.")
@click.option("--subset", is_flag=True, help="Prove only that all of MANIFEST is in NEWER.")
@click.option("--private", type=FILE, metavar="SECRET", help="The secret of a private manifest.")
@click.option("-o", "--output", type=FILE, required=True, help="Where to write the proof.")
@json_option
def prove(
    path: Path,
    newer: Path | None,
    record: str | None,
    blob: Path | None,
    digest: str | None,
    name: str | None,
    subset: bool,
    private: Path | None,
    output: Path,
    as_json: bool,
) -> None:
    """Prove what is in a data set, or how one became another, in a file that needs no data.

    With a record: that it is there, or that it is not. With two manifests: which records came and
    went, and that nothing else changed; or that one is a subset of the other.

    \b
    Example:
        lineage prove data.manifest --record '{"id": 7}' -o proof.json
        lineage prove v1.manifest v2.manifest -o removal.json
    """
    from lineage import datasets
    from lineage.datasets import proving

    asked = [value for value in (record, blob, digest, name) if value is not None]
    if len(asked) != (newer is None):
        reason = "give either one manifest and one of --record, --blob, --digest and --file,"
        raise click.UsageError(f"{reason} or two manifests")
    if subset and newer is None:
        raise click.UsageError("--subset is about two manifests")
    found = datasets.load(path)
    if newer is not None:
        other = datasets.load(newer)
        data = (
            proving.prove_subset(found, other) if subset else proving.prove_change(found, other)[1]
        )
    elif name is not None:
        data = proving.prove_file(found, name)
    else:
        wanted = _digest(record, blob, digest)
        assert wanted is not None
        secret = None if private is None else read_secret(private)
        data = proving.prove_record(found, wanted, secret)
    write_whole(output, data)
    document = {**_proven(output), "bytes": len(data)}
    say.result(
        document,
        lambda: f"{_proof_text(document)}\nwrote {output} ({len(data)} bytes)",
        as_json=as_json,
    )


@click.command(short_help="Check such a proof, without the data.")
@click.argument("path", type=FILE, metavar="PROOF")
@click.option("--root", "roots", multiple=True, metavar="HEX", help="A root it must speak of.")
@click.option(
    "--manifest", "manifests", type=FILE, multiple=True, help="A manifest it must speak of."
)
@click.option("--record", metavar="JSON", help="The record it must speak of, as JSON.")
@click.option("--blob", type=FILE, help="The record it must speak of, as a file.")
@click.option("--digest", metavar="HEX", help="The record it must speak of, by its digest.")
@json_option
def check_proof(
    path: Path,
    roots: tuple[str, ...],
    manifests: tuple[Path, ...],
    record: str | None,
    blob: Path | None,
    digest: str | None,
    as_json: bool,
) -> None:
    """Check a proof, without the data and without a manifest; exit status 1 if it does not hold.

    A proof speaks of roots. Compare them to those you know, or give these with --root: of two, the
    older first.

    \b
    Example:
        lineage check-proof proof.json --root 8a3c...
    """
    from lineage.errors import VerificationError

    for root in roots:
        if not _ROOT.fullmatch(root):
            raise click.UsageError(f"--root {root}: expected 64 lower-case hexadecimal digits")
    try:
        document = _proven(path)
        known = [*roots, *(_root_of(each, document) for each in manifests)]
        spoken = _spoken(document)
        if known and (len(known) > len(spoken) or any(root not in spoken for root in known)):
            raise VerificationError(
                f"the proof speaks of {', '.join(spoken)}, not of what was given"
            )
        if len(known) == 2 and known != spoken:
            raise VerificationError("the proof has older and newer the other way round")
        wanted = _digest(record, blob, digest)
        if wanted is not None and document.get("digest") != wanted.hex():
            raise VerificationError("the proof speaks of another record")
    except VerificationError as error:
        if as_json:
            reason = {"path": str(path), "valid": False, "reason": str(error)}
            say.result(reason, "", as_json=True)
        raise
    say.result(document, lambda: _proof_text(document), as_json=as_json)


def _spoken(document: dict[str, Any]) -> list[str]:
    """Return the roots that a proof speaks of, the older first."""
    if document["kind"] == "file":
        return [document["file"]["files_root"]]
    return [document[key]["root"] for key in ("of", "old", "new") if key in document]


def _root_of(path: Path, document: dict[str, Any]) -> str:
    from lineage import datasets

    header = datasets.load(path).header
    return (header.files_root if document["kind"] == "file" else header.head.root).hex()


def _digest(record: str | None, blob: Path | None, digest: str | None) -> bytes | None:
    """Return the digest of the record that was given in one way or another."""
    from lineage.manifests import Typed, canonical, parse_json, record_digest

    if record is not None:
        try:
            return record_digest(canonical(parse_json(record.encode(errors="surrogateescape"))))
        except FormatError as error:
            raise click.UsageError(f"--record: {error.reason}") from None
    if blob is not None:
        from blake3 import blake3

        hasher = blake3()
        with blob.open("rb") as file:
            while piece := file.read(1 << 20):
                hasher.update(piece)
        return record_digest(canonical(Typed("bytes", hasher.hexdigest())))
    if digest is not None:
        from lineage.manifests.tree import digest_of

        return digest_of(digest, "--digest")
    return None


def _proven(path: Path) -> dict[str, Any]:
    """Check a proof and return what it has proven."""
    from lineage import manifests
    from lineage.manifests.proofs import MAX_PROOF_BYTES

    with path.open("rb") as file:
        data = file.read(MAX_PROOF_BYTES + 1)
    found = manifests.check(data, file=path)
    document: dict[str, Any] = {"path": str(path), "valid": True, "kind": found.kind}
    if found.file is not None:
        document["file"] = found.file
    elif found.digest is not None and found.new is not None:
        document |= {"of": found.new.to_json(), "digest": found.digest.hex(), "count": found.count}
    elif found.old is not None and found.new is not None:
        document |= {"old": found.old.to_json(), "new": found.new.to_json()}
        document["changes"] = [
            {"digest": leaf.digest.hex(), "before": leaf.before, "after": leaf.after}
            for leaf in found.changes
        ]
    return document


def _proof_text(document: dict[str, Any]) -> str:
    kind = document["kind"]
    if kind == "file":
        row = document["file"]
        what = f"{printable(row['name'])} ({row['bytes']} bytes, BLAKE3 {row['blake3']})"
        return f"file: {what} is among the files under {row['files_root']}"
    if "of" in document:
        count = document["count"]
        words = (
            f"is there {'once' if count == 1 else f'{count} times'}" if count else "is not there"
        )
        return f"{kind}: record {document['digest']} {words}\n  under {document['of']['root']}"
    old, new = document["old"], document["new"]
    changes = document["changes"]
    came = sum(max(0, row["after"] - row["before"]) for row in changes)
    went = sum(max(0, row["before"] - row["after"]) for row in changes)
    words = {
        "removal": f"{say.count(went, 'record')} removed, nothing else changed",
        "append": f"{say.count(came, 'record')} added, nothing else changed",
        "change": f"{say.count(went, 'record')} removed and {came} added, nothing else changed",
        "subset": "every record of the older is in the newer",
    }[kind]
    return f"{kind}: {words}\n  from {old['root']}\n  to   {new['root']}"
