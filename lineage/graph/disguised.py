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

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from lineage.alignment import Aligned, Chain, aligned, can_be_written, described, solve
from lineage.artifacts import Artifact
from lineage.artifacts.dialects import layered
from lineage.artifacts.tokens import tokens_of
from lineage.errors import ArchitectureError, FormatError
from lineage.evidence import compare_weights
from lineage.evidence.matching import match, table
from lineage.evidence.neurons import common_units
from lineage.evidence.pairing import pair
from lineage.evidence.panel import structure
from lineage.evidence.reduced import levels, pruned, quantized
from lineage.fingerprints.measure import TIERS, Pass
from lineage.fingerprints.neurons import neurons
from lineage.fingerprints.sketch import Layout, Sketcher
from lineage.graph.structure import nearest_to
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lineage.alignment import Stream
    from lineage.evidence import Comparison
    from lineage.evidence.pairing import Pairing
    from lineage.evidence.weights import Weights
    from lineage.fingerprints import Fingerprint, TensorPrint
    from lineage.fingerprints.neurons import Neurons
    from lineage.fingerprints.sketch import Sketch
    from lineage.graph.base import Edge

__all__ = ["Disguises"]

_TRAINED = frozenset({Relation.FINETUNE, Relation.QUANTIZED, Relation.NOISED, Relation.PRUNED})
"""What is not said of a child that differs from its parent by no more than rounding."""

_UNCHANGED = 1e-5
"""Norm of a difference as a share of a parent's: what undoing a disguise in float32 leaves."""

_ROUNDED = 8.0
"""Times the squared norm of what storing in half precision changes in a matrix: more is no
rounding. Coordinates that are found from rounded values, and gains, are off by as much again."""

_LEAST_LEVELS = 0.3
"""What rounding to b bits changes at least, as a share of the norm, times 2^b. In a stream that
was shifted a part of the norm says nothing."""

_LEAN = 0.3
"""Cosine of what was set to zero and the rest, at most: heads and scales are fitted to the rest."""

_SAME: dict[str, Any] = {
    "relation": Relation.IDENTICAL, "how": "converted", "direction": None, "structure": (),
}  # fmt: skip

_SPELLED = {"BF16": "bf16", "F16": "fp16"}

_APART = 0.2
"""Cosine below which two matrices are as far apart as strangers'."""

MOST_OF_A_CHAIN = 1 << 24
"""Bytes of a network without a stream above which it is not held against others unasked: there is
no sketch that tells strangers soon, and matching all channels of these takes minutes."""

LARGE = 1 << 30
"""Bytes of a model from which a sketch of some units is made before all weights are looked at."""

_KEPT = 4
"""Alignments that are kept: each holds a matrix as wide as the stream."""

_FEW = 4
"""Families up to which all are held against each other by their weights, whatever their size: of
more the pairs are too many, and neuron sketches come first."""

_LOOKED_AT = 8
"""Models of one set of coordinates of which the nearest to another's is looked for, at most."""

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
    writing: _Writing | None = None

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
        write = found.writing = _Writing(models, weights, tier, found, watch or (lambda _: None))
        heads: list[list[str]] = []
        told = {path for path in models if path in weights and models[path].delta is None}
        kinds = [_kinds([p for p in family if p in told], models) for family in families]
        known = sorted((kind for kind in kinds if kind), key=lambda one: _rank(one, models))
        write.sketches_all = len(known) > _FEW
        for kind in known[:_MOST_FAMILIES]:
            home = next((head for head in heads if write.all(head, kind[0])), None)
            is_home = home is None
            if home is None:
                home = list(kind[0])
                heads.append(home)
            for other in kind[1:]:
                if not write.all(home, other) and is_home:  # far from the first, yet not moved
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
        write = _Writing(models, weights, tier, cls(), watch or (lambda _: None))
        seen = write.seen(a, b)
        return None if seen is None else (seen, write.left(a, b))

    def has_one_frame(self, a: str, b: str) -> bool:
        """Whether two models have the same coordinates, as far as that is known."""
        return self.first.get(a) == self.first.get(b)

    def stored(self, path: str) -> Fingerprint:
        """Return the fingerprint of a hidden model in its own coordinates."""
        assert self.writing is not None
        return self.writing.models[path]

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
        assert self.writing is not None
        found = self.between(edge.parent, edge.child)
        if found is None:
            found = self.writing.left(edge.parent, edge.child)
        if found is None or found.structure:
            return edge.relation, edge.how
        if found.relation is Relation.IDENTICAL or (
            found.change is not None and found.change < _UNCHANGED
        ):
            return None if edge.relation in _TRAINED else (edge.relation, edge.how)
        if edge.relation is Relation.FINETUNE and found.step is not None:
            return edge.relation, found.step
        return edge.relation, edge.how


@dataclass
class _Writing:
    """Writes models in others' coordinates.

    Attributes:
        models: Path -> fingerprint, as stored.
        weights: Of those that may be read.
        tier: Of the fingerprints.
        found: What is filled in.
        watch: Told in a few words what is done next.
        sketches_all: Whether neuron sketches tell of all models which weights are worth to be read.
        sketches: Path -> neuron sketch, where one was made for this.
        solved: Alignments that may be asked for again.
    """

    models: Mapping[str, Fingerprint]
    weights: Weights
    tier: str
    found: Disguises
    watch: Callable[[str], None] = lambda _: None
    sketches_all: bool = False
    sketches: dict[str, Neurons | None] = field(default_factory=dict)
    solved: dict[tuple[str, str], Aligned | None] = field(default_factory=dict)

    def seen(self, a: str, b: str) -> Aligned | None:
        """Return how b's coordinates become a's; None if nothing was found or changed.

        Where both have a neuron sketch, it tells whether it is worth to read their weights; of
        large models, and among many families, one is made.
        """
        if (a, b) not in self.solved:
            for known in list(self.solved)[:-_KEPT]:
                del self.solved[known]
            self.solved[a, b] = self._seen(a, b)
        return self.solved[a, b]

    def _seen(self, a: str, b: str) -> Aligned | None:
        units = common_units(self._sketch(a), self._sketch(b))
        if units is not None and units.related is False:
            return None
        self.watch(f"aligning {PurePath(b).name} with {PurePath(a).name}")
        with ExitStack() as stack:
            try:
                one, other = self._described(a, stack), self._described(b, stack)
                if isinstance(one, Chain) and self.models[a].size_bytes > MOST_OF_A_CHAIN:
                    return None
                if not can_be_written(one, other):
                    return None
                seen = solve(one, other)
                return seen if seen.related and seen.how else None
            except (ArchitectureError, FormatError):  # unknown, or with values that are no numbers
                return None

    def _sketch(self, path: str) -> Neurons | None:
        """Return a model's neuron sketch, if it has one, is large, or is one of many."""
        model = self.models[path]
        is_worth_it = self.sketches_all or model.size_bytes >= LARGE
        if model.neurons is not None or not is_worth_it:
            return model.neurons
        if path not in self.sketches:
            self.watch(f"sketching the units of {PurePath(path).name}")
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
        """Return what is left between two models in one's coordinates: the child's, if it can be.

        What was rounded or set to zero is so in the child's coordinates alone; but what has other
        layers, units or tokens than its parent is written in the parent's.
        """
        if parent not in self.weights or child not in self.weights:
            return None
        models = self.models
        if is_alike(models[parent], models[child]):
            seen = self.seen(child, parent)
            if seen is not None:
                moved = _snapped(self.written(child, parent, seen), models[child])
                found = compare_weights(moved, models[child])
                return _as_stored(found, moved, models[parent], models[child])
        seen = self.seen(parent, child)
        if seen is None:
            return None
        return compare_weights(models[parent], self.written(parent, child, seen))

    def written(self, head: str, path: str, seen: Aligned) -> Fingerprint:
        """Return the fingerprint of a model in another's coordinates."""
        self.watch(f"writing {PurePath(path).name} in the coordinates of {PurePath(head).name}")
        with ExitStack() as stack:
            moved = aligned(self._described(head, stack), self._described(path, stack), seen)
            written = Pass(self.tier).over(moved)
        return replace(written, neurons=self.models[path].neurons)

    def all(self, home: Sequence[str], paths: Sequence[str]) -> bool:
        """Write models of one set of coordinates in those of another; False if they cannot be.

        Each is written in the coordinates of the model that it is nearest to, for gains that were
        multiplied into matrices are only known from there.

        Args:
            home: Models of one set of coordinates, the best known first.
            paths: Models of another.
        """
        first = paths[0]
        seen = self.seen(home[0], first)
        if seen is None:
            return False
        kind = structure(self.models[first])
        alike = [path for path in paths if structure(self.models[path]) == kind]
        near, best = self._nearest(home, alike[:_LOOKED_AT], seen)
        if (near, best) != (home[0], first):
            better = self.seen(near, best)
            near, seen = (near, better) if better is not None else (home[0], seen)
        for path in paths:
            own: Aligned | None = seen
            at = near
            if path not in alike:
                at, own = home[0], self.seen(home[0], path)
            if own is None:
                continue
            self._write(home, at, path, own)
            self.found.how[path] = own.how[0]
            self.found.first[path] = first
        return True

    def _write(self, home: Sequence[str], at: str, path: str, seen: Aligned) -> None:
        """Write one model, in the coordinates of the one that it is nearest to."""
        found = self.found
        alike = [p for p in home if structure(self.models[p]) == structure(self.models[at])]
        near, _ = self._nearest([at, *alike], [path], seen)
        written = self.written(near, path, seen)
        found.nearest[path] = near
        snapped = _snapped(written, self.models[near])
        if "rotated" in seen.how:
            snapped = _without_given(snapped, self.models[path], self.models[near])
        found.prints[path] = snapped
        left = self.left(near, path)
        if left is not None:
            found.left[path] = left

    def _nearest(self, home: Sequence[str], paths: Sequence[str], seen: Aligned) -> tuple[str, str]:
        """Return the two of both sides that are nearest to each other in the coordinates of one.

        Args:
            home: Models of one set of coordinates; those of the first are taken.
            paths: Models of another.
            seen: How the latter become the former.
        """
        models = self.models
        found: list[tuple[float, str, str, str]] = []
        for path in paths:
            written = self.written(home[0], path, seen)
            for other in nearest_to(written, sorted(set(home)), models, _CLOSE):
                change = compare_weights(models[other], written).change
                away = np.inf if change is None else change
                found.append((away, models[other].value_id, other, path))
        _, _, near, best = min(found)
        return near, best


def is_alike(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether two models have layers of the same shapes, as many of each."""
    shapes = [sorted(t.shape for t in m.tensors if layered(t.name)) for m in (one, other)]
    return shapes[0] == shapes[1]


def _as_stored(
    found: Comparison, moved: Fingerprint, parent: Fingerprint, child: Fingerprint
) -> Comparison:
    """Say that nothing is left, or only the rounding to what the child is stored in.

    No digest tells that, for writing a model in other coordinates leaves roundings of its own.

    Args:
        found: What the two are to each other in the child's coordinates.
        moved: The parent in these.
        parent: As stored.
        child: As stored.
    """
    if found.structure or not found.related:
        return found
    pairing = pair(moved, child)
    use = pairing.is_matrix
    left, most = pairing.energy_d[use], pairing.energy_b[use]
    if not _has_all(pairing):
        return found
    if (left <= _UNCHANGED**2 * most).all():
        return replace(found, **_SAME, change=0.0, distance=0.0)
    dtype = _narrow(child)
    if dtype is not None and (left <= _ROUNDED * pairing.noise[use]).all():
        if _narrow(parent) == dtype:
            return replace(found, **_SAME)
        how = _SPELLED[dtype]
        return replace(found, relation=Relation.QUANTIZED, how=how, direction="a->b")
    less = quantized(pairing, least=_LEAST_LEVELS) or pruned(pairing, slack=_LEAN)
    if less is not None and less.direction == "a->b":
        return replace(found, relation=less.relation, how=less.how, direction="a->b")
    return found


def _has_all(pairing: Pairing) -> bool:
    """Whether each matrix of one model is in the other; what is tied in one may be stored twice."""
    first, second = pairing.first, pairing.second
    shapes = {first.shapes[place] for place in pairing.a}
    return all(
        of.shapes[place] in shapes
        for of, used in ((first, pairing.a), (second, pairing.b))
        for place in of.left_over(used)
        if of.is_matrix[place]
    )


def _narrow(model: Fingerprint) -> str | None:
    """Return the half precision that all matrices of a model are stored in; None for another."""
    dtypes = {tensor.dtype for tensor in model.tensors if len(tensor.shape) > 1}
    return next(iter(dtypes)) if len(dtypes) == 1 and dtypes <= _SPELLED.keys() else None


def _snapped(written: Fingerprint, near: Fingerprint) -> Fingerprint:
    """Take each tensor that undoing a disguise made another's, within rounding, for that one.

    Args:
        written: A model in another's coordinates.
        near: That other.
    """
    first, second = table(near), table(written)
    partner = {found.b: (found.a,) for found in match(first, second) if found.way == "straight"}
    made = []
    for place, ours in enumerate(written.tensors):
        for other in partner.get(place, range(first.whole)):  # tied weights may be stored twice
            if other < first.whole and _is_same(near.tensors[other], ours):
                ours = replace(near.tensors[other], name=ours.name)
                break
        made.append(ours)
    return replace(written, tensors=tuple(made))


def _is_same(one: TensorPrint, other: TensorPrint) -> bool:
    if one.shape != other.shape or one.sketch is None or other.sketch is None:
        return False
    away = float(np.linalg.norm(one.sketch.core - other.sketch.core))
    return bool(away <= _UNCHANGED * float(one.sketch.energy) ** 0.5)


def _without_given(written: Fingerprint, stored: Fingerprint, near: Fingerprint) -> Fingerprint:
    """Take gains that a model was given for such as never moved: nothing follows from them.

    Those of a stream that was turned had been multiplied into matrices.

    Args:
        written: A model in another's coordinates.
        stored: The same in its own.
        near: That other.
    """
    own = {tensor.content for tensor in stored.tensors}
    given = {t.content for t in near.tensors if len(t.shape) == 1} - own
    made = (
        replace(tensor, sketch=_of_ones(tensor.size)) if tensor.content in given else tensor
        for tensor in written.tensors
    )
    return replace(written, tensors=tuple(made))


def _of_ones(size: int) -> Sketch:
    sketcher = Sketcher(Layout.of((size,)))
    sketcher.add(np.ones(size, np.float32), "F32", 0)
    return sketcher.finish()


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
    return sorted((_central(kind, models) for kind in found), key=lambda kind: -len(kind))


def _central(kind: list[str], models: Mapping[str, Fingerprint]) -> list[str]:
    """Put the one first that is nearest to all, of those that are as well known as the first.

    What is far from its relatives, as after a long training, is a poor place to look for others
    from: scales of units are only seen between near ones.
    """
    first = _standing(models[kind[0]])[:3]
    known = [path for path in kind if _standing(models[path])[:3] == first][:_LOOKED_AT]
    if len(known) < 3:
        return kind

    def away(path: str) -> tuple[float, str]:
        others = [models[other] for other in known if other != path]
        total = sum(compare_weights(models[path], other).distance for other in others)
        return total, models[path].value_id

    center = min(known, key=away)
    return [center, *(path for path in kind if path != center)]


def _rank(
    kinds: Sequence[Sequence[str]], models: Mapping[str, Fingerprint]
) -> tuple[int, bool, str]:
    """Order families: the largest, then those whose gains were not multiplied into matrices."""
    first = models[kinds[0][0]]
    return -sum(map(len, kinds)), _is_folded(first), first.value_id


def _standing(model: Fingerprint) -> tuple[bool, bool, int, str]:
    """Order models: not on a quantizer's levels, with gains of their own, then the largest."""
    quantized = any(levels(t) > 0 for t in model.tensors if len(t.shape) > 1)
    return quantized, _is_folded(model), -model.size_bytes, model.value_id


def _is_folded(model: Fingerprint) -> bool:
    """Whether all gains are alike, as in a model whose own were multiplied into what follows."""
    gains = [t for t in model.tensors if t.name.endswith("norm.weight") and len(t.shape) == 1]
    return bool(gains) and all(t.sketch is not None and t.sketch.is_flat for t in gains)


def _is_partly_moved(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether some of the matrices of two relatives are no more alike than strangers'.

    That of embeddings or a head may be for other reasons, which aligning them tells.
    """
    first, second = table(one), table(other)
    alike = [
        _cosine(first.tensors[m.a].sketch, second.tensors[m.b].sketch)
        for m in match(first, second)
        if m.way == "straight" and first.is_matrix[m.a] and first.shapes[m.a] == second.shapes[m.b]
    ]
    return min(alike, default=1.0) < _APART


def _cosine(one: Sketch | None, other: Sketch | None) -> float:
    if one is None or other is None:
        return 1.0
    norm = float(np.linalg.norm(one.core) * np.linalg.norm(other.core))
    return float(np.sum(one.core * other.core)) / norm if norm > 0 else 1.0


def _scheme(models: Mapping[str, Fingerprint]) -> str:
    return next(iter(models.values())).scheme
