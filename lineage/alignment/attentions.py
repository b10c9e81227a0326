"""Which heads are which, in all blocks of two models that are known to be one another's."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, lru_cache, partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment.fused import along, fitting
from lineage.alignment.head_rows import look
from lineage.alignment.heads import head_size, heads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from lineage.alignment.base import BlockMatch, Where
    from lineage.alignment.head_rows import Heads, Look
    from lineage.alignment.turning import Turn
    from lineage.fingerprints.fused import Layout
    from lineage.fingerprints.stream import Attention, Stream

    Pair = tuple[NDArray[np.floating], NDArray[np.floating]]

_SIZED = 4
"""Blocks that are looked at to see how many rows a head has, at most."""

_GLANCES = 2
"""Blocks by which it is found how queries, keys and values lie in one matrix, at most."""

_EXACT = 0.999
"""Likeness of heads from which no other cut of their matrix is tried."""

_SEED = 0


class Attentions:
    """Looks at attentions of pairs of blocks; what was looked at last is kept."""

    def __init__(self, a: Stream, b: Stream, turn: Turn, scale: float) -> None:
        """Take what is known of the streams.

        Args:
            a: One model.
            b: The other.
            turn: From b's stream to a's.
            scale: What b's stream is multiplied by.
        """
        self.a, self.b, self.turn, self.scale = a, b, turn, scale
        self._attention = lru_cache(maxsize=1)(self._attentions)
        self._looks = lru_cache(maxsize=_SIZED)(self._looked)

    def with_heads(self, matches: Sequence[BlockMatch]) -> tuple[BlockMatch, ...]:
        """Find which heads are which in all blocks that are known."""
        layout = self._layout(matches)

        @cache  # not asked for, unless heads are not where they were
        def size() -> int | None:
            if layout is not None:
                return layout.size
            return head_size(islice(self._open_heads(matches), _SIZED))

        found = (m.a and self._heads(m.a, m.b, layout, size) for m in matches)
        return tuple(
            replace(m, heads=_laid(one, layout if self.b.fused(*m.b) else None))
            for m, one in zip(matches, found, strict=True)
        )

    def _layout(self, matches: Sequence[BlockMatch]) -> Layout | None:
        """Find how queries, keys and values lie in one matrix; None where each has its own."""
        pairs: list[Pair] = []
        outputs: list[Pair] = []
        looked: list[tuple[Where, Where]] = []
        for match in matches:
            ours = None if match.a is None else self.a.fused(*match.a)
            theirs = self.b.fused(*match.b)
            if match.a is None or ours is None or theirs is None or len(pairs) == _GLANCES:
                continue
            read = self._both(ours, theirs)
            write = self._both(self.a.output(*match.a), self.b.output(*match.b))
            if read[0].shape == read[1].shape and write[0].shape == write[1].shape:
                pairs.append(read)
                outputs.append(write)
                looked.append((match.a, match.b))
        best: tuple[float, Layout | None] = -1.0, None
        for layout in fitting(pairs, outputs):
            seen = self._looks(*looked[0], layout)
            if seen is not None:
                found = self._heads(*looked[0], layout, partial(int, layout.size))
                best = max(best, (seen.likeness(found), layout), key=lambda one: one[0])
            if best[0] > _EXACT:
                break
        return best[1]

    def _both(self, ours: str, theirs: str) -> Pair:
        """Return a matrix of both, in a's coordinates."""
        return along(self.a.folded(ours), self.b.folded(theirs), self.turn)

    def _open_heads(self, matches: Sequence[BlockMatch]) -> Iterator[Look]:
        """Yield looks at blocks whose heads may have been turned."""
        for match in matches:
            seen = None if match.a is None else self._looks(match.a, match.b, None)
            if seen is not None and seen.is_open:
                yield seen

    def _heads(
        self, a: Where, b: Where, layout: Layout | None, size: Callable[[], int | None]
    ) -> Heads | None:
        seen = self._looks(a, b, layout)
        if seen is None:
            return None
        return heads(seen, partial(self._looked, a, b, layout, is_whole=True), size)

    def _attentions(
        self, a: Where, b: Where, layout: Layout | None
    ) -> tuple[Attention | None, Attention | None]:
        return self.a.attention(*a, layout), self.b.attention(*b, layout)

    def _looked(
        self, a: Where, b: Where, layout: Layout | None, *, is_whole: bool = False
    ) -> Look | None:
        """Look at the attention of two blocks; None where its parts are not known."""
        ours, theirs = self._attention(a, b, layout)
        if ours is None or theirs is None:
            return None
        rng = None if is_whole else np.random.default_rng(_SEED)
        return look(ours, theirs, self.turn, self.scale, rng)


def _laid(found: Heads | None, layout: Layout | None) -> Heads | None:
    """Say of heads how one matrix holds them, if it does."""
    if found is None or layout is None:
        return found
    return replace(found, size=layout.size, way=layout.way)
