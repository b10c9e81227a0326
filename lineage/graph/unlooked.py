"""Why two models were not held against each other in other coordinates, where they were not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lineage.alignment import Chain, described
from lineage.errors import ArchitectureError
from lineage.evidence.base import Evidence
from lineage.graph.rewriting import MOST_OF_A_CHAIN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lineage.evidence import Comparison
    from lineage.evidence.weights import Weights
    from lineage.fingerprints import Fingerprint

__all__ = ["undenied"]

_MATRIX = 2
"""Axes of what is no convolution."""


def undenied(found: Comparison, models: Mapping[str, Fingerprint], weights: Weights) -> Comparison:
    """Deny nothing of two models that nothing was found of, unless they were looked at.

    Weights that have nothing in common as they are stored may still be the same network's with its
    channels in another order. Where that was not asked of convolutions, it is not known.

    Args:
        found: What they are as stored.
        models: The names of a and b, in this order -> fingerprint.
        weights: Of both.
    """
    if found.related is not False or found.relation is not None:
        return found
    for letter, (name, model) in zip("ab", models.items(), strict=True):
        why = _why_not(name, model, weights)
        if why is not None:
            words = f"{{{letter}}} {why}: in other coordinates the two were not compared"
            seen = Evidence("unlooked-v1", words)
            return replace(found, related=None, evidence=(seen, *found.evidence))
    return found


def _why_not(name: str, model: Fingerprint, weights: Weights) -> str | None:
    with weights.opened(name) as items:
        if all(len(item.shape) <= _MATRIX for item in items.values()):
            return None
        try:
            made = described(items.values(), name=name)
        except ArchitectureError as error:
            return error.reason.rpartition("; and as a chain ")[2]
    if isinstance(made, Chain) and model.size_bytes > MOST_OF_A_CHAIN:
        return "is a large network without a stream, which only `lineage align` looks at"
    return None
