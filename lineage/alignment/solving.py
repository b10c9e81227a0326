"""Finds the alignment of two models: stream first, then blocks, units and heads."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, lru_cache, partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment.base import Alignment, BlockMatch, MlpMatch
from lineage.alignment.fused import along, fitting
from lineage.alignment.heads import head_size, heads, look
from lineage.alignment.neurons import LOOKED_AT, agreement, partners, units, view
from lineage.alignment.turning import Turn, fitted, quiet, unturned
from lineage.artifacts.tokens import shared_tokens
from lineage.errors import ArchitectureError
from lineage.fingerprints.agreement import Agreement
from lineage.fingerprints.stream import alike

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from lineage.alignment.base import Where
    from lineage.alignment.heads import Heads, Look
    from lineage.alignment.neurons import View
    from lineage.fingerprints.fused import Layout
    from lineage.fingerprints.stream import Attention, Block, Stream

    Pair = tuple[NDArray[np.floating], NDArray[np.floating]]

LABELLED = 4096
"""Labelled vectors of each kind that a turn is fitted on, at most; of a wide stream a quarter more
than it has numbers, which fixes all directions well."""

_GLANCES, _AS_WELL = 2, 0.8
"""Blocks that are looked at to see whether anything was turned at all, and the share of the units
that agree under a turn that must agree without it."""

_MOST_OF_A_BLOCK = 0.5
"""Share of a block's units from which no other block is looked at: it cannot have the same."""

_SIZED = 4
"""Blocks that are looked at to see how many rows a head has, at most."""

DECIDED = 4
"""Blocks from which it is decided whether models are relatives, at most."""

_KEPT = 1 << 30
"""Bytes of what was looked at that are kept."""

_SEED = 0
_ROUNDS = 4
"""How often a turn that labelled vectors leave open is fitted to the units found, at most."""


def solve(a: Stream, b: Stream) -> Alignment:
    """Find how b's coordinates become a's.

    Args:
        a: One model.
        b: The other.

    Raises:
        ArchitectureError: If they have no labelled vectors in common.
    """
    a, b = alike(a, b)
    return _Solver(a, b, *_turns(a, b)).alignment()


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
    return _Solver(a, b, *_turns(a, b)).decision(most)


def _turns(a: Stream, b: Stream) -> tuple[Turn, Sequence[Turn], NDArray[np.float64]]:
    """Return the turn, those under which blocks are looked at, and directions to look along."""
    pairs = labelled_pairs(a, b)
    if not pairs:
        raise ArchitectureError("has no tokens, places or pixels in common with the other", "b")
    turn = fitted(pairs)
    looks: Sequence[Turn] = (turn,)
    if turn.is_whole:
        directions = quiet((one for one, _ in pairs), np.random.default_rng(_SEED))
    else:
        turn, looks = _completed(a, b, pairs, turn)
        directions = np.eye(a.width)
    is_open = turn.kind != "same" and not turn.is_exact and a.width == b.width
    if is_open and _is_in_place(a, b, looks, directions):
        turn = unturned(a.width)
        looks = (turn,)
    return turn, looks, directions


def _is_in_place(
    a: Stream, b: Stream, looks: Sequence[Turn], directions: NDArray[np.float64]
) -> bool:
    """Whether units agree as well if nothing is turned: then nothing was.

    Trainings of one initialisation that went far apart have embeddings that a turn fits better.
    """
    plain, turned = Agreement(0, 0, 0.0), Agreement(0, 0, 0.0)
    for place, (where, other) in enumerate(zip(a.blocks, b.blocks, strict=False)):
        if place == _GLANCES:
            break
        turn = looks[place % len(looks)]
        for x, y in zip(a.block(*where).mlps, b.block(*other).mlps, strict=False):
            seen = view(x, directions)
            plain += agreement(seen, view(y, directions, LOOKED_AT))
            turned += agreement(seen, view(y, turn.undone(directions), LOOKED_AT))
    return plain.tells() and plain.share > _AS_WELL * turned.share


def labelled_pairs(a: Stream, b: Stream) -> list[Pair]:
    """Return the labelled vectors that two models share, by kind, evenly spread.

    Tokens are the same by their strings where both models have them, else by their numbers.
    """
    found: list[Pair] = []
    counts, others = a.labels(), b.labels()
    most = max(LABELLED, b.width + b.width // 4)
    for role in sorted(counts.keys() & others.keys()):
        ours = theirs = np.arange(min(counts[role], others[role]))
        if role == "token_embd" and (shared := _shared_tokens(a, b)) is not None:
            ours, theirs = shared
        if len(ours) > most:
            some = np.unique(np.linspace(0, len(ours) - 1, most).astype(np.intp))
            ours, theirs = ours[some], theirs[some]
        if len(ours):
            found.append((a.labelled(role, ours), b.labelled(role, theirs)))
    return found


def _shared_tokens(a: Stream, b: Stream) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """Return the numbers of the tokens that both have, in a and in b; None if that is not known."""
    if a.tokens is None or b.tokens is None:
        return None
    rows = a.labels()["token_embd"], b.labels()["token_embd"]
    return shared_tokens(a.tokens[: rows[0]], b.tokens[: rows[1]])


def _order_of_tokens(a: Stream, b: Stream) -> NDArray[np.intp] | None:
    """Return b's tokens in a's order, those that a has not behind; None to leave them so."""
    have_tokens = "token_embd" in a.labels() and "token_embd" in b.labels()
    shared = _shared_tokens(a, b) if have_tokens else None
    if shared is None or np.array_equal(*shared):
        return None
    rest = np.setdiff1d(np.arange(b.labels()["token_embd"]), shared[1])
    return np.concatenate([shared[1], rest]).astype(np.intp)


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
        self._attention = lru_cache(maxsize=1)(self._attentions)
        self._looks = lru_cache(maxsize=_SIZED)(self._looked)
        self.tried, self.scale = 0, 1.0
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
        self.scale = scale = self._scale(matches)
        blocks = self._with_heads([*matches, *self._seconds(matches)])
        order = _order_of_tokens(self.a, self.b)
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

    def _with_heads(self, matches: Sequence[BlockMatch]) -> tuple[BlockMatch, ...]:
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


def _laid(found: Heads | None, layout: Layout | None) -> Heads | None:
    """Say of heads how one matrix holds them, if it does."""
    if found is None or layout is None:
        return found
    return replace(found, size=layout.size, way=layout.way)


_MOSTLY, _NOTHING = 0.5, 1e-8
"""Share of what is left that lies in its mean, from which that was changed; and of what is written,
squared, what must be left for anything to have been."""

_EXACT = 0.999
"""Likeness of heads from which no other cut of their matrix is tried."""

_LEAST_SCALE, _SAME_SCALE = 0.02, 0.15
"""Logarithm of a stream's scale from which it is looked at, and the share of it by which that of
the labelled vectors may be off: noise and training make what is matched smaller."""


def _completed(
    a: Stream, b: Stream, pairs: list[Pair], turn: Turn
) -> tuple[Turn, tuple[Turn, Turn]]:
    """Fit a turn that labelled vectors leave open to units that they already tell apart.

    Returns:
        The turn fitted to the units of all blocks; and, to look at b's blocks of even and of odd
        place, those fitted to the others, so that nothing is scored by what it was fitted to.
    """
    blocks = [(a.block(*x), b.block(*y)) for x, y in zip(a.blocks, b.blocks, strict=False)]
    looks = turn, turn
    agreed: list[Pair] = []
    most = 0
    for _ in range(_ROUNDS):
        halves = [
            [pair for one, other in blocks[half::2] for pair in _agreed(one, other, looks[half])]
            for half in (0, 1)
        ]
        count = sum(len(one) for half in halves for one, _ in half)
        if count <= most:
            break
        most, agreed = count, halves[0] + halves[1]
        looks = fitted(pairs + halves[1]), fitted(pairs + halves[0])
    return fitted(pairs + agreed), looks


def _agreed(one: Block, other: Block, turn: Turn) -> Iterable[Pair]:
    """Yield what units of two blocks read and write, of those on which two looks agree."""
    for x, y in zip(one.mlps, other.mlps, strict=False):
        at_a, at_b = partners(x, y, turn)
        if len(at_a):
            yield x.up[at_a], y.up[at_b]
            yield x.down[at_a], y.down[at_b]
