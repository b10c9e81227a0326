"""What `datasets` writes beside its files and into cards: downloads, columns and splits."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

from lineage.datasets.conventions.base import Declared, Description, digests_of, size_at
from lineage.datasets.finding import split_called
from lineage.errors import FormatError

_KNOWN = ("download_checksums", "features", "splits")


def read(value: Any) -> Description | None:
    """Read `dataset_info.json` or `dataset_infos.json`; None if `value` is neither.

    Of several configurations only the downloads are held to: which of them the files are, it does
    not say.
    """
    if not isinstance(value, dict):
        return None
    configs = [value] if _is_config(value) else list(filter(_is_config, value.values()))
    if not configs:
        return None
    files = tuple(file for config in configs for file in _downloads(config))
    columns, splits = _shape(configs[0]) if len(configs) == 1 else ((), {})
    return Description("datasets", files, columns=columns, splits=splits)


def read_card(front: dict[str, Any]) -> Description | None:
    """Read a card's front matter; None if it does not say what is in the data set."""
    found = front.get("dataset_info")
    configs = [c for c in (found if isinstance(found, list) else [found]) if isinstance(c, dict)]
    if not configs:
        return None
    columns, splits = _shape(configs[0]) if len(configs) == 1 else ((), {})
    return Description("card", (), columns=columns, splits=splits)


def _is_config(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(value.get(k), dict | list) for k in _KNOWN)


def _downloads(config: dict[str, Any]) -> list[Declared]:
    """Return the files that were downloaded, with their SHA-256 where it was taken."""
    downloads = config.get("download_checksums") or {}
    if not isinstance(downloads, dict):
        raise FormatError("download_checksums: expected an object")
    files = []
    for url, info in downloads.items():
        if not isinstance(info, dict):
            raise FormatError("download_checksums: expected objects")
        try:
            path = urlsplit(url).path
        except ValueError as error:
            raise FormatError("download_checksums: expected addresses or paths") from error
        digests = digests_of({"sha256": info.get("checksum")})
        name = unquote(path).rpartition("/")[2]
        files.append(Declared(name, size_at(info, "num_bytes"), digests))
    return files


def _shape(config: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the names of the columns, and the records of each split.

    In JSON both are objects by name; in cards they are lists of objects that have a name.
    """
    columns = _named(config.get("features"), "features")
    splits = {}
    for name, split in _named(config.get("splits"), "splits").items():
        count = size_at(split, "num_examples")
        if count is not None:
            splits[split_called(name)] = count
    return tuple(columns), splits


def _named(value: Any, key: str) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        value = {item.get("name"): item for item in value}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise FormatError(f"{key}: expected names")
    if not all(isinstance(item, dict | list) for item in value.values()):
        raise FormatError(f"{key}: expected objects")
    return value
