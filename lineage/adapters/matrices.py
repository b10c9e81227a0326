"""Matrices that are known by their factors: norms and folds of products that are never formed.

All of it in float64. A fold is linear, and rows and columns are folded apart, so the core of a
product is the product of the folded factors; of a Kronecker product the blocks are folded one after
the other. The entries of a Hadamard product depend on both factors at once: its rows are made, some
at a time, folded and forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from lineage.adapters.base import Fold

__all__ = ["Dense", "Hadamard", "Kronecker", "Product"]

_BUCKETS = 36
"""Buckets of a fold, about."""

_ALONE = 1 << 18
"""A product of so many multiplications is not shared among threads (OpenBLAS)."""

_BLOCKS = 64
"""Products of blocks that are held at once."""

_VALUES = 1 << 20
"""So many values of a Hadamard product, or of blocks, are there at once."""


def _gram(tall: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return L'L, summed over blocks of rows.

    Blocks are so small that BLAS keeps each to the thread it is called from: modules are measured
    on several threads, and where each wants all cores they wait for one another.
    """
    rows, rank = tall.shape
    step = max(1, _ALONE // rank**2)
    whole = rows - rows % step
    rest = tall[whole:]
    gram: NDArray[np.float64] = rest.T @ rest
    if whole:
        blocks = tall[:whole].reshape(-1, step, rank)
        for start in range(0, len(blocks), _BLOCKS):
            some = blocks[start : start + _BLOCKS]
            gram = gram + np.matmul(some.transpose(0, 2, 1), some).sum(axis=0)
    return gram


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """`left` times `right`, times a scale: low rank."""

    left: NDArray[np.float64]
    right: NDArray[np.float64]
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of the left, columns of the right."""
        return self.left.shape[0], self.right.shape[1]

    def energy(self) -> float:
        """Return tr(L'L R R') by the Gram matrices, or sum it up where these are larger."""
        (rows, cols), rank = self.shape, self.left.shape[1]
        if rank**2 > rows * cols:
            entries = self.left @ self.right
            inner = float(np.vdot(entries, entries))
        else:
            inner = float(np.vdot(_gram(self.left), _gram(self.right.T)))
        return max(0.0, self.scale**2 * inner)

    def folded(self, fold: Fold) -> NDArray[np.float64]:
        """Fold the left one's rows and the right one's columns."""
        core: NDArray[np.float64] = fold.rows(self.left) @ fold.cols(self.right)
        return self.scale * core


@dataclass(frozen=True, slots=True, eq=False)
class Hadamard:
    """Two products of one shape, entry by entry."""

    one: Product
    other: Product

    @property
    def shape(self) -> tuple[int, int]:
        """That of either."""
        return self.one.shape

    def energy(self) -> float:
        """Sum the squares of its rows."""
        return sum(float(np.vdot(rows, rows)) for _, rows in self._rows())

    def folded(self, fold: Fold) -> NDArray[np.float64]:
        """Fold its rows."""
        parts = (fold.rows(fold.cols(rows), start) for start, rows in self._rows())
        core = next(parts)
        for part in parts:
            core = core + part
        return core

    def _rows(self) -> Iterator[tuple[int, NDArray[np.float64]]]:
        step = max(1, _VALUES // max(1, self.shape[1]))
        for start in range(0, self.shape[0], step):
            some = slice(start, start + step)
            first = self.one.left[some] @ self.one.right
            second = self.other.left[some] @ self.other.right
            yield start, self.one.scale * self.other.scale * first * second


@dataclass(frozen=True, slots=True, eq=False)
class Kronecker:
    """Every entry of `left` times all of `right`."""

    left: NDArray[np.float64]
    right: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int]:
        """The products of their extents."""
        (a, b), (c, d) = self.left.shape, self.right.shape
        return a * c, b * d

    def energy(self) -> float:
        """Return the product of their energies."""
        return float(np.vdot(self.left, self.left) * np.vdot(self.right, self.right))

    def folded(self, fold: Fold) -> NDArray[np.float64]:
        """Fold blocks along one way, sum them up, and fold along the other; the cheaper first."""
        (height, width), (tall, wide) = self.left.shape, self.right.shape
        rows, cols = (
            height * (tall + _BUCKETS * width) * wide,
            width * (wide + _BUCKETS * height) * tall,
        )
        if rows < cols:
            blocks = _summed(self.left.T, lambda row: fold.rows(self.right, row * tall))
            parts = (fold.cols(block, place * wide) for place, block in blocks)
        else:
            blocks = _summed(self.left, lambda column: fold.cols(self.right, column * wide))
            parts = (fold.rows(block, place * tall) for place, block in blocks)
        core = next(parts)
        for part in parts:
            core = core + part
        return core


def _summed(
    left: NDArray[np.float64], folded: Callable[[int], NDArray[np.float64]]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield the sums over j of left[i, j] folded(j), some of them held at once."""
    height, width = left.shape
    shape = folded(0).shape
    step = max(1, _VALUES // (shape[0] * shape[1]))
    for start in range(0, height, step):
        rows = left[start : start + step]
        total: NDArray[np.float64] = np.zeros((len(rows), *shape))
        for first in range(0, width, step):
            blocks = np.stack([folded(j) for j in range(first, min(first + step, width))])
            total += np.tensordot(rows[:, first : first + step], blocks, axes=1)
        yield from enumerate(total, start)


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """A matrix that is stored as it is; a vector is laid out in rows, the last filled up."""

    values: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int]:
        """Its extents."""
        return self.values.shape[0], self.values.shape[1]

    def energy(self) -> float:
        """Sum its squares."""
        return float(np.vdot(self.values, self.values))

    def folded(self, fold: Fold) -> NDArray[np.float64]:
        """Fold both ways."""
        return fold.cols(fold.rows(self.values))
