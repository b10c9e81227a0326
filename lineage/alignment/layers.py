"""One layer of a network without a stream: its tensors, and what their rows and columns are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lineage.artifacts import Item

__all__ = ["Layer", "Part"]


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
        is_turned: Whether rows and columns change places: embeddings.
        parts: Of a convolution in parts, how many there are: each part of its rows reads the same
            part of the channels, and only those are stored.
    """

    item: Item
    role: str
    rows: int | None
    columns: tuple[int, ...] = ()
    gates: int = 1
    positions: int = 1
    is_turned: bool = False
    parts: int = 1


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
        is_labelled = weight.is_turned or self.rows is None
        inner = weight.item.shape[1:] if is_labelled else weight.item.shape
        return self.kind, inner, self.rows, self.columns
