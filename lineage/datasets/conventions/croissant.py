"""Croissant 1.0 and 1.1, MLCommons' JSON-LD: the files of a data set with their SHA-256 or MD5."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from lineage.datasets.conventions.base import Declared, Description, digests_of
from lineage.errors import FormatError

if TYPE_CHECKING:
    from lineage.datasets.building import Built

ROOT = "urn:model-lineage:dataset-root:v1:"
"""What stands before the root in a description's `identifier`."""

_SIZE = re.compile(r"(\d+)(?: *B)?", re.ASCII)

_FORMATS = {
    "arrow": "application/vnd.apache.arrow.file",
    "csv": "text/csv",
    "json": "application/json",
    "jsonl": "application/jsonlines",
    "parquet": "application/x-parquet",
    "text": "text/plain",
    "tsv": "text/tab-separated-values",
    "webdataset": "application/x-tar",
}

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def read(value: Any) -> Description | None:
    """Read a description; None if `value` is none.

    A file inside another (`containedIn`) and sets of files have no digest of their own.
    """
    if not isinstance(value, dict) or "distribution" not in value:
        return None
    distribution = value["distribution"]
    items = distribution if isinstance(distribution, list) else [distribution]
    files = []
    for item in items:
        if not isinstance(item, dict):
            raise FormatError("distribution: expected objects")
        if str(item.get("@type", "")).rpartition(":")[2] != "FileObject" or "containedIn" in item:
            continue
        location = item.get("contentUrl") or item.get("name") or item.get("@id")
        if not isinstance(location, str):
            raise FormatError("contentUrl: expected a string")
        parts = urlsplit(location)
        name = unquote(parts.path).lstrip("/") if parts.scheme else location
        size = _SIZE.fullmatch(str(item.get("contentSize", "")))
        found = digests_of({key: item[key] for key in ("sha256", "md5") if key in item})
        files.append(Declared(name.removeprefix("./"), int(size[1]) if size else None, found))
    names = value.get("identifier")
    known = [n for n in (names if isinstance(names, list) else [names]) if isinstance(n, str)]
    root = next((n.removeprefix(ROOT) for n in known if n.startswith(ROOT)), None)
    return Description("croissant", tuple(files), root=root)


def write(built: Built, name: str) -> bytes:
    """Return the description of a data set whose files were hashed with SHA-256.

    Args:
        built: Its manifest.
        name: What it is called.
    """
    header = built.header
    document: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": f"{header.head.records} records in {header.files} files.",
        "identifier": ROOT + header.head.root.hex(),
    }
    if header.licence:
        document["license"] = header.licence
    if header.source and urlsplit(header.source).scheme in ("http", "https"):
        document["url"] = header.source
    document["distribution"] = [
        {
            "@type": "cr:FileObject",
            "@id": row["name"],
            "name": row["name"],
            "contentUrl": row["name"],
            "contentSize": f"{row['bytes']} B",
            "encodingFormat": _FORMATS.get(row["kind"], "application/octet-stream"),
            "sha256": built.digests[row["name"]]["sha256"],
        }
        for row in built.rows
    ]
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
