"""Which models are related at all: every pair is scored, few are looked at closely.

Models of one structure are compared all at once (`evidence.panel`). Across structures two are
compared only where a short vector of each or an equal tensor gives a reason to: a vector is never
evidence itself.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

from lineage.errors import SchemeError
from lineage.evidence import SHARED_INIT_COSINE, compare_weights
from lineage.evidence.direction import EVEN_SHARE
from lineage.evidence.kinship import verdicts
from lineage.evidence.matching import is_matrix, table
from lineage.evidence.panel import Panel, structure
from lineage.fingerprints.search import search_vector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from lineage.evidence import Comparison
    from lineage.evidence.panel import Pairs
    from lineage.fingerprints import Fingerprint

_WORTH_A_LOOK = 0.2
"""Cosine of two search vectors: strangers' have a deviation of .044."""

_NEAREST = 8
"""Models of another structure that one model is compared with at most, beside those that share
tensors with it: what is related to one member of a family is related to all."""

_SOME = 0.25
"""Share of the pairs of two parts that suffices to say that both moved alike from one start."""


class Comparisons:
    """What pairs of models are to each other by their weights, found when it is asked for."""

    def __init__(self, models: Mapping[str, Fingerprint]) -> None:
        self._models = models
        self._found: dict[tuple[str, str], Comparison] = {}

    def between(self, a: str, b: str) -> Comparison:
        """Return what was found between two models, seen from the first."""
        first, second = min(a, b), max(a, b)
        if (first, second) not in self._found:
            found = compare_weights(self._models[first], self._models[second])
            self._found[first, second] = found
        seen = self._found[first, second]
        return seen if a == first else seen.reversed()


class Screen:
    """All pairs of some models.

    Attributes:
        paths: In order.
        panels: The models by structure: their paths, and the panel where there are several.
        families: Paths of models that are linked, each family in order.
    """

    def __init__(
        self,
        models: Mapping[str, Fingerprint],
        comparisons: Comparisons,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Score every pair.

        Raises:
            SchemeError: If sketches were made by two schemes.
        """
        schemes = sorted({model.scheme for model in models.values()})
        if len(schemes) > 1:
            raise SchemeError(
                f"sketches of {schemes[0]!r} and of {schemes[1]!r} are not comparable"
            )
        self.paths = sorted(models)
        self._place = {path: k for k, path in enumerate(self.paths)}
        self._models = models
        n = len(self.paths)
        self._score = np.zeros((n, n))
        self._related = np.zeros((n, n), np.int8)  # 1 related, -1 unknown, 0 not
        alike: dict[object, list[str]] = defaultdict(list)
        for path in self.paths:
            alike[structure(models[path])].append(path)
        self.panels = list(alike.values())
        done = progress or (lambda _: None)
        for members in self.panels:
            if len(members) > 1:
                self._within(members)
                done(len(members) * (len(members) - 1) // 2)
        for a, b in self._worth_a_look():
            found = comparisons.between(a, b)
            self._set(a, b, found.score, found.related)
            done(1)
        links = nx.Graph()
        links.add_nodes_from(self.paths)
        links.add_edges_from(
            (self.paths[i], self.paths[j]) for i, j in np.argwhere(np.triu(self._related == 1))
        )
        self.families = sorted(sorted(members) for members in nx.connected_components(links))

    def pairs(self) -> Iterator[tuple[str, str, float, bool | None]]:
        """Yield every pair, its score, and whether the two are related."""
        for (i, a), (j, b) in combinations(enumerate(self.paths), 2):
            yield a, b, float(self._score[i, j]), {1: True, 0: False}.get(int(self._related[i, j]))

    def _set(self, a: str, b: str, score: float, related: bool | None) -> None:
        i, j = self._place[a], self._place[b]
        self._score[i, j] = self._score[j, i] = score
        self._related[i, j] = self._related[j, i] = -1 if related is None else int(related)

    def _within(self, members: list[str]) -> None:
        """Score the pairs of models of one structure."""
        panel = Panel([self._models[path] for path in members])
        at = np.ix_(*[[self._place[path] for path in members]] * 2)
        codes = {m.value_id for m in panel.models}
        pairs = panel.pairs
        if not panel.matrices:
            related = np.full(pairs.cosine.shape, -1, np.int8)
        else:
            related = verdicts(
                pairs.cosine,
                pairs.log10_p,
                pairs.others_cosine,
                pairs.others_log10_p,
                pairs.equal_share,
            )
        score = pairs.cosine.clip(0, 1)
        is_apart = _begun_together(related == 1, pairs)
        related[is_apart] = 0
        score[is_apart] /= 2
        if len(codes) < len(members):
            ids = np.array([m.value_id for m in panel.models])
            same = ids[:, None] == ids
            related[same], score[same] = 1, 1.0
        self._related[at], self._score[at] = related, score

    def _worth_a_look(self) -> Iterator[tuple[str, str]]:
        """Yield the pairs of models of different structures that should be compared."""
        group = np.zeros(len(self.paths), np.intp)
        for k, members in enumerate(self.panels):
            group[[self._place[path] for path in members]] = k
        if len(self.panels) < 2:
            return
        self._leave_open(group)
        vectors = np.stack([search_vector(self._models[path]) for path in self.paths])
        near = np.abs(vectors @ vectors.T)
        near[group[:, None] == group] = 0
        chosen = set()
        for i in range(len(self.paths)):
            for j in np.argsort(-near[i], kind="stable")[:_NEAREST]:
                if near[i, j] >= _WORTH_A_LOOK:
                    chosen.add((min(i, int(j)), max(i, int(j))))
        chosen.update(self._sharing(group))
        rest = (near >= _WORTH_A_LOOK) & np.triu(np.ones(near.shape, bool))
        for i, j in np.argwhere(rest):
            if (int(i), int(j)) not in chosen:  # related through others, if at all
                self._score[i, j] = self._score[j, i] = near[i, j]
                self._related[i, j] = self._related[j, i] = -1
        for i, j in sorted(chosen):
            yield self.paths[i], self.paths[j]

    def _leave_open(self, group: np.ndarray) -> None:
        """Say nothing of two structures without a form of matrix that both have."""
        forms = [
            {tuple(sorted((s[0], int(np.prod(s[1:]))))) for _, s in kind if is_matrix(s)}
            for kind in (structure(self._models[members[0]]) for members in self.panels)
        ]
        for i, j in combinations(range(len(forms)), 2):
            if not forms[i] & forms[j]:
                apart = (group[:, None] == i) & (group == j)
                self._related[apart | apart.T] = -1

    def _sharing(self, group: np.ndarray) -> set[tuple[int, int]]:
        """Return pairs across structures with an equal matrix that few models have."""
        holders: dict[bytes, list[int]] = defaultdict(list)
        for i, path in enumerate(self.paths):
            of = table(self._models[path])
            for place, tensor in enumerate(self._models[path].tensors):
                if of.is_matrix[place] and not of.is_flat[place]:
                    holders[tensor.value].append(i)
        found: set[tuple[int, int]] = set()
        for places in holders.values():
            firsts = {int(group[i]): i for i in reversed(places)}
            found.update(
                (min(i, j), max(i, j))
                for i in dict.fromkeys(places[:_NEAREST])
                for j in firsts.values()
                if group[i] != group[j]
            )
        return found


def _begun_together(related: NDArray[np.bool_], pairs: Pairs) -> NDArray[np.bool_]:
    """Return the related pairs that only an initialisation joins.

    Far models are parted into what is near to each other. A step from one such part to another has
    one way, whoever it is seen from. Of two trainings from one start some pairs are about as far
    from it, though others stopped early or moved on.
    """
    is_far = related & (pairs.cosine < SHARED_INIT_COSINE) & (pairs.equal_share == 0)
    near = nx.from_numpy_array(related & ~is_far)
    part = np.zeros(len(related), np.intp)
    for number, members in enumerate(nx.connected_components(near)):
        part[list(members)] = number
    apart = np.zeros_like(related)
    places = np.argwhere(np.triu(is_far))
    for one, other in {(int(part[i]), int(part[j])) for i, j in places}:
        at = np.ix_(part == one, part == other)
        if np.quantile(np.abs(pairs.share[at][is_far[at]]), _SOME) < EVEN_SHARE:
            apart[at] = True
    return (apart | apart.T) & related
