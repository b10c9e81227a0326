"""Finds what the quantized weights of an ONNX model stand for: their scales and zero points.

A quantized weight feeds an operator that takes its scale and zero point as inputs, or one of the
integer operators, after which the scale is multiplied in. There the names tell: onnxruntime's
quantizer makes `W_quantized`, `W_scale` and `W_zero_point` of a weight `W`. Scales in blocks, and
anything that does not fit, give no `Affine`: only the sketch would have been of what it says.

Source: the operators' own pages (ONNX's Operators.md; ContribOperators.md of onnxruntime), and
`onnxruntime.quantization`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import ml_dtypes
import numpy as np

from lineage.artifacts.base import Affine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lineage.artifacts.base import Item

MAX_SCALES = 1 << 20
"""Of one weight. The widest layer has some hundred thousand outputs."""

_WHOLE = {"I4", "U4", "I8", "U8", "I16", "U16", "I32"}
_READABLE = {
    "I8": "i1", "U8": "u1", "I16": "<i2", "U16": "<u2", "I32": "<i4",
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": ml_dtypes.bfloat16,
}  # fmt: skip


class _Place(NamedTuple):
    """Which inputs of an operator are a weight, its scale and zero point, and its own axis."""

    weight: int
    scale: int | None
    zero: int
    axis: int


SCALED = {
    "DequantizeLinear": (_Place(0, 1, 2, 1),),
    "QLinearConv": (_Place(3, 4, 5, 0),),
    "QLinearMatMul": (_Place(0, 1, 2, -2), _Place(3, 4, 5, -1)),
    "ConvInteger": (_Place(1, None, 3, 0),),
    "MatMulInteger": (_Place(1, None, 3, -1), _Place(0, None, 2, -2)),
    "MatMulIntegerToFloat": (_Place(1, 3, 5, -1),),
    "DynamicQuantizeMatMul": (_Place(1, 2, 3, -1),),
    "QGemm": (_Place(3, 4, 5, -1),),
    "QAttention": (_Place(1, 4, 7, -1),),
}
"""The operators that take quantized weights, their own and those of com.microsoft."""


@dataclass(slots=True)
class Scope:
    """The tensors of one graph by their local names; those around it can be seen from within."""

    prefix: str
    parent: Scope | None
    depth: int
    items: dict[str, Item] = field(default_factory=dict)

    def find(self, name: str) -> Item | None:
        """Return what a name means here."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.items:
                return scope.items[name]
            scope = scope.parent
        return None


@dataclass(frozen=True, slots=True)
class Use:
    """A node of one of the operators in `SCALED`."""

    scope: Scope
    kind: str
    inputs: tuple[str, ...]
    numbers: dict[str, int]


def with_scales(scopes: list[Scope], uses: list[Use]) -> list[Item]:
    """Return all tensors, the quantized weights among them with what they stand for."""
    told = _Told()
    for use in uses:
        for place in SCALED[use.kind]:
            weight = use.scope.find(use.inputs[place.weight]) if _has(use, place.weight) else None
            if weight is not None and weight.dtype in _WHOLE:
                told.add(weight, _of_use(use, place))
    for scope in scopes:
        for local, item in scope.items.items():
            is_used = item.name in told.answers
            if item.dtype in _WHOLE and not is_used and local.endswith("_quantized"):
                told.add(item, _of_names(scope, local, None, None))
    return [told.scaled(item) for scope in scopes for item in scope.items.values()]


class _Scales(NamedTuple):
    """Where a weight's scales are, not yet read."""

    scale: Item | None
    zero: Item | None
    axis: int | None


class _Told:
    """What is said of each weight.

    The same said again is not read again, and a dispute settles it: a node takes thirty bytes, and
    the scales that it names may be a million.
    """

    def __init__(self) -> None:
        self.answers: dict[str, set[Affine]] = {}
        self._asked: set[tuple[str, str | None, str | None, int | None]] = set()
        self._small = _Small()

    def add(self, weight: Item, scales: _Scales | None) -> None:
        """Take note of what one use says; None says nothing."""
        answers = self.answers.setdefault(weight.name, set())
        if scales is None or len(answers) > 1:
            return
        scale, zero = (part.name if part is not None else None for part in scales[:2])
        asked = (weight.name, scale, zero, scales.axis)
        if asked not in self._asked:
            self._asked.add(asked)
            affine = _affine(weight, scales, self._small)
            answers |= set() if affine is None else {affine}

    def scaled(self, item: Item) -> Item:
        """Return the item with its scales, if all that use it agree on them."""
        answers = self.answers.get(item.name, set())
        return replace(item, affine=next(iter(answers))) if len(answers) == 1 else item


def _has(use: Use, place: int | None) -> bool:
    return place is not None and place < len(use.inputs) and bool(use.inputs[place])


def _of_use(use: Use, place: _Place) -> _Scales | None:
    if use.numbers.get("block_size"):
        return None
    axis = use.numbers.get("axis", place.axis)
    if use.kind == "QGemm" and use.numbers.get("transB"):
        axis = 0
    zero = use.scope.find(use.inputs[place.zero]) if _has(use, place.zero) else None
    if _has(use, place.zero) and zero is None:
        return None  # it is computed
    if place.scale is None:
        return _of_names(use.scope, use.inputs[place.weight], zero, axis)
    scale = use.scope.find(use.inputs[place.scale]) if _has(use, place.scale) else None
    return _Scales(scale, zero, axis)


def _of_names(scope: Scope, local: str, zero: Item | None, axis: int | None) -> _Scales:
    stem = local.removesuffix("_quantized")
    if zero is None:
        zero = scope.find(f"{stem}_zero_point")
    return _Scales(scope.find(f"{stem}_scale"), zero, axis)


def _affine(weight: Item, told: _Scales, small: _Small) -> Affine | None:
    """Return the scales of a weight, None if they do not fit it."""
    scale, zero, axis = told
    scales = small.values(scale)
    zeros = small.values(zero) if zero is not None else (0.0,)
    if not scales or not zeros or len(zeros) not in {1, len(scales)} or not weight.size_bytes:
        return None
    if len(scales) == 1:
        return Affine(scales, zeros)
    if scale is None or len(scale.shape) != 1 or axis is None:
        return None
    rank = len(weight.shape)
    if not -rank <= axis < rank or weight.shape[axis] != len(scales):
        return None
    if len(zeros) < len(scales):
        zeros = small.spread(zeros, len(scales))
    return Affine(scales, zeros, axis % rank)


class _Small:
    """The values of scales and zero points, each read and spread once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, ...]] = {}
        self._spread: dict[tuple[float, int], tuple[float, ...]] = {}

    def spread(self, one: tuple[float, ...], count: int) -> tuple[float, ...]:
        """Return one value so many times."""
        return self._spread.setdefault((one[0], count), one * count)

    def values(self, item: Item | None) -> tuple[float, ...]:
        """Return a small tensor's values; none if it is not small, or not of finite numbers."""
        if item is None:
            return ()
        if item.name not in self._known:
            self._known[item.name] = tuple(_values(item))
        return self._known[item.name]


def _values(item: Item) -> Iterator[float]:
    packed = {"I4": 8, "U4": 0}.get(item.dtype)
    dtype = np.dtype("u1" if packed is not None else _READABLE.get(item.dtype, "V"))
    if not dtype.itemsize or item.size_bytes > MAX_SCALES * dtype.itemsize:
        return
    scratch = memoryview(bytearray(item.size_bytes))
    data = np.frombuffer(item.source.piece(0, item.size_bytes, scratch), dtype)
    if packed is not None:  # two to a byte, the low four bits first; bit 3 is the sign of an I4
        pairs = np.stack([data & 15, data >> 4], axis=-1).reshape(-1)[: math.prod(item.shape)]
        data = (pairs.astype(np.int8) ^ packed) - packed
    with np.errstate(invalid="ignore"):  # a NaN may be a signalling one
        values: NDArray[np.float64] = data.astype(np.float64)
    if bool(np.isfinite(values).all()):
        yield from values.tolist()
