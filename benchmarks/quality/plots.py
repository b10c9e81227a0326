"""Draws the reliability of the probabilities and the curve of directions, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, log
from typing import Any
from xml.sax.saxutils import escape

from scores import Record

_SIDE, _EDGE, _TOP = 380, 56, 40
_BLUE, _GREY, _ORANGE = "#0b5fa5", "#999999", "#b5651d"


def reliability(rows: Sequence[Record], of: str = "Edge probabilities") -> str:
    """Return the picture of `figures.reliability`: share right against probability said."""
    parts = [
        _line([(0, 0), (1, 1)], _GREY, dashed=True),
        *_grid("probability said", "share right", [(x / 5, f"{x / 5:g}") for x in range(6)]),
    ]
    for row in rows:
        if row["count"]:
            x, right = row["said"], row["right"]
            parts.append(_line([(x, right.low), (x, right.high)], _BLUE))
            parts.append(_dot(x, right.value, _BLUE))
            parts.append(_text(*_at(x, right.value), f" {row['count']}", dx=7, dy=-6))
    return _whole(f"{of}; counts beside, bars are 95 % intervals", parts)


def directions(rows: Sequence[Record]) -> str:
    """Return the picture of `figures.direction_curve`: one place on the axis for each size."""
    rows = [row for row in rows if row["answered"].count]
    places = {i: (i + 0.5) / len(rows) for i in range(len(rows))}
    ticks = [(places[i], f"{row['least']:.0%}+") for i, row in enumerate(rows)]
    parts = _grid("relative change of the pair", "share of pairs", ticks)
    for key, colour, words in (("answered", _ORANGE, "said"), ("right", _BLUE, "right when said")):
        points = [(places[i], row[key]) for i, row in enumerate(rows) if not isnan(row[key].value)]
        parts.append(_line([(x, figure.value) for x, figure in points], colour))
        for x, figure in points:
            parts.append(_line([(x, figure.low), (x, figure.high)], colour))
            parts.append(_dot(x, figure.value, colour))
        if points:
            x, figure = points[-1]
            parts.append(_text(*_at(x, figure.value), words, dx=8, dy=14, colour=colour))
    return _whole("Direction of a full fine-tune and its parent alone", parts)


def growth(points: Sequence[tuple[int, float]], limits: Sequence[tuple[int, float]]) -> str:
    """Return seconds against the number of models, both axes logarithmic.

    Args:
        points: Number of models -> seconds.
        limits: The same, that must not be passed.
    """
    every = [*points, *limits]
    left, right = min(x for x, _ in every) / 1.2, max(x for x, _ in every) * 1.2
    low, high = min(y for _, y in every) / 1.5, max(y for _, y in every) * 1.5

    def place(x: float, y: float) -> tuple[float, float]:
        return log(x / left) / log(right / left), log(y / low) / log(high / low)

    ticks = [(place(x, low)[0], str(x)) for x in sorted({x for x, _ in every})]
    levels = [
        (place(left, 10.0**power)[1], f"{10.0**power:g}")
        for power in range(-2, 5) if low <= 10.0**power <= high
    ]  # fmt: skip
    parts = _grid("models, as saved fingerprints", "seconds, whole process", ticks, levels)
    parts.append(_line([place(*p) for p in points], _BLUE))
    parts += [_dot(*place(*p), _BLUE) for p in points]
    parts += [_text(*_at(*place(*p)), f"{p[1]:.3g} s", dx=-8, dy=-8, anchor="end") for p in points]
    for limit in limits:
        parts.append(_dot(*place(*limit), _ORANGE))
        words = f"{limit[1]:g} s at most"
        parts.append(_text(*_at(*place(*limit)), words, dx=-8, dy=4, anchor="end", colour=_ORANGE))
    return _whole("Inferring one family from saved fingerprints", parts)


def _whole(title: str, parts: Sequence[str]) -> str:
    width, height = _SIDE + 2 * _EDGE + 60, _SIDE + _TOP + _EDGE
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            f'<text x="{_EDGE}" y="22" font-size="14" fill="#111111">{escape(title)}</text>',
            *parts,
            "</svg>\n",
        ]
    )


def _grid(
    x_words: str, y_words: str, ticks: Sequence[tuple[float, str]],
    levels: Sequence[tuple[float, str]] = tuple((y / 5, f"{y / 5:g}") for y in range(6)),
) -> list[str]:  # fmt: skip
    parts = []
    for share, words in levels:
        _, y = _at(0, share)
        parts.append(f'<path d="M{_EDGE} {y:.1f}h{_SIDE}" stroke="#e4e4e4"/>')
        parts.append(_text(_EDGE, y, words, dx=-8, dy=4, anchor="end"))
    for share, words in ticks:
        x, _ = _at(share, 0)
        parts.append(f'<path d="M{x:.1f} {_TOP}v{_SIDE}" stroke="#f0f0f0"/>')
        parts.append(_text(x, _TOP + _SIDE, words, dy=18, anchor="middle"))
    middle = _TOP + _SIDE / 2
    parts.append(_text(_EDGE + _SIDE / 2, _TOP + _SIDE + 40, x_words, anchor="middle"))
    turned = _text(14, middle, y_words, anchor="middle")
    parts.append(f'<g transform="rotate(-90 14 {middle:.0f})">{turned}</g>')
    return parts


def _at(x: float, y: float) -> tuple[float, float]:
    """Return where a point of the unit square is drawn."""
    return _EDGE + x * _SIDE, _TOP + (1 - y) * _SIDE


def _line(points: Sequence[tuple[float, float]], colour: str, *, dashed: bool = False) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (_at(*point) for point in points))
    dashes = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dashes}/>'


def _dot(x: float, y: float, colour: str) -> str:
    cx, cy = _at(x, y)
    return f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="3.5" fill="{colour}"/>'


def _text(x: float, y: float, words: str, *, dx: float = 0, dy: float = 0, **style: Any) -> str:
    anchor, colour = style.get("anchor", "start"), style.get("colour", "#444444")
    return (
        f'<text x="{x + dx:.1f}" y="{y + dy:.1f}" text-anchor="{anchor}" fill="{colour}">'
        f"{escape(words)}</text>"
    )
