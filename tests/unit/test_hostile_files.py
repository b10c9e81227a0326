"""Hostile files end in one line, in bounded memory and time, and nothing of them runs.

The files are the table in `hostile.py`. They are read in a process of its own that may take
`MEMORY` bytes more than it begins with, and each is given `SECONDS`.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import ALONE, CANARY, COSTLY, HOSTILE
from makers import small_model, write_model

from lineage import canonical, read
from lineage.errors import FormatError, printable

MEMORY = 512 << 20
SECONDS = 60

WORKER = """
import contextlib, io, json, resource, sys
from pathlib import Path
import numpy, lineage.artifacts.ggml, lineage.artifacts.hdf5, lineage.artifacts.onnx
import lineage.artifacts.torch_files, lineage.cli.measure, lineage.fingerprints.measure
from lineage import fingerprint
from lineage.cli import run
from lineage.errors import FormatError

told = set()
RUNS = {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "pickle.find_class"}
sys.addaudithook(lambda event, _: told.add(event) if event in RUNS else None)
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for line in sys.stdin:
    path = json.loads(line)
    answer = {}
    try:
        fingerprint(path)
        answer["error"] = "none"
    except FormatError as error:
        answer |= {"error": "FormatError", "words": str(error), "reason": error.reason}
        answer |= {"file": error.file, "tensor": error.tensor}
    except BaseException as error:
        answer["error"] = repr(error)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(["fingerprint", path])
    answer |= {"status": status, "out": out.getvalue(), "err": err.getvalue()}
    print(json.dumps(answer | {"ran": sorted(told)}), flush=True)
"""


class Reader:
    """A process that reads models for us, under a limit of memory."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(MEMORY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "MALLOC_ARENA_MAX": "1", "LC_ALL": "C.UTF-8"},
        )

    def __call__(self, path: Path) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(str(path)).encode() + b"\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], SECONDS)[0]:
            self.process.kill()
            self.process.wait()
        line = self.process.stdout.readline()
        assert line, "it took too long, or ended the process"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def readers() -> Iterator[list[Reader]]:
    """The process that is there; a test that lost it leaves none."""
    held: list[Reader] = []
    yield held
    for reader in held:
        reader.close()


@pytest.fixture
def reader(readers: list[Reader]) -> Reader:
    if readers and readers[0].process.poll() is not None:
        readers.pop().close()
    if not readers:
        readers.append(Reader())
    return readers[0]


@pytest.mark.parametrize("name", HOSTILE)
def test_every_hostile_file_ends_in_one_line(reader: Reader, tmp_path: Path, name: str) -> None:
    hostile = HOSTILE[name]
    path = hostile.make(tmp_path)
    answer = reader(path)
    assert answer["error"] == "FormatError", answer
    assert hostile.reason in answer["reason"]
    assert answer["tensor"] == hostile.tensor
    assert str(path) in answer["words"]
    assert len(answer["words"]) < 600 + 2 * len(str(path))
    assert answer["words"].isprintable()
    # The same for a person.
    assert answer["status"] == 3
    assert answer["out"] == ""
    assert answer["err"] == f"lineage: {answer['words']}\n"
    # And nothing ran.
    assert answer["ran"] == []
    assert not (tmp_path / CANARY).exists()


@pytest.mark.parametrize("name", COSTLY)
def test_what_is_odd_but_true_is_read(reader: Reader, tmp_path: Path, name: str) -> None:
    answer = reader(COSTLY[name](tmp_path))
    assert answer["error"] == "none", answer
    assert answer["status"] == 0


@pytest.mark.parametrize("number", range(len(ALONE)))
def test_the_canary_would_be_there_had_anyone_unpickled(tmp_path: Path, number: int) -> None:
    pickle.loads(ALONE[number](tmp_path))
    assert (tmp_path / CANARY).exists()


# Files that change meanwhile


def change(path: Path, how: str) -> None:
    """Write to a model behind a reader's back."""
    data = path.read_bytes()
    if how == "replace":
        other = path.with_suffix(".new")
        other.write_bytes(data)
        other.replace(path)
        return
    with path.open("r+b") as file:
        if how == "truncate":
            file.truncate(len(data) // 2)
        elif how == "append":
            file.seek(0, 2)
            file.write(b"x")
        else:
            file.write(data)
    os.utime(path, ns=(1, 1))


HOWS = ("rewrite", "append", "truncate", "replace")


@pytest.mark.parametrize("how", HOWS)
def test_a_file_that_changes_after_it_was_opened_is_refused(tmp_path: Path, how: str) -> None:
    tensors = small_model()
    path = write_model(tmp_path / "m.safetensors", tensors)
    scratch = memoryview(bytearray(1 << 16))
    with read(path) as artifact:
        change(path, how)
        for item in artifact.items:
            try:
                content = bytes(item.source.piece(0, item.size_bytes, scratch))
            except FormatError as error:
                assert how == "truncate"
                assert "too soon" in error.reason
            else:  # what was opened, whatever has its name now
                assert content == tensors[item.name].tobytes()
        with pytest.raises(FormatError, match="changed while it was read"):
            artifact.check_unchanged()


MEDDLE = """
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one thread, so that its windows are known
from test_hostile_files import change
from lineage import fingerprint
from lineage.errors import FormatError
from lineage.fingerprints import pieces

pieces.WINDOW = 16 << 20
path, how = Path(sys.argv[1]), sys.argv[2]
done = 0
def progress(count):
    global done
    done += count
    if count and done == 16 << 20:  # the first window has been read, the second is not yet mapped
        change(path, how)
try:
    fingerprint(path, progress=progress)
except FormatError as error:
    print(error)
"""


@pytest.mark.parametrize("how", HOWS)
def test_a_large_file_that_changes_between_windows_is_refused(tmp_path: Path, how: str) -> None:
    # In a process of its own, which keeps to one core. `test_guard.py` has changes within windows.
    path = write_model(tmp_path / "m.safetensors", {"w": np.ones(10 << 20, np.float32)})
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", MEDDLE, path, how, here, here.parent],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "changed while it was read" in done.stdout
    assert str(path) in done.stdout


def test_an_unpayable_name_costs_a_glance() -> None:
    begun = time.process_time()
    assert len(printable("\x1b" * 50_000_000)) == 200
    assert time.process_time() - begun < 1


def test_an_index_of_more_values_than_a_model_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="4194305 brackets and commas, more than the 4194304"):
        canonical.loads(b"[" + b"," * (canonical.MAX_MARKS))
