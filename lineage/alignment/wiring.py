"""Which layer feeds which, told from names and shapes; where they do not say, this refuses."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING

from lineage.alignment.layers import Layer, Part
from lineage.alignment.ordering import (
    SHORTCUT,
    block_of,
    is_head,
    kind_of,
    ordered,
    siblings,
    with_gates,
)
from lineage.alignment.stems import stems_of
from lineage.alignment.vectors import placed
from lineage.errors import ArchitectureError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lineage.alignment.ordering import Leaves
    from lineage.artifacts import Item

__all__ = ["Wiring", "wired"]


_FLAT = 2
"""Axes of a linear layer's weight."""

_UP = re.compile(r"(^|[._])(up|trans|deconv)", re.IGNORECASE)
_BRANCH = re.compile(r"branch(\d+)")


def wired(items: Sequence[Item], name: str) -> Wiring:
    """Follow a network's layers from its inputs on.

    Args:
        items: Its tensors.
        name: What errors call it.

    Raises:
        ArchitectureError: If names and shapes do not tell what feeds what.
    """
    stems = stems_of(items, name)
    wiring = Wiring(name, ordered(stems, name))
    wiring.follow()
    wiring.layers, wiring.norms = placed(wiring.layers, wiring.sizes, stems, name)
    return wiring


class Wiring:
    """Follows the chain from its inputs and numbers the groups.

    Attributes:
        pending: The layers that are to be wired, in the order in which they are computed.
        layers: Those that are.
        sizes: Of the groups of channels.
        recurrent: Groups that go through tanh.
        at: Groups that the next layer reads.
        past: Groups that blocks before it read.
        joined: Of these, what an earlier block wrote besides the one in front.
        norms: Vectors of channels that no layer in front of them wrote alone.
    """

    def __init__(self, name: str, pending: Sequence[tuple[str, Leaves]]) -> None:
        self.name = name
        self.pending = pending
        self.layers: list[Layer] = []
        self.sizes: list[int] = []
        self.recurrent: set[int] = set()
        self.at: tuple[int, ...] = ()
        self.past: list[tuple[int, ...]] = []
        self.joined: set[tuple[int, ...]] = set()
        self.norms: list[Layer] = []

    def group(self, size: int) -> int:
        """Number a new group of channels."""
        self.sizes.append(size)
        return len(self.sizes) - 1

    def follow(self) -> None:
        """Wire the layers, one after the other."""
        blocks = _blocks(
            [stem for stem, leaves in self.pending if kind_of(stem, leaves) == "convolution"]
        )
        branches = _branches([stem for stem, _ in self.pending])
        done: set[str] = set()
        for stem, leaves in self.pending:
            if stem in done:
                continue
            kind = kind_of(stem, leaves)
            self._enter(stem, leaves)
            if kind == "recurrent":
                self._recurrent(stem, leaves, done)
            elif kind == "embedding":
                rows = self.group(leaves["weight"].shape[1])
                self._layer(stem, kind, leaves, rows, ())
                self.at = (rows,)
            elif stem in blocks:
                self._block(blocks[stem], done)
            elif stem in branches:
                self._branched(branches[stem], done)
            else:
                self._plain(stem, kind, leaves, is_last=self._is_last(stem))

    def _is_last(self, stem: str) -> bool:
        last, leaves = self.pending[-1]
        kind = kind_of(stem, leaves)
        return stem == last and "weight" in leaves and is_head(stem, kind, leaves["weight"].shape)

    def _enter(self, stem: str, leaves: Leaves) -> None:
        """Remember what every block reads; put what an earlier one read in front, where it is read.

        A layer that reads more channels than the one in front of it writes reads those of an
        earlier one besides, as in DenseNet and U-Net: of as many as are missing the latest.
        """
        shape = leaves["weight"].shape if "weight" in leaves else ()
        is_read = len(shape) > 1 and self.at and not self._is_turned(stem, shape)
        missing = shape[1] - self._width(self.at) if is_read else 0
        among = self.past[::-1]
        if len(shape) == _FLAT:  # of a map, unless what the last block read was put together, too
            among = [one for one in among[:1] if len(one) > 1]
        earlier = next((one for one in among if self._width(one) == missing), ())
        if missing > 0 and earlier:
            self.at = (*earlier, *self.at)
            self.joined.add(self.at)
        if self.at and (not self.layers or block_of(stem) != block_of(self.layers[-1].name)):
            self.past.append(self.at)

    def _is_turned(self, stem: str, shape: tuple[int, ...]) -> bool:
        """Whether a convolution is transposed, by which maps are made larger again."""
        if len(shape) <= _FLAT or shape[0] != self._width(self.at) or not _UP.search(stem):
            return False
        return shape[-1] % 2 == 0  # others have filters around a middle

    def _branched(self, branches: Sequence[Sequence[str]], done: set[str]) -> None:
        """Wire branches that read the same and whose channels are put one after another."""
        leaves = dict(self.pending)
        before = self.at
        after: list[int] = []
        for branch in branches:
            self.at = before
            for stem in branch:
                self._plain(stem, kind_of(stem, leaves[stem]), leaves[stem], is_last=False)
            after += self.at
            done.update(branch)
        self.at = tuple(after)

    def _plain(
        self, stem: str, kind: str, leaves: Leaves, *, is_last: bool, rows: int = -1
    ) -> None:
        shape = leaves["weight"].shape
        if self._is_turned(stem, shape):
            rows = self.group(shape[1])
            self._layer(stem, kind, leaves, rows, self.at, turned=True)
            self.at = (rows,)
            return
        if self._is_depthwise(shape):
            self._layer(stem, kind, leaves, self.at[0], ())
            return
        beside = self._beside(stem, shape)
        after, self.at = self.at, self.at if beside is None else beside
        self._fits(stem, kind, shape)
        out = None if is_last else (rows if rows >= 0 else self.group(shape[0]))
        if is_last and self._is_tied(shape):
            out = self.layers[0].rows
        self._layer(stem, kind, leaves, out, self.at)
        self.at = () if out is None else (out,) if beside is None else (*after, out)

    def _beside(self, stem: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return what a layer reads that differs from the one in front in its filters' size alone.

        None if there is no such layer, or it feeds this one.
        """
        last = self.layers[-1] if self.layers else None
        if last is None or not siblings(last.name, stem) or self._width(last.columns) != shape[1]:
            return None
        if shape[1] == self._width(self.at) and not self._reads_next(stem, shape):
            return None
        return last.columns

    def _reads_next(self, stem: str, shape: tuple[int, ...]) -> bool:
        """Whether the next layer that is no sibling reads all that siblings write together."""
        stems = [one for one, _ in self.pending]
        behind = self.pending[stems.index(stem) + 1 :]
        together = self._width(self.at) + shape[0]
        for one, leaves in behind:
            if not siblings(stem, one):
                return "weight" in leaves and leaves["weight"].shape[1] == together
            together += leaves["weight"].shape[0]
        return False

    def _is_tied(self, shape: tuple[int, ...]) -> bool:
        """Whether a last layer writes what the embedding reads again."""
        first = self.layers[0] if self.layers else None
        if first is None or first.kind != "embedding" or first.rows is None:
            return False
        return self.sizes[first.rows] == shape[0]

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
        shapes = {stem: leaves[stem]["weight"].shape for stem in block}
        main = with_gates([stem for stem in block if not SHORTCUT.fullmatch(stem)], shapes)
        around = [stem for stem in block if SHORTCUT.fullmatch(stem)]
        for stem in main:
            size = leaves[stem]["weight"].shape[0]
            is_added = stem == main[-1] and not around and self._width(before) == size
            rows = before[0] if is_added else -1
            kind = kind_of(stem, leaves[stem])
            self._plain(stem, kind, leaves[stem], is_last=False, rows=rows)
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

    def _recurrent(self, stem: str, leaves: Leaves, done: set[str]) -> None:
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
        self,
        stem: str,
        kind: str,
        leaves: Leaves,
        rows: int | None,
        columns: tuple[int, ...],
        *,
        turned: bool = False,
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
                many = self._parts(kind, item.shape) if columns and not turned else 1
                is_turned = turned or kind == "embedding"
                part = Part(item.item, role, rows, columns, gates, positions, is_turned, many)
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
        if (found := SHORTCUT.fullmatch(stem)) is not None and found[1]
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


def _branches(stems: Sequence[str]) -> dict[str, list[list[str]]]:
    """Return for each layer of a block of numbered branches all of these, in order."""
    found: dict[str, list[list[str]]] = {}
    named = [stem for stem in stems if _BRANCH.search(stem)]
    for _, run in groupby(named, lambda stem: stem[: _BRANCH.search(stem).start()]):  # type: ignore[union-attr]
        branches = [list(one) for _, one in groupby(run, _number)]
        if [_number(one[0]) for one in branches] == list(range(1, len(branches) + 1)):
            found |= {stem: branches for one in branches for stem in one}
    return found


def _number(stem: str) -> int:
    seen = _BRANCH.search(stem)
    return 0 if seen is None else int(seen[1])
