"""From evidence to one answer per family: `infer` says who came from whom."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import networkx as nx

from lineage.artifacts import models_in
from lineage.evidence import Comparison, compare_fingerprints
from lineage.fingerprints import Fingerprint, fingerprint
from lineage.graph.base import Edge, LineageGraph, Node, Pair, Undetermined
from lineage.graph.family import Family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from os import PathLike

__all__ = ["Edge", "LineageGraph", "Node", "Pair", "Undetermined", "infer", "infer_graph"]


def infer(
    sources: Mapping[str, Any] | Iterable[str | PathLike[str]],
) -> LineageGraph:
    """Infer who came from whom among models.

    Args:
        sources: Paths of models, of saved fingerprints or of folders of either; or a mapping of
            names to anything `fingerprint` takes.

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
        return infer_graph({name: fingerprint(source) for name, source in sources.items()})
    paths = [found for source in sources for found in models_in(source)]
    return infer_graph({path: fingerprint(path) for path in dict.fromkeys(paths)})


def infer_graph(
    models: Mapping[str, Fingerprint], *, progress: Callable[[int], None] | None = None
) -> LineageGraph:
    """Infer who came from whom among models, from their fingerprints alone.

    The order of `models` never changes the answer.

    Args:
        models: Path (any name) -> fingerprint.
        progress: Called with the number of pairs just compared.

    Raises:
        SchemeError: If fingerprints of two schemes are mixed.
    """
    paths = sorted(models)
    comparisons: dict[tuple[str, str], Comparison] = {}
    for a, b in combinations(paths, 2):
        comparisons[a, b] = compare_fingerprints(models[a], models[b])
        if progress is not None:
            progress(1)
    links = nx.Graph()
    links.add_nodes_from(paths)
    links.add_edges_from(pair for pair, found in comparisons.items() if found.related)
    families = sorted(sorted(members) for members in nx.connected_components(links))
    edges: list[Edge] = []
    unclear: list[Undetermined] = []
    for members in families:
        solved = Family(members, models, comparisons)
        edges += solved.edges
        unclear += solved.unclear
    family_of = {path: k for k, members in enumerate(families) for path in members}
    return LineageGraph(
        nodes=tuple(Node(path, models[path].root, family_of[path]) for path in paths),
        edges=tuple(sorted(edges, key=lambda e: (e.child, e.parent))),
        pairs=tuple(
            _pair(a, b, found, family_of[a] == family_of[b])
            for (a, b), found in comparisons.items()
        ),
        undetermined=tuple(unclear),
        comparisons=comparisons,
    )


def _pair(a: str, b: str, found: Comparison, is_one_family: bool) -> Pair:
    """Two models of one family are related even where, alone, they look like two trainings."""
    if is_one_family and not found.related:
        return Pair(a, b, max(found.score, 0.5), True)
    return Pair(a, b, found.score, found.related)
