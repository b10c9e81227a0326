"""Evidence that takes more than two models: merges, the root, who lies on whose way.

All of it is linear algebra on the sketches of one family, stacked once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.matching import match, table
from lineage.evidence.pairing import ROUNDING_RMS
from lineage.fingerprints.lattice import ROUNDING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lineage.fingerprints import Fingerprint

_LEAST_COEFFICIENT = 0.02
_LEAST_EXPLAINED = 0.999


@dataclass(frozen=True, slots=True)
class Stack:
    """The sketches of a family's common matrices.

    Attributes:
        cores: float64, shape (models, numbers): every common matrix's core, one after the other.
        starts: Where each matrix's core begins.
        rounding: Squared norm of the rounding each model's storage leaves, summed over matrices.
    """

    cores: NDArray[np.float64]
    starts: NDArray[np.intp]
    rounding: NDArray[np.float64]

    def per_matrix(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Inner product of two models' rows, matrix by matrix."""
        return np.add.reduceat(x * y, self.starts)


def stack(fingerprints: Sequence[Fingerprint]) -> Stack | None:
    """Stack the matrices that all models have; None where there is none."""
    tables = [table(f) for f in fingerprints]
    reference = tables[0]
    found = [[m for m in match(reference, t) if m.way != "reordered"] for t in tables]
    maps = [{m.a: m.b for m in matches} for matches in found]
    turned = [{m.a for m in matches if m.way == "turned"} for matches in found]
    common = [
        i
        for i, is_matrix in enumerate(reference.is_matrix)
        if is_matrix
        and all(i in m and t.usable[m[i]] for m, t in zip(maps, tables, strict=True))
        and not all(t.is_flat[m[i]] for m, t in zip(maps, tables, strict=True))
    ]
    if not common:
        return None
    lengths = [reference.starts[i + 1] - reference.starts[i] for i in common]
    cores = np.stack([
        t.cores((m[i] for i in common), (i in turns for i in common))
        for m, t, turns in zip(maps, tables, turned, strict=True)
    ]).astype(np.float64)  # fmt: skip
    rounding = np.array([
        sum(_rounding(t.tensors[m[i]].dtype) ** 2 * t.energy[m[i]] for i in common)
        for m, t in zip(maps, tables, strict=True)
    ])  # fmt: skip
    return Stack(cores, np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.intp), rounding)


def _rounding(dtype: str) -> float:
    # The sketches themselves are stored in float32, which adds about as much again.
    return ROUNDING_RMS * ROUNDING.get(dtype, 2.0**-24) + 2.0**-24


@dataclass(frozen=True, slots=True)
class Merge:
    """A model that is a weighted mean of others.

    Attributes:
        parents: Places in the stack.
        coefficients: One per parent; they sum to 1.
        residual: What they leave unexplained, as a share of the distance to the nearest parent.
    """

    parents: tuple[int, ...]
    coefficients: tuple[float, ...]
    residual: float


def linear_merge(family: Stack, child: int, others: Sequence[int]) -> Merge | None:
    """Write one model as a convex combination of at least two of some others, down to rounding.

    A parent lies near the mean of its children too, so nearness is not enough: what is left must
    be no more than rounding leaves, and each coefficient clearly between 0 and 1. Only the merged
    model passes; solving for one of its parents instead gives coefficients outside [0, 1].

    Method: non-negative least squares on the sketches (Lawson and Hanson 1974), the sum of the
    coefficients held at 1; then a plain fit on the support.
    """
    from scipy.optimize import nnls

    if len(others) < 2:
        return None
    away = family.cores[list(others)] - family.cores[child]
    distances = np.einsum("ij,ij->i", away, away)
    gram = away @ away.T
    scale = float(distances.max())
    if scale == 0:
        return None
    # min |w A|^2 with sum w = 1 is nnls on the root of the Gram matrix with a heavy last row.
    values, vectors = np.linalg.eigh(gram / scale)
    root = np.sqrt(values.clip(0))[:, None] * vectors.T
    heavy = 1e3
    weights, _ = nnls(
        np.vstack([root, np.full((1, len(others)), heavy)]), np.r_[np.zeros(len(others)), heavy]
    )
    support = np.flatnonzero(weights > _LEAST_COEFFICIENT)
    if support.size < 2:
        return None
    fit = _affine(away[support])
    if np.any(fit < _LEAST_COEFFICIENT) or np.any(fit > 1 - _LEAST_COEFFICIENT):
        return None
    residual = float(np.sum((fit @ away[support]) ** 2))
    nearest = float(distances[support].min())
    chosen = [others[int(i)] for i in support]
    allowed = family.rounding[child] + float(fit**2 @ family.rounding[chosen])
    if residual > 9 * allowed or residual > (1 - _LEAST_EXPLAINED) * nearest:
        return None
    return Merge(
        tuple(chosen),
        tuple(float(w) for w in fit),
        float(np.sqrt(residual / nearest)),
    )


def _affine(away: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights that sum to 1 and bring the weighted sum of rows nearest to 0."""
    base, rest = away[-1], away[:-1] - away[-1]
    solution = np.linalg.lstsq(rest.T, -base, rcond=None)[0]
    weights: NDArray[np.float64] = np.append(solution, 1 - solution.sum())
    return weights


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


def merge_misfit(family: Stack, root: int, merge: Merge, end: int) -> float:
    """Return how badly a model fits as a descendant of a merge; at most 1 is a fit.

    What was trained on from a merge still has each ingredient in it with the merge's coefficient;
    a sibling of one ingredient has that one alone.
    """
    parents = [p for p in merge.parents if p != root]
    steps = family.cores[parents] - family.cores[root]
    found = np.linalg.lstsq(steps.T, family.cores[end] - family.cores[root], rcond=None)[0]
    expected = [c for p, c in zip(merge.parents, merge.coefficients, strict=True) if p != root]
    return float(np.max(np.abs(found - expected))) / 0.15


def _cosine(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    both = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / both if both else 0.0
