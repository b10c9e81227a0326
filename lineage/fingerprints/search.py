"""One short vector for a whole model, to look for relatives among very many.

It is derived from a fingerprint whenever it is wanted, and stored in none. Near vectors are a
reason to compare two fingerprints, and never evidence.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3

from lineage.fingerprints.sketch import SIDE, Layout, sign_bits

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
    the matrix's extents. So names, wrappers, the order of layers and transposition change nothing;
    a fused tensor gives what its parts do. A core counts with norm size^(1/4), whatever the
    matrix's own; so the cosine of two models is about the mean of their matrices' cosines, weighted
    by the root of the size. Up to these norms it is linear. What a matrix's mean adds to a core is
    taken out first: it has one direction, and would add up over layers where all else cancels.

    Returns:
        float32, shape (512,), of norm 1; all zeros where there is no matrix to go by.

    Source: Charikar, Chen and Farach-Colton (2002), "Finding frequent items in data streams".
    """
    total = np.zeros(DIM)
    by_extents: dict[tuple[int, int], NDArray[np.float64]] = {}
    for layout, sketch in _matrices(fingerprint):
        core = _upright(_without_mean(sketch.core.astype(np.float64), layout), layout)
        norm = float(np.linalg.norm(core))
        if norm > 0:
            extents = min(layout.rows, layout.cols), max(layout.rows, layout.cols)
            weighed = core.reshape(-1) * ((layout.rows * layout.cols) ** 0.25 / norm)
            by_extents[extents] = by_extents.get(extents, 0.0) + weighed
    for extents, numbers in by_extents.items():
        total += _folded(numbers, extents)
    length = float(np.linalg.norm(total))
    result: NDArray[np.float32] = (total / (length or 1.0)).astype(np.float32)
    return result


def _matrices(fingerprint: Fingerprint) -> Iterator[tuple[Layout, Sketch]]:
    """Yield layout and sketch of every matrix, those of fused tensors apart."""
    for tensor in fingerprint.tensors:
        if tensor.sketch is None or tensor.nonfinite:
            continue
        parts = [(p.part.shape(tensor.shape), p.sketch) for p in tensor.parts]
        for shape, sketch in parts or [(tensor.shape, tensor.sketch)]:
            layout = Layout.of(shape)
            is_wide = min(layout.rows, layout.cols) > 1 and layout.rows * layout.cols >= _SMALLEST
            if is_wide and not layout.is_vector and not sketch.is_flat:
                yield layout, sketch


def _without_mean(core: NDArray[np.float64], layout: Layout) -> NDArray[np.float64]:
    """Take the core of a constant matrix out of a core, as far as it is in it."""
    ones = np.outer(_summed(layout.rows), _summed(layout.cols))
    square = float(np.vdot(ones, ones))
    return core - ones * (float(np.vdot(core, ones)) / square) if square else core


@lru_cache(maxsize=256)
def _summed(count: int) -> NDArray[np.float64]:
    """Return the sums of the signs in each bucket of rows or columns."""
    groups = -(-count // SIDE)
    drawn = np.frombuffer(sign_bits(groups), np.uint8)
    signs = 1.0 - 2.0 * np.unpackbits(drawn, bitorder="little")[:groups]
    last = count - (groups - 1) * SIDE
    sums: NDArray[np.float64] = signs[:-1].sum() + np.where(np.arange(SIDE) < last, signs[-1], 0.0)
    return sums[:count]


def _upright(core: NDArray[np.float64], layout: Layout) -> NDArray[np.float64]:
    """Return a core so that a transpose gives the same: wide, or symmetric where that is open."""
    if layout.rows == layout.cols:
        return core + core.T
    return core.T if layout.rows > layout.cols else core


def _folded(numbers: NDArray[np.float64], extents: tuple[int, int]) -> NDArray[np.float64]:
    """Add numbers up in 512 buckets: of each 16 bits of a stream, 9 are the bucket, 1 the sign."""
    seed = b"lineage/search/v1\0" + b"".join(n.to_bytes(8, "little") for n in extents)
    drawn = np.frombuffer(blake3(seed).digest(length=2 * numbers.size), "<u2")
    signs = np.where(drawn & DIM, -1.0, 1.0)
    folded: NDArray[np.float64] = np.bincount(
        drawn % DIM, weights=signs * numbers, minlength=DIM
    ).astype(np.float64)
    return folded
