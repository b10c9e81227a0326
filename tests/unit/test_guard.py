"""A file that is cut short while a window of it is mapped is one error; other SIGBUS are not ours.

Each story runs in a process of its own, since what it is about may end it.
"""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from makers import write_model

from lineage.artifacts.guard import Guard, compiled
from lineage.artifacts.opened import OpenFile, Region
from lineage.errors import FormatError

pytestmark = pytest.mark.skipif(compiled() is None, reason="asks the compiled guard")

CHANGED = "the file changed while it was read"
PAGE = mmap.PAGESIZE


def run(story: str, *given: object) -> subprocess.CompletedProcess[str]:
    """Run a story with `sys.argv[1:]` as given; a signal that ends it leaves no core behind."""
    calm = "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
    return subprocess.run(
        [sys.executable, "-c", calm + story, *map(str, given)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# Fingerprints

CUT = """
import os, sys
path, tier, how = sys.argv[1:]
if how == "bare":
    sys.modules["lineage.artifacts._guard"] = None
from lineage.artifacts import guard, read
from lineage.errors import FormatError
from lineage.fingerprints import neighbours
from lineage.fingerprints.measure import Pass

def maps():
    with open("/proc/self/maps") as lines:
        return sum(path in line for line in lines) if os.path.exists("/proc/self/maps") else 0

with read(path) as artifact:
    whole = Pass(tier)
    whole.over(artifact)
cut, kept = False, []
def progress(count):  # called where a window is mapped, with some of it read
    global cut
    if count and not cut:
        cut = True
        os.truncate(path, 8 * 4096)
looked = neighbours._looked
def cut_looked(*given):  # neighbours are reported once all are read
    progress(1)
    return looked(*given)
neighbours._looked = cut_looked
passed = Pass(tier, progress, lambda done: kept.append(dict(done)))
with read(path) as artifact:
    try:
        passed.over(artifact)
    except FormatError as error:
        print(error)
print(cut, guard.compiled().watched(), maps(), sep="\\n")
same = [whole.done[name].content == found.content for name, found in passed.done.items()]
print(all(same), len(kept))
"""

SHAPES = {
    "one large tensor": [(100 << 20) // 4],
    "neighbours": [(1 << 20) // 4] * 48,
    "small neighbours": [(100 << 10) // 4] * 400,
}


def model(folder: Path, shape: str) -> Path:
    rng = np.random.default_rng(1)
    sizes = SHAPES[shape]
    tensors = {f"w{i:03}": rng.standard_normal(n, np.float32) for i, n in enumerate(sizes)}
    return write_model(folder / "m.safetensors", tensors)


@pytest.mark.parametrize("tier", ["exact", "fast", "full"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_that_is_cut_short_under_a_fingerprint_is_one_error(
    tmp_path: Path, shape: str, tier: str
) -> None:
    path = model(tmp_path, shape)
    done = run(CUT, path, tier, "guarded")
    assert (done.returncode, done.stderr) == (0, "")
    said, cut, watched, mapped, kept = done.stdout.splitlines()
    # Another thread may have asked the size before its next window, which says where that begins.
    assert said.partition(" (at byte ")[0] == f"{path}: {CHANGED}"
    assert (cut, watched, mapped) == ("True", "0", "0")
    assert kept == "True 1"  # nothing was measured of zeros


@pytest.mark.parametrize("tier", ["exact", "full"])
@pytest.mark.parametrize("shape", ["neighbours", "small neighbours"])
def test_without_the_compiled_part_the_same_ends_the_process(
    tmp_path: Path, shape: str, tier: str
) -> None:
    # Which shows that the test before reads what is not there.
    done = run(CUT, model(tmp_path, shape), tier, "bare")
    assert done.returncode == -signal.SIGBUS


# Windows


@pytest.fixture
def file(tmp_path: Path) -> OpenFile:
    path = tmp_path / "f"
    path.write_bytes(bytes(range(1, 65)) * (16 * PAGE // 64))
    return OpenFile.open(path, label="f")


def cut(file: OpenFile, pages: int) -> None:
    os.truncate(file.location, pages * PAGE)


def test_what_is_left_of_a_window_is_read_and_the_rest_is_zeros(file: OpenFile) -> None:
    with (
        pytest.raises(FormatError, match=CHANGED),
        Region(file, 2 * PAGE + 64).window(0, 8 * PAGE) as window,
    ):
        cut(file, 4)
        assert window[: 2 * PAGE - 64] == bytes(range(1, 65)) * (2 * PAGE // 64 - 1)
        assert window[2 * PAGE - 64 :] == bytes(6 * PAGE + 64)
    assert compiled().watched() == 0


def test_a_window_that_was_cut_and_never_read_there_is_no_error(file: OpenFile) -> None:
    with Region(file, 0).window(0, 8 * PAGE) as window:
        cut(file, 4)
        assert window[0] == 1
    with pytest.raises(FormatError, match=CHANGED):
        file.check_unchanged()


def test_a_window_that_was_mended_is_unmapped_whole(file: OpenFile) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("asks what is mapped")
    with pytest.raises(FormatError), Region(file, 0).window(0, 16 * PAGE) as window:
        begin = np.frombuffer(window, np.uint8).ctypes.data
        cut(file, 4)
        assert window[15 * PAGE] == 0
        assert window[9 * PAGE] == 0
    held = [line.split()[0].split("-") for line in maps.read_text().splitlines()]
    assert not any(int(a, 16) < begin + 16 * PAGE and int(b, 16) > begin for a, b in held)


def test_a_disk_that_fails_is_not_called_a_file_that_changed(
    file: OpenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenFile, "check_unchanged", lambda _: None)  # as on a disk, nothing is cut
    with pytest.raises(OSError, match="f") as error, Region(file, 0).window(0, 8 * PAGE) as window:
        cut(file, 4)
        assert window[5 * PAGE] == 0
    assert error.value.errno == errno.EIO


def test_an_error_that_came_of_zeros_is_not_what_is_said(file: OpenFile) -> None:
    with pytest.raises(FormatError, match=CHANGED), Region(file, 0).window(0, 8 * PAGE) as window:
        cut(file, 4)
        raise ZeroDivisionError(window[5 * PAGE])
    assert compiled().watched() == 0


def test_an_error_in_a_whole_window_stays_what_it_is(file: OpenFile) -> None:
    with pytest.raises(ZeroDivisionError), Region(file, 0).window(0, 8 * PAGE):
        raise ZeroDivisionError
    assert compiled().watched() == 0


def test_who_interrupts_is_heard(file: OpenFile) -> None:
    with pytest.raises(KeyboardInterrupt), Region(file, 0).window(0, 8 * PAGE) as window:
        cut(file, 4)
        assert window[5 * PAGE] == 0
        raise KeyboardInterrupt
    assert compiled().watched() == 0


def test_more_windows_than_there_is_room_for_are_read_unwatched(file: OpenFile) -> None:
    guard = compiled()
    with mmap.mmap(file.descriptor, PAGE, access=mmap.ACCESS_READ) as mapped:
        watches = [guard.watch(mapped) for _ in range(1025)]
        assert watches[-1] is None
        assert guard.watched() == 1024 == len(set(map(id, watches[:-1])))
        with Region(file, 0).window(64, 64) as window:
            assert bytes(window) == bytes(range(1, 65))
        assert not guard.leave(watches[0])
        assert guard.watched() == 1023
        with pytest.raises(ValueError, match="PyCapsule"):  # left already
            guard.leave(watches[0])
        del watches  # whoever forgets to leave a window leaves it
        assert guard.watched() == 0
        with memoryview(mapped)[64:] as inner, pytest.raises(ValueError, match="page"):
            guard.watch(inner)
        assert guard.watched() == 0


def test_where_nothing_was_compiled_windows_are_mapped_all_the_same(
    file: OpenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lineage.artifacts.guard.compiled", lambda: None)
    with Region(file, 64).window(0, 64) as window, Guard(window, file.fail):
        assert bytes(window) == bytes(range(1, 65))


THREADS = """
import os, sys, threading
from pathlib import Path
from lineage.artifacts import guard
from lineage.artifacts.opened import OpenFile, Region
from lineage.errors import FormatError

SIZE, ROUNDS = 64 * 4096, 60
wrong, caught = [], 0

def work(number):
    global caught
    path = Path(sys.argv[1]) / str(number)
    fill = bytes([1 + number]) * SIZE
    for turn in range(ROUNDS):
        path.write_bytes(fill)
        file = OpenFile.open(path, label=str(path))
        is_cut = (turn + number) % 3 == 0
        try:
            with Region(file, 0).window(0, SIZE) as window:
                if is_cut:
                    os.truncate(path, 4096 * (turn % 60))
                ours = bytes(window)
        except FormatError:
            caught += is_cut
            if not is_cut:
                wrong.append("an error, of a whole window")
        else:
            if is_cut:
                wrong.append("no error, of a window that was cut")
            elif ours != fill:
                wrong.append("another's zeros")
        file.close()

sys.setswitchinterval(1e-5)
threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(wrong[:3], caught, guard.compiled().watched())
"""


def test_threads_that_map_and_cut_at_once_do_not_meet(tmp_path: Path) -> None:
    done = run(THREADS, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[] 320 0\n"


# Other SIGBUS

OTHER = """
import faulthandler, mmap, os, signal, sys
from pathlib import Path
from lineage.artifacts.opened import OpenFile, Region
from lineage.errors import FormatError

path, before, what = Path(sys.argv[1]), *sys.argv[2:]
path.write_bytes(bytes(8 * mmap.PAGESIZE))
if before == "faulthandler":
    faulthandler.enable()
elif before == "python":
    signal.signal(signal.SIGBUS, lambda number, frame: print("handled", number, flush=True))
elif before == "ignored":
    signal.signal(signal.SIGBUS, signal.SIG_IGN)
elif before == "torch":
    import torch
    torch._C._set_worker_signal_handlers()
file = OpenFile.open(path, label="f")
with open(path, "rb") as same, mmap.mmap(same.fileno(), 0, access=mmap.ACCESS_READ) as other:
    try:
        with Region(file, 0).window(0, 8 * mmap.PAGESIZE) as window:
            if what == "sent":
                os.kill(os.getpid(), signal.SIGBUS)
            else:
                os.truncate(path, mmap.PAGESIZE)
                print((other if what == "other" else window)[-1], flush=True)
    except FormatError as error:
        print(error)
print("went on")
"""

GUARDED = f"0\nf: {CHANGED}\nwent on\n"
BEFORE = [
    "nothing",
    "faulthandler",
    "python",
    "ignored",
    pytest.param("torch", marks=pytest.mark.torch),
]
TOLD = {"faulthandler": "Fatal Python error: Bus error", "torch": "bus error"}


@pytest.mark.parametrize("before", BEFORE)
def test_in_a_window_no_other_handler_is_asked(tmp_path: Path, before: str) -> None:
    done = run(OTHER, tmp_path / "f", before, "window")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", GUARDED)


@pytest.mark.parametrize("before", [b for b in BEFORE if b != "python"])
def test_a_fault_elsewhere_ends_the_process_as_it_would(tmp_path: Path, before: str) -> None:
    done = run(OTHER, tmp_path / "f", before, "other")
    assert (done.returncode, done.stdout) == (-signal.SIGBUS, "")
    assert TOLD.get(before, "") in done.stderr
    assert bool(done.stderr) == (before in TOLD)


@pytest.mark.parametrize("before", ["nothing", "faulthandler"])
def test_a_signal_that_is_sent_ends_the_process_as_it_would(tmp_path: Path, before: str) -> None:
    done = run(OTHER, tmp_path / "f", before, "sent")
    assert (done.returncode, done.stdout) == (-signal.SIGBUS, "")
    assert TOLD.get(before, "") in done.stderr


def test_a_signal_that_is_sent_reaches_the_handler_before(tmp_path: Path) -> None:
    done = run(OTHER, tmp_path / "f", "python", "sent")
    expected = f"handled {int(signal.SIGBUS)}\nwent on\n"
    assert (done.returncode, done.stderr, done.stdout) == (0, "", expected)


def test_a_signal_that_is_sent_and_ignored_stays_ignored(tmp_path: Path) -> None:
    done = run(OTHER, tmp_path / "f", "ignored", "sent")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "went on\n")


WOKEN = """
import mmap, os, signal, sys, threading, time
from lineage.artifacts.guard import Guard

def stop(number, frame):
    raise InterruptedError("woken")

signal.signal(signal.SIGBUS, stop)
signal.siginterrupt(signal.SIGBUS, True)
with mmap.mmap(-1, mmap.PAGESIZE) as room, memoryview(room) as view, Guard(view, sys.exit):
    pass
main = threading.main_thread().ident
threading.Timer(0.5, lambda: signal.pthread_kill(main, signal.SIGBUS)).start()
begun = time.monotonic()
ours, theirs = os.pipe()
late = threading.Timer(20, os.write, (theirs, b"x"))
late.start()
try:
    os.read(ours, 1)
except InterruptedError as error:
    print(error, time.monotonic() - begun < 15)
late.cancel()
"""


def test_a_signal_that_is_sent_still_wakes_who_waits() -> None:
    assert run(WOKEN).stdout == "woken True\n"


LATER = """
import faulthandler, mmap, os, signal, sys
from lineage.artifacts.guard import Guard, compiled

with mmap.mmap(-1, mmap.PAGESIZE) as room, memoryview(room) as view:
    with Guard(view, sys.exit):
        pass
    signal.signal(signal.SIGBUS, lambda number, frame: print("handled", number, flush=True))
    with Guard(view, sys.exit):
        os.kill(os.getpid(), signal.SIGBUS)
    print("went on")
"""


def test_a_handler_that_comes_later_is_left_alone() -> None:
    done = run(LATER)
    expected = f"handled {int(signal.SIGBUS)}\nwent on\n"
    assert (done.returncode, done.stderr, done.stdout) == (0, "", expected)


def test_no_handler_is_installed_before_the_first_window() -> None:
    story = """
import lineage.fingerprints.measure, sys
print("lineage.artifacts._guard" in sys.modules)
"""
    assert run(story).stdout == "False\n"


def test_pages_of_a_window_that_was_left_are_given_back(file: OpenFile) -> None:
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        pytest.skip("asks what is in memory")

    def held(begin: int) -> str:
        found = smaps.read_text().partition(f"{begin:x}-")[2]
        return next(line.split(None, 1)[1] for line in found.splitlines() if line[:4] == "Rss:")

    with mmap.mmap(file.descriptor, 0, access=mmap.ACCESS_READ) as mapped:
        begin = np.frombuffer(mapped, np.uint8).ctypes.data
        watch, whole = compiled().watch(mapped), bytes(mapped)
        assert held(begin) != "0 kB"
        assert not compiled().leave(watch)
        assert held(begin) == "0 kB"
        assert bytes(mapped) == whole  # and come again, as long as they are mapped
