"""Which claims an earning model's settlement rests on, and which of its models are copies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lineage.claims import VerifiedClaim
from lineage.errors import SettlementError, printable
from lineage.relation import ADDS_NOTHING
from lineage.settlement.base import Terms


def family_of(
    claims: Iterable[VerifiedClaim], earner: str, terms: Terms
) -> dict[str, VerifiedClaim]:
    """Return the one claim about each model that paying edges reach from `earner`."""
    about: dict[str, list[VerifiedClaim]] = {}
    for verified in claims:
        if not isinstance(verified, VerifiedClaim):
            raise TypeError("settle takes only what lineage.claims.verify returned")
        about.setdefault(verified.claim.subject.root, []).append(verified)
    if earner not in about:
        raise SettlementError(f"no verified claim is about the earning model {earner[:12]}…")
    family: dict[str, VerifiedClaim] = {}
    waiting = [earner]
    while waiting:
        model = waiting.pop()
        if model not in family and model in about:
            family[model] = _only(about[model])
            waiting += parents_of(family[model], terms)
    _refuse_cycles(family, terms)
    return family


def contracted(family: Mapping[str, VerifiedClaim], terms: Terms) -> dict[str, str]:
    """Return, for every model in sight, the one that it computes the same as."""
    next_up = {
        model: [parent for parent in parents_of(verified, terms) if _is_copy(verified, parent)]
        for model, verified in family.items()
    }
    stands_for: dict[str, str] = {}

    def climb(start: str) -> None:
        path = [start]
        while path:  # a stack of our own: shells can be stacked deeper than Python's
            model = path[-1]
            originals = next_up.get(model, [])
            missing = [original for original in originals if original not in stands_for]
            if missing:
                path.append(missing[0])
                continue
            found = {stands_for[original] for original in originals} or {model}
            if len(found) > 1:
                name = printable(family[model].claim.subject.name)
                raise SettlementError(f"'{name}' ({model[:12]}…) is a copy of two different models")
            stands_for[model] = found.pop()
            path.pop()

    for model in sorted(family):
        for root in (model, *parents_of(family[model], terms)):
            if root not in stands_for:
                climb(root)
    return stands_for


def parents_of(verified: VerifiedClaim, terms: Terms) -> list[str]:
    """Return the parents that money may go to: of a copy, only what it is a copy of."""
    paying = [edge for edge in verified.edges if edge.confirmed or terms.accept_asserted]
    copied = [edge.parent for edge in paying if edge.relation in ADDS_NOTHING]
    return copied or [edge.parent for edge in paying]


def _is_copy(verified: VerifiedClaim, parent: str) -> bool:
    """Whether the claim's model computes what `parent` computes."""
    return any(edge.parent == parent and edge.relation in ADDS_NOTHING for edge in verified.edges)


def _only(found: list[VerifiedClaim]) -> VerifiedClaim:
    """Return the claim that several agree on; the best measured, then the lowest id.

    One claim that was verified against different measurements is told apart by its edges, so that
    the order in which claims came never decides.
    """
    first = found[0].claim
    for verified in found[1:]:
        claim = verified.claim
        same = (
            claim.rate == first.rate
            and set(claim.splits) == set(first.splits)
            and {(p.model.root, p.relation, p.how, p.coefficient) for p in claim.parents}
            == {(p.model.root, p.relation, p.how, p.coefficient) for p in first.parents}
        )
        if not same:
            raise SettlementError(
                f"two claims about '{printable(first.subject.name)}' ({first.subject.root[:12]}…) "
                "disagree on its parents, splits or rate"
            )
    return min(found, key=_rank)


def _rank(verified: VerifiedClaim) -> tuple[int, str, list[tuple[str, bool, str]]]:
    edges = [(edge.parent, not edge.confirmed, edge.relation.value) for edge in verified.edges]
    return -len(verified.confirmed), verified.claim_id, edges


def _refuse_cycles(family: Mapping[str, VerifiedClaim], terms: Terms) -> None:
    """Raise where a model is its own ancestor, by taking away models without parents left."""
    children: dict[str, list[str]] = {}
    left = {}
    for model, verified in family.items():
        parents = [parent for parent in parents_of(verified, terms) if parent in family]
        left[model] = len(parents)
        for parent in parents:
            children.setdefault(parent, []).append(model)
    ready = [model for model, count in left.items() if count == 0]
    while ready:
        model = ready.pop()
        del left[model]
        for child in children.get(model, ()):
            left[child] -= 1
            if left[child] == 0:
                ready.append(child)
    if left:
        model = min(left)
        name = printable(family[model].claim.subject.name)
        raise SettlementError(
            f"'{name}' ({model[:12]}…) is an ancestor of itself, or its parent is"
        )
