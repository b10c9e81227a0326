"""A zip archive's members are found where they lie, and an ambiguous archive is refused."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch_bytes import zipped as archive

from lineage.artifacts import zipped
from lineage.artifacts.inflated import Inflated
from lineage.artifacts.opened import OpenFile, Region
from lineage.errors import FormatError

TEXT = b"some text, some text, some text " * 40
TWO = archive({"a": TEXT, "b": b"short"})
PACKED = archive({"a": TEXT}, packed=True)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[OpenFile]:
    path = tmp_path / "made.zip"
    path.touch()
    file = OpenFile.open(path, label="made.zip")
    yield file
    file.close()


def held(file: OpenFile, data: bytes) -> OpenFile:
    """The same open file with these bytes."""
    file.location.write_bytes(data)
    return OpenFile(file.path, file.location, file.descriptor, len(data), file.stamp)


def patched(data: bytes, magic: bytes, at: int, form: str, *values: int, which: int = 0) -> bytes:
    """The archive with fields of one header replaced: `at` bytes after the header's magic."""
    place = -1
    for _ in range(which + 1):
        place = data.index(magic, place + 1)
    field = struct.pack(f"<{form}", *values)
    return data[: place + at] + field + data[place + at + len(field) :]


LOCAL, ENTRY, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"


def renamed(name: bytes, *, flags: int = 0) -> bytes:
    """An archive whose one member has this name in both places."""
    data = archive({"n" * len(name): TEXT}).replace(b"n" * len(name), name)
    return patched(data, ENTRY, 8, "H", flags)


def wide(data: bytes = TWO, *, lie: int = 0, locator: int = 0, short: int = 0xFFFFFFFF) -> bytes:
    """The archive with a ZIP64 end, whose count, or whose place, may lie."""
    at = data.index(END)
    _, _, _, here, count, size, start, _ = struct.unpack("<4s4H2IH", data[at:])
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, here, count + lie, size, start)
    where = struct.pack("<4sIQI", b"PK\6\7", 0, at + locator, 1)
    end = struct.pack("<4s4H2IH", END, 0, 0, here, count, size, short, 0)
    return data[:at] + record + where + end


DIRECTORY = TWO.index(ENTRY)

LIES = {
    "no bytes": (b"", "no zip archive"),
    "no end": (TWO[:-23], "no zip archive"),
    "half an end": (TWO[:-3], "no zip archive"),
    "bytes after the end": (TWO + b"x", "bytes lie after the end"),
    "bytes before the beginning": (b"x" + TWO, "is said to lie at"),
    "several disks": (patched(TWO, END, 4, "H", 1), "one part of several"),
    "a member on another disk": (patched(TWO, ENTRY, 34, "H", 3), "another disk"),
    "a count too high": (patched(TWO, END, 8, "2H", 9, 9), "claims 9 members"),
    "a count higher by one": (patched(TWO, END, 8, "2H", 1, 1), "after its last entry"),
    "an entry too many": (patched(TWO, ENTRY, 28, "H", 20, which=1), "directory is damaged"),
    "no entry where one should be": (patched(TWO, ENTRY, 0, "4s", b"PK\1\\9"), "is damaged"),
    "the ZIP64 end is missing": (patched(TWO, END, 16, "I", 0xFFFFFFFF), "ZIP64 record is missing"),
    "the ZIP64 end lies elsewhere": (wide(locator=-1), "ZIP64 record is damaged"),
    "the ZIP64 end lies beyond": (wide(locator=2**40), "ZIP64 record is damaged"),
    "the two ends disagree": (wide(lie=1), "two ends disagree"),
    "the two ends have two places": (wide(short=7), "two ends disagree"),
    "sizes without their ZIP64 field": (
        patched(TWO, ENTRY, 20, "2I", 0xFFFFFFFF, 0xFFFFFFFF), "has no ZIP64 sizes",
    ),
    "one name twice": (archive({"a": b"1", "b": b"2"}).replace(b"b", b"a"), "'a' comes twice"),
    "a name that climbs": (renamed(b"x/../../y"), "climbs out"),
    "an absolute name": (renamed(b"/etc/x"), "no place in a folder"),
    "a name of another system": (renamed(b"x\\y"), "no place in a folder"),
    "a name with a zero": (renamed(b"x\0y"), "no place in a folder"),
    "no name": (renamed(b""), "no place in a folder"),
    "a name that is not UTF-8": (renamed(b"\xff\xfe", flags=1 << 11), "not UTF-8"),
    "encrypted": (patched(TWO, ENTRY, 8, "H", 1), "is encrypted"),
    "a patch": (patched(TWO, ENTRY, 8, "H", 1 << 5), "is encrypted or a patch"),
    "another method": (patched(TWO, ENTRY, 10, "H", 93), "compressed by method 93"),
    "stored in fewer bytes": (patched(TWO, ENTRY, 24, "I", 9), "yet takes 1280 bytes to hold 9"),
    "a bomb by its own words": (patched(PACKED, ENTRY, 24, "I", 2**31), "can inflate to"),
    "larger than the file": (patched(TWO, ENTRY, 20, "2I", 9999, 9999), "ends at byte"),
    "begins beyond the file": (patched(TWO, ENTRY, 42, "I", 9999), "begin at byte 9999"),
    "begins where nothing does": (patched(TWO, ENTRY, 42, "I", 3), "no header of its own"),
    "two members in one place": (
        patched(archive({"a": TEXT, "b": TEXT}), ENTRY, 42, "I", 0, which=1),
        "no header of its own",
    ),
    "a member over the next": (
        patched(TWO, ENTRY, 20, "2I", 1300, 1300), "'b' overlaps the one before it by",
    ),
    "two names": (patched(TWO, LOCAL, 4 + 22, "H", 7), "has two names"),
    "two methods": (patched(TWO, LOCAL, 8, "H", 8), "no header of its own"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_every_lie_of_an_archive_is_named(made: OpenFile, name: str) -> None:
    data, reason = LIES[name]
    with pytest.raises(FormatError, match=r"made\.zip") as caught:
        zipped.members(held(made, data))
    assert reason in str(caught.value)


def test_members_lie_where_they_say(made: OpenFile) -> None:
    folders = {"x/": b"", "x/a": TEXT, "x/b": b"", "é": b"accent"}
    file = held(made, archive(folders))
    found = zipped.members(file)
    assert list(found) == ["x/a", "x/b", "é"]
    for name, member in found.items():
        assert zipped.read_small(file, member, limit=len(TEXT)) == folders[name]
        assert zipped.source(file, member) == Region(file, member.start)


def test_an_archive_with_a_wide_end_is_read(made: OpenFile) -> None:
    assert list(zipped.members(held(made, wide()))) == ["a", "b"]
    assert list(zipped.members(held(made, wide(short=DIRECTORY)))) == ["a", "b"]


def test_sizes_that_need_64_bits_are_found(made: OpenFile) -> None:
    with zipfile.ZipFile(made.location, "w") as written:
        with written.open("a", "w", force_zip64=True) as member:
            member.write(TEXT)
        written.comment = b"with words at the end"
    data = made.location.read_bytes()
    # The directory's entry too: both sizes move to the field of kind 1, behind another field.
    at = data.index(ENTRY)
    entry = bytearray(data[at : data.index(END)])
    extra = struct.pack("<2H2s", 9, 2, b"..") + struct.pack("<2H2Q", 1, 16, len(TEXT), len(TEXT))
    struct.pack_into("<2I", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", entry, 30, len(extra))
    end = bytearray(data[data.index(END) :])
    struct.pack_into("<I", end, 12, len(entry) + len(extra))
    file = held(made, data[:at] + bytes(entry) + extra + bytes(end))
    assert zipped.read_small(file, zipped.members(file)["a"], limit=2000) == TEXT


def test_a_large_member_is_not_small(made: OpenFile) -> None:
    file = held(made, TWO)
    with pytest.raises(FormatError, match="holds 1280 bytes, more than the 1279 allowed"):
        zipped.read_small(file, zipped.members(file)["a"], limit=1279)


# Deflated members


def packed(
    file: OpenFile, data: bytes, *, size: int | None = None, crc: int | None = None
) -> Inflated:
    """A source over a deflate stream of `data`, whose size or sum may lie."""
    made = zlib.compressobj(wbits=-15)
    stream = made.compress(data) + made.flush()
    true = zlib.crc32(data)
    return Inflated(
        held(file, stream), "its member", 0, len(stream),
        len(data) if size is None else size, true if crc is None else crc,
    )  # fmt: skip


def content(source: Inflated, step: int) -> bytes:
    scratch = memoryview(bytearray(step))
    return b"".join(
        bytes(source.piece(at, min(step, source.size - at), scratch))
        for at in range(0, source.size, step)
    )


@pytest.mark.parametrize("step", [1, 7, 4096, 1 << 20])
def test_a_stream_gives_its_bytes_in_order_and_again(made: OpenFile, step: int) -> None:
    data = (TEXT + np.random.default_rng(0).bytes(3000)) * (1 if step == 1 else 60)
    source = packed(made, data)
    assert content(source, step) == data
    assert content(source, step) == data


def test_a_stream_may_be_asked_ahead_and_back(made: OpenFile) -> None:
    data = np.random.default_rng(1).bytes(300_000)
    source = packed(made, data)
    scratch = memoryview(bytearray(10))
    for at in (200_000, 5, 299_990, 0):
        assert source.piece(at, 10, scratch) == data[at : at + 10]


def test_an_archive_of_zeros_is_no_bomb(made: OpenFile) -> None:
    file = held(made, archive({"zeros": bytes(5_000_000)}, packed=True))
    assert file.size < 6000
    member = zipped.members(file)["zeros"]
    assert zipped.read_small(file, member, limit=member.size) == bytes(5_000_000)


def test_every_lie_of_a_stream_is_named(made: OpenFile) -> None:
    for source, reason in (
        (packed(made, TEXT, size=len(TEXT) - 1), "goes on after its 1279 bytes"),
        (packed(made, TEXT, size=len(TEXT) + 1), "ends after 1280 of its 1281 bytes"),
        (packed(made, TEXT, crc=1), "its CRC differs"),
    ):
        with pytest.raises(FormatError, match=reason):
            content(packed_again(made, source), 2000)
    good = packed(made, TEXT)
    stream = made.location.read_bytes()
    cut = Inflated(held(made, stream), "its member", 0, len(stream) - 5, len(TEXT), good.crc)
    with pytest.raises(FormatError, match="ends after"):
        content(cut, 100)
    noise = Inflated(held(made, b"\xff" * 50), "its member", 0, 50, 500, 0)
    with pytest.raises(FormatError, match="does not inflate"):
        content(noise, 100)


def packed_again(file: OpenFile, source: Inflated) -> Inflated:
    """The source with its stream back in the file."""
    fresh = packed(file, TEXT)
    return Inflated(fresh.file, "its member", 0, fresh.packed, source.size, source.crc)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_bytes_raise_anything_else(made: OpenFile, data: st.DataObject) -> None:
    honest = data.draw(st.sampled_from([TWO, PACKED, wide()]))
    changed = bytearray(honest)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    file = held(made, bytes(changed))
    try:
        for member in zipped.members(file).values():
            zipped.read_small(file, member, limit=10_000)
    except FormatError as error:
        assert "made.zip" in str(error)
