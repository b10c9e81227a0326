"""What "unrelated" looks like on this very pair: the test of kinship, on models that are not there.

Two controls. *Signs*: every number of the second model's sketches gets a sign by lot. Were its
weights independent of the first's and as likely to be w as -w, each outcome would be as likely as
what was measured, whatever the sizes of the numbers; so this null is exact, and the tail of a sum
of signs has a bound that can be computed. *Swapped*: the second model's matrices of one shape
change places, each with a real matrix of the same network. What two networks share by convention
(means, gains, sizes) is left, and what one has of the other is not.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lineage.evidence.pairing import Pairing

__all__ = ["SIGNS_NULL", "Control", "Test", "controls", "relatedness"]

SIGNS_NULL = (
    "sign flips: of every number of one model's sketches, w and -w are equally likely; exact, the "
    "bound is Chernoff's"
)

DRAWS = 1000
"""Models with signs by lot."""

ONCE_IN = 20_000
"""Strangers among which the largest deviation that chance leaves is told."""

AGREES = 4.75
"""Standard deviations above which one matrix agrees by itself: chance does one in a million."""


@dataclass(frozen=True, slots=True)
class Test:
    """The cosine of the weights held against chance.

    Attributes:
        matrices: How many both have.
        agree: How many of them agree by themselves.
        cosine: Mean over matrices, weighted by the root of their size, as in `kinship`.
        deviation: The standard deviation of that for independent models.
        z: The one over the other.
        once_in: How large |z| gets by chance in one of `ONCE_IN` pairs.
        log10_p: Bound on the chance of sign flips that do as well.
    """

    matrices: int
    agree: int
    cosine: float
    deviation: float
    z: float
    once_in: float
    log10_p: float


@dataclass(frozen=True, slots=True)
class Control:
    """The same cosine with a model that is not there.

    Attributes:
        name: `signs` or `swapped`.
        draws: How many such models.
        matrices: How many matrices were changed in each; the others are left out.
        cosine: The largest in size, with its sign.
        deviation: Of the cosine of such models: measured over the draws, or where there is one,
            that of independent models. Signs by lot leave more than independence, where large
            numbers meet large ones as they do in related models.
    """

    name: str
    draws: int
    matrices: int
    cosine: float
    deviation: float


@dataclass(frozen=True, slots=True)
class _Used:
    """The matrices that are compared: for each the products of the two sketches' numbers.

    The products are over the two norms of the sketches and times the matrix's weight, so that their
    sum is the pooled cosine, and stays so under changes of sign.
    """

    places: NDArray[np.intp]
    weight: NDArray[np.float64]
    variance: NDArray[np.float64]

    @property
    def deviation(self) -> float:
        return float(np.sqrt(self.weight**2 @ self.variance))


def relatedness(pairing: Pairing) -> Test | None:
    """Hold the likeness of two models' matrices against chance; None where they share none."""
    from scipy.special import ndtri

    used = _used(pairing)
    if used is None:
        return None
    cosine = pairing.cosine[used.places]
    pooled = float(used.weight @ cosine)
    products = np.concatenate(list(_products(pairing, used)))
    return Test(
        matrices=len(cosine),
        agree=int(np.count_nonzero(cosine > AGREES * np.sqrt(used.variance))),
        cosine=pooled,
        deviation=used.deviation,
        z=pooled / used.deviation,
        once_in=float(-ndtri(0.5 / ONCE_IN)),
        log10_p=_log10_tail(products, float(products.sum())),
    )


def controls(pairing: Pairing, *, seed: int = 0) -> tuple[Control, ...]:
    """Return the pooled cosine of one model with others that are made of the second's sketches.

    Args:
        pairing: Two models.
        seed: Of the signs.
    """
    used = _used(pairing)
    if used is None:
        return ()
    swapped = _swapped(pairing, used)
    return (_signs(pairing, used, seed), *([] if swapped is None else [swapped]))


def _used(pairing: Pairing) -> _Used | None:
    use = pairing.is_matrix & (pairing.energy_a > 0) & (pairing.energy_b > 0)
    use &= np.array([way != "reordered" for way in pairing.way], np.bool_)  # no sketch to compare
    places = np.flatnonzero(use)
    if not len(places):
        return None
    size = pairing.size[places]
    weight = np.sqrt(size)
    return _Used(places, weight / weight.sum(), 1 / pairing.cells[places] + 1 / size)


def _cores(pairing: Pairing, place: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both sketches of a pair as numbers of the same places; flat."""
    one = pairing.first.matrix(pairing.a[place]).astype(np.float64)
    other = pairing.second.matrix(pairing.b[place]).astype(np.float64)
    return one.ravel(), (other.T if pairing.way[place] == "turned" else other).ravel()


def _products(pairing: Pairing, used: _Used) -> Iterator[NDArray[np.float64]]:
    for place, weight in zip(used.places, used.weight, strict=True):
        one, other = _cores(pairing, int(place))
        norms = np.sqrt(float(one @ one) * float(other @ other))
        yield weight * one * other / norms if norms else np.zeros(1)


def _signs(pairing: Pairing, used: _Used, seed: int) -> Control:
    draw = np.random.default_rng(seed)
    total = np.zeros(DRAWS)
    for products in _products(pairing, used):
        bits = np.frombuffer(draw.bytes(DRAWS * (-(-len(products) // 8))), np.uint8)
        is_minus = np.unpackbits(bits.reshape(DRAWS, -1), axis=1, count=len(products))
        total += products.sum() - 2 * (is_minus @ products)
    most = float(total[np.argmax(np.abs(total))])
    return Control("signs", DRAWS, len(used.places), most, float(np.sqrt(np.mean(total**2))))


def _swapped(pairing: Pairing, used: _Used) -> Control | None:
    """Let the second model's matrices of one shape go round by one place."""
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for n, place in enumerate(used.places):
        if pairing.way[place] == "straight":
            alike[pairing.first.shapes[pairing.a[place]]].append(n)
    rings = [ring for ring in alike.values() if len(ring) > 1]
    if not rings:
        return None
    cosines, places = [], []
    for ring in rings:
        for n, other in zip(ring, [*ring[1:], ring[0]], strict=True):
            cosines.append(_cosine(pairing, int(used.places[n]), int(used.places[other])))
            places.append(n)
    weight = used.weight[places] / used.weight[places].sum()
    pooled = float(weight @ np.array(cosines))
    deviation = float(np.sqrt(weight**2 @ used.variance[places]))
    return Control("swapped", 1, len(places), pooled, deviation)


def _cosine(pairing: Pairing, place: int, other: int) -> float:
    """Return the cosine of a matrix of the first and one of the second, as `Pairing.cosine` is."""
    x, y = _cores(pairing, place)[0], _cores(pairing, other)[1]
    a, b = float(pairing.energy_a[place]), float(pairing.energy_b[other])
    d = float(np.sum((y - x) ** 2))
    inner = (a + b - d) / 2 if d < min(a, b) else float(x @ y)
    return max(-1.0, min(1.0, inner / float(np.sqrt(a * b))))


def _log10_tail(products: NDArray[np.float64], reached: float) -> float:
    """Bound the chance that the sum of numbers, each with a sign by lot, is as large as reached.

    Chernoff's bound: for every t > 0 it is at most exp(K(t) - t * reached), where K is the sum of
    log cosh(t x), the cumulant generating function of the sum. The exponent is convex in t.
    """
    from scipy.optimize import minimize_scalar

    size = np.abs(products[products != 0])
    if reached <= 0 or not len(size):
        return 0.0
    scale = float(np.sqrt(np.sum(size**2)))

    def exponent(log_t: float) -> float:
        x = np.exp(log_t) / scale * size
        cumulant = float(np.sum(x + np.log1p(np.exp(-2 * x)) - np.log(2)))
        return cumulant - float(np.exp(log_t)) / scale * reached

    best = minimize_scalar(exponent, bounds=(-10.0, 12.0), method="bounded")
    return min(0.0, float(best.fun)) / float(np.log(10))
