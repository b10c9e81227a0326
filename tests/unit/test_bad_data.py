"""Bad data sets: one line that names file and place, or a count and a list of what was left out."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lineage import canonical
from lineage.cli import run
from lineage.datasets import Options, build, load
from lineage.datasets.readers import parquet
from lineage.datasets.readers.base import Source
from lineage.datasets.watched import WatchedFile
from lineage.errors import FormatError

sys.path.insert(0, str(Path(__file__).parent.parent / "fuzz"))
try:
    import record_seeds
    import records
finally:
    sys.path.pop(0)

LINES = {
    "cut": (b'{"a": ', "not JSON"),
    "two values": (b"1 2", "not JSON"),
    "latin-1": (b'{"a": "caf\xe9"}', r"not UTF-8 \(byte 10 of the record\)"),
    "utf-16 without a mark": ('{"a": 1}'.encode("utf-16-le"), "not JSON"),
    "a mark inside": (b'\xef\xbb\xbf{"a": 1}', "not JSON"),
    "surrogates in utf-8": (b'"\xed\xa0\x80"', "not UTF-8"),
    "a key twice": (b'{"a": 1, "a": 1}', "the key 'a' twice in one object"),
    "a key twice, once null": (b'{"a": 1, "a": null}', "the key 'a' twice in one object"),
    "a key twice inside": (b'[{"b": {"a": 1, "\\u0061": 2}}]', "the key 'a' twice in one object"),
    "2^53": (b'{"a": 9007199254740992}', r"the integer 9007199254740992 is beyond 2\^53"),
    "-2^53": (b"[-9007199254740992]", r"the integer -9007199254740992 is beyond 2\^53"),
    "very long digits": (b"1" * 5000, r"the integer 1111.* is beyond 2\^53"),
    "too large a number": (b"1e309", "the number 1e309 is beyond what a double holds"),
    "-0": (b"-0", "the number -0"),
    "-0.0": (b'{"a": -0.0}', "the number -0.0, which is -0"),
    "-0e0": (b"-0e0", "the number -0e0, which is -0"),
    "NaN": (b'{"a": NaN}', "NaN is not JSON"),
    "Infinity": (b"Infinity", "Infinity is not JSON"),
    "-Infinity": (b"[-Infinity]", "-Infinity is not JSON"),
    "half a pair": (b'{"a": "\\ud800"}', "half of a surrogate pair"),
    "half a pair in a key": (b'{"\\udfff": 1}', "half of a surrogate pair"),
    "half a pair in a key of null": (b'{"\\ud800d": null}', "half of a surrogate pair"),
    "deep": (b"[" * 130 + b"]" * 130, "nested more than 128 deep"),
    "very deep": (b"[" * 200_000, "nested more than 128 deep"),
    "a control character": (b'"a\tb"', "not JSON"),
}
"""A line that is no record, and why not."""


@pytest.mark.parametrize("name", LINES)
def test_a_line_is_refused_or_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    line, reason = LINES[name]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n": 1}\n\n' + line + b'\n{"n": 2}\n')
    assert run(["manifest", str(path)]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"lineage: .*a\.jsonl: line 3: .*{reason}.*\n", err)
    assert run(["manifest", str(path), "--skip-bad-records", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["records"], made["skipped"]) == (2, 1)
    (left,) = made["skipped_records"]
    assert (left["file"], left["where"]) == ("a.jsonl", "line 3")
    assert re.search(reason, left["reason"])
    assert made["root"] == build([[{"n": 1}, {"n": 2}]]).header.head.root.hex()


SKIPPED = {
    "a.jsonl": (b'1\nno\n{"a":1,"a":2}\n2\n', ["line 2", "line 3"]),
    "a.json": (b'[1, {"a": 1, "a": 2}, -0, 2]', ["item 2", "item 3"]),
    "a.csv": (b"a,b\n1,2\n1\n\n1,2,3\n3,4\n", ["line 3", "line 5"]),
    "a.tsv": (b"a\tb\n1\t2\n1\n3\t4\n", ["line 3"]),
    "a.txt": (b"one\n\xff\ntwo\n\xe9\n", ["line 2", "line 4"]),
    "a.jsonl.gz": (gzip.compress(b"1\nno\n2\n"), ["line 2"]),
    "a.jsonl.zst": (zstandard.compress(b"1\nno\n2\n"), ["line 2"]),
}
"""Files with two good records, and where the bad ones are."""


@pytest.mark.parametrize("name", SKIPPED)
def test_bad_records_of_every_format_are_counted_and_listed(tmp_path: Path, name: str) -> None:
    data, places = SKIPPED[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FormatError, match=rf"{re.escape(name)}: {places[0]}: "):
        build([tmp_path / name])
    for near in (False, True):
        built = build([tmp_path / name], options=Options(skip_bad=True, near=near))
        assert built.header.head.records == 2
        assert built.header.skipped == len(places)
        assert [row["where"] for row in built.skipped] == places


def test_an_image_that_is_told_badly_is_left_out(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"image")
    rows = [{"file_name": "a.png", "l": [0] * 3}, {"file_name": "b.png"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert build([tmp_path], options=Options("image")).header.head.records == 2


def test_more_bad_records_than_are_listed_are_all_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"no\n" * 2500 + b"1\n")
    built = build([tmp_path / "a.jsonl"], options=Options(skip_bad=True))
    assert (built.header.skipped, len(built.skipped)) == (2500, 1000)


def test_a_bad_name_of_a_bad_record_is_no_column(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"b\\ud800": 1}\n')
    (tmp_path / "b.json").write_bytes(b'[{"b\\ud800": 1}, {"a": 1}]')
    built = build([tmp_path], tmp_path / "out.manifest", Options(skip_bad=True))
    assert built.header.columns == ("a",)
    assert built.header.skipped == 2


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", b'{"a":1}\n"%b"\n' % (b"x" * (65 << 20))),
        ("a.json", b'[1, "%b"]' % (b"x" * (65 << 20))),
        ("a.jsonl.gz", gzip.compress(b'"%b"' % (b"x" * (70 << 20)), 1)),
        ("a.csv", b'a\n"%b"\n' % (b"x" * (70 << 20))),
        ("a.txt", b"x" * (70 << 20)),
    ],
    ids=["jsonl", "json", "packed", "csv", "text"],
)
def test_huge_strings_are_refused(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FormatError, match=rf"{re.escape(name)}.*longer than 67108864 bytes"):
        build([tmp_path / name])


def columnar() -> dict[str, bytes]:
    table = pa.table({"n": list(range(2000)), "t": [str(n) for n in range(2000)]})
    made = {}
    for packed in ("none", "snappy", "zstd"):
        out = pa.BufferOutputStream()
        pa.parquet.write_table(table, out, compression=packed, row_group_size=500)
        made[f"{packed}.parquet"] = out.getvalue().to_pybytes()
    for name, new in (("a.feather", pa.ipc.new_file), ("b.arrow", pa.ipc.new_stream)):
        out = pa.BufferOutputStream()
        with new(out, table.schema) as writer:
            writer.write_table(table, max_chunksize=500)
        made[name] = out.getvalue().to_pybytes()
    return made


@pytest.mark.parametrize("name", sorted(columnar()))
def test_cut_and_damaged_columnar_files_are_refused(tmp_path: Path, name: str) -> None:
    data = columnar()[name]
    path = tmp_path / name
    for cut in range(0, len(data) - 8, max(1, len(data) // 60)):
        path.write_bytes(data[:cut])
        with pytest.raises(FormatError, match=re.escape(name)):
            build([path])
    rng = random.Random(1)
    for _ in range(60):
        at = rng.randrange(len(data))
        path.write_bytes(data[:at] + rng.randbytes(8) + data[at + 8 :])
        try:
            build([path])
        except FormatError as error:
            words = str(error)
            assert words.isprintable()
            assert name in words


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """Arrow looks through values, and not through the names of columns and zones."""
    for schema in (pa.schema({"name": pa.int8()}), pa.schema({"t": pa.timestamp("s", "name")})):
        with pa.ipc.new_stream(tmp_path / "a.arrow", schema) as writer:
            column = pa.array([1], pa.int64()).cast(schema[0].type)
            writer.write_batch(pa.record_batch([column], schema=schema))
        data = (tmp_path / "a.arrow").read_bytes()
        assert data.count(b"name") == 1
        (tmp_path / "a.arrow").write_bytes(data.replace(b"name", b"n\xffme"))
        with pytest.raises(FormatError, match=r"a\.arrow: broken .*utf-8"):
            build([tmp_path / "a.arrow"])


@pytest.mark.parametrize("kind", ["nothing", "nulls", "run"])
def test_rows_that_take_no_bytes_are_refused(tmp_path: Path, kind: str) -> None:
    rows = 1 << 30
    if kind == "nothing":
        nothing = pa.Array.from_buffers(pa.struct([]), rows, [None])
        batch = pa.RecordBatch.from_struct_array(nothing)
    else:
        run = pa.RunEndEncodedArray.from_arrays(pa.array([rows], pa.int64()), pa.array([1]))
        batch = pa.record_batch([run if kind == "run" else pa.nulls(rows)], ["c"])
    with pa.ipc.new_stream(tmp_path / "a.arrow", batch.schema) as writer:
        writer.write_batch(batch)
    assert (tmp_path / "a.arrow").stat().st_size < 1000
    with pytest.raises(FormatError, match=r"a\.arrow: broken columns: \d+ rows in \d+ bytes"):
        build([tmp_path / "a.arrow"])


BROKEN = Path(__file__).parent.parent / "data" / "broken"


def refused_apart(path: Path) -> str:
    """What a process of its own says of a file that might end it."""
    code = "import sys; from lineage.cli import run\nsys.exit(run(['manifest', sys.argv[1]]))"
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    return done.stderr


@pytest.mark.parametrize("name", sorted(path.name for path in BROKEN.iterdir()))
def test_what_ends_a_process_that_trusts_it_is_refused(name: str) -> None:
    """Arrow files, each of which ended the process when its size was asked unchecked."""
    words = refused_apart(BROKEN / name)
    assert re.fullmatch(rf"lineage: .*{re.escape(name)}: broken columns: .*\n", words)


def footed(table: pa.Table, *changes: tuple[bytes, bytes]) -> bytes:
    """A Parquet file in whose footer some bytes, each there once, are others."""
    out = pa.BufferOutputStream()
    pa.parquet.write_table(table, out, store_schema=False, row_group_size=4)
    data: bytes = out.getvalue().to_pybytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    footer = data[start:-8]
    for old, new in changes:
        assert footer.count(old) == 1
        footer = footer.replace(old, new)
    return data[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def misfits() -> dict[str, tuple[bytes, str]]:
    """Parquet files whose footer does not fit itself, and what is said of each."""
    flat = pa.table({"aa": [1, 2, 3, None], "bb": [1, None, None, None]})
    deep = pa.table({"aa": [{"x": 1, "y": [1, 2, 3]}, None]})
    levels = b"<)\x06\x19&"  # no repetition levels (field 2), two definition levels (field 3)
    orders = b"\x19,\x1c\x00\x00\x1c\x00\x00\x00"
    root, lone = b"\x19<5\x00\x18\x06schema\x15\x04", b"\x19,5\x00\x18\x06schema\x15\x02"
    return {
        "too many levels": (
            footed(flat, (levels + b"\x02\x06", levels[:-1] + b"6\x02\x06\x00")),
            "Definition level histogram size mismatch, size: 3, expected: 2",
        ),
        "too many levels of the last": (
            footed(flat, (levels + b"\x06\x02", levels[:-1] + b"6\x06\x02\x00")),
            "Definition level histogram size mismatch, size: 3, expected: 2",
        ),
        "repeated though flat": (
            footed(flat, (levels + b"\x02\x06", b"<)&\x02\x06\x19&\x02\x06")),
            "Repetition level histogram size mismatch, size: 2, expected: 1",
        ),
        "too few levels inside": (
            footed(deep, (b"\x19V\x02\x00\x00\x00\x06", b"\x19F\x02\x00\x00\x06")),
            "Definition level histogram size mismatch, size: 4, expected: 5",
        ),
        "a column more than there are": (
            footed(flat, (root, lone), (b"\x15\x04%\x02\x18\x02bb\x00", b""), (orders, b"\x00")),
            "columns of row group 0: 2, not 1",
        ),
    }


@pytest.mark.parametrize("name", misfits())
def test_a_footer_that_does_not_fit_ends_no_process(tmp_path: Path, name: str) -> None:
    """Asked for such a column, pyarrow throws what Python cannot catch."""
    data, reason = misfits()[name]
    (tmp_path / "a.parquet").write_bytes(data)
    expected = f"a.parquet: broken or cut Parquet: {reason}"
    words = refused_apart(tmp_path / "a.parquet")
    assert re.fullmatch(rf"lineage: .*{re.escape(expected)}\n", words), words


def lying() -> dict[str, pa.Array]:
    """Arrays whose offsets, codes or texts lead elsewhere, which Arrow makes without a look."""
    data = pa.py_buffer(b"abc")
    far = pa.py_buffer(struct.pack("<3i", 0, 1 << 30, 2))
    back = pa.py_buffer(struct.pack("<3i", 1, 0, 3))
    plain = pa.py_buffer(struct.pack("<2i", 0, 2))
    codes = pa.array([0, 7], pa.int8())
    view = struct.pack("<i4sii", 1 << 30, b"abc", 0, 0)
    buffers = [None, pa.py_buffer(view * 2), data]
    return {
        "far": pa.Array.from_buffers(pa.string(), 2, [None, far, data]),
        "back": pa.Array.from_buffers(pa.binary(), 2, [None, back, data]),
        "lists": pa.Array.from_buffers(pa.list_(pa.int8()), 2, [None, far], children=[codes]),
        "codes": pa.DictionaryArray.from_arrays(codes, pa.array(["a"]), safe=False),
        "views": pa.Array.from_buffers(pa.string_view(), 2, buffers),
        "text": pa.Array.from_buffers(pa.string(), 1, [None, plain, pa.py_buffer(b"\xff\xfe")]),
    }


@pytest.mark.parametrize("name", sorted(lying()))
@pytest.mark.parametrize("kind", ["table", "batch", "reader"])
def test_broken_tables_in_memory_are_refused(name: str, kind: str) -> None:
    batch = pa.record_batch([lying()[name]], ["c"])
    table = pa.Table.from_batches([batch])
    value = {"table": table, "batch": Batches([batch]), "reader": Gathered(table)}[kind]
    with pytest.raises(FormatError, match=r"^memory-0: broken columns: "):
        build([value])


@pytest.mark.parametrize("kind", [pa.string_view(), pa.binary_view()])
def test_what_the_view_of_a_null_leads_to_is_not_read(kind: pa.DataType) -> None:
    views = struct.pack("<i12s4i", 3, b"abc", -5, 0, 0, 0)
    buffers = [pa.py_buffer(b"\1"), pa.py_buffer(views), pa.py_buffer(b"x" * 20)]
    for column in (
        pa.Array.from_buffers(kind, 2, buffers),
        pa.Array.from_buffers(kind, 1, buffers, offset=1),
    ):
        told = pa.array([None] if column.offset else [b"abc", None], kind)
        tables = [pa.table({"c": one}) for one in (column, told)]
        found, expected = (build([one]).header.head.root for one in tables)
        assert found == expected


class Batches:
    """What has batches, as a table does."""

    def __init__(self, batches: list[pa.RecordBatch]) -> None:
        self.schema = batches[0].schema
        self._batches = batches

    def to_batches(self) -> list[pa.RecordBatch]:
        return self._batches


class Gathered:
    """What a `datasets.Dataset` is that was shuffled: rows are gathered from `data`, in Arrow."""

    def __init__(self, data: pa.Table) -> None:
        self.data = data
        self.features = data.schema.names

    def with_format(self, kind: str) -> Gathered:
        assert kind == "arrow"
        return self

    def iter(self, batch_size: int) -> Iterator[pa.Table]:
        for start in range(0, len(self.data), batch_size):
            rows = range(start, min(start + batch_size, len(self.data)))
            yield self.data.take(list(rows))


def test_long_names_of_columns_leave_the_manifest_readable(tmp_path: Path) -> None:
    lines = [{f"{n}" + "\0" * 1000: n} for n in range(90)]
    lines.append({"long" * 100_000: 1})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    built = build([tmp_path / "a.jsonl"], tmp_path / "a.manifest")
    assert 50 < len(built.header.columns) < 91
    assert load(tmp_path / "a.manifest").header == built.header


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"skipped": [1]}, "skipped: expected file, where and reason"),
        ({"skipped": [{"file": "a", "where": 1, "reason": "b"}]}, "skipped: expected strings"),
        ({"split": 7}, "files: expected"),
        ({"kind": None}, "files: expected"),
    ],
)
def test_what_a_manifest_says_of_files_is_looked_through(
    tmp_path: Path, change: dict[str, Any], match: str
) -> None:
    build([["a"]], tmp_path / "a.manifest")
    line, rest = (tmp_path / "a.manifest").read_bytes().split(b"\n", 1)
    header = json.loads(line)
    files = json.loads(rest[: header["files_bytes"]])
    if "skipped" in change:
        files |= change
    else:
        files["files"][0] |= change
    text = canonical.dumps(files)
    line = canonical.dumps(header | {"files_bytes": len(text)})
    (tmp_path / "a.manifest").write_bytes(line + b"\n" + text + rest[header["files_bytes"] :])
    with pytest.raises(FormatError, match=match):
        load(tmp_path / "a.manifest")


def archive(*members: tuple[str, bytes, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, 3 * (kind == tarfile.REGTYPE)
            made.addfile(member, io.BytesIO(b"abc"))
    return out.getvalue()


@pytest.mark.parametrize(
    "member",
    [
        ("../a.txt", tarfile.REGTYPE, ""),
        ("a/../../b.txt", tarfile.REGTYPE, ""),
        ("/etc/passwd", tarfile.REGTYPE, ""),
        ("a\\..\\b.txt", tarfile.REGTYPE, ""),
        ("a.txt", tarfile.SYMTYPE, "/etc/passwd"),
        ("a.txt", tarfile.LNKTYPE, "../b"),
        ("a.txt", tarfile.CHRTYPE, ""),
        ("a.txt", tarfile.FIFOTYPE, ""),
    ],
)
def test_members_out_of_an_archive_are_refused(tmp_path: Path, member: Any) -> None:
    (tmp_path / "a.tar").write_bytes(archive(("0.txt", tarfile.REGTYPE, ""), member))
    with pytest.raises(FormatError, match=r"a\.tar: .*(leads out of|is a link or device)"):
        build([tmp_path / "a.tar"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n": 1}\n' * 200_000)
    over = threading.Event()

    def grow() -> None:
        with path.open("ab") as file:
            while not over.wait(0.001):
                file.write(b'{"n": 2}\n')
                file.flush()

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with pytest.raises(FormatError, match=r"a\.jsonl: the file changed while it was read"):
            build([path])
    finally:
        over.set()
        writer.join()


def test_a_parquet_file_that_loses_row_groups_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.table({"n": [1, 2]}), path, row_group_size=1)
    with WatchedFile(path) as file:
        jobs = list(parquet.jobs(file, Source("a.parquet", path, "parquet"), None))
        pa.parquet.write_table(pa.table({"n": [1]}), path)
        work, arguments = jobs[-1]
        with pytest.raises(FormatError, match=r"a\.parquet: the file changed while it was read"):
            work(*arguments)


LIMITED = """
import resource, sys
from lineage import canonical
from lineage.cli import run
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
sys.exit(run(["manifest", sys.argv[1], "-o", sys.argv[2]]))
"""


def test_no_room_for_what_is_spilled_is_one_line(tmp_path: Path) -> None:
    """A process that may write no file of more than a megabyte: the digests need 3.2."""
    (tmp_path / "a.jsonl").write_bytes(b"".join(b"%d\n" % n for n in range(100_000)))
    output = tmp_path / "out" / "a.manifest"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "a.jsonl"), str(output)],
        capture_output=True, text=True, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 3
    assert re.fullmatch(r"lineage: .*out: no file may be so large: .*\n", done.stderr), done.stderr
    assert list(output.parent.iterdir()) == []


# Anything at all


EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(["cut", "put", "over", "drop", "twice"]),
        st.binary(max_size=6)
        | st.sampled_from([b"\xff" * 8, b"\0" * 8, b'"', b"\n", b"{", b"9" * 20]),
    ),
    min_size=1,
    max_size=4,
)


def edited(data: bytes, edits: list[tuple[float, str, bytes]]) -> bytes:
    for where, how, piece in edits:
        at = int(where * len(data))
        rest = {
            "cut": b"",
            "put": piece + data[at:],
            "over": piece + data[at + len(piece) :],
            "drop": data[at + 5 :],
            "twice": data[at : at + 40] + data[at:],
        }[how]
        data = data[:at] + rest
    return data


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[bytes]]]:
    made = {}
    for name in records.TARGETS:
        folder = tmp_path_factory.mktemp("anything")
        made[name] = folder, record_seeds.seeds(name, folder)
    return made


@pytest.mark.parametrize("name", records.TARGETS)
@settings(
    max_examples=40,
    deadline=timedelta(seconds=20),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_anything_is_read_or_refused_in_one_line(
    beside: dict[str, tuple[Path, list[bytes]]], name: str, data: st.DataObject
) -> None:
    folder, seeds = beside[name]
    target = records.TARGETS[name]
    changed = edited(data.draw(st.sampled_from(seeds)), data.draw(EDITS))
    try:
        target.read(target.lay(folder, changed), changed)
    except FormatError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 1500
