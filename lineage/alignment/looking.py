"""Looks at the channels of two networks without a stream: what they read, and what reads them.

Both networks are brought to one form first (`matrices`), so that norms and lengths do not show.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from lineage.alignment.cosines import Fit, Look, unit
from lineage.alignment.matrices import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from lineage.alignment.chain import Chain

    Matrix = NDArray[np.float64]
    Order = NDArray[np.intp]
    Orders = dict[int, Order]
    Tensor = tuple[int, str]

__all__ = ["NOTHING", "Looks"]

NOTHING: frozenset[tuple[int, str]] = frozenset()

_KEPT = 1 << 25
"""Values of two networks up to which their tensors are kept as they are looked at."""


class Looks:
    """Holds the layers of two networks against each other."""

    def __init__(self, a: Chain, b: Chain, used: Sequence[int]) -> None:
        self.a, self.b = a, b
        norms: tuple[dict[int, Matrix], dict[int, Matrix]] = ({}, {})
        self.ours, self.theirs = canonical(a, norms[0]), canonical(b, norms[1])
        self.norms = norms
        self.used = used
        for i in used:  # of more tokens the first
            if a.layers[i].kind == "embedding" or a.layers[i].rows is None:
                axis = 2 if a.layers[i].kind == "embedding" else 1
                both = self.ours[i], self.theirs[i]
                count = min(m["weight"].shape[axis] for m in both)
                for m in both:
                    m["weight"] = m["weight"][:, :, :count] if axis == 2 else m["weight"][:, :count]
        self._singles = tuple(  # cosines need no more, and are found in half of the time
            [{role: one.astype(np.float32) for role, one in m.items()} for m in both]
            for both in (self.ours, self.theirs)
        )
        self._shaped: dict[tuple[int, str, str, tuple[int, ...] | None], tuple[Any, Any]] = {}
        self._keeps = 2 * sum(m[role].size for m in self.ours for role in m) <= _KEPT
        self.gates: dict[int, tuple[int, ...]] = {}
        self.candidates = {
            i: a.layers[i].candidate for i in used if a.layers[i].kind == "recurrent"
        }
        self.flips = _flipped(a, used)
        self.plain = {g: np.arange(size) for g, size in enumerate(a.sizes)}
        self.looks = [(i, role) for i in used for role in self.ours[i]]
        self._parts = {
            group: part.parts
            for i in used
            for part in a.layers[i].parts.values()
            for group in (part.rows, *part.columns)
            if part.parts > 1 and group is not None
        }

    def writers(self, group: int, left_out: frozenset[Tensor]) -> list[int]:
        """Return the layers whose rows are a group, but those left out."""
        layers = self.a.layers
        return [i for i in self.used if layers[i].rows == group and (i, "weight") not in left_out]

    def readers(self, group: int, left_out: frozenset[Tensor]) -> list[int]:
        """Return the layers of whose columns some are a group, but those left out."""
        layers = self.a.layers
        return [
            i for i in self.used if group in layers[i].columns and (i, "weight") not in left_out
        ]

    def pair(self, layer: int, role: str) -> tuple[Matrix, Matrix]:
        """Return a tensor of both, b's gates in a's order."""
        return self._in_order(layer, self.ours[layer][role], self.theirs[layer][role])

    def _laid(self, layer: int, role: str, way: str) -> tuple[Any, Any]:
        """Return a tensor of both in float32, b's gates in a's order.

        Args:
            layer: Its place.
            role: `weight` or `recurrent`, of whose units none tells itself anything.
            way: `rows`: rows by gates by columns by positions; `columns`: these first, then gates.
        """
        key = (layer, role, way, self.gates.get(layer))
        if key in self._shaped:
            return self._shaped[key]
        made = []
        for one in self._in_order(layer, *(both[layer][role] for both in self._singles)):
            found = np.ascontiguousarray(np.moveaxis(one, 1 if way == "rows" else 2, 0))
            if role == "recurrent":
                found = found.copy()
                every = np.arange(len(found))
                found[every, :, every] = 0
            made.append(found)
        if self._keeps:
            self._shaped[key] = made[0], made[1]
        return made[0], made[1]

    def _in_order(self, layer: int, a: Any, b: Any) -> tuple[Any, Any]:
        order = self.gates.get(layer)
        return a, (b if order is None else b[list(order)])

    def signed_rows(
        self, layer: int, values: Any, signs: Matrix | None, *, gates: int = 0, rows: int = 1
    ) -> Any:
        """Return a tensor with its rows' signs; of several gates only the candidate has them.

        Args:
            layer: Its place.
            values: The tensor.
            signs: One a row; None for none.
            gates: The axis of the gates.
            rows: And that of the rows.
        """
        if signs is None:
            return values
        by = signs.astype(values.dtype).reshape(
            *(-1 if axis == rows else 1 for axis in range(values.ndim))
        )
        gate = self.candidates.get(layer)
        if gate is None or values.shape[gates] == 1:
            return values * by
        found = values.copy()
        where = (slice(None),) * gates + (slice(gate, gate + 1),)
        found[where] *= by
        return found

    def _places(self, groups: Sequence[int], fit: Fit) -> Order:
        starts = np.cumsum([0, *(self.a.sizes[g] for g in groups)])
        return np.concatenate([fit.orders[g] + at for g, at in zip(groups, starts, strict=False)])

    def _signs(self, groups: Sequence[int], fit: Fit) -> NDArray[np.float32] | None:
        if not fit.signs.keys() & set(groups):
            return None
        ones = [fit.signs.get(g, np.ones(self.a.sizes[g])) for g in groups]
        return np.concatenate(ones).astype(np.float32)

    def incoming(
        self,
        layers: Iterable[int],
        group: int,
        fit: Fit,
        half: int | None = None,
        *,
        is_quiet: bool = False,
    ) -> Look:
        """Look at what channels read; by halves at every other channel of it, or position."""
        look = self.look(group, is_quiet=is_quiet)
        for i in layers:
            a, b = self._read(i, fit)
            if is_quiet:
                b = self.signed_rows(i, b, _back(fit, group), gates=1, rows=0)
            if half is not None and a.shape[2] > 1:
                a, b = a[:, :, half::2], b[:, :, half::2]
            elif half is not None:
                a, b = a[..., half::2], b[..., half::2]
            width = a.shape[2] * a.shape[3]
            x, y = (m.reshape(len(m), -1) for m in (a, b))
            look.add(x, y, self._changing(i, width), is_inside=self.is_inside(i))
        return look

    def _read(self, layer: int, fit: Fit) -> tuple[Any, Any]:
        """Return a layer's rows, what b's read in a's order and with a's signs."""
        a, b = self._laid(layer, "weight", "rows")
        columns = self.a.layers[layer].columns
        if columns:
            b = b[:, :, self._places(columns, fit)]
            by = self._signs(columns, fit)
            b = b if by is None else b * by[:, None]
        return a, b

    def gate_by_gate(self, layer: int, fit: Fit) -> list[list[Matrix]]:
        """Return how well each of a's gates fits each of b's, channels across and down."""
        a, b = self._read(layer, fit)
        ours, theirs = (unit(m.reshape(len(m), -1)).reshape(*m.shape[:2], -1) for m in (a, b))
        gates = range(a.shape[1])
        return [[theirs[:, came] @ ours[:, to].T for came in gates] for to in gates]

    def _changing(self, layer: int, width: int) -> slice | None:
        """Return which columns of a layer's rows, gate by gate, change their sign with a channel.

        Args:
            layer: Its place.
            width: Columns of a gate.
        """
        gate = self.candidates.get(layer, 0)
        return slice(gate * width, (gate + 1) * width)

    def columns(self, layer: int, orders: Orders) -> Order:
        """Return the places of b's columns in a's order."""
        parts, start = [], 0
        for group in self.a.layers[layer].columns:
            parts.append(orders[group] + start)
            start += len(orders[group])
        if not parts:
            return np.arange(self.ours[layer]["weight"].shape[2])
        return np.concatenate(parts)

    def outgoing(
        self,
        layers: Iterable[int],
        group: int,
        fit: Fit,
        left_out: frozenset[Tensor] = frozenset(),
        *,
        is_quiet: bool = False,
    ) -> Look:
        """Look at what reads channels; of a tensor that is left out by half, at half of them."""
        look = self.look(group, is_quiet=is_quiet)
        for i in layers:
            rows = self.a.layers[i].rows
            a, b = self._laid(i, "weight", "columns")
            for one in set(self.a.layers[i].columns) & {group}:
                at = self.place(i, one)
                x, y = a[at], b[at]
                if rows is not None:
                    y = y[:, :, fit.orders[rows]]
                    y = self.signed_rows(i, y, fit.signs.get(rows), gates=1, rows=2)
                x, y = (m.reshape(len(m), -1) for m in (x, y))
                if (i, "half") in left_out:
                    x, y = x.copy(), y.copy()
                    x[1 - at.start % 2 :: 2] = 0
                    y[fit.orders[group][1 - at.start % 2 :: 2]] = 0
                if is_quiet and (back := _back(fit, group)) is not None:
                    y = y * back.astype(y.dtype)[:, None]
                look.add(x, y, slice(0, x.shape[1]), is_inside=rows is not None)
        return look

    def own(self, group: int, fit: Fit, layers: Iterable[int], *, is_quiet: bool = False) -> Look:
        """Look at what recurrent layers' units tell each other, but not themselves."""
        look = self.look(group, is_quiet=is_quiet)
        order, signs = fit.orders[group], fit.signs.get(group)
        back = _back(fit, group) if is_quiet else None
        for i in layers:
            a, b = self._laid(i, "recurrent", "rows")
            b = b[:, :, order]
            if signs is not None:
                b = b * signs.astype(np.float32)[:, None]
            b = self.signed_rows(i, b, back, gates=1, rows=0)
            x, y = (m.reshape(len(m), -1) for m in (a, b))
            look.add(x, y, self._changing(i, a.shape[2]))
            a, b = self._laid(i, "recurrent", "columns")
            b = self.signed_rows(i, b[:, :, order], signs, gates=1, rows=2)
            if back is not None:
                b = b * back.astype(np.float32)[:, None, None, None]
            x, y = (m.reshape(len(m), -1) for m in (a, b))
            look.add(x, y, slice(0, x.shape[1]))
        return look

    def signed(self, fit: Fit) -> Looks:
        """Return the same with the signs of a's channels in what `pair` gives of b."""
        found = copy(self)
        found.theirs = [
            {role: self._with_signs(i, role, values, fit) for role, values in matrices.items()}
            for i, matrices in enumerate(self.theirs)
        ]
        return found

    def _with_signs(self, layer: int, role: str, values: Matrix, fit: Fit) -> Matrix:
        """Return a tensor of b with a's signs, where it is in b."""
        one = self.a.layers[layer]
        columns = one.columns if role == "weight" else (() if one.rows is None else (one.rows,))
        backs = [_back(fit, group) for group in columns]
        if any(back is not None for back in backs):
            sizes = [self.a.sizes[group] for group in columns]
            by = [np.ones(n) if o is None else o for o, n in zip(backs, sizes, strict=True)]
            values = values * np.concatenate(by)[:, None]
        back = None if one.rows is None else _back(fit, one.rows)
        if back is None:
            return values
        order = self.gates.get(layer, range(len(values)))
        found: Matrix = self.signed_rows(layer, values[list(order)], back)[np.argsort(order)]
        return found

    def look(self, group: int, *, is_quiet: bool = False) -> Look:
        """Return a look at a group that has seen nothing yet."""
        size = self.a.sizes[group]
        signed = np.zeros((size, size)) if group in self.flips and not is_quiet else None
        return Look(np.zeros((size, size)), is_quiet, self._parts.get(group, 1), signed)

    def is_inside(self, layer: int) -> bool:
        """Whether a layer's weight has channels at both ends, and at neither labels."""
        one = self.a.layers[layer]
        return one.rows is not None and bool(one.columns)

    def place(self, layer: int, group: int) -> slice:
        """Return which of a layer's columns a group is."""
        columns = self.a.layers[layer].columns
        start = sum(self.a.sizes[g] for g in columns[: columns.index(group)])
        return slice(start, start + self.a.sizes[group])


def _back(fit: Fit, group: int) -> Matrix | None:
    """Return a group's signs in b's order; None if there are none."""
    if group not in fit.signs:
        return None
    found = np.empty(len(fit.orders[group]))
    found[fit.orders[group]] = fit.signs[group]
    return found


def _flipped(chain: Chain, used: Sequence[int]) -> frozenset[int]:
    """Return the groups whose channels may change their sign.

    Those of recurrent layers may, and in a network that has some those of linear ones: both go
    through tanh, which is odd, or are read as they are. Norms have gains that do the same.
    """
    if not chain.recurrent:
        return frozenset()
    writers: dict[int, set[str]] = {}
    for i in used:
        layer = chain.layers[i]
        if layer.rows is not None:
            kind = "normed" if "var" in layer.parts or "gain" in layer.parts else layer.kind
            writers.setdefault(layer.rows, set()).add(kind)
    return frozenset(g for g, kinds in writers.items() if kinds <= {"recurrent", "linear"})
