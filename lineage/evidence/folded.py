"""Has one of two models its norms folded into what they follow, as exporters do?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lineage.evidence.matching import table

if TYPE_CHECKING:
    from lineage.fingerprints import Fingerprint

__all__ = ["are_folded"]


def are_folded(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether one of two has norms with statistics, and the other none."""
    return _has_norms(one) != _has_norms(other)


def _has_norms(model: Fingerprint) -> bool:
    return any(name.endswith("running_var") for name in table(model).names)
