"""One family's tree: each model's parent among the others, or none, with probabilities.

Every arc between two models has a weight by all the evidence there is for it (`odds.Nets`), and
so has a model's having no parent here; a second look has new weights, in view of what the first
made likely (`ancestry.in_view_of`). A tree weighs what its arcs weigh together, and an arc's
probability is its share of the weight of all trees, by the directed matrix-tree theorem. Models
without a parent may be several: the root, or what came from models that are not at hand. Which arcs
are said is asked once the likeliest root is taken for it, as arcs one by one, each the best of its
child's, may leave a family without the root that they speak for together.

Source: W. T. Tutte (1948); Koo, Globerson, Carreras and Collins (2007), "Structured prediction
models via the matrix-tree theorem".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence import alone
from lineage.evidence.ancestry import in_view_of
from lineage.graph.odds import fitted

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from lineage.evidence.ancestry import Evidence

__all__ = ["LEAST_EDGE", "Tree", "grow", "leads_to", "marginals"]

LEAST_EDGE = 0.35
"""Arcs less probable than this are no edges: then it is undetermined where the model comes from."""

LONE = 0.89
"""How often the direction of a lone pair is right at most, whatever the weights of its two arcs:
strong weight decay turns it round, and who wants to can make it look so, or write another counter.
Below what `audit` needs to refuse a claim."""

AT_HAND = 1.0
"""Taken from the logarithm of the weight of having no parent: families at hand miss fewer of their
roots than the parts that odds were fitted on. Set on tuning families left out of the fit."""

TURNED = 0.5
"""Of two models, what an arc that something else rules out leaves the other way: most of what made
it likely says that one step lies between the two, and the rest was wrong about which way."""

ADAPTED = 1.0
"""Added to the logarithm of the weight of a step of low rank either way, as little else leaves two
models apart in a few directions alone. And once more to the way that leaves the one with more ties
to others, by one at least, and taken from the way back: an adapter is made for a model of which
much is made, and what it is merged into is left alone more often than not."""

DOUBT = 4.0
"""Taken from the logarithm of the weight of an arc that is doubted."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Probabilities over the trees of some models.

    Attributes:
        roots: float64, shape (models,): that a model has no parent among the others.
        arcs: float64, shape (models, models): [w, c] is that w is the parent of c.
        rooted: The same if the likeliest root has no parent among the others.
    """

    roots: NDArray[np.float64]
    arcs: NDArray[np.float64]
    rooted: NDArray[np.float64]

    def best(self, least: float) -> list[tuple[int, int, float]]:
        """Return arcs (parent, child, probability) that make a forest, the surest first.

        How sure they are is said over all trees, and which they are over those of the likeliest
        root. Of equally probable arcs that exclude each other the first is taken, so the answer
        follows the order of the models, which should be one of their contents.

        Args:
            least: Arcs below this are left out.
        """
        places = np.argwhere(self.rooted >= max(least, 1e-12))
        parent: dict[int, int] = {}
        found = []
        for w, c in sorted(places.tolist(), key=lambda arc: (-self.rooted[arc[0], arc[1]], arc)):
            if c not in parent and not leads_to(parent, w, c):
                parent[c] = w
                found.append((w, c, float(self.arcs[w, c])))
        return found

    def alone(self, w: int, c: int) -> float:
        """Return how likely w -> c is of two models if one of them came from the other.

        Whether one did, and the two are not siblings, two models alone hardly tell.
        """
        there, back = max(float(self.arcs[w, c]), 1e-12), max(float(self.arcs[c, w]), 1e-12)
        return min(LONE, there / (there + back))


def leads_to(parent: Mapping[int, int], place: int, ancestor: int) -> bool:
    """Whether `ancestor` is upstream of a place, or the place itself."""
    while place != ancestor:
        if place not in parent:
            return False
        place = parent[place]
    return True


def grow(
    seen: Evidence,
    merges: Mapping[int, Sequence[int]] | None = None,
    *,
    root: int | None = None,
    leaf: int | None = None,
    ruled_out: Collection[tuple[int, int]] = (),
    doubted: Collection[tuple[int, int]] = (),
    thin: Collection[tuple[int, int]] = (),
) -> Tree:
    """Weigh the trees of a family's models.

    Which of two models came first is also asked of what was fitted for lone pairs
    (`evidence.alone`): of a family of two of that alone.

    Args:
        seen: Of models of one structure, and of one family.
        merges: Those that are made of several others: place -> its parents' places. They may have
            children, and get no parent here.
        root: The one that the others come from, where that is known otherwise.
        leaf: One that has a parent and no children, where that is known otherwise.
        ruled_out: Arcs (from, to) that are known not to be.
        doubted: Arcs that something else than these features speaks clearly against.
        thin: Arcs of low rank. Where there are others gains say no direction of these, as a merged
            adapter may take more from a model than it adds, but its ties to the others do.
    """
    first, second = fitted()
    odds = alone.fitted()(seen.gains)
    silent = thin if len(odds) > 2 else ()
    for w, c in silent:
        odds[w, c] = odds[c, w] = 0.0

    def known(
        score: NDArray[np.float64], ruled_out: Collection[tuple[int, int]]
    ) -> NDArray[np.float64]:
        for w, c in ruled_out:
            if score.shape[1] == 2 and (c, w) not in ruled_out:
                score[c, w] = np.logaddexp(score[c, w], score[w, c] + np.log(TURNED))
            score[w, c] = -np.inf
        for w, c in doubted:
            score[w, c] -= DOUBT
        return _bound(score, merges or {}, root, leaf)

    # Of two models the weights say whether a step lies between them, and patterns only which way.
    arcs = marginals(known(first(seen, odds, silent), ruled_out if len(odds) > 2 else ()))
    score = second(in_view_of(seen, arcs), odds, silent)
    _lean(score, arcs + arcs.T, thin)
    score[-1] -= AT_HAND
    if len(odds) == 2:
        score = _of_two(score, float(odds[0, 1]))
    score = known(score, ruled_out)
    arcs = marginals(score)
    roots = (1 - arcs.sum(axis=0)).clip(0, 1)
    likeliest = np.where(np.isin(np.arange(len(roots)), list(merges or ())), -1, roots).argmax()
    score[:-1, likeliest], score[-1, likeliest] = -np.inf, 0.0
    return Tree(roots, arcs, marginals(score))


def _lean(
    score: NDArray[np.float64], ties: NDArray[np.float64], thin: Collection[tuple[int, int]]
) -> None:
    """Weigh steps of low rank by what adapters are made for; see `ADAPTED`."""
    for w, c in {(min(arc), max(arc)) for arc in thin}:
        more = float(ties[w].sum() - ties[c].sum())
        lean = ADAPTED * (np.sign(more) if abs(more) > 1 else 0)
        score[w, c] += ADAPTED + lean
        score[c, w] += ADAPTED - lean


def _of_two(score: NDArray[np.float64], odds: float) -> NDArray[np.float64]:
    """Leave how likely a step between two models is, and give its two ways odds."""
    none = score[-1].mean()
    either = np.logaddexp(score[0, 1] + score[-1, 0], score[1, 0] + score[-1, 1]) - none
    there, back = either - np.logaddexp(0, -odds), either - np.logaddexp(0, odds)
    return np.array([[-np.inf, there], [back, -np.inf], [none, none]])


def _bound(
    score: NDArray[np.float64],
    merges: Mapping[int, Sequence[int]],
    root: int | None,
    leaf: int | None,
) -> NDArray[np.float64]:
    """Rule out what is known not to be; see `grow`."""
    for merge, parents in merges.items():
        score[:-1, merge] = -np.inf
        score[merge, list(parents)] = -np.inf
    if merges:  # nor has what is above its parents come from a merge
        below = score.copy()
        below[list(merges)] = -np.inf
        arcs = marginals(below)
        for merge, parents in merges.items():
            score[merge, _above(arcs, parents)] = -np.inf
    if root is not None:
        score[-1] = -np.inf
        score[:-1, root], score[-1, root] = -np.inf, 0.0
        score[-1, list(merges)] = 0.0
    if leaf is not None:
        score[leaf] = -np.inf
        score[-1, leaf] = -np.inf
    return score


def _above(arcs: NDArray[np.float64], places: Sequence[int]) -> list[int]:
    """Return what is more likely than not upstream of some places, step by step."""
    found: list[int] = []
    left = list(places)
    while left:
        for place in np.flatnonzero(arcs[:, left.pop()] > 0.5).tolist():
            if place not in found:
                found.append(place)
                left.append(place)
    return found


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
