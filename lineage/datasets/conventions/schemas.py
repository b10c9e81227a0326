"""The columns of a file and their types: as its own schema tells, or else its first records."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, final

from lineage.datasets import arrays, finding
from lineage.datasets.readers import json_file, json_lines, tables
from lineage.datasets.readers.base import Source, whole_lines
from lineage.datasets.watched import WatchedFile
from lineage.errors import FormatError, printable

_TEXT = "sc:Text"
_NAMED = {"double": "cr:Float64", "float": "cr:Float32", "halffloat": "cr:Float16"}


@final
@dataclass(frozen=True, slots=True)
class Field:
    """A column.

    Args:
        name: What it is called.
        kind: Its type, as Croissant calls it; None where it has parts.
        repeated: Whether it is a list of such.
        parts: The members of an object.
    """

    name: str
    kind: str | None
    repeated: bool = False
    parts: tuple[Field, ...] = ()


def fields_of(source: Source) -> tuple[Field, ...]:
    """Return the columns of a file whose type has a name in Croissant; the others are left out.

    JSON has no schema: the first hundred records tell, and a column is left out that they disagree
    on, or, in one JSON text, whose name a path to it cannot spell. Other files have
    none.

    Raises:
        FormatError: If the file is broken.
    """
    if source.path is None:
        return ()
    with WatchedFile(source.path) as file:
        match source.kind:
            case "parquet" | "arrow":
                return _of_schema(_schema(source))
            case "csv" | "tsv":
                mark = tables.csv_files.mark if source.kind == "csv" else tables.tsv_files.mark
                names = next(csv.reader(tables.lines_of(file), delimiter=mark), [])
                return tuple(Field(name, _TEXT) for name in names)
            case "text":
                return (Field("text", _TEXT),)
            case "jsonl":
                lines = (line for lines in whole_lines(file) for line in lines.split(b"\n"))
                return _of_records(_parsed(line for line in lines if line.strip()))
            case "json":
                found = _of_records(_parsed(json_file.items_of(file)))
                return tuple(field for field in found if field.name.isidentifier())
    return ()


def fields_by_file(paths: Iterable[Any], kind: str | None) -> dict[str, tuple[Field, ...]]:
    """Return the columns of every file of a data set, by the file's name."""
    return {source.name: fields_of(source) for source in finding.find(paths, kind).sources}


def _parsed(texts: Iterable[bytes | str]) -> list[Any]:
    found = []
    for text in islice(texts, json_lines.LOOKED_AT):
        try:
            found.append(json.loads(text))
        except (ValueError, RecursionError):  # a bad record that was skipped
            continue
    return found


def _schema(source: Source) -> Any:
    pa = arrays.library()
    import pyarrow.ipc
    import pyarrow.parquet

    path = str(source.path)
    try:
        if source.kind == "parquet":
            return pyarrow.parquet.read_schema(path)
        with pa.OSFile(path) as file:
            has_index = file.read(6) == b"ARROW1"
            file.seek(0)
            opened = pyarrow.ipc.open_file(file) if has_index else pyarrow.ipc.open_stream(file)
            return opened.schema
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"no schema: {printable(str(error))}", file=source.path) from error


def _of_schema(schema: Any) -> tuple[Field, ...]:
    found = (_of_type(field.name, field.type) for field in schema)
    return tuple(field for field in found if field is not None)


def _of_type(name: str, kind: Any) -> Field | None:
    """Return a column of an Arrow type; None if Croissant has no name for it."""
    types = arrays.library().types
    if isinstance(kind, arrays.library().BaseExtensionType):
        return _of_type(name, kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _of_type(name, kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _list_of(_of_type(name, kind.value_type))
    if types.is_struct(kind):
        return _object_of(name, _of_schema([kind.field(i) for i in range(kind.num_fields)]))
    if types.is_integer(kind):
        sign = "Int" if types.is_signed_integer(kind) else "UInt"
        return Field(name, f"cr:{sign}{kind.bit_width}")
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return Field(name, _TEXT)
    checks = (
        (types.is_boolean, "sc:Boolean"), (types.is_floating, _NAMED.get(str(kind))),
        (types.is_decimal, "sc:Float"), (types.is_date, "sc:Date"),
        (types.is_timestamp, "sc:DateTime"), (types.is_time, "sc:Time"),
    )  # fmt: skip
    told = next((word for check, word in checks if check(kind)), None)
    return None if told is None else Field(name, told)


def _list_of(field: Field | None) -> Field | None:
    """Return a list of what a field is; lists of lists have no name."""
    if field is None or field.repeated:
        return None
    return Field(field.name, field.kind, repeated=True, parts=field.parts)


def _object_of(name: str, parts: tuple[Field, ...]) -> Field | None:
    return Field(name, None, parts=parts) if parts else None


def _of_records(records: list[Any]) -> tuple[Field, ...]:
    objects = [record for record in records if isinstance(record, dict)]
    names = dict.fromkeys(name for record in objects for name in record)
    found = (_of_values(name, [record.get(name) for record in objects]) for name in names)
    return tuple(field for field in found if field is not None)


def _of_values(name: str, values: list[Any]) -> Field | None:
    """Return a column of JSON values; None if they are not of one type."""
    values = [value for value in values if value is not None]
    kinds = set(map(type, values))
    if kinds == {list}:
        return _list_of(_of_values(name, [item for value in values for item in value]))
    if kinds == {dict}:
        return _object_of(name, _of_records(values))
    if kinds == {int, float}:
        kinds = {float}
    words = {str: _TEXT, bool: "sc:Boolean", int: "sc:Integer", float: "sc:Float"}
    told = words.get(kinds.pop()) if len(kinds) == 1 else None
    return None if told is None else Field(name, told)
