"""DVC's `.dir` files: the MD5 of every file of a folder, and one MD5 of that list."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from lineage.datasets.conventions.base import Declared, Description, digests_of, text_at
from lineage.errors import FormatError


def read(value: Any) -> Description | None:
    """Read a `.dir` list; None if `value` is none."""
    if not isinstance(value, list) or not value:
        return None
    if not all(isinstance(item, dict) and {"relpath", "md5"} <= set(item) for item in value):
        return None
    files = tuple(_file(item) for item in value)
    return Description("dvc", files, whole(files))


def _file(item: Any) -> Declared:
    digests = digests_of({"md5": text_at(item, "md5")})
    if not digests:
        raise FormatError("md5: expected 32 hexadecimal digits")
    return Declared(text_at(item, "relpath"), None, digests)


def whole(files: tuple[Declared, ...]) -> str:
    """Return DVC's own digest of the list: its MD5 as JSON in the order of paths, and `.dir`."""
    rows = [{"md5": f.digests["md5"], "relpath": f.name} for f in files]
    rows.sort(key=lambda row: row["relpath"])
    text = json.dumps(rows, sort_keys=True).encode()
    return hashlib.md5(text, usedforsecurity=False).hexdigest() + ".dir"
