"""Was every matrix of one of two models cut down to its largest singular directions?

With W = U S V' and the first r directions kept, c = U_r S_r V_r' and the rest d = W - c have no
direction in common: <d, c> = 0, in each matrix and in each of its rows and columns. Read from the
other side that is a step which is orthogonal to where it began, as a training's nearly is; but a
training is so on average, and leans on its start one way in one matrix and the other way in the
next, and in some rows more than in others. And it has strong directions, which d cannot have.

Null: the step has no inner product with the child, in any matrix. What a sketch leaves of that is
the error of its estimate of |d|^2, whose variance as a share is 2 / k for k numbers, and
2 rho (1/m + 1/n) besides for a core of m by n and a difference whose squared singular values s have
rho = sum s^2 / (sum s)^2. Models that were moved by independent noise pass, if they are large: so
much noise leaves nothing of a model, and small noise is looked for before.

Sources: Eckart and Young (1936); Denton et al. (2014), "Exploiting linear structure within
convolutional networks"; the variance is that of a bilinear CountSketch (see `fingerprints.sketch`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.whiteness import spike

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineage.evidence.base import Direction
    from lineage.evidence.pairing import Pairing

__all__ = ["TRUNCATED", "Truncation", "truncated"]

TRUNCATED = "truncated-v1"
"""The detector's name."""

_LEAST_MATRICES, _LEAST_SIDE = 4, 16
_LEAST_CHANGE = 0.05
"""Share of the child's norm that was cut off in all that changed: less is not worth it."""

_MOST_SQUARE, _MOST_DEVIATIONS = 2.0, 4.5
"""Mean square of the deviations from orthogonality, and the largest one."""

_MOST_BY_ROWS = 1.1
"""The middle one of the deviations over buckets of rows and of columns. Chance leaves .67, and
truncations up to .9; trainings that change weights by half 1.7 and more, and others 5."""

_MOST_DIRECTED = 1.9
"""Of `whiteness.spike`: what is cut off has no strong directions. Trainings leave mostly over 2."""

_UNLIKE = 0.25
"""How far, as a share, the energy that was lost may be from that of the difference."""

_FLATTEST = 1 / 64
"""Least that `rho` is taken for: what a core does not show."""

_LEAST_MOVED, _ROUNDED = 1e-3, 20.0
"""Share of its norm by which a matrix must differ, to have been cut; and squared norm of the
difference over what rounding leaves."""


@dataclass(frozen=True, slots=True)
class Truncation:
    """A child that has some directions of its parent's matrices and nothing else.

    Attributes:
        direction: From the parent to the child.
        matrices: How many were looked at.
        cut: Share of the parent's squared norm that the child lacks in these.
        deviation: Root mean square of the deviations from orthogonality.
    """

    direction: Direction
    matrices: int
    cut: float
    deviation: float


def truncated(pairing: Pairing) -> Truncation | None:
    """Find a difference that has nothing in common with one of the two models, matrix by matrix."""
    use = pairing.is_matrix & ~pairing.same
    moved = float(pairing.energy_d[use].sum())
    lost = abs(float(pairing.energy_a[use].sum() - pairing.energy_b[use].sum()))
    if abs(lost - moved) > _UNLIKE * moved:  # one by one takes its time
        return None
    seen = [_Cut.of(pairing, int(n)) for n in np.flatnonzero(pairing.is_matrix & ~pairing.same)]
    cuts = [cut for cut in seen if cut is not None]
    if len(cuts) < _LEAST_MATRICES:
        return None
    first, second = (sum(cut.energies[side] for cut in cuts) for side in (0, 1))
    forward = first > second
    off = np.array([cut.off if forward else cut.off_back for cut in cuts])
    rows = np.concatenate([cut.rows if forward else cut.rows_back for cut in cuts])
    parent, child = max(first, second), min(first, second)
    if sum(cut.size for cut in cuts) < _LEAST_CHANGE**2 * child:
        return None
    square = float(np.mean(off**2))
    if square > _MOST_SQUARE or float(np.abs(off).max()) > _MOST_DEVIATIONS:
        return None
    if float(np.median(np.abs(rows))) > _MOST_BY_ROWS:
        return None
    if np.median([float(spike(cut.core[None])[0]) for cut in cuts]) > _MOST_DIRECTED:
        return None
    return Truncation("a->b" if forward else "b->a", len(cuts), 1 - child / parent, square**0.5)


@dataclass(frozen=True, slots=True)
class _Cut:
    """One matrix that differs.

    Attributes:
        energies: Squared norms of both.
        size: That of the difference.
        off: How far the first is from the sum of the second and the difference, in deviations.
        off_back: The same with the two models' places changed.
        rows: As `off`, over buckets of rows and of columns.
        rows_back: As `off_back`.
        core: Of the difference.
    """

    energies: tuple[float, float]
    size: float
    off: float
    off_back: float
    rows: NDArray[np.float64]
    rows_back: NDArray[np.float64]
    core: NDArray[np.float64]

    @classmethod
    def of(cls, pairing: Pairing, place: int) -> _Cut | None:
        core = pairing.difference(place)
        size = float(np.sum(core**2))
        one = pairing.first.tensors[pairing.a[place]].sketch
        other = pairing.second.tensors[pairing.b[place]].sketch
        first, second = float(pairing.energy_a[place]), float(pairing.energy_b[place])
        if one is None or other is None or pairing.way[place] != "straight":
            return None
        least = max(_LEAST_MOVED**2 * max(first, second), _ROUNDED * float(pairing.noise[place]))
        if min(core.shape) < _LEAST_SIDE or size <= least:
            return None
        inner = core @ core.T if len(core) < core.shape[1] else core.T @ core
        flat = sum(1 / side for side in core.shape)
        rho = max(float(np.sum(inner**2)) / size**2 - flat, _FLATTEST)
        scale = size * (2 * rho * flat + 2 / core.size) ** 0.5
        rows, back = [], []
        for axis, a, b in ((1, one.rows, other.rows), (0, one.cols, other.cols)):
            moved = np.sum(core**2, axis=axis)
            grown = a.astype(np.float64) - b.astype(np.float64)
            chance = moved * (2 / core.shape[axis]) ** 0.5 + 1e-300
            rows.append((grown - moved) / chance)
            back.append((-grown - moved) / chance)
        return cls(
            energies=(first, second),
            size=size,
            off=(first - second - size) / scale,
            off_back=(second - first - size) / scale,
            rows=np.concatenate(rows),
            rows_back=np.concatenate(back),
            core=core,
        )
