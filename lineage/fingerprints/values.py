"""From raw bytes to numbers, and to the narrower dtypes that may hold the same numbers."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from lineage.artifacts.base import BLOCKS, Affine
from lineage.artifacts.ggml import dequantized

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineage.artifacts import Item

_LITTLE = {
    "BOOL": np.dtype(np.uint8), "U8": np.dtype(np.uint8), "I8": np.dtype(np.int8),
    "U16": np.dtype("<u2"), "I16": np.dtype("<i2"), "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"), "U64": np.dtype("<u8"), "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8"),
    "BF16": np.dtype("<u2"),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2), "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
}  # fmt: skip
"""How NumPy reads each dtype; what is missing (packed 4- and 6-bit, complex) has no sketch."""


def rows_of(piece: memoryview, dtype: str, cols: int, most: tuple[int, int]) -> NDArray[np.float32]:
    """Return some whole rows of a piece that begins with one, evenly chosen and cut short.

    Args:
        piece: Raw values.
        dtype: A plain dtype.
        cols: Values in a row.
        most: Rows and values of a row to return at most.
    """
    raw = np.frombuffer(piece, _LITTLE[dtype])
    rows = raw.size // cols
    matrix = raw[: rows * cols].reshape(rows, cols)
    chosen = matrix[:: max(1, rows // most[0])][: most[0], : most[1]]
    return as_float32(memoryview(chosen.tobytes()), dtype).reshape(chosen.shape)


def as_float32(piece: memoryview, dtype: str) -> NDArray[np.float32]:
    """Return the values of a piece as float32, without a copy where they already are."""
    if dtype in BLOCKS:
        return dequantized(np.frombuffer(piece, np.uint8), dtype)
    raw = np.frombuffer(piece, dtype=_LITTLE[dtype])
    if dtype == "BF16":
        wide: NDArray[np.uint32] = raw.astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    with np.errstate(over="ignore"):
        return raw.astype(np.float32, copy=False)


def rounded(piece: memoryview, dtype: str, narrow: str) -> tuple[bytes, bool]:
    """Round a piece to a narrower dtype, to nearest, ties to even.

    Args:
        piece: Raw little-endian values.
        dtype: What they are.
        narrow: One of `NARROW`.

    Returns:
        The rounded values' bytes, and whether every value (bit for bit, NaNs excepted: they are
        never exact) survived.
    """
    values = np.frombuffer(piece, dtype=_LITTLE[dtype])
    with np.errstate(over="ignore", invalid="ignore"):
        wide = as_float32(piece, dtype) if dtype != "F64" else values
        if narrow == "BF16":
            narrowed, back = _to_bfloat16(wide.astype(np.float32))
        else:
            narrowed = wide.astype(_TARGETS[narrow])
            back = narrowed.astype(np.float64)
        survived = (back == wide) & (np.signbit(back) == np.signbit(wide))
    return narrowed.tobytes(), bool(np.all(survived))


def _to_bfloat16(wide: NDArray[np.float32]) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Round float32 to bfloat16 bits, to nearest, ties to even; also return them as float32."""
    bits = wide.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    half = ((bits + (np.uint32(0x7FFF) + odd)) >> np.uint32(16)).astype("<u2")
    back: NDArray[np.float32] = (half.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return half, back


_TARGETS = {
    "F16": np.dtype("<f2"), "F32": np.dtype("<f4"),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2), "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
}  # fmt: skip


BLOCK = 128
"""Rows and columns that share a factor where a matrix has one for each block."""


def affine_of(items: tuple[Item, ...]) -> dict[str, Affine]:
    """Find what stored whole numbers and 8-bit floats stand for.

    Returns:
        Weight name -> scales and zeros: what its file says (`Item.affine`), or else a tensor stored
        beside it under a known convention: `W_scale` and `W.scale` (compressed-tensors, safetensors
        exports), and `SCB` beside `weight` (bitsandbytes LLM.int8, absmax per row over 127).
    """
    by_name = {item.name: item for item in items}
    found = {}
    for item in items:
        if item.affine is not None:
            found[item.name] = item.affine
            continue
        if item.dtype not in {"I8", "F8_E4M3", "F8_E5M2"} or len(item.shape) != 2:
            continue
        rows, cols = item.shape
        stem = item.name.removesuffix("weight")
        of_rows = {(), (1,), (rows,), (rows, 1)}
        of_blocks = {(-(-rows // BLOCK), -(-cols // BLOCK))}
        for name, divisor, shapes in (
            (f"{item.name}_scale_inv", 1.0, of_blocks), (f"{item.name}_scale", 1.0, of_rows),
            (f"{item.name}.scale", 1.0, of_rows), (f"{stem}SCB", 127.0, of_rows),
        ):  # fmt: skip
            scale = by_name.get(name)
            if scale is None or scale.dtype not in {"F32", "F16", "BF16"}:
                continue
            if scale.shape not in shapes:
                continue
            scratch = memoryview(bytearray(scale.size_bytes))
            raw = scale.source.piece(0, scale.size_bytes, scratch)
            scales = tuple((as_float32(raw, scale.dtype) / np.float32(divisor)).tolist())
            block = BLOCK if shapes is of_blocks else None
            axis = None if len(scales) == 1 or block else 0
            found[item.name] = Affine(scales, (0.0,) * len(scales), axis, block)
    return found


def applied(
    numbers: NDArray[np.float32], affine: Affine, shape: tuple[int, ...], start: int
) -> NDArray[np.float32]:
    """Turn stored whole numbers, from value `start` of a tensor on, into what they stand for."""
    scales = np.array(affine.scales, np.float32)
    zeros = np.array(affine.zeros, np.float32)
    places = np.arange(start, start + numbers.size)
    if affine.block is not None:
        rows, cols = places // shape[1] // affine.block, places % shape[1] // affine.block
        scales = scales[rows * -(-shape[1] // affine.block) + cols]
        zeros = np.zeros(1, np.float32)
    elif affine.axis is not None:
        places = places // prod(shape[affine.axis + 1 :]) % shape[affine.axis]
        scales, zeros = scales[places], zeros[places]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        result: NDArray[np.float32] = (numbers - zeros) * scales
    return result
