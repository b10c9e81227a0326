"""Readers tell the truth about honest files and refuse every lie with one named error."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers import (
    as_bfloat16,
    container,
    entry,
    model_bytes,
    shard_name,
    small_model,
    write_hub_cache,
    write_index,
    write_model,
    write_sharded,
)

from lineage import fingerprint, read
from lineage.artifacts import models_in
from lineage.errors import FormatError, LineageError

GOOD = entry("F32", [2, 2], 0, 16)
DATA = bytes(range(16))

LIES: dict[str, tuple[bytes, str | None, str]] = {
    "no bytes": (b"", None, "cannot hold a header"),
    "seven bytes": (b"\x01" * 7, None, "cannot hold a header"),
    "length 2^63": ((2**63).to_bytes(8, "little") + b"{}", None, "claims 9223372036854775808"),
    "length 2^64-1": (b"\xff" * 8 + b"{}", None, "claims 18446744073709551615"),
    "length beyond the file": (container({}, length=3), None, "claims 3 bytes"),
    "not JSON": (container(b"hello"), None, "not JSON"),
    "an empty header": (container(b""), None, "not JSON"),
    "not UTF-8": (container(b'{"\xff": 1}'), None, "not UTF-8"),
    "a byte-order mark": (container(b"\xef\xbb\xbf{}"), None, "not JSON"),
    "half a surrogate pair": (container({"\ud800": GOOD}, DATA), None, "surrogate"),
    "the constant NaN": (container(b'{"w": NaN}'), None, "NaN"),
    "a number of 5000 digits": (container(b'{"w": ' + b"1" * 5000 + b"}"), None, "too long"),
    "header is a list": (container([GOOD], DATA), None, "not a JSON object"),
    "header is null": (container(b"null"), None, "not a JSON object"),
    "no tensors": (container({}), None, "holds no tensors"),
    "metadata alone": (container({"__metadata__": {"a": "b"}}), None, "holds no tensors"),
    "one tensor twice": (
        container(b'{"w": %b, "w": %b}' % ((json.dumps(GOOD).encode(),) * 2), DATA),
        None,
        "'w' twice",
    ),
    "metadata twice": (
        container(
            b'{"__metadata__": {}, "__metadata__": {}, "w": %b}' % json.dumps(GOOD).encode(), DATA
        ),
        None,
        "'__metadata__' twice",
    ),
    "one key twice in an entry": (
        container(
            b'{"w": {"dtype": "F32", "dtype": "F16", "shape": [4], "data_offsets": [0, 16]}}', DATA
        ),
        None,
        "'dtype' twice",
    ),
    "metadata maps to numbers": (
        container({"__metadata__": {"a": 1}, "w": GOOD}, DATA), None, "__metadata__",
    ),
    "metadata is text": (container({"__metadata__": "a", "w": GOOD}, DATA), None, "__metadata__"),
    "metadata is a tensor": (container({"__metadata__": GOOD}, DATA), None, "__metadata__"),
    "nested 100000 deep": (container(b"[" * 100_000 + b"]" * 100_000), None, "nested"),
    "nested 200000 deep in a metadata entry": (
        container(b'{"__metadata__": ' + b'{"a":' * 200_000), None, "nested",
    ),
    "nested 40 deep": (container({"w": json.loads("[" * 40 + "]" * 40)}), None, "nested"),
    "overlap": (
        container({"v": entry("F32", [2], 0, 8), "w": entry("F32", [2], 4, 12)}, bytes(12)),
        "w",
        "overlaps the tensor before it by 4 bytes",
    ),
    "two tensors in one place": (
        container({"v": GOOD, "w": GOOD}, DATA), "w", "overlaps the tensor before it by 16 bytes",
    ),
    "a hole before the first": (
        container({"w": entry("F32", [2], 4, 12)}, bytes(12)), "w", "a hole of 4 bytes",
    ),
    "a hole between": (
        container({"v": entry("F32", [1], 0, 4), "w": entry("F32", [1], 5, 9)}, bytes(9)),
        "w",
        "a hole of 1 bytes",
    ),
    "a hole before an empty tensor": (
        container({"v": entry("F32", [1], 0, 4), "w": entry("F32", [0], 6, 6)}, bytes(6)),
        "w",
        "a hole of 2 bytes",
    ),
    "bytes after the last": (
        container({"w": GOOD}, DATA + b"x"), None, "1 bytes lie after the last tensor",
    ),
    "truncated": (container({"w": GOOD}, DATA[:-1]), "w", "truncated"),
    "offsets far beyond the file": (
        container({"w": entry("U8", [2**50], 0, 2**50)}, DATA), "w", "but the file has",
    ),
    "shape too large for its bytes": (
        container({"w": entry("F32", [3, 2], 0, 16)}, DATA), "w", "takes 24 bytes",
    ),
    "shape too small for its bytes": (
        container({"w": entry("F32", [1, 2], 0, 16)}, DATA), "w", "takes 8 bytes",
    ),
    "dtype too wide for its bytes": (
        container({"w": entry("F64", [2, 2], 0, 16)}, DATA), "w", "takes 32 bytes",
    ),
    "a scalar with no bytes": (container({"w": entry("F32", [], 0, 0)}), "w", "takes 4 bytes"),
    "unknown dtype": (container({"w": entry("Q7", [16], 0, 16)}, DATA), "w", "unknown dtype 'Q7'"),
    "dtype in lower case": (
        container({"w": entry("f32", [2, 2], 0, 16)}, DATA), "w", "unknown dtype",
    ),
    "dtype is a number": (container({"w": entry(32, [2, 2], 0, 16)}, DATA), "w", "unknown dtype"),
    "dtype is a list": (container({"w": entry([], [2, 2], 0, 16)}, DATA), "w", "unknown dtype"),
    "shape negative": (container({"w": entry("F32", [-2, -2], 0, 16)}, DATA), "w", "counts"),
    "shape of true": (container({"w": entry("U8", [True, 16], 0, 16)}, DATA), "w", "counts"),
    "shape of text": (container({"w": entry("U8", ["16"], 0, 16)}, DATA), "w", "counts"),
    "shape nested": (container({"w": entry("U8", [[16]], 0, 16)}, DATA), "w", "counts"),
    "shape null": (container({"w": entry("U8", None, 0, 16)}, DATA), "w", "counts"),
    "shape a number": (container({"w": entry("U8", 16, 0, 16)}, DATA), "w", "counts"),
    "shape with a fraction": (
        container({"w": entry("U8", [16.0], 0, 16)}, DATA), None, "only integers",
    ),
    "shape beyond 2^53": (container({"w": entry("U8", [2**60], 0, 16)}, DATA), None, "2^53"),
    "shape whose product is 2^106": (
        container({"w": entry("U8", [2**53 - 1, 2**53 - 1], 0, 16)}, DATA), "w", "more values",
    ),
    "shape of which one extent is 0": (
        container({"w": entry("U8", [2**50, 0], 0, 16)}, DATA), "w", "takes 0 bytes",
    ),
    "offsets reversed": (container({"w": entry("U8", [16], 16, 0)}, DATA), "w", "[begin, end]"),
    "offsets negative": (container({"w": entry("U8", [16], -16, 0)}, DATA), "w", "[begin, end]"),
    "offsets of false": (container({"w": entry("U8", [16], False, 16)}, DATA), "w", "[begin, end]"),
    "offsets three": (
        container({"w": {"dtype": "U8", "shape": [16], "data_offsets": [0, 8, 16]}}, DATA),
        "w",
        "[begin, end]",
    ),
    "entry without shape": (
        container({"w": {"dtype": "U8", "data_offsets": [0, 16]}}, DATA), "w", "lacks",
    ),
    "entry is a list": (container({"w": ["U8", [16], [0, 16]]}, DATA), "w", "lacks"),
    "entry is null": (container({"w": None}, DATA), "w", "lacks"),
}  # fmt: skip


def refusal(source: Any) -> FormatError:
    with pytest.raises(FormatError) as caught, read(source):
        pass
    words = str(caught.value)
    assert "\n" not in words
    assert words.isprintable()
    return caught.value


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_of_a_header_gives_one_named_error(tmp_path: Path, lie: str) -> None:
    data, tensor, reason = LIES[lie]
    path = tmp_path / "liar.safetensors"
    path.write_bytes(data)
    error = refusal(path)
    assert reason in error.reason
    assert error.tensor == tensor
    assert str(path) in str(error)
    if tensor is not None:
        assert f"tensor '{tensor}'" in str(error)


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 40, -16, -1])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(model_bytes(small_model())[:cut])
    assert str(path) in str(refusal(path))


def test_a_header_of_more_than_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.safetensors"
    with path.open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        file.truncate(200_000_000)
    assert "100000000 allowed" in refusal(path).reason


@pytest.mark.parametrize(
    "header",
    [
        {"w": entry("U8" * 50_000, [16], 0, 16)},
        {"w": entry("U8", [-1] * 50_000, 0, 16)},
        {"w": entry("U8", [16], "0" * 100_000, 16)},
        {"w" * 100_000: entry("U8", [15], 0, 16)},
        b'{"%b": 1, "%b": 1}' % (b"w" * 100_000, b"w" * 100_000),
    ],
    ids=["dtype", "shape", "offsets", "name", "name twice"],
)
def test_a_long_lie_gives_a_short_line(tmp_path: Path, header: Any) -> None:
    path = tmp_path / "long.safetensors"
    path.write_bytes(container(header, DATA))
    assert len(str(refusal(path))) < 1000 + len(str(path))


def test_a_shape_of_thousands_of_extents_is_one_named_error(tmp_path: Path) -> None:
    # Its product has more digits than Python writes out.
    path = tmp_path / "shape.safetensors"
    path.write_bytes(container({"w": entry("U8", [2**53 - 1] * 400, 0, 16)}, DATA))
    assert refusal(path).tensor == "w"


def test_names_cannot_steer_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "steer.safetensors"
    path.write_bytes(container({"a\x1b[2J\n\u202e": entry("U8", [15], 0, 16)}, DATA))
    assert "\\x1b" in str(refusal(path))


def test_an_honest_file_is_read_as_it_is(tmp_path: Path) -> None:
    tensors = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.array(3.5),
        "none": np.zeros((0, 4), np.float16),
        "ä": as_bfloat16(np.ones(3)),
    }
    path = write_model(tmp_path / "m.safetensors", tensors, metadata={"format": "pt"}, pad=13)
    with read(path) as artifact:
        assert [item.name for item in artifact.items] == ["a", "b", "none", "ä"]
        a, b, none, _ = artifact.items
        assert (a.dtype, a.shape, a.size_bytes) == ("F64", (), 8)
        assert (none.dtype, none.shape, none.size_bytes) == ("F16", (0, 4), 0)
        scratch = memoryview(bytearray(8))
        assert bytes(b.source.piece(4, 8, scratch)) == tensors["b"].tobytes()[4:12]
        assert artifact.size_bytes == 8 + 24 + 6
        assert artifact.path == str(path)


def test_empty_and_packed_tensors_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    header = {
        "packed": entry("F4", [3], 0, 2),
        "empty": entry("F32", [2**50, 0], 0, 0),
        "last": entry("U8", [0], 2, 2),
    }
    path.write_bytes(container(header, b"\x12\x03"))
    with read(path) as artifact:
        assert [item.size_bytes for item in artifact.items] == [0, 0, 2]


def test_tensors_come_in_the_order_of_their_utf8_bytes(tmp_path: Path) -> None:
    names = ["b", "a", "Z", "é", "\U0001f600", "\uffee", "a.b", "a-b"]
    path = write_model(tmp_path / "m.safetensors", {n: np.zeros(1) for n in names})
    with read(path) as artifact:
        found = [item.name for item in artifact.items]
    assert found == sorted(names, key=str.encode)


# Folders


def test_a_sharded_folder_is_one_model_however_it_is_named(tmp_path: Path) -> None:
    tensors = small_model()
    (first, a), *rest = tensors.items()
    folder = write_sharded(tmp_path / "m", [{first: a}, dict(rest)])
    one = fingerprint(write_model(tmp_path / "one.safetensors", tensors)).root
    assert fingerprint(folder).root == one
    assert fingerprint(folder / "model.safetensors.index.json").root == one
    assert fingerprint(str(folder) + "/").root == one


def test_shards_without_an_index_are_read_when_all_are_there(tmp_path: Path) -> None:
    tensors = small_model()
    (first, a), *rest = tensors.items()
    folder = write_sharded(tmp_path / "m", [{first: a}, dict(rest)], index=False)
    assert fingerprint(folder).root == fingerprint(tensors).root
    (folder / shard_name(1, 2)).unlink()
    write_model(folder / shard_name(2, 2, "other"), {"x": np.zeros(1)})
    assert "several weight files" in refusal(folder).reason


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shards = [{n: a} for n, a in small_model().items()]
    without = write_sharded(tmp_path / "without", shards, index=False)
    (without / shard_name(2, 3)).unlink()
    assert "shard 2 of 00003 is missing" in refusal(without).reason

    indexed = write_sharded(tmp_path / "indexed", shards)
    (indexed / shard_name(3, 3)).unlink()
    error = refusal(indexed)
    assert error.tensor == "norm.weight"
    assert shard_name(3, 3) in error.reason


def test_one_shard_of_two_without_an_index_is_not_a_model(tmp_path: Path) -> None:
    write_model(tmp_path / "m" / shard_name(1, 2), small_model())
    assert "missing" in refusal(tmp_path / "m").reason


def _indexed(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    shards = [{"a": np.zeros(2)}, {"b": np.ones(3)}]
    folder = write_sharded(tmp_path / "m", shards)
    return folder, {"a": shard_name(1, 2), "b": shard_name(2, 2)}


def test_a_tensor_the_index_does_not_know_is_refused(tmp_path: Path) -> None:
    folder, weight_map = _indexed(tmp_path)
    write_model(folder / weight_map["b"], {"b": np.ones(3), "extra": np.ones(3)})
    error = refusal(folder)
    assert error.tensor == "extra"
    assert "no file" in error.reason


def test_a_tensor_in_the_wrong_shard_is_refused(tmp_path: Path) -> None:
    folder, weight_map = _indexed(tmp_path)
    write_index(folder, {"a": weight_map["b"], "b": weight_map["b"]})
    assert refusal(folder).tensor == "a"
    write_index(folder, {"a": weight_map["b"], "b": weight_map["a"]})
    assert refusal(folder).tensor in {"a", "b"}


def test_a_tensor_stored_in_two_shards_is_refused(tmp_path: Path) -> None:
    folder, weight_map = _indexed(tmp_path)
    write_model(folder / weight_map["b"], {"a": np.zeros(2), "b": np.ones(3)})
    assert refusal(folder).tensor == "a"
    (folder / "model.safetensors.index.json").unlink()
    error = refusal(folder)
    assert error.tensor == "a"
    assert "stored twice" in error.reason


def test_a_tensor_the_index_promises_must_be_there(tmp_path: Path) -> None:
    folder, weight_map = _indexed(tmp_path)
    write_index(folder, {**weight_map, "c": weight_map["a"]})
    error = refusal(folder)
    assert error.tensor == "c"
    assert weight_map["a"] in error.reason


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "sub/m.safetensors",
        "..",
        ".",
        "",
        3,
        None,
        ["x"],
    ],
)
def test_an_index_cannot_point_out_of_its_folder(tmp_path: Path, name: object) -> None:
    write_model(tmp_path / "secret.safetensors", {"a": np.zeros(2)})
    write_model(tmp_path / "m" / "sub" / "m.safetensors", {"a": np.zeros(2)})
    write_index(tmp_path / "m", {"a": name})
    error = refusal(tmp_path / "m")
    assert error.tensor == "a"
    assert "plain name" in error.reason


@pytest.mark.parametrize("name", ["a\x1b[2J\nb.safetensors", "a\u202eb.safetensors", "a\0b"])
def test_a_shard_name_cannot_steer_a_terminal(tmp_path: Path, name: str) -> None:
    (tmp_path / "m").mkdir()
    write_index(tmp_path / "m", {"a": name})
    assert "missing" in refusal(tmp_path / "m").reason


@pytest.mark.parametrize(
    "text",
    ['{"weight_map": {}}', '{"weight_map": []}', "{}", "[]", "null", "", '{"weight_map": {"a": 1'],
)
def test_an_index_without_a_map_is_refused(tmp_path: Path, text: str) -> None:
    write_model(tmp_path / "model.safetensors", small_model())
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert "index.json" in str(refusal(tmp_path))


def test_a_folder_says_why_it_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").reason == "the folder is empty"
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "README.md").write_text("hello")
    assert refusal(tmp_path / "words").reason == "the folder holds no weights"
    (tmp_path / "pickle").mkdir()
    (tmp_path / "pickle" / "model.pkl").write_bytes(b"\x80\x04.")
    error = refusal(tmp_path / "pickle")
    assert "model.pkl" in error.reason
    assert "pickle" in error.reason
    assert error.file == str(tmp_path / "pickle")
    (tmp_path / "pickle" / "model.pkl").rename(tmp_path / "pickle" / "optimizer.pt")
    assert "state of a training" in refusal(tmp_path / "pickle").reason


def test_what_is_no_weight_file_is_named_and_never_opened(tmp_path: Path) -> None:
    for name in ("m.txt", "m.pkl", "m"):
        (tmp_path / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        assert "not a kind of file that is read" in refusal(tmp_path / name).reason


def test_several_weight_files_are_ambiguous_unless_one_has_the_usual_name(tmp_path: Path) -> None:
    write_model(tmp_path / "a.safetensors", small_model(1))
    write_model(tmp_path / "b.safetensors", small_model(2))
    error = refusal(tmp_path)
    assert "a.safetensors, b.safetensors" in error.reason
    write_model(tmp_path / "model.safetensors", small_model(3))
    assert fingerprint(tmp_path).root == fingerprint(small_model(3)).root
    for name in ("x", "y"):
        (tmp_path / f"{name}.safetensors.index.json").write_text("{}")
    assert "several weight files" in refusal(tmp_path).reason


# The hub's cache


def test_a_hub_cache_is_read_through_its_links(tmp_path: Path) -> None:
    files = {"model.safetensors": model_bytes(small_model()), "config.json": b"{}"}
    cache = write_hub_cache(tmp_path, files, commits=["aa", "bb"], main="aa")
    root = fingerprint(small_model()).root
    assert fingerprint(cache).root == root
    assert fingerprint(cache / "snapshots" / "bb").root == root
    assert models_in(cache) == [str(cache)]


def test_a_hub_cache_needs_one_snapshot_or_a_reference(tmp_path: Path) -> None:
    files = {"model.safetensors": model_bytes(small_model())}
    one = write_hub_cache(tmp_path / "one", files)
    assert fingerprint(one).root == fingerprint(small_model()).root
    two = write_hub_cache(tmp_path / "two", files, commits=["aa", "bb"])
    assert "2 snapshots" in refusal(two).reason
    (two / "refs" / "main").write_text("gone")
    assert "2 snapshots" in refusal(two).reason


@pytest.mark.parametrize("reference", ["../../outside", "..", "/", "", "a\0b"])
def test_a_reference_cannot_lead_out_of_a_cache(tmp_path: Path, reference: str) -> None:
    files = {"model.safetensors": model_bytes(small_model())}
    cache = write_hub_cache(tmp_path, files, commits=["aa", "bb"])
    write_model(tmp_path / "outside" / "model.safetensors", small_model(5))
    write_model(cache / "model.safetensors", small_model(5))
    (cache / "refs" / "main").write_text(reference)
    assert "2 snapshots" in refusal(cache).reason


def test_a_reference_that_is_no_text_is_refused(tmp_path: Path) -> None:
    files = {"model.safetensors": model_bytes(small_model())}
    cache = write_hub_cache(tmp_path, files, commits=["aa", "bb"])
    (cache / "refs" / "main").write_bytes(b"\xff\xfe")
    refusal(cache)


# Things that are no files


def test_pipes_and_folders_with_a_files_name_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert "not a regular file" in refusal(tmp_path / "pipe.safetensors").reason
    (tmp_path / "m" / "model.safetensors").mkdir(parents=True)
    assert "not a regular file" in refusal(tmp_path / "m").reason
    assert "empty" in refusal(tmp_path / "m" / "model.safetensors").reason


def test_a_path_that_cannot_be_opened_is_an_os_error(tmp_path: Path) -> None:
    loop = tmp_path / "loop.safetensors"
    loop.symlink_to(loop)
    inside = write_model(tmp_path / "m.safetensors", small_model()) / "n.safetensors"
    for path in (tmp_path / "gone.safetensors", inside, loop):
        with pytest.raises(OSError, match=path.name):
            read(path)
    dangling = tmp_path / "d" / "model.safetensors"
    dangling.parent.mkdir()
    dangling.symlink_to("gone")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        read(dangling.parent)


@pytest.mark.parametrize("change", ["append", "truncate", "rewrite"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, change: str) -> None:
    path = write_model(tmp_path / "m.safetensors", small_model())
    data = path.read_bytes()

    def meddle(_: int) -> None:
        with path.open("r+b") as file:
            if change == "truncate":
                file.truncate(len(data) - 1)
            elif change == "append":
                file.seek(0, 2)
                file.write(b"x")
            else:
                file.write(data)
        os.utime(path, ns=(1, 1))

    with pytest.raises(FormatError, match=r"changed|too soon") as caught:
        fingerprint(path, progress=meddle)
    assert str(path) in str(caught.value)


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_files_are_closed_whatever_happens(tmp_path: Path) -> None:
    folder, _ = _indexed(tmp_path)
    before = _open_files()
    with read(folder):
        assert _open_files() == before + 2
    assert _open_files() == before
    write_index(folder, {"a": shard_name(1, 2), "b": shard_name(1, 2)})
    refusal(folder)
    (tmp_path / "liar.safetensors").write_bytes(b"x" * 20)
    refusal(tmp_path / "liar.safetensors")
    assert _open_files() == before


# In memory


def test_a_mapping_has_the_root_of_its_file(tmp_path: Path) -> None:
    tensors = {
        **small_model(),
        "scalar": np.array(2.0, np.float16),
        "half": as_bfloat16(np.linspace(-1, 1, 12).reshape(3, 4)),
        "mask": np.array([True, False]),
        "steps": np.int64(7),
        "none": np.zeros((3, 0), np.int8),
    }
    path = write_model(tmp_path / "m.safetensors", {n: np.asarray(a) for n, a in tensors.items()})
    assert fingerprint(tensors).root == fingerprint(path).root
    shuffled = dict(sorted(tensors.items(), reverse=True))
    assert fingerprint(shuffled).root == fingerprint(path).root


def test_layout_in_memory_never_matters() -> None:
    plain = np.arange(60, dtype=np.float32).reshape(6, 10)
    want = fingerprint({"w": plain}).root
    wide = np.zeros((12, 30), np.float32)
    wide[::2, ::3] = plain
    backwards = plain[::-1].copy()[::-1]
    for array in (np.asfortranarray(plain), wide[::2, ::3], backwards, plain.astype(">f4")):
        assert fingerprint({"w": array}).root == want
    assert fingerprint({"w": plain.T}).root != want
    for dtype in (">f2", ">f8", ">i4", ">u2"):
        little = plain.astype(dtype[1:])
        assert fingerprint({"w": plain.astype(dtype)}).root == fingerprint({"w": little}).root


def test_tied_arrays_count_once_and_equal_ones_twice() -> None:
    weight = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    with read({"embed": weight, "head": weight, "again": weight[:]}) as artifact:
        assert [item.name for item in artifact.items] == ["embed"]
    for other in (weight.copy(), weight.T, weight[:4], weight.view(np.int32)):
        with read({"embed": weight, "head": other}) as artifact:
            assert [item.name for item in artifact.items] == ["embed", "head"]
    nothing = np.zeros((0, 3))
    with read({"a": nothing, "b": nothing}) as artifact:
        assert len(artifact.items) == 2


def test_scalars_are_never_taken_for_one_another() -> None:
    values = {f"scale.{n}": np.float32(n) for n in range(20)}
    with read(values) as artifact:
        assert len(artifact.items) == 20
    arrays = {name: np.asarray(value) for name, value in values.items()}
    assert fingerprint(values).root == fingerprint(arrays).root


def test_the_same_bytes_in_another_byte_order_are_other_values() -> None:
    weight = np.arange(64, dtype=np.float32).reshape(8, 8)
    with read({"a": weight, "b": weight.view(">f4")}) as artifact:
        assert [item.name for item in artifact.items] == ["a", "b"]


@pytest.mark.parametrize("value", [[1.0, 2.0], 1.0, "text", None, object()])
def test_a_value_that_is_no_tensor_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match="'extra' is a"):
        read({"w": np.zeros(3), "extra": value})


@pytest.mark.parametrize("model", [3, None, [np.zeros(2)], np.zeros((2, 2)), b"path"])
def test_what_is_no_model_is_a_type_error(model: object) -> None:
    with pytest.raises(TypeError, match="expected a path, a module or a mapping"):
        read(model)


def test_names_are_text_and_dtypes_have_a_spelling() -> None:
    with pytest.raises(TypeError, match="tensor names are text"):
        read({3: np.zeros(2)})
    for array in (np.array(["text"]), np.array([object()]), np.zeros(2, np.complex128)):
        with pytest.raises(FormatError, match="no safetensors spelling") as caught:
            read({"w": array})
        assert caught.value.tensor == "w"
    with pytest.raises(FormatError, match="holds no tensors"):
        read({})


@pytest.mark.torch
def test_a_torch_state_dict_has_the_root_of_its_file(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    dtypes = ["float32", "float16", "bfloat16", "float64", "int64", "int8", "uint8", "bool"]
    tensors = {
        name: (4 * torch.randn(5, 7, generator=generator)).to(getattr(torch, name))
        for name in [*dtypes, "float8_e4m3fn", "float8_e5m2", "complex64"]
    }
    tensors["scalar"] = torch.tensor(3.0)
    tensors["none"] = torch.zeros(0, 3)
    save_file(tensors, tmp_path / "m.safetensors")
    root = fingerprint(tmp_path / "m.safetensors").root
    assert fingerprint(tensors).root == root
    strided = {n: t.t().contiguous().t() if t.ndim == 2 else t for n, t in tensors.items()}
    assert not strided["float32"].is_contiguous()
    assert fingerprint(strided).root == root


@pytest.mark.torch
def test_a_torch_module_is_read_without_changing_it() -> None:
    import torch

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(16, 8)
            self.head = torch.nn.Linear(8, 16, bias=False)
            self.head.weight = self.embed.weight

    torch.manual_seed(0)
    model = Tied()
    with read(model) as artifact:
        assert [item.name for item in artifact.items] == ["embed.weight"]
    weight = model.embed.weight.detach().numpy().copy()
    assert fingerprint(model).root == fingerprint({"embed.weight": weight}).root
    assert model.embed.weight.requires_grad
    with pytest.raises(FormatError, match="complex128"):
        read({"w": torch.zeros(2, dtype=torch.complex128)})


# Folders of models


def test_models_in_a_mixed_folder(tmp_path: Path) -> None:
    write_model(tmp_path / "single.safetensors", small_model(1))
    (tmp_path / "saved.lineage").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("hello")
    write_sharded(tmp_path / "sharded", [{n: a} for n, a in small_model(2).items()])
    write_sharded(tmp_path / "bare", [{n: a} for n, a in small_model(3).items()], index=False)
    write_model(tmp_path / "hub" / "model.safetensors", small_model(4))
    (tmp_path / "hub" / "config.json").write_text("{}")
    write_model(tmp_path / "org" / "deep" / "model.safetensors", small_model(5))
    write_model(tmp_path / ".hidden" / "model.safetensors", small_model(6))
    (tmp_path / "empty").mkdir()
    (tmp_path / "org" / "loop").symlink_to(tmp_path)
    found = models_in(tmp_path)
    names = [os.path.relpath(path, tmp_path) for path in found]
    assert names == sorted(names)
    assert [name for name in names if "loop" not in name] == [
        "bare",
        "hub",
        "org/deep/model.safetensors",
        "saved.lineage",
        "sharded",
        "single.safetensors",
    ]


def test_models_in_says_what_the_caller_said(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "m" / "a.safetensors", small_model())
    assert models_in("m") == ["m/a.safetensors"]
    assert models_in("m/a.safetensors") == ["m/a.safetensors"]
    assert models_in(Path("m")) == ["m/a.safetensors"]


def test_models_in_refuses_what_holds_none(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="empty"):
        models_in(tmp_path)
    (tmp_path / "m.pkl").write_bytes(b"")
    with pytest.raises(LineageError, match="pickle"):
        models_in(tmp_path)
    with pytest.raises(FileNotFoundError):
        models_in(tmp_path / "gone")


def test_systems_that_cannot_read_into_a_buffer_read_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.safetensors"
    write_model(path, small_model())
    root = fingerprint(path).root
    monkeypatch.delattr(os, "preadv")
    assert fingerprint(path).root == root
    path.write_bytes(path.read_bytes()[:-1])
    assert "truncated" in refusal(path).reason


def test_a_model_in_the_hub_cache_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    files = {"model.safetensors": model_bytes(small_model()), "config.json": b"{}"}
    commits = ["a" * 40, "b" * 40]
    cache = write_hub_cache(tmp_path, files, commits=commits, main=commits[0])
    root = fingerprint(small_model()).root
    assert models_in("org/name") == ["org/name"]
    assert fingerprint("org/name").root == root
    other = cache / "snapshots" / commits[1] / "model.safetensors"
    other.unlink()
    other.write_bytes(model_bytes(small_model(5)))
    assert fingerprint(f"org/name@{commits[1]}").root == fingerprint(small_model(5)).root
    for absent in ("org/absent", "org/name@v2"):
        with pytest.raises(FileNotFoundError, match="no such path; in the hub cache it is not"):
            fingerprint(absent)


def test_a_path_that_is_there_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(Path("org") / "name" / "model.safetensors", small_model(3))
    assert fingerprint("org/name").root == fingerprint(small_model(3)).root
