"""Where the families go on the page, and how declared arrows run between them.

Families stand on shelves, the largest first. Between the shelves lie channels, at the left edge a
margin; a declared arrow leaves its parent, takes the nearest channel, and arrives in the gutter of
its child, so that it crosses other arrows but never a box or a label.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lineage.report.base import Lineage, Model
from lineage.report.layout import LANE, Box, Plan, Point, Port, Wire, depths, plan_family

MARGIN, SPACE, HEADER = 16.0, 20.0, 78.0
SHELF = 880.0  # how wide a shelf of small families may become; a README shows about 900 pixels


@dataclass(frozen=True, slots=True)
class Frame:
    """The tinted box of one family and its title."""

    box: Box
    title: str
    title_x: float


@dataclass(frozen=True, slots=True)
class Route:
    """A contradicted declaration: the corners of its way, its label, its (parent, child)."""

    points: tuple[Point, ...]
    label: Box
    pair: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Page:
    """Everything with its place, in pixels; the header is above, the legend below `bottom`."""

    width: float
    bottom: float
    frames: tuple[Frame, ...]
    boxes: dict[str, Box]
    wires: tuple[Wire, ...]
    routes: tuple[Route, ...]


def lay_out(lineage: Lineage, *, header: float = HEADER) -> Page:
    """Give every family, box, arrow and label of `lineage` its place, below `header` pixels."""
    groups = _families(lineage)
    numbered = dict(enumerate(lineage.contradicted))
    plans = [_planned(members, lineage, numbered) for members in groups]
    shelves = _shelves([plan.size.width for plan in plans])
    shelf_of = {index: shelf for shelf, row in enumerate(shelves) for index in row}
    ways = {n: _way(plans, shelf_of, n, pair) for n, pair in numbered.items()}
    lanes = _lanes(ways)
    origins, channels, bottom = _origins(plans, shelves, lanes, header)

    boxes: dict[str, Box] = {}
    wires: list[Wire] = []
    frames = []
    departures: dict[int, Port] = {}
    arrivals: dict[int, Port] = {}
    for index, plan in enumerate(plans):
        dx, dy = origins[index]
        boxes |= {path: box.moved(dx, dy) for path, box in plan.boxes.items()}
        departures |= {n: port.moved(dx, dy) for n, port in plan.departures.items()}
        arrivals |= {n: port.moved(dx, dy) for n, port in plan.arrivals.items()}
        wires += [
            Wire(w.edge, tuple((a + dx, b + dy) for a, b in w.points), w.label.moved(dx, dy))
            for w in plan.wires
        ]
        count = len(plan.boxes)
        title = f"Family {groups[index][0].family}"
        title += f"  ·  {count} models" if count > 1 else ""
        frames.append(Frame(plan.size.moved(dx, dy), title, plan.title_x + dx))
    routes = []
    for number, way in ways.items():
        start, end = departures[number], arrivals[number]
        levels = [channels[c] + LANE * lanes[c].index(number) for c in way]
        aside = MARGIN / 2 + LANE * lanes[-1].index(number) if len(way) > 1 else None
        points = _points(start, end, levels, aside)
        routes.append(Route(points, end.label, numbered[number]))
    width = max((frame.box.right for frame in frames), default=SHELF) + MARGIN
    return Page(max(width, 640.0), bottom, tuple(frames), boxes, tuple(wires), tuple(routes))


def _planned(
    members: Sequence[Model], lineage: Lineage, numbered: Mapping[int, tuple[str, str]]
) -> Plan:
    """Return a family's plan, with its own arrows and the declared ones that touch it."""
    paths = {model.path for model in members}
    return plan_family(
        members,
        [edge for edge in lineage.edges if edge.child in paths],
        {n: pair for n, pair in numbered.items() if not paths.isdisjoint(pair)},
    )


def _lanes(ways: Mapping[int, Sequence[int]]) -> dict[int, list[int]]:
    """Return the declared arrows that run in each channel; -1 is the left margin."""
    lanes: dict[int, list[int]] = defaultdict(list)
    for number, way in ways.items():
        for channel in way:
            lanes[channel].append(number)
        if len(way) > 1:
            lanes[-1].append(number)
    return lanes


def _origins(
    plans: Sequence[Plan],
    shelves: Sequence[Sequence[int]],
    lanes: Mapping[int, Sequence[int]],
    header: float,
) -> tuple[dict[int, Point], list[float], float]:
    """Return where each family begins, where each channel's first lane is, and where all ends."""
    origins: dict[int, Point] = {}
    channels, y = [], header
    for shelf, row in enumerate(shelves):
        channels.append(y - SPACE / 2)
        y += LANE * len(lanes[shelf])
        x = MARGIN + LANE * len(lanes[-1])
        for index in row:
            origins[index] = (x, y)
            x += plans[index].size.width + SPACE
        y += max(plans[index].size.height for index in row) + SPACE
    channels.append(y - SPACE / 2)
    y += LANE * len(lanes[len(shelves)])
    return origins, channels, y


def _points(
    start: Port, end: Port, levels: Sequence[float], aside: float | None
) -> tuple[Point, ...]:
    """Return the corners of a declared arrow's way.

    Args:
        start: Where it leaves its parent.
        end: Where it arrives.
        levels: Heights of its lanes in the channels that it takes.
        aside: Where its lane in the left margin is, if it takes two channels.
    """
    first, last = (levels[0], levels[-1]) if levels else (start.at[1], start.at[1])
    points = [start.at, (start.lane if levels else end.lane, start.at[1])]
    points += [(start.lane, first)] * bool(levels)
    if aside is not None:
        points += [(aside, first), (aside, last)]
    points += [(end.lane, last), (end.lane, end.at[1]), end.at]
    return tuple(dict.fromkeys(points))


def _families(lineage: Lineage) -> list[list[Model]]:
    """Return the members of each family, the largest first.

    Equals stand in the order of the depths their declared arrows come from or go to in other
    families, so that those arrows seldom cross.
    """
    families = defaultdict(list)
    for model in lineage.models:
        families[model.family].append(model)
    depth = depths([model.path for model in lineage.models], lineage.edges)
    family = {model.path: model.family for model in lineage.models}
    far: dict[int, list[int]] = defaultdict(list)
    for pair in lineage.contradicted:
        for path, other in (pair, pair[::-1]):
            if family[path] != family[other]:
                far[family[path]].append(depth[other])
    return sorted(
        families.values(),
        key=lambda members: (
            -len(members),
            max(far[members[0].family], default=1000),
            members[0].family,
        ),
    )


def _shelves(widths: Sequence[float]) -> list[list[int]]:
    """Return the families of each shelf: as many as fit in the width of the widest."""
    room = max([SHELF, *widths])
    shelves: list[list[int]] = []
    used = room
    for index, width in enumerate(widths):
        if used + SPACE + width > room:
            shelves.append([])
            used = -SPACE
        shelves[-1].append(index)
        used += SPACE + width
    return shelves


def _way(
    plans: Sequence[Plan], shelf_of: Mapping[int, int], number: int, pair: tuple[str, str]
) -> list[int]:
    """Return the channels a declared arrow takes; none if it only crosses one gutter."""
    start = next(i for i, plan in enumerate(plans) if number in plan.departures)
    end = next(i for i, plan in enumerate(plans) if number in plan.arrivals)
    layers = plans[start].layers
    if start == end and layers[pair[0]] + 1 == layers[pair[1]]:
        return []
    one, other = shelf_of[start], shelf_of[end]
    first = one if other < one else one + 1
    last = other if other > one else other + 1
    return [first] if first == last else [first, last]
