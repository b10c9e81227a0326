"""A manifest whose making was broken off is finished from there, and is the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lineage.datasets import Options, build, load
from lineage.datasets.readers import base, json_lines
from lineage.datasets.resuming import Journal, partial_of
from lineage.datasets.watched import WatchedFile
from lineage.errors import FormatError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three files of some jobs each."""
    monkeypatch.setattr(base, "PIECE", 200)
    data = tmp_path / "data"
    data.mkdir()
    for name in "abc":
        lines = (json.dumps({"n": n, "of": name if n % 3 else "any"}) for n in range(240))
        (data / f"{name}.jsonl").write_text("\n".join(lines))
    return data


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The lines that were digested."""
    seen: list[bytes] = []
    digest = json_lines.digest

    def watched(lines: bytes, near: Any) -> Any:
        seen.append(lines)
        return digest(lines, near)

    monkeypatch.setattr(json_lines, "digest", watched)
    return seen


def broken_off(folder: Path, output: Path, after: int, how: Options | None = None) -> None:
    """Make a manifest until so many bytes are read."""
    read = 0

    def interrupt(count: int) -> None:
        nonlocal read
        read += count
        if read > after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build([folder], output, how, interrupt)
    assert not output.exists()


SECRET = bytes(range(32))


@pytest.mark.parametrize("after", [0, 3000, 7000, 9000, 13000])
@pytest.mark.parametrize(
    "how", [Options(), Options(near=True), Options(secret=SECRET), Options(digests=("md5",))]
)
def test_what_is_done_is_not_done_again(
    folder: Path, tmp_path: Path, jobs: list[bytes], after: int, how: Options
) -> None:
    whole = build([folder], tmp_path / "whole.manifest", how)
    all_jobs = len(jobs)
    jobs.clear()
    output = tmp_path / "out" / "a.manifest"
    broken_off(folder, output, after, how)
    jobs.clear()
    read: list[int] = []
    assert build([folder], output, how, read.append) == whole
    assert output.read_bytes() == (tmp_path / "whole.manifest").read_bytes()
    assert load(output).head == whole.header.head
    assert sum(read) == sum(path.stat().st_size for path in folder.iterdir())
    assert len(jobs) == all_jobs if not after else len(jobs) < all_jobs
    assert [path.name for path in output.parent.iterdir()] == ["a.manifest"]


def test_files_that_were_read_whole_are_not_opened(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "a.manifest"
    sizes = [path.stat().st_size for path in sorted(folder.iterdir())]
    broken_off(folder, output, sum(sizes[:2]) + 300)
    opened: list[str] = []
    watched = WatchedFile.__init__

    def counted(self: WatchedFile, path: Path, *rest: Any) -> None:
        opened.append(path.name)
        watched(self, path, *rest)

    monkeypatch.setattr(WatchedFile, "__init__", counted)
    build([folder], output)
    assert opened == ["c.jsonl"]


def test_bad_records_are_told_again(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "a.jsonl").read_text().split("\n")
    lines[3] = "no"
    (folder / "a.jsonl").write_text("\n".join(lines))
    how = Options(skip_bad=True)
    whole = build([folder], options=how)
    assert [row["where"] for row in whole.skipped] == ["line 4"]
    broken_off(folder, tmp_path / "a.manifest", 7000, how)
    assert build([folder], tmp_path / "a.manifest", how) == whole


def other_options(folder: Path, partial: Path) -> Options:
    return Options(skip_bad=True)


def changed_file(folder: Path, partial: Path) -> Options:
    (folder / "a.jsonl").write_text((folder / "a.jsonl").read_text().replace("1", "2"))
    return Options()


def another_file(folder: Path, partial: Path) -> Options:
    (folder / "0.jsonl").write_text("{}")
    return Options()


def broken_digests(folder: Path, partial: Path) -> Options:
    data = bytearray((partial / "order").read_bytes())
    data[0] ^= 1
    (partial / "order").write_bytes(data)
    return Options()


def lost_digests(folder: Path, partial: Path) -> Options:
    (partial / "order").unlink()
    return Options()


def broken_journal(folder: Path, partial: Path) -> Options:
    data = (partial / "journal").read_bytes()
    (partial / "journal").write_bytes(data.replace(b'"lines":', b'"line":'))
    return Options()


def other_types(folder: Path, partial: Path) -> Options:
    data = (partial / "journal").read_bytes()
    (partial / "journal").write_bytes(re.sub(rb'"records":(\d+)', rb'"records":"\1"', data))
    return Options()


def cut_key(folder: Path, partial: Path) -> Options:
    (partial / "journal").write_bytes((partial / "journal").read_bytes()[:30])
    return Options()


@pytest.mark.parametrize(
    "change",
    [
        other_options, changed_file, another_file, broken_digests, lost_digests, broken_journal,
        other_types, cut_key,
    ],
)  # fmt: skip
def test_whatever_is_otherwise_begins_anew(
    folder: Path, tmp_path: Path, jobs: list[bytes], change: Callable[[Path, Path], Options]
) -> None:
    output = tmp_path / "a.manifest"
    broken_off(folder, output, 9000)
    how = change(folder, partial_of(output))
    jobs.clear()
    expected = build([folder], options=how)
    all_jobs = len(jobs)
    jobs.clear()
    assert build([folder], output, how) == expected
    assert len(jobs) == all_jobs


def test_a_line_that_was_cut_costs_its_job(folder: Path, tmp_path: Path, jobs: list[bytes]) -> None:
    output = tmp_path / "a.manifest"
    broken_off(folder, output, 9000)
    path = partial_of(output) / "journal"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:-5])
    expected = build([folder])
    jobs.clear()
    assert build([folder], output) == expected
    assert 0 < len(jobs) < len(lines)


def test_one_run_at_a_time(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.manifest"
    held = Journal(partial_of(output), b"")
    with pytest.raises(FormatError, match="another run is writing this manifest"):
        build([folder], output)
    held.close(is_over=True)
    assert build([folder], output).header.files == 3


def test_what_is_in_memory_or_fails_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    def records() -> Any:
        yield {"n": 1}
        raise KeyboardInterrupt

    output = tmp_path / "out" / "a.manifest"
    with pytest.raises(KeyboardInterrupt):
        build([records()], output)
    (folder / "b.jsonl").write_text("no")
    with pytest.raises(FormatError, match="line 1"):
        build([folder], output)
    assert list(output.parent.iterdir()) == []


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """Nothing that a process does as it ends is needed."""
    data = tmp_path / "data"
    data.mkdir()
    for name in "ab":
        (data / f"{name}.jsonl").write_text("".join(f'{{"{name}":{n}}}\n' for n in range(1000)))
    killed = (
        "import os, sys; from pathlib import Path; from lineage.datasets import build\n"
        "def stop(n, seen=[]):\n"
        "    seen.append(n)\n"
        "    if len(seen) > 1: os.kill(os.getpid(), 9)\n"
        "build([Path(sys.argv[1])], Path(sys.argv[2]), progress=stop)"
    )
    output = tmp_path / "a.manifest"
    ended = subprocess.run([sys.executable, "-c", killed, data, output], check=False)
    assert ended.returncode == -9
    assert len((partial_of(output) / "journal").read_bytes().splitlines()) == 3
    assert build([data], output) == build([data])
    assert not partial_of(output).exists()
