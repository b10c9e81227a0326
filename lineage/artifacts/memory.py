"""Reads what is in memory: a `state_dict`, a torch module, a dict of NumPy arrays.

Nothing is copied until a tensor's turn comes, and then one tensor at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 and the 8-bit floats with NumPy)
import numpy as np

from lineage.artifacts.base import Item, size_bytes
from lineage.errors import FormatError

_NUMPY = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16",
    "uint32": "U32", "int32": "I32", "uint64": "U64", "int64": "I64",
    "float16": "F16", "float32": "F32", "float64": "F64", "complex64": "C64",
    "bfloat16": "BF16", "float8_e5m2": "F8_E5M2", "float8_e4m3fn": "F8_E4M3",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor someone else holds: a NumPy array or a torch tensor on any device."""

    value: Any

    def piece(self, start: int, size: int, scratch: memoryview) -> memoryview:  # noqa: ARG002
        """Return a view of the value's bytes; see `Source`."""
        return memoryview(_bytes(self.value).data)[start : start + size]


def items_of(model: Any) -> list[Item]:
    """Return the tensors of a module or mapping, tensors that share memory once.

    Of tied tensors the first in the mapping's order is kept, which is how modules register them
    (embeddings before heads) and what hub checkpoints store.

    Args:
        model: A `torch.nn.Module` (its `state_dict()` is read) or a mapping of names to tensors or
            arrays. Values that are no tensors (`num_batches_tracked` counters are; an extra-state
            object is not) raise.

    Raises:
        TypeError: If `model` is neither, or a value is no tensor.
    """
    if not isinstance(model, Mapping):
        if not callable(getattr(model, "state_dict", None)):
            kind = type(model).__name__
            raise TypeError(f"expected a path, a module or a mapping of tensors, got {kind}")
        model = model.state_dict()
    seen: set[tuple[Any, ...]] = set()
    items = []
    for name, value in model.items():
        if not isinstance(name, str):
            raise TypeError(f"tensor names are text, got {name!r}")
        if isinstance(value, np.generic):
            value = np.asarray(value)  # held from here on, so that its place stays its own
        dtype, shape, place = _describe(name, value)
        if place in seen:
            continue
        if size_bytes(dtype, shape):
            seen.add(place)
        items.append(Item(name, dtype, shape, size_bytes(dtype, shape), Held(value)))
    return items


def _describe(name: str, value: Any) -> tuple[str, tuple[int, ...], tuple[Any, ...]]:
    """Return dtype, shape, and where in memory the value lies."""
    place: tuple[Any, ...]
    if isinstance(value, np.ndarray):
        spelled = value.dtype.name
        shape = value.shape
        place = (value.__array_interface__["data"][0], value.strides, shape, value.dtype.str)
    elif hasattr(value, "data_ptr") and hasattr(value, "detach"):
        spelled = str(value.dtype).removeprefix("torch.")
        shape = tuple(value.shape)
        place = (value.data_ptr(), tuple(value.stride()), shape, spelled, str(value.device))
    else:
        raise TypeError(f"'{name}' is a {type(value).__name__}, not a tensor")
    if spelled not in _NUMPY:
        raise FormatError(f"dtype {spelled} has no safetensors spelling", tensor=name)
    return _NUMPY[spelled], shape, place


def _bytes(value: Any) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Return the value's bytes, row-major and little-endian."""
    if not isinstance(value, np.ndarray):
        import torch

        tensor = value.detach().cpu().contiguous()
        return np.asarray(tensor.reshape(-1).view(torch.uint8).numpy())
    array = np.ascontiguousarray(value).reshape(-1)
    big = array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and sys.byteorder == "big")
    if big:
        array = array.byteswap()
    return array.view(np.uint8)
