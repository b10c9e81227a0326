"""Files are written whole; what is no file stays what it is."""

from __future__ import annotations

import errno
import os
import stat
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from lineage.files import write_all, write_whole


def test_a_file_is_replaced_whole_or_left(tmp_path: Path) -> None:
    path = tmp_path / "made"
    write_whole(path, b"old")

    def broken() -> object:
        yield b"new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_all(path, broken())  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    write_whole(path, b"n", b"ew")
    assert path.read_bytes() == b"new"
    assert [one.name for one in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("calls", [(), ("posix_fallocate",), ("posix_fallocate", "posix_fadvise")])
@pytest.mark.parametrize("fails", [True, False])
def test_chunks_of_any_size_are_written_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: tuple[str, ...], fails: bool
) -> None:
    """Whether the system can be told of a large file before, or not, or refuses to hear it."""

    def refuses(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no such call here")

    for name in calls:
        if fails:
            monkeypatch.setattr(os, name, refuses, raising=False)
        else:
            monkeypatch.delattr(os, name, raising=False)
    whole = os.urandom(21 << 20)
    cuts = [0, 1, 1, 5000, 1 << 20, (3 << 20) + 1, *range(4 << 20, 6 << 20, 8 << 10), 18 << 20]
    chunks = [memoryview(whole)[a:b] for a, b in pairwise([*cuts, len(whole)])]
    path = tmp_path / "made"
    for given in (tuple(chunks), iter(chunks), [bytes(chunk) for chunk in chunks], [whole], []):
        write_all(path, given)
        assert path.read_bytes() == (b"" if given == [] else whole)
    write_whole(path, *chunks)
    assert path.read_bytes() == whole


def test_a_disk_that_is_full_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "made"
    write_whole(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(path, *[bytes(1 << 20)] * 9)
    assert caught.value.filename == str(path)
    assert [one.name for one in tmp_path.iterdir()] == ["made"]
    assert path.read_bytes() == b"old"


def test_what_is_no_file_is_written_to_and_stays(tmp_path: Path) -> None:
    """As root, /dev/null would else become a file that grows."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard: list[bytes] = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, b"one", b"two")
    reader.join()
    assert heard == [b"onetwo"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert [one.name for one in tmp_path.iterdir()] == ["pipe"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    link, target = tmp_path / "link", tmp_path / "inside" / "made"
    link.symlink_to(target)
    for text in (b"first", b"second"):  # the link leads nowhere yet, then to a file
        write_whole(link, text)
        assert link.is_symlink()
        assert target.read_bytes() == text


def test_errors_name_what_was_asked_for(tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "made", tmp_path):
        with pytest.raises(OSError) as caught:
            write_whole(path, b"text")
        assert caught.value.filename == str(path)
