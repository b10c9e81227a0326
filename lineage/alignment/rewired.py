"""Writes one network without a stream in another's coordinates: channels, gates, scales, norms.

Nothing that the network computes is changed by it. Where one of the two has a norm folded into its
layer and the other has not, the written one is as the other: folded, or with the other's norm taken
out of its weights again.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from lineage.alignment.labelled import in_order
from lineage.alignment.made import Made
from lineage.alignment.matrices import as_matrix, folding, gathered, stored
from lineage.alignment.normed import undone
from lineage.artifacts import Artifact, Item

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lineage.alignment.base import ChainAlignment
    from lineage.alignment.chain import Chain, Layer, Part

    Array = NDArray[np.float64]

__all__ = ["rewired"]

_FAR_BETTER = 0.5
"""Of what is left otherwise, what a layer's other form must leave to be taken."""

_NORM = ("gain", "shift", "mean", "var")


def rewired(a: Chain, b: Chain, found: ChainAlignment) -> Artifact:
    """Return b in a's coordinates, as far as the alignment tells; tensors are made when read.

    Args:
        a: The network whose coordinates are taken.
        b: The one that is written.
        found: `solved(a, b)`.

    Returns:
        An artifact of b's names, its floating tensors in float32; norms as a has them, and
        recurrent layers as a packs them, under its names, where one of the two has ONNX's W, R, B.
    """
    other = b if found.tokens is None else in_order(b, found.tokens)
    ours, theirs = (
        chain.laid(last=found.is_last, swapped=found.is_swapped).adding(found.epsilon)
        for chain in (a, other)
    )
    writer = _Writer(ours, theirs, found)
    items = dict(b.arrays.items)
    for layer in b.layers:
        for part in layer.parts.values():
            items.pop(part.item.name, None)
    places: dict[str, list[tuple[int, str]]] = {}
    for i in range(len(b.layers)):
        for role, part in writer.roles(i).items():
            places.setdefault(part.item.name, []).append((i, role))
            shape, name = part.item.shape, part.item.name
            made = Made(partial(writer.tensor, shape, tuple(places[name])))
            items[name] = Item(name, "F32", shape, 4 * prod(shape), made)
    for norm in writer.b.norms:
        for part in norm.parts.values():
            made = Made(partial(writer.vector, part))
            items[part.item.name] = Item(
                part.item.name, "F32", part.shape, 4 * prod(part.shape), made
            )
    return Artifact("aligned", tuple(items[name] for name in sorted(items)))


class _Writer:
    """Makes tensors of b in a's coordinates."""

    def __init__(self, a: Chain, b: Chain, found: ChainAlignment) -> None:
        self.a, self.b, self.found = a, b, found

    def roles(self, i: int) -> dict[str, Part]:
        """Return the tensors that a written layer has, by role, and where it is in them."""
        ours, theirs = self.a.layers[i], self.b.layers[i]
        found = dict(theirs.parts)
        if _is_folded(theirs) and not _is_folded(ours):  # it has a norm that a has not
            bias = found.get("bias", ours.parts.get("bias"))
            found = {role: part for role, part in found.items() if role not in _NORM}
            if bias is not None:
                found["bias"] = bias
        elif _is_folded(ours) and not _is_folded(theirs):
            if "bias" not in ours.parts:
                found.pop("bias", None)
            found |= {role: ours.parts[role] for role in _NORM if role in ours.parts}
        elif _is_packed(ours) != _is_packed(theirs) and found.keys() == ours.parts.keys():
            found = dict(ours.parts)
        return found

    def tensor(
        self, shape: tuple[int, ...], places: Sequence[tuple[int, str]]
    ) -> NDArray[np.float32]:
        """Return one tensor as it is stored, of which each of some roles is the whole or a part."""
        whole = np.zeros(shape, np.float32)
        for i, role in places:
            part = self.roles(i)[role]
            whole[part.within] = _stored(self.b, part, self._layer(i)[role])
        return whole

    def vector(self, part: Part) -> NDArray[np.float32]:
        """Return one that is no layer's, with its channels in a's order."""
        values = stored(self.b, part).reshape(-1)
        starts = np.cumsum([0, *(self.b.sizes[group] for group in part.columns)])
        orders = [self.found.groups[group].order for group in part.columns]
        order = np.concatenate([one + at for one, at in zip(orders, starts, strict=False)])
        return np.asarray(values[order], np.float32).reshape(part.shape)

    def _layer(self, i: int) -> dict[str, Array]:
        """Return all tensors of a layer, matrices as gates by rows by channels by positions."""
        ours, theirs = self.a.layers[i], self.b.layers[i]
        values = {role: self._moved(theirs, role, part) for role, part in theirs.parts.items()}
        mine = {role: _values(self.a, part) for role, part in ours.parts.items()}
        if any(values[r].shape != mine[r].shape for r in values if r in mine):
            return values  # another head: only what it reads was moved
        if _is_folded(theirs) and not _is_folded(ours):
            return self._folded(values, folding(self.b, theirs), theirs)
        if _is_folded(ours) and not _is_folded(theirs):
            factor = folding(self.a, ours)
            assert factor is not None
            return _unfolded(values, mine, factor)
        if _is_folded(ours) and i in self.found.before:
            values = undone(values, self.found.before[i], self.found.epsilon)
        if "bias_hh" in values and "bias_hh" in mine and "bias" in values and "bias" in mine:
            split = dict(values)
            split["bias"] = values["bias"] + values["bias_hh"] - mine["bias_hh"]
            split["bias_hh"] = mine["bias_hh"]
            values = _nearer(values, split, mine)
        return values

    def _moved(self, layer: Layer, role: str, part: Part) -> Array:
        values = _values(self.b, part)
        gates = self.found.gates
        if gates is not None and part.gates == len(gates):
            values = values[list(gates)]
        if part.rows is not None:
            group = self.found.groups[part.rows]
            values = values[:, group.order]
            if group.scales is not None and _is_scaled(layer, role):
                by = group.scales.reshape(-1, *[1] * (values.ndim - 2))
                if layer.kind == "recurrent" and part.gates > 1:
                    values = values.copy()
                    values[self.found.candidate] *= by
                else:
                    values = values * by
            if group.turn is not None:
                values = np.einsum("grcp,rs->gscp", values, group.turn)
        start = 0
        for one in part.columns:
            group = self.found.groups[one]
            stop = start + len(group.order)
            piece = values[:, :, start:stop][:, :, group.order]
            if group.scales is not None:
                piece = piece / group.scales[None, None, :, None]
            if group.turn is not None:
                piece = np.einsum("grcp,cs->grsp", piece, np.linalg.inv(group.turn).T)
            values = np.concatenate([values[:, :, :start], piece, values[:, :, stop:]], axis=2)
            start = stop
        return values

    def _folded(
        self, values: dict[str, Array], factor: Array | None, layer: Layer
    ) -> dict[str, Array]:
        assert factor is not None
        group = None if layer.rows is None else self.found.groups[layer.rows]
        if group is not None:
            factor = factor[group.order]
            if group.scales is not None:
                factor = factor * group.scales
        bias = values.get("bias", np.zeros((1, len(factor)))) - values["mean"]
        shift = values.get("shift", np.zeros((1, len(factor))))
        return {
            "weight": values["weight"] * factor[None, :, None, None],
            "bias": shift + bias * factor,
        }


def _is_folded(layer: Layer) -> bool:
    """Whether a layer has a norm that could be."""
    return "var" in layer.parts


def _is_scaled(layer: Layer, role: str) -> bool:
    """Whether a tensor is multiplied when what its layer writes is."""
    if _is_folded(layer):
        return role in {"gain", "shift"}
    return role in {"weight", "recurrent", "bias", "bias_hh", "gain", "shift"}


def _is_packed(layer: Layer) -> bool:
    return any(part.within for part in layer.parts.values())


def _values(chain: Chain, part: Part) -> Array:
    if part.role in {"weight", "recurrent"}:
        return as_matrix(chain, part)
    values: Array = stored(chain, part).astype(np.float64).reshape(part.gates, -1)
    return values


def _stored(chain: Chain, part: Part, values: Array) -> Array:
    if part.positions > 1 and chain.is_last:
        values = values.transpose(0, 1, 3, 2)
    if part.parts > 1:
        values = gathered(values, part.parts)
    if part.is_turned:
        rows, width = part.shape[1::-1]
        values = values.reshape(rows, width, -1).swapaxes(0, 1)
    return values.reshape(part.shape)


def _unfolded(values: dict[str, Array], mine: dict[str, Array], factor: Array) -> dict[str, Array]:
    """Take a norm out of what it was folded into: that of a, so that both can be compared."""
    safe = np.where(factor == 0, 1.0, factor)
    zero = np.zeros_like(mine["mean"])
    shift = values.get("bias", zero) - factor * (mine.get("bias", zero) - mine["mean"])
    found = {"weight": values["weight"] / safe[None, :, None, None], "shift": shift}
    return {**{role: mine[role] for role in (*_NORM, "bias") if role in mine}, **found}


def _nearer(
    one: dict[str, Array], other: dict[str, Array], to: dict[str, Array]
) -> dict[str, Array]:
    """Return the other if it leaves far less."""
    return other if _left(other, to) < _FAR_BETTER * _left(one, to) else one


def _left(values: dict[str, Array], to: dict[str, Array]) -> float:
    return sum(
        float(np.sum((values[role] - to[role]) ** 2) / (np.sum(to[role] ** 2) + 1e-300))
        for role in to
        if role in values
    )
