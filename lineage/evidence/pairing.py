"""Which tensor of one model is which of the other, and the numbers every detector starts from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from lineage.fingerprints.lattice import ROUNDING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from lineage.fingerprints import Fingerprint, TensorPrint

_WRAPPERS = re.compile(
    r"^(?:module|model|base_model|transformer|bert|roberta|encoder|backbone|network|_orig_mod"
    r"|language_model|text_model)\."
)
"""Prefixes that wrappers put before every name; they are taken off before names are compared."""

ROUNDING_RMS = 0.41
"""Root mean square of a rounding error over its largest value, for values of any size: the error
is uniform in half a unit in the last place, and that unit is between 1 and 1/2 of its largest."""


class Table:
    """A fingerprint's tensors as arrays, one place per tensor."""

    def __init__(self, tensors: tuple[TensorPrint, ...]) -> None:
        self.tensors = tensors
        self.usable = np.array([t.sketch is not None and t.nonfinite == 0 for t in tensors])
        cores = [t.sketch.core.reshape(-1) for t in tensors if t.sketch is not None]
        lengths = [0 if t.sketch is None else t.sketch.core.size for t in tensors]
        self.core = np.concatenate([*cores, np.zeros(0, np.float32)])
        self.starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.intp)
        self.energy = np.array([0.0 if t.sketch is None else t.sketch.energy for t in tensors])
        self.sizes = np.array([t.size for t in tensors], np.float64)
        self.is_flat = [is_flat(t) for t in tensors]
        self.names = tuple(t.name for t in tensors)
        self.shapes = tuple(t.shape for t in tensors)

    def cores(self, places: Iterable[int]) -> NDArray[np.float32]:
        """Return the cores of some tensors, one after the other."""
        parts = [self.core[self.starts[i] : self.starts[i + 1]] for i in places]
        return np.concatenate([*parts, np.zeros(0, np.float32)])


_tables: WeakKeyDictionary[Fingerprint, Table] = WeakKeyDictionary()


def table(fingerprint: Fingerprint) -> Table:
    """Return the fingerprint's table, made once."""
    found = _tables.get(fingerprint)
    if found is None:
        found = _tables[fingerprint] = Table(fingerprint.tensors)
    return found


@dataclass(frozen=True)
class Pairing:
    """Two models, tensor by tensor.

    Attributes:
        a: Places in the first table of the tensors both have.
        b: Places in the second, in the same order.
        size: Values in each.
        is_matrix: At least two dimensions above 1 and 64 values, and not one repeated value: two
            independent models do not agree in such a tensor by convention, as they do in gains of
            1, biases of 0 and masks.
        equal: Bitwise the same values.
        energy_a: Exact squared norms.
        energy_b: Exact squared norms.
        energy_d: Estimated squared norms of the differences; 0 where equal.
        cross: Inner products of the sketches: the better estimate where the two are far apart.
    """

    first: Table
    second: Table
    a: tuple[int, ...]
    b: tuple[int, ...]
    size: NDArray[np.float64]
    is_matrix: NDArray[np.bool_]
    equal: NDArray[np.bool_]
    energy_a: NDArray[np.float64]
    energy_b: NDArray[np.float64]
    energy_d: NDArray[np.float64]
    cross: NDArray[np.float64]

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
        """Return the core of the difference of one pair, `b - a`, as a matrix."""
        i, j = self.a[place], self.b[place]
        one, other = self.first.tensors[i].sketch, self.second.tensors[j].sketch
        assert one is not None
        assert other is not None
        return other.core.astype(np.float64) - one.core.astype(np.float64)


def _rounding(of: Table, place: int) -> float:
    return ROUNDING.get(of.tensors[place].dtype, 2.0**-24)


def pair(one: Fingerprint, other: Fingerprint) -> Pairing:
    """Pair the tensors of two models and measure each difference."""
    first, second = table(one), table(other)
    matches = match(first, second)
    matches = [(i, j) for i, j in matches if first.usable[i] and second.usable[j]]
    a, b = tuple(i for i, _ in matches), tuple(j for _, j in matches)
    lengths = np.array([first.starts[i + 1] - first.starts[i] for i in a], np.intp)
    x, y = first.cores(a).astype(np.float64), second.cores(b).astype(np.float64)
    difference = y - x
    if lengths.size:
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        energy_d = np.add.reduceat(difference * difference, starts)
        cross = np.add.reduceat(x * y, starts)
    else:
        energy_d = cross = np.zeros(0)
    equal = np.array(
        [first.tensors[i].value == second.tensors[j].value for i, j in matches], np.bool_
    )
    energy_d[equal] = 0.0
    return Pairing(
        first=first,
        second=second,
        a=a,
        b=b,
        size=first.sizes[list(a)],
        is_matrix=np.array(
            [
                is_matrix(first.shapes[i]) and not (first.is_flat[i] and second.is_flat[j])
                for i, j in matches
            ],
            np.bool_,
        ),
        equal=equal,
        energy_a=first.energy[list(a)],
        energy_b=second.energy[list(b)],
        energy_d=energy_d,
        cross=cross,
    )


def is_matrix(shape: tuple[int, ...]) -> bool:
    """Whether a tensor is wide enough to tell one training run from another."""
    extents = [n for n in shape if n > 1]
    return len(extents) >= 2 and int(np.prod(extents)) >= 64


def is_flat(tensor: TensorPrint) -> bool:
    """Whether it has no two different values but zero: such tensors are alike by convention."""
    return tensor.sketch is None or tensor.sketch.is_flat


def match(first: Table, second: Table) -> list[tuple[int, int]]:
    """Say which tensor is which: by name, by equal values, by name without wrappers, by nearness.

    Only tensors of one shape are matched. The last step needs a cosine above one half, which two
    unrelated matrices never reach, so it cannot make strangers look alike.
    """
    if first.names == second.names and first.shapes == second.shapes:
        return [(i, i) for i in range(len(first.names))]
    matches: list[tuple[int, int]] = []
    free_a, free_b = set(range(len(first.names))), set(range(len(second.names)))

    def take(key: Callable[[TensorPrint], object]) -> None:
        ours, theirs = _once(first, free_a, key), _once(second, free_b, key)
        for found in ours.keys() & theirs.keys():
            matches.append((ours[found], theirs[found]))
            free_a.remove(ours[found])
            free_b.remove(theirs[found])

    take(lambda t: (t.name, t.shape))
    take(lambda t: (t.value, t.shape))
    take(lambda t: (_bare(t.name), t.shape))
    matches += _nearest(first, second, free_a, free_b)
    return sorted(matches)


def _once(of: Table, places: set[int], key: Callable[[TensorPrint], object]) -> dict[object, int]:
    """Return the keys that exactly one of these tensors has, and its place."""
    found: dict[object, list[int]] = {}
    for place in sorted(places):
        found.setdefault(key(of.tensors[place]), []).append(place)
    return {k: where[0] for k, where in found.items() if len(where) == 1}


def _bare(name: str) -> str:
    """Take every wrapper's prefix off a name."""
    while (shorter := _WRAPPERS.sub("", name)) != name:
        name = shorter
    return name


def _nearest(
    first: Table, second: Table, free_a: set[int], free_b: set[int]
) -> list[tuple[int, int]]:
    """Match what is left, shape by shape, by the cosine of the sketches."""
    from scipy.optimize import linear_sum_assignment

    matches: list[tuple[int, int]] = []
    shapes = {first.shapes[i] for i in free_a} & {second.shapes[j] for j in free_b}
    for shape in sorted(shapes):
        rows = [i for i in sorted(free_a) if first.shapes[i] == shape and first.usable[i]]
        cols = [j for j in sorted(free_b) if second.shapes[j] == shape and second.usable[j]]
        if not rows or not cols or not is_matrix(shape):
            continue
        x = first.cores(rows).reshape(len(rows), -1).astype(np.float64)
        y = second.cores(cols).reshape(len(cols), -1).astype(np.float64)
        x /= np.linalg.norm(x, axis=1, keepdims=True) + 1e-300
        y /= np.linalg.norm(y, axis=1, keepdims=True) + 1e-300
        cosine = x @ y.T
        for r, c in zip(*linear_sum_assignment(-cosine), strict=True):
            if cosine[r, c] > 0.5:
                matches.append((rows[r], cols[c]))
    return matches
