"""Finds which channels of two networks without a stream are the same, and how sure that is.

Channels are matched from both ends. Forwards, a layer's rows are matched by what they read, once
the channels it reads are known; backwards, its columns by what reads them, from the classes on.
From there on all tensors decide together who is whose.

How sure that is, each tensor says that had no part in it: everything is matched without it, and
counted is how often it names the same partner for a channel as the others did.

Source: matching weights layer by layer, and again until nothing changes, Ainsworth et al., "Git
Re-Basin" (2023); own code. That no tensor is scored by what it was fitted to is ours, after Zhu et
al., "Independence Tests for Language Models" (2025).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from lineage.alignment.base import ChainAlignment, Group
from lineage.alignment.looking import NOTHING, Looks
from lineage.alignment.normed import InFront, in_front
from lineage.alignment.rescaling import scales as rescaled
from lineage.errors import ArchitectureError
from lineage.fingerprints.agreement import LEAST_SHARE, Agreement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from lineage.alignment.chain import Chain, Layer
    from lineage.alignment.looking import Orders, Tensor

    Order = NDArray[np.intp]

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

_ROUNDS = 6
"""How often all groups are assigned again, at most; it ends when nothing changes."""


def solved(a: Chain, b: Chain) -> ChainAlignment:
    """Find which channels of b are which of a's.

    Args:
        a: One network.
        b: The other.

    Raises:
        ArchitectureError: If they have not the same layers.
    """
    used = _paired(a, b)
    found = _Solver(a, b, used).alignment()
    if a.is_open and found.agreement.share < _CLEAR:
        last = _Solver(a.flattened(last=True), b.flattened(last=True), used).alignment()
        if last.agreement.share > found.agreement.share:
            return replace(last, is_last=True)
    return found


_CLEAR = 0.95
"""Agreement from which it does not matter how channels were flattened."""


def _paired(a: Chain, b: Chain) -> list[int]:
    """Return the places of layers that are held against each other: of one shape but for labels."""
    if len(a.layers) != len(b.layers) or a.sizes != b.sizes:
        raise ArchitectureError("has not the layers of the other network", "b")
    words = _words(a), _words(b)
    found = []
    for i, (x, y) in enumerate(zip(a.layers, b.layers, strict=True)):
        counts = (_labels(x), _labels(y))
        is_alike = x.shape == y.shape and (counts[0] == counts[1] or counts == words)
        if is_alike:
            found.append(i)
        elif i < len(a.layers) - 1:  # another head is no other network
            raise ArchitectureError("has not the shapes of the other network", "b")
    return found


def _words(chain: Chain) -> int:
    """Return how many tokens have an embedding."""
    first = chain.layers[0]
    return _labels(first) if first.kind == "embedding" else -1


def _labels(layer: Layer) -> int:
    """Return how many tokens a layer embeds, or classes it tells; of others 0."""
    is_labelled = layer.kind == "embedding" or layer.rows is None
    return layer.parts["weight"].item.shape[0] if is_labelled else 0


class _Solver:
    """Holds the layers of two networks against each other."""

    def __init__(self, a: Chain, b: Chain, used: Sequence[int]) -> None:
        self.a, self.b, self.used = a, b, used
        self.look = Looks(a, b, used)
        self.plain = {g: np.arange(size) for g, size in enumerate(a.sizes)}
        self.looks = [(i, role) for i in used for role in self.look.ours[i]]

    def alignment(self) -> ChainAlignment:
        """Match, unless nothing was moved."""
        same = self._counted((look, self.plain) for look in self.looks)
        if _sum(same.values()).tells() and _sum(same.values()).share > _CLEAR:
            return self._result(self.plain, same)
        for i in self.used:
            if self.a.layers[i].kind == "recurrent" and i not in self.look.gates:
                self._find_gates(i, self._started(NOTHING))
        seen = self._seen()
        total, total_same = _sum(seen.values()), _sum(same.values())
        if total_same.tells() and total_same.share > _AS_WELL * total.share:
            self.look.gates = {}
            return self._result(self.plain, same)
        if not total.tells():
            self.look.gates = {}
            return self._result(self.plain, seen)
        return self._result(self._fitted(NOTHING), seen)

    def _seen(self) -> dict[int, Agreement]:
        """Count by group the channels that tensors tell alike, all tensors by turns.

        Of a large network that is over when some turns from all over it, of thousands of channels,
        agree as seldom as strangers': what is not counted can only make relatives strangers.
        """
        turns = self._turns()
        first = [turns[n * len(turns) // _FIRST] for n in range(min(_FIRST, len(turns)))]
        seen = {group: Agreement(0, 0, 0.0) for group in self.plain}
        for n, left_out in enumerate([*first, *(one for one in turns if one not in first)], 1):
            orders = self._fitted(left_out)
            for group, one in self._counted((look, orders) for look in left_out).items():
                seen[group] += one
            total = _sum(seen.values())
            is_enough = n >= len(first) and total.looked >= _MANY and self._is_large()
            if is_enough and total.share < _FAINT:
                break
        return seen

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
            if not self._is_reached(turn):
                found.append(frozenset((i, "half") for i, _ in turn))
                continue
            for look in list(pending):
                if len(turn) < most and self._is_reached(turn | {look}):
                    turn |= {look}
                    pending.remove(look)
            found.append(turn)
        return found

    def _is_reached(self, left_out: frozenset[Tensor]) -> bool:
        """Whether every group can be matched, from the inputs or the classes on."""
        known: set[int] = set()
        size = -1
        while len(known) > size:
            size = len(known)
            for i in self.used:
                layer = self.a.layers[i]
                if (i, "weight") in left_out:
                    continue
                if layer.rows is not None and known.issuperset(layer.columns):
                    known.add(layer.rows)
                if layer.rows is None or layer.rows in known:
                    known.update(layer.columns)
        return len(known) == len(self.plain)

    def _fitted(self, left_out: frozenset[Tensor]) -> Orders:
        """Match all channels without looking at some tensors."""
        return self._refined({**self.plain, **self._started(left_out)}, left_out)

    def _counted(self, orders: Iterable[tuple[Tensor, Orders]]) -> dict[int, Agreement]:
        """Count by group the channels whose partner a tensor tells as others did.

        Args:
            orders: A tensor, and what was found without looking at it.
        """
        seen = {group: Agreement(0, 0, 0.0) for group in self.plain}
        for (i, role), found in orders:
            layer = self.a.layers[i]
            if role == "recurrent" and layer.rows is not None:
                group, look = layer.rows, self.look.own(layer.rows, found, [i], is_quiet=True)
            elif layer.rows is not None:
                half = 1 if role == "half" else None
                group, look = (
                    layer.rows,
                    self.look.incoming([i], layer.rows, found, half, is_quiet=True),
                )
            else:
                group = layer.columns[0]
                look = self.look.outgoing([i], group, found, is_quiet=True)
            seen[group] += _agreed(look.total.argmax(axis=1), np.argsort(found[group]))
        return seen

    def _result(self, orders: Orders, seen: Mapping[int, Agreement]) -> ChainAlignment:
        total = _sum(seen.values())
        related = total.tells()
        if related and not self._is_whole(orders):
            raise ArchitectureError("has channels of several parts of a convolution mixed", "b")
        scales = rescaled(self.look, orders) if related else {}
        front = in_front(self.look, orders, scales) if related else InFront()
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
            self._gate_order(),
            total,
            is_folded=is_folded,
            before=front.scales,
            epsilon=front.epsilon,
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

    def _gate_order(self) -> tuple[int, ...] | None:
        orders = {order for order in self.look.gates.values() if order != tuple(range(len(order)))}
        return next(iter(orders)) if orders else None

    def _started(self, left_out: frozenset[Tensor]) -> Orders:
        """Match from the inputs on by what is read, then from the classes by what reads."""
        orders: Orders = {}
        for i in self.used:
            group = self.a.layers[i].rows
            if group is None or group in orders:
                continue
            writers = [
                k
                for k in self.look.writers(group, left_out)
                if orders.keys() >= set(self.a.layers[k].columns)
            ]
            if writers:
                look = self.look.look(group)
                for k in writers:
                    half = 0 if (k, "half") in left_out else None
                    look.total += self.look.incoming([k], group, orders, half).total
                orders[group] = look.assigned()
        for i in reversed(self.used):
            for group in self.a.layers[i].columns:
                if group in orders:
                    continue
                readers = [
                    k for k in self.look.readers(group, left_out) if self._is_known(k, orders)
                ]
                if readers:
                    orders[group] = self.look.outgoing(readers, group, orders).assigned()
        return orders

    def _is_known(self, layer: int, orders: Orders) -> bool:
        rows = self.a.layers[layer].rows
        return rows is None or rows in orders

    def _find_gates(self, layer: int, orders: Orders) -> None:
        """Find in which order a recurrent layer has its gates: the one that fits best."""
        count = len(self.look.ours[layer]["weight"])
        group = self.a.layers[layer].rows
        assert group is not None
        known = [order for order in self.look.gates.values() if len(order) == count]
        if known:
            self.look.gates[layer] = known[0]
            return
        best: tuple[float, tuple[int, ...]] | None = None
        for order in permutations(range(count)):
            self.look.gates[layer] = order
            look = self.look.incoming([layer], group, orders).total
            rows, cols = linear_sum_assignment(-look)
            seen = float(look[rows, cols].sum())
            if best is None or seen > best[0]:
                best = seen, order
        assert best is not None
        self.look.gates[layer] = best[1]

    def _refined(self, orders: Orders, left_out: frozenset[Tensor]) -> Orders:
        """Assign every group again by all tensors but some, until nothing changes."""
        orders = dict(orders)
        settled: set[int] = set()  # groups that would be assigned as they are
        for _ in range(_ROUNDS):
            for g in self.plain:
                if g in settled:
                    continue
                found = self._assigned(g, orders, left_out)
                settled.add(g)
                if not np.array_equal(found, orders[g]):
                    orders[g] = found
                    settled -= self._touching[g]
            if len(settled) == len(self.plain):
                break
        return orders

    def _assigned(self, group: int, orders: Orders, left_out: frozenset[Tensor]) -> Order:
        """Match a group's channels by all tensors but some, as the others are matched."""
        look = self.look.outgoing(self.look.readers(group, left_out), group, orders, left_out)
        for i in self.look.writers(group, NOTHING):
            if (i, "recurrent") in self.looks and (i, "recurrent") not in left_out:
                look.total += self.look.own(group, orders, [i]).total
            if (i, "weight") not in left_out:
                half = 0 if (i, "half") in left_out else None
                look.total += self.look.incoming([i], group, orders, half).total
        return look.assigned()

    @cached_property
    def _touching(self) -> dict[int, set[int]]:
        """Group -> those that a tensor has besides it; itself, as a tensor may be seen by half."""
        found = {group: {group} for group in self.plain}
        for i in self.used:
            layer = self.a.layers[i]
            groups = {*layer.columns, *([] if layer.rows is None else [layer.rows])}
            for group in groups:
                found[group] |= groups
        return found


def _agreed(one: Order, other: Order) -> Agreement:
    """Compare the partners in a that two looks found for each of b's channels."""
    popular = np.bincount(one, minlength=len(one)) @ np.bincount(other, minlength=len(one))
    return Agreement(int(np.sum(one == other)), len(one), float(popular / len(one)))


def _sum(seen: Iterable[Agreement]) -> Agreement:
    total = Agreement(0, 0, 0.0)
    for one in seen:
        total += one
    return total
