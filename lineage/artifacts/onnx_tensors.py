"""Reads one tensor of an ONNX model: where its values lie, or how they are written as numbers.

Values lie in one run of bytes (`raw_data`, packed floats, a file beside the model) and are read in
place, or are numbers of protobuf's variable length and are decoded as they are read.

Source: `TensorProto` in onnx.proto of the onnx project; external data as in its ExternalData.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lineage.artifacts.base import BITS, MAX_EXTENTS, MAX_VALUES, Item, size_bytes
from lineage.artifacts.onnx_values import (
    DOUBLES,
    FLOATS,
    INT32S,
    INT64S,
    RAW,
    UINT64S,
    VALUES,
    Run,
    Typed,
)
from lineage.artifacts.opened import Region
from lineage.artifacts.protobuf import LENGTH, VARINT, WIDTHS
from lineage.artifacts.streamed import Streamed
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from lineage.artifacts.base import Source
    from lineage.artifacts.opened import Opener, OpenFile
    from lineage.artifacts.protobuf import Field, Wire

_DIMS, _TYPE, _SEGMENT, _NAME, _EXTERNAL, _LOCATION = 1, 2, 3, 8, 13, 14
_STRING = 8
_DTYPES = {
    1: ("F32", FLOATS), 2: ("U8", INT32S), 3: ("I8", INT32S), 4: ("U16", INT32S),
    5: ("I16", INT32S), 6: ("I32", INT32S), 7: ("I64", INT64S), 9: ("BOOL", INT32S),
    10: ("F16", INT32S), 11: ("F64", DOUBLES), 12: ("U32", UINT64S), 13: ("U64", UINT64S),
    14: ("C64", FLOATS), 15: ("C128", DOUBLES), 16: ("BF16", INT32S),
    17: ("F8_E4M3", INT32S), 18: ("F8_E4M3FNUZ", INT32S), 19: ("F8_E5M2", INT32S),
    20: ("F8_E5M2FNUZ", INT32S), 21: ("U4", INT32S), 22: ("I4", INT32S), 23: ("F4", INT32S),
    24: ("F8_E8M0", INT32S), 27: ("F6_E2M3", RAW), 28: ("F6_E3M2", RAW),
}  # fmt: skip
"""Of each `data_type` its dtype, and the field its values lie in when they are not raw."""

_MAX_RUNS = 1000
_SHARED = 4
"""Tensors may take this many times the bytes of an external file: they may share, not multiply."""


@dataclass(slots=True)
class Tensor:
    """What a `TensorProto` says, as it is walked over."""

    name: str | None = None
    data_type: int | None = None
    location: int | None = None
    dims: list[int] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    external: dict[str, str] = field(default_factory=dict)

    @property
    def is_text(self) -> bool:
        """Whether it holds strings, which are no weights."""
        return self.data_type == _STRING


def tensor_of(wire: Wire, message: Field) -> Tensor:
    """Walk over a `TensorProto`; its values are not read.

    Raises:
        FormatError: If it is malformed, says a thing twice, or is one segment of a tensor.
    """
    found = Tensor()
    for part in wire.inside(message):
        if part.number == _NAME and found.name is None:
            found.name = wire.text(part)
        elif part.number == _TYPE and found.data_type is None:
            wire.expect(part, VARINT)
            found.data_type = part.value
        elif part.number == _LOCATION and found.location is None:
            wire.expect(part, VARINT)
            found.location = part.value
        elif part.number in {_NAME, _TYPE, _LOCATION}:
            raise wire.fail(f"a tensor with field {part.number} twice", part.tag)
        elif part.number == _DIMS:
            found.dims += wire.varints(part, MAX_EXTENTS)
            if len(found.dims) > MAX_EXTENTS:
                raise wire.fail(f"a tensor of more than {MAX_EXTENTS} dimensions", part.tag)
        elif part.number == _SEGMENT:
            raise wire.fail("a tensor stored in segments, which nothing writes or reads", part.tag)
        elif part.number == _EXTERNAL:
            key, value = _pair(wire, part)
            if key in found.external:
                reason = f"external data whose {printable(key, 60)} is given twice"
                raise wire.fail(reason, part.tag)
            found.external[key] = value
        elif part.number in VALUES and part.end > part.start:
            _add_run(wire, found, part)
    return found


def _add_run(wire: Wire, found: Tensor, part: Field) -> None:
    _, kind = VALUES[part.number]
    if part.wire not in {kind, LENGTH}:
        wire.expect(part, kind)
    run = Run(part.number, part.start, part.end, part.wire == LENGTH)
    if not run.is_packed:
        run = run._replace(start=part.tag)
        last = found.runs[-1] if found.runs else run
        if last.number == run.number and not last.is_packed and last.end == run.start:
            found.runs.pop()
            run = run._replace(start=last.start)
    found.runs.append(run)
    if len(found.runs) > _MAX_RUNS:
        raise wire.fail(f"a tensor in more than {_MAX_RUNS} parts", part.tag)


def _pair(wire: Wire, message: Field) -> tuple[str, str]:
    pair = {1: "", 2: ""}
    for part in wire.inside(message):
        if part.number in pair:
            pair[part.number] = wire.text(part)
    return pair[1], pair[2]


class Tensors:
    """Makes items of the tensors of one model."""

    def __init__(self, file: OpenFile, opener: Opener) -> None:
        self.file, self.opener = file, opener
        self._shared: dict[str, int] = {}

    def item(self, name: str, tensor: Tensor) -> Item:
        """Return the tensor as an item of this name.

        Raises:
            FormatError: If dtype, shape and values do not fit, or its file is not beside the model.
        """

        def fail(reason: str) -> FormatError:
            return FormatError(reason, file=self.file.path, tensor=name)

        dtype, number = _DTYPES.get(tensor.data_type or 0, ("", 0))
        if not dtype:
            raise fail(f"unknown data_type {tensor.data_type or 0}")
        shape = tuple(tensor.dims)
        if min(shape, default=0) < 0 or math.prod(n for n in shape if n) > MAX_VALUES:
            raise fail(f"the shape {printable(str(list(shape)), 60)} is not one of a tensor")
        size, source = 0, None
        if tensor.location == 1:
            if tensor.runs:
                raise fail("its values are both here and in a file beside the model")
            size, source = self._beside(name, tensor, size_bytes(dtype, shape))
        elif tensor.location or tensor.external:
            raise fail("names a file beside the model, but does not say that its values are there")
        elif tensor.runs:
            size, source = self._here(name, tensor.runs, dtype, number, size_bytes(dtype, shape))
        return Item(name, dtype, shape, size, source or Region(self.file, 0), self.file.path)

    def _here(
        self, name: str, runs: list[Run], dtype: str, number: int, expected: int
    ) -> tuple[int, Source]:
        """Return size and source of values that lie in the model itself."""

        def fail(reason: str) -> FormatError:
            return FormatError(reason, file=self.file.path, tensor=name)

        numbers = {run.number for run in runs}
        if len(numbers) > 1:
            both = " and ".join(VALUES[n][0] for n in sorted(numbers))
            raise fail(f"its values are given twice, in {both}")
        (found,) = numbers
        label, kind = VALUES[found]
        if found not in {RAW, number}:
            raise fail(f"its values are in {label}, which is not for {dtype}")
        if found == RAW and len(runs) > 1:
            raise fail("its raw_data is given twice")
        if kind != VARINT and len(runs) == 1 and runs[0].is_packed:
            return runs[0].end - runs[0].start, Region(self.file, runs[0].start)
        width = max(8, BITS[dtype]) // 8 if kind == VARINT else WIDTHS[kind]
        typed = Typed(self.file, name, tuple(runs), width, expected)
        typed.check_size()
        return expected, Streamed(typed.chunks, expected)

    def _beside(self, name: str, tensor: Tensor, expected: int) -> tuple[int, Source]:
        """Return size and source of values that lie in a file beside the model."""
        file = self.opener.beside(self.file, tensor.external.get("location", ""), tensor=name)

        def fail(reason: str) -> FormatError:
            return FormatError(reason, file=self.file.path, tensor=name)

        offset = _count(tensor.external.get("offset", "0"))
        length = _count(tensor.external.get("length", str(expected)))
        if offset is None or length is None:
            raise fail("the offset or length of its external data is not a count")
        if offset + length > file.size:
            reason = f"ends at byte {offset + length} of {printable(file.location.name)}"
            raise fail(f"{reason}, which has {file.size}; is it truncated?")
        total = self._shared[file.path] = self._shared.get(file.path, 0) + length
        if total > max(_SHARED * file.size, 1 << 26):
            raise fail(f"tensors take {total} bytes of a file of {file.size}")
        return length, Region(file, offset)


def _count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None
