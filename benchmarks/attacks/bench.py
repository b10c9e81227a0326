"""What a family's matrix is made of: the models that were chosen, and one on its way."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from folders import Folder
from lists import Row
from networks import Maps
from workshop import Workshop


@dataclass(frozen=True, slots=True)
class Chosen:
    """The models of a family that the matrix is made of.

    Attributes:
        base: Its root among what is published.
        child: A fine-tune of it; what is disguised.
        siblings: Other fine-tunes of the base.
        strangers: Roots and their descendants that share nothing with it.
        twins: Models of the same initial weights that share no training.
        students: Models trained on answers of others.
    """

    base: Mapping[str, Any]
    child: Mapping[str, Any]
    siblings: Sequence[Mapping[str, Any]]
    strangers: Sequence[Mapping[str, Any]]
    twins: Sequence[Mapping[str, Any]]
    students: Sequence[Mapping[str, Any]]


def chosen(shop: Workshop) -> Chosen:
    """Choose the child: the fully trained fine-tune of a base that has the most siblings.

    Raises:
        ValueError: If the family has no two fine-tunes of one base.
    """
    shown = [model for model in shop.truth["models"] if model["path"] is not None]
    full = [m for m in shown if m["accept"][:1] == [["finetune", "full"]] and _folder(m)]
    by_base: dict[str, list[Mapping[str, Any]]] = {}
    for model in full:
        by_base.setdefault(model["parents"][0], []).append(model)
    known = {model["id"]: model for model in shown}
    usual = {
        k: v for k, v in by_base.items() if k in known and known[k]["name"] in ("base", "other")
    }
    if not usual or max(map(len, usual.values())) < 2:
        raise ValueError(f"{shop.family.name}: no base with two fine-tunes")
    at = max(usual, key=lambda key: len(usual[key]))
    named = [m for m in usual[at] if m["name"] in ("medium", "middle")]
    child = (named or usual[at])[0]
    root = set(known[at]["root"])
    alone = [m for m in shown if not root & set(m["root"])]
    students = [m for m in alone if m["made"]["by"] == "distil"]
    starts = [set(group) for group in shop.truth["groups"]["shared_init"]]
    same = set().union(*(group for group in starts if group & root))
    twins = [m for m in alone if same & set(m["root"])]
    apart_ = [m for m in alone if m not in twins and m not in students and _folder(m)]
    siblings = [m for m in usual[at] if m is not child]
    return Chosen(known[at], child, siblings, apart_, twins, students)


def _folder(model: Mapping[str, Any]) -> bool:
    """Say whether a model is a folder of its own names, no copy and of the usual shape."""
    made = model["made"]["by"] not in ("renamed", "copied", "dropped", "narrowed", "repeated",
                                       "passthrough", "experts", "more_tokens")  # fmt: skip
    return made and "before" not in model["made"] and "." not in model["path"]


@dataclass(slots=True)
class Bench:
    """Where one family's matrix is made.

    Attributes:
        shop: The family.
        models: What the matrix is made of.
        out: The family's folder.
        dtype: What files are stored in.
        say: Told what has been made.
    """

    shop: Workshop
    models: Chosen
    out: Path
    dtype: str
    say: Callable[[str], None]
    _read: dict[str, Folder] = field(default_factory=dict)

    def folder(self, known: Mapping[str, Any]) -> Folder:
        """Return a model of the zoo."""
        if known["id"] not in self._read:
            self._read[known["id"]] = self.shop.read(known)
        return self._read[known["id"]]

    def seed(self, row: Row) -> int:
        """Return the seed of a row: its steps draw the same for every follow-up."""
        told = f"{self.shop.family.name}/{row.of}/{'+'.join(row.steps)}"
        return zlib.crc32(told.encode())


@dataclass(frozen=True, slots=True)
class Made:
    """A model on its way.

    Attributes:
        model: As it is.
        maps: What was done so far.
        sources: Which models of the zoo it was made of.
        changes: Whether a step changed what it says.
    """

    model: Folder
    maps: Maps
    sources: tuple[str, ...]
    changes: bool = False
