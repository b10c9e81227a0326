"""Keeps what was said of pairs in a file of JSON lines, so that an interrupted run goes on.

A line is what one of the askers said of one pair, and a digest of what it was asked of: the code
that answers and the truth of the family. Lines of another digest are left where they are and count
for nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

from pairs import Pair


class Answers:
    """One file, open for more.

    Attributes:
        file: Where it is.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._said: dict[tuple[str, str, str, str, str], dict[str, Any]] = {}
        whole = file.read_bytes() if file.is_file() else b""
        lines = whole.splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):  # cut off in the middle
            file.write_bytes(b"".join(lines[:-1]))
            lines.pop()
        for line in lines:
            told = json.loads(line)
            self._said[_key(told["by"], told["asker"], told["family"], told["a"], told["b"])] = told

    def take(self, asker: str, by: str, pairs: Iterable[Pair]) -> list[Pair]:
        """Give pairs what is known of them, and return those of which nothing is."""
        left = []
        for pair in pairs:
            told = self._said.get(_key(by, asker, pair.family, pair.a, pair.b))
            if told is None:
                left.append(pair)
            else:
                give(pair, told["said"])
        return left

    def keep(self, asker: str, by: str, pair: Pair, said: Mapping[str, Any]) -> None:
        """Write one answer down, and give it to its pair."""
        told = {
            "by": by, "asker": asker, "family": pair.family, "a": pair.a, "b": pair.b,
            "said": said,
        }  # fmt: skip
        with self.file.open("a") as opened:
            opened.write(json.dumps(told) + "\n")
        give(pair, said)


def _key(by: str, asker: str, family: str, a: str, b: str) -> tuple[str, str, str, str, str]:
    return by, asker, family, a, b


def give(pair: Pair, said: Mapping[str, Any]) -> None:
    """Give a pair an answer: numbers of methods beside those that it has, all else as it is."""
    for name, value in said.items():
        match name:
            case "scores":
                pair.scores |= {k: nan if v is None else float(v) for k, v in value.items()}
            case "called" | "seconds":
                getattr(pair, name).update(value)
            case "notes":
                pair.notes += value
            case _:
                setattr(pair, name, value)


def digest(files: Sequence[Path]) -> str:
    """Return a short digest of some files, their names with them."""
    whole = hashlib.sha256()
    for file in sorted(files):
        whole.update(f"{file.name}\0".encode())
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()[:16]
