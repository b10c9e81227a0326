"""In which order an hourglass computes its layers: down to small maps, and up to large ones again.

Its names say which way a block goes and its number. On the way up blocks are counted either way, so
there the wider one comes first; within it, what makes maps larger.

Source: Ronneberger et al., "U-Net" (2015).
"""

from __future__ import annotations

import re
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["hourglass"]

_DOWN, _UP, _LAST = 1, 3, 4

_WAYS = (
    (re.compile(r"inc|enc|down|contract", re.IGNORECASE), _DOWN),
    (re.compile(r"bottleneck|bridge|center|mid", re.IGNORECASE), 2),
    (re.compile(r"up|dec|expan", re.IGNORECASE), _UP),
    (re.compile(r"out|final|head|last", re.IGNORECASE), _LAST),
)


def hourglass(stems: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> list[str] | None:
    """Return layers as an hourglass computes them; None if they are not called like one's.

    Args:
        stems: What the convolutions are called, as people count.
        shapes: Of their weights.
    """
    known = {stem: found for stem in stems if (found := _way(stem)) is not None}
    ups = {number for way, number in known.values() if way == _UP}
    enlarging = {
        one for one in stems if known.get(one, (0, 0))[0] == _UP and _enlarges(shapes[one])
    }
    if not enlarging or all(way != _DOWN for way, _ in known.values()):
        return None
    for stem in stems:
        number = _number(stem.partition(".")[0])
        if stem not in known and number in ups:
            known[stem] = _UP, number
        elif stem not in known and prod(shapes[stem][2:]) == 1:
            known[stem] = _LAST, number
    if len(known) < len(stems):
        return None
    widest: dict[tuple[int, int], int] = {}
    for stem, place in known.items():
        widest[place] = max(widest.get(place, 0), *shapes[stem][:2])

    def key(stem: str) -> tuple[int, int, int, bool, int]:
        way, number = known[stem]
        width = -widest[way, number] if way == _UP else 0
        return way, width, number, stem not in enlarging, stems.index(stem)

    return sorted(stems, key=key)


def _way(stem: str) -> tuple[int, int] | None:
    """Return which way a layer's block goes, and its number."""
    parts = stem.split(".")
    for n, part in enumerate(parts):
        for pattern, way in _WAYS:
            if pattern.match(part):
                behind = parts[n + 1] if n + 1 < len(parts) - 1 else ""
                return way, int(behind) if behind.isdigit() else _number(part)
    return None


def _number(part: str) -> int:
    found = re.search(r"\d+", part)
    return int(found[0]) if found is not None else -1


def _enlarges(shape: tuple[int, ...]) -> bool:
    """Whether a convolution is one with filters of an even size, as transposed ones are."""
    return len(shape) > 2 and shape[-1] > 1 and shape[-1] % 2 == 0
