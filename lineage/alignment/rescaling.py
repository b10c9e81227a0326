"""Finds by what channels were multiplied where they are written and divided where they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment.looking import NOTHING
from lineage.alignment.matrices import as_folded, as_matrix
from lineage.alignment.spared import told

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from lineage.alignment.cosines import Orders
    from lineage.alignment.looking import Looks

    Matrix = NDArray[np.float64]
    Order = NDArray[np.intp]

__all__ = ["scales"]

_FAR_BETTER, _LEAST_RESCALED = 0.5, 1e-4
"""Of what is left otherwise, what other scales must leave for channels to be called rescaled, and
the least spread of their logarithms."""

_RESCALED, _LEAST_TRAINED = 3.0, 0.05
"""How much more the norms of writing and reading must go against each other than together for
channels to be called rescaled after training, and the least spread of their logarithms."""

_ROUNDS, _UNTOUCHED = 8, 1e-4
"""How often scales are asked of ends that were left untouched, at most, each time with those of the
neighbours; and what is left of such ends, as a share of their norm."""

_NOTHING_LEFT = 1e-6
"""Squared, as a share of a's: what is left where nothing but coordinates were changed."""


def scales(looks: Looks, orders: Orders) -> dict[int, Matrix]:
    """Find by what b's channels must be multiplied, of groups that were rescaled.

    Asked is what makes them as long as a's; it is taken where it leaves far less. If anything
    is left then, there was training, and it is asked more carefully.
    """
    asked = {
        g: looks.norms[0][g] / looks.norms[1][g][orders[g]]
        for g in looks.plain
        if g not in looks.a.recurrent | looks.a.normed and g in looks.norms[0]
    }
    taken = _taken(looks, asked, orders)
    left = {g: _left(looks, g, orders, taken) for g in looks.plain}
    if all(one < _NOTHING_LEFT for one in left.values()):
        return taken
    return _after_training(looks, orders, asked)


def _taken(looks: Looks, asked: Mapping[int, Matrix], orders: Orders) -> dict[int, Matrix]:
    """Return those scales that leave far less than none."""
    taken = {g: s for g, s in asked.items() if np.std(np.log(s)) > _LEAST_RESCALED}
    for _ in range(2):
        for g in [g for g in asked if np.std(np.log(asked[g])) > _LEAST_RESCALED]:
            others = {k: s for k, s in taken.items() if k != g}
            without = _left(looks, g, orders, others)
            if _left(looks, g, orders, {**others, g: asked[g]}) < _FAR_BETTER * without:
                taken[g] = asked[g]
            else:
                taken.pop(g, None)
    return taken


def _after_training(looks: Looks, orders: Orders, asked: Mapping[int, Matrix]) -> dict[int, Matrix]:
    """Return scales as what writes and what reads channels tell them, each as it is stored.

    Training changes both the same way or only a little, so channels are called rescaled only
    if the two go against each other. If one end of every group was left untouched, as where an
    adapter was merged into some layers, these ends tell the scales.
    """
    found = _untouched(looks, orders, asked)
    if found is None:
        found = {g: _between(up, down) for g, up, down in _ends(looks, orders, asked)}
    return {g: scale for g, scale in found.items() if scale is not None}


def _untouched(
    looks: Looks, orders: Orders, asked: Mapping[int, Matrix]
) -> dict[int, Matrix | None] | None:
    """Return scales as ends tell them that were left untouched; None if not every group has one."""
    known = dict(asked)
    found: dict[int, Matrix | None] = {}
    for _ in range(_ROUNDS):
        missing = 0
        count = len(found)
        for g, up, down in _ends(looks, orders, known):
            best = min(up, down, key=lambda end: end.off)
            if best.off > _UNTOUCHED:
                missing += 1
                continue
            scale = np.exp(up.by if best is up else -down.by)
            found[g] = None if _between(up, down) is None else scale
            known[g] = np.ones_like(scale) if found[g] is None else scale
        if not missing:
            return found
        if len(found) == count:
            return None
    return None


def _ends(
    looks: Looks, orders: Orders, known: Mapping[int, Matrix]
) -> Iterator[tuple[int, _End, _End]]:
    """Yield groups and what tensors tell that write and that read them, if others are known."""
    for g in list(known):
        readers = looks.readers(g, NOTHING)
        if readers:
            up = _written(looks, g, orders, known)
            yield g, up, _read(looks, readers, g, orders, known)


@dataclass(frozen=True, slots=True)
class _End:
    """What tensors at one end of a group's channels tell.

    Attributes:
        by: Logarithms of by what b's channels are too small, or read too little.
        off: What such factors leave of the tensors, as a share of their norm.
        is_gain: Whether it is a norm's gain.
    """

    by: Matrix
    off: float
    is_gain: bool = False


def _between(up: _End, down: _End) -> Matrix | None:
    """Return by what channels were multiplied; None if both ends do not tell the same."""
    against, together = np.std(up.by - down.by), np.std(up.by + down.by)
    if against < _LEAST_TRAINED or against < _RESCALED * together:
        return None
    both: Matrix = (up.by - down.by) / 2
    if up.is_gain:  # its size is not that of the weights, which training changes
        both += np.median(up.by) - np.median(both)
    return np.exp(both)


def _written(looks: Looks, group: int, orders: Orders, asked: Mapping[int, Matrix]) -> _End:
    """Return what the layer that writes channels, or its norm, tells of their scales."""
    i = looks.writers(group, NOTHING)[0]
    if all({"var", "gain"} <= c.layers[i].parts.keys() for c in (looks.a, looks.b)):
        return _gained(looks, i, orders[group])
    a, b = (as_folded(c, c.layers[i]) for c in (looks.a, looks.b))
    if not looks.a.layers[i].columns:
        count = min(a.shape[2], b.shape[2])
        a, b = a[:, :, :count], b[:, :, :count]
    b = b[:, :, looks.columns(i, orders)[: b.shape[2]]][:, orders[group]]
    if looks.a.layers[i].columns:
        by = [asked.get(g, np.ones(len(orders[g]))) for g in looks.a.layers[i].columns]
        b = b / np.concatenate(by)[None, None, :, None]
    rows = [np.moveaxis(m, 1, 0).reshape(m.shape[1], 1, 1, -1) for m in (a, b)]
    spared = told(*rows)
    if spared is not None and (spared.maps > 0).all():  # nothing but an adapter was merged
        return _End(np.log(spared.maps[:, 0, 0]), float(np.sqrt(spared.left)))
    ours, theirs, both = (np.sum(x * y, axis=(1, 2, 3)) for x, y in _products(*rows))
    return _End(_ratio(ours, theirs), _off(ours, theirs, both))


def _gained(looks: Looks, layer: int, order: Order) -> _End:
    """Return what gains tell; and how far off the shifts are then."""
    of = [
        {
            role: c.arrays.whole(c.layers[layer].parts[role].item).astype(np.float64)
            for role in ("gain", "shift")
            if role in c.layers[layer].parts
        }
        for c in (looks.a, looks.b)
    ]
    by = _ratio(of[0]["gain"] ** 2, of[1]["gain"][order] ** 2)
    if any("shift" not in one for one in of):
        return _End(by, 1.0, is_gain=True)
    ours, theirs = of[0]["shift"], of[1]["shift"][order] * np.exp(by)
    off = float(np.linalg.norm(ours - theirs) / (np.linalg.norm(ours) + 1e-30))
    return _End(by, off, is_gain=True)


def _read(
    looks: Looks, readers: Sequence[int], group: int, orders: Orders, asked: Mapping[int, Matrix]
) -> _End:
    """Return what the layers that read channels tell of their scales.

    Rows of b are made as long as a's: what they were multiplied by is another group's, or is taken
    away again by a norm.
    """
    total = np.zeros((3, looks.a.sizes[group]))
    for i in readers:
        a, b = (as_matrix(c, c.layers[i].parts["weight"]) for c in (looks.a, looks.b))
        layer = looks.a.layers[i]
        at = looks.place(i, group)
        b = b[:, :, looks.columns(i, orders)]
        if layer.rows is None:
            count = min(a.shape[1], b.shape[1])
            a, b = a[:, :count], b[:, :count]
        else:
            b = b[:, orders[layer.rows]]
            by = [asked.get(g, np.ones(len(orders[g]))) for g in layer.columns]
            moved = b / np.concatenate(by)[None, None, :, None]
            ours, theirs = (np.sqrt(np.sum(m**2, axis=(0, 2, 3))) for m in (a, moved))
            signs = np.sign(np.sum(a * moved, axis=(0, 2, 3)))
            b = b * (signs * ours / np.maximum(theirs, 1e-30))[None, :, None, None]
        a, b = a[:, :, at], b[:, :, at]
        sums = [np.sum(x * y, axis=(0, 1, 3)) for x, y in _products(a, b)]
        total += np.stack(sums) / np.sum(a**2)
    return _End(_ratio(total[0], total[1]), _off(*total))


def _products(a: Matrix, b: Matrix) -> tuple[tuple[Matrix, Matrix], ...]:
    return (a, a), (b, b), (a, b)


def _ratio(ours: Matrix, theirs: Matrix) -> Matrix:
    """Return the logarithms of how much longer a's are than b's, of squared norms."""
    found: Matrix = np.log(np.maximum(ours, 1e-60) / np.maximum(theirs, 1e-60)) / 2
    return found


def _off(ours: Matrix, theirs: Matrix, both: Matrix) -> float:
    """Return the sine between a channel's weights in a and in b: that of the middle channel."""
    cosines = both**2 / np.maximum(ours * theirs, 1e-60)
    return float(np.sqrt(max(0.0, 1 - np.median(cosines))))


def _left(looks: Looks, group: int, orders: Orders, scales: Mapping[int, Matrix]) -> float:
    """Return what is left of the tensors that write and read a group, as they are computed."""
    left = 0.0
    for i in sorted({*looks.writers(group, NOTHING), *looks.readers(group, NOTHING)}):
        layer = looks.a.layers[i]
        a, b = looks.pair(i, "weight")
        b = b[:, :, looks.columns(i, orders)]
        ours, theirs = np.ones(a.shape[1]), np.ones(a.shape[1])
        if layer.rows is not None:
            b = b[:, orders[layer.rows]]
            ours = looks.norms[0][layer.rows]
            theirs = looks.norms[1][layer.rows][orders[layer.rows]]
            theirs = theirs * scales.get(layer.rows, 1.0)
        if layer.columns:
            read = [
                looks.norms[0][g] / (looks.norms[1][g][orders[g]] * scales.get(g, 1.0))
                for g in layer.columns
            ]
            b = b * np.concatenate(read)[None, None, :, None]
        a, b = a * ours[None, :, None, None], b * theirs[None, :, None, None]
        left += float(np.sum((a - b) ** 2) / (np.sum(a**2) + 1e-300))
    return left
