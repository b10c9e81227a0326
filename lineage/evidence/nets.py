"""Small networks that weigh features, as they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["MOST", "MOST_SPREAD", "Net", "fields_of", "nets_of"]

MOST_SPREAD = 5.0
"""Features further than this from their mean, in deviations, say no more than there."""

MOST = 15.0
"""Bound of every weight's logarithm."""


class Net(NamedTuple):
    """A network of one kind of input: a linear part and one of two hidden layers, summed.

    Attributes:
        mean: Of the features, shape (features,).
        spread: Their deviations.
        linear: Shape (features,).
        first: Shape (hidden, features), and its constants of shape (hidden,).
        second: Shape (hidden, hidden), likewise.
        last: Shape (hidden,).
        constant: Shape ().
    """

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    linear: NDArray[np.float32]
    first: NDArray[np.float32]
    first_constants: NDArray[np.float32]
    second: NDArray[np.float32]
    second_constants: NDArray[np.float32]
    last: NDArray[np.float32]
    constant: NDArray[np.float32]

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return a score for the features along the last axis."""
        z = ((features - self.mean) / self.spread).clip(-MOST_SPREAD, MOST_SPREAD)
        hidden = np.tanh(z @ self.first.T + self.first_constants)
        hidden = np.tanh(hidden @ self.second.T + self.second_constants)
        score: NDArray[np.float64] = (z @ self.linear + hidden @ self.last + self.constant).astype(
            np.float64
        )
        return score.clip(-MOST, MOST)


def fields_of(nets: tuple[Net, ...], at: str) -> dict[str, NDArray[np.float32]]:
    """Return networks as arrays to store, under names that begin with `at`."""
    return {f"{at}.{field}": np.stack([getattr(net, field) for net in nets])
            for field in Net._fields}  # fmt: skip


def nets_of(stored: Mapping[str, NDArray[np.float32]], at: str) -> tuple[Net, ...]:
    """Return the networks that `fields_of` made arrays of."""
    fields = [stored[f"{at}.{field}"] for field in Net._fields]
    return tuple(Net(*one) for one in zip(*fields, strict=True))
