"""Rounded copies of a family's models, which are certain leaves: whose copies they are.

A quantizer's levels, or digests of roundings, say that a model is a copy of less precision; of
which one the distance tells, where sketches are fine enough for that, and else what was left alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lineage.evidence.packed import PACKED
from lineage.evidence.panel import structure
from lineage.evidence.reduced import levels
from lineage.evidence.roundtrip import ROUNDED_ADAPTER
from lineage.graph.base import Edge
from lineage.graph.leaves import CERTAIN, LIKELY, UNSURE
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from lineage.evidence import Comparison
    from lineage.fingerprints import Fingerprint
    from lineage.graph.disguised import Disguises

    Between = Callable[[str, str], Comparison]

__all__ = ["hang", "has_levels", "past_noise"]

_UNTOLD = 0.03
"""Distance of two models, as a share of what rounding changed, below which sketches do not tell
which of them was rounded."""


def hang(
    members: Sequence[str], models: Mapping[str, Fingerprint], between: Between, hidden: Disguises
) -> tuple[list[str], list[Edge]]:
    """Hang rounded models on their sources.

    Args:
        members: Paths.
        models: Path -> fingerprint.
        between: What was found between two models, seen from the first.
        hidden: Which are in coordinates of their own: of these zeros are looked for too.

    Returns:
        The other members, and an edge to each rounded one.
    """
    rest, edges = [], []
    for child in members:
        shape = structure(models[child])
        sources = sorted(
            (
                not found.is_exact,
                shape != structure(models[parent]),
                found.distance,
                models[parent].value_id,
                parent,
            )
            for parent in _may_be_sources(child, members, models, hidden)
            if _is_reduced(found := between(parent, child), child, hidden)
        )
        if not sources or _has_adapter(child, members, between):
            rest.append(child)
            continue
        *_, least, _, _ = sources[0]
        near = [path for *_, away, _, path in sources if away <= (1 + _UNTOLD) * least]
        parent, sure = _source(child, near, models, between)
        found = between(parent, child)
        assert found.relation is not None
        if found.evidence[0].detector == PACKED:
            sure = UNSURE  # an adapter may have been merged into what was packed
        edges.append(Edge(parent, child, found.relation, found.how, None, sure))
    return rest, edges


def _has_adapter(child: str, members: Iterable[str], between: Between) -> bool:
    """Whether an adapter was merged into levels of one of some models: that is no rounded copy."""
    return any(
        between(parent, child).evidence[0].detector == ROUNDED_ADAPTER
        for parent in members
        if parent != child and between(parent, child).evidence
    )


def past_noise(edges: Iterable[Edge], between: Between) -> list[Edge]:
    """Hang what was rounded or pruned on a model, not on its copy with noise, if none is nearer.

    Args:
        edges: Of a whole family.
        between: What was found between two models, seen from the first.
    """
    edges = list(edges)
    origins = {edge.child: edge.parent for edge in edges if edge.relation is Relation.NOISED}
    found = []
    for edge in edges:
        origin = origins.get(edge.parent)
        if origin is not None and edge.relation in {Relation.QUANTIZED, Relation.PRUNED}:
            noise = between(origin, edge.parent).distance
            if noise < _UNTOLD * between(edge.parent, edge.child).distance:
                sure = min(LIKELY, edge.probability)
                edge = replace(edge, parent=origin, probability=sure)
        found.append(edge)
    return found


def _source(
    child: str, sources: Sequence[str], models: Mapping[str, Fingerprint], between: Between
) -> tuple[str, float]:
    """Return whose copy a rounded model is, and how sure that is.

    Of those that sketches cannot tell apart beside the rounding it is the one that it has most
    tensors of, such as norms, which are mostly left as they are, or in fewer bits.

    Args:
        child: The rounded model.
        sources: The likeliest first.
        models: Path -> fingerprint.
        between: What was found between two models, seen from the first.
    """
    nearest = sources[0]
    least = _UNTOLD * between(nearest, child).distance
    alike = [path for path in sources[1:] if between(nearest, path).distance < least]
    if between(nearest, child).is_exact or not alike:
        return nearest, CERTAIN
    own = {tensor.value for tensor in models[child].tensors}
    shared = {
        path: sum(
            tensor.value in own or any(digest in own for _, digest in tensor.rounded)
            for tensor in models[path].tensors
        )
        for path in (nearest, *alike)
    }
    most = max(shared.values())
    best = [path for path, count in shared.items() if count == most]
    if len(best) == 1:
        return best[0], LIKELY
    # Of a model and its casts, all of which would give the same, it is the model that people take.
    casts = {
        path for path in best if any(_is_cast(between(one, path)) for one in best if one != path)
    }
    return next(path for path in best if path not in casts or len(casts) == len(best)), UNSURE


def _is_cast(found: Comparison) -> bool:
    """Whether the second of two models is the first in fewer bits, digest for digest."""
    return found.is_exact and found.relation is Relation.QUANTIZED and found.direction == "a->b"


def _is_reduced(found: Comparison, child: str, hidden: Disguises) -> bool:
    """Whether a model has less than a source; zeros, of those in coordinates of their own.

    Of others the whole family tells which of those with the same zeros was pruned.
    """
    if found.direction != "a->b" or found.structure:
        return False
    is_pruned = found.relation is Relation.PRUNED and child in hidden.prints
    return found.relation is Relation.QUANTIZED or is_pruned


def _may_be_sources(
    child: str, members: Sequence[str], models: Mapping[str, Fingerprint], hidden: Disguises
) -> list[str]:
    """Return the models of which one may be a rounded one's source."""
    model = models[child]
    others = [path for path in members if path != child]
    if child in hidden.prints:
        return [path for path in others if hidden.knows(path, child)]
    if has_levels(model) or any(tensor.dtype == "F16" for tensor in model.tensors):
        return others
    mine = {tensor.content for tensor in model.tensors if tensor.dtype in {"F16", "BF16"}}
    return [
        path
        for path in (others if mine else ())
        if any(digest in mine for t in models[path].tensors for _, digest in t.rounded)
    ]


def has_levels(model: Fingerprint) -> bool:
    """Whether the values of most matrices lie on a quantizer's levels."""
    sizes = [(t.size, levels(t) > 0) for t in model.tensors if len(t.shape) > 1]
    on = [size for size, has in sizes if has]
    return 2 * sum(on) >= max(1, sum(size for size, _ in sizes)) or 2 * len(on) >= len(sizes) > 0
