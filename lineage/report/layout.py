"""Where one family's boxes, arrows and labels go: layers from left to right.

The plan follows Sugiyama, Tagawa and Toda (1981): 1. layers by longest path from a root, 2. bends
where an arrow passes a layer, 3. order in a layer by barycenter, 4. positions by least squares.
Between two layers lies a gutter of two zones: in the first every arrow bends, in the second it
runs level into its child and carries its label. So labels meet neither boxes nor one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

from lineage.errors import FormatError
from lineage.report.base import Edge, Model, text_width
from lineage.report.order import Item, order, settle

Point: TypeAlias = tuple[float, float]

NAME_SIZE, SMALL_SIZE = 13.0, 11.0  # pixels
NODE_HEIGHT, PORT = 48.0, 22.0
BEND, LANE, HEAD = 46.0, 8.0, 16.0  # the bending zone, a declared arrow's lane, an arrowhead
PADDING, TITLE = 18.0, 18.0
NODE_WIDTHS = (108.0, 216.0)
CONTRADICTED = "declared, contradicted"


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels, x to the right and y downwards."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """The x of the right side."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """The y of the lower side."""
        return self.y + self.height

    @property
    def middle(self) -> float:
        """The y of the centre."""
        return self.y + self.height / 2

    def moved(self, dx: float, dy: float) -> Box:
        """Return the same box elsewhere."""
        return replace(self, x=self.x + dx, y=self.y + dy)

    def overlaps(self, other: Box) -> bool:
        """Whether the two share an inner point."""
        return (
            self.x < other.right
            and other.x < self.right
            and self.y < other.bottom
            and other.y < self.bottom
        )


@dataclass(frozen=True, slots=True)
class Wire:
    """A measured edge: between its points it bends and runs level in turn, bending first."""

    edge: Edge
    points: tuple[Point, ...]
    label: Box


@dataclass(frozen=True, slots=True)
class Port:
    """Where a declared arrow leaves or enters a box, and the x of its way up or down from there."""

    at: Point
    lane: float

    def moved(self, dx: float, dy: float) -> Port:
        """Return the same port elsewhere."""
        return Port((self.at[0] + dx, self.at[1] + dy), self.lane + dx)

    @property
    def label(self) -> Box:
        """The box of an arriving arrow's label."""
        width = text_width(CONTRADICTED, SMALL_SIZE) + 10
        return Box(self.at[0] - HEAD - width, self.at[1] - 9, width, 18)


@dataclass(frozen=True, slots=True)
class Plan:
    """One family laid out in its own coordinates."""

    size: Box
    title_x: float
    boxes: Mapping[str, Box]
    layers: Mapping[str, int]
    wires: tuple[Wire, ...]
    departures: Mapping[int, Port]
    arrivals: Mapping[int, Port]


def plan_family(
    models: Sequence[Model], edges: Sequence[Edge], declared: Mapping[int, tuple[str, str]]
) -> Plan:
    """Lay out one family.

    Args:
        models: The boxes, in the order in which to draw equals.
        edges: The arrows, all between `models`.
        declared: Contradicted declarations as (parent, child) paths, by number; one of the two
            may be of another family.
    """
    layer_of = depths([model.path for model in models], edges)
    arrivals = {m.path: [n for n, (_, c) in declared.items() if c == m.path] for m in models}
    items, chains = _items(models, edges, layer_of, arrivals)
    layers: list[list[Item]] = [[] for _ in range(max(layer_of.values()) + 1)]
    for item in items:
        layers[item.layer].append(item)
    order(layers)
    settle(layers)
    top = min(item.y - item.height / 2 for item in items)
    for item in items:
        item.y += PADDING + TITLE - top

    columns = _columns(models, edges, layer_of, declared)
    left, right = columns.left, columns.right
    place = {item.path: item for item in items if item.path is not None}
    boxes = {
        path: Box(left[i.layer], i.y - i.height / 2, right[i.layer] - left[i.layer], i.height)
        for path, i in place.items()
    }
    ports = _ports(edges, chains, place, arrivals)
    wires = [
        _wire(edge, chains[n], ports[edge.child, n, False], columns) for n, edge in enumerate(edges)
    ]
    departures = {
        n: Port((right[i], boxes[declared[n][0]].bottom - 10), right[i] + 14 + LANE * rank)
        for i, numbers in enumerate(columns.leaving)
        for rank, n in enumerate(numbers)
    }
    entries = {
        n: Port((left[i], ports[declared[n][1], n, True]), columns.bent[i] - LANE * (rank + 0.5))
        for i, numbers in enumerate(columns.arriving)
        for rank, n in enumerate(numbers)
    }
    height = max(item.y + item.height / 2 for item in items) + PADDING
    return Plan(
        Box(0, 0, columns.width, height),
        left[0],
        boxes,
        layer_of,
        tuple(wires),
        departures,
        entries,
    )


def depths(paths: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """Return for every path the length of the longest way to it from a root.

    Raises:
        FormatError: If the edges form a circle.
    """
    depth = dict.fromkeys(paths, 0)
    for _ in range(len(paths) + 1):
        late = [edge for edge in edges if depth[edge.child] <= depth[edge.parent]]
        if not late:
            return depth
        for edge in late:
            depth[edge.child] = max(depth[edge.child], depth[edge.parent] + 1)
    raise FormatError("the edges form a circle", file=late[0].child)


@dataclass(frozen=True, slots=True)
class _Columns:
    """By layer: the sides of its boxes, where arrows into it have bent, its declared arrows."""

    left: tuple[float, ...]
    right: tuple[float, ...]
    bent: tuple[float, ...]
    leaving: tuple[tuple[int, ...], ...]
    arriving: tuple[tuple[int, ...], ...]
    width: float


def _columns(
    models: Sequence[Model],
    edges: Sequence[Edge],
    layer_of: Mapping[str, int],
    declared: Mapping[int, tuple[str, str]],
) -> _Columns:
    """Return the columns: for each layer a gutter (bends, labels, arrowheads), then the boxes."""
    left, right, bent, x = [], [], [], PADDING
    leaving: list[tuple[int, ...]] = [()]  # of the layer before
    arriving: list[tuple[int, ...]] = []
    for i in range(max(layer_of.values()) + 1):
        arriving.append(tuple(n for n, (_, c) in declared.items() if layer_of.get(c) == i))
        labels = [_label_width(e) for e in edges if layer_of[e.child] == i]
        labels += [text_width(CONTRADICTED, SMALL_SIZE) + 10] * bool(arriving[i])
        x += BEND if i else 10 * bool(arriving[i])
        x += LANE * (len(leaving[i]) + len(arriving[i]))
        bent.append(x)
        x += max(labels) + HEAD + 4 if labels else 0
        left.append(x)
        x += max(_node_width(m) for m in models if layer_of[m.path] == i)
        right.append(x)
        leaving.append(tuple(n for n, (p, _) in declared.items() if layer_of.get(p) == i))
    width = x + PADDING + LANE * len(leaving[-1])
    return _Columns(
        tuple(left), tuple(right), tuple(bent), tuple(leaving[1:]), tuple(arriving), width
    )


def _wire(edge: Edge, chain: Sequence[Item], port: float, columns: _Columns) -> Wire:
    """Return the way of one arrow through the items it visits, into `port` of the last."""
    points: list[Point] = [(columns.right[chain[0].layer], chain[0].y)]
    for item in chain[1:-1]:
        points += [(columns.bent[item.layer], item.y), (columns.right[item.layer], item.y)]
    left, width = columns.left[chain[-1].layer], _label_width(edge)
    points += [(columns.bent[chain[-1].layer], port), (left, port)]
    return Wire(edge, tuple(points), Box(left - HEAD - width, port - 9, width, 18))


def _items(
    models: Sequence[Model],
    edges: Sequence[Edge],
    layer_of: Mapping[str, int],
    arrivals: Mapping[str, Sequence[int]],
) -> tuple[list[Item], list[list[Item]]]:
    """Return every item, and for each edge the items it visits, its parent's and child's among."""
    ports = {m.path: len(arrivals[m.path]) + sum(e.child == m.path for e in edges) for m in models}
    place = {
        m.path: Item(layer_of[m.path], max(NODE_HEIGHT, PORT * ports[m.path] + 6), m.path)
        for m in models
    }
    items, chains = list(place.values()), []
    for edge in edges:
        passed = [Item(i, PORT) for i in range(layer_of[edge.parent] + 1, layer_of[edge.child])]
        chain = [place[edge.parent], *passed, place[edge.child]]
        for one, other in pairwise(chain):
            one.after.append(other)
            other.before.append(one)
        items += passed
        chains.append(chain)
    return items, chains


def _ports(
    edges: Sequence[Edge],
    chains: Sequence[Sequence[Item]],
    place: Mapping[str, Item],
    arrivals: Mapping[str, Sequence[int]],
) -> dict[tuple[str, int, bool], float]:
    """Return the y at which each arrow enters its child: (child, number, is declared) -> y."""
    ports: dict[tuple[str, int, bool], float] = {}
    for path, item in place.items():
        entering = sorted(
            (n for n, e in enumerate(edges) if e.child == path), key=lambda n: chains[n][-2].y
        )
        keys = [(path, n, False) for n in entering] + [(path, n, True) for n in arrivals[path]]
        for rank, key in enumerate(keys):
            ports[key] = item.y + (rank - (len(keys) - 1) / 2) * PORT
    return ports


def _label_width(edge: Edge) -> float:
    return text_width(edge.kind, SMALL_SIZE) + 6 + text_width(edge.figures, SMALL_SIZE) + 10


def _node_width(model: Model) -> float:
    low, high = NODE_WIDTHS
    return min(high, max(low, 1.07 * text_width(model.name, NAME_SIZE) + 28))
