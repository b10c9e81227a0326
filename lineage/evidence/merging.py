"""Which models of a family were merged from which others, with what coefficients: `find_merges`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lineage.evidence.affine import affine_merge, affine_merges
from lineage.evidence.base import Merge
from lineage.evidence.spanned import spanned_merge
from lineage.evidence.sparsified import sparsified_merge
from lineage.evidence.spherical import arc_of, plane_merge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lineage.evidence.affine import Computed
    from lineage.evidence.stacked import Stack

    Detector = Callable[[Stack, int, Sequence[int]], Merge | None]

__all__ = ["Merge", "find_merges", "linear_merge"]


def find_merges(
    family: Stack, by_value: Detector | None = None, computed: Computed | None = None
) -> dict[int, Merge]:
    """Find the merges of a family: child -> what it was merged from.

    The surest first: sums that are exact down to rounding, over all matrices together or matrix by
    matrix; then those seen value by value; then those that leave a white rest. Nothing is among its
    own ancestors. The order of the models never changes the answer.

    Args:
        family: The sketches of its models.
        by_value: Finds a child's parents among others, from the weights.
        computed: Tells from the weights whether a model is the rounded sum of two others.
    """
    merges = affine_merges(family, computed)
    merges |= {child: arc_of(family, child, merge) for child, merge in merges.items()}
    every = range(len(family.cores))
    detectors = (by_value, plane_merge, spanned_merge, sparsified_merge)
    for detector in filter(None, detectors):
        found = {}
        for child in every:
            if child not in merges:
                others = sorted(set(every) - _after(merges, child))
                plain = [i for i in others if i not in merges]
                # Another merge of the same models explains a part of this one as well.
                merge = detector(family, child, plain)
                if merge is None and plain != others:
                    merge = detector(family, child, others)
                if merge is None:
                    continue
                if detector is sparsified_merge and _has_mask(family, child, merge, merges):
                    continue
                found[child] = merge
        for child, merge in sorted(found.items(), key=lambda one: (one[1].residual, one[0])):
            if not set(merge.parents) & _after(merges, child):
                merges[child] = merge
    return merges


def _has_mask(family: Stack, child: int, merge: Merge, merges: Mapping[int, Merge]) -> bool:
    """Whether a model is nearer to a masked merge that was seen than to its own parents.

    Then it was trained on from there, and the white rest is that one's mask.
    """
    nearest = family.distances[child, list(merge.parents)].min()
    return any(one.is_seen and family.distances[child, m] < nearest for m, one in merges.items())


def _after(merges: dict[int, Merge], start: int) -> set[int]:
    """Return a model and all that were merged from it, at once or through others."""
    found = {start}
    while True:
        more = {c for c, merge in merges.items() if found & set(merge.parents)} - found
        if not more:
            return found
        found |= more


def linear_merge(family: Stack, child: int, others: Sequence[int]) -> Merge | None:
    """Write one model as a convex combination of at least two of some others, down to rounding."""
    return affine_merge(family, child, others)
