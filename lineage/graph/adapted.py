"""Adapters among models: the base that one was merged into, the fine-tune one was extracted from.

Names and shapes say which models an adapter fits, and never which it belongs to. A merged model
tells (`lineage.evidence.adapters`), and so does a full fine-tune of whose change it is the largest
directions (`lineage.evidence.extraction`).
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx as nx

from lineage.evidence.adapted import CLEARLY_MERGED
from lineage.evidence.adapters import Adapter, adapter_of, merged
from lineage.evidence.extraction import Held, changes_more, extracted, in_weights, is_told
from lineage.graph.base import Edge
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lineage.evidence.weights import Weights
    from lineage.fingerprints import Fingerprint
    from lineage.graph.base import Undetermined

__all__ = ["adapter_edges"]

_SURE, _ALONE, _ONE_OF_SEVERAL = 0.99, 0.9, 0.6
"""Probability of an edge that digests, or weights, bear out; of the one model that sketches fit;
and of the nearest of several."""

_MOST_MODELS, _MOST_READ = 256, 24
"""Models of which all pairs are held against an adapter, and pairs whose weights are read."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A base and a fine-tune of which an adapter may be extracted.

    Attributes:
        kept: Share of the change that it holds.
        in_line: Whether the one is known to be the other's ancestor.
    """

    base: str
    model: str
    kept: float
    in_line: bool


def adapter_edges(
    models: Mapping[str, Fingerprint],
    families: Sequence[Sequence[str]],
    edges: Iterable[Edge],
    unclear: Iterable[Undetermined],
    weights: Weights | None,
) -> list[Edge]:
    """Find what the adapters among some models belong to.

    Args:
        models: Path -> fingerprint.
        families: Paths of models that are linked.
        edges: Between them, as found.
        unclear: Pairs of which the order is open.
        weights: Of those whose weights may be read.
    """
    known = list(edges)
    steps = [(e.parent, e.child) for e in known if e.relation is Relation.FINETUNE]
    steps += [ends for open_ in unclear for ends in ((open_.a, open_.b), (open_.b, open_.a))]
    lines = nx.DiGraph((edge.parent, edge.child) for edge in known)
    found = []
    for path in sorted(models):
        adapter = adapter_of(models[path])
        if adapter is None:
            continue
        base = _merged_into(adapter, models, steps)
        if base is not None:
            found.append(Edge(base, path, Relation.ADAPTER, None, None, _SURE))
            continue
        source = _source(path, adapter, models, families, steps, lines, weights)
        if source is not None:
            pair, sure = source
            found.append(Edge(pair.base, path, Relation.ADAPTER, None, None, sure))
            found.append(Edge(pair.model, path, Relation.ADAPTER, "extracted", None, sure))
    return found


def _merged_into(
    adapter: Adapter, models: Mapping[str, Fingerprint], steps: Iterable[tuple[str, str]]
) -> str | None:
    """Return the model into which it was merged to give another."""
    for base, child in steps:
        seen = merged(adapter, models[base], models[child])
        if seen is None or seen.scale <= 0:
            continue
        if seen.left < CLEARLY_MERGED or not changes_more(adapter, models[base], models[child]):
            return base
    return None


def _source(
    path: str,
    adapter: Adapter,
    models: Mapping[str, Fingerprint],
    families: Sequence[Sequence[str]],
    steps: Iterable[tuple[str, str]],
    lines: nx.DiGraph[str],
    weights: Weights | None,
) -> tuple[_Source, float] | None:
    """Return base and fine-tune of an extracted adapter, and how sure that is."""
    fitting = list(_fitting(adapter, models, families, lines))
    has_weights = weights is not None and path in weights
    if has_weights and not is_told(adapter):
        fitting += _read_all(steps, lines)
    fitting.sort(key=lambda s: (not s.in_line, -s.kept, s.base, s.model))
    if not fitting:
        return None
    if weights is not None and has_weights:
        read = [s for s in fitting if s.base in weights and s.model in weights][:_MOST_READ]
        told = [(off, s) for s in read if (off := _off(path, adapter, s, models, weights)) >= 0]
        if told:
            return min(told, key=lambda one: one[0])[1], _SURE
        fitting = [s for s in fitting if s not in read and s.kept > 0]
    if not fitting:
        return None
    sure = _ALONE if len({s.model for s in fitting}) == 1 else _ONE_OF_SEVERAL
    return fitting[0], sure


def _read_all(steps: Iterable[tuple[str, str]], lines: nx.DiGraph[str]) -> Iterator[_Source]:
    """Yield all pairs a step apart, in either order, and what was made of a step's end."""
    for base, model in steps:
        yield _Source(base, model, 0.0, in_line=True)
        yield _Source(model, base, 0.0, in_line=False)
        for below in lines.successors(model) if model in lines else ():
            yield _Source(base, below, 0.0, in_line=True)


def _fitting(
    adapter: Adapter,
    models: Mapping[str, Fingerprint],
    families: Sequence[Sequence[str]],
    lines: nx.DiGraph[str],
) -> Iterator[_Source]:
    """Yield the pairs of relatives that sketches allow."""
    for family in families:
        if len(family) < 2 or len(family) > _MOST_MODELS:
            continue
        shares = Held(adapter, {path: models[path] for path in family})
        for base, model in shares.pairs():
            seen = extracted(adapter, models[base], models[model])
            if seen is not None:
                both = base in lines and model in lines
                yield _Source(base, model, seen.kept, both and nx.has_path(lines, base, model))


def _off(
    path: str,
    adapter: Adapter,
    source: _Source,
    models: Mapping[str, Fingerprint],
    weights: Weights,
) -> float:
    """Return how far the weights are from an extraction; below 0 where they deny it."""
    prints = models[source.base], models[source.model]
    with ExitStack() as stack:
        opened = [stack.enter_context(weights.opened(p)) for p in (path, source.base, source.model)]
        seen = in_weights(adapter, prints, *opened)
    return seen.off if seen is not None and seen.is_extracted else -1.0
