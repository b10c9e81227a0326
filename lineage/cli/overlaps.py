"""The verb `overlap`: what two data sets have in common."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lineage.cli import say
from lineage.cli.data import FILE, progress
from lineage.cli.options import fraction, json_option
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from lineage.datasets import Manifest
    from lineage.datasets.overlap import Overlap

_PARTS = ("a", "b")


@click.command(short_help="Say which records two data sets have in common.")
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@click.option("--threshold", default=0.8, show_default=True, help="Jaccard of near-duplicates.")
@click.option("--near", is_flag=True, help="Sketch records that are given as data and not saved.")
@click.option(
    "--ngrams", type=click.IntRange(1, 1000), help="Look for runs of so many words of B in A."
)
@click.option("--share", help="With --ngrams: the share of a record's runs; by default any.")
@click.option("--limit", default=1000, show_default=True, help="The most records to list.")
@json_option
def overlap(
    a: Path,
    b: Path,
    threshold: float,
    near: bool,
    ngrams: int | None,
    share: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Say which records two data sets have in common, from their saved manifests alone.

    Give the training set first and the test set second to see how much of the test is in training.
    Near-duplicates are found where both were made with --near. The data themselves can be given
    too, and must be for --ngrams: a record of B is contaminated if runs of its words are in A
    (13 words and any run as for GPT-3; 8 and --share 0.7 as for PaLM).

    \b
    Example:
        lineage overlap train.manifest test.manifest
        lineage overlap ./train ./test --ngrams 13
    """
    from lineage.datasets import is_manifest
    from lineage.datasets import overlap as overlaps

    if not 0 < threshold <= 1 or limit < 0:
        raise click.UsageError("--threshold is above 0 and at most 1, --limit at least 0")
    if share is not None and ngrams is None:
        raise click.UsageError("--share is about --ngrams")
    part = fraction(share or "0", "--share")
    if ngrams is not None and (is_manifest(a) or is_manifest(b)):
        raise click.UsageError("--ngrams needs the data: a manifest has no words")
    with ExitStack() as stack:
        one, two = (_opened(path, near, stack) for path in (a, b))
        found = overlaps.overlap(one, two, threshold)
        document: dict[str, Any] = {
            name: {"path": str(path), **side}
            for name, path, side in zip(_PARTS, (a, b), _sides(one, two, found, limit), strict=True)
        }
        document["distinct_shared"] = len(found.shared)
    document["ngrams"] = None if ngrams is None else _ngrams(a, b, ngrams, part, limit)
    say.result(document, lambda: _overlap_text(document), as_json=as_json)


def _opened(path: Path, near: bool, stack: ExitStack) -> Manifest:
    """Load a manifest, or make that of data for the time being."""
    from lineage import datasets

    if datasets.is_manifest(path):
        return datasets.load(path)
    if not path.exists():
        raise FormatError("no such file or folder", file=path)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lineage-"))
    made = Path(folder) / "made.manifest"
    with progress((str(path),)) as advance:
        datasets.build([path], made, datasets.Options(near=near), advance)
    return datasets.load(made)


def _sides(one: Manifest, two: Manifest, found: Overlap, limit: int) -> list[dict[str, Any]]:
    """Return what is told of each of two data sets."""
    from lineage.datasets import overlap as overlaps
    from lineage.datasets.near import error_of

    sides = []
    for manifest, other, count, near in (
        (one, two, found.a_records, found.near_a),
        (two, one, found.b_records, found.near_b),
    ):
        pairs = () if near is None else near.pairs[:limit]
        sides.append(
            {
                "root": manifest.head.root.hex(),
                "records": manifest.head.records,
                "in_other": count,
                "shared": overlaps.places(manifest, found.shared, limit),
                "near": None if near is None else near.to_json(),
                "near_records": [
                    {
                        **overlaps.place(manifest, row),
                        "other": overlaps.place(other, match),
                        "jaccard": value,
                        "standard_error": round(error_of(value), 4),
                    }
                    for row, match, value in pairs
                ],
            }
        )
    return sides


def _ngrams(a: Path, b: Path, words: int, share: Fraction, limit: int) -> dict[str, Any]:
    """Look for the words of b in a; return what is told of it."""
    from lineage.claims import fields
    from lineage.datasets.contamination import contamination

    with progress((str(a), str(b))) as advance:
        found = contamination([a], [b], words=words, share=share, limit=limit, progress=advance)
    return {
        "words": words,
        "share": fields.spell_fraction(share),
        "records": found.records,
        "too_short": found.too_short,
        "contaminated": found.count,
        "contaminated_records": [
            {
                "file": row.place.file,
                "record": row.place.record,
                "runs": row.runs,
                "seen": row.seen,
                "training": {"file": row.training.file, "record": row.training.record},
            }
            for row in found.tainted
        ],
    }


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
    found = document["ngrams"]
    if found is not None:
        measured = found["records"] - found["too_short"]
        words = f"{found['contaminated']} of {measured} records with {found['words']} words or more"
        lines.append(f"{printable(document['b']['path'])}: {words} have such a run in the other")
        for row in found["contaminated_records"][:20]:
            where = f"{printable(row['file'])}: record {row['record']}"
            told = row["training"]
            lines.append(
                f"  {where}, {row['seen']} of {row['runs']} runs,"
                f" as in {printable(told['file'])}: record {told['record']}"
            )
    return "\n".join(lines)
