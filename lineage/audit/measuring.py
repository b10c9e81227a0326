"""What a model is measured to be to its supposed parents, in the trust wing's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lineage.claims import Measurement
from lineage.evidence import compare_fingerprints
from lineage.evidence.contained import contained
from lineage.evidence.merging import linear_merge
from lineage.evidence.packed import PACKED
from lineage.evidence.stacked import stack
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lineage.evidence import Comparison
    from lineage.fingerprints import Fingerprint


@dataclass(frozen=True, slots=True)
class Parentage:
    """What was measured between a child and one supposed parent.

    Attributes:
        measurement: In the trust wing's words.
        coefficient: The parent's share of a merge.
        method: The detector the finding rests on, with its version.
        statistic: Its number.
    """

    measurement: Measurement
    coefficient: float | None = None
    method: str = "compare-v1"
    statistic: float | None = None


def measure(
    child: Fingerprint, parents: Sequence[Fingerprint], *, is_only: bool
) -> tuple[Parentage, ...]:
    """Measure a child against its supposed parents: together where they may be a merge, else alone.

    A merge must be seen whole: alone, each of its parents can look like its child. So where a model
    has several parents, a pair by itself tells whether it is related, and no more. Adapters tell
    nothing by themselves: they are held against what the model changed of its base.

    Args:
        child: The child's fingerprint.
        parents: Those parents that are at hand.
        is_only: Whether the child is said to have one parent.
    """
    merged = _merged(child, parents) or _with_adapters(child, parents)
    if merged is not None:
        return merged
    return tuple(_pairwise(child, parent, with_direction=is_only) for parent in parents)


def _merged(child: Fingerprint, parents: Sequence[Fingerprint]) -> tuple[Parentage, ...] | None:
    family = stack([child, *parents]) if len(parents) > 1 else None
    merge = None if family is None else linear_merge(family, 0, range(1, len(parents) + 1))
    if merge is None or len(merge.parents) != len(parents):
        return None
    found = []
    for place, coefficient in zip(merge.parents, merge.coefficients, strict=True):
        words = f"it is a weighted mean of its parents, this one with {coefficient:.3f}"
        measurement = Measurement(
            child.root, parents[place - 1].root, True, Relation.MERGE, "linear", "parent->child",
            words,
        )  # fmt: skip
        found.append(Parentage(measurement, coefficient, "affine-merge-v1", coefficient))
    return tuple(found)


def _with_adapters(
    child: Fingerprint, parents: Sequence[Fingerprint]
) -> tuple[Parentage, ...] | None:
    """Measure a base and the adapters that were merged into it; None where it is not all of them.

    A weight below 0 takes an adapter off: then the other of the two models may be the base.
    """
    bases = [parent for parent in parents if parent.delta is None]
    deltas = [parent.delta for parent in parents if parent.delta is not None]
    if child.delta is not None or len(bases) != 1 or not deltas:
        return None
    made = contained(deltas, bases[0], child)
    if made is None or not made.is_all or any(share.weight <= 0 for share in made.fit.shares):
        return None
    how = "low_rank" if all(delta.rank is not None for delta in deltas) else None
    weights = iter(made.fit.shares)
    found = []
    for parent in parents:
        share = None if parent.delta is None else next(weights)
        relation = Relation.FINETUNE if share is None else Relation.MERGE
        words = "it is this model with adapters merged into it"
        if share is not None:
            words = f"it is its base and {share.weight:.3f} times this adapter"
        measurement = Measurement(
            child.root, parent.root, True, relation, how if share is None else "task_arithmetic",
            "parent->child", words,
        )  # fmt: skip
        coefficient = None if share is None else share.weight
        statistic = made.fit.left if share is None else share.weight
        found.append(Parentage(measurement, coefficient, "merged-v1", statistic))
    return tuple(found)


def _pairwise(child: Fingerprint, parent: Fingerprint, *, with_direction: bool) -> Parentage:
    seen = compare_fingerprints(parent, child)
    first = seen.evidence[0]
    # Two long trainings from one initialisation look, as a pair, like one very long training: that
    # contradicts nobody.
    is_open = seen.relation is Relation.SHARED_INIT
    # Units that are the same in other coordinates do not tell what else was done, nor does what is
    # packed and so not read.
    is_known = seen.relation is not Relation.REPARAMETRIZED and first.detector != PACKED
    is_sure = seen.is_exact or seen.relation in {Relation.QUANTIZED, Relation.PRUNED}
    tells = (with_direction or is_sure) and is_known and not is_open and not _leans_back(seen)
    measurement = Measurement(
        child=child.root,
        parent=parent.root,
        related=None if is_open else seen.related,
        relation=seen.relation if tells else None,
        how=seen.how if tells else None,
        direction=_direction(seen) if tells else None,
        words=first.told("the parent", "the child"),
    )
    is_part = seen.relation is Relation.MERGE and seen.shares is not None
    share = seen.shares.share_b if is_part and seen.shares is not None else None
    return Parentage(measurement, share, first.detector, first.statistic)


def _leans_back(seen: Comparison) -> bool:
    """Whether the weights lean the other way, and nothing mechanical says so.

    A lean can confirm what somebody signed, but it is not enough to accuse: a child that unlearned
    much of its base looks like its base's base. Nor is it that one model has more rows, layers or
    units: adding and leaving out look alike from the two sides.
    """
    is_plausible = (seen.relation, seen.how) in {
        (Relation.EXPANDED, "vocabulary"), (Relation.PRUNED, "depth"), (Relation.PRUNED, "width"),
    }  # fmt: skip
    return seen.direction == "b->a" and (seen.relation is Relation.FINETUNE or is_plausible)


def _direction(seen: Comparison) -> Any:
    """Return the direction from `a`, the parent."""
    return {"a->b": "parent->child", "b->a": "child->parent", None: None}[seen.direction]
