"""What the weights of two models add to what their fingerprints tell."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.base import Comparison, Direction, Evidence
from lineage.evidence.low_rank import LOW_RANK, LowRank, rank_of
from lineage.evidence.pairing import pair
from lineage.evidence.untouched import Decay, decayed
from lineage.evidence.weights import rounding_of, some_rows
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from lineage.artifacts import Item
    from lineage.evidence.weights import Weights
    from lineage.fingerprints import Fingerprint

__all__ = ["COLS", "DECAY", "RANK", "ROWS", "deepened", "further"]

DECAY, RANK = "decay-v1", "rank-v1"
"""The detectors' names."""

ROWS, COLS = 256, 512
"""Of a matrix that are read, at most."""

_MATRICES, _SIDE = 24, 512
"""Matrices of which differences are read, and rows and columns of each, at most: as many directions
as a part of a matrix has, so many has the product of two factors there."""


def deepened(found: Comparison, a: Fingerprint, b: Fingerprint, weights: Weights) -> Comparison:
    """Add to what two fingerprints tell: which of the two decayed further, and an adapter's rank.

    Args:
        found: What `compare_fingerprints` says of the two.
        a: The first.
        b: The second.
        weights: Of both, named `a` and `b`.

    Raises:
        FormatError: If a model can no longer be read.
    """
    if not found.related or "a" not in weights or "b" not in weights:
        return found
    pairing = pair(a, b)
    names = [
        (pairing.first.names[i], pairing.second.names[j])
        for i, j, way, same, is_matrix in zip(
            pairing.a, pairing.b, pairing.way, pairing.same, pairing.is_matrix, strict=True
        )
        if is_matrix and way == "straight" and not same
    ]
    may_be_merged = found.relation is Relation.FINETUNE and bool(
        pairing.same[~pairing.is_matrix].all()
    )
    with weights.opened("a") as first, weights.opened("b") as second:
        seen = further(first, second, names)
        adapter = rank_of(_differences(first, second, names)) if may_be_merged else None
    return _adapted(_decayed(found, seen), adapter)


def _decayed(found: Comparison, seen: Decay | None) -> Comparison:
    if seen is None:
        return found
    later, earlier = ("{b}", "{a}") if seen.factor < 1 else ("{a}", "{b}")
    factor = min(seen.factor, 1 / seen.factor)
    words = (
        f"{seen.rows} of the rows looked at are in {later} those of {earlier} times {factor:.6g}: "
        f"no example touched them, and weight decay made them smaller, so {later} is the later one"
    )
    told = (Evidence(DECAY, words, statistic=seen.factor), *found.evidence)
    direction = found.direction
    if found.relation is Relation.FINETUNE:
        direction = _direction(seen)
    return replace(found, direction=direction, evidence=told)


def _adapted(found: Comparison, adapter: LowRank | None) -> Comparison:
    """Name the rank that the differences have, read themselves."""
    if adapter is None or found.rank == adapter.rank:
        return found
    words = (
        f"in {adapter.modules} matrices that were read the singular values of the difference end "
        f"after {adapter.rank}: a merged low-rank adapter"
    )
    seen = Evidence(RANK, words, statistic=float(adapter.rank))
    told = (seen, *(e for e in found.evidence if e.detector != LOW_RANK))
    return replace(found, how="low_rank", step="low_rank", rank=adapter.rank, evidence=told)


def _differences(
    first: Mapping[str, Item], second: Mapping[str, Item], names: Sequence[tuple[str, str]]
) -> Iterator[tuple[NDArray[np.float64], float]]:
    """Read the differences of some matrices, or of parts of them, evenly spread over the model.

    Yields:
        The difference, and the squared norm that one rounding leaves there: to the coarser dtype,
        and to single precision, in which adapters are merged.
    """
    places = np.unique(np.linspace(0, len(names) - 1, min(len(names), _MATRICES)).astype(np.intp))
    for place in places.tolist():
        a, b = names[place]
        if a in first and b in second and first[a].shape == second[b].shape:
            one, other = (some_rows(item, _SIDE, _SIDE) for item in (first[a], second[b]))
            energy = float(np.vdot(one, one)) + float(np.vdot(other, other))
            rounding = max(rounding_of(first[a].dtype), rounding_of(second[b].dtype))
            yield other.astype(np.float64) - one, (rounding**2 / 2 + 2.0**-46) * energy


def _direction(seen: Decay) -> Direction:
    return "a->b" if seen.factor < 1 else "b->a"


def further(
    first: Mapping[str, Item], second: Mapping[str, Item], names: Iterable[tuple[str, str]]
) -> Decay | None:
    """Find which of two models decayed further, over matrices that agree on it.

    Args:
        first: Tensors of one model, by name.
        second: Those of the other.
        names: Which tensor is which.

    Returns:
        The clearest; None if no matrix tells, or not all the same.
    """
    seen = []
    for a, b in names:
        if a not in first or b not in second or first[a].shape != second[b].shape:
            continue
        rounding = max(rounding_of(first[a].dtype), rounding_of(second[b].dtype))
        rows = some_rows(first[a], ROWS, COLS), some_rows(second[b], ROWS, COLS)
        found = decayed(*rows, rounding)
        if found is not None:
            seen.append(found)
    if len({found.factor < 1 for found in seen}) != 1:
        return None
    return max(seen, key=lambda found: found.rows)
