"""Walks a family's plan and makes what is not there yet.

What is published goes into the family's folder, under names that tell nothing; what stays hidden,
the states of optimizers and the records of how each model was made go into a folder beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from architectures import ARCHITECTURES
from layout import Weights
from mechanical import MAKERS, Bench, Made, Model
from recipes import Family, Row, Shape
from safetensors.torch import load_file, save_file
from training import TRAINERS, Shop

_SHARDS = 3
STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")
"""Ends of the names of what batch normalization counts."""
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Places:
    """Where a family's files are."""

    models: Path
    kept: Path
    adapters: Path
    truth: Path

    @classmethod
    def of(cls, out: Path, name: str) -> Places:
        """Return the places of a family; the folders are made."""
        made = cls(
            out / name, out / f"{name}.made", out / f"{name}.adapters", out / f"{name}.truth.json"
        )
        made.models.mkdir(parents=True, exist_ok=True)
        made.kept.mkdir(parents=True, exist_ok=True)
        return made


def number_of(family: Family, name: str) -> str:
    """Return what a model is called in public."""
    told = hashlib.sha256(f"{family.name}/{family.seed}/{name}".encode()).hexdigest()
    return f"m{told[:5]}"


def build(family: Family, places: Places, say: Callable[[str], None]) -> list[Record]:
    """Make every model of a family that is not there yet; return the records of all.

    Args:
        family: What to make.
        places: Where it goes.
        say: Told what has been made.
    """
    torch.set_num_threads(1)
    records: dict[str, Record] = {}
    rows = family.rows()
    for count, row in enumerate(rows, 1):
        key = _key(family, row, [records[parent]["key"] for parent in row.parents])
        record_file = places.kept / f"{row.name}.json"
        record = _kept(record_file)
        if record is None or record["key"] != key or not _path(family, row, places).exists():
            record = _make(family, row, places, records) | {"key": key}
            _write(record_file, json.dumps(record, indent=1))
            say(f"{family.name} {count}/{len(rows)} {row.name}")
        records[row.name] = record
    return list(records.values())


def _kept(file: Path) -> Record | None:
    return json.loads(file.read_text()) if file.is_file() else None


def _key(family: Family, row: Row, parents: list[str]) -> str:
    """Return a digest of everything that makes a model what it is."""
    common = {
        **{k: v for k, v in asdict(family).items() if k != "plan"},
        "torch": torch.__version__,
    }
    told = json.dumps([common, asdict(row), parents], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _path(family: Family, row: Row, places: Places) -> Path:
    """Return where a model's weights are: a file, or a folder of shards."""
    number = number_of(family, row.name)
    if row.hidden:
        return places.kept / f"{row.name}.safetensors"
    if row.form == "file":
        return places.models / f"{number}.safetensors"
    return (
        places.models / number / "model.safetensors"
        if row.form == "folder"
        else (places.models / number / "model.safetensors.index.json")
    )


def _make(family: Family, row: Row, places: Places, records: Mapping[str, Record]) -> Record:
    """Make one model, write it, and return how it was made."""
    by_name = {one.name: one for one in family.rows()}
    parents = [_read(family, by_name[name], places, records[name]) for name in row.parents]
    seed = int.from_bytes(hashlib.sha256(f"{family.seed}/{row.name}".encode()).digest()[:6], "big")
    if row.make in TRAINERS:
        shop = Shop(
            family,
            seed,
            state=places.kept / f"{row.name}.state",
            parent_state=places.kept / f"{row.parents[0]}.state" if row.parents else None,
            adapter=places.adapters / number_of(family, row.name),
        )
        made = TRAINERS[row.make](shop, parents, **row.options)
    else:
        bench = Bench(ARCHITECTURES[family.architecture], torch.Generator().manual_seed(seed))
        made = MAKERS[row.make](bench, parents, **row.options)
    _save(made.model.weights, _path(family, row, places), row.form)
    return _record(family, row, made, parents)


def _read(family: Family, row: Row, places: Places, record: Record) -> Model:
    path = _path(family, row, places)
    return Model(load_file(path), Shape(**record["shape"]))


def _record(family: Family, row: Row, made: Made, parents: list[Model]) -> Record:
    changes = [change(parent.weights, made.model.weights) for parent in parents]
    equal = [_some_equal(parent.weights, made.model.weights) for parent in parents]
    answers = [made.answer, *made.also] if made.answer else []
    if made.answer == ("finetune", "full"):
        if changes[0] is not None and changes[0] > 0.25:
            answers.append(("finetune", "continued"))
        if equal[0]:
            answers.append(("finetune", "partial"))
    is_root = made.answer is None
    if made.answer and made.answer[1] in ("depth", "passthrough"):
        changes = [None] * len(parents)  # layers stand elsewhere
    return {
        "id": number_of(family, row.name),
        "name": row.name,
        "hidden": row.hidden,
        "form": row.form,
        "parents": [] if is_root else [number_of(family, name) for name in row.parents],
        "parent_names": [] if is_root else list(row.parents),
        "answers": answers,
        "coefficients": list(made.coefficients) if made.coefficients else None,
        "rank": made.rank,
        "unneeded": [number_of(family, row.parents[at]) for at in made.unneeded],
        "change": None if is_root else changes,
        "shape": asdict(made.model.shape),
        "made": {"by": row.make, "from": list(row.parents), **dict(made.notes)},
    }


def change(parent: Weights, child: Weights) -> float | None:
    """Return the norm of the change over the norm of the parent.

    Tensors of another shape and what is counted rather than trained are left out.
    """
    moved = total = 0.0
    for name, tensor in parent.items():
        other = child.get(name)
        if other is None or other.shape != tensor.shape or not tensor.is_floating_point():
            continue
        if name.endswith(STATISTICS):
            continue
        wide = tensor.double()
        moved += float((other.double() - wide).square().sum())
        total += float(wide.square().sum())
    return round((moved / total) ** 0.5, 6) if total else None


def _some_equal(parent: Weights, child: Weights) -> bool:
    """Say whether a floating tensor of the child is the parent's to the bit."""
    return any(
        name in child and tensor.is_floating_point() and torch.equal(tensor, child[name])
        for name, tensor in parent.items()
    )


def _save(weights: Weights, path: Path, form: str) -> None:
    """Write a model whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
    if form == "shards":
        _save_shards(whole, path)
        return
    partial = path.with_name(f"{path.name}.partial")
    save_file(whole, partial, {"format": "pt"})
    partial.replace(path)


def _save_shards(weights: Weights, index: Path) -> None:
    placed: dict[str, str] = {}
    for shard in range(_SHARDS):
        file = f"model-{shard + 1:05}-of-{_SHARDS:05}.safetensors"
        part = {name: weights[name] for name in sorted(weights)[shard::_SHARDS]}
        save_file(part, index.parent / file, {"format": "pt"})
        placed |= dict.fromkeys(part, file)
    total = sum(t.numel() * t.element_size() for t in weights.values())
    told = {"metadata": {"total_size": total}, "weight_map": placed}
    _write(index, json.dumps(told, indent=2))


def _write(path: Path, words: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(words)
    partial.replace(path)
