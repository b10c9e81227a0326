"""Where the two wings meet: what is claimed is held against what the weights say.

The trust wing takes measurements as plain values; this floor makes them from fingerprints.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from lineage import claims
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
from lineage.evidence import compare_fingerprints
from lineage.evidence.contained import contained
from lineage.evidence.merging import linear_merge
from lineage.evidence.packed import PACKED
from lineage.evidence.stacked import stack
from lineage.fingerprints import Fingerprint, fingerprint
from lineage.fingerprints.delta import SCHEME
from lineage.relation import DECLARED_ONLY, Relation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lineage.claims import Policy, VerifiedClaim
    from lineage.declared import Declaration
    from lineage.evidence import Comparison
    from lineage.graph import LineageGraph
    from lineage.signing import Envelope


_NUMBER = re.compile(r"0|[1-9]\d{0,8}", re.ASCII)


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


ACCUSING = 0.9
"""Probability that a model's other parents must have before a related one it declares is denied."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the weights say of one declared parent.

    Attributes:
        child: Path of the model that declares.
        parent: Path of the model it means, or the name as written if no such model is at hand.
        verdict: `unchecked` where the parent is not at hand.
        words: Why, in one line.
    """

    child: str
    parent: str
    verdict: Literal["confirmed", "contradicted", "undetermined", "unchecked"]
    words: str

    def to_json(self) -> dict[str, str]:
        """Return the JSON form."""
        return {
            "child": self.child, "parent": self.parent, "verdict": self.verdict,
            "words": self.words,
        }  # fmt: skip


def judge(graph: LineageGraph, declared: Mapping[str, Sequence[Declaration]]) -> list[Verdict]:
    """Hold what models declare against the graph their weights gave.

    Args:
        graph: The inferred graph.
        declared: Path -> what that model's repository says.
    """
    by_name: dict[str, list[str]] = {}
    for node in graph.nodes:
        by_name.setdefault(PurePath(node.path).name.removesuffix(".safetensors"), []).append(
            node.path
        )
    verdicts = []
    for child, declarations in declared.items():
        for declaration in declarations:
            meant = [p for p in by_name.get(PurePath(declaration.parent).name, []) if p != child]
            if len(meant) != 1:
                why = "it is not at hand" if not meant else "several models have that name"
                verdicts.append(Verdict(child, declaration.parent, "unchecked", why))
            else:
                verdicts.append(_judge(graph, child, meant[0]))
    return verdicts


def _judge(graph: LineageGraph, child: str, parent: str) -> Verdict:
    seen = graph.between(parent, child)
    inferred = graph.parents(child)
    others = " and ".join(PurePath(edge.parent).name for edge in inferred)
    if seen.related is None:
        return Verdict(child, parent, "undetermined", "the weights cannot be compared")
    if seen.related is False and graph.family(child) != graph.family(parent):
        return Verdict(
            child, parent, "contradicted", f"unrelated: {seen.evidence[0].told(parent, child)}"
        )
    if any(edge.parent == parent for edge in inferred):
        return Verdict(child, parent, "confirmed", "the weights say the same")
    if parent in graph.ancestors(child):
        return Verdict(child, parent, "confirmed", f"an ancestor, through {others}")
    # They are related. Another parent accuses nobody unless it is all but certain.
    if child in graph.ancestors(parent, at_least=ACCUSING):
        return Verdict(child, parent, "contradicted", "the other way round: it is a descendant")
    if inferred and min(edge.probability for edge in inferred) >= ACCUSING:
        return Verdict(child, parent, "contradicted", f"the weights come from {others}")
    return Verdict(child, parent, "undetermined", "related, but no order is clear")
