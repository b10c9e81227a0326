"""Runs every contender in a process of its own, one after the other, round by round."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve()


def run(
    files: dict[str, Path], rounds: int, folder: Path, *, one_core: bool = False
) -> dict[str, Any]:
    """Return the seconds and the peak memory of every contender, and our roots."""
    cores = len(os.sched_getaffinity(0))
    commands: dict[str, list[str]] = {}
    for kind, path in files.items():
        parser = str(_HERE.with_name("parse.py"))
        commands[f"b3sum, {kind}"] = ["b3sum", str(path)]
        commands[f"parser alone, {kind}, all cores"] = [
            sys.executable,
            parser,
            str(path),
            str(cores),
        ]
        if one_core:
            commands[f"parser alone, {kind}, one core"] = [sys.executable, parser, str(path), "1"]
        ours = [sys.executable, "-m", "lineage", "manifest", str(path), "--json"]
        commands[f"lineage manifest, {kind}"] = ours
        saved = [*ours, "-o", str(folder / f"{kind}.manifest")]
        commands[f"lineage manifest, {kind}, saved"] = saved
    rows: dict[str, Any] = {name: {"seconds": [], "cpu": [], "peak": []} for name in commands}
    for path in files.values():
        with path.open("rb") as file:  # the page cache is warm for all
            while file.read(1 << 24):
                pass
    order = list(commands)
    for number in range(rounds):
        random.Random(number).shuffle(order)
        for name in order:
            print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
            seconds, cpu, peak, out = _timed(commands[name])
            rows[name]["seconds"].append(round(seconds, 3))
            rows[name]["cpu"].append(round(cpu, 3))
            rows[name]["peak"].append(peak)
            if name.startswith("lineage"):
                rows[name] |= {key: json.loads(out)[key] for key in ("root", "records")}
    return rows


def _timed(command: list[str]) -> tuple[float, float, int, bytes]:
    """Return seconds, processor seconds and peak resident memory of a process and its children."""
    with tempfile.TemporaryFile() as out:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out)
        peak = _Peak(process.pid)
        peak.start()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        peak.is_over.set()
        peak.join()
        if process.returncode:
            raise SystemExit(f"{command} failed")
        out.seek(0)
        return seconds, used.ru_utime + used.ru_stime, peak.most, out.read()


class _Peak(threading.Thread):
    """Looks at the resident memory of a process and its children, some times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.most = 0
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.is_over.wait(0.02):
            self.most = max(self.most, _resident(self.pid))


def _resident(pid: int) -> int:
    """Return what a process and its children hold of memory of their own, mapped files and all."""
    total = 0
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmRSS"):
            total += 1024 * int(line.split()[1])
    return total + sum(_resident(int(child)) for child in children)
