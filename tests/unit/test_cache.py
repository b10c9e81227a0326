"""What was measured of unchanged files is not measured again; a change is never served stale."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from makers import write_model, write_sharded

from lineage import fingerprint
from lineage.errors import FormatError
from lineage.fingerprints import cache, measure, to_bytes

RNG = np.random.default_rng(20)
MODEL = {f"layers.{i}.weight": RNG.normal(size=(300, 500)).astype(np.float32) for i in range(6)}


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, for models of any size, that trusts files a moment old."""
    monkeypatch.setenv("LINEAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "LEAST_BYTES", 0)
    monkeypatch.setattr(cache, "YOUNG_NS", 40_000_000)
    return tmp_path / "cache"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of tensors whose bytes are read from here on."""
    names: list[str] = []
    whole = measure.Pass._task

    def watched(self, items, room):  # type: ignore[no-untyped-def]
        whole(self, items, room)
        names.extend(item.name for item in items)

    monkeypatch.setattr(measure.Pass, "_task", watched)
    return names


def settled(path: Path) -> Path:
    """Wait until a file is no longer young."""
    time.sleep(0.06)
    return path


def test_an_unchanged_model_is_read_once(tmp_path: Path, measured: list[str]) -> None:
    model = settled(write_sharded(tmp_path / "m", [dict(list(MODEL.items())[:3]),
                                                   dict(list(MODEL.items())[3:])]))  # fmt: skip
    first = fingerprint(model, cache=True)
    assert sorted(measured) == sorted(MODEL)
    measured.clear()
    again = fingerprint(model, cache=True)
    assert measured == []
    assert to_bytes(again) == to_bytes(first) == to_bytes(fingerprint(model))
    assert measured  # without the cache it is measured


def test_a_moved_model_is_known_and_a_copied_one_is_not(
    tmp_path: Path, measured: list[str]
) -> None:
    path = write_model(tmp_path / "a.safetensors", MODEL)
    fingerprint(settled(path), cache=True)
    measured.clear()
    copy = write_model(tmp_path / "c.safetensors", MODEL)
    fingerprint(settled(copy), cache=True)
    assert measured
    measured.clear()
    moved = path.rename(tmp_path / "b.safetensors")  # its time of change is new
    fingerprint(settled(moved), cache=True)
    fingerprint(moved, cache=True)
    assert sorted(measured) == sorted(MODEL)


def test_each_tier_has_its_own_entry(tmp_path: Path, measured: list[str]) -> None:
    path = settled(write_model(tmp_path / "a.safetensors", MODEL))
    roots = {fingerprint(path, tier=tier, cache=True).root for tier in measure.TIERS}
    assert len(roots) == 1
    assert len(measured) == 3 * len(MODEL)
    assert fingerprint(path, cache=True).scheme == measure.TIERS["full"]
    assert len(measured) == 3 * len(MODEL)


def test_a_young_file_is_not_kept(
    tmp_path: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "YOUNG_NS", 60_000_000_000)
    path = write_model(tmp_path / "a.safetensors", MODEL)
    for value in range(20):  # rewritten faster than times are told apart, the old time put back
        before = path.stat().st_mtime_ns
        changed = {**MODEL, "layers.0.weight": np.full((300, 500), value, np.float32)}
        write_model(path, changed)
        os.utime(path, ns=(before, before))
        assert fingerprint(path, cache=True).root == fingerprint(changed).root
    assert not room.exists()


def test_a_changed_file_is_measured_again_though_its_time_is_put_back(
    tmp_path: Path, room: Path
) -> None:
    path = settled(write_model(tmp_path / "a.safetensors", MODEL))
    before = path.stat()
    old = fingerprint(path, cache=True)
    assert len(list(room.iterdir())) == 1
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\1\2\3\4")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    for _ in range(2):
        assert fingerprint(settled(path), cache=True).root != old.root


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_pass_goes_on(
    tmp_path: Path, room: Path, measured: list[str], error: type[BaseException]
) -> None:
    path = settled(write_model(tmp_path / "a.safetensors", MODEL))
    done = 0

    def interrupt(size: int) -> None:
        nonlocal done
        done += size
        if done > 1_500_000:
            raise error("enough")

    with pytest.raises(error):
        fingerprint(path, cache=True, progress=interrupt)
    kept = set(measured)
    assert 0 < len(kept) < len(MODEL)
    measured.clear()
    steps: list[int] = []
    whole = fingerprint(path, cache=True, progress=steps.append)
    assert set(measured) == set(MODEL) - kept
    assert steps[0] == sum(MODEL[name].nbytes for name in kept)
    assert sum(steps) == whole.size_bytes
    assert to_bytes(whole) == to_bytes(fingerprint(path))


def test_a_long_pass_saves_as_it_goes(
    tmp_path: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_KEEP_EVERY", 0.01)
    monkeypatch.setattr(measure, "cores", lambda: 1)
    path = settled(write_model(tmp_path / "a.safetensors", MODEL))
    seen = []

    def slow(size: int) -> None:
        time.sleep(0.05)
        seen.append(room.exists() and len(list(room.iterdir())))

    fingerprint(path, cache=True, progress=slow)
    assert 1 in seen[:-1]


def test_nothing_is_kept_of_a_file_that_changed_meanwhile(tmp_path: Path, room: Path) -> None:
    path = settled(write_model(tmp_path / "a.safetensors", MODEL))

    def touch(size: int) -> None:
        if size:
            os.utime(path)

    with pytest.raises(FormatError, match="changed while it was read"):
        fingerprint(path, cache=True, progress=touch)
    assert not room.exists()


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_entry_is_measured_again(
    tmp_path: Path, room: Path, measured: list[str], damage: bytes | None
) -> None:
    path = settled(write_model(tmp_path / "a.safetensors", MODEL))
    root = fingerprint(path, cache=True).root
    (entry,) = room.iterdir()
    entry.write_bytes(entry.read_bytes()[:-9] if damage is None else damage)
    measured.clear()
    assert fingerprint(path, cache=True).root == root
    assert sorted(measured) == sorted(MODEL)
    assert fingerprint(path, cache=True).root == root  # and kept again
    assert sorted(measured) == sorted(MODEL)


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path, room: Path) -> None:
    room.write_bytes(b"a file where the folder should be")
    path = settled(write_model(tmp_path / "a.safetensors", MODEL))
    assert fingerprint(path, cache=True).root == fingerprint(MODEL).root


def test_the_oldest_entries_make_room(
    tmp_path: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MOST_ENTRIES", 2)
    for number in range(4):
        path = write_model(tmp_path / f"{number}.safetensors", MODEL)
        fingerprint(settled(path), cache=True)
    assert len(list(room.iterdir())) == 2


def test_what_is_in_memory_or_small_is_not_kept(
    tmp_path: Path, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprint(MODEL, cache=True)
    monkeypatch.setattr(cache, "LEAST_BYTES", 2**30)
    fingerprint(settled(write_model(tmp_path / "a.safetensors", MODEL)), cache=True)
    assert not room.exists()


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LINEAGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "lineage"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "lineage"
