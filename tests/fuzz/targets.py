"""What a target of the fuzzer is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mutators import Mutator


def one_file(suffix: str) -> Callable[[Path, bytes], Path]:
    """Lay an input as one file."""

    def lay(folder: Path, data: bytes) -> Path:
        path = folder / f"model{suffix}"
        path.write_bytes(data)
        return path

    return lay


@dataclass(frozen=True, slots=True)
class Target:
    """One reader.

    Attributes:
        lay: Writes an input into a folder; returns what is to be read.
        mutate: Changes an input and keeps its frame.
        writers: Names in the table of `tests/family/writers.py` whose files it starts from.
        read: Reads what was laid, of the input given too; by default as a model.
        is_stored: Whether it starts from saved fingerprints and not models.
    """

    lay: Callable[[Path, bytes], Path]
    mutate: Mutator
    writers: tuple[str, ...] = ()
    read: Callable[[Path, bytes], None] | None = None
    is_stored: bool = False
