"""Are two models related at all?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lineage.evidence.pairing import Pairing

NULL = "independent initialisation: in each matrix the sketches' cosine is normal around 0"

RELATED, UNRELATED = 0.3, 0.1
"""Pooled cosines above the first are related, below the second not; between them nothing is said.
Independent networks of one architecture stay below .03 in every matrix, descendants above .6."""


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
        is_bitwise: Whether all that are the same are so digest for digest.
    """

    cosine: float
    log10_p: float
    matrices: int
    equal_share: float
    others_cosine: float | None = None
    is_bitwise: bool = True

    @property
    def related(self) -> bool | None:
        """Whether they are; None where there is nothing to compare or the answer is not clear."""
        if self.matrices == 0:
            return None
        if self.cosine < UNRELATED:
            return False
        if self.others_cosine is not None and self.others_cosine < UNRELATED:
            # Some tensors equal and all others strangers: a part was copied, or both hold the same
            # fixed table (filters, positions). Which, weights do not tell.
            return None if self.equal_share >= 0.5 else False
        return True if self.cosine >= RELATED and self.log10_p <= LARGEST_LOG10_P else None


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
    others = None
    if not np.all(same):
        others = float(weight[~same] @ pairing.cosine[use][~same] / weight[~same].sum())
    is_bitwise = bool(np.array_equal(same, pairing.equal[use]))
    return Kinship(cosine, log10_p, int(use.sum()), equal, others, is_bitwise)
