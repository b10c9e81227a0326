"""A family whose members differ in structure: which of them were made from one of another.

Models of one structure have the same tensors, so all that a family's solver asks of them can be
asked. Between structures a step that changed them tells its own direction. A class that such steps
lead to begins with the member that lies nearest to a model outside of it, and again with each one
that lies nearer to a model outside than to any that was placed before.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

from lineage.evidence.ancestry import evidence
from lineage.evidence.matching import match, table
from lineage.evidence.panel import Panel, structure
from lineage.evidence.passthrough import held_by_others, passthrough
from lineage.fingerprints.search import search_vector
from lineage.graph.base import Edge
from lineage.graph.tree import grow
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from lineage.evidence import Comparison
    from lineage.fingerprints import Fingerprint

__all__ = [
    "Group",
    "Kind",
    "Step",
    "apart_for",
    "followers",
    "groups",
    "kinds",
    "nearest_to",
    "passthrough_edges",
    "put_together",
    "steps_into",
    "weighed",
    "without_rings",
]

CLEARLY_NEARER = 0.9
"""A parent outside of the class must be nearer than the nearest inside by this factor: where a
child has its parent's weights still, its own children are as near to the one as to the other."""

FOLLOWS = 0.7
"""What was trained on from a model that others were put together to is nearer to that than to any
of its parts by at least this factor."""

_NEAREST = 24
"""Models of other structures that one is compared with at most: the nearest by search vectors."""

_NEAREST_KINDS = 8
"""Kinds that one is compared with at most, to see whether they are one."""

_MOST = 0.5
"""Share of each one's weights that two kinds must have in common to be one."""

_ONE_TO_IT = 0.02
"""Squared distance of two models, as a share of theirs to a third, below which they are one."""

_WEIGHED = 40
"""Models among which a changed one's parent is weighed at most."""


@dataclass(frozen=True, slots=True)
class Step:
    """A change of structure between a model of a class and one outside of it."""

    parent: str
    child: str
    found: Comparison

    @property
    def change(self) -> float:
        """Norm of the difference of what both have, as a share of the parent's."""
        return self.found.change or 0.0

    def edge(self, probability: float) -> Edge:
        """Return the step as an edge."""
        assert self.found.relation is not None
        return Edge(self.parent, self.child, self.found.relation, self.found.how, None, probability)


@dataclass(frozen=True, slots=True)
class Group:
    """Models of one class that come from one of them.

    Attributes:
        members: Their paths.
        seed: The one that the others come from; None where nothing outside tells.
        step: How that one came about.
    """

    members: tuple[str, ...]
    seed: str | None = None
    step: Step | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """Models that can be compared weight by weight, whatever else each has.

    Attributes:
        members: Their paths.
        ground: Of each the tensors that all have, under one name; empty where all have the same.
    """

    members: tuple[str, ...]
    ground: Mapping[str, Fingerprint]


def kinds(
    alike: Sequence[Sequence[str]],
    models: Mapping[str, Fingerprint],
    between: Callable[[str, str], Comparison],
) -> list[Kind]:
    """Put models together whose tensors differ in names or in what one has besides.

    A head more, tied weights stored twice or another framework's names are no change of structure.

    Args:
        alike: Paths of models with the same tensors, class by class.
        models: Path -> fingerprint.
        between: What was found between two models, seen from the first.
    """
    classes = sorted(alike, key=lambda kin: (-len(kin), models[kin[0]].value_id))
    firsts = [kin[0] for kin in classes]
    vectors = np.stack([search_vector(models[path]) for path in firsts])
    found: list[list[int]] = []
    grounds: list[dict[int, dict[int, int]]] = []
    for n, path in enumerate(firsts):
        near = np.argsort(-(vectors[:n] @ vectors[n]), kind="stable")[:_NEAREST_KINDS]
        for k, ground in enumerate(grounds):
            first = found[k][0]
            if first not in near:
                continue
            seen = between(firsts[first], path)
            if not (seen.related or seen.relation is Relation.SHARED_INIT) or seen.structure:
                continue  # that only a start joins two, as it seems of them alone, a family denies
            matched = _straight(models[firsts[first]], models[path])
            common = set(matched).intersection(*ground.values())
            if _covers(models[firsts[first]], common) and _covers(
                models[path], {matched[place] for place in common}
            ):
                ground[n] = matched
                found[k].append(n)
                break
        else:
            found.append([n])
            grounds.append({n: {i: i for i in range(len(models[path].tensors))}})
    return [
        Kind(
            tuple(path for n in parts for path in classes[n]),
            _grounded(parts, ground, classes, models),
        )
        for parts, ground in zip(found, grounds, strict=True)
    ]


def _grounded(
    parts: Sequence[int],
    ground: Mapping[int, Mapping[int, int]],
    classes: Sequence[Sequence[str]],
    models: Mapping[str, Fingerprint],
) -> dict[str, Fingerprint]:
    if len(parts) < 2:
        return {}
    common = sorted(set.intersection(*(set(matched) for matched in ground.values())))
    names = [models[classes[parts[0]][0]].tensors[place].name for place in common]
    return {
        path: _reduced(models[path], [ground[n][place] for place in common], names)
        for n in parts
        for path in classes[n]
    }


def _straight(one: Fingerprint, other: Fingerprint) -> dict[int, int]:
    """Return the tensors of one model that another has, whole and as they lie: place -> place."""
    first, second = table(one), table(other)
    return {
        found.a: found.b
        for found in match(first, second)
        if found.way == "straight"
        and max(found.a - first.whole, found.b - second.whole) < 0
        and first.shapes[found.a] == second.shapes[found.b]
    }


def _covers(model: Fingerprint, places: set[int]) -> bool:
    """Whether some tensors hold most of a model's weights; what is stored twice counts once."""
    of = table(model)
    sizes = {of.tensors[n].value: of.sizes[n] for n in range(of.whole) if of.is_matrix[n]}
    held = {of.tensors[n].value for n in places if of.is_matrix[n]}
    return bool(sum(sizes[value] for value in held) > _MOST * sum(sizes.values()))


def _reduced(model: Fingerprint, places: Sequence[int], names: Sequence[str]) -> Fingerprint:
    tensors = (
        replace(model.tensors[place], name=name) for place, name in zip(places, names, strict=True)
    )
    return replace(model, tensors=tuple(tensors))


def steps_into(
    members: Sequence[str],
    outside: Sequence[str],
    models: Mapping[str, Fingerprint],
    between: Callable[[str, str], Comparison],
) -> dict[str, Step]:
    """Return each member's nearest step from a model outside of its class, where there is one."""
    outside = _may_be_before(members, outside, models, between)
    if not outside:
        return {}

    def rank(step: Step) -> tuple[bool, int, float, str]:
        found = step.found
        by_content = models[step.parent].value_id
        return not found.is_exact, len(found.structure), step.change, by_content

    nearest: dict[str, Step] = {}
    for child in members:
        steps = [
            Step(parent, child, found)
            for parent in nearest_to(models[child], outside, models, _NEAREST)
            if (found := between(parent, child)).structure and found.direction == "a->b"
        ]
        if steps:
            nearest[child] = min(steps, key=rank)
    return nearest


def _may_be_before(
    members: Sequence[str],
    outside: Sequence[str],
    models: Mapping[str, Fingerprint],
    between: Callable[[str, str], Comparison],
) -> list[str]:
    """Leave out the models whose like came after the class: a change of structure has one way."""
    alike: dict[object, list[str]] = defaultdict(list)
    for path in outside:
        alike[structure(models[path])].append(path)
    kept = set()
    for paths in alike.values():
        seen = between(paths[0], members[0])
        if not (seen.structure and seen.direction == "b->a"):
            kept.update(paths)
    return [path for path in outside if path in kept]


def weighed(
    step: Step,
    kin: Sequence[str],
    models: Mapping[str, Fingerprint],
    between: Callable[[str, str], Comparison],
) -> tuple[Step, float]:
    """Choose a changed model's parent among all of a class, as if it were one of them.

    The nearest is not always the one: what was trained a little on the same data may be nearer than
    the start of both. On what the changed model has of the others all are weighed like a family of
    one structure, the changed model being nobody's parent.

    Returns:
        The step from the most probable parent, and how probable that is; the step as it was, and 0,
        where none is.
    """
    kin = nearest_to(models[step.child], kin, models, _WEIGHED)
    if len(kin) < 2:
        return step, 1.0
    panel = Panel(_on_common_ground([*kin, step.child], step, models))
    if not panel.matrices:
        return step, 0.0
    apart = apart_for(len(kin), range(len(kin)), panel.pairs.squared)
    kin = [kin[place] for place in apart]
    panel = Panel([panel.models[place] for place in (*apart, -1)])
    arcs = grow(evidence(panel, {}), leaf=len(kin)).arcs[:-1, -1]
    for place in np.argsort(-arcs, kind="stable"):
        found = between(kin[place], step.child)
        if found.structure and found.direction == "a->b":
            return Step(kin[place], step.child, found), float(arcs[place])
    return step, 0.0


def apart_for(child: int, others: Iterable[int], squared: NDArray[np.float64]) -> list[int]:
    """Return who may be a model's parent, the nearest first, without near copies of each other.

    Models that are much nearer to each other than to it are one for it: each would take from the
    other what speaks for both.

    Args:
        child: The place of the model.
        others: Those of the others.
        squared: Squared distances.
    """
    apart: list[int] = []
    for place in sorted(others, key=lambda i: (squared[child, i], i)):
        if all(squared[place, i] > _ONE_TO_IT * squared[child, place] for i in apart):
            apart.append(place)
    return apart


def nearest_to(
    model: Fingerprint, paths: Sequence[str], models: Mapping[str, Fingerprint], most: int
) -> list[str]:
    """Return the models whose search vectors are nearest to one's, in the order given."""
    if len(paths) <= most:
        return list(paths)
    vectors = np.stack([search_vector(models[other]) for other in paths])
    near = np.argsort(-(vectors @ search_vector(model)), kind="stable")[:most]
    return [paths[n] for n in sorted(near)]


def _on_common_ground(
    paths: Sequence[str], step: Step, models: Mapping[str, Fingerprint]
) -> list[Fingerprint]:
    """Return models of one class, and the changed one last, with the tensors that all have."""
    matched = _straight(models[step.parent], models[step.child])
    names = [models[step.parent].tensors[place].name for place in matched]
    kept = [_reduced(models[path], list(matched), names) for path in paths[:-1]]
    return [*kept, _reduced(models[step.child], list(matched.values()), names)]


def groups(
    members: Sequence[str],
    steps: Mapping[str, Step],
    between: Callable[[str, str], Comparison],
) -> list[Group]:
    """Part a class into what came from one outside step each.

    Models that kept other layers of their parents have tensors of the same names that are not the
    same; these are parted first.
    """
    if not steps:
        return [Group(tuple(members))]
    built: dict[object, list[str]] = defaultdict(list)
    for path in sorted(steps, key=lambda p: (not steps[p].found.is_exact, steps[p].change)):
        built[steps[path].found.layers].append(path)
    largest = max(built.values(), key=len)
    largest += [path for path in members if path not in steps]
    return [group for kin in built.values() for group in _seeded(kin, steps, between)]


def _seeded(
    members: Sequence[str], steps: Mapping[str, Step], between: Callable[[str, str], Comparison]
) -> list[Group]:
    """Place members, the nearest to the outside first, each by itself or with one placed before."""
    seed_of: dict[str, str] = {}
    for path in members:
        inside = {placed: _away(between(placed, path)) for placed in seed_of}
        nearest = min(inside, key=lambda p: (inside[p], p), default=None)
        step = steps.get(path)
        if nearest is None or (step is not None and step.change < CLEARLY_NEARER * inside[nearest]):
            seed_of[path] = path
        else:
            seed_of[path] = seed_of[nearest]
    found: dict[str, list[str]] = defaultdict(list)
    for path, seed in seed_of.items():
        found[seed].append(path)
    return [Group(tuple(kin), seed, steps.get(seed)) for seed, kin in found.items()]


def _away(found: Comparison) -> float:
    return float("inf") if found.change is None else found.change


def put_together(
    paths: Sequence[str], models: Mapping[str, Fingerprint]
) -> dict[str, list[tuple[str, float]]]:
    """Return the models that are others' layers, with their parents and these' shares.

    Where two models are each made of the other and of a third, neither is said to be.
    """
    found: dict[str, list[tuple[str, float]]] = {}
    for place in held_by_others([models[path] for path in paths]):
        child = paths[place]
        others = [path for path in paths if path != child]
        made = passthrough(models[child], [models[path] for path in others])
        if made is not None:
            parents = [others[n] for n in made.parents]
            found[child] = list(zip(parents, made.shares, strict=True))
    order = nx.DiGraph((p, child) for child, parents in found.items() for p, _ in parents)
    rings = [ring for ring in nx.strongly_connected_components(order) if len(ring) > 1]
    return {c: parents for c, parents in found.items() if not any(c in ring for ring in rings)}


def followers(
    made: Mapping[str, Sequence[tuple[str, float]]],
    paths: Sequence[str],
    models: Mapping[str, Fingerprint],
    between: Callable[[str, str], Comparison],
) -> dict[str, str]:
    """Return the models that were trained on from such a one, and from which."""
    found: dict[str, tuple[float, str]] = {}
    for origin, parents in made.items():
        parts = [path for path, _ in parents]
        others = [path for path in paths if path not in made and path not in parts]
        for child in nearest_to(models[origin], others, models, _NEAREST):
            seen = between(origin, child)
            if seen.structure or not seen.related:
                continue
            if _away(seen) < FOLLOWS * min(_away(between(p, child)) for p in parts):
                found[child] = min(found.get(child, (np.inf, "")), (_away(seen), origin))
    return {child: origin for child, (_, origin) in found.items()}


def without_rings(edges: Sequence[Edge]) -> list[Edge]:
    """Drop the least probable edges of those that lead back to where they came from."""
    order, kept = nx.DiGraph(), []
    for edge in sorted(edges, key=lambda e: (-e.probability, e.parent, e.child)):
        both = edge.parent in order and edge.child in order
        if both and nx.has_path(order, edge.child, edge.parent):
            continue
        order.add_edge(edge.parent, edge.child)
        kept.append(edge)
    return kept


def passthrough_edges(made: Mapping[str, Sequence[tuple[str, float]]], sure: float) -> list[Edge]:
    """Return an edge from each parent, with its share of the child's weights."""
    return [
        Edge(parent, child, Relation.MERGE, "passthrough", share, sure)
        for child, parents in made.items()
        for parent, share in parents
    ]
