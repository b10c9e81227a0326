"""Which files of what was given are read, as what, in what order; and what a card says of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from lineage import canonical
from lineage.datasets.readers import kind_of
from lineage.datasets.readers.base import Source
from lineage.datasets.stored import is_manifest
from lineage.errors import FormatError, printable

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")

_TOLD = {
    "readme.md", "license", "license.md", "license.txt", "licence", "licence.txt",
    "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "croissant.json",
}  # fmt: skip
"""Files that speak of a data set and are none of its records."""

_SPLITS = {
    "train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test",
    "evaluation": "test", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation",
}  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Found:
    """What there is to read.

    Args:
        sources: The files, in the order of their names' UTF-8 bytes.
        licence: What a card says.
        source: Where a card says the data are from.
    """

    sources: tuple[Source, ...]
    licence: str | None
    source: str | None


def find(paths: Iterable[Any], kind: str | None) -> Found:
    """Find the files of all paths.

    Raises:
        FormatError: If there are none, a name cannot be written, or one file was given twice.
    """
    given = list(paths)
    in_memory = [p for p in given if not isinstance(p, str | os.PathLike)]
    folders = [Path(p) for p in given if isinstance(p, str | os.PathLike)]
    sources: list[Source] = []
    licence = source = None
    base = _base(folders)
    for path in folders:
        if path.is_dir():
            sources += _in_folder(path, base, kind)
            card = _card(path)
            licence, source = licence or card[0], source or card[1]
        else:
            name = path.name if len(given) == 1 else _name(path, base)
            sources.append(Source(name, path, kind or kind_of(name), split_of(name)))
    sources.sort(key=lambda found: found.name.encode())
    for number, value in enumerate(in_memory):
        for split, part in _splits_of(value):
            called = f"memory-{number}" + (f"/{split}" if isinstance(value, dict) else "")
            sources.append(Source(called, None, "memory", split, part))
    if not sources:
        raise FormatError(
            "no records to read in what was given", file=folders[0] if folders else None
        )
    names = [found.name for found in sources if found.path is not None]
    if len(set(names)) != len(names):
        raise FormatError("a file was given twice", file=folders[0])
    return Found(tuple(sources), licence, source)


def _base(paths: list[Path]) -> Path:
    """Return the folder that names are told from."""
    if len(paths) == 1:
        return paths[0]
    return Path(os.path.commonpath([p.absolute().parent for p in paths])) if paths else Path()


def _name(path: Path, base: Path) -> str:
    name = Path(os.path.relpath(path.absolute(), base.absolute())).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError:
        raise FormatError("the file's name is not UTF-8", file=printable(name)) from None
    return name


def _in_folder(folder: Path, base: Path, kind: str | None) -> list[Source]:
    if kind == "image":
        return _images(folder, base)
    found = []
    for parent, names, files in os.walk(folder, onerror=_refuse):
        here = Path(parent)
        names[:] = [name for name in names if not name.startswith(".")]
        saved = _saved(here, base)
        if saved is not None:
            names[:] = []
            found += saved
            continue
        for file in files:
            path = here / file
            if file.startswith(".") or file.lower() in _TOLD or not path.is_file():
                continue
            if is_manifest(path):  # of this folder, as likely as not
                continue
            name = _name(path, base)
            found.append(Source(name, path, kind or kind_of(file), split_of(name)))
    return found


def _refuse(error: OSError) -> None:
    raise error


def split_of(name: str) -> str | None:
    """Return the split that a path tells, by the last of its words that is one."""
    for word in reversed(re.split(r"[^a-z]+", name.lower())):
        if word in _SPLITS:
            return _SPLITS[word]
    return None


def split_called(name: str) -> str:
    """Return the split that a name stands for: `train`, `test`, `validation`, or itself."""
    return _SPLITS.get(name, name)


def _saved(folder: Path, base: Path) -> list[Source] | None:
    """Return the files of a data set that `datasets` saved in this folder."""
    state = folder / "state.json"
    if not state.is_file() or not (folder / "dataset_info.json").is_file():
        return None
    value = _json(state)
    files = value.get("_data_files") if isinstance(value, dict) else None
    if not isinstance(files, list) or value.get("_indices_data_files"):
        raise FormatError("expected _data_files, and no indices", file=state)
    sources = []
    for item in files:
        name = item.get("filename") if isinstance(item, dict) else None
        if not isinstance(name, str) or Path(name).name != name:
            raise FormatError("a data file outside its folder", file=state)
        if not os.path.isfile(folder / name):  # noqa: PTH113  (which takes any name)
            reason = f"the data file '{printable(name, 200)}' is not there"
            raise FormatError(reason, file=state)
        called = _name(folder / name, base)
        split = value.get("_split")
        told = split_called(split) if isinstance(split, str) else split_of(called)
        sources.append(Source(called, folder / name, "arrow", told))
    return sources


def _splits_of(value: Any) -> list[tuple[str | None, Any]]:
    """Return the parts of a data set in memory: those of a `DatasetDict`, or it alone."""
    if isinstance(value, dict):
        return [(split_called(str(name)), part) for name, part in sorted(value.items())]
    split = str(getattr(value, "split", None) or "") or None
    return [(split and split_called(split), value)]


def _images(folder: Path, base: Path) -> list[Source]:
    sources = []
    for parent, names, files in os.walk(folder, onerror=_refuse):
        names[:] = [name for name in names if not name.startswith(".")]
        here = Path(parent)
        told = _metadata(here)
        for file in files:
            if not file.lower().endswith(IMAGES) or file.startswith("."):
                continue
            inside = (here / file).relative_to(folder).parts[:-1]
            labels = [part for part in inside if part.lower() not in _SPLITS]
            values: dict[str, Any] = {"label": "/".join(labels)} if labels else {}
            values |= told.get(file, {})
            name = _name(here / file, base)
            sources.append(Source(name, here / file, "image", split_of("/".join(inside)), values))
    return sources


def _metadata(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what `metadata.jsonl` or `metadata.csv` tells of each image, by file name."""
    rows = [*_lines_of(folder / "metadata.jsonl"), *_table_of(folder / "metadata.csv")]
    told: dict[str, dict[str, Any]] = {}
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise FormatError("metadata without file_name", file=folder)
        if row["file_name"] in told:
            raise FormatError(f"metadata of '{printable(row['file_name'])}' twice", file=folder)
        told[row["file_name"]] = {key: v for key, v in row.items() if key != "file_name"}
    return told


def _lines_of(path: Path) -> Iterator[Any]:
    """Return the records of JSON lines; none where there is no file."""
    from lineage.manifests.records import parse_json

    for number, line in enumerate(_bytes(path).split(b"\n") if path.is_file() else (), start=1):
        if line.strip():
            try:
                yield parse_json(line)
            except FormatError as error:
                raise FormatError(f"line {number}: {error.reason}", file=path) from error


def _table_of(path: Path) -> Iterator[dict[str, str]]:
    """Return the rows of a CSV; none where there is no file."""
    import csv
    import io

    if not path.is_file():
        return
    try:
        text = _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError("not UTF-8", file=path, offset=error.start) from error
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = next(rows, [])
        for row in filter(None, rows):
            if len(row) != len(names):
                reason = f"{len(row)} values where the header has {len(names)}"
                raise FormatError(f"line {rows.line_num}: {reason}", file=path)
            yield dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise FormatError(f"line {rows.line_num}: {error}", file=path) from error


def _card(folder: Path) -> tuple[str | None, str | None]:
    """Return the licence and source that a folder's card or `dataset_infos` names."""
    from lineage.datasets.conventions.cards import read_card

    return read_card(folder)


def _json(path: Path) -> Any:
    return canonical.loads(_bytes(path), file=path, floats=True)


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read((64 << 20) + 1)
    if len(data) > 64 << 20:
        raise FormatError("too long for what it should be", file=path)
    return data
