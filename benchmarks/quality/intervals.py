"""Figures with intervals: shares by Wilson's score, everything else by the bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, nan, sqrt
from typing import Any

import numpy as np

_Z = 1.959963984540054
"""The normal law's 97.5 % point: every interval here is one of 95 %."""

_ROUNDS = 1000


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of the table.

    Attributes:
        value: Not a number where there was nothing to measure.
        low, high: Its 95 % interval.
        count: How many cases it stands on.
    """

    value: float
    low: float
    high: float
    count: int

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; null where there was nothing to measure."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        told = {k: None if isnan(v) else round(v, 6) for k, v in numbers.items()}
        return {**told, "count": self.count}


NOTHING = Figure(nan, nan, nan, 0)


def share(hits: Sequence[bool]) -> Figure:
    """Return how many of the cases are hits, with Wilson's interval (Wilson, 1927).

    Example:
        >>> share([True, True, True, False]).value
        0.75
    """
    n = len(hits)
    if n == 0:
        return NOTHING
    p = sum(hits) / n
    scale = 1 + _Z**2 / n
    middle = (p + _Z**2 / (2 * n)) / scale
    half = _Z / scale * sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return Figure(p, max(0.0, middle - half), min(1.0, middle + half), n)


def bootstrap(
    cases: Sequence[Any], statistic: Callable[[Sequence[Any]], float], *, seed: int
) -> Figure:
    """Return a statistic of the cases with the percentile bootstrap's interval (Efron, 1979)."""
    if not cases:
        return NOTHING
    generator = np.random.default_rng(seed)
    drawn = (
        statistic([cases[i] for i in generator.integers(len(cases), size=len(cases))])
        for _ in range(_ROUNDS)
    )
    low, high = _ends([value for value in drawn if not isnan(value)])
    return Figure(statistic(cases), low, high, len(cases))


def auroc(
    scores: Sequence[float], is_positive: Sequence[bool], ends: Sequence[tuple[str, str]], *,
    seed: int,
) -> Figure:  # fmt: skip
    """Return the probability that a positive pair scores above a negative one; ties count half.

    The pairs of one model are not independent, so the bootstrap draws models, and a pair weighs
    the product of how often its two were drawn.

    Args:
        scores: One per pair; -inf for a pair without one.
        is_positive: Whether the two are truly related.
        ends: The two models of each pair.
        seed: Of the bootstrap.
    """
    if not any(is_positive) or all(is_positive):
        return NOTHING
    names = sorted({name for pair in ends for name in pair})
    place = {name: i for i, name in enumerate(names)}
    a = np.array([place[first] for first, _ in ends])
    b = np.array([place[second] for _, second in ends])
    levels, level = np.unique(np.array(scores, float), return_inverse=True)
    positive = np.array(is_positive, bool)

    def weighted(weight: np.ndarray) -> float:
        up = np.bincount(level, weight * positive, len(levels))
        down = np.bincount(level, weight * ~positive, len(levels))
        below = np.concatenate([[0.0], np.cumsum(down)[:-1]])
        total = up.sum() * down.sum()
        return float(up @ (below + down / 2) / total) if total else nan

    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(_ROUNDS):
        times = np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))
        drawn.append(weighted((times[a] * times[b]).astype(float)))
    low, high = _ends([value for value in drawn if not isnan(value)])
    return Figure(weighted(np.ones(len(a))), low, high, len(a))


def _ends(drawn: Sequence[float]) -> tuple[float, float]:
    if not drawn:
        return nan, nan
    low, high = np.quantile(np.array(drawn), [0.025, 0.975])
    return float(low), float(high)
