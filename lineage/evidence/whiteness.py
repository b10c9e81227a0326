"""Is what differs white, as roundings and masks are, or has it directions, as trainings have?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineage.evidence.pairing import Pairing

__all__ = ["LEAST_SIDE", "spike", "spikes"]

LEAST_SIDE = 16
"""Of a core whose singular values are looked at."""

_LEAST_MATRICES = 4
"""That tell of two models what lies between them."""


def spike(cores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far the singular values of matrices stand out, against those of white noise.

    It is about 1 for noise that knows nothing of its neighbours (a rounding, a random mask, a vote
    entry by entry), whatever its strength in each row and column, and more for anything that
    training left, whose few strong directions a core keeps.

    Derivation: for an m by n matrix X of white noise E tr (XX')^2 / (E tr XX')^2 is
    (m + n + 1) / (m n); a part of low rank adds to it.

    Args:
        cores: float64, shape (matrices, rows, cols).

    Returns:
        A number for each matrix that is not 0; none where they are too small to tell.
    """
    x, (rows, cols) = cores, cores.shape[1:]
    if min(rows, cols) < LEAST_SIDE:
        return np.zeros(0)
    for _ in range(2):
        x = x / (np.sqrt(np.mean(x**2, axis=2, keepdims=True)) + 1e-300)
        x = x / (np.sqrt(np.mean(x**2, axis=1, keepdims=True)) + 1e-300)
    inner = x @ x.transpose(0, 2, 1)
    trace = np.einsum("kii->k", inner)
    moved = trace > 0
    ratio = np.einsum("kij,kij->k", inner, inner)[moved] / trace[moved] ** 2
    found: NDArray[np.float64] = ratio * (rows * cols) / (rows + cols + 1)
    return found


def spikes(pairing: Pairing, use: NDArray[np.bool_]) -> float | None:
    """Return how far singular values of the difference stand out against those of white noise.

    About .95 where it knows nothing of its neighbours.

    Args:
        pairing: Of two models.
        use: Which tensors of it are looked at.

    Returns:
        The median over matrices, None where there are not enough to tell.
    """
    found = [spike(pairing.difference(int(place))[None]) for place in np.flatnonzero(use)]
    told = np.concatenate([one for one in found if one.size] or [np.zeros(0)])
    return float(np.median(told)) if len(told) >= _LEAST_MATRICES else None
