"""One family's tree: whom the others started from, and each one's parent, with probabilities.

Every member that could be the root is tried. Under a root the models are placed one by one, the
nearest first: a model goes down from the root as long as it comes from one of the models there, by
the odds of `odds.descent_odds`, and stays where it comes from none. What came later may change
where the earlier ones belong, so all are placed again, with their descendants, until nothing moves.

The chances of all the ways down give each model a distribution over parents. The directed
matrix-tree theorem makes one of them: an arc's probability is its share of the weight of all trees.
Roots count by their own odds, and so does the chance that the root is not at hand.

Source: W. T. Tutte (1948); Koo, Globerson, Carreras and Collins (2007), "Structured prediction
models via the matrix-tree theorem".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.ancestry import peculiar, way
from lineage.graph.odds import descent_features, descent_odds, root_probabilities

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lineage.evidence.ancestry import Way
    from lineage.evidence.panel import Panel

__all__ = ["Tree", "grow", "marginals"]

_LEAST_ROOT = 0.05
_MOST_ROOTS = 3
"""Roots less probable than the first, or beyond so many, are not tried."""

LONE = 0.8
"""How often the direction of a lone pair is right at most: 194 of 240 public pairs. Strong weight
decay turns it round, and nothing in two models alone tells that."""

KNOWN = 0.95
"""Probability of a parent that a mechanical pattern names."""

_ROUNDS = 4
"""How often all models are placed again, at most."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Probabilities over the trees of some models.

    Attributes:
        roots: float64, shape (models,): that a model is the one the others come from. They sum to
            less than 1: the rest is that it is not at hand.
        arcs: float64, shape (models, models): [w, c] is that w is the parent of c.
    """

    roots: NDArray[np.float64]
    arcs: NDArray[np.float64]

    def best(self, least: float) -> list[tuple[int, int, float]]:
        """Return arcs (parent, child, probability) that make a forest, the surest first.

        Of equally probable arcs that exclude each other the first is taken, so the answer follows
        the order of the models, which should be one of their contents.

        Args:
            least: Arcs below this are left out.
        """
        places = np.argwhere(self.arcs >= max(least, 1e-12))
        parent: dict[int, int] = {}
        found = []
        for w, c in sorted(places.tolist(), key=lambda arc: (-self.arcs[arc[0], arc[1]], arc)):
            if c not in parent and not _leads_to(parent, w, c):
                parent[c] = w
                found.append((w, c, float(self.arcs[w, c])))
        return found


def _leads_to(parent: Mapping[int, int], place: int, ancestor: int) -> bool:
    """Whether `ancestor` is upstream of a place, or the place itself."""
    while place != ancestor:
        if place not in parent:
            return False
        place = parent[place]
    return True


def grow(
    panel: Panel,
    merges: Mapping[int, Sequence[int]],
    known: Mapping[int, int] | None = None,
    root: int | None = None,
) -> Tree:
    """Weigh the trees of a panel's models.

    Args:
        panel: Models of one structure, and of one family.
        merges: Those that are made of several others: place -> its parents' places. They may have
            children, and get no parent here.
        known: Those whose parent a mechanical pattern names: place -> its parent's place.
        root: The one that the others come from, where that is known otherwise.
    """
    n, known = len(panel), dict(known or {})
    if root is not None:
        known = {c: w for c, w in known.items() if c != root}
    plain = np.array([i for i in range(n) if i not in merges and i not in known], np.intp)
    roots = np.zeros(n)
    if root is None:
        roots[plain] = root_probabilities(panel.pairs.among(plain))
    else:
        roots[root] = 1.0
    arcs = np.zeros((n, n))
    for r in np.argsort(-roots, kind="stable")[:_MOST_ROOTS]:
        if roots[r] >= _LEAST_ROOT:
            arcs += roots[r] * _Placed(panel, int(r), merges, known).arcs()
    if n == 2 and root is None:
        arcs = np.minimum(arcs, LONE)
    for c, w in known.items():
        arcs[:, c] *= 1 - KNOWN
        arcs[w, c] = KNOWN if n > 2 or root is not None else LONE
    return Tree(roots, arcs)


class _Placed:
    """The models under one root, each with the parent it has so far."""

    def __init__(
        self,
        panel: Panel,
        root: int,
        merges: Mapping[int, Sequence[int]],
        known: Mapping[int, int],
    ) -> None:
        self.panel, self.root, self.merges, self.known = panel, root, merges, known
        self.parent: dict[int, int] = {}
        self._ways: dict[tuple[int, int], Way] = {}
        self._children: dict[int, list[int]] = {}
        n = len(panel)
        squared = panel.pairs.squared
        order = [int(i) for i in np.argsort(squared[root], kind="stable") if i != root]
        waiting = [i for i in order if i in merges]
        for c in order:
            if c not in merges:
                self._move(c, self._best(c))
        while waiting:  # a merge of merges comes after them
            ready = [i for i in waiting if not set(merges[i]) & set(waiting)] or waiting[:1]
            for c in ready:
                self._move(c, self._stem(c))
                waiting.remove(c)
        for _ in range(_ROUNDS):
            before = dict(self.parent)
            for c in order:
                if c not in merges:
                    self._move(c, self._best(c))
            if self.parent == before:
                break
        self._n = n

    def arcs(self) -> NDArray[np.float64]:
        """Return the probability of every arc, the root given."""
        score = np.full((self._n + 1, self._n), -np.inf)
        score[-1] = 0.0
        with np.errstate(divide="ignore"):
            for c in range(self._n):
                if c != self.root and c not in self.merges:
                    chances = self._chances(c)
                    for w, chance in chances.items():
                        score[w, c] = np.log(chance)
                    score[-1, c] = np.log(1e-9)
        return marginals(score)

    def _stem(self, merge: int) -> int:
        """Return the parent of a merge that its way is measured from: the nearest."""
        squared = self.panel.pairs.squared[merge]
        return min(self.merges[merge], key=lambda p: (squared[p], p))

    def _move(self, c: int, parent: int) -> None:
        before = self.parent.get(c)
        if before is not None:
            self._children[before].remove(c)
        self.parent[c] = parent
        self._children.setdefault(parent, []).append(c)

    def _way(self, w: int) -> Way:
        at = w, self.parent[w]
        if at not in self._ways:
            self._ways[at] = way(self.panel, *at)
        return self._ways[at]

    def _best(self, c: int) -> int:
        w = self.known.get(c)
        if w == self.root or (w in self.parent and not _leads_to(self.parent, w, c)):
            return w
        chances = self._chances(c)
        return max(chances, key=lambda w: (chances[w], -w))

    def _chances(self, c: int) -> dict[int, float]:
        """Return how probably a model stays at each place on the ways down from the root."""
        found: dict[int, float] = {}
        reached = [(self.root, 1.0)]
        while reached:
            p, chance = reached.pop()
            odds = self._odds(p, c)
            whole = 1 + sum(odds.values())
            found[p] = found.get(p, 0.0) + chance / whole
            for child, one in odds.items():
                if chance * one / whole > 1e-6:
                    reached.append((child, chance * one / whole))
        return found

    def _odds(self, p: int, c: int) -> dict[int, float]:
        """Return the odds that c comes from each of p's children, and not from p itself."""
        children = [k for k in self._children.get(p, ()) if k != c and not self._is_of(k, c)]
        pairs = self.panel.pairs
        coefficients = peculiar(pairs.squared, p, children, c)
        found = {}
        for child, coefficient in zip(children, coefficients, strict=True):
            seen = descent_features(self._way(child), float(coefficient), pairs, child, c)
            found[child] = descent_odds(seen)
        return found

    def _is_of(self, merge: int, c: int) -> bool:
        """Whether a merge was made of a model, or of one that comes from it: no way leads back."""
        if merge not in self.merges:
            return False
        return any(_leads_to(self.parent, p, c) or self._is_of(p, c) for p in self.merges[merge])


def marginals(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability of each arc over all forests.

    Args:
        score: Logarithms of weights, shape (models + 1, models): [w, c] of the arc w -> c, and in
            the last row of c having no parent among the models.

    Returns:
        float64, shape (models, models).
    """
    n = score.shape[1]
    score = score.copy()
    score[np.arange(n), np.arange(n)] = -np.inf
    weight = np.exp(score - score.max(axis=0))
    weight = np.maximum(weight / weight.sum(axis=0), 1e-12)
    weight[np.arange(n), np.arange(n)] = 0.0
    weight[:-1][score[:-1] == -np.inf] = 0.0
    laplacian = np.diag(weight.sum(axis=0)) - weight[:-1]
    inverse = np.linalg.inv(laplacian)
    found: NDArray[np.float64] = weight[:-1] * (np.diagonal(inverse)[None, :] - inverse.T)
    return found.clip(0, 1)
