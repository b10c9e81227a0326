"""Reads what is in memory: a `state_dict`, a torch module, a dict of NumPy arrays.

Values are never copied whole: a piece is sliced first and only then taken from its device, made
contiguous or turned to little-endian, so that at most one piece is held twice.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
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

_MAX_DEPTH = 64
"""Mappings within mappings; more is a mapping that holds itself."""

_Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor someone else holds: a NumPy array or a torch tensor on any device."""

    value: Any

    def piece(self, start: int, size: int, scratch: memoryview) -> memoryview:  # noqa: ARG002
        """Return a view of the value's bytes, or of a copy of these alone; see `Source`."""
        width = self.value.itemsize
        first, last = start // width, -(-(start + size) // width)
        if _is_plain(self.value):
            parts = [_bytes(self.value.reshape(-1)[first:last])]
        else:
            parts = [
                _bytes(self.value[box]) for box in _boxes(tuple(self.value.shape), first, last)
            ]
        data = parts[0] if len(parts) == 1 else np.concatenate(parts)
        skipped = start - first * width
        return memoryview(data.data)[skipped : skipped + size]


def items_of(model: Any) -> list[Item]:
    """Return the tensors of a module or mapping, tensors that share memory once.

    Of tied tensors the first in the mapping's order is kept, which is how modules register them
    (embeddings before heads) and what hub checkpoints store.

    Args:
        model: A `torch.nn.Module` (its `state_dict()` is read) or a mapping of names to tensors,
            arrays or mappings of the same kind, whose tensors are named `outer.inner`. All of it
            is the model: values that are no tensors (`num_batches_tracked` counters are; an
            extra-state object is not) raise, and an optimizer's tensors must be left out before.

    Raises:
        FormatError: If a tensor has no values of its own here (on the meta device, one shard of
            several, quantized by torch, sparse) or a dtype without a spelling.
        TypeError: If `model` is neither, or a value is no tensor.
    """
    if not isinstance(model, Mapping):
        if not callable(getattr(model, "state_dict", None)):
            kind = type(model).__name__
            raise TypeError(f"expected a path, a module or a mapping of tensors, got {kind}")
        model = model.state_dict()
    seen: set[tuple[Any, ...]] = set()
    items = []
    for name, value in _named(model, "", _MAX_DEPTH):
        dtype, shape, place = _describe(name, value)
        if place in seen:
            continue
        if size_bytes(dtype, shape):
            seen.add(place)
        items.append(Item(name, dtype, shape, size_bytes(dtype, shape), Held(value)))
    return items


def _named(model: Mapping[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the values of a mapping and of the mappings in it, their names joined by dots."""
    for key, value in model.items():
        if not isinstance(key, str):
            raise TypeError(f"tensor names are text, got {key!r}")
        name = prefix + key
        if isinstance(value, Mapping):
            if not depth:
                raise FormatError(f"mappings nested more than {_MAX_DEPTH} deep", tensor=name[:80])
            yield from _named(value, f"{name}.", depth - 1)
        elif isinstance(value, np.ndarray | np.generic):
            # A scalar is held from here on, so that its place stays its own; a matrix loses what
            # its class adds.
            yield name, np.asarray(value)
        else:
            yield name, value


def _describe(name: str, value: Any) -> tuple[str, tuple[int, ...], tuple[Any, ...]]:
    """Return dtype, shape, and where in memory the value lies."""
    place: tuple[Any, ...]
    if isinstance(value, np.ndarray):
        spelled = value.dtype.name
        shape = value.shape
        place = (value.__array_interface__["data"][0], value.strides, shape, value.dtype.str)
    elif hasattr(value, "detach") or hasattr(value, "local_shards"):
        reason = _not_plain(value)
        if reason is not None:
            raise FormatError(reason, tensor=name)
        spelled = str(value.dtype).removeprefix("torch.")
        shape = tuple(value.shape)
        flipped = (value.is_conj(), value.is_neg())
        place = (value.data_ptr(), tuple(value.stride()), shape, spelled, flipped, value.device)
    else:
        raise TypeError(f"'{name}' is a {type(value).__name__}, not a tensor")
    if spelled not in _NUMPY:
        raise FormatError(f"dtype {spelled} has no safetensors spelling", tensor=name)
    return _NUMPY[spelled], shape, place


def _not_plain(value: Any) -> str | None:
    """Say why a torch tensor's values cannot be read, or None if they can.

    Asked by attribute, not by class: half of these classes live in modules that take seconds to
    import or are not in every torch.
    """
    kind = type(value).__name__
    if hasattr(value, "materialize"):  # of a lazy module that has not run
        return "is not initialized: it has no values yet"
    if hasattr(value, "fake_mode") or getattr(value, "is_meta", False):
        return "is on the meta device: it has a shape but no values"
    if any(hasattr(value, name) for name in ("full_tensor", "local_shards", "_is_flat_param")):
        return f"is one process's shard of a tensor ({kind}); gather the whole first"
    if hasattr(type(value), "__tensor_flatten__"):  # a class of values computed from others
        return f"is a {kind}, which wraps other tensors; give its plain values"
    if value.is_quantized:
        return f"is quantized by torch ({value.dtype}); give int_repr(), or dequantize()"
    if str(value.layout) != "torch.strided":
        return f"is stored sparse ({value.layout}); give to_dense()"
    return None


def _is_plain(value: Any) -> bool:
    """Return whether the value's elements lie one after the other: its flat slices are views."""
    if isinstance(value, np.ndarray):
        return value.flags.c_contiguous
    return bool(value.is_contiguous())


def _boxes(shape: tuple[int, ...], first: int, last: int) -> Iterator[tuple[int | slice, ...]]:
    """Yield the index boxes that hold elements `first` to `last` of a row-major walk, in order."""
    if not shape:
        yield ()
        return
    row = math.prod(shape[1:])
    top, head = divmod(first, row)
    bottom, tail = divmod(last, row)
    if top == bottom:
        yield from ((top, *box) for box in _boxes(shape[1:], head, tail))
        return
    if head:
        yield from ((top, *box) for box in _boxes(shape[1:], head, row))
        top += 1
    if top < bottom:
        yield (slice(top, bottom),)
    if tail:
        yield from ((bottom, *box) for box in _boxes(shape[1:], 0, tail))


def _bytes(value: Any) -> _Bytes:
    """Return a piece's bytes, row-major and little-endian; a view where they already are."""
    if not isinstance(value, np.ndarray | np.generic):
        import torch

        tensor = value.detach().resolve_conj().resolve_neg().contiguous().cpu()
        flat = tensor.as_strided((tensor.numel(),), (1,))  # one value may have any stride
        return np.asarray(flat.view(torch.uint8).numpy())
    array = np.ascontiguousarray(value).reshape(-1)
    big = array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and sys.byteorder == "big")
    if big:
        array = array.byteswap()
    return array.view(np.uint8)
