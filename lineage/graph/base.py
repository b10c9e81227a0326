"""The values of this floor: models, the edges between them, and what could not be said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import networkx as nx

if TYPE_CHECKING:
    from lineage.evidence import Comparison
    from lineage.relation import Relation


class Between(Protocol):
    """What compares two models of a graph when it is asked to."""

    def between(self, a: str, b: str) -> Comparison:
        """Return what two models are to each other alone, seen from the first."""
        ...


@dataclass(frozen=True, slots=True)
class Node:
    """A model of the graph."""

    path: str
    id: str
    family: int


@dataclass(frozen=True, slots=True)
class Edge:
    """A parent and a child.

    Attributes:
        coefficient: The parent's share, for merges. Of a passthrough it is that of the child's
            weights: what several parents have alike is shared among them, and where they sum to
            less than 1 the rest is the child's own.
        probability: That this edge, with this direction, is right; .5 for copies, whose order
            weights cannot tell.
        then: What came after new coordinates, or after parts were put together, as a relation and
            its detail.
    """

    parent: str
    child: str
    relation: Relation
    how: str | None
    coefficient: float | None
    probability: float
    then: tuple[Relation, str | None] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        found: dict[str, Any] = {
            "parent": self.parent,
            "child": self.child,
            "relation": str(self.relation),
            "how": self.how,
            "coefficient": None if self.coefficient is None else round(self.coefficient, 4),
            "probability": round(self.probability, 3),
        }
        if self.then is not None:
            found["then"] = {"relation": str(self.then[0]), "how": self.then[1]}
        return found


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models and how surely they are related.

    Attributes:
        score: Orders pairs and is no probability; above .5 for kin, see `Screen.pairs`.
        related: None where it is open.
    """

    a: str
    b: str
    score: float
    related: bool | None


@dataclass(frozen=True, slots=True)
class Undetermined:
    """Two related models of which it cannot be said who came first, or through whom.

    Or an adapter, `b`, and a model that it fits.
    """

    a: str
    b: str
    why: str


@dataclass(frozen=True, slots=True)
class LineageGraph:
    """The lineage of some models, as far as their weights tell it."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    pairs: tuple[Pair, ...]
    undetermined: tuple[Undetermined, ...] = ()
    comparisons: Between | None = field(default=None, repr=False, compare=False)

    def parents(self, path: str) -> tuple[Edge, ...]:
        """Return the edges into a model."""
        return tuple(edge for edge in self.edges if edge.child == path)

    def ancestors(self, path: str, *, at_least: float = 0.0) -> frozenset[str]:
        """Return every model upstream of a model, by edges of at least some probability."""
        graph = nx.DiGraph((e.parent, e.child) for e in self.edges if e.probability >= at_least)
        return frozenset(nx.ancestors(graph, path)) if path in graph else frozenset()

    def family(self, path: str) -> int:
        """Return the number of a model's family."""
        return next(node.family for node in self.nodes if node.path == path)

    def between(self, a: str, b: str) -> Comparison:
        """Return what two models are to each other alone, seen from `a`."""
        if self.comparisons is None:
            raise ValueError("a graph that was not inferred here has no fingerprints to compare")
        return self.comparisons.between(a, b)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form of `lineage infer`."""
        return {
            "models": [{"path": n.path, "id": n.id, "family": n.family} for n in self.nodes],
            "edges": [edge.to_json() for edge in self.edges],
            "pairs": [
                {"a": p.a, "b": p.b, "score": float(f"{p.score:.6g}"), "related": p.related}
                for p in self.pairs
            ],
            "undetermined": [{"a": u.a, "b": u.b, "why": u.why} for u in self.undetermined],
        }
