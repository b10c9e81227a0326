"""Bytes of made-up weights in any of the dtypes measured, faster than a disk takes them.

A template of gaussian values is made once per dtype. Each piece written is a stretch of it from a
random place, with fresh random bits for the sign and the lower digits: the values stay close to
gaussian, and no stretch of bytes comes twice that a tool could save on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]

_TEMPLATE_BYTES = 1 << 23
_SCALE = 0.02
"""The usual standard deviation of a language model's weights."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How values of a dtype lie in bytes.

    Attributes:
        values: In one block; 1 for plain dtypes.
        size_bytes: Of one block.
        fresh: One block of bits: which of them are drawn anew each time.
    """

    values: int
    size_bytes: int
    fresh: bytes


KINDS = {
    "F32": Kind(1, 4, b"\xff\xff\x1f\x80"),
    "F16": Kind(1, 2, b"\xff\x80"),
    "BF16": Kind(1, 2, b"\x1f\x80"),
    "F8_E4M3": Kind(1, 1, b"\x81"),
    "I8": Kind(1, 1, b"\x03"),
    "Q4_K": Kind(256, 144, bytes(4) + b"\xff" * 140),
}
"""Names as safetensors and GGUF spell them. A Q4_K block is two half-precision scales, twelve bytes
of small scales and 256 four-bit values (ggml, `block_q4_K`)."""


class Values:
    """Draws bytes of tensors; the seed decides all of them."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.SFC64(seed)
        self._rng = np.random.Generator(self._bits)

    def integers(self, low: int, high: int) -> int:
        """Draw a whole number from `low` up to and without `high`."""
        return int(self._rng.integers(low, high))

    def pieces(self, dtype: str, size_bytes: int) -> Iterator[_Bytes]:
        """Yield the bytes of a tensor, some mebibytes at a time."""
        template, fresh = _template(dtype)
        block = KINDS[dtype].size_bytes
        left = size_bytes
        while left:
            start = self.integers(0, template.size // block) * block
            count = min(left, template.size - start)
            drawn = self._bits.random_raw(-(-count // 8)).view(np.uint8)[:count]
            drawn &= fresh[start : start + count]
            drawn ^= template[start : start + count]
            yield drawn
            left -= count


@cache
def _template(dtype: str) -> tuple[_Bytes, _Bytes]:
    """Return gaussian values as bytes, and the mask of the bits that are drawn anew."""
    kind = KINDS[dtype]
    blocks = _TEMPLATE_BYTES // kind.size_bytes
    gaussian = np.random.Generator(np.random.SFC64(0)).standard_normal(blocks, dtype=np.float32)
    made = _encoded(dtype, gaussian, kind)
    fresh = np.tile(np.frombuffer(kind.fresh, np.uint8), blocks)
    return made, fresh


def _encoded(dtype: str, gaussian: NDArray[np.float32], kind: Kind) -> _Bytes:
    plain: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
    if dtype in plain:
        return (gaussian * _SCALE).astype(plain[dtype]).view(np.uint8)
    if dtype == "F8_E4M3":
        # No further than 240: beyond it, drawn bits could make a NaN.
        return np.clip(gaussian * 60, -240, 240).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    if dtype == "I8":
        return np.clip(np.rint(gaussian * 32), -124, 124).astype(np.int8).view(np.uint8)
    blocks = np.zeros((gaussian.size, kind.size_bytes), np.uint8)
    scales = np.abs(gaussian * 1e-3).astype(np.float16)
    blocks[:, :4] = np.stack([scales, scales], axis=1).view(np.uint8)
    return blocks.reshape(-1)
