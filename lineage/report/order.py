"""The order of boxes in a layer and their heights on the page (steps 3 and 4 of the layout)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

GAP = 16.0  # pixels between two boxes of a layer
_SWEEPS = 12


@dataclass(slots=True)
class Item:
    """A box, or the place where an arrow passes a layer (then `path` is None)."""

    layer: int
    height: float
    path: str | None = None
    before: list[Item] = field(default_factory=list)
    after: list[Item] = field(default_factory=list)
    y: float = 0  # of the centre


def order(layers: list[list[Item]]) -> None:
    """Sort every layer so that few arrows cross: barycenter sweeps, the best order kept."""
    for layer in layers:  # start from the order of parents, so that a tree has no crossing at all
        layer.sort(key=lambda item: [0.0] if not item.before else [item.before[0].y])
        for rank, item in enumerate(layer):
            item.y = float(rank)
    best, fewest = [list(layer) for layer in layers], _crossings(layers)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            layer.sort(key=lambda item: _mean(item.before if down else item.after, item.y))
            for rank, item in enumerate(layer):
                item.y = float(rank)
        if (now := _crossings(layers)) < fewest:
            best, fewest = [list(layer) for layer in layers], now
    layers[:] = best


def _crossings(layers: Sequence[Sequence[Item]]) -> int:
    total = 0
    for layer in layers:
        ends = [(rank, other.y) for rank, item in enumerate(layer) for other in item.before]
        total += sum(
            (a[0] - b[0]) * (a[1] - b[1]) < 0 for n, a in enumerate(ends) for b in ends[:n]
        )
    return total


def settle(layers: Sequence[Sequence[Item]]) -> None:
    """Give every item its y: near the mean of its neighbours, in order, without overlap."""
    for layer in layers:
        for rank, item in enumerate(layer):
            item.y = rank * (item.height + GAP)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else list(reversed(layers)):
            wanted = [_mean(item.before if down else item.after, item.y) for item in layer]
            steps = [0.0] + [(a.height + b.height) / 2 + GAP for a, b in pairwise(layer)]
            offsets = list(accumulate(steps))
            level = _rising([w - o for w, o in zip(wanted, offsets, strict=True)])
            for item, y, offset in zip(layer, level, offsets, strict=True):
                item.y = y + offset


def _rising(values: Sequence[float]) -> list[float]:
    """Return the nearest non-decreasing sequence (pool adjacent violators)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        total, count = value, 1
        while pools and pools[-1][0] / pools[-1][1] > total / count:
            total, count = total + pools[-1][0], count + pools[-1][1]
            pools.pop()
        pools.append((total, count))
    return [total / count for total, count in pools for _ in range(count)]


def _mean(items: Sequence[Item], otherwise: float) -> float:
    return sum(item.y for item in items) / len(items) if items else otherwise
