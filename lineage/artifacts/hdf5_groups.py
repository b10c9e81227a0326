"""Walks the groups of an HDF5 file down to its datasets.

What is linked twice, a ring of links among them, is visited under the first name. Soft and external
links are passed by, so nothing outside the file is ever reached.

Source: the HDF5 File Format Specification 3.0, sections III.A (B-trees of version 1), III.C and
III.D (symbol tables and their heaps) and IV.A.2.g (links).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from lineage.artifacts.hdf5_file import (
    LAYOUT,
    LINK,
    LINKS,
    SYMBOLS,
    UNDEFINED,
    messages_of,
    root_of,
)
from lineage.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lineage.artifacts.hdf5_file import Message, Store

_MAX_PATH, _MAX_LEVEL = 4096, 64
_SOFT_ENTRY = 2
_TABLE = struct.Struct("<QQ")


def datasets(store: Store) -> Iterator[tuple[str, list[Message]]]:
    """Yield the path and messages of every dataset, each once, in the order of the links.

    Raises:
        FormatError: If a structure is damaged, or of a kind that only newer files have.
    """
    waiting = [("", root_of(store))]
    while waiting:
        path, address = waiting.pop()
        if not store.once(address):
            continue
        messages = list(messages_of(store, address))
        kinds = {message.kind for message in messages}
        if LAYOUT in kinds and path:
            yield path, messages
        elif SYMBOLS in kinds or LINKS in kinds or LINK in kinds or not path:
            found = dict[str, int]()
            for name, target in _members(store, path, messages):
                whole = f"{path}/{name}" if path else name
                if not name or "/" in name or whole in found:
                    raise store.fail(f"a group with a link called {printable(repr(name), 60)}")
                if len(whole) > _MAX_PATH:
                    raise store.fail(f"a path of more than {_MAX_PATH} characters")
                found[whole] = target
            waiting += reversed(found.items())


def _members(store: Store, path: str, messages: list[Message]) -> Iterator[tuple[str, int]]:
    """Yield name and address of what a group's hard links lead to."""
    for message in messages:
        data = message.data
        if message.kind == SYMBOLS and len(data) >= 16:
            tree, heap = _TABLE.unpack_from(data)
            names = _heap(store, heap)
            for leaf in tree_leaves(store, tree, kind=0, key_size=8):
                yield from _symbols(store, leaf.child, names)
        elif message.kind == LINK:
            target = _link(store, message)
            if target is not None:
                yield target
        elif message.kind == LINKS and len(data) >= 2:
            heap = data[10 if data[1] & 1 else 2 :][:8]
            if heap != UNDEFINED.to_bytes(8, "little"):
                reason = f"keeps the names in {printable(repr(path or '/'), 60)} in a newer way"
                raise store.fail(f"{reason}; write it with h5py's own libver and track_order")


def _link(store: Store, message: Message) -> tuple[str, int] | None:
    """Return name and address of a link message; None of a link that is not hard."""
    data = message.data
    if len(data) < 4 or data[0] != 1:
        raise store.fail("a link of an unknown version", message.start)
    flags, at, kind = data[1], 2, 0
    if flags & 8:
        kind, at = data[at], at + 1
    at += (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
    width = 1 << (flags & 3)
    length = int.from_bytes(data[at : at + width], "little")
    name = data[at + width : at + width + length]
    target = data[at + width + length :][:8]
    if kind:
        return None
    if len(name) < length or len(target) < 8:
        raise store.fail("a link that is cut off", message.start)
    return _text(store, name, message.start), int.from_bytes(target, "little")


class Leaf(NamedTuple):
    """An entry of a B-tree's lowest level: the key before it, and where it leads."""

    key: bytes
    child: int


_NODE = struct.Struct("<4sBBHQQ")


def tree_leaves(store: Store, address: int, *, kind: int, key_size: int) -> Iterator[Leaf]:
    """Yield the lowest entries of a version 1 B-tree, in order.

    Args:
        store: The file.
        address: Of its root node; `UNDEFINED` is an empty tree.
        kind: 0 of groups, 1 of chunks.
        key_size: Bytes of a key.
    """
    waiting: list[tuple[int, int | None]] = [] if address == UNDEFINED else [(address, None)]
    while waiting:
        at, expected = waiting.pop()
        if not store.once(at):
            raise store.fail("a tree that two places lead to", at)
        signature, found, level, count, _, _ = _NODE.unpack(store.read(at, _NODE.size))
        if signature != b"TREE" or found != kind or level > _MAX_LEVEL:
            raise store.fail("no tree where one should be", at)
        if expected is not None and level != expected:
            raise store.fail(f"a tree of level {level} where {expected} should be", at)
        step = key_size + 8
        data = store.read(at + _NODE.size, count * step)
        leaves = [
            Leaf(data[n : n + key_size], int.from_bytes(data[n + key_size : n + step], "little"))
            for n in range(0, len(data), step)
        ]
        if level:
            waiting += reversed([(leaf.child, level - 1) for leaf in leaves])
        else:
            yield from leaves


_HEAP = struct.Struct("<4sB3xQQQ")
_SYMBOL = struct.Struct("<QQI4x16x")


def _heap(store: Store, address: int) -> bytes:
    """Return the bytes of the local heap that a group's names are in."""
    signature, version, size, _, start = _HEAP.unpack(store.read(address, _HEAP.size))
    if signature != b"HEAP" or version:
        raise store.fail("no heap of names where one should be", address)
    return store.read(start, size)


def _symbols(store: Store, address: int, names: bytes) -> Iterator[tuple[str, int]]:
    """Yield name and address of the hard links in one node of a group's symbol table."""
    if not store.once(address):
        raise store.fail("a table of names that two places lead to", address)
    head = store.read(address, 8)
    if head[:5] != b"SNOD\x01":
        raise store.fail("no table of names where one should be", address)
    count = int.from_bytes(head[6:8], "little")
    for offset, target, kind in _SYMBOL.iter_unpack(store.read(address + 8, count * _SYMBOL.size)):
        end = names.find(b"\0", offset, offset + _MAX_PATH + 1)
        if offset >= len(names) or end < 0:
            raise store.fail("a name that is not in its heap, or does not end", address)
        if kind != _SOFT_ENTRY:
            yield _text(store, names[offset:end], address), target


def _text(store: Store, data: bytes, at: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise store.fail("a name that is not UTF-8", at) from None
