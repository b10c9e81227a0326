"""The files of torch before 1.6: pickles one after the other, then every storage's values.

The pickles are a magic number, the protocol's version, facts on the system, the value that was
saved, and the storages' keys; each storage is its number of values in 8 bytes and the values,
little-endian on every system.

Source: `_legacy_load` in torch/serialization.py and torch/csrc/serialization.cpp of PyTorch 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lineage.artifacts.base import BITS
from lineage.artifacts.opened import Region
from lineage.artifacts.pickled import Stream, load
from lineage.artifacts.torch_items import Saved
from lineage.artifacts.torch_tensors import finder, storages
from lineage.artifacts.torch_tree import named_model
from lineage.errors import FormatError

if TYPE_CHECKING:
    from lineage.artifacts.base import Item, Source
    from lineage.artifacts.opened import OpenFile
    from lineage.artifacts.torch_tensors import Storage

_NUMBER, _VERSION = 0x1950A86A20F9469CFC6C, 1001

MAGIC = b"\x8a\x0a" + _NUMBER.to_bytes(10, "little")
"""The magic number as every pickler writes it."""


@dataclass(frozen=True, slots=True)
class Runs:
    """The storages after the pickles: where each begins and its bytes."""

    file: OpenFile
    held: dict[str, tuple[int, int]]

    def source(self, storage: Storage, tensor: str, passes: int = 1) -> Source:  # noqa: ARG002
        """Return where a storage's bytes are; see `Pool`."""
        start, size = self.held.get(storage.key, (0, 0))
        if storage.start + storage.size_bytes > size:
            reason = f"its storage has {size} bytes, not {storage.start + storage.size_bytes}"
            raise FormatError(reason, file=self.file.path, tensor=tensor)
        return Region(self.file, start + storage.start)


def items_of(file: OpenFile) -> list[Item]:
    """Return the tensors of the model in a file of this kind."""
    stream, find = Stream(file), finder(file)
    if load(stream, find=find) != _NUMBER or load(stream, find=find) != _VERSION:
        raise FormatError("its magic number or protocol is not torch's", file=file.path)
    load(stream, find=find)
    storage = storages(file, "")
    widths: dict[str, int] = {}

    def persistent(told: Any) -> Storage:
        found = storage(told)
        widths.setdefault(found.key, BITS[found.dtype] // 8)
        return found

    value = load(stream, find=find, persistent=persistent)
    keys = load(stream, find=find)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise FormatError("its storage keys are no list of text", file=file.path)
    if len(set(keys)) != len(keys) or set(keys) != widths.keys():
        raise FormatError("its storages are not those its tensors name", file=file.path)
    runs = _runs(file, stream.at, [(key, widths[key]) for key in keys])
    return Saved(file, Runs(file, runs)).items(named_model(value, file))


def _runs(file: OpenFile, at: int, keys: list[tuple[str, int]]) -> dict[str, tuple[int, int]]:
    """Return where each storage begins and its bytes; together they end with the file."""
    runs = {}
    for key, width in keys:
        size = int.from_bytes(file.read(at, 8), "little") * width
        at += 8
        if size > file.size - at:
            reason = f"a storage of {size} bytes ends beyond the file; is it truncated?"
            raise FormatError(reason, file=file.path, offset=at)
        runs[key] = (at, size)
        at += size
    if at != file.size:
        raise FormatError(f"{file.size - at} bytes lie after the last storage", file=file.path)
    return runs
