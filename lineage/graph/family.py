"""One family's answer: copies, certain leaves, merges, a root, and who came through whom."""

from __future__ import annotations

from itertools import combinations
from math import exp
from typing import TYPE_CHECKING

import networkx as nx

from lineage.evidence.direction import CLEAR_CHANGE
from lineage.evidence.family import Merge, Stack, betweenness, linear_merge, merge_misfit, stack
from lineage.graph.base import Edge, Undetermined, between
from lineage.graph.structure import Joiner, followers, put_together, without_rings
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lineage.evidence import Comparison
    from lineage.fingerprints import Fingerprint

_CERTAIN = 0.99
"""No probability above this is printed: nothing here is calibrated finer."""


class Family:
    """One family's edges, found in steps; each step takes models out of the rest."""

    def __init__(
        self,
        members: Sequence[str],
        models: Mapping[str, Fingerprint],
        comparisons: Mapping[tuple[str, str], Comparison],
    ) -> None:
        self.models = models
        self.comparisons = comparisons
        self.edges: list[Edge] = []
        self.unclear: list[Undetermined] = []
        rest = self._collapse_copies(list(members))
        rest = self._attach_reduced(rest)
        # In an order of their own contents, so that names and input order cannot matter.
        rest.sort(key=lambda path: models[path].value_id)
        rest = self._attach_put_together(rest)
        joined = Joiner(models, self.between, self._solved).join(rest)
        self.edges = without_rings([*self.edges, *joined])

    def _solve(self, rest: list[str]) -> None:
        """Find the edges among models that can be compared weight by weight."""
        if len(rest) < 2:
            return
        family = stack([self.models[path] for path in rest])
        if family is None:
            self._pairwise(rest)
            return
        merges = self._attach_merges(rest, family)
        self._grow_tree(rest, family, merges)

    def _solved(self, rest: list[str]) -> list[Edge]:
        """Return those edges, and keep them nowhere."""
        count = len(self.edges)
        self._solve(rest)
        found, self.edges = self.edges[count:], self.edges[:count]
        return found

    def between(self, a: str, b: str) -> Comparison:
        """Return what was found between two models, seen from `a`."""
        return between(self.comparisons, a, b)

    def _collapse_copies(self, members: list[str]) -> list[str]:
        """Keep one of each set of identical models; the others hang on it.

        Which copy came first cannot be read from weights. The one kept shares its tensors' names
        with most of the family, then is the one stored narrowest, then has the shortest path.
        """
        names = {path: {t.name for t in self.models[path].tensors} for path in members}

        def rank(path: str) -> tuple[int, int, int, str]:
            shared = sum(len(names[path] & names[other]) for other in members if other != path)
            return -shared, self.models[path].size_bytes, len(path), path

        kept: list[str] = []
        for path in sorted(members, key=rank):
            first = next((k for k in kept if self._is_copy(k, path)), None)
            if first is None:
                kept.append(path)
            else:
                how = self.between(first, path).how
                self.edges.append(Edge(first, path, Relation.IDENTICAL, how, None, 0.5))
        return kept

    def _is_copy(self, a: str, b: str) -> bool:
        return self.between(a, b).relation is Relation.IDENTICAL

    def _attach_reduced(self, members: list[str]) -> list[str]:
        """Hang quantized and pruned models on their nearest source: these are certain leaves."""
        reduced = {Relation.QUANTIZED, Relation.PRUNED}
        rest = []
        for child in members:
            sources = [
                (not found.is_exact, found.distance, self.models[parent].value_id, parent)
                for parent in members
                if parent != child
                and (found := self.between(parent, child)).relation in reduced
                and not found.structure
                and found.direction == "a->b"
            ]
            if not sources:
                rest.append(child)
                continue
            parent = min(sources)[-1]
            found = self.between(parent, child)
            assert found.relation is not None
            self.edges.append(Edge(parent, child, found.relation, found.how, None, _CERTAIN))
        return rest

    def _attach_put_together(self, members: list[str]) -> list[str]:
        """Hang models that are others' layers on these, and what came from them on them."""
        made = put_together(members, self.models)
        for child, parents in made.items():
            for parent, share in parents:
                self.edges.append(
                    Edge(parent, child, Relation.MERGE, "passthrough", share, _CERTAIN)
                )
        came_from = followers(made, members, self.between)
        for origin in made:
            came = [path for path in members if came_from.get(path) == origin]
            found = [edge for edge in self._solved([*came, origin]) if edge.child != origin]
            for child in set(came) - {edge.child for edge in found}:
                how = self.between(origin, child).step or "full"
                found.append(Edge(origin, child, Relation.FINETUNE, how, None, _LONE_PAIR))
            self.edges += found
        return [path for path in members if path not in made and path not in came_from]

    def _attach_merges(self, rest: list[str], family: Stack) -> dict[int, Merge]:
        """Find the weighted means.

        A merge of others is itself a weighted mean of them, so as an ingredient it is never needed
        to explain a second merge of the same models: it is tried only where nothing else fits.
        """
        every = range(len(rest))
        found = {c: linear_merge(family, c, [i for i in every if i != c]) for c in every}
        merges: dict[int, Merge] = {}
        for child, merge in found.items():
            if merge is None:
                continue
            plain = [i for i in every if i != child and found[i] is None]
            merges[child] = linear_merge(family, child, plain) or merge
        for child, merge in merges.items():
            for parent, coefficient in zip(merge.parents, merge.coefficients, strict=True):
                self.edges.append(
                    Edge(rest[parent], rest[child], Relation.MERGE, "linear", coefficient, _CERTAIN)
                )
        return merges

    def _grow_tree(self, rest: list[str], family: Stack, merges: Mapping[int, Merge]) -> None:
        """Choose the root by all pairs together, then give each other model its parent."""
        trained = [i for i in range(len(rest)) if i not in merges]
        if len(trained) < 2:
            return
        if len(trained) == 2:
            self._pairwise([rest[i] for i in trained])
            return

        def steps(i: int) -> list[Comparison]:
            return [self.between(rest[i], rest[j]) for j in trained if j != i]

        margins = {i: sum(found.margin for found in steps(i)) / len(steps(i)) for i in trained}
        root = max(trained, key=lambda i: (margins[i], -i))
        if not _is_start(steps(root), margins[root]):
            self._pairwise([rest[i] for i in trained])
            return
        most = 1 - (1 - _LONE_PAIR) / (len(trained) - 1)
        confidence = min(most, _direction_probability(margins[root]))
        earlier = _earlier(family, root, merges)
        for child in trained:
            if child == root:
                continue
            parent, probability = _parent(family, root, earlier[child])
            exact = self._by_exact_pattern(rest, trained, child)
            if exact is not None and not self._comes_from(rest[exact], rest[child]):
                parent, probability = exact, max(probability, 0.9)
            if self._comes_from(rest[parent], rest[child]):
                parent = root  # which nothing leads to: no ring, whatever the two rules say
            how = self.between(rest[parent], rest[child]).step or "full"
            probability = min(_CERTAIN, confidence * probability)
            self.edges.append(
                Edge(rest[parent], rest[child], Relation.FINETUNE, how, None, probability)
            )

    def _comes_from(self, path: str, ancestor: str) -> bool:
        """Whether the edges so far lead from one model to another."""
        graph = nx.DiGraph((edge.parent, edge.child) for edge in self.edges)
        return path in graph and ancestor in graph and nx.has_path(graph, ancestor, path)

    def _by_exact_pattern(
        self, rest: Sequence[str], trained: Sequence[int], child: int
    ) -> int | None:
        """Return the one model whose difference has a pattern that chance does not make.

        An adapter's difference has a low rank from its base alone, and tensors that were frozen are
        bitwise equal to the start's. A sibling can share them with the child; the start is nearer.
        """

        def found(i: int) -> Comparison:
            return self.between(rest[i], rest[child])

        others = [i for i in trained if i != child and found(i).margin > 0]
        adapters = [i for i in others if found(i).step == "low_rank"]
        if adapters:
            return min(adapters, key=lambda i: (found(i).distance, i))
        frozen = [i for i in others if found(i).equal_share >= _FROZEN_SHARE]
        return min(frozen, key=lambda i: (found(i).distance, i), default=None)

    def _pairwise(self, members: list[str]) -> None:
        """Without a root: say which models are related and that no order is clear.

        Two models alone may still have a clear direction.
        """
        for a, b in combinations(members, 2):
            found = self.between(a, b)
            if len(members) == 2 and found.direction is not None and found.relation is not None:
                parent, child = (a, b) if found.direction == "a->b" else (b, a)
                sure = found.is_exact or found.relation in {Relation.QUANTIZED, Relation.PRUNED}
                probability = _CERTAIN if sure else _LONE_PAIR
                self.edges.append(Edge(parent, child, found.relation, found.how, None, probability))
            elif found.related:
                why = found.evidence[0].told(a, b) if found.evidence else "no order is clear"
                self.unclear.append(Undetermined(a, b, why))


_FROZEN_SHARE = 0.05
"""Share of bitwise equal values from which a model was trained with tensors frozen."""

_LONE_PAIR = 0.8
"""How often the direction of a lone pair is right: 194 of 240 public pairs. Strong weight decay
turns it round, and nothing in two models alone tells that. The doubt is shared among a family's
members: a root with five descendants is sure to .96 at most."""

CLEAR_ROOT = 0.03
"""Mean margin below which no model is called the root of its family."""

CLEAR_ROOT_SHARE = 0.35
"""Share of a pure step's margin that four in five of a root's differences must have. From the true
root of five small families trained for long it was .59 at least, from a public encoder lightly
fine-tuned .38; with the root hidden, .34 at most from the best of its children to the worst of
its siblings, since siblings lean on each other. It was set with these families in view, most of
which are not kept here: a bound to start from, not a measured error rate."""

PURE_ROOT_SHARE = 0.7
"""The same where the changes are too light for a clear margin: then they must be all but pure.
Light full fine-tunes of four small families had a mean of .27 at most; adapters have about .9."""


def _is_start(steps: Sequence[Comparison], margin: float) -> bool:
    """Whether a model is where the others started from, and not the least moved of siblings.

    Args:
        steps: From that model to each other one.
        margin: Their mean margin.
    """

    def most(shares: list[float], least: float) -> bool:
        return bool(shares) and sum(s >= least for s in shares) >= 0.8 * len(shares)

    if most([found.share for found in steps], PURE_ROOT_SHARE):
        return True
    # Changes too light to have a direction of their own are not asked.
    heavy = [found.share for found in steps if (found.change or 0.0) >= CLEAR_CHANGE]
    return margin >= CLEAR_ROOT and most(heavy, CLEAR_ROOT_SHARE)


def _direction_probability(margin: float) -> float:
    """Turn a margin into a probability that the direction is right.

    A logistic curve through what was measured on 222 public pairs: 88 % at .02, 99 % at .05.
    """
    return min(_CERTAIN, 1 / (1 + exp(-(0.27 + 87 * margin))))


def _earlier(
    family: Stack, root: int, merges: Mapping[int, Merge]
) -> dict[int, list[tuple[int, float]]]:
    """Return, for each model, the models that may lie between it and the root, and how surely.

    Each candidate w is on the way to c with probability 1 / (1 + exp(4 (misfit - 1))), where
    `misfit` is 1 at the edge of what was seen on true chains; this curve is a choice, not a
    calibration. Of two models each can not have come before the other, nor can three in a ring:
    the surest orders are taken first, and what contradicts them is dropped.
    """
    count = len(family.cores)
    on_the_way: list[tuple[float, int, int]] = []
    for w in range(count):
        for c in range(count):
            if len({w, c, root}) == 3 and c not in merges:
                misfit = betweenness(family, root, w, c).misfit
                if w in merges:
                    misfit = max(misfit, merge_misfit(family, root, merges[w], c))
                on_the_way.append((1 / (1 + exp(min(50.0, 4 * (misfit - 1)))), w, c))
    order = nx.DiGraph()
    order.add_nodes_from(range(count))
    order.add_edges_from((p, c) for c, merge in merges.items() for p in merge.parents)
    earlier: dict[int, list[tuple[int, float]]] = {c: [] for c in range(count)}
    for probability, w, c in sorted(on_the_way, key=lambda found: (-found[0], found[1:])):
        if probability >= 0.5 and nx.has_path(order, c, w):
            continue
        if probability >= 0.5:
            order.add_edge(w, c)
        earlier[c].append((w, probability))
    return earlier


def _parent(family: Stack, root: int, candidates: Sequence[tuple[int, float]]) -> tuple[int, float]:
    """Return the furthest model on the way from the root, and how probably it is the parent.

    That is the probability of being on the way, times that of no further one being so.
    """

    def distance(w: int) -> float:
        step = family.cores[w] - family.cores[root]
        return float(step @ step)

    none_further = 1.0
    for w, probability in sorted(candidates, key=lambda found: (-distance(found[0]), found)):
        if probability >= 0.5:
            return w, none_further * probability
        none_further *= 1 - probability
    return root, none_further
