"""Is the difference of two models nothing but noise that somebody added?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.pairing import FLOAT8

if TYPE_CHECKING:
    from lineage.evidence.pairing import Pairing

_SMALLEST_SIDE = 16
_LEAST_MATRICES = 4

_ALIKE = 0.06
"""How far matrices differ at most in how much of their norm a rounding changed."""

_LARGEST = 0.035
"""Share of the weights' norm above which nobody adds noise: nothing would be left of the model."""

_OVER_ROUNDING = 16.0
"""Squared norm of a difference, over what storing a model changes: that looks like noise, too."""

_TOP = 0.03
"""How far, on average, the largest singular value of a core may be above that of a noise."""


@dataclass(frozen=True, slots=True)
class Noise:
    """A difference without a structure.

    Attributes:
        excess: Mean over matrices of the largest singular value of the core over its norm, above
            what independent numbers have there. Training leaves .2 and more.
        matrices: How many were looked at.
        is_rounding: Whether its norm is the same share of the weights in every matrix, the one that
            rounding to three binary digits leaves: an 8-bit float, whatever it is stored in now.
    """

    excess: float
    matrices: int
    is_rounding: bool


def noise(pairing: Pairing) -> Noise | None:
    """Find a difference whose cores have no direction: independent numbers, alike in every place.

    Derivation: the core of independent values is a matrix of about normal values, and the largest
    singular value of such a one of m by n is about (sqrt(m) + sqrt(n)) / sqrt(m n) of its norm
    (Marchenko and Pastur 1967; Geman 1980). Gradients are sums of few outer products, and what
    training leaves is far from that in nearly every matrix.

    Returns:
        None unless at least four matrices moved, nearly all matrices did (of a rounding some are
        left out by choice), the mean excess is within what chance leaves, and the noise has one
        strength, by itself or as a share of the weights.
        A mask that drops values at random leaves white differences too, but of many strengths.
    """
    if pairing.change > _LARGEST:
        return None
    excesses, shares, sizes = [], [], []
    sized = pairing.is_matrix
    for place in np.flatnonzero(sized & ~pairing.same):
        core = pairing.difference(int(place))
        if min(core.shape) < _SMALLEST_SIDE:
            continue
        energy = float(np.sum(core**2))
        if energy <= _OVER_ROUNDING * float(pairing.noise[place]):
            continue  # what storing it changes looks like noise
        added = pairing.energy_d[place] - pairing.noise[place]
        shares.append(np.sqrt(added / pairing.energy_a[place]))
        sizes.append(np.sqrt(added / pairing.size[place]))
        m, n = core.shape
        top = float(np.linalg.norm(core, 2)) / np.sqrt(energy)
        excesses.append(top - (np.sqrt(m) + np.sqrt(n)) / np.sqrt(m * n))
    if len(excesses) < _LEAST_MATRICES:
        return None
    excess = float(np.mean(excesses))
    if excess > _TOP:
        return None
    share = float(np.mean(shares))
    if min(_spread(shares), _spread(sizes)) > _ALIKE:
        return None
    is_rounding = FLOAT8[0] <= share <= FLOAT8[1] and _spread(shares) <= _ALIKE
    if not is_rounding and len(excesses) < 0.9 * int(sized.sum()) - 1:
        return None
    return Noise(excess, len(excesses), is_rounding)


def _spread(numbers: list[float]) -> float:
    return float(np.std(numbers) / np.mean(numbers))
