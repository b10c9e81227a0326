"""Two models alone, and also in other coordinates than those that they are stored in."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from lineage.alignment import Alignment, ChainAlignment
from lineage.evidence import compare_fingerprints
from lineage.evidence.adapted import over_base
from lineage.evidence.base import MOST, Evidence
from lineage.evidence.deeper import deepened
from lineage.evidence.folded import are_folded
from lineage.evidence.weights import Weights
from lineage.fingerprints import fingerprint
from lineage.graph.disguised import Disguises
from lineage.graph.unlooked import undenied
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from os import PathLike

    from lineage.alignment import Aligned
    from lineage.evidence import Comparison
    from lineage.fingerprints import Fingerprint

__all__ = ["compare", "elsewhere", "is_open"]

_OPEN = (None, Relation.SHARED_INIT)
"""What models may seem to be as they are stored that are one in other coordinates: where only units
or heads were moved, the rest is alike, as in two trainings of one initialisation."""

NULL = "the partners that two looks at a unit find are independent (Poisson)"


def compare(
    a: Fingerprint | str | PathLike[str] | Any,
    b: Fingerprint | str | PathLike[str] | Any,
    *,
    deep: bool = False,
    base: Fingerprint | str | PathLike[str] | Any = None,
) -> Comparison:
    """Say what two models are to each other.

    Where they have nothing in common as they are stored, or one has its norms folded, and their
    weights are at hand, these are also held against each other in other coordinates.

    Args:
        a: A model or a fingerprint, anything `fingerprint` takes.
        b: Likewise.
        deep: Whether to read some rows of the two again for what fingerprints do not tell; of
            saved fingerprints there are none.
        base: Where one of the two is an adapter, the model that the other was made from.

    Raises:
        FormatError: If one of them cannot be read.
        SchemeError: If their sketches were made by two schemes.
        ValueError: If a base is given, and not just one of the two is an adapter.
    """
    one, other = fingerprint(a), fingerprint(b)
    if base is not None:
        some = Weights.of({"a": a, "b": b, "base": base}) if deep else None
        return over_base(one, other, fingerprint(base), some)
    found = compare_fingerprints(one, other)
    weights = Weights.of({"a": a, "b": b})
    if deep:
        found = deepened(found, one, other, weights)
    if not is_open(found, one, other):
        return found
    return elsewhere(found, {"a": one, "b": other}, weights)


def is_open(found: Comparison, a: Fingerprint, b: Fingerprint) -> bool:
    """Whether what two models are as they are stored leaves open that one was moved.

    Where only units were, the rest is alike, as in a model that has parts of the other; where only
    parts seem to be copied, what they feed may have other coordinates; and norms that were folded
    look like a training.

    Args:
        found: What they are as stored.
        a: One of them.
        b: The other.
    """
    if found.related:
        return are_folded(a, b)
    is_partial = found.related is None or found.shares is not None
    return is_partial or found.relation in _OPEN


def _share_of_all(seen: Aligned, model: Fingerprint) -> float:
    """Return which share of all of a model's values is in what was found to be the other's."""
    looked_at = 0
    if isinstance(seen, Alignment):
        looked_at = sum(block.values for block in seen.blocks)
    elif isinstance(seen, ChainAlignment):
        looked_at = sum(group.values for group in seen.groups)
    return seen.share * looked_at / sum(prod(tensor.shape) for tensor in model.tensors)


def elsewhere(
    found: Comparison,
    models: Mapping[str, Fingerprint],
    weights: Weights,
    watch: Callable[[str], None] | None = None,
) -> Comparison:
    """Say what two models are to each other if one is the other in other coordinates.

    Args:
        found: What they are as stored; returned if nothing was moved.
        models: The names of a and b, in this order -> fingerprint.
        weights: Of both.
        watch: Told what is done next.
    """
    if len(models) < 2 or any(name not in weights for name in models):
        return found
    if any(model.delta is not None for model in models.values()):
        return found
    a, b = models
    told = Disguises.between_two(a, b, models, weights, watch)
    if told is None:
        return _narrowed(found, models, weights) or undenied(found, models, weights)
    seen, left = told
    if left is not None and not left.related:
        left = None
        if min(seen.share, _share_of_all(seen, models[b])) <= MOST:  # a part, which denies nothing
            return replace(found, related=None)
    what = ", ".join(seen.how)
    words = f"{{b}} is {{a}} in other coordinates ({what}): {seen.share:.0%} of its parts are there"
    if left is not None and left.change is not None:
        words += f"; once undone, a change of {left.change:.2g} of {{a}}'s norm is left"
        if left.relation is not None and left.relation is not Relation.IDENTICAL:
            detail = "" if left.rank is None else f" of rank {left.rank}"
            words += f" ({left.relation}{f', {left.how}' if left.how else ''}{detail})"
    elif left is None:
        words += "; not all of it could be undone, so that what is left is not known"
    first = Evidence("aligned-v1", words, seen.share, seen.log10_p, NULL)
    return replace(
        found,
        related=True,
        relation=Relation.REPARAMETRIZED,
        how=seen.how[0],
        direction=None if left is None else left.direction,
        change=None if left is None else left.change,
        shares=None,
        score=max(found.score, 0.5 + seen.share / 2),
        evidence=(first, *found.evidence),
    )


def _narrowed(
    found: Comparison, models: Mapping[str, Fingerprint], weights: Weights
) -> Comparison | None:
    """Say that one of two models is the other with fewer coordinates in its stream.

    Vectors of the stream lost the same numbers everywhere, so that no matrix can be compared as it
    is stored; units and their order tell. A stream that was widened looks the same from the other
    side and is read as the one that the other was cut from, which is commoner.
    """
    if found.related is not None or found.relation is not None:
        return None
    a, b = models
    for wide, narrow, direction in ((a, b, "a->b"), (b, a, "b->a")):
        seen = Disguises.narrower(wide, narrow, models, weights)
        if seen is None or min(seen.share, _share_of_all(seen, models[narrow])) <= MOST:
            continue
        name, other = ("{b}", "{a}") if direction == "a->b" else ("{a}", "{b}")
        words = (
            f"{name}'s vectors are {other}'s with fewer numbers: {seen.share:.0%} of its parts are "
            "there; what else was changed was not measured"
        )
        return replace(
            found,
            related=True,
            relation=Relation.PRUNED,
            how="width",
            direction="a->b" if direction == "a->b" else "b->a",
            score=max(found.score, 0.5 + seen.share / 2),
            evidence=(
                Evidence("aligned-v1", words, seen.share, seen.log10_p, NULL), *found.evidence,
            ),
        )  # fmt: skip
    return None
