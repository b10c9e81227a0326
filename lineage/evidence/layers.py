"""Which layer of one model is which of the other, where layers were dropped, repeated or moved.

Two layers are one where their matrices are: equal values have a cosine of 1, and a layer that was
trained on keeps most of it. Independent layers have none: the cosine of the sketches, pooled over a
layer's matrices, is normal around 0, and for one of 36 by 36 the bound below is 18 standard
deviations. So dropped and repeated layers are found in healed models too, whatever their numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lineage.artifacts.dialects import layered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from lineage.evidence.tables import Table

__all__ = ["StackMap", "differ", "layer_maps"]

NEAR = 0.5
"""A cosine that two unrelated layers never reach."""

DEVIATIONS = 8.0
"""Standard deviations of chance that it must have besides, for layers of tiny matrices."""

Roles = dict[str, int]
"""What a tensor of a layer is called there -> its place."""


@dataclass(frozen=True, slots=True)
class StackMap:
    """How the layers of one stack of two models belong together.

    Attributes:
        stack: What both call it.
        pairs: Layers of the first and of the second that are one, each once.
        repeats_a: Layers of the first that are one of the second's, which is another's already, as
            pairs too.
        repeats_b: The same of the second's layers.
        only_a: Layers of the first that are near none of the second's.
        only_b: Layers of the second that are near none of the first's.
    """

    stack: str
    pairs: tuple[tuple[int, int], ...]
    repeats_a: tuple[tuple[int, int], ...] = ()
    repeats_b: tuple[tuple[int, int], ...] = ()
    only_a: tuple[int, ...] = ()
    only_b: tuple[int, ...] = ()

    @property
    def every(self) -> tuple[tuple[int, int], ...]:
        """All pairs, repeats too, in the order of the first's layers."""
        return tuple(sorted(self.pairs + self.repeats_a + self.repeats_b))

    @property
    def keeps_numbers(self) -> bool:
        """Whether every layer is the other's of the same number, or none's."""
        is_moved = any(i != j for i, j in self.pairs)
        return not (is_moved or self.repeats_a or self.repeats_b)


def differ(first: Table, second: Table) -> bool:
    """Whether a stack that both have does not have the same numbers of layers."""
    both = first.layers.keys() & second.layers.keys()
    return any(first.layers[stack].keys() != second.layers[stack].keys() for stack in both)


def layer_maps(first: Table, second: Table) -> tuple[StackMap, ...]:
    """Map the layers of each stack that both models have.

    Those stacks are left out of which no layer of one is near any of the other's, and those whose
    layers have no matrices to tell them by.
    """
    both = sorted(first.layers.keys() & second.layers.keys())
    return tuple(found for stack in both if (found := _mapped(first, second, stack)) is not None)


def _mapped(first: Table, second: Table, stack: str) -> StackMap | None:
    from scipy.optimize import linear_sum_assignment

    ours, theirs = first.layers[stack], second.layers[stack]
    if max(len(ours), len(theirs)) < 2:
        return None
    a, b = sorted(ours), sorted(theirs)
    likeness = _likeness(first, [ours[i] for i in a], second, [theirs[j] for j in b])
    if not np.any(likeness):
        return None
    # Of two layers that are alike to the bit, the order decides which is which.
    away = np.linspace(0, 1, len(a))[:, None] - np.linspace(0, 1, len(b))
    chosen = zip(*linear_sum_assignment(1e-9 * away**2 - likeness), strict=True)
    pairs = [(int(r), int(c)) for r, c in chosen if likeness[r, c] > 0]
    rest_a = sorted(set(range(len(a))) - {r for r, _ in pairs})
    rest_b = sorted(set(range(len(b))) - {c for _, c in pairs})
    again_a = [(r, int(likeness[r].argmax())) for r in rest_a if np.any(likeness[r])]
    again_b = [(int(likeness[:, c].argmax()), c) for c in rest_b if np.any(likeness[:, c])]

    def numbers(found: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        return tuple((a[r], b[c]) for r, c in found)

    return StackMap(
        stack,
        numbers(pairs),
        numbers(again_a),
        numbers(again_b),
        tuple(a[r] for r in rest_a if not np.any(likeness[r])),
        tuple(b[c] for c in rest_b if not np.any(likeness[:, c])),
    )


def _likeness(
    first: Table, ours: list[Roles], second: Table, theirs: list[Roles]
) -> NDArray[np.float64]:
    """Return the pooled cosine of each layer with each; 0 where chance might give it."""
    pooled = np.zeros((len(ours), len(theirs)))
    weights, variance = pooled.copy(), pooled.copy()
    for role in sorted(
        {r for layer in ours for r in layer} & {r for layer in theirs for r in layer}
    ):
        x, y = _by_shape(first, ours, role), _by_shape(second, theirs, role)
        for shape in x.keys() & y.keys():
            rows, cols = list(x[shape]), list(y[shape])
            here = np.ix_(rows, cols)
            size = float(np.prod(shape))
            cells = first.matrix(x[shape][rows[0]]).size
            pooled[here] += size**0.5 * _unit(first, x[shape]) @ _unit(second, y[shape]).T
            weights[here] += size**0.5
            variance[here] += size * (1 / cells + 1 / size)
    cosine = pooled / np.maximum(weights, 1e-300)
    is_near = (cosine >= NEAR) & (pooled >= DEVIATIONS * np.sqrt(variance)) & (weights > 0)
    likeness: NDArray[np.float64] = np.where(is_near, cosine, 0.0)
    return likeness


def _by_shape(of: Table, layers: list[Roles], role: str) -> dict[tuple[int, ...], dict[int, int]]:
    """Return, by shape, the matrices that layers have in one role: number in the list -> place."""
    found: dict[tuple[int, ...], dict[int, int]] = {}
    for number, roles in enumerate(layers):
        place = roles.get(role)
        if place is not None and of.usable[place] and of.is_matrix[place] and of.energy[place] > 0:
            found.setdefault(of.shapes[place], {})[number] = place
    return found


def _unit(of: Table, places: Mapping[int, int]) -> NDArray[np.float64]:
    rows = np.stack([of.matrix(place).reshape(-1) for place in places.values()]).astype(np.float64)
    unit: NDArray[np.float64] = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-300)
    return unit


def relabelled(of: Table, maps: Iterable[StackMap]) -> Iterator[tuple[int, str]]:
    """Yield what the second model's tensors are called in the first's numbers, place by place.

    The layers that have no like of their own get a name that nothing else has.
    """
    for found in maps:
        number = {j: i for i, j in found.pairs}
        for j, roles in of.layers[found.stack].items():
            layer = str(number[j]) if j in number else f"\0{j}"
            for place in roles.values():
                for one in (place, *of.parts.get(place, ())):
                    if (at := layered(of.names[one])) is not None:
                        yield one, ".".join(part for part in (at.stack, layer, at.role) if part)
