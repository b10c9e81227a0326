"""From two fingerprints to what they are to each other: `compare`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lineage.errors import SchemeError
from lineage.evidence.base import MOST, Comparison, Copied, Evidence
from lineage.evidence.contained import beside
from lineage.evidence.copied import copied, may_be_parts
from lineage.evidence.course import course
from lineage.evidence.deltas import between
from lineage.evidence.depth import depth
from lineage.evidence.exact import converted, identical, rounded_copy, underflowed
from lineage.evidence.experts import experts
from lineage.evidence.kinship import kinship
from lineage.evidence.low_rank import low_rank
from lineage.evidence.moved import moved
from lineage.evidence.neurons import Common, common_units
from lineage.evidence.neurons import evidence as units_in_common
from lineage.evidence.packed import hides_most, packed_copy
from lineage.evidence.pairing import Pairing, pair
from lineage.evidence.reduced import pruned, quantized
from lineage.evidence.replaced import replaced
from lineage.evidence.roundtrip import round_trip
from lineage.evidence.truncated import truncated
from lineage.evidence.verdicts import (
    SHARED_INIT_COSINE,
    as_cut_down,
    as_hidden,
    as_kin,
    as_noised,
    as_parts,
    as_reduced,
    as_restructured,
    as_round_trip,
    as_scaled,
    as_trained,
    by_counters,
    in_place,
)
from lineage.evidence.vocabulary import vocabulary
from lineage.evidence.width import width
from lineage.fingerprints import Fingerprint
from lineage.relation import Relation

if TYPE_CHECKING:
    from lineage.evidence.kinship import Kinship
    from lineage.evidence.replaced import Replaced

__all__ = [
    "SHARED_INIT_COSINE",
    "Comparison",
    "Evidence",
    "compare_fingerprints",
    "compare_weights",
    "with_units",
]


def compare_fingerprints(a: Fingerprint, b: Fingerprint) -> Comparison:
    """Say what two models are to each other.

    Two adapters by what they change, an adapter and a model by names and shapes. Models by their
    weights one by one, and where these tell nothing by units that are the same in other
    coordinates, if both have a neuron sketch.

    Raises:
        SchemeError: If their sketches were made by two schemes.
    """
    if a.root != b.root and (seen := between(a, b) or beside(a, b)) is not None:
        return seen
    found = compare_weights(a, b)
    if found.related or found.relation is not None:
        is_asked = bool(found.related) and found.shares is None
        return replace(found, shares=copied(pair(a, b))) if is_asked else found
    return with_units(found, common_units(a.neurons, b.neurons))


def with_units(found: Comparison, units: Common | None) -> Comparison:
    """Take two models for relatives whose weights are not alike, but whose units are."""
    if units is None or units.related is False:
        return found
    return replace(
        found,
        related=units.related,
        relation=Relation.REPARAMETRIZED if units.related else None,
        score=max(found.score, units.score),
        evidence=(units_in_common(units), *found.evidence),
    )


def compare_weights(a: Fingerprint, b: Fingerprint, *, says_first: bool = True) -> Comparison:
    """Say what two models are to each other by their weights one by one, in one coordinates.

    Exact evidence first (digests), then structure, lattices and zeros, then statistics; the
    relation before the direction. What is not clear is None.

    Args:
        a: One model.
        b: The other.
        says_first: Whether it is asked which came first of two that training parts. In a family
            all models together tell.

    Raises:
        SchemeError: If their sketches were made by two schemes.
    """
    if a.scheme != b.scheme:
        raise SchemeError(f"sketches of {a.scheme!r} and of {b.scheme!r} cannot be compared")
    # 1. The same weights.
    found = identical(a, b)
    if found is not None:
        return found
    pairing = pair(a, b)
    # 2. Rounded, digest for digest, or laid out anew.
    found = (
        rounded_copy(pairing) or converted(pairing) or underflowed(pairing) or packed_copy(pairing)
    )
    if found is not None:
        return found
    # 3. Related at all?
    kin = kinship(pairing)
    base = as_kin(pairing, kin)
    if hides_most(pairing.first) or hides_most(pairing.second):
        return as_hidden(base)
    shares = copied(pairing) if may_be_parts(pairing) else None
    if shares is not None and shares.parts and _is_in_parts(pairing, shares):
        return as_parts(base, shares)
    pairing, kin, base, anew = _without_anew(pairing, kin, base, shares)
    if not base.related:
        return base
    base = replace(base, course=course(pairing))
    scales = moved(pairing)
    if scales is not None:
        return as_scaled(base, pairing, scales)
    # 4. Other layers, rows or experts: what was made of what shows in what each has.
    found = as_restructured(base, pairing, kin)
    if found is not None:
        return found
    # 5. Fewer levels, or zeros: the child is certain, unless an adapter came on top of them.
    trip = round_trip(pairing)
    if trip is not None and trip.stands_out:
        return in_place(as_round_trip(base, trip), anew)
    reduction = quantized(pairing) or pruned(pairing)
    if reduction is not None:
        return as_reduced(base, reduction)
    # 6. Noise, or the rounding of every value by the same share of it.
    found = as_noised(base, pairing)
    if found is not None:
        return found
    if trip is not None:
        return in_place(as_round_trip(base, trip), anew)
    # 7. The largest directions of every matrix, and nothing else.
    cut = truncated(pairing)
    if cut is not None and low_rank(pairing) is None:
        return as_cut_down(base, cut)
    # 8. A training step: what kind, then which way.
    return by_counters(in_place(as_trained(base, pairing, kin, says_first=says_first), anew), a, b)


def _without_anew(
    pairing: Pairing, kin: Kinship, base: Comparison, shares: Copied | None
) -> tuple[Pairing, Kinship, Comparison, Replaced | None]:
    """Leave out what was replaced, which says nothing of the rest, and weigh the rest by itself."""
    anew = None
    if shares is not None and shares.parts:
        if shares.is_mixed:
            anew = replaced(pairing)
            pairing = pairing.only(shares.places)
            kin = kinship(pairing)
            base = as_kin(pairing, kin)
        base = replace(base, shares=shares)
    if anew is None and (anew := replaced(pairing)) is not None and anew.places:
        rest = pairing.only(sorted(set(range(len(pairing.a))) - set(anew.places)))
        if _is_most(copied(rest)):
            pairing, kin = rest, kinship(rest)
            base = replace(as_kin(rest, kin), shares=base.shares)
    return pairing, kin, base, anew


def _is_in_parts(pairing: Pairing, shares: Copied) -> bool:
    """Whether two models have parts in common, and neither was made of the other as a whole."""
    if shares.is_partial:
        return True
    rooms = (depth, experts, width, vocabulary)
    return shares.is_inside and not any(room(pairing) for room in rooms)


def _is_most(shares: Copied) -> bool:
    """Whether layers that two models have in common are most of both."""
    has_layers = any(part.is_layer for part in shares.parts)
    return has_layers and not shares.is_torn and min(shares.share_a, shares.share_b) > MOST
