"""Two models, tensor by tensor: the numbers that every detector starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lineage.artifacts.base import BLOCKS
from lineage.evidence.layers import NEAR, StackMap, differ, layer_maps, relabelled
from lineage.evidence.matching import Match, Table, Way, agree, match, repeats, table
from lineage.fingerprints.lattice import ROUNDING
from lineage.fingerprints.sketch import Layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lineage.fingerprints import Fingerprint

ROUNDING_RMS = 0.41
"""Root mean square of a rounding error over its largest value, for values of any size: the error
is uniform in half a unit in the last place, and that unit is between 1 and 1/2 of its largest."""

FLOAT8 = 0.0235, 0.031
"""Norm of a rounding to E4M3 over that of the weights, half a step being 1/16 of the power of two
below: .0236 for values that are even from one power of two to the next, .026 to .03 for bell-shaped
laws, more where many are below the least normal number."""

SAME_WITHIN = 3e-6
"""Norm of the difference of two sketches over the norm of the weights, below which no digest is
needed to call them one: where the same values are summed in another order, as in a transpose.

Every number of a sketch is summed in runs in single precision, moved up in double and stored in
single. That leaves 3e-8 for small tensors and up to 1e-6 for the tallest seen (30522 by 384, in
either kernel). A change by one part in 100,000 of the norm leaves 1e-5, within a third."""


@dataclass(frozen=True, slots=True)
class Resized:
    """Two matrices of one name of which one has more rows, or more columns.

    The buckets of a sketch go round by the index, and the signs depend on nothing else. So the
    core of a matrix with rows after another's is that one's core and the core of the new rows.

    Attributes:
        a: Place in the first table.
        b: Place in the second.
        axis: 0 where the rows differ, 1 where the columns do.
        extents: How many the first has, and the second.
        cross: Inner product of the two, as if what is missing were zeros.
    """

    a: int
    b: int
    axis: int
    extents: tuple[int, int]
    cross: float


@dataclass(frozen=True)
class Pairing:
    """Two models, tensor by tensor.

    Attributes:
        a: Places in the first table of the tensors both have.
        b: Places in the second, in the same order.
        size: Values in each.
        is_matrix: At least two dimensions above 1 and 64 values, and not one repeated value, nor
            a table that is filled and not trained: two independent models do not agree in such a
            tensor by convention, as they do in gains of 1, biases of 0 and masks.
        way: How the second tensor lies: see `matching.Way`.
        equal: Bitwise the same values.
        same: Equal, or in another layout and the same within rounding, where no digest can tell.
        energy_a: Exact squared norms.
        energy_b: Exact squared norms.
        energy_d: Estimated squared norms of the differences; 0 where the same.
        cross: Inner products of the sketches: the better estimate where the two are far apart.
        maps: Which layers are one, where that is not simply those of one number.
    """

    first: Table
    second: Table
    a: tuple[int, ...]
    b: tuple[int, ...]
    size: NDArray[np.float64]
    is_matrix: NDArray[np.bool_]
    way: tuple[Way, ...]
    equal: NDArray[np.bool_]
    same: NDArray[np.bool_]
    energy_a: NDArray[np.float64]
    energy_b: NDArray[np.float64]
    energy_d: NDArray[np.float64]
    cross: NDArray[np.float64]
    maps: tuple[StackMap, ...] = ()

    @cached_property
    def resized(self) -> tuple[Resized, ...]:
        """Matrices of one name, or of one layer and role, of which one has more rows or columns."""
        ours = {self.first.labels[i]: i for i in self._left(self.first, self.a)}
        labels = dict(enumerate(self.second.labels)) | dict(relabelled(self.second, self.maps))
        found = []
        for j in self._left(self.second, self.b):
            if (i := ours.get(labels[j])) is not None:
                found += _resized(self.first, i, self.second, j)
        return tuple(found)

    @staticmethod
    def _left(of: Table, used: tuple[int, ...]) -> list[int]:
        return [i for i in of.left_over(used) if of.usable[i] and of.is_matrix[i]]

    @cached_property
    def inner(self) -> NDArray[np.float64]:
        """Inner products: by polarisation from the exact norms where the two are near.

        The error of that is a share of the difference's norm; the error of `cross` is a share of
        both norms, which is less where the difference is the larger.
        """
        near = self.energy_d < np.minimum(self.energy_a, self.energy_b)
        by_norms = (self.energy_a + self.energy_b - self.energy_d) / 2
        return np.where(near, by_norms, self.cross)

    @cached_property
    def cosine(self) -> NDArray[np.float64]:
        """Cosine of each tensor pair; 0 where one of the two is all zeros."""
        both = np.sqrt(self.energy_a * self.energy_b)
        return np.divide(self.inner, both, out=np.zeros_like(both), where=both > 0).clip(-1, 1)

    @cached_property
    def cells(self) -> NDArray[np.float64]:
        """Numbers in each tensor's sketch."""
        return np.array([self.first.starts[i + 1] - self.first.starts[i] for i in self.a], float)

    @cached_property
    def noise(self) -> NDArray[np.float64]:
        """Squared norm of the rounding that storing the coarser of the two leaves in a tensor."""
        step = np.array([max(_rounding(self.first, i), _rounding(self.second, j))
                         for i, j in zip(self.a, self.b, strict=True)])  # fmt: skip
        noise: NDArray[np.float64] = (ROUNDING_RMS * step) ** 2
        return noise * np.maximum(self.energy_a, self.energy_b)

    def only(self, places: Sequence[int]) -> Pairing:
        """Return the same of some of the tensors that both have."""
        use = list(places)
        return replace(
            self,
            a=tuple(self.a[n] for n in use),
            b=tuple(self.b[n] for n in use),
            size=self.size[use],
            is_matrix=self.is_matrix[use],
            way=tuple(self.way[n] for n in use),
            equal=self.equal[use],
            same=self.same[use],
            energy_a=self.energy_a[use],
            energy_b=self.energy_b[use],
            energy_d=self.energy_d[use],
            cross=self.cross[use],
        )

    @property
    def change(self) -> float:
        """Norm of the difference over the norm of the first model, over the matrices of both."""
        total = float(self.energy_a[self.is_matrix].sum())
        return self.distance / float(np.sqrt(total)) if total else 0.0

    @property
    def distance(self) -> float:
        """Norm of the difference, over the matrices of both."""
        return float(np.sqrt(self.energy_d[self.is_matrix].sum()))

    def difference(self, place: int) -> NDArray[np.float64]:
        """Return the core of the difference of one pair, `b - a`, as a matrix that lies as `a`."""
        one = self.first.matrix(self.a[place]).astype(np.float64)
        other = self.second.matrix(self.b[place]).astype(np.float64)
        if self.way[place] == "reordered":
            return np.zeros_like(one)
        return (other.T if self.way[place] == "turned" else other) - one


def _resized(first: Table, i: int, second: Table, j: int) -> list[Resized]:
    """Return the pair if it differs in its rows or in its columns alone."""
    one, other = Layout.of(first.shapes[i]), Layout.of(second.shapes[j])
    extents = (one.rows, other.rows), (one.cols, other.cols)
    differs = [axis for axis in (0, 1) if extents[axis][0] != extents[axis][1]]
    if len(differs) != 1 or one.is_vector or other.is_vector:
        return []
    x, y = first.matrix(i).astype(np.float64), second.matrix(j).astype(np.float64)
    rows, cols = min(len(x), len(y)), min(x.shape[1], y.shape[1])
    cross = float(np.vdot(x[:rows, :cols], y[:rows, :cols]))
    return [Resized(i, j, differs[0], extents[differs[0]], cross)]


def rounding_of(of: Table, place: int) -> float:
    """Return the squared norm of the error that storing a tensor in its dtype leaves."""
    noise: float = (ROUNDING_RMS * _rounding(of, place)) ** 2 * float(of.energy[place])
    return noise


def _rounding(of: Table, place: int) -> float:
    return ROUNDING.get(of.tensors[place].dtype, 2.0**-24)


def pair(one: Fingerprint, other: Fingerprint) -> Pairing:
    """Pair the tensors of two models and measure each difference.

    Layers are paired by their numbers. Where some of those are strangers though others are not, or
    the two do not have the same numbers, by their values.
    """
    first, second = table(one), table(other)
    if not differ(first, second):
        found = _paired(first, second, ())
        if not _has_far_layers(found):
            return found
        maps = tuple(m for m in layer_maps(first, second) if not m.keeps_numbers)
        return _paired(first, second, maps) if maps else found
    return _paired(first, second, layer_maps(first, second))


def _has_far_layers(pairing: Pairing) -> bool:
    """Whether the layers of one number are strangers in some places and alike in others."""
    first = pairing.first
    layer_of = first.layer_numbers[list(pairing.a)]
    use = pairing.is_matrix & (layer_of >= 0)
    if not np.any(use) or float(pairing.cosine[pairing.is_matrix].max()) < NEAR:
        return False
    weight = np.sqrt(pairing.size[use])
    layers = layer_of[use]
    pooled = np.bincount(layers, weight * pairing.cosine[use])
    total = np.bincount(layers, weight)
    return bool(np.any((pooled < NEAR * total) & (total > 0)))


def _paired(first: Table, second: Table, maps: tuple[StackMap, ...]) -> Pairing:
    matches = [*match(first, second, maps), *repeats(first, second, maps)]
    matches = [m for m in matches if first.usable[m.a] and second.usable[m.b]]
    a, b = tuple(m.a for m in matches), tuple(m.b for m in matches)
    energy_a, energy_b = first.energy[list(a)], second.energy[list(b)]
    energy_d, cross = _measured(first, second, matches)
    equal = np.array([_is_equal(first, second, m) for m in matches], np.bool_)
    near = energy_d <= SAME_WITHIN**2 * np.minimum(energy_a, energy_b)
    same = equal | np.array(
        [_is_same(first, second, m, bool(n)) for m, n in zip(matches, near, strict=True)], np.bool_
    )
    energy_d[same] = 0.0
    reordered = np.array([m.way == "reordered" for m in matches], np.bool_)
    cross[reordered] = np.sqrt(energy_a * energy_b)[reordered]
    flat = [first.is_flat[m.a] and second.is_flat[m.b] for m in matches]
    return Pairing(
        first=first,
        second=second,
        a=a,
        b=b,
        size=first.sizes[list(a)],
        is_matrix=np.array(
            [
                first.is_matrix[m.a] and second.is_matrix[m.b] and not f
                for m, f in zip(matches, flat, strict=True)
            ],
            np.bool_,
        ),
        way=tuple(m.way for m in matches),
        equal=equal,
        same=same,
        energy_a=energy_a,
        energy_b=energy_b,
        energy_d=energy_d,
        cross=cross,
        maps=tuple(m for m in maps if not m.keeps_numbers or m.only_a or m.only_b),
    )


def _measured(
    first: Table, second: Table, matches: list[Match]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return squared norms of the sketches' differences, and inner products; 0 if reordered."""
    energy_d, cross = np.zeros(len(matches)), np.zeros(len(matches))
    use = [n for n, m in enumerate(matches) if m.way != "reordered"]
    if not use:
        return energy_d, cross
    a, b = [matches[n].a for n in use], [matches[n].b for n in use]
    x = first.cores(a).astype(np.float64)
    y = second.cores(b, [matches[n].way == "turned" for n in use]).astype(np.float64)
    lengths = np.array([first.starts[i + 1] - first.starts[i] for i in a], np.intp)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    energy_d[use] = np.add.reduceat((y - x) ** 2, starts)
    cross[use] = np.add.reduceat(x * y, starts)
    return energy_d, cross


def _is_equal(first: Table, second: Table, found: Match) -> bool:
    """Whether digests show that a pair has the same values, each in its place."""
    value = first.tensors[found.a].value
    return bool(value) and value == second.tensors[found.b].value


def _is_same(first: Table, second: Table, found: Match, near: bool) -> bool:
    """Whether a pair that digests cannot compare has the same values, within rounding."""
    one, other = first.tensors[found.a], second.tensors[found.b]
    is_told = found.way == "straight" and one.value and other.value and one.shape == other.shape
    if is_told and (one.dtype in BLOCKS) == (other.dtype in BLOCKS):
        return False  # the digests differ, and that is exact; but a block's digest is of its code
    return agree(one, other) and (near or found.way == "reordered")
