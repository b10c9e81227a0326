"""What a data set's manifest means: records, roots, proofs, and who contributed which records.

This is the wing of trust: it takes bytes and says whether they hold. Reading data sets, which needs
numbers and other libraries, is `lineage.datasets`.
"""

from __future__ import annotations

from lineage.manifests.proofs import Proven, check
from lineage.manifests.records import Typed, canonical, parse_json, record_digest
from lineage.manifests.tree import Head

__all__ = ["Head", "Proven", "Typed", "canonical", "check", "parse_json", "record_digest"]
