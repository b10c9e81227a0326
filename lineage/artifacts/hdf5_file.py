"""Reads the bones of an HDF5 file: where its root is, and the messages in an object's header.

Every structure is read where it lies and once, and all of them together may take no more than a
few times the file. Checksums of metadata are not asked for.

Source: the HDF5 File Format Specification 3.0, sections II (superblock) and IV.A (object headers).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from lineage.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lineage.artifacts.opened import OpenFile

SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = 2**64 - 1
"""The address of what is not there."""

DATASPACE, LINKS, DATATYPE, LINK, EXTERNAL, LAYOUT, FILTERS = 1, 2, 3, 6, 7, 8, 11
CONTINUATION, SYMBOLS = 16, 17
"""Types of messages."""

_SHARED = 2
_MAX_METADATA = 1 << 28


class Message(NamedTuple):
    """One message of an object's header.

    Attributes:
        kind: Its type.
        start: Where in the file its data begin.
        data: Its data.
        is_shared: Whether the data only say where the message is.
    """

    kind: int
    start: int
    data: bytes
    is_shared: bool


@dataclass(slots=True)
class Store:
    """The bytes of an HDF5 file, which may be a member of an archive.

    Attributes:
        file: Where it lies.
        base: Where in `file` it begins; its addresses count from there.
        size: Its bytes.
    """

    file: OpenFile
    base: int
    size: int
    _read: int = 0
    _claimed: int = 0
    _seen: set[int] = field(default_factory=set)

    def read(self, at: int, size: int) -> bytes:
        """Return `size` bytes of metadata at `at`."""
        if at + size > self.size:
            raise self.fail(f"leads to byte {at + size} of {self.size}; is it truncated?", at)
        self._read += size
        if self._read > min(4 * self.size + (1 << 20), _MAX_METADATA):
            raise self.fail("its structures overlap, or hold more than any model's", at)
        return self.file.read(self.base + at, size)

    def unpack(self, layout: struct.Struct, at: int) -> tuple[int, ...]:
        """Return the numbers that lie at `at`."""
        return layout.unpack(self.read(at, layout.size))

    def claim(self, size: int) -> None:
        """Take note of bytes that a dataset's values take; no two datasets share any."""
        self._claimed += size
        if self._claimed > self.size:
            raise self.fail(f"datasets of {self._claimed} bytes in a file of {self.size}")

    def once(self, at: int) -> bool:
        """Whether this address is met for the first time."""
        is_new = at not in self._seen
        self._seen.add(at)
        return is_new

    def fail(self, reason: str, at: int | None = None) -> FormatError:
        """Return the error that says where in the file."""
        inside = None if at is None else self.base + min(at, self.size)
        return FormatError(f"HDF5: {reason}", file=self.file.path, offset=inside)


_OLD_ROOT, _NEW_ROOT = struct.Struct("<4Q2Q"), struct.Struct("<4Q")


def root_of(store: Store) -> int:
    """Return the address of the root group, as the superblock says."""
    if store.size < 48 or store.read(0, 8) != SIGNATURE:
        raise store.fail("no signature at the beginning")
    head = store.read(8, 8)
    version = head[0]
    if version in {0, 1}:
        sizes, at = head[5:7], 24 if version == 0 else 28
        base, _, end, _, _, root = store.unpack(_OLD_ROOT, at)
    elif version in {2, 3}:
        sizes = head[1:3]
        base, _, end, root = store.unpack(_NEW_ROOT, 12)
    else:
        raise store.fail(f"a superblock of version {version}, which is not known", 8)
    if sizes != b"\x08\x08":
        raise store.fail(f"addresses of {sizes[0]} and lengths of {sizes[1]} bytes, not 8", 8)
    if base:
        raise store.fail(f"addresses that count from byte {base}", 8)
    if end > store.size:
        raise store.fail(f"ends at byte {store.size}, not at {end}; is it truncated?")
    return root


def messages_of(store: Store, address: int) -> Iterator[Message]:
    """Yield the messages of the object whose header is at `address`."""
    start = store.read(address, 4)
    if start == b"OHDR":
        yield from _new_messages(store, address)
    elif start[0] == 1:
        size = int.from_bytes(store.read(address + 8, 4), "little")
        yield from _blocks(store, address + 16, size, _OLD_MESSAGE, 0)
    else:
        raise store.fail("no object header where one should be", address)


def _new_messages(store: Store, address: int) -> Iterator[Message]:
    version, flags = store.read(address + 4, 2)
    if version != 2:
        raise store.fail(f"an object header of version {version}", address)
    at = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    size = int.from_bytes(store.read(at, width), "little")
    yield from _blocks(store, at + width, size, _NEW_MESSAGE, 2 if flags & 4 else 0)


_OLD_MESSAGE, _NEW_MESSAGE = struct.Struct("<HHB3x"), struct.Struct("<BHB")
_BLOCK = struct.Struct("<QQ")


def _blocks(
    store: Store, start: int, size: int, head: struct.Struct, skipped: int
) -> Iterator[Message]:
    """Yield the messages of a header's blocks: the first, and those that messages in it lead to.

    Args:
        store: The file.
        start: Where the first block's messages begin.
        size: Their bytes.
        head: What stands before each message: type, size, flags.
        skipped: Bytes after that, of the order in which messages were made.
    """
    blocks = [(start, size)]
    for begin, length in blocks:  # which grows meanwhile
        data = store.read(begin, length)
        at = 0
        while at + head.size + skipped <= length:
            kind, taken, flags = head.unpack_from(data, at)
            at += head.size + skipped
            if at + taken > length:
                raise store.fail("a message that leaves its header", begin + at)
            body = data[at : at + taken]
            if kind == CONTINUATION:
                if taken < _BLOCK.size:
                    raise store.fail("a header that goes on nowhere", begin + at)
                further, size = _BLOCK.unpack_from(body)
                blocks.append(_continuation(store, further, size, head))
            else:
                yield Message(kind, begin + at, body, bool(flags & _SHARED))
            at += taken


def _continuation(store: Store, start: int, size: int, head: struct.Struct) -> tuple[int, int]:
    """Return where the messages of a further block lie."""
    if not store.once(start):
        raise store.fail("a header that goes on in a ring", start)
    if head is _OLD_MESSAGE:
        return start, size
    if size < 8 or store.read(start, 4) != b"OCHK":
        raise store.fail("no further part of a header where one should be", start)
    return start + 4, size - 8
