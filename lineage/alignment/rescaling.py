"""Finds by what channels were multiplied where they are written and divided where they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment.looking import NOTHING, as_folded, as_matrix

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lineage.alignment.looking import Looks, Orders

    Matrix = NDArray[np.float64]

__all__ = ["scales"]

_FAR_BETTER, _LEAST_RESCALED = 0.5, 1e-4
"""Of what is left otherwise, what other scales must leave for channels to be called rescaled, and
the least spread of their logarithms."""

_RESCALED, _LEAST_TRAINED = 3.0, 0.05
"""How much more the norms of writing and reading must go against each other than together for
channels to be called rescaled after training, and the least spread of their logarithms."""

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
    if the two go against each other.
    """
    found: dict[int, Matrix] = {}
    for g in asked:
        readers = looks.readers(g, NOTHING)
        if not readers:
            continue
        up, is_gain = _written(looks, g, orders, asked)
        ours, theirs = _read(looks, readers, g, orders, asked)
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
    looks: Looks, group: int, orders: Orders, asked: Mapping[int, Matrix]
) -> tuple[Matrix, bool]:
    """Return logarithms of by what b's channels are written too small; whether by a norm."""
    i = looks.writers(group, NOTHING)[0]
    gains = [
        np.abs(c.arrays.whole(c.layers[i].parts["gain"].item)).astype(np.float64)
        for c in (looks.a, looks.b)
        if "var" in c.layers[i].parts and "gain" in c.layers[i].parts
    ]
    if len(gains) == 2:
        ours, theirs = gains
    else:
        a, b = (as_folded(c, c.layers[i]) for c in (looks.a, looks.b))
        if not looks.a.layers[i].columns:
            count = min(a.shape[2], b.shape[2])
            a, b = a[:, :, :count], b[:, :, :count]
        b = b[:, :, looks.columns(i, orders)[: b.shape[2]]]
        if looks.a.layers[i].columns:
            by = [asked.get(g, np.ones(len(orders[g]))) for g in looks.a.layers[i].columns]
            b = b / np.concatenate(by)[None, None, :, None]
        ours, theirs = (np.sqrt(np.sum(m**2, axis=(0, 2, 3))) for m in (a, b))
    ratio = np.maximum(ours, 1e-30) / np.maximum(theirs[orders[group]], 1e-30)
    return np.log(ratio), len(gains) == 2


def _read(
    looks: Looks, readers: Sequence[int], group: int, orders: Orders, asked: Mapping[int, Matrix]
) -> tuple[Matrix, Matrix]:
    """Return the squared norms of what reads channels, of a's and of b's in a's order.

    Rows of b are made as long as a's: what they were multiplied by is another group's, or is taken
    away again by a norm.
    """
    total = [np.zeros(looks.a.sizes[group]), np.zeros(looks.a.sizes[group])]
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
            b = b * (ours / np.maximum(theirs, 1e-30))[None, :, None, None]
        for k, m in enumerate((a, b)):
            total[k] += np.sum(m[:, :, at] ** 2, axis=(0, 1, 3)) / np.sum(a**2)
    return total[0], total[1]


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
