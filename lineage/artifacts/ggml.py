"""From ggml's blocks to the numbers they stand for.

The types that most files use are unpacked here, three to five times as fast as by the gguf package
and to the same bits; the others are left to that package (`model-lineage[formats]`).

Source: ggml-quants.c and ggml-common.h of ggml, https://github.com/ggml-org/ggml; the `quants`
module of its Python package gguf.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lineage.artifacts.base import BLOCKS
from lineage.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Floats = NDArray[np.float32]

WITHOUT_VALUES = frozenset({"Q8_1", "Q8_K", "Q1_0"})
"""Types nobody unpacks: what a dot product is held in (Q8_1, Q8_K), and one too new. Their tensors
have an identity and no sketch."""

_E2M1 = np.array((0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12), np.int8)
"""Twice the sixteen values of a 4-bit float; the scale is halved to match."""

_NIBBLES = np.array([0, 4], np.uint8)
_PAIRS = np.array([0, 2, 4, 6], np.uint8)
_BITS = np.arange(8, dtype=np.uint8)


def dequantized(raw: NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    """Return the numbers that whole blocks stand for.

    Args:
        raw: uint8, of any shape: some blocks, in order.
        dtype: A key of `BLOCKS` that is not in `WITHOUT_VALUES`.

    Returns:
        float32, flat. Scales that are no numbers give numbers that are none.

    Raises:
        FormatError: If the gguf package is needed and not there.
        ValueError: If `dtype` has no values or `raw` is not whole blocks.
    """
    if dtype not in BLOCKS or dtype in WITHOUT_VALUES:
        raise ValueError(f"{dtype} is no type whose blocks can be unpacked")
    blocks = raw.reshape(-1, BLOCKS[dtype][1])
    if not blocks.size:
        return np.zeros(0, np.float32)
    with np.errstate(all="ignore"):
        unpack = _UNPACK.get(dtype)
        return _by_package(blocks, dtype) if unpack is None else unpack(blocks).reshape(-1)


def _by_package(blocks: Bytes, dtype: str) -> Floats:
    try:
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError:
        reason = f"{dtype} needs the gguf package: pip install 'model-lineage[formats]'"
        raise FormatError(reason) from None
    numbers: Floats = dequantize(blocks.reshape(-1), GGMLQuantizationType[dtype])
    return numbers


def _halves(raw: Bytes) -> Floats:
    """Return one float16 a block, as a column of float32."""
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """Return 4-bit numbers, shape (..., 2, n): all the low ones before all the high ones."""
    both = np.empty((*packed.shape[:-1], 2, packed.shape[-1]), np.uint8)
    np.bitwise_and(packed, np.uint8(15), out=both[..., 0, :])
    np.right_shift(packed, np.uint8(4), out=both[..., 1, :])
    return both


def _q8_0(blocks: Bytes) -> Floats:
    numbers = blocks[:, 2:].view(np.int8).astype(np.float32)
    numbers *= _halves(blocks[:, :2])
    return numbers


def _q4_0(blocks: Bytes) -> Floats:
    numbers = _nibbles(blocks[:, 2:]).reshape(-1, 32).astype(np.float32)
    numbers -= np.float32(8)
    numbers *= _halves(blocks[:, :2])
    return numbers


def _q4_1(blocks: Bytes) -> Floats:
    numbers = _nibbles(blocks[:, 4:]).reshape(-1, 32).astype(np.float32)
    numbers *= _halves(blocks[:, :2])
    numbers += _halves(blocks[:, 2:4])
    return numbers


def _mxfp4(blocks: Bytes) -> Floats:
    # The scale is a power of two, 2^(e - 128); below 2^-126 float32 writes it as a subnormal.
    exponent = blocks[:, :1].astype(np.uint32)
    bits = np.where(exponent < 2, np.uint32(1 << 21) << exponent, (exponent - 1) << np.uint32(23))
    numbers = _E2M1.take(_nibbles(blocks[:, 1:]).reshape(-1, 32)).astype(np.float32)
    numbers *= bits.astype(np.uint32).view(np.float32)
    return numbers


def _scales_and_minima(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Unpack eight 6-bit scales and eight 6-bit minima from each 12 bytes."""
    first, second, rest = (packed[:, n : n + 4] for n in (0, 4, 8))
    scales = (first & 63, rest & 15 | first >> 2 & 48)
    minima = (second & 63, rest >> 4 | second >> 2 & 48)
    return np.concatenate(scales, axis=1), np.concatenate(minima, axis=1)


def _scaled(numbers: Floats, blocks: Bytes) -> Floats:
    """Apply the scales and minima of a block of 8 x 32 that begins with them."""
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    numbers *= (_halves(blocks[:, :2]) * scales)[..., None]
    numbers -= (_halves(blocks[:, 2:4]) * minima)[..., None]
    return numbers


def _q4_k(blocks: Bytes) -> Floats:
    packed = blocks[:, 16:].reshape(-1, 4, 32)
    return _scaled(_nibbles(packed).reshape(-1, 8, 32).astype(np.float32), blocks)


def _q5_k(blocks: Bytes) -> Floats:
    high = blocks[:, 16:48].reshape(-1, 1, 32) >> _BITS[:, None]
    high &= np.uint8(1)
    high <<= np.uint8(4)
    high |= _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return _scaled(high.astype(np.float32), blocks)


def _q6_k(blocks: Bytes) -> Floats:
    low = blocks[:, :128].reshape(-1, 2, 1, 64) >> _NIBBLES[:, None]
    low &= np.uint8(15)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> _PAIRS[:, None]
    high &= np.uint8(3)
    high <<= np.uint8(4)
    codes: NDArray[Any] = (low.reshape(-1, 16, 16) | high.reshape(-1, 16, 16)).view(np.int8)
    codes -= np.int8(32)
    numbers: Floats = codes.astype(np.float32)
    numbers *= (_halves(blocks[:, 208:]) * blocks[:, 192:208].view(np.int8))[..., None]
    return numbers


_UNPACK: dict[str, Callable[[Bytes], Floats]] = {
    "Q8_0": _q8_0, "Q4_0": _q4_0, "Q4_1": _q4_1, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
    "MXFP4": _mxfp4,
}  # fmt: skip
