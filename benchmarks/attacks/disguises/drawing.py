"""Random matrices and factors that disguises are drawn from."""

from __future__ import annotations

import numpy as np


def order(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a random order in which nothing stays where it was; that of one thing stays."""
    drawn = rng.permutation(size)
    while size > 1 and (drawn == np.arange(size)).any():
        drawn = rng.permutation(size)
    return drawn


def orthogonal(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a matrix drawn evenly from all that keep lengths (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.normal(size=(size, size)))
    turned: np.ndarray = q * np.sign(np.diag(r))
    return turned


def keeping_ones(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return an orthogonal matrix that maps the vector of ones to itself.

    It commutes with taking away the mean, so LayerNorm without gains passes it on.
    """
    start = np.eye(size)
    start[:, 0] = 1.0
    basis, _ = np.linalg.qr(start)
    inner = np.eye(size)
    inner[1:, 1:] = orthogonal(rng, size - 1)
    turned: np.ndarray = basis @ inner @ basis.T
    return turned


def invertible(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Return `count` matrices with singular values from .5 to 2."""
    stretched = np.exp2(rng.uniform(-1, 1, (count, size)))
    return np.stack(
        [orthogonal(rng, size) * stretched[i] @ orthogonal(rng, size) for i in range(count)]
    )


def factors(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Return factors from .5 to 2 of either sign."""
    drawn: np.ndarray = np.exp2(rng.uniform(-1, 1, shape)) * rng.choice([-1.0, 1.0], shape)
    return drawn
