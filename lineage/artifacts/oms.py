"""OpenSSF Model Signing (OMS) v1: the digest it names a model by, and what a signature file says.

Nothing here opens a file and **no signature is verified**: only the signed payload is parsed, to
say which model a signature is about. Who signed it is for `model_signing verify`.

A subject digest covers the digests of a model's files one after another and neither their names
nor their sizes, so two models can share one. Where a signature is at hand the names that it lists
are therefore compared as well.

Source: the tool model-signing 1.1.1 of the sigstore project (`_signing/signing.py`, `manifest.py`,
`_serialization/file.py`) and the README of the OMS specification, by which a signature covers no
other signature file.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import b64decode
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from lineage import canonical
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

PREDICATE_TYPE = "https://model_signing/signature/v1.0"
GIT_PATHS = frozenset({".git", ".gitattributes", ".github", ".gitignore"})
"""Files that the tool leaves out of every folder unless it is told not to."""

MAX_BUNDLE_BYTES = 64 << 20
"""Of one signature file: the manifest of some 200000 files."""

_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ANY_DIGEST = re.compile(r"(?:[0-9a-f]{2}){16,64}")
_WHOLE = "."
"""What the tool calls the one file of a model that is a single file."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What one signature file says was signed.

    Attributes:
        file: The signature file's name.
        name: What the signer called the model; informative only.
        subject: The model's digest, hexadecimal.
        resources: File -> its digest, hexadecimal; the one file of a single-file model is ".".
        ignored: Paths left out of the folder.
        unlike: Why the digests are of another kind than ours, or None.
    """

    file: str
    name: str
    subject: str
    resources: dict[str, str]
    ignored: frozenset[str]
    unlike: str | None

    @property
    def is_of_one_file(self) -> bool:
        """Whether the model that was signed is a single file."""
        return self.resources.keys() == {_WHOLE}


@dataclass(frozen=True, slots=True)
class SignedSubject:
    """How a signature's payload compares with the files at hand. No signature was verified.

    Attributes:
        file: The signature file's name.
        name: What the signer called the model.
        sha256: The subject digest that was signed, hexadecimal.
        agrees: Whether the subject digest and every file name and digest are those at hand; None
            where it was made in a way that is not computed here.
        reason: Why not, in one line; None where it agrees.
    """

    file: str
    name: str
    sha256: str
    agrees: bool | None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "file": self.file,
            "name": self.name,
            "sha256": self.sha256,
            "agrees": self.agrees,
            "reason": self.reason,
        }


def subject_of(digests: Mapping[str, str]) -> str:
    """Return the digest that OMS names a model by, hexadecimal.

    The files come in the order of their paths' parts, so `a/b` is before `a.txt`.

    Args:
        digests: File, as a path below the model's folder -> its SHA-256, hexadecimal.
    """
    ordered = sorted(digests, key=lambda name: PurePosixPath(name).parts)
    return _over(digests[name] for name in ordered)


def is_below(name: str, paths: frozenset[str]) -> bool:
    """Return whether a file is one of these paths or lies below one of them."""
    path = PurePosixPath(name)
    return not paths.isdisjoint(map(str, (path, *path.parents)))


def bundle_of(data: bytes, *, file: str, label: str) -> Bundle | None:
    """Read a signature file; None if it is no OMS v1 signature but of another kind.

    Args:
        data: Its bytes, which begin as a JSON object does.
        file: Its name.
        label: What errors call it.

    Raises:
        FormatError: If it is one and is damaged, or says two things at once.
    """
    document = canonical.loads(data, file=label, max_bytes=MAX_BUNDLE_BYTES, floats=True)
    envelope = document.get("dsseEnvelope")
    if not isinstance(envelope, dict) or envelope.get("payloadType") != _PAYLOAD_TYPE:
        return None
    try:
        payload = b64decode(envelope.get("payload", ""), validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise FormatError("the envelope's payload is not base64", file=label) from None
    statement = canonical.loads(
        payload, file=f"{label}: payload", max_bytes=MAX_BUNDLE_BYTES, floats=True
    )
    if not isinstance(statement, dict) or statement.get("predicateType") != PREDICATE_TYPE:
        return None
    try:
        return _read(statement, file)
    except FormatError as error:
        raise FormatError(error.reason, file=label) from None


def compared(
    bundle: Bundle, found: Mapping[str, str], weights: Collection[str], others: Collection[str]
) -> SignedSubject:
    """Say whether a signature is about the files of a folder.

    Args:
        bundle: What was signed.
        found: Every file at hand, those that a signature leaves out too -> its digest.
        weights: Those of them that hold the tensors.
        others: Those of them that are signature files themselves; none counts as a stray.
    """
    if bundle.unlike is not None:
        return _said(bundle, None, bundle.unlike)
    signed = bundle.resources
    strays = (
        name
        for name in found
        if name not in signed and name not in others and not is_below(name, bundle.ignored)
    )
    checks = (
        ("was not signed", (name for name in weights if name not in signed)),
        ("is not there", (name for name in signed if name not in found)),
        ("is not what was signed", (n for n in signed if n in found and found[n] != signed[n])),
        ("was not signed", strays),
    )
    reason = None
    for words, names in checks:
        if reason is None and (first := min(names, default=None)) is not None:
            reason = f"{printable(first)} {words}"
    return _said(bundle, reason is None, reason)


def compared_one(bundle: Bundle, name: str, sha256: str) -> SignedSubject | None:
    """Say whether a signature is about a single file; None if it is about something else."""
    if not bundle.is_of_one_file:
        return None
    reason = bundle.unlike
    agrees = None if reason else bundle.resources[_WHOLE] == sha256
    if not agrees and name not in {bundle.name, bundle.file.removesuffix(".sig")}:
        return None
    if agrees is False:
        reason = f"{printable(name)} is not what was signed"
    return _said(bundle, agrees, reason)


def _said(bundle: Bundle, agrees: bool | None, reason: str | None) -> SignedSubject:
    return SignedSubject(bundle.file, printable(bundle.name), bundle.subject, agrees, reason)


def _over(digests: Iterable[str]) -> str:
    whole = hashlib.sha256()
    for digest in digests:
        whole.update(bytes.fromhex(digest))
    return whole.hexdigest()


def _read(statement: dict[str, Any], file: str) -> Bundle:
    """Check a statement of the right type, key by key; unknown keys are let be, as the tool does.

    1. One subject, with a name and a SHA-256.
    2. The serialization: how files became digests, and which were left out.
    3. The resources: every file once, each with a digest of the kind said.
    4. The subject's digest is the one that the resources lead to.
    """
    if statement.get("_type") != _STATEMENT_TYPE:
        raise FormatError(f"the payload's _type is not {_STATEMENT_TYPE}")

    # 1.
    subjects = statement.get("subject")
    if not isinstance(subjects, list) or len(subjects) != 1:
        raise FormatError("the payload does not have one subject")
    name = _text(subjects[0], "name", "subject")
    digests = _value(subjects[0], "digest", "subject", dict)
    subject = _digest(digests, "sha256", "subject")

    # 2.
    predicate = _value(statement, "predicate", "payload", dict)
    made = _value(predicate, "serialization", "predicate", dict)
    method, kind = _text(made, "method", "serialization"), _text(made, "hash_type", "serialization")
    ignored = made.get("ignore_paths", sorted(GIT_PATHS))
    if not isinstance(ignored, list) or not all(isinstance(path, str) for path in ignored):
        raise FormatError("the serialization's ignore_paths are not a list of paths")

    # 3.
    resources: dict[str, str] = {}
    kinds = {kind}
    for entry in _value(predicate, "resources", "predicate", list):
        path = _text(entry, "name", "resource")
        if path in resources:
            raise FormatError(f"the payload lists {printable(path)} twice")
        algorithm = _text(entry, "algorithm", "resource")
        shape = _SHA256 if algorithm == "sha256" else _ANY_DIGEST
        resources[path] = _digest(entry, "digest", "resource", shape)
        kinds.add(algorithm)

    # 4.
    if _over(resources.values()) != subject:
        raise FormatError("the files that the payload lists do not lead to its subject's digest")
    unlike = None
    if (method, kinds) != ("files", {"sha256"}):
        shown = printable(f"{kind} of {method}", 80)
        unlike = f"signed over {shown}; only SHA-256 of whole files is compared"
    paths = frozenset(str(PurePosixPath(path)) for path in ignored)
    return Bundle(file, name, subject, resources, paths, unlike)


def _value(value: Any, key: str, where: str, kind: type) -> Any:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        raise FormatError(f"the payload's {where} lacks {key}")
    return found


def _text(value: Any, key: str, where: str) -> str:
    found: str = _value(value, key, where, str)
    return found


def _digest(value: Any, key: str, where: str, shape: re.Pattern[str] = _SHA256) -> str:
    found = _text(value, key, where)
    if not shape.fullmatch(found):
        raise FormatError(f"the payload's {where} has a {key} that is not a digest in hexadecimal")
    return found
