"""Files of data sets that a fuzzer starts from, by the formats' own libraries."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

RECORDS: list[Any] = [
    {"id": 1, "text": "one two three four five six", "x": 0.5, "none": None},
    {"id": 2, "text": "caf\u00e9 \U0001f600 \"\\\n", "list": [1, [True], {"a": "b"}]},
    [1, "two", None], "three", 4.25, {},
]  # fmt: skip


def seeds(reader: str, beside: Path) -> list[bytes]:
    """Return the inputs that a reader's fuzzing starts from; put what lies beside them there."""
    makers: dict[str, Any] = {
        "jsonl": lambda: [_lines(RECORDS), _lines([{"n": n} for n in range(5)])],
        "json": lambda: [json.dumps(RECORDS, indent=1).encode(), _lines(RECORDS), b'{"a": [1]}'],
        "csv": lambda: [b'a,"b ""c"""\r\n1,"two\nlines"\r\n,\r\n', b"a\n1\n2\n"],
        "tsv": lambda: [gzip.compress(b"a\tb\n1\t2\n\n3\t\n")],
        "text": _text,
        "parquet": _parquet,
        "arrow": _arrow,
        "webdataset": _tar,
        "images": lambda: [_lines([{"file_name": "a.png", "label": "x", "n": 1}])],
        "images, table": lambda: [b"file_name,label\na.png,x\nc.jpg,y\n"],
        "card": lambda: [
            b"---\nlicense: mit\nsource_datasets: [a, b]\n---\n# Card\n",
            b"---\r\nlicense:\r\n- mit\r\nhomepage: https://a.example\r\n---",
        ],
        "saved state": lambda: _state(beside),
        "infos": lambda: [
            json.dumps({"default": {"license": "mit", "homepage": "h", "features": {}}}).encode()
        ],
        "manifest": _manifests,
        "proof": _proofs,
        "contribution": _contributions,
        "description": _descriptions,
    }
    return list(makers[reader]())


def _lines(records: list[Any]) -> bytes:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode()


def _text() -> list[bytes]:
    import zstandard

    return [zstandard.compress(b"one\r\ntwo\n\ncaf\xc3\xa9"), zstandard.compress(b"")]


def _tables() -> list[Any]:
    import datetime
    from decimal import Decimal

    import pyarrow as pa

    now = datetime.datetime(2026, 1, 31, tzinfo=datetime.UTC)
    first = pa.table(
        {
            "i": pa.array([1, None, 2**60]), "f": pa.array([0.5, float("nan"), None]),
            "s": pa.array(["a", "", None]).dictionary_encode(), "b": pa.array([b"x", None, b""]),
            "d": pa.array([Decimal("1.5"), None, None]), "t": pa.array([now, None, now]),
            "l": pa.array([[1], [], None]), "o": pa.array([{"a": 1}, None, {}]),
        }
    )  # fmt: skip
    views = pa.table(
        {
            "v": pa.array(["a" * 20, None], pa.string_view()), "z": pa.nulls(2),
            "m": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int8())),
            "fl": pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), "u": pa.array([True, None]),
        }
    )  # fmt: skip
    return [first, pa.table({"n": list(range(50))}), views]


def _parquet() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet

    made = []
    for table, packed in zip(_tables()[:2], ("snappy", "none"), strict=True):
        for is_told in (True, False):
            out = pa.BufferOutputStream()
            pa.parquet.write_table(
                table, out, compression=packed, store_schema=is_told, row_group_size=20
            )
            made.append(out.getvalue().to_pybytes())
    return made


def _arrow() -> list[bytes]:
    import pyarrow as pa

    made = []
    for table in _tables():
        for new in (pa.ipc.new_file, pa.ipc.new_stream):
            out = pa.BufferOutputStream()
            with new(out, table.schema) as writer:
                writer.write_table(table)
            made.append(out.getvalue().to_pybytes())
    return made


def _tar() -> list[bytes]:
    made = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
            for name in ("a/0.txt", "a/0.cls", "a/1.txt", "b" * 90 + "/x.y.json"):
                member = tarfile.TarInfo(name)
                member.size = len(name)
                archive.addfile(member, io.BytesIO(name.encode()))
        made.append(out.getvalue()[:6144])
    return made


def _state(beside: Path) -> list[bytes]:
    (beside / "data.arrow").write_bytes(_arrow()[3])
    value = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train",
             "_indices_data_files": None, "_fingerprint": "0", "_format_columns": None}  # fmt: skip
    return [json.dumps(value).encode()]


def _built(numbers: list[int], folder: Path, **options: Any) -> Any:
    from lineage import datasets

    path = folder / "a.manifest"
    datasets.build([[{"n": n} for n in numbers]], path, datasets.Options(**options))
    return datasets.load(path)


def _manifests() -> list[bytes]:
    from lineage import datasets

    made: list[bytes] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        made += [
            _built([1, 2, 2, 3], folder, **options).path.read_bytes()
            for options in ({}, {"near": True}, {"secret": bytes(32)})
        ]
        (folder / "b.jsonl").write_bytes(b'{"a": 1}\nno\n{"a": 2}\n')
        datasets.build([folder / "b.jsonl"], folder / "b.manifest", datasets.Options(skip_bad=True))
        made.append((folder / "b.manifest").read_bytes())
    return made


def _proofs() -> list[bytes]:
    from lineage.datasets import proving
    from lineage.manifests import canonical, record_digest

    made = []
    with tempfile.TemporaryDirectory() as place:
        old = _built(list(range(9)), Path(place))
        digest = record_digest(canonical({"n": 3}))
        made += [proving.prove_record(old, digest), proving.prove_record(old, bytes(32))]
        made.append(proving.prove_file(old, "memory-0"))
        (Path(place) / "new").mkdir()
        for numbers in ([1, 2, 3], [*range(9), 9], [1, 10]):
            new = _built(numbers, Path(place) / "new")
            made.append(proving.prove_change(old, new)[1])
            if set(range(9)) <= set(numbers):
                made.append(proving.prove_subset(old, new))
        hidden = _built([1, 2, 3], Path(place), secret=bytes(32))
        made.append(proving.prove_record(hidden, digest, bytes(32)))
    return made


def _contributions() -> list[bytes]:
    from fractions import Fraction

    from lineage.claims.contributions import Contribution
    from lineage.manifests import Head

    head = Head.over(bytes(32), 3, 2)
    made = Contribution(head, "alice", "labeller", "2026-01-31T09:30:00Z", Fraction(3, 2))
    return [made.to_bytes()]


def _descriptions() -> list[bytes]:
    digest, url = "0" * 64, "https://a.example/train.jsonl"
    infos = {"default": {"download_checksums": {url: {"num_bytes": 9, "checksum": digest}}}}
    return [
        json.dumps(value).encode()
        for value in (
            {"distribution": [
                {"@type": "cr:FileObject", "@id": "f", "contentUrl": "train.jsonl",
                 "sha256": digest, "contentSize": "9 B"},
                {"@type": "cr:FileObject", "contentUrl": url, "md5": "0" * 32},
            ], "identifier": "urn:model-lineage:dataset-root:v1:" + digest},
            [{"md5": "0" * 32, "relpath": "train.jsonl"}],
            {"storagePolicy": "s", "version": 1,
             "contents": {"train.jsonl": {"digest": "AAAAAAAAAAAAAAAAAAAAAA==", "size": 9}}},
            {"version": 2, "shards": [
                {"raw_data": {"basename": "train.jsonl", "bytes": 9, "hashes": {"sha1": "0" * 40}},
                 "zip_data": None}
            ]},
            infos,
        )
    ]  # fmt: skip
