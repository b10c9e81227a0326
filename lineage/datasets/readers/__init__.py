"""The readers of records, by the name a manifest gives their kind."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from lineage.datasets.readers.base import Reader
from lineage.datasets.readers.tables import csv_files, tsv_files

_MODULES = {
    "arrow": "arrow",
    "bytes": "blobs",
    "image": "images",
    "json": "json_file",
    "jsonl": "json_lines",
    "memory": "in_memory",
    "parquet": "parquet",
    "text": "text",
    "webdataset": "webdataset",
}

KINDS = ("arrow", "bytes", "csv", "image", "json", "jsonl", "parquet", "text", "tsv", "webdataset")
"""What a file can be read as."""


def reader(kind: str) -> Reader:
    """Return the reader of a kind."""
    if kind in ("csv", "tsv"):
        return csv_files if kind == "csv" else tsv_files
    return cast(Reader, import_module(f"lineage.datasets.readers.{_MODULES[kind]}"))


def kind_of(name: str) -> str:
    """Return the kind of a file by its name; what no reader knows is bytes."""
    lower = name.lower()
    for kind in KINDS:
        if lower.endswith(reader(kind).suffixes):
            return kind
    return "bytes"
