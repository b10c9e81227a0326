"""Reads HDF5: Keras's `.h5` and `.weights.h5`, and those in the `.keras` archive.

The file is walked here because neither library will do for a file of a stranger's making: of a
thousand files with a few bytes changed, libhdf5 2.0 (h5py) ended the process on two and was busy
for more than five seconds with six; pyfive 1.3 sets no bound to what it reads, and asserts what it
should check. What Keras and h5py write by themselves is read (superblocks 0 to 3, symbol tables and
short lists of links, compact, contiguous and chunked layouts, gzip, shuffle, fletcher32); what only
newer files have (`libver="latest"`) is refused by name.

Names are the datasets' paths. The optimizer's state is left out, and text is. A dataset that has
two names has its first.

Source: as in `hdf5_file.py` and `hdf5_groups.py`; for the groups that Keras makes, its
`legacy_h5_format.py` and `saving_lib.py`.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

from lineage.artifacts import zipped
from lineage.artifacts.base import MAX_VALUES, Item
from lineage.artifacts.hdf5_chunks import Chunked, filters_of, index_of, most_held
from lineage.artifacts.hdf5_file import (
    DATASPACE,
    DATATYPE,
    EXTERNAL,
    FILTERS,
    LAYOUT,
    UNDEFINED,
    Store,
)
from lineage.artifacts.hdf5_groups import datasets
from lineage.artifacts.hdf5_types import TEXT, Kind, NotRead, kind_of, shape_of
from lineage.artifacts.opened import Region
from lineage.artifacts.streamed import Streamed
from lineage.artifacts.strided import Swapped
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from lineage.artifacts.base import Source
    from lineage.artifacts.hdf5_file import Message
    from lineage.artifacts.opened import Opener, OpenFile

WEIGHTS = "model.weights.h5"
"""The member of a `.keras` archive that holds its weights."""

_OPTIMIZER = ("optimizer", "optimizer_weights", "_optimizer")
_SAID_ONCE = (DATASPACE, DATATYPE, EXTERNAL, LAYOUT, FILTERS)
_COMPACT, _CONTIGUOUS, _CHUNKED, _VIRTUAL = range(4)


def items_of(file: OpenFile, opener: Opener) -> list[Item]:  # noqa: ARG001
    """Return the tensors of an open HDF5 file, or of the weights in a Keras archive.

    Raises:
        FormatError: If a structure is damaged, or a dataset is of a kind that is not read.
    """
    store = _store(file)
    items = []
    for path, messages in datasets(store):
        if path.split("/")[0] in _OPTIMIZER:
            continue
        try:
            item = _item(store, path, messages)
        except NotRead as error:
            raise FormatError(str(error), file=file.path, tensor=path) from None
        if item is not None:
            items.append(item)
    return items


def _store(file: OpenFile) -> Store:
    """Return the HDF5 bytes: the file's own, or those of an archive's weights."""
    if file.size < 4 or file.read(0, 4) != b"PK\3\4":
        return Store(file, 0, file.size)
    member = zipped.members(file).get(WEIGHTS)
    if member is None:
        raise FormatError(f"the archive has no {WEIGHTS}", file=file.path)
    if member.method != zipped.STORED:
        reason = f"its {WEIGHTS} is compressed, and HDF5 cannot be read in order; unzip it"
        raise FormatError(reason, file=file.path)
    return Store(file, member.start, member.size)


def _item(store: Store, path: str, messages: list[Message]) -> Item | None:
    """Return a dataset as an item; None if it is text, or has no space for values."""
    parts: dict[int, Message] = {}
    for message in messages:
        if message.kind in _SAID_ONCE and message.kind in parts:
            raise NotRead("says a thing twice of its shape, datatype or place")
        parts[message.kind] = message
    for needed in (DATASPACE, DATATYPE, LAYOUT):
        if needed not in parts:
            raise NotRead("lacks its shape, its datatype or its place")
        if parts[needed].is_shared:
            raise NotRead("has a datatype or shape that lies elsewhere in the file")
    kind, shape = kind_of(parts[DATATYPE].data), shape_of(parts[DATASPACE].data)
    if kind.dtype == TEXT or shape is None:
        return None
    if math.prod(n for n in shape if n) > MAX_VALUES:
        raise NotRead(f"the shape {printable(str(list(shape)), 60)} is not one of a tensor")
    if EXTERNAL in parts:
        raise NotRead("has its values in another file")
    length, source = _place(store, path, parts, kind, shape)
    return Item(path, kind.dtype, shape, length, source, store.file.path)


def _place(
    store: Store, path: str, parts: dict[int, Message], kind: Kind, shape: tuple[int, ...]
) -> tuple[int, Source]:
    """Return size and source of the values."""
    data, begin = parts[LAYOUT].data, parts[LAYOUT].start
    if len(data) < 4 or data[0] not in {3, 4}:
        raise NotRead(f"a layout of version {data[0] if data else 0}, which is not read")
    size = math.prod(shape) * kind.width
    if data[1] == _VIRTUAL:
        raise NotRead("is a view of datasets in other files")
    if data[1] == _CHUNKED:
        return size, _chunks(store, path, parts, kind, shape)
    if FILTERS in parts:
        raise NotRead("has filters, but no chunks to put them on")
    if data[1] == _COMPACT:
        start, length = begin + 4, int.from_bytes(data[2:4], "little")
        if length > len(data) - 4:
            raise NotRead("has values that leave its header")
    elif data[1] == _CONTIGUOUS and len(data) >= 18:
        start, length = struct.unpack_from("<QQ", data, 2)
    else:
        raise NotRead(f"a layout of class {data[1]}, which is not known")
    if not size:
        return 0, Region(store.file, store.base)
    if start == UNDEFINED:
        raise NotRead("was never written")
    if start + length > store.size:
        reason = f"ends at byte {start + length}, but the file has {store.size}"
        raise NotRead(f"{reason}; is it truncated?")
    store.claim(length)
    source: Source = Region(store.file, store.base + start)
    return length, Swapped(source, kind.swapped) if kind.swapped > 1 else source


def _chunks(
    store: Store, path: str, parts: dict[int, Message], kind: Kind, shape: tuple[int, ...]
) -> Source:
    data = parts[LAYOUT].data
    if data[0] != 3:
        raise NotRead('has an index of chunks that only libver="latest" writes; write it without')
    rank = data[2] - 1
    if rank != len(shape) or not rank or len(data) < 15 + 4 * rank:
        raise NotRead(f"has chunks of {rank} extents for a shape of {len(shape)}")
    tree, *extents, width = struct.unpack_from(f"<Q{rank + 1}I", data, 3)
    if not all(extents) or width != kind.width:
        raise NotRead(f"has chunks of {extents} values of {width} bytes")
    largest = math.prod(extents) * width
    slab = min(extents[0], shape[0]) * math.prod(shape[1:]) * width
    if max(slab, largest) > most_held(store):
        raise NotRead(f"has chunks so large that {max(slab, largest)} bytes must be held at once")
    filters = filters_of(parts[FILTERS].data) if FILTERS in parts else ()
    index = index_of(store, tree, shape, tuple(extents), largest=largest)
    store.claim(sum(chunk.size for chunk in index.values()))
    held = Chunked(store, path, shape, tuple(extents), width, kind.swapped, filters, index)
    return Streamed(held.slabs, math.prod(shape) * width)
