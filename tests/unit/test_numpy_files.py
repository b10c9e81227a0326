"""NumPy's own files are read as NumPy reads them; pickles and lies are refused by name."""

from __future__ import annotations

import io
import os
import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import Array, raw
from tensors import tensors

from lineage import fingerprint, read
from lineage.artifacts import numpy_files
from lineage.errors import FormatError

NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)
HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"


def container(
    header: str | bytes = HEADER,
    data: bytes = NUMBERS.tobytes(),
    *,
    version: tuple[int, int] = (1, 0),
    length: int | None = None,
    magic: bytes = b"\x93NUMPY",
) -> bytes:
    """A .npy file with this header, true or not."""
    text = header if isinstance(header, bytes) else header.encode("utf-8")
    size = len(text) if length is None else length
    return (
        magic
        + bytes(version)
        + size.to_bytes(2 if version == (1, 0) else 4, "little")
        + text
        + data
    )


def dtype(descr: str) -> bytes:
    return container(HEADER.replace("<f4", descr))


def shape(extents: str) -> bytes:
    return container(HEADER.replace("(2, 3)", extents))


LIES: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", "not a .npy file"),
    "nine bytes": (container()[:9], "not a .npy file"),
    "another magic": (container(magic=b"\x93NUMPX"), "not a .npy file"),
    "a pickle": (pickle.dumps(NUMBERS), "not a .npy file"),
    "a zip": (b"PK\3\4" + bytes(40), "not a .npy file"),
    "version 1.1": (container(version=(1, 1)), "version 1.1"),
    "version 4.0": (container(version=(4, 0)), "version 4.0"),
    "version 0.0": (container(version=(0, 0)), "version 0.0"),
    "version 2.0 without its length": (container(version=(2, 0))[:11], "more than the file has"),
    "a header of 2^32-1 bytes": (container(version=(2, 0), length=2**32 - 1), "4294967295 bytes"),
    "a header beyond the file": (container(data=b"", length=200), "more than the file has"),
    "a header beyond NumPy's limit": (container(HEADER + " " * 10_000), "NumPy allows 10000"),
    "a header that is not UTF-8": (container(b"\xff\xfe", version=(3, 0)), "not UTF-8"),
    "an empty header": (container(""), "not one of NumPy's"),
    "an empty dictionary": (container("{}"), "not one of NumPy's"),
    "a header that calls": (
        container("__import__('os').system('true')"), "not one of NumPy's",
    ),
    "a header nested deep": (container("{" + "(" * 5000 + "}"), "not one of NumPy's"),
    "a list": (container("['descr', 'shape']"), "not one of NumPy's"),
    "a brace alone": (container("{"), "not one of NumPy's"),
    "no shape": (container("{'descr': '<f4', 'fortran_order': False}"), "not one of NumPy's"),
    "a key more": (container(HEADER.replace("}", "'x': True}")), "not one of NumPy's"),
    "a key twice": (container(HEADER.replace("}", "'descr': '<f8'}")), "says descr twice"),
    "words after the dictionary": (container(HEADER + "x"), "not one of NumPy's"),
    "two commas": (container(HEADER.replace("4',", "4',,")), "not one of NumPy's"),
    "an order that is a number": (container(HEADER.replace("False", "0")), "not one of NumPy's"),
    "an order that is text": (container(HEADER.replace("False", "'C'")), "not one of NumPy's"),
    "a dtype that is true": (container(HEADER.replace("'<f4'", "True")), "not one of NumPy's"),
    "a shape that is text": (shape("'23'"), "not one of NumPy's"),
    "a shape that is a list": (shape("[2, 3]"), "not one of NumPy's"),
    "a shape that is a number": (shape("6"), "not one of NumPy's"),
    "a shape that is a number in brackets": (shape("(6)"), "(6) is not a tuple of counts"),
    "a shape of commas": (shape("(,)"), "not a tuple of counts"),
    "a shape of letters": (shape("(L,)"), "not a tuple of counts"),
    "a negative shape": (shape("(-2, -3)"), "not one of NumPy's"),
    "a shape of 5000 digits": (shape(f"({'9' * 5000},)"), "not a tuple of counts"),
    "a shape of 2^60 and more": (shape(f"({2**40}, {2**30})"), "more values than any file"),
    "a shape of 2^60 and more, one extent 0": (shape(f"({2**62}, 0)"), "more values"),
    "65 extents": (shape(f"({'1, ' * 65})"), "more values"),
    "a shape too large": (shape("(2, 4)"), "takes 32 bytes, but 24 are left; is it truncated?"),
    "a shape far too large": (shape(f"({2**50},)"), "is it truncated?"),
    "a shape too small": (shape("(2, 2)"), "8 bytes lie after the array"),
    "two arrays": (container() * 2, "bytes lie after the array"),
    "objects": (dtype("|O"), "pickle, which could run code; save it with allow_pickle=False"),
    "a structured dtype": (
        container("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,), }"),
        "structured",
    ),
    "text": (dtype("<U3"), "text"),
    "bytes": (dtype("|S12"), "text"),
    "dates": (dtype("<M8[s]"), "dates"),
    "durations": (dtype("<m8[25us]"), "dates"),
    "raw bytes": (dtype("|V2"), "bfloat16"),
    "long double": (dtype("<f16"), "not all machines share"),
    "long double complex": (dtype("<c32"), "not all machines share"),
    "an unknown dtype": (dtype("<q4"), "unknown dtype '<q4'"),
    "an integer of 16 bytes": (dtype("<i16"), "unknown dtype"),
    "the machine's own order": (dtype("=f4"), "unknown dtype '=f4'"),
    "no order": (dtype("|f4"), "does not say its byte order"),
    "no dtype": (dtype(""), "unknown dtype ''"),
}  # fmt: skip


def refusal(path: Path) -> FormatError:
    with pytest.raises(FormatError) as caught:
        fingerprint(path)
    words = str(caught.value)
    assert words.isprintable()
    assert str(path) in words
    assert len(words) < 700 + len(str(path))
    return caught.value


def contents(path: Path) -> dict[str, bytes]:
    with read(path) as artifact:
        return {
            item.name: bytes(
                item.source.piece(0, item.size_bytes, memoryview(bytearray(item.size_bytes)))
            )
            for item in artifact.items
        }


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_of_a_header_gives_one_named_error(tmp_path: Path, lie: str) -> None:
    data, reason = LIES[lie]
    path = tmp_path / "liar.npy"
    path.write_bytes(data)
    error = refusal(path)
    assert reason in error.reason
    assert error.tensor == "array"
    archive = tmp_path / "liar.npz"
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(archive, "w", method) as made:
            made.writestr("layer/w.npy", data)
        error = refusal(archive)
        assert reason in error.reason
        assert error.tensor == "layer/w"


@pytest.mark.parametrize(
    "header",
    [
        HEADER,
        '{"descr": "<f4", "fortran_order": False, "shape": (2, 3)}',
        "{'shape':(2L,3L,),'fortran_order':False,'descr':'<f4'}\n",
        " { 'fortran_order' : False , 'descr' : '<f4' , 'shape' : ( 2 , 3 ) } \n",
    ],
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_a_header_may_be_spelled_in_several_ways(
    tmp_path: Path, header: str, version: tuple[int, int]
) -> None:
    path = tmp_path / "m.npy"
    path.write_bytes(container(header, version=version))
    assert "L" in header or np.array_equal(np.load(path), NUMBERS)  # as Python 2 wrote it
    assert fingerprint(path).root == fingerprint({"array": NUMBERS}).root
    path.rename(tmp_path / "other.npy")
    assert fingerprint(tmp_path / "other.npy").root == fingerprint({"array": NUMBERS}).root


@pytest.mark.parametrize("kind", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4"])
def test_dtypes_that_the_format_loses_are_named(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "m.npy", np.ones(3, getattr(ml_dtypes, kind)))
    assert "bfloat16 and 8-bit floats have none" in refusal(tmp_path / "m.npy").reason


class _Trap:
    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)

    def __init__(self, path: Path) -> None:
        self.path = path


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    objects = np.array([_Trap(trap)], dtype=object)
    np.save(tmp_path / "m.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "m.npz", good=NUMBERS, bad=objects)
    for name, tensor in (("m.npy", "array"), ("m.npz", "bad")):
        error = refusal(tmp_path / name)
        assert "could run code" in error.reason
        assert error.tensor == tensor
    assert not trap.exists()
    np.load(tmp_path / "m.npy", allow_pickle=True)
    assert trap.exists()  # it was a trap


@pytest.mark.parametrize("band", [1, 40, 1000, 1 << 20])
@pytest.mark.parametrize("compressed", [False, True])
def test_no_band_changes_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, band: int, compressed: bool
) -> None:
    monkeypatch.setattr(numpy_files, "_BAND_BYTES", band)
    monkeypatch.setattr(numpy_files, "_MAX_BAND_BYTES", band)
    monkeypatch.setattr(numpy_files, "_MAX_PASSES", 1 << 30)
    monkeypatch.setattr(numpy_files, "_PIECE", 16 * max(1, band // 16))
    rng = np.random.default_rng(0)
    made: dict[str, Array] = {}
    for kind in ("f2", "f4", "f8", "i1", "c8", "c16", "u4", "?"):
        numbers = 50 * rng.normal(size=(5, 3, 2, 4))
        for order in "<>":
            array = numbers.astype(np.dtype(kind).newbyteorder(order))
            made[f"{kind}{order}F"] = np.asfortranarray(array)
            made[f"{kind}{order}C"] = array
            made[f"{kind}{order}T"] = array.reshape(10, 12).T
    (np.savez_compressed if compressed else np.savez)(tmp_path / "m.npz", **made)  # type: ignore[arg-type]
    assert contents(tmp_path / "m.npz") == {name: raw(array) for name, array in made.items()}


def test_complex_values_are_turned_number_by_number(tmp_path: Path) -> None:
    for kind, spelled in (("c8", "C64"), ("c16", "C128")):
        array = np.array([1 + 2j, -3.5j], ">" + kind)
        np.save(tmp_path / "m.npy", array)
        with read(tmp_path / "m.npy") as artifact:
            assert artifact.items[0].dtype == spelled
        assert contents(tmp_path / "m.npy") == {"array": array.astype("<" + kind).tobytes()}


def test_an_array_in_fortran_order_is_never_held_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(size=(3000, 3000)).astype(np.float32)
    np.save(tmp_path / "m.npy", np.asfortranarray(array))
    expected = fingerprint({"array": array})
    array = np.zeros(0, np.float32)
    tracemalloc.start()
    made = fingerprint(tmp_path / "m.npy")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert made.root == expected.root
    assert most < 64 << 20  # 54 MB of bands and pieces; held whole it takes 78 MB


def test_a_compressed_array_that_would_be_inflated_for_ever_is_refused(tmp_path: Path) -> None:
    zeros = np.zeros((1 << 15, 9000), np.int8, order="F")
    np.savez_compressed(tmp_path / "m.npz", w=zeros)
    error = refusal(tmp_path / "m.npz")
    assert "inflated many times over; save it uncompressed or in C order" in error.reason
    assert error.tensor == "w"


def test_a_zip_bomb_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made:
        for number in range(5):
            with made.open(f"{number}.npy", "w") as member:
                member.write(container(HEADER.replace("(2, 3)", f"({1 << 20},)"), b""))
                for _ in range(4):
                    member.write(bytes(1 << 20))
    path.write_bytes(packed.getvalue())
    assert len(contents(path)) == 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numpy_files, "_FREE_BYTES", 1 << 20)
        error = refusal(path)
    assert "is it a zip bomb?" in error.reason


def test_other_members_of_an_archive_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, w=NUMBERS)
    with zipfile.ZipFile(path, "a") as made:
        made.writestr("notes.txt", "hello")
    assert "'notes.txt' is not a .npy file" in refusal(path).reason
    with zipfile.ZipFile(path, "w") as made:
        made.mkdir("empty")
    assert "holds no tensors" in refusal(path).reason


def test_names_of_an_archive_are_those_of_its_members(tmp_path: Path) -> None:
    names = ["w", "layer.0/kernel", "ä", "b.npy", "deep/er/still"]
    np.savez(tmp_path / "m.npz", **dict.fromkeys(names, NUMBERS))  # type: ignore[arg-type]
    assert contents(tmp_path / "m.npz").keys() == set(names)


@settings(max_examples=60)
@given(array=tensors(), big=st.booleans(), fortran=st.booleans())
def test_any_array_that_numpy_saves_is_read(
    tmp_path_factory: pytest.TempPathFactory, array: Array, big: bool, fortran: bool
) -> None:
    if array.dtype.kind == "V":
        array = array.astype(np.float32)
    saved = np.asarray(array, order="F") if fortran else array
    saved = saved.astype(saved.dtype.newbyteorder(">"), order="K") if big else saved
    path = tmp_path_factory.getbasetemp() / "any.npy"
    np.save(path, saved)
    assert fingerprint(path).root == fingerprint({"array": array}).root


def _archive() -> bytes:
    packed = io.BytesIO()
    np.savez_compressed(packed, a=NUMBERS, b=np.asfortranarray(NUMBERS.astype(">f8")))
    return packed.getvalue()


@pytest.mark.parametrize("name", ["m.npy", "m.npz"])
@settings(max_examples=300)
@given(data=st.data())
def test_a_mutated_file_is_read_or_refused_in_one_way(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    mutated = bytearray(ARCHIVE if name == "m.npz" else container())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(mutated) - 1))
        how = data.draw(st.sampled_from(["flip", "insert", "delete"]))
        if how == "flip":
            mutated[place] = data.draw(st.sampled_from(b"0123456789'(),<>|{}fiuOVL") | _bytes)
        elif how == "insert":
            mutated[place:place] = data.draw(st.binary(max_size=9))
        elif len(mutated) > 20:
            del mutated[place : place + data.draw(st.integers(0, 9))]
    if data.draw(st.booleans()):
        del mutated[data.draw(st.integers(0, len(mutated))) :]
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(mutated)
    try:
        fingerprint(path)
    except FormatError as error:
        assert str(error).isprintable()


_bytes = st.integers(0, 255)
ARCHIVE = _archive()
