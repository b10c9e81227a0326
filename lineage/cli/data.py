"""The verbs for data sets: `manifest`, `prove`, `check-proof` and `overlap`."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lineage.cli import say
from lineage.cli.options import json_option
from lineage.errors import FormatError, printable
from lineage.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lineage.datasets import Built

FILE = click.Path(path_type=Path)

KINDS = ("arrow", "bytes", "csv", "image", "json", "jsonl", "parquet", "text", "tsv", "webdataset")


@click.command
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("-o", "--output", type=FILE, help="Where to save it, for proofs and overlap.")
@click.option(
    "--as", "kind", type=click.Choice(KINDS), help="What the files are; by default by name."
)
@click.option(
    "--skip-bad-records", is_flag=True, help="Leave bad records out, count and list them."
)
@click.option("--licence", "--license", help="The data's licence; by default what a card says.")
@click.option("--source", help="Where the data are from; by default what a card says.")
@click.option(
    "--private", type=FILE, metavar="SECRET", help="Hide the records; made if it is not there."
)
@click.option(
    "--against", type=FILE, help="Another description of the files to hold them to: Croissant, ..."
)
@click.option("--croissant", type=FILE, help="Where to write a Croissant description.")
@click.option("--near", is_flag=True, help="Sketch records too, for near-duplicates.")
@json_option
def manifest(
    paths: tuple[str, ...],
    output: Path | None,
    kind: str | None,
    skip_bad_records: bool,
    licence: str | None,
    source: str | None,
    private: Path | None,
    against: Path | None,
    croissant: Path | None,
    near: bool,
    as_json: bool,
) -> int:
    """Say what a data set is: one root over its records, whatever their order, files and format.

    PATHs are files or folders: JSON lines, JSON, CSV, TSV, text, Parquet, Arrow, WebDataset, what
    `datasets` saved; any other file is one record. A saved manifest is held to its roots. Exit
    status 1 if the files are not what another description says (--against).

    \b
    lineage manifest train.jsonl
    lineage manifest ./data -o data.manifest
    """
    from lineage import datasets
    from lineage.datasets import conventions

    if len(paths) == 1 and datasets.is_manifest(Path(paths[0])):
        found = datasets.load(paths[0])
        rows = list(found.skipped)
        document = {**found.header.to_json(), "sha256": found.sha256, "skipped_records": rows}
        say.result(document, lambda: _manifest_text(document), as_json=as_json)
        return 0
    if private is not None and (near or croissant is not None):
        raise click.UsageError("--near and --croissant tell what --private hides")
    for path in paths:
        if not Path(path).exists():
            raise FormatError("no such file or folder", file=path)
    described = None if against is None else conventions.read(against)
    wanted = {"sha256"} if croissant is not None else set()
    if described is not None:
        wanted |= set(conventions.algorithms_of(described))
    options = datasets.Options(
        kind, skip_bad_records, licence, source, _secret(private), near, tuple(wanted)
    )
    started = time.perf_counter()
    with _progress(paths) as advance:
        built = datasets.build([Path(path) for path in paths], output, options, advance)
    made = _document(built)
    made["seconds"] = round(time.perf_counter() - started, 4)
    if output is not None:
        made["path"] = str(output)
    if croissant is not None:
        called = Path(paths[0]).resolve().name
        write_whole(croissant, conventions.croissant.write(built, called))
    held = None if described is None else conventions.hold(described, built)
    if held is not None:
        made["against"] = held.to_json()
    say.result(made, lambda: _manifest_text(made), as_json=as_json)
    return 0 if held is None or held.holds else 1


def _document(built: Built) -> dict[str, Any]:
    return {
        **built.header.to_json(),
        "sha256": built.sha256,
        "skipped_records": list(built.skipped),
    }


def _manifest_text(document: dict[str, Any]) -> str:
    records, distinct = document["records"], document["distinct"]
    lines = [f"{document['root']}  {records} records in {document['files']} files"]
    if distinct != records:
        lines.append(f"  {distinct} of them distinct: {records - distinct} are repetitions")
    lines.append(f"  in this order {document['ordered_root']}")
    named = {name: count for name, count in document["splits"].items() if name}
    if named:
        lines.append("  " + ", ".join(f"{printable(n)} {count}" for n, count in named.items()))
    told = [key for key in ("licence", "source") if document[key]]
    lines += [f"  {key} {printable(document[key])}" for key in told]
    if document["hidden"]:
        lines.append("  hidden: digests are salted")
    if document["skipped"]:
        lines.append(f"  {document['skipped']} bad records were left out:")
        for row in document["skipped_records"][:20]:
            where = f"{printable(row['file'])}: {row['where']}"
            lines.append(f"    {where}: {printable(row['reason'])}")
    if "against" in document:
        held = document["against"]
        words = ", ".join(f"{len(held[key])} {key}" for key in ("differ", "missing", "unchecked"))
        lines.append(f"  against {held['convention']}: {held['agree']} files agree, {words}")
        lines += [f"    {key}: {n}" for key in ("differ", "missing") for n in held[key][:20]]
    if "path" in document:
        lines.append(f"wrote {document['path']}")
    return "\n".join(lines)


def _secret(path: Path | None) -> bytes | None:
    """Read the secret that hides records; make it where there is none."""
    import os

    if path is None:
        return None
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(32).hex().encode() + b"\n")
        say.note(f"{path} opens single records: keep it secret, and keep it.")
    with path.open("rb") as file:
        text = file.read(100).strip()
    try:
        secret = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        secret = b""
    if len(secret) != 32:
        raise FormatError("expected a secret of 64 hexadecimal digits", file=path)
    return secret


@contextmanager
def _progress(paths: tuple[str, ...]) -> Iterator[Callable[[int], None] | None]:
    """Show a bar on stderr while somebody watches and there is much to read."""
    total = sum(map(_size, paths)) if say.interactive() else 0
    if total < 64_000_000:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=total)
        yield lambda size: bar.advance(task, size)


def _size(path: str) -> int:
    here = Path(path)
    files = [here] if here.is_file() else here.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


@click.command
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
        secret = None if private is None else _read_secret(private)
        data = proving.prove_record(found, wanted, secret)
    write_whole(output, data)
    document = {**_proven(output), "bytes": len(data)}
    say.result(
        document,
        lambda: f"{_proof_text(document)}\nwrote {output} ({len(data)} bytes)",
        as_json=as_json,
    )


@click.command
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
    lineage check-proof proof.json --root 8a3c...
    """
    from lineage.errors import VerificationError

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
        return record_digest(canonical(parse_json(record.encode(errors="surrogateescape"))))
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
        words = f"is there {document['count']} times" if document["count"] else "is not there"
        return f"{kind}: record {document['digest']} {words}\n  under {document['of']['root']}"
    old, new = document["old"], document["new"]
    changes = document["changes"]
    came = sum(max(0, row["after"] - row["before"]) for row in changes)
    went = sum(max(0, row["before"] - row["after"]) for row in changes)
    words = {
        "removal": f"{went} records removed, nothing else changed",
        "append": f"{came} records added, nothing else changed",
        "change": f"{went} records removed and {came} added, nothing else changed",
        "subset": "every record of the older is in the newer",
    }[kind]
    return f"{kind}: {words}\n  from {old['root']}\n  to   {new['root']}"


@click.command
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@click.option("--threshold", default=0.8, show_default=True, help="Jaccard of near-duplicates.")
@click.option("--limit", default=1000, show_default=True, help="The most records to list.")
@json_option
def overlap(a: Path, b: Path, threshold: float, limit: int, as_json: bool) -> None:
    """Say which records two data sets have in common, from their saved manifests alone.

    Give the training set first and the test set second to see how much of the test is in training.
    Near-duplicates are found where both were made with --near.

    \b
    lineage overlap train.manifest test.manifest
    """
    from lineage import datasets
    from lineage.datasets import overlap as overlaps

    if not 0 < threshold <= 1 or limit < 0:
        raise click.UsageError("--threshold is above 0 and at most 1, --limit at least 0")
    one, two = datasets.load(a), datasets.load(b)
    found = overlaps.overlap(one, two, threshold)
    document: dict[str, Any] = {}
    for key, manifest, count, near in (
        ("a", one, found.a_records, found.near_a),
        ("b", two, found.b_records, found.near_b),
    ):
        other = two if manifest is one else one
        document[key] = {
            "path": str(manifest.path),
            "root": manifest.head.root.hex(),
            "records": manifest.head.records,
            "in_other": count,
            "shared": overlaps.places(manifest, found.shared, limit),
            "near": None if near is None else near.to_json(),
            "near_records": []
            if near is None
            else [
                {
                    **overlaps.place(manifest, row),
                    "other": overlaps.place(other, match),
                    "jaccard": value,
                }
                for row, match, value in near.pairs[:limit]
            ],
        }
    document["distinct_shared"] = len(found.shared)
    say.result(document, lambda: _overlap_text(document), as_json=as_json)


def _overlap_text(document: dict[str, Any]) -> str:
    lines = [f"{document['distinct_shared']} distinct records in both"]
    for key in ("a", "b"):
        side = document[key]
        share = side["in_other"] / side["records"] if side["records"] else 0.0
        words = f"{side['in_other']} of {side['records']} records ({share:.2%}) are in the other"
        lines.append(f"{printable(side['path'])}: {words}")
        near = side["near"]
        if near is not None:
            span = f"{near['at_least']} to {near['at_most']}"
            words = f"{near['records']} ({span} within two standard errors)"
            lines.append(f"  near the other's, Jaccard {near['threshold']} and more: {words}")
    shown = document["b"]["shared"][:20]
    lines += [f"  {printable(row['file'])}: record {row['record']}" for row in shown]
    return "\n".join(lines)


def _read_secret(path: Path) -> bytes:
    if not path.exists():
        raise FormatError("no such file", file=path)
    secret = _secret(path)
    assert secret is not None
    return secret
