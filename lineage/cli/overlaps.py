"""The verb `overlap`: what two data sets have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lineage.cli import say
from lineage.cli.data import FILE
from lineage.cli.options import json_option
from lineage.errors import printable


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
