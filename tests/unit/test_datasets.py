"""Data sets read as records: one root whatever the container, and one clear error each."""

from __future__ import annotations

import csv
import datetime
import errno
import gzip
import io
import json
import os
import pickle
import random
import struct
import sys
import tarfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from second import dataset as second

from lineage.datasets import (
    Built,
    Options,
    arrays,
    batches,
    build,
    building,
    columns,
    finding,
    json_texts,
    load,
    sorting,
)
from lineage.datasets.readers import kind_of, parquet
from lineage.datasets.watched import WatchedFile
from lineage.errors import FormatError
from lineage.manifests import Typed, canonical

INTEGERS = st.integers(-(2**53) + 1, 2**53 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: str(x) != "-0.0")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.none() | INTEGERS,
            "x": st.none() | FLOATS,
            "text": st.none() | TEXT,
            "\uff5e": st.none() | st.booleans(),
            "\U0001f600": st.none() | st.lists(st.none() | TEXT, max_size=3),
            "in": st.none() | st.fixed_dictionaries({"b": st.none() | INTEGERS, "a": TEXT}),
        }
    ),
    min_size=1,
    max_size=12,
)
SCHEMA = pa.schema(
    {
        "id": pa.int64(), "x": pa.float64(), "text": pa.string(), "\uff5e": pa.bool_(),
        "\U0001f600": pa.list_(pa.string()), "in": pa.struct({"b": pa.int64(), "a": pa.string()}),
    }
)  # fmt: skip


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def root(*paths: Any, **options: Any) -> str:
    return build(paths, options=Options(**options)).header.head.root.hex()


def refused(path: Path, match: str, **options: Any) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        build([path], options=Options(**options))
    assert path.name in str(caught.value)


@pytest.fixture(params=["orjson", "plain"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "plain":
        monkeypatch.setattr(json_texts, "fast", None)


# Laws


@settings(max_examples=25)
@given(ROWS, st.randoms(use_true_random=False))
def test_container_order_and_shards_never_change_the_root(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], random: Any
) -> None:
    folder = tmp_path_factory.mktemp("data")
    expected = build([write_lines(folder / "a.jsonl", rows)]).header
    counts: dict[bytes, int] = {}
    for row in rows:
        digest = second.record(second.text(row))
        counts[digest] = counts.get(digest, 0) + 1
    assert expected.head.root == second.root(counts)
    shuffled = [dict(random.sample(list(row.items()), len(row))) for row in rows]
    random.shuffle(shuffled)
    (folder / "b.json").write_text(json.dumps(shuffled, indent=1), encoding="utf-8")
    table = pa.Table.from_pylist(rows, SCHEMA)
    pa.parquet.write_table(table, folder / "c.parquet", row_group_size=5)
    pa.feather.write_feather(table, folder / "d.feather")
    with pa.ipc.new_stream(folder / "e.arrow", SCHEMA) as stream:
        stream.write_table(table.take(list(range(len(rows)))[::-1]), max_chunksize=3)
    for name in ("b.json", "c.parquet", "d.feather", "e.arrow"):
        assert root(folder / name) == expected.head.root.hex(), name
    assert build([folder / "c.parquet"]).header.ordered_root == expected.ordered_root
    assert root(table) == root(rows) == root(iter(rows)) == expected.head.root.hex()
    cut = random.randrange(len(rows) + 1)
    shards = folder / "shards"
    shards.mkdir()
    write_lines(shards / "1.jsonl", shuffled[:cut])
    pa.parquet.write_table(pa.Table.from_pylist(shuffled[cut:], SCHEMA), shards / "0.parquet")
    assert root(shards) == expected.head.root.hex()


@settings(max_examples=40)
@given(st.lists(st.fixed_dictionaries({"b": TEXT, "a,": TEXT}), max_size=8))
def test_tables_of_text_are_the_records_they_hold(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("data")
    expected = root(write_lines(folder / "a.jsonl", rows))
    for name, mark in (("b.csv", ","), ("b.tsv", "\t")):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["b", "a,"], delimiter=mark, quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(rows)
        assert root(folder / name) == expected, name
    lines = [row["b"].replace("\n", " ").rstrip("\r") for row in rows]
    (folder / "c.txt").write_text(
        "".join(f"{line}\r\n" for line in lines), newline="", encoding="utf-8"
    )
    assert root(folder / "c.txt") == root([{"text": line} for line in lines])


@settings(max_examples=40)
@given(ROWS, st.data())
def test_any_change_changes_the_root(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    before = build([rows]).header
    at = data.draw(st.integers(0, len(rows) - 1))
    row = rows[at]
    key = data.draw(st.sampled_from(sorted(row)))
    changed = {
        "value": row | {key: data.draw(st.sampled_from(["other than before", 7.25, False]))},
        "key": {(f"{k}'" if k == key else k): v for k, v in row.items()},
        "member": row | {"more": 0},
    }
    for how, other in changed.items():
        after = build([[*rows[:at], other, *rows[at + 1 :]]]).header
        same = second.text(other) == second.text(row)
        assert (after.head.root == before.head.root) == same, how
    again = build([[*rows, row]]).header
    assert again.head.root != before.head.root
    assert (again.head.distinct, again.head.records) == (before.head.distinct, len(rows) + 1)
    assert build([rows[:at] + rows[at + 1 :]]).header.head.root != before.head.root


@given(st.lists(st.integers(0, 300), max_size=400), st.integers(1, 60), st.integers(1, 60))
def test_spilling_changes_nothing(numbers: list[int], run: int, part: int) -> None:
    records = [{"n": n} for n in numbers]
    expected = build([records]).header
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "RUN", run)
        patch.setattr(sorting, "PART", part)
        patch.setattr("lineage.datasets.readers.in_memory._AT_ONCE", 7)
        found = build([iter(records)]).header
    assert found == expected


def test_digests_alike_in_64_bits_are_told_apart() -> None:
    digests = [bytes(8) + bytes([n]) * 24 for n in (5, 3, 5, 9, 3, 5)] + [b"\1" * 32]
    entries = sorting.counted(b"".join(digests))
    found = [(e.tobytes()[:32], int.from_bytes(e.tobytes()[32:], "little")) for e in entries]
    assert found == [(d, digests.count(d)) for d in sorted(set(digests))]


# Columns


TYPED: list[tuple[Any, Any, list[str | None]]] = [
    (pa.int8(), [5, None, -1], ["5", None, "-1"]),
    (pa.uint64(), [2**64 - 1, 2**53 - 1], ['!int"18446744073709551615"', "9007199254740991"]),
    (pa.int64(), [-(2**53), 2**53 - 1, None],
     ['!int"-9007199254740992"', "9007199254740991", None]),
    (pa.float64(), [5.0, -0.0, float("nan"), float("inf"), float("-inf"), 1e21, 0.1],
     ["5", '!float"-0"', '!float"NaN"', '!float"Infinity"', '!float"-Infinity"', "1e+21", "0.1"]),
    (pa.float32(), [0.5, 0.1], ["0.5", "0.10000000149011612"]),
    (pa.float16(), [1.5], ["1.5"]),
    (pa.decimal128(9, 3), [Decimal("1.250"), Decimal(-3), None],
     ['!decimal"1.25"', '!decimal"-3"', None]),
    (pa.decimal256(50, 2), [Decimal("0.10")], ['!decimal"0.1"']),
    (pa.date32(), [datetime.date(1970, 1, 2)], ['!date"1"']),
    (pa.date64(), [datetime.date(1969, 12, 31)], ['!date"-1"']),
    (pa.timestamp("ms"), [datetime.datetime(1970, 1, 1, 0, 0, 1, 500000)], ['!datetime"1.5"']),
    (pa.timestamp("us", "Europe/Berlin"), [datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)],
     ['!instant"0"']),
    (pa.time32("s"), [datetime.time(1, 0)], ['!time"3600"']),
    (pa.time64("us"), [datetime.time(0, 0, 0, 250000)], ['!time"0.25"']),
    (pa.duration("ms"), [datetime.timedelta(milliseconds=-1500)], ['!duration"-1.5"']),
    (pa.binary(), [b"", None], [f'!bytes"{blake3(b"").hexdigest()}"', None]),
    (pa.binary(2), [b"ab"], [f'!bytes"{blake3(b"ab").hexdigest()}"']),
    (pa.string_view(), ["a\n\"\\\x1f\u007f", None], ['"a\\n\\"\\\\\\u001f\u007f"', None]),
    (pa.dictionary(pa.int8(), pa.string()), ["b", "a", None], ['"b"', '"a"', None]),
    (pa.dictionary(pa.int8(), pa.list_(pa.int8())), pa.DictionaryArray.from_arrays(
        pa.array([1, None, 0, 1], pa.int8()), pa.array([[1], None])
    ), [None, None, "[1]", None]),
    (pa.null(), [None], [None]),
    (pa.bool_(), [True, None], ["true", None]),
    (pa.list_(pa.int8()), [[1, None], [], None], ["[1,null]", "[]", None]),
    (pa.list_(pa.int8(), 2), [[1, 2], None], ["[1,2]", None]),
    (pa.large_list(pa.list_(pa.string())), [[["a"], None, []]], ['[["a"],null,[]]']),
    (pa.map_(pa.string(), pa.int8()), [[("b", 1), ("a", None)], None],
     ['[["b",1],["a",null]]', None]),
    (pa.struct({"b": pa.int8(), "a": pa.string()}), [{"b": 1}, {}, None], ['{"b":1}', "{}", None]),
    (pa.struct({}), [{}, None], ["{}", None]),
    (pa.list_(pa.struct({"x": pa.int8()})), [[{"x": 1}, {}, None]], ['[{"x":1},{},null]']),
]  # fmt: skip


def texts_of(batch: Any) -> list[str]:
    return [text.decode() for text in columns.texts_in(columns.frames_of(batch))]


def array_of(values: Any, kind: Any) -> Any:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


@pytest.mark.parametrize(("kind", "values", "texts"), TYPED, ids=[str(t[0]) for t in TYPED])
def test_typed_values_have_these_texts(kind: Any, values: list[Any], texts: list[Any]) -> None:
    column = array_of(values, kind)
    expected = ["{}" if t is None else f'{{"c":{t}}}' for t in texts]
    batch = pa.record_batch([column], ["c"])
    assert texts_of(batch) == expected
    for start in range(len(values)):  # a window into the buffers reads what it shows
        assert texts_of(batch.slice(start)) == expected[start:]
    many = pa.record_batch([column, column], ["c", "a"])
    assert texts_of(many) == ["{}" if t is None else f'{{"a":{t},"c":{t}}}' for t in texts]


def test_one_value_has_one_text_whatever_its_unit_and_scale() -> None:
    moment = datetime.datetime(2026, 1, 31, 9, 30, tzinfo=datetime.UTC)
    texts = {
        texts_of(pa.record_batch([pa.array([moment], pa.timestamp(unit, zone))], ["t"]))[0]
        for unit, zone in (("s", "UTC"), ("ns", "America/Lima"), ("us", "+05:00"))
    }
    assert len(texts) == 1
    plain = pa.array([moment.replace(tzinfo=None)], pa.timestamp("s"))
    assert texts_of(pa.record_batch([plain], ["t"]))[0] not in texts


def test_what_json_cannot_say_never_meets_what_it_says() -> None:
    texts = [text for _, _, found in TYPED for text in found if text and "!" in text]
    for text in texts:
        with pytest.raises(ValueError):
            json.loads(text)
    assert canonical({"a": Typed("float", "NaN")}) == b'{"a":!float"NaN"}'
    assert canonical(['!float"NaN"']) == b'["!float\\"NaN\\""]'


def test_columns_without_a_meaning_are_refused(tmp_path: Path) -> None:
    union = pa.UnionArray.from_dense(
        pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1])]
    )
    with pytest.raises(FormatError, match=r'column "u": values of type .*union'):
        build([pa.table({"u": union})])
    with pytest.raises(FormatError, match="two columns have one name"):
        build([pa.table([pa.array([1]), pa.array([2])], ["a", "a"])])
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]
    )
    with pytest.raises(FormatError, match="UTF8"):
        build([pa.table({"s": broken})])


# Files


def test_files_in_folders_have_names_splits_and_kinds(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "b-test").mkdir(parents=True)
    (data / ".git").mkdir()
    write_lines(data / "train-00000-of-1.jsonl", [{"n": 1}, {"n": 1}])
    write_lines(data / "b-test" / "x.jsonl", [{"n": 2}])
    write_lines(data / ".git" / "hidden.jsonl", [{"n": 9}])
    (data / "model.onnx").write_bytes(b"any bytes")
    (data / "README.md").write_text(
        "---\nlicense: cc-by-4.0\nsource_datasets: [original]\n---\n# Card\n"
    )
    output = tmp_path / "d.manifest"
    built = build([data], output)
    names = [(row["name"], row["kind"], row["split"], row["records"]) for row in built.rows]
    assert names == [
        ("b-test/x.jsonl", "jsonl", "test", 1),
        ("model.onnx", "bytes", None, 1),
        ("train-00000-of-1.jsonl", "jsonl", "train", 2),
    ]
    assert built.header.splits == {"test": 1, "": 1, "train": 2}
    assert (built.header.licence, built.header.source) == ("cc-by-4.0", "original")
    assert built.header.columns == ("n",)
    assert built.rows[1]["blake3"] == blake3(b"any bytes").hexdigest()
    found = load(output)
    assert (found.header, found.rows, found.sha256) == (built.header, built.rows, built.sha256)
    assert second.manifest(output.read_bytes())["header"]["root"] == built.header.head.root.hex()
    both = build([data / "b-test", data / "train-00000-of-1.jsonl"])
    assert [row["name"] for row in both.rows] == ["b-test/x.jsonl", "train-00000-of-1.jsonl"]


def test_a_manifest_inside_its_folder_is_none_of_the_data(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [1, 2])
    first = build([tmp_path], tmp_path / "data.manifest")
    assert build([tmp_path], tmp_path / "data.manifest") == first


def test_without_pyarrow_columnar_files_say_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa.parquet.write_table(pa.table({"n": [1]}), tmp_path / "a.parquet")
    monkeypatch.setattr(arrays, "library", arrays.library.__wrapped__)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(tmp_path / "a.parquet", r"needs pyarrow: pip install 'model-lineage\[data\]'")


def test_a_blob_is_one_record_whatever_its_name(tmp_path: Path) -> None:
    for name in ("a.bin", "b.other"):
        (tmp_path / name).write_bytes(b"content")
    assert root(tmp_path / "a.bin") == root(tmp_path / "b.other")
    expected = f'!bytes"{blake3(b"content").hexdigest()}"'
    assert root(tmp_path / "a.bin") == second.root({second.record(expected): 1}).hex()
    write_lines(tmp_path / "c.jsonl", [1, 2])
    assert build([tmp_path / "c.jsonl"], options=Options("bytes")).header.head.records == 1


def test_compressed_files_are_what_they_hold(tmp_path: Path) -> None:
    plain = write_lines(tmp_path / "a.jsonl", [{"n": n} for n in range(5000)])
    data = plain.read_bytes()
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(data))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(data))
    assert root(plain) == root(tmp_path / "b.jsonl.gz") == root(tmp_path / "c.jsonl.zst")
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(data)[:-20])
    refused(tmp_path / "d.jsonl.gz", "broken compression")
    (tmp_path / "e.jsonl.zst").write_bytes(b"no such thing")
    refused(tmp_path / "e.jsonl.zst", "broken compression")


def tar_of(path: Path, members: list[tuple[str, bytes]], **special: bytes) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, kind in special.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    return path


def test_a_webdataset_sample_is_its_files(tmp_path: Path) -> None:
    samples = [("in/0.jpg", b"J0"), ("in/0.cls", b"3"), ("in/1.jpg", b"J1"), ("in/1.seg.png", b"P")]
    path = tar_of(tmp_path / "a.tar", samples)
    wanted = [
        {"__key__": "in/0", "jpg": b"J0", "cls": b"3"},
        {"__key__": "in/1", "jpg": b"J1", "seg.png": b"P"},
    ]
    assert root(path) == root(wanted)
    shards = [tar_of(tmp_path / f"s{n}.tar", samples[2 * n : 2 * n + 2]) for n in range(2)]
    assert root(*shards) == root(path)
    (tmp_path / "z.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert root(tmp_path / "z.tar.gz") == root(path)


@pytest.mark.parametrize("name", ["../0.jpg", "/0.jpg", "a/../../0.jpg", "a\\0.jpg"])
def test_paths_out_of_an_archive_are_refused(tmp_path: Path, name: str) -> None:
    refused(tar_of(tmp_path / "a.tar", [(name, b"x")]), "leads out of the archive")


def test_broken_archives_are_refused(tmp_path: Path) -> None:
    refused(tar_of(tmp_path / "a.tar", [], **{"0.jpg": tarfile.SYMTYPE}), "link or device")
    refused(tar_of(tmp_path / "b.tar", [], **{"0.jpg": tarfile.FIFOTYPE}), "link or device")
    refused(tar_of(tmp_path / "c.tar", [("0.jpg", b""), ("0.jpg", b"")]), "there twice")
    whole = tar_of(tmp_path / "d.tar", [("0.jpg", b"x" * 4000)]).read_bytes()
    (tmp_path / "e.tar").write_bytes(whole[:2000])
    refused(tmp_path / "e.tar", "broken or cut archive")
    (tmp_path / "f.tar").write_bytes(b"not a tar at all" * 100)
    refused(tmp_path / "f.tar", "broken or cut archive")


def test_a_folder_of_images(tmp_path: Path) -> None:
    for name, data in (
        ("train/cat/1.png", b"C"),
        ("train/dog/1.jpg", b"D"),
        ("test/cat/2.png", b"E"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    built = build([tmp_path], options=Options("image"))
    expected = [
        {"image": b"C", "label": "cat"},
        {"image": b"D", "label": "dog"},
        {"image": b"E", "label": "cat"},
    ]  # fmt: skip
    assert built.header.head.root.hex() == root(expected)
    assert built.header.splits == {"test": 1, "train": 2}
    write_lines(
        tmp_path / "train" / "cat" / "metadata.jsonl", [{"file_name": "1.png", "text": "a cat"}]
    )
    expected[0]["text"] = "a cat"
    assert root(tmp_path, kind="image") == root(expected)
    write_lines(tmp_path / "train" / "cat" / "metadata.jsonl", [{"file_name": "1.png"}] * 2)
    with pytest.raises(FormatError, match=r"metadata of '1\.png' twice"):
        build([tmp_path], options=Options("image"))
    (tmp_path / "train" / "cat" / "metadata.jsonl").unlink()
    table = tmp_path / "train" / "cat" / "metadata.csv"
    table.write_text("\ufefffile_name,text\n1.png,a cat\n", encoding="utf-8")
    assert root(tmp_path, kind="image") == root(expected)
    for data, match in (
        (b"file_name,text\n1.png\n", r"metadata\.csv: line 2: 1 values where the header has 2"),
        (b'file_name\n"1.png', r"metadata\.csv: line 2: unexpected end of data"),
        (b"file_name\n\xff", r"metadata\.csv: not UTF-8 \(at byte 10\)"),
        (b"name\n1.png\n", "metadata without file_name"),
    ):
        table.write_bytes(data)
        with pytest.raises(FormatError, match=match):
            build([tmp_path], options=Options("image"))


def test_what_datasets_saved_is_read(tmp_path: Path) -> None:
    """The folders `Dataset.save_to_disk` writes: Arrow streams named by `state.json`."""
    rows = [{"n": n} for n in range(9)]
    for split, part in (("train", rows[:6]), ("test", rows[6:])):
        folder = tmp_path / "saved" / split
        folder.mkdir(parents=True)
        names = []
        for number in range(0, len(part), 3):
            name = f"data-{number // 3:05}-of-00002.arrow"
            table = pa.Table.from_pylist(part[number : number + 3])
            with pa.ipc.new_stream(folder / name, table.schema) as stream:
                stream.write_table(table)
            names.append({"filename": name})
        state = {"_data_files": names, "_split": split, "_fingerprint": "x", "_format_kwargs": {}}
        (folder / "state.json").write_text(json.dumps(state))
        (folder / "dataset_info.json").write_text(json.dumps({"license": "mit", "homepage": "h"}))
    (tmp_path / "saved" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    built = build([tmp_path / "saved"])
    assert built.header.head.root.hex() == root(rows)
    assert built.header.splits == {"test": 3, "train": 6}
    assert build([tmp_path / "saved" / "test"]).header.licence == "mit"
    state["_data_files"] = [{"filename": "../../secret.arrow"}]
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(FormatError, match="outside its folder"):
        build([tmp_path / "saved"])
    for name in ("missing.arrow", "x" * 300, "a\0b"):
        state["_data_files"] = [{"filename": name}]
        (folder / "state.json").write_text(json.dumps(state))
        with pytest.raises(FormatError, match=r"state\.json: the data file '.*' is not there"):
            build([tmp_path / "saved"])


ROWS_OF_DATASETS = [
    {
        "n": n, "t": f"te/xt \u00e9 {n}" if n % 3 else None, "x": n / 8, "ok": n % 2 == 0,
        "l": [n, n + 1], "o": {"a": str(n), "b": None if n % 2 else n}, "c": n % 3,
    }
    for n in range(25)
]  # fmt: skip


@pytest.mark.data_libraries
@pytest.mark.filterwarnings("ignore")
def test_datasets_in_memory_and_saved_have_one_root(tmp_path: Path) -> None:
    """As jsonl, parquet and a folder that the library wrote, and as its objects in memory."""
    datasets = pytest.importorskip("datasets")
    rows = ROWS_OF_DATASETS
    expected = root(rows)
    made = datasets.Dataset.from_list(rows)
    made = made.cast_column("c", datasets.ClassLabel(names=["x", "y", "z"]))
    both = datasets.DatasetDict(
        {"train": made.select(range(20)), "validation": made.select(range(20, 25))}
    )
    made.to_json(tmp_path / "a.jsonl")
    made.to_parquet(tmp_path / "a.parquet")
    made.save_to_disk(tmp_path / "saved", num_shards=3)
    both.save_to_disk(tmp_path / "both")
    (tmp_path / "parts").mkdir()
    for split, part in both.items():
        part.to_parquet(tmp_path / "parts" / f"{split}-00000-of-00001.parquet")
    for given_ in (tmp_path / "a.jsonl", tmp_path / "a.parquet", tmp_path / "saved", made):
        assert root(given_) == expected
        assert build([given_]).header.ordered_root == build([rows]).header.ordered_root
    for given_ in (tmp_path / "both", tmp_path / "parts", both):
        header = build([given_]).header
        assert header.head.root.hex() == expected
        assert header.splits == {"train": 20, "validation": 5}
    assert root(datasets.load_from_disk(str(tmp_path / "saved"))) == expected
    assert root(datasets.load_from_disk(str(tmp_path / "both"))) == expected
    assert root(made.shuffle(seed=1).select(range(25))) == expected  # by indices over the table
    assert root(made.with_format("numpy")) == expected  # however it shows itself
    assert root(made.with_transform(lambda batch: {"n": [0] * len(batch["n"])})) == expected
    assert root(made.to_iterable_dataset()) == expected
    assert root(datasets.concatenate_datasets([both["validation"], both["train"]])) == expected
    assert build([made]).header.columns == tuple(rows[0])
    picked = made.select([3, 1])
    picked.save_to_disk(tmp_path / "picked")
    assert root(tmp_path / "picked") == root([rows[3], rows[1]])


@pytest.mark.data_libraries
@pytest.mark.filterwarnings("ignore")
def test_datasets_of_pictures_are_their_bytes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"image": {"bytes": bytes([n]) * 9, "path": None}, "n": n} for n in range(3)]
    features = datasets.Features({"image": datasets.Image(), "n": datasets.Value("int64")})
    made = datasets.Dataset.from_list(rows, features=features)
    made.to_parquet(tmp_path / "a.parquet")
    made.save_to_disk(tmp_path / "saved")
    assert root(made) == root(tmp_path / "a.parquet") == root(tmp_path / "saved") == root(rows)


# Bad input


@pytest.mark.usefixtures("loops")
def test_a_bad_line_is_told_by_file_and_line(tmp_path: Path) -> None:
    lines = [b'{"n": 1}'] * 70_000
    lines[66_665] = b'{"n": 1, "n": 2}'
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    refused(path, r"a\.jsonl: line 66666: the key 'n' twice in one object")
    lines[3] = b"\xff"
    path.write_bytes(b"\n".join(lines))
    built = build([path], options=Options(skip_bad=True))
    assert built.header.head.records == 69_998
    assert built.header.skipped == 2
    assert [(row["file"], row["where"]) for row in built.skipped] == [
        ("a.jsonl", "line 4"), ("a.jsonl", "line 66666"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("a.jsonl", '{"a": 1}\n'.encode("utf-16"), "UTF-16"),
        ("a.txt", b"good\ncaf\xe9\n", "line 2: not UTF-8"),
        ("a.csv", b"a,b\n1,2\n1\n", "line 3: 1 values where the header has 2"),
        ("a.csv", b"a,a\n1,2\n", "a column twice"),
        ("a.csv", b'a,b\n1,"2\n', "line [23]: "),
        ("a.csv", b"a,b\n1,\xff\n", "line 2: not UTF-8"),
        ("a.json", b'[{"a": 1}, {"a": 1, "a": 2}]', "item 2: the key 'a' twice"),
        ("a.json", b'[{"a": 1}, {"a": ', "item 2 is not JSON, or the file is cut"),
        ("a.json", b'[{"a": 1}', "comma or bracket is missing"),
        ("a.json", b"[1] 2", "something follows the list"),
        ("a.json", b"  \n", "no JSON in the file"),
        ("a.json", b"[1, \xff]", "not UTF-8"),
        ("a.parquet", b"PAR1 and nothing else PAR1", "broken or cut Parquet"),
        ("a.arrow", b"ARROW1\0\0 and nothing else", "broken or cut Arrow"),
        ("a.arrow", b"nothing", "broken or cut Arrow"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, name: str, data: bytes, match: str) -> None:
    (tmp_path / name).write_bytes(data)
    refused(tmp_path / name, match)


def test_cut_columnar_files_are_refused(tmp_path: Path) -> None:
    table = pa.table({"n": list(range(1000))})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    pa.feather.write_feather(table, tmp_path / "b.feather", compression="uncompressed")
    for path in (tmp_path / "a.parquet", tmp_path / "b.feather"):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        refused(path, "broken or cut")


def sharing(rows: int, text: str) -> dict[str, pa.Array]:
    """Columns in which one text stands in every row, and is there once."""
    view = struct.pack("<i4sii", len(text), text[:4].encode(), 0, 0)
    buffers = [None, pa.py_buffer(view * rows), pa.py_buffer(text.encode())]
    views = pa.Array.from_buffers(pa.string_view(), rows, buffers)
    codes = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), pa.array([text]))
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([rows], pa.int32()), pa.array([text]))
    lists = pa.ListArray.from_arrays(pa.array(range(rows + 1), pa.int32()), views)
    return {
        "views": views,
        "codes": codes,
        "runs": runs,
        "lists": lists,
        "objects": pa.StructArray.from_arrays([codes], ["a"]),
        "of views": pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), views[:1]),
        "of lists": pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), lists[:1]),
    }


@pytest.mark.parametrize("name", sorted(sharing(1, "text")))
def test_one_long_value_in_every_row_takes_little_memory(name: str) -> None:
    """What shares a value is unpacked a little at a time: 2000 times 100 kB are 200 MB."""
    column = sharing(2000, "x" * 100_000)[name]
    pieces = list(batches.cut([pa.record_batch([column], ["c"])]))
    assert sum(piece.num_rows for piece in pieces) == 2000
    assert max(piece.num_rows for piece in pieces) <= 200
    few = pa.record_batch([column.slice(1990)], ["c"])
    (whole,) = batches.cut([few])
    assert build([pa.Table.from_batches([few])]).header.head.distinct == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "ROW_BYTES", 1000)
        assert [piece.num_rows for piece in batches.cut([few])] == [1] * 10
        patch.setattr(batches, "MAX_ROW_BYTES", 10_000)
        with pytest.raises(FormatError, match=r"a row unpacks to 1000.. bytes, more than 10000"):
            build([pa.Table.from_batches([whole])])


@pytest.mark.parametrize("how", ["codes", "prefixes", "lists", "large"])
def test_a_value_that_a_parquet_file_has_once_takes_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """300 kB in every one of 200 rows are 60 MB, and a file of some kilobytes."""
    monkeypatch.setattr(parquet, "SHARED", 4 << 20)
    text, rows = "x" * 300_000, 200
    column = pa.array([f"{text} {n}" if how == "prefixes" else text for n in range(rows)])
    table = pa.table({"n": range(rows), "t": [[t] for t in column] if how == "lists" else column})
    prefixes = {"use_dictionary": False, "column_encoding": {"t": "DELTA_BYTE_ARRAY"}}
    kept = {"dictionary_pagesize_limit": 1 << 30, "compression": "zstd"}
    if how == "large":  # more of other values than codes may hold
        others = [f"{n:x}" * 4000 for n in range(10**6, 10**6 + 300)]
        table = pa.concat_tables([table, pa.table({"n": range(300), "t": others})])
        kept["dictionary_pagesize_limit"] = 400_000
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(table, path, **(prefixes if how == "prefixes" else kept))
    assert path.stat().st_size < 400_000 or how == "large"
    expected = build([table]).header.head.root
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        assert build([path]).header.head.root == expected
    finally:
        pa.set_memory_pool(before)
    assert pool.max_memory() < 30 << 20


def test_fixed_values_that_take_no_bytes_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    zeros = pa.array([bytes(50_000)] * 1000, pa.binary(50_000))
    pa.parquet.write_table(pa.table({"t": zeros}), tmp_path / "a.parquet")
    assert parquet._plan(tmp_path / "a.parquet", 0) == (batches.ROW_BYTES // 50_000, [])
    assert build([tmp_path / "a.parquet"]).header.head.distinct == 1


def test_batches_of_every_type_are_measured() -> None:
    for kind, values, _ in TYPED:
        batch = pa.record_batch([array_of(values, kind)], ["c"])
        for part in (batch, batch.slice(1)):
            assert sum(piece.num_rows for piece in batches.cut([part])) == part.num_rows


def test_a_part_of_a_large_batch_goes_alone_to_another_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = pa.record_batch({"t": ["x"] * 10}).slice(3, 1)
    assert batches.alone(few) is few
    large = pa.record_batch({"t": ["x" * 1000] * 10_000, "n": range(10_000)})
    assert len(pickle.dumps(batches.alone(large.slice(500, 10)))) < 20_000
    monkeypatch.setattr(batches, "ROW_BYTES", 0)
    for kind, values, _ in TYPED:
        column = array_of(values, kind)
        part = pa.record_batch([pa.concat_arrays([column] * 1000)], ["c"]).slice(3, 5)
        assert batches.digest(batches.alone(part), None) == batches.digest(part, None)
        assert batches.alone(part).schema == part.schema


def test_what_arrow_gives_up_on_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise pa.ArrowMemoryError("malloc of size 9 failed")

    monkeypatch.setattr(columns, "frames_of", full)
    with pytest.raises(FormatError, match="memory-0: broken columns: malloc of size 9 failed"):
        build([pa.table({"n": [1]})])


def test_json_of_every_outline_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lineage.datasets.readers.base.PIECE", 7)  # every value is cut somewhere
    path = tmp_path / "a.json"
    values = [12345, {"text": "é" * 20, "n": [1, 2]}, "x", None, 3.25]
    for text in (json.dumps(values), json.dumps(values, indent=3, ensure_ascii=False) + "\n"):
        path.write_text(text, encoding="utf-8")
        assert root(path) == root(values)
    path.write_text("\n".join(map(json.dumps, values)), encoding="utf-8")
    assert root(path) == root(values)
    path.write_text(json.dumps({"one": [1, 2]}, indent=2))
    assert root(path) == root([{"one": [1, 2]}])
    path.write_text("[ ]")
    assert build([path]).header.head.records == 0


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("base", "json_file"):
        monkeypatch.setattr(f"lineage.datasets.readers.{name}.MAX_RECORD_BYTES", 1000)
        monkeypatch.setattr(f"lineage.datasets.readers.{name}.PIECE", 300)
    (tmp_path / "a.jsonl").write_bytes(b'{"a":1}\n"' + b"x" * 5000)
    refused(tmp_path / "a.jsonl", "a line is longer than 1000 bytes .at byte 8")
    (tmp_path / "b.json").write_bytes(b'[1,"' + b"x" * 5000)
    refused(tmp_path / "b.json", "item 2 is longer than 1000 bytes, or broken")


def test_a_file_that_changes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"n": n} for n in range(10)])
    finish = WatchedFile.finish

    def late(self: WatchedFile) -> bytes:
        self.read_rest()
        changes.pop(0)()
        return finish(self)

    monkeypatch.setattr(WatchedFile, "finish", late)
    changes: list[Any] = [
        lambda: path.write_bytes(path.read_bytes() + b'{"n":10}\n'),
        lambda: path.write_bytes(path.read_bytes().replace(b"9", b"8")),
        lambda: os.replace(write_lines(tmp_path / "other", [1]), path),  # noqa: PTH105
        path.unlink,
    ]
    while changes:
        refused(path, "changed while it was read")


def test_a_full_disk_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "RUN", 10)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sorting.Sorter, "_spill", full)
    path = write_lines(tmp_path / "a.jsonl", [{"n": n} for n in range(100)])
    with pytest.raises(OSError, match="the disk is full") as caught:
        build(
            [path, [{"n": n} for n in range(100)], [{"n": 1}] * 50], tmp_path / "out" / "a.manifest"
        )
    assert caught.value.filename == str(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_paths_that_hold_nothing_or_the_same_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no records to read"):
        build([tmp_path])
    path = write_lines(tmp_path / "a.jsonl", [1])
    with pytest.raises(FormatError, match="given twice"):
        build([path, path])
    with pytest.raises(FileNotFoundError):
        build([tmp_path / "missing.jsonl"])


def test_other_processes_do_what_threads_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"n": n} for n in range(100)])
    expected = build([path])
    monkeypatch.setattr(building, "WORTH_PROCESSES", 0)
    assert build([path]) == expected


def test_kinds_go_by_name() -> None:
    kinds = {
        "a.JSONL": "jsonl", "a.jsonl.gz": "jsonl", "a.json": "json", "a.csv.zst": "csv",
        "a.tsv": "tsv",
        "a.txt": "text", "a.parquet": "parquet", "a.feather": "arrow", "a.tar.gz": "webdataset",
        "a.png": "bytes", "parquet": "bytes",
    }  # fmt: skip
    assert {name: kind_of(name) for name in kinds} == kinds


def test_splits_go_by_the_words_of_a_path() -> None:
    splits = {
        "train-00000-of-00002.parquet": "train", "data/validation/x.jsonl": "validation",
        "my_dev.csv": "validation", "eval.jsonl": "test", "contest.txt": None, "trainer.txt": None,
        "train/test.jsonl": "test",
    }  # fmt: skip
    assert {name: finding.split_of(name) for name in splits} == splits


@pytest.mark.parametrize(("large", "bytes_"), [(0, 1 << 20), (0, 1), (1 << 30, 1), (1 << 30, 400)])
def test_parquet_is_one_order_however_it_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int, bytes_: int
) -> None:
    rows = [{"n": n, "text": "x" * (n % 9)} for n in range(103)]
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=25)
    monkeypatch.setattr(parquet, "LARGE", large)
    monkeypatch.setattr(batches, "ROW_BYTES", bytes_)
    found = build([tmp_path / "a.parquet"], options=Options(near=True)).header
    expected = build([rows], options=Options(near=True)).header
    assert (found.head, found.ordered_root) == (expected.head, expected.ordered_root)


def test_many_records_are_held_in_little_memory(tmp_path: Path) -> None:
    """Where runs are, memory is bounded by them: 40 runs, and never more than a few held."""
    held: list[int] = []
    counted = sorting.counted

    def watched(digests: bytes) -> sorting.Entries:
        held.append(len(digests))
        return counted(digests)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "RUN", 500)
        patch.setattr(sorting, "counted", watched)
        patch.setattr("lineage.datasets.readers.in_memory._AT_ONCE", 100)
        built: Built = build([({"n": random.Random(n).random()} for n in range(20_000))])
    assert built.header.head.records == 20_000
    assert len(held) == 40
    assert max(held) == 500 * 32
