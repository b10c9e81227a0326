"""Was one direction taken out of all matrices that write to a stream of features?

To make a model unable to say something, as when refusals are removed ("abliteration"), the part of
every matrix along one direction d of its outputs is taken away: c = (I - dd') p, of embeddings
c = p (I - dd'). The difference has rank 1, as that of a LoRA may have, but it is orthogonal to the
*child*, which has nothing left along d, while a LoRA's is to its parent. What tells the two apart
is that d is the same in all matrices: modules of an adapter are trained each by itself.

The buckets and signs of a sketch depend on the index of a row or column alone, so directions of
features can be compared from one matrix to the next.

Source of the method: Arditi et al., "Refusal in Language Models Is Mediated by a Single Direction"
(2024).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lineage.evidence.pairing import Pairing

__all__ = ["PROJECTED", "one_direction"]

PROJECTED = "projected-v1"
"""The detector's name."""

_LEAST_MATRICES, _LEAST_SIDE = 4, 8

_ALIKE = 0.9
"""Cosine of two directions that are one, but for what rounding leaves."""

_ALL = 0.8
"""Share of the changed matrices that have it."""


def one_direction(pairing: Pairing) -> int:
    """Return how many matrices differ along one and the same direction, 0 where most do not."""
    sides = []
    for place in np.flatnonzero(pairing.is_matrix & ~pairing.same):
        core = pairing.difference(int(place))
        if min(core.shape) >= _LEAST_SIDE and core.any():
            left, _, right = np.linalg.svd(core, full_matrices=False)
            shape = pairing.first.shapes[pairing.a[int(place)]]
            of = {shape[0]: left[:, 0]} if len(shape) == 2 else {}
            sides.append((of, {int(np.prod(shape[1:])): right[0]}))
    if len(sides) < _LEAST_MATRICES:
        return 0
    tried = [one for both in sides[:_LEAST_MATRICES] for side in both for one in side.items()]
    found = max(
        sum(
            any(abs(float(side.get(extent, 0 * one) @ one)) >= _ALIKE for side in both)
            for both in sides
        )
        for extent, one in tried
    )
    return found if found >= max(_LEAST_MATRICES, _ALL * len(sides)) else 0
