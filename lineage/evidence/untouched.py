"""What the rows tell that no example touched.

A row of an embedding gets no gradient where no example has its token or its position. Weight decay
still multiplies it, step after step, by the same number below 1 as all other such rows: AdamW and
SGD take `rate * decay` of it away (decoupled weight decay: Loshchilov and Hutter, 2019). Two things
follow.

- *Who came later.* If many rows of one model are those of another times one number, the model with
  the smaller ones was trained on further, and by how much in all does not depend on the data. That
  tells the order of any two models with a common start, siblings too: of two siblings the one that
  decayed less cannot come from the other.
- *Who is no parent.* The rows that two models still have in common, up to one number each, are
  those that no step between them touched. From a parent to a child that is one step. So where a
  third model has more rows in common with both than they have with each other, it, or a model that
  is not at hand, lies between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["Decay", "apart", "decayed", "in_common"]

_LEAST_ROWS = 8
"""Rows that must agree."""

_STRANGE = 0.02
"""Share of a row's squared change that may be no multiple of the row; of a trained row it is nearly
all."""

_ROUNDINGS = 4.0
"""The same, over the squared norm that rounding leaves; and over all rows together:"""

_ROUNDINGS_OF_ALL, _LEAST_OVER_ROUNDING = 1.2, 0.5
"""What is no multiple over what rounding leaves, at most, and what is one, at least: of changes as
small as that nothing can be said."""

_AGREES = 0.05
"""How much the rows' numbers may differ, as a share of what they differ from 1."""

_SURE = 8.0
"""Standard errors by which the number must differ from 1."""

_DIRECTIONS = 4
"""Main directions of the rows that are left out: outputs that never come up are all pushed the same
way, so their rows lie along few directions, and then any push looks like a multiple of them."""

_SAME = 2e-11
"""Squared sine of the angle between two rows that are one: a change by three millionths of a row is
seen in float32, and any in a coarser dtype."""

_CLEARLY_MORE = 2
"""Rows by which a third model must have more in common."""


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
    usable = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1) & (a != 0).any(axis=1)
    a, b = a[usable], b[usable]
    noise = rounding**2 * (_squares(a) + _squares(b))
    factor, fits = _multiples(a, b, noise)
    if np.count_nonzero(fits) < _LEAST_ROWS or a.shape[1] <= 2 * _DIRECTIONS:
        return None
    far = (1 - float(np.median(factor[fits]))) ** 2 * _squares(a[fits]).sum()
    if far < _LEAST_OVER_ROUNDING * noise[fits].sum():
        return None
    main = np.linalg.svd(a[fits] / np.sqrt(_squares(a[fits]))[:, None], full_matrices=False)[2]
    main = main[:_DIRECTIONS]
    a, b = a[fits] - a[fits] @ main.T @ main, b[fits] - b[fits] @ main.T @ main
    noise = noise[fits] * (1 - _DIRECTIONS / a.shape[1])
    factor, fits = _multiples(a, b, noise)
    if np.count_nonzero(fits) < _LEAST_ROWS:
        return None
    middle = float(np.median(factor[fits]))
    error = np.sqrt(noise / np.maximum(_squares(a), 1e-300) / a.shape[1])
    agree = fits & (np.abs(factor - middle) <= _AGREES * abs(1 - middle) + 4 * error)
    rows = int(np.count_nonzero(agree))
    if rows < _LEAST_ROWS or 2 * rows <= len(a):
        return None
    found = float(np.mean(factor[agree]))
    energy, left = _squares(a[agree]).sum(), _squares(b[agree] - found * a[agree]).sum()
    moved, hidden = (1 - found) ** 2 * energy, noise[agree].sum()
    if left > _ROUNDINGS_OF_ALL * hidden + _STRANGE * moved:
        return None
    if moved < _LEAST_OVER_ROUNDING * hidden or found <= 0:
        return None
    if abs(1 - found) <= _SURE * float(np.mean(error[agree])) / rows**0.5:
        return None
    return Decay(found, rows)


def _squares(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.einsum("ij,ij->i", rows, rows))


def _multiples(
    a: NDArray[np.float64], b: NDArray[np.float64], noise: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return for each row by what it is multiplied, and whether that is all that changed it."""
    factor = np.einsum("ij,ij->i", a, b) / np.maximum(_squares(a), 1e-300)
    rest = _squares(b - factor[:, None] * a)
    return factor, rest <= _STRANGE * _squares(b - a) + _ROUNDINGS * noise


def in_common(rows: NDArray[np.float32]) -> NDArray[np.intp]:
    """Count the rows that are one in each two of some models, up to a positive number.

    Args:
        rows: Shape (models, rows, values): the same of each.

    Returns:
        Shape (models, models).
    """
    wide = rows.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        unit = wide / np.sqrt(np.einsum("mrc,mrc->mr", wide, wide))[..., None]
        cosine = np.matmul(unit.transpose(1, 0, 2), unit.transpose(1, 2, 0))
        same = (cosine > 0) & (1 - cosine**2 <= _SAME)
    return np.asarray(np.count_nonzero(same, axis=0))


def apart(common: NDArray[np.intp], leave_out: Iterable[int] = ()) -> NDArray[np.bool_]:
    """Say of which pairs a third model shows that neither is the other's parent.

    Args:
        common: Rows in common, shape (models, models).
        leave_out: Places of models that cannot be the third: those with more parents than one.

    Returns:
        Shape (models, models).
    """
    count = len(common)
    thirds = np.setdiff1d(np.arange(count), list(leave_out))
    found = np.zeros((count, count), np.bool_)
    for place in range(count):
        between = np.minimum(common[place, thirds], common[:, thirds])
        between[:, thirds == place] = -1
        between[thirds, np.arange(len(thirds))] = -1
        most = between.max(axis=1, initial=-1)
        found[place] = most >= common[place] + _CLEARLY_MORE
        found[place, place] = False
    return found
