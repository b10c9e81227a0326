"""Contamination by runs of words: what a plain search of the texts finds, and no more."""

from __future__ import annotations

import json
import random
import re
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineage.datasets import contamination as rooms
from lineage.datasets.contamination import Place, contamination
from lineage.errors import FormatError

WORD = st.sampled_from(["a", "b", "c", "d"])
STRING = st.lists(WORD, max_size=9).map(" ".join)
RECORD = STRING | st.fixed_dictionaries({"q": STRING, "a": STRING}) | st.integers(0, 3)
RECORDS = st.lists(RECORD, max_size=6)


def strings(record: Any) -> list[str]:
    if isinstance(record, dict):
        return [record[name] for name in sorted(record)]
    return [record] if isinstance(record, str) else []


def runs(record: Any, length: int) -> list[tuple[str, ...]]:
    found = []
    for string in strings(record):
        words = re.findall(r"\w+", string.lower())
        found += [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
    return found


@settings(max_examples=150)
@given(RECORDS.filter(bool), RECORDS.filter(bool), st.integers(1, 8), st.fractions(0, 1))
def test_it_finds_what_a_plain_search_finds(
    train: list[Any], test: list[Any], words: int, share: Fraction
) -> None:
    known: dict[tuple[str, ...], int] = {}
    for number, record in enumerate(train):
        for run in runs(record, words):
            known.setdefault(run, number)
    expected = []
    for number, record in enumerate(test):
        mine = runs(record, words)
        hits = [known[run] for run in mine if run in known]
        if hits and Fraction(len(hits), len(mine)) >= share:
            expected.append((number, len(mine), len(hits), min(hits)))
    for at_once in (1, 1 << 20):  # in as many parts as there are records, and in one
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rooms, "MAX_WORDS", at_once)
            found = contamination([train], [test], words=words, share=share)
        assert found.records == len(test)
        assert found.too_short == sum(not runs(record, words) for record in test)
        assert found.count == len(expected)
        listed = [(t.place.record, t.runs, t.seen, t.training.record) for t in found.tainted]
        assert listed == expected


def sentence(rng: random.Random, length: int) -> list[str]:
    return [f"w{rng.randrange(5000)}" for _ in range(length)]


def test_records_are_told_by_file_and_number_whatever_the_format(tmp_path: Path) -> None:
    rng = random.Random(1)
    texts = [sentence(rng, 60) for _ in range(40)]
    for folder, part in (("train", texts[:30]), ("test", texts[30:])):
        (tmp_path / folder).mkdir()
        rows = [{"id": n, "text": " ".join(text)} for n, text in enumerate(part)]
        half = len(rows) // 2
        lines = "".join(json.dumps(row) + "\n" for row in rows[:half])
        (tmp_path / folder / "0.jsonl").write_text(lines)
        pa.parquet.write_table(pa.Table.from_pylist(rows[half:]), tmp_path / folder / "1.parquet")
    copied = texts[20][5:30]  # 25 words in a row: 13 runs of 13, of the 48 of a record
    leaked = {"id": 99, "text": "Before, " + ", ".join(copied).upper() + "! after it " + "x " * 30}
    (tmp_path / "test" / "2.json").write_text(json.dumps([{"id": 7, "text": "too short"}, leaked]))
    found = contamination([tmp_path / "train"], [tmp_path / "test"])
    assert (found.records, found.too_short, found.count) == (12, 1, 1)
    (tainted,) = found.tainted
    assert tainted.place == Place("2.json", 1)
    assert tainted.training == Place("1.parquet", 5)
    assert (tainted.seen, tainted.runs) == (13, 46)
    paths = [tmp_path / "train"], [tmp_path / "test"]
    assert contamination(*paths, words=8, share=Fraction("0.7")).count == 0  # PaLM's rule
    assert contamination(*paths, words=8, share=Fraction(18, 51)).count == 1
    assert contamination(*paths, words=26).count == 0
    assert contamination(*paths, limit=0).tainted == ()


def test_many_row_groups_are_one_file(tmp_path: Path) -> None:
    """A job may be several batches: records are told by their number in the file all the same."""
    rng = random.Random(4)
    rows = [{"text": " ".join(sentence(rng, 20))} for _ in range(200)]
    for name, size in (("train", 7), ("test", 3)):
        part = rows if name == "train" else rows[::9]
        table = pa.Table.from_pylist(part)
        pa.parquet.write_table(table, tmp_path / f"{name}.parquet", row_group_size=size)
    found = contamination([tmp_path / "train.parquet"], [tmp_path / "test.parquet"])
    places = [(t.place.record, t.training.record) for t in found.tainted]
    assert places == [(n, 9 * n) for n in range(23)]
    assert found.count == found.records == 23


def test_other_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(2)
    texts = [" ".join(sentence(rng, 30)) for _ in range(300)]
    for name, part in (("train", texts[:200]), ("test", texts[150:])):
        (tmp_path / f"{name}.txt").write_text("\n".join(part))
    given_ = [tmp_path / "train.txt"], [tmp_path / "test.txt"]
    expected = contamination(*given_)
    assert expected.count == 50
    assert [t.training.record for t in expected.tainted] == list(range(150, 200))
    monkeypatch.setattr(rooms, "WORTH_PROCESSES", 0)
    assert contamination(*given_) == expected


def test_memory_is_bounded_by_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training set of 16 MB takes no more than one of 4: it is streamed."""
    rng = np.random.default_rng(3)
    words = [f"w{n}" for n in range(20_000)]
    text = [" ".join(words[i] for i in rng.integers(0, len(words), 100)) for _ in range(500)]
    (tmp_path / "test.txt").write_text("\n".join(text[:50]))
    peaks = []
    for times in (16, 64):
        with (tmp_path / "train.txt").open("w") as file:
            for _ in range(times):
                file.write("\n".join(text) + "\n")
        monkeypatch.setattr("lineage.datasets.readers.base.PIECE", 1 << 18)
        tracemalloc.start()
        found = contamination([tmp_path / "train.txt"], [tmp_path / "test.txt"])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.count == 50
    assert peaks[1] < 1.3 * peaks[0]


def test_what_cannot_be_read_or_asked_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": 1, "a": 2}\n')
    (tmp_path / "b.jsonl").write_text('{"a": "one two"}\n')
    both = [tmp_path / "a.jsonl"], [tmp_path / "b.jsonl"]
    for first, second in (both, both[::-1]):
        with pytest.raises(FormatError, match=r"a\.jsonl: line 2: the key 'a' twice"):
            contamination(first, second)
    with pytest.raises(FormatError, match="memory-0: record 1: a value of type object"):
        contamination([[object()]], [["one two"]], words=2)
    for options in ({"words": 0}, {"share": Fraction(-1)}, {"share": Fraction(2)}):
        with pytest.raises(ValueError, match="at least one word"):
            contamination([["a"]], [["a"]], **options)  # type: ignore[arg-type]
