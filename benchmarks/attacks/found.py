"""Compares what `align` found with what was done: layers, units, experts, and the weights."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import folders
import numpy as np

_UNITS = re.compile(r"block\.(\d+)\.mlp\.\.b")
_MOVED = re.compile(r".*order/units\.(\d+)")
_NONE = np.zeros(0, np.int64)
Maps = Mapping[str, np.ndarray]


def layers(maps: Maps, count: int) -> list[int | None]:
    """Return the layer that each layer truly comes from; None for a stranger's."""
    moved = next((m.tolist() for key, m in maps.items() if key.endswith("order/layers")), None)
    if "partial:layers" in maps:
        given = maps["partial:layers"].tolist()
        return [layer if layer in given else None for layer in range(count)]
    return list(range(count)) if moved is None else moved


def units(certificate: Path, maps: Maps) -> float | None:
    """Return how many of a model's units are said to come from where they do.

    Args:
        certificate: Of `lineage align`; `block.N.mlp..b` are units of the N-th block of B and
            `block.N.mlp..a` those of A that they come from.
        maps: What was done; units were moved after layers were.
    """
    arrays = folders.read(certificate).arrays
    found = {int(m[1]) for m in map(_UNITS.fullmatch, arrays) if m}
    moved = {int(m[1]) for m in map(_MOVED.fullmatch, maps) if m}
    right = total = 0
    for block in found | moved:
        orders = [m for key, m in maps.items() if key.endswith(f"order/units.{block}")]
        true = functools.reduce(lambda before, order: before[order], orders) if orders else None
        there = arrays.get(f"block.{block}.mlp..b", _NONE)
        here = arrays.get(f"block.{block}.mlp..a", _NONE)
        right += int(((there if true is None else true[there]) == here).sum())
        total += len(there if true is None else true)
    return right / total if total else None


def experts(
    blocks: Sequence[Mapping[str, Any]], maps: Maps, before: Maps | None = None
) -> float | None:
    """Return the share of experts, of all layers, that are said to come from where they do.

    Args:
        blocks: Of `lineage align`.
        maps: What was done.
        before: Of the mixture that experts are looked for in; None for a dense model, whose one
            feed-forward part is where all of them come from.

    Returns:
        None if there are no experts. Of one that was put together from several, each is right.
    """
    steps = [m for key, m in maps.items() if key.endswith(":experts")]
    if not steps or not blocks:
        return None
    lots = next((m for key, m in maps.items() if key.endswith(":lots")), None)
    models = functools.reduce(lambda at, kept: at[kept], steps)
    parts = list(models[:, None]) if lots is None else [models[lots == n] for n in np.unique(lots)]
    true = [{""}] * len(parts)
    if before is not None:
        order = next(m for key, m in before.items() if key.endswith(":experts")).tolist()
        true = [{str(order.index(model)) for model in lot.tolist()} for lot in parts]
    right = 0
    for block in blocks:
        if block["a"] == block["b"]:
            said = {unit["b"]: unit["a"] for unit in block["units"]}
            right += sum(said.get(str(at)) in labels for at, labels in enumerate(true))
    return right / (len(blocks) * len(true))


def error(model: Path, undone: Path) -> float:
    """Return the largest error of a tensor, over its norm."""
    true, found = folders.read(model).arrays, folders.read(undone).arrays
    errors = []
    for name, array in true.items():
        if folders.is_float(array):
            wide, other = array.astype(np.float64), found.get(name)
            if other is None or other.shape != array.shape:
                return inf
            errors.append(np.linalg.norm(other.astype(np.float64) - wide) / np.linalg.norm(wide))
    return float(max(errors))
