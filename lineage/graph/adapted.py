"""Adapters among models: the base that one was merged into, the fine-tune one was extracted from.

Names and shapes say which models an adapter fits, and never which it belongs to. A merged model
tells (`lineage.evidence.contained`), and so does a full fine-tune of whose change it is the largest
directions (`lineage.evidence.extraction`). Where there is neither, the models that it fits are
named, and that it is open.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

import networkx as nx

from lineage.adapters.applied import is_plain
from lineage.evidence.adapted import CLEARLY_MERGED
from lineage.evidence.contained import MOST_LEFT, contained, fits, merged
from lineage.evidence.cut_out import in_weights
from lineage.evidence.extraction import Held, changes_more, extracted, is_told
from lineage.graph.base import Edge, Undetermined
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lineage.evidence.weights import Weights
    from lineage.fingerprints import Fingerprint
    from lineage.fingerprints.delta import Delta

__all__ = ["adapter_edges"]

_SURE, _ALONE, _ONE_OF_SEVERAL = 0.99, 0.9, 0.6
"""Probability of an edge that digests, or weights, bear out; of the one model that sketches fit;
and of the nearest of several."""

_MOST_MODELS, _MOST_READ = 256, 24
"""Models of which all pairs are held against an adapter, and pairs whose weights are read."""

_NOTHING_LEFT = 1e-6
"""Share of a change that is left of merges which were not rounded."""

_MOST_TOGETHER, _MOST_NAMED = 32, 4
"""Adapters that are looked for at once in one model, and models that are named for one which fits
several."""


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
) -> tuple[list[Edge], list[Undetermined]]:
    """Find what the adapters among some models belong to, and what they may belong to.

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
    adapters = {path: delta for path in sorted(models) if (delta := models[path].delta) is not None}
    bases = _merged(adapters, models, steps, weights)
    found = [
        Edge(base, path, Relation.ADAPTER, None, None, _SURE)
        for path, base in sorted(bases.items())
    ]
    open_ones: list[Undetermined] = []
    for path in sorted(adapters.keys() - bases.keys()):
        source = _source(path, adapters[path], models, families, steps, lines, weights)
        if source is not None:
            pair, sure = source
            found.append(Edge(pair.base, path, Relation.ADAPTER, None, None, sure))
            found.append(Edge(pair.model, path, Relation.ADAPTER, "extracted", None, sure))
        else:
            open_ones += _fitted(path, adapters[path], models, lines)
    return found, open_ones


def _merged(
    adapters: Mapping[str, Delta],
    models: Mapping[str, Fingerprint],
    steps: Iterable[tuple[str, str]],
    weights: Weights | None,
) -> dict[str, str]:
    """Return which models adapters were merged into to give others, each alone or several."""
    found: dict[str, str] = {}
    added: dict[tuple[str, str], Delta] = {}
    for base, child in steps:
        fitting: dict[str, Delta] = {}
        for path, delta in adapters.items():
            if path in found or not fits(delta, models[base]).is_whole:
                continue
            if (path, base) not in added:
                added[path, base] = _added(path, delta, base, weights)
            fitting[path] = added[path, base]
        alone = [
            path
            for path, delta in fitting.items()
            if _is_merged(path, delta, models, (base, child), weights)
        ]
        if not alone and 1 < len(fitting) <= _MOST_TOGETHER:
            alone = _merged_together(fitting, models[base], models[child])
        found.update(dict.fromkeys(alone, base))
    return found


def _added(path: str, delta: Delta, base: str, weights: Weights | None) -> Delta:
    """Return what an adapter adds to a base, if it does more than to add and that can be read."""
    if weights is None or is_plain(delta.family, delta.changes):
        return delta
    return weights.applied(path, base) or delta


def _is_merged(
    path: str,
    adapter: Delta,
    models: Mapping[str, Fingerprint],
    step: tuple[str, str],
    weights: Weights | None,
) -> bool:
    """Whether an adapter was merged into the first of two to give the other.

    One of a high rank that was cut out leaves as little as a merge that was rounded: where weights
    are at hand these tell.
    """
    base, child = step
    seen = merged(adapter, models[base], models[child])
    if seen is None or seen.scale <= 0:
        return False
    if seen.left < _NOTHING_LEFT:
        return True
    if seen.left >= CLEARLY_MERGED and changes_more(adapter, models[base], models[child]):
        return False
    if weights is None or not all(name in weights for name in (path, base, child)):
        return True
    return _off(path, adapter, _Source(base, child, 0.0, in_line=True), models, weights) < 0


def _merged_together(
    adapters: Mapping[str, Delta], base: Fingerprint, child: Fingerprint
) -> list[str]:
    """Return the adapters that make up all that a model changed."""
    made = contained(list(adapters.values()), base, child)
    if made is None or made.outside or made.fit.left > MOST_LEFT:
        return []
    shares = zip(adapters, made.fit.shares, strict=True)
    return [path for path, share in shares if share.present and share.weight > 0]


def _fitted(
    path: str, adapter: Delta, models: Mapping[str, Fingerprint], lines: nx.DiGraph[str]
) -> Iterator[Undetermined]:
    """Yield the models that an adapter fits: those that it declares by name, or roots."""
    others = [p for p in sorted(models) if models[p].delta is None and p != path]
    fitting = [p for p in others if (f := fits(adapter, models[p])).is_whole and f.places]
    said = PurePath(adapter.says.get("base_model_name_or_path", "")).name
    named = [p for p in fitting if said in {PurePath(p).stem, PurePath(p).parent.name} - {""}]
    roots = [p for p in fitting if p not in lines or not lines.in_degree(p)]
    why = f"{'it declares this name, and ' if named else ''}it fits, as it fits any model of this "
    why += "architecture; no model here was made with it"
    for base in (named or roots or fitting)[:_MOST_NAMED]:
        yield Undetermined(base, path, why)


def _source(
    path: str,
    adapter: Delta,
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
    elif has_weights and not fitting:
        # What leaves next to nothing looks merged in sketches.
        near = _read_all(steps, lines)
        fitting = [s for s in near if merged(adapter, models[s.base], models[s.model]) is not None]
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
    adapter: Delta,
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
    adapter: Delta,
    source: _Source,
    models: Mapping[str, Fingerprint],
    weights: Weights,
) -> float:
    """Return how far the weights are from an extraction; below 0 where they deny it."""
    prints = models[source.base], models[source.model]
    with ExitStack() as stack:
        changes = stack.enter_context(weights.adapter(path))
        opened = [stack.enter_context(weights.opened(p)) for p in (source.base, source.model)]
        seen = in_weights(adapter, prints, changes, *opened)
    return seen.off if seen is not None and seen.is_extracted else -1.0
