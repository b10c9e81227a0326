"""Whether a tensor's values lie on a few levels, as a quantizer leaves them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

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

LOOKED_VALUES, OFTEN, MORE = 64, 3 / 496, 2
"""Values at which one looks first for a table of them; thrice the chance that two weights stored in
bfloat16 are the same; and how many more than that must come again: of 64 weights in bfloat16 four
do, of those of an 8-bit float twenty."""

MIN_VALUES = 16
"""In a row; fewer tell nothing."""

_WORDS: dict[int, Literal["H", "I", "Q"]] = {2: "H", 4: "I", 8: "Q"}
"""How values of so many bytes are told apart, which their numbers need not be known for."""

_STORED = {"I8", "U8", "F8_E4M3", "F8_E5M2"}


class Lattice(NamedTuple):
    """Few levels: evenly spaced, or of a table.

    Attributes:
        bits: Smallest number of bits that can number the levels; 0 where there is no lattice.
        group: Values along a row that share one step or table; 0 is the row.
    """

    bits: int = 0
    group: int = 0


NO_LATTICE = Lattice()


def lattice(
    piece: memoryview, layout: Layout, dtype: str, *, has_steps: bool | None = None
) -> Lattice:
    """Look for a lattice in the whole rows of a matrix's first piece.

    Args:
        piece: The first raw values of a tensor of numbers that are all finite.
        layout: How the tensor is read as a matrix.
        dtype: What the values are; 8-bit values are a lattice as they are stored.
        has_steps: Whether evenly spaced levels are possible, where that was looked at already.
    """
    if layout.is_vector:
        return NO_LATTICE
    if dtype in _STORED:
        return Lattice(bits=8)
    if dtype not in ROUNDING or layout.cols < MIN_VALUES:
        return NO_LATTICE
    if has_steps is None and compiled is not None:
        rows = len(piece) * 8 // BITS[dtype] // layout.cols
        has_steps = compiled.stepped(piece, KINDS[dtype], layout.cols, rows, LOOKED_ROWS)
    if has_steps is False and not _comes_again(piece, layout.cols, dtype):
        return NO_LATTICE
    from lineage.fingerprints import levels, values

    most = SAMPLED_ROWS, SAMPLED_VALUES
    return levels.lattice(values.rows_of(piece, dtype, layout.cols, most), dtype)


def _comes_again(piece: memoryview, cols: int, dtype: str) -> bool:
    """Whether values come again at the beginning of a matrix: few do where there is no table."""
    width = BITS[dtype] // 8
    with piece[: min(LOOKED_VALUES, cols) * width] as head, head.cast(_WORDS[width]) as words:
        count = len(words)
        return count - len(set(words)) > MORE + OFTEN * count * (count - 1) / 2
