"""Does one model come from another, or both from a third?

Take a model w, the model p it is taken to come from, and another model c; u = w - p, v = c - w.

Derivation. Training takes steps that know nothing of the noise in the steps before. So where c
comes from w, what is peculiar to u is in c - p with coefficient 1: beta = <c-p, u> / |u|^2 is 1 in
every matrix, up to what v has of the *signal* in u (which makes it more where the data were the
same, less where the training unlearned). Two siblings share the signal alone, and of u's noise c
has nothing: beta falls short of 1 by the noise's share, another in every matrix, and v leans back
on u. Where several models share a signal, a regression on all gives w what is peculiar to it.

All inner products come from sketches; the errors are shares of the differences' norms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lineage.evidence.panel import Panel

__all__ = ["Way", "peculiar", "way"]

_REGRESSORS = 16
"""Models that a model is regressed on: those whose steps are most like its own."""

_LONGER = 1.25
"""A model that went this much further than another from where both began is not regressed on."""


@dataclass(frozen=True, slots=True)
class Way:
    """About one model w, with the parent p it is taken to have: arrays over all models c.

    Attributes:
        beta: Pooled over matrices.
        spread: Weighted standard deviation of beta over matrices, beyond what sketches add.
        lean: Cosine of c - w with w - p: 0 on a chain or above, below where w's noise is not in c.
        rise: Cosine of c - w with c - p.
        cosine: Of w - p with c - p.
        longer: |w - p| over |c - p|.
        shared: Share of the values in matrices that w and c have alike and p has otherwise.
    """

    beta: NDArray[np.float64]
    spread: NDArray[np.float64]
    lean: NDArray[np.float64]
    rise: NDArray[np.float64]
    cosine: NDArray[np.float64]
    longer: NDArray[np.float64]
    shared: NDArray[np.float64]


def way(panel: Panel, w: int, p: int) -> Way:
    """Measure whether models come from w, where w comes from p."""
    n = len(panel)
    inner, squares, noise, shared = (np.zeros(n) for _ in range(4))
    for one in panel.matrices:
        to_p, to_w = one.from_one(p), one.from_one(w)
        own = to_p[w]
        if own > 0:
            found = (to_p + own - to_w) / 2
            inner += found
            squares += found**2 / own
            # What sketching adds to beta's square: |v|^2 / |u|^2 over the number of cells.
            noise += to_w / one.cells
        if one.code[w] != one.code[p]:
            shared += one.size * (one.code == one.code[w])
    step, whole, own = panel.pairs.squared[w], panel.pairs.squared[p], panel.pairs.squared[p, w]
    with np.errstate(divide="ignore", invalid="ignore"):
        beta = inner / own
        spread = np.sqrt(np.clip((squares - noise) / own - beta**2, 0, None))
        lean = (inner - own) / np.sqrt(step * own)
        rise = (whole - inner) / np.sqrt(step * whole)
        cosine = inner / np.sqrt(own * whole)
        longer = np.sqrt(own / whole)
    return Way(
        beta=_clean(beta, 10.0),
        spread=_clean(spread, 10.0),
        lean=_clean(lean, 1.0),
        rise=_clean(rise, 1.0),
        cosine=_clean(cosine, 1.0),
        longer=_clean(longer, 100.0),
        shared=shared / max(1.0, panel.sizes.sum()),
    )


def _clean(x: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    """Bound ratios whose denominator may be nothing."""
    return np.nan_to_num(x, nan=0.0, posinf=most, neginf=-most).clip(-most, most)


def peculiar(
    squared: NDArray[np.float64], p: int, children: Sequence[int], c: int
) -> NDArray[np.float64]:
    """Regress a model's step from p on those of others, none with less than nothing.

    Args:
        squared: Squared distances of all pairs.
        p: Where the steps begin.
        children: Whose steps they are.
        c: The model that is explained.

    Returns:
        A coefficient for each child; 0 for those that went much further than c.

    Source: non-negative least squares, Lawson and Hanson (1974).
    """
    from scipy.optimize import nnls

    found = np.zeros(len(children))
    own = squared[p, c]
    if own <= 0 or not len(children):
        return found
    places = np.asarray(children, np.intp)
    lengths = squared[p, places]
    along = (lengths + own - squared[places, c]) / 2
    use = np.flatnonzero((lengths > 0) & (lengths <= _LONGER**2 * own) & (along > 0))
    if not len(use):
        return found
    use = use[np.argsort(-along[use] / np.sqrt(lengths[use]), kind="stable")][:_REGRESSORS]
    at, scale = places[use], np.sqrt(lengths[use])
    among = (lengths[use][:, None] + lengths[use] - squared[np.ix_(at, at)]) / 2
    values, vectors = np.linalg.eigh(among / scale[:, None] / scale)
    root = np.sqrt(np.maximum(values, 1e-6))
    found[use] = nnls((vectors * root).T, (along[use] / scale) @ vectors / root)[0] / scale
    return found
