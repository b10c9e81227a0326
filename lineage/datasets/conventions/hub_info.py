"""What `datasets` writes beside its files: the SHA-256 and size of every download."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

from lineage.datasets.conventions.base import Declared, Description, digests_of, size_at
from lineage.errors import FormatError


def read(value: Any) -> Description | None:
    """Read `dataset_info.json` or `dataset_infos.json`; None if `value` is neither."""
    if not isinstance(value, dict):
        return None
    configs = [value, *value.values()]
    found = [c for c in configs if isinstance(c, dict) and c.get("download_checksums") is not None]
    if not found:
        return None
    files = {}
    for config in found:
        downloads = config["download_checksums"]
        if not isinstance(downloads, dict):
            raise FormatError("download_checksums: expected an object")
        for url, info in downloads.items():
            if not isinstance(info, dict):
                raise FormatError("download_checksums: expected objects")
            name = unquote(urlsplit(url).path).rpartition("/")[2]
            digests = digests_of({"sha256": info.get("checksum")})
            files[url] = Declared(name, size_at(info, "num_bytes"), digests)
    return Description("datasets", tuple(files.values()))
