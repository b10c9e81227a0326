"""Decodes the values of an ONNX tensor that are written as protobuf numbers, as they are read.

`float_data` and its like hold one number for each value (of four bits: for each two). Whole
numbers have a variable length, seven bits a byte, lowest first, the high bit set on all but the
last; floats have four or eight bytes. They are packed in one field, as a rule, or stand each
behind a tag of its own.

Source: `TensorProto` in onnx.proto of the onnx project; the wire format as in `protobuf.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lineage.artifacts.protobuf import FIXED32, FIXED64, LENGTH, VARINT
from lineage.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lineage.artifacts.opened import OpenFile

FLOATS, INT32S, INT64S, RAW, DOUBLES, UINT64S = 4, 5, 7, 9, 10, 11

VALUES = {
    FLOATS: ("float_data", FIXED32), INT32S: ("int32_data", VARINT),
    INT64S: ("int64_data", VARINT), RAW: ("raw_data", LENGTH),
    DOUBLES: ("double_data", FIXED64), UINT64S: ("uint64_data", VARINT),
}  # fmt: skip
"""The fields of a `TensorProto` that hold values: name, and wire type of one value."""

_CHUNK = 1 << 16
_LONGEST = 10


class Run(NamedTuple):
    """Values of one field that lie together: packed, or each behind a tag of one byte."""

    number: int
    start: int
    end: int
    is_packed: bool


@dataclass(frozen=True, slots=True)
class Typed:
    """The values of one tensor, in runs of one field.

    Attributes:
        file: Where they lie.
        tensor: Its name, for errors.
        runs: All of one field.
        width: Bytes of one value as it is read.
        size: Bytes of all values as they are read.
    """

    file: OpenFile
    tensor: str
    runs: tuple[Run, ...]
    width: int
    size: int

    @property
    def is_fixed(self) -> bool:
        """Whether each number takes as many bytes as any other."""
        return VALUES[self.runs[0].number][1] != VARINT

    def check_size(self) -> None:
        """Raise if the runs cannot hold the tensor; of packed whole numbers none is decoded."""
        shortest, longest = (self.width,) * 2 if self.is_fixed else (1, _LONGEST)
        least = most = 0
        for run in self.runs:
            length, tag = run.end - run.start, not run.is_packed
            least += -(-length // (longest + tag))
            most += length // (shortest + tag)
        if not least <= self.size // self.width <= most:
            raise self._miscounted(f"{least} to {most}" if least < most else str(most))

    def chunks(self) -> Iterator[bytes]:
        """Yield the values' bytes.

        Raises:
            FormatError: If there are too few or too many, or one does not fit its dtype.
        """
        made = 0
        for run in self.runs:
            for data in self._fixed(run) if self.is_fixed else self._numbers(run):
                made += len(data)
                if made > self.size:
                    raise self._miscounted("more")
                yield data
        if made != self.size:
            raise self._miscounted(str(made // self.width))

    def _fixed(self, run: Run) -> Iterator[bytes]:
        tag = not run.is_packed
        step = self.width + tag
        for at in range(run.start, run.end, _CHUNK // step * step):
            size = min(_CHUNK // step * step, run.end - at)
            rows = np.frombuffer(self.file.read(at, size), np.uint8).reshape(-1, step)
            yield rows[:, int(tag) :].tobytes()

    def _numbers(self, run: Run) -> Iterator[bytes]:
        at, skipped = run.start, 0
        while at < run.end:
            data = np.frombuffer(self.file.read(at, min(_CHUNK, run.end - at)), np.uint8)
            numbers, used = _varints(data)
            if not used:
                raise self._fail("one of its numbers does not end within 10 bytes")
            at += used
            if not run.is_packed:  # a tag is a number too: every other one is
                numbers, skipped = numbers[1 - skipped :: 2], (skipped + len(numbers)) % 2
            if len(numbers):
                yield self._narrow(numbers)

    def _narrow(self, numbers: NDArray[np.uint64]) -> bytes:
        """Return the low bytes of each number; the others say nothing but its sign."""
        if self.width < 8:
            bits = 8 * self.width
            signed = numbers.view(np.int64)
            if self.runs[0].number == INT32S:  # protobuf cuts them so
                signed = signed.astype(np.int32).astype(np.int64)
            if bool(np.any((signed < -(1 << (bits - 1))) | (signed >> bits > 0))):
                raise self._fail(f"one of its numbers does not fit in {bits} bits")
        little = numbers.astype("<u8").view(np.uint8).reshape(-1, 8)
        return little[:, : self.width].tobytes()

    def _miscounted(self, found: str) -> FormatError:
        field = VALUES[self.runs[0].number][0]
        count = self.size // self.width
        return self._fail(f"its shape asks for {count} numbers, {field} has {found}")

    def _fail(self, reason: str) -> FormatError:
        return FormatError(reason, file=self.file.path, tensor=self.tensor)


def _varints(data: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], int]:
    """Decode the whole numbers at the start of `data`; return them and the bytes they took.

    None at all if one takes more than 10 bytes, or the last does not end and is alone.
    """
    ends = np.flatnonzero(data < 0x80)
    if not len(ends):
        return np.zeros(0, np.uint64), 0
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if int(lengths.max()) > _LONGEST:
        return np.zeros(0, np.uint64), 0
    numbers = np.zeros(len(ends), np.uint64)
    for place in range(int(lengths.max())):
        there = lengths > place
        low = (data[starts[there] + place] & 0x7F).astype(np.uint64)
        numbers[there] |= low << np.uint64(7 * place)
    return numbers, int(ends[-1]) + 1
