"""What another convention says of a data set's files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

from lineage.errors import FormatError

ALGORITHMS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128, "blake3": 64}
"""The hashes that can be held against files, and their hexadecimal digits."""


@final
@dataclass(frozen=True, slots=True)
class Declared:
    """What is said of one file.

    Args:
        name: Its path from the data set's folder, or what ends it where only that is said.
        size: Its bytes, where said.
        digests: Hexadecimal digests by the name of their hash.
    """

    name: str
    size: int | None = None
    digests: dict[str, str] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Matched:
    """Files that are described by patterns: at least one file must match.

    Args:
        name: What the set is called.
        patterns: As a shell has them, a `*` standing for `/` too.
    """

    name: str
    patterns: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Description:
    """What a description says.

    Args:
        convention: Whose it is.
        files: The files.
        whole: The convention's own digest of all of it, where it has one.
        root: The root over the records, where `lineage` wrote it.
        sets: Files that are described together.
        columns: The columns that are said to be there.
        splits: How many records each split is said to have.
    """

    convention: str
    files: tuple[Declared, ...]
    whole: str | None = None
    root: str | None = None
    sets: tuple[Matched, ...] = ()
    columns: tuple[str, ...] = ()
    splits: dict[str, int] = field(default_factory=dict)


def text_at(value: Any, key: str) -> str:
    """Return a member that must be a string."""
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, str):
        raise FormatError(f"{key}: expected a string")
    return found


def size_at(value: Any, key: str) -> int | None:
    """Return a member that must be a size, or is not there."""
    found = value.get(key)
    if found is not None and (type(found) is not int or found < 0):
        raise FormatError(f"{key}: expected a number of bytes")
    return found


def digests_of(found: dict[str, Any]) -> dict[str, str]:
    """Return the digests whose hash is known; those must look like digests.

    Raises:
        FormatError: If one does not.
    """
    kept = {}
    for name, digest in found.items():
        algorithm = name.lower().replace("-", "")
        if algorithm in ALGORITHMS and digest:
            if (
                not isinstance(digest, str)
                or len(digest) != ALGORITHMS[algorithm]
                or set(digest.lower()) - set("0123456789abcdef")
            ):
                raise FormatError(f"{name}: expected {ALGORITHMS[algorithm]} hexadecimal digits")
            kept[algorithm] = digest.lower()
    return kept
