"""Puts norms and other vectors to the channels that they are of, told from names and sizes.

A norm is behind the layer that writes its channels, and becomes a part of it; or it is in front of
one that reads what several layers wrote, together or added, and is kept apart.
"""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from lineage.alignment.layers import Layer, Part
from lineage.alignment.ordering import block_of
from lineage.errors import ArchitectureError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lineage.alignment.ordering import Leaves

__all__ = ["placed"]

_LEAVES = {"weight": "gain", "bias": "shift", "running_mean": "mean", "running_var": "var"}

_NAMES = (
    (re.compile(r"normalization$"), "convolution"),
    (re.compile(r"_(BN|bn|norm)$"), ""),
    (re.compile(r"(bn|norm|batch_?norm)(\d*)$"), r"conv\2"),
    (re.compile(r"(bn|norm|batch_?norm)$"), "0"),
)
"""How a norm's name becomes that of the layer that it is called after."""

_SCALE = re.compile(r"gamma|(layer_?)?scale\w*|lambda\w*", re.IGNORECASE)


def placed(
    layers: Sequence[Layer], sizes: Sequence[int], stems: Mapping[str, Leaves], name: str
) -> tuple[list[Layer], list[Layer]]:
    """Return a network's layers with the norms behind them, and all other vectors.

    Args:
        layers: Without norms, in the order in which they are computed.
        sizes: Of the groups of channels.
        stems: What a layer or norm is called -> its tensors.
        name: What errors call the network.

    Raises:
        ArchitectureError: If it is not known of which channels one is.
    """
    placer = _Placer(layers, sizes, name)
    loose = {stem: leaves for stem, leaves in stems.items() if stem not in placer.by_name}
    in_front = placer.in_front(loose)
    for stem, leaves in loose.items():
        placer.put(stem, leaves, is_in_front=_kind_of_place(stem) in in_front)
    return placer.layers, placer.apart


def _kind_of_place(stem: str) -> str:
    """Return a norm's name without numbers: all norms of that are put alike."""
    return re.sub(r"\d+", "#", stem)


class _Placer:
    def __init__(self, layers: Sequence[Layer], sizes: Sequence[int], name: str) -> None:
        self.layers, self.sizes, self.name = list(layers), sizes, name
        self.apart: list[Layer] = []
        self.by_name = {layer.name: i for i, layer in enumerate(layers)}

    def in_front(self, loose: Mapping[str, Leaves]) -> set[str]:
        """Return names, without numbers, of norms of which one is too wide for its layer's rows.

        As of these all are in front of their layers, as in DenseNet, also where either would fit.
        """
        found = set()
        for stem, leaves in loose.items():
            size, place = _size(leaves), self._named(stem)
            if place is not None and self._rows(place) != size == self._columns(place):
                found.add(_kind_of_place(stem))
        return found

    def put(self, stem: str, leaves: Leaves, *, is_in_front: bool) -> None:
        """Put a norm, or a loose vector, where it belongs."""
        size = _size(leaves)
        place = None if is_in_front else self._behind(stem, size)
        if place is None:
            groups = self._scaled(stem, leaves, size) or self._read(stem, size)
            place = self._only_writer(groups) if "running_var" in leaves else None
            if place is None:
                self.apart.append(
                    Layer(stem, "norm", None, groups, self._parts(leaves, size, groups))
                )
                return
        layer = self.layers[place]
        parts = self._parts(leaves, size, (), layer.rows, taken=layer.parts)
        self.layers[place] = replace(layer, parts={**layer.parts, **parts})

    def _parts(
        self,
        leaves: Leaves,
        size: int,
        groups: tuple[int, ...],
        rows: int | None = None,
        taken: Iterable[str] = (),
    ) -> dict[str, Part]:
        parts: dict[str, Part] = {}
        for leaf, item in leaves.items():
            role = _LEAVES.get(leaf)
            if role is None and not parts and len(leaves) == 1 and _SCALE.fullmatch(leaf):
                role = "gain"
            is_vector = prod(item.shape) == max(item.shape) == size
            if role is None or not is_vector or role in parts or role in taken:
                raise ArchitectureError(f"has a tensor of unknown use ({item.name})", self.name)
            parts[role] = Part(item.item, role, rows, groups, within=item.within)
        return parts

    def _behind(self, stem: str, size: int) -> int | None:
        """Return the layer whose rows a norm goes by, as it is called after it or follows it."""
        for pattern, put in _NAMES:
            name = pattern.sub(put, stem)
            inside = [i for one, i in self.by_name.items() if one.startswith(f"{name}.")]
            place = self.by_name.get(name, inside[-1] if inside and name != stem else None)
            if place is not None and self._rows(place) == size:
                return place
        return self._counted(stem, size)

    def _counted(self, stem: str, size: int) -> int | None:
        """Return the layer that a norm follows by its number in a sequence, or in its block."""
        parent, _, last = stem.rpartition(".")
        beside = [i for i, one in enumerate(self.layers) if one.name.rpartition(".")[0] == parent]
        numbered = re.fullmatch(r"(?:bn|norm)([1-9]\d*)", last)
        places: list[int] = []
        if last.isdigit():
            earlier = [pair for pair in self._numbered(parent) if pair[0] < int(last)]
            places = [max(earlier)[1]] if earlier else []
        elif numbered is not None:
            places = beside[int(numbered[1]) - 1 :][:1]
        elif parent and len(beside) == 1:
            places = beside
        return places[0] if places and self._rows(places[0]) == size else None

    def _named(self, stem: str) -> int | None:
        names = (pattern.sub(put, stem) for pattern, put in _NAMES)
        return next((self.by_name[name] for name in names if name in self.by_name), None)

    def _numbered(self, parent: str) -> list[tuple[int, int]]:
        """Return the numbers that layers have in a sequence, and their places."""
        return [
            (int(name.rpartition(".")[2]), place)
            for name, place in self.by_name.items()
            if name.rpartition(".")[0] == parent and name.rpartition(".")[2].isdigit()
        ]

    def _read(self, stem: str, size: int) -> tuple[int, ...]:
        """Return the groups of a norm: what the layer reads that it is in front of.

        That is the one called like it, the next one of its block, or behind all blocks the last one
        of the network. In a block that reads nothing it is behind the last layer.
        """
        named = self._named(stem)
        if named is not None and self._columns(named) == size:
            return self.layers[named].columns
        parent, _, last = stem.rpartition(".")
        number = int(last) if last.isdigit() else -1
        before = {place for n, place in self._numbered(parent) if n < number}
        near = [
            i
            for name, i in self.by_name.items()
            if parent in (block_of(name), name.rpartition(".")[0])
        ]
        block = [i for i in near if i not in before]
        for place in (*block, len(self.layers) - 1):
            if self._columns(place) == size:
                return self.layers[place].columns
        rows = [self.layers[place].rows for place in block if self._rows(place) == size]
        if not rows or rows[-1] is None:
            raise ArchitectureError(f"has a norm of which no layer is known ({stem})", self.name)
        return (rows[-1],)

    def _scaled(self, stem: str, leaves: Leaves, size: int) -> tuple[int, ...]:
        """Return the group that a block's own scale multiplies: what its last layer writes."""
        if not all(_SCALE.fullmatch(leaf) for leaf in leaves):
            return ()
        rows = [self.layers[i].rows for name, i in self.by_name.items()
                if name.startswith(f"{stem}.") and self._rows(i) == size]  # fmt: skip
        return () if not rows or rows[-1] is None else (rows[-1],)

    def _only_writer(self, groups: tuple[int, ...]) -> int | None:
        """Return the layer without a norm that alone writes what but one layer reads."""
        writers = [i for i, layer in enumerate(self.layers) if layer.rows in groups]
        readers = [layer for layer in self.layers if set(groups) & set(layer.columns)]
        if len(groups) != 1 or len(writers) != 1 or len(readers) != 1:
            return None
        return None if "gain" in self.layers[writers[0]].parts else writers[0]

    def _rows(self, place: int) -> int:
        rows = self.layers[place].rows
        return -1 if rows is None else self.sizes[rows]

    def _columns(self, place: int) -> int:
        layer = self.layers[place]
        if layer.parts["weight"].positions > 1:
            return -1
        return sum(self.sizes[group] for group in layer.columns) or -1


def _size(leaves: Leaves) -> int:
    return prod(next(iter(leaves.values())).shape)
