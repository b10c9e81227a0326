"""Small tensors that lie next to each other, looked at in one call of the compiled loops.

What a call costs, and what two threads cost each other when they take the interpreter in turns, is
more than the work on a small tensor.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

from lineage.artifacts.base import BITS
from lineage.fingerprints.kernel import KINDS, compiled
from lineage.fingerprints.lattice import LOOKED_ROWS
from lineage.fingerprints.narrowing import TRIED
from lineage.fingerprints.sketch import SIDE, Layout, Sketch, sign_bits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lineage.artifacts import Item

_TRIED = {
    dtype: sum(1 << KINDS[to] for to in TRIED.get(dtype, ()))
    for dtype in ("F32", "BF16", "F16", "F8_E4M3", "F8_E5M2", "I8", "U8")
}
"""What is looked at here -> a bit for each kind that may hold the same values in less."""

_WIDTHS = {dtype: BITS[dtype] // 8 for dtype in _TRIED}


class Glance(NamedTuple):
    """What is known of a tensor before it is hashed.

    Attributes:
        held: The dtypes that may hold the same values in less; the others that are tried do not.
        has_steps: Whether it is worth looking for a lattice.
        sketch: None where none was asked for.
        left_out: As `Sketcher.left_out`.
    """

    held: tuple[str, ...]
    has_steps: bool
    sketch: Sketch | None
    left_out: int


NOTHING = Glance((), False, None, 0)
"""What most tensors show that are not sketched."""


def is_plain(item: Item) -> bool:
    """Whether `glances` takes a tensor, if it stands for the numbers that are stored."""
    return compiled is not None and item.size_bytes > 0 and item.dtype in _TRIED


def glances(placed: Sequence[tuple[Item, int]], data: memoryview, every: int) -> dict[str, Glance]:
    """Look at whole tensors that are plain.

    Args:
        placed: The tensors, and where each begins in `data`.
        data: Their raw values.
        every: Of so many blocks of rows one is sketched; 0 for no sketches.

    Returns:
        What was seen, by the tensors' names.
    """
    if not every:
        return _held(placed, data)
    table, most = array("q"), 0
    layouts = [Layout.of(item.shape) for item, _ in placed]
    for (item, start), layout in zip(placed, layouts, strict=True):
        rows, cols, side, dtype = layout.rows, layout.cols, layout.side, item.dtype
        most = max(most, rows // side, cols // SIDE)
        count = item.size_bytes // _WIDTHS[dtype]
        table.extend((start, count, KINDS[dtype], rows, cols, side, _TRIED[dtype]))
    found = compiled.many(data, table, every, LOOKED_ROWS, sign_bits(most + 8))
    return {
        item.name: _glance(item, layout, *one)
        for (item, _), layout, one in zip(placed, layouts, found, strict=True)
    }


def _held(placed: Sequence[tuple[Item, int]], data: memoryview) -> dict[str, Glance]:
    """Look only for what may hold the same values in less."""
    table = array("q")
    for item, start in placed:
        dtype = item.dtype
        count = item.size_bytes // _WIDTHS[dtype]
        table.extend((start, count, KINDS[dtype], 1, 1, 1, _TRIED[dtype]))
    found = compiled.many(data, table, 0, LOOKED_ROWS, sign_bits(8))
    return {
        item.name: Glance(_dtypes(item, held), False, None, 0) if held else NOTHING
        for (item, _), (held, *_) in zip(placed, found, strict=True)
    }


def _dtypes(item: Item, held: int) -> tuple[str, ...]:
    return tuple(to for to in TRIED[item.dtype] if held >> KINDS[to] & 1)


def _glance(
    item: Item,
    layout: Layout,
    held: int,
    has_steps: bool,
    raw: tuple[bytes, bytes, bytes],
    sums: tuple[float, float, float, float, float],
) -> Glance:
    energy, fourth, zeros, left_out, common = sums
    is_flat = common == common  # NaN once two values differed
    sketch = Sketch(layout.core_shape, raw, energy, fourth, int(zeros), is_flat)
    return Glance(_dtypes(item, held) if held else (), has_steps, sketch, int(left_out))
