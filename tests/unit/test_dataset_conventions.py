"""What others say of a data set's files is held to the files."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from lineage.cli import run
from lineage.datasets import Options, build, conventions
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


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        [{"md5": "short", "relpath": "a"}],
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
    assert [f["sha256"] for f in value["distribution"]] == [
        sha256(FILES["sub/test.jsonl"]), sha256(FILES["train.jsonl"]),
    ]  # fmt: skip
    capsys.readouterr()
    assert run(["manifest", "data", "--against", "croissant.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["against"]["agree"] == 2
    (data / "train.jsonl").write_bytes(FILES["train.jsonl"] + b"\n")  # the same records
    assert run(["manifest", "data", "--against", "croissant.json"]) == 1
    assert "differ: train.jsonl" in capsys.readouterr().out
    assert run(["manifest", "data", "--private", "s", "--croissant", "x"]) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mlcroissant_takes_what_is_written(data: Path) -> None:
    library = pytest.importorskip("mlcroissant")
    built = build([data], options=Options(digests=("sha256",), licence="mit"))
    path = data / "croissant.json"
    path.write_bytes(conventions.croissant.write(built, "data"))
    made = library.Dataset(jsonld=str(path))
    assert [f.sha256 for f in made.metadata.distribution] == [
        built.digests[row["name"]]["sha256"] for row in built.rows
    ]
    assert made.metadata.issues.errors == set()
