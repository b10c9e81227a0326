"""What a finding makes of a comparison: the relation, its direction, and the words for it."""

from __future__ import annotations

from dataclasses import replace
from math import exp, inf

from lineage.evidence.alone import ALONE, SAID, first_of
from lineage.evidence.base import Comparison, Copied, Direction, Evidence, Layers
from lineage.evidence.counters import counted, counts
from lineage.evidence.counters import evidence as counters
from lineage.evidence.course import SHORT_COURSE
from lineage.evidence.depth import depth
from lineage.evidence.direction import (
    CLEAR_SHARE,
    EVEN_SHARE,
    PURE_SHARES,
    Orthogonality,
    orthogonality,
)
from lineage.evidence.exact import left_over, only_rounded
from lineage.evidence.experts import experts
from lineage.evidence.kinship import NULL, Kinship
from lineage.evidence.low_rank import LOW_RANK, LowRank, low_rank
from lineage.evidence.moved import MOVED, Moved
from lineage.evidence.noise import noise
from lineage.evidence.packed import PACKED
from lineage.evidence.pairing import Pairing
from lineage.evidence.projected import PROJECTED, one_direction
from lineage.evidence.reduced import Reduction, rounded_side
from lineage.evidence.replaced import Replaced
from lineage.evidence.roundtrip import ROUNDED_ADAPTER, RoundTrip
from lineage.evidence.truncated import TRUNCATED, Truncation
from lineage.evidence.turned import TURNED, turned
from lineage.evidence.vocabulary import vocabulary
from lineage.evidence.width import width
from lineage.fingerprints import Fingerprint
from lineage.relation import Relation

__all__ = [
    "SHARED_INIT_COSINE",
    "as_cut_down",
    "as_hidden",
    "as_kin",
    "as_noised",
    "as_parts",
    "as_reduced",
    "as_restructured",
    "as_round_trip",
    "as_scaled",
    "as_trained",
    "by_counters",
    "in_place",
]

SHARED_INIT_COSINE = 0.85
"""Two models that lean on each other alike and agree less than this went most of their way apart:
that is two trainings from one initialisation, not two fine-tunes of one model."""

_SIBLING_CHANGE = 0.08
"""A lighter change leans on its start by too much, too often, to be told from a sibling's."""

_BESIDE = "beside-v1"
"""The detector's name, where nothing that both have has moved."""

_FROZEN_SHARE = 0.01
"""Of the values of all matrices: less is a table that no training moves, and not a choice."""

_CONTINUED_CHANGE = 0.5
"""A full fine-tune that moved the weights by more than this share of their norm."""


_PURE, _SHORT_OF_A_STEP = 0.85, 0.7
"""Share of a pure step's margin from which two models are no two trainings of like length, and what
they have in common of their courses, below which they are two trainings even so: a long step of an
encoder that was extrapolated by a half has .72, two trainings of very unlike lengths up to .64."""


def as_kin(pairing: Pairing, kin: Kinship) -> Comparison:
    """Say whether two models are related at all, and how far apart they are."""
    return Comparison(
        related=kin.related,
        distance=pairing.distance,
        change=pairing.change if kin.matrices else None,
        score=max(0.0, min(1.0, kin.cosine)),
        evidence=(_kinship_evidence(kin),),
    )


def as_hidden(base: Comparison) -> Comparison:
    """Say no more than that two models are kin where most of one is packed, and so not read."""
    words = "most of the weights of one are packed integers, which are not read"
    return replace(base, evidence=(Evidence(PACKED, words), *base.evidence))


def as_parts(base: Comparison, shares: Copied) -> Comparison:
    """Name models that have parts in common; whether one is the other's parent is open."""
    return replace(
        base,
        related=None,
        relation=Relation.MERGE,
        how="passthrough",
        score=min(base.score, 0.5),
        shares=shares,
        evidence=(shares.evidence(), *base.evidence),
    )


def _kinship_evidence(kin: Kinship) -> Evidence:
    if kin.matrices == 0:
        return Evidence(
            "kinship-v1", "no matrix of one can be compared with one of the other: shape, or values"
        )
    words = str(kin)
    if kin.equal_share:
        exactly = "to the bit" if kin.is_bitwise else "within rounding"
        words += f", and {kin.equal_share:.0%} of the values are equal {exactly}"
    return Evidence("kinship-v1", words, kin.cosine, kin.log10_p, NULL)


def as_restructured(base: Comparison, pairing: Pairing, kin: Kinship) -> Comparison | None:
    """Name a change of structure, and its direction where all that changed agrees on it."""
    seen = [room(pairing) for room in (depth, experts, width, vocabulary)]
    found = [structure for structure in seen if structure is not None]
    if not found:
        return None
    base = replace(
        base,
        step=_how(pairing, low_rank(pairing)),
        equal_share=kin.equal_share,
        structure=tuple(structure.kind for structure in found),
        layers=tuple(Layers(m.stack, m.every) for m in pairing.maps),
        evidence=(*(structure.evidence for structure in found), *base.evidence),
    )
    if _is_apart(kin, orthogonality(pairing)):
        return _shared_init(base)
    directions = {structure.direction for structure in found}
    if len(directions) > 1 or None in directions:
        return base
    return replace(
        base,
        relation=found[0].relation,
        how=found[0].how,
        direction=found[0].direction,
        margin=1.0 if found[0].direction == "a->b" else -1.0,
        share=1.0 if found[0].direction == "a->b" else -1.0,
        is_exact=bool(pairing.equal.all()) and all(structure.is_whole for structure in found),
    )


def as_reduced(base: Comparison, reduction: Reduction) -> Comparison:
    """Name a model on fewer levels than the other, or with zeros of its own."""
    return replace(
        base,
        relation=reduction.relation,
        how=reduction.how,
        direction=reduction.direction,
        margin=1.0 if reduction.direction == "a->b" else -1.0,
        evidence=(reduction.evidence, *base.evidence),
    )


def as_scaled(base: Comparison, pairing: Pairing, scales: Moved) -> Comparison:
    """Name a model whose gains gave scales to the columns behind them, as before a rounding.

    What its gains did is no course of training. On levels it is a rounded copy; else which of the
    two was there first is not said.
    """
    words = (
        f"{scales.matrices} matrices have what the gains before them lost, channel by channel "
        f"(correlation {scales.correlation:.2f}): scales were moved"
    )
    seen = Evidence(MOVED, words, statistic=scales.correlation)
    base = replace(base, course=inf, distance=scales.distance, evidence=(seen, *base.evidence))
    rounding = rounded_side(pairing)
    if rounding is None:
        return replace(base, relation=Relation.REPARAMETRIZED, how="rescaled")
    how, direction = rounding
    sign = 1.0 if direction == "a->b" else -1.0
    return replace(
        base, relation=Relation.QUANTIZED, how=how, direction=direction, margin=sign, share=sign
    )


def as_cut_down(base: Comparison, cut: Truncation) -> Comparison:
    """Name a model that is the other with fewer directions in each matrix."""
    child = "{b}" if cut.direction == "a->b" else "{a}"
    words = (
        f"in {cut.matrices} matrices the difference is orthogonal to {child}, also by rows and "
        f"columns: {child} has their largest directions, with {1 - cut.cut:.1%} of the energy"
    )
    sign = 1.0 if cut.direction == "a->b" else -1.0
    return replace(
        base,
        relation=Relation.PRUNED,
        direction=cut.direction,
        margin=sign,
        share=sign,
        evidence=(Evidence(TRUNCATED, words, statistic=cut.deviation), *base.evidence),
    )


def as_round_trip(base: Comparison, trip: RoundTrip) -> Comparison:
    """Name an adapter that was merged into what levels stand for, also one too light to be seen."""
    words = (
        f"{trip.matrices} matrices changed by {trip.share:.1%} of their norms, in each row alike, "
        "as rounding to levels changes them, but are on no levels"
    )
    if trip.adapted:
        words = (
            f"{trip.matrices} matrices changed by {trip.share:.1%} of their norms, in each row "
            f"alike, as rounding to levels changes them, and {trip.adapted} of them in few "
            "directions besides: an adapter was merged into rounded weights"
        )
    sign = {"a->b": 1.0, "b->a": -1.0, None: 0.0}[trip.direction]
    return replace(
        base,
        relation=Relation.FINETUNE,
        how="low_rank",
        direction=trip.direction,
        margin=sign,
        share=sign,
        step="low_rank",
        evidence=(Evidence(ROUNDED_ADAPTER, words, statistic=trip.share), *base.evidence),
    )


def as_noised(base: Comparison, pairing: Pairing) -> Comparison | None:
    """Name a difference that has no structure; which of the two has it is another question."""
    seen = noise(pairing)
    if seen is None:
        return None
    lean = orthogonality(pairing)
    words = f"the difference is noise in all {seen.matrices} matrices: it has no direction"
    if seen.is_rounding:
        words += ", and its norm is that of a rounding to an 8-bit float"
    direction: Direction | None = None
    if PURE_SHARES[0] <= abs(lean.share) <= PURE_SHARES[1]:
        direction = "a->b" if lean.share > 0 else "b->a"
    return replace(
        base,
        relation=Relation.QUANTIZED if seen.is_rounding else Relation.NOISED,
        how="fp8" if seen.is_rounding else None,
        direction=direction,
        margin=lean.margin,
        share=lean.share,
        evidence=(Evidence("noise-v1", words, statistic=seen.excess), *base.evidence),
    )


def as_trained(
    base: Comparison, pairing: Pairing, kin: Kinship, *, says_first: bool = True
) -> Comparison:
    """Name the kind of training between two related models and, where clear, its direction."""
    lean = orthogonality(pairing)
    adapter = low_rank(pairing)
    change = base.change or 0.0
    seen = [_lean_evidence(lean, change)]
    if adapter is not None:
        words = (
            f"the difference has rank {adapter.rank} in {adapter.modules} matrices: "
            "a merged low-rank adapter"
        )
        seen.insert(0, Evidence(LOW_RANK, words, statistic=float(adapter.rank)))
    base = replace(
        base,
        margin=lean.margin,
        share=lean.share,
        step=_how(pairing, adapter),
        equal_share=kin.equal_share,
        evidence=(*_beside(pairing), *seen, *base.evidence),
    )
    turn = turned(pairing)
    if turn is not None:
        words = (
            f"in all {turn.matrices} matrices that moved, by {turn.change:.1%}, the rows or the "
            "columns have the norms that they had: these were turned"
        )
        seen = [Evidence(TURNED, words, statistic=turn.change)]
        return replace(
            base, relation=Relation.FINETUNE, how=base.step, evidence=(*seen, *base.evidence)
        )
    short = SHORT_COURSE if abs(lean.share) < _PURE else _SHORT_OF_A_STEP
    is_short = kin.equal_share == 0 and base.course < short
    if adapter is None and (is_short or _is_apart(kin, lean)):
        return _shared_init(base)
    if adapter is None and abs(lean.share) < CLEAR_SHARE and change >= _SIBLING_CHANGE:
        words = "the difference leans on both models: siblings, or several steps apart"
        return replace(base, evidence=(Evidence("siblings-v1", words), *base.evidence))
    if adapter is not None and adapter.rank == 1 and (matrices := one_direction(pairing)):
        return _projected(base, lean, matrices)
    direction: Direction | None = None
    if adapter is None and says_first:
        odds = first_of(pairing)
        base = replace(base, evidence=(*base.evidence[:-1], _odds(odds), base.evidence[-1]))
        if abs(odds) >= SAID:
            direction = "a->b" if odds > 0 else "b->a"
    elif adapter is not None and lean.is_clear():
        direction = "a->b" if lean.margin > 0 else "b->a"
    return replace(
        base,
        relation=Relation.FINETUNE,
        how=base.step,
        direction=direction,
        rank=None if adapter is None else adapter.rank,
    )


def _odds(odds: float) -> Evidence:
    first = "{a}" if odds >= 0 else "{b}"
    words = (
        f"by all that training leaves, the odds are {exp(abs(odds)):.3g} to 1 that {first} came "
        "first, if one came from the other"
    )
    return Evidence(ALONE, words, statistic=odds)


def _projected(base: Comparison, lean: Orthogonality, matrices: int) -> Comparison:
    """Name a direction that was taken out of all matrices; the child has nothing left along it."""
    direction: Direction | None = None
    if lean.is_clear():
        direction = "b->a" if lean.margin > 0 else "a->b"
    child = {"a->b": "{b}", "b->a": "{a}", None: "one of the two"}[direction]
    words = (
        f"the difference is along one direction in all {matrices} matrices, taken out of {child}"
    )
    return replace(
        base,
        relation=Relation.FINETUNE,
        how=base.step,
        direction=direction,
        rank=1,
        margin=-base.margin,
        share=-base.share,
        evidence=(Evidence(PROJECTED, words), *base.evidence),
    )


def in_place(found: Comparison, anew: Replaced | None) -> Comparison:
    """Say what each of two models has of its own, and the direction if one's is as drawn.

    A clear lean of the rest the other way leaves it open: a head that nobody trained may have been
    published too.
    """
    if anew is None or not found.related:
        return found
    is_told = anew.direction is not None and found.relation is Relation.FINETUNE
    rest = tuple(e for e in found.evidence if e.detector != _BESIDE)
    if not is_told:
        return replace(found, evidence=(*rest, anew.evidence))
    direction = anew.direction if found.direction in {None, anew.direction} else None
    return replace(found, direction=direction, evidence=(anew.evidence, *rest))


def by_counters(found: Comparison, a: Fingerprint, b: Fingerprint) -> Comparison:
    """Take the direction of a training step from what both counted, where that tells."""
    seen = counted(counts(a), counts(b)) if found.related else None
    if seen is None:
        return found
    found = replace(found, evidence=(*found.evidence, counters(seen)))
    if found.relation is not Relation.FINETUNE:
        return found
    return replace(found, direction="a->b" if seen.steps > 0 else "b->a")


def _is_apart(kin: Kinship, lean: Orthogonality) -> bool:
    is_far = kin.cosine < SHARED_INIT_COSINE and kin.equal_share == 0
    return is_far and abs(lean.share) < EVEN_SHARE


def _shared_init(base: Comparison) -> Comparison:
    if base.course < SHORT_COURSE:
        words = (
            f"what training did to biases and gains has at most {max(0.0, base.course):.0%} in "
            "common, where a descendant has all of it: two trainings from one initialisation"
        )
        seen = Evidence("course-v1", words, statistic=base.course)
    else:
        words = (
            "both went far from something they share: one initialisation, or a very long training"
        )
        seen = Evidence("shared-init-v1", words)
    return replace(
        base,
        related=False,
        relation=Relation.SHARED_INIT,
        score=base.score / 2,
        shares=None,
        evidence=(seen, *base.evidence),
    )


def _beside(pairing: Pairing) -> list[Evidence]:
    """Say so where nothing that both have has moved, but one has weights that the other has not."""
    if not pairing.same.all():
        return []
    ours, theirs = left_over(pairing)
    words = (
        f"all that both have is the same; {{a}} has {ours} weight tensors besides, {{b}} {theirs}"
    )
    return [Evidence(_BESIDE, words)]


def _how(pairing: Pairing, adapter: LowRank | None) -> str:
    if adapter is not None:
        return "low_rank"
    size = pairing.size[pairing.is_matrix]
    kept = (pairing.same | only_rounded(pairing))[pairing.is_matrix]
    if float(size[kept].sum()) >= _FROZEN_SHARE * float(size.sum()) > 0:
        return "partial"
    use = pairing.is_matrix  # which of the two came first may be open: the mean of both norms
    between = float(pairing.energy_a[use].sum() * pairing.energy_b[use].sum()) ** 0.5
    return "continued" if pairing.distance**2 > _CONTINUED_CHANGE**2 * between else "full"


def _lean_evidence(lean: Orthogonality, change: float) -> Evidence:
    first, second = ("{a}", "{b}") if lean.margin >= 0 else ("{b}", "{a}")
    words = (
        f"the difference ({change:.1%} of the weights' norm) is nearer to orthogonal to {first} "
        f"than to {second}, by {abs(lean.margin):.3f}"
    )
    return Evidence("orthogonality-v1", words, statistic=lean.margin)
