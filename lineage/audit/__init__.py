"""Where the two wings meet: what is claimed is held against what the weights say.

The trust wing takes measurements as plain values; this floor makes them from fingerprints.
"""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from lineage import claims
from lineage.audit.judging import ACCUSING, Verdict, judge
from lineage.audit.measuring import Parentage, measure
from lineage.claims import (
    Changed,
    Claim,
    Dataset,
    DeltaRef,
    Finding,
    Level,
    Measurement,
    ModelRef,
    Parent,
    Split,
)
from lineage.errors import ContradictionError
from lineage.fingerprints import Fingerprint, fingerprint
from lineage.fingerprints.delta import SCHEME
from lineage.relation import DECLARED_ONLY, Relation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lineage.claims import Policy, VerifiedClaim
    from lineage.signing import Envelope

__all__ = ["ACCUSING", "Parentage", "Verdict", "delta_of", "draft", "judge", "measure", "verify"]

_NUMBER = re.compile(r"0|[1-9]\d{0,8}", re.ASCII)


def verify(
    envelope: Envelope,
    policy: Policy,
    *,
    weights: Fingerprint | str | Any = None,
    parents: Iterable[Fingerprint | str | Any] = (),
) -> VerifiedClaim:
    """Verify a signed claim, and hold it against the weights where they are given.

    Args:
        envelope: The claim as it was received.
        policy: Whose keys count, and whether every parent must be confirmed by a measurement.
        weights: The claimed model, or its saved fingerprint; its root is recomputed.
        parents: The claimed parents, or their saved fingerprints; what they are to the model is
            measured again, and what the claim says of it is not read. Those the claim does not
            name are passed over. Of saved fingerprints only such as you made: their sketches are
            not bound to their root.

    Raises:
        VerificationError: A `SignatureError`, or a `ContradictionError` when the weights disagree.
        FormatError: If the claim or the weights cannot be read.
    """
    if weights is None:
        return claims.verify(envelope, policy)
    child = fingerprint(weights)
    # The signature comes first: nothing is measured for a claim nobody vouches for.
    unmeasured = claims.Policy(policy.keys, policy.threshold, policy.audience)
    claim = claims.verify(envelope, unmeasured, subject_root=child.root).claim
    _check_delta(claim.delta, child)
    named = {parent.model.root for parent in claim.parents}
    given = {found.root: found for found in map(fingerprint, parents) if found.root in named}
    weighed = [p for p in claim.parents if p.relation not in DECLARED_ONLY]
    is_only = len(weighed) <= 1
    measured = [p.measurement for p in measure(child, list(given.values()), is_only=is_only)]
    return claims.verify(envelope, policy, subject_root=child.root, measurements=measured)


def draft(
    name: str,
    child: Fingerprint,
    parents: Mapping[str, Fingerprint],
    *,
    splits: Sequence[Split],
    rate: Fraction = Fraction(0),
    relation: Relation | None = None,
    datasets: Sequence[Dataset] = (),
    audience: str = "any",
    now: datetime | None = None,
) -> Claim:
    """Write a claim from what is measured: the parents' relations come from the weights.

    Args:
        name: What the model is called.
        child: Its fingerprint.
        parents: Name -> fingerprint.
        splits: Who shares what the model earns; the shares sum to 1.
        rate: The part of a descendant's revenue that is owed to this model.
        relation: What the maker knows the relation to be, where the weights do not tell.
        datasets: What it was trained on.
        audience: Whom the claim is for.
        now: Time of issue; the present if None.

    Raises:
        ContradictionError: If the weights say that a parent is none, or is the model itself.
    """
    for called, parent in parents.items():
        if parent.root == child.root:
            raise ContradictionError(f"'{name}' is '{called}', byte for byte: there is no step")
    found = measure(child, list(parents.values()), is_only=len(parents) == 1)
    by_root = {parent.root: called for called, parent in parents.items()}
    stated: list[Parent] = []
    findings: list[Finding] = []
    for parentage in found:
        called = by_root[parentage.measurement.parent]
        if relation not in DECLARED_ONLY:
            _refuse_contradicted(name, called, parentage.measurement)
        stated.append(_parent(_reference(called, parents[called]), parentage, relation))
        findings += _findings(parentage)
    issued = (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Claim(
        subject=_reference(name, child),
        parents=tuple(stated),
        splits=tuple(splits),
        rate=rate,
        issued=issued,
        nonce=secrets.token_hex(16),
        findings=tuple(findings),
        datasets=tuple(datasets),
        audience=audience,
        delta=delta_of(child),
    )


def delta_of(model: Fingerprint) -> DeltaRef | None:
    """Return in the trust wing's words what an adapter changes; None of a model that is none."""
    if model.delta is None:
        return None
    found: dict[tuple[str, str, int | None], list[str]] = {}
    for change in model.delta.changes:
        words = change.name.split(".")
        name = ".".join("*" if _NUMBER.fullmatch(word) else word for word in words)
        numbers = ".".join(word for word in words if _NUMBER.fullmatch(word))
        found.setdefault((name, change.kind, change.rank), []).append(numbers)
    changed = [Changed(name, tuple(at), kind, rank) for (name, kind, rank), at in found.items()]
    return DeltaRef(SCHEME, model.delta.id, tuple(changed))


def _check_delta(stated: DeltaRef | None, model: Fingerprint) -> None:
    """Raise where a claim's delta is not the one measured: the scale is in no tensor."""
    if stated is None:
        return
    found = delta_of(model)
    if found is None or model.delta is None:
        raise ContradictionError("the claim is of an adapter, and no adapter was measured")
    if stated.scheme != found.scheme:
        return
    is_identity = stated.id in model.delta.ids  # one of two next to a line of its grid
    if not is_identity or stated.changed != found.changed:
        differs = "what it changes" if is_identity else "its identity"
        raise ContradictionError(
            f"the files are those claimed, but {differs} is not: the configuration beside them "
            "may be another"
        )


def _reference(name: str, of: Fingerprint) -> ModelRef:
    return ModelRef(name, of.root, of.manifest_sha256)


def _refuse_contradicted(name: str, called: str, seen: Measurement) -> None:
    """Raise where the weights deny a parent."""
    if seen.related is False:
        raise ContradictionError(f"'{name}' is not derived from '{called}': {seen.words}")
    if seen.direction == "child->parent":
        raise ContradictionError(f"'{called}' was made from '{name}': {seen.words}")


def _parent(model: ModelRef, parentage: Parentage, stated: Relation | None) -> Parent:
    """State a parent by what was measured, or else by what its maker says."""
    seen, coefficient = parentage.measurement, parentage.coefficient
    return Parent(
        model,
        (stated if stated in DECLARED_ONLY else seen.relation) or stated or Relation.FINETUNE,
        None if stated in DECLARED_ONLY else seen.how,
        None if coefficient is None else Fraction(str(round(coefficient, 4))),
    )


def _findings(parentage: Parentage) -> list[Finding]:
    """Return the finding that travels in the claim, where something was found."""
    seen, statistic = parentage.measurement, parentage.statistic
    if seen.relation is None:
        return []
    text = None if statistic is None else f"{statistic:.6f}"
    return [Finding(seen.parent, Level.INFERRED, parentage.method, seen.relation, text)]
