"""How often two looks at the units of two blocks found the same partner, and whether by chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["LEAST_SHARE", "Agreement"]

LEAST_SHARE = 0.1
"""Of units, those on whose partner two looks must agree beyond chance, to be the other model's:
strangers trained on the same data have a few in a hundred."""

_LEAST_LOG10_P = -6.0
"""And how unlikely that must be by chance, after counting what was tried."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often two looks at the units of two blocks found the same partner.

    Attributes:
        agreed: Units.
        looked: Of so many.
        expected: If the looks knew nothing of each other: popular partners count.
    """

    agreed: int
    looked: int
    expected: float

    @property
    def share(self) -> float:
        """Of the units that were looked at, those that agree beyond chance."""
        return max(0.0, self.agreed - self.expected) / self.looked if self.looked else 0.0

    def __add__(self, other: Agreement) -> Agreement:
        """Return the agreement over the blocks of both."""
        return Agreement(
            self.agreed + other.agreed,
            self.looked + other.looked,
            self.expected + other.expected,
        )

    @property
    def log10_p(self) -> float:
        """Of as many or more by chance, the looks being independent (Poisson's law)."""
        return _log10_tail(self.agreed, max(self.expected, 1e-9)) if self.agreed else 0.0

    def tells(self, tried: int = 1) -> bool:
        """Whether so much agreement tells relatives.

        Args:
            tried: Pairs of which this is the one that agrees most.
        """
        likely = self.log10_p + float(np.log10(max(tried, 1)))
        return self.share >= LEAST_SHARE and likely <= _LEAST_LOG10_P


def _log10_tail(count: int, mean: float) -> float:
    """Return log10 P(N >= count); far out by the first term, which then is nearly all of it."""
    from scipy.special import gammainc, gammaln  # all of scipy.stats takes a second to load

    tail = float(gammainc(count, mean))
    if tail > 0:
        return float(np.log10(tail))
    return float((count * np.log(mean) - mean - gammaln(count + 1)) / np.log(10))
