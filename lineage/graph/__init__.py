"""From evidence to one answer per family: `infer` says who came from whom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lineage.artifacts import models_in
from lineage.evidence.weights import Weights
from lineage.fingerprints import Fingerprint, fingerprint
from lineage.graph.adapted import adapter_edges
from lineage.graph.base import Edge, LineageGraph, Node, Pair, Undetermined
from lineage.graph.disguised import Disguises
from lineage.graph.elsewhere import compare
from lineage.graph.family import Family
from lineage.graph.partial import Partial
from lineage.graph.screen import Comparisons, Screen
from lineage.graph.structure import without_rings
from lineage.graph.units import Hints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from os import PathLike

__all__ = [
    "Edge",
    "LineageGraph",
    "Node",
    "Pair",
    "Undetermined",
    "compare",
    "infer",
    "infer_graph",
]


def infer(
    sources: Mapping[str, Any] | Iterable[str | PathLike[str]],
    *,
    deep: bool = False,
) -> LineageGraph:
    """Infer who came from whom among models.

    Args:
        sources: Paths of models, of saved fingerprints or of folders of either; or a mapping of
            names to anything `fingerprint` takes.
        deep: Whether to read some of the weights once more where that can sharpen the answer; of
            saved fingerprints there are none.

    Raises:
        FormatError: If a model cannot be read, or a folder holds none.
        SchemeError: If fingerprints of two schemes are mixed.

    Example:
        >>> import numpy as np
        >>> w = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
        >>> graph = infer({"base": {"w": w}, "copy": {"renamed": w}})
        >>> graph.edges[0].relation
        <Relation.IDENTICAL: 'identical'>
    """
    if isinstance(sources, Mapping):
        named: dict[str, Any] = dict(sources)
    else:
        named = {path: path for source in sources for path in models_in(source)}
    models = {name: fingerprint(source) for name, source in named.items()}
    weights = Weights.of(named)
    return infer_graph(models, weights=weights, deep=deep)


def infer_graph(
    models: Mapping[str, Fingerprint],
    *,
    weights: Weights | None = None,
    deep: bool = False,
    progress: Callable[[int], None] | None = None,
    watch: Callable[[str], None] | None = None,
) -> LineageGraph:
    """Infer who came from whom among models, from their fingerprints.

    The order of `models` never changes the answer.

    Args:
        models: Path (any name) -> fingerprint.
        weights: Of those whose weights may be read, to find relatives in other coordinates; none
            are read without.
        deep: Whether to read them once more where that can sharpen the answer.
        progress: Called with the number of pairs just compared.
        watch: Told in a few words what is done next, where that reads weights and takes its time.

    Raises:
        SchemeError: If fingerprints of two schemes are mixed.
    """
    comparisons = Comparisons(models)
    screen = Screen(models, comparisons, progress)
    given, hidden = models, Disguises()
    if weights is not None and len(models) > 1:
        hidden = Disguises.of(screen.families, models, weights, watch)
        if hidden.prints:
            models = {**models, **hidden.prints}
            comparisons = Comparisons(models, hidden.between)
            screen = Screen(models, comparisons)
    as_stored = weights.without(hidden.prints) if deep and weights is not None else None
    edges: list[Edge] = []
    unclear: list[Undetermined] = []
    family_of: dict[str, int] = {}
    for number, members in enumerate(screen.families):
        solved = Family(members, models, comparisons, as_stored, hidden)
        edges += solved.edges
        unclear += solved.unclear
        family_of.update(dict.fromkeys(members, number))
    parts = Partial(screen.families, models, comparisons, edges)
    edges = without_rings([*parts.with_shares(edges), *parts.edges])
    unclear = [u for u in unclear if (min(u.a, u.b), max(u.a, u.b)) not in parts.settled]
    unclear += parts.unclear
    adapted, open_ones = adapter_edges(models, screen.families, edges, unclear, as_stored)
    edges += adapted
    unclear += open_ones
    family_of |= {edge.child: family_of[edge.parent] for edge in adapted}
    hints = Hints(screen.families, models, comparisons)
    return LineageGraph(
        nodes=tuple(Node(path, given[path].root, family_of[path]) for path in screen.paths),
        edges=tuple(sorted(map(hidden.told, edges), key=lambda e: (e.child, e.parent))),
        pairs=tuple(
            parts.told(
                hints.told(_pair(*pair, is_one_family=family_of[pair[0]] == family_of[pair[1]]))
            )
            for pair in screen.pairs()
        ),
        undetermined=(*unclear, *hints.unclear()),
        comparisons=hints,
    )


def _pair(a: str, b: str, score: float, related: bool | None, *, is_one_family: bool) -> Pair:
    """Return a pair; an adapter, which cannot be compared with models, is of its base's family."""
    if is_one_family and not related:
        return Pair(a, b, max(score, 0.5), True)
    return Pair(a, b, score, related)
