"""The map between two streams' coordinates: permuted, turned, narrowed.

It is fitted on labelled vectors alone (embeddings of the same tokens, places, pixels) and never on
what it is then scored on: two strangers' embeddings can be turned onto each other a little, and
nothing else of theirs lies together afterwards.

Where nothing but a turn lies between labelled vectors, it is what solves for the one by the other,
and that is found by a Cholesky factor. Only where that is no turn a singular value decomposition is
made, which takes several times as long.

Source: orthogonal Procrustes, Schönemann (1966); the step towards the nearest orthogonal matrix,
Björck and Bowie (1971); assignment, Kuhn (1955), scipy's `linear_sum_assignment`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh, svd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

__all__ = ["Turn", "fitted", "quiet", "unturned"]

_PERMUTED = 0.8
"""Mean magnitude of the best entries, one a row, from which a turn is a permutation with signs.
Entries of a rotation drawn at random are about 1 / sqrt(width)."""

_WIDE = 1024
"""Numbers in a stream above which quiet directions are looked for among so many, drawn by lot."""

_A_TURN, _TURNED = 2e-3, 2e-6
"""Root mean square by which the squared lengths of what solves for labelled vectors may be off one
for it to be taken for a turn, and from which that is made better."""

_DIRECTIONS = 256
"""Quiet directions that are looked along, at most: evenly chosen."""

_LEAST_ENERGY = 1e-8
"""Of the largest: below it a direction has no labelled vector."""

_CENTRED = 1e-12
"""Of the energy of vectors, what is in their means if only rounding to float32 left them there."""


@dataclass(frozen=True, slots=True)
class Turn:
    """How one stream's coordinates become another's: `b_vectors @ matrix * scale` are `a`'s.

    Attributes:
        matrix: float32, shape (width of b, width of a), its rows or columns orthonormal.
        scale: One number for the whole stream.
        kind: `same`, `permuted` (signs included) or `rotated`; narrower streams too.
        order: Where it is no rotation: for each coordinate of b the place in a.
        signs: And its sign.
        rank: How many directions the labelled vectors fix.
        seen: Those directions of a's stream, shape (width of a, rank); None for all.
        is_exact: Whether nothing but a turn lies between labelled vectors.
    """

    matrix: Matrix
    scale: float
    kind: str
    order: NDArray[np.intp] | None
    signs: NDArray[np.float64] | None
    rank: int
    seen: NDArray[np.float64] | None
    is_exact: bool = False

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

    def apply(self, vectors: NDArray[np.floating]) -> Matrix:
        """Return b's vectors (a row each) in a's coordinates, without the scale."""
        single = np.asarray(vectors, np.float32)
        if self.order is not None and self.signs is not None:
            found = np.zeros((len(single), self.matrix.shape[1]), np.float32)
            found[:, self.order] = single * self.signs.astype(np.float32)
            return found
        turned: Matrix = single @ self.matrix
        return turned

    def undone(self, directions: NDArray[np.floating]) -> Matrix:
        """Return directions of a's stream (a column each) as those of b's.

        To look at many vectors along few directions it is the directions that are turned:
        `vectors @ undone(directions)` is `apply(vectors) @ directions`.
        """
        single = np.asarray(directions, np.float32)
        if self.order is not None and self.signs is not None:
            moved: Matrix = single[self.order] * self.signs.astype(np.float32)[:, None]
            return moved
        back: Matrix = self.matrix @ single
        return back


def fitted(pairs: Iterable[tuple[Matrix, Matrix]]) -> Turn:
    """Fit the turn that takes b's labelled vectors to a's.

    Args:
        pairs: (a's vectors, b's vectors) of the same labels; float32, shapes (n, width of a) and
            (n, width of b). Each pair counts by its energy.
    """
    inner: NDArray[np.float64] = np.zeros((1, 1))
    cross: NDArray[np.float64] = np.zeros((1, 1))
    energy, count = 0.0, 0
    for a, b in pairs:
        weight = len(a) / (float(np.linalg.norm(a)) * float(np.linalg.norm(b)) + 1e-300)
        ours, theirs = _centred(a), _centred(b)
        cross = cross + weight * (theirs.T @ ours)
        inner = inner + weight * (theirs.T @ theirs)
        energy += weight * float(np.sum(theirs**2))
        count += len(a)
    width = len(cross)
    if count >= width == cross.shape[1] and (matrix := _solved(inner, cross)) is not None:
        scale = float(np.vdot(matrix, cross) / energy)
        return replace(_snapped(matrix, scale, width, None), is_exact=True)
    left, values, right = svd(cross, full_matrices=False, lapack_driver="gesdd")
    scale = float(values.sum() / energy) if energy else 1.0
    rank = int(np.sum(values > _LEAST_ENERGY * values[0])) if values[0] > 0 else 0
    return _snapped((left @ right).astype(np.float32), scale, rank, right[:rank].T)


def _centred(vectors: Matrix) -> NDArray[np.float64]:
    """Return vectors in float64, and those that were centred in float32 centred in it.

    What rounding left of their means would turn the direction that means are along.
    """
    found = vectors.astype(np.float64)
    means = found.mean(axis=1, keepdims=True)
    if float(np.sum(means**2)) * found.shape[1] < _CENTRED * float(np.sum(found**2)):
        found -= means
    return found


def _solved(inner: NDArray[np.float64], cross: NDArray[np.float64]) -> Matrix | None:
    """Return the matrix that takes labelled vectors to the others; None if it is no turn."""
    try:
        found = cho_solve(cho_factor(inner, check_finite=False), cross, check_finite=False)
    except LinAlgError:
        return None
    norm = float(np.linalg.norm(found))
    if not 0 < norm < np.inf:
        return None
    scale = np.float32(len(found) ** 0.5 / norm)
    matrix: Matrix = found.astype(np.float32) * scale
    off = matrix.T @ matrix
    off[np.diag_indices_from(off)] -= 1
    left = float(np.linalg.norm(off)) / len(off) ** 0.5
    if not left < _A_TURN:
        return None
    if left > _TURNED:
        matrix = matrix - matrix @ (off * np.float32(0.5))  # what is left then is left squared
    return matrix


def unturned(width: int) -> Turn:
    """Return the turn that leaves everything as it is."""
    order, signs = np.arange(width), np.ones(width)
    return Turn(np.eye(width, dtype=np.float32), 1.0, "same", order, signs, width, None)


def quiet(vectors: Iterable[Matrix], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the quarter of a stream's directions that labelled vectors use least.

    Args:
        vectors: Of each kind, float32, shape (n, width).
        rng: Draws the directions among which they are looked for, of a wide stream.

    Returns:
        float64, shape (width, directions), orthonormal columns. Directions that no labelled vector
        has at all are left out: there a turn is arbitrary.
    """
    inner: NDArray[np.float64] = np.zeros((1, 1))
    among: Matrix | None = None
    for one in vectors:
        width = one.shape[1]
        if width > _WIDE and among is None:
            among = rng.standard_normal((width, _WIDE), np.float32)
        looked = one if among is None else one @ among
        seen = looked.astype(np.float64)
        inner = inner + (seen.T @ seen) / (float(np.linalg.norm(one)) ** 2 + 1e-300)
    if among is None:
        energies, directions = np.linalg.eigh(inner)
    else:
        energies, directions = eigh(inner, (among.T @ among).astype(np.float64))
        directions = among @ directions
    used = energies > _LEAST_ENERGY * energies[-1]
    quietest = directions[:, used][:, : -(-int(used.sum()) // 4)]
    if quietest.shape[1] <= _DIRECTIONS:
        return np.asarray(quietest, np.float64)
    some = np.unique(np.linspace(0, quietest.shape[1] - 1, _DIRECTIONS).astype(np.intp))
    found: NDArray[np.float64] = quietest[:, some]
    return found


def _snapped(matrix: Matrix, scale: float, rank: int, seen: NDArray[np.float64] | None) -> Turn:
    """Take a turn that is nearly a permutation with signs for one."""
    from scipy.optimize import linear_sum_assignment

    size = np.abs(matrix)
    if np.mean(size.max(axis=1)) < _PERMUTED or matrix.shape[0] > matrix.shape[1]:
        return Turn(matrix, scale, "rotated", None, None, rank, seen)
    rows, cols = np.arange(len(matrix)), size.argmax(axis=1)
    if len(np.unique(cols)) < len(cols):
        rows, cols = linear_sum_assignment(-size)
    best = matrix[rows, cols]
    if np.mean(np.abs(best)) < _PERMUTED:
        return Turn(matrix, scale, "rotated", None, None, rank, seen)
    order, signs = cols.astype(np.intp), np.where(best < 0, -1.0, 1.0)
    plain = np.zeros_like(matrix)
    plain[rows, cols] = signs
    is_same = matrix.shape[0] == matrix.shape[1] and bool(
        np.all(order == rows) and np.all(signs > 0)
    )
    return Turn(plain, scale, "same" if is_same else "permuted", order, signs, rank, seen)
