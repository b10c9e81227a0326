"""A family whose members differ in structure: solved class by class, then joined.

Models of one class have the same tensors, so all that a family's solver asks of them can be asked.
Between classes a step that changed the structure tells its own direction. A class that such steps
lead to begins with the member that lies nearest to a model outside of it, and the solver sees that
model as one of the class: where all that both have is the same, it stands for its child.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import networkx as nx

from lineage.evidence.passthrough import passthrough
from lineage.graph.base import Edge
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lineage.evidence import Comparison
    from lineage.fingerprints import Fingerprint

    Between = Callable[[str, str], Comparison]

CLEARLY_NEARER = 0.9
"""A parent outside of the class must be nearer than the best inside by this factor."""

FOLLOWS = 0.7
"""What was trained on from a model that others were put together to is nearer to that than to any
of its parts by at least this factor."""

_CERTAIN, _LIKELY = 0.99, 0.8


@dataclass(frozen=True, slots=True)
class Step:
    """A change of structure between a model of a class and one outside of it."""

    parent: str
    child: str
    found: Comparison

    def rank(self, models: Mapping[str, Fingerprint]) -> tuple[bool, int, float, str]:
        """Order steps to one child: the nearest first."""
        found = self.found
        value = models[self.parent].value_id
        return not found.is_exact, len(found.structure), found.change or 0.0, value

    def edge(self, probability: float) -> Edge:
        """Return the step as an edge."""
        assert self.found.relation is not None
        return Edge(self.parent, self.child, self.found.relation, self.found.how, None, probability)


def classes(
    paths: Sequence[str], models: Mapping[str, Fingerprint], between: Between
) -> list[list[str]]:
    """Part models into classes of one structure, in the order in which they are given."""
    built = {p: sorted((t.name, t.shape) for t in models[p].tensors) for p in paths}
    links = nx.Graph()
    links.add_nodes_from(paths)
    for n, a in enumerate(paths):
        for b in paths[n + 1 :]:
            found = between(a, b)
            if not found.structure and (found.related or built[a] == built[b]):
                links.add_edge(a, b)
    place = {path: n for n, path in enumerate(paths)}
    parts = [sorted(part, key=place.__getitem__) for part in nx.connected_components(links)]
    return sorted(parts, key=lambda part: place[part[0]])


def steps_into(
    members: Sequence[str],
    outside: Sequence[str],
    models: Mapping[str, Fingerprint],
    between: Between,
) -> dict[str, Step]:
    """Return each member's nearest step from a model outside of its class, where there is one."""
    nearest: dict[str, Step] = {}
    for child in members:
        steps = [
            Step(parent, child, found)
            for parent in outside
            if (found := between(parent, child)).structure and found.direction == "a->b"
        ]
        if steps:
            nearest[child] = min(steps, key=lambda step: step.rank(models))
    return nearest


def put_together(
    paths: Sequence[str], models: Mapping[str, Fingerprint]
) -> dict[str, list[tuple[str, float]]]:
    """Return the models that are others' layers, with their parents and these' shares.

    Where two models are each made of the other and of a third, neither is said to be.
    """
    found: dict[str, list[tuple[str, float]]] = {}
    for child in paths:
        others = [path for path in paths if path != child]
        made = passthrough(models[child], [models[path] for path in others])
        if made is not None:
            found[child] = [
                (others[n], share) for n, share in zip(made.parents, made.shares, strict=True)
            ]
    order = nx.DiGraph((p, child) for child, parents in found.items() for p, _ in parents)
    rings = {
        path for ring in nx.strongly_connected_components(order) if len(ring) > 1 for path in ring
    }
    return {child: parents for child, parents in found.items() if child not in rings}


def followers(
    made: Mapping[str, Sequence[tuple[str, float]]], paths: Sequence[str], between: Between
) -> dict[str, str]:
    """Return the models that were trained on from such a one, and from which."""
    found: dict[str, str] = {}
    for child in paths:
        seen = {path: between(path, child) for path in paths if path != child}
        away = {path: one.change for path, one in seen.items() if one.related and one.change}
        origins = [
            path
            for path in away
            if path in made
            and not seen[path].structure
            and child not in {part for part, _ in made[path]}
        ]
        if child in made or not origins:
            continue
        origin = min(origins, key=lambda path: (away[path], path))
        parts = [away[path] for path, _ in made[origin] if path in away]
        if parts and away[origin] < FOLLOWS * min(parts):
            found[child] = origin
    return found


class Joiner:
    """Solves the classes of one family and joins them."""

    def __init__(
        self,
        models: Mapping[str, Fingerprint],
        between: Between,
        solve: Callable[[list[str]], list[Edge]],
    ) -> None:
        """Begin with no edges.

        Args:
            models: Path -> fingerprint.
            between: What was found between two models, seen from the first.
            solve: Gives the edges among some models that can be compared weight by weight.
        """
        self.models, self.between, self.solve = models, between, solve
        self.edges: list[Edge] = []

    def join(self, paths: Sequence[str]) -> list[Edge]:
        """Return the edges among models of any structure."""
        parts = classes(paths, self.models, self.between)
        for members in parts:
            outside = [path for path in paths if path not in members]
            steps = steps_into(members, outside, self.models, self.between)
            if not steps:
                self.edges += self.solve(members)
                continue
            exact = {child: step for child, step in steps.items() if step.found.is_exact}
            if exact:
                self._grow_from(members, exact, steps)
            else:
                self._grow_beside(members, steps)
        return self.edges

    def _grow_from(
        self, members: list[str], exact: Mapping[str, Step], steps: Mapping[str, Step]
    ) -> None:
        """Attach those of which every weight is the parent's, then what came from them."""
        self.edges += [step.edge(_CERTAIN) for step in exact.values()]
        near: dict[str, list[str]] = {seed: [] for seed in exact}
        for child in members:
            if child in exact:
                continue
            inside = {p: self._away(p, child) for p in members if p != child}
            seed = min(exact, key=lambda s: (inside[s], s))
            step = steps.get(child)
            best = min(inside.values())
            if step is not None and (step.found.change or 0.0) < CLEARLY_NEARER * best:
                self.edges.append(step.edge(_LIKELY))
            else:
                near[seed].append(child)
        for seed, children in near.items():
            # What it was made from has the same weights and stands for it: its steps are certain.
            origin = exact[seed].parent
            grown = self.solve([*children, origin]) if children else []
            self.edges += [self._among(replace(e, parent=seed)) if e.parent == origin else e
                           for e in grown if e.child != origin]  # fmt: skip

    def _among(self, edge: Edge) -> Edge:
        """Name an edge within a class, of which the solver saw a step from outside."""
        if edge.relation is Relation.MERGE:
            return edge
        how = self.between(edge.parent, edge.child).step or "full"
        return replace(edge, relation=Relation.FINETUNE, how=how)

    def _grow_beside(self, members: list[str], steps: Mapping[str, Step]) -> None:
        """Solve a class of which no member has its parent's weights still, with that parent."""
        origin = min(steps.values(), key=lambda step: step.rank(self.models)).parent
        for edge in self.solve([*members, origin]):
            if edge.child == origin:
                continue
            step = steps.get(edge.child)
            if edge.parent != origin or edge.relation is Relation.MERGE or step is None:
                self.edges.append(edge)
                continue
            seen = self.between(origin, edge.child)
            if step.found.is_exact or (step.found.change or 0.0) < CLEARLY_NEARER * (
                seen.change or 0.0
            ):
                self.edges.append(step.edge(edge.probability))
            else:
                self.edges.append(Step(origin, edge.child, seen).edge(edge.probability))

    def _away(self, a: str, b: str) -> float:
        """Return how far two models of one class are from each other, as a share of the norm."""
        found = self.between(a, b)
        return float("inf") if found.change is None else found.change


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
