"""The laws that every reader keeps: the container never shows, and a broken one is refused.

The formats are the table in `writers.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers import BFLOAT16, SPELLED, Array, raw
from writers import WRITERS, Writer, every_writer, is_file

from lineage import fingerprint, read
from lineage.artifacts import Item
from lineage.errors import FormatError
from lineage.fingerprints import Fingerprint, to_bytes

SHAPES = {
    "matrix.weight": (23, 40),
    "vector": (17,),
    "five": (2, 1, 3, 2, 2),
    "four": (2, 3, 1, 2),
    "scalar": (),
    "none": (0, 4),
    "none.either": (3, 0),
    "ones": (1, 1),
}

NUMERIC = ("float32", "float64", "float16", "bfloat16", "int8")
"""Dtypes whose sketches of the same values are the same."""


def model(dtype: str, seed: int = 0) -> dict[str, Array]:
    """A tensor of each shape, of values that this dtype can be asked to hold."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in SHAPES.items():
        numbers = np.asarray(30 * rng.normal(size=shape))
        if dtype.startswith("uint"):
            numbers = np.abs(numbers)
        made[name] = np.asarray(numbers > 0 if dtype == "bool" else numbers.astype(dtype_of(dtype)))
    return made


def dtype_of(name: str) -> np.dtype[Any]:
    """NumPy's dtype, or that of ml_dtypes, of this name."""
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name, name))


def mixed(writer: Writer) -> dict[str, Array]:
    """A model with every dtype and every shape that the format holds."""
    every = {f"{d}.{n}": a for d in sorted(writer.dtypes) for n, a in model(d).items()}
    return writer.fitting(every)


def small(writer: Writer) -> dict[str, Array]:
    """Two tensors, of dtypes that the format holds."""
    held = [dtype for dtype in NUMERIC if dtype in writer.dtypes]
    rng = np.random.default_rng(7)
    both = {
        "a.weight": (40 * rng.normal(size=(5, 8))).astype(dtype_of(held[0])),
        "b": (40 * rng.normal(size=9)).astype(dtype_of(held[-1])),
    }
    return writer.fitting(both)


def written(writer: Writer, folder: Path, tensors: dict[str, Array]) -> Any:
    """What `write` makes of the tensors, in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    return writer.write(folder / f"model{writer.suffix}", tensors)


def content(item: Item, sizes: Iterator[int] | None = None) -> bytes:
    """A tensor's bytes, read in order in pieces of these sizes."""
    scratch = memoryview(bytearray(max(1, item.size_bytes)))
    joined = bytearray()
    while len(joined) < item.size_bytes:
        size = item.size_bytes if sizes is None else next(sizes)
        size = min(size, item.size_bytes - len(joined))
        piece = item.source.piece(len(joined), size, scratch)
        assert len(piece) == size
        joined += piece
    return bytes(joined)


def of_bytes(path: Path, data: bytes) -> Fingerprint | FormatError:
    """The fingerprint of a file with these bytes, or its refusal: one line that names the file."""
    path.write_bytes(data)
    try:
        return fingerprint(path)
    except FormatError as error:
        words = str(error)
        assert path.name in words
        assert words.isprintable()
        return error


# What is told


@every_writer()
def test_names_dtypes_shapes_and_bytes_come_back(writer: Writer, tmp_path: Path) -> None:
    tensors = mixed(writer)
    expected = writer.as_read(tensors)
    with read(written(writer, tmp_path, tensors)) as artifact:
        found = {item.name: item for item in artifact.items}
        assert list(found) == sorted(expected, key=str.encode)
        for name, array in expected.items():
            item = found[name]
            assert (item.dtype, item.shape) == (SPELLED[array.dtype.name], array.shape), name
            assert item.size_bytes == array.nbytes
            assert content(item) == raw(array), name


@every_writer(is_file)
def test_the_root_of_a_file_is_the_root_of_its_arrays(writer: Writer, tmp_path: Path) -> None:
    tensors = mixed(writer)
    found = fingerprint(written(writer, tmp_path, tensors))
    made = fingerprint(writer.as_read(tensors))
    assert found.root == made.root
    assert to_bytes(found) == to_bytes(made)


@pytest.mark.parametrize("dtype", NUMERIC)
@every_writer()
def test_the_same_values_have_the_same_sketch(writer: Writer, tmp_path: Path, dtype: str) -> None:
    if dtype not in writer.dtypes:
        return
    rng = np.random.default_rng(3)
    shapes = {"m": (41, 53), "long": (300, 1000), "wide": (2, 30_000), "v": (700,), "c": (3, 5, 7)}
    plain = {n: rng.integers(-90, 90, s).astype(np.float32) for n, s in shapes.items()}
    for array in plain.values():
        array.reshape(-1)[::5] = 0
    cast = writer.fitting({name: array.astype(dtype_of(dtype)) for name, array in plain.items()})
    assert cast
    found = fingerprint(written(writer, tmp_path, cast))
    made = fingerprint(writer.as_read({name: plain[name] for name in cast}))
    for one, other in zip(found.tensors, made.tensors, strict=True):
        assert one.name == other.name
        assert one.sketch is not None
        assert other.sketch is not None
        assert one.nonfinite == other.nonfinite == 0
        assert one.sketch.zeros == other.sketch.zeros > 0
        for field in ("core", "rows", "cols", "energy", "fourth"):
            expected = getattr(other.sketch, field)
            np.testing.assert_allclose(
                getattr(one.sketch, field), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max()
            )


@every_writer()
def test_two_readings_are_one(writer: Writer, tmp_path: Path) -> None:
    tensors = mixed(writer)
    source = written(writer, tmp_path, tensors)
    assert to_bytes(fingerprint(source)) == to_bytes(fingerprint(source))
    with read(source) as artifact:
        first = [content(item) for item in artifact.items]
        assert [content(item) for item in artifact.items] == first


@every_writer()
def test_pieces_of_any_size_join_to_the_whole(writer: Writer, tmp_path: Path) -> None:
    tensors = {n: a for n, a in mixed(writer).items() if a.size > 1}
    expected = writer.as_read(tensors)
    for sizes in ([1], [7], [3, 1, 13, 64], [4096], [2, 1 << 20]):
        with read(written(writer, tmp_path, tensors)) as artifact:
            for item in artifact.items:
                repeated = (size for _ in range(1 << 20) for size in sizes)
                assert content(item, repeated) == raw(expected[item.name]), (item.name, sizes)


@every_writer()
def test_tensors_may_be_read_in_turns(writer: Writer, tmp_path: Path) -> None:
    # Several threads read several tensors at once, each with its own scratch.
    tensors = small(writer)
    expected = writer.as_read(tensors)
    with read(written(writer, tmp_path, tensors)) as artifact:
        joined = {item.name: bytearray() for item in artifact.items}
        while any(len(joined[item.name]) < item.size_bytes for item in artifact.items):
            for item in artifact.items:
                start = len(joined[item.name])
                size = min(5, item.size_bytes - start)
                scratch = memoryview(bytearray(5))
                joined[item.name] += item.source.piece(start, size, scratch)
    assert joined == {name: raw(array) for name, array in expected.items()}


# What is refused


@every_writer(is_file)
def test_a_cut_file_is_refused_or_whole(writer: Writer, tmp_path: Path) -> None:
    path = written(writer, tmp_path, small(writer))
    data = path.read_bytes()
    whole = to_bytes(fingerprint(path))
    step = max(1, len(data) // 150)
    refused = 0
    for cut in sorted({*range(min(40, len(data))), *range(0, len(data), step), len(data) - 1}):
        found = of_bytes(path, data[:cut])
        if isinstance(found, FormatError):
            refused += 1
        else:
            assert to_bytes(found) == whole, cut
    assert refused > 20


@every_writer(is_file)
def test_a_flipped_byte_of_data_changes_the_root_or_is_refused(
    writer: Writer, tmp_path: Path
) -> None:
    tensors = small(writer)
    path = written(writer, tmp_path, tensors)
    data = path.read_bytes()
    root = fingerprint(path).root
    places: list[int] = []
    for array in tensors.values():
        begin = data.find(raw(array))
        assert begin >= 0 or not writer.is_raw
        places += range(begin, begin + array.nbytes) if begin >= 0 else ()
    for place in places[:: max(1, len(places) // 100)]:
        found = of_bytes(path, _flipped(data, place, 1 << place % 8))
        assert isinstance(found, FormatError) or found.root != root, place


@every_writer(is_file)
def test_any_flipped_byte_is_read_or_refused_in_one_way(writer: Writer, tmp_path: Path) -> None:
    path = written(writer, tmp_path, small(writer))
    data = path.read_bytes()
    assert isinstance(of_bytes(path, data), Fingerprint)
    step = max(1, len(data) // 400)
    for place in range(0, len(data), step):
        for bits in (0x01, 0x80, 0xFF):
            of_bytes(path, _flipped(data, place, bits))


def _flipped(data: bytes, place: int, bits: int) -> bytes:
    flipped = bytearray(data)
    flipped[place] ^= bits
    return bytes(flipped)


@every_writer(is_file)
def test_a_file_rewritten_while_it_is_open_is_refused(writer: Writer, tmp_path: Path) -> None:
    path = written(writer, tmp_path, small(writer))
    data = path.read_bytes()
    with read(path) as artifact:
        artifact.check_unchanged()
        path.write_bytes(data)
        os.utime(path, ns=(1, 1))
        with pytest.raises(FormatError, match="changed") as caught:
            artifact.check_unchanged()
        assert str(path) in str(caught.value)


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@every_writer(is_file)
def test_files_are_closed_whatever_happens(writer: Writer, tmp_path: Path) -> None:
    path = written(writer, tmp_path, small(writer))
    data = path.read_bytes()
    fingerprint(path)  # imports what a reader needs
    before = _open_files()
    with read(path):
        assert _open_files() > before
    assert _open_files() == before
    assert isinstance(of_bytes(path, data[: len(data) // 3]), FormatError)
    assert _open_files() == before


def test_the_laws_are_put_to_something() -> None:
    for name, writer in WRITERS.items():
        assert writer.dtypes <= SPELLED.keys(), name
        assert len(small(writer)) == min(2, writer.most_tensors), name
        assert mixed(writer), name
    assert dtype_of("bfloat16") == BFLOAT16
