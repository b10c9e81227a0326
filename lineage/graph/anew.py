"""Models of a family whose vocabulary or head was made anew: what to compare, and what follows.

Norms and distances in such a matrix say nothing of descent, so a family that has several of one is
compared without it; which of them each model has is evidence of its own (`evidence.replaced`). Two
models that are one but for it are a model and a copy with another vocabulary: the copy is the one
whose own is as it was drawn, or that no other of the family has.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.copied import APART, without_largest
from lineage.evidence.course import is_vector
from lineage.evidence.matching import table
from lineage.evidence.panel import Panel
from lineage.evidence.replaced import STRANGE, is_drawn, stands_outside
from lineage.graph.leaves import LIKELY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from lineage.fingerprints import Fingerprint

__all__ = ["Anew", "Twin", "apart_in_vectors", "made_anew", "same_matrices"]

_NONE = -1
"""Group of a model without such a matrix; as a parent, that of having none."""

_LEAST_LEFT = 0.5
"""Share of a family's values that must be left without what was made anew."""

_BY_VECTORS, _FURTHER = 0.8, 0.5
"""Probability of an edge that vectors tell; and how much further the child's must be from
most others than its parent's, as a share of the step: of what nobody shares all of it."""

_EVEN = 0.5
"""Of two that are one but for such a matrix, when nothing tells which was first."""


@dataclass(frozen=True, slots=True)
class Twin:
    """A model that is another but for what was made anew.

    Attributes:
        first: Place of the other.
        place: Its own.
        probability: That it came from the other.
    """

    first: int
    place: int
    probability: float


@dataclass(frozen=True)
class Anew:
    """What a family's models have of their own.

    Attributes:
        panel: The models without it.
        groups: shape (labels, models): equal where two have one matrix of this name, -1 for none.
        drawn: Of the same shape: whether it is as it was drawn.
    """

    panel: Panel
    groups: NDArray[np.intp]
    drawn: NDArray[np.bool_]

    def arcs(self) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
        """Return the arcs that this rules out, and those that it makes doubtful.

        An arc into a group of several is doubtful, and so is that one of them has no parent (-1):
        one of them pays for it in every tree, two of them only where the tree tears them apart.
        """
        still = self._are_still_drawn()
        ruled_out = {(int(w), int(c)) for w, c in np.argwhere(still & ~still.T)}
        doubted = set()
        for row in self.groups:
            for c, group in enumerate(row):
                if group != _NONE and np.count_nonzero(row == group) > 1:
                    doubted |= {(int(w), c) for w in np.flatnonzero(row != group)} | {(-1, c)}
        return ruled_out, doubted

    def twins(self) -> list[Twin]:
        """Return the models that are others but for what was made anew."""
        alike: dict[tuple[bytes, ...], list[int]] = defaultdict(list)
        for place, model in enumerate(self.panel.models):
            alike[tuple(t.value or t.content for t in model.tensors)].append(place)
        found = []
        for kin in alike.values():
            if len(kin) < 2:
                continue
            first = min(kin, key=lambda place: self._standing(place, kin))
            for place in kin:
                if self._differ(first, place):
                    is_told = self._standing(first, kin)[:2] < self._standing(place, kin)[:2]
                    found.append(Twin(first, place, LIKELY if is_told else _EVEN))
        return found

    def is_one(self, a: int, b: int) -> bool:
        """Whether two models have the same of all that was made anew."""
        return bool(np.all(self.groups[:, a] == self.groups[:, b]))

    def is_nearer(self, child: int, one: int, other: int) -> bool:
        """Whether a model has what the first of two has of its own, and not what the second has."""
        return self.is_one(child, one) and not self.is_one(child, other)

    def _standing(self, place: int, kin: Sequence[int]) -> tuple[int, int, int]:
        """Order twins: what was trained first, then what most others have, then by contents."""
        others = [i for i in range(len(self.panel)) if i not in kin]
        shared = sum(self.is_one(place, i) for i in others)
        return int(self.drawn[:, place].sum()), -shared, place

    def _differ(self, a: int, b: int) -> bool:
        return a != b and not self.is_one(a, b)

    def _are_still_drawn(self) -> NDArray[np.bool_]:
        """Say of which pairs [w, c] all that w has, where c has its own, is as it was drawn."""
        has = self.groups != _NONE
        own = self.groups[:, :, None] != self.groups[:, None, :]
        own &= has[:, :, None] & has[:, None, :]
        found: NDArray[np.bool_] = own.any(axis=0) & (~own | self.drawn[:, :, None]).all(axis=0)
        return found


def made_anew(models: Sequence[Fingerprint], panel: Panel) -> Anew | None:
    """Find the matrices outside of layers of which a family has several that are no relatives.

    Args:
        models: With all that they have.
        panel: The same, with what all of them have.
    """
    tables = [table(model) for model in models]
    labels: dict[str, dict[int, int]] = defaultdict(dict)
    for n, of in enumerate(tables):
        for place in range(of.whole):
            if of.is_matrix[place] and of.usable[place] and stands_outside(of.labels[place]):
                labels[of.labels[place]][n] = place
    groups, drawn, dropped = [], [], set()
    for label, places in sorted(labels.items()):
        row = _grouped(models, places)
        if len(set(row[row != _NONE].tolist())) > 1:
            groups.append(row)
            drawn.append([n in places and is_drawn(of, places[n]) for n, of in enumerate(tables)])
            dropped.add(label)
    if not groups:
        return None
    left = [t for t in panel.models[0].tensors if t.name not in set(_named(panel, dropped))]
    sizes = {m.name: m.size for m in panel.matrices}
    if sum(sizes.get(t.name, 0) for t in left) < _LEAST_LEFT * sum(sizes.values()):
        return None
    if len(left) < len(panel.models[0].tensors):
        names = {t.name for t in left}
        panel = Panel([
            replace(model, tensors=tuple(t for t in model.tensors if t.name in names))
            for model in panel.models
        ])  # fmt: skip
    return Anew(panel, np.array(groups, np.intp), np.array(drawn, np.bool_))


def same_matrices(panel: Panel) -> list[Twin]:
    """Return the models that have others' matrices, where vectors alone were trained.

    Matrices say nothing of these. Of a set of them the first is the one whose vectors are nearest
    to all others', if that is clear: the others were trained from where it is.
    """
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place in range(len(panel)):
        alike[tuple(int(m.code[place]) for m in panel.matrices)].append(place)
    found = []
    for kin in alike.values():
        rest = [i for i in range(len(panel)) if i not in kin]
        if len(kin) < 2 or not rest:
            continue
        apart = {(i, k): apart_in_vectors(panel, i, k) for i in kin for k in (*kin, *rest)}
        first = min(kin, key=lambda i: (sum(apart[i, k] for k in rest), i))
        for i in kin:
            further = [apart[i, k] - apart[first, k] for k in rest]
            if np.median(further) > _FURTHER * apart[first, i] > 0:
                found.append(Twin(first, i, _BY_VECTORS))
    return found


def apart_in_vectors(panel: Panel, a: int, b: int) -> float:
    """Return how far two models are from each other in vectors, each as a share of its norm."""
    one, other = table(panel.models[a]), table(panel.models[b])
    total = 0.0
    for place in range(one.whole):
        if is_vector(one, place) and is_vector(other, place):
            step = one.matrix(place).astype(np.float64) - other.matrix(place)
            norms = float(one.energy[place] + other.energy[place])
            total += float(np.sum(step**2)) / norms if norms else 0.0
    return total


def _named(panel: Panel, labels: set[str]) -> Iterator[str]:
    of = table(panel.models[0])
    return (of.names[n] for n in range(of.whole) if of.labels[n] in labels)


def _grouped(models: Sequence[Fingerprint], places: dict[int, int]) -> NDArray[np.intp]:
    """Number the matrices of one name: those that chains of relatives join have one number."""
    from scipy.sparse.csgraph import connected_components

    found = np.full(len(models), _NONE, np.intp)
    shapes: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for n, place in places.items():
        shapes[table(models[n]).shapes[place]].append(n)
    for kin in shapes.values():
        tables = [(table(models[n]), places[n]) for n in kin]
        cores = np.stack([of.matrix(place).astype(np.float64) for of, place in tables])
        values = [of.tensors[place].value for of, place in tables]
        chance = (1 / cores[0].size + 1 / tables[0][0].sizes[tables[0][1]]) ** 0.5
        plain = np.minimum(_cosines(cores), _cosines(without_largest(cores)))
        linked = plain >= max(APART, STRANGE * float(chance))
        same = np.array([[bool(x) and x == y for y in values] for x in values])
        _, number = connected_components(linked | same, directed=False)
        found[kin] = number + found.max() + 1
    return found


def _cosines(cores: NDArray[np.float64]) -> NDArray[np.float64]:
    flat = cores.reshape(len(cores), -1)
    flat = flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-300)
    product: NDArray[np.float64] = flat @ flat.T
    return product
