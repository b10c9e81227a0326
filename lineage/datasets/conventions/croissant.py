"""Croissant 1.0 and 1.1, MLCommons' JSON-LD: files with their SHA-256 or MD5, and columns."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from lineage.datasets.conventions.base import Declared, Description, Matched, digests_of
from lineage.errors import FormatError

if TYPE_CHECKING:
    from lineage.datasets.base import Built
    from lineage.datasets.conventions.schemas import Field

ROOT = "urn:model-lineage:dataset-root:v1:"
"""What stands before the root in a description's `identifier`."""

_SIZE = re.compile(r"(\d+)(?: *B)?", re.ASCII)

_NO_ID = re.compile(r"[^\w./-]")

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

    A file inside another (`containedIn`) has no digest of its own that could be held to a folder,
    and a repository is no file. Sets of files are told by their patterns, columns by record sets.
    """
    if not isinstance(value, dict) or "distribution" not in value:
        return None
    items = _listed(value["distribution"], "distribution")
    repositories = {item.get("@id") for item in items if _is_repository(item)}
    files, sets = [], []
    for item in items:
        kind = str(item.get("@type", "")).rpartition(":")[2]
        inside = [_id_of(each) for each in _several(item.get("containedIn"))]
        if kind == "FileSet" and all(each in repositories for each in inside):
            patterns = [p for p in _several(item.get("includes")) if isinstance(p, str)]
            sets.append(Matched(str(item.get("name") or item.get("@id")), tuple(patterns)))
        elif kind == "FileObject" and not inside and not _is_repository(item):
            files.append(_file(item))
    names = [n for n in _several(value.get("identifier")) if isinstance(n, str)]
    root = next((n.removeprefix(ROOT) for n in names if n.startswith(ROOT)), None)
    return Description("croissant", tuple(files), None, root, tuple(sets), _columns(value))


def _several(value: Any) -> list[Any]:
    """Return the values of a JSON-LD property, which may be one, a list, or not there."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _listed(value: Any, key: str) -> list[dict[str, Any]]:
    items = _several(value)
    if not all(isinstance(item, dict) for item in items):
        raise FormatError(f"{key}: expected objects")
    return items


def _id_of(value: Any) -> Any:
    return value.get("@id") if isinstance(value, dict) else value


def _is_repository(item: dict[str, Any]) -> bool:
    return "git+https" in _several(item.get("encodingFormat"))


def _file(item: dict[str, Any]) -> Declared:
    location = item.get("contentUrl") or item.get("name") or item.get("@id")
    if not isinstance(location, str):
        raise FormatError("contentUrl: expected a string")
    try:
        parts = urlsplit(location)
    except ValueError as error:
        raise FormatError("contentUrl: expected an address or a path") from error
    name = unquote(parts.path).lstrip("/") if parts.scheme else location
    size = _SIZE.fullmatch(str(item.get("contentSize", "")))
    found = digests_of({key: item[key] for key in ("sha256", "md5") if key in item})
    return Declared(name.removeprefix("./"), int(size[1]) if size else None, found)


def _columns(value: dict[str, Any]) -> tuple[str, ...]:
    """Return the columns that the fields of all record sets are taken from."""
    found: dict[str, None] = {}
    for records in _listed(value.get("recordSet"), "recordSet"):
        for field in _listed(records.get("field"), "field"):
            for part in (field, *_listed(field.get("subField"), "subField")):
                source = part.get("source")
                extract = source.get("extract") if isinstance(source, dict) else None
                column = extract.get("column") if isinstance(extract, dict) else None
                if isinstance(column, str):
                    found[column] = None
    return tuple(found)


def write(built: Built, name: str, fields: Mapping[str, tuple[Field, ...]] | None = None) -> bytes:
    """Return the description of a data set whose files were hashed with SHA-256.

    Args:
        built: Its manifest.
        name: What it is called.
        fields: The columns of each file. Files of one kind with the same columns are one set of
            records.
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
    taken: set[str] = set()
    ids = {row["name"]: _free(row["name"], taken) for row in built.rows}
    document["distribution"] = [
        {
            "@type": "cr:FileObject",
            "@id": ids[row["name"]],
            "name": row["name"],
            "contentUrl": row["name"],
            "contentSize": f"{row['bytes']} B",
            "encodingFormat": _format(row),
            **{n: d for n, d in built.digests[row["name"]].items() if n in ("md5", "sha256")},
        }
        for row in built.rows
    ]
    sets, records = _record_sets(built, fields or {}, ids, taken)
    document["distribution"] += sets
    if records:
        document["recordSet"] = records
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def _format(row: dict[str, Any]) -> str:
    return _FORMATS.get(row["kind"], "application/octet-stream")


def _record_sets(
    built: Built,
    fields: Mapping[str, tuple[Field, ...]],
    ids: Mapping[str, str],
    taken: set[str],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the sets of files, and the sets of records that are in them."""
    groups: dict[tuple[str, tuple[Field, ...]], list[dict[str, Any]]] = {}
    for row in built.rows:
        if fields.get(row["name"]):
            groups.setdefault((row["kind"], fields[row["name"]]), []).append(row)
    sets, records = [], []
    for number, ((kind, columns), rows) in enumerate(groups.items()):
        called = _free("records" if len(groups) == 1 else f"records-{number}", taken)
        source = {"fileObject": {"@id": ids[rows[0]["name"]]}}
        if len(rows) > 1:
            files = _free(f"{called}-files", taken)
            source = {"fileSet": {"@id": files}}
            sets.append(
                {
                    "@type": "cr:FileSet",
                    "@id": files,
                    "name": files,
                    "encodingFormat": _format(rows[0]),
                    "includes": [glob.escape(row["name"]) for row in rows],
                }
            )
        written = [_field(called, column, kind, source, taken) for column in columns]
        records.append({"@type": "cr:RecordSet", "@id": called, "name": called, "field": written})
    return sets, records


def _free(name: str, taken: set[str]) -> str:
    """Return an id that nothing has yet, without spaces, which `mlcroissant` does not take."""
    found = _NO_ID.sub("_", name)
    while found in taken:
        found = f"{found}-"
    taken.add(found)
    return found


def _field(
    parent: str,
    column: Field,
    kind: str,
    source: dict[str, Any],
    taken: set[str],
    path: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return a field; one inside another is found by a path from the outer column on."""
    path = (*path, column.name)
    extract: dict[str, Any] = {"extract": {"column": path[0]}}
    if kind == "text":
        extract = {"extract": {"fileProperty": "lines"}}
    elif kind == "json":
        extract = {"extract": {"jsonPath": f"$[*].{path[0]}"}}
    if len(path) > 1:
        extract["transform"] = {"jsonPath": ".".join(path[1:])}
    found: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": _free(f"{parent}/{column.name}", taken),
        "name": column.name,
    }
    if column.repeated:
        found["repeated"] = True
    if column.kind is not None:
        found["dataType"] = column.kind
    found["source"] = {**source, **extract}
    if column.parts:
        found["subField"] = [
            _field(found["@id"], part, kind, source, taken, path) for part in column.parts
        ]
    return found
