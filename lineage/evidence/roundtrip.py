"""Was an adapter merged into weights that had been rounded to few levels and back (QLoRA)?

An adapter that was trained on a quantized model may be merged into what that model's levels stand
for. The child is then on no levels any more, and its difference to the base is the rounding and the
adapter together: white noise, and a few directions that stand out of it.

What tells it from a training is the noise. Levels are laid between the least and the largest of a
row or of a block, so that a rounding changes every matrix by one share of its norm, to within some
hundredths, and every row by the same. A training also leaves many small directions, but in each
matrix as many as it happens, and optimizers move weak rows about as far as strong ones.

Which of the two was rounded, the noise does not say: levels that are finer near zero, such as NF4,
take as much of the energy as noise adds. The adapter says it: one of its factors begins at random,
so that it is orthogonal to what it was added to.

Null of the noise: where matrices change each by its own measure, shares of their norms differ from
each other by a fifth and more (light to heavy trainings of small networks: .18 to .5, of roundings
with an adapter: .04 to .05), and the energies of rows of what is left behind the few directions are
those of the weights to a power of about 0 (-.3 to .45; of roundings .68 to 1.1). Of the direction:
the sketches of matrices that know nothing of each other have an inner product of 0, with a
deviation of the product of their norms over 36.

Source: Dettmers et al. (2023), "QLoRA: efficient finetuning of quantized LLMs".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lineage.artifacts.dialects import layered
from lineage.evidence.exact import only_rounded
from lineage.evidence.low_rank import weaker_half
from lineage.evidence.reduced import levels
from lineage.fingerprints.sketch import SIDE, Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineage.evidence.base import Direction
    from lineage.evidence.pairing import Pairing

__all__ = ["ROUNDED_ADAPTER", "RoundTrip", "round_trip"]

ROUNDED_ADAPTER = "rounded-adapter-v1"
"""The detector's name."""

_SMALLEST_SIDE = 24
"""Of a core whose weaker singular values tell how much noise there is."""

_LEAST_MATRICES, _LEAST_ADAPTED = 8, 4
"""In layers, that changed; and of these with a direction that stands out."""

_ALIKE = 0.1
"""How far the shares of norms that the noise has differ at most, over their mean."""

_SHARES = 4e-3, 0.2
"""Share of a norm that rounding to levels changes: of 8 bits .006, of 4 bits .07 to .12."""

_OVER_STORED = 4.0
"""How many times the noise must be, squared, what storing the weights leaves."""

_STANDS_OUT = 1.25
"""Over the largest singular value of white noise."""

_MOST_LEFT = 1.3
"""Mean energy behind what stands out, over that of white noise: uneven rows leave more."""

_POWER, _SURELY, _DEVIATIONS = 0.58, 0.4, 2.0
"""Of the rows' energies, that the noise's have at least; and less so many of its deviations."""

_CLEAR = 4.0
"""Deviations from halfway between the two directions."""


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A rounding, and an adapter above it.

    Attributes:
        share: Of the norms, that the rounding changed.
        matrices: That were rounded.
        adapted: That have the adapter's directions.
        direction: None where the adapter is too light to tell.
    """

    share: float
    matrices: int
    adapted: int
    direction: Direction | None

    @property
    def stands_out(self) -> bool:
        """Whether the adapter is seen: else levels that are not there alone tell of one."""
        return self.adapted >= _LEAST_ADAPTED


def round_trip(pairing: Pairing) -> RoundTrip | None:
    """Find a rounding with an adapter above it, or with nothing above it but no levels either.

    Returns:
        None unless the noise is one share of nearly all that changed in layers, more than storing
        leaves, and goes with the rows' energies, and some matrices that are on no levels have
        few directions besides. Gains and biases must be as they were: of what trains all there is
        a few directions stand out, too.
    """
    kept = pairing.same | only_rounded(pairing)
    if not kept[~pairing.is_matrix].all():
        return None
    seen = [one for n in np.flatnonzero(_changed(pairing)) if (one := _Seen.of(pairing, int(n)))]
    adapted = [one for one in seen if one.rank and one.is_free]
    if len(seen) < _LEAST_MATRICES:
        return None
    if not all(one.is_free for one in seen) and len(adapted) < _LEAST_ADAPTED:
        return None
    if any(one.rank > len(one.values) // 2 for one in seen):
        return None
    shares = np.array([one.share for one in seen])
    share = float(shares.mean())
    if not _SHARES[0] <= share <= _SHARES[1] or float(shares.std()) > _ALIKE * share:
        return None
    if sum(one.noise for one in seen) < _OVER_STORED * sum(one.stored for one in seen):
        return None
    if float(np.mean([one.left for one in seen])) > _MOST_LEFT:
        return None
    power, deviation = _follows_rows(pairing, seen)
    if power < _POWER or power - _DEVIATIONS * deviation < _SURELY:
        return None
    return RoundTrip(share, len(seen), len(adapted), _direction(pairing, adapted))


def _changed(pairing: Pairing) -> NDArray[np.bool_]:
    inside = [layered(pairing.first.labels[i]) is not None for i in pairing.a]
    straight = [way != "reordered" for way in pairing.way]
    found: NDArray[np.bool_] = pairing.is_matrix & ~pairing.same & np.array(inside) & straight
    return found


@dataclass(frozen=True, slots=True)
class _Seen:
    """One matrix that changed.

    Attributes:
        place: In the pairing.
        core: Of the difference.
        values: Singular values of that.
        noise: Squared norm of the white noise in it.
        stored: Squared norm that storing leaves.
        share: Of the weights' norm, that the noise has.
        rank: How many singular values stand out of the noise.
        left: Energy behind these, over that of white noise.
        is_free: Whether neither model is on levels here.
    """

    place: int
    core: NDArray[np.float64]
    values: NDArray[np.float64]
    noise: float
    stored: float
    share: float
    rank: int
    left: float
    is_free: bool

    @classmethod
    def of(cls, pairing: Pairing, place: int) -> _Seen | None:
        core = pairing.difference(place)
        rows, cols = sorted(core.shape)
        norm = float(np.sqrt(pairing.energy_a[place] * pairing.energy_b[place]))
        if rows < _SMALLEST_SIDE or norm == 0:
            return None
        values = np.asarray(np.linalg.svd(core, compute_uv=False), np.float64)
        noise = float((values[rows // 2 :] ** 2).sum()) / weaker_half(rows, cols)
        edge = (np.sqrt(rows) + np.sqrt(cols)) * np.sqrt(noise / (rows * cols))
        rank = int(np.count_nonzero(values > _STANDS_OUT * edge))
        white = noise * (rows - rank) * (cols - rank) / (rows * cols)
        left = float((values[rank:] ** 2).sum()) / white if white else np.inf
        sides = (pairing.first, pairing.a[place]), (pairing.second, pairing.b[place])
        is_free = not any(levels(of.tensors[i]) for of, i in sides)
        stored, share = float(pairing.noise[place]), float(np.sqrt(noise / norm))
        return cls(place, core, values, noise, stored, share, rank, left, is_free)

    def top(self) -> NDArray[np.float64]:
        """Return the directions that stand out."""
        ways = self._ways()
        found: NDArray[np.float64] = ways @ (ways.T @ self.core)
        return found

    def rest_of_rows(self) -> NDArray[np.float64]:
        """Return the squared norms of rows without the directions that stand out."""
        ways = self._ways()
        found: NDArray[np.float64] = (self.core**2).sum(axis=1)
        return found - (ways**2) @ self.values[: self.rank] ** 2

    def _ways(self) -> NDArray[np.float64]:
        """Return the left singular vectors of what stands out, shape (rows, rank)."""
        if not self.rank:
            return np.zeros((len(self.core), 0))
        found: NDArray[np.float64] = np.linalg.eigh(self.core @ self.core.T)[1]
        return found[:, : -self.rank - 1 : -1]


def _follows_rows(pairing: Pairing, seen: list[_Seen]) -> tuple[float, float]:
    """Return to which power of the rows' energies those of the noise go, and its deviation."""
    xx = xy = yy = 0.0
    count = 0
    for one in seen:
        sketch = pairing.first.tensors[pairing.a[one.place]].sketch
        if sketch is None or len(sketch.rows) != len(one.core):
            continue
        rest = one.rest_of_rows()
        rows = Layout.of(pairing.first.shapes[pairing.a[one.place]]).rows
        counts = np.bincount(np.arange(rows) % SIDE, minlength=len(rest))
        left, there = rest / counts, sketch.rows / counts.astype(np.float64)
        if left.min() <= 0 or there.min() <= 0:
            continue
        x, y = (np.log(each) - np.log(each).mean() for each in (there, left))
        xx, xy, yy, count = xx + float(x @ x), xy + float(x @ y), yy + float(y @ y), count + len(x)
    if xx <= 0:
        return 0.0, np.inf
    power = xy / xx
    return power, float(np.sqrt(max(yy - power * xy, 0.0) / count / xx))


def _direction(pairing: Pairing, adapted: list[_Seen]) -> Direction | None:
    """Say to which of two models the directions that stand out are orthogonal, if many do."""
    off = variance = 0.0
    for one in adapted:
        top = one.top()
        energy = float(np.vdot(top, top))
        first = pairing.first.matrix(pairing.a[one.place]).astype(np.float64)
        off += float(np.vdot(top, first)) + energy / 2
        variance += energy * float(pairing.energy_a[one.place]) / top.size
    if len(adapted) < _LEAST_ADAPTED or abs(off) < _CLEAR * variance**0.5:
        return None  # what stands out may be the rounding's
    return "a->b" if off > 0 else "b->a"
