"""HDF5 files as h5py writes and reads them, Keras's layouts of them, and every lie one can tell."""

from __future__ import annotations

import struct
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import SPELLED, Array, raw, write_model

from lineage import fingerprint, read
from lineage.artifacts import Item, hdf5, hdf5_chunks, hdf5_file
from lineage.artifacts.opened import Opener
from lineage.errors import FormatError

# Files made by hand: every byte is the test's own choice.

SPACE, TYPE, LINK, EXTERNAL, LAYOUT, FILTERS, MORE, SYMBOLS = 1, 3, 6, 7, 8, 11, 16, 17
NOWHERE = 2**64 - 1
DATA = 96
"""Where the bytes that a test brings begin: after the superblock."""


def message(kind: int, data: bytes, flags: int = 0) -> bytes:
    data += bytes(-len(data) % 8)
    return struct.pack("<HHB3x", kind, len(data), flags) + data


def header(*messages: bytes, size: int | None = None) -> bytes:
    body = b"".join(messages)
    length = len(body) if size is None else size
    return struct.pack("<BxHIIxxxx", 1, len(messages), 1, length) + body


def superblock(root: int, end: int, *, sizes: bytes = b"\x08\x08", base: int = 0) -> bytes:
    head = hdf5_file.SIGNATURE + bytes(5) + sizes + bytes(1) + struct.pack("<HHI", 4, 16, 0)
    return head + struct.pack("<6Q24x", base, NOWHERE, end, NOWHERE, 0, root)


def link(name: str | bytes, address: int, flags: int = 0) -> bytes:
    data = name.encode() if isinstance(name, str) else name
    return message(LINK, bytes([1, flags, len(data)]) + data + struct.pack("<Q", address))


def space(*extents: int, version: int = 1) -> bytes:
    return message(SPACE, struct.pack(f"<BB6x{len(extents)}Q", version, len(extents), *extents))


def kind(number: int, size: int, more: bytes = b"", *, flags: int = 0, version: int = 1) -> bytes:
    return message(
        TYPE, bytes([version << 4 | number, flags, 0, 0]) + struct.pack("<I", size) + more
    )


FLOATS = kind(1, 4, struct.pack("<HHBBBBI", 0, 32, 23, 8, 0, 23, 127), flags=0x20)
BYTES = kind(0, 1, struct.pack("<HH", 0, 8))


def lies_at(address: int, size: int) -> bytes:
    return message(LAYOUT, bytes([3, 1]) + struct.pack("<QQ", address, size))


def in_chunks(tree: int, *extents: int) -> bytes:
    numbers = struct.pack(f"<{len(extents)}I", *extents)
    return message(LAYOUT, bytes([3, 2, len(extents)]) + struct.pack("<Q", tree) + numbers)


def filtered(*numbers: int, count: int | None = None) -> bytes:
    each = b"".join(struct.pack("<HHHHI4x", n, 0, 0, 1, 4) for n in numbers)
    return message(FILTERS, bytes([1, len(numbers) if count is None else count]) + bytes(6) + each)


def chunk(corner: tuple[int, ...], size: int, at: int, mask: int = 0) -> bytes:
    return struct.pack(f"<II{len(corner) + 1}QQ", size, mask, *corner, 0, at)


def tree(*entries: bytes, level: int = 0, kind: int = 1, sign: bytes = b"TREE") -> bytes:
    return struct.pack("<4sBBHQQ", sign, kind, level, len(entries), NOWHERE, NOWHERE) + b"".join(
        entries
    )


def made(*messages: bytes, data: bytes = bytes(range(64)), links: bytes = b"") -> bytes:
    """A file with one dataset, `w`, of these messages, and these bytes at `DATA`."""
    at = DATA + len(data)
    own = header(*messages)
    root = header(link("w", at), links)
    return superblock(at + len(own), at + len(own) + len(root)) + data + own + root


PLACE = lies_at(DATA, 16)
GOOD = (space(2, 2), FLOATS, PLACE)
ROW = (space(4), BYTES)
"""Four bytes in a row, for chunks: the index is at `DATA`, the chunks wherever they are put."""


def chunked(*entries: bytes, filters: bytes = b"", extent: int = 2, **how: Any) -> bytes:
    node = tree(*entries, **how)
    return made(*ROW, in_chunks(DATA, extent, 1), filters, data=node + b"abcd" + bytes(60))


def at(entries: int) -> int:
    """Where `abcd` lies after an index of so many chunks."""
    return DATA + 24 + 32 * entries


TWO = (chunk((0,), 2, at(2)), chunk((2,), 2, at(2) + 2))


def one_of(filters: bytes, stored: bytes, mask: int = 0) -> bytes:
    """A dataset of four bytes in one chunk that is stored so."""
    node = tree(chunk((0,), len(stored), at(1), mask))
    return made(*ROW, in_chunks(DATA, 4, 1), filters, data=node + stored + bytes(60))


def changed(data: bytes, old: bytes, new: bytes, skip: int = 0) -> bytes:
    """The bytes with those after a signature replaced."""
    place = data.index(old) + skip
    return data[:place] + new + data[place + len(new) :]


def saved(path: Path, arrays: dict[str, Any], **how: Any) -> bytes:
    with h5py.File(path, "w", **how) as file:
        for name, array in arrays.items():
            file[name] = array
    return path.read_bytes()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    arrays = {"one/w": np.ones(3, np.float32), "two": np.ones(2)}
    return saved(tmp_path_factory.mktemp("real") / "m.h5", arrays)


LIES: dict[str, tuple[bytes, str | None, str]] = {
    "no bytes": (b"", None, "no signature"),
    "text": (b"hello " * 20, None, "no signature"),
    "a superblock of version 9": (changed(made(*GOOD), b"HDF", b"\x09", 7), None, "version 9"),
    "addresses of 4 bytes": (superblock(96, 96, sizes=b"\4\x08"), None, "addresses of 4"),
    "lengths of 2 bytes": (superblock(96, 96, sizes=b"\x08\2"), None, "lengths of 2"),
    "a user block": (superblock(96, 96, base=512), None, "count from byte 512"),
    "truncated": (made(*GOOD)[:-1], None, "truncated"),
    "a root beyond the end": (superblock(10**6, 96), None, "truncated"),
    "a root that is none": (superblock(0, 96), None, "no object header"),
    "a root without links": (superblock(96, 112) + header(), None, "holds no tensors"),
    "a root that is a dataset": (
        superblock(96, 96 + len(header(*GOOD))) + header(*GOOD), None, "holds no tensors",
    ),
    "a header that leaves the file": (
        superblock(96, 112) + header(size=1000), None, "leads to byte 1112",
    ),
    "a message that leaves its header": (
        superblock(96, 120) + header(struct.pack("<HHB3x", 6, 8, 0)), None, "leaves its header",
    ),
    "a header that goes on nowhere": (
        superblock(96, 128) + header(message(MORE, bytes(8))), None, "goes on nowhere",
    ),
    "a header that goes on in a ring": (
        superblock(96, 136) + header(message(MORE, struct.pack("<QQ", 112, 24))), None, "in a ring",
    ),
    "a new header of version 3": (superblock(96, 104) + b"OHDR\3\0\0\0", None, "version 3"),
    "a new header that goes on elsewhere": (
        superblock(96, 160) + b"OHDR\2\0" + bytes([20, 16, 16, 0, 0])
        + struct.pack("<QQ", 140, 20) + bytes(37), None, "no further part",
    ),
    "a new header that goes on in itself": (
        superblock(96, 160) + b"OHDR\2\0" + bytes([20, 16, 16, 0, 0])
        + struct.pack("<QQ", 96, 20) + bytes(37), None, "in a ring",
    ),
    "a link of version 2": (
        made(*GOOD, links=message(LINK, b"\2\0\1x" + bytes(12))), None, "unknown version",
    ),
    "a link that is cut off": (
        made(*GOOD, links=message(LINK, b"\1\0\x40x" + bytes(12))), None, "cut off",
    ),
    "a link without a name": (made(*GOOD, links=link("", DATA)), None, "a link called ''"),
    "a link named with a slash": (made(*GOOD, links=link("a/b", DATA)), None, "called 'a/b'"),
    "a link of one name": (made(*GOOD, links=link("w", DATA)), None, "called 'w'"),
    "a link not in UTF-8": (made(*GOOD, links=link(b"\xff", DATA)), None, "not UTF-8"),
    "links in a heap": (
        made(*GOOD, links=message(2, b"\0\0" + struct.pack("<QQ", 96, 96))), None, "newer way",
    ),
    "no shape": (made(FLOATS, PLACE), "w", "lacks its shape"),
    "no dtype": (made(space(2, 2), PLACE), "w", "lacks its shape, its datatype"),
    "two shapes": (made(space(2, 2), *GOOD), "w", "says a thing twice"),
    "a shape elsewhere": (made(message(SPACE, bytes(8), 2), FLOATS, PLACE), "w", "elsewhere"),
    "a shape of version 3": (made(space(2, 2, version=3), FLOATS, PLACE), "w", "dataspace of an"),
    "a shape that is cut off": (
        made(message(SPACE, b"\1\2" + bytes(14)), FLOATS, PLACE), "w", "cut off",
    ),
    "33 extents": (made(space(*[1] * 33), FLOATS, PLACE), "w", "33 extents"),
    "2^80 values": (made(space(2**40, 2**40), FLOATS, PLACE), "w", "not one of a tensor"),
    "too few bytes": (made(space(2, 2), FLOATS, lies_at(DATA, 12)), "w", "takes 16 bytes"),
    "too many bytes": (made(space(2, 2), FLOATS, lies_at(DATA, 20)), "w", "takes 16 bytes"),
    "values beyond the end": (made(space(2, 2), FLOATS, lies_at(10**6, 16)), "w", "truncated"),
    "values never written": (made(space(2, 2), FLOATS, lies_at(NOWHERE, 16)), "w", "never written"),
    "values in another file": (made(*GOOD, message(EXTERNAL, bytes(8))), "w", "another file"),
    "a virtual dataset": (
        made(space(2), FLOATS, message(LAYOUT, b"\4\3" + bytes(14))), "w", "a view of datasets",
    ),
    "a layout of version 2": (
        made(space(2), FLOATS, message(LAYOUT, b"\2\2" + bytes(14))), "w", "layout of version 2",
    ),
    "a layout of class 7": (
        made(space(2), FLOATS, message(LAYOUT, b"\3\7" + bytes(22))), "w", "class 7",
    ),
    "a place that is cut off": (
        made(space(2), FLOATS, message(LAYOUT, b"\3\1" + bytes(6))), "w", "class 1",
    ),
    "values that leave their header": (
        made(space(2), FLOATS, message(LAYOUT, b"\3\0\x40\0" + bytes(4))), "w", "leave its header",
    ),
    "filters without chunks": (made(*GOOD, filtered(1)), "w", "no chunks"),
    "a datatype of version 0": (made(space(2), kind(0, 1, version=0), PLACE), "w", "datatype"),
    "times": (made(space(2), kind(2, 4), PLACE), "w", "holds times"),
    "references": (made(space(2), kind(7, 8), PLACE), "w", "holds references"),
    "lists": (made(space(2), kind(9, 16), PLACE), "w", "lists of any length"),
    "three opaque bytes": (made(space(2), kind(5, 3), PLACE), "w", "opaque bytes"),
    "two bytes of a name": (made(space(2), kind(5, 2, b"photo\0\0\0"), PLACE), "w", "holds"),
    "integers of 12 bits": (
        made(space(2), kind(0, 2, struct.pack("<HH", 0, 12)), PLACE), "w", "unusual form",
    ),
    "floats of a VAX": (made(space(2), kind(1, 4, bytes(12), flags=0x41), PLACE), "w", "unusual"),
    "floats of an unknown bias": (
        made(space(2), kind(1, 4, struct.pack("<HHBBBBI", 0, 32, 23, 8, 0, 23, 99)), PLACE),
        "w", "unusual form",
    ),
    "names for text": (made(space(2), kind(8, 4, bytes.fromhex("13000000") + bytes(8)), PLACE),
                       "w", "names for values"),
    "names for wider values": (
        made(space(2), kind(8, 4, bytes.fromhex("1000000002000000") + struct.pack("<HH", 0, 16)),
             PLACE), "w", "names for values",
    ),
    "chunks of other extents": (made(*ROW, in_chunks(DATA, 2, 2, 1)), "w", "chunks of 2 extents"),
    "chunks without extents": (made(*ROW, in_chunks(DATA, 0, 1)), "w", "chunks of [0] values"),
    "chunks of other values": (made(*ROW, in_chunks(DATA, 2, 4)), "w", "values of 4 bytes"),
    "chunks of a newer index": (
        made(*ROW, message(LAYOUT, b"\4\2" + bytes(30))), "w", "index of chunks that only",
    ),
    "chunks of 2^31 bytes": (made(*ROW, in_chunks(DATA, 2**31, 1)), "w", "held at once"),
    "a slab of 2^31 bytes": (
        made(space(2, 2**30), BYTES, in_chunks(DATA, 2, 1, 1)), "w", "held at once",
    ),
    "no chunks": (chunked(), "w", "2 chunks that were never written"),
    "no index of chunks": (made(*ROW, in_chunks(NOWHERE, 2, 1)), "w", "2 chunks that were never"),
    "one chunk missing": (chunked(TWO[0]), "w", "1 chunks that were never"),
    "one chunk twice": (chunked(TWO[0], TWO[0]), "w", "at [0], where none is due"),
    "a chunk beyond the dataset": (chunked(*TWO, chunk((4,), 2, at(2))), "w", "none is due"),
    "a chunk between": (chunked(chunk((1,), 2, at(2)), TWO[1]), "w", "between its chunks"),
    "a chunk beyond the end": (chunked(TWO[0], chunk((2,), 2, 10**6)), "w", "truncated"),
    "chunks in one place": (
        made(space(40), BYTES, in_chunks(DATA, 20, 1), filtered(1), data=tree(
            chunk((0,), 300, 96), chunk((20,), 300, 96)) + bytes(200)), None, "datasets of 600",
    ),
    "a chunk that says too much": (
        made(space(4000), BYTES, in_chunks(DATA, 4000, 1), filtered(1), data=tree(
            chunk((0,), 3, at(1))) + bytes(60)), "w", "3 bytes, which cannot hold 4000",
    ),
    "a chunk too short": (chunked(TWO[0], chunk((2,), 1, at(2))), "w", "1 bytes instead of 2"),
    "an index that is none": (chunked(*TWO, sign=b"BUSH"), None, "no tree"),
    "an index of groups": (chunked(*TWO, kind=0), None, "no tree"),
    "an index in a ring": (chunked(chunk((0,), 2, DATA), level=1), None, "two places lead to"),
    "an index of wrong levels": (
        made(*ROW, in_chunks(DATA, 2, 1), data=tree(chunk((0,), 2, at(1)), level=2) + tree()),
        None, "level 0 where 1",
    ),
    "filters of version 3": (chunked(*TWO, filters=message(FILTERS, b"\3\1" + bytes(6))),
                             "w", "filters of an unknown version"),
    "filters cut off": (chunked(*TWO, filters=filtered(1, count=9)), "w", "cut off"),
    "lzf": (chunked(*TWO, filters=filtered(32000)), "w", "by lzf; only gzip"),
    "filter 777": (chunked(*TWO, filters=filtered(777)), "w", "by filter 777"),
    "gzip twice": (chunked(*TWO, filters=filtered(1, 1)), "w", "a filter twice"),
    "not gzip": (one_of(filtered(1), b"not gzip"), "w", "does not inflate"),
    "half of gzip": (one_of(filtered(1), zlib.compress(b"abcd")[:-2]), "w", "cut off"),
    "more than it holds": (one_of(filtered(1), zlib.compress(bytes(10**5))), "w", "inflates to"),
    "less than it holds": (one_of(filtered(1), zlib.compress(b"abc")), "w", "3 bytes instead of 4"),
    "a wrong checksum": (one_of(filtered(3), b"abcd" + bytes(4)), "w", "its checksum differs"),
}  # fmt: skip


def refusal(path: Path) -> FormatError:
    with pytest.raises(FormatError) as caught:
        fingerprint(path)
    assert str(caught.value).isprintable()
    assert str(path) in str(caught.value)
    return caught.value


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_gives_one_named_error(tmp_path: Path, lie: str) -> None:
    data, name, reason = LIES[lie]
    path = tmp_path / "liar.h5"
    path.write_bytes(data)
    error = refusal(path)
    assert reason in error.reason
    assert error.tensor == name


GROUPS: dict[str, tuple[bytes, int, bytes, str]] = {
    "no tree": (b"TREE", 0, b"X", "no tree"),
    "a tree of chunks": (b"TREE", 4, b"\1", "no tree"),
    "a tree 65 deep": (b"TREE", 5, b"\x41", "no tree"),
    "no heap": (b"HEAP", 0, b"X", "no heap"),
    "a heap of version 1": (b"HEAP", 4, b"\1", "no heap"),
    "a heap beyond the end": (b"HEAP", 24, struct.pack("<Q", 10**7), "truncated"),
    "no table": (b"SNOD", 0, b"X", "no table"),
    "a name beyond its heap": (b"SNOD", 8, struct.pack("<Q", 10**7), "not in its heap"),
    "a table beyond the end": (b"SNOD", 6, b"\xff\xff", "truncated"),
}


@pytest.mark.parametrize("lie", GROUPS)
def test_every_lie_of_a_group_is_refused(tmp_path: Path, real: bytes, lie: str) -> None:
    sign, skip, new, reason = GROUPS[lie]
    path = tmp_path / "liar.h5"
    path.write_bytes(changed(real, sign, new, skip))
    assert reason in refusal(path).reason


def test_structures_that_overlap_are_refused(tmp_path: Path) -> None:
    # Two thousand groups, each of which finds its names in the same heap of 2 MB.
    count, names = 2000, 2 << 20
    heap = struct.pack("<4sB3xQQQ", b"HEAP", 0, names, 0, DATA + 32) + bytes(names)
    start = DATA + len(heap)
    group = header(message(SYMBOLS, struct.pack("<QQ", NOWHERE, DATA)))
    links = b"".join(link(f"{n:4}", start + n * len(group)) for n in range(count))
    root = header(links)
    at = start + count * len(group)
    path = tmp_path / "liar.h5"
    path.write_bytes(superblock(at, at + len(root)) + heap + group * count + root)
    began = time.perf_counter()
    assert "overlap" in refusal(path).reason
    assert time.perf_counter() - began < 5


def test_a_table_of_names_is_met_once(tmp_path: Path, real: bytes) -> None:
    # A second entry in the root's tree that leads to the same table as the first.
    place = real.index(b"TREE")
    (leaf,) = struct.unpack_from("<Q", real, place + 32)
    twice = changed(real, b"TREE", b"\2", 6)
    twice = twice[: place + 48] + struct.pack("<Q", leaf) + twice[place + 56 :]
    (tmp_path / "m.h5").write_bytes(twice)
    assert "two places lead to" in refusal(tmp_path / "m.h5").reason


def test_a_group_with_another_message_still_has_its_links(tmp_path: Path) -> None:
    other = message(SYMBOLS, bytes(8)) + message(999, bytes(8))
    assert list(found_in(tmp_path / "m.h5", made(*GOOD, links=other))) == ["w"]


def test_paths_have_a_longest(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["/".join(["a" * 200] * 30)] = np.ones(2)
    assert "a path of more than" in refusal(tmp_path / "m.h5").reason


# What is read


def content(item: Item) -> bytes:
    view = memoryview(bytearray(item.size_bytes))
    return bytes(item.source.piece(0, item.size_bytes, view))


def found_in(
    path: Path, data: bytes | None = None
) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    if data is not None:
        path.write_bytes(data)
    opener = Opener()
    with opener.stack:
        items = hdf5.items_of(opener.open(path, label=str(path)), opener)
        return {item.name: (item.dtype, item.shape, content(item)) for item in items}


def told(arrays: dict[str, Array]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {n: (SPELLED[a.dtype.name], a.shape, raw(a)) for n, a in arrays.items()}


def test_files_made_by_hand_are_read_where_they_are_honest(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    assert found_in(path, made(*GOOD)) == {"w": ("F32", (2, 2), bytes(range(16)))}
    assert found_in(path, chunked(*TWO)) == {"w": ("U8", (4,), b"abcd")}
    inner = tree(chunk((0,), 0, DATA + 24 + 32), level=1)
    nested = inner + tree(*(chunk(c, 2, at(3) + 24 + n) for c, n in (((0,), 0), ((2,), 2))))
    data = made(*ROW, in_chunks(DATA, 2, 1), data=nested + b"abcd")
    assert found_in(path, data) == {"w": ("U8", (4,), b"abcd")}
    assert found_in(path, one_of(filtered(1), zlib.compress(b"abcd")))["w"][2] == b"abcd"
    assert found_in(path, one_of(filtered(1), b"abcd", mask=1))["w"][2] == b"abcd"
    new = message(FILTERS, b"\2\1" + struct.pack("<HHHI", 1, 0, 1, 4))
    assert found_in(path, one_of(new, zlib.compress(b"abcd")))["w"][2] == b"abcd"


@pytest.mark.parametrize("libver", ["earliest", "v108", "latest"])
@pytest.mark.parametrize("order", [False, True], ids=["by name", "in order"])
def test_what_every_version_of_the_library_writes_is_read(
    tmp_path: Path, libver: str, order: bool
) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "sub/b": np.float16([1, 2]),
        "sub/c": np.array(3.5),
    }
    saved(tmp_path / "m.h5", arrays, libver=libver, track_order=order)
    assert found_in(tmp_path / "m.h5") == told(arrays)


def test_many_links_are_read_and_newer_ways_are_named(tmp_path: Path) -> None:
    arrays = {f"layer_{n}/w": np.full(3, n, np.float32) for n in range(700)}
    saved(tmp_path / "m.h5", arrays)
    assert found_in(tmp_path / "m.h5") == told(arrays)
    saved(tmp_path / "new.h5", arrays, libver="latest")
    assert "newer way" in refusal(tmp_path / "new.h5").reason
    with h5py.File(tmp_path / "new.h5", "w", libver="latest") as file:
        file.create_dataset("w", data=np.ones(30), chunks=(7,), maxshape=(None,))
    assert "libver" in refusal(tmp_path / "new.h5").reason


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((50,), (7,)),
        ((30, 20), (8, 20)),
        ((30, 20), (30, 3)),
        ((5, 6, 7), (2, 4, 3)),
        ((3, 0), (2, 1)),
    ],
)
@pytest.mark.parametrize(
    "how", [{}, {"compression": "gzip"}, {"compression": 9, "shuffle": True, "fletcher32": True}]
)
def test_chunks_are_put_together(
    tmp_path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], how: dict[str, Any]
) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(">f4")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        limits = (None,) * len(shape)
        file.create_dataset("w", data=array, chunks=chunks, maxshape=limits, **how)
    assert found_in(tmp_path / "m.h5") == told({"w": array})


def test_a_checksum_is_that_of_the_library(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for size in (1, 2, 719, 720, 721, 70_001):
        array = rng.integers(0, 256, size, np.uint8)
        with h5py.File(tmp_path / "m.h5", "w") as file:
            file.create_dataset("w", data=array, chunks=(size,), fletcher32=True)
            stored = file["w"].id.read_direct_chunk((0,))[1]
        expected = int.from_bytes(stored[-4:], "little")
        assert hdf5_chunks.fletcher32(array.tobytes()) == expected
        assert found_in(tmp_path / "m.h5") == told({"w": array})
    ones = b"\xff" * 5000
    assert hdf5_chunks.fletcher32(ones) == 0xFFFFFFFF


def test_a_filter_left_out_of_a_chunk_is_not_undone(tmp_path: Path) -> None:
    array = np.arange(8, dtype=np.float32)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        data = file.create_dataset("w", (8,), "f4", chunks=(4,), compression="gzip", shuffle=True)
        data.id.write_direct_chunk((0,), array[:4].tobytes(), filter_mask=3)
        data[4:] = array[4:]
    assert found_in(tmp_path / "m.h5") == told({"w": array})


def test_values_in_a_header_are_read(tmp_path: Path) -> None:
    array = np.arange(5, dtype=np.int16)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_layout(h5py.h5d.COMPACT)
        extents = h5py.h5s.create_simple((5,))
        made = h5py.h5d.create(file.id, b"w", h5py.h5t.NATIVE_INT16, extents, plan)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, array)
    assert found_in(tmp_path / "m.h5") == told({"w": array})


def test_numbers_of_every_kind_are_told_apart(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "bool": np.array([True, False]),
        "bfloat16": np.array([1, 2.5], ml_dtypes.bfloat16),
        "complex64": np.array([1 + 2j], np.complex64),
        "complex128": np.array([1 + 2j]),
        "u2": np.array([1, 65535], ">u2"),
    }
    saved(tmp_path / "m.h5", arrays)
    with h5py.File(tmp_path / "m.h5", "a") as file:
        names = h5py.enum_dtype({"RED": 0, "BLUE": 3}, basetype="i4")
        file.create_dataset("enum", data=np.array([0, 3]), dtype=names)
        file["turned"] = np.array([1 + 2j], ">c16")
    found = found_in(tmp_path / "m.h5")
    assert found.pop("enum") == ("I32", (2,), struct.pack("<2i", 0, 3))
    assert found.pop("turned") == ("C128", (1,), struct.pack("<2d", 1, 2))
    plain = told({n: a for n, a in arrays.items() if n != "complex128"})
    assert found == plain | {"complex128": ("C128", (1,), struct.pack("<2d", 1, 2))}


def test_complex_numbers_of_every_version_are_read(tmp_path: Path) -> None:
    # Versions 2 and 3 of the datatype leave out what older ones pad and repeat.
    part = FLOATS[8:28]
    old = b"".join(n + bytes(7) + struct.pack("<I", at) + part for n, at in ((b"r", 0), (b"i", 4)))
    new = b"".join(n + bytes(1) + struct.pack("<B", at) + part for n, at in ((b"r", 0), (b"i", 4)))
    for version, members in ((2, old), (3, new)):
        data = bytes([version << 4 | 6, 2, 0, 0]) + struct.pack("<I", 8) + members
        found = found_in(tmp_path / "m.h5", made(space(2), message(TYPE, data), PLACE))
        assert found["w"][:2] == ("C64", (2,))


@pytest.mark.parametrize(
    "array",
    [
        np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
        np.array([(1, 2.0)], [("r", "f4"), ("x", "f4")]),
        np.array([(1, 2)], [("r", "i4"), ("i", "i4")]),
        np.array([(1, 2, 3)], [("r", "f4"), ("i", "f4"), ("j", "f4")]),
    ],
    ids=["others", "half", "whole numbers", "three"],
)
def test_records_are_refused(tmp_path: Path, array: Array) -> None:
    saved(tmp_path / "m.h5", {"w": array})
    assert "holds records" in refusal(tmp_path / "m.h5").reason


def test_text_and_what_has_no_space_is_left_out(tmp_path: Path) -> None:
    arrays = {"w": np.ones(2, np.float32), "words": np.array([b"ab", b"c"]), "one": "text"}
    saved(tmp_path / "m.h5", {**arrays, "none": h5py.Empty("f4")})
    assert list(found_in(tmp_path / "m.h5")) == ["w"]


def test_a_datatype_of_its_own_is_refused_where_it_is_used(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["kind"] = np.dtype("f4")
        file["a"] = np.ones(2)
    assert list(found_in(tmp_path / "m.h5")) == ["a"]
    with h5py.File(tmp_path / "m.h5", "a") as file:
        file.create_dataset("w", (2,), dtype=file["kind"])
        file["w"][:] = 1
    assert "lies elsewhere" in refusal(tmp_path / "m.h5").reason


def test_datasets_elsewhere_are_refused(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(16))
    with h5py.File(tmp_path / "away.h5", "w") as file:
        file.create_dataset("w", (4,), "f4", external=[(str(tmp_path / "raw"), 0, 16)])
    assert "another file" in refusal(tmp_path / "away.h5").reason
    with h5py.File(tmp_path / "view.h5", "w") as file:
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource("other.h5", "w", (4,))
        file.create_virtual_dataset("w", layout)
    assert "a view of datasets" in refusal(tmp_path / "view.h5").reason
    with h5py.File(tmp_path / "never.h5", "w") as file:
        file.create_dataset("w", (4,), "f4")
    assert "never written" in refusal(tmp_path / "never.h5").reason
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file.create_dataset("w", (8,), "f4", chunks=(4,))[:4] = 1
    assert "1 chunks" in refusal(tmp_path / "part.h5").reason


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_only_hard_links_are_followed_and_rings_end(tmp_path: Path, libver: str) -> None:
    saved(tmp_path / "other.h5", {"secret": np.ones(2)})
    with h5py.File(tmp_path / "m.h5", "w", libver=libver) as file:
        file["a/w"] = np.ones(3, np.float32)
        file["b"] = file["a/w"]
        file["a/ring"] = file["a"]
        file["a/up"] = file["/"]
        file["soft"] = h5py.SoftLink("/a/w")
        file["away"] = h5py.ExternalLink("other.h5", "secret")
    assert found_in(tmp_path / "m.h5") == told({"a/w": np.ones(3, np.float32)})


# Keras


def test_the_state_of_an_optimizer_is_left_out(tmp_path: Path) -> None:
    kept = {
        "model_weights/dense/dense/kernel:0": np.ones((2, 3), np.float32),
        "layers/optimizer/vars/0": np.ones(2, np.float32),
    }
    state = {
        "optimizer_weights/Adam/m:0": np.ones(2),
        "optimizer/vars/0": np.ones(2),
        "_optimizer/vars/0": np.ones(2),
    }
    saved(tmp_path / "m.h5", {**kept, **state})
    assert found_in(tmp_path / "m.h5") == told(kept)


def _archive(path: Path, member: str, data: bytes, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr(member, data)
    return path


def test_an_archive_has_the_root_of_its_weights(tmp_path: Path) -> None:
    arrays = {"layers/dense/vars/0": np.arange(6, dtype=np.float32).reshape(2, 3)}
    data = saved(tmp_path / "m.weights.h5", arrays)
    path = _archive(tmp_path / "m.keras", "model.weights.h5", data)
    assert fingerprint(path).root == fingerprint(tmp_path / "m.weights.h5").root
    assert (
        fingerprint(path).root == fingerprint(write_model(tmp_path / "m.safetensors", arrays)).root
    )


def test_an_archive_says_why_it_is_not_read(tmp_path: Path, real: bytes) -> None:
    path = tmp_path / "m.keras"
    assert "no model.weights.h5" in refusal(_archive(path, "weights.h5", real)).reason
    packed = _archive(path, "model.weights.h5", real, zipfile.ZIP_DEFLATED)
    assert "unzip it" in refusal(packed).reason
    assert "truncated" in refusal(_archive(path, "model.weights.h5", real[:-9])).reason


# Anything at all


def _samples(folder: Path) -> list[bytes]:
    rng = np.random.default_rng(0)
    arrays = {f"layer_{n}/w": rng.normal(size=(4, 3)).astype("f4") for n in range(3)}
    plain = saved(folder / "plain.h5", {**arrays, "text": "words", "c": np.ones(2, "c8")})
    new = saved(folder / "new.h5", arrays, track_order=True, libver="latest")
    with h5py.File(folder / "chunks.h5", "w") as file:
        how: dict[str, Any] = {"compression": "gzip", "shuffle": True, "fletcher32": True}
        file.create_dataset("z", data=rng.normal(size=(20, 8)), chunks=(6, 5), **how)
        file["turned"] = np.arange(5, dtype=">f4")
    return [plain, new, (folder / "chunks.h5").read_bytes(), chunked(*TWO), made(*GOOD)]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return _samples(tmp_path_factory.mktemp("samples"))


def test_the_samples_are_whole(tmp_path: Path, samples: list[bytes]) -> None:
    assert [len(found_in(tmp_path / "m.h5", data)) for data in samples] == [4, 3, 2, 1, 1]


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_whatever_the_bytes_only_a_format_error(
    samples: list[bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    sample = data.draw(st.sampled_from(samples))
    damaged = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(0, len(damaged) - 1)))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "address", "end"])):
            case "flip":
                damaged[place : place + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del damaged[place : place + data.draw(st.integers(1, 16))]
            case "insert":
                damaged[place:place] = data.draw(st.binary(max_size=16))
            case "address":
                number = data.draw(st.one_of(st.integers(0, len(sample)), st.just(NOWHERE)))
                damaged[place : place + 8] = struct.pack("<Q", number)
            case _:
                del damaged[place:]
    path = tmp_path_factory.getbasetemp() / "fuzzed.h5"
    path.write_bytes(damaged)
    try:
        with read(path) as artifact:
            for item in artifact.items:
                assert len(content(item)) == item.size_bytes <= 1032 * len(sample)
    except FormatError as error:
        assert "fuzzed.h5" in str(error)
        assert str(error).isprintable()
