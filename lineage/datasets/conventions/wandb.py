"""Weights & Biases' artifact manifests: the MD5 of every file in base64, and one of them all."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any

from lineage.datasets.conventions.base import Declared, Description, size_at, text_at
from lineage.errors import FormatError


def read(value: Any) -> Description | None:
    """Read an artifact's manifest; None if `value` is none.

    A reference to what is kept elsewhere has a digest of that place's making, which says nothing.
    """
    if not isinstance(value, dict) or not {"storagePolicy", "contents"} <= set(value):
        return None
    if not isinstance(value["contents"], dict):
        raise FormatError("contents: expected an object")
    files, lines = [], []
    for name, entry in sorted(value["contents"].items()):
        digest = text_at(entry, "digest")
        lines.append(f"{name}:{digest}\n")
        digests = {} if "ref" in entry else {"md5": _md5(digest)}
        files.append(Declared(name, size_at(entry, "size"), digests))
    text = "wandb-artifact-manifest-v1\n" + "".join(lines)
    whole = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    return Description("wandb", tuple(files), whole)


def _md5(digest: str) -> str:
    try:
        raw = base64.b64decode(digest, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 16:
        raise FormatError("digest: expected an MD5 in base64")
    return raw.hex()
