"""Leaves of a family that need no tree: pruned and truncated models, and copies with noise.

Of both the difference to the source has a pattern that no training leaves, so who is whose is read
off the distances, while all that may be a source is still there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.merging import find_merges
from lineage.evidence.stacked import stack
from lineage.evidence.truncated import TRUNCATED
from lineage.graph.base import Edge
from lineage.graph.tree import leads_to
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lineage.evidence import Comparison
    from lineage.evidence.panel import Panel

    Compare = Callable[[str, str], Comparison]

    Named = Callable[[int, Sequence[int]], list[int]]

__all__ = ["CERTAIN", "LIKELY", "UNSURE", "cut_down", "noised", "sparse"]

CERTAIN = 0.99
"""No probability above this is printed: nothing here is calibrated finer."""

LIKELY = 0.95
"""For a parent that a mechanical pattern names among the models at hand."""

UNSURE, _AS_NEAR = 0.6, 1.1
"""For one of several that may as well be the source; and how much further, squared, another may be
from what was pruned and trained on since: what was trained alike is as near as the source."""

_SPARSE, _SAME_ZEROS = 0.05, 0.01
"""Share of zeros above the family's least from which a model was pruned, and by how much those of
two models with one mask differ at most."""

_MANY = 0.2
"""The same from which it was pruned whatever else was done to it."""

_REDUCED = frozenset({Relation.PRUNED, Relation.QUANTIZED})
"""What a model with more zeros is to its source."""

_NOISES = frozenset({Relation.NOISED, Relation.QUANTIZED})
"""What a copy is to its source if all that they differ in is noise."""

_UNLIKE, _LOST, _CUT_FROM = 0.2, 1e-3, 6
"""How far, as a share, the energy that was lost may be from that of the difference; the least that
was lost, as a share of what is left; and models that one may have been cut from, which are looked
at: the nearest."""

_CLEARLY_FURTHER = 0.2
"""From which the rest of a family tells which of two models was changed; see `_further`."""


def sparse(
    members: Sequence[str], panel: Panel, compare: Compare, named: Named | None = None
) -> list[Edge]:
    """Hang pruned models on their sources; what was trained on with the zeros kept, on them.

    Of several with the same zeros the one nearest to a source without them was pruned, and the
    others come from it. Pruning leaves vectors alone: the source has the same, digest for digest,
    where one trained a little from it is as near. Of one that was trained on since, the weights
    tell, if they may be read: the source's least are those that are zero.

    Args:
        members: Paths.
        panel: The same.
        compare: Says what two of them are to each other.
        named: Tells which of some models may have been pruned to one, by the weights, if they tell.
    """
    zeros = panel.zeros
    pruned = {int(i) for i in np.flatnonzero(zeros >= zeros.min() + _SPARSE)}
    squared = panel.pairs.squared
    full = [i for i in range(len(members)) if i not in pruned]
    done: list[int] = []
    found = []
    for c in sorted(pruned, key=lambda i: (squared[i, full].min(), i)):
        source, sure = _source(c, full, panel, named)
        seen = compare(members[source], members[c])
        if seen.relation not in _REDUCED and zeros[c] < zeros.min() + _MANY:
            continue  # rounding leaves a few as well, also of what is not at hand
        kept = [
            i
            for i in done
            if abs(zeros[i] - zeros[c]) < _SAME_ZEROS and squared[c, i] < squared[c, source]
        ]
        parent = min(kept, key=lambda i: (squared[c, i], i), default=source)
        relation, how = Relation.PRUNED, "unstructured"
        if kept:
            relation, sure = Relation.FINETUNE, LIKELY
            how = compare(members[parent], members[c]).step or "full"
        elif seen.relation is Relation.QUANTIZED and seen.how is not None:
            relation, how = seen.relation, seen.how
        found.append(Edge(members[parent], members[c], relation, how, None, sure))
        done.append(c)
    return found


def _source(
    child: int, full: Sequence[int], panel: Panel, named: Named | None
) -> tuple[int, float]:
    """Return which model without zeros was pruned, and how sure that is."""
    told = [] if named is None else named(child, full)
    squared = panel.pairs.squared[child]
    equal = {i: _equal(panel, i, child) for i in full}
    source = min(told or full, key=lambda i: (-equal[i], squared[i], i))
    rivals = [
        i
        for i in full
        if i != source and equal[i] == equal[source] and squared[i] < _AS_NEAR * squared[source]
    ]
    return source, LIKELY if told or not rivals else UNSURE


def noised(members: Sequence[str], panel: Panel, compare: Compare) -> list[Edge]:
    """Hang copies with noise on what the noise was added to.

    Noise has nothing to do with anything else, so the one that all others are further from, by just
    the noise, has it. No merge, none of what it was made of, and nothing that is nearest to a merge
    is taken for a copy: their differences are noise too where their parents' are.

    Args:
        members: Paths.
        panel: The same.
        compare: Says what two of them are to each other.
    """
    squared = panel.pairs.squared
    others = squared + np.diag(np.full(len(members), np.inf))
    nearest = [int(place) for place in others.argmin(axis=1)]
    seen = {c: compare(members[near], members[c]) for c, near in enumerate(nearest)}
    near_noise = [c for c, one in seen.items() if one.relation in _NOISES]
    family = stack(panel.models) if near_noise and len(members) > 2 else None
    merges = {} if family is None else find_merges(family)
    parts = set(merges).union(*(merge.parents for merge in merges.values()))
    rest = set(range(len(members))) - merges.keys()
    parent_of: dict[int, int] = {}
    found = []
    for c in near_noise:
        near, step = nearest[c], seen[c]
        if near in merges:
            continue
        parent, child = (near, c) if _further(panel, near, c, rest) > 0 else (c, near)
        if child in parent_of or child in parts or leads_to(parent_of, parent, child):
            continue
        assert step.relation is not None
        parent_of[child] = parent
        found.append(Edge(members[parent], members[child], step.relation, step.how, None, LIKELY))
    return found


def cut_down(members: Sequence[str], panel: Panel, compare: Compare) -> list[Edge]:
    """Hang models that have the largest directions of another's matrices on that one.

    What is cut off is orthogonal to the child, so all others are further from it than from its
    parent; what was trained on from the child is not, and then the tree tells. The parent need not
    be the nearest: what it learned may be among what was cut off. It is the most orthogonal one.

    Args:
        members: Paths.
        panel: The same.
        compare: Says what two of them are to each other.
    """
    squared = panel.pairs.squared
    energy = np.sum([m.energy for m in panel.matrices], axis=0)
    found = []
    for c in range(len(members)):
        lost = energy - energy[c]
        may_be = (np.abs(lost - squared[c]) <= _UNLIKE * squared[c]) & (lost > _LOST * energy[c])
        near = [int(i) for i in np.argsort(squared[c], kind="stable") if may_be[i]]
        told = {}
        for parent in near[:_CUT_FROM]:
            rest = [i for i in range(len(members)) if i not in {c, parent}]
            seen = compare(members[parent], members[c])
            is_cut = seen.direction == "a->b" and seen.evidence[0].detector == TRUNCATED
            if is_cut and not np.any(squared[c, rest] < squared[parent, rest]):
                told[parent] = seen
        parent = min(told, key=lambda i: (told[i].evidence[0].statistic or 0.0, i), default=-1)
        if told:
            seen = told[parent]
            assert seen.relation is not None
            found.append(Edge(members[parent], members[c], seen.relation, seen.how, None, LIKELY))
    return found


def _equal(panel: Panel, i: int, j: int) -> int:
    """Return how many tensors two models have alike, digest for digest."""
    pairs = zip(panel.models[i].tensors, panel.models[j].tensors, strict=True)
    return sum(one.value == other.value for one, other in pairs)


def _further(panel: Panel, near: int, c: int, others: set[int]) -> float:
    """Return how much more it looks as if a model came from one near to it than the other way.

    A change that has nothing to do with the rest of the family takes a model further from all of
    it, by just its own length: 1 where c is the changed one, and -1 where the other is. Among two,
    or where that is not clear, the norms tell.
    """
    squared = panel.pairs.squared
    rest = sorted(others - {near, c})
    length = max(float(squared[c, near]), 1e-30)
    excess = (squared[c, rest] - squared[near, rest]) / length
    weight = 1 / (1 + squared[near, rest] / length)
    found = float(np.sum(weight * excess.clip(-3, 3))) / max(float(weight.sum()), 1e-30)
    return found if abs(found) >= _CLEARLY_FURTHER else float(panel.pairs.share[near, c])
