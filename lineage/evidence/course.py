"""Have two models one course behind them, or only one start?

A vector of a network (a bias, the gains of a norm) begins at 0 or at 1 whatever the seed, so where
it is now, less where it began, is the course it took. A descendant went on from where its ancestor
was: it has the ancestor's whole course, and regressed on that its own has the coefficient 1, up to
decay. Two trainings from one initialisation share of their courses what their data share and fall
short of 1, however alike their matrices are, for what those share is the start. Nothing follows
where vectors begin at random (recurrent layers): they share their start too, and look like one.

A course also tells which of two came first. It begins at nothing, so that a step is long beside
it where a matrix would hardly move, and what is not decayed, as vectors mostly are not, grows:
from a checkpoint to the next of its run a step leads on the way the course took, and a new step is
orthogonal to it; back from there both lead towards the start.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lineage.artifacts.dialects import is_no_weight
from lineage.evidence.matching import COUNTS
from lineage.fingerprints.sketch import VECTOR, Layout, Sketcher

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from lineage.evidence.matching import Table
    from lineage.evidence.pairing import Pairing

__all__ = ["SHORT_COURSE", "Steps", "course", "courses", "is_vector", "steps"]

SHORT_COURSE = 0.85
"""Two models that share less of their courses than this have only a start in common: of steps of
training nearly all are above it, most at 1; of pairs of two trainings most are below, but of
recurrent networks hardly any. Set on small networks that were trained for it."""

_LEAST = 8
"""Values in a vector: fewer say little."""

_WHOLE = VECTOR[0] * VECTOR[1]
"""Values of a vector that a fast sketch holds; of longer ones it has some."""

_STATISTICS = ("running_mean", "running_var")
"""What batches had on the way, not what training did."""

_DEVIATIONS = 2.0

_SAME = 1e-10
"""Squared step over the squared courses, below which a vector did not move."""

_MOVED = 1e-6
"""Squared norm of a course, a value, below which it is none: nothing was trained there."""


def is_vector(of: Table, place: int) -> bool:
    """Whether a tensor is one whose course can be told."""
    tensor, shape = of.tensors[place], of.shapes[place]
    return (
        len(shape) == 1
        and shape[0] >= _LEAST
        and (of.turns or shape[0] <= _WHOLE)
        and tensor.dtype not in COUNTS
        and bool(of.usable[place])
        and not is_no_weight(tensor.name)
        and not of.labels[place].endswith(_STATISTICS)
    )


def course(pairing: Pairing) -> float:
    """Return the most that two models can share of their courses; see `courses`."""
    first, second = pairing.first, pairing.second
    vectors = [
        (first.sizes[i], np.stack([first.matrix(i).reshape(-1), second.matrix(j).reshape(-1)]))
        for i, j, way in zip(pairing.a, pairing.b, pairing.way, strict=True)
        if way == "straight" and is_vector(first, i) and is_vector(second, j)
    ]
    return float(courses(vectors, 2)[0, 1])


def courses(
    vectors: Iterable[tuple[float, NDArray[np.float32]]], models: int
) -> NDArray[np.float64]:
    """Return the most that pairs of models can share of their courses.

    With x and y the courses of two models in one vector, what they share is the sum of <x, y> over
    the sum of |x|^2, or of |y|^2 where that is less: the part of the shorter course that is in the
    longer. Each vector counts by the root of its size over |x|^2 + |y|^2, so that none outweighs
    the others by its scale. Sketches leave an error in it; two deviations of that are added.

    Args:
        vectors: Size and cores, shape (models, cells), of each vector that all models have.
        models: How many there are.

    Returns:
        float64, shape (models, models): infinite where there is nothing to compare.
    """
    shared, own, variance = (np.zeros((models, models)) for _ in range(3))
    for size, cores in vectors:
        moved = _from_start(int(size), cores.astype(np.float64))
        inner = moved @ moved.T
        norm = np.diagonal(inner)
        both = norm[:, None] + norm
        has_moved = norm > _MOVED * size
        use = has_moved[:, None] & has_moved
        weight = np.divide(np.sqrt(size), both, out=np.zeros_like(both), where=use)
        shared += weight * inner
        own += weight * norm[:, None]
        folded = max(0.0, 1 - cores.shape[1] / size)
        apart = np.maximum(norm[:, None] * norm - inner**2, 0)
        variance += weight**2 * apart * folded / cores.shape[1]
    least = np.minimum(own, own.T)
    most = np.full_like(shared, np.inf)
    np.divide(shared + _DEVIATIONS * np.sqrt(variance), least, out=most, where=least > 0)
    return most


class Steps(NamedTuple):
    """Steps over all vectors, each of shape (models, models); [w, c] is of the step w -> c.

    Attributes:
        growth: Of the squared course, over the squared step: 1 where the step is orthogonal to the
            course of w, more where it goes on from there; of the step back it is the negative.
        along: Mean cosine of the step with the course of w.
        size: Mean squared step over the two squared courses; 0 where nothing moved.
        length: Mean square of both courses, a value, of vectors that moved: near that of the
            weights where vectors begin at random, as weights do.
    """

    growth: NDArray[np.float64]
    along: NDArray[np.float64]
    size: NDArray[np.float64]
    length: NDArray[np.float64]


def steps(
    vectors: Iterable[tuple[float, NDArray[np.float32], NDArray[np.float64]]], models: int
) -> Steps:
    """Hold the steps between models against the courses they start from.

    Args:
        vectors: Size, cores of shape (models, cells), and exact squared norms of shape (models,) of
            each vector that all models have.
        models: How many there are.
    """
    grown, moved, along, weight, energies, values = (np.zeros((models, models)) for _ in range(6))
    for size, cores, energy in vectors:
        course = _from_start(int(size), cores.astype(np.float64))
        inner = course @ course.T
        norm = np.diagonal(inner).copy()
        step = np.maximum(norm[:, None] + norm - 2 * inner, 0)
        both = norm[:, None] + norm
        use = (both > _MOVED * size) & (step > _SAME * both)
        begins_at_zero = np.array_equal(course, cores)
        more = energy - energy[:, None] if begins_at_zero else norm - norm[:, None]
        root = np.sqrt(size) * use
        over = np.divide(root, both, out=np.zeros_like(both), where=use)
        grown += over * more
        moved += over * step
        lengths = np.sqrt(np.maximum(step * norm[:, None], 1e-300))
        along += root * ((inner - norm[:, None]) / lengths).clip(-1, 1)
        weight += root
        energies += use * both / 2
        values += use * size
    return Steps(
        _share(grown, moved),
        _share(along, weight),
        _share(moved, weight),
        _share(energies, values),
    )


def _share(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide; by nothing it is 0."""
    found: NDArray[np.float64] = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
    return found


def _from_start(size: int, cores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take from a vector's cores that of its start: of ones, where that is nearer than of zeros."""
    one = _ones(size)
    from_one = cores - one
    is_one = np.median((from_one**2).sum(axis=1)) < np.median((cores**2).sum(axis=1))
    return from_one if is_one else cores


@lru_cache(maxsize=256)
def _ones(size: int) -> NDArray[np.float64]:
    """Return the core of a vector of ones."""
    sketcher = Sketcher(Layout.of((size,)))
    sketcher.add(np.ones(size, np.float32), "F32", 0)
    return sketcher.finish().core.astype(np.float64).reshape(-1)
