"""Were one model's matrices turned, as orthogonal fine-tuning (OFT, BOFT) turns them?

W R with R'R = 1 has the norm of every row of W, however far the values moved, and R W that of every
column. A step by d adds |d|^2 to the squared norm of what it is orthogonal to, and else changes it
by more, now up and now down; of two siblings' steps these differ in rows as they do in columns. A
turn leaves the one side alone and changes the other. It does so seen from either model, so which
came first it does not tell. Turns that are computed by a short series, as peft does, keep norms to
some hundredths of |d|^2.

Source: Qiu et al. (2023), "Controlling text-to-image diffusion by orthogonal finetuning".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lineage.evidence.pairing import Pairing

__all__ = ["TURNED", "Turn", "turned"]

TURNED = "turned-v1"
"""The detector's name."""

_LEAST_MATRICES, _LEAST_BUCKETS = 4, 8
_LEAST_MOVED = 0.01
"""Norm of the difference over that of the weights: less can leave norms as they were by chance."""

_KEPT, _MOST_KEPT = 0.12, 0.3
"""How much norms of the one side changed, as a share of |d|^2, in the middle matrix and in each.
Turns by peft leave .01 to .11; trainings, and siblings, .7 and more."""

_CHANGED = 4.0
"""How many times more those of the other side changed, in the middle matrix."""

_ROUNDED = 100.0
"""Squared norm of a difference over what rounding leaves, from which it tells."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Matrices whose rows, or whose columns, kept their norms.

    Attributes:
        matrices: How many.
        change: Norm of the difference over that of the weights, in these.
    """

    matrices: int
    change: float


def turned(pairing: Pairing) -> Turn | None:
    """Find a difference in which every matrix that moved kept the norms of its rows or columns."""
    moved = whole = 0.0
    sides = []
    for place in np.flatnonzero(pairing.is_matrix & ~pairing.same):
        d, energy = float(pairing.energy_d[place]), float(pairing.energy_a[place])
        if d <= _ROUNDED * float(pairing.noise[place]):
            continue
        changed = _changed(pairing, int(place))
        if changed is None or d < _LEAST_MOVED**2 * energy:
            return None
        moved, whole = moved + d, whole + energy
        sides.append(changed)
    if len(sides) < _LEAST_MATRICES:
        return None
    each = np.array(sides)
    kept = int(np.median(each, axis=0).argmin())
    middle = np.median(each, axis=0)
    if middle[kept] > _KEPT or each[:, kept].max() > _MOST_KEPT:
        return None
    if middle[1 - kept] < _CHANGED * middle[kept]:
        return None
    return Turn(len(sides), (moved / whole) ** 0.5)


def _changed(pairing: Pairing, place: int) -> tuple[float, float] | None:
    """Return how much the norms of rows, and of columns, changed, as a share of the difference."""
    one = pairing.first.tensors[pairing.a[place]].sketch
    other = pairing.second.tensors[pairing.b[place]].sketch
    if one is None or other is None or pairing.way[place] != "straight":
        return None
    share = float(pairing.energy_d[place] / pairing.energy_a[place])
    found = []
    for a, b in ((one.rows, other.rows), (one.cols, other.cols)):
        if len(a) < _LEAST_BUCKETS or not a.all():
            return None
        grown = b.astype(np.float64) / a.astype(np.float64) - 1
        found.append(float(np.sqrt(np.mean(grown**2))) / share)
    return found[0], found[1]
