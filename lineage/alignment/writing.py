"""Writes an artifact as one safetensors file, a tensor at a time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lineage.artifacts import Artifact

_PIECE = 1 << 24
"""Bytes asked for at once."""


def chunks_of(artifact: Artifact) -> Iterator[bytes]:
    """Yield the file, header first.

    Args:
        artifact: Of dtypes that safetensors has.
    """
    header: dict[str, Any] = {}
    at = 0
    for item in artifact.items:
        header[item.name] = {
            "dtype": item.dtype,
            "shape": list(item.shape),
            "data_offsets": [at, at + item.size_bytes],
        }
        at += item.size_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    scratch = memoryview(bytearray(_PIECE))
    for item in artifact.items:
        for start in range(0, item.size_bytes, _PIECE):
            size = min(_PIECE, item.size_bytes - start)
            yield bytes(item.source.piece(start, size, scratch))
