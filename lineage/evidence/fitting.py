"""How much of each of several changes is in another: least squares on their sketches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

__all__ = ["NULL", "Fit", "Share", "fit"]

NULL = "independent changes: the signs of their modules' inner products are fair coins"

_SURE = 5.0
"""A weight is told from 0 where it is so many times its error."""

_LEAST, _CLEAR, _EXPLAINED = 0.02, 0.2, 0.05
"""A weight below the first is none. Between the first two it counts only if no more than the third
is left unexplained: adapters of one base lean on each other a little."""

_ALIKE = 1e-6
"""Of changes that are nearer to a combination of the others than this (in squares) none is told."""


@dataclass(frozen=True, slots=True)
class Share:
    """What of one part is in the whole.

    Attributes:
        weight: What the part is multiplied with.
        error: Standard error of that.
        log10_p: Under `NULL`, with the other parts taken off first.
        present: Whether it is in there; None where the weights do not tell.
    """

    weight: float
    error: float
    log10_p: float
    present: bool | None


@dataclass(frozen=True, slots=True)
class Fit:
    """A change as a combination of others.

    Attributes:
        shares: In the order of the parts.
        left: Share of the change's squared norm that is neither they nor rounding.
    """

    shares: tuple[Share, ...]
    left: float


def fit(
    whole: Mapping[Any, NDArray[np.float64]],
    parts: Sequence[Mapping[Any, NDArray[np.float64]]],
    noise: Mapping[Any, float],
) -> Fit | None:
    """Find what parts a change is made of.

    Derivation: the weights that leave least of the whole. What they leave is taken for white in
    each module, so that the error of a weight follows. The p-value asks less: for a part that has
    nothing to do with the whole each module's inner product is as likely above 0 as below, and so
    sum / root of the sum of squares exceeds t with a probability of at most exp(-t^2 / 2)
    (Hoeffding's bound for sums of symmetric terms, given their sizes).

    Args:
        whole: Module -> core of its change.
        parts: Likewise; a module that is missing is not changed.
        noise: Module -> squared norm that rounding leaves in the whole.

    Returns:
        None where there is no change.
    """
    keys = list(whole)
    lengths = np.array([whole[key].size for key in keys], np.intp)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.intp)
    flat = np.concatenate([whole[key].reshape(-1) for key in keys])
    table = np.stack(
        [
            np.concatenate([part.get(key, np.zeros_like(whole[key])).reshape(-1) for key in keys])
            for part in parts
        ]
    )
    energy = float(flat @ flat)
    if energy == 0:
        return None
    norms = np.sqrt((table * table).sum(axis=1))
    norms[norms == 0] = 1.0
    table /= norms[:, None]  # so that small and large ones are told apart alike
    gram: NDArray[np.float64] = table @ table.T
    inverse = np.linalg.pinv(gram, rcond=_ALIKE, hermitian=True)
    weights = inverse @ (table @ flat)
    rest = flat - weights @ table
    spread = np.add.reduceat(rest**2, starts) / lengths
    by_module = np.stack([np.add.reduceat(row * table, starts, axis=1) for row in table])
    variance = inverse @ (by_module @ spread) @ inverse
    total = float(sum(noise.get(key, 0.0) for key in keys))
    left = max(0.0, float(rest @ rest) - total) / energy
    shares = []
    for place, row in enumerate(table):
        others = np.delete(np.arange(len(table)), place)
        alone = row
        if others.size:
            fitted = np.linalg.pinv(gram[np.ix_(others, others)], rcond=_ALIKE, hermitian=True)
            alone = row - (fitted @ gram[others, place]) @ table[others]
        if not alone @ alone > _ALIKE * (row @ row):  # 0, or the others together
            shares.append(Share(0.0, math.inf, 0.0, None))
            continue
        leans = np.add.reduceat((rest + weights[place] * row) * alone, starts)
        error = math.sqrt(max(0.0, float(variance[place, place]))) / float(norms[place])
        shares.append(_share(float(weights[place] / norms[place]), error, leans, left))
    return Fit(tuple(shares), left)


def _share(weight: float, error: float, leans: NDArray[np.float64], left: float) -> Share:
    size = float(np.sqrt(leans @ leans))
    lean = float(abs(leans.sum())) / size if size else 0.0
    log10_p = min(0.0, (math.log(2) - lean**2 / 2) / math.log(10))
    present: bool | None = None
    if abs(weight) < _LEAST or abs(weight) < _SURE * error:
        present = False
    elif abs(weight) >= _CLEAR or left <= _EXPLAINED:
        present = True
    return Share(weight, error, log10_p, present)
