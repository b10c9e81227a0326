"""Finds which channels of two networks without a stream are the same, and how sure that is.

Channels are matched from both ends (`partners`).

How sure that is, each tensor says that had no part in it: everything is matched without it, and
counted is how often it names the same partner for a channel as the others did. Strangers agree by
chance as often as this says, unless data have told both alike what a channel is for. That shows at
the ends, where columns are tokens, classes or places of an image; so what is counted of a group are
tensors inside, from channels to channels, if it has any.

Source: that no tensor is scored by what it was fitted to is ours, after Zhu et al., "Independence
Tests for Language Models" (2025).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment.base import ChainAlignment, Group
from lineage.alignment.cosines import Fit
from lineage.alignment.labelled import folded, in_order, order_of_tokens, told_tokens, turned
from lineage.alignment.looking import NOTHING
from lineage.alignment.matrices import as_matrix
from lineage.alignment.normed import InFront, in_front, told_epsilon
from lineage.alignment.partners import Matcher
from lineage.alignment.rescaling import scales as rescaled
from lineage.errors import ArchitectureError
from lineage.fingerprints.agreement import LEAST_SHARE, Agreement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from lineage.alignment.chain import Chain
    from lineage.alignment.cosines import Look, Matrix, Orders
    from lineage.alignment.labelled import Folded
    from lineage.alignment.looking import Tensor

    Order = NDArray[np.intp]
    _Seen = dict[tuple[int, bool], Agreement]

__all__ = ["solved"]

_LEAST_GROUP = 0.25
"""Of a group's channels, those whose partner a tensor must tell as others did, beyond chance, for
the group to be called one of the other network's."""

_AS_WELL = 0.8
"""Share of the agreement that must be there without moving anything, for nothing to have been."""

_MOST_TURNS = 16
"""How often everything is matched without some of the tensors, at most, if that can be."""

_FIRST, _MANY, _FAINT = 3, 256, LEAST_SHARE / 2
"""Turns after which strangers are let go, channels that must have been looked at by then, and the
share that agrees under which they are."""

_LARGE = 1 << 21
"""Values of a network from which it matters how soon strangers are let go."""


def solved(a: Chain, b: Chain, like: ChainAlignment | None = None) -> ChainAlignment:
    """Find which channels of b are which of a's.

    Args:
        a: One network.
        b: The other.
        like: How b's channels become those of a relative of a that has a's coordinates. In a
            network of convolutions they are then not matched again: only by what they were
            multiplied is found anew.

    Raises:
        ArchitectureError: If they have not the same layers.
    """
    if like is not None and not a.recurrent and like.tokens is None:
        return _rescaled_again(a, b, like)
    tokens = order_of_tokens(a, b)
    moved = b if tokens is None else in_order(b, tokens)
    used = _paired(a, moved)
    pair = folded(a, moved)
    used = [n for n, i in enumerate(pair.layers) if i in used]
    solver = _Solver(pair.a, pair.b, used)
    found = solver.alignment()
    for last, swapped in ((True, False),) * a.is_open + ((False, True),) * bool(a.joined):
        if found.agreement.share >= _CLEAR:
            break
        one, two = (chain.laid(last=last, swapped=swapped) for chain in (pair.a, pair.b))
        laid = _Solver(one, two, used)
        other = laid.alignment()
        if other.agreement.share > found.agreement.share:
            solver, found = laid, replace(other, is_last=last, is_swapped=swapped)
    return replace(_whole(a, moved, pair, solver, found), tokens=tokens)


def _rescaled_again(a: Chain, b: Chain, like: ChainAlignment) -> ChainAlignment:
    """Find by what channels were multiplied whose partners are known; see `solved`."""
    ways = {"last": like.is_last, "swapped": like.is_swapped}
    one, other = (chain.laid(**ways) for chain in (a, b))
    found = _Solver(one, other, _paired(a, b)).known(like.groups)
    return replace(found, is_last=like.is_last, is_swapped=like.is_swapped)


def _whole(
    a: Chain, b: Chain, pair: Folded, solver: _Solver, found: ChainAlignment
) -> ChainAlignment:
    """Say of embeddings that were multiplied into what reads them how they become a's.

    Args:
        a: One whole network.
        b: The other, its tokens in a's order.
        pair: Both without these embeddings.
        solver: Of these.
        found: What it found.
    """
    groups: dict[int, Group] = {g: found.groups[n] for n, g in enumerate(pair.groups)}
    fit = Fit({n: group.order for n, group in enumerate(found.groups)}, solver.signs(found))
    for g, readers in pair.readers.items():
        place = next(i for i, layer in enumerate(a.layers) if layer.rows == g)
        name, values, order = b.label(g), b.values(g), np.arange(a.sizes[g])
        group = Group(name, order, None, Agreement(0, 0, 0.0), values, False, None, of_tokens=True)
        if found.related:
            blind = solver.match.without(frozenset((n, "weight") for n in readers)) or fit
            seen = told_tokens(a, b, place, solver.read(a, b, pair, readers, blind))
            group = replace(group, agreement=seen, is_found=seen.share >= _LEAST_GROUP)
        if group.is_found:
            done = turned(a, b, place, solver.read(a, b, pair, readers, fit))
            group = replace(group, order=done.order, scales=done.signs, turn=done.turn)
        groups[g] = group
    return replace(
        found,
        groups=tuple(groups[g] for g in sorted(groups)),
        before={pair.layers[n]: by for n, by in found.before.items()},
    )


_CLEAR = 0.95
"""Agreement from which it does not matter how channels were flattened."""


def _paired(a: Chain, b: Chain) -> list[int]:
    """Return the places of layers that are held against each other: of one shape but for labels."""
    if len(a.layers) != len(b.layers) or a.sizes != b.sizes:
        raise ArchitectureError("has not the layers of the other network", "b")
    words = a.words, b.words
    found = []
    for i, (x, y) in enumerate(zip(a.layers, b.layers, strict=True)):
        counts = x.labels, y.labels
        is_alike = x.shape == y.shape and (
            counts[0] == counts[1] or (counts == words and all(words))
        )
        if is_alike:
            found.append(i)
        elif i < len(a.layers) - 1:  # another head is no other network
            raise ArchitectureError("has not the shapes of the other network", "b")
    return found


class _Solver:
    """Holds the layers of two networks against each other."""

    def __init__(self, a: Chain, b: Chain, used: Sequence[int]) -> None:
        self.a, self.b, self.used = a, b, used
        self.match = Matcher(a, b, used)
        self.look, self.plain, self.looks = self.match.look, self.match.plain, self.match.looks
        self.still = Fit(dict(self.plain))

    def alignment(self) -> ChainAlignment:
        """Match, unless nothing was moved."""
        same = _inside(self._counted((look, self.still) for look in self.looks))
        self.match.find_gates()
        total_same = _sum(same.values())
        are_gates_moved = (
            self.match.gate_order() is not None
        )  # by one that was not cells look still
        is_clear = total_same.tells() and total_same.share > _CLEAR
        if is_clear and not are_gates_moved:
            return self._result(self.still, same)
        seen = self._seen()
        total = _sum(seen.values())
        is_as_well = total_same.share > _AS_WELL * total.share and not are_gates_moved
        if total_same.tells() and (is_as_well or not total.tells()):
            self.look.gates = {}
            return self._result(self.still, same)
        if not total.tells():
            self.look.gates = {}
            return self._result(self.still, seen)
        return self._result(self.match.fitted(NOTHING), seen)

    def known(self, groups: Sequence[Group]) -> ChainAlignment:
        """Return the alignment where channels' partners are known, and how sure these are."""
        fit = Fit({g: group.order for g, group in enumerate(groups)})
        return self._result(fit, {g: group.agreement for g, group in enumerate(groups)})

    def _seen(self) -> dict[int, Agreement]:
        """Count by group the channels that tensors tell alike, all tensors by turns.

        Of a large network that is over when some turns from all over it, of thousands of channels,
        agree as seldom as strangers': what is not counted can only make relatives strangers.
        """
        turns = self._turns()
        first = [turns[n * len(turns) // _FIRST] for n in range(min(_FIRST, len(turns)))]
        seen = self._counted(())
        for n, left_out in enumerate(dict.fromkeys([*first, *turns]), 1):
            fit = self.match.fitted(left_out)
            for at, one in self._counted((look, fit) for look in left_out).items():
                seen[at] += one
            total = _sum(_inside(seen).values())
            is_enough = n >= len(first) and total.looked >= _MANY and self._is_large()
            if is_enough and total.share < _FAINT:
                break
        return _inside(seen)

    def _is_large(self) -> bool:
        return sum(self.b.values(group) for group in self.plain) > _LARGE

    def _turns(self) -> list[frozenset[Tensor]]:
        """Return what is left out together, so that all else can still be matched.

        Where nothing could be without a tensor, as there are no classes to start from, it is left
        out by half: every other channel that it reads.
        """
        found: list[frozenset[Tensor]] = []
        most = -(-len(self.looks) // _MOST_TURNS)
        pending = list(self.looks)
        while pending:
            turn = frozenset([pending.pop(0)])
            if not self.match.is_reached(turn):
                found.append(frozenset((i, "half") for i, _ in turn))
                continue
            for look in list(pending):
                if len(turn) < most and self.match.is_reached(turn | {look}):
                    turn |= {look}
                    pending.remove(look)
            found.append(turn)
        return found

    def signs(self, found: ChainAlignment) -> dict[int, Matrix]:
        """Return the signs of groups that have a channel whose sign changed."""
        scales = {n: group.scales for n, group in enumerate(found.groups)}
        return {n: np.sign(s) for n, s in scales.items() if s is not None and (s < 0).any()}

    def read(
        self, a: Chain, b: Chain, pair: Folded, readers: Sequence[int], fit: Fit
    ) -> tuple[Matrix, Matrix]:
        """Return the rows of what reads an embedding, of both, each where a has it.

        Args:
            a: One whole network.
            b: The other.
            pair: Both without the embedding.
            readers: Their layers there.
            fit: Which channels are which.
        """
        found: tuple[list[Matrix], list[Matrix]] = ([], [])
        for n in readers:
            i, rows = pair.layers[n], pair.a.layers[n].rows
            ours, theirs = (as_matrix(c, c.layers[i].parts["weight"]) for c in (a, b))
            order = self.look.gates.get(n)
            theirs = theirs if order is None else theirs[list(order)]
            if rows is not None:
                theirs = self.look.signed_rows(n, theirs[:, fit.orders[rows]], fit.signs.get(rows))
            for to, one in zip(found, (ours, theirs), strict=True):
                to.append(np.moveaxis(one, 2, 3).reshape(-1, one.shape[2]))
        ours, theirs = (np.concatenate(one) for one in found)
        return ours, theirs

    def _counted(self, fits: Iterable[tuple[Tensor, Fit]]) -> _Seen:
        """Count the channels whose partner a tensor tells as others did.

        Args:
            fits: A tensor, and what was found without looking at it.

        Returns:
            Group and whether tensors inside tell -> what they do.
        """
        seen = {(g, inside): Agreement(0, 0, 0.0) for g in self.plain for inside in (False, True)}
        for tensor, fit in fits:
            for group, look, inside, some in self._looks(tensor, fit):
                if look.directions:
                    best = look.best[fit.orders[group][some]].argmax(axis=1)
                    seen[group, inside] += _agreed(best, self.plain[group][some], len(look.best))
        return seen

    def _looks(self, tensor: Tensor, fit: Fit) -> Iterator[tuple[int, Look, bool, slice]]:
        """Yield a tensor's looks at the groups at its ends: whether it is inside, and at whom.

        By half it was fitted to every other channel that it reads, so it tells the others.
        """
        i, role = tensor
        layer, inside = self.a.layers[i], self.look.is_inside(i)
        if role == "recurrent" and layer.rows is not None:
            yield layer.rows, self.look.own(layer.rows, fit, [i], is_quiet=True), True, slice(None)
            return
        if layer.rows is not None:
            half = 1 if role == "half" else None
            look = self.look.incoming([i], layer.rows, fit, half, is_quiet=True)
            yield layer.rows, look, inside, slice(None)
        if inside or layer.rows is None:
            for group in dict.fromkeys(layer.columns):
                odd = slice(1 - self.look.place(i, group).start % 2, None, 2)
                some = odd if role == "half" else slice(None)
                yield group, self.look.outgoing([i], group, fit, is_quiet=True), inside, some

    def _result(self, fit: Fit, seen: Mapping[int, Agreement]) -> ChainAlignment:
        orders = fit.orders
        total = _sum(seen.values())
        related = total.tells()
        if related and not self._is_whole(orders):
            raise ArchitectureError("has channels of several parts of a convolution mixed", "b")
        look = self.look.signed(fit)
        epsilon = told_epsilon(look, orders) if related else self.a.epsilon
        if epsilon != self.a.epsilon and not self.a.recurrent:
            ways = self.a.adding(epsilon), self.b.adding(epsilon)
            return _Solver(*ways, self.used)._result(fit, seen)
        scales = rescaled(look, orders) if related else {}
        for g, signs in fit.signs.items():
            scales[g] = scales.get(g, np.ones(len(signs))) * signs
        front = in_front(look, orders, scales) if related else InFront()
        groups = tuple(
            Group(
                self.b.label(g),
                orders[g],
                scales.get(g),
                seen[g],
                self.b.values(g),
                is_found=related and seen[g].share >= _LEAST_GROUP,
            )
            for g in self.plain
        )
        is_folded = any(
            ("var" in self.a.layers[i].parts) != ("var" in self.b.layers[i].parts)
            for i in self.used
        )
        return ChainAlignment(
            groups,
            self.match.gate_order(),
            total,
            is_folded=is_folded,
            before=front.scales,
            epsilon=front.epsilon if front.scales else self.a.epsilon,
            candidate=self._candidate(fit),
        )

    def _is_whole(self, orders: Orders) -> bool:
        """Whether what a convolution of several parts reads and writes goes by the same parts."""
        for i in self.used:
            layer = self.a.layers[i]
            parts = layer.parts["weight"].parts
            if parts > 1 and layer.rows is not None:
                both = [orders[g] * parts // len(orders[g]) for g in (*layer.columns, layer.rows)]
                if not np.array_equal(both[0], both[1]):
                    return False
        return True

    def _candidate(self, fit: Fit) -> int | None:
        """Return which of a's gates is no share but what is remembered."""
        several = [
            gate for i, gate in self.look.candidates.items() if len(self.look.ours[i]["weight"]) > 1
        ]
        if len(set(several)) > 1 and self.a.recurrent & fit.signs.keys():
            raise ArchitectureError("has recurrent layers of several makes", "b")
        return several[0] if several else None


def _agreed(one: Order, other: Order, units: int) -> Agreement:
    """Compare the partners among so many that two looks found for each of some channels."""
    popular = np.bincount(one, minlength=units) @ np.bincount(other, minlength=units)
    return Agreement(int(np.sum(one == other)), len(one), float(popular / max(len(one), 1)))


def _inside(seen: _Seen) -> dict[int, Agreement]:
    """Return of each group what tensors inside tell, or where there are none those at its ends."""
    groups = {group for group, _ in seen}
    return {g: seen[g, True] if seen[g, True].looked else seen[g, False] for g in sorted(groups)}


def _sum(seen: Iterable[Agreement]) -> Agreement:
    total = Agreement(0, 0, 0.0)
    for one in seen:
        total += one
    return total
