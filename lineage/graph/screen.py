"""Which models are related at all: every pair is scored, few are looked at closely.

Models of one structure are compared all at once (`evidence.panel`). Across structures two are
compared only where a short vector of each or an equal tensor gives a reason to: a vector is never
evidence itself.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from lineage.errors import SchemeError
from lineage.evidence import SHARED_INIT_COSINE, compare_weights
from lineage.evidence.contained import beside
from lineage.evidence.course import SHORT_COURSE
from lineage.evidence.direction import EVEN_SHARE
from lineage.evidence.kinship import UNRELATED, verdicts
from lineage.evidence.matching import is_matrix, table
from lineage.evidence.moved import MOVED
from lineage.evidence.packed import hides_most, rest_of
from lineage.evidence.panel import Pairs, Panel, structure
from lineage.fingerprints.search import search_vector
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from lineage.evidence import Comparison
    from lineage.fingerprints import Fingerprint

    Known = Callable[[str, str], Comparison | None]

_WORTH_A_LOOK = 0.2
"""Cosine of two search vectors: strangers' have a deviation of .044."""

_NEAREST = 8
"""Models of another structure that one model is compared with at most, beside those that share
tensors with it: what is related to one member of a family is related to all."""

_SOME, _MOST = 0.25, 0.95
"""Share of the pairs of two parts that suffices to say that both moved alike from one start, and
share of them that must have courses of their own."""

_LEAST_PART, _MOST_IN_PARTS = 0.02, 4096
"""Of the weight of all matrices, from which some may be a part that was copied; and pairs of which
that is asked."""

_MOST_SHORT = 256
"""Pairs that are near but for their courses, of which it is asked whether scales were moved."""

_LEAST_LINK = 0.01
"""Of two that are related."""


class Comparisons:
    """What pairs of models are to each other by their weights, found when it is asked for."""

    def __init__(
        self, models: Mapping[str, Fingerprint], known: Known = lambda _a, _b: None
    ) -> None:
        """Take some models.

        Args:
            models: Path -> fingerprint.
            known: Tells what some pairs are to each other, where fingerprints do not tell all.
        """
        self._models = models
        self._known = known
        self._found: dict[tuple[str, str], Comparison] = {}

    def between(self, a: str, b: str) -> Comparison:
        """Return what was found between two models, seen from the first."""
        first, second = min(a, b), max(a, b)
        if (first, second) not in self._found:
            found = self._known(first, second)
            if found is None:
                one, other = self._models[first], self._models[second]
                found = beside(one, other) or compare_weights(one, other, says_first=False)
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
        self._cosine = np.zeros((n, n))
        self._link = np.zeros((n, n))
        self._related = np.zeros((n, n), np.int8)  # 1 related, -1 unknown, 0 not
        self._far, self._even, self._short = np.zeros((3, n, n), bool)
        alike: dict[object, list[str]] = defaultdict(list)
        for path in self.paths:
            alike[structure(models[path])].append(path)
        self.panels = list(alike.values())
        done = progress or (lambda _: None)
        for members in self.panels:
            if len(members) > 1:
                self._within(members, comparisons)
                done(len(members) * (len(members) - 1) // 2)
        for a, b in self._worth_a_look():
            self._compared(a, b, comparisons.between(a, b))
            done(1)
        apart = _apart(self._related == 1, self._far, self._even, self._short)
        self._related[apart] = 0
        self._link[self._related != 1] = 0
        self._surest = _surest(self._link)
        kin: dict[int, list[str]] = defaultdict(list)
        for path, number in zip(self.paths, _parts(self._surest > 0).tolist(), strict=True):
            kin[number].append(path)
        self.families = sorted(kin.values())

    def pairs(self) -> Iterator[tuple[str, str, float, bool | None]]:
        """Yield every pair, its score, and whether the two are related.

        Kin of kin are kin, and the score of two that are is that of the weakest link in the surest
        chain of models between them, in the upper half; of others it is half their cosine.
        """
        for (i, a), (j, b) in combinations(enumerate(self.paths), 2):
            surest = float(self._surest[i, j])
            if surest > 0:
                yield a, b, (1 + surest) / 2, True
            else:
                related = None if self._related[i, j] == -1 else False
                yield a, b, float(self._cosine[i, j]) / 2, related

    def _compared(self, a: str, b: str, found: Comparison) -> None:
        """Take in what was found between two models of different structures."""
        i, j = self._place[a], self._place[b]
        at = (np.array([i, j]), np.array([j, i]))
        is_begun = found.relation is Relation.SHARED_INIT
        cosine = found.score * 2 if is_begun else found.score
        self._cosine[at] = cosine
        self._related[at] = 1 if is_begun else -1 if found.related is None else int(found.related)
        self._far[at] = cosine < SHARED_INIT_COSINE and found.equal_share == 0
        self._even[at] = is_begun
        self._short[at] = found.course < SHORT_COURSE
        share = 0.0 if found.structure else abs(found.share)  # there it is of the structure
        self._link[at] = _strength(cosine, share, found.course)

    def _within(self, members: list[str], comparisons: Comparisons) -> None:
        """Score the pairs of models of one structure; what is alike in parts, one by one."""
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
        cosine, course = pairs.cosine.clip(0, 1), panel.courses
        even = np.abs(pairs.share) < EVEN_SHARE
        link = _strength(cosine, np.abs(pairs.share), course)
        moved = pairs.equal_share == 0
        if len(codes) < len(members):
            ids = np.array([m.value_id for m in panel.models])
            same = ids[:, None] == ids
            related[same], cosine[same], link[same] = 1, 1.0, 1.0
        self._related[at], self._cosine[at], self._link[at] = related, cosine, link
        self._far[at] = moved & (cosine < SHARED_INIT_COSINE)
        self._even[at] = even
        self._short[at] = moved & (course < SHORT_COURSE)
        for a, b in _in_parts(pairs):
            found = comparisons.between(members[a], members[b])
            if found.shares is not None and found.shares.is_apart and not found.shares.is_torn:
                self._compared(members[a], members[b], found)
        near = np.triu(self._short[at] & ~self._far[at] & (related == 1), 1)
        order = sorted(np.argwhere(near).tolist(), key=lambda pair: -cosine[pair[0], pair[1]])
        for a, b in order[:_MOST_SHORT]:
            found = comparisons.between(members[a], members[b])
            if found.evidence[0].detector == MOVED:
                self._compared(members[a], members[b], found)

    def _worth_a_look(self) -> Iterator[tuple[str, str]]:
        """Yield the pairs of models of different structures that should be compared."""
        group = np.zeros(len(self.paths), np.intp)
        for k, members in enumerate(self.panels):
            group[[self._place[path] for path in members]] = k
        if len(self.panels) < 2:
            return
        self._leave_open(group)
        packed = [n for n, path in enumerate(self.paths) if hides_most(table(self._models[path]))]
        hidden = np.isin(np.arange(len(self.paths)), packed)
        hidden = (hidden[:, None] | hidden) & (group[:, None] != group)
        self._related[hidden] = -1
        vectors = np.stack([search_vector(self._models[path]) for path in self.paths])
        near = np.abs(vectors @ vectors.T)
        near[group[:, None] == group] = 0
        chosen = set()
        for i in range(len(self.paths)):
            for j in np.argsort(-near[i], kind="stable")[:_NEAREST]:
                if near[i, j] >= _WORTH_A_LOOK:
                    chosen.add((min(i, int(j)), max(i, int(j))))
        chosen.update(self._sharing(group))
        chosen.update(self._around(packed))
        rest = (near >= _WORTH_A_LOOK) & np.triu(np.ones(near.shape, bool))
        for i, j in np.argwhere(rest):
            if (int(i), int(j)) not in chosen:  # related through others, if at all
                self._cosine[i, j] = self._cosine[j, i] = near[i, j]
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

    def _around(self, packed: Sequence[int]) -> set[tuple[int, int]]:
        """Return pairs of a model that is mostly packed and one with the rest, as it is or rounded.

        Where few models have so, as with tensors that they share.
        """
        found: set[tuple[int, int]] = set()
        if not packed:
            return found
        rests = [rest_of(table(self._models[path])) for path in self.paths]
        for i in packed:
            mine = rests[i][0]
            holders = [j for j, rest in enumerate(rests) if j != i and mine & (rest[0] | rest[1])]
            found.update((min(i, j), max(i, j)) for j in holders[:_NEAREST])
        return found

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


def _in_parts(pairs: Pairs) -> list[tuple[int, int]]:
    """Return the pairs of which some matrices are alike and the rest is strangers'."""
    some = np.abs(pairs.far_share - 0.5) < 0.5 - _LEAST_PART
    found = np.argwhere(np.triu(some & (pairs.far_cosine < UNRELATED), 1))
    return [(int(i), int(j)) for i, j in found[:_MOST_IN_PARTS]]


def _apart(
    related: NDArray[np.bool_],
    far: NDArray[np.bool_],
    even: NDArray[np.bool_],
    short: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Return the related pairs that only an initialisation joins.

    Models are parted into what is near to each other and has one course. A step from one part to
    another has one way, whoever it is seen from. Of two trainings from one start some pairs are
    about as far from it, though others stopped early or moved on; or most have courses of their
    own.

    Args:
        related: Which pairs are, as it seems.
        far: Which are too far from each other for two fine-tunes of one model.
        even: Which lean on each other alike.
        short: Which share too little of their courses.
    """
    part = _parts(related & ~far & ~short)
    count = int(part.max(initial=-1)) + 1
    between = related & (part[:, None] != part)

    def votes(which: NDArray[np.bool_]) -> NDArray[np.float64]:
        i, j = np.nonzero(between & which)
        found = np.bincount(part[i] * count + part[j], minlength=count * count)
        return found.reshape(count, count).astype(np.float64)

    is_apart = votes(far & even) > _SOME * votes(far)
    is_apart |= votes(short) > _MOST * votes(short | ~short)
    found: NDArray[np.bool_] = between & is_apart[part[:, None], part]
    return found


def _parts(near: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Number what is linked, model by model: by the first place of each part."""
    is_joined = _surest(near.astype(np.float64)) > 0
    return np.array([int(np.argmax(row)) for row in is_joined], np.intp)


def _strength(cosine: ArrayLike, share: ArrayLike, course: ArrayLike) -> NDArray[np.float64]:
    """Say how sure a link between two models is, of 1.

    Either the two are near, or one is a clear step from the other, however far; and what the
    shorter course has, the longer has too.
    """
    step = np.maximum(np.asarray(cosine), np.minimum(share, 1))
    found: NDArray[np.float64] = np.minimum(step, course).clip(_LEAST_LINK, 1)
    return found


def _surest(link: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weakest link in the surest chain between every two; 0 where there is none.

    Models are taken in one by one, each by the surest link that is left: the way to all that were
    taken in before leads over it.

    Source: Prim (1957), of the longest spanning tree, in which all these chains lie.
    """
    n = len(link)
    found, taken = np.eye(n), np.zeros(n, bool)
    best, via = np.zeros(n), np.zeros(n, np.intp)
    for _ in range(n):
        new = int(np.argmax(np.where(taken, -1, best)))
        row = np.where(taken, np.minimum(found[via[new]], best[new]), 0)
        found[new], found[:, new], found[new, new] = row, row, 1
        taken[new] = True
        nearer = link[new] > best
        best[nearer], via[nearer] = link[new][nearer], new
    return found
