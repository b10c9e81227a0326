"""One short vector for a whole model, to look for relatives among very many.

It is derived from a fingerprint whenever it is wanted, and stored in none. Near vectors are a
reason to compare two fingerprints, and never evidence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3

from lineage.artifacts.dialects import canonical_name
from lineage.fingerprints.sketch import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lineage.fingerprints.base import Fingerprint
    from lineage.fingerprints.sketch import Sketch

__all__ = ["DIM", "search_vector"]

DIM = 512
"""Numbers in a vector: two strangers' have a cosine of 0 with a deviation of 1 / sqrt(512)."""

_SMALLEST = 64
"""Values a matrix has at least, to tell one model from another."""


def search_vector(fingerprint: Fingerprint) -> NDArray[np.float32]:
    """Return a vector that another format or a fine-tune hardly moves, and strangers do not share.

    Every matrix's core is folded into the vector by a CountSketch whose buckets and signs come from
    the matrix's canonical name, so wrappers and dialects change nothing as far as names are known.
    A core counts with norm size^(1/4), whatever the matrix's own; so the cosine of two models is
    about the mean of their matrices' cosines, weighted by the root of the size. Up to these norms
    it is linear. A matrix and its transpose give the same; a fused tensor gives what its parts do.

    Returns:
        float32, shape (512,), of norm 1; all zeros where there is no matrix to go by.

    Source: Charikar, Chen and Farach-Colton (2002), "Finding frequent items in data streams".
    """
    total = np.zeros(DIM)
    for name, shape, sketch in _matrices(fingerprint):
        layout = Layout.of(shape)
        core = _upright(sketch.core.astype(np.float64), layout)
        norm = float(np.linalg.norm(core))
        if norm > 0:
            size = float(layout.rows * layout.cols)
            total += _folded(core.reshape(-1) * (size**0.25 / norm), name)
    length = float(np.linalg.norm(total))
    result: NDArray[np.float32] = (total / (length or 1.0)).astype(np.float32)
    return result


def _matrices(fingerprint: Fingerprint) -> Iterator[tuple[str, tuple[int, ...], Sketch]]:
    """Yield canonical name, shape and sketch of every matrix, those of fused tensors apart."""
    for tensor in fingerprint.tensors:
        if tensor.sketch is None or tensor.nonfinite:
            continue
        own = [(tensor.name, tensor.shape, tensor.sketch)]
        parts = [(p.part.name, p.part.shape(tensor.shape), p.sketch) for p in tensor.parts]
        for name, shape, sketch in parts or own:
            layout = Layout.of(shape)
            is_wide = min(layout.rows, layout.cols) > 1 and layout.rows * layout.cols >= _SMALLEST
            if is_wide and not layout.is_vector and not sketch.is_flat:
                yield canonical_name(name), shape, sketch


def _upright(core: NDArray[np.float64], layout: Layout) -> NDArray[np.float64]:
    """Return a core so that a transpose gives the same: wide, or symmetric where that is open."""
    if layout.rows == layout.cols:
        return core + core.T
    return core.T if layout.rows > layout.cols else core


def _folded(numbers: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """Add numbers up in 512 buckets: of each 16 bits of a stream, 9 are the bucket, 1 the sign."""
    seed = b"lineage/search/v1\0" + name.encode("utf-8", "surrogatepass")
    drawn = np.frombuffer(blake3(seed).digest(length=2 * numbers.size), "<u2")
    signs = np.where(drawn & DIM, -1.0, 1.0)
    folded: NDArray[np.float64] = np.bincount(
        drawn % DIM, weights=signs * numbers, minlength=DIM
    ).astype(np.float64)
    return folded
