"""Are two models related at all?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from lineage.evidence.pairing import Pairing

NULL = "independent initialisation: in each matrix the sketches' cosine is normal around 0"

RELATED, UNRELATED = 0.3, 0.1
"""Pooled cosines above the first are related, below the second not; between them nothing is said.
Networks of one recipe and other seeds stay below .09, the smallest of them below .21
(`benchmarks/strangers.py`); descendants are above .6."""

LARGEST_LOG10_P = -6.0
"""A cosine that chance reaches more often than this says nothing, however large: tiny models."""


@dataclass(frozen=True, slots=True)
class Kinship:
    """How alike two models' matrices are.

    Attributes:
        cosine: Mean over matrices, weighted by the root of their size.
        log10_p: Of a cosine this large or larger under `NULL`; natural zero is never reached.
        matrices: How many were compared.
        equal_share: Share of these matrices' values that are the same.
        others_cosine: The same mean over the matrices that are not equal; None where all are.
        others_log10_p: Of that one.
        is_bitwise: Whether all that are the same are so digest for digest.
    """

    cosine: float
    log10_p: float
    matrices: int
    equal_share: float
    others_cosine: float | None = None
    others_log10_p: float | None = None
    is_bitwise: bool = True

    @property
    def related(self) -> bool | None:
        """Whether they are; None where there is nothing to compare or the answer is not clear."""
        if self.matrices == 0:
            return None
        others = np.nan if self.others_cosine is None else self.others_cosine
        others_p = np.nan if self.others_log10_p is None else self.others_log10_p
        told = verdicts(self.cosine, self.log10_p, others, others_p, self.equal_share)
        return {1: True, 0: False}.get(int(told))

    def __str__(self) -> str:
        """Say how alike, in one line."""
        return f"over {self.matrices} matrices the weights have a cosine of {self.cosine:.3f}"


def verdicts(
    cosine: ArrayLike,
    log10_p: ArrayLike,
    others_cosine: ArrayLike,
    others_log10_p: ArrayLike,
    equal_share: ArrayLike,
) -> NDArray[np.int8]:
    """Say of pairs whether they are related: 1 where they are, 0 where not, -1 where it is open.

    Where some matrices are equal and the others are not, a part was copied, or both hold the same
    fixed tables (filters, positions); weights do not tell which. So the others must be related by
    themselves. Where they are strangers and the equal ones are less than half, it is such tables.

    Args:
        cosine: As in `Kinship`, all of one shape, or numbers.
        log10_p: Likewise.
        others_cosine: NaN where all matrices are equal.
        others_log10_p: Likewise.
        equal_share: Likewise.
    """
    cosine, others = np.asarray(cosine), np.asarray(others_cosine)
    is_like = (cosine >= RELATED) & (np.asarray(log10_p) <= LARGEST_LOG10_P)
    has_others = ~np.isnan(others)
    are_like = (others >= RELATED) & (np.asarray(others_log10_p) <= LARGEST_LOG10_P)
    told = np.where(is_like & (are_like | ~has_others), 1, -1)
    is_apart = has_others & (others < UNRELATED) & (np.asarray(equal_share) < 0.5)
    told[(cosine < UNRELATED) | is_apart] = 0
    return told.astype(np.int8)


def kinship(pairing: Pairing) -> Kinship:
    """Pool the cosines of all matrices that both models have.

    For independent matrices of n values the cosine of sketches of k numbers has a variance of
    1/k + 1/n; the pooled cosine is compared with a normal law of the pooled variance. Vectors are
    left out: gains near 1 agree between strangers.
    """
    from scipy.special import log_ndtr

    use = pairing.is_matrix & (pairing.energy_a > 0) & (pairing.energy_b > 0)
    if not np.any(use):
        return Kinship(0.0, 0.0, 0, 0.0)
    size = pairing.size[use]
    weight = np.sqrt(size)
    weight = weight / weight.sum()
    cosine = float(weight @ pairing.cosine[use])
    variance = 1 / pairing.cells[use] + 1 / size
    sigma = float(np.sqrt(weight**2 @ variance))
    log10_p = float(log_ndtr(-cosine / sigma) / np.log(10))
    same = pairing.same[use]
    equal = float(size[same].sum() / size.sum())
    others = others_log10_p = None
    if not np.all(same):
        left = weight[~same]
        others = float(left @ pairing.cosine[use][~same] / left.sum())
        sigma = float(np.sqrt(left**2 @ variance[~same])) / float(left.sum())
        others_log10_p = float(log_ndtr(-others / sigma) / np.log(10))
    is_bitwise = bool(np.array_equal(same, pairing.equal[use]))
    return Kinship(cosine, log10_p, int(use.sum()), equal, others, others_log10_p, is_bitwise)
