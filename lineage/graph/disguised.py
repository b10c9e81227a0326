"""Models that are relatives in other coordinates: found by their units, and written in ours.

Families that share nothing weight by weight may still be one: a stream can be turned, units and
heads moved, and nothing that the model computes changes. Where the weights are at hand, one model
of each family is held against one of every other (`lineage.alignment`). If they are one in other
coordinates, all models of the smaller family are written in those of the larger, and everything
else is inferred from what was written.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment import Aligned, Chain, aligned, can_be_written, described, solve
from lineage.artifacts import Artifact
from lineage.artifacts.dialects import layered
from lineage.artifacts.tokens import tokens_of
from lineage.errors import ArchitectureError, FormatError
from lineage.evidence import compare_fingerprints
from lineage.evidence.matching import match, table
from lineage.evidence.neurons import common_units
from lineage.evidence.panel import structure
from lineage.evidence.reduced import levels
from lineage.fingerprints.measure import TIERS, Pass
from lineage.fingerprints.neurons import neurons
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lineage.alignment import Stream
    from lineage.evidence import Comparison
    from lineage.evidence.weights import Weights
    from lineage.fingerprints import Fingerprint
    from lineage.fingerprints.neurons import Neurons
    from lineage.fingerprints.sketch import Sketch
    from lineage.graph.base import Edge

__all__ = ["Disguises"]

_UNCHANGED = 1e-5
"""Norm of a difference as a share of a parent's: what undoing a disguise in float32 leaves."""

_APART = 0.2
"""Cosine below which two matrices of a layer are as far apart as strangers'."""

MOST_OF_A_CHAIN = 1 << 24
"""Bytes of a network without a stream above which it is not held against others unasked: there is
no sketch that tells strangers soon, and matching all channels of these takes minutes."""

LARGE = 1 << 30
"""Bytes of a model from which a sketch of some units is made before all weights are looked at."""

_MOST_FAMILIES = 64
"""That are held against each other, at most: the largest."""


@dataclass
class Disguises:
    """Which models are in other coordinates than their relatives.

    Attributes:
        prints: Path -> fingerprint of the model as written in its relatives' coordinates.
        how: Path -> what had been done to it, a detail of `reparametrized`.
        first: Path -> the first of those that have the same coordinates as it.
        writing: What wrote them.
    """

    prints: dict[str, Fingerprint] = field(default_factory=dict)
    how: dict[str, str] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    writing: _Writing | None = None

    @classmethod
    def of(
        cls,
        families: Sequence[Sequence[str]],
        models: Mapping[str, Fingerprint],
        weights: Weights,
    ) -> Disguises:
        """Hold the families of some models against each other.

        Args:
            families: Paths that are linked weight by weight.
            models: Path -> fingerprint.
            weights: Of those that may be read.
        """
        found = cls()
        tier = next((t for t, scheme in TIERS.items() if _scheme(models) == scheme), "exact")
        if tier == "exact":
            return found
        write = found.writing = _Writing(models, weights, tier, found)
        heads: list[str] = []
        kinds = [_kinds([p for p in family if p in weights], models) for family in families]
        known = sorted((kind for kind in kinds if kind), key=lambda one: _rank(one, models))
        for kind in known[:_MOST_FAMILIES]:
            first = kind[0][0]
            seen = None
            for head in heads:
                if (seen := write.seen(head, first)) is not None:
                    break
            if seen is None:
                heads.append(first)
                head = first
            else:
                write.all(head, kind[0], seen)
            for other in kind[1:]:
                if (seen := write.seen(head, other[0])) is not None:
                    write.all(head, other, seen)
        return found

    def told(self, edge: Edge) -> Edge:
        """Say of an edge between two sets of coordinates that they were changed, and what then.

        What came after is seen best in the parent's own coordinates, so the child is written in
        these once more.

        Args:
            edge: As inferred from the models as written.
        """
        if self.writing is None or self.first.get(edge.parent) == self.first.get(edge.child):
            return edge
        how = self.how.get(edge.child) or self.how[edge.parent]
        left = self.writing.left(edge.parent, edge.child)
        then: tuple[Relation, str | None] | None = (edge.relation, edge.how)
        if left is not None and left.change is not None and left.change < _UNCHANGED:
            then = None
        return replace(edge, relation=Relation.REPARAMETRIZED, how=how, then=then)


@dataclass
class _Writing:
    """Writes models in others' coordinates."""

    models: Mapping[str, Fingerprint]
    weights: Weights
    tier: str
    found: Disguises
    sketches: dict[str, Neurons | None] = field(default_factory=dict)

    def seen(self, a: str, b: str) -> Aligned | None:
        """Return how b's coordinates become a's; None if nothing was found or changed.

        Where both have a neuron sketch, it tells whether it is worth to read their weights; of
        large models one is made.
        """
        units = common_units(self._sketch(a), self._sketch(b))
        if units is not None and units.related is False:
            return None
        with ExitStack() as stack:
            try:
                one, other = self._described(a, stack), self._described(b, stack)
                if isinstance(one, Chain) and self.models[a].size_bytes > MOST_OF_A_CHAIN:
                    return None
                seen = solve(one, other)
                return seen if seen.related and seen.how and can_be_written(one, other) else None
            except (ArchitectureError, FormatError):  # unknown, or with values that are no numbers
                return None

    def _sketch(self, path: str) -> Neurons | None:
        """Return a model's neuron sketch, if it has one or is large."""
        model = self.models[path]
        if model.neurons is not None or model.size_bytes < LARGE:
            return model.neurons
        if path not in self.sketches:
            with self.weights.opened(path) as items:
                artifact = Artifact(path, tuple(items.values()))
                self.sketches[path] = neurons(artifact, self._tokens(path))
        return self.sketches[path]

    def _tokens(self, path: str) -> tuple[str, ...] | None:
        try:
            return tokens_of(self.weights.sources[path])
        except FormatError:  # numbers must do
            return None

    def _described(self, path: str, stack: ExitStack) -> Stream | Chain:
        items = stack.enter_context(self.weights.opened(path))
        return described(items.values(), name=path, tokens=self._tokens(path))

    def left(self, parent: str, child: str) -> Comparison | None:
        """Return what is left between two models once the child has the parent's coordinates."""
        if parent not in self.weights or child not in self.weights:
            return None
        seen = self.seen(parent, child)
        if seen is None:
            return None
        return compare_fingerprints(self.models[parent], self.written(parent, child, seen))

    def written(self, head: str, path: str, seen: Aligned) -> Fingerprint:
        """Return the fingerprint of a model in another's coordinates."""
        with ExitStack() as stack:
            moved = aligned(self._described(head, stack), self._described(path, stack), seen)
            written = Pass(self.tier).over(moved)
        return replace(written, neurons=self.models[path].neurons)

    def all(self, head: str, paths: Sequence[str], seen: Aligned) -> None:
        """Write models of one set of coordinates, of which the first was aligned, in the head's."""
        for path in paths:
            own: Aligned | None = seen
            if structure(self.models[path]) != structure(self.models[paths[0]]):
                own = self.seen(head, path)
            if own is None:
                continue
            self.found.prints[path] = self.written(head, path, own)
            self.found.how[path] = own.how[0]
            self.found.first[path] = paths[0]


def _kinds(family: Sequence[str], models: Mapping[str, Fingerprint]) -> list[list[str]]:
    """Part a family by coordinates, the commonest first; of each the best known model is first."""
    found: list[list[str]] = []
    for path in sorted(family, key=lambda path: _standing(models[path])):
        for kind in found:
            if not _is_partly_moved(models[kind[0]], models[path]):
                kind.append(path)
                break
        else:
            found.append([path])
    return sorted(found, key=lambda kind: -len(kind))


def _rank(kinds: Sequence[Sequence[str]], models: Mapping[str, Fingerprint]) -> tuple[int, str]:
    return -sum(map(len, kinds)), models[kinds[0][0]].value_id


def _standing(model: Fingerprint) -> tuple[bool, int, str]:
    """Order models: not on a quantizer's levels, then the largest."""
    quantized = any(levels(t) > 0 for t in model.tensors if len(t.shape) > 1)
    return quantized, -model.size_bytes, model.value_id


def _is_partly_moved(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether some of the layers' matrices of two relatives are no more alike than strangers'."""
    first, second = table(one), table(other)
    alike = [
        _cosine(first.tensors[m.a].sketch, second.tensors[m.b].sketch)
        for m in match(first, second)
        if m.way == "straight"
        and first.is_matrix[m.a]
        and first.shapes[m.a] == second.shapes[m.b]
        and layered(first.names[m.a]) is not None
    ]
    return min(alike, default=1.0) < _APART


def _cosine(one: Sketch | None, other: Sketch | None) -> float:
    if one is None or other is None:
        return 1.0
    norm = float(np.linalg.norm(one.core) * np.linalg.norm(other.core))
    return float(np.sum(one.core * other.core)) / norm if norm > 0 else 1.0


def _scheme(models: Mapping[str, Fingerprint]) -> str:
    return next(iter(models.values())).scheme
