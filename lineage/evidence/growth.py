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
- *Slopes* within matrices: the same over the rows of one, and over its columns, as a correlation.
- *Inside and outside* of layers: the cosine of the step with the matrix before it and after, in the
  mean. Tables of tokens and what predicts them grow by other laws than layers do.
- *Spread* of rows' energies, of columns', and the kurtosis of values.

Source: the slope, and that it is 1, follows from |c|^2 = |(1 - w)p|^2 + |u|^2 for a step of decay w
and an update u that is orthogonal to p.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        row_slope: Mean correlation of rows' gains with their steps, over their energies.
        column_slope: The same of columns.
        inside: Mean cosine of the step with the matrices of layers, before and after.
        outside: The same of all other matrices.
        rows: Of the spread of rows' energies, from -1 to 1.
        columns: The same of columns.
        kurtosis: Of kurtosis, from -1 to 1.
        kurtosis_sign: In what share of the matrices it grew, less that in which it fell.
    """

    pooled: Square
    each: Square
    sign: Square
    slope: Square
    row_slope: Square
    column_slope: Square
    inside: Square
    outside: Square
    rows: Square
    columns: Square
    kurtosis: Square
    kurtosis_sign: Square


class Growth:
    """Sums up what matrices gain, one matrix after the other."""

    def __init__(self, models: int) -> None:
        self._sums = {name: np.zeros((models, models)) for name in _SUMS}

    def add(
        self,
        size: float,
        energy: Square,
        fourth: Square,
        buckets: Sequence[NDArray[np.float32]],
        squared: Square,
        cores: NDArray[np.float32],
        *,
        is_in_layer: bool,
    ) -> None:
        """Add one matrix of all models.

        Args:
            size: How many values it has.
            energy: Squared norms, shape (models,).
            fourth: Sums of fourth powers, shape (models,).
            buckets: Squared norms of buckets of rows, shape (models, buckets), and of columns.
            squared: Squared norms of the differences, shape (models, models); 0 where it is equal.
            cores: Sketches, shape (models, row buckets, column buckets).
            is_in_layer: Whether it is a layer's.
        """
        sums, root = self._sums, float(np.sqrt(size))
        moved = squared > 0
        middle = np.maximum((energy[:, None] + energy) / 2, 1e-300)
        gain = np.where(moved, energy - energy[:, None], 0)
        each = np.divide(gain, squared, out=np.zeros_like(gain), where=moved)
        inverse = np.divide(middle, squared, out=np.zeros_like(gain), where=moved)
        sums["moved"] += moved
        sums["gain"] += gain
        sums["step"] += squared
        sums["weight"] += root * moved
        sums["each"] += root * each.clip(-_MOST, _MOST)
        sums["sign"] += root * np.sign(gain)
        # Weighed by the root of the size over the step, in units of the energy: w, wx, wy, wxx, wxy
        # with x the step and y the gain; wx is the weight above.
        sums["w"] += root * inverse
        sums["wy"] += root * each
        sums["wxx"] += root * squared / middle
        sums["wxy"] += root * gain / middle
        cosine = 0.5 * np.sign(each) * np.sqrt(np.abs(each) * np.abs(gain) / middle)
        where = "inside" if is_in_layer else "outside"
        sums[where] += root * cosine.clip(-1, 1)
        sums[f"{where}_weight"] += root * moved
        lying_both = cores, cores.transpose(0, 2, 1)
        for name, of, lying in zip(_SLOPES, buckets, lying_both, strict=True):
            if lying.shape[1] == of.shape[1] >= _BUCKETS:
                sums[name] += root * moved * _correlation(lying.astype(np.float64), of)
        kurtosis = size * fourth / np.maximum(energy, 1e-300) ** 2
        more = np.where(moved, kurtosis - kurtosis[:, None], 0)
        sums["kurtosis"] += more.clip(-_MOST, _MOST)
        sums["kurtosis_sign"] += np.sign(more)
        for name, of in zip(("rows", "columns"), buckets, strict=True):
            if of.shape[1] >= _BUCKETS:
                spread = of.std(axis=1) / np.maximum(of.mean(axis=1), 1e-30)
                sums[name] += np.where(moved, spread - spread[:, None], 0)

    def finish(self) -> Grown:
        """Return what was summed up."""
        sums = self._sums
        over = _over(sums["wxx"] - _over(sums["weight"] ** 2, sums["w"]), sums["wxx"])
        slope = sums["wxy"] - _over(sums["weight"] * sums["wy"], sums["w"])
        is_flat = over < _FLAT
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = np.where(is_flat, 0, slope / np.where(is_flat, 1, over * sums["wxx"]))
        count = np.maximum(sums["moved"], 1)
        return Grown(
            pooled=_over(sums["gain"], sums["step"]).clip(-_MOST, _MOST),
            each=_over(sums["each"], sums["weight"]),
            sign=_over(sums["sign"], sums["weight"]),
            slope=slope.clip(-_MOST, _MOST),
            row_slope=_over(sums["row_slope"], sums["weight"]),
            column_slope=_over(sums["column_slope"], sums["weight"]),
            inside=_over(sums["inside"], sums["inside_weight"]),
            outside=_over(sums["outside"], sums["outside_weight"]),
            rows=np.tanh(_SHARP * sums["rows"] / count),
            columns=np.tanh(_SHARP * sums["columns"] / count),
            kurtosis=np.tanh(sums["kurtosis"] / count),
            kurtosis_sign=sums["kurtosis_sign"] / count,
        )


_FLAT = 1e-3
"""Share of the squared steps, weighed, that must be left of them around their mean for a slope."""

_AT_ONCE = 1 << 13
"""Rows times pairs of models whose steps are looked at together."""

_SLOPES = ("row_slope", "column_slope")

_SUMS = (
    "moved", "gain", "step", "weight", "each", "sign", "w", "wy", "wxx", "wxy", "kurtosis",
    "kurtosis_sign", "rows", "columns", "row_slope", "column_slope", "inside", "inside_weight",
    "outside", "outside_weight",
)  # fmt: skip


def _over(top: Square, bottom: Square) -> Square:
    """Divide; by nothing it is 0."""
    found: Square = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
    return found


def _correlation(cores: Square, energy: NDArray[np.float32]) -> Square:
    """Correlate gains of energy with steps, both over the energy, over the rows of one matrix.

    Args:
        cores: Shape (models, rows, columns).
        energy: Exact squared norms of the rows, shape (models, rows).

    Returns:
        Shape (models, models), from -1 to 1; a row counts by its energy.
    """
    weight, x, y, xx, xy, yy = (np.zeros((len(cores), len(cores))) for _ in range(6))
    lot = max(1, _AT_ONCE // len(cores) ** 2)
    for at in range(0, cores.shape[1], lot):
        rows = cores[:, at : at + lot].transpose(1, 0, 2)
        of = energy[:, at : at + lot].T.astype(np.float64)
        own = np.einsum("kij,kij->ki", rows, rows)
        inner = rows @ rows.transpose(0, 2, 1)
        step = np.maximum(own[:, :, None] + own[:, None] - 2 * inner, 0)
        gain, middle = of[:, None] - of[:, :, None], (of[:, None] + of[:, :, None]) / 2
        weight += middle.sum(axis=0)
        x += step.sum(axis=0)
        y += gain.sum(axis=0)
        xx += _over(step**2, middle).sum(axis=0)
        xy += _over(step * gain, middle).sum(axis=0)
        yy += _over(gain**2, middle).sum(axis=0)
    x, y = _over(x, weight), _over(y, weight)
    both = np.maximum(xx - weight * x**2, 0) * np.maximum(yy - weight * y**2, 0)
    return _over(xy - weight * x * y, np.sqrt(both)).clip(-1, 1)
