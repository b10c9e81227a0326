"""What was measured before: prints of files that have not changed since, kept in the user's cache.

An entry belongs to the very files it was made from: device, inode, size, times of modification and
of change of each, and every tensor's name, dtype, shape and place. A file that is written twice
within the resolution of its times could change and keep them, so nothing is kept of a file that was
young when it was opened: whatever is written later has later times. Paths do not matter, and an
entry may be partial: that is how an interrupted pass goes on.

Whoever can write the user's cache can forge an entry. Checking a claim never reads it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lineage.digest import blake3_digest, frame
from lineage.errors import LineageError
from lineage.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lineage.artifacts import Artifact
    from lineage.fingerprints.base import TensorPrint

LEAST_BYTES = 16 << 20
"""Smaller models are measured again sooner than an entry is found."""

YOUNG_NS = 3_000_000_000
"""A file that changed less than this before it was opened is not kept: longer than the coarsest
clock of a file system in use (2 s, FAT)."""

MOST_ENTRIES = 1000


class Cache:
    """The entry of one open artifact, under one scheme."""

    def __init__(self, artifact: Artifact, scheme: str) -> None:
        self._artifact = artifact
        self._scheme = scheme
        now = time.time_ns()
        stamps = [file.stamp for file in artifact.watched]
        is_old = all(max(stamp[3:]) < now - YOUNG_NS for stamp in stamps)
        self._path = None
        if stamps and is_old and artifact.size_bytes >= LEAST_BYTES:
            self._path = folder() / f"{_key(artifact, stamps, scheme)}.lineage"
        self._saved = 0

    def load(self) -> dict[str, TensorPrint]:
        """Return what is known of the artifact's tensors; nothing is a fine answer."""
        if self._path is None or not self._path.exists():
            return {}
        from lineage.fingerprints import stored

        try:
            found = stored.from_bytes(self._path.read_bytes(), file=self._path)
        except (OSError, LineageError):
            return {}
        prints = {tensor.name: tensor for tensor in found.tensors}
        self._saved = len(prints)
        return prints

    def save(self, prints: Mapping[str, TensorPrint]) -> None:
        """Keep what was measured so far. A cache that cannot be written is none."""
        from lineage.fingerprints.base import Fingerprint
        from lineage.fingerprints.writing import chunks_of

        if self._path is None or len(prints) <= self._saved:
            return
        known = dict(prints)
        self._artifact.check_unchanged()  # now: what is added meanwhile may be of others
        tensors = [known[item.name] for item in self._artifact.items if item.name in known]
        kept = Fingerprint(tuple(tensors), self._scheme, self._artifact.size_bytes)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, *chunks_of(kept))
            self._saved = len(tensors)
            _prune(self._path.parent)
        except OSError:
            self._path = None


def folder() -> Path:
    """Return where entries lie: `$LINEAGE_CACHE`, or `lineage` in the user's cache folder."""
    if named := os.environ.get("LINEAGE_CACHE"):
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "lineage"


def _key(artifact: Artifact, stamps: Sequence[tuple[int, ...]], scheme: str) -> str:
    parts = [repr(sorted(stamps)).encode(), scheme.encode()]
    for item in artifact.items:
        place = getattr(item.source, "start", None)
        row = repr((item.name, item.dtype, item.shape, place, item.affine))
        parts.append(row.encode("utf-8", "surrogatepass"))
    return blake3_digest(frame("lineage/cache/v1", *parts)).hex()


def _prune(where: Path) -> None:
    """Drop the oldest entries of very many."""
    entries = [entry for entry in where.iterdir() if entry.suffix == ".lineage"]
    for entry in sorted(entries, key=lambda e: e.stat().st_mtime)[:-MOST_ENTRIES]:
        entry.unlink(missing_ok=True)
