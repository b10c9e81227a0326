"""Which of many models of one family have more of what training leaves in matrices?

A step adds its own energy to that of its start, to which it is orthogonal (`direction`); it makes
rows and columns less alike, which began alike; and it changes how values are spread. What a pair
gains on the way is a signed number for each of these, and the same with the other sign on the way
back.

- *Pooled.* The gain of energy of all matrices together, over the energy of the step: 1 for a step
  orthogonal to its start, and -1 the other way. What moved most counts most, so that decay of
  matrices that hardly moved, which outweighs their steps, weighs little here.
- *Each.* The same of each matrix for itself, and in how many the energy grew.
- *Slope.* Gains of matrices over steps, each over the matrix's energy: decay takes the same share
  of each, whatever its step, so that it is in the constant and not in the slope.
- *As energy, as steps.* How well gains go with energies, as decay does and what scales all weights
  alike, and how well with steps. Either way both have a sign, and it is the two together that tell:
  what falls with the energy has decayed, what falls with the step is looked at from its end.
- *Spread* of rows' energies, of columns', and the kurtosis of values.

Each, and how gains go with energies and with steps, are also told of rows and of columns, in the
buckets of the sketch: matrices are few, and decay may outweigh the step in every one of them.

Source: the slope, and that it is 1, follows from |c|^2 = |(1 - w)p|^2 + |u|^2 for a step of decay w
and an update u that is orthogonal to p. What is random in a gain is twice <p, u>, whose deviation
goes with |p||u|: gains are weighed by the inverse of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Square = NDArray[np.float64]

__all__ = ["Grown", "Growth"]

_BUCKETS = 8
"""Rows or columns of a sketch over which a spread is taken, at least."""

_MOST = 3.0
"""Bound of every ratio; nothing is known of what is further off."""

_SHARP = 10.0
"""A spread's or a kurtosis's gain by a tenth is nearly as good as any."""


class Grown(NamedTuple):
    """[w, c] is the gain from w to c; [c, w] is that with the other sign. Shape (models, models).

    Attributes:
        pooled: Of energy, over the energy of the step, of all matrices together.
        each: The mean of the same over matrices.
        sign: In what share of the matrices energy grew, less that in which it fell.
        slope: Of matrices' gains over their steps.
        rows: Of the spread of rows' energies, from -1 to 1.
        columns: The same of columns.
        kurtosis: Of kurtosis, from -1 to 1.
        kurtosis_sign: In what share of the matrices it grew, less that in which it fell.
        as_energy: Cosine of matrices' gains with their energies, all over what is random in gains.
        as_step: The same with their squared steps.
        each_row, sign_row, as_energy_row, as_step_row: `each` and so on of buckets of rows.
        each_column, sign_column, as_energy_column, as_step_column: The same of columns.
    """

    pooled: Square
    each: Square
    sign: Square
    slope: Square
    rows: Square
    columns: Square
    kurtosis: Square
    kurtosis_sign: Square
    as_energy: Square
    as_step: Square
    each_row: Square
    sign_row: Square
    as_energy_row: Square
    as_step_row: Square
    each_column: Square
    sign_column: Square
    as_energy_column: Square
    as_step_column: Square


class Growth:
    """Sums up what matrices gain, one matrix after the other."""

    def __init__(self, models: int) -> None:
        self._sums = {name: np.zeros((models, models)) for name in _SUMS}
        self._matrices, self._rows, self._columns = (_Cells(models) for _ in range(3))

    def add(
        self,
        size: float,
        energy: Square,
        fourth: Square,
        buckets: tuple[NDArray[np.float32], NDArray[np.float32]],
        cores: NDArray[np.float32],
        squared: Square,
    ) -> None:
        """Add one matrix of all models.

        Args:
            size: How many values it has.
            energy: Squared norms, shape (models,).
            fourth: Sums of fourth powers, shape (models,).
            buckets: Squared norms of buckets of rows, shape (models, buckets), and of columns.
            cores: The sketches, shape (models, row buckets, column buckets).
            squared: Squared norms of the differences, shape (models, models); 0 where it is equal.
        """
        sums = self._sums
        moved = squared > 0
        sums["moved"] += moved
        sums["gain"] += np.where(moved, energy - energy[:, None], 0)
        sums["step"] += squared
        self._matrices.add(size, energy[None], -squared[None] / 2, moved)
        kurtosis = size * fourth / np.maximum(energy, 1e-300) ** 2
        more = np.where(moved, kurtosis - kurtosis[:, None], 0)
        sums["kurtosis"] += more.clip(-_MOST, _MOST)
        sums["kurtosis_sign"] += np.sign(more)
        for name, cells, of, sides in zip(
            ("rows", "columns"),
            (self._rows, self._columns),
            buckets,
            (cores.transpose(1, 0, 2), cores.transpose(2, 0, 1)),
            strict=True,
        ):
            count = of.shape[1]
            if count < _BUCKETS:
                continue
            spread = of.std(axis=1) / np.maximum(of.mean(axis=1), 1e-30)
            sums[name] += np.where(moved, spread - spread[:, None], 0)
            some = max(1, _AT_ONCE // moved.size)
            for first in range(0, count, some):
                side = sides[first : first + some].astype(np.float64)
                own = of.T[first : first + some].astype(np.float64)
                cells.add(size / count, own, side @ side.transpose(0, 2, 1), moved)

    def finish(self) -> Grown:
        """Return what was summed up."""
        sums, count = self._sums, np.maximum(self._sums["moved"], 1)
        each, sign, slope, *as_both = self._matrices.finish()
        each_row, sign_row, _, *as_both_row = self._rows.finish()
        each_column, sign_column, _, *as_both_column = self._columns.finish()
        return Grown(
            _over(sums["gain"], sums["step"]).clip(-_MOST, _MOST),
            each,
            sign,
            slope,
            np.tanh(_SHARP * sums["rows"] / count),
            np.tanh(_SHARP * sums["columns"] / count),
            np.tanh(sums["kurtosis"] / count),
            sums["kurtosis_sign"] / count,
            *as_both,
            *(each_row, sign_row, *as_both_row),
            *(each_column, sign_column, *as_both_column),
        )


class _Cells:
    """Sums over matrices, or over buckets of their rows or columns, of all pairs of models.

    With x the squared step and y the gain of a cell, each over its energy, and the root of its
    size for a weight: of 1, 1/x, x and y^2/x, which are those of the way back, and of y/x, y, y/x
    within bounds and y's sign, which are the negative there.
    """

    def __init__(self, models: int) -> None:
        self._models = models
        self._pairs = np.triu_indices(models, 1)
        self._same, self._turned = np.zeros((2, 4, len(self._pairs[0])))

    def add(self, size: float, energy: Square, inner: Square, moved: NDArray[np.bool_]) -> None:
        """Add cells.

        Args:
            size: Values in each of them.
            energy: Shape (cells, models).
            inner: Inner products of sketches, shape (cells, models, models), or whatever else leads
                to the squared steps.
            moved: Whether the matrix did, shape (models, models); if not, it is in no sum.
        """
        one, other = self._pairs
        first, second = energy.take(one, axis=1), energy.take(other, axis=1)
        middle = (first + second) / 2
        norm = np.diagonal(inner, axis1=1, axis2=2)
        step = inner.reshape(len(inner), -1).take(one * self._models + other, axis=1)
        step = norm.take(one, axis=1) + norm.take(other, axis=1) - 2 * step
        use = (step > _STILL * middle) & moved[one, other]
        x = np.divide(step, middle, out=np.ones_like(step), where=use)
        y = np.divide(second - first, middle, out=np.zeros_like(step), where=use)
        over, weight = y / x, np.sqrt(size)
        for sums, values in (
            (self._same, (use, use / x, use * x, y * over)),
            (self._turned, (over, y, over.clip(-_MOST, _MOST), np.sign(y))),
        ):
            for total, value in zip(sums, values, strict=True):
                total += weight * value.sum(axis=0)

    def _all(self) -> tuple[Square, Square]:
        """Return the sums of both ways, shape (4, models, models) each."""
        one, other = self._pairs
        same, turned = np.zeros((2, 4, self._models, self._models))
        same[:, one, other] = same[:, other, one] = self._same
        turned[:, one, other], turned[:, other, one] = self._turned, -self._turned
        return same, turned

    def finish(self) -> tuple[Square, Square, Square, Square, Square]:
        """Return each, sign, slope, and how gains go with energies and with steps; see `Grown`.

        The slope is of y over x, with a constant, and the other two are the cosines of y with 1 and
        with x, all by the weight over x.
        """
        (weight, inverse, steps, square), (over, gain, each, sign) = self._all()
        rest = _over(steps - _over(weight**2, inverse), steps)
        top = gain - _over(weight * over, inverse)
        is_flat = rest < _FLAT
        slope = np.where(is_flat, 0, top) / np.where(is_flat, 1, rest * steps)
        return (
            _over(each, weight),
            _over(sign, weight),
            slope.clip(-_MOST, _MOST),
            _over(over, np.sqrt(inverse * square)).clip(-1, 1),
            _over(gain, np.sqrt(steps * square)).clip(-1, 1),
        )


_FLAT = 1e-3
"""Share of the squared steps, weighed, that must be left of them around their mean for a slope."""

_STILL = 1e-12
"""Squared step over the energy, below which nothing moved."""

_AT_ONCE = 1 << 21
"""Numbers in an array over buckets and pairs, at most."""

_SUMS = ("moved", "gain", "step", "kurtosis", "kurtosis_sign", "rows", "columns")


def _over(top: Square, bottom: Square) -> Square:
    """Divide; by nothing it is 0."""
    found: Square = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
    return found
