"""Maps within heads: between two pairs of matrices of which only the products count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment.spared import EXACT, told

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

__all__ = ["between", "sharper", "undone"]

_RIDGE = 1e-12
"""Of the largest eigenvalue, which all others are taken to have at least."""

_NO_MAP = 1e-8
"""Of a map's largest singular value, below which one is not undone."""


def undone(maps: Matrix) -> Matrix:
    """Return what takes maps back on the other side of a product: inverses, transposed."""
    inverse = np.asarray(np.linalg.pinv(maps, rcond=_NO_MAP), np.float64)
    return inverse.transpose(0, 2, 1)


def between(to: Matrix, came: Matrix, back: list[Matrix], gone: list[Matrix]) -> Matrix:
    """Return the T with `T came` nearest to `to` and `T' back` nearest to `gone`.

    Each side is first put where its two matrices weigh alike, which is the same place whatever map
    was put between them; from there to there only a rotation is left.

    Args:
        to: a's rows.
        came: b's.
        back: What the rows of a are multiplied by, as often as they are.
        gone: The same of b.
    """
    here, from_here = _level(to, back)
    there, from_there = _level(came, gone)
    inner = here @ (to @ came.T) @ there.T
    for x, y in zip(back, gone, strict=True):
        inner = inner + from_here.T @ (x @ y.T) @ from_there
    left, _, right = np.linalg.svd(inner)
    found: Matrix = from_here @ left @ right @ there
    return found


def _level(rows: Matrix, partners: list[Matrix]) -> tuple[Matrix, Matrix]:
    """Return a G for which `G rows` and `inv(G)' partners` have one Gram matrix, and its inverse.

    With P = G'G that is P X P = Y, whose solution is the geometric mean of inv(X) and Y; which of
    the roots of P is taken is a rotation, and that is fitted afterwards. Without partners `G rows`
    has the Gram matrix 1.
    """
    gram = rows @ rows.T
    ridge = _RIDGE * np.trace(gram) + 1e-300
    factor = np.linalg.cholesky(gram + ridge * np.eye(len(gram)))
    if not partners:
        return np.linalg.inv(factor), factor
    other: Matrix = sum((x @ x.T for x in partners), np.zeros_like(gram))
    values, vectors = np.linalg.eigh(factor.T @ other @ factor)
    root = np.maximum(values, _RIDGE * max(values[-1], 1e-300)) ** 0.25
    return (vectors * root).T @ np.linalg.inv(factor), factor @ (vectors / root)


def sharper(maps: Matrix, here: tuple[Matrix, Matrix], there: tuple[Matrix, Matrix]) -> Matrix:
    """Return maps that leave nothing or a change of low rank of either side, if there are any.

    Args:
        maps: As fitted to both sides; returned if they leave nothing, or none are better.
        here: a's rows and b's that are mapped to them; see `spared.told`.
        there: The same of those on the other side of the product.
    """
    back = undone(maps)
    if all(_left(m, *pair) <= EXACT for m, pair in ((maps, here), (back, there))):
        return maps
    one, other = told(*here), told(*there)
    if one is None or (other is not None and (other.rank, other.left) < (one.rank, one.left)):
        return maps if other is None else undone(other.maps)
    return one.maps


def _left(maps: Matrix, to: Matrix, came: Matrix) -> float:
    return float(np.sum((maps[:, None] @ came - to) ** 2) / (np.sum(to**2) + 1e-300))
