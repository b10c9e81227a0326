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
    table, most = array("q"), 0
    layouts = [Layout.of(item.shape) for item, _ in placed]
    for (item, start), layout in zip(placed, layouts, strict=True):
        rows, cols, side = layout.rows, layout.cols, layout.side
        most = max(most, rows // side, cols // SIDE)
        count = item.size_bytes * 8 // BITS[item.dtype]
        table.extend((start, count, KINDS[item.dtype], rows, cols, side, _TRIED[item.dtype]))
    found = compiled.many(data, table, every, LOOKED_ROWS, sign_bits(most + 8))
    return {
        item.name: _glance(item, layout, *one)
        for (item, _), layout, one in zip(placed, layouts, found, strict=True)
    }


def _glance(
    item: Item,
    layout: Layout,
    held: int,
    has_steps: bool,
    raw: tuple[bytes, bytes, bytes] | None,
    sums: tuple[float, float, float, float, float],
) -> Glance:
    kept = tuple(to for to in TRIED[item.dtype] if held >> KINDS[to] & 1) if held else ()
    if raw is None:
        return Glance(kept, has_steps, None, 0)
    energy, fourth, zeros, left_out, common = sums
    is_flat = common == common  # NaN once two values differed
    sketch = Sketch(layout.core_shape, raw, energy, fourth, int(zeros), is_flat)
    return Glance(kept, has_steps, sketch, int(left_out))
