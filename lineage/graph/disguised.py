"""Models that are relatives in other coordinates: found by their units, and written in ours.

Families that share nothing weight by weight may still be one: a stream can be turned, units and
heads moved, and nothing that the model computes changes. Where the weights are at hand, one model
of each family is held against one of every other (`lineage.alignment`). If they are one in other
coordinates, all models of the smaller family are written in those of the larger, and everything
else is inferred from what was written.

Each model is written in the coordinates of the relative that it is nearest to. What is that one's
within rounding is taken for that one's, digest and all, so that copies, frozen tensors and whole
layers are seen as between models of one kind of coordinates. Whether values were rounded or set to
zero shows in a model's own coordinates alone, so there the two are held together as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment import Alignment
from lineage.evidence import compare_weights
from lineage.evidence.panel import structure
from lineage.fingerprints.measure import TIERS
from lineage.graph.frames import LOOKED_AT, kinds_of, rank
from lineage.graph.rewriting import UNCHANGED, Writing, snapped, without_given
from lineage.graph.structure import nearest_to
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lineage.alignment import Aligned
    from lineage.evidence import Comparison
    from lineage.evidence.weights import Weights
    from lineage.fingerprints import Fingerprint
    from lineage.graph.base import Edge

__all__ = ["Disguises"]

_TRAINED = frozenset({Relation.FINETUNE, Relation.QUANTIZED, Relation.NOISED, Relation.PRUNED})
"""What is not said of a child that differs from its parent by no more than rounding."""

_FEW = 4
"""Families up to which all are held against each other by their weights, whatever their size: of
more the pairs are too many, and neuron sketches come first."""

_CLOSE = 24
"""Models that one is compared with to find the nearest, at most."""

_MOST_FAMILIES = 64
"""That are held against each other, at most: the largest."""


@dataclass
class Disguises:
    """Which models are in other coordinates than their relatives.

    Attributes:
        prints: Path -> fingerprint of the model as written in its relatives' coordinates.
        how: Path -> what had been done to it, a detail of `reparametrized`.
        first: Path -> the first of those that have the same coordinates as it.
        nearest: Path -> the relative in whose coordinates it was written: none is nearer.
        left: Path -> what that relative and the model are to each other in the model's own
            coordinates, where it is seen whether values were rounded or set to zero.
        writing: What wrote them.
    """

    prints: dict[str, Fingerprint] = field(default_factory=dict)
    how: dict[str, str] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    nearest: dict[str, str] = field(default_factory=dict)
    left: dict[str, Comparison] = field(default_factory=dict)
    writing: Writing | None = None

    @classmethod
    def of(
        cls,
        families: Sequence[Sequence[str]],
        models: Mapping[str, Fingerprint],
        weights: Weights,
        watch: Callable[[str], None] | None = None,
    ) -> Disguises:
        """Hold the families of some models against each other.

        Args:
            families: Paths that are linked weight by weight.
            models: Path -> fingerprint.
            weights: Of those that may be read.
            watch: Told in a few words what is done next.
        """
        found = cls()
        tier = next((t for t, scheme in TIERS.items() if _scheme(models) == scheme), "exact")
        if tier == "exact":
            return found
        write = found.writing = Writing(models, weights, tier, watch or (lambda _: None))
        heads: list[list[str]] = []
        told = {path for path in models if path in weights and models[path].delta is None}
        kinds = [kinds_of([p for p in family if p in told], models) for family in families]
        known = sorted((kind for kind in kinds if kind), key=lambda one: rank(one, models))
        write.sketches_all = len(known) > _FEW
        for kind in known[:_MOST_FAMILIES]:
            home = next((head for head in heads if found._write_all(head, kind[0])), None)
            is_home = home is None
            if home is None:
                home = list(kind[0])
                heads.append(home)
            for other in kind[1:]:
                is_moved = found._write_all(home, other)
                if is_home and not is_moved:  # far from the first, yet in place
                    home += other
        return found

    @classmethod
    def between_two(
        cls,
        a: str,
        b: str,
        models: Mapping[str, Fingerprint],
        weights: Weights,
        watch: Callable[[str], None] | None = None,
    ) -> tuple[Aligned, Comparison | None] | None:
        """Return how b's coordinates become a's and what is left then; None if nothing was moved.

        Args:
            a: One model.
            b: The other.
            models: Both -> fingerprint.
            weights: Of both.
            watch: Told in a few words what is done next.
        """
        tier = next((t for t, scheme in TIERS.items() if _scheme(models) == scheme), "exact")
        if tier == "exact":
            return None
        write = Writing(models, weights, tier, watch or (lambda _: None))
        seen = write.seen(a, b)
        return None if seen is None else (seen, write.left(a, b))

    @classmethod
    def narrower(
        cls, a: str, b: str, models: Mapping[str, Fingerprint], weights: Weights
    ) -> Alignment | None:
        """Return what of a's stream b's narrower one has, as after pruning it; None if nothing.

        Args:
            a: One model.
            b: The other.
            models: Both -> fingerprint.
            weights: Of both.
        """
        return Writing(models, weights, "exact", lambda _: None).narrowed(a, b)

    @property
    def _writing(self) -> Writing:
        assert self.writing is not None
        return self.writing

    def _write_all(self, home: Sequence[str], paths: Sequence[str]) -> bool:
        """Write models of one set of coordinates in those of another; False if they cannot be.

        Each is written in the coordinates of the model that it is nearest to, for gains that were
        multiplied into matrices are only known from there.

        Args:
            home: Models of one set of coordinates, the best known first.
            paths: Models of another.
        """
        write, first = self._writing, paths[0]
        seen = write.seen(home[0], first)
        if seen is None:
            return False
        kind = structure(write.models[first])
        alike = [path for path in paths if structure(write.models[path]) == kind]
        near, best = self._nearest(home, alike[:LOOKED_AT], seen)
        if (near, best) != (home[0], first):
            better = write.seen(near, best)
            near, seen = (near, better) if better is not None else (home[0], seen)
        for path in paths:
            own: Aligned | None = seen
            at = near
            if path not in alike:
                at, own = home[0], write.seen(home[0], path)
            if own is None:
                continue
            self._write(home, at, path, own)
            self.how[path] = own.how[0]
            self.first[path] = first
        return True

    def _write(self, home: Sequence[str], at: str, path: str, seen: Aligned) -> None:
        """Write one model, in the coordinates of the one that it is nearest to."""
        write = self._writing
        models = write.models
        alike = [p for p in home if structure(models[p]) == structure(models[at])]
        near, _ = self._nearest([at, *alike], [path], seen)
        seen = write.like(near, path, seen)
        written = snapped(write.written(near, path, seen), models[near])
        if "rotated" in seen.how and isinstance(seen, Alignment):
            written = without_given(written, models[path], models[near])
        self.prints[path], self.nearest[path] = written, near
        left = write.left(near, path)
        if left is not None:
            self.left[path] = left

    def _nearest(self, home: Sequence[str], paths: Sequence[str], seen: Aligned) -> tuple[str, str]:
        """Return the two of both sides that are nearest to each other in the coordinates of one.

        Args:
            home: Models of one set of coordinates; those of the first are taken.
            paths: Models of another.
            seen: How the latter become the former.
        """
        write = self._writing
        models = write.models
        found: list[tuple[float, str, str, str]] = []
        for path in paths:
            written = write.written(home[0], path, seen)
            for other in nearest_to(written, sorted(set(home)), models, _CLOSE):
                own = write.like(other, path, seen)
                if own is not seen:
                    written = write.written(other, path, own)
                change = compare_weights(models[other], written).change
                away = np.inf if change is None else change
                found.append((away, models[other].value_id, other, path))
        _, _, near, best = min(found)
        return near, best

    def has_one_frame(self, a: str, b: str) -> bool:
        """Whether two models have the same coordinates, as far as that is known."""
        return self.first.get(a) == self.first.get(b)

    def stored(self, path: str) -> Fingerprint:
        """Return the fingerprint of a hidden model in its own coordinates."""
        return self._writing.models[path]

    def knows(self, a: str, b: str) -> bool:
        """Whether it is known here what two models are to each other; see `between`."""
        is_written = b in self.left and self.nearest[b] == a
        is_written |= a in self.left and self.nearest[a] == b
        return is_written or (a in self.first and self.has_one_frame(a, b))

    def between(self, a: str, b: str) -> Comparison | None:
        """Return what two models are to each other, seen from the first, where that is known best.

        In coordinates of its own a model is compared with those that share them as it is stored.
        """
        if self.writing is None:
            return None
        if a in self.first and self.has_one_frame(a, b):
            return compare_weights(self.writing.models[a], self.writing.models[b])
        if b in self.left and self.nearest[b] == a:
            return self.left[b]
        if a in self.left and self.nearest[a] == b:
            return self.left[a].reversed()
        return None

    def told(self, edge: Edge) -> Edge:
        """Say of an edge between two sets of coordinates that they were changed, and what then.

        Args:
            edge: As inferred from the models as written.
        """
        if self.writing is None or self.has_one_frame(edge.parent, edge.child):
            return edge
        how = self.how.get(edge.child) or self.how[edge.parent]
        then = self._then(edge)
        return replace(edge, relation=Relation.REPARAMETRIZED, how=how, then=then)

    def _then(self, edge: Edge) -> tuple[Relation, str | None] | None:
        """Return what came after new coordinates; None if nothing did."""
        if edge.relation is Relation.IDENTICAL:
            return None
        found = self.between(edge.parent, edge.child)
        if found is None:
            found = self._writing.left(edge.parent, edge.child)
        if found is None or found.structure:
            return edge.relation, edge.how
        if found.relation is Relation.IDENTICAL or (
            found.change is not None and found.change < UNCHANGED
        ):
            return None if edge.relation in _TRAINED else (edge.relation, edge.how)
        if edge.relation is Relation.FINETUNE and found.step is not None:
            return edge.relation, found.step
        return edge.relation, edge.how


def _scheme(models: Mapping[str, Fingerprint]) -> str:
    return next(iter(models.values())).scheme
