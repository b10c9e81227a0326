"""The map between two streams' coordinates: permuted, turned, narrowed.

It is fitted on labelled vectors alone (embeddings of the same tokens, places, pixels) and never on
what it is then scored on: two strangers' embeddings can be turned onto each other a little, and
nothing else of theirs lies together afterwards.

Source: orthogonal Procrustes, Schönemann (1966); assignment, Kuhn (1955), scipy's
`linear_sum_assignment`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import svd
from scipy.optimize import linear_sum_assignment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

__all__ = ["Turn", "fitted", "quiet", "unturned"]

_PERMUTED = 0.8
"""Mean magnitude of the best entries, one a row, from which a turn is a permutation with signs.
Entries of a rotation drawn at random are about 1 / sqrt(width)."""

_WIDE = 1024
"""Numbers in a stream above which vectors are turned in single precision to be looked at."""

_DIRECTIONS = 256
"""Quiet directions that are looked along, at most: evenly chosen."""

_LEAST_ENERGY = 1e-8
"""Of the largest: below it a direction has no labelled vector."""


@dataclass(frozen=True)
class Turn:
    """How one stream's coordinates become another's: `b_vectors @ matrix * scale` are `a`'s.

    Attributes:
        matrix: float64, shape (width of b, width of a), its rows or columns orthonormal.
        scale: One number for the whole stream.
        kind: `same`, `permuted` (signs included) or `rotated`; narrower streams too.
        order: Where it is no rotation: for each coordinate of b the place in a.
        signs: And its sign.
        rank: How many directions the labelled vectors fix.
        seen: Those directions of a's stream, shape (width of a, rank).
    """

    matrix: NDArray[np.float64]
    scale: float
    kind: str
    order: NDArray[np.intp] | None
    signs: NDArray[np.float64] | None
    rank: int
    seen: NDArray[np.float64]

    @property
    def is_whole(self) -> bool:
        """Whether every direction is fixed."""
        return bool(self.rank >= min(self.matrix.shape) - 1)  # a centred stream has one less

    def moved(self, values: NDArray[np.floating], *, is_signed: bool) -> NDArray[np.float64] | None:
        """Return one number a coordinate, as a gain or a bias, in a's order; None if rotated.

        Args:
            values: float32, shape (width of b,).
            is_signed: Whether they change sign with their coordinates.
        """
        if self.order is None or self.signs is None:
            return None
        found = np.zeros(self.matrix.shape[1])
        found[self.order] = values * (self.signs if is_signed else 1.0)
        return found

    def apply(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return b's vectors (a row each) in a's coordinates, without the scale."""
        if self.order is not None and self.signs is not None:
            found = np.zeros((len(vectors), self.matrix.shape[1]))
            found[:, self.order] = vectors * self.signs
            return found
        turned: NDArray[np.float64] = np.asarray(vectors, np.float64) @ self.matrix
        return turned

    def compared(self, vectors: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the same to look at: of a wide stream in single precision, which is quicker."""
        if self.order is not None or self.matrix.shape[0] <= _WIDE:
            return self.apply(vectors)
        found: NDArray[np.floating] = np.asarray(vectors, np.float32) @ self._single
        return found

    @cached_property
    def _single(self) -> NDArray[np.float32]:
        return self.matrix.astype(np.float32)


def fitted(pairs: Iterable[tuple[Matrix, Matrix]]) -> Turn:
    """Fit the turn that takes b's labelled vectors to a's.

    Args:
        pairs: (a's vectors, b's vectors) of the same labels; float32, shapes (n, width of a) and
            (n, width of b). Each pair counts by its energy.
    """
    cross, energy = np.zeros((1, 1)), 0.0
    for a, b in pairs:
        weight = len(a) / (float(np.linalg.norm(a)) * float(np.linalg.norm(b)) + 1e-300)
        cross = cross + weight * (b.astype(np.float64).T @ a.astype(np.float64))
        energy += weight * float(np.sum(b.astype(np.float64) ** 2))
    left, values, right = svd(cross, full_matrices=False, lapack_driver="gesdd")
    matrix: NDArray[np.float64] = left @ right
    scale = float(values.sum() / energy) if energy else 1.0
    rank = int(np.sum(values > _LEAST_ENERGY * values[0])) if values[0] > 0 else 0
    return _snapped(matrix, scale, rank, right[:rank].T)


def unturned(width: int) -> Turn:
    """Return the turn that leaves everything as it is."""
    whole = np.eye(width)
    return Turn(whole, 1.0, "same", np.arange(width), np.ones(width), width, whole)


def quiet(vectors: Iterable[Matrix]) -> NDArray[np.float64]:
    """Return the quarter of a stream's directions that labelled vectors use least.

    Args:
        vectors: Of each kind, float32, shape (n, width).

    Returns:
        float64, shape (width, directions), orthonormal columns. Directions that no labelled vector
        has at all are left out: there a turn is arbitrary.
    """
    inner: NDArray[np.float64] = sum(
        (one.T.astype(np.float64) @ one) / (float(np.linalg.norm(one)) ** 2 + 1e-300)
        for one in vectors
    )  # type: ignore[assignment]
    energies, directions = np.linalg.eigh(inner)
    used = energies > _LEAST_ENERGY * energies[-1]
    quietest = directions[:, used][:, : -(-int(used.sum()) // 4)]
    if quietest.shape[1] <= _DIRECTIONS:
        return np.asarray(quietest, np.float64)
    some = np.unique(np.linspace(0, quietest.shape[1] - 1, _DIRECTIONS).astype(np.intp))
    found: NDArray[np.float64] = quietest[:, some]
    return found


def _snapped(
    matrix: NDArray[np.float64], scale: float, rank: int, seen: NDArray[np.float64]
) -> Turn:
    """Take a turn that is nearly a permutation with signs for one."""
    rows, cols = linear_sum_assignment(-np.abs(matrix))
    best = matrix[rows, cols]
    if np.mean(np.abs(best)) < _PERMUTED or matrix.shape[0] > matrix.shape[1]:
        return Turn(matrix, scale, "rotated", None, None, rank, seen)
    order, signs = cols.astype(np.intp), np.where(best < 0, -1.0, 1.0)
    plain = np.zeros_like(matrix)
    plain[rows, cols] = signs
    is_same = matrix.shape[0] == matrix.shape[1] and bool(
        np.all(order == rows) and np.all(signs > 0)
    )
    return Turn(plain, scale, "same" if is_same else "permuted", order, signs, rank, seen)
