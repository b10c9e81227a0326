"""What the evidence about a family's members is worth: odds of each root, and of each descent.

Both are logit models, linear in a few features. The weights were fitted on the tuning families of
`benchmarks/zoo`, and on parts of them drawn at random, by `python benchmarks/quality/fit.py`, which
prints these tables. No feature has a scale of its own: they are cosines, shares and ratios.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineage.evidence.ancestry import Way
    from lineage.evidence.panel import Pairs

__all__ = ["descent_features", "descent_odds", "root_features", "root_probabilities"]

DESCENT = (
    "short_of_one", "above_one", "spread", "leans_back", "leans_on", "rise", "missing", "peculiar",
    "further", "cosine", "nearness", "share", "margin", "shared", "shared_any",
)  # fmt: skip
"""Features of a model c coming from w, where w is taken to come from p."""

ROOT = ("share", "least_share", "margin", "apart", "centre", "unclear")
"""Features of a root, the last alternative being none of the members."""


def descent_features(
    seen: Way, coefficient: float, pairs: Pairs, w: int, c: int
) -> NDArray[np.float64]:
    """Return the features of c coming from w.

    Args:
        seen: Of w, against its own parent.
        coefficient: Of w in `ancestry.peculiar`.
        pairs: Of the family's members.
        w: Place of the one that may be upstream.
        c: Place of the other.
    """
    beta, lean, longer = seen.beta[c], seen.lean[c], seen.longer[c]
    coefficient = min(coefficient, 1.5)
    others = np.delete(pairs.squared[:, c], c)
    nearest = float(others.min())
    ratio = pairs.squared[w, c] / nearest if nearest > 0 else np.inf
    nearness = 0.5 * float(np.log(max(ratio, 1.0))) if np.isfinite(ratio) else 3.0
    return np.array([
        min(max(1 - beta, 0.0), 1.5),
        min(max(beta - 1, 0.0), 2.0),
        min(seen.spread[c], 2.0),
        max(-lean, 0.0),
        max(lean, 0.0),
        seen.rise[c],
        max(1 - coefficient, 0.0),
        max(coefficient - 1, 0.0),
        min(max(float(np.log(max(longer, 1e-9))), 0.0), 3.0),
        seen.cosine[c],
        min(nearness, 3.0),
        float(np.clip(pairs.share[w, c], -1.2, 1.2)),
        float(np.tanh(pairs.margin[w, c] / 0.05)),
        min(1.0, seen.shared[c] * 10),
        float(seen.shared[c] > 0.01),
    ])  # fmt: skip


def root_features(pairs: Pairs) -> NDArray[np.float64]:
    """Return the features of every member as the root, shape (models, features)."""
    n = len(pairs.squared)
    off = ~np.eye(n, dtype=bool)
    share = pairs.share.clip(-1.2, 1.2)
    margin = np.tanh(pairs.margin / 0.03)
    squared = pairs.squared
    apart = np.zeros(n)
    for r in range(n):
        inner = (squared[r][:, None] + squared[r] - squared) / 2
        norm = np.sqrt(squared[r])
        with np.errstate(divide="ignore", invalid="ignore"):
            cosine = np.nan_to_num(inner / norm[:, None] / norm).clip(-1, 1)
        pair = off & off[r] & off[r][:, None]
        apart[r] = cosine[pair].mean() if n > 2 else 0.0
    with np.errstate(divide="ignore"):
        spread = np.where(off & (squared > 0), np.log(squared), np.nan)
    mean = np.nan_to_num(np.nanmean(spread, axis=1)) / 2 if n > 1 else np.zeros(n)
    centre = mean - mean.min()
    low = np.array([np.quantile(share[r][off[r]], 0.2) for r in range(n)])
    means = np.array([share[r][off[r]].mean() for r in range(n)])
    margins = np.array([margin[r][off[r]].mean() for r in range(n)])
    unclear = np.array([(np.abs(margin[r][off[r]]) < 0.3).mean() for r in range(n)])
    return np.stack([means, low, margins, apart, centre.clip(0, 3), unclear], axis=-1)


DESCENT_WEIGHTS = (
    -2.49,
    -1.40,
    -0.38,
    -1.68,
    0.19,
    -1.22,
    -0.87,
    -1.11,
    -0.40,
    3.31,
    -0.06,
    0.98,
    1.76,
    0.46,
    0.42,
    -2.03,
)
ROOT_WEIGHTS = (1.91, -0.32, 3.47, 2.33, -1.64, 1.83, 2.32)


def descent_odds(features: NDArray[np.float64]) -> float:
    """Return the odds that one model comes from the other."""
    score = float(features @ np.array(DESCENT_WEIGHTS[:-1])) + DESCENT_WEIGHTS[-1]
    return float(np.exp(np.clip(score, -30, 30)))


def root_probabilities(pairs: Pairs) -> NDArray[np.float64]:
    """Return how probably each member is the root; what is missing to 1 is that none is."""
    if len(pairs.squared) < 2:
        return np.zeros(len(pairs.squared))
    scores = np.append(root_features(pairs) @ np.array(ROOT_WEIGHTS[:-1]), ROOT_WEIGHTS[-1])
    odds = np.exp(scores - scores.max())
    found: NDArray[np.float64] = odds[:-1] / odds.sum()
    return found
