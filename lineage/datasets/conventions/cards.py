"""The card of a data set on a hub, and the JSON that `datasets` keeps beside its files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lineage.errors import FormatError

MAX_BYTES = 1 << 22

_FRONT = re.compile(r"\A---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


def read_card(folder: Path) -> tuple[str | None, str | None]:
    """Return the licence and the source that a folder names; None where it names none.

    `README.md`'s front matter comes first, then `dataset_info.json` and `dataset_infos.json`.
    """
    licence = source = None
    front = front_matter(folder / "README.md")
    for value in (front, *_infos(folder)):
        licence = licence or _words(value.get("license"))
        origin = value.get("homepage") or value.get("source_datasets")
        source = source or _words(origin)
    return licence, source


def front_matter(path: Path) -> dict[str, Any]:
    """Return what a card says between its lines of three dashes; nothing where it has none.

    Raises:
        FormatError: If it is not YAML, or not text.
    """
    if not path.is_file():
        return {}
    import yaml

    found = _FRONT.match(_text(path))
    if found is None:
        return {}
    try:
        value = yaml.safe_load(found[1])
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FormatError("the card's front matter is not YAML", file=path) from error
    return value if isinstance(value, dict) else {}


def _infos(folder: Path) -> list[dict[str, Any]]:
    from lineage import canonical

    found: list[dict[str, Any]] = []
    for name in ("dataset_info.json", "dataset_infos.json"):
        path = folder / name
        if path.is_file():
            value = canonical.loads(_text(path).encode(), file=path, floats=True)
            if isinstance(value, dict):
                configs = value.values() if name == "dataset_infos.json" else [value]
                found += [config for config in configs if isinstance(config, dict)]
    return found


def _words(value: Any) -> str | None:
    """Return a word, or several with commas between."""
    if isinstance(value, list):
        value = ", ".join(item for item in value if isinstance(item, str))
    return value[:1000] if isinstance(value, str) and value else None


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise FormatError(f"longer than {MAX_BYTES} bytes", file=path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError("not UTF-8", file=path, offset=error.start) from error
