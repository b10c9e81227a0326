"""Who lies on whose way in a family: linear algebra on its sketches, stacked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.stacked import Stack, stack

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Betweenness", "Stack", "betweenness", "stack"]


@dataclass(frozen=True, slots=True)
class Betweenness:
    """Whether one model lies on the way from the root to another.

    Attributes:
        lean: How far the last step c-s leans on s-p, as a share of that and of how far the
            same step leans on c-p: near 0 when s came before c, near 1 when c came before s, about
            one half when both left p on their own, however alike their data were.
        mean: <c-p, s-p> / |s-p|^2 pooled over matrices: 1 when s lies on the way from p to c.
        spread: Its weighted standard deviation over matrices, beyond what the sketches add.
    """

    lean: float
    mean: float
    spread: float

    @property
    def misfit(self) -> float:
        """At most 1 where all three are within what was seen on true chains."""
        return max(self.lean / 0.3, abs(self.mean - 1) / 0.3, self.spread / 0.3)


def betweenness(family: Stack, root: int, middle: int, end: int) -> Betweenness:
    """Measure whether `middle` lies on the way from `root` to `end`, matrix by matrix.

    Derivation: training takes steps that are nearly orthogonal to where the weights are *and* to
    how they got there, so on a chain p, s, c the step c-s is orthogonal to s-p and not to c-p. Two
    siblings with deltas of correlation r lean on both alike, by sqrt((1-r)/2). The mean alone
    cannot tell siblings on the same data (r of .9) from a chain; the lean does.
    """
    step = family.cores[middle] - family.cores[root]
    whole = family.cores[end] - family.cores[root]
    last = whole - step
    energy = family.per_matrix(step, step)
    moved = energy > 1e-10 * float(energy.sum())
    if not np.any(moved):
        return Betweenness(1.0, 0.0, np.inf)
    weight = energy[moved] / energy[moved].sum()
    beta = family.per_matrix(whole, step)[moved] / energy[moved]
    mean = float(weight @ beta)
    variance = float(weight @ (beta - mean) ** 2)
    cells = np.diff(np.append(family.starts, family.cores.shape[1]))[moved]
    sketched = float(weight @ (family.per_matrix(last, last)[moved] / energy[moved] / cells))
    on_step, on_whole = abs(_cosine(last, step)), abs(_cosine(last, whole))
    lean = on_step / (on_step + on_whole) if on_step + on_whole > 0 else 0.5
    return Betweenness(lean, mean, float(np.sqrt(max(0.0, variance - 2 * sketched))))


def _cosine(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    both = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / both if both else 0.0
