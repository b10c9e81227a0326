"""Is the difference of two models nothing but noise that somebody added?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lineage.evidence.pairing import Pairing

_SMALLEST_SIDE = 16
_LEAST_MATRICES = 4

_TOP = 0.09
"""How far, on average, the largest singular value of a core may be above that of a noise."""


@dataclass(frozen=True, slots=True)
class Noise:
    """A difference without a structure.

    Attributes:
        excess: Mean over matrices of the largest singular value of the core over its norm, above
            what independent numbers have there. Training leaves .2 and more.
        matrices: How many were looked at.
    """

    excess: float
    matrices: int


def noise(pairing: Pairing) -> Noise | None:
    """Find a difference whose cores have no direction: independent numbers, alike in every place.

    Derivation: the core of independent values is a matrix of about normal values, and the largest
    singular value of such a one of m by n is about (sqrt(m) + sqrt(n)) / sqrt(m n) of its norm
    (Marchenko and Pastur 1967; Geman 1980). Gradients are sums of few outer products, and what
    training leaves is far from that in nearly every matrix.

    Returns:
        None unless at least four matrices moved, nearly all matrices did, and the mean excess is
        within what chance and the rounding of the stored values leave.
    """
    excesses = []
    sized = pairing.is_matrix
    for place in np.flatnonzero(sized & ~pairing.same):
        core = pairing.difference(int(place))
        if min(core.shape) < _SMALLEST_SIDE:
            continue
        energy = float(np.sum(core**2))
        if energy <= 100 * float(pairing.noise[place]):
            return None  # rounding looks like noise
        m, n = core.shape
        top = float(np.linalg.norm(core, 2)) / np.sqrt(energy)
        excesses.append(top - (np.sqrt(m) + np.sqrt(n)) / np.sqrt(m * n))
    if len(excesses) < max(_LEAST_MATRICES, 0.9 * int(sized.sum()) - 1):
        return None
    excess = float(np.mean(excesses))
    return Noise(excess, len(excesses)) if excess <= _TOP else None
