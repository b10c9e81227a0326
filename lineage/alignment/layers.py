"""One layer of a network without a stream: its tensors, and what their rows and columns are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lineage.artifacts import Item

    Within = tuple[int | slice, ...]

__all__ = ["Layer", "Leaf", "Part"]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor of a layer, or the part of one that holds several.

    Attributes:
        item: The tensor.
        within: Where in it: numbers, and slices of whole bounds, along its first axes.
    """

    item: Item
    within: Within = ()

    @property
    def name(self) -> str:
        """What the tensor is called."""
        return self.item.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is meant of it."""
        sides = [one.stop - one.start for one in self.within if isinstance(one, slice)]
        return (*sides, *self.item.shape[len(self.within) :])


@dataclass(frozen=True, slots=True)
class Part:
    """What the places of one tensor are.

    Attributes:
        item: The tensor.
        role: `weight` or `recurrent` for matrices; `bias`, or of a norm `gain`, `shift`, `mean`,
            `var`, for vectors.
        rows: The group that its rows are; None where they are labelled: classes.
        columns: The groups that its columns are, one after another; none where they are labelled:
            colours, pixels, samples, tokens.
        gates: Rows are so many blocks of the group.
        positions: Columns that each channel has, of what was flattened in front of a linear layer.
        is_turned: Whether rows and columns change places: embeddings, transposed convolutions.
        parts: Of a convolution in parts, how many there are: each part of its rows reads the same
            part of the channels, and only those are stored.
        within: Where in the tensor, if it holds several; see `Leaf`.
    """

    item: Item
    role: str
    rows: int | None
    columns: tuple[int, ...] = ()
    gates: int = 1
    positions: int = 1
    is_turned: bool = False
    parts: int = 1
    within: Within = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is meant of the tensor."""
        return Leaf(self.item, self.within).shape


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: what it is called and its tensors by role.

    Attributes:
        name: As in the model.
        kind: `convolution`, `linear`, `embedding` or `recurrent`.
        rows: The group it writes.
        columns: The groups it reads.
        parts: Its tensors and those of the norm behind it; of two biases the second is `bias_hh`.
    """

    name: str
    kind: str
    rows: int | None
    columns: tuple[int, ...]
    parts: Mapping[str, Part]

    @property
    def shape(self) -> tuple[object, ...]:
        """What must be the same in a layer that this is held against: all but labels."""
        weight = self.parts["weight"]
        is_labelled = self.kind == "embedding" or self.rows is None
        inner = weight.shape[1:] if is_labelled else weight.shape
        return self.kind, inner, self.rows, self.columns

    @property
    def labels(self) -> int:
        """How many tokens it embeds, or classes it tells; of others 0."""
        is_labelled = self.kind == "embedding" or self.rows is None
        return self.parts["weight"].shape[0] if is_labelled else 0

    @property
    def candidate(self) -> int:
        """Which gate of a recurrent layer is no share but what is remembered.

        torch orders the gates of an LSTM input, forget, candidate, output, ONNX input, output,
        forget, candidate; of a GRU both have it last.
        """
        part = self.parts["recurrent"]
        return 2 if part.gates == 4 and not part.within else part.gates - 1
