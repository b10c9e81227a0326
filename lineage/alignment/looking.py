"""Looks at the channels of two networks without a stream: what they read, and what reads them.

Both networks are brought to one form first: batch normalization folded into what it follows, every
channel's incoming weights of norm 1, so that neither shows in a comparison.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import linear_sum_assignment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from lineage.alignment.chain import Chain, Layer, Part

    Matrix = NDArray[np.float64]
    Order = NDArray[np.intp]
    Orders = dict[int, Order]
    Tensor = tuple[int, str]

__all__ = [
    "NOTHING", "Fit", "Look", "Looks", "as_folded", "as_matrix", "folding", "gathered", "stored",
]  # fmt: skip

NOTHING: frozenset[tuple[int, str]] = frozenset()


def stored(chain: Chain, part: Part) -> NDArray[np.float32]:
    """Return the values of a tensor, or of the part of one that is meant."""
    whole = chain.arrays.whole(part.item)
    return whole[part.within] if part.within else whole


def as_matrix(chain: Chain, part: Part) -> Matrix:
    """Return a tensor as gates by rows by channels by positions."""
    values = stored(chain, part).astype(np.float64)
    if part.is_turned:
        values = values.swapaxes(0, 1)
    rows = values.shape[0] // part.gates
    if part.positions > 1:
        if chain.is_last:
            values = values.reshape(rows, part.positions, -1).transpose(0, 2, 1)
        else:
            values = values.reshape(rows, -1, part.positions)
    found = values.reshape(part.gates, rows, values.shape[1], -1)
    return found if part.parts == 1 else _spread(found, part.parts)


def _spread(values: Matrix, parts: int) -> Matrix:
    """Write a convolution of some parts as one that reads all channels, most of them times 0."""
    _, rows, width, positions = values.shape
    found = np.zeros((1, parts, rows // parts, parts, width, positions))
    place = np.arange(parts)
    found[0, place, :, place] = values.reshape(parts, rows // parts, width, positions)
    return found.reshape(1, rows, parts * width, positions)


def gathered(values: Matrix, parts: int) -> Matrix:
    """Return what `as_matrix` spread of a convolution of some parts as it is stored."""
    _, rows, width, positions = values.shape
    place = np.arange(parts)
    cut = values.reshape(parts, rows // parts, parts, width // parts, positions)
    return cut[place, :, place].reshape(1, rows, width // parts, positions)


def folding(chain: Chain, layer: Layer) -> Matrix | None:
    """Return by what a layer's rows are multiplied when the norm behind it is folded into them."""
    if "var" not in layer.parts:
        return None
    var = chain.arrays.whole(layer.parts["var"].item).astype(np.float64)
    factor: Matrix = 1.0 / np.sqrt(np.maximum(var, 0) + chain.epsilon)
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


@dataclass(frozen=True, slots=True)
class Fit:
    """Which of b's channels are a's, and with which signs.

    Attributes:
        orders: Group -> for each of a's channels the place of b's.
        signs: Group -> what these are multiplied by, -1 or 1; groups of no -1 are left out.
    """

    orders: Orders
    signs: dict[int, Matrix] = field(default_factory=dict)

    def put(self, group: int, order: Order, signs: Matrix | None) -> None:
        """Take what was found of a group."""
        self.orders[group] = order
        self.signs.pop(group, None)
        if signs is not None:
            self.signs[group] = signs

    def is_same(self, group: int, order: Order, signs: Matrix | None) -> bool:
        """Whether that is what is known already."""
        known = self.signs.get(group)
        if (known is None) != (signs is None) or not np.array_equal(order, self.orders[group]):
            return False
        return known is None or signs is None or np.array_equal(known, signs)


@dataclass
class Look:
    """Cosines of b's channels (down) with a's (across), summed over tensors.

    Attributes:
        total: Of what stays as it is when a channel changes its sign.
        is_quiet: Whether tensors are seen along directions alone that data leave alone.
        parts: Of the channels, if they must stay together.
        signed: Of what changes its own with it; None where channels cannot.
        directions: That a quiet look has looked along.
    """

    total: Matrix
    is_quiet: bool = False
    parts: int = 1
    signed: Matrix | None = None
    directions: int = 0

    def add(
        self, a: Matrix, b: Matrix, changes: slice | None = None, *, is_inside: bool = True
    ) -> None:
        """Add the cosines of two tensors, a row for each channel.

        Args:
            a: Rows of a.
            b: Rows of b.
            changes: Which columns change their sign with the channel.
            is_inside: Whether the columns are channels, not labels.
        """
        if self.is_quiet:
            a, b = _quiet(a, b, is_inside=is_inside)
            self.directions += a.shape[1]
        by = _inverse(b)[:, None], _inverse(a)
        if self.signed is None or changes is None or changes == slice(0, a.shape[1]):
            whole = (b @ a.T) * by[0] * by[1]
            if self.signed is None or changes is None:
                self.total += whole
            else:
                self.signed += whole
            return
        part = b[:, changes] @ a[:, changes].T
        self.signed += part * by[0] * by[1]
        self.total += (b @ a.T - part) * by[0] * by[1]

    def __iadd__(self, other: Look) -> Look:
        """Add what another look saw."""
        self.total += other.total
        if self.signed is not None and other.signed is not None:
            self.signed += other.signed
        return self

    @property
    def best(self) -> Matrix:
        """What each pair agrees at most, with either sign."""
        return self.total if self.signed is None else self.total + np.abs(self.signed)

    def assigned(self) -> tuple[Order, Matrix | None]:
        """Return for each of a's channels the place of b's, and signs if any is -1.

        Parts of channels stay together.
        """
        if self.parts == 1:
            order = _assigned(self.best)
            if self.signed is None:
                return order, None
            turned = self.signed[order, np.arange(len(order))] < 0
            return order, np.where(turned, -1.0, 1.0) if turned.any() else None
        size = len(self.total) // self.parts
        blocks = self.total.reshape(self.parts, size, self.parts, size).transpose(2, 0, 3, 1)
        inner = [[_assigned(one.T) for one in row] for row in blocks]  # a's part, then b's
        place = np.arange(size)
        score = [
            [float(one[place, order].sum()) for one, order in zip(row, orders, strict=True)]
            for row, orders in zip(blocks, inner, strict=True)
        ]
        outer = _assigned(np.array(score).T)
        parts = [inner[to][came] + came * size for to, came in enumerate(outer)]
        return np.concatenate(parts), None


def _assigned(score: Matrix) -> Order:
    """Return for each of a's channels (across) the place of b's (down)."""
    rows, cols = linear_sum_assignment(-score)
    order = np.empty(len(rows), np.intp)
    order[cols] = rows
    return order


def _inverse(rows: Matrix) -> Matrix:
    """Return one over the norm of each row; of nothing 0."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    found: Matrix = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return found


def _unit(rows: Matrix) -> Matrix:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Matrix = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return found


def _quiet(a: Matrix, b: Matrix, *, is_inside: bool) -> tuple[Matrix, Matrix]:
    """Return the rows of both, of norm 1, along what directions the two together use least.

    Networks of one kind of data come to use some directions alike; what an initialisation left is
    in the others. What both use is used most by the two together, and of what one uses and the
    other does not nothing can agree: so neither alone tells which directions to leave out. Of all
    the two use none are seen beyond as many as one has: what sets relatives apart is quieter than
    what they share. As no row is told from another, rows in an order drawn by lot stay so.

    Args:
        a: Rows of a.
        b: Rows of b, the same or others.
        is_inside: Whether the columns are channels. Where they are labels, tokens or classes or
            places, data tell what each is for: of these more is left out, and all of few.
    """
    ours, theirs = _unit(a.astype(np.float64)), _unit(b.astype(np.float64))
    count = min(_rank(ours), _rank(theirs))
    least = int(count * (_USED_INSIDE if is_inside else _USED_BY_LABELS))
    if not is_inside and count < _LEAST_DIRECTIONS:
        least = count
    kept = _along_directions(np.concatenate([ours, theirs]))[:, least:count]
    return kept[: len(a)], kept[len(a) :]


def _rank(rows: Matrix) -> int:
    """Return how many directions rows use."""
    is_wide = rows.shape[0] <= rows.shape[1]
    squares = np.linalg.eigvalsh(rows @ rows.T if is_wide else rows.T @ rows)
    return int(np.sum(squares > _LEAST_VALUE**2 * squares[-1:]))


def _along_directions(rows: Matrix) -> Matrix:
    """Return rows along the directions that they use, the most used first.

    These are their right singular vectors. The products of a wide matrix's rows are few, so that
    their eigenvectors are found many times sooner.
    """
    is_wide = rows.shape[0] <= rows.shape[1]
    squares, vectors = np.linalg.eigh(rows @ rows.T if is_wide else rows.T @ rows)
    used = np.flatnonzero(squares > _LEAST_VALUE**2 * squares[-1:])[::-1]
    found: Matrix = vectors[:, used]
    return found * np.sqrt(squares[used]) if is_wide else rows @ found


_LEAST_VALUE, _LEAST_DIRECTIONS = 1e-5, 16
"""Of the largest singular value, from which a direction is used; so many of labels must be for some
of them to be left alone by data."""

_USED_INSIDE, _USED_BY_LABELS = 0.25, 0.6
"""Of directions those that data have used up, between channels and from labels to channels: set on
recurrent networks over bytes and on classifiers of digits, trained from other first weights."""


_KEPT = 1 << 25
"""Values of two networks up to which their tensors are kept as they are looked at."""


class Looks:
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
        ours, theirs = (_unit(m.reshape(len(m), -1)).reshape(*m.shape[:2], -1) for m in (a, b))
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
