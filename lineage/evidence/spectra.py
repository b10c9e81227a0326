"""Which of many models came first, by the directions in which matrices are large?

Norms say who came first as long as nothing takes from them; decay does, and so a training that ran
its course against decay, in which every state is as long as the one before. What is said here does
not know norms: all matrices are scaled to length 1. A step d = C - P between two such matrices has
<C + P, d> = 0, whichever was first. But it has directions that lead, and with D = d d'd, in which
these count by the cube of their size, a step that is new where it leads has next to no <P, D>, so
that <C + P, D> is near <d, D> = |d'd|^2 and above 0; and back from there it is as much below. Decay
has no direction of its own and hardly a part in D. Where a step is white noise nothing leads, and
nothing is said: what scaling took of P then weighs as much as |d'd|^2.

Derivation for all pairs at once: <C + P, dd'd> is |C'd|^2 - |P'd|^2, for CC' - PP' is
half of (C + P)d' and its transpose. With F = CC'C that is <F_c, C> - <F_p, P> - 2 <F_c, P> +
2 <F_p, C>: one product of all F with all matrices. A sketch of both sides of a matrix keeps it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Square = NDArray[np.float64]

__all__ = ["Spectra", "leads", "spectra"]

_MOST = 3.0
"""Bound of every ratio."""

_SAME = 1e-14
"""Squared step between matrices of length 1 below which rounding outweighs what is asked of it."""

_LEADS = 8.0
"""A new step of rank 1 has its own length for a lead. This brings those of training near to 1."""

_CHANCE = 4.0
"""Over the values of the core: twice the deviation of a lead where the step is white noise. GG'G of
r by c normal numbers is (r + c) G and a rest whose norm is near r c."""


class Spectra(NamedTuple):
    """[w, c] is of the step from w to c, [c, w] that with the other sign; shape (models, models).

    Attributes:
        lead: Mean over matrices of <C + P, dd'd> over the cube of the step.
        lead_each: The same over its fourth power: 1 for a new step of rank 1.
        lead_sign: In what share of the matrices it is positive, less that in which it is negative.

    Each matrix counts for as much as its lead stands out of what white noise leaves.
    """

    lead: Square
    lead_each: Square
    lead_sign: Square


def spectra(
    matrices: Iterable[tuple[float, NDArray[np.float32], NDArray[np.int64]]], models: int
) -> Spectra:
    """Hold the directions of all steps against those of the models at both ends.

    Args:
        matrices: Size, cores of shape (models, rows, columns), and a code of shape (models,) that
            is equal where the values are, of each matrix. Matrices count by the roots of sizes.
        models: How many there are.
    """
    lead, each, sign, weight = (np.zeros((models, models)) for _ in range(4))
    for size, cores, code in matrices:
        root = float(np.sqrt(size))
        unit = _unit(cores)
        found, step = _leads(unit)
        found[code[:, None] == code] = 0
        moved = (step > 0) & (code[:, None] != code)
        over = np.where(moved, step, 1)
        led, sure = _led(found, over, unit[0].size)
        weight += root * moved
        lead += root * led * sure
        each += root * (led * sure / over**0.5).clip(-_MOST, _MOST)
        sign += root * np.sign(led) * sure
    weight = np.maximum(weight, 1e-9)
    return Spectra(
        (_LEADS * lead / weight).clip(-_MOST, _MOST),
        each / weight,
        sign / weight,
    )


def leads(cores: NDArray[np.float32]) -> Square:
    """Return `Spectra.lead` of one matrix alone, shape (models, rows, columns)."""
    found, step = _leads(_unit(cores))
    led, sure = _led(found, np.where(step > 0, step, 1), cores[0].size)
    lead: Square = (_LEADS * led * sure).clip(-_MOST, _MOST)
    return lead


def _led(found: Square, step: Square, size: int) -> tuple[Square, Square]:
    """Return leads of steps of some squared norm, and how far they stand out of chance, 0 to 1."""
    led = found / step**1.5
    return led, led**2 / (led**2 + (_CHANCE / size) ** 2)


def _unit(cores: NDArray[np.float32]) -> Square:
    """Scale matrices to length 1; empty ones stay so."""
    wide = cores.astype(np.float64)
    length = np.sqrt(np.einsum("mij,mij->m", wide, wide))
    unit: Square = wide / np.where(length > 0, length, 1)[:, None, None]
    return unit


def _leads(unit: Square) -> tuple[Square, Square]:
    """Return <C + P, dd'd> and |d|^2 of all pairs of matrices of length 1; 0 where none moved."""
    flat = unit.reshape(len(unit), -1)
    own = np.einsum("ij,ij->i", flat, flat)
    step = np.maximum(own[:, None] + own - 2 * flat @ flat.T, 0)
    step[(step < _SAME) | (own == 0) | (own == 0)[:, None]] = 0
    cubes = (unit @ unit.transpose(0, 2, 1) @ unit).reshape(len(unit), -1)
    product = cubes @ flat.T
    own = np.diagonal(product)
    found: Square = own - own[:, None] - 2 * (product.T - product)
    return np.where(step > 0, found, 0), step
