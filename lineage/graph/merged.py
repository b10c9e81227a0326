"""What a family's models were merged from: edges of the merges that are found among them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.merging import Merge, find_merges
from lineage.evidence.panel import Panel, structure
from lineage.evidence.stacked import stack
from lineage.graph.base import Edge
from lineage.graph.leaves import CERTAIN, LIKELY, UNSURE
from lineage.graph.rounded import has_levels
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lineage.graph.deep import Deep
    from lineage.graph.disguised import Disguises

__all__ = ["merged_inside", "merged_of", "nearer_to_parents"]

_GUESSED = frozenset({"ties", "dare"})
"""Kinds of merges whose rest is white, where their values were not read."""

_NO_SHARE = 0.05
"""Share of a base below which a merge that was rounded is a sum of the others."""


def merged_inside(members: Sequence[str], hidden: Disguises) -> tuple[list[str], list[Edge]]:
    """Hang models that were merged from others in their own coordinates, as these are stored.

    In a stream that was turned gains are multiplied into matrices: a mean of products is none
    of what was multiplied.

    Args:
        members: Paths.
        hidden: Which are in coordinates of their own.

    Returns:
        The other members, and the edges to each merged one.
    """
    frames: dict[object, dict[str, str]] = defaultdict(dict)
    for path in members:
        if path in hidden.first:
            model = hidden.stored(path)
            kin = frames[hidden.first[path], structure(model)]
            kin.setdefault(model.value_id, path)
    edges = []
    for kin in frames.values():
        paths = list(kin.values())
        kept = [hidden.stored(path) for path in paths]
        family = stack(Panel(kept).models) if len(paths) > 2 else None
        for child, merge in ({} if family is None else find_merges(family)).items():
            edges += _edges(paths, child, merge, CERTAIN)
    merged = {edge.child for edge in edges}
    return [path for path in members if path not in merged], edges


def merged_of(
    members: Sequence[str], panel: Panel, start: int | None, likely: int, deep: Deep | None
) -> tuple[dict[int, Merge], list[Edge]]:
    """Hang what was merged on what it was merged from.

    Args:
        members: Paths.
        panel: The same.
        start: The place of the root, where it is known.
        likely: The place of the likeliest root.
        deep: The weights, where they may be read.

    Returns:
        The merges by their places, and the edges to each.
    """
    family = stack(panel.models)
    by_value = None if deep is None else deep.merge_of
    computed = None if deep is None else deep.is_computed
    merges = {} if family is None else find_merges(family, by_value, computed)
    first = merges.get(likely)
    if first is not None and first.how in _GUESSED and not first.is_seen:
        del merges[likely]  # a start lies amid its children too
    if start is not None:
        merges.pop(start, None)
    edges = []
    for child, merge in list(merges.items()):
        is_guessed = merge.how in _GUESSED and not merge.is_seen
        is_rounded = is_guessed and has_levels(panel.models[child])
        if is_guessed and deep is not None and not is_rounded and deep.has_no_mask(child):
            del merges[child]
            continue
        told = _rounded_sum(merge) if is_rounded else merge
        edges += _edges(members, child, told, LIKELY if is_guessed else CERTAIN)
    return merges, edges


def nearer_to_parents(merges: Mapping[int, Merge], panel: Panel) -> set[tuple[int, int]]:
    """Return arcs (merge, model) that are none, as the model is nearer to what was merged.

    A step knows nothing of the way on which its start was made, so that it leads away from all of
    that way's other end. Extrapolations and negations lie off their family, and lightly so.
    """
    squared = panel.pairs.squared
    return {
        (merge, int(place))
        for merge, made in merges.items()
        for place in np.flatnonzero(squared[merge] > squared[list(made.parents)].min(axis=0))
        if place != merge
    }


def _edges(paths: Sequence[str], child: int, merge: Merge, sure: float) -> list[Edge]:
    """Return an edge from each parent; which of a base and its lightest children it was is open."""
    sure = min(sure, UNSURE) if merge.is_open else sure
    return [
        Edge(paths[parent], paths[child], Relation.MERGE, merge.how, share, sure)
        for parent, share in zip(merge.parents, merge.coefficients, strict=True)
        if parent != merge.base or merge.how not in _GUESSED
    ]


def _rounded_sum(merge: Merge) -> Merge:
    """Take the white rest of a merge for the rounding that its values on levels tell of."""
    shares = dict(zip(merge.parents, merge.coefficients, strict=True))
    if merge.base is None or abs(shares[merge.base]) >= _NO_SHARE:
        return replace(merge, how="task_arithmetic")
    del shares[merge.base]
    return replace(
        merge, parents=tuple(shares), coefficients=tuple(shares.values()), how="linear", base=None
    )
