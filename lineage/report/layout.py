"""Where one family's boxes, arrows and labels go: layers from left to right.

The plan follows Sugiyama, Tagawa and Toda (1981): 1. layers by longest path from a root, 2. bends
where an arrow passes a layer, 3. order in a layer by barycenter, 4. positions by least squares.
Between two layers lies a gutter of two zones: in the first every arrow bends, in the second it
runs level into its child and carries its label. So labels meet neither boxes nor one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import TypeAlias

from lineage.errors import FormatError
from lineage.report.base import Edge, Model, text_width

Point: TypeAlias = tuple[float, float]

NAME_SIZE, SMALL_SIZE = 13.0, 11.0  # pixels
NODE_HEIGHT, PORT, GAP = 48.0, 22.0, 16.0
BEND, LANE, HEAD = 46.0, 8.0, 16.0  # the bending zone, a declared arrow's lane, an arrowhead
PADDING, TITLE = 18.0, 18.0
NODE_WIDTHS = (108.0, 216.0)
_SWEEPS = 12
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


@dataclass(slots=True)
class _Item:
    """A box, or the place where an arrow passes a layer (then `path` is None)."""

    layer: int
    height: float
    path: str | None = None
    before: list[_Item] = field(default_factory=list)
    after: list[_Item] = field(default_factory=list)
    y: float = 0  # of the centre


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
    layers: list[list[_Item]] = [[] for _ in range(max(layer_of.values()) + 1)]
    for item in items:
        layers[item.layer].append(item)
    _order(layers)
    _settle(layers)
    top = min(item.y - item.height / 2 for item in items)
    for item in items:
        item.y += PADDING + TITLE - top

    # The columns: a gutter (bending zone, label zone, arrowhead), then the boxes.
    leaving = [
        [n for n, (p, _) in declared.items() if layer_of.get(p) == i] for i in range(len(layers))
    ]
    arriving = [
        [n for m in models if layer_of[m.path] == i for n in arrivals[m.path]]
        for i in range(len(layers))
    ]
    labels = [
        max(
            [_label_width(e) for e in edges if layer_of[e.child] == i]
            + [text_width(CONTRADICTED, SMALL_SIZE) + 10] * bool(arriving[i]),
            default=0.0,
        )
        for i in range(len(layers))
    ]
    left, right, bend_end, x = [], [], [], PADDING
    for i, label in enumerate(labels):
        if i:
            x += BEND + LANE * len(leaving[i - 1])
        x += LANE * len(arriving[i]) + (10 if arriving[i] and not i else 0)
        bend_end.append(x)
        x += label + HEAD + 4 if label else 0
        left.append(x)
        x += max(_node_width(m) for m in models if layer_of[m.path] == i)
        right.append(x)
    width = x + PADDING + LANE * len(leaving[-1])

    place = {item.path: item for item in items if item.path is not None}
    boxes = {
        path: Box(left[i.layer], i.y - i.height / 2, right[i.layer] - left[i.layer], i.height)
        for path, i in place.items()
    }
    ports = _ports(edges, chains, place, arrivals)
    wires = []
    for number, edge in enumerate(edges):
        chain, port = chains[number], ports[edge.child, number, False]
        points: list[Point] = [(right[chain[0].layer], chain[0].y)]
        for item in chain[1:]:
            y = port if item.path else item.y
            points += [(bend_end[item.layer], y), (right[item.layer], y)]
        last = layer_of[edge.child]
        points[-1] = (left[last], port)
        wide = _label_width(edge)
        wires.append(Wire(edge, tuple(points), Box(left[last] - HEAD - wide, port - 9, wide, 18)))

    departures = {
        n: Port((right[i], boxes[declared[n][0]].bottom - 10), right[i] + 14 + LANE * rank)
        for i, numbers in enumerate(leaving)
        for rank, n in enumerate(numbers)
    }
    entries = {
        n: Port((left[i], ports[declared[n][1], n, True]), bend_end[i] - LANE * (rank + 0.5))
        for i, numbers in enumerate(arriving)
        for rank, n in enumerate(numbers)
    }
    height = max(item.y + item.height / 2 for item in items) + PADDING
    return Plan(
        Box(0, 0, width, height), left[0], boxes, layer_of, tuple(wires), departures, entries
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


def _items(
    models: Sequence[Model],
    edges: Sequence[Edge],
    layer_of: Mapping[str, int],
    arrivals: Mapping[str, Sequence[int]],
) -> tuple[list[_Item], list[list[_Item]]]:
    """Return every item, and for each edge the items it visits, its parent's and child's among."""
    ports = {m.path: len(arrivals[m.path]) + sum(e.child == m.path for e in edges) for m in models}
    place = {
        m.path: _Item(layer_of[m.path], max(NODE_HEIGHT, PORT * ports[m.path] + 6), m.path)
        for m in models
    }
    items, chains = list(place.values()), []
    for edge in edges:
        passed = [_Item(i, PORT) for i in range(layer_of[edge.parent] + 1, layer_of[edge.child])]
        chain = [place[edge.parent], *passed, place[edge.child]]
        for one, other in pairwise(chain):
            one.after.append(other)
            other.before.append(one)
        items += passed
        chains.append(chain)
    return items, chains


def _order(layers: list[list[_Item]]) -> None:
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


def _crossings(layers: Sequence[Sequence[_Item]]) -> int:
    total = 0
    for layer in layers:
        ends = [(rank, other.y) for rank, item in enumerate(layer) for other in item.before]
        total += sum(
            (a[0] - b[0]) * (a[1] - b[1]) < 0 for n, a in enumerate(ends) for b in ends[:n]
        )
    return total


def _settle(layers: Sequence[Sequence[_Item]]) -> None:
    """Give every item its y: near the mean of its neighbours, in order, without overlap."""
    for layer in layers:
        for rank, item in enumerate(layer):
            item.y = rank * (NODE_HEIGHT + GAP)
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


def _ports(
    edges: Sequence[Edge],
    chains: Sequence[Sequence[_Item]],
    place: Mapping[str, _Item],
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


def _mean(items: Sequence[_Item], otherwise: float) -> float:
    return sum(item.y for item in items) / len(items) if items else otherwise


def _label_width(edge: Edge) -> float:
    return text_width(edge.kind, SMALL_SIZE) + 6 + text_width(edge.figures, SMALL_SIZE) + 10


def _node_width(model: Model) -> float:
    low, high = NODE_WIDTHS
    return min(high, max(low, 1.07 * text_width(model.name, NAME_SIZE) + 28))
