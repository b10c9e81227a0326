"""What an alignment says: which coordinates of one model are which of another's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lineage.alignment.heads import Heads
    from lineage.alignment.neurons import Units
    from lineage.alignment.turning import Turn
    from lineage.fingerprints.agreement import Agreement

Where = tuple[str, int]
"""A block: its stack and its number."""


@dataclass(frozen=True, slots=True)
class MlpMatch:
    """One feed-forward part of b and the one of a that it is.

    Attributes:
        b: Its label: empty, or an expert's number.
        a: The other's.
        agreement: Of two looks at their units.
        units: Which are which.
    """

    b: str
    a: str
    agreement: Agreement
    units: Units


@dataclass(frozen=True, slots=True)
class BlockMatch:
    """One block of b and what it is in a.

    Attributes:
        b: The block.
        a: The block of a that its units come from; None where none does.
        mlps: Its feed-forward parts that have a partner.
        heads: How its attention becomes a's; None where that is not known.
        values: Values in it, of all its matrices.
    """

    b: Where
    a: Where | None
    mlps: tuple[MlpMatch, ...]
    heads: Heads | None
    values: int


@dataclass(frozen=True, slots=True)
class Alignment:
    """How model b's coordinates become model a's.

    Attributes:
        turn: Of the streams.
        scale: What b's stream must be multiplied by.
        blocks: Of b, in its order.
        agreement: Over all of b's blocks, each with the block of a that agrees most.
        tried: Pairs of blocks that were looked at.
        tokens: b's tokens in a's order, where they must be moved.
    """

    turn: Turn
    scale: float
    blocks: tuple[BlockMatch, ...]
    agreement: Agreement
    tried: int
    tokens: NDArray[np.intp] | None = None

    @property
    def related(self) -> bool:
        """Whether any block of b is one of a's."""
        return any(block.a is not None for block in self.blocks)

    @property
    def share(self) -> float:
        """Of the values in b's blocks, those in blocks that are a's."""
        whole = sum(block.values for block in self.blocks)
        return sum(block.values for block in self.blocks if block.a is not None) / whole

    @property
    def how(self) -> tuple[str, ...]:
        """What was done to the coordinates: of `rotated`, `permuted`, `rescaled`."""
        if not self.related:
            return ()
        kinds = {self.turn.kind} | {b.heads.kind for b in self.blocks if b.heads is not None}
        units = [m.units for block in self.blocks for m in block.mlps]
        if any(u.is_moved for u in units):
            kinds.add("permuted")
        if self.tokens is not None:
            kinds.add("permuted")
        if self.scale != 1 or any(u.scales is not None for u in units):
            kinds.add("rescaled")
        return tuple(kind for kind in ("rotated", "permuted", "rescaled") if kind in kinds)
