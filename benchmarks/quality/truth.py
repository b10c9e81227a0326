"""How the models of a family were made, and what may be said of it from weights.

Exact copies of one model are one model here: which of them came first is not in the weights, so
an edge from any of them is an edge from all. A hidden model was made but is not at hand: what came
from it is expected to hang on its nearest ancestor that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import networkx as nx

IDENTICAL = "identical"
NOT_BY_WEIGHTS = frozenset({"distilled_from", "shared_init", "trained_on"})
"""Relations whose two models are strangers as far as parenthood goes."""

Described = tuple[str, str | None]
"""A relation and its detail."""


@dataclass(frozen=True, slots=True)
class Model:
    """How one model was made.

    Attributes:
        parents: Empty for a root.
        answers: The relations and details that are right, in `lineage`'s words, the best first.
        seen_answers: The same for the step from the nearest ancestors at hand.
        unneeded: Parents that are right to name and need not be found, as the base of a TIES merge.
        coefficients: Parent -> share, where it has a meaning.
        changes: Parent -> norm of the difference over norm of the parent.
        rank: Of a merged low-rank adapter.
        is_hidden: Whether its weights are kept back.
        init: Names the initial weights of a training from nothing.
        teachers: Models whose answers it was trained on; their weights had no part in it.
        path: Where its weights lie.
    """

    id: str
    parents: tuple[str, ...] = ()
    answers: tuple[Described, ...] = ()
    seen_answers: tuple[Described, ...] = ()
    unneeded: frozenset[str] = frozenset()
    coefficients: Mapping[str, float] = field(default_factory=dict)
    changes: Mapping[str, float | None] = field(default_factory=dict)
    rank: int | None = None
    is_hidden: bool = False
    init: str | None = None
    teachers: tuple[str, ...] = ()
    path: Path | None = None

    @property
    def is_copy(self) -> bool:
        """Whether it has its parent's weights."""
        return any(relation == IDENTICAL for relation, _ in self.answers)


class Truth:
    """The models of a family and the questions that scoring asks of them."""

    def __init__(self, models: Iterable[Model]) -> None:
        self.models = {model.id: model for model in models}
        for model in self.models.values():
            unknown = set(model.parents) - self.models.keys()
            if unknown:
                raise ValueError(f"{model.id}: unknown parents {sorted(unknown)}")
        if not nx.is_directed_acyclic_graph(self._graph):
            raise ValueError("a model is its own ancestor")

    @cached_property
    def published(self) -> list[str]:
        """Return the models that are at hand."""
        return sorted(name for name, model in self.models.items() if not model.is_hidden)

    @cached_property
    def _graph(self) -> nx.DiGraph:
        graph = nx.DiGraph()
        graph.add_nodes_from(self.models)
        graph.add_edges_from((p, m.id) for m in self.models.values() for p in m.parents)
        return graph

    @cached_property
    def _copies(self) -> dict[str, str]:
        """Model -> the first in name order of those with the same weights that are at hand."""
        same = nx.Graph()
        same.add_nodes_from(self.models)
        same.add_edges_from((p, m.id) for m in self.models.values() if m.is_copy for p in m.parents)
        stands: dict[str, str] = {}
        for members in nx.connected_components(same):
            first = min(members, key=lambda name: (self.models[name].is_hidden, name))
            stands.update(dict.fromkeys(members, first))
        return stands

    def standing_for(self, name: str) -> str:
        """Return the model that stands for all copies of one."""
        return self._copies[name]

    @cached_property
    def classes(self) -> dict[str, list[str]]:
        """Return the published models by the one that stands for them."""
        found: dict[str, list[str]] = {}
        for name in self.published:
            found.setdefault(self._copies[name], []).append(name)
        return found

    def made(self, standing: str) -> Model:
        """Return how the first of some copies was made, whichever of them that was."""
        members = [m for m in self.models.values() if self._copies[m.id] == standing]
        return next(m for m in members if not m.is_copy)

    def parents(self, standing: str) -> dict[str, bool]:
        """Return what must stand before a model, and whether it is the direct parent.

        Through hidden parents it is the nearest ancestors at hand.
        """
        found: dict[str, bool] = {}
        for parent in self.made(standing).parents:
            first = self._copies[parent]
            if first in self.classes:
                found[first] = True
            else:
                for ancestor in self.parents(first):
                    found.setdefault(ancestor, False)
        return found

    def needed(self, standing: str) -> set[str]:
        """Return the parents that must be found: the nearest ancestors where all are hidden."""
        parents, unneeded = self.parents(standing), self.made(standing).unneeded
        spared = {self._copies[parent] for parent in unneeded}
        return {p for p, is_direct in parents.items() if is_direct} - spared or set(
            parents
        ) - spared

    def ancestors(self, standing: str) -> set[str]:
        """Return every published model upstream, by the ones that stand for copies."""
        found: set[str] = set()
        for parent in self.parents(standing):
            found |= {parent} | self.ancestors(parent)
        return found

    @cached_property
    def component(self) -> dict[str, int]:
        """Model -> the number of its connected family; hidden models connect."""
        parts = sorted(sorted(part) for part in nx.weakly_connected_components(self._graph))
        return {name: number for number, part in enumerate(parts) for name in part}

    @cached_property
    def _inits(self) -> dict[str, frozenset[str]]:
        """Model -> the initial weights that it or an ancestor was trained from."""
        found: dict[str, frozenset[str]] = {}
        for name in nx.topological_sort(self._graph):
            model = self.models[name]
            own = frozenset() if model.init is None else frozenset({model.init})
            found[name] = own.union(*(found[parent] for parent in model.parents))
        return found

    @cached_property
    def _taught(self) -> set[frozenset[int]]:
        """Return the pairs of connected families between which there was distillation."""
        return {
            frozenset((self.component[teacher], self.component[model.id]))
            for model in self.models.values() for teacher in model.teachers
        }  # fmt: skip

    def kind(self, a: str, b: str) -> str:
        """Return what two models are: `related`, `shared_init`, `distilled` or `stranger`."""
        families = frozenset((self.component[a], self.component[b]))
        if len(families) == 1:
            return "related"
        if self._inits[a] & self._inits[b]:
            return "shared_init"
        return "distilled" if families in self._taught else "stranger"

    def pairs(self) -> list[tuple[str, str]]:
        """Return every pair of published models."""
        return list(combinations(self.published, 2))

    def siblings(self) -> list[tuple[str, str]]:
        """Return pairs of published models that one parent has, hidden or not, by one step each."""
        return [
            (a, b) for a, b in combinations(sorted(self.classes), 2)
            if set(self.made(a).parents) & set(self.made(b).parents)
            and a not in self.ancestors(b) and b not in self.ancestors(a)
        ]  # fmt: skip


def together(families: Mapping[str, Sequence[Model]]) -> list[Model]:
    """Return the models of several families as one, their names led by the family's."""
    return [
        replace(
            model,
            id=f"{family}/{model.id}",
            parents=tuple(f"{family}/{parent}" for parent in model.parents),
            unneeded=frozenset(f"{family}/{parent}" for parent in model.unneeded),
            coefficients={f"{family}/{p}": share for p, share in model.coefficients.items()},
            changes={f"{family}/{p}": size for p, size in model.changes.items()},
            teachers=tuple(f"{family}/{teacher}" for teacher in model.teachers),
        )
        for family, models in families.items()
        for model in models
    ]
