"""Changes that are vectors, and tensors stored as they are: laid out as a fingerprint lays them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from lineage.adapters.base import Change
from lineage.adapters.matrices import Dense
from lineage.adapters.names import extents_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineage.adapters.base import Kind, Matrix
    from lineage.adapters.tensors import Stored

WIDTH = 144
"""A vector is read as rows of so many places, as in a fingerprint's sketch."""


def vector(
    stored: Stored,
    names: tuple[str, ...],
    leaf: str,
    kind: Kind,
    shape: tuple[int, ...],
    cols: int,
    scale: float = 1.0,
    *,
    less: float = 0.0,
) -> Iterator[Change]:
    """Yield a vector, or the vectors that one of a fused module is.

    Args:
        stored: Its tensor; extents of 1 are passed over.
        names: What the modules are called.
        leaf: What their tensor is called.
        kind: What the vector does to it.
        shape: Its one extent.
        cols: Of the modules' weight, which says how a fused one is divided.
        scale: What it is multiplied with.
        less: What is taken off first.

    Raises:
        FormatError: If it has another length.
    """
    if prod(stored.shape) != shape[0] or max(stored.shape, default=1) != shape[0]:
        raise stored.fail(f"the shape {list(stored.shape)} is not that of {shape[0]} places")
    extents = extents_of(len(names), shape[0], cols)
    if extents is None:
        raise stored.fail(f"{shape[0]} places are not those of {len(names)} tensors")
    start = 0
    for name, extent in zip(names, extents, strict=True):
        load = partial(_vector, stored, start, start + extent, scale, less)
        yield Change(f"{name}.{leaf}", kind, (extent,), None, load)
        start += extent


def _vector(stored: Stored, start: int, stop: int, scale: float, less: float) -> Matrix:
    return in_rows((stored.values().reshape(-1)[start:stop] - less) * scale)


def in_rows(places: NDArray[np.float64]) -> Dense:
    """Lay a vector out in rows."""
    rows = -(-places.size // WIDTH)
    width = min(places.size, WIDTH)
    padded = np.zeros(rows * width)
    padded[: places.size] = places
    return Dense(padded.reshape(rows, width))


def tensor(stored: Stored, name: str, kind: Kind) -> Iterator[Change]:
    """Yield a tensor that is stored as it is: a vector, or the first extent by the rest."""
    if len(stored.shape) < 2:
        stem, _, leaf = name.rpartition(".")
        yield from vector(stored, (stem,), leaf, kind, (max(1, prod(stored.shape)),), 0)
        return
    shape = stored.shape[0], prod(stored.shape[1:])
    yield Change(name, kind, shape, None, lambda: Dense(stored.matrix()))
