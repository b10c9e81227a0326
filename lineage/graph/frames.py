"""Which models of a family have the same coordinates, and of each such set the best known one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence import compare_weights
from lineage.evidence.matching import match, table
from lineage.evidence.reduced import levels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lineage.fingerprints import Fingerprint
    from lineage.fingerprints.sketch import Sketch

__all__ = ["LOOKED_AT", "kinds_of", "rank"]

_APART = 0.2
"""Cosine below which two matrices are as far apart as strangers'."""

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
    """Whether some of the matrices of two relatives are no more alike than strangers'.

    That of embeddings or a head may be for other reasons, which aligning them tells.
    """
    first, second = table(one), table(other)
    alike = [
        _cosine(first.tensors[m.a].sketch, second.tensors[m.b].sketch)
        for m in match(first, second)
        if m.way == "straight" and first.is_matrix[m.a] and first.shapes[m.a] == second.shapes[m.b]
    ]
    return min(alike, default=1.0) < _APART


def _cosine(one: Sketch | None, other: Sketch | None) -> float:
    if one is None or other is None:
        return 1.0
    norm = float(np.linalg.norm(one.core) * np.linalg.norm(other.core))
    return float(np.sum(one.core * other.core)) / norm if norm > 0 else 1.0
