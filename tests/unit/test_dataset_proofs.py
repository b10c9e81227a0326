"""Proofs made from manifests hold, say what is so, and cannot be bent."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st
from second import dataset as second

from lineage.datasets import Options, build, load, near, proving
from lineage.datasets.near import error_of, near_duplicates, shingles, sketches
from lineage.datasets.overlap import overlap, places
from lineage.datasets.readers import reader
from lineage.datasets.readers.base import Columns, Source
from lineage.datasets.stored import Manifest
from lineage.datasets.watched import WatchedFile
from lineage.errors import FormatError, VerificationError
from lineage.manifests import canonical, check, record_digest

SECRET = bytes(range(32))


def manifest_of(folder: Path, name: str, records: list[Any], **options: Any) -> Manifest:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    build([path], folder / f"{name}.manifest", Options(**options))
    return load(folder / f"{name}.manifest")


def digest_of(record: Any) -> bytes:
    return record_digest(canonical(record))


NUMBERS = st.lists(st.integers(0, 90), max_size=90)


@settings(max_examples=40)
@given(NUMBERS, NUMBERS)
def test_two_manifests_have_one_honest_proof(
    tmp_path_factory: pytest.TempPathFactory, a: list[int], b: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("proofs")
    old, new = (manifest_of(folder, name, part) for name, part in (("a", a), ("b", b)))
    kind, data = proving.prove_change(old, new)
    found = check(data)
    assert second.proof(data) == kind == found.kind
    before, after = Counter(a), Counter(b)
    changes = {digest_of(n): (before[n], after[n]) for n in before | after if before[n] != after[n]}
    assert {leaf.digest: (leaf.before, leaf.after) for leaf in found.changes} == changes
    assert (found.old, found.new) == (old.head, new.head)
    grows, shrinks = (
        any(x < y for x, y in changes.values()),
        any(x > y for x, y in changes.values()),
    )
    assert kind == ("change" if grows and shrinks else "removal" if shrinks else "append")
    if shrinks:
        with pytest.raises(VerificationError, match="no subset"):
            proving.prove_subset(old, new)
    else:
        data = proving.prove_subset(old, new)
        assert second.proof(data) == check(data).kind == "subset"
    value = json.loads(data)
    swapped = {**value, "old": value["new"], "new": value["old"]}
    if old.head != new.head:
        with pytest.raises(VerificationError, match="does not lead to the older root"):
            check(json.dumps(swapped, sort_keys=True, separators=(",", ":")).encode())


@settings(max_examples=40)
@given(NUMBERS, st.integers(0, 110))
def test_a_record_is_there_or_not(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], asked: int
) -> None:
    folder = tmp_path_factory.mktemp("proofs")
    manifest = manifest_of(folder, "a", numbers)
    data = proving.prove_record(manifest, digest_of(asked))
    found = check(data)
    assert found.kind == second.proof(data) == ("inclusion" if asked in numbers else "absence")
    assert (found.count, found.new) == (numbers.count(asked), manifest.head)
    other = "absence" if found.kind == "inclusion" else "inclusion"
    with pytest.raises(VerificationError):
        check(data.replace(found.kind.encode(), other.encode()))


def test_a_private_manifest_tells_nothing_and_opens_single_records(tmp_path: Path) -> None:
    records = [{"n": n % 30} for n in range(40)]
    plain = manifest_of(tmp_path, "plain", records)
    hidden = manifest_of(tmp_path, "hidden", records, secret=SECRET)
    assert hidden.header.hidden
    for shown in (plain.order, plain.entries[:, :32]):
        for digest in {row.tobytes() for row in shown}:
            assert digest not in hidden.path.read_bytes()
    assert bytes.fromhex(plain.rows[0]["blake3"]) != bytes.fromhex(hidden.rows[0]["blake3"])
    again = manifest_of(tmp_path, "again", records[::-1], secret=SECRET)
    assert again.head == hidden.head
    assert manifest_of(tmp_path, "other", records, secret=bytes(32)).head != hidden.head
    data = proving.prove_record(hidden, digest_of({"n": 3}), SECRET)
    found = check(data)
    assert (found.kind, found.count, found.digest) == ("inclusion", 2, digest_of({"n": 3}))
    assert second.proof(data) == "inclusion"
    with pytest.raises(FormatError, match="proves no absence"):
        proving.prove_record(hidden, digest_of({"n": 99}), SECRET)
    with pytest.raises(FormatError, match="proves no absence"):
        proving.prove_record(hidden, digest_of({"n": 3}), bytes(32))
    with pytest.raises(FormatError, match="the secret is needed"):
        proving.prove_record(hidden, digest_of({"n": 3}))
    with pytest.raises(FormatError, match="is not private"):
        proving.prove_record(plain, digest_of({"n": 3}), SECRET)
    fewer = manifest_of(tmp_path, "fewer", records[:-1], secret=SECRET)
    assert check(proving.prove_change(hidden, fewer)[1]).kind == "removal"
    for work in (proving.prove_change, proving.prove_subset, overlap):
        with pytest.raises(FormatError, match="private"):
            work(plain, hidden)
    with pytest.raises(ValueError, match="tell what"):
        build([records], options=Options(secret=SECRET, near=True))


def test_a_file_is_among_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for n in range(5):
        (folder / f"{n}.jsonl").write_text(f"{n}\n" * n)
    build([folder], tmp_path / "d.manifest")
    manifest = load(tmp_path / "d.manifest")
    for row in manifest.rows:
        data = proving.prove_file(manifest, row["name"])
        found = check(data)
        assert second.proof(data) == "file"
        assert found.file is not None
        assert found.file["blake3"] == row["blake3"]
        assert found.file["files_root"] == manifest.header.files_root.hex()
    with pytest.raises(FormatError, match="no file of the name 'x'"):
        proving.prove_file(manifest, "x")


def test_proofs_of_many_records_are_small(tmp_path: Path) -> None:
    records = [{"n": n} for n in range(20_000)]
    old = manifest_of(tmp_path, "old", records)
    new = manifest_of(tmp_path, "new", records[:100] + records[103:])
    assert len(proving.prove_record(old, digest_of({"n": 5}))) < 2500
    assert len(proving.prove_change(old, new)[1]) < 5000
    part = manifest_of(tmp_path, "part", records[:3])
    assert len(proving.prove_subset(part, old)) < 5000


# Overlap


@settings(max_examples=30)
@given(NUMBERS, NUMBERS)
def test_overlap_counts_what_both_have(
    tmp_path_factory: pytest.TempPathFactory, a: list[int], b: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("overlap")
    one, two = (manifest_of(folder, name, part) for name, part in (("a", a), ("b", b)))
    found = overlap(one, two)
    digests = [row.tobytes() for row in found.shared.digests]
    assert digests == sorted(digest_of(n) for n in set(a) & set(b))
    assert found.a_records == sum(n in b for n in a)
    assert found.b_records == sum(n in a for n in b)
    assert found.near_a is found.near_b is None
    rows = places(two, found.shared, 1000)
    assert [row["record"] for row in rows] == [i for i, n in enumerate(b) if n in a]
    assert places(two, found.shared, 1) == rows[:1]


def sentence(random: np.random.Generator, words: int) -> list[str]:
    return [f"w{n}" for n in random.integers(0, 10_000, words)]


def test_sketches_are_datasketchs_and_estimate_jaccard_within_their_error() -> None:
    random = np.random.default_rng(1)
    errors, expected = [], []
    for _ in range(60):
        words = sentence(random, 120)
        changed = list(words)
        for at in random.integers(0, 120, random.integers(0, 8)):
            changed[at] = "x"
        texts = [canonical({"text": " ".join(part)}) for part in (words, changed)]
        a, b = (shingles(text) for text in texts)
        truth = len(a & b) / len(a | b)
        found = np.frombuffer(sketches(texts), "<u4").reshape(2, 128)
        stock = MinHash.bulk([a, b], num_perm=128, seed=1)
        assert [row.tolist() for row in found] == [one.hashvalues.tolist() for one in stock]
        errors.append(stock[0].jaccard(stock[1]) - truth)
        expected.append(error_of(truth))
    bound = math.sqrt(float(np.mean(np.square(expected))))
    assert abs(float(np.mean(errors))) < 4 * bound / math.sqrt(len(errors))
    assert 0.7 * bound < float(np.std(errors)) < 1.3 * bound


def test_without_datasketch_it_is_said_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_text("no JSON\n")
    monkeypatch.setattr("lineage.datasets.near.empty", near.empty.__wrapped__)
    monkeypatch.setitem(sys.modules, "datasketch", None)
    for skips in (False, True):
        options = Options(near=True, skip_bad=skips)
        with pytest.raises(FormatError, match=r"need datasketch: pip install 'model-l.*\[data\]'"):
            build([tmp_path / "a.jsonl"], options=options)


@pytest.mark.parametrize("suffix", ["jsonl", "txt", "json", "csv"])
def test_jobs_of_very_short_records_are_small_where_these_are_sketched(
    tmp_path: Path, suffix: str
) -> None:
    """A megabyte of empty lines would be half a gigabyte of sketches."""
    count = 50_000
    text = "[" + ",".join("1" * count) + "]" if suffix == "json" else "1\n" * count
    path = tmp_path / f"a.{suffix}"
    path.write_text(text)
    source = Source(path.name, path, suffix if suffix != "txt" else "text", None)
    sizes = []
    with WatchedFile(path) as file:
        for job in reader(source.kind).jobs(file, source, lambda texts: bytes(512 * len(texts))):
            if not isinstance(job, Columns):
                done = job[0](*job[1])
                assert len(done.near) == 16 * len(done.digests)
                sizes.append(len(done.digests) // 32)
    assert max(sizes) <= 20_000
    assert sum(sizes) == count - (suffix == "csv")  # its first line names the column


def test_many_sketches_are_compared_as_by_datasketchs_own_index() -> None:
    """So many that they are compared in several parts, and several of them at once in each."""
    random = np.random.default_rng(4)
    others = random.integers(0, 2**32, (9000, 128), dtype=np.uint32)
    others[500:540] = others[500]
    ours = random.integers(0, 2**32, (9000, 128), dtype=np.uint32)
    copied = random.permutation(9000)[:6000]
    ours[:6000] = others[copied]
    changed = random.random((6000, 128)) < random.uniform(0, 0.3, (6000, 1))
    ours[:6000][changed] = random.integers(0, 2**32, int(changed.sum()), dtype=np.uint32)
    index = MinHashLSH(num_perm=128, params=(32, 4))
    for number, row in enumerate(others):
        index.insert(number, MinHash(hashvalues=row, scheme="affine32"))
    expected = {}
    for number, row in enumerate(ours):
        met = index.query(MinHash(hashvalues=row, scheme="affine32"))
        if met and (estimate := (others[met] == row).mean(axis=1).max()) >= 0.8:
            expected[number] = round(float(estimate), 4)
    found = near_duplicates(ours, others)
    assert {row: estimate for row, _, estimate in found.pairs} == expected
    assert found.count == len(expected) > 3000
    assert all((ours[row] == others[match]).mean() >= 0.8 for row, match, _ in found.pairs)


def test_near_duplicates_are_found_with_their_span(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    texts = [sentence(random, 80) for _ in range(60)]
    light = [[*text[:40], "changed", *text[41:]] for text in texts[:10]]  # 5 of 76 runs: J = .87
    heavy = [[w if n % 3 else "y" for n, w in enumerate(text)] for text in texts[10:20]]
    fresh = [sentence(random, 80) for _ in range(30)]
    rows = [
        [{"id": n, "text": " ".join(t)} for n, t in enumerate(part)]
        for part in (texts, [*light, *heavy, *fresh])
    ]
    train, test = (
        manifest_of(tmp_path, name, part, near=True) for name, part in zip("ab", rows, strict=True)
    )
    found = overlap(train, test)
    assert len(found.shared) == 0
    assert found.near_a is not None
    assert found.near_b is not None
    assert found.near_b.at_least <= found.near_b.count <= found.near_b.at_most
    assert found.near_b.at_most == 10
    assert {(row, match) for row, match, _ in found.near_b.pairs} <= {(n, n) for n in range(10)}
    assert found.near_b.count >= 8
    exact = near_duplicates(train.near, train.near)
    assert [(row, match, value) for row, match, value in exact.pairs] == [
        (n, n, 1.0) for n in range(60)
    ]


def test_records_without_words_are_compared_whole() -> None:
    assert shingles(b'{"n":1}') == {b'{"n":1}'}
    assert shingles(b'{"text":"One two"}') == {b"one two"}
    assert shingles(b'{"a":"\\"b\\":c","k":["d e","f"]}') == {b"b c d e f"}
