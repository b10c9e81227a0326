"""From tensors to a fingerprint: exact identity, and a sketch that answers ever after."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lineage.artifacts import read
from lineage.files import write_whole
from lineage.fingerprints.base import Fingerprint, TensorPrint
from lineage.fingerprints.measure import TIERS, Pass

if TYPE_CHECKING:
    from collections.abc import Callable

    from lineage.artifacts import Artifact

SUFFIX = ".lineage"
"""What the name of a saved fingerprint ends in."""

__all__ = [
    "SUFFIX",
    "Fingerprint",
    "TensorPrint",
    "fingerprint",
    "from_bytes",
    "save",
    "to_bytes",
]


def fingerprint(
    source: str | PathLike[str] | Any,
    *,
    tier: str = "full",
    neurons: bool = False,
    cache: bool = False,
    base: str | PathLike[str] | Any = None,
    progress: Callable[[int], None] | None = None,
) -> Fingerprint:
    """Fingerprint a model, or load a fingerprint that was saved.

    Args:
        source: Anything `read` takes (a path, a torch module or state dict, a mapping of NumPy
            arrays), or the path of a saved fingerprint (`*.lineage`), or a `Fingerprint`.
        tier: `full` sketches every value; `fast` one block of rows in eight, for a wider error;
            `exact` none, and only exact evidence can be had from it. Identity is exact in each.
        neurons: Sketch some of the feed-forward units too, so that relatives in other coordinates
            are found from fingerprints alone: up to 64 KiB and some seconds more. Of what is no
            transformer by names and shapes there is none.
        cache: Take what is known of unchanged files from the user's cache, and keep there what is
            measured, even if interrupted; see `lineage.fingerprints.cache`.
        base: Of an adapter, what it was trained on, anything `read` takes: VeRA's change does not
            follow from its own files where its projections were not saved, but from this it does.
        progress: Called with the number of bytes just done, from any thread.

    Raises:
        FormatError: Naming file, tensor and reason.
        OSError: If the path cannot be opened.
        ValueError: If there is no such tier.

    Example:
        >>> import numpy as np
        >>> fingerprint({"w": np.zeros((2, 2), np.float32)}).root[:8]
        '10ff9036'
    """
    if tier not in TIERS:
        raise ValueError(f"tier is one of {', '.join(TIERS)}, not {tier!r}")
    if isinstance(source, Fingerprint):
        return source
    if isinstance(source, str | PathLike) and Path(source).suffix == SUFFIX:
        path = Path(source)
        if path.is_file():
            return from_bytes(path.read_bytes(), file=fspath(source))
    with read(source) as artifact:
        passed = Pass(tier, progress)
        if cache:
            from lineage.fingerprints.cache import Cache

            entry = Cache(artifact, TIERS[tier])
            passed.keep = entry.save
            passed.done.update(entry.load())
        made = _with_delta(passed.over(artifact), artifact, source, base)
        return _with_neurons(made, artifact, source) if neurons else made


def _with_delta(made: Fingerprint, artifact: Artifact, source: Any, base: Any) -> Fingerprint:
    """Add what an adapter changes, if it is one."""
    from lineage.adapters import adapter_of

    adapter = adapter_of(artifact, source, base)
    if adapter is None:
        return made
    from lineage.adapters.base import Adapter

    if not isinstance(adapter, Adapter):
        return made
    from lineage.fingerprints.delta import delta_of

    found = delta_of(adapter)
    artifact.check_unchanged()
    return replace(made, delta=found)


def _with_neurons(made: Fingerprint, artifact: Artifact, source: Any) -> Fingerprint:
    """Add the neuron sketch; what lies beside the weights and is no list of tokens is none."""
    from lineage.artifacts.tokens import tokens_of
    from lineage.errors import FormatError
    from lineage.fingerprints.neurons import neurons

    try:
        tokens = tokens_of(source)
    except FormatError:
        tokens = None
    found = neurons(artifact, tokens)
    artifact.check_unchanged()
    return replace(made, neurons=found)


def save(fingerprint: Fingerprint, path: str | PathLike[str]) -> None:
    """Write a fingerprint whole or not at all; `fingerprint` loads what ends in `.lineage`."""
    from lineage.fingerprints.writing import chunks_of

    write_whole(Path(path), *chunks_of(fingerprint))


def to_bytes(fingerprint: Fingerprint) -> bytes:
    """Return the stored form; the same fingerprint always gives the same bytes."""
    from lineage.fingerprints import writing

    return writing.to_bytes(fingerprint)


def from_bytes(data: bytes, *, file: object = None) -> Fingerprint:
    """Read a stored fingerprint; its root is recomputed from its leaves.

    Raises:
        FormatError: If the bytes are no fingerprint, or its parts disagree.
        SchemeError: If its sketches were made by another scheme.
    """
    from lineage.fingerprints import stored

    return stored.from_bytes(data, file=file)
