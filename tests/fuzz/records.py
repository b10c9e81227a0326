"""What is fuzzed of data sets: readers, saved manifests, proofs, other descriptions."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mutators
from targets import Target, one_file

JSON = (
    b'{"',
    b'":',
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b'"',
    b"null",
    b"true",
    b"-0",
    b"-0.0",
    b"1e999",
    b"1e-400",
    b"NaN",
    b"Infinity",
    b"9007199254740993",
    b"\\ud800",
    b"\\u0000",
    b"\\u00e9",
    b'"a":1,"a":2',
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xf0\x9f\x98\x80",
    b"\n",
    b"\r\n",
    b"[" * 200,
    b"1" * 400,
)
TABLE = (
    b",",
    b"\t",
    b'"',
    b'""',
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b'"\n"',
    b"\xef\xbb\xbf",
    b"\xff",
    b"a,a\n",
)
PARQUET = (b"PAR1", b"PARE", b"ARROW:schema", b"\x15\0", b"\x15\xff\xff\xff\xff\x0f", b"\x19\x1c")
ARROW = (b"ARROW1", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"ARROW:extension:name")
TAR = (
    b"ustar\0",
    b"../",
    b"/",
    b".",
    b"__key__",
    b"L",
    b"x",
    b"g",
    b"2",
    b"5",
    b"\x80\xff",
    b"\xff" * 8,
    b"path=../a\n",
    b"size=1\n",
    b"GNU.sparse.map=0,1\n",
    b"S",
)
TOLD = (
    b'"sha256"',
    b'"md5"',
    b'"contentSize"',
    b'"contentUrl"',
    b'"FileObject"',
    b'"distribution"',
    b'"shards"',
    b'"raw_data"',
    b'"hashes"',
    b'"contents"',
    b'"digest"',
    b'"ref"',
    b'"identifier"',
    b'"containedIn"',
    b"http://[",
    b"../x",
    b"%00",
    b"urn:model-lineage:dataset-root:v1:",
)
CARD = (
    b"---\n",
    b"license: ",
    b"source_datasets:",
    b"homepage: ",
    b"- ",
    b"&a ",
    b"*a",
    b"!!python/name:os",
    b"? ",
    b"[",
    b"{",
    b"<<: *a",
    b"2020-99-99",
    b"\xff",
    b"|\n",
    b"dataset_info:",
)


_WHOLE = 16
"""One of so many inputs goes the whole way, with its threads, which take their time."""


def _records(kind: str) -> Callable[[Path, bytes], None]:
    """Read as a data set: job by job, or the whole way, and what was saved is loaded."""

    def read(given: Path, data: bytes) -> None:
        from lineage import datasets

        if len(data) % _WHOLE:
            _jobs([given], kind)
        else:
            output = given.with_suffix(".manifest")
            datasets.build([given], output, datasets.Options(kind, skip_bad=True))
            datasets.load(output)

    return read


def _jobs(paths: list[Path], kind: str | None) -> None:
    """Find files and do their readers' jobs, one after the other."""
    from lineage.datasets import finding
    from lineage.datasets.near import sketches
    from lineage.datasets.readers import reader
    from lineage.datasets.readers.base import Columns
    from lineage.datasets.watched import WatchedFile

    for source in finding.find(paths, kind).sources:
        assert source.path is not None
        with WatchedFile(source.path) as file:
            near = sketches if file.expected < 500 else None
            for job in reader(source.kind).jobs(file, source, near):
                if not isinstance(job, Columns):
                    job[0](*job[1])
            file.finish()


def _manifest(given: Path, data: bytes) -> None:
    from lineage import datasets
    from lineage.cli.data import manifest_text
    from lineage.datasets import overlap, proving
    from lineage.datasets.stored import json_of
    from lineage.errors import VerificationError
    from lineage.manifests import check

    found = datasets.load(given)
    manifest_text({**json_of(found), "skipped_records": list(found.skipped)})
    shared = overlap.overlap(found, found)
    overlap.places(found, shared.shared, 3)
    if not found.header.hidden:
        check(proving.prove_record(found, bytes(32)))
    with contextlib.suppress(VerificationError):
        proving.prove_change(found, found)


def _proof(given: Path, data: bytes) -> None:
    from lineage.errors import VerificationError
    from lineage.manifests import check

    with contextlib.suppress(VerificationError):
        check(data)


def _contribution(given: Path, data: bytes) -> None:
    from lineage.claims import contributions

    contributions.from_bytes(data)


def _description(given: Path, data: bytes) -> None:
    from lineage.datasets import conventions

    found = conventions.read(given)
    conventions.algorithms_of(found)
    conventions.hold(found, _held(given.parent)).to_json()


@functools.cache
def _held(folder: Path) -> Any:
    """Two small files whose hashes are all known."""
    from lineage import datasets
    from lineage.datasets.conventions.base import ALGORITHMS

    inner = folder / "held"
    inner.mkdir(exist_ok=True)
    for name in ("train.jsonl", "test.jsonl"):
        (inner / name).write_text('{"a": 1}\n')
    return datasets.build([inner], options=datasets.Options(digests=tuple(ALGORITHMS)))


def _folder(name: str, *others: tuple[str, bytes], kind: str | None = None) -> dict[str, Any]:
    """A folder in which the input has a name beside what lies there."""

    def lay(folder: Path, data: bytes) -> Path:
        inner = folder / "data"
        if not inner.is_dir():
            for other, content in others:
                (inner / other).parent.mkdir(parents=True, exist_ok=True)
                (inner / other).write_bytes(content)
            arrow = folder / "data.arrow"
            if arrow.is_file():
                arrow.rename(inner / "data-00000-of-00001.arrow")
        (inner / name).write_bytes(data)
        return inner

    def read(given: Path, data: bytes) -> None:
        from lineage import datasets

        if len(data) % _WHOLE:
            _jobs([given], kind)
        else:
            datasets.build([given], options=datasets.Options(kind, skip_bad=True))

    return {"lay": lay, "read": read}


_IMAGES = (("a.png", b"a"), ("train/b.png", b"b"), ("c.jpg", b"c"))

TARGETS: dict[str, Target] = {
    "jsonl": Target(
        one_file(".jsonl"),
        mutators.words(mutators.lines(mutators.json_text), JSON),
        read=_records("jsonl"),
    ),
    "json": Target(
        one_file(".json"), mutators.words(mutators.json_text, JSON), read=_records("json")
    ),
    "csv": Target(one_file(".csv"), mutators.words(mutators.blind, TABLE), read=_records("csv")),
    "tsv": Target(
        one_file(".tsv.gz"),
        mutators.gzipped(mutators.words(mutators.blind, TABLE)),
        read=_records("tsv"),
    ),
    "text": Target(one_file(".txt.zst"), mutators.numbers(mutators.blind), read=_records("text")),
    "parquet": Target(
        one_file(".parquet"),
        mutators.numbers(mutators.words(mutators.parquet, PARQUET)),
        read=_records("parquet"),
    ),
    "arrow": Target(
        one_file(".arrow"),
        mutators.numbers(mutators.words(mutators.blind, ARROW)),
        read=_records("arrow"),
    ),
    "webdataset": Target(
        one_file(".tar"), mutators.words(mutators.tar, TAR), read=_records("webdataset")
    ),
    "images": Target(
        mutate=mutators.words(mutators.lines(mutators.json_text), (*JSON, *TABLE)),
        **_folder("metadata.jsonl", *_IMAGES, kind="image"),
    ),
    "images, table": Target(
        mutate=mutators.words(mutators.blind, TABLE),
        **_folder("metadata.csv", *_IMAGES, kind="image"),
    ),
    "card": Target(
        mutate=mutators.words(mutators.blind, CARD),
        **_folder("README.md", ("a.jsonl", b'{"a": 1}\n')),
    ),
    "saved state": Target(
        mutate=mutators.words(mutators.json_text, JSON),
        **_folder("state.json", ("dataset_info.json", b"{}")),
    ),
    "infos": Target(
        mutate=mutators.words(mutators.json_text, JSON),
        **_folder("dataset_infos.json", ("a.jsonl", b'{"a": 1}\n')),
    ),
    "manifest": Target(one_file(".manifest"), mutators.manifest, read=_manifest),
    "proof": Target(one_file(".json"), mutators.proof, read=_proof),
    "contribution": Target(
        one_file(".json"), mutators.canonical(mutators.json_text), read=_contribution
    ),
    "description": Target(
        one_file(".json"), mutators.words(mutators.json_text, (*JSON, *TOLD)), read=_description
    ),
}
