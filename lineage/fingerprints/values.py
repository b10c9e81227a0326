"""From raw bytes to numbers, and to the narrower dtypes that may hold the same numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

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

NARROWER = {
    "F64": ("BF16", "F16", "F32"),
    "F32": ("BF16", "F16"),
    "F16": ("BF16",),
    "F8_E5M2": ("BF16",), "F8_E4M3": ("BF16",), "F8_E8M0": ("BF16",),
    "F8_E5M2FNUZ": ("BF16",), "F8_E4M3FNUZ": ("BF16",),
}  # fmt: skip
"""The dtypes a tensor is tried in, in order; the first that holds every value gives its value
digest. bfloat16 stands for every narrower float too, since it holds all their values."""


def has_numbers(dtype: str) -> bool:
    """Whether values of this dtype can be sketched."""
    return dtype in _LITTLE


def as_float32(piece: memoryview, dtype: str) -> NDArray[np.float32]:
    """Return the values of a piece as float32, without a copy where they already are."""
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
        narrow: `BF16`, `F16` or `F32`.

    Returns:
        The rounded values' bytes, and whether every value (bit for bit, NaNs excepted: they are
        never exact) survived.
    """
    values = np.frombuffer(piece, dtype=_LITTLE[dtype])
    if narrow == "BF16" and dtype == "F32":
        bits = values.view("<u4")
        exact = not np.any(bits & np.uint32(0xFFFF))
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        half = ((bits + (np.uint32(0x7FFF) + odd)) >> np.uint32(16)).astype("<u2")
        return half.tobytes(), exact
    target: Any = {"BF16": ml_dtypes.bfloat16, "F16": "<f2", "F32": "<f4"}[narrow]
    with np.errstate(over="ignore", invalid="ignore"):
        narrowed = (
            values.astype(np.float32).astype(target)
            if narrow == "BF16"
            else (values.astype(target))
        )
        exact = bool(np.array_equal(narrowed.astype(values.dtype), values))
    return narrowed.tobytes(), exact


def scales(items: tuple[Item, ...]) -> dict[str, NDArray[np.float32]]:
    """Find, for each weight stored as integers or 8-bit floats, the scales stored beside it.

    Returns:
        Weight name -> a scalar or one factor per row, to multiply the stored numbers with. The
        conventions known: `W_scale`, `W.scale` (compressed-tensors, safetensors exports), and
        `SCB` beside `weight` (bitsandbytes LLM.int8, absmax per row over 127).
    """
    by_name = {item.name: item for item in items}
    found = {}
    for item in items:
        if item.dtype not in {"I8", "F8_E4M3", "F8_E5M2"} or len(item.shape) != 2:
            continue
        stem = item.name.removesuffix("weight")
        for name, divisor in (
            (f"{item.name}_scale", 1.0), (f"{item.name}.scale", 1.0), (f"{stem}SCB", 127.0),
        ):  # fmt: skip
            scale = by_name.get(name)
            if scale is None or scale.dtype not in {"F32", "F16", "BF16"}:
                continue
            if scale.shape not in {(), (1,), (item.shape[0],), (item.shape[0], 1)}:
                continue
            scratch = memoryview(bytearray(scale.size_bytes))
            raw = scale.source.piece(0, scale.size_bytes, scratch)
            found[item.name] = as_float32(raw, scale.dtype).copy() / np.float32(divisor)
    return found
