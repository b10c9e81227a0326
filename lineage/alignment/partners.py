"""Matches the channels of two networks without a stream, by all tensors but some.

Forwards, a layer's rows are matched by what they read, once the channels it reads are known;
backwards, its columns by what reads them, from the classes on. From there on all tensors decide
together who is whose, until nothing changes.

Source: matching weights layer by layer, and again until nothing changes, Ainsworth et al., "Git
Re-Basin" (2023); own code.
"""

from __future__ import annotations

from functools import cached_property
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment.cosines import Fit
from lineage.alignment.looking import NOTHING, Looks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lineage.alignment.chain import Chain
    from lineage.alignment.cosines import Matrix
    from lineage.alignment.looking import Tensor

    Order = NDArray[np.intp]

__all__ = ["Matcher"]

_FITS_BETTER = 1.02
"""Times as well as the gate that names tell for the candidate another must fit to be taken."""

_ROUNDS = 6
"""How often all groups are assigned again, at most; it ends when nothing changes."""


class Matcher:
    """Finds whose partners the channels of one network are among those of another.

    Attributes:
        a: One network.
        b: The other.
        used: The places of layers that are held against each other.
        look: The looks at their tensors.
        plain: Group -> its channels in a's order.
        looks: The tensors, each by its layer and its role.
    """

    def __init__(self, a: Chain, b: Chain, used: Sequence[int]) -> None:
        self.a, self.b, self.used = a, b, used
        self.look = Looks(a, b, used)
        self.plain = {g: np.arange(size) for g, size in enumerate(a.sizes)}
        self.looks = [(i, role) for i in used for role in self.look.ours[i]]

    def fitted(self, left_out: frozenset[Tensor]) -> Fit:
        """Match all channels without looking at some tensors."""
        start = self._started(left_out)
        return self._refined(Fit({**self.plain, **start.orders}, start.signs), left_out)

    def without(self, left_out: frozenset[Tensor]) -> Fit | None:
        """Match all channels without looking at some tensors; None if they cannot be."""
        return self.fitted(left_out) if self.is_reached(left_out) else None

    def is_reached(self, left_out: frozenset[Tensor]) -> bool:
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

    def find_gates(self) -> None:
        """Find in which order recurrent layers have their gates, and which is the candidate."""
        for i in self.used:
            if self.a.layers[i].kind == "recurrent" and i not in self.look.gates:
                self._find_gates(i, self._started(NOTHING))

    def gate_order(self) -> tuple[int, ...] | None:
        """Return the order of b's gates, where it is not a's."""
        orders = {order for order in self.look.gates.values() if order != tuple(range(len(order)))}
        return next(iter(orders)) if orders else None

    def _find_gates(self, layer: int, fit: Fit) -> None:
        """Find in which order a recurrent layer has its gates, and which is the candidate.

        It is what fits best; but for the candidate the one that names tell, unless another fits far
        better: where no sign was changed, all do.
        """
        count = len(self.look.ours[layer]["weight"])
        group = self.a.layers[layer].rows
        assert group is not None
        known = [order for order in self.look.gates.values() if len(order) == count]
        if known:
            self.look.gates[layer] = known[0]
            return
        each = self.look.gate_by_gate(layer, fit)
        own = self.look.candidates[layer]
        found: dict[int, tuple[float, tuple[int, ...]]] = {}
        for order in permutations(range(count)):
            whole = np.sum([each[to][came] for to, came in enumerate(order)], axis=0)
            for gate in range(count) if group in self.look.flips else (own,):
                part = each[gate][order[gate]]
                best = whole if group not in self.look.flips else whole - part + np.abs(part)
                seen = float(best.max(axis=0).sum())
                if gate not in found or seen > found[gate][0]:
                    found[gate] = seen, order
        gate = max(found, key=lambda one: found[one][0])
        if found[gate][0] < _FITS_BETTER * found[own][0]:
            gate = own
        for i in self.look.candidates:
            if len(self.look.ours[i]["weight"]) == count:
                self.look.candidates[i] = gate
        self.look.gates[layer] = found[gate][1]

    def _started(self, left_out: frozenset[Tensor]) -> Fit:
        """Match from the inputs on by what is read, then from the classes by what reads."""
        fit = Fit({})
        for i in self.used:
            group = self.a.layers[i].rows
            if group is None or group in fit.orders:
                continue
            writers = [
                k
                for k in self.look.writers(group, left_out)
                if fit.orders.keys() >= set(self.a.layers[k].columns)
            ]
            if writers:
                look = self.look.look(group)
                for k in writers:
                    half = 0 if (k, "half") in left_out else None
                    look += self.look.incoming([k], group, fit, half)
                fit.put(group, *look.assigned())
        for i in reversed(self.used):
            for group in self.a.layers[i].columns:
                if group in fit.orders:
                    continue
                readers = [k for k in self.look.readers(group, left_out) if self._is_known(k, fit)]
                if readers:
                    fit.put(group, *self.look.outgoing(readers, group, fit).assigned())
        return fit

    def _is_known(self, layer: int, fit: Fit) -> bool:
        rows = self.a.layers[layer].rows
        return rows is None or rows in fit.orders

    def _refined(self, fit: Fit, left_out: frozenset[Tensor]) -> Fit:
        """Assign every group again by all tensors but some, until nothing changes."""
        settled: set[int] = set()  # groups that would be assigned as they are
        for _ in range(_ROUNDS):
            for g in self.plain:
                if g in settled:
                    continue
                found = self._assigned(g, fit, left_out)
                settled.add(g)
                if not fit.is_same(g, *found):
                    fit.put(g, *found)
                    settled -= self._touching[g]
            if len(settled) == len(self.plain):
                break
        return fit

    def _assigned(
        self, group: int, fit: Fit, left_out: frozenset[Tensor]
    ) -> tuple[Order, Matrix | None]:
        """Match a group's channels by all tensors but some, as the others are matched."""
        look = self.look.outgoing(self.look.readers(group, left_out), group, fit, left_out)
        for i in self.look.writers(group, NOTHING):
            if (i, "recurrent") in self.looks and (i, "recurrent") not in left_out:
                look += self.look.own(group, fit, [i])
            if (i, "weight") not in left_out:
                half = 0 if (i, "half") in left_out else None
                look += self.look.incoming([i], group, fit, half)
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
