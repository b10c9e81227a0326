"""Was a matrix outside of the layers made anew: a vocabulary, a head, a classifier?

Whoever gives a model another tokenizer, or other classes, draws those matrices anew and keeps the
layers. The two models are strangers there, whatever the step between them was, and their norms
and distances say nothing of who came first. Two things do.

*Drawn.* A matrix that nobody trained yet is independent values of one law. Training makes rows and
columns uneven, as tokens are not equally frequent, and leaves directions. So of two models that
differ in such a matrix, the one whose own is still as it was drawn came from the other: nobody
trains layers to go with an embedding, and then another embedding alone.

*Who has it besides.* A draw is never repeated. Those of a family that have one vocabulary are a
part of its tree that hangs together, entered once (in population genetics, the model of infinitely
many alleles), so an arc that enters it costs what one more such event does.

Null of `is_drawn`: independent values of one law with the variance and fourth moment at hand. The
energy of a bucket of n values then has the mean n s^2 and the variance n (m4 - s^4), and the sum of
squared deviations over the buckets is chi-squared, but for the share that the mean takes.

Source: Kimura and Crow (1964), "The number of alleles that can be maintained in a finite
population".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lineage.artifacts.dialects import layered
from lineage.evidence.base import Evidence
from lineage.evidence.copied import APART, likeness
from lineage.evidence.whiteness import spike
from lineage.fingerprints.sketch import SIDE, Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineage.evidence.base import Direction
    from lineage.evidence.matching import Table
    from lineage.evidence.pairing import Pairing

__all__ = [
    "DRAWN",
    "REPLACED",
    "STRANGE",
    "Replaced",
    "is_drawn",
    "replaced",
    "stands_outside",
]

REPLACED, DRAWN = "replaced-v1", "drawn-v1"
"""The detector's names: where it finds no direction, and where it does."""

_LEAST_P = 1e-4
"""Of buckets as uneven as a drawn matrix has them, over rows or over columns."""

_WHITE = 1.15
"""The most that singular values of a drawn core stand out; see `whiteness.spike`. 36 by 36 numbers
of white noise leave .95 to 1.05."""

STRANGE = 3.0
"""Of chance, within which two matrices are no more alike than strangers'."""

_SAME_SUMS = 3e-5
"""See `matching.FOURTH_AGREES`."""

_LEAST_BUCKETS = 8
"""Rows or columns from which their evenness tells."""


def stands_outside(label: str) -> bool:
    """Whether a tensor of this canonical name is no layer's."""
    return layered(label) is None


def is_drawn(of: Table, place: int) -> bool:
    """Whether a matrix may be independent values of one law, as before any training.

    Args:
        of: A model's table.
        place: Of a matrix there.
    """
    sketch, layout = of.tensors[place].sketch, Layout.of(of.shapes[place])
    size, energy = float(of.sizes[place]), float(of.energy[place])
    if sketch is None or layout.is_vector or sketch.is_flat or energy <= 0:
        return False
    variance = energy / size
    spread = sketch.fourth / size - variance**2
    if spread <= 0:
        return False
    sides = (sketch.rows, layout.rows, layout.cols), (sketch.cols, layout.cols, layout.rows)
    told = [_are_even(e.astype(np.float64), n, width, variance, spread) for e, n, width in sides]
    stands_out = spike(of.matrix(place).astype(np.float64)[None])
    is_white = not stands_out.size or float(stands_out[0]) <= _WHITE
    return is_white and any(one is not None for one in told) and False not in told


def _are_even(
    energies: NDArray[np.float64], extent: int, width: int, variance: float, spread: float
) -> bool | None:
    """Whether buckets are as uneven as chance has them; None of too few.

    Args:
        energies: Of the buckets; row i of `extent` is in bucket i mod 36.
        extent: Rows.
        width: Values in each.
        variance: Of a value.
        spread: Of a value's square, its variance.
    """
    from scipy.special import chdtrc

    if len(energies) < _LEAST_BUCKETS:
        return None
    counts = np.bincount(np.arange(extent) % SIDE, minlength=len(energies)) * float(width)
    square = float(np.sum((energies - counts * variance) ** 2 / (counts * spread)))
    return bool(chdtrc(len(energies) - 1, square) >= _LEAST_P)


@dataclass(frozen=True, slots=True)
class Replaced:
    """Matrices of which each of two models has its own.

    Attributes:
        names: Canonical, of those of the first.
        places: In the pairing, of those that it has.
        direction: None where neither, or each, is as it was drawn, or only has its rows elsewhere.
        evidence: Why.
    """

    names: tuple[str, ...]
    places: tuple[int, ...]
    direction: Direction | None
    evidence: Evidence


def replaced(pairing: Pairing) -> Replaced | None:
    """Find matrices outside of layers in which two models are strangers, or of different sizes.

    Where one has the other's rows in another order, nothing was drawn.

    Args:
        pairing: Of two models that are related by the rest.
    """
    own = [n for n in range(len(pairing.a)) if _is_own(pairing, n)]
    places = [(pairing.a[n], pairing.b[n]) for n in own]
    moved = [ends for ends in places if _has_its_rows(pairing, *ends)]
    resized = [(r.a, r.b) for r in pairing.resized if stands_outside(pairing.first.labels[r.a])]
    found = [ends for ends in places if ends not in moved] + resized
    if not moved and not found:
        return None
    drawn = [all(is_drawn(pairing.first, i) for i, _ in found),
             all(is_drawn(pairing.second, j) for _, j in found)]  # fmt: skip
    direction: Direction | None = None
    if found and drawn[0] != drawn[1]:
        direction = "a->b" if drawn[1] else "b->a"
    names = tuple(pairing.first.labels[i] for i, _ in moved + found)
    told = ", ".join(name.removesuffix(".weight") for name in names)
    words = f"{told}: each of the two has its own"
    if not found:
        words = f"{told}: {{b}} has {{a}}'s rows in another order"
    elif direction is not None:
        child = "{b}" if direction == "a->b" else "{a}"
        words += f", and {child}'s values are even in all rows and columns, as they are drawn"
    detector = REPLACED if direction is None else DRAWN
    return Replaced(names, tuple(own), direction, Evidence(detector, words))


def _is_own(pairing: Pairing, n: int) -> bool:
    """Whether two matrices outside of layers are as strangers', or one with its rows elsewhere."""
    if not pairing.is_matrix[n] or pairing.same[n]:
        return False
    if not stands_outside(pairing.second.labels[pairing.b[n]]):
        return False
    if pairing.way[n] == "straight" and _has_its_rows(pairing, pairing.a[n], pairing.b[n]):
        return True
    chance = (1 / pairing.cells[n] + 1 / pairing.size[n]) ** 0.5
    return abs(likeness(pairing, n)) < max(APART, STRANGE * float(chance))


def _has_its_rows(pairing: Pairing, i: int, j: int) -> bool:
    """Whether all that does not depend on the order of rows is the same."""
    one, other = pairing.first.tensors[i].sketch, pairing.second.tensors[j].sketch
    if one is None or other is None or one.zeros != other.zeros or one.shape != other.shape:
        return False
    columns = np.allclose(one.cols, other.cols, rtol=_SAME_SUMS)
    return bool(columns and np.isclose(one.fourth, other.fourth, rtol=_SAME_SUMS))
