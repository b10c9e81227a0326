"""Writes models in others' coordinates, and says what is left of two that share them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from lineage.alignment import (
    Aligned,
    Alignment,
    Chain,
    ChainAlignment,
    Stream,
    aligned,
    can_be_written,
    described,
    solve,
)
from lineage.artifacts import Artifact, Item
from lineage.artifacts.dialects import layered
from lineage.artifacts.tokens import tokens_of
from lineage.errors import ArchitectureError, FormatError
from lineage.evidence import compare_weights
from lineage.evidence.matching import match, table
from lineage.evidence.neurons import common_units
from lineage.evidence.pairing import pair
from lineage.evidence.reduced import pruned, quantized
from lineage.fingerprints.measure import Pass
from lineage.fingerprints.neurons import neurons
from lineage.fingerprints.sketch import Layout, Sketcher
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lineage.evidence import Comparison
    from lineage.evidence.pairing import Pairing
    from lineage.evidence.weights import Weights
    from lineage.fingerprints import Fingerprint, TensorPrint
    from lineage.fingerprints.neurons import Neurons
    from lineage.fingerprints.sketch import Sketch

__all__ = ["UNCHANGED", "Writing", "snapped", "without_given"]

UNCHANGED = 1e-5
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

MOST_OF_A_CHAIN = 1 << 26
"""Bytes of a network without a stream above which it is not held against others unasked: there is
no sketch that tells strangers soon, and matching all channels of larger ones takes minutes."""

LARGE = 1 << 30
"""Bytes of a model from which a sketch of some units is made before all weights are looked at."""

_KEPT = 4
"""Alignments that are kept: each holds a matrix as wide as the stream."""


def _unheard(_words: str) -> None:
    """Tell nobody what is done next."""


@dataclass
class Writing:
    """Writes models in others' coordinates.

    Attributes:
        models: Path -> fingerprint, as stored.
        weights: Of those that may be read.
        tier: Of the fingerprints.
        watch: Told in a few words what is done next.
        sketches_all: Whether neuron sketches tell of all models which weights are worth to be read.
        sketches: Path -> neuron sketch, where one was made for this.
        solved: Alignments that may be asked for again.
    """

    models: Mapping[str, Fingerprint]
    weights: Weights
    tier: str
    watch: Callable[[str], None] = _unheard
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

    def narrowed(self, a: str, b: str) -> Alignment | None:
        """Return what of a wider stream a narrower one has; None if nothing, or it is none.

        Args:
            a: The model whose stream may be wider.
            b: The other.
        """
        with ExitStack() as stack:
            try:
                one, other = self._described(a, stack), self._described(b, stack)
                if not (isinstance(one, Stream) and isinstance(other, Stream)):
                    return None
                if one.width <= other.width:
                    return None
                units = common_units(self._sketch(a), self._sketch(b))
                if units is not None and units.related is False:
                    return None
                self.watch(f"looking for {PurePath(b).name} in {PurePath(a).name}")
                seen = solve(one, other)
            except (ArchitectureError, FormatError):  # unknown, or with values that are no numbers
                return None
        return seen if isinstance(seen, Alignment) and seen.related else None

    def like(self, a: str, b: str, seen: Aligned) -> Aligned:
        """Return how b's coordinates become a's, where it is known how they become its relative's.

        What channels of a chain were multiplied by is only known from each model itself: training
        multiplies them too, and what one relative's lengths take for granted is another's change.

        Args:
            a: One model.
            b: The other.
            seen: How b's coordinates become those of a model that has a's.
        """
        if not isinstance(seen, ChainAlignment):
            return seen
        with ExitStack() as stack:
            try:
                found = solve(self._described(a, stack), self._described(b, stack), seen)
            except (ArchitectureError, FormatError):
                return seen
            return found if found.related else seen

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
        if _is_alike(models[parent], models[child]):
            seen = self.seen(child, parent)
            if seen is not None:
                moved = snapped(self.written(child, parent, seen), models[child])
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

    def beside(
        self, head: str, like: str, models: Sequence[Mapping[str, Item]]
    ) -> list[Fingerprint]:
        """Write models that were just made in another's coordinates; none if they have no others.

        Args:
            head: Whose coordinates are taken.
            like: Whose tokens they have.
            models: Their tensors; how the first becomes the head's is found, and done to all.
        """
        self.watch(f"writing what models like {PurePath(like).name} sum up to")
        with ExitStack() as stack:
            try:
                one, tokens = self._described(head, stack), self._tokens(like)
                made = [described(items.values(), name=like, tokens=tokens) for items in models]
                seen = solve(one, made[0])
                if not seen.related:
                    return []
                return [Pass(self.tier).over(aligned(one, other, seen)) for other in made]
            except (ArchitectureError, FormatError):
                return []


def _is_alike(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether two models have layers of the same shapes, as many of each; norms may be folded."""
    shapes = [
        sorted(t.shape for t in m.tensors if layered(t.name) and len(t.shape) > 1)
        for m in (one, other)
    ]
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
    if (left <= UNCHANGED**2 * most).all():
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


def snapped(written: Fingerprint, near: Fingerprint) -> Fingerprint:
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
    return bool(away <= UNCHANGED * float(one.sketch.energy) ** 0.5)


def without_given(written: Fingerprint, stored: Fingerprint, near: Fingerprint) -> Fingerprint:
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
