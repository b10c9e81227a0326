"""Data sets: their files read as records, and the manifest that stands for them.

    build(["train.jsonl"], Path("train.manifest"))   makes a manifest
    load("train.manifest")                           reads it and holds it to its roots

`lineage.manifests` says what records, roots and proofs mean, and checks proofs without any of this.
"""

from __future__ import annotations

from lineage.datasets.base import Built, Options
from lineage.datasets.building import build
from lineage.datasets.headers import Header
from lineage.datasets.stored import Manifest, is_manifest, load

__all__ = ["Built", "Header", "Manifest", "Options", "build", "is_manifest", "load"]
