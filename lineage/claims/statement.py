"""Bytes to Claim and back: an in-toto Statement v1, spelled by RFC 8785.

The reader takes exactly what the writer writes: every key present and none unknown, so that two
programs never see two claims in one statement. `lineage/spec/claim-v1.md` says it in words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from lineage import canonical
from lineage.claims import fields
from lineage.claims.base import (
    Changed,
    Claim,
    Dataset,
    DeltaRef,
    Finding,
    Level,
    ModelRef,
    Parent,
    Split,
)
from lineage.errors import FormatError
from lineage.relation import Relation

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:model-lineage:claim:v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_ENVELOPE_BYTES = 60 * 1024
"""An envelope must fit the 16-bit length of a log entry, with room for more signatures."""

T = TypeVar("T")


def to_bytes(claim: Claim) -> bytes:
    """Return the statement that says `claim`, in canonical form."""
    return canonical.dumps(
        {
            "_type": STATEMENT_TYPE,
            "subject": [_write_model(claim.subject)],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "parents": [
                    {
                        "model": _write_model(parent.model),
                        "relation": parent.relation.value,
                        "how": parent.how,
                        "coefficient": None
                        if parent.coefficient is None
                        else fields.spell_fraction(parent.coefficient),
                    }
                    for parent in claim.parents
                ],
                "splits": [
                    {
                        "payee": split.payee,
                        "role": split.role,
                        "share": fields.spell_fraction(split.share),
                    }
                    for split in claim.splits
                ],
                "rate": fields.spell_fraction(claim.rate),
                "findings": [
                    {
                        "parent": finding.parent,
                        "level": finding.level.value,
                        "method": finding.method,
                        "relation": finding.relation.value,
                        "statistic": finding.statistic,
                    }
                    for finding in claim.findings
                ],
                "datasets": [
                    {
                        "name": dataset.name,
                        "digest": {"sha256": dataset.sha256},
                        "relation": dataset.relation.value,
                    }
                    for dataset in claim.datasets
                ],
                "issued": claim.issued,
                "nonce": claim.nonce,
                "audience": claim.audience,
                **({} if claim.delta is None else {"delta": _write_delta(claim.delta)}),
            },
        }
    )


def from_bytes(data: bytes, *, file: object = None) -> Claim:
    """Read a statement.

    Raises:
        FormatError: If it is not such a statement or not in canonical form; the error names the
            field, and `file` where given.
    """
    value = canonical.loads(data, file=file, max_bytes=MAX_ENVELOPE_BYTES)
    try:
        claim = _read_claim(value)
    except FormatError as error:
        raise FormatError(error.reason, file=file) from error
    if to_bytes(claim) != data:
        raise FormatError("the statement is not in canonical form (RFC 8785)", file=file)
    return claim


def _read_claim(value: Any) -> Claim:
    # The type comes first: a statement of another kind is refused as that, not for its fields.
    for key, wanted in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        found = value.get(key) if isinstance(value, dict) else None
        if found != wanted:
            raise FormatError(f"{key}: expected {wanted}")
    body = _members(value, "statement", "_type subject predicateType predicate")
    subjects = _each(body["subject"], "subject", _read_model)
    if len(subjects) != 1:
        raise FormatError(f"subject: expected one model, found {len(subjects)}")
    known = "parents splits rate findings datasets issued nonce audience"
    if isinstance(body["predicate"], dict) and "delta" in body["predicate"]:
        known += " delta"
    predicate = _members(body["predicate"], "predicate", known)
    with fields.within("predicate"):
        return Claim(
            subject=subjects[0],
            parents=_each(predicate["parents"], "parents", _read_parent),
            splits=_each(predicate["splits"], "splits", _read_split),
            rate=fields.parse_fraction(predicate["rate"], "rate"),
            findings=_each(predicate["findings"], "findings", _read_finding),
            datasets=_each(predicate["datasets"], "datasets", _read_dataset),
            issued=predicate["issued"],
            nonce=predicate["nonce"],
            audience=predicate["audience"],
            delta=_read_delta(predicate["delta"]) if "delta" in predicate else None,
        )


def _write_delta(delta: DeltaRef) -> dict[str, Any]:
    return {
        "scheme": delta.scheme,
        "id": delta.id,
        "changed": [
            {
                "name": one.name,
                "at": list(one.at),
                "kind": one.kind,
                "rank": None if one.rank is None else str(one.rank),
            }
            for one in delta.changed
        ],
    }


def _read_delta(value: Any) -> DeltaRef:
    with fields.within("delta"):
        body = _members(value, "delta", "scheme id changed")
        return DeltaRef(
            body["scheme"], body["id"], _each(body["changed"], "changed", _read_changed)
        )


def _read_changed(value: Any) -> Changed:
    body = _members(value, "change", "name at kind rank")
    if not isinstance(body["at"], list):
        raise FormatError("at: expected a list")
    rank = None if body["rank"] is None else fields.count(body["rank"], "rank")
    return Changed(body["name"], tuple(body["at"]), body["kind"], rank)


def _write_model(model: ModelRef) -> dict[str, Any]:
    digest = {"modelLineageV1": model.root}
    if model.manifest_sha256 is not None:
        digest["sha256"] = model.manifest_sha256
    return {"name": model.name, "digest": digest}


def _read_model(value: Any) -> ModelRef:
    body = _members(value, "model", "name digest")
    known = "modelLineageV1"
    if isinstance(body["digest"], dict) and "sha256" in body["digest"]:
        known += " sha256"
        fields.string(body["digest"]["sha256"], "digest.sha256")
    digest = _members(body["digest"], "digest", known)
    return ModelRef(body["name"], digest["modelLineageV1"], digest.get("sha256"))


def _read_parent(value: Any) -> Parent:
    body = _members(value, "parent", "model relation how coefficient")
    with fields.within("model"):
        model = _read_model(body["model"])
    if body["how"] is not None:
        fields.string(body["how"], "how")
    coefficient = body["coefficient"]
    if coefficient is not None:
        coefficient = fields.parse_fraction(coefficient, "coefficient")
    return Parent(model, _relation(body["relation"]), body["how"], coefficient)


def _read_split(value: Any) -> Split:
    body = _members(value, "split", "payee role share")
    return Split(body["payee"], body["role"], fields.parse_fraction(body["share"], "share"))


def _read_finding(value: Any) -> Finding:
    body = _members(value, "finding", "parent level method relation statistic")
    if body["level"] not in list(Level):
        raise FormatError("level: expected one of the levels")
    return Finding(
        body["parent"],
        Level(body["level"]),
        body["method"],
        _relation(body["relation"]),
        body["statistic"],
    )


def _read_dataset(value: Any) -> Dataset:
    body = _members(value, "data set", "name digest relation")
    digest = _members(body["digest"], "digest", "sha256")
    return Dataset(body["name"], digest["sha256"], _relation(body["relation"]))


def _relation(value: Any) -> Relation:
    if value not in list(Relation):
        raise FormatError("relation: expected one of the relations")
    return Relation(value)


def _members(value: Any, field: str, keys: str) -> dict[str, Any]:
    """Return `value` as an object with exactly the `keys`, given as words."""
    if not isinstance(value, dict):
        raise FormatError(f"{field}: expected an object")
    wanted = set(keys.split())
    for key in sorted(wanted - set(value)):
        raise FormatError(f"{field}: the key '{key}' is missing")
    for key in sorted(set(value) - wanted):
        raise FormatError(f"{field}: the key {key[:40]!r} is not known")
    return value


def _each(value: Any, field: str, read: Callable[[Any], T]) -> tuple[T, ...]:
    """Read every item of a list; an error names the item."""
    if not isinstance(value, list):
        raise FormatError(f"{field}: expected a list")
    items = []
    for number, item in enumerate(value):
        with fields.within(f"{field}[{number}]"):
            items.append(read(item))
    return tuple(items)
