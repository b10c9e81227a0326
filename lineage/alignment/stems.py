"""Puts tensors together that belong to one layer or norm, told from their names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lineage.alignment.layers import Leaf
from lineage.errors import ArchitectureError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lineage.alignment.ordering import Leaves
    from lineage.artifacts import Item

__all__ = ["stems_of"]

_RECURRENT = re.compile(r"(weight|bias)_(ih|hh)(_l\d+)?(_reverse)?")

_NOT_A_CHAIN = re.compile(r"attn|attention(?!\.\d+\.)|\b[qkv]_proj|query|lora_", re.IGNORECASE)
_ASIDE = re.compile(r"(^|\.)aux\w*\.")
"""Heads that are there for training alone."""


def stems_of(items: Sequence[Item], name: str) -> dict[str, Leaves]:
    """Put tensors together that belong to one layer or norm.

    Args:
        items: All of a network's tensors.
        name: What errors call it.

    Raises:
        ArchitectureError: If it has attention or adapters.
    """
    found: dict[str, Leaves] = {}
    for item in items:
        if not item.shape or not item.dtype.startswith(("F", "BF", "Q", "I8")):
            continue
        if _ASIDE.search(item.name):
            continue
        if _NOT_A_CHAIN.search(item.name):
            raise ArchitectureError(f"has attention or adapters ({item.name})", name)
        stem, _, leaf = item.name.rpartition(".")
        recurrent = _RECURRENT.fullmatch(leaf)
        if recurrent is not None:
            number, way = recurrent[3] or "", recurrent[4] or ""
            stem, leaf = f"{stem}{number}{way}", f"{recurrent[1]}_{recurrent[2]}"
        found.setdefault(stem, {})[leaf] = Leaf(item)
    return {one: leaves for stem, old in found.items() for one, leaves in _unpacked(stem, old)}


def _unpacked(stem: str, leaves: Leaves) -> Iterator[tuple[str, Leaves]]:
    """Yield the layers of a stem: of ONNX's W, R and B those of both directions, apart.

    W has the shape (directions, gates x units, inputs), R (directions, gates x units, units), B
    (directions, 2 x gates x units): first the biases of what is read, then those of the units.
    """
    names = set(leaves)
    shapes = [leaves[name].shape for name in ("W", "R") if name in leaves]
    is_packed = {"W", "R"} <= names <= {"W", "R", "B"} and all(len(one) == 3 for one in shapes)
    if not is_packed or shapes[0][:2] != shapes[1][:2] or shapes[0][0] not in (1, 2):
        yield stem, leaves
        return
    ways, rows = shapes[0][:2]
    both = leaves.get("B")
    if both is not None and both.shape != (ways, 2 * rows):
        yield stem, leaves
        return
    for way in range(ways):
        found = {"weight_ih": Leaf(leaves["W"].item, (way,))}
        found["weight_hh"] = Leaf(leaves["R"].item, (way,))
        if both is not None:
            found["bias_ih"] = Leaf(both.item, (way, slice(0, rows)))
            found["bias_hh"] = Leaf(both.item, (way, slice(rows, 2 * rows)))
        yield f"{stem}_reverse" if way else stem, found
