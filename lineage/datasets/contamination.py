"""How much of a test set's wording is in a training set: its runs of n words, looked up one by one.

A record of the test is contaminated if at least a given share of its runs of n words, and at least
one, is somewhere in the training text. With 13 words and any run this is GPT-3's rule, with 8 words
and a share of .7 that of PaLM. No manifest can tell it: both data sets are read.

Words are those of `near`: case and punctuation do not count. A run is within one string; a record
none of whose strings has n words is too short to tell, and is counted as that. A language that sets
no spaces has few words by this.

The runs of the test are in memory, some four million words of it at a time; the training set is
read once for each such part, on all cores. A run is looked up as what it is and not by a hash.

Sources: Brown et al., "Language models are few-shot learners" (2020), appendix C; Chowdhery et al.,
"PaLM" (2022), section 8.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any, final

import numpy as np

from lineage.datasets import finding
from lineage.datasets.near import strings_of
from lineage.datasets.readers import reader
from lineage.datasets.readers.base import Columns, Done, Near
from lineage.datasets.runs import UNKNOWN, Index, Numbers, index_of
from lineage.datasets.watched import WatchedFile
from lineage.digest import SIZE
from lineage.errors import FormatError

WORDS = 13

MAX_WORDS = 1 << 22
"""Words of the test set whose runs are in memory at once."""

WORTH_PROCESSES = 64 << 20
"""Bytes from which starting processes is worth it."""

_WAITING = 8
"""Jobs that are begun before the first is asked for."""

Progress = Callable[[int], None]


@final
@dataclass(frozen=True, slots=True)
class Place:
    """A record: its file, and its number there from 0."""

    file: str
    record: int


@final
@dataclass(frozen=True, slots=True)
class Tainted:
    """A record of the test that is contaminated.

    Args:
        place: The record.
        runs: How many runs of words it has.
        seen: How many of them are in the training set.
        training: The first record of the training set that has one of them.
    """

    place: Place
    runs: int
    seen: int
    training: Place


@final
@dataclass(frozen=True, slots=True)
class Contamination:
    """What of a test set is in a training set, by runs of words.

    Args:
        words: How many words a run has.
        share: The share of a record's runs from which it is contaminated; 0 for any.
        records: The records of the test.
        too_short: Those that have no run.
        count: Those that are contaminated.
        tainted: The first of these.
    """

    words: int
    share: Fraction
    records: int
    too_short: int
    count: int
    tainted: tuple[Tainted, ...]


def contamination(
    train: Iterable[Any],
    test: Iterable[Any],
    *,
    words: int = WORDS,
    share: Fraction = Fraction(0),
    limit: int = 1000,
    progress: Progress | None = None,
) -> Contamination:
    """Find the records of a test set whose wording is in a training set.

    Args:
        train: Paths, or data sets in memory that can be read more than once.
        test: Likewise.
        words: How many words a run has; at least 1.
        share: The share of a record's runs from which it is contaminated; 0 for any.
        limit: The most records to list.
        progress: Told of every byte read.

    Raises:
        FormatError: On whatever cannot be read; it names the file and the record.
    """
    if words < 1 or not 0 <= share <= 1:
        raise ValueError("expected at least one word, and a share from 0 to 1")
    train, test = list(train), list(test)
    files = _Files()
    too_short = count = 0
    tainted: list[Tainted] = []
    for part in _parts(_read(test, files, _spelled, progress), words):
        training = _Files()
        where = _looked_up(part.index, train, training, progress)
        runs, seen, first = part.counts(where)
        too_short += int((runs == 0).sum())
        for row in np.flatnonzero(seen).tolist():
            numbers = int(runs[row]), int(seen[row])
            if Fraction(numbers[1], numbers[0]) < share:
                continue
            count += 1
            if len(tainted) < limit:
                place = files.place(part.first + row)
                tainted.append(Tainted(place, *numbers, training.place(int(first[row]))))
    return Contamination(words, share, files.records, too_short, count, tuple(tainted))


@final
class _Files:
    """The files of a data set in order, and how many records each has so far."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._counts: list[int] = []
        self.records = 0

    def begin(self, name: str) -> None:
        """Come to the next file."""
        self._names.append(name)
        self._counts.append(0)

    def add(self, records: int) -> None:
        """Count records of the file."""
        self._counts[-1] += records
        self.records += records

    def place(self, number: int) -> Place:
        """Return the file of a record of the whole, and its number there."""
        starts = [0, *accumulate(self._counts)]
        at = bisect_right(starts, number) - 1
        return Place(self._names[at], number - starts[at])


def _read(
    paths: list[Any], files: _Files, ask: Near, progress: Progress | None
) -> Iterator[tuple[int, bytes]]:
    """Ask something of all records' texts; return, a job at a time, how many and the answer."""
    found = finding.find(paths, None)
    size = sum(s.path.stat().st_size for s in found.sources if s.path is not None)
    with _workers(size) as pool:
        for source in found.sources:
            files.begin(source.name)
            using = reader(source.kind)
            try:
                if source.path is None:
                    jobs = using.jobs(None, source, ask)  # type: ignore[arg-type]
                    for done in _done(jobs, pool, using.unit):
                        files.add(len(done.digests) // SIZE)
                        yield len(done.digests) // SIZE, done.near
                    continue
                with WatchedFile(source.path, progress) as file:
                    for done in _done(using.jobs(file, source, ask), pool, using.unit):
                        files.add(len(done.digests) // SIZE)
                        yield len(done.digests) // SIZE, done.near
                    file.finish()
            except FormatError as error:
                if error.file is None:
                    raise FormatError(error.reason, file=source.path or source.name) from error
                raise


def _workers(size: int) -> Executor:
    """Return processes, one a core, if it is worth to start them; else a thread."""
    if size > WORTH_PROCESSES:
        return ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))
    return ThreadPoolExecutor(1)


def _done(jobs: Iterator[Any], pool: Executor, unit: str) -> Iterator[Done]:
    """Run jobs a few at a time and return them in order; a bad record ends it."""
    running: deque[Future[Done]] = deque()
    lines = 0
    try:
        while True:
            for job in jobs:
                if not isinstance(job, Columns):
                    running.append(pool.submit(job[0], *job[1]))
                    if len(running) > _WAITING:
                        break
            if not running:
                return
            done = running.popleft().result()
            for number, reason in done.bad:
                raise FormatError(f"{unit} {lines + number + 1}: {reason}")
            lines += done.lines
            yield done
    finally:
        for future in running:
            future.cancel()


def _spelled(texts: list[bytes]) -> bytes:
    """Return the words of records: a line of JSON each, a list of strings' words."""
    return b"".join(json.dumps(strings_of(text)).encode() + b"\n" for text in texts)


@final
@dataclass(frozen=True, slots=True)
class _Part:
    """Some records of the test.

    Args:
        first: The number of the first.
        starts: Where each one's words begin among those of all, and where the last one's end.
        runs: The run that begins at each word.
        index: All runs.
    """

    first: int
    starts: Numbers
    runs: Numbers
    index: Index

    def counts(self, where: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Return each record's runs, those seen, and where the first of these was seen.

        Args:
            where: The record of the training set that has each run; `UNKNOWN` where none has.
        """
        size = len(self.starts) - 1
        at = np.flatnonzero(self.runs >= 0)
        record = np.searchsorted(self.starts, at, "right") - 1
        found = where[self.runs[at]]
        is_seen = found >= 0
        first = np.full(size, np.iinfo(np.int64).max)
        np.minimum.at(first, record[is_seen], found[is_seen])
        runs, seen = (np.bincount(r, minlength=size) for r in (record, record[is_seen]))
        return runs.astype(np.int64), seen.astype(np.int64), first


def _parts(jobs: Iterator[tuple[int, bytes]], length: int) -> Iterator[_Part]:
    """Return the test's records, so many at a time that their runs fit in memory."""
    numbers: dict[str, int] = {}
    words: list[int] = []
    starts = [0]
    first = 0
    for _, spelled in jobs:
        for line in spelled.splitlines():
            for string in json.loads(line):
                words += [numbers.setdefault(word, len(numbers)) for word in string]
                words.append(UNKNOWN)
            starts.append(len(words))
            if len(words) >= MAX_WORDS:
                yield _part(first, starts, words, numbers, length)
                first += len(starts) - 1
                numbers, words, starts = {}, [], [0]
    if len(starts) > 1:
        yield _part(first, starts, words, numbers, length)


def _part(
    first: int, starts: list[int], words: list[int], numbers: dict[str, int], length: int
) -> _Part:
    array = np.array(words, np.int64)
    index = index_of(length, numbers, array)
    return _Part(first, np.array(starts, np.int64), index.runs(array), index)


def _looked_up(index: Index, train: list[Any], files: _Files, progress: Progress | None) -> Numbers:
    """Return the first record of the training set that has each run; `UNKNOWN` where none has."""
    where = np.full(index.size(), UNKNOWN, np.int64)
    with tempfile.TemporaryDirectory(prefix="lineage-") as folder:
        index.save(Path(folder))
        ask = partial(_seen, index.length, folder)
        before = 0
        for records, answers in _read(train, files, ask, progress):
            for run, record in _answers(answers):
                is_new = where[run] == UNKNOWN
                where[run[is_new]] = before + record[is_new]
            before += records
    _index.cache_clear()
    return where


@lru_cache(maxsize=1)
def _index(length: int, folder: str) -> Index:
    """Return the saved index, read once a process; the folder is of one search only."""
    return Index.load(length, Path(folder))


def _seen(length: int, folder: str, texts: list[bytes]) -> bytes:
    """Return the runs that some records have, each with the first that has it.

    Readers put the answers of one job behind each other: each is the number of records, that of
    runs, the runs, and the record of each by its number among these.
    """
    index = _index(length, folder)
    words: list[int] = []
    starts = []
    for text in texts:
        starts.append(len(words))
        for string in strings_of(text):
            if len(string) >= length:
                words += [index.numbers.get(word, UNKNOWN) for word in string]
                words.append(UNKNOWN)
    runs = index.runs(np.array(words, np.int64))
    at = np.flatnonzero(runs >= 0)
    found, first = np.unique(runs[at], return_index=True)
    record = np.searchsorted(np.array(starts), at[first], "right") - 1
    counts = np.array([len(texts), len(found)])
    return np.concatenate([counts, found, record]).astype("<i8").tobytes()


def _answers(data: bytes) -> Iterator[tuple[Numbers, Numbers]]:
    """Return the runs of each answer, and their records by number among those of the job."""
    numbers = np.frombuffer(data, "<i8")
    at = before = 0
    while at < len(numbers):
        records, count = numbers[at : at + 2].tolist()
        runs, record = numbers[at + 2 : at + 2 + 2 * count].reshape(2, count)
        yield runs, record + before
        before += records
        at += 2 + 2 * count
