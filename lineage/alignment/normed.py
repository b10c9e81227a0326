"""Rows that are rescaled in front of a norm, which takes it away again: found, and undone.

Batch normalization subtracts a mean, divides by the root of a variance and multiplies by a gain. So
a row may be multiplied by anything but nothing, if the mean is too, the variance is by its square,
and the gain changes its sign where the row did. What is added to the variance stays as it is:
var + e becomes (var + e) s^2 exactly, and var s^2 only nearly. Both are undone as they were done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment.base import EPSILON
from lineage.alignment.matrices import as_folded, as_matrix
from lineage.alignment.spared import told

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lineage.alignment.cosines import Orders
    from lineage.alignment.looking import Looks

    Array = NDArray[np.float64]

__all__ = ["InFront", "in_front", "told_epsilon", "undone"]

_FAR_BETTER = 0.5
"""Of what is left otherwise, what other lengths and signs of rows must leave to be taken."""

_NOTHING_LEFT, _LEAST_EXACT, _LEAST_TRAINED = 1e-9, 1e-4, 0.05
"""What is left, squared, as a share of a's, where there was no training; and the root mean square
of the scales' logarithms from which rows were rescaled, then and otherwise."""

_EPSILONS = (EPSILON, 1e-3, 0.0)
"""What norms may add to a variance, the commonest first: TensorFlow's own, and nothing, as of who
rescaled variances alone."""


@dataclass(frozen=True, slots=True)
class InFront:
    """By what b's rows in front of norms must be multiplied.

    Attributes:
        scales: The place of a layer -> one for each row, in a's order.
        epsilon: What the norms add to a variance.
    """

    scales: Mapping[int, Array] = field(default_factory=dict)
    epsilon: float = EPSILON


def in_front(looks: Looks, orders: Orders, scales: Mapping[int, Array]) -> InFront:
    """Find by what b's rows in front of norms must be multiplied, where they were rescaled.

    Args:
        looks: Both networks.
        orders: Which of b's channels each of a's is.
        scales: By what b's channels must be multiplied, of groups that were rescaled.
    """
    found: dict[int, Array] = {}
    pairs: dict[int, tuple[dict[str, Array], dict[str, Array]]] = {}
    for i in looks.used:
        if not all("var" in chain.layers[i].parts for chain in (looks.a, looks.b)):
            continue
        ours, theirs = pairs[i] = _values(looks, i, orders, scales)
        by = _asked(ours, theirs)
        before = _left(theirs["weight"], ours["weight"])
        after = _left(theirs["weight"] * by[:, None], ours["weight"])
        least = _LEAST_EXACT if after < _NOTHING_LEFT else _LEAST_TRAINED
        is_rescaled = bool((by < 0).any() or np.sqrt(np.mean(np.log(np.abs(by)) ** 2)) > least)
        if is_rescaled and after < _FAR_BETTER * before:
            found[i] = by
    epsilon = EPSILON
    if found:
        left = {e: _of_variances({i: pairs[i] for i in found}, found, e) for e in _EPSILONS}
        best = min(_EPSILONS, key=lambda e: left[e])
        epsilon = best if left[best] < _FAR_BETTER * left[EPSILON] else EPSILON
    return InFront(found, epsilon)


def told_epsilon(looks: Looks, orders: Orders) -> float:
    """Return what norms add to a variance, as rows tell it that one of the two has them folded in.

    Args:
        looks: Both networks.
        orders: Which of b's channels each of a's is.
    """
    left = dict.fromkeys(_EPSILONS, 0.0)
    for i in looks.used:
        layers = [chain.layers[i] for chain in (looks.a, looks.b)]
        has_norm = ["var" in layer.parts for layer in layers]
        rows = layers[0].rows
        if rows is None or has_norm[0] == has_norm[1]:
            continue
        for epsilon in _EPSILONS:
            ours, theirs = (
                np.sqrt(np.sum(as_folded(chain.adding(epsilon), layer) ** 2, axis=(0, 2, 3)))
                for chain, layer in zip((looks.a, looks.b), layers, strict=True)
            )
            left[epsilon] += float(np.var(np.log(_ratio(ours, theirs[orders[rows]]))))
    best = min(_EPSILONS, key=lambda e: left[e])
    return best if left[best] < _FAR_BETTER * left[EPSILON] else looks.a.epsilon


def undone(values: Mapping[str, Array], by: Array, epsilon: float) -> dict[str, Array]:
    """Return a layer's tensors and its norm's with rows multiplied that the norm divides again.

    Args:
        values: By role, rows along the second axis.
        by: A factor of either sign for each row. Where a variance would fall below nothing only the
            sign is taken.
        epsilon: What the norm adds to a variance.
    """
    by = np.where((values["var"][0] + epsilon) * by**2 < epsilon, np.sign(by), by)
    grown = (values["var"] + epsilon) * by**2 - epsilon
    found = {**values, "var": np.where(np.abs(by) == 1, values["var"], grown)}
    found["weight"] = values["weight"] * by[None, :, None, None]
    for role in {"bias", "mean", "gain"} & values.keys():
        found[role] = values[role] * (np.sign(by) if role == "gain" else by)
    return found


def _values(
    looks: Looks, layer: int, orders: Orders, scales: Mapping[int, Array]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return weight and norm of both networks, a row each, b's where a's are."""
    found = []
    for chain in (looks.a, looks.b):
        parts = chain.layers[layer].parts
        values = {
            role: chain.arrays.whole(parts[role].item).astype(np.float64)
            for role in ("mean", "var", "gain")
            if role in parts
        }
        found.append({**values, "weight": as_matrix(chain, parts["weight"])[0]})
    ours, theirs = found
    one = looks.a.layers[layer]
    weight = theirs["weight"][:, looks.columns(layer, orders)]
    if one.columns:
        by = [scales.get(g, np.ones(len(orders[g]))) for g in one.columns]
        weight = weight / np.concatenate(by)[None, :, None]
    theirs["weight"] = weight
    assert one.rows is not None
    theirs = {role: values[orders[one.rows]] for role, values in theirs.items()}
    for both in (ours, theirs):
        both["weight"] = both["weight"].reshape(len(both["weight"]), -1)
    return ours, theirs


def _asked(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> Array:
    """Return by what rows of b are as long as a's and point the same way.

    Variances tell the lengths where they were left alone by training, which rows never are; but if
    nothing else than an adapter was merged into rows, these do.
    """
    spared = told(*(one["weight"][:, None, None] for one in (ours, theirs)))
    if spared is not None and ("gain" in theirs or (spared.maps > 0).all()):
        lengths: Array = spared.maps[:, 0, 0]
        return lengths
    by_rows = _ratio(*(np.linalg.norm(one["weight"], axis=1) for one in (ours, theirs)))
    by_norm = _ratio(*(np.sqrt(np.maximum(one["var"], 0) + EPSILON) for one in (ours, theirs)))
    flips = np.sum(ours["weight"] * theirs["weight"], axis=1) < 0
    if "gain" in theirs:  # else nothing could undo a sign
        by_rows, by_norm = (np.where(flips, -by, by) for by in (by_rows, by_norm))

    def left(by: Array) -> float:
        off = _left(theirs["weight"] * by[:, None], ours["weight"])
        return off + _left(theirs["mean"] * by, ours["mean"]) if "mean" in ours else off

    found: Array = by_norm if left(by_norm) < left(by_rows) else by_rows
    return found


def _ratio(one: Array, other: Array) -> Array:
    found: Array = np.divide(one, other, out=np.ones_like(one), where=(one > 0) & (other > 0))
    return found


def _of_variances(
    pairs: Mapping[int, tuple[dict[str, Array], dict[str, Array]]],
    scales: Mapping[int, Array],
    epsilon: float,
) -> float:
    """Return what is left of all norms' variances if they add so much."""
    return sum(
        _left((theirs["var"] + epsilon) * scales[i] ** 2 - epsilon, ours["var"])
        for i, (ours, theirs) in pairs.items()
    )


def _left(values: Array, to: Array) -> float:
    return float(np.sum((values - to) ** 2) / (np.sum(to**2) + 1e-300))
