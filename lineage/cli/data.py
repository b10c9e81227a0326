"""The verb `manifest`: what a data set is."""

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

    from lineage.datasets import Built, Options

FILE = click.Path(path_type=Path)

KINDS = ("arrow", "bytes", "csv", "image", "json", "jsonl", "parquet", "text", "tsv", "webdataset")


@click.command(short_help="Say what a data set is: one root over its records.")
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
    "--private",
    type=FILE,
    metavar="SECRET",
    help="Hide the records, by the secret in this file; made if it is not there.",
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
    Example:
        lineage manifest train.jsonl
        lineage manifest ./data -o data.manifest
    """
    from lineage import datasets
    from lineage.datasets import conventions
    from lineage.datasets.conventions import schemas

    if len(paths) == 1 and datasets.is_manifest(Path(paths[0])):
        found = datasets.load(paths[0])
        rows = list(found.skipped)
        document = {**found.header.to_json(), "sha256": found.sha256, "skipped_records": rows}
        say.result(document, lambda: manifest_text(document), as_json=as_json)
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
    secret = None if private is None else made_secret(private)
    options = datasets.Options(kind, skip_bad_records, licence, source, secret, near, tuple(wanted))
    started = time.perf_counter()
    built = _built(paths, output, options)
    made = _document(built)
    made["seconds"] = round(time.perf_counter() - started, 4)
    if output is not None:
        made["path"] = str(output)
    if croissant is not None:
        called = Path(paths[0]).resolve().name
        told = schemas.fields_by_file([Path(path) for path in paths], kind)
        write_whole(croissant, conventions.croissant.write(built, called, told))
    held = None if described is None else conventions.hold(described, built)
    if held is not None:
        made["against"] = held.to_json()
    say.result(made, lambda: manifest_text(made), as_json=as_json)
    return 0 if held is None or held.holds else 1


def _built(paths: tuple[str, ...], output: Path | None, options: Options) -> Built:
    """Make a manifest, and say that it can be gone on with if it was interrupted."""
    from lineage import datasets

    try:
        with progress(paths) as advance:
            return datasets.build([Path(path) for path in paths], output, options, advance)
    except KeyboardInterrupt:
        if output is not None:
            say.note("what was read is kept: the same command goes on from there")
        raise


def _document(built: Built) -> dict[str, Any]:
    return {
        **built.header.to_json(),
        "sha256": built.sha256,
        "skipped_records": list(built.skipped),
    }


def manifest_text(document: dict[str, Any]) -> str:
    """Return a manifest as the lines that a person reads."""
    records, distinct = document["records"], document["distinct"]
    held = f"{say.count(records, 'record')} in {say.count(document['files'], 'file')}"
    lines = [f"{document['root']}  {held}"]
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
        bad = say.count(document["skipped"], "bad record")
        lines.append(f"  {bad} left out:")
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


def made_secret(path: Path) -> bytes:
    """Read the secret that hides records; make it where there is none."""
    import os

    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(32).hex().encode() + b"\n")
        say.note(f"{path} opens single records: keep it secret, and keep it.")
    return read_secret(path)


def read_secret(path: Path) -> bytes:
    """Read the secret that hides records."""
    if not path.exists():
        raise FormatError("no such file", file=path)
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
def progress(paths: tuple[str, ...]) -> Iterator[Callable[[int], None] | None]:
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
