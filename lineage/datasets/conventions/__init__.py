"""Other conventions for describing data sets, and the digests that they hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, final

from lineage import canonical
from lineage.datasets.base import Built
from lineage.datasets.cards import front_matter
from lineage.datasets.conventions import croissant, dvc, hub_info, mosaic, wandb
from lineage.datasets.conventions.base import Declared, Description
from lineage.datasets.headers import MAX_WORDS
from lineage.errors import FormatError, printable

MAX_BYTES = 64 << 20

READERS = (croissant.read, dvc.read, wandb.read, mosaic.read, hub_info.read)
"""Each takes parsed JSON and returns what it says, or None if it is not of its convention."""


@final
@dataclass(frozen=True, slots=True)
class Agreement:
    """How files agree with what another description says of them.

    Args:
        convention: Whose description it is.
        whole: The convention's own digest of all files, where it has one.
        agree: Files whose digests, or at least sizes, are as described.
        differ: Files whose digest or size is another, a root that is, or splits of other counts.
        missing: Files and columns that are described and not there.
        unchecked: Files of whom the description says neither a known digest nor a size.
    """

    convention: str
    whole: str | None
    agree: tuple[str, ...]
    differ: tuple[str, ...]
    missing: tuple[str, ...]
    unchecked: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing differs or is missing."""
        return not self.differ and not self.missing

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "convention": self.convention,
            "whole": self.whole,
            "agree": len(self.agree),
            "differ": list(self.differ),
            "missing": list(self.missing),
            "unchecked": list(self.unchecked),
        }


def read(path: Path) -> Description:
    """Read a description of any known convention.

    Raises:
        FormatError: If it is of none, or broken.
    """
    try:
        for found in _said(path):
            if found is not None:
                return found
    except FormatError as error:
        raise FormatError(error.reason, file=path, offset=error.offset) from error
    reason = (
        "no description known here: Croissant, DVC .dir, W&B, MosaicML, dataset_infos or a card"
    )
    raise FormatError(reason, file=path)


def _said(path: Path) -> Iterator[Description | None]:
    """Return what each reader makes of a file."""
    if path.suffix.lower() == ".md":
        yield hub_info.read_card(front_matter(path))
        return
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    value = canonical.loads(data, max_bytes=MAX_BYTES, floats=True)
    for reader in READERS:
        yield reader(value)


def algorithms_of(found: Description) -> tuple[str, ...]:
    """Return the hashes that files must be read with to be held against a description."""
    return tuple(sorted({name for file in found.files for name in file.digests}))


def hold(found: Description, built: Built) -> Agreement:
    """Hold the files of a manifest to a description of them."""
    rows = {row["name"]: row for row in built.rows}
    by_last: dict[str, list[str]] = {}
    for name in rows:
        by_last.setdefault(name.rpartition("/")[2], []).append(name)
    named: dict[str, list[str]] = {"agree": [], "differ": [], "missing": [], "unchecked": []}
    for file in found.files:
        alike = by_last.get(file.name.rpartition("/")[2], [])
        found_as = [n for n in alike if n == file.name] or [n for n in alike if _ends(n, file.name)]
        answer = "missing"
        if len(found_as) == 1:
            answer = _held(file, rows[found_as[0]]["bytes"], built.digests[found_as[0]])
        named[answer].append(printable(file.name))
    for described in found.sets:
        if not any(_matches(name, described.patterns) for name in rows):
            named["missing"].append(printable(described.name))
    header = built.header
    if found.root is not None and found.root != header.head.root.hex():
        named["differ"].append("the root over the records")
    there = set(header.columns)
    if len(there) < MAX_WORDS:  # where there are more, not all are told
        gone = (name for name in found.columns if name not in there)
        named["missing"] += [f"the column {printable(name)}" for name in gone]
    for split, records in found.splits.items():
        if header.splits.get(split, 0) != records:
            counts = f"{records} records described, {header.splits.get(split, 0)} found"
            named["differ"].append(f"the split {printable(split)}: {counts}")
    return Agreement(found.convention, found.whole, *(tuple(part) for part in named.values()))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a path, or what ends it, matches one of several patterns."""
    return any(fnmatchcase(f"/{name}", f"*/{pattern.lstrip('/')}") for pattern in patterns)


def _held(file: Declared, size: int, digests: dict[str, str]) -> str:
    if file.size is not None and file.size != size:
        return "differ"
    if any(digests[key] != digest for key, digest in file.digests.items()):
        return "differ"
    return "agree" if file.digests or file.size is not None else "unchecked"


def _ends(name: str, described: str) -> bool:
    """Whether one path is the end of the other, in whole parts."""
    a, b = name.split("/"), described.split("/")
    count = min(len(a), len(b))
    return a[-count:] == b[-count:]
