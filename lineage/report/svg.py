"""Draws a lineage as one self-contained SVG: no script, no font, no address of anything else.

Colours are written twice, for light and for dark, in one inline style; every element also reads
without it. Strings from outside go through `printable` and an XML escape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from lineage.errors import printable
from lineage.report.base import Declared, Edge, Lineage, Model, fit, read, text_width
from lineage.report.layout import CONTRADICTED, NAME_SIZE, SMALL_SIZE, Box, Point
from lineage.report.page import HEADER, MARGIN, Page, lay_out

COLOURS = {
    "finetune": "#3578e5",
    "merge": "#9155e0",
    "quantized": "#c9820a",
    "identical": "#6b8299",
    "adapter": "#0d9ab8",
    "pruned": "#1a8a86",
    "expanded": "#2f9e4f",
    "reparametrized": "#c9479b",
    "noised": "#967254",
}
"""One colour for each measured relation, readable on white and on near-black."""

ROOT, OTHER, ALARM = "#b4bcc5", "#97a1ac", "#d93a45"

_STYLE = """
.lineage text{font-family:system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif}
.lineage .mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.lineage .sheet{fill:#ffffff;stroke:#d9dee4}
.lineage .family{fill:#f5f7fa;stroke:#e4e8ed}
.lineage .pill{fill:#f5f7fa}
.lineage .node{fill:#ffffff;stroke:#ccd3db}
.lineage .ink{fill:#1c2430}
.lineage .soft{fill:#66707c}
.lineage .loose{stroke:#8a949f}
@media (prefers-color-scheme:dark){
.lineage .sheet{fill:#0f141b;stroke:#2a323c}
.lineage .family{fill:#171e27;stroke:#262f3a}
.lineage .pill{fill:#171e27}
.lineage .node{fill:#1f2832;stroke:#3a4552}
.lineage .ink{fill:#e8edf3}
.lineage .soft{fill:#98a3af}
.lineage .loose{stroke:#7d8893}
}
"""


def svg(
    document: Mapping[str, Any], declared: Sequence[Declared] = (), title: str = "Model lineage"
) -> str:
    """Draw the document of `lineage infer --json`.

    Args:
        document: Models, edges and undetermined pairs, as a plain dictionary.
        declared: What the repositories say; contradicted declarations are drawn in red.
        title: The heading of the picture.

    Returns:
        The text of an SVG file, also fit to be pasted into a page. The same input gives the same
        bytes.

    Raises:
        FormatError: If the document is not consistent, as `read` says, or its edges form a circle.
    """
    return draw(read(document, declared), title)


def draw(lineage: Lineage, title: str, *, headed: bool = True) -> str:
    """Draw a lineage that has been read; `headed` writes the title and the summary on top."""
    page = lay_out(lineage, header=HEADER if headed else MARGIN)
    legend, height = _legend(lineage, page)
    relation = {edge.child: edge.relation for edge in reversed(lineage.edges)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lineage" role="img" '
        f'aria-labelledby="lineage-title lineage-desc" width="{_n(page.width)}" '
        f'height="{_n(height)}" viewBox="0 0 {_n(page.width)} {_n(height)}">',
        f'<title id="lineage-title">{clean(title)}</title>',
        f'<desc id="lineage-desc">{clean(_description(lineage), 20_000)}</desc>',
        f"<style>{_STYLE}</style>",
        _rect(Box(0.5, 0.5, page.width - 1, height - 1), 'class="sheet" rx="12"'),
    ]
    if headed:
        wide = page.width - 2 * MARGIN
        parts.append(_text(MARGIN, 36, fit(printable(title), 20, wide), "ink", 20, "600"))
        parts.append(_text(MARGIN, 58, fit(lineage.summary, 12.5, wide), "soft", 12.5))
    for frame in page.frames:
        parts.append(_rect(frame.box, 'class="family" rx="10"'))
        parts.append(_text(frame.title_x, frame.box.y + 20, frame.title, "soft", 10.5))
    parts += [_loose(lineage, page, *pair) for pair in lineage.loose]
    for wire in page.wires:
        parts.append(_arrow(_bends(wire.points), wire.points[-1], _colour(wire.edge.relation)))
    for route in page.routes:
        parts.append(
            _arrow(_corners(route.points), route.points[-1], ALARM, ' stroke-dasharray="6 4"')
        )
    parts += [_edge_label(lineage, wire.edge, wire.label) for wire in page.wires]
    parts += [
        _pill(route.label, f'<tspan fill="{ALARM}">{CONTRADICTED}</tspan>') for route in page.routes
    ]
    parts += [_node(m, page.boxes[m.path], relation.get(m.path)) for m in lineage.models]
    return "\n".join([*parts, *legend, "</svg>"]) + "\n"


def clean(text: str, limit: int = 200) -> str:
    """Return text from outside as it may stand in XML or HTML, between tags or in quotes."""
    return escape(printable(text, limit))


def _node(model: Model, box: Box, relation: str | None) -> str:
    colour = ROOT if relation is None else _colour(relation)
    name = fit(model.name, NAME_SIZE, box.width - 26)
    stripe = f"M{_n(box.x + 7)} {_n(box.y)}h-1a6 6 0 0 0-6 6v{_n(box.height - 12)}a6 6 0 0 0 6 6h1z"
    return (
        f'<g class="model"><title>{clean(model.path, 1000)}</title>'
        + _rect(box, 'class="node" rx="6"')
        + f'<path d="{stripe}" fill="{colour}"/>'
        + _text(box.x + 17, box.middle - 3, name, "ink", NAME_SIZE, "600")
        + _text(box.x + 17, box.middle + 14, model.id, "soft mono", SMALL_SIZE)
        + "</g>"
    )


def _edge_label(lineage: Lineage, edge: Edge, box: Box) -> str:
    colour = _colour(edge.relation)
    figures = f'<tspan class="soft" dx="6">{escape(edge.figures)}</tspan>' if edge.figures else ""
    ends = f"{lineage.name_of(edge.parent)} → {lineage.name_of(edge.child)}"
    return _pill(
        box,
        f'<tspan fill="{colour}">{escape(edge.kind)}</tspan>{figures}',
        f"{ends}: {edge.kind} {edge.figures}",
    )


def _pill(box: Box, inside: str, said: str = CONTRADICTED) -> str:
    x, y = _n(box.x + box.width / 2), _n(box.middle + 3.8)
    return (
        f'<g class="label"><title>{clean(said, 1000)}</title>'
        + _rect(box, 'class="pill" rx="9"')
        + f'<text x="{x}" y="{y}" text-anchor="middle" font-size="{SMALL_SIZE:g}">'
        + f"{inside}</text></g>"
    )


def _arrow(path: str, tip: Point, colour: str, more: str = "") -> str:
    x, y = tip
    head = f"M{_n(x - 1)} {_n(y)}l-9 -4.5v9z"
    return (
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{more}/>'
        f'<path d="{head}" fill="{colour}"/>'
    )


def _bends(points: Sequence[Point]) -> str:
    """Return a path that bends to every second point and runs level to the others."""
    (x, y), *rest = points
    path = f"M{_n(x)} {_n(y)}"
    for bend, level in zip(rest[::2], rest[1::2], strict=True):
        half, end = _n((x + bend[0]) / 2), _n(bend[1])
        path += f"C{half} {_n(y)} {half} {end} {_n(bend[0])} {end}"
        x, y = level
        path += f"H{_n(x - (8 if level == points[-1] else 0))}"
    return path


def _corners(points: Sequence[Point], radius: float = 8) -> str:
    """Return a path of level and upright lines with round corners."""
    path = f"M{_n(points[0][0])} {_n(points[0][1])}"
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        enter, leave = (_toward(corner, other, radius) for other in (before, after))
        path += (
            f"L{_n(enter[0])} {_n(enter[1])}"
            f"Q{_n(corner[0])} {_n(corner[1])} {_n(leave[0])} {_n(leave[1])}"
        )
    return path + f"L{_n(points[-1][0] - 8)} {_n(points[-1][1])}"


def _toward(corner: Point, other: Point, radius: float) -> Point:
    dx, dy = other[0] - corner[0], other[1] - corner[1]
    length = max(abs(dx), abs(dy))
    part = min(radius, length / 2) / length if length else 0
    return corner[0] + dx * part, corner[1] + dy * part


def _loose(lineage: Lineage, page: Page, a: str, b: str, why: str) -> str:
    """Return a dotted line without a head, behind every box it passes."""
    one, other = sorted((page.boxes[a], page.boxes[b]), key=lambda box: (box.x, box.y))
    between = any(box.x == one.x and one.bottom < box.y < other.y for box in page.boxes.values())
    if one.x == other.x and not between:
        path = f"M{_n(one.x + one.width / 2)} {_n(one.bottom)}V{_n(other.y)}"
    elif one.x == other.x:
        x, reach = one.right, 20
        path = (
            f"M{_n(x)} {_n(one.middle)}C{_n(x + reach)} {_n(one.middle)} "
            f"{_n(x + reach)} {_n(other.middle)} {_n(x)} {_n(other.middle)}"
        )
    else:
        half = (other.x - one.right) / 2
        path = (
            f"M{_n(one.right)} {_n(one.middle)}C{_n(one.right + half)} {_n(one.middle)} "
            f"{_n(other.x - half)} {_n(other.middle)} {_n(other.x)} {_n(other.middle)}"
        )
    said = f"{lineage.name_of(a)} and {lineage.name_of(b)}: related, direction undetermined. {why}"
    return (
        f'<path d="{path}" class="loose" fill="none" stroke="#8a949f" stroke-width="1.6" '
        f'stroke-linecap="round" stroke-dasharray="0.5 5"><title>{clean(said, 1000)}</title></path>'
    )


def _legend(lineage: Lineage, page: Page) -> tuple[list[str], float]:
    """Return the key to the colours and lines in use, and the height of the whole picture."""
    used = list(dict.fromkeys(edge.relation for edge in lineage.edges))
    order = [*COLOURS, *sorted(r for r in used if r not in COLOURS)]
    keys = [("stripe", r, _colour(r)) for r in order if r in used]
    keys.insert(0, ("stripe", "no parent here", ROOT))
    if lineage.loose:
        keys.append(("0.5 5", "related, direction undetermined", OTHER))
    if page.routes:
        keys.append(("6 4", CONTRADICTED, ALARM))
    parts, x, y = [], MARGIN, page.bottom + 8
    for mark, words, colour in keys:
        width = (12 if mark == "stripe" else 30) + text_width(words, SMALL_SIZE) + 18
        if x + width > page.width - MARGIN and x > MARGIN:
            x, y = MARGIN, y + 20
        if mark == "stripe":
            parts.append(_rect(Box(x, y - 9, 5, 12), f'rx="2" fill="{colour}"'))
        else:
            parts.append(
                f'<path d="M{_n(x)} {_n(y - 3)}h24" stroke="{colour}" stroke-width="1.8" '
                f'stroke-linecap="round" stroke-dasharray="{mark}"/>'
            )
        parts.append(_text(x + (12 if mark == "stripe" else 30), y, words, "soft", SMALL_SIZE))
        x += width
    return parts, y + 22


def _description(lineage: Lineage) -> str:
    """Say the whole picture in words, for readers who do not see it."""
    said: Iterable[str] = (
        f"{lineage.name_of(e.child)} is {e.kind} of {lineage.name_of(e.parent)}"
        for e in lineage.edges
    )
    false = (
        f"the declared parent {lineage.name_of(p)} of {lineage.name_of(c)} is contradicted"
        for p, c in lineage.contradicted
    )
    return lineage.summary + " " + "; ".join([*said, *false])


def _colour(relation: str) -> str:
    return COLOURS.get(relation, OTHER)


def _rect(box: Box, attributes: str) -> str:
    return (
        f'<rect x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" '
        f'height="{_n(box.height)}" {attributes}/>'
    )


def _text(x: float, y: float, words: str, style: str, size: float, weight: str = "400") -> str:
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" class="{style}" font-size="{size:g}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
