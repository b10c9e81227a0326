"""Finds the alignment of two models: stream first, then blocks, units and heads."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment.attentions import Attentions
from lineage.alignment.base import Alignment, BlockMatch, MlpMatch
from lineage.alignment.between import order_of_tokens, turns_between
from lineage.alignment.neurons import LOOKED_AT, agreement, units, view
from lineage.fingerprints.agreement import Agreement
from lineage.fingerprints.stream import alike

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from lineage.alignment.base import Where
    from lineage.alignment.neurons import View
    from lineage.alignment.turning import Turn
    from lineage.fingerprints.stream import Block, Stream

_MOST_OF_A_BLOCK = 0.5
"""Share of a block's units from which no other block is looked at: it cannot have the same."""

DECIDED = 4
"""Blocks from which it is decided whether models are relatives, at most."""

_KEPT = 1 << 30
"""Bytes of what was looked at that are kept."""

_MOSTLY, _NOTHING = 0.5, 1e-8
"""Share of what is left that lies in its mean, from which that was changed; and of what is written,
squared, what must be left for anything to have been."""

_LEAST_SCALE, _SAME_SCALE = 0.02, 0.15
"""Logarithm of a stream's scale from which it is looked at, and the share of it by which that of
the labelled vectors may be off: noise and training make what is matched smaller."""

_GLANCES = 2
"""Blocks whose units are looked at to see whether means were shifted, at most."""

_SEED = 0


def solve(a: Stream, b: Stream) -> Alignment:
    """Find how b's coordinates become a's.

    Args:
        a: One model.
        b: The other.

    Raises:
        ArchitectureError: If they have no labelled vectors in common.
    """
    a, b = alike(a, b)
    return _Solver(a, b, *turns_between(a, b)).alignment()


def decide(a: Stream, b: Stream, *, most: int = DECIDED) -> Alignment:
    """Find whether b's blocks are a's, from a few of them and some units of each.

    Args:
        a: One model.
        b: The other.
        most: Blocks of b to look at, evenly spread.

    Returns:
        The blocks that were looked at, without their units and heads.

    Raises:
        ArchitectureError: If they have no labelled vectors in common.
    """
    a, b = alike(a, b)
    return _Solver(a, b, *turns_between(a, b)).decision(most)


class _Solver:
    """Looks at pairs of blocks; of a's what was looked at is kept, as far as memory allows."""

    def __init__(
        self,
        a: Stream,
        b: Stream,
        turn: Turn,
        looks: Sequence[Turn],
        directions: NDArray[np.float64],
    ) -> None:
        """Take what is known of the streams.

        Args:
            a: One model.
            b: The other.
            turn: From b's stream to a's.
            looks: The turns under which b's blocks are looked at, one after the other and again:
                each was fitted without the blocks that it is used for.
            directions: Of a's stream, to look along.
        """
        self.a, self.b, self.turn, self.quiet = a, b, turn, directions
        self.back = [one.undone(directions) for one in looks]
        self._block = lru_cache(maxsize=1)(a.block)
        self.tried = 0
        self._views: dict[Where, list[View]] = {}
        self._kept = 0

    def decision(self, most: int) -> Alignment:
        """Look at some units of some of b's blocks."""
        count = len(self.b.blocks)
        places = np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.intp))
        total = rarest = Agreement(0, 0, 0.0)
        blocks = []
        for place in places.tolist():
            where = self.b.blocks[place]
            found, best = self._partner(self._seen(place, self.b.block(*where)), place)
            total += best
            rarest = min(rarest, best, key=lambda one: one.log10_p)
            blocks.append(BlockMatch(where, found, (), None, self.b.size(*where)))
        return Alignment(self.turn, 1.0, tuple(blocks), total, rarest, self.tried)

    def alignment(self) -> Alignment:
        """Look at all blocks, and find which units and heads are which."""
        matches = []
        total = rarest = Agreement(0, 0, 0.0)
        for place, where in enumerate(self.b.blocks):
            block = self.b.block(*where)
            views = self._seen(place, block)
            found, best = self._partner(views, place)
            total += best
            rarest = min(rarest, best, key=lambda one: one.log10_p)
            matches.append(self._matched(block, views, found))
        del block
        self._block.cache_clear()
        scale = self._scale(matches)
        attentions = Attentions(self.a, self.b, self.turn, scale)
        blocks = attentions.with_heads([*matches, *self._seconds(matches)])
        order = order_of_tokens(self.a, self.b)
        is_shifted = self._is_shifted(matches, scale)
        return Alignment(self.turn, scale, blocks, total, rarest, self.tried, order, is_shifted)

    def _is_shifted(self, matches: Sequence[BlockMatch], scale: float) -> bool:
        """Whether what two models write differs in the mean of the stream's coordinates.

        That is one direction of many, and norms take it away; of what training changes it has no
        more than any other. Where the stream was rotated it says nothing.
        """
        if not self.b.hides_means or self.turn.order is None:
            return False
        whole = means = size = 0.0
        for match in matches[:_GLANCES]:
            for mlp in match.mlps if match.a is not None else ():
                ours = self.a.written(*match.a, mlp.a)[mlp.units.a] if match.a else None
                theirs = self.turn.apply(self.b.written(*match.b, mlp.b)[mlp.units.b]) * scale
                if mlp.units.scales is not None:
                    theirs = theirs / mlp.units.scales[:, None]
                if ours is None or ours.shape != theirs.shape:
                    continue
                left = ours - theirs
                whole += float(np.sum(left**2))
                means += float(np.sum(left.mean(axis=1) ** 2)) * left.shape[1]
                size += float(np.sum(ours.astype(np.float64) ** 2))
        return means > _MOSTLY * whole and whole > _NOTHING * size

    def _seen(self, place: int, block: Block) -> list[View]:
        """Look at some units of a block of b."""
        back = self.back[place % len(self.back)]
        return [view(mlp, back, LOOKED_AT) for mlp in block.mlps]

    def _seconds(self, matches: Sequence[BlockMatch]) -> Iterator[BlockMatch]:
        """Yield the second attentions of blocks: each is one of the block that its own is."""
        for match in matches:
            where = self.b.second(*match.b)
            if where is not None:
                partner = None if match.a is None else self.a.second(*match.a)
                yield BlockMatch(where, partner, (), None, self.b.size(*where))

    def _partner(self, views: Sequence[View], place: int) -> tuple[Where | None, Agreement]:
        """Return the block of a that one of b's is: its own number's, or the one most alike."""
        order = list(self.a.blocks)
        own = min(place, len(order) - 1)
        order = [order[own], *order[:own], *order[own + 1 :]]
        best, found = Agreement(0, 0, 0.0), order[0]
        for where in order:
            for one in self._view(where):
                for other in views:
                    seen = agreement(one, other)
                    if seen.share > best.share:
                        best, found = seen, where
            self.tried += 1
            if best.share > _MOST_OF_A_BLOCK:
                break
        return (found if best.tells(len(order)) else None), best

    def _view(self, where: Where) -> list[View]:
        if where in self._views:
            return self._views[where]
        found = [view(mlp, self.quiet) for mlp in self._block(*where).mlps]
        size = sum(one.first.nbytes + one.second.nbytes for one in found)
        if self._kept + size <= _KEPT:
            self._views[where] = found
            self._kept += size
        return found

    def _matched(self, block: Block, views: Sequence[View], partner: Where | None) -> BlockMatch:
        where = (block.stack, block.number)
        values = self.b.size(*where)
        if partner is None:
            return BlockMatch(where, None, (), None, values)
        found = []
        ours = self._block(*partner).mlps
        for mlp, seen in zip(block.mlps, views, strict=True):
            each = [agreement(one, seen) for one in self._view(partner)]
            best = max(range(len(each)), key=lambda n: each[n].share)
            if each[best].tells(len(each)):
                rng = np.random.default_rng(_SEED)
                matched = units(ours[best], mlp, self.turn, rng)
                found.append(MlpMatch(mlp.label, ours[best].label, each[best], matched))
        return BlockMatch(where, partner, tuple(found), None, values)

    def _scale(self, matches: Sequence[BlockMatch]) -> float:
        """Return what b's stream must be multiplied by: 1, unless all that writes says otherwise.

        Weight decay makes everything smaller, what reads the stream too; a rescaled stream is read
        as before, as norms take its size away.
        """
        found = [m.units for match in matches for m in match.mlps]
        if self.a.is_post or not found:
            return 1.0
        writes = float(np.median([u.writes for u in found]))
        reads = float(np.median([u.reads for u in found]))
        if min(writes, reads, self.turn.scale) <= 0:
            return 1.0
        scale = np.log(writes / reads)
        off = abs(np.log(self.turn.scale) - scale)
        is_sure = abs(scale) > _LEAST_SCALE and off < _SAME_SCALE * abs(scale)
        if is_sure and self.turn.is_exact:  # labelled vectors that nothing else was done to
            return self.turn.scale
        return writes / reads if is_sure else 1.0
