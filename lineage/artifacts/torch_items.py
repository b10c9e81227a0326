"""From torch's views of storages to items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lineage.artifacts.base import BITS, Affine, Item, size_bytes
from lineage.artifacts.pickled import Global, Made
from lineage.artifacts.strided import Strided, Swapped, Window, passes_of
from lineage.artifacts.torch_tensors import View, is_tensor, view_of
from lineage.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lineage.artifacts.base import Source
    from lineage.artifacts.opened import OpenFile
    from lineage.artifacts.torch_tensors import Pool

_FREE_BYTES, _REPEATED = 64 << 20, 16
"""Expanded tensors may come to so many bytes, and so many times what is stored, and no more; scales
and zero points count as they are held, for many tensors may name the same."""

_AFFINE_BYTES = 64
"""A scale and a zero point, each a number of Python's and its place."""

_LARGEST = 1e38

_NUMBERS = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4"}


@dataclass(frozen=True, slots=True)
class Saved:
    """Where the tensors of a pickle lie.

    Attributes:
        file: The file.
        pool: Its storages.
        is_big: Whether numbers are stored big-endian.
    """

    file: OpenFile
    pool: Pool
    is_big: bool = False

    def items(self, tensors: Iterable[tuple[str, Made]]) -> list[Item]:
        """Return named tensors as items, those that are one in the file once, the first kept.

        Raises:
            FormatError: If a tensor lies, or all are far larger than what is stored.
        """
        seen: set[Any] = set()
        stored: dict[Any, int] = {}
        items = []
        total = affine = 0
        for name, value in tensors:
            view = view_of(value, name, self.file)
            place = (view.storage, view.dtype, view.shape, view.strides, view.start)
            if place in seen:
                continue
            if 0 not in view.shape:
                seen.add(place)
            item = self.item(name, view)
            items.append(item)
            kept = view.storage.pool, view.storage.key
            stored[kept] = max(view.storage.size_bytes, stored.get(kept, 0))
            total += item.size_bytes
            affine += 0 if item.affine is None else _AFFINE_BYTES * len(item.affine.scales)
            if affine > _FREE_BYTES + _REPEATED * self.file.size:
                reason = f"its tensors name the same scales until they take {affine} bytes"
                raise FormatError(reason, file=self.file.path, tensor=name)
        if total > _FREE_BYTES + _REPEATED * sum(stored.values()):
            reason = (
                f"its tensors repeat {sum(stored.values())} stored bytes until they are {total}"
            )
            raise FormatError(f"{reason}; save them contiguous", file=self.file.path)
        return items

    def item(self, name: str, view: View) -> Item:
        """Return one tensor as an item."""
        size = size_bytes(view.dtype, view.shape)
        source = self.source(name, view)
        affine = self.affine(name, view) if view.scheme and size else None
        return Item(name, view.dtype, view.shape, size, source, self.file.path, affine)

    def source(self, name: str, view: View) -> Source:
        """Return where a tensor's bytes can be read in row-major order."""
        width, is_run = BITS[view.dtype] // 8, _is_contiguous(view.shape, view.strides)
        passes = 1 if is_run else passes_of(view.shape, width)
        source = self.pool.source(view.storage, name, passes)
        if self.is_big and width > 1:
            source = Swapped(source, width // 2 if view.dtype in ("C64", "C128") else width)
        if not is_run:
            return Strided(source, width, view.shape, view.strides, view.start)
        return Window(source, view.start) if view.start else source

    def affine(self, name: str, view: View) -> Affine:
        """Return what a quantized tensor's numbers stand for."""

        def fail(reason: str) -> FormatError:
            return FormatError(reason, file=self.file.path, tensor=name)

        scheme = view.scheme[0].name if isinstance(view.scheme[0], Global) else "?"
        if scheme == "torch.per_tensor_affine" and len(view.scheme) == 3:
            scales, zeros, axis = (view.scheme[1],), (view.scheme[2],), None
        elif scheme.startswith("torch.per_channel_affine") and len(view.scheme) == 4:
            axis = view.scheme[3]
            if type(axis) is not int or not 0 <= axis < len(view.shape):
                raise fail("its scales run along no dimension of it")
            scales, zeros = (self.numbers(name, told) for told in view.scheme[1:3])
            if not len(scales) == len(zeros) == view.shape[axis]:
                raise fail(f"has {len(scales)} scales and {len(zeros)} zero points")
        else:
            raise fail("is quantized in an unknown way")
        if not all(type(n) in (int, float) and abs(n) < _LARGEST for n in (*scales, *zeros)):
            raise fail("its scales or zero points are no numbers")
        return Affine(tuple(map(float, scales)), tuple(map(float, zeros)), axis)

    def numbers(self, name: str, told: Any) -> tuple[Any, ...]:
        """Return scales or zero points: a list, or a small tensor whose values are read here."""
        if isinstance(told, list):
            return tuple(told)
        view = view_of(told, name, self.file) if is_tensor(told) else None
        if view is None or len(view.shape) != 1 or view.dtype not in _NUMBERS:
            raise FormatError("its scales are no list of numbers", file=self.file.path, tensor=name)
        size = size_bytes(view.dtype, view.shape)
        if size > view.storage.size_bytes:
            raise FormatError("its scales repeat one value", file=self.file.path, tensor=name)
        data = self.source(name, view).piece(0, size, memoryview(bytearray(size)))
        return tuple(np.frombuffer(data, _NUMBERS[view.dtype]).tolist())


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Return whether values lie one after the other; there may be at most one, or none."""
    expected = 1
    for n, step in zip(reversed(shape), reversed(strides), strict=True):
        if n > 1 and step != expected and 0 not in shape:
            return False
        expected *= n
    return True
