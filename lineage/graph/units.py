"""Families that are one in other coordinates, as far as neuron sketches tell.

A sketch says that two models have units in common, and not more: to say which came first, and what
was done, their weights are needed (`lineage.graph.disguised`). One model of each family is held
against one of every other, as kin of kin are kin.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

from lineage.evidence import with_units
from lineage.evidence.neurons import common_units
from lineage.graph.base import Pair, Undetermined

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lineage.evidence import Comparison
    from lineage.evidence.neurons import Common
    from lineage.fingerprints import Fingerprint
    from lineage.graph.base import Between

__all__ = ["Hints"]

_MOST_FAMILIES = 128
"""That are held against each other, at most: those of the most models first."""

_WHY = {
    True: "the same network in other coordinates, or trained from it or from the same start",
    None: "one initialisation in other coordinates, or a long training since",
}
_MORE = (
    ": {share:.0%} of a block's units agree (p = 10^{p:.0f}); the weights are needed to say more"
)


class Hints:
    """Pairs of families that have units in common.

    Attributes:
        found: Places of two families -> what a model of each has in common.
    """

    def __init__(
        self,
        families: Sequence[Sequence[str]],
        models: Mapping[str, Fingerprint],
        comparisons: Between,
    ) -> None:
        """Hold one model of each family against one of every other.

        Args:
            families: Paths that are linked weight by weight.
            models: Path -> fingerprint.
            comparisons: By weights one by one.
        """
        self._comparisons = comparisons
        self._family = {path: k for k, family in enumerate(families) for path in family}
        self._heads: dict[int, str] = {}
        self.found: dict[tuple[int, int], Common] = {}
        for k in sorted(range(len(families)), key=lambda k: -len(families[k])):
            known = [path for path in families[k] if models[path].neurons is not None]
            if known and len(self._heads) < _MOST_FAMILIES:
                self._heads[k] = min(known, key=lambda path: (models[path].value_id, path))
        for i, j in combinations(sorted(self._heads), 2):
            a, b = self._heads[i], self._heads[j]
            seen = common_units(models[a].neurons, models[b].neurons)
            if seen is None or seen.related is False:
                continue
            if comparisons.between(a, b).relation is None:  # else one start, and no coordinates
                self.found[i, j] = seen

    def between(self, a: str, b: str) -> Comparison:
        """Return what two models are to each other, seen from the first."""
        found = self._comparisons.between(a, b)
        if found.related or found.relation is not None:
            return found
        return with_units(found, self._common(a, b))

    def told(self, pair: Pair) -> Pair:
        """Say of a pair of two such families that it is, or may be, related."""
        seen = self._common(pair.a, pair.b)
        if seen is None or pair.related:
            return pair
        return replace(pair, score=max(pair.score, seen.score), related=seen.related)

    def unclear(self) -> Iterator[Undetermined]:
        """Yield what cannot be said without weights, one a pair of families."""
        for (i, j), seen in sorted(self.found.items()):
            a, b = sorted((self._heads[i], self._heads[j]))
            more = _MORE.format(share=seen.best.share, p=seen.log10_p)
            yield Undetermined(a, b, _WHY[seen.related] + more)

    def _common(self, a: str, b: str) -> Common | None:
        i, j = sorted((self._family[a], self._family[b]))
        return self.found.get((i, j))
