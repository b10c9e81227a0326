"""Are the layers of one model narrower, as if some of the other's units were left out?

Leaving units out of a feed-forward block takes rows from the matrices that lead into it and columns
from the one that leads out, and changes nothing else. Which units, a sketch does not show: they
have moved to other buckets. What it shows is that along the other side of each matrix every bucket
has at most the energy that it had, for sums of squares only lose by leaving rows out.

That is a bound and no likeness: strangers of two widths keep it too. So this speaks only where
other matrices make the two relatives. A model that was widened looks the same from the other side
and is read as the one that the other was cut from, which is commoner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lineage.artifacts.dialects import layered
from lineage.evidence.base import Evidence, Structure
from lineage.relation import Relation

if TYPE_CHECKING:
    from lineage.evidence.base import Direction
    from lineage.evidence.pairing import Pairing, Resized

LEAST_MATRICES = 2
"""One that leads in and one that leads out."""


def width(pairing: Pairing) -> Structure | None:
    """Say which model's layers are the other's with fewer rows and columns."""
    inside = [r for r in pairing.resized if layered(pairing.first.labels[r.a]) is not None]
    if len(inside) < LEAST_MATRICES or {r.axis for r in inside} != {0, 1}:
        return None
    signs = {r.extents[1] < r.extents[0] for r in inside}
    if len(signs) != 1:
        return None
    is_b_narrower = signs.pop()
    # Training moved what can be compared by this share of its norm, and so what cannot.
    change = pairing.change
    slack = 1 + 2 * change + change**2 + 1e-5
    kept = [_kept(pairing, r, is_b_narrower=is_b_narrower, slack=slack) for r in inside]
    if any(share is None for share in kept):
        return None
    share = float(np.mean([k for k in kept if k is not None]))
    child, parent = ("{b}", "{a}") if is_b_narrower else ("{a}", "{b}")
    words = (
        f"{len(inside)} matrices in the layers of {child} are narrower than {parent}'s, and have "
        f"{share:.0%} of their energy, in no bucket more than there was: units were left out"
    )
    direction: Direction = "a->b" if is_b_narrower else "b->a"
    evidence = Evidence("width-v1", words, statistic=share)
    is_whole = change == 0
    return Structure("width", Relation.PRUNED, "width", direction, is_whole, evidence)


def _kept(pairing: Pairing, found: Resized, *, is_b_narrower: bool, slack: float) -> float | None:
    """Return the share of a matrix's energy that the narrower one has; None if it has too much."""
    a, b = pairing.first.tensors[found.a].sketch, pairing.second.tensors[found.b].sketch
    assert a is not None
    assert b is not None
    small, large = (b, a) if is_b_narrower else (a, b)
    x, y = (small.cols, large.cols) if found.axis == 0 else (small.rows, large.rows)
    if len(x) != len(y) or large.energy <= 0 or np.any(x > slack * y.astype(np.float64)):
        return None
    return small.energy / large.energy
