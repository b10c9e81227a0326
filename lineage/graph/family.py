"""One family's answer: copies, certain leaves, merges, and the tree of what was trained."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.family import Merge, Stack, linear_merge, stack
from lineage.evidence.panel import Panel, structure
from lineage.graph.base import Edge, Undetermined
from lineage.graph.tree import Tree, grow
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lineage.evidence import Comparison
    from lineage.fingerprints import Fingerprint
    from lineage.graph.base import Between

_CERTAIN = 0.99
"""No probability above this is printed: nothing here is calibrated finer."""

_LEAST_EDGE = 0.35
"""Arcs less probable than this are no edges: then it is undetermined where the model comes from."""

_NEAREST = 12
"""Models among which the source of a quantized or pruned one is looked for: the nearest."""


class Family:
    """One family's edges, found in steps; each step takes models out of the rest.

    Attributes:
        edges: Found so far.
        unclear: Pairs that are related, without an order.
        kindreds: The members, those apart that share a start at most and no descent.
    """

    def __init__(
        self, members: Sequence[str], models: Mapping[str, Fingerprint], comparisons: Between
    ) -> None:
        self.models = models
        self.between = comparisons.between
        self.edges: list[Edge] = []
        self.unclear: list[Undetermined] = []
        # In an order of their own contents, so that names and input order cannot matter.
        rest = sorted(self._collapse_copies(list(members)), key=self._by_content)
        rest = self._attach_reduced(rest)
        alike: dict[object, list[str]] = defaultdict(list)
        for path in rest:
            alike[structure(models[path])].append(path)
        for kin in alike.values():
            if len(kin) > 1:
                self._solve(kin)
        self.kindreds = [list(members)]

    def _by_content(self, path: str) -> tuple[str, str]:
        return self.models[path].value_id, path

    def _collapse_copies(self, members: list[str]) -> list[str]:
        """Keep one of each set of identical models; the others hang on it.

        Which copy came first cannot be read from weights. The one kept shares its tensors' names
        with most of the family, then is the one stored narrowest, then has the shortest path.
        """
        named = Counter(name for path in members for name in self._names(path))

        def rank(path: str) -> tuple[int, int, int, str]:
            shared = sum(named[name] for name in self._names(path))
            return -shared, self.models[path].size_bytes, len(path), path

        kept: list[str] = []
        for path in sorted(members, key=rank):
            first = next((k for k in kept if self._is_copy(k, path)), None)
            if first is None:
                kept.append(path)
            else:
                how = self.between(first, path).how
                self.edges.append(Edge(first, path, Relation.IDENTICAL, how, None, 0.5))
        return kept

    def _names(self, path: str) -> set[str]:
        return {tensor.name for tensor in self.models[path].tensors}

    def _is_copy(self, a: str, b: str) -> bool:
        """Whether two models are the same; those of two structures only where their sums agree."""
        one, other = self.models[a], self.models[b]
        if one.value_id == other.value_id:
            return True
        if structure(one) == structure(other) or not np.isclose(_energy(one), _energy(other)):
            return False
        return self.between(a, b).relation is Relation.IDENTICAL

    def _attach_reduced(self, members: list[str]) -> list[str]:
        """Hang quantized models on their nearest source: these are certain leaves."""
        rest = []
        for child in members:
            sources = [
                (not found.is_exact, found.distance, self._by_content(parent))
                for parent in self._may_be_sources(child, members)
                if (found := self.between(parent, child)).relation is Relation.QUANTIZED
                and found.direction == "a->b"
            ]
            if not sources:
                rest.append(child)
                continue
            parent = min(sources)[-1][-1]
            found = self.between(parent, child)
            self.edges.append(Edge(parent, child, Relation.QUANTIZED, found.how, None, _CERTAIN))
        return rest

    def _may_be_sources(self, child: str, members: Sequence[str]) -> list[str]:
        """Return the models of which one may be a quantized one's source."""
        model = self.models[child]
        others = [path for path in members if path != child]
        if _has_levels(model):
            return others
        mine = {tensor.value for tensor in model.tensors if tensor.dtype in {"F16", "BF16"}}
        return [
            path
            for path in others
            if any(digest in mine for t in self.models[path].tensors for _, digest in t.rounded)
        ]

    def _solve(self, members: list[str]) -> None:
        """Find the merges and the tree of models of one structure."""
        panel = Panel([self.models[path] for path in members])
        family = stack(panel.models)
        if family is None:
            return
        merges = self._attach_merges(members, family)
        tree = grow(panel, {child: merge.parents for child, merge in merges.items()})
        children = set(merges)
        for parent, child, probability in tree.best(_LEAST_EDGE):
            found = self.between(members[parent], members[child])
            relation, how = _step(found)
            edge = Edge(
                members[parent], members[child], relation, how, None, min(_CERTAIN, probability)
            )
            self.edges.append(edge)
            children.add(child)
        self._leave_open(members, panel, tree, children)

    def _leave_open(
        self, members: Sequence[str], panel: Panel, tree: Tree, children: set[int]
    ) -> None:
        """Say of models without a parent whom they are nearest to, unless they surely have none."""
        for place in range(len(members)):
            if place in children or tree.roots[place] >= 1 - _LEAST_EDGE:
                continue
            squared = panel.pairs.squared[place].copy()
            squared[place] = np.inf
            nearest = int(np.argmin(squared))
            a, b = sorted((members[place], members[nearest]))
            why = f"no parent is clear (the most probable has {tree.arcs[:, place].max():.2f})"
            found = Undetermined(a, b, why)
            if found not in self.unclear:
                self.unclear.append(found)

    def _attach_merges(self, rest: list[str], family: Stack) -> dict[int, Merge]:
        """Find the weighted means.

        A merge of others is itself a weighted mean of them, so as an ingredient it is never needed
        to explain a second merge of the same models: it is tried only where nothing else fits.
        """
        every = range(len(rest))
        found = {c: linear_merge(family, c, [i for i in every if i != c]) for c in every}
        merges: dict[int, Merge] = {}
        for child, merge in found.items():
            if merge is None:
                continue
            plain = [i for i in every if i != child and found[i] is None]
            merges[child] = linear_merge(family, child, plain) or merge
        for child, merge in merges.items():
            for parent, coefficient in zip(merge.parents, merge.coefficients, strict=True):
                self.edges.append(
                    Edge(rest[parent], rest[child], Relation.MERGE, "linear", coefficient, _CERTAIN)
                )
        return merges


def _energy(model: Fingerprint) -> float:
    return sum(t.sketch.energy for t in model.tensors if t.sketch is not None)


def _has_levels(model: Fingerprint) -> bool:
    """Whether the values of most matrices lie on a quantizer's levels."""
    sizes = [(t.size, t.lattice.bits > 0) for t in model.tensors if len(t.shape) > 1]
    return 2 * sum(size for size, on in sizes if on) >= max(1, sum(size for size, _ in sizes))


def _step(found: Comparison) -> tuple[Relation, str | None]:
    """Name the step between two models of which one is known to be the other's parent."""
    if found.relation in {Relation.PRUNED, Relation.NOISED, Relation.EXPANDED}:
        return found.relation, found.how
    return Relation.FINETUNE, found.step or "full"
