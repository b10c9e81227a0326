"""Factors as float64: each is read when it is asked for, and refused if it holds no numbers."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from lineage.adapters.names import modules_of
from lineage.artifacts.base import BLOCKS
from lineage.artifacts.ggml import WITHOUT_VALUES, dequantized
from lineage.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineage.artifacts import Item

__all__ = ["Stored"]

_DTYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16), "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "I64": np.dtype("<i8"), "I32": np.dtype("<i4"),
    "BOOL": np.dtype(np.bool_),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of an adapter's file, its values not read yet.

    Attributes:
        item: As it is stored.
        file: What errors call the file.
        heads: Of a query or key whose rows llama.cpp reordered, how many it has; they are put back.
        is_turned: Whether its transpose is stored.
    """

    item: Item
    file: str
    heads: int = 0
    is_turned: bool = False

    @property
    def name(self) -> str:
        """As stored."""
        return self.item.name

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored, or of its transpose."""
        return self.item.shape[::-1] if self.is_turned else self.item.shape

    def fail(self, reason: str) -> FormatError:
        """Return an error about this tensor."""
        return FormatError(reason, file=self.item.file or self.file, tensor=self.item.name)

    def sole(self, module: str) -> str:
        """Return what its module is called.

        Raises:
            FormatError: If that stands for several, among which this tensor cannot be divided.
        """
        names = modules_of(module)
        if len(names) > 1:
            raise self.fail(f"it is not divided among the {len(names)} tensors of a fused one")
        return names[0]

    def values(self) -> NDArray[np.float64]:
        """Return its values in their shape.

        Raises:
            FormatError: If one is not finite, there are none, or the dtype is none of factors.
        """
        is_packed = self.item.dtype in BLOCKS and self.item.dtype not in WITHOUT_VALUES
        if self.item.dtype not in _DTYPES and not is_packed:
            raise self.fail(f"{self.item.dtype} is not a dtype that factors are read in")
        if not prod(self.item.shape):
            raise self.fail(f"the shape {list(self.item.shape)} holds no values")
        size = self.item.size_bytes
        raw = self.item.source.piece(0, size, memoryview(bytearray(size)))
        if is_packed:
            values: NDArray[Any] = dequantized(np.frombuffer(raw, np.uint8), self.item.dtype)
        else:
            values = np.frombuffer(raw, _DTYPES[self.item.dtype])
        wide: NDArray[np.float64] = values.astype(np.float64).reshape(self.item.shape)
        with np.errstate(over="ignore", invalid="ignore"):
            total = float(wide.sum())
        if not np.isfinite(total):
            bad = int(wide.size - np.count_nonzero(np.isfinite(wide)))
            if bad:
                raise self.fail(f"{bad} of its {wide.size} values are NaN or infinite")
        return self._put_back(wide)

    def _put_back(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.heads:
            pairs = values.reshape(self.heads, -1, 2, *values.shape[1:])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        return values.T if self.is_turned else values

    def matrix(self) -> NDArray[np.float64]:
        """Return its values as a matrix: the first extent by the rest."""
        values = self.values()
        return values.reshape(self.shape[0], -1)

    def number(self) -> float:
        """Return the one number it holds."""
        if prod(self.shape) != 1:
            raise self.fail(f"the shape {list(self.shape)} is not that of one number")
        return float(self.values().reshape(-1)[0])
