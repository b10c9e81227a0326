"""Finds which channels of two networks without a stream are the same, and how sure that is.

Both networks are brought to one form first: batch normalization folded into what it follows, every
channel's incoming weights of norm 1, so that neither shows in a comparison. Then channels are
matched from both ends. Forwards, a layer's rows are matched by what they read, once the channels it
reads are known; backwards, its columns by what reads them, from the classes on. From there on all
tensors decide together who is whose.

How sure that is, each tensor says that had no part in it: everything is matched without it, and
counted is how often it names the same partner for a channel as the others did.

Source: matching weights layer by layer, and again until nothing changes, Ainsworth et al., "Git
Re-Basin" (2023); own code. That no tensor is scored by what it was fitted to is ours, after Zhu et
al., "Independence Tests for Language Models" (2025).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from lineage.alignment.base import ChainAlignment, Group
from lineage.alignment.neurons import Agreement
from lineage.errors import ArchitectureError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from lineage.alignment.chain import Chain, Layer, Part

    Matrix = NDArray[np.float64]
    Order = NDArray[np.intp]
    Orders = dict[int, Order]
    Tensor = tuple[int, str]

__all__ = ["EPSILON", "as_matrix", "folding", "solved"]

EPSILON = 1e-5
"""Added to a variance before its root is taken; what most frameworks add."""

LEAST_SHARE, LEAST_LOG10_P = 0.1, -6.0
"""Of all channels, those whose partner a tensor must tell as others did, beyond chance, and how
unlikely that must be, for two networks to be called relatives."""

_LEAST_GROUP = 0.25
"""Of a group's channels, the same, for the group to be called one of the other network's."""

_AS_WELL = 0.8
"""Share of the agreement that must be there without moving anything, for nothing to have been."""

_RESCALED, _LEAST_TRAINED = 3.0, 0.05
"""How much more the norms of writing and reading must go against each other than together for
channels to be called rescaled after training, and the least spread of their logarithms."""

_NOTHING_LEFT = 1e-6
"""Squared, as a share of a's: what is left where nothing but coordinates were changed."""

_MOST_TURNS = 16
"""How often everything is matched without some of the tensors, at most, if that can be."""

_NOTHING: frozenset[tuple[int, str]] = frozenset()

_ROUNDS = 12
"""How often all groups are assigned again, at most; it ends when nothing changes."""

_FAR_BETTER, _LEAST_RESCALED = 0.5, 1e-4
"""Of what is left otherwise, what other scales must leave for channels to be called rescaled, and
the least spread of their logarithms."""


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


def as_matrix(chain: Chain, part: Part) -> Matrix:
    """Return a tensor as gates by rows by channels by positions."""
    values = chain.arrays.whole(part.item).astype(np.float64)
    if part.is_turned:
        values = values.T
    rows = values.shape[0] // part.gates
    if part.positions > 1:
        if chain.is_last:
            values = values.reshape(rows, part.positions, -1).transpose(0, 2, 1)
        else:
            values = values.reshape(rows, -1, part.positions)
    return values.reshape(part.gates, rows, values.shape[1], -1)


def folding(chain: Chain, layer: Layer) -> Matrix | None:
    """Return by what a layer's rows are multiplied when the norm behind it is folded into them."""
    if "var" not in layer.parts:
        return None
    var = chain.arrays.whole(layer.parts["var"].item).astype(np.float64)
    factor: Matrix = 1.0 / np.sqrt(np.maximum(var, 0) + EPSILON)
    gain = layer.parts.get("gain")
    return factor if gain is None else factor * chain.arrays.whole(gain.item)


def as_folded(chain: Chain, layer: Layer) -> Matrix:
    """Return a layer's weight with the norm behind it folded in."""
    weight, factor = as_matrix(chain, layer.parts["weight"]), folding(chain, layer)
    return weight if factor is None else weight * factor[None, :, None, None]


def _canonical(chain: Chain, norms: dict[int, Matrix]) -> list[dict[str, Matrix]]:
    """Return the matrices of all layers, folded, with channels of norm 1; fill in what it was."""
    found = []
    for layer in chain.layers:
        matrices = {
            role: as_matrix(chain, part)
            for role, part in layer.parts.items()
            if role in {"weight", "recurrent"}
        }
        weight = matrices["weight"]
        factor = folding(chain, layer)
        if factor is not None:
            weight *= factor[None, :, None, None]
        if layer.columns:
            weight *= np.concatenate([norms[g] for g in layer.columns])[None, None, :, None]
        if layer.rows is not None:
            if layer.rows not in norms:
                norms[layer.rows] = _norms(weight, is_one=layer.rows in chain.recurrent)
            weight /= norms[layer.rows][None, :, None, None]
        found.append(matrices)
    return found


def _norms(weight: Matrix, *, is_one: bool) -> Matrix:
    norms: Matrix = np.sqrt(np.sum(weight**2, axis=(0, 2, 3)))
    return np.ones_like(norms) if is_one else np.where(norms > 0, norms, 1.0)


@dataclass
class _Look:
    """Cosines of b's channels (down) with a's (across), summed over tensors."""

    total: Matrix
    is_quiet: bool = False

    def add(self, a: Matrix, b: Matrix) -> None:
        if self.is_quiet:
            a, b = _quiet(a, b)
        self.total += _unit(b) @ _unit(a).T

    def assigned(self) -> Order:
        """Return for each of a's channels the place of b's."""
        rows, cols = linear_sum_assignment(-self.total)
        order = np.empty(len(rows), np.intp)
        order[cols] = rows
        return order


def _unit(rows: Matrix) -> Matrix:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Matrix = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return found


def _quiet(a: Matrix, b: Matrix) -> tuple[Matrix, Matrix]:
    """Return both along the half of directions that a's channels use least.

    Networks of one kind of data come to use some directions alike; what an initialisation left is
    in the others.
    """
    _, values, directions = np.linalg.svd(_unit(a), full_matrices=False)
    used = int(np.sum(values > _LEAST_VALUE * values[0])) if len(values) else 0
    if used < _LEAST_DIRECTIONS:
        return a, b
    kept = directions[used // 2 : used]
    return a @ kept.T, b @ kept.T


_LEAST_VALUE, _LEAST_DIRECTIONS = 1e-6, 16
"""Of the largest singular value, from which a direction is used; so many must be for half of them
to be left out."""


class _Solver:
    """Holds the layers of two networks against each other."""

    def __init__(self, a: Chain, b: Chain, used: Sequence[int]) -> None:
        self.a, self.b = a, b
        norms: tuple[dict[int, Matrix], dict[int, Matrix]] = ({}, {})
        self.ours, self.theirs = _canonical(a, norms[0]), _canonical(b, norms[1])
        self.norms = norms
        self.used = used
        for i in used:  # of more tokens the first
            if a.layers[i].kind == "embedding" or a.layers[i].rows is None:
                axis = 2 if a.layers[i].kind == "embedding" else 1
                both = self.ours[i], self.theirs[i]
                count = min(m["weight"].shape[axis] for m in both)
                for m in both:
                    m["weight"] = m["weight"][:, :, :count] if axis == 2 else m["weight"][:, :count]
        self.gates: dict[int, tuple[int, ...]] = {}
        self.plain = {g: np.arange(size) for g, size in enumerate(a.sizes)}
        self.looks = [(i, role) for i in used for role in self.ours[i]]

    def alignment(self) -> ChainAlignment:
        """Match, unless nothing was moved."""
        same = self._counted((look, self.plain) for look in self.looks)
        if is_one(_sum(same.values())) and _sum(same.values()).share > _CLEAR:
            return self._result(self.plain, same)
        for i in self.used:
            if self.a.layers[i].kind == "recurrent" and i not in self.gates:
                self._find_gates(i, self._started(_NOTHING))
        seen = self._counted(
            (look, orders)
            for left_out in self._turns()
            for orders in (self._fitted(left_out),)
            for look in left_out
        )
        total, total_same = _sum(seen.values()), _sum(same.values())
        if is_one(total_same) and total_same.share > _AS_WELL * total.share:
            self.gates = {}
            return self._result(self.plain, same)
        if not is_one(total):
            self.gates = {}
            return self._result(self.plain, seen)
        return self._result(self._fitted(_NOTHING), seen)

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
                group, look = layer.rows, self._own(layer.rows, found, [i], is_quiet=True)
            elif layer.rows is not None:
                half = 1 if role == "half" else None
                group, look = (
                    layer.rows,
                    self._incoming([i], layer.rows, found, half, is_quiet=True),
                )
            else:
                group = layer.columns[0]
                look = self._outgoing([i], group, found, is_quiet=True)
            seen[group] += _agreed(look.total.argmax(axis=1), np.argsort(found[group]))
        return seen

    def _result(self, orders: Orders, seen: Mapping[int, Agreement]) -> ChainAlignment:
        total = _sum(seen.values())
        related = is_one(total)
        scales = self._scales(orders) if related else {}
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
        return ChainAlignment(groups, self._gate_order(), total, is_folded=is_folded)

    def _gate_order(self) -> tuple[int, ...] | None:
        orders = {order for order in self.gates.values() if order != tuple(range(len(order)))}
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
                for k in self._writers(group, left_out)
                if orders.keys() >= set(self.a.layers[k].columns)
            ]
            if writers:
                look = self._look(group)
                for k in writers:
                    half = 0 if (k, "half") in left_out else None
                    look.total += self._incoming([k], group, orders, half).total
                orders[group] = look.assigned()
        for i in reversed(self.used):
            for group in self.a.layers[i].columns:
                if group in orders:
                    continue
                readers = [k for k in self._readers(group, left_out) if self._is_known(k, orders)]
                if readers:
                    orders[group] = self._outgoing(readers, group, orders).assigned()
        return orders

    def _is_known(self, layer: int, orders: Orders) -> bool:
        rows = self.a.layers[layer].rows
        return rows is None or rows in orders

    def _writers(self, group: int, left_out: frozenset[Tensor]) -> list[int]:
        layers = self.a.layers
        return [i for i in self.used if layers[i].rows == group and (i, "weight") not in left_out]

    def _readers(self, group: int, left_out: frozenset[Tensor]) -> list[int]:
        layers = self.a.layers
        return [
            i for i in self.used if group in layers[i].columns and (i, "weight") not in left_out
        ]

    def _find_gates(self, layer: int, orders: Orders) -> None:
        """Find in which order a recurrent layer has its gates: the one that fits best."""
        count = len(self.ours[layer]["weight"])
        group = self.a.layers[layer].rows
        assert group is not None
        known = [order for order in self.gates.values() if len(order) == count]
        if known:
            self.gates[layer] = known[0]
            return
        best: tuple[float, tuple[int, ...]] | None = None
        for order in permutations(range(count)):
            self.gates[layer] = order
            look = self._incoming([layer], group, orders).total
            rows, cols = linear_sum_assignment(-look)
            seen = float(look[rows, cols].sum())
            if best is None or seen > best[0]:
                best = seen, order
        assert best is not None
        self.gates[layer] = best[1]

    def _pair(self, layer: int, role: str) -> tuple[Matrix, Matrix]:
        a, b = self.ours[layer][role], self.theirs[layer][role]
        order = self.gates.get(layer)
        return a, (b if order is None else b[list(order)])

    def _incoming(
        self,
        layers: Iterable[int],
        group: int,
        orders: Orders,
        half: int | None = None,
        *,
        is_quiet: bool = False,
    ) -> _Look:
        """Look at what channels read; by halves at every other channel of it, or position."""
        look = self._look(group, is_quiet=is_quiet)
        for i in layers:
            a, b = self._pair(i, "weight")
            b = b[:, :, self._columns(i, orders)]
            if half is not None and a.shape[2] > 1:
                a, b = a[:, :, half::2], b[:, :, half::2]
            elif half is not None:
                a, b = a[..., half::2], b[..., half::2]
            look.add(*(np.swapaxes(m, 0, 1).reshape(m.shape[1], -1) for m in (a, b)))
        return look

    def _columns(self, layer: int, orders: Orders) -> Order:
        parts, start = [], 0
        for group in self.a.layers[layer].columns:
            parts.append(orders[group] + start)
            start += len(orders[group])
        if not parts:
            return np.arange(self.ours[layer]["weight"].shape[2])
        return np.concatenate(parts)

    def _outgoing(
        self,
        layers: Iterable[int],
        group: int,
        orders: Orders,
        left_out: frozenset[Tensor] = frozenset(),
        *,
        is_quiet: bool = False,
    ) -> _Look:
        """Look at what reads channels; of a tensor that is left out by half, at half of them."""
        look = self._look(group, is_quiet=is_quiet)
        for i in layers:
            a, b = self._pair(i, "weight")
            rows = self.a.layers[i].rows
            if rows is not None:
                b = b[:, orders[rows]]
            start = 0
            for one in self.a.layers[i].columns:
                size = self.a.sizes[one]
                if one == group:
                    x, y = (
                        np.moveaxis(m[:, :, start : start + size], 2, 0).reshape(size, -1)
                        for m in (a, b)
                    )
                    if (i, "half") in left_out:
                        x, y = x.copy(), y.copy()
                        x[1 - start % 2 :: 2] = 0
                        y[orders[group][1 - start % 2 :: 2]] = 0
                    look.add(x, y)
                start += size
        return look

    def _own(
        self, group: int, orders: Orders, layers: Iterable[int], *, is_quiet: bool = False
    ) -> _Look:
        """Look at what recurrent layers' units tell each other, but not themselves."""
        look = self._look(group, is_quiet=is_quiet)
        for i in layers:
            a, b = (m[..., 0].copy() for m in self._pair(i, "recurrent"))
            for m in (a, b):
                m[:, np.arange(m.shape[1]), np.arange(m.shape[1])] = 0
            order = orders[group]
            look.add(*(np.swapaxes(m, 0, 1).reshape(m.shape[1], -1) for m in (a, b[:, :, order])))
            look.add(*(np.moveaxis(m, 2, 0).reshape(m.shape[1], -1) for m in (a, b[:, order])))
        return look

    def _look(self, group: int, *, is_quiet: bool = False) -> _Look:
        size = self.a.sizes[group]
        return _Look(np.zeros((size, size)), is_quiet)

    def _refined(self, orders: Orders, left_out: frozenset[Tensor]) -> Orders:
        """Assign every group again by all tensors but some, until nothing changes."""
        orders = dict(orders)
        for _ in range(_ROUNDS):
            changed = False
            for g in self.plain:
                look = self._outgoing(self._readers(g, left_out), g, orders, left_out)
                for i in self._writers(g, _NOTHING):
                    if (i, "recurrent") in self.looks and (i, "recurrent") not in left_out:
                        look.total += self._own(g, orders, [i]).total
                    if (i, "weight") not in left_out:
                        half = 0 if (i, "half") in left_out else None
                        look.total += self._incoming([i], g, orders, half).total
                found = look.assigned()
                changed = changed or not np.array_equal(found, orders[g])
                orders[g] = found
            if not changed:
                break
        return orders

    def _scales(self, orders: Orders) -> dict[int, Matrix]:
        """Find by what b's channels must be multiplied, of groups that were rescaled.

        Asked is what makes them as long as a's; it is taken where it leaves far less. If anything
        is left then, there was training, and it is asked more carefully.
        """
        asked = {
            g: self.norms[0][g] / self.norms[1][g][orders[g]]
            for g in self.plain
            if g not in self.a.recurrent and g in self.norms[0]
        }
        taken = self._taken(asked, orders)
        left = {g: self._left(g, orders, taken) for g in self.plain}
        if all(one < _NOTHING_LEFT for one in left.values()):
            return taken
        return self._after_training(orders, asked)

    def _taken(self, asked: Mapping[int, Matrix], orders: Orders) -> dict[int, Matrix]:
        """Return those scales that leave far less than none."""
        taken = {g: s for g, s in asked.items() if np.std(np.log(s)) > _LEAST_RESCALED}
        for _ in range(2):
            for g in [g for g in asked if np.std(np.log(asked[g])) > _LEAST_RESCALED]:
                others = {k: s for k, s in taken.items() if k != g}
                without = self._left(g, orders, others)
                if self._left(g, orders, {**others, g: asked[g]}) < _FAR_BETTER * without:
                    taken[g] = asked[g]
                else:
                    taken.pop(g, None)
        return taken

    def _after_training(self, orders: Orders, asked: Mapping[int, Matrix]) -> dict[int, Matrix]:
        """Return scales as what writes and what reads channels tell them, each as it is stored.

        Training changes both the same way or only a little, so channels are called rescaled only
        if the two go against each other.
        """
        found: dict[int, Matrix] = {}
        for g in asked:
            readers = self._readers(g, _NOTHING)
            if not readers:
                continue
            up, is_gain = self._written(g, orders, asked)
            ours, theirs = self._read(readers, g, orders, asked)
            down = np.log(np.maximum(ours, 1e-30) / np.maximum(theirs, 1e-30)) / 2
            against, together = np.std(up - down), np.std(up + down)
            if against < _LEAST_TRAINED or against < _RESCALED * together:
                continue
            both = (up - down) / 2
            if is_gain:  # its size is not that of the weights, which training changes
                both += np.median(up) - np.median(both)
            found[g] = np.exp(both)
        return found

    def _written(
        self, group: int, orders: Orders, asked: Mapping[int, Matrix]
    ) -> tuple[Matrix, bool]:
        """Return logarithms of by what b's channels are written too small; whether by a norm."""
        i = self._writers(group, _NOTHING)[0]
        gains = [
            np.abs(c.arrays.whole(c.layers[i].parts["gain"].item)).astype(np.float64)
            for c in (self.a, self.b)
            if "var" in c.layers[i].parts and "gain" in c.layers[i].parts
        ]
        if len(gains) == 2:
            ours, theirs = gains
        else:
            a, b = (as_folded(c, c.layers[i]) for c in (self.a, self.b))
            if not self.a.layers[i].columns:
                count = min(a.shape[2], b.shape[2])
                a, b = a[:, :, :count], b[:, :, :count]
            b = b[:, :, self._columns(i, orders)[: b.shape[2]]]
            if self.a.layers[i].columns:
                by = [asked.get(g, np.ones(len(orders[g]))) for g in self.a.layers[i].columns]
                b = b / np.concatenate(by)[None, None, :, None]
            ours, theirs = (np.sqrt(np.sum(m**2, axis=(0, 2, 3))) for m in (a, b))
        ratio = np.maximum(ours, 1e-30) / np.maximum(theirs[orders[group]], 1e-30)
        return np.log(ratio), len(gains) == 2

    def _read(
        self, readers: Sequence[int], group: int, orders: Orders, asked: Mapping[int, Matrix]
    ) -> tuple[Matrix, Matrix]:
        """Return the squared norms of what reads channels, of a's and of b's in a's order."""
        total = [np.zeros(self.a.sizes[group]), np.zeros(self.a.sizes[group])]
        for i in readers:
            a, b = (as_matrix(c, c.layers[i].parts["weight"]) for c in (self.a, self.b))
            at, rows = self._place(i, group), self.a.layers[i].rows
            a, b = a[:, :, at], b[:, :, at][:, :, orders[group]]
            if rows is None:
                count = min(a.shape[1], b.shape[1])
                a, b = a[:, :count], b[:, :count]
            elif rows in asked and "var" not in self.b.layers[i].parts:
                b = b[:, orders[rows]] * asked[rows][None, :, None, None]
            for k, m in enumerate((a, b)):
                total[k] += np.sum(m**2, axis=(0, 1, 3)) / np.sum(a**2)
        return total[0], total[1]

    def _place(self, layer: int, group: int) -> slice:
        columns = self.a.layers[layer].columns
        start = sum(self.a.sizes[g] for g in columns[: columns.index(group)])
        return slice(start, start + self.a.sizes[group])

    def _left(self, group: int, orders: Orders, scales: Mapping[int, Matrix]) -> float:
        """Return what is left of the tensors that write and read a group, as they are computed."""
        left = 0.0
        for i in sorted({*self._writers(group, _NOTHING), *self._readers(group, _NOTHING)}):
            layer = self.a.layers[i]
            a, b = self._pair(i, "weight")
            b = b[:, :, self._columns(i, orders)]
            ours, theirs = np.ones(a.shape[1]), np.ones(a.shape[1])
            if layer.rows is not None:
                b = b[:, orders[layer.rows]]
                ours = self.norms[0][layer.rows]
                theirs = self.norms[1][layer.rows][orders[layer.rows]]
                theirs = theirs * scales.get(layer.rows, 1.0)
            if layer.columns:
                read = [
                    self.norms[0][g] / (self.norms[1][g][orders[g]] * scales.get(g, 1.0))
                    for g in layer.columns
                ]
                b = b * np.concatenate(read)[None, None, :, None]
            a, b = a * ours[None, :, None, None], b * theirs[None, :, None, None]
            left += float(np.sum((a - b) ** 2) / (np.sum(a**2) + 1e-300))
        return left


def is_one(seen: Agreement) -> bool:
    """Whether so much agreement tells relatives."""
    return seen.share >= LEAST_SHARE and seen.log10_p <= LEAST_LOG10_P


def _agreed(one: Order, other: Order) -> Agreement:
    """Compare the partners in a that two looks found for each of b's channels."""
    popular = np.bincount(one, minlength=len(one)) @ np.bincount(other, minlength=len(one))
    return Agreement(int(np.sum(one == other)), len(one), float(popular / len(one)))


def _sum(seen: Iterable[Agreement]) -> Agreement:
    total = Agreement(0, 0, 0.0)
    for one in seen:
        total += one
    return total
