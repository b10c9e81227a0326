"""Whether two models have units in common, in whatever coordinates: from their neuron sketches.

A unit's nearest partner in another block is looked for twice, by each of two looks. In two models
of which one came from the other both find the same; between strangers they agree about as seldom as
two random choices do, popular partners taken into account.

That nothing was found says nothing: labels may be others, and not all blocks and units are kept.

Source: two independent matchings, Zhu et al., "Independence Tests for Language Models" (2025),
section on unconstrained tests; from signs of sums along quiet directions, it is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.base import Evidence
from lineage.fingerprints.agreement import Agreement
from lineage.fingerprints.neurons import KINDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineage.fingerprints.neurons import Neurons

    Looks = list[tuple[NDArray[np.float32], NDArray[np.float32]]]

__all__ = ["NULL", "Common", "common_units", "evidence"]

NULL = "the two looks at a unit find partners independently of each other"

SURE_SHARE = 0.25
"""Below it nothing is said but that there is something: a long training on other data leaves as
little as .22. A start that two trainings have in common cannot be told from a parent: where they
went far apart it leaves up to .21, and where they did not .5."""

LEAST_SCORE, MOST_SCORE = 0.25, 0.5
"""Scores of pairs that are related by their units alone; strangers' are lower."""


@dataclass(frozen=True, slots=True)
class Common:
    """What two neuron sketches have in common.

    Attributes:
        best: The agreement of the two blocks that agree most.
        tried: Pairs of blocks, by each kind of labels.
        blocks: Of those of the model with fewer, the ones that have a partner.
        of: So many blocks.
        labels: By what labels their units were known.
    """

    best: Agreement
    tried: int
    blocks: int
    of: int
    labels: str

    @property
    def log10_p(self) -> float:
        """Of the best agreement by chance, after counting the pairs of blocks."""
        return min(0.0, self.best.log10_p + float(np.log10(max(self.tried, 1))))

    @property
    def related(self) -> bool | None:
        """Whether one came from the other or both from one; None if it may be a start alone."""
        if not self.blocks:
            return False
        return True if self.best.share >= SURE_SHARE else None

    @property
    def score(self) -> float:
        """Above what strangers have, below what weights in the same coordinates tell."""
        return LEAST_SCORE + (MOST_SCORE - LEAST_SCORE) * self.best.share if self.blocks else 0.0


def common_units(a: Neurons | None, b: Neurons | None) -> Common | None:
    """Look for the units of one model among another's, by each kind of labels that both have.

    A list of tokens may be missing, or false; numbers may have been given anew.

    Returns:
        None where the two cannot be compared: one has no sketch, only one has gates, or they have
        no kind of labels in common.
    """
    if a is None or b is None or a.is_gated != b.is_gated:
        return None
    kinds = [kind for kind in KINDS if kind in a.kinds and kind in b.kinds]
    if not kinds:
        return None
    fewer, more = sorted((a, b), key=_size)
    tried = len(kinds) * len(fewer.blocks) * len(more.blocks)
    found = []
    for kind in kinds:
        seen = _agreements(fewer.looks(kind), more.looks(kind))
        best = max(seen, key=lambda one: one.share)
        blocks = sum(one.tells(tried) for one in seen)
        found.append(Common(best, tried, blocks, len(seen), kind))
    return max(found, key=lambda one: (one.blocks, one.best.share))


def _size(sketch: Neurons) -> tuple[int, int, bytes]:
    """Order two models by what they have, so that it does not matter which comes first."""
    return len(sketch.blocks), sum(units for *_, units in sketch.blocks), sketch.raw


def _agreements(fewer: Looks, more: Looks) -> list[Agreement]:
    """Return for each block of the one the best agreement with a block of the other."""
    ends = np.cumsum([0, *(len(first) for first, _ in more)])
    all_first, all_second = (np.concatenate(looks).T for looks in zip(*more, strict=True))
    found = []
    for first, second in fewer:
        by_first, by_second = first @ all_first, np.abs(second @ all_second)
        seen = [
            _agreement(by_first[:, start:end], by_second[:, start:end])
            for start, end in pairwise(ends.tolist())
        ]
        found.append(max(seen, key=lambda one: one.share))
    return found


def _agreement(by_first: NDArray[np.float32], by_second: NDArray[np.float32]) -> Agreement:
    first, second = by_first.argmax(axis=1), by_second.argmax(axis=1)
    count, others = by_first.shape
    popular = np.bincount(first, minlength=others) @ np.bincount(second, minlength=others)
    return Agreement(int(np.sum(first == second)), count, float(popular / count))


def evidence(found: Common) -> Evidence:
    """Put what two sketches have in common in words."""
    words = (
        f"{found.blocks} of {found.of} blocks have units in common in other coordinates: two looks "
        f"agree on the partner of {found.best.share:.0%} of a block's units "
        f"(by {'strings' if found.labels == 'tokens' else 'numbers'})"
    )
    if found.related is None:
        words += ": one initialisation, or a long training since"
    return Evidence("neurons-v1", words, found.best.share, found.log10_p, NULL)
