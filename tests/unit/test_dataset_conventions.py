"""What others say of a data set's files is held to the files."""

from __future__ import annotations

import base64
import hashlib
import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from lineage.cli import run
from lineage.datasets import Options, build, conventions
from lineage.datasets.conventions import schemas
from lineage.datasets.readers.base import Source
from lineage.errors import FormatError

FILES = {"train.jsonl": b'{"a": 1}\n{"a": 2}\n', "sub/test.jsonl": b'{"a": 3}\n'}


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def b64(data: bytes) -> str:
    return base64.b64encode(bytes.fromhex(md5(data))).decode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


TRAIN, TEST = FILES.values()
DESCRIPTIONS: dict[str, Any] = {
    "croissant": {
        "@type": "sc:Dataset",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "contentUrl": "./train.jsonl",
                "sha256": sha256(TRAIN),
                "contentSize": f"{len(TRAIN)} B",
            },
            {
                "@type": "cr:FileObject",
                "contentUrl": "https://data.example/x/sub/test.jsonl?download=true",
                "md5": md5(TEST),
            },
            {"@type": "cr:FileSet", "includes": "*.jsonl"},
            {"@type": "cr:FileObject", "contentUrl": "in.csv", "containedIn": {"@id": "a.zip"}},
        ],
    },
    "dvc": [{"md5": md5(data), "relpath": name} for name, data in FILES.items()],
    "wandb": {
        "version": 1,
        "storagePolicy": "wandb-storage-policy-v1",
        "contents": {n: {"digest": b64(d), "size": len(d)} for n, d in FILES.items()},
    },
    "mosaic": {
        "version": 2,
        "shards": [
            {
                "raw_data": {
                    "basename": name,
                    "bytes": len(data),
                    "hashes": {"sha1": sha1(data), "xxh64": "00"},
                },
                "zip_data": None,
            }
            for name, data in FILES.items()
        ],
    },
    "datasets": {
        "default": {
            "download_checksums": {
                f"https://data.example/{n}": {"num_bytes": len(d), "checksum": sha256(d)}
                for n, d in FILES.items()
            }
        }
    },
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(content)
    return tmp_path / "data"


def held(data: Path, value: Any) -> conventions.Agreement:
    path = data.parent / "description.json"
    path.write_text(json.dumps(value))
    found = conventions.read(path)
    built = build([data], options=Options(digests=conventions.algorithms_of(found)))
    return conventions.hold(found, built)


@pytest.mark.parametrize("name", sorted(DESCRIPTIONS))
def test_files_are_held_to_each_description(data: Path, name: str) -> None:
    found = held(data, DESCRIPTIONS[name])
    assert found.convention == name
    assert len(found.agree) == 2
    assert found.holds
    (data / "train.jsonl").write_bytes(FILES["train.jsonl"].replace(b"1", b"7"))
    found = held(data, DESCRIPTIONS[name])
    assert len(found.differ) == len(found.agree) == 1
    assert not found.holds
    (data / "train.jsonl").unlink()
    assert len(held(data, DESCRIPTIONS[name]).missing) == 1


def test_whole_digests_are_those_conventions_take(data: Path) -> None:
    listed = json.dumps(sorted(DESCRIPTIONS["dvc"], key=lambda row: row["relpath"]), sort_keys=True)
    assert held(data, DESCRIPTIONS["dvc"]).whole == md5(listed.encode()) + ".dir"
    lines = "".join(f"{n}:{b64(d)}\n" for n, d in sorted(FILES.items()))
    expected = md5(b"wandb-artifact-manifest-v1\n" + lines.encode())
    assert held(data, DESCRIPTIONS["wandb"]).whole == expected


def test_what_says_nothing_of_a_file_is_not_called_agreement(data: Path) -> None:
    index = {"version": 2, "shards": [{"raw_data": {"basename": "train.jsonl", "hashes": {}}}]}
    assert held(data, index).unchecked == ("train.jsonl",)
    reference = {"digest": "some-etag", "ref": "s3://bucket/train.jsonl"}
    value = {**DESCRIPTIONS["wandb"], "contents": {"train.jsonl": reference}}
    assert held(data, value).unchecked == ("train.jsonl",)


def test_a_file_is_found_by_the_end_of_its_path_if_one_only_has_it(data: Path) -> None:
    row = {"md5": md5(TEST), "relpath": "any/where/sub/test.jsonl"}
    assert held(data, [row]).holds
    (data / "other").mkdir()
    (data / "other" / "test.jsonl").write_bytes(TEST)
    assert held(data, [row]).holds  # its folder's name tells it from the other
    assert held(data, [row | {"relpath": "test.jsonl"}]).missing == ("test.jsonl",)
    assert held(data, [row | {"relpath": "b/test.jsonl"}]).missing == ("b/test.jsonl",)


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        [{"md5": "short", "relpath": "a"}],
        [{"md5": "", "relpath": "a"}],
        [{"md5": None, "relpath": "a"}],
        {"distribution": ["a"]},
        {"distribution": {"@type": "FileObject"}},
        {"distribution": {"@type": "FileObject", "contentUrl": "a", "sha256": "xyz"}},
        {"storagePolicy": "x", "contents": []},
        {"storagePolicy": "x", "contents": {"a": {"digest": "???"}}},
        {"version": 1, "shards": []},
        {"version": 2, "shards": [1]},
        {"version": 2, "shards": [{"raw_data": 1}]},
        {"version": 2, "shards": [{"raw_data": {"basename": "a", "bytes": -1}}]},
        {"download_checksums": 1},
        {"download_checksums": {"u": 1}},
        {"download_checksums": {"http://[": {}}},
        {"features": {"a": 1}},
        {"features": [{"dtype": "x"}]},
        {"splits": {"train": {"num_examples": -1}}},
        {"distribution": {"@type": "FileObject", "contentUrl": "http://["}},
        {"distribution": [], "recordSet": [1]},
        {"distribution": [], "recordSet": [{"field": [{"subField": ["a"]}]}]},
    ],
)
def test_what_is_no_description_is_refused(data: Path, value: Any) -> None:
    with pytest.raises(FormatError, match=r"description\.json"):
        held(data, value)


def test_a_croissant_goes_out_and_comes_back(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    (data / "README.md").write_text("---\nlicense: mit\n---\n")
    assert run(["manifest", "data", "--croissant", "croissant.json"]) == 0
    value = json.loads(Path("croissant.json").read_text())
    assert value["license"] == "mit"
    assert [f.get("sha256") for f in value["distribution"]] == [
        sha256(FILES["sub/test.jsonl"]), sha256(FILES["train.jsonl"]), None,
    ]  # fmt: skip
    assert [f["name"] for f in value["recordSet"][0]["field"]] == ["a"]
    capsys.readouterr()
    assert run(["manifest", "data", "--against", "croissant.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["against"]["agree"] == 2
    (data / "train.jsonl").write_bytes(FILES["train.jsonl"] + b"\n")  # the same records
    assert run(["manifest", "data", "--against", "croissant.json"]) == 1
    assert "differ: train.jsonl" in capsys.readouterr().out
    assert run(["manifest", "data", "--private", "s", "--croissant", "x"]) == 2


# What the tools themselves write (`tests/data/conventions/make.py`)

WRITTEN = Path(__file__).parent.parent / "data" / "conventions"


def held_to(description: Path, data: Path) -> conventions.Agreement:
    found = conventions.read(description)
    built = build([data], options=Options(digests=conventions.algorithms_of(found)))
    return conventions.hold(found, built)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    made = runpy.run_path(str(WRITTEN / "make.py"))
    folder: Path = made["write_files"](tmp_path / "data")
    return folder


def test_what_dvc_wrote_is_held_to(written: Path) -> None:
    (listed,) = WRITTEN.glob("*.dir")
    found = held_to(listed, written)
    assert (found.convention, found.agree) == ("dvc", ("sub/test.jsonl", "train.jsonl"))
    assert found.whole == listed.name  # DVC calls the object by its digest
    assert found.holds


def test_what_wandb_wrote_is_held_to(written: Path) -> None:
    found = held_to(WRITTEN / "wandb_manifest.json", written)
    assert (found.convention, len(found.agree), found.holds) == ("wandb", 2, True)
    assert found.whole == (WRITTEN / "wandb_digest.txt").read_text().strip()


@pytest.mark.parametrize("name", ["mds", "mds_packed"])
def test_what_streaming_wrote_is_held_to(tmp_path: Path, name: str) -> None:
    shutil.copytree(WRITTEN / name, tmp_path / name)
    found = held_to(tmp_path / name / "index.json", tmp_path / name)
    shard = "shard.00000.mds" + (".gz" if name == "mds_packed" else "")
    assert (found.convention, found.agree, found.holds) == ("mosaic", (shard,), True)
    data = (tmp_path / name / shard).read_bytes()
    (tmp_path / name / shard).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert held_to(tmp_path / name / "index.json", tmp_path / name).differ == (shard,)


@pytest.mark.parametrize("name", ["dataset_info.json", "README.md"])
def test_what_datasets_wrote_is_held_to(written: Path, name: str) -> None:
    (written / "sub" / "test.jsonl").unlink()  # `datasets` was given the other file
    found = held_to(WRITTEN / name, written)
    assert found.convention == ("card" if name == "README.md" else "datasets")
    assert found.holds
    (written / "train.jsonl").write_text('{"a": 1}\n')
    found = held_to(WRITTEN / name, written)
    assert found.missing == ("the column t",)
    assert found.differ == ("the split train: 2 records described, 1 found",)


def test_several_configurations_say_nothing_of_splits(data: Path) -> None:
    one = {"features": {"z": {}}, "splits": {"train": {"num_examples": 9}}}
    assert held(data, {"a": one, "b": one}).holds
    found = held(data, {"a": one})
    assert (len(found.missing), len(found.differ)) == (1, 1)


HUB: Any = {
    "@type": "sc:Dataset",
    "distribution": [
        {
            "@type": "cr:FileObject", "@id": "repo", "name": "repo",
            "contentUrl": "https://hub.example/datasets/x/tree/refs%2Fconvert%2Fparquet",
            "encodingFormat": "git+https",
            "sha256": "https://github.com/mlcommons/croissant/issues/80",
        },
        {
            "@type": "cr:FileSet", "@id": "files", "containedIn": {"@id": "repo"},
            "encodingFormat": "application/jsonlines", "includes": "sub/*.jsonl",
        },
    ],
    "recordSet": {
        "@type": "cr:RecordSet", "@id": "default",
        "field": [
            {"@type": "cr:Field", "@id": "default/split", "source": {"fileSet": {"@id": "files"},
             "extract": {"fileProperty": "fullpath"}}},
            {"@type": "cr:Field", "@id": "default/a", "dataType": "cr:Int64",
             "source": {"fileSet": {"@id": "files"}, "extract": {"column": "a"}}},
        ],
    },
}  # fmt: skip
"""A repository, of which the hub's own descriptions say no digest, and files told by a pattern."""


def test_a_croissant_of_a_hub_is_held_to_files_and_columns(data: Path) -> None:
    assert held(data, HUB).holds
    (data / "sub" / "test.jsonl").rename(data / "test.jsonl")
    assert held(data, HUB).missing == ("files",)
    HUB["distribution"][1]["includes"] = ["nothing", "test.jsonl"]
    assert held(data, HUB).holds
    for path in data.rglob("*.jsonl"):
        path.write_text('{"b": 1}\n')
    assert held(data, HUB).missing == ("the column a",)


# Croissant by its own library


def columnar(folder: Path) -> list[dict[str, Any]]:
    """Write two Parquet files of one kind; return their rows."""
    rows = [
        {"id": n, "text": f"text {n}", "x": n / 4, "ok": n % 2 == 0, "odd name/\u00e9": n}
        for n in range(5)
    ]
    schema = pa.schema(
        {"id": pa.int32(), "text": pa.string(), "x": pa.float64(), "ok": pa.bool_(),
         "odd name/\u00e9": pa.uint8()}
    )  # fmt: skip
    for name, part in (("train 0.parquet", rows[:3]), ("train-1.parquet", rows[3:])):
        pa.parquet.write_table(pa.Table.from_pylist(part, schema), folder / name)
    return rows


def described(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """Describe a folder in a file of it, as the command line does."""
    path = folder / "croissant.json"
    built = build([folder], options=Options(kind, digests=("sha256", "md5"), licence="mit"))
    told = schemas.fields_by_file([folder], kind)
    path.write_bytes(conventions.croissant.write(built, folder.name, told))
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def test_a_croissant_tells_types_and_sets_of_files(tmp_path: Path) -> None:
    rows = columnar(tmp_path)
    (tmp_path / "records").write_bytes(b"a file of the name that the records would have")
    value = described(tmp_path)
    files = {f["@id"]: f for f in value["distribution"]}
    content = (tmp_path / "train 0.parquet").read_bytes()
    one = files["train_0.parquet"]
    assert (one["md5"], one["sha256"]) == (md5(content), sha256(content))
    assert one["contentSize"] == f"{len(content)} B"
    assert files["records--files"]["includes"] == ["train 0.parquet", "train-1.parquet"]
    (records,) = value["recordSet"]
    assert [(f["name"], f["dataType"]) for f in records["field"]] == list(
        zip(rows[0], ["cr:Int32", "sc:Text", "cr:Float64", "sc:Boolean", "cr:UInt8"], strict=True)
    )
    assert records["field"][0]["source"] == {
        "fileSet": {"@id": "records--files"}, "extract": {"column": "id"},
    }  # fmt: skip
    found = conventions.read(tmp_path / "croissant.json")
    assert found.columns == tuple(rows[0])
    assert held_to(tmp_path / "croissant.json", tmp_path).holds
    (tmp_path / "train-1.parquet").unlink()
    assert held_to(tmp_path / "croissant.json", tmp_path).missing == ("train-1.parquet",)


TYPES = [
    (pa.binary(), None), (pa.duration("s"), None), (pa.null(), None),
    (pa.map_(pa.string(), pa.int8()), None), (pa.list_(pa.list_(pa.int8())), None),
    (pa.struct({}), None), (pa.float16(), ("cr:Float16", False)),
    (pa.float32(), ("cr:Float32", False)), (pa.date32(), ("sc:Date", False)),
    (pa.timestamp("us", "UTC"), ("sc:DateTime", False)), (pa.time64("us"), ("sc:Time", False)),
    (pa.decimal128(5, 2), ("sc:Float", False)), (pa.list_(pa.int8()), ("cr:Int8", True)),
    (pa.dictionary(pa.int8(), pa.large_string()), ("sc:Text", False)),
    (pa.uint64(), ("cr:UInt64", False)), (pa.string_view(), ("sc:Text", False)),
]  # fmt: skip


def test_every_columnar_type_has_its_name_or_none(tmp_path: Path) -> None:
    for kind, expected in TYPES:
        path = tmp_path / "a.arrow"
        with pa.ipc.new_stream(path, pa.schema({"c": kind})):
            pass
        found = schemas.fields_of(Source("a.arrow", path, "arrow"))
        told = [(f.kind, f.repeated) for f in found]
        assert told == ([] if expected is None else [expected]), kind
    nested = pa.struct({"a": pa.int8(), "b": pa.binary()})
    with pa.ipc.new_file(path, pa.schema({"c": pa.list_(nested)})):
        pass
    (field,) = schemas.fields_of(Source("a.arrow", path, "arrow"))
    assert field == schemas.Field("c", None, True, (schemas.Field("a", "cr:Int8"),))
    path.write_bytes(b"no schema")
    with pytest.raises(FormatError, match="no schema"):
        schemas.fields_of(Source("a.arrow", path, "arrow"))


def test_the_first_records_of_json_tell_types(tmp_path: Path) -> None:
    records = [
        {"s": "a", "n": 1, "mixed": 1, "l": [1, 2], "o": {"x": 0.5}, "none": None, "ll": [[1]]},
        {"s": None, "n": 0.5, "mixed": "x", "l": [], "o": {"y": True}, "e": {}},
    ]
    expected = [
        ("s", "sc:Text", False), ("n", "sc:Float", False), ("l", "sc:Integer", True),
        ("o", None, False),
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join([*map(json.dumps, records), "no", "7"]))
    (tmp_path / "b.json").write_text(json.dumps(records))
    for name, kind in (("a.jsonl", "jsonl"), ("b.json", "json")):
        found = schemas.fields_of(Source(name, tmp_path / name, kind))
        assert [(f.name, f.kind, f.repeated) for f in found] == expected
        assert [(p.name, p.kind) for p in found[-1].parts] == [
            ("x", "sc:Float"), ("y", "sc:Boolean"),
        ]  # fmt: skip


def test_fields_of_each_format_are_told_by_how_they_are_found(tmp_path: Path) -> None:
    for name, text in (
        ("a.jsonl", json.dumps({"o": {"b": 1, "p": {"c": "x"}}, "l": [1.5]})),
        ("b.json", json.dumps([{"k": "v", "no name": 1}])),
        ("c.txt", "line\n"),
        ("d.tsv", "k\tv\n1\t2\n"),
    ):
        (tmp_path / name).write_text(text)
    value = described(tmp_path)
    found = {}
    for records in value["recordSet"]:
        for field in records["field"]:
            assert field["@id"] == f"{records['@id']}/{field['name']}"
            source = dict(field["source"])
            found[source.pop("fileObject")["@id"], field["name"]] = source
    assert found == {
        ("a.jsonl", "o"): {"extract": {"column": "o"}},
        ("a.jsonl", "l"): {"extract": {"column": "l"}},
        ("b.json", "k"): {"extract": {"jsonPath": "$[*].k"}},
        ("c.txt", "text"): {"extract": {"fileProperty": "lines"}},
        ("d.tsv", "k"): {"extract": {"column": "k"}},
        ("d.tsv", "v"): {"extract": {"column": "v"}},
    }
    outer, repeated = value["recordSet"][0]["field"]
    assert (repeated["repeated"], repeated["dataType"]) == (True, "sc:Float")
    assert "dataType" not in outer
    b, p = outer["subField"]
    assert (b["@id"], b["dataType"]) == ("records-0/o/b", "sc:Integer")
    assert p["subField"][0]["source"] == {
        "fileObject": {"@id": "a.jsonl"},
        "extract": {"column": "o"},
        "transform": {"jsonPath": "p.c"},
    }
    assert held_to(tmp_path / "croissant.json", tmp_path).holds


@pytest.mark.data_libraries
@pytest.mark.filterwarnings("ignore")
def test_mlcroissant_reads_the_records_of_what_is_written(tmp_path: Path) -> None:
    """Its library finds no fault, checks the SHA-256 and reads the records themselves."""
    library = pytest.importorskip("mlcroissant")

    def read(folder: Path, *names: str) -> list[dict[str, Any]]:
        described(folder)
        made = library.Dataset(jsonld=str(folder / "croissant.json"))
        assert made.metadata.issues.errors == set()
        found = made.records("records")
        ids = {n: f"records/{n.replace(' ', '_')}" for n in names}
        return [{n: plain(record[ids[n]]) for n in names} for record in found]

    def plain(value: Any) -> Any:
        value = value.decode() if isinstance(value, bytes) else value
        return value.item() if hasattr(value, "item") else value

    for name in ("columnar", "lines", "table", "text"):
        (tmp_path / name).mkdir()
    rows = columnar(tmp_path / "columnar")
    assert read(tmp_path / "columnar", *rows[0]) == rows
    lines = [{"a": n, "t": str(n) + "x", "o": {"b": n}, "l": [n]} for n in range(4)]
    for name, part in (("0.jsonl", lines[:2]), ("1.jsonl", lines[2:])):
        (tmp_path / "lines" / name).write_text("".join(json.dumps(r) + "\n" for r in part))
    found = read(tmp_path / "lines", "a", "t", "l", "o")
    assert found == [{**row, "o": {"records/o/b": row["o"]["b"]}} for row in lines]
    (tmp_path / "table" / "a.csv").write_text("k,v\nx,y\nz,w\n")
    assert read(tmp_path / "table", "k", "v") == [{"k": "x", "v": "y"}, {"k": "z", "v": "w"}]
    (tmp_path / "text" / "a.txt").write_text("one\ntwo\n")
    assert read(tmp_path / "text", "text") == [{"text": "one"}, {"text": "two"}]
    (tmp_path / "text" / "a.txt").write_text("one\ntwo, and more\n")
    made = library.Dataset(jsonld=str(tmp_path / "text" / "croissant.json"))
    with pytest.raises(library.GenerationError, match=r"Download\(a\.txt\)"):
        list(made.records("records"))


@pytest.mark.data_libraries
@pytest.mark.filterwarnings("ignore")
def test_mlcroissant_takes_json_and_what_has_no_columns(tmp_path: Path) -> None:
    library = pytest.importorskip("mlcroissant")
    (tmp_path / "a.json").write_text(json.dumps([{"a": 1, "b c": 2}, {"a": 3, "b c": 4}]))
    (tmp_path / "b.bin").write_bytes(b"bytes")
    value = described(tmp_path)
    assert [f["name"] for f in value["recordSet"][0]["field"]] == ["a"]
    made = library.Dataset(jsonld=str(tmp_path / "croissant.json"))
    assert made.metadata.issues.errors == set()
    assert [int(record["records/a"]) for record in made.records("records")] == [1, 3]
