"""A data set's file or manifest that is cut short while it is read is one error, and no signal.

Each story runs the command line in a process of its own, since what it is about may end it.
"""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path
from shutil import copyfile

import pyarrow as pa
import pyarrow.ipc
import pytest

from lineage import datasets
from lineage.artifacts.guard import compiled
from lineage.cli import run
from lineage.datasets import proving
from lineage.manifests import check

CHANGED = "the file changed while it was read"

CUT = """
import importlib, os, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
path, size, where, how, *command = sys.argv[1:]
if how == "bare":
    sys.modules["lineage.artifacts._guard"] = None
from lineage.cli import run

module, _, name = where.rpartition(".")
module = importlib.import_module(module)
whole, is_cut = getattr(module, name), False
def called(*given):  # as ever, but that the file is cut once it is open
    global is_cut
    found = whole(*given)
    if not is_cut:
        os.truncate(path, int(size))
    is_cut = True
    return found
setattr(module, name, called)
code = run(command)
assert is_cut
sys.exit(code)
"""


def cut(
    path: Path, where: str, *command: object, size: int = 8192, how: str = "guarded"
) -> subprocess.CompletedProcess[str]:
    """Run a command, and cut the file to `size` bytes when a function first returns."""
    return subprocess.run(
        [sys.executable, "-c", CUT, path, str(size), where, how, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def is_refused(done: subprocess.CompletedProcess[str], path: Path) -> bool:
    """Whether a command said the one thing and could not check; shown if it did not."""
    said = (done.returncode, done.stdout, done.stderr)
    assert said == (3, "", f"lineage: {path}: {CHANGED}\n")
    return True


def arrow(path: Path) -> Path:
    """Write ten batches of a hundred rows of 2 kB."""
    table = pa.table({"n": range(1000), "text": [f"{n} " * 500 for n in range(1000)]})
    kind = pyarrow.ipc.new_stream if path.suffix == ".arrows" else pyarrow.ipc.new_file
    with pa.OSFile(str(path), "wb") as file, kind(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    return path


@pytest.mark.parametrize("name", ["a.arrow", "a.arrows"])
@pytest.mark.parametrize("where", ["checked", "cut", "alone"])
def test_an_arrow_file_that_is_cut_short_is_one_error(
    tmp_path: Path, name: str, where: str
) -> None:
    path = arrow(tmp_path / name)
    done = cut(path, f"lineage.datasets.batches.{where}", "manifest", path, size=60_000)
    assert is_refused(done, path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifests of 20,000 records and of every second of them, and who made these."""
    folder = tmp_path_factory.mktemp("made")
    for name, step in (("whole", 1), ("half", 2)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(f'{{"text":"{n}"}}\n' for n in range(0, 20_000, step)))
        datasets.build([path], folder / f"{name}.manifest", datasets.Options(near=step == 2))
    key, half = folder / "key", folder / "half.manifest"
    given = ["--payee", "a", "--role", "writer", "--key", key, "-o", folder / "said.json"]
    assert run(["key", str(key)]) == run(["contribute", *map(str, [half, *given])]) == 0
    return folder


LOADED = "lineage.datasets.load"
READ = {
    "its head": ("lineage.datasets.stored.header_of", "manifest W"),
    "all of it": ("lineage.datasets.stored.files_of", "manifest W"),
    "a record": (LOADED, "prove W --record {} -o F/proof"),
    "a change": (LOADED, "prove W H -o F/proof"),
    "a subset": (LOADED, "prove W H --subset -o F/proof"),
    "an overlap": (LOADED, "overlap W H"),
    "sketches": ("lineage.datasets.overlap.shared_by", "overlap W W"),
    "places": ("lineage.datasets.overlap.overlap", "overlap W H"),
    "parts": ("lineage.cli.sharing._believed", "shares W --part H F/said.json --key F/key.pub"),
}
"""What of a manifest is read, what has just returned as it is cut, and the command."""


@pytest.mark.skipif(compiled() is None, reason="asks the compiled guard")
@pytest.mark.parametrize("how", ["guarded", "bare"])
@pytest.mark.parametrize("what", READ)
def test_a_manifest_that_is_cut_short_is_one_error(
    made: Path, tmp_path: Path, what: str, how: str
) -> None:
    path = tmp_path / "cut.manifest"
    copyfile(made / f"{'half' if what == 'sketches' else 'whole'}.manifest", path)
    where, command = READ[what]
    words = {"W": str(path), "H": str(made / "half.manifest")}
    given = [words.get(w, w.replace("F/", f"{made}/")) for w in command.split()]
    done = cut(path, where, *given, how=how)
    if how == "bare" and what != "its head":  # which shows that what is not there is read
        assert done.returncode == -signal.SIGBUS
    else:
        assert is_refused(done, path)


def test_a_disk_that_fails_is_not_called_a_manifest_that_changed(made: Path) -> None:
    found = datasets.load(made / "half.manifest")
    with pytest.raises(OSError, match=r"half\.manifest") as error:
        found.fail()
    assert error.value.errno == errno.EIO


def test_a_manifest_that_another_took_the_place_of_is_read_to_its_end(
    made: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.manifest"
    copyfile(made / "whole.manifest", path)
    found = datasets.load(path)
    copyfile(made / "half.manifest", tmp_path / "b.manifest")
    (tmp_path / "b.manifest").replace(path)
    asked = found.entries[-1, :32].tobytes()
    assert check(proving.prove_record(found, asked)).kind == "inclusion"
