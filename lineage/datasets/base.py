"""How a data set is asked to be read, and what is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from lineage.datasets.headers import Header


@final
@dataclass(frozen=True, slots=True)
class Options:
    """How a data set is read.

    Args:
        kind: What all files are read as; by default each by its name.
        skip_bad: Whether bad records are left out, counted and listed, instead of refused.
        licence: What the manifest says of the licence; by default what a card in the folder says.
        source: Where the data are from.
        secret: 32 bytes that salt every digest, for a manifest that does not tell what is in it.
        near: Whether to sketch records for near-duplicates.
        digests: Other hashes of the files to take: `md5`, `sha256`, ...
    """

    kind: str | None = None
    skip_bad: bool = False
    licence: str | None = None
    source: str | None = None
    secret: bytes | None = None
    near: bool = False
    digests: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Built:
    """A manifest that was made.

    Args:
        header: What it says.
        sha256: SHA-256 of its header's line.
        skipped: The first bad records left out.
        rows: Its files.
        digests: The files' digests by name, with those of other hashes that were asked for.
    """

    header: Header
    sha256: str
    skipped: tuple[dict[str, Any], ...]
    rows: tuple[dict[str, Any], ...]
    digests: dict[str, dict[str, str]]
