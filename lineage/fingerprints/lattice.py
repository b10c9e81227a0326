"""Whether a tensor's values lie on a few evenly spaced levels, as a quantizer leaves them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lineage.artifacts.base import BITS
from lineage.fingerprints.kernel import KINDS, compiled

if TYPE_CHECKING:
    from lineage.fingerprints.sketch import Layout

ROUNDING = {
    "F64": 2.0**-24, "F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8,
}  # fmt: skip
"""Half a unit in the last place, relative, of values stored in each dtype."""

SAMPLED_ROWS, SAMPLED_VALUES = 24, 1 << 10
"""How many rows are looked at, and how much of each."""

LOOKED_ROWS = SAMPLED_ROWS // 2
"""How many the compiled loops look at first: most tensors have no lattice, which is soon seen."""

MIN_VALUES = 16
"""In a row; fewer tell nothing."""

_STORED = {"I8", "U8", "F8_E4M3", "F8_E5M2"}


@dataclass(frozen=True, slots=True)
class Lattice:
    """Evenly spaced levels.

    Attributes:
        bits: Smallest number of bits that can number the levels; 0 where there is no lattice.
        group: Values along a row that share one step; 0 is the row.
    """

    bits: int = 0
    group: int = 0


NO_LATTICE = Lattice()


def lattice(piece: memoryview, layout: Layout, dtype: str) -> Lattice:
    """Look for a lattice in the whole rows of a matrix's first piece.

    Args:
        piece: The first raw values of a tensor of numbers that are all finite.
        layout: How the tensor is read as a matrix.
        dtype: What the values are; 8-bit values are a lattice as they are stored.
    """
    if layout.is_vector:
        return NO_LATTICE
    if dtype in _STORED:
        return Lattice(bits=8)
    if dtype not in ROUNDING or layout.cols < MIN_VALUES:
        return NO_LATTICE
    rows = len(piece) * 8 // BITS[dtype] // layout.cols
    if compiled is not None and not compiled.stepped(
        piece, KINDS[dtype], layout.cols, rows, LOOKED_ROWS
    ):
        return NO_LATTICE
    from lineage.fingerprints import levels, values

    most = SAMPLED_ROWS, SAMPLED_VALUES
    return levels.lattice(values.rows_of(piece, dtype, layout.cols, most), dtype)
