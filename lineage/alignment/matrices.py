"""Tensors of a network without a stream as matrices of one form.

That is gates by rows by channels by positions, with batch normalization folded in and every
channel's incoming weights of norm 1 where neither is to show in a comparison.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineage.alignment.chain import Chain, Layer, Part

    Matrix = NDArray[np.float64]

__all__ = ["as_folded", "as_matrix", "canonical", "folding", "gathered", "stored"]


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


def canonical(chain: Chain, norms: dict[int, Matrix]) -> list[dict[str, Matrix]]:
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
