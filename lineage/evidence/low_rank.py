"""Is the difference of two models a merged low-rank adapter?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lineage.evidence.pairing import Pairing

_SMALLEST_SIDE = 8

_MOST_FULL = 0.1
"""Share of the matrices whose difference may have a full rank."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """A difference whose every changed matrix has a low rank.

    Attributes:
        rank: The commonest rank.
        modules: How many matrices changed.
    """

    rank: int
    modules: int


def low_rank(pairing: Pairing) -> LowRank | None:
    """Count singular values above the rounding floor in the core of each changed matrix.

    The core of a product BA is the product of the sketched factors, so it has the rank of BA
    wherever that is below the core's side. The floor is what rounding to the stored dtype leaves:
    a Gaussian matrix of side m and entries of variance s^2 has a norm of about 2 s sqrt(m).

    Returns:
        None unless at least nine in ten changed matrices have a rank of at most half their side.
    """
    ranks: list[int] = []
    full = 0
    changed = np.flatnonzero(pairing.is_matrix & ~pairing.same)
    for place in changed:
        if full > _MOST_FULL * len(changed):
            return None  # whatever the rest is
        core = pairing.difference(int(place))
        side = min(core.shape)
        if side < _SMALLEST_SIDE:
            continue
        sides = pairing.first.shapes[pairing.a[place]]
        exact_side = min(sides[0], int(np.prod(sides[1:])))
        values = np.linalg.svd(core, compute_uv=False)
        floor = 6 * 2 * np.sqrt(max(core.shape) * _noise(pairing, int(place)) / core.size)
        rank = int(np.count_nonzero(values > floor))
        if rank == 0:
            continue  # it differs by rounding alone
        if rank <= min(side, exact_side) // 2:
            ranks.append(rank)
        else:
            full += 1
    if not ranks or full > _MOST_FULL * (full + len(ranks)):
        return None
    counted = np.bincount(ranks)
    return LowRank(int(counted.argmax()), len(ranks) + full)


def _noise(pairing: Pairing, place: int) -> float:
    """Squared norm that rounding, of the weights and of the sketches themselves, leaves."""
    stored = (2.0**-23) ** 2 * (pairing.energy_a[place] + pairing.energy_b[place])
    return float(pairing.noise[place] + stored)
