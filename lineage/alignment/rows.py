"""Puts what has a row for each unit, expert or head of a block in another model's order of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lineage.artifacts.dialects import layered
from lineage.fingerprints.fused import FUSED, Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineage.alignment.base import Alignment, BlockMatch
    from lineage.fingerprints.stream import Stream

    Array = NDArray[np.floating]

__all__ = ["BY_HEAD", "IN_HEADS", "Rows"]

_ROUTER, _OF_UNITS = "ffn_gate_inp", frozenset({"ffn_gate", "ffn_up", "ffn_down"})
"""What has a row for each expert, and what has one for each unit."""

_HEADS = {"attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_output": "o"}

IN_HEADS = {"attn_q_norm": "q", "attn_k_norm": "k"}
"""Norms inside attention, and what they are of."""

BY_HEAD = frozenset({"relative_attention_bias", "sinks"})
"""What has a number for each head, in the order of queries."""


class Rows:
    """The order of rows in the blocks of b that were found to be some of a's."""

    def __init__(self, b: Stream, found: Alignment) -> None:
        self.b = b
        self.blocks = {block.b: block for block in found.blocks}

    def block(self, stem: str) -> BlockMatch | None:
        """Return what is known of the block in which something with this role is."""
        one = layered(stem)
        return None if one is None else self.blocks.get((one.stack, one.number))

    def ordered(self, stem: str, rows: Array) -> Array:
        """Put the rows of a block's matrix in a's order: units, or heads."""
        match = self.block(stem)
        if match is None or match.a is None:
            return rows
        last = stem.rsplit(".", 1)[-1]
        if last == FUSED:
            return self._fused(match, rows)
        if last.startswith("attn"):
            return self._heads(match, last, rows)
        if last == _ROUTER:
            order = self._experts(*match.b)
            return rows[[int(b) for _, b in order]] if len(order) == len(rows) else rows
        if last not in _OF_UNITS:
            return rows
        label = stem.rsplit(".", 2)[-2] if ".expert." in stem else ""
        for mlp in match.mlps:
            if mlp.b == label and not mlp.units.is_same and len(mlp.units.b) == len(rows):
                moved = rows[mlp.units.b]
                scales = mlp.units.scales
                if scales is not None and last != "ffn_gate":
                    by = scales if last == "ffn_up" else 1 / scales
                    moved = moved * by.astype(moved.dtype)[:, None]
                return moved
        return rows

    def source(self, stem: str) -> str:
        """Return the role of what is written where b has this one: that of another expert's."""
        one = layered(stem)
        if one is None or ".expert." not in stem:
            return stem
        label = one.role.split(".")[1]
        order = self._experts(one.stack, one.number)
        came = next((b for a, b in order if a == label), label)
        return f"{one.stack}.{one.number}.expert.{came}.{one.role.rpartition('.')[2]}"

    def _experts(self, stack: str, number: int) -> list[tuple[str, str]]:
        """Return a's experts and b's that they are, where these are as many; nothing otherwise."""
        match = self.blocks.get((stack, number))
        if match is None or match.a is None:
            return []
        pairs = [(mlp.a, mlp.b) for mlp in match.mlps if mlp.a.isdigit() and mlp.b.isdigit()]
        both = [sorted(labels) for labels in zip(*pairs, strict=True)]
        is_order = bool(both) and both[0] == both[1] and len(set(both[0])) == len(pairs)
        return sorted(pairs, key=lambda one: int(one[0])) if is_order else []

    def by_head(self, stem: str, leaf: str) -> Array | None:
        """What has a number for each head: along its last axis these go in the order of heads."""
        match = self.block(stem)
        if match is None or match.heads is None or match.heads.outer is None:
            return None
        stored = self.b.arrays.whole(self.b.places[f"{stem}.{leaf}"].item)
        size, rest = divmod(self._rows_of_heads(match, "q"), stored.shape[-1])
        rows = np.repeat(np.arange(stored.shape[-1]), size)
        if rest or len(rows) % len(match.heads.outer):
            return None
        order = rows.reshape(len(match.heads.outer), -1)[match.heads.outer].reshape(-1, size)
        return stored[..., order[:, 0]] if (order == order[:, :1]).all() else None

    def in_heads(self, stem: str, leaf: str) -> Array | None:
        """A norm over all queries or keys: in the order of heads."""
        match = self.block(stem)
        place = self.b.places.get(f"{stem}.{leaf}")
        if match is None or match.a is None or match.heads is None or place is None:
            return None
        role = IN_HEADS[stem.rsplit(".", 1)[-1]]
        if place.size != self._rows_of_heads(match, role):
            return None
        rows = self.b.arrays.part(place).astype(np.float64)[:, None]
        moved: Array = np.abs(match.heads.applied(role, rows))[:, 0]
        return moved if leaf == "weight" and np.all(rows >= 0) else None

    def _heads(self, match: BlockMatch, last: str, rows: Array) -> Array:
        found = match.heads
        if found is None:
            return rows
        return found.applied(_HEADS[last], rows)

    def _fused(self, match: BlockMatch, rows: Array) -> Array:
        """Put the rows of queries, keys and values in a's order where one matrix holds all."""
        found = match.heads
        if found is None or found.inner is None:
            return rows
        if found.way is None or found.size is None:
            return rows
        queries = self._rows_of_heads(match, "q")
        parts = Layout(found.way, found.size).rows(queries, (len(rows) - queries) // 2)
        moved = rows.copy()
        for at, role in zip(parts, "qkv", strict=True):
            moved[at] = found.applied(role, rows[at])
        return moved

    def _rows_of_heads(self, match: BlockMatch, role: str) -> int:
        """Return how many rows a block's queries, or its keys, have: what heads write says it."""
        found = match.heads
        count = self.b.places[f"{self.b.output(*match.b)}.weight"].size // self.b.width
        if role == "q" or found is None or found.inner is None or found.outer is None:
            return count
        return count * len(found.inner) // len(found.outer)
