"""What an adapter and a model are to each other over a base: merged, extracted, or unknown."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from lineage.adapters.applied import is_plain
from lineage.evidence.base import Comparison, Evidence
from lineage.evidence.contained import merged
from lineage.evidence.cut_out import InWeights, in_weights
from lineage.evidence.extraction import NULL, changes_more, extracted, is_told
from lineage.evidence.kinship import kinship
from lineage.evidence.pairing import pair
from lineage.relation import Relation

if TYPE_CHECKING:
    from lineage.evidence.base import Direction
    from lineage.evidence.weights import Weights
    from lineage.fingerprints import Fingerprint
    from lineage.fingerprints.delta import Delta

__all__ = ["CLEARLY_MERGED", "over_base"]

CLEARLY_MERGED = 1e-4
"""Share of a change that a merge leaves at most, where other tensors changed too."""


def over_base(
    a: Fingerprint, b: Fingerprint, base: Fingerprint, weights: Weights | None = None
) -> Comparison:
    """Say whether one of two, an adapter, was merged to give the other, or extracted from it.

    Args:
        a: An adapter or a model.
        b: The other of the two.
        base: What the model was made from.
        weights: Of the three, named `a`, `b` and `base`, to be sure of an extraction, and for what
            adapters do besides adding.

    Raises:
        ValueError: If not just one of the two is an adapter.
    """
    low, other = a.delta, b.delta
    if (low is None) == (other is None):
        raise ValueError("a base is of use where one of the two is an adapter, and the other not")
    adapter, model = (low, b) if low is not None else (other, a)
    assert adapter is not None
    names = ("a", "b") if low is not None else ("b", "a")
    added = adapter
    if weights is not None and not is_plain(adapter.family, adapter.changes):
        added = weights.applied(names[0], "base") or adapter
    seen = merged(added, base, model)
    if (
        seen is not None
        and seen.scale > 0
        and (seen.left < CLEARLY_MERGED or not changes_more(adapter, base, model))
    ):
        words = (
            f"{{{names[1]}}} is the base with {{{names[0]}}} merged into it, {seen.scale:.4g} times"
        )
        evidence = Evidence("merged-v1", words, statistic=seen.left)
        return Comparison(related=True, score=1.0, evidence=(evidence,))
    kin = kinship(pair(base, model))
    if kin.related is False:
        words = f"{{{names[1]}}} was not made of the base: {kin}"
        return Comparison(related=None, evidence=(Evidence("kinship-v1", words, kin.cosine),))
    return _extracted(adapter, base, model, names, weights)


def _extracted(
    adapter: Delta,
    base: Fingerprint,
    model: Fingerprint,
    names: tuple[str, str],
    weights: Weights | None,
) -> Comparison:
    found = extracted(adapter, base, model)
    if found is None and is_told(adapter):
        words = "the adapter is neither what the model changed nor the largest part of it"
        return Comparison(related=None, evidence=(Evidence("extracted-v1", words),))
    told: list[Evidence] = []
    if found is not None:
        words = (
            f"{{{names[0]}}} has {found.kept:.1%} of what {{{names[1]}}} changed, "
            f"{found.scale:.4g} times in all of {found.modules} modules, as what was cut out of it "
            "has"
        )
        told = [Evidence("extracted-v1", words, found.spread, found.log10_p, NULL)]
    seen = None if weights is None else _read(adapter, (base, model), names, weights)
    if seen is not None:
        words = (
            f"what it leaves of the change has {seen.inside:.2g} of the energy along the adapter "
            f"that chance would leave, over {seen.modules} modules: 0 of a part that was cut out"
        )
        told.insert(0, Evidence("orthogonal-rest-v1", words, seen.inside))
    if seen is not None and not seen.is_extracted:
        return Comparison(related=None, score=0.5, evidence=tuple(told))
    if seen is None and found is None:
        words = "sketches tell nothing of magnitudes or few modules: weights may"
        return Comparison(related=None, evidence=(Evidence("extracted-v1", words),))
    direction: Direction = "b->a" if names[0] == "a" else "a->b"
    return Comparison(
        related=True,
        relation=Relation.ADAPTER,
        how="extracted",
        direction=direction,
        margin=1.0 if direction == "a->b" else -1.0,
        score=1.0 if seen is not None else 0.9,
        evidence=tuple(told),
    )


def _read(
    adapter: Delta,
    prints: tuple[Fingerprint, Fingerprint],
    names: tuple[str, str],
    weights: Weights,
) -> InWeights | None:
    if not all(name in weights for name in ("a", "b", "base")):
        return None
    with ExitStack() as stack:
        changes = stack.enter_context(weights.adapter(names[0]))
        opened = [stack.enter_context(weights.opened(n)) for n in ("base", names[1])]
        return in_weights(adapter, prints, changes, *opened)
