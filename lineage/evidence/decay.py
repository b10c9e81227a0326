"""Which of two models came first, by the rows that no example touched.

A row of an embedding gets no gradient where no example has its token or its position. Weight decay
still multiplies it, step after step, by the same number below 1 as all other such rows: AdamW and
SGD take `rate * decay` of it away. So if many rows of one model are those of another times one
number, the model with the smaller ones was trained later, and by how much in all does not depend on
the data. Decoupled weight decay: Loshchilov and Hutter (2019), "Decoupled weight decay
regularization".

It tells the order of any two models with a common start, siblings too: of two siblings the one that
decayed less cannot come from the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Decay", "decayed"]

_LEAST_ROWS = 8
"""Rows that must agree."""

_STRANGE = 0.02
"""Share of a row's squared change that may be no multiple of the row; of a trained row it is nearly
all."""

_ROUNDINGS = 4.0
"""The same, over the squared norm that rounding leaves."""

_AGREES = 0.05
"""How much the rows' numbers may differ, as a share of what they differ from 1."""

_SURE = 8.0
"""Standard errors by which the number must differ from 1."""


@dataclass(frozen=True, slots=True)
class Decay:
    """Rows of one model that are another's times one number.

    Attributes:
        factor: The number; below 1 where the second of the two was trained later.
        rows: How many rows there are.
    """

    factor: float
    rows: int


def decayed(
    first: NDArray[np.float32], second: NDArray[np.float32], rounding: float
) -> Decay | None:
    """Compare the same rows of two models.

    Args:
        first: Shape (rows, values).
        second: The same of the other.
        rounding: Root mean square of the relative error of the coarser of the two dtypes.
    """
    a, b = first.astype(np.float64), second.astype(np.float64)
    energy, other = np.einsum("ij,ij->i", a, a), np.einsum("ij,ij->i", b, b)
    usable = (energy > 0) & np.isfinite(energy) & np.isfinite(other)
    a, b, energy, other = a[usable], b[usable], energy[usable], other[usable]
    factor = np.einsum("ij,ij->i", a, b) / energy
    change = np.einsum("ij,ij->i", b - a, b - a)
    rest = b - factor[:, None] * a
    noise = rounding**2 * (energy + other)
    fits = np.einsum("ij,ij->i", rest, rest) <= _STRANGE * change + _ROUNDINGS * noise
    if np.count_nonzero(fits) < _LEAST_ROWS:
        return None
    middle = float(np.median(factor[fits]))
    error = np.sqrt(noise / energy / a.shape[1])
    agree = fits & (np.abs(factor - middle) <= _AGREES * abs(1 - middle) + 4 * error)
    rows = int(np.count_nonzero(agree))
    if rows < _LEAST_ROWS or 2 * rows <= np.count_nonzero(fits):
        return None
    found = float(np.mean(factor[agree]))
    if not 0 < found or abs(1 - found) <= _SURE * float(np.mean(error[agree])) / rows**0.5:
        return None
    return Decay(found, rows)
