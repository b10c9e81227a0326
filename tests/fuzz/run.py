"""Fuzz one reader: python tests/fuzz/run.py READER --minutes 10 [--folder FOLDER].

Prints a row of the table in README.md; exit status 1 if anything was found. Needs atheris.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from formats import TARGETS

HERE = Path(__file__).parent
MAX_INPUT = 1 << 15

ENDLESS = 300
"""Seconds after which an input counts as endless. The clock goes on while the process is paused, so
it is generous; slow inputs are found by processor time (`target.SLOW`)."""

MEGABYTES = 4096
"""What a process may take in all: the fuzzer itself grows by some megabytes a second. What an input
takes is judged by `target.MEMORY`."""


def main() -> int:
    """Fuzz until the time is up, going on where an input ended the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=sorted(TARGETS))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--folder", type=Path, help="keeps the corpus, the log and the findings")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="lineage-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, HERE / "seeds.py", given.reader, folder], check=True)
    (folder / "corpus").mkdir(exist_ok=True)
    begun, runs, edges = time.monotonic(), 0, 0
    while (left := int(60 * given.minutes - (time.monotonic() - begun))) > 0:
        log = _fuzz(given.reader, folder, left)
        counts = [int(n) for n in re.findall(r"stat::number_of_executed_units: (\d+)", log)]
        steps = [int(n) for n in re.findall(r"^#(\d+)\s", log, re.MULTILINE)]
        runs += counts[-1] if counts else max(steps, default=0)
        edges = max([edges, *map(int, re.findall(r"\bcov: (\d+)", log))])
    minutes = (time.monotonic() - begun) / 60
    found = sorted(p.name for p in (folder / "findings").iterdir() if p.suffix != ".txt")
    print(f"| {given.reader} | {minutes:.0f} | {runs} | {edges} | {len(found)} |")
    for name in found:
        print(folder / "findings" / name)
    return 1 if found else 0


def _fuzz(reader: str, folder: Path, seconds: int) -> str:
    """Run one process until it ends; return its log."""
    command = [
        sys.executable, HERE / "target.py", reader, folder,
        f"-max_total_time={seconds}", f"-max_len={MAX_INPUT}", f"-timeout={ENDLESS}",
        f"-rss_limit_mb={MEGABYTES}", f"-artifact_prefix={folder}/findings/",
        "-print_final_stats=1", "-verbosity=1", f"-report_slow_units={ENDLESS}",
        folder / "corpus", folder / "seeds",
    ]  # fmt: skip
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP")}
    (folder / "findings").mkdir(exist_ok=True)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="lineage-fuzz-", dir=memory) as place:
        ours = {"LINEAGE_FUZZ_PLACE": place, "HF_HUB_OFFLINE": "1", "MALLOC_ARENA_MAX": "1",
                "ARROW_DEFAULT_MEMORY_POOL": "system", "TMPDIR": place}  # fmt: skip
        environment = {**os.environ, **threads, **ours}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False,
                              errors="replace")  # fmt: skip
    with (folder / "log.txt").open("a") as log:
        log.write(done.stdout + done.stderr)
    return done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main())
