"""Which models of a family have the same coordinates, and of each such set the best known one."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from lineage.artifacts.dialects import is_reordered_for_rotation, layered
from lineage.evidence import compare_weights
from lineage.evidence.folded import are_folded
from lineage.evidence.matching import match, table
from lineage.evidence.reduced import levels
from lineage.fingerprints.sketch import SIDE, Layout, Sketcher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lineage.evidence.matching import Match, Table
    from lineage.fingerprints import Fingerprint

    Core = NDArray[np.float32]

__all__ = ["LOOKED_AT", "kinds_of", "rank"]

_APART = 0.2
"""Cosine below which two matrices are as far apart as strangers'."""

_MOSTLY, _NOTHING = 0.5, 1e-10
"""Share of a difference that lies in the means of rows or columns, from which these may have been
changed; and of a matrix, squared, what must differ for anything to have been."""

LOOKED_AT = 8
"""Models of one set of coordinates of which the nearest to another's is looked for, at most."""


def kinds_of(family: Sequence[str], models: Mapping[str, Fingerprint]) -> list[list[str]]:
    """Part a family by coordinates, the commonest first; of each the best known model is first."""
    found: list[list[str]] = []
    for path in sorted(family, key=lambda path: _standing(models[path])):
        for kind in found:
            if not _is_partly_moved(models[kind[0]], models[path]):
                kind.append(path)
                break
        else:
            found.append([path])
    return sorted((_central(kind, models) for kind in found), key=lambda kind: -len(kind))


def _central(kind: list[str], models: Mapping[str, Fingerprint]) -> list[str]:
    """Put the one first that is nearest to all, of those that are as well known as the first.

    What is far from its relatives, as after a long training, is a poor place to look for others
    from: scales of units are only seen between near ones.
    """
    first = _standing(models[kind[0]])[:3]
    known = [path for path in kind if _standing(models[path])[:3] == first][:LOOKED_AT]
    if len(known) < 3:
        return kind

    def away(path: str) -> tuple[float, str]:
        others = [models[other] for other in known if other != path]
        total = sum(compare_weights(models[path], other).distance for other in others)
        return total, models[path].value_id

    center = min(known, key=away)
    return [center, *(path for path in kind if path != center)]


def rank(
    kinds: Sequence[Sequence[str]], models: Mapping[str, Fingerprint]
) -> tuple[int, bool, str]:
    """Order families: the largest, then those whose gains were not multiplied into matrices."""
    first = models[kinds[0][0]]
    return -sum(map(len, kinds)), _is_folded(first), first.value_id


def _standing(model: Fingerprint) -> tuple[bool, bool, int, str]:
    """Order models: not on a quantizer's levels, with gains of their own, then the largest."""
    quantized = any(levels(t) > 0 for t in model.tensors if len(t.shape) > 1)
    return quantized, _is_folded(model), -model.size_bytes, model.value_id


def _is_folded(model: Fingerprint) -> bool:
    """Whether all gains are alike, as in a model whose own were multiplied into what follows."""
    gains = [t for t in model.tensors if t.name.endswith("norm.weight") and len(t.shape) == 1]
    return bool(gains) and all(t.sketch is not None and t.sketch.is_flat for t in gains)


def _is_partly_moved(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether some of the matrices of two relatives are not where they were.

    They are no more alike than strangers', or what they differ in is the mean of rows or columns,
    which norms hide and training hardly changes; or each model has matrices that the other has not,
    of the same numbers of values; or norms are folded. All of it may be for other
    reasons, which aligning them tells.
    """
    first, second = table(one), table(other)
    matches = match(first, second)
    if _are_elsewhere(first, second, matches) or are_folded(one, other):
        return True
    for m in matches:
        of = first.tensors[m.a].sketch, second.tensors[m.b].sketch
        shape = first.shapes[m.a]
        is_comparable = m.way == "straight" and shape == second.shapes[m.b]
        if not is_comparable or not first.is_matrix[m.a] or of[0] is None or of[1] is None:
            continue
        cores = of[0].core, of[1].core
        if _cosine(*cores) < _APART:
            return True
        if layered(first.names[m.a]) and _is_shifted(*cores, Layout.of(shape)):
            return True
    return False


def _are_elsewhere(first: Table, second: Table, matches: Sequence[Match]) -> bool:
    """Whether two models have matrices that are not each other's, yet as many and as large.

    In one of them they may be stored otherwise, as are ONNX's recurrent layers, under other names
    and with their gates in another order.
    """
    in_place = [
        m
        for m in matches
        if m.way != "reordered" or is_reordered_for_rotation(first.names[m.a], second.names[m.b])
    ]
    used = {m.a for m in in_place}, {m.b for m in in_place}
    sizes = [
        sorted(of.sizes[place] for place in of.left_over(some) if _has_rows(of, place))
        for of, some in zip((first, second), used, strict=True)
    ]
    return bool(sizes[0]) and sizes[0] == sizes[1]


def _has_rows(model: Table, place: int) -> bool:
    sides = [size for size in model.shapes[place] if size > 1]
    return bool(model.is_matrix[place]) and len(sides) == 2


def _cosine(one: Core, other: Core) -> float:
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(np.sum(one * other)) / norm if norm > 0 else 1.0


def _is_shifted(one: Core, other: Core, layout: Layout) -> bool:
    """Whether what two matrices differ in is mostly one amount a row, or one a column."""
    left = other.astype(np.float64) - one
    whole = float(np.sum(left**2))
    if whole <= _NOTHING * float(np.sum(one.astype(np.float64) ** 2)):
        return False
    along = left @ _ones(layout.cols), left.T @ _ones(layout.rows)
    return max(float(np.sum(part**2)) for part in along) > _MOSTLY * whole


@lru_cache(maxsize=64)
def _ones(count: int) -> NDArray[np.float64]:
    """Return the direction of sketches along which a matrix of one amount a row lies."""
    sketcher = Sketcher(Layout(1, count, SIDE))
    sketcher.add(np.ones(count, np.float32), "F32", 0)
    found = sketcher.finish().core[0].astype(np.float64)
    norm = float(np.linalg.norm(found))
    unit: NDArray[np.float64] = found / norm if norm > 0 else found
    return unit
