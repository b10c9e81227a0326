"""Which layer feeds which, told from names and shapes; where they do not say, this refuses."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise, permutations
from math import prod
from typing import TYPE_CHECKING

from lineage.alignment.layers import Layer, Leaf, Part
from lineage.errors import ArchitectureError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lineage.artifacts import Item

__all__ = ["Wiring", "wired"]

_RECURRENT = re.compile(r"(weight|bias)_(ih|hh)(_l\d+)?(_reverse)?")

_NORM_LEAVES = {"weight": "gain", "bias": "shift", "running_mean": "mean", "running_var": "var"}

_EMBEDDING = re.compile(r"emb|wte|token|lookup", re.IGNORECASE)
_HEAD = re.compile(r"classifier|head|decoder|output|logits|lm_head", re.IGNORECASE)
_STEM = re.compile(r"^stem|embedder|conv_in|input", re.IGNORECASE)
_SHORTCUT = re.compile(r"(.*?)\.?(shortcut|downsample|skip|identity|proj_conv)\b.*")
_NOT_A_CHAIN = re.compile(r"attn|attention|\b[qkv]_proj|query|lora_", re.IGNORECASE)

_NORM_NAMES = (
    (re.compile(r"normalization$"), "convolution"),
    (re.compile(r"_(BN|bn|norm)$"), ""),
    (re.compile(r"(bn|norm|batch_?norm)(\d*)$"), r"conv\2"),
    (re.compile(r"(bn|norm|batch_?norm)$"), "0"),
)
"""How a norm's name becomes that of the layer in front of it."""

_MOST_LINEAR = 6
"""Linear layers whose order is looked for by their shapes, at most."""


def wired(items: Sequence[Item], name: str) -> Wiring:
    """Follow a network's layers from its inputs on.

    Args:
        items: Its tensors.
        name: What errors call it.

    Raises:
        ArchitectureError: If names and shapes do not tell what feeds what.
    """
    stems = _stems(items, name)
    wiring = Wiring(name, _ordered(stems, name))
    wiring.follow()
    wiring.put_norms(stems)
    return wiring


_Leaves = dict[str, Leaf]


def _stems(items: Sequence[Item], name: str) -> dict[str, _Leaves]:
    """Put tensors together that belong to one layer or norm."""
    found: dict[str, _Leaves] = {}
    for item in items:
        if not item.shape or not item.dtype.startswith(("F", "BF", "Q", "I8")):
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


def _unpacked(stem: str, leaves: _Leaves) -> Iterator[tuple[str, _Leaves]]:
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


def _kind(stem: str, leaves: _Leaves) -> str:
    if "weight_ih" in leaves and "weight_hh" in leaves:
        return "recurrent"
    weight = leaves.get("weight")
    if weight is None or len(weight.shape) < 2 or "running_mean" in leaves:
        return "norm"
    if len(weight.shape) > 2:
        return "convolution"
    last = stem.rsplit(".", 1)[-1]
    is_embedding = "bias" not in leaves and _EMBEDDING.search(last) and not _HEAD.search(last)
    return "embedding" if is_embedding else "linear"


_RANKS = {"embedding": 0, "convolution": 2, "recurrent": 3, "linear": 4}


def _natural(stem: str) -> tuple[object, ...]:
    return tuple(
        (0, int(one), "") if one.isdigit() else (1, 0, one) for one in re.split(r"(\d+)", stem)
    )


def _ordered(stems: Mapping[str, _Leaves], name: str) -> list[tuple[str, _Leaves]]:
    """Return the layers in the order in which they are computed."""
    ranked = []
    for stem, leaves in stems.items():
        kind = _kind(stem, leaves)
        if kind == "norm":
            continue
        rank = _RANKS[kind]
        if kind == "convolution" and _STEM.search(stem):
            rank = 1
        if kind == "linear" and _HEAD.search(stem):
            rank = 5
        ranked.append((rank, _natural(stem), stem))
    ranked.sort()
    front = [stem for rank, _, stem in ranked if rank < _RANKS["linear"]]
    back = [stem for rank, _, stem in ranked if rank >= _RANKS["linear"]]
    if 1 < len(back) <= _MOST_LINEAR:
        back = next((list(o) for o in permutations(back) if _follow(o, stems)), back)
    if not ranked:
        raise ArchitectureError("has no layers by known names", name)
    return [(stem, stems[stem]) for stem in (*front, *back)]


def _follow(order: Sequence[str], stems: Mapping[str, _Leaves]) -> bool:
    shapes = [stems[stem]["weight"].shape for stem in order]
    return all(x[0] == y[1] for x, y in pairwise(shapes))


class Wiring:
    """Follows the chain from its inputs and numbers the groups.

    Attributes:
        pending: The layers that are to be wired, in the order in which they are computed.
        layers: Those that are.
        sizes: Of the groups of channels.
        recurrent: Groups that go through tanh.
        at: Groups that the next layer reads.
    """

    def __init__(self, name: str, pending: Sequence[tuple[str, _Leaves]]) -> None:
        self.name = name
        self.pending = pending
        self.layers: list[Layer] = []
        self.sizes: list[int] = []
        self.recurrent: set[int] = set()
        self.at: tuple[int, ...] = ()

    def group(self, size: int) -> int:
        """Number a new group of channels."""
        self.sizes.append(size)
        return len(self.sizes) - 1

    def follow(self) -> None:
        """Wire the layers, one after the other."""
        blocks = _blocks(
            [stem for stem, leaves in self.pending if _kind(stem, leaves) == "convolution"]
        )
        done: set[str] = set()
        last = self.pending[-1][0]
        for stem, leaves in self.pending:
            if stem in done:
                continue
            kind = _kind(stem, leaves)
            if kind == "recurrent":
                self._recurrent(stem, leaves, done)
            elif kind == "embedding":
                rows = self.group(leaves["weight"].shape[1])
                self._layer(stem, kind, leaves, rows, ())
                self.at = (rows,)
            elif stem in blocks:
                self._block(blocks[stem], done)
            else:
                self._plain(stem, kind, leaves, is_last=stem == last and kind == "linear")

    def put_norms(self, stems: Mapping[str, _Leaves]) -> None:
        """Put norms and loose vectors to the layers in front of them."""
        by_name = {layer.name: i for i, layer in enumerate(self.layers)}
        for stem, leaves in stems.items():
            if stem in by_name:
                continue
            size = next(iter(leaves.values())).shape[0]
            place = self._in_front(stem, size, by_name)
            layer = self.layers[place]
            parts = dict(layer.parts)
            for leaf, item in leaves.items():
                role = _NORM_LEAVES.get(leaf)
                if role is None or item.shape != (size,) or role in parts:
                    raise ArchitectureError(f"has a tensor of unknown use ({item.name})", self.name)
                parts[role] = Part(item.item, role, layer.rows, within=item.within)
            self.layers[place] = replace(layer, parts=parts)

    def _in_front(self, stem: str, size: int, by_name: Mapping[str, int]) -> int:
        for pattern, put in _NORM_NAMES:
            place = by_name.get(pattern.sub(put, stem))
            if place is not None and self._rows_of(place) == size:
                return place
        parent, _, last = stem.rpartition(".")
        if last.isdigit():
            earlier = [
                (int(one.rpartition(".")[2]), place)
                for one, place in by_name.items()
                if one.rpartition(".")[0] == parent and one.rpartition(".")[2].isdigit()
            ]
            earlier = [pair for pair in earlier if pair[0] < int(last)]
            if earlier and self._rows_of(max(earlier)[1]) == size:
                return max(earlier)[1]
        raise ArchitectureError(f"has a norm of which no layer is known ({stem})", self.name)

    def _rows_of(self, place: int) -> int:
        rows = self.layers[place].rows
        return -1 if rows is None else self.sizes[rows]

    def _plain(
        self, stem: str, kind: str, leaves: _Leaves, *, is_last: bool, rows: int = -1
    ) -> None:
        shape = leaves["weight"].shape
        if self._is_depthwise(shape):
            self._layer(stem, kind, leaves, self.at[0], ())
            return
        self._fits(stem, kind, shape)
        out = None if is_last else (rows if rows >= 0 else self.group(shape[0]))
        if is_last and self._is_tied(shape):
            out = self.layers[0].rows
        self._layer(stem, kind, leaves, out, self.at)
        self.at = () if out is None else (out,)

    def _is_tied(self, shape: tuple[int, ...]) -> bool:
        """Whether a last layer writes what the embedding reads again."""
        first = self.layers[0] if self.layers else None
        return first is not None and first.kind == "embedding" and self._rows_of(0) == shape[0]

    def _is_depthwise(self, shape: tuple[int, ...]) -> bool:
        at = self.at
        return (
            len(shape) > 2 and shape[1] == 1 and len(at) == 1 and self.sizes[at[0]] == shape[0] > 1
        )

    def _parts(self, kind: str, shape: tuple[int, ...]) -> int:
        """Return of how many parts a convolution is, each with channels of its own.

        What it writes is as wide as what it reads, and it looks around, as in ResNeXt: of others it
        is as likely that they read something else.
        """
        at = self.at
        if kind != "convolution" or len(at) != 1 or prod(shape[2:]) == 1:
            return 1
        is_whole = shape[0] == self.sizes[at[0]] and shape[0] % shape[1] == 0
        return shape[0] // shape[1] if is_whole else 1

    def _fits(self, stem: str, kind: str, shape: tuple[int, ...]) -> int:
        """Return how many columns each channel has that a layer reads."""
        width = self._width(self.at)
        if not self.layers or shape[1] == width:
            return 1
        if kind == "linear" and width and shape[1] % width == 0 and len(self.at) == 1:
            return shape[1] // width
        if self._parts(kind, shape) > 1:
            return 1
        raise ArchitectureError(f"names and shapes do not tell what feeds {stem}", self.name)

    def _block(self, block: Sequence[str], done: set[str]) -> None:
        """Wire the convolutions of a block around which its input is added, or a shortcut of it."""
        leaves = dict(self.pending)
        before = self.at
        main = [stem for stem in block if not _SHORTCUT.fullmatch(stem)]
        around = [stem for stem in block if _SHORTCUT.fullmatch(stem)]
        for stem in main:
            size = leaves[stem]["weight"].shape[0]
            is_added = stem == main[-1] and not around and self._width(before) == size
            rows = before[0] if is_added else -1
            self._plain(stem, "convolution", leaves[stem], is_last=False, rows=rows)
        after = self.at
        for stem in around:
            self.at = before
            shape = leaves[stem]["weight"].shape
            if len(around) > 1 or self._width(after) != shape[0]:
                raise ArchitectureError(
                    f"names and shapes do not tell what feeds {stem}", self.name
                )
            self._plain(stem, "convolution", leaves[stem], is_last=False, rows=after[0])
        self.at = after
        done.update(block)

    def _width(self, groups: tuple[int, ...]) -> int:
        return sum(self.sizes[group] for group in groups)

    def _recurrent(self, stem: str, leaves: _Leaves, done: set[str]) -> None:
        both = dict(self.pending)
        before, after = self.at, []
        for one in (stem, f"{stem}_reverse"):
            if one not in both:
                continue
            leaves = both[one]
            rows, size = leaves["weight_hh"].shape
            if rows % size or leaves["weight_ih"].shape[0] != rows:
                raise ArchitectureError(f"has a recurrent layer of unknown make ({one})", self.name)
            self._fits(one, "recurrent", leaves["weight_ih"].shape)
            group = self.group(size)
            self.recurrent.add(group)
            self._layer(one, "recurrent", leaves, group, before)
            after.append(group)
            done.add(one)
        self.at = tuple(after)

    def _layer(
        self, stem: str, kind: str, leaves: _Leaves, rows: int | None, columns: tuple[int, ...]
    ) -> None:
        known = {"weight": "weight", "bias": "bias", "weight_ih": "weight", "bias_ih": "bias"}
        gates = 1
        if kind == "recurrent":
            gates = leaves["weight_hh"].shape[0] // leaves["weight_hh"].shape[1]
        parts: dict[str, Part] = {}
        for leaf, item in leaves.items():
            role = known.get(leaf)
            if role == "weight":
                positions = 1
                if kind == "linear" and columns:
                    positions = self._fits(stem, kind, item.shape)
                turned = kind == "embedding"
                many = self._parts(kind, item.shape) if columns else 1
                part = Part(item.item, role, rows, columns, gates, positions, turned, many)
            elif role == "bias":
                part = Part(item.item, role, rows, gates=gates)
            elif leaf == "weight_hh" and rows is not None:
                role = "recurrent"
                part = Part(item.item, role, rows, (rows,), gates)
            elif leaf == "bias_hh":
                role = leaf
                part = Part(item.item, "bias", rows, gates=gates)
            else:
                raise ArchitectureError(f"has a tensor of unknown use ({item.name})", self.name)
            parts[role] = replace(part, within=item.within)
        self.layers.append(Layer(stem, kind, rows, columns, parts))


def _blocks(stems: Sequence[str]) -> dict[str, list[str]]:
    """Return for each convolution in a residual block all of that block's.

    One block with a shortcut tells what blocks are called; those without are blocks as well.
    """
    patterns = {
        re.sub(r"\d+", r"\\d+", re.escape(found[1]))
        for stem in stems
        if (found := _SHORTCUT.fullmatch(stem)) is not None and found[1]
    }
    blocks: dict[str, list[str]] = {}
    by_prefix: dict[str, list[str]] = {}
    for stem in stems:
        for pattern in patterns:
            found = re.match(rf"({pattern})\.", stem)
            if found is not None:
                by_prefix.setdefault(found[1], []).append(stem)
                blocks[stem] = by_prefix[found[1]]
                break
    return blocks
