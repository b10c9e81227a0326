"""The words for how one model came from another.

A `Relation` is a closed list; `how` says it more exactly and is checked against `HOW`.
"""

from __future__ import annotations

from enum import StrEnum


class Relation(StrEnum):
    """What a child is to its parent."""

    IDENTICAL = "identical"
    QUANTIZED = "quantized"
    FINETUNE = "finetune"
    ADAPTER = "adapter"
    MERGE = "merge"
    PRUNED = "pruned"
    EXPANDED = "expanded"
    REPARAMETRIZED = "reparametrized"
    NOISED = "noised"
    SHARED_INIT = "shared_init"
    TRAINED_ON = "trained_on"
    EVALUATED_BY = "evaluated_by"
    RED_TEAMED_BY = "red_teamed_by"
    LABELLED_BY = "labelled_by"
    DISTILLED_FROM = "distilled_from"


HOW: dict[Relation, tuple[str, ...]] = {
    Relation.IDENTICAL: ("same", "renamed", "cast", "converted"),
    Relation.QUANTIZED: ("bf16", "fp16", "fp8", "int8", "int4", "int3", "int2"),
    Relation.FINETUNE: ("full", "partial", "low_rank", "continued"),
    Relation.ADAPTER: ("extracted",),
    Relation.MERGE: ("linear", "slerp", "ties", "dare", "task_arithmetic", "passthrough"),
    Relation.PRUNED: ("unstructured", "depth", "width"),
    Relation.EXPANDED: ("vocabulary", "depth", "experts"),
    Relation.REPARAMETRIZED: ("permuted", "rotated", "rescaled"),
}
"""The details a relation may carry; a relation that is not a key carries none."""

DECLARED_ONLY = frozenset(
    {
        Relation.TRAINED_ON,
        Relation.EVALUATED_BY,
        Relation.RED_TEAMED_BY,
        Relation.LABELLED_BY,
        Relation.DISTILLED_FROM,
    }
)
"""Relations that a person declares and that weights can neither show nor deny."""

ADDS_NOTHING = frozenset(
    {Relation.IDENTICAL, Relation.QUANTIZED, Relation.REPARAMETRIZED, Relation.NOISED}
)
"""Relations whose child computes what its parent computes, up to precision: no work of its own."""
