"""Sketches of the tensors that a fused one holds, made in the same pass as its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lineage.artifacts.base import BITS
from lineage.fingerprints.base import PartPrint
from lineage.fingerprints.sketch import Layout, Sketcher

if TYPE_CHECKING:
    from array import array

    import numpy as np
    from numpy.typing import NDArray

    from lineage.artifacts import Item
    from lineage.artifacts.dialects import Part

__all__ = ["PartSketcher", "may_be_fused", "sketchers"]

_WORDS = ("kv", "c_attn", "in_proj", "W_pack", "gate_up_proj", "w12")
"""What the name of any tensor that holds others has somewhere, so that the tables of dialects are
not loaded for models without one."""


def may_be_fused(names: str) -> bool:
    """Whether there may be the name of a tensor with parts among some that are put together."""
    return any(word in names for word in _WORDS)


def sketchers(item: Item, every: int) -> list[PartSketcher]:
    """Return one for each part of a tensor; none where it holds no others."""
    if len(item.shape) == 1 and BITS.get(item.dtype, 0) < 8:
        return []  # a part of a vector would begin within a block
    if not may_be_fused(item.name):
        return []
    from lineage.artifacts.dialects import parts_of

    return [PartSketcher(part, item.shape, every) for part in parts_of(item.name, item.shape)]


class PartSketcher:
    """Accumulates one part's sketch from the pieces of the whole tensor."""

    def __init__(self, part: Part, shape: tuple[int, ...], every: int) -> None:
        """Begin with nothing added; see `Sketcher`."""
        self._part = part
        self._is_vector = len(shape) == 1
        first = (part.start, 0) if part.axis == 0 else (0, part.start)
        layout = Layout.of(part.shape(shape))
        if self._is_vector:  # a vector's rows of 144 do not begin where a part does
            self._sketcher = Sketcher(layout, every)
        else:
            self._sketcher = Sketcher(layout, every, within=Layout.of(shape), first=first)

    def add(
        self,
        piece: memoryview | NDArray[np.float32],
        dtype: str,
        start: int,
        factors: array[float] | None,
    ) -> None:
        """Add what a piece of the whole tensor has of the part; as `Sketcher.add`."""
        if not self._is_vector:
            self._sketcher.add(piece, dtype, start, factors)
            return
        width = BITS[dtype] // 8 if isinstance(piece, memoryview) else 1
        begin, end = self._part.start - start, self._part.stop - start
        cut = piece[max(begin, 0) * width : max(end, 0) * width]
        if len(cut):
            self._sketcher.add(cut, dtype, max(-begin, 0), factors)

    def finish(self) -> PartPrint:
        """Return what was added so far."""
        return PartPrint(self._part, self._sketcher.finish())
