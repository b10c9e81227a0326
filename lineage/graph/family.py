"""One family's answer: copies, certain leaves, merges, and the tree of what was trained."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.ancestry import evidence
from lineage.evidence.counters import order
from lineage.evidence.merging import find_merges
from lineage.evidence.panel import Panel, structure
from lineage.evidence.projected import PROJECTED
from lineage.evidence.siblings import Siblings
from lineage.evidence.stacked import stack
from lineage.graph.anew import apart_in_vectors, made_anew, same_matrices
from lineage.graph.base import Edge, Undetermined
from lineage.graph.deep import Deep
from lineage.graph.disguised import Disguises
from lineage.graph.leaves import CERTAIN, LIKELY, cut_down, noised, sparse
from lineage.graph.merged import merged_inside, merged_of, nearer_to_parents
from lineage.graph.remerged import remerged
from lineage.graph.rounded import hang, past_noise
from lineage.graph.structure import (
    CLEARLY_NEARER,
    Group,
    apart_for,
    followers,
    groups,
    kinds,
    passthrough_edges,
    put_together,
    steps_into,
    weighed,
    without_rings,
)
from lineage.graph.tree import LEAST_EDGE, LONE, Tree, grow
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from lineage.evidence import Comparison
    from lineage.evidence.ancestry import Evidence
    from lineage.evidence.weights import Weights
    from lineage.fingerprints import Fingerprint
    from lineage.graph.anew import Twin
    from lineage.graph.base import Between

    Nearer = Callable[[int, int, int], bool]
    Arc = tuple[int, int]
    Patterns = Callable[[Iterable[Arc]], tuple[set[Arc], set[Arc]]]

_MATTERS, _ROUNDS = 0.02, 4
"""Probability of an arc from which the weights are asked about it, and how often they are asked."""

_NAMED = frozenset({Relation.PRUNED, Relation.NOISED, Relation.EXPANDED, Relation.REPARAMETRIZED})
"""What a step between two models is called as the two alone show it."""

_BEGAN = 0.5
"""Probability of having no parent from which a model in coordinates of its own is no leaf."""

_WEIGHED = 40
"""Models among which a hidden one's parent is weighed, at most: the nearest."""


class Family:
    """One family's edges, found in steps; each step takes models out of the rest.

    Attributes:
        edges: Found so far.
        unclear: Pairs that are related, without an order.
        ground: Of models that are compared with others of other names, what all of them have.
    """

    def __init__(
        self,
        members: Sequence[str],
        models: Mapping[str, Fingerprint],
        comparisons: Between,
        weights: Weights | None = None,
        hidden: Disguises | None = None,
    ) -> None:
        self.models = models
        self.weights = weights
        self.hidden = hidden or Disguises()
        self.between = comparisons.between
        self.edges: list[Edge] = []
        self.unclear: list[Undetermined] = []
        self.ground: dict[str, Fingerprint] = {}
        # In an order of their own contents, so that names and input order cannot matter.
        rest, merged = merged_inside(sorted(members, key=self._by_content), self.hidden)
        self.edges += merged
        rest = sorted(self._collapse_copies(rest), key=self._by_content)
        rest, rounded = hang(rest, models, self.between, self.hidden)
        self.edges += rounded
        rest = self._attach_put_together(rest)
        alike: dict[object, list[str]] = defaultdict(list)
        for path in rest:
            alike[structure(models[path])].append(path)
        self.rest = rest
        for kind in kinds(list(alike.values()), models, self.between) if rest else ():
            self.ground.update(kind.ground)
            outside = sorted(set(rest) - set(kind.members), key=self._by_content)
            steps = steps_into(kind.members, outside, models, self.between)
            for group in groups(kind.members, steps, self.between):
                self._join(group)
        self.edges = without_rings(self._in_one_frame(past_noise(self.edges, self.between)))

    def _by_content(self, path: str) -> tuple[str, str]:
        return self.models[path].value_id, path

    def _collapse_copies(self, members: list[str]) -> list[str]:
        """Keep one of each set of identical models; the others hang on it.

        Which copy came first cannot be read from weights. The one kept has the coordinates of most
        of the family, and its tensors' names, then is the one stored narrowest, then has the
        shortest path.
        """
        named = Counter(name for path in members for name in self._names(path))
        hidden = self.hidden.prints

        def rank(path: str) -> tuple[bool, int, int, int, str]:
            shared = sum(named[name] for name in self._names(path))
            return path in hidden, -shared, self.models[path].size_bytes, len(path), path

        kept: list[str] = []
        for path in sorted(members, key=rank):
            first = next((k for k in kept if self._is_copy(k, path)), None)
            if first is None:
                kept.append(path)
            else:
                how = self.between(first, path).how
                is_told = len(members) > 2 and not self.hidden.has_one_frame(first, path)
                sure = LIKELY if is_told else 0.5
                self.edges.append(Edge(first, path, Relation.IDENTICAL, how, None, sure))
        return kept

    def _names(self, path: str) -> set[str]:
        return {tensor.name for tensor in self.models[path].tensors}

    def _is_copy(self, a: str, b: str) -> bool:
        """Whether two models are the same; those of two structures only where their sums agree."""
        one, other = self.models[a], self.models[b]
        if self.hidden.knows(a, b):
            return self.between(a, b).relation is Relation.IDENTICAL
        if one.value_id == other.value_id:
            return True
        if structure(one) == structure(other) or not np.isclose(_energy(one), _energy(other)):
            return False
        return self.between(a, b).relation is Relation.IDENTICAL

    def _in_one_frame(self, edges: Sequence[Edge]) -> list[Edge]:
        """Hang what has a copy's coordinates on that copy, and not on what that was copied from."""
        copies: dict[tuple[str, str], str] = {}
        for edge in sorted(edges, key=lambda e: self._by_content(e.child)):
            frame = self.hidden.first.get(edge.child)
            if edge.relation is Relation.IDENTICAL and frame is not None:
                copies.setdefault((edge.parent, frame), edge.child)
        found = []
        for edge in edges:
            frame = self.hidden.first.get(edge.child, "")
            copy = copies.get((edge.parent, frame))
            is_apart = copy not in (None, edge.child)
            found.append(replace(edge, parent=copy) if copy and is_apart else edge)
        return found

    def _attach_put_together(self, members: list[str]) -> list[str]:
        """Hang models that are others' layers on these, and what came from them on them."""
        made = put_together(members, self.models)
        self.edges += passthrough_edges(made, CERTAIN)
        came_from = followers(made, members, self.models, self.between) if made else {}
        for origin in made:
            came = [path for path in members if came_from.get(path) == origin]
            self._join(Group((origin, *came), origin))
        return [path for path in members if path not in made and path not in came_from]

    def _join(self, group: Group) -> None:
        """Hang a group's first on what it was made from, and the others on it or each other."""
        step = group.step
        if step is not None and step.found.is_exact:
            self.edges.append(step.edge(CERTAIN))
        elif step is not None:
            shape = structure(self.models[step.parent])
            kin = [path for path in self.rest if structure(self.models[path]) == shape]
            step, probability = weighed(step, kin, self.models, self.between)
            self.edges.append(step.edge(min(LIKELY, max(probability, LEAST_EDGE))))
        if len(group.members) > 1:
            members = sorted(group.members, key=self._by_content)
            self._solve(members, group.seed)

    def _solve(self, members: list[str], seed: str | None = None) -> None:
        """Find what models of one structure are to each other: leaves, merges, and the tree.

        Args:
            members: Their paths.
            seed: The one that the others come from, where that is known.
        """
        panel = Panel([self.ground.get(path, self.models[path]) for path in members])
        if not panel.matrices:
            return
        anew = made_anew([self.models[path] for path in members], panel)
        if anew is not None:
            panel = anew.panel
            if self._attach_twins(members, anew.twins(), anew.is_nearer, seed):
                return
        if self._attach_twins(members, same_matrices(panel), partial(_is_nearer, panel), seed):
            return
        deep = None if self.weights is None else Deep(self.weights, members, panel)
        named = None if deep is None else deep.pruned_from
        certain = sparse(members, panel, self.between, named)
        certain = certain or noised(members, panel, self.between)
        certain = certain or cut_down(members, panel, self.between)
        self.edges += certain
        leaves = {members.index(edge.child) for edge in certain}
        leaves = leaves or self._attach_hidden(members, panel, seed)
        if leaves:
            rest = [path for place, path in enumerate(members) if place not in leaves]
            if len(rest) > 1:
                self._solve(rest, seed if seed in rest else None)
            return
        first = None if seed is None else members.index(seed)
        seen = evidence(panel, {})
        counted = order([self.models[path] for path in members])
        if anew is not None:
            ruled_out, doubted = anew.arcs()
            counted = counted[0] | ruled_out, counted[1] | doubted
        beside = Siblings(panel)
        patterns = self._patterns(members, beside if first is None else None)
        likely = int(np.argmax(_grown(seen, {}, first, counted, None, patterns).roots))
        merges, made = merged_of(members, panel, first, likely, deep)
        self.edges += made
        parents = {child: merge.parents for child, merge in merges.items()}
        if merges:
            seen = evidence(panel, parents)
            counted = counted[0] | nearer_to_parents(merges, panel), counted[1]
        tree = _grown(seen, parents, first, counted, deep, patterns)
        children = set(merges)
        for parent, child, probability in tree.best(LEAST_EDGE):
            if len(members) == 2 and first is None:
                probability = tree.alone(parent, child)
            found = self.between(members[parent], members[child])
            relation, how = _step(found)
            self._add(members[parent], members[child], relation, how, probability)
            children.add(child)
        children |= self._miss_parents(members, beside.found, children)
        self._leave_open(members, panel, tree, children)

    def _attach_twins(
        self, members: Sequence[str], twins: Sequence[Twin], is_nearer: Nearer, seed: str | None
    ) -> bool:
        """Hang models on others that they are in all that tells, and solve the rest.

        What comes from one of them, and is nearer to another by what they differ in, hangs on that.
        """
        if not twins:
            return False
        away = {twin.place for twin in twins}
        rest = [path for place, path in enumerate(members) if place not in away]
        had = len(self.edges)
        if len(rest) > 1:
            firsts = {members[twin.place]: members[twin.first] for twin in twins}
            self._solve(rest, firsts.get(seed, seed) if seed else None)
        places = {path: place for place, path in enumerate(members)}
        for n, edge in enumerate(self.edges[had:], had):
            child, parent = places.get(edge.child), places.get(edge.parent)
            if child is None or parent is None:
                continue
            for twin in twins:
                if twin.first == parent and is_nearer(child, twin.place, parent):
                    self.edges[n] = replace(edge, parent=members[twin.place])
        for twin in twins:
            parent_path, child_path = members[twin.first], members[twin.place]
            found = self.between(parent_path, child_path)
            sure = twin.probability if len(members) > 2 else min(LONE, twin.probability)
            self._add(parent_path, child_path, *_step(found), sure)
        return True

    def _patterns(self, members: Sequence[str], beside: Siblings | None) -> Patterns:
        """Return what finds, among arcs, those that are no steps, and those of low rank.

        Zeros, levels or a direction with nothing along it can only have been made of what has none,
        whatever norms and the rest of the family say. Nor did siblings come from each other.
        """

        def patterns(arcs: Iterable[tuple[int, int]]) -> tuple[set[Arc], set[Arc]]:
            asked = set(arcs)
            refuted = beside.parted(asked) if beside else set()
            found = {(w, c): self.between(members[w], members[c]) for w, c in asked - refuted}
            refuted |= {arc for arc, seen in found.items() if _is_made_of_its_child(seen)}
            return refuted, {arc for arc, seen in found.items() if seen.rank is not None}

        return patterns

    def _add(
        self, parent: str, child: str, relation: Relation, how: str | None, probability: float
    ) -> None:
        self.edges.append(Edge(parent, child, relation, how, None, min(CERTAIN, probability)))

    def _attach_hidden(self, members: Sequence[str], panel: Panel, seed: str | None) -> set[int]:
        """Hang models in coordinates of their own on those that they come from.

        Who has other coordinates than all others is nobody's parent among them, unless all others
        seem to come from it. Of coordinates that some share each model that is nearer to one
        outside than to any inside began these, and others come from it.
        """
        first = self.hidden.first
        plain = [i for i, path in enumerate(members) if path not in first]
        frames: dict[str, list[int]] = defaultdict(list)
        for place, path in enumerate(members):
            if path in first and path != seed:
                frames[first[path]].append(place)
        if len(plain) < 2 or not frames:
            return set()
        family = stack(panel.models)
        merges = {} if family is None else find_merges(family)
        parts = set(merges).union(*(merge.parents for merge in merges.values()))
        done: set[int] = set()
        for places in frames.values():
            for start, kin in _begun(places, plain, panel.pairs.squared).items():
                if parts & set(kin):
                    continue
                if not self._is_remerged(members[start], [members[i] for i in plain]):
                    parent, probability = self._parent_outside(start, plain, members, panel)
                    if probability < LEAST_EDGE:
                        continue
                    found = self.between(members[parent], members[start])
                    self._add(members[parent], members[start], *_step(found), probability)
                done.update(kin)
                if len(kin) > 1:
                    self._solve([members[place] for place in kin], members[start])
        return done

    def _is_remerged(self, child: str, others: Sequence[str]) -> bool:
        """Hang a model that was merged before it was given other coordinates on its parents."""
        if self.hidden.writing is None:
            return False
        shares = remerged(child, others, self.models, self.hidden.writing)
        for parent, share in (shares or {}).items():
            self.edges.append(Edge(parent, child, Relation.MERGE, "linear", share, CERTAIN))
        return shares is not None

    def _parent_outside(
        self, child: int, plain: Sequence[int], members: Sequence[str], panel: Panel
    ) -> tuple[int, float]:
        """Weigh who in other coordinates is a model's parent; with 0 if it seems to have none."""
        squared = panel.pairs.squared
        near = sorted(plain, key=lambda i: (squared[child, i], i))[:_WEIGHED]
        apart = apart_for(child, near, squared)

        def seen_with(places: Sequence[int]) -> Evidence:
            prints = [self.ground.get(members[i], self.models[members[i]]) for i in places]
            return evidence(Panel(prints), {})

        if grow(seen_with([*near, child])).roots[-1] > _BEGAN:
            return apart[0], 0.0
        arcs = grow(seen_with([*apart, child]), leaf=len(apart)).arcs[:-1, -1]
        best = int(np.argmax(arcs))
        return apart[best], float(arcs[best])

    def _leave_open(
        self, members: Sequence[str], panel: Panel, tree: Tree, children: set[int]
    ) -> None:
        """Say of models without a parent whom they are nearest to, unless they surely have none."""
        for place in range(len(members)):
            if place in children or tree.roots[place] >= 1 - LEAST_EDGE:
                continue
            squared = panel.pairs.squared[place].copy()
            squared[place] = np.inf
            nearest = int(np.argmin(squared))
            a, b = sorted((members[place], members[nearest]))
            why = f"no parent is clear (the most probable has {tree.arcs[:, place].max():.2f})"
            found = Undetermined(a, b, why)
            if found not in self.unclear:
                self.unclear.append(found)

    def _miss_parents(
        self, members: Sequence[str], beside: NDArray[np.bool_], children: set[int]
    ) -> set[int]:
        """Say of siblings that their parent is not at hand where they have none; return these."""
        orphans = [place for place in range(len(members)) if place not in children]
        told: set[int] = set()
        for n, place in enumerate(orphans):
            kin = [other for other in orphans[:n] if beside[place, other]]
            if kin:
                a, b = sorted((members[kin[0]], members[place]))
                why = "neither came from the other: both came from a model that is not here"
                self.unclear.append(Undetermined(a, b, why))
                told |= {place, kin[0]}
        return told


def _begun(
    places: Sequence[int], plain: Sequence[int], squared: NDArray[np.float64]
) -> dict[int, list[int]]:
    """Part models of one set of coordinates: one that began it -> it and what came from it."""
    outside = squared[:, plain].min(axis=1)
    found: dict[int, list[int]] = {}
    for place in sorted(places, key=lambda i: (outside[i], i)):
        nearest = min(found, key=lambda i: (squared[i, place], i), default=None)
        if nearest is None or outside[place] < CLEARLY_NEARER**2 * squared[nearest, place]:
            found[place] = [place]
        else:
            found[nearest].append(place)
    return found


def _grown(
    seen: Evidence,
    merges: Mapping[int, Sequence[int]],
    root: int | None,
    counted: tuple[set[Arc], set[Arc]],
    deep: Deep | None,
    patterns: Patterns,
) -> Tree:
    """Weigh the trees, and again without those arcs that patterns or the weights rule out.

    Args:
        seen: The evidence.
        merges: Those that are made of several others.
        root: The one that the others come from, where it is known.
        counted: Arcs that counters rule out, and those that they make doubtful.
        deep: The weights, where they may be read.
        patterns: Finds the arcs that patterns rule out, and those of low rank.
    """
    ruled_out, doubted = counted
    thin: set[Arc] = set()

    def grown() -> Tree:
        return grow(seen, merges, root=root, ruled_out=ruled_out, doubted=doubted, thin=thin)

    if deep is not None:
        ruled_out = ruled_out | deep.apart(merges)
    tree = grown()
    for _ in range(_ROUNDS):
        asked = [
            (parent, child)
            for parent, child in np.argwhere(tree.arcs >= _MATTERS).tolist()
            if not merges.keys() & {parent, child}
        ]
        refuted, low = patterns(asked)
        refuted |= set() if deep is None else deep.not_from(asked)
        if refuted <= ruled_out and low <= thin:
            break
        ruled_out, thin = ruled_out | refuted, thin | low
        tree = grown()
    return tree


def _is_made_of_its_child(found: Comparison) -> bool:
    """Whether a pattern, and no lean, says that the first of two models came from the second."""
    is_reduced = found.relation in {Relation.PRUNED, Relation.QUANTIZED} and found.margin == -1
    return found.direction == "b->a" and (is_reduced or found.evidence[0].detector == PROJECTED)


def _is_nearer(panel: Panel, child: int, one: int, other: int) -> bool:
    """Whether a model's vectors are nearer to the first of two than to the second."""
    return apart_in_vectors(panel, child, one) < apart_in_vectors(panel, child, other)


def _energy(model: Fingerprint) -> float:
    """Return the squared norm of all there is; what is stored twice counts once."""
    energy = {t.value: t.sketch.energy for t in model.tensors if t.sketch is not None}
    return sum(energy.values())


def _step(found: Comparison) -> tuple[Relation, str | None]:
    """Name the step between two models of which one is known to be the other's parent."""
    if found.relation in _NAMED:
        return found.relation, found.how
    return Relation.FINETUNE, found.step or "full"
