"""Draws the matrix of each family, and p of strangers against the uniform, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10
from xml.sax.saxutils import escape

import counting
import numpy as np
from lists import FOLLOW_UPS
from pairs import Pair

_WIDE, _HIGH, _LEFT, _TOP = 74, 24, 190, 56
_SIDE, _EDGE = 380, 56
_NONE, _ALL = (181, 101, 29), (11, 95, 165)
_COLOURS = ("#0b5fa5", "#b5651d", "#3a7d44", "#7b4fa0", "#999999", "#c0392b", "#16808a", "#5d4037")
_LEAST = 1e-12
"""What p is drawn as, if it is smaller."""


def all_of(pairs: Sequence[Pair], method: str = "align") -> dict[str, str]:
    """Return every picture under the name of its file."""
    limits = counting.over(pairs)
    drawn = {}
    for family in counting.families(pairs):
        cells = counting.matrix(pairs, method, family)
        if cells:
            counts = {
                steps: {
                    after: _found(these, method, limits[family]) for after, these in row.items()
                }
                for steps, row in cells.items()
            }
            strangers = sum(p.family == family and not p.is_positive for p in pairs)
            title = f"{family}: found by {method} / made, none of {strangers} strangers"
            drawn[f"matrix-{family}.svg"] = matrix(counts, title)
    found = {f: counting.p_of_strangers(pairs, f) for f in counting.families(pairs)}
    found = {family: p for family, p in found.items() if len(p)}
    if found:
        drawn["null.svg"] = against_uniform(found)
    return drawn


def _found(pairs: Sequence[Pair], method: str, limits: Mapping[str, float]) -> tuple[int, int]:
    return sum(counting.found_by(pair, method, limits) for pair in pairs), len(pairs)


def matrix(counts: Mapping[str, Mapping[str, tuple[int, int]]], title: str) -> str:
    """Return disguises by follow-ups, each cell as dark as many are found.

    Args:
        counts: Disguise -> follow-up -> found, and of how many.
        title: Above it.
    """
    parts = [
        _text(_LEFT + (x + 0.5) * _WIDE, _TOP - 8, after, anchor="middle")
        for x, after in enumerate(FOLLOW_UPS)
    ]
    for y, (steps, row) in enumerate(counts.items()):
        top = _TOP + y * _HIGH
        parts.append(_text(_LEFT - 8, top + 16, _short(steps), anchor="end"))
        for x, after in enumerate(FOLLOW_UPS):
            hits, count = row.get(after, (0, 0))
            left = _LEFT + x * _WIDE
            fill = _shade(hits / count) if count else "#f4f4f4"
            parts.append(
                f'<rect x="{left}" y="{top}" width="{_WIDE - 2}" height="{_HIGH - 2}" '
                f'fill="{fill}"/>'
            )
            words = f"{hits}/{count}" if count else "-"
            colour = "#ffffff" if count and hits == count else "#222222"
            parts.append(_text(left + _WIDE / 2 - 1, top + 15, words, "middle", colour))
    width = _LEFT + len(FOLLOW_UPS) * _WIDE + 14
    return _whole(title, width, _TOP + len(counts) * _HIGH + 12, parts)


def _short(steps: str) -> str:
    return steps.replace("channels-", "").replace("+", " + ") if "+" in steps else steps


def _shade(share: float) -> str:
    """Return blue for all, brown for none, and paler between."""
    ends = _ALL if share >= 0.5 else _NONE
    pale = 0.0 if share in (0.0, 1.0) else 0.55
    return "#" + "".join(f"{round(c + (255 - c) * pale):02x}" for c in ends)


def against_uniform(found: Mapping[str, np.ndarray]) -> str:
    """Return sorted p against what as many uniform numbers are expected to be, both as -log10.

    Args:
        found: Family -> p of its strangers, sorted.
    """
    most = max(max(log10(len(p)) + 0.4, -log10(max(p[0], _LEAST)) + 0.2) for p in found.values())
    parts = []
    for level in range(int(most) + 1):
        at = level / most * _SIDE
        parts.append(f'<path d="M{_EDGE} {_y(at):.1f}h{_SIDE}" stroke="#e4e4e4"/>')
        parts.append(f'<path d="M{_EDGE + at:.1f} {_TOP}v{_SIDE}" stroke="#f0f0f0"/>')
        words = "1" if level == 0 else f"1e-{level}"
        parts.append(_text(_EDGE - 8, _y(at) + 4, words, "end"))
        parts.append(_text(_EDGE + at, _TOP + _SIDE + 18, words, "middle"))
    parts.append(
        f'<path d="M{_EDGE} {_y(0)}L{_EDGE + _SIDE} {_y(_SIDE)}" stroke="#999999" '
        'stroke-dasharray="4 4" fill="none"/>'
    )
    for number, (family, p) in enumerate(found.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [
            (_EDGE - log10((at + 0.5) / len(p)) / most * _SIDE,
             _y(-log10(max(value, _LEAST)) / most * _SIDE))
            for at, value in enumerate(p)
        ]  # fmt: skip
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in _thinned(places))
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
        )
        parts.append(
            _text(_EDGE + 12, _TOP + 18 + 16 * number, f"{family}, {len(p)}", "start", colour)
        )
    middle = _TOP + _SIDE / 2
    parts.append(_text(_EDGE + _SIDE / 2, _TOP + _SIDE + 40, "expected of a uniform p", "middle"))
    turned = _text(14, middle, "p of strangers", "middle")
    parts.append(f'<g transform="rotate(-90 14 {middle:.0f})">{turned}</g>')
    title = "p of align for strangers; below the line is cautious"
    return _whole(title, _SIDE + 2 * _EDGE, _TOP + _SIDE + _EDGE, parts)


def _thinned(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Leave out points that would fall on the one before."""
    kept = [places[0]]
    for place in places[1:]:
        if max(abs(place[0] - kept[-1][0]), abs(place[1] - kept[-1][1])) >= 1:
            kept.append(place)
    return [*kept, places[-1]]


def _y(up: float) -> float:
    return _TOP + _SIDE - up


def _text(x: float, y: float, words: str, anchor: str = "start", colour: str = "#444444") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">'
        f"{escape(words)}</text>"
    )


def _whole(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
            f'width="{width:g}" height="{height:g}" font-family="sans-serif" font-size="12">',
            f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>',
            f'<text x="12" y="22" font-size="14" fill="#111111">{escape(title)}</text>',
            *parts,
            "</svg>\n",
        ]
    )
