"""Reads a stored fingerprint; `lineage/spec/fingerprint-v1.md` is the format in words."""

from __future__ import annotations

import json
import re
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from lineage import canonical
from lineage.artifacts.base import BITS, BLOCKS, MAX_EXTENTS, MAX_VALUES
from lineage.artifacts.dialects import Part
from lineage.errors import FormatError, SchemeError, printable
from lineage.fingerprints.base import Fingerprint, PartPrint, TensorPrint
from lineage.fingerprints.delta import from_json as delta_of
from lineage.fingerprints.lattice import Lattice
from lineage.fingerprints.narrowing import ROUNDED
from lineage.fingerprints.neurons import BLOCKS as MOST_BLOCKS
from lineage.fingerprints.neurons import BYTES, KINDS, UNITS, Neurons
from lineage.fingerprints.neurons import SCHEME as NEURONS
from lineage.fingerprints.sketch import FAST, LARGEST, NONE, SCHEME, Layout, Sketch, has_numbers
from lineage.fingerprints.writing import TYPE

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)

SCHEMES = (SCHEME, FAST, NONE)


def from_bytes(data: bytes, *, file: object = None) -> Fingerprint:
    """Read a stored fingerprint; its root is recomputed from its leaves.

    Raises:
        FormatError: If the bytes are no fingerprint, or its parts disagree.
        SchemeError: If its sketches were made by another scheme.
    """

    def fail(reason: str, tensor: str | None = None) -> FormatError:
        return FormatError(reason, file=file, tensor=tensor)

    head = _head(data, file=file)
    if head.get("_type") != TYPE:
        raise fail(f"not a fingerprint: its type is {printable(repr(head.get('_type')), 80)}")
    scheme = head.get("scheme")
    if scheme not in SCHEMES:
        raise SchemeError(
            f"{file}: sketched by {printable(repr(scheme))}, this version has {', '.join(SCHEMES)}"
        )
    try:
        arrays = load(data)
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype that NumPy has no name for
        raise fail(f"not a fingerprint: {printable(str(error))}") from error
    expected = {
        "cores": "float32",
        "energies": "float32",
        "sums": "float64",
        "manifest": "uint8",
    }
    if "neurons" in head:
        expected["neurons"] = "uint8"
    if "delta" in head:
        expected |= {"delta_cores": "float32", "delta_sums": "float64"}
    if {name: array.dtype.name for name, array in arrays.items()} != expected:
        raise fail(f"not a fingerprint: its arrays are not {', '.join(expected)}")
    rows = canonical.loads(arrays["manifest"].tobytes(), file=file)
    if not isinstance(rows, list) or not rows:
        raise fail("its manifest lists no tensors")
    reader = _Reader(arrays, has_sketches=scheme != NONE)
    tensors = []
    for row in rows:
        try:
            tensors.append(reader.tensor(row))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            name = row.get("name") if isinstance(row, dict) else None
            reason = printable(str(error)) or "incomplete"
            raise fail(f"its manifest has a bad entry: {reason}", str(name)) from error
    if not reader.is_done():
        raise fail("it holds more sketches than its manifest has tensors")
    names = [t.name.encode() for t in tensors]
    if names != sorted(set(names)):
        raise fail("its tensors are not in name order, each once")
    neurons = None
    if "neurons" in head:
        try:
            neurons = _neurons(head["neurons"], arrays["neurons"])
        except (KeyError, TypeError, ValueError) as error:
            raise fail(f"its neuron sketch is none: {printable(str(error))}") from error
    delta = None
    if "delta" in head:
        try:
            delta = delta_of(head["delta"], arrays["delta_cores"], arrays["delta_sums"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise fail(f"its delta is none: {printable(str(error))}") from error
    fingerprint = Fingerprint(tuple(tensors), scheme, int(head["size_bytes"]), neurons, delta)
    if fingerprint.root != head.get("root"):
        raise fail("its root is not the root of its leaves")
    return fingerprint


def _head(data: bytes, *, file: object) -> dict[str, Any]:
    """Return the one metadata entry, without loading an array."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise FormatError("not a fingerprint", file=file)
    try:
        header = json.loads(data[8 : 8 + length])
        text = str(header["__metadata__"]["lineage"]).encode()  # half a surrogate pair: ValueError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError("not a fingerprint", file=file) from error
    head = canonical.loads(text, file=file)
    if not isinstance(head, dict):
        raise FormatError("not a fingerprint", file=file)
    size = head.get("size_bytes")
    if not isinstance(size, str) or not _SIZE.fullmatch(size):
        raise FormatError("its size_bytes is not a count in decimal", file=file)
    return head


class _Reader:
    """Hands out the concatenated arrays, tensor by tensor."""

    def __init__(self, arrays: dict[str, NDArray[Any]], *, has_sketches: bool) -> None:
        self._arrays = arrays
        self._has_sketches = has_sketches
        self._next = {"cores": 0, "energies": 0, "sums": 0}

    def _take(self, name: str, count: int) -> NDArray[Any]:
        start = self._next[name]
        taken = self._arrays[name][start : start + count]
        if taken.size != count:
            raise ValueError(f"its {name} end too soon")
        if not np.all(np.isfinite(taken)):
            raise ValueError(f"its {name} are not finite")
        self._next[name] = start + count
        return taken

    def is_done(self) -> bool:
        return all(self._arrays[name].size == taken for name, taken in self._next.items())

    def tensor(self, row: dict[str, Any]) -> TensorPrint:
        """Build one tensor's print from its manifest row; slips raise the built-in errors."""
        shape = tuple(row["shape"])
        if row["dtype"] not in BITS.keys() | BLOCKS.keys() or not all(
            type(n) is int and n >= 0 for n in shape
        ):
            raise ValueError("its dtype or shape is not one")
        if len(shape) > MAX_EXTENTS or prod(n for n in shape if n) > MAX_VALUES:
            raise ValueError("its shape has more values than any file holds")
        if not isinstance(row["name"], str):
            raise TypeError("its name is not text")
        content = _digest(row["content"])
        bits, group = row.get("lattice", (0, 0))
        has_sketch = self._has_sketches and has_numbers(row["dtype"]) and prod(shape) > 0
        if "parts" in row and not (has_sketch and row["parts"]):
            raise ValueError("it has parts, but no sketches of them")
        return TensorPrint(
            row["name"],
            row["dtype"],
            shape,
            content,
            _digest(row["value"]) if "value" in row else content,
            tuple((dtype, _digest(text)) for dtype, text in _rounded(row)),
            self._sketch(row, shape) if has_sketch else None,
            _count(row.get("nonfinite", 0), prod(shape)),
            Lattice(_count(bits, 8), _count(group, prod(shape))),
            tuple(self._part(one, shape) for one in row.get("parts", ())),
        )

    def _part(self, row: dict[str, Any], shape: tuple[int, ...]) -> PartPrint:
        if not isinstance(row["name"], str):
            raise TypeError("a part's name is not text")
        if len(shape) not in {1, 2}:
            raise ValueError("a part is of a vector or a matrix")
        axis = _count(row["axis"], len(shape) - 1)
        stop = _count(row["stop"], shape[axis])
        part = Part(row["name"], axis, _count(row["start"], stop - 1), stop)
        return PartPrint(part, self._sketch(row, part.shape(shape)))

    def _sketch(self, row: dict[str, Any], shape: tuple[int, ...]) -> Sketch:
        """Take the next sketch, of a tensor of this shape or a part of one."""
        size: int = prod(shape)
        height, width = Layout.of(shape).core_shape
        core = self._take("cores", height * width).reshape(height, width)
        rows, cols = self._take("energies", height), self._take("energies", width)
        energy, fourth = map(float, self._take("sums", 2))
        if type(row.get("flat", False)) is not bool:
            raise TypeError("its flat is neither true nor false")
        zeros = _count(row["zeros"], size)
        if np.any(rows < 0) or np.any(cols < 0) or fourth < 0 or energy < 0:
            raise ValueError("its energies are negative")
        if energy > LARGEST**2 * size:
            raise ValueError("its energies are larger than its values can be")
        for part in (rows, cols):
            off = abs(float(part.sum(dtype=np.float64)) - energy)
            if off > 1e-5 * energy and off > 2.0**-120:  # float32 holds nothing smaller
                raise ValueError("its energies do not add up")
        raw = core.tobytes(), rows.tobytes() + cols.tobytes()
        is_flat = row.get("flat", False)
        return Sketch((height, width), raw, (0, 0), energy, fourth, zeros, is_flat)


def _neurons(row: dict[str, Any], raw: NDArray[np.uint8]) -> Neurons:
    """Build the neuron sketch from the metadata entry; slips raise the built-in errors."""
    if row["scheme"] != NEURONS:
        raise ValueError(f"it was made by {row['scheme']!r}, this version has {NEURONS}")
    kinds = tuple(row["labels"])
    if kinds not in {KINDS, KINDS[1:]}:
        raise ValueError("its labels are not numbers, or tokens and numbers")
    if type(row["gated"]) is not bool:
        raise TypeError("its gated is neither true nor false")
    blocks = []
    for stack, number, units in row["blocks"]:
        if not isinstance(stack, str):
            raise TypeError("a stack's name is not text")
        if not _count(units, UNITS):
            raise ValueError("a block has no units")
        blocks.append((stack, _count(number, 2**53 - 1), units))
    if not 0 < len(blocks) <= MOST_BLOCKS or blocks != sorted(blocks):
        raise ValueError("its blocks are none, too many, or out of order")
    if len({block[:2] for block in blocks}) < len(blocks):
        raise ValueError("it has a block twice")
    if raw.size != len(kinds) * 2 * BYTES * sum(units for *_, units in blocks):
        raise ValueError("its length is not that of its units")
    return Neurons(kinds, row["gated"], tuple(blocks), raw.tobytes())


def _count(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("a count is not one, or too large")
    return value


def _rounded(row: dict[str, Any]) -> list[tuple[str, str]]:
    found: dict[str, str] = row.get("rounded", {})
    if not found.keys() <= set(ROUNDED.get(row["dtype"], ())):
        raise ValueError("it is rounded to a dtype that it is not tried in")
    return sorted(found.items())


def _digest(text: str) -> bytes:
    digest = bytes.fromhex(text)
    if len(digest) != 32 or digest.hex() != text:
        raise ValueError("a digest is not 64 lower-case hex digits")
    return digest
