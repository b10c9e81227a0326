"""Many models of one structure side by side: what every pair of them has, computed at once.

A pair's numbers are those of `pairing` and `kinship`; here they are arrays over all pairs, since a
family of a thousand models has half a million of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lineage.artifacts.dialects import layered
from lineage.evidence.copied import without_largest
from lineage.evidence.course import Steps, courses, is_vector, steps
from lineage.evidence.growth import Grown, Growth
from lineage.evidence.heads import Head, Heads, heads
from lineage.evidence.layers import NEAR
from lineage.evidence.matching import table
from lineage.evidence.spectra import Spectra, spectra

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from lineage.fingerprints import Fingerprint

__all__ = ["Panel", "structure"]


def structure(fingerprint: Fingerprint) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return what models of one panel share: the names and shapes of their tensors."""
    return tuple((t.name, t.shape) for t in fingerprint.tensors)


@dataclass(frozen=True, slots=True)
class Matrix:
    """One matrix of every model.

    Attributes:
        name: Of the tensor.
        size: Values in it.
        cells: Numbers in its sketch.
        cores: float32, shape (models, cells).
        energy: float64, shape (models,): exact squared norms.
        fourth: float64, shape (models,): sums of fourth powers.
        code: int, shape (models,): equal where the values are, digest for digest.
        rows: float32, shape (models, row buckets): exact squared norms of the row buckets.
        cols: float32, shape (models, column buckets).
    """

    name: str
    size: int
    cells: int
    cores: NDArray[np.float32]
    energy: NDArray[np.float64]
    fourth: NDArray[np.float64]
    code: NDArray[np.int64]
    rows: NDArray[np.float32]
    cols: NDArray[np.float32]

    def inner(self) -> NDArray[np.float64]:
        """Inner products of the sketches of all pairs."""
        wide = self.cores.astype(np.float64)
        product: NDArray[np.float64] = wide @ wide.T
        return product

    def core(self) -> NDArray[np.float32]:
        """Return the sketches as matrices: shape (models, rows, columns)."""
        return self.cores.reshape(len(self.cores), -1, self.cols.shape[1])

    @property
    def is_in_layer(self) -> bool:
        """Whether it is a layer's."""
        return layered(self.name) is not None

    def plain(self) -> NDArray[np.float64]:
        """Cosines of all pairs of sketches without the largest direction of each; see `copied`."""
        wide = self.core().astype(np.float64)
        flat = without_largest(wide).reshape(len(wide), -1)
        flat /= np.linalg.norm(flat, axis=1, keepdims=True) + 1e-300
        cosine: NDArray[np.float64] = np.where(self.code[:, None] == self.code, 1.0, flat @ flat.T)
        return cosine

    def squared(self, inner: NDArray[np.float64]) -> NDArray[np.float64]:
        """Estimated squared norms of all differences; 0 where the values are equal."""
        norm = np.diagonal(inner)
        found: NDArray[np.float64] = norm[:, None] + norm - 2 * inner
        np.maximum(found, 0, out=found)
        found[self.code[:, None] == self.code] = 0.0
        return found

    def from_one(self, place: int) -> NDArray[np.float64]:
        """Estimated squared norms of the differences to one model; 0 where the values are equal."""
        step = self.cores - self.cores[place]
        found: NDArray[np.float64] = np.einsum("ij,ij->i", step, step, dtype=np.float64)
        found[self.code == self.code[place]] = 0.0
        return found


class Panel:
    """Models of one structure.

    Attributes:
        models: As given; places in the arrays are places in it.
        matrices: The matrices all have with finite values, and not one repeated value in each.
    """

    def __init__(self, models: Sequence[Fingerprint]) -> None:
        """Line the models up.

        Raises:
            ValueError: If they are not of one structure.
        """
        if len({structure(model) for model in models}) != 1:
            raise ValueError("a panel's models have the same tensors")
        self.models = tuple(models)
        self.matrices = tuple(self._lined_up())

    def _lined_up(self) -> Iterator[Matrix]:
        tables = [table(model) for model in self.models]
        for place, tensor in enumerate(self.models[0].tensors):
            if not all(t.is_matrix[place] for t in tables):
                continue
            prints = [model.tensors[place] for model in self.models]
            if not all(t.usable[place] for t in tables) or all(t.is_flat[place] for t in tables):
                continue
            sketches = [p.sketch for p in prints if p.sketch is not None]
            codes: dict[bytes, int] = {}
            yield Matrix(
                name=tensor.name,
                size=tensor.size,
                cells=sketches[0].core.size,
                cores=np.stack([s.core.reshape(-1) for s in sketches]),
                energy=np.array([s.energy for s in sketches]),
                fourth=np.array([s.fourth for s in sketches]),
                code=np.array([codes.setdefault(p.value, len(codes)) for p in prints]),
                rows=np.stack([s.rows for s in sketches]),
                cols=np.stack([s.cols for s in sketches]),
            )

    def __len__(self) -> int:
        return len(self.models)

    @cached_property
    def sizes(self) -> NDArray[np.float64]:
        """Values in each matrix."""
        return np.array([m.size for m in self.matrices], np.float64)

    @cached_property
    def zeros(self) -> NDArray[np.float64]:
        """Share of the values in matrices that are zero, of each model."""
        names = {m.name for m in self.matrices}
        total = max(1.0, float(self.sizes.sum()))
        return np.array([
            sum(t.sketch.zeros for t in model.tensors if t.sketch is not None and t.name in names)
            / total
            for model in self.models
        ])  # fmt: skip

    @cached_property
    def courses(self) -> NDArray[np.float64]:
        """The most that every pair can share of their courses; see `course.courses`."""
        vectors = ((size, cores) for size, cores, _ in self._vectors())
        return courses(vectors, len(self))

    @cached_property
    def grown(self) -> Grown:
        """How much more each has of what training leaves; see `growth`."""
        growth = Growth(len(self))
        for one in self.matrices:
            growth.add(
                one.size, one.energy, one.fourth, (one.rows, one.cols), one.squared(one.inner()),
                one.core(), is_in_layer=one.is_in_layer,
            )  # fmt: skip
        return growth.finish()

    @cached_property
    def steps(self) -> Steps:
        """How every step goes on from the course of the model it starts at; see `course.steps`."""
        return steps(self._vectors(), len(self))

    @cached_property
    def spectra(self) -> Spectra:
        """In which directions every step leads; see `spectra.spectra`."""
        cores = ((m.size, m.core(), m.code) for m in self.matrices)
        return spectra(cores, len(self))

    @cached_property
    def heads(self) -> Heads:
        """How what predicts tokens grew in every step; see `heads.heads`."""
        outside = [m for m in self.matrices if not m.is_in_layer]
        found = [Head(m.name, m.energy, m.core(), m.squared(m.inner())) for m in outside]
        return heads(found, len(self))

    def _vectors(self) -> Iterator[tuple[float, NDArray[np.float32], NDArray[np.float64]]]:
        """Yield size, cores and energies of each vector whose course can be told."""
        tables = [table(model) for model in self.models]
        for first in tables[:1]:
            for place in range(first.whole):
                if all(is_vector(t, place) for t in tables):
                    cores = np.stack([t.matrix(place).reshape(-1) for t in tables])
                    energy = np.array([t.energy[place] for t in tables])
                    yield first.sizes[place], cores, energy

    @cached_property
    def pairs(self) -> Pairs:
        """What all pairs have, pooled over matrices."""
        return _pooled(self)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Arrays of shape (models, models).

    Attributes:
        cosine: As `Kinship.cosine`.
        others_cosine: The same over matrices that are not equal; NaN where all are.
        others_log10_p: Of a cosine of these as large, under independence; NaN where all are equal.
        equal_share: Share of the values in matrices that are equal.
        squared: Squared norm of the difference over all matrices.
        margin: [i, j] is how much nearer to orthogonal the difference is to i than to j; see
            `direction`.
        share: That over the margin of a pure step.
        log10_p: Of a cosine this large, under independence.
        far_share: Share of the weight of matrices whose cosine is below .5.
        far_cosine: The pooled cosine of these; 0 where there are none.
    """

    cosine: NDArray[np.float64]
    others_cosine: NDArray[np.float64]
    others_log10_p: NDArray[np.float64]
    equal_share: NDArray[np.float64]
    squared: NDArray[np.float64]
    margin: NDArray[np.float64]
    share: NDArray[np.float64]
    log10_p: NDArray[np.float64]
    far_share: NDArray[np.float64]
    far_cosine: NDArray[np.float64]


def _pooled(panel: Panel) -> Pairs:
    from scipy.special import log_ndtr

    n = len(panel)
    zeros = np.zeros((n, n))
    cosine, others, weight_others, variance_others = (zeros.copy() for _ in range(4))
    equal, squared, margin, pure, moved = (zeros.copy() for _ in range(5))
    far, far_weight = zeros.copy(), zeros.copy()
    weight = np.sqrt(panel.sizes)
    weight = weight / weight.sum() if len(weight) else weight
    variance = 0.0
    for share, one in zip(weight, panel.matrices, strict=True):
        raw = one.inner()
        d, e = one.squared(raw), one.energy
        least = np.minimum(e[:, None], e)
        inner = np.where(d < least, (e[:, None] + e - d) / 2, raw)
        both = np.sqrt(e[:, None] * e)
        found = np.divide(inner, both, out=np.zeros_like(both), where=both > 0).clip(-1, 1)
        cosine += share * found
        is_far = (found if one.is_in_layer else np.minimum(found, one.plain())) < NEAR
        far += np.where(is_far, share * found, 0)
        far_weight += np.where(is_far, share, 0)
        is_equal = one.code[:, None] == one.code
        others += np.where(is_equal, 0, share * found)
        weight_others += np.where(is_equal, 0, share)
        equal += one.size * is_equal
        squared += d
        use = (d > 0) & (least > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            with_first = np.abs(inner - e[:, None]) / np.sqrt(d * e[:, None])
            with_second = np.abs(e - inner) / np.sqrt(d * e)
            margin += np.where(use, one.size * (with_second - with_first), 0)
            pure += np.where(use, one.size * np.sqrt(d / (d + least)), 0)
        moved += one.size * use
        own = share**2 * (1 / one.cells + 1 / one.size)
        variance += own
        variance_others += np.where(is_equal, 0, own)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Pairs(
            cosine=cosine,
            others_cosine=others / weight_others,
            others_log10_p=log_ndtr(-others / np.sqrt(variance_others)) / np.log(10),
            equal_share=equal / max(1.0, panel.sizes.sum()),
            squared=squared,
            margin=np.where(moved > 0, margin / moved, 0),
            share=np.where(pure > 0, margin / pure, 0),
            log10_p=log_ndtr(-cosine / np.sqrt(variance)) / np.log(10),
            far_share=far_weight,
            far_cosine=far / np.maximum(far_weight, 1e-300),
        )
