"""Reads the zoo: a folder a family with its models, and beside it a file with the truth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from truth import Model, Truth

TYPE = "lineage-zoo-truth-v1"
_TRUTH = "*.truth.json"


class ZooError(Exception):
    """A zoo that cannot be read."""


@dataclass(frozen=True)
class Family:
    """One family of the zoo.

    Attributes:
        architecture: What kind of network; families of one kind may have other sizes.
        sizes: Equal where all tensors' shapes are.
        split: `tuning`, or `report` for those that are looked at only to report.
        digest: SHA-256 of the truth file.
    """

    name: str
    architecture: str
    sizes: str
    split: str
    truth: Truth
    digest: str

    @cached_property
    def paths(self) -> dict[str, Path]:
        """Return where each model at hand lies."""
        found = {name: self.truth.models[name].path for name in self.truth.published}
        return {name: path for name, path in found.items() if path is not None}


def load(*folders: Path, split: str, only: Sequence[str] | None = None) -> list[Family]:
    """Read the families of one split, or of all; those of several zoos are called FAMILY@FOLDER.

    Raises:
        ZooError: If there are none, or a truth file or a model is missing or cannot be read.
    """
    several = len(folders) > 1
    families = [
        _family(file, f"@{folder.name}" if several else "")
        for folder in folders for file in sorted(folder.glob(_TRUTH))
    ]  # fmt: skip
    plain = {family.name: family.name.partition("@")[0] for family in families}
    where = ", ".join(map(str, folders))
    unknown = set(only or ()) - set(plain.values())
    if unknown:
        raise ZooError(f"{where}: no family {', '.join(sorted(unknown))}")
    chosen = [
        family for family in families
        if (only is None and split in {"all", family.split}) or plain[family.name] in (only or ())
    ]  # fmt: skip
    if not chosen:
        raise ZooError(f"{where}: no families of the split {split!r}")
    return chosen


def by_architecture(families: Sequence[Family]) -> dict[str, list[Family]]:
    """Return the families by their architecture."""
    found: dict[str, list[Family]] = {}
    for family in families:
        found.setdefault(family.architecture, []).append(family)
    return found


def _family(file: Path, label: str) -> Family:
    try:
        data = file.read_bytes()
        told = json.loads(data)
        if told["_type"] != TYPE:
            raise ValueError(f"its type is {told['_type']!r}")
        name = told["family"] + label
        truth = Truth(_models(told, file.with_name(told["family"]), name))
        architecture = told["architecture"]
        family = Family(
            name, architecture["name"], json.dumps(architecture, sort_keys=True),
            told["split"], truth, hashlib.sha256(data).hexdigest(),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ZooError(f"{file}: {type(error).__name__}: {error}") from error
    missing = [name for name in truth.published if name not in family.paths]
    if missing:
        raise ZooError(f"{file}: no weights of {', '.join(missing)}")
    return family


def _models(told: Mapping[str, Any], folder: Path, family: str) -> list[Model]:
    """Return the models by their names for people, which nothing beside the weights tells."""
    names = {entry["id"]: entry["name"] for entry in told["models"]}
    groups = told["groups"]
    starts = {
        model: f"{family}/{number}"
        for number, group in enumerate(groups["shared_init"]) for model in group
    }  # fmt: skip
    return [
        Model(
            id=entry["name"],
            parents=tuple(names[parent] for parent in entry["parents"]),
            answers=tuple((relation, how) for relation, how in entry["accept"]),
            seen_answers=tuple((relation, how) for relation, how in entry["visible"]["accept"]),
            unneeded=frozenset(
                names[parent] for parent in entry["parents"]
                if any(parent not in accepted for accepted in entry["accept_parents"])
            ),
            coefficients={names[p]: share for p, share in (entry["coefficients"] or {}).items()},
            changes={names[p]: size for p, size in entry["norm_change"].items()},
            rank=entry["rank"],
            is_hidden=entry["hidden"],
            init=starts.get(entry["id"]),
            teachers=tuple(names[teacher] for teacher in groups["distilled"].get(entry["id"], ())),
            path=_at(folder, entry),
        )
        for entry in told["models"]
    ]  # fmt: skip


def _at(folder: Path, entry: Mapping[str, Any]) -> Path | None:
    if entry["hidden"]:
        return None
    path = folder / entry["path"]
    return path if path.exists() else None
