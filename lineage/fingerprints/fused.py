"""Where queries, keys and values lie in one matrix that holds all three.

The name says in which of two ways they may follow each other, and the matrix that heads write says
how many rows queries have. How many rows a head has neither says: `alignment.fused` finds that.

| last word of the name | as in | rows |
|---|---|---|
| `query_key_value` | GPT-NeoX, BLOOM, Falcon | of each group of heads: its queries, its key, its value |
| `query_key_value` | ChatGLM | all queries, all keys, all values |
| `wqkv` | InternLM2 | as the first |
| `qkv`, `qkv_proj`, `Wqkv`, `c_attn`, `W_pack`, ... | timm, Phi-3, MPT, GPT-2 | all queries, all keys, all values; `artifacts.dialects` parts them |
"""  # noqa: E501 - a table

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Rows = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]

__all__ = ["FUSED", "LARGEST", "WAYS", "Layout", "layouts"]

FUSED = "query_key_value"
"""The role of what holds all three, its rows not known from its name."""

WAYS = ("by head", "one after another")

LARGEST = 256
"""Rows that a head has at most."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One way in which rows may follow each other.

    Attributes:
        way: One of `WAYS`.
        size: Rows of a head.
    """

    way: str
    size: int

    def rows(self, queries: int, keys: int) -> Rows:
        """Return which rows are queries, which keys and which values, each in order of heads.

        Args:
            queries: Rows of all queries.
            keys: Rows of all keys, and of all values.

        Raises:
            ValueError: If they are no whole number of such heads.
        """
        if not keys or keys % self.size or queries % keys:
            raise ValueError("rows are no whole number of heads")
        groups = keys // self.size if self.way == WAYS[0] else 1
        every = np.arange(queries + 2 * keys).reshape(groups, -1)
        first, size = queries // groups, keys // groups
        q, k, v = every[:, :first], every[:, first : first + size], every[:, first + size :]
        return q.reshape(-1), k.reshape(-1), v.reshape(-1)


def layouts(queries: int, keys: int) -> Iterator[Layout]:
    """Yield what rows of these numbers may be, in the order in which they are believed."""
    if not keys or queries % keys:
        return
    sizes = [size for size in range(2, min(keys, LARGEST) + 1) if keys % size == 0]
    for way in WAYS:
        for size in sizes:
            if way == WAYS[0] or size < keys:  # one head of all keys is the same both ways
                yield Layout(way, size)
