"""What an alignment says: which coordinates of one model are which of another's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from lineage.alignment.head_rows import Heads
    from lineage.alignment.neurons import Units
    from lineage.alignment.turning import Turn
    from lineage.fingerprints.agreement import Agreement

Where = tuple[str, int]
"""A block: its stack and its number."""

EPSILON = 1e-5
"""Added to a variance before its root is taken; what most frameworks add."""


class Aligned(Protocol):
    """What every alignment says, whatever the models are made of."""

    @property
    def related(self) -> bool:
        """Whether anything of b is a's."""

    @property
    def share(self) -> float:
        """Of b's values that were looked at, those in what is a's."""

    @property
    def how(self) -> tuple[str, ...]:
        """What was done to the coordinates."""

    @property
    def log10_p(self) -> float:
        """Of as much agreement by chance."""

    @property
    def agreement(self) -> Agreement:
        """Of independent looks, over the whole model."""


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
        best: Of the two blocks of which chance would be most surprising.
        tried: Pairs of blocks that were looked at.
        tokens: b's tokens in a's order, where they must be moved.
        is_shifted: Whether one amount was added to all coordinates of what is written, which norms
            take away again.
    """

    turn: Turn
    scale: float
    blocks: tuple[BlockMatch, ...]
    agreement: Agreement
    best: Agreement
    tried: int
    tokens: NDArray[np.intp] | None = None
    is_shifted: bool = False

    @property
    def log10_p(self) -> float:
        """Of the best block's agreement by chance, after counting the pairs that were tried."""
        return min(0.0, self.best.log10_p + math.log10(max(self.tried, 1)))

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
        """What was done to the coordinates: of `rotated`, `permuted`, `rescaled`, `shifted`."""
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
        if self.is_shifted:
            kinds.add("shifted")
        words = ("rotated", "permuted", "rescaled", "shifted")
        return tuple(kind for kind in words if kind in kinds)


@dataclass(frozen=True, slots=True)
class Group:
    """The channels of one layer of b, or of layers that are added, and which of a's they are.

    Attributes:
        name: The first layer that writes them.
        order: For each of a's channels the place of b's.
        scales: What b's channels, in a's order, must be multiplied by, with signs; None where they
            were not rescaled.
        agreement: Of two looks that share no tensor.
        values: In the matrices that write them.
        is_found: Whether they are a's.
        turn: Of an embedding that was turned, what b's vectors, a row each, are multiplied by from
            the right; shape (width, width).
        of_tokens: Whether not channels were looked at but tokens: those that an embedding tells
            under a map that was fitted to what reads it. They are not in the sum over all groups.
    """

    name: str
    order: NDArray[np.intp]
    scales: NDArray[np.float64] | None
    agreement: Agreement
    values: int
    is_found: bool
    turn: NDArray[np.float64] | None = None
    of_tokens: bool = False


@dataclass(frozen=True, slots=True)
class ChainAlignment:
    """How the channels of network b become those of a.

    Attributes:
        groups: Of channels, in the order of the layers that write them.
        gates: Which of b's gates each of a's is, where recurrent layers have them in another order.
        agreement: Over all groups whose channels were looked at.
        is_last: Whether channels were last where they were flattened.
        is_folded: Whether one of the two has norms folded into its layers that the other has not.
        before: The place of a layer -> by what b's rows in front of its norm, in a's order, must be
            multiplied; with a sign, which the norm's gain undoes.
        epsilon: What norms add to a variance, as those rescaled rows tell it.
        candidate: Which of a's gates changes its sign with what is remembered; None without gates.
        tokens: b's tokens in a's order, where they must be moved.
        is_swapped: Whether what earlier blocks wrote is read behind what later ones did.
    """

    groups: tuple[Group, ...]
    gates: tuple[int, ...] | None
    agreement: Agreement
    is_last: bool = False
    is_folded: bool = False
    before: Mapping[int, NDArray[np.float64]] = field(default_factory=dict)
    epsilon: float = EPSILON
    candidate: int | None = None
    tokens: NDArray[np.intp] | None = None
    is_swapped: bool = False

    @property
    def log10_p(self) -> float:
        """Of the agreement over all groups by chance."""
        return self.agreement.log10_p

    @property
    def related(self) -> bool:
        """Whether any channels of b are a's."""
        return any(group.is_found for group in self.groups)

    @property
    def share(self) -> float:
        """Of the values in b's matrices that write channels, those in groups that are a's."""
        whole = sum(group.values for group in self.groups)
        return sum(group.values for group in self.groups if group.is_found) / whole

    @property
    def how(self) -> tuple[str, ...]:
        """What was done: of `rotated`, `permuted`, `rescaled`; folding a norm is rescaling, too."""
        if not self.related:
            return ()
        kinds = set()
        if any(group.turn is not None for group in self.groups):
            kinds.add("rotated")
        moved = any((g.order[1:] < g.order[:-1]).any() for g in self.groups)
        if moved or self.gates is not None or self.tokens is not None:
            kinds.add("permuted")
        if self.is_folded or self.before or any(group.scales is not None for group in self.groups):
            kinds.add("rescaled")
        return tuple(kind for kind in ("rotated", "permuted", "rescaled") if kind in kinds)
