"""Looks at the channels of two networks without a stream: what they read, and what reads them.

Both networks are brought to one form first: batch normalization folded into what it follows, every
channel's incoming weights of norm 1, so that neither shows in a comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from lineage.alignment.base import EPSILON

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from lineage.alignment.chain import Chain, Layer, Part

    Matrix = NDArray[np.float64]
    Order = NDArray[np.intp]
    Orders = dict[int, Order]
    Tensor = tuple[int, str]

__all__ = ["NOTHING", "Look", "Looks", "as_folded", "as_matrix", "folding", "gathered"]

NOTHING: frozenset[tuple[int, str]] = frozenset()


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
class Look:
    """Cosines of b's channels (down) with a's (across), summed over tensors."""

    total: Matrix
    is_quiet: bool = False
    parts: int = 1

    def add(self, a: Matrix, b: Matrix) -> None:
        """Add the cosines of two tensors, a row for each channel."""
        if self.is_quiet:
            a, b = _quiet(a, b)
        self.total += _unit(b) @ _unit(a).T

    def assigned(self) -> Order:
        """Return for each of a's channels the place of b's; parts of channels stay together."""
        if self.parts == 1:
            return _assigned(self.total)
        size = len(self.total) // self.parts
        blocks = self.total.reshape(self.parts, size, self.parts, size).transpose(2, 0, 3, 1)
        inner = [[_assigned(one.T) for one in row] for row in blocks]  # a's part, then b's
        place = np.arange(size)
        score = [
            [float(one[place, order].sum()) for one, order in zip(row, orders, strict=True)]
            for row, orders in zip(blocks, inner, strict=True)
        ]
        outer = _assigned(np.array(score).T)
        return np.concatenate([inner[to][came] + came * size for to, came in enumerate(outer)])


def _assigned(score: Matrix) -> Order:
    """Return for each of a's channels (across) the place of b's (down)."""
    rows, cols = linear_sum_assignment(-score)
    order = np.empty(len(rows), np.intp)
    order[cols] = rows
    return order


def _unit(rows: Matrix) -> Matrix:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Matrix = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return found


def _quiet(a: Matrix, b: Matrix) -> tuple[Matrix, Matrix]:
    """Return both along the half of directions that a's channels use least, in float64.

    Networks of one kind of data come to use some directions alike; what an initialisation left is
    in the others.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    directions = _directions(_unit(a))
    if len(directions) < _LEAST_DIRECTIONS:
        return a, b
    kept = directions[len(directions) // 2 :]
    return a @ kept.T, b @ kept.T


def _directions(rows: Matrix) -> Matrix:
    """Return the directions that rows use, the most used first: orthonormal, a row each.

    They are the right singular vectors. The products of a wide matrix's rows are few, so that their
    eigenvectors are found many times sooner.
    """
    is_wide = rows.shape[0] <= rows.shape[1]
    squares, vectors = np.linalg.eigh(rows @ rows.T if is_wide else rows.T @ rows)
    used = squares > _LEAST_VALUE**2 * squares[-1:]
    vectors = vectors[:, used][:, ::-1].T
    return vectors @ rows / np.sqrt(squares[used][::-1, None]) if is_wide else vectors


_LEAST_VALUE, _LEAST_DIRECTIONS = 1e-5, 16
"""Of the largest singular value, from which a direction is used; so many must be for half of them
to be left out."""


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
        self.gates: dict[int, tuple[int, ...]] = {}
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

    def _single(self, layer: int, role: str) -> tuple[Any, Any]:
        """Return the same in float32."""
        return self._in_order(layer, *(both[layer][role] for both in self._singles))

    def _in_order(self, layer: int, a: Any, b: Any) -> tuple[Any, Any]:
        order = self.gates.get(layer)
        return a, (b if order is None else b[list(order)])

    def incoming(
        self,
        layers: Iterable[int],
        group: int,
        orders: Orders,
        half: int | None = None,
        *,
        is_quiet: bool = False,
    ) -> Look:
        """Look at what channels read; by halves at every other channel of it, or position."""
        look = self.look(group, is_quiet=is_quiet)
        for i in layers:
            a, b = self._single(i, "weight")
            b = b[:, :, self.columns(i, orders)]
            if half is not None and a.shape[2] > 1:
                a, b = a[:, :, half::2], b[:, :, half::2]
            elif half is not None:
                a, b = a[..., half::2], b[..., half::2]
            look.add(*(np.swapaxes(m, 0, 1).reshape(m.shape[1], -1) for m in (a, b)))
        return look

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
        orders: Orders,
        left_out: frozenset[Tensor] = frozenset(),
        *,
        is_quiet: bool = False,
    ) -> Look:
        """Look at what reads channels; of a tensor that is left out by half, at half of them."""
        look = self.look(group, is_quiet=is_quiet)
        for i in layers:
            a, b = self._single(i, "weight")
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

    def own(
        self, group: int, orders: Orders, layers: Iterable[int], *, is_quiet: bool = False
    ) -> Look:
        """Look at what recurrent layers' units tell each other, but not themselves."""
        look = self.look(group, is_quiet=is_quiet)
        for i in layers:
            a, b = (m[..., 0].copy() for m in self._single(i, "recurrent"))
            for m in (a, b):
                m[:, np.arange(m.shape[1]), np.arange(m.shape[1])] = 0
            order = orders[group]
            look.add(*(np.swapaxes(m, 0, 1).reshape(m.shape[1], -1) for m in (a, b[:, :, order])))
            look.add(*(np.moveaxis(m, 2, 0).reshape(m.shape[1], -1) for m in (a, b[:, order])))
        return look

    def look(self, group: int, *, is_quiet: bool = False) -> Look:
        """Return a look at a group that has seen nothing yet."""
        size = self.a.sizes[group]
        return Look(np.zeros((size, size)), is_quiet, self._parts.get(group, 1))

    def place(self, layer: int, group: int) -> slice:
        """Return which of a layer's columns a group is."""
        columns = self.a.layers[layer].columns
        start = sum(self.a.sizes[g] for g in columns[: columns.index(group)])
        return slice(start, start + self.a.sizes[group])
