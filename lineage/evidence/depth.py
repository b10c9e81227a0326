"""Were layers of a model dropped or repeated to make the other?

Dropping and repeating leave each layer what it was, so every layer of the child is one of the
parent's. That tells the two apart: the model that has a layer of which the other has nothing was
not made from the other alone, and two layers that are the same one were not trained so from the
start. A model that was grown by layers of fresh weights looks like the parent of its own parent;
nothing in the two shows which of them it was.

The null is that of `layers`: independent layers, whose pooled cosine is normal around 0.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from lineage.evidence.base import Evidence, Structure
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lineage.evidence.base import Direction
    from lineage.evidence.layers import StackMap
    from lineage.evidence.matching import Table
    from lineage.evidence.pairing import Pairing


def depth(pairing: Pairing) -> Structure | None:
    """Say which model has layers that are dropped or repeated ones of the other's."""
    maps = pairing.maps
    repeats = sum(len(m.repeats_a) for m in maps), sum(len(m.repeats_b) for m in maps)
    only = (
        sum(_count_alike(pairing.first, m.stack, m.only_a, (i for i, _ in m.pairs)) for m in maps),
        sum(_count_alike(pairing.second, m.stack, m.only_b, (j for _, j in m.pairs)) for m in maps),
    )
    if not any(repeats + only):
        return None
    layered = {
        place
        for m in maps
        for layers in pairing.second.layers[m.stack].values()
        for place in layers.values()
    }
    inside = [bool(same) for j, same in zip(pairing.b, pairing.equal, strict=True) if j in layered]
    direction: Direction | None = None
    if not only[1] and not repeats[0] and (repeats[1] or only[0]):
        direction = "a->b"
    elif not only[0] and not repeats[1] and (repeats[0] or only[1]):
        direction = "b->a"
    if direction is None:
        words = "each of the two has layers that are none of the other's"
        seen = Evidence("layers-v1", f"{words}: {_told(maps, forward=True)}")
        return Structure("depth", None, None, None, False, seen)
    forward = direction == "a->b"
    child, parent = ("{b}", "{a}") if forward else ("{a}", "{b}")
    grew = repeats[1] - only[0] if forward else repeats[0] - only[1]
    relation = Relation.PRUNED if grew < 0 else Relation.EXPANDED
    words = f"every layer of {child} is one of {parent}'s: {_told(maps, forward=forward)}"
    evidence = Evidence("layers-v1", words, statistic=float(abs(grew)))
    return Structure("depth", relation, "depth", direction, all(inside), evidence)


def _count_alike(of: Table, stack: str, layers: Iterable[int], others: Iterable[int]) -> int:
    """Count the layers that are built as some of the others are; a head put on top is not."""

    def build(layer: int) -> frozenset[tuple[str, tuple[int, ...]]]:
        return frozenset((role, of.shapes[i]) for role, i in of.layers[stack][layer].items())

    builds = {build(other) for other in others}
    return sum(build(layer) in builds for layer in layers)


def _told(maps: Iterable[StackMap], *, forward: bool) -> str:
    """Return which layers of the parent the child's are, in the child's order."""
    told = []
    for found in maps:
        pairs = sorted((b, a) if forward else (a, b) for a, b in found.every)
        told.append(f"{found.stack or 'layers'} {_runs([parent for _, parent in pairs])}")
    return "; ".join(told)


def _runs(numbers: Sequence[int]) -> str:
    """Return numbers as runs.

    Example:
        >>> _runs([0, 1, 2, 1, 2, 4])
        '0-2, 1-2, 4'
    """
    runs = []
    for _, group in groupby(enumerate(numbers), lambda at: at[1] - at[0]):
        run = [number for _, number in group]
        runs.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ", ".join(runs)
