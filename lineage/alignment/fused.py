"""How queries, keys and values lie in one matrix: what fits two models is taken.

Names leave open how many rows a head has, and sometimes whether the three follow each other head by
head. Whatever was done to heads, what one head's keys span is in one of the other model's heads, if
both are cut where heads begin; cut elsewhere, pieces of queries, keys and values are mixed. Of the
few cuts that hold nearly as much as the best, the solver takes the one under which heads fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lineage.fingerprints.fused import Layout, layouts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lineage.alignment.turning import Turn

    Matrix = NDArray[np.floating]

__all__ = ["along", "fitting"]

_LOOKED_ALONG, _SEED = 1024, 0
"""Directions of a stream along which spaces of rows are compared, at most, and what draws them."""

_HEADS = 8
"""Heads of the second model that are looked at, at most."""

_AS_WELL = 0.98
"""Of what the best cut holds, what another must hold to be as good."""

_MOST = 4
"""Cuts that are tried, at most."""

_RIDGE = 1e-12


def along(ours: Matrix, theirs: Matrix, turn: Turn) -> tuple[Matrix, Matrix]:
    """Return a matrix of both in a's coordinates, of a wide stream along some directions.

    Args:
        ours: a's, a row each for what reads or writes the stream.
        theirs: b's.
        turn: From b's stream to a's.
    """
    width = ours.shape[1]
    if width <= _LOOKED_ALONG:
        return ours.astype(np.float64), turn.apply(theirs).astype(np.float64)
    plane = np.random.default_rng(_SEED).standard_normal((width, _LOOKED_ALONG), np.float32)
    back = turn.undone(plane)
    return (ours @ plane).astype(np.float64), (theirs @ back).astype(np.float64)


def fitting(
    pairs: Sequence[tuple[Matrix, Matrix]], outputs: Sequence[tuple[Matrix, Matrix]]
) -> list[Layout]:
    """Find how the rows of two models' matrices may follow each other, the smallest heads first.

    Args:
        pairs: a's matrix and b's as `along` gives them, of blocks that are the same; both of one
            shape, a row each for what is read.
        outputs: The same of what heads write, a row for each number that a head gives.
    """
    if not pairs:
        return []
    queries = len(outputs[0][0])
    keys = (len(pairs[0][0]) - queries) // 2
    seen: dict[Layout, float] = {}
    for layout in layouts(queries, keys):
        q, k, v = layout.rows(queries, keys)
        shares = []
        for (a, b), (out_a, out_b) in zip(pairs, outputs, strict=True):
            outer, inner = ((a[q], b[q]), (out_a, out_b)), ((a[k], b[k]), (a[v], b[v]))
            shares += [_held(both, layout.size) for both in (outer, inner)]
        seen[layout] = float(np.mean(shares))
    best = max(seen.values(), default=0.0)
    fit = [layout for layout, held in seen.items() if held >= _AS_WELL * best]
    return sorted(fit, key=lambda one: one.size)[:_MOST]


def _held(both: Sequence[tuple[Matrix, Matrix]], size: int) -> float:
    """Return which share of some of b's heads lies in one of a's, beyond what any head's would.

    Args:
        both: Two looks at the same heads, which must lie in the same one by both.
        size: Rows of a head.
    """
    total, count = 0.0, len(both[0][0]) // size
    some = np.unique(np.linspace(0, count - 1, min(count, _HEADS)).astype(np.intp))
    chance = min(size / both[0][0].shape[1], 0.99)
    for a, b in both:
        ours = _spans(a.reshape(count, size, -1))
        theirs = _spans(b.reshape(count, size, -1)[some])
        inner = np.einsum("hid,gjd->hgij", theirs, ours, optimize=True)
        total = total + np.sum(inner**2, axis=(2, 3)) / size
    return float((np.max(total, axis=1).mean() / len(both) - chance) / (1 - chance))


def _spans(heads: Matrix) -> Matrix:
    """Return orthonormal rows that span what each head's rows span."""
    gram = heads @ heads.transpose(0, 2, 1)
    trace = np.trace(gram, axis1=1, axis2=2)[:, None, None]
    factor = np.linalg.cholesky(gram + (_RIDGE * trace + 1e-300) * np.eye(gram.shape[1]))
    found: Matrix = np.linalg.solve(factor, heads)
    return found
