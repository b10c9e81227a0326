"""Parts that models of different families have in common: who has them from whom.

A part is no reason to call two families one (`lineage.evidence.copied`); it is an edge of its own,
a merge by whole parts (`passthrough`) with the share of the child's values that it is. Where a
model was built from parts of several others, each has such an edge.

Weights that are equal do not tell which of two had them first. What tells is the relatives of both:
where a model's own have something else in that place, it took the part from elsewhere. A model that
is a lesser part of another whole, and has no such relatives, is taken for what the other was built
around, as towers are; it may have been cut out of it. A model that is nearly all parts of several
families was put together from these.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

from lineage.artifacts.dialects import layered
from lineage.evidence.copied import copied, without_largest
from lineage.evidence.layers import NEAR
from lineage.evidence.matching import table
from lineage.evidence.pairing import pair
from lineage.graph.base import Edge, Undetermined
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from lineage.evidence.base import Copied
    from lineage.fingerprints import Fingerprint
    from lineage.graph.base import Between, Pair

__all__ = ["Partial"]

_TOLD, _BUILT = 0.95, 0.8
"""Probability of an edge whose direction the relatives tell, and of one that containment does."""

_PUT_TOGETHER = 0.8
"""Share of a model's values that parts of several families must have, for it to be made of them."""

_MOST_FAMILIES = 64
"""Whose first model is held against all others, at most: the largest."""

_CHUNK = 1 << 26
"""Numbers that are compared at once, at most."""


class Partial:
    """The parts that models of different families have in common.

    Attributes:
        edges: With the share of the child's values as their coefficient.
        unclear: Pairs of which it cannot be said who had the part first.
        settled: Pairs of paths, in order, of which `with_shares` says who came first.
        between: Pairs of paths, in order, that have a part in common -> what they have.
    """

    def __init__(
        self,
        families: Sequence[Sequence[str]],
        models: Mapping[str, Fingerprint],
        comparisons: Between,
        edges: Iterable[Edge],
    ) -> None:
        """Look for them.

        Args:
            families: Paths of models that are linked weight by weight.
            models: Path -> fingerprint.
            comparisons: By weights one by one.
            edges: Within the families, as found.
        """
        self._models, self._families, self._comparisons = models, families, comparisons
        self._family = {path: k for k, family in enumerate(families) for path in family}
        self._lines = nx.DiGraph((edge.parent, edge.child) for edge in edges)
        self.edges: list[Edge] = []
        self.unclear: list[Undetermined] = []
        self.settled: set[tuple[str, str]] = set()
        self.between: dict[tuple[str, str], Copied] = {}
        for path, k in sorted(self._candidates()):
            head = self._heads[k]
            found = self._seen(head, path)
            if found is not None:
                self.between[min(head, path), max(head, path)] = (
                    found if head < path else found.reversed()
                )
        for i, j in sorted({self._families_of(*ends) for ends in self.between}):
            self._tell(i, j)

    def _candidates(self) -> set[tuple[str, int]]:
        """Return models and families that a matrix of the one suggests to be held together."""
        by_size = sorted(range(len(self._families)), key=lambda k: (-len(self._families[k]), k))
        self._heads = {k: self._head(self._families[k]) for k in by_size[:_MOST_FAMILIES]}
        found: set[tuple[str, int]] = set()
        if len(self._families) < 2:
            return found
        places: dict[object, list[tuple[str, int]]] = defaultdict(list)
        for path in self._models:
            of = table(self._models[path])
            for place in np.flatnonzero(of.is_matrix & of.usable & (of.energy > 0)):
                if of.is_flat[place]:
                    continue
                label = of.labels[place].removeprefix("v.").removeprefix("dec.")
                places[label, of.shapes[place]].append((path, int(place)))
        head_of = {path: k for k, path in self._heads.items()}
        for holders in places.values():
            if len({self._family[path] for path, _ in holders}) > 1:
                found |= self._alike(holders, head_of)
        return found

    def _alike(
        self, holders: Sequence[tuple[str, int]], head_of: Mapping[str, int]
    ) -> set[tuple[str, int]]:
        """Return those of one name and shape that are near to another family's first model's."""
        stored = [table(self._models[path]).matrix(n) for path, n in holders]
        cores: NDArray[np.floating] = np.stack(stored)
        if layered(table(self._models[holders[0][0]]).names[holders[0][1]]) is None:
            cores = without_largest(cores.astype(np.float64))
        units = cores.reshape(len(cores), -1)
        units = units / (np.linalg.norm(units, axis=1, keepdims=True) + 1e-30)
        heads = [n for n, (path, _) in enumerate(holders) if path in head_of]
        found = set()
        step = max(1, _CHUNK // units.size)
        for start in range(0, len(heads), step):
            some = heads[start : start + step]
            for r, c in np.argwhere(units[some] @ units.T >= NEAR):
                head, path = holders[some[int(r)]][0], holders[int(c)][0]
                if self._family[head] != self._family[path]:
                    found.add((path, head_of[head]))
        return found

    def _head(self, family: Sequence[str]) -> str:
        """Return the model of a family that most others come from."""

        def rank(path: str) -> tuple[int, str, str]:
            below = len(nx.descendants(self._lines, path)) if path in self._lines else 0
            return -below, self._models[path].value_id, path

        return min(family, key=rank)

    def _seen(self, a: str, b: str) -> Copied | None:
        """Return what two strangers have in common, if it is no more than parts."""
        found = self._comparisons.between(a, b)
        return found.shares if _is_in_parts(found.relation, found.related) else None

    def _families_of(self, a: str, b: str) -> tuple[int, int]:
        i, j = sorted((self._family[a], self._family[b]))
        return i, j

    def _tell(self, i: int, j: int) -> None:
        """Say of two families which has the part from which, and of which member."""
        ours = [p for p in self._families[i] if self._holds(p, j)]
        theirs = [p for p in self._families[j] if self._holds(p, i)]
        took_i = bool(ours) and len(ours) < len(self._families[i])
        took_j = bool(theirs) and len(theirs) < len(self._families[j])
        if took_i == took_j:
            took_i, took_j = self._is_put_together(i), self._is_put_together(j)
        if took_i == took_j:
            self._tell_by_size(ours, theirs)
        elif took_j:
            self._from(self._families[i], theirs, _TOLD)
        else:
            self._from(self._families[j], ours, _TOLD)

    def _is_put_together(self, family: int) -> bool:
        """Whether a family's first model is nearly all made of parts of several others."""
        head = self._heads.get(family)
        shares: dict[int, float] = {}
        for ends in self.between:
            if head is not None and head in ends:
                other = ends[0] if ends[1] == head else ends[1]
                seen = self._common(other, head)
                if seen is not None:
                    k = self._family[other]
                    shares[k] = max(shares.get(k, 0.0), seen.share_b)
        return len(shares) > 1 and sum(shares.values()) >= _PUT_TOGETHER

    def _holds(self, path: str, other: int) -> bool:
        """Whether a model has the part that a family's first model has in common with it."""
        head = self._heads.get(other)
        if head is None:
            return any((min(path, p), max(path, p)) in self.between for p in self._families[other])
        return self._common(head, path) is not None

    def _common(self, a: str, b: str) -> Copied | None:
        key = min(a, b), max(a, b)
        if key not in self.between:
            found = self._seen(*key)
            if found is None:
                return None
            self.between[key] = found
        return self.between[key] if a < b else self.between[key].reversed()

    def _tell_by_size(self, ours: Sequence[str], theirs: Sequence[str]) -> None:
        """Take a model that is wholly in another for its source; leave the rest open."""
        if not ours or not theirs:
            return
        a, b = self._first(ours), self._first(theirs)
        seen = self._common(a, b)
        if seen is None:
            return
        a = self._nearest(ours, b) or a
        b = self._nearest(theirs, a) or b
        if seen.is_inside:
            inner, outer = (ours, theirs) if seen.share_a > seen.share_b else (theirs, ours)
            self._from(inner, outer, _BUILT)
            return
        a, b = sorted((a, b))
        seen = self._common(a, b)
        assert seen is not None
        why = seen.evidence().told(a, b)
        self.unclear.append(
            Undetermined(a, b, f"{why}; which had them first is not in the weights")
        )

    def _first(self, paths: Sequence[str]) -> str:
        """Return the earliest of some models of a family."""
        return min(paths, key=lambda p: (len(self._above(p, paths)), self._models[p].value_id, p))

    def _above(self, path: str, paths: Iterable[str]) -> set[str]:
        return nx.ancestors(self._lines, path) & set(paths) if path in self._lines else set()

    def _from(self, sources: Sequence[str], children: Sequence[str], sure: float) -> None:
        """Hang those that have no ancestor with the part on the source that is nearest."""
        for child in children:
            if self._above(child, children):
                continue
            source = self._nearest(sources, child)
            found = None if source is None else self._common(source, child)
            if source is None or found is None:
                continue
            self.edges.append(replace(_built_of(source, child, found), probability=sure))

    def _nearest(self, sources: Sequence[str], child: str) -> str | None:
        common = ((path, self._common(path, child)) for path in sources)
        return self._nearest_of({path: seen for path, seen in common if seen is not None})

    def _away(self, source: str, found: Copied) -> tuple[float, float, int, str, str]:
        """Order sources: of the most values the same, then the nearest, then the earliest."""
        equal = sum(part.values for part in found.parts if part.is_equal)
        size = sum(part.values for part in found.parts)
        cosine = sum(part.values * part.cosine for part in found.parts) / size
        above = len(self._above(source, self._models))
        return -equal, -round(cosine, 5), above, self._models[source].value_id, source

    def told(self, told: Pair) -> Pair:
        """Say of two models that have parts in common that it is open what they are."""
        if told.related or (told.a, told.b) not in self.between:
            return told
        return replace(told, related=None)

    def with_shares(self, edges: Iterable[Edge]) -> list[Edge]:
        """Give the edges from a family's own to a model that has parts of others their share.

        Of what is built around a whole model, with a stack of its own, the model is the source: by
        what they have in common the two are one, and its relatives hang on it, not on the other.
        """
        told = list(edges)
        for built in sorted({edge.child for edge in self.edges}):
            inner = self._inside(built)
            source = self._nearest_of(inner)
            if source is None:
                told = [self._shared(edge) if edge.child == built else edge for edge in told]
                continue
            told = [edge for edge in told if edge.child != built]
            moved = [e for e in told if e.parent == built and e.child in inner]
            told = [edge for edge in told if edge not in moved]
            told += [replace(e, parent=source) for e in moved if e.child != source]
            told.append(_built_of(source, built, inner[source]))
            self.settled.add((min(source, built), max(source, built)))
        return told

    def _inside(self, built: str) -> dict[str, Copied]:
        """Return the relatives that a model has whole, beside a stack of its own."""
        found = {}
        for path in self._families[self._family[built]]:
            seen = copied(pair(self._models[path], self._models[built]))
            is_less = seen.share_b < min(seen.share_a, _ALL)
            if path != built and seen.parts and seen.has_own and is_less and not seen.is_apart:
                found[path] = seen
        return found

    def _nearest_of(self, seen: Mapping[str, Copied]) -> str | None:
        return min(seen, key=lambda path: self._away(path, seen[path])) if seen else None

    def _shared(self, edge: Edge) -> Edge:
        if edge.coefficient is not None or edge.relation in _NO_SHARE:
            return edge
        seen = copied(pair(self._models[edge.parent], self._models[edge.child]))
        if not seen.parts or seen.share_b > _ALL:
            return edge
        then = None if all(part.is_equal for part in seen.parts) else (edge.relation, edge.how)
        return replace(
            edge, relation=Relation.MERGE, how="passthrough", coefficient=seen.share_b, then=then
        )


def _built_of(source: str, built: str, seen: Copied) -> Edge:
    is_same = all(part.is_equal for part in seen.parts)
    then = None if is_same else (Relation.FINETUNE, "full")
    return Edge(source, built, Relation.MERGE, "passthrough", seen.share_b, _BUILT, then)


_NO_SHARE = frozenset({Relation.IDENTICAL, Relation.QUANTIZED, Relation.REPARAMETRIZED})

_ALL = 0.999
"""Share from which a child has nothing of another beside it."""


def _is_in_parts(relation: Relation | None, related: bool | None) -> bool:
    return relation is Relation.MERGE and related is None
