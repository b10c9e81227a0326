"""One family's sketches side by side: what evidence of more than two models starts from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.matching import match, table
from lineage.evidence.pairing import ROUNDING_RMS
from lineage.evidence.whiteness import LEAST_SIDE, spike
from lineage.fingerprints.lattice import ROUNDING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lineage.fingerprints import Fingerprint


_BEYOND = 30.0
"""Squared distance over what rounding leaves, from which two models differ by something else."""

_COARSE = (0.4 * ROUNDING["F16"]) ** 2
"""What storing leaves, as a share of the energy, from which sketches show it: half precision."""

_LOOKED_AT = 60
"""Pairs whose difference tells what trainings look like, at most."""


@dataclass(frozen=True)
class Stack:
    """The sketches of a family's common matrices.

    Attributes:
        cores: float64, shape (models, numbers): every common matrix's core, one after the other.
        starts: Where each matrix's core begins.
        shapes: Rows and columns of each matrix's core.
        rounding: Squared norm of the rounding each model's storage leaves, summed over matrices.
        energy: Exact squared norms, shape (models, matrices).
        sizes: Values in each matrix.
    """

    cores: NDArray[np.float64]
    starts: NDArray[np.intp]
    shapes: tuple[tuple[int, int], ...]
    rounding: NDArray[np.float64]
    energy: NDArray[np.float64]
    sizes: tuple[int, ...]

    def per_matrix(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Inner product of two models' rows, matrix by matrix."""
        return np.add.reduceat(x * y, self.starts)

    def slices(self) -> list[slice]:
        """Return where each matrix's core lies in a row."""
        ends = np.append(self.starts[1:], self.cores.shape[1])
        return [slice(int(a), int(b)) for a, b in zip(self.starts, ends, strict=True)]

    @cached_property
    def _alike(self) -> list[NDArray[np.intp]]:
        """Where the numbers of all matrices of one core shape lie, shape (matrices, rows, cols)."""
        places: dict[tuple[int, int], list[NDArray[np.intp]]] = {}
        for start, shape in zip(self.starts, self.shapes, strict=True):
            if min(shape) >= LEAST_SIDE:
                place = start + np.arange(shape[0] * shape[1], dtype=np.intp)
                places.setdefault(shape, []).append(place.reshape(shape))
        return [np.stack(found) for _, found in sorted(places.items())]

    def spikes(self, row: NDArray[np.float64]) -> float:
        """Return the median of `whiteness.spike` over a row's matrices.

        Infinite where no core is large enough to tell.
        """
        found = [spike(row[places]) for places in self._alike]
        every = np.concatenate([*found, np.zeros(0)])
        return float(np.median(every)) if every.size else np.inf

    def strengths(self, row: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return for each number of a row the root mean square of its matrix; inf for nothing."""
        cells = np.diff(np.append(self.starts, len(row)))
        each = np.sqrt(self.per_matrix(row, row) / cells)
        found: NDArray[np.float64] = np.repeat(np.where(each > 0, each, np.inf), cells)
        return found

    @cached_property
    def directed(self) -> float:
        """The median of `spikes` over what lies between a model and the one nearest to it.

        That is mostly what one training added, or what two that began at one place do not share.
        """
        away = self.distances + np.diag(np.full(len(self.cores), np.inf))
        away[away <= _BEYOND * (self.rounding[:, None] + self.rounding)] = np.inf
        pairs = {
            (min(i, int(j)), max(i, int(j)))
            for i, j in enumerate(away.argmin(axis=1))
            if np.isfinite(away[i, j])
        }
        looked = sorted(pairs)[:: -(-len(pairs) // _LOOKED_AT) or 1]
        found = [self.spikes(self.cores[i] - self.cores[j]) for i, j in looked]
        return float(np.median(found)) if found else 0.0

    def is_coarse(self, place: int) -> bool:
        """Whether a model is stored so coarsely that sketches show what rounding it left."""
        return bool(self.rounding[place] >= _COARSE * self.energy[place].sum())

    def roundings(self, place: int) -> NDArray[np.float64]:
        """Return the squared norm that storing a model leaves, matrix by matrix."""
        energy = self.energy[place]
        return np.asarray(energy * (self.rounding[place] / max(energy.sum(), 1e-300)), np.float64)

    def starts_of(self, places: Sequence[int], most: int) -> list[int]:
        """Return the models of some that came before most of them, as far as `leans` tells."""
        before = self.is_before[np.ix_(places, places)].sum(axis=1)
        return [places[int(i)] for i in np.argsort(-before, kind="stable")[:most]]

    @cached_property
    def gram(self) -> NDArray[np.float64]:
        """Inner products of all models' rows, taken from the middle of the family.

        From there the numbers are as small as the differences, and so is what is lost of them.
        """
        away = self.cores - self.cores.mean(axis=0)
        inner: NDArray[np.float64] = away @ away.T
        return inner

    @cached_property
    def distances(self) -> NDArray[np.float64]:
        """Squared distances of all pairs, shape (models, models)."""
        size = np.diag(self.gram)
        return np.asarray((size[:, None] + size - 2 * self.gram).clip(0), np.float64)

    @cached_property
    def leans(self) -> NDArray[np.float64]:
        """<i - b, b> / |i - b|^2 for all pairs (b, i): how far the way to i leans on its start.

        It is 0 where training led from b to i, -1 where it led back, and -1/2 for siblings that
        went as far. The inner product is taken from exact norms.
        """
        norms = self.energy.sum(axis=1)
        inner = (norms - norms[:, None] - self.distances) / 2
        nothing = np.zeros_like(inner)
        found: NDArray[np.float64] = np.divide(
            inner, self.distances, out=nothing, where=self.distances > 0
        )
        return found

    @cached_property
    def is_before(self) -> NDArray[np.bool_]:
        """Whether the first of a pair came before the second, as far as `leans` tells."""
        before: NDArray[np.bool_] = self.leans > -0.5
        np.fill_diagonal(before, False)
        return before

    @cached_property
    def start(self) -> int:
        """The model that came before most others."""
        return int(np.argmax(self.is_before.sum(axis=1)))


def stack(fingerprints: Sequence[Fingerprint]) -> Stack | None:
    """Stack the matrices that all models have; None where there is none."""
    tables = [table(f) for f in fingerprints]
    reference = tables[0]
    found = [[m for m in match(reference, t) if m.way != "reordered"] for t in tables]
    maps = [{m.a: m.b for m in matches} for matches in found]
    turned = [{m.a for m in matches if m.way == "turned"} for matches in found]
    common = [
        i
        for i, is_matrix in enumerate(reference.is_matrix)
        if is_matrix
        and all(i in m and t.usable[m[i]] for m, t in zip(maps, tables, strict=True))
        and not all(t.is_flat[m[i]] for m, t in zip(maps, tables, strict=True))
    ]
    if not common:
        return None
    lengths = [reference.starts[i + 1] - reference.starts[i] for i in common]
    cores = np.stack([
        t.cores((m[i] for i in common), (i in turns for i in common))
        for m, t, turns in zip(maps, tables, turned, strict=True)
    ]).astype(np.float64)  # fmt: skip
    rounding = np.array([
        sum(stored_share(t.tensors[m[i]].dtype) * t.energy[m[i]] for i in common)
        for m, t in zip(maps, tables, strict=True)
    ])  # fmt: skip
    return Stack(
        cores=cores,
        starts=np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.intp),
        shapes=tuple(reference.matrix(i).shape for i in common),
        rounding=rounding,
        energy=np.array([
            [t.energy[m[i]] for i in common] for m, t in zip(maps, tables, strict=True)
        ]),
        sizes=tuple(int(reference.sizes[i]) for i in common),
    )  # fmt: skip


def stored_share(dtype: str) -> float:
    """Return the share of a matrix's energy that storing it takes, in its sketch."""
    # The sketches themselves are stored in float32, which adds about as much again.
    return (ROUNDING_RMS * ROUNDING.get(dtype, 2.0**-24) + 2.0**-24) ** 2
