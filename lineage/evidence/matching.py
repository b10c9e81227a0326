"""Which tensor of one model is which of the other, whatever formats the two are in.

Names come first and are hints: a match by name says only what is compared with what. A match that
ignores names needs values that are digest for digest equal, a cosine that strangers never reach,
or sums of squares and fourth powers that agree to eight and five digits.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from lineage.artifacts.dialects import is_reordered_for_rotation
from lineage.evidence.layers import StackMap, differ, layer_maps, relabelled
from lineage.evidence.tables import COUNTS, Table, is_matrix, table
from lineage.fingerprints.sketch import Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from lineage.fingerprints.base import TensorPrint

__all__ = ["COUNTS", "Match", "Table", "Way", "agree", "is_matrix", "match", "table"]

Way = Literal["straight", "turned", "reordered"]
"""How the second of a match lies: as the first, transposed, or in an order of values that sketches
do not follow (the kernel of a convolution in another layout, rows that a converter permuted)."""

NEAR = 0.5
"""A cosine that two unrelated matrices never reach."""

ENERGY_AGREES, FOURTH_AGREES = 1e-7, 3e-5
"""Relative differences that summing the same values in another order leaves at most in the sum of
squares and of fourth powers, with a margin of several: they are summed in runs in single precision
and moved up in double, and 1.5e-8 and 7e-6 is the most seen up to 12 million values.

That of squares is also what limits the answer: a change by a share s of the norm that is orthogonal
to the weights moves it by no more than s^2."""


class Match(NamedTuple):
    """The places of two tensors in their tables, and how the second lies."""

    a: int
    b: int
    way: Way = "straight"


def agree(one: TensorPrint, other: TensorPrint) -> bool:
    """Whether two tensors have the same values as far as sums tell that know no order."""
    x, y = one.sketch, other.sketch
    return (
        x is not None
        and y is not None
        and one.size == other.size
        and x.zeros == y.zeros
        and abs(x.energy - y.energy) <= ENERGY_AGREES * x.energy
        and abs(x.fourth - y.fourth) <= FOURTH_AGREES * x.fourth
    )


def match(first: Table, second: Table, maps: Sequence[StackMap] | None = None) -> list[Match]:
    """Say which tensor is which: by name, by equal values, by name in any dialect, by nearness.

    Tensors match only where one can be the other or its transpose. A fused tensor whose like the
    other model does not have is matched part by part.

    Args:
        first: One model.
        second: The other.
        maps: Which layers are one, where that is known; else they are looked for where the two
            have other numbers of layers.
    """
    if maps is None:
        maps = layer_maps(first, second) if differ(first, second) else ()
    if not maps and first.names == second.names and first.shapes == second.shapes:
        return _oriented(first, second, [Match(i, i) for i in range(first.whole)])
    return _Matcher(first, second, maps).matches()


def repeats(first: Table, second: Table, maps: Iterable[StackMap]) -> list[Match]:
    """Match the tensors of layers that are one of the other's layers, which is matched already."""
    found = []
    for of in maps:
        ours, theirs = first.layers[of.stack], second.layers[of.stack]
        for i, j in of.repeats_a + of.repeats_b:
            both = ours[i].keys() & theirs[j].keys()
            found += [
                Match(ours[i][role], theirs[j][role])
                for role in sorted(both)
                if first.shapes[ours[i][role]] == second.shapes[theirs[j][role]]
            ]
    return found


class _Matcher:
    """Takes tensors off two lists, the surest matches first."""

    def __init__(self, first: Table, second: Table, maps: Sequence[StackMap]) -> None:
        self.first, self.second = first, second
        self.labels = {id(first): list(first.labels), id(second): list(second.labels)}
        for place, label in relabelled(second, maps):
            self.labels[id(second)][place] = label
        self.is_mapped = bool(maps)
        self.free_a, self.free_b = set(range(first.whole)), set(range(second.whole))
        self.found: list[Match] = []

    def matches(self) -> list[Match]:
        """Return all matches."""
        first, second = self.first, self.second
        if self.is_mapped:
            self._take(lambda of, i: (self._label(of, i), of.shapes[i]))
        else:
            self._take(lambda of, i: (of.names[i], of.shapes[i]))
        self._take(lambda of, i: (of.tensors[i].value, of.shapes[i]))
        sure = len(self.found)
        self._take(lambda of, i: (self._label(of, i), of.form(i)))
        self._split()
        self._take(lambda of, i: (self._label(of, i), of.form(i)))
        self.found = _oriented(first, second, self.found)
        by_name = [(m, self._is_far(m)) for m in self.found[sure:]]
        doubtful = [m for m, is_far in by_name if is_far]
        self.found = self.found[:sure] + [m for m, is_far in by_name if not is_far]
        self.free_a.update(m.a for m in doubtful)
        self.free_b.update(m.b for m in doubtful)
        alike = [m for m in doubtful if agree(first.tensors[m.a], second.tensors[m.b])]
        self._add(m._replace(way="reordered") for m in alike)
        self._add(_nearest(first, second, self.free_a, self.free_b))
        self._reordered()
        self._add(m for m in doubtful if not self._is_reordered(m))
        return sorted(self._without_torn())

    def _label(self, of: Table, place: int) -> str:
        return self.labels[id(of)][place]

    def _take(self, key: Callable[[Table, int], object]) -> None:
        """Match what has one key that nothing else of its model has."""
        ours, theirs = _once(self.first, self.free_a, key), _once(self.second, self.free_b, key)
        self._add([Match(ours[found], theirs[found]) for found in ours.keys() & theirs.keys()])

    def _add(self, matches: Iterable[Match]) -> None:
        """Keep matches of which both are still free."""
        for found in matches:
            if found.a in self.free_a and found.b in self.free_b:
                self.found.append(found)
                self.free_a.remove(found.a)
                self.free_b.remove(found.b)

    def _split(self) -> None:
        """Put the parts of fused tensors that found no like in their place."""
        for of, free in ((self.first, self.free_a), (self.second, self.free_b)):
            for place in free & of.parts.keys():
                free.update(of.parts[place])

    def _is_far(self, found: Match) -> bool:
        """Whether two matrices of one name have little else in common."""
        i, j = found.a, found.b
        if not (self.first.usable[i] and self.second.usable[j] and self.first.is_matrix[i]):
            return False
        x, y = self.first.matrix(i), self.second.matrix(j)
        return _cosine(x, y.T if found.way == "turned" else y) <= NEAR

    def _is_reordered(self, found: Match) -> bool:
        """Whether a converter may have reordered one's rows: then the two cannot be compared."""
        return is_reordered_for_rotation(self.first.names[found.a], self.second.names[found.b])

    def _reordered(self) -> None:
        """Match values whose order alone may differ, by name if it can be, and else if unmistaken.

        Tensors that are alike by convention tell nothing without a name.
        """
        alike = self._alike()
        named = [(i, j) for i, j in alike if self._is_named_alike(i, j)]
        self._add(Match(i, j, "reordered") for i, j in named)
        left = [(i, j) for i, j in alike if not self.first.is_flat[i]]
        ours, theirs = Counter(i for i, _ in left), Counter(j for _, j in left)
        self._add(Match(i, j, "reordered") for i, j in left if ours[i] == theirs[j] == 1)

    def _alike(self) -> list[tuple[int, int]]:
        """Return all places left whose sums agree."""
        ours, theirs = (
            np.array([i for i in sorted(free) if of.usable[i] and of.energy[i] > 0], np.intp)
            for of, free in ((self.first, self.free_a), (self.second, self.free_b))
        )
        x, y = self.first.energy[ours], self.second.energy[theirs]
        near = np.abs(x[:, None] - y) <= ENERGY_AGREES * x[:, None]
        pairs = [(int(ours[r]), int(theirs[c])) for r, c in np.argwhere(near)]
        return [(i, j) for i, j in pairs if agree(self.first.tensors[i], self.second.tensors[j])]

    def _is_named_alike(self, i: int, j: int) -> bool:
        return self._label(self.first, i) == self._label(self.second, j)

    def _without_torn(self) -> list[Match]:
        """Drop the parts of a tensor that was matched whole after all."""
        whole = {m.a for m in self.found}, {m.b for m in self.found}
        torn = [
            {part for place in places & of.parts.keys() for part in of.parts[place]}
            for of, places in zip((self.first, self.second), whole, strict=True)
        ]
        return [m for m in self.found if m.a not in torn[0] and m.b not in torn[1]]


def _once(of: Table, places: set[int], key: Callable[[Table, int], object]) -> dict[object, int]:
    """Return the keys that exactly one of these tensors has, and its place."""
    found: dict[object, list[int]] = {}
    for place in sorted(places):
        found.setdefault(key(of, place), []).append(place)
    return {k: where[0] for k, where in found.items() if len(where) == 1}


def _oriented(first: Table, second: Table, matches: list[Match]) -> list[Match]:
    """Say of each match how it lies: as the extents have it, or as the values, where it is square.

    A square matrix is turned only where its transpose is near and it is not.
    """
    if not (first.turns and second.turns):
        return matches
    return [m._replace(way="turned") if _is_turned(first, second, m.a, m.b) else m for m in matches]


def _is_turned(first: Table, second: Table, i: int, j: int) -> bool:
    one, other = Layout.of(first.shapes[i]), Layout.of(second.shapes[j])
    if one.is_vector or (one.rows, one.cols) != (other.cols, other.rows):
        return False
    if one.rows != one.cols:
        return True
    if not (first.usable[i] and second.usable[j] and first.is_matrix[i]):
        return False
    if first.tensors[i].value and first.tensors[i].value == second.tensors[j].value:
        return False
    x, y = first.matrix(i), second.matrix(j)
    return _cosine(x, y) <= NEAR < _cosine(x, y.T)


def _cosine(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    both = float(np.linalg.norm(x)) * float(np.linalg.norm(y))
    return float(np.vdot(x, y)) / both if both else 0.0


def _nearest(first: Table, second: Table, free_a: set[int], free_b: set[int]) -> list[Match]:
    """Match what is left, form by form, by the cosine of the sketches, transposed ones too."""
    from scipy.optimize import linear_sum_assignment

    matches: list[Match] = []
    ours, theirs = _by_form(first, free_a), _by_form(second, free_b)
    for form in sorted(ours.keys() & theirs.keys()):
        rows, cols = ours[form], theirs[form]
        cosine, is_turned = _cosines(first, rows, second, cols)
        for r, c in zip(*linear_sum_assignment(-cosine), strict=True):
            if cosine[r, c] > NEAR:
                way: Way = "turned" if is_turned[r, c] else "straight"
                matches.append(Match(rows[r], cols[c], way))
    return matches


def _by_form(of: Table, places: set[int]) -> dict[tuple[int, ...], list[int]]:
    found: dict[tuple[int, ...], list[int]] = {}
    for place in sorted(places):
        if of.usable[place] and of.is_matrix[place]:
            found.setdefault(of.form(place), []).append(place)
    return found


def _cosines(
    first: Table, rows: Sequence[int], second: Table, cols: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return all cosines, each in the orientation in which it is the greater, and which that is."""
    cosine = np.full((len(rows), len(cols)), -1.0)
    is_turned = np.zeros(cosine.shape, np.bool_)
    for turn in (False, True) if first.turns and second.turns else (False,):
        for shape in {first.matrix(i).shape for i in rows}:
            like = shape[::-1] if turn else shape
            r = [n for n, i in enumerate(rows) if first.matrix(i).shape == shape]
            c = [n for n, j in enumerate(cols) if second.matrix(j).shape == like]
            if not c:
                continue
            x = _unit([first.matrix(rows[n]) for n in r])
            y = _unit([second.matrix(cols[n]).T if turn else second.matrix(cols[n]) for n in c])
            here, seen = np.ix_(r, c), x @ y.T
            is_turned[here] = np.where(seen > cosine[here], turn, is_turned[here])
            cosine[here] = np.maximum(cosine[here], seen)
    return cosine, is_turned


def _unit(cores: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return cores as rows of norm 1, or 0."""
    rows = np.stack([core.reshape(-1) for core in cores]).astype(np.float64)
    unit: NDArray[np.float64] = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-300)
    return unit
