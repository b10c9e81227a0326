"""MosaicML's streaming index: the shards of a data set, with the hashes its writer took."""

from __future__ import annotations

from typing import Any

from lineage.datasets.conventions.base import (
    Declared,
    Description,
    digests_of,
    size_at,
    text_at,
)
from lineage.errors import FormatError


def read(value: Any) -> Description | None:
    """Read an index; None if `value` is none.

    Of a shard that was compressed, the compressed file is what lies in the folder.
    """
    if not isinstance(value, dict) or not isinstance(value.get("shards"), list):
        return None
    if value.get("version") != 2:
        raise FormatError("version: expected 2")
    files = []
    for shard in value["shards"]:
        if not isinstance(shard, dict):
            raise FormatError("shards: expected objects")
        for part in ("data", "meta"):  # some formats have a second file
            info = shard.get(f"zip_{part}") or shard.get(f"raw_{part}")
            if info is None:
                continue
            if not isinstance(info, dict) or not isinstance(info.get("hashes", {}), dict):
                raise FormatError(f"raw_{part}: expected an object with hashes")
            digests = digests_of(info.get("hashes", {}))
            files.append(Declared(text_at(info, "basename"), size_at(info, "bytes"), digests))
    return Description("mosaic", tuple(files))
