"""Signed statements of what a model is, what it was made from and who is paid.

`sign` makes one, `verify` is the only way to believe one.
"""

from __future__ import annotations

from lineage.claims import statement
from lineage.claims.base import (
    ANYONE,
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
from lineage.claims.verify import (
    Edge,
    Measurement,
    Policy,
    VerifiedClaim,
    claim_id,
    read,
    verify,
)
from lineage.errors import FormatError
from lineage.signing import Envelope, Signer, sign_payload

__all__ = [
    "ANYONE",
    "Changed",
    "Claim",
    "Dataset",
    "DeltaRef",
    "Edge",
    "Finding",
    "Level",
    "Measurement",
    "ModelRef",
    "Parent",
    "Policy",
    "Split",
    "VerifiedClaim",
    "claim_id",
    "read",
    "sign",
    "verify",
]


def sign(claim: Claim, *signers: Signer) -> Envelope:
    """Sign a claim with every signer.

    Raises:
        FormatError: If the envelope would be larger than a claim may be.
        ValueError: If there is no signer, or two share a key.
    """
    envelope = sign_payload(statement.PAYLOAD_TYPE, statement.to_bytes(claim), *signers)
    size = len(envelope.to_bytes())
    if size > statement.MAX_ENVELOPE_BYTES:
        raise FormatError(f"envelope: {size} bytes, more than {statement.MAX_ENVELOPE_BYTES}")
    return envelope
