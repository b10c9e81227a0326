"""Networks without a stream as data: which tensor's rows and columns are which layer's channels.

Convolutions, recurrent layers and linear ones feed each other in a chain. What a layer writes is a
group of channels; the rows of its tensors are in the group's order, and so are the columns of
whatever reads it. Residual additions put several layers' rows into one group.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

from lineage.alignment.base import EPSILON
from lineage.alignment.layers import Layer, Part
from lineage.alignment.wiring import wired
from lineage.errors import ArchitectureError
from lineage.fingerprints.arrays import Arrays

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lineage.artifacts import Item

__all__ = ["Chain", "Layer", "Part"]

_LEAST_LINEAR = 2
"""Layers of a network that has no others than linear ones, each as wide as the next one reads."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A network whose layers feed each other.

    Attributes:
        layers: In the order in which they are computed.
        sizes: Of the groups of channels.
        recurrent: Groups whose channels cannot be rescaled: they go through tanh.
        is_last: Whether channels were last when something was flattened for a linear layer.
        is_open: Whether anything was, so that names and shapes do not say that.
        tokens: The strings of its tokens, by their numbers.
        norms: Vectors of channels that are no layer's: norms in front of layers, and the like. What
            they are of are their columns.
        epsilon: What norms add to a variance.
        joined: Groups of several blocks that are read together; in which order, names do not say.
    """

    layers: tuple[Layer, ...]
    sizes: tuple[int, ...]
    recurrent: frozenset[int]
    arrays: Arrays = field(repr=False)
    is_last: bool = False
    is_open: bool = False
    tokens: tuple[str, ...] | None = None
    norms: tuple[Layer, ...] = ()
    epsilon: float = EPSILON
    joined: frozenset[tuple[int, ...]] = frozenset()

    @classmethod
    def of(
        cls, items: Iterable[Item], *, name: str, tokens: tuple[str, ...] | None = None
    ) -> Chain:
        """Read the architecture off a model's tensors.

        Args:
            items: Its tensors.
            name: What errors call it.
            tokens: The strings of its tokens, by their numbers.

        Raises:
            ArchitectureError: If names and shapes do not tell what feeds what.
        """
        found = list(items)
        wiring = wired(found, name)
        layers = tuple(wiring.layers)
        is_open = any(p.positions > 1 for layer in layers for p in layer.parts.values())
        is_plain = all(layer.kind == "linear" for layer in layers)
        if is_plain and (len(layers) < _LEAST_LINEAR or is_open):
            raise ArchitectureError(
                "has no convolutions, no recurrent layers and no linear layers one after another"
                " by known names",
                name,
            )
        if all(layer.kind in {"linear", "embedding"} for layer in layers) and not is_plain:
            raise ArchitectureError("has nothing but embeddings and linear layers", name)
        return cls(
            layers,
            tuple(wiring.sizes),
            frozenset(wiring.recurrent),
            Arrays(found),
            is_open=is_open,
            tokens=tokens,
            norms=tuple(wiring.norms),
            joined=frozenset(wiring.joined),
        )

    @property
    def normed(self) -> frozenset[int]:
        """Groups that vectors apart are of: what multiplies their channels is not told."""
        return frozenset(group for layer in self.norms for group in layer.columns)

    @property
    def words(self) -> int:
        """How many tokens have an embedding."""
        first = self.layers[0]
        return first.labels if first.kind == "embedding" else 0

    def laid(self, *, last: bool, swapped: bool = False) -> Chain:
        """Return the same, laid out as names and shapes do not say.

        Args:
            last: Whether channels are last where they are flattened.
            swapped: Whether what earlier blocks wrote is read behind what later ones did.
        """
        found = replace(self, is_last=last)
        if not swapped:
            return found
        layers, norms = (tuple(map(self._turned, one)) for one in (self.layers, self.norms))
        joined = frozenset(groups[::-1] for groups in self.joined)
        return replace(found, layers=layers, norms=norms, joined=joined)

    def _turned(self, layer: Layer) -> Layer:
        """Return a layer that reads what is joined in the opposite order."""
        if layer.columns not in self.joined:
            return layer
        columns = layer.columns[::-1]
        parts = {
            role: replace(part, columns=columns) if part.columns == layer.columns else part
            for role, part in layer.parts.items()
        }
        return replace(layer, columns=columns, parts=parts)

    def adding(self, epsilon: float) -> Chain:
        """Return the same, with another number that norms add to a variance."""
        return replace(self, epsilon=epsilon)

    def with_items(self, items: Mapping[str, Item]) -> Chain:
        """Return the same with other tensors under some names."""
        layers = tuple(
            replace(
                layer,
                parts={
                    role: replace(part, item=items.get(part.item.name, part.item))
                    for role, part in layer.parts.items()
                },
            )
            for layer in self.layers
        )
        return replace(self, layers=layers, arrays=Arrays({**self.arrays.items, **items}.values()))

    def values(self, group: int) -> int:
        """Return how many values the matrices have that write a group."""
        return sum(
            prod(part.shape)
            for layer in self.layers
            for part in layer.parts.values()
            if layer.rows == group and part.role in {"weight", "recurrent"}
        )

    def writers(self, group: int) -> list[Layer]:
        """Return the layers whose rows are a group."""
        return [layer for layer in self.layers if layer.rows == group]

    def readers(self, group: int) -> list[Layer]:
        """Return the layers of whose columns some are a group."""
        return [layer for layer in self.layers if group in layer.columns]

    def label(self, group: int) -> str:
        """Return the name of the first layer that writes a group."""
        return self.writers(group)[0].name
