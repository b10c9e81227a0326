"""Draws seconds against size as an SVG, one line per tool, both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 760, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 190, 44, 52
_LABEL_GAP = 15.0
_OURS = ("#0b5fa5", "#1f8fd6", "#58b4e8", "#8c6bb1")
_PEERS = ("#444444", "#999999", "#b5651d", "#c0392b", "#d98880", "#7f8c3a", "#a06fae", "#666666")

Lines = Mapping[str, Sequence[tuple[float, float]]]
"""Name -> (gigabytes, seconds), ascending."""


def svg(lines: Lines, *, title: str) -> str:
    """Return the picture; lines whose name begins with "lineage" are drawn strongly."""
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    x_axis = _Axis(min(xs) / 1.15, max(xs) * 1.15, _LEFT, _WIDTH - _RIGHT)
    y_axis = _Axis(min(ys) / 1.3, max(ys) * 1.3, _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(_LEFT, 24, title, size=15, colour="#111111"),
        *_grid(x_axis, y_axis, sorted(set(xs))),
        *_drawn(lines, x_axis, y_axis),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Axis:
    """Maps the logarithm of a figure to a place on the picture."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    def at(self, figure: float) -> float:
        """Return where a figure lies."""
        share = math.log(figure / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return 1, 2 and 5 times each power of ten within the axis."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        found = [step * 10.0**power for power in powers for step in (1, 2, 5)]
        return [figure for figure in found if self.low <= figure <= self.high]


def _grid(x_axis: _Axis, y_axis: _Axis, sizes: Sequence[float]) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for seconds in y_axis.ticks():
        y = y_axis.at(seconds)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#e4e4e4"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{seconds:g}", anchor="end"))
    for size in sizes:
        x = x_axis.at(size)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#e4e4e4"/>')
        parts.append(_text(x, bottom + 18, f"{size:g}", anchor="middle"))
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 12, "checkpoint, GB", anchor="middle"))
    middle = (_TOP + bottom) / 2
    turned = _text(16, middle, "seconds, whole process", anchor="middle")
    parts.append(f'<g transform="rotate(-90 16 {middle:.0f})">{turned}</g>')
    return parts


def _drawn(lines: Lines, x_axis: _Axis, y_axis: _Axis) -> list[str]:
    """Draw every line, and its name where it ends."""
    ends = {name: y_axis.at(points[-1][1]) for name, points in lines.items()}
    places = _apart(ends)
    colours = {True: iter(_OURS * 2), False: iter(_PEERS * 2)}
    parts = []
    for name, points in lines.items():
        mine = name.startswith("lineage")
        colour = next(colours[mine])
        spots = [(x_axis.at(x), y_axis.at(y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        width = 2.6 if mine else 1.3
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
        )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots]
        x, y = spots[-1]
        edge = _WIDTH - _RIGHT + 14
        parts.append(
            f'<path d="M{x + 4:.1f} {y:.1f}L{edge - 3} {places[name]:.1f}" stroke="{colour}" '
            'stroke-width=".6" fill="none"/>'
        )
        label = f"{name}  {points[-1][1]:.3g} s"
        parts.append(_text(edge, places[name] + 4, label, colour=colour, bold=mine))
    return parts


def _apart(ends: Mapping[str, float]) -> dict[str, float]:
    """Return places for the names, near their lines' ends and never over each other."""
    ordered = sorted(ends, key=lambda name: ends[name])
    places: dict[str, float] = {}
    lowest = float(_TOP)
    for name in ordered:
        places[name] = lowest = max(ends[name], lowest)
        lowest += _LABEL_GAP
    highest = float(_HEIGHT - _BOTTOM)
    for name in reversed(ordered):
        places[name] = highest = min(places[name], highest)
        highest -= _LABEL_GAP
    return places


def _text(
    x: float, y: float, words: str, *,
    anchor: str = "start", size: int = 12, colour: str = "#444444", bold: bool = False,
) -> str:  # fmt: skip
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{colour}"{weight}>{escape(words)}</text>'
    )
