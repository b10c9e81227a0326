"""Prove where an AI model came from, and pay the people who made it.

    >>> import lineage
    >>> sorted(lineage.__all__)[:4]
    ['Claim', 'Evidence', 'Fingerprint', 'Ledger']

Fifteen names, imported when they are first used; everything else is reached through its module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lineage.artifacts import read
    from lineage.audit import verify
    from lineage.claims import Claim, Split, sign
    from lineage.errors import LineageError
    from lineage.evidence import Evidence
    from lineage.fingerprints import Fingerprint, fingerprint
    from lineage.graph import LineageGraph, compare, infer
    from lineage.ledgers import Ledger
    from lineage.relation import Relation
    from lineage.settlement import settle

__all__ = [
    "Claim",
    "Evidence",
    "Fingerprint",
    "Ledger",
    "LineageError",
    "LineageGraph",
    "Relation",
    "Split",
    "compare",
    "fingerprint",
    "infer",
    "read",
    "settle",
    "sign",
    "verify",
]

_HOMES = {
    "Claim": "claims",
    "Evidence": "evidence",
    "Fingerprint": "fingerprints",
    "Ledger": "ledgers",
    "LineageError": "errors",
    "LineageGraph": "graph",
    "Relation": "relation",
    "Split": "claims",
    "compare": "graph",
    "fingerprint": "fingerprints",
    "infer": "graph",
    "read": "artifacts",
    "settle": "settlement",
    "sign": "claims",
    "verify": "audit",
}


def __getattr__(name: str) -> Any:
    """Import a public name's home when the name is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lineage' has no attribute {name!r}")
    value = getattr(import_module(f"lineage.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
