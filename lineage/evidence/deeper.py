"""What the weights of two models add to what their fingerprints tell."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lineage.evidence.base import Comparison, Direction, Evidence
from lineage.evidence.pairing import pair
from lineage.evidence.untouched import Decay, decayed
from lineage.evidence.weights import rounding_of, some_rows
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lineage.artifacts import Item
    from lineage.evidence.weights import Weights
    from lineage.fingerprints import Fingerprint

__all__ = ["COLS", "DECAY", "ROWS", "deepened", "further"]

DECAY = "decay-v1"
"""The detector's name."""

ROWS, COLS = 256, 512
"""Of a matrix that are read, at most."""


def deepened(found: Comparison, a: Fingerprint, b: Fingerprint, weights: Weights) -> Comparison:
    """Add to what two fingerprints tell which of the two models decayed further.

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
    with weights.opened("a") as first, weights.opened("b") as second:
        seen = further(first, second, names)
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
