"""A fingerprint's tensors as arrays, by which whole models are held against each other."""

from __future__ import annotations

from functools import cached_property
from itertools import chain, repeat
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from lineage.artifacts.dialects import canonical_name, is_no_weight, layered
from lineage.fingerprints.base import TensorPrint
from lineage.fingerprints.sketch import FAST, Layout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from lineage.fingerprints import Fingerprint

COUNTS = frozenset({"BOOL", "I16", "I32", "I64", "U16", "U32", "U64"})
"""Dtypes of positions, counters and masks."""

WAVE_AGREES = 1e-5
"""Relative difference that rounding leaves in the sum of squares of a table of sines and cosines,
also where it is stored in half precision: of many values the errors cancel."""


class Table:
    """A fingerprint's tensors as arrays, one place per tensor, then one per part of a tensor.

    Attributes:
        whole: How many of the places are tensors as they are stored.
        parts: Place of a fused tensor -> the places of what it holds.
        is_matrix: Which places are weights that tell one training run from another: wide enough,
            and neither counters, optimizer state nor tables that a constructor fills.
    """

    def __init__(self, fingerprint: Fingerprint) -> None:
        self.whole = len(fingerprint.tensors)
        self.turns = fingerprint.scheme != FAST  # which has another share of rows than of columns
        tensors = list(fingerprint.tensors)
        self.parts: dict[int, tuple[int, ...]] = {}
        for place, tensor in enumerate(fingerprint.tensors):
            if tensor.parts:
                self.parts[place] = tuple(range(len(tensors), len(tensors) + len(tensor.parts)))
                tensors += _as_tensors(tensor)
        self.tensors = tuple(tensors)
        self.usable = np.array([t.sketch is not None and t.nonfinite == 0 for t in tensors])
        cores = [t.sketch.core.reshape(-1) for t in tensors if t.sketch is not None]
        lengths = [0 if t.sketch is None else t.sketch.core.size for t in tensors]
        self.core = np.concatenate([*cores, np.zeros(0, np.float32)])
        self.starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.intp)
        self.energy = np.array([0.0 if t.sketch is None else t.sketch.energy for t in tensors])
        self.sizes = np.array([t.size for t in tensors], np.float64)
        self.is_flat = [is_flat(t) for t in tensors]
        self.is_matrix = np.array([_is_weight(t) for t in tensors], np.bool_)
        self.names = tuple(t.name for t in tensors)
        self.shapes = tuple(t.shape for t in tensors)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The tensors' canonical names."""
        return tuple(canonical_name(name) for name in self.names)

    @cached_property
    def layers(self) -> dict[str, dict[int, dict[str, int]]]:
        """Stack of layers -> number -> what a tensor is called in the layer -> its place."""
        found: dict[str, dict[int, dict[str, int]]] = {}
        for place in range(self.whole):
            if (at := layered(self.names[place])) is not None:
                found.setdefault(at.stack, {}).setdefault(at.number, {})[at.role] = place
        return found

    @cached_property
    def layer_numbers(self) -> NDArray[np.intp]:
        """One number for each layer of each stack, place by place; -1 outside of all."""
        numbers = np.full(len(self.tensors), -1, np.intp)
        layers = [layer for stack in self.layers.values() for layer in stack.values()]
        for number, layer in enumerate(layers):
            for place in layer.values():
                numbers[[place, *self.parts.get(place, ())]] = number
        return numbers

    def cores(self, places: Iterable[int], turned: Iterable[bool] = ()) -> NDArray[np.float32]:
        """Return the cores of some tensors, one after the other, some of them transposed."""
        parts = [
            self.matrix(i).T.reshape(-1)
            if is_turned
            else self.core[self.starts[i] : self.starts[i + 1]]
            for i, is_turned in zip(places, chain(turned, repeat(False)), strict=False)
        ]
        return np.concatenate([*parts, np.zeros(0, np.float32)])

    def matrix(self, place: int) -> NDArray[np.float32]:
        """Return the core of one tensor as a matrix."""
        shape = Layout.of(self.shapes[place]).core_shape
        return self.core[self.starts[place] : self.starts[place + 1]].reshape(shape)

    def left_over(self, used: Iterable[int]) -> list[int]:
        """Return the places of stored tensors that are not used, whole or in all their parts."""
        seen = set(used)
        return [
            place
            for place in range(self.whole)
            if place not in seen
            and not (place in self.parts and seen.issuperset(self.parts[place]))
        ]

    def form(self, place: int) -> tuple[int, ...]:
        """Return what two tensors share if one's sketch may be the other's or its transpose."""
        layout = Layout.of(self.shapes[place])
        if layout.is_vector:
            return (self.tensors[place].size,)
        form = layout.rows, layout.cols
        return tuple(sorted(form)) if self.turns else form


def _as_tensors(whole: TensorPrint) -> list[TensorPrint]:
    """Return a tensor's parts as tensors of their own; no digest is known of them."""
    return [
        TensorPrint(
            one.part.name, whole.dtype, one.part.shape(whole.shape), b"", b"", (), one.sketch,
            whole.nonfinite, whole.lattice,
        )
        for one in whole.parts
    ]  # fmt: skip


_tables: WeakKeyDictionary[Fingerprint, Table] = WeakKeyDictionary()


def table(fingerprint: Fingerprint) -> Table:
    """Return the fingerprint's table, made once."""
    found = _tables.get(fingerprint)
    if found is None:
        found = _tables[fingerprint] = Table(fingerprint)
    return found


def is_matrix(shape: tuple[int, ...]) -> bool:
    """Whether a tensor is wide enough to tell one training run from another."""
    extents = [n for n in shape if n > 1]
    return len(extents) >= 2 and int(np.prod(extents)) >= 64


def _is_weight(tensor: TensorPrint) -> bool:
    if tensor.dtype in COUNTS or not is_matrix(tensor.shape):
        return False
    return not (is_no_weight(tensor.name) or _is_wave(tensor))


def _is_wave(tensor: TensorPrint) -> bool:
    """Whether it is a table of positions: sin^2 + cos^2 is 1, so half of all squares' sum."""
    if tensor.sketch is None or tensor.size < 64 or tensor.nonfinite:
        return False
    return abs(2 * tensor.sketch.energy / tensor.size - 1) <= WAVE_AGREES


def is_flat(tensor: TensorPrint) -> bool:
    """Whether it has no two different values but zero: such tensors are alike by convention."""
    return tensor.sketch is None or tensor.sketch.is_flat
