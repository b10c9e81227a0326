"""Runs commands in turn, round by round, each as a whole process, and keeps every figure.

Tools that are compared run in the same rounds, in an order drawn anew for each round, so that what
slows the machine for a while slows them all.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

_LAUNCH = Path(__file__).with_name("launch.py")
_MOST_SECONDS = 60.0
"""What an entrant may take over all its rounds of a race, once it has run once."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """A command to time.

    Attributes:
        name: For tables; once in a race.
        command: And its arguments; empty if it cannot be had.
        env: Variables on top of this process's own.
        against: Column -> name of the entrant whose same-round time divides this one's.
        missing: Why it cannot be had.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    against: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run cost.

    Attributes:
        wall: Seconds from start to end.
        cpu: User and system seconds of the process and the children it waited for.
        peak_mib: Largest resident memory of one process; mapped files count.
    """

    wall: float
    cpu: float
    peak_mib: float


class RunError(Exception):
    """A command could not be run, or failed; in its own last words."""


@dataclass(slots=True)
class Race:
    """Entrants on one input, and what their rounds gave.

    Attributes:
        title: What was read.
        entrants: As they are listed in tables.
        runs: Name -> round by round; None where it sat out.
        errors: Name -> why there are no more rounds.
        cached_share: Of the input's bytes in the page cache, the least seen before a round.
    """

    title: str
    entrants: tuple[Entrant, ...]
    runs: dict[str, list[Run | None]]
    errors: dict[str, str]
    cached_share: float | None = None

    def measured(self, name: str) -> list[Run]:
        """Return the rounds an entrant ran in."""
        return [run for run in self.runs.get(name, []) if run is not None]

    def ratios(self, name: str, other: str) -> list[float]:
        """Return wall time over another's, for the rounds that both ran in."""
        pairs = zip(self.runs.get(name, []), self.runs.get(other, []), strict=False)
        return [a.wall / b.wall for a, b in pairs if a is not None and b is not None]

    def wall(self, name: str) -> float | None:
        """Return the median wall time."""
        return median(run.wall for run in self.measured(name)) if self.measured(name) else None


def race(
    result: Race, rounds: int, files: Iterable[Path], work: Path, seed: int, *, cold: bool = False
) -> None:
    """Run the rounds; `result` is filled as they go, so that an interrupted race keeps its rounds.

    Args:
        result: A race without runs.
        rounds: Of every entrant that neither fails nor has used up its time.
        files: What is read, brought into the page cache before every round.
        work: Where the commands' output goes.
        seed: Decides the order within rounds.
        cold: Drop the files from the page cache before every single run instead.
    """
    files = tuple(files)
    order = random.Random(seed)
    for entrant in result.entrants:
        if entrant.missing:
            result.errors[entrant.name] = entrant.missing
    drop(files)
    for number in range(rounds):
        if not cold:
            warm(files)
            share = cached_share(files)
            if share is not None:
                result.cached_share = min(share, result.cached_share or 1.0)
        waiting = list(result.entrants)
        order.shuffle(waiting)
        for entrant in waiting:
            if cold:
                drop(files)
            _one(result, entrant, work)
        print(f"{result.title}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)


def _one(result: Race, entrant: Entrant, work: Path) -> None:
    """Give an entrant its turn in a round."""
    runs = result.runs.setdefault(entrant.name, [])
    spent = [run.wall for run in result.measured(entrant.name)]
    tired = spent and sum(spent) + max(spent) > _MOST_SECONDS
    if tired or entrant.name in result.errors:
        runs.append(None)
        return
    try:
        runs.append(run(entrant, work)[0])
    except RunError as error:
        result.errors[entrant.name] = str(error)
        runs.append(None)


def run(entrant: Entrant, work: Path, *, keep: bool = False) -> tuple[Run, str]:
    """Run a command once; return what it cost and, with `keep`, what it printed.

    Raises:
        RunError: If it cannot be started or its exit status is not 0.
    """
    if entrant.missing:
        raise RunError(entrant.missing)
    out, err = work / "stdout" if keep else Path(os.devnull), work / "stderr"
    launch = [sys.executable, "-I", "-S", str(_LAUNCH), str(out), str(err), *entrant.command]
    started = subprocess.Popen(
        launch, cwd=work, env={**os.environ, **entrant.env}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        told, complaint = started.communicate()
    except BaseException:
        started.terminate()
        started.wait()
        raise
    if started.returncode:
        raise RunError(_last_line(complaint))
    wall, user, system, peak, status = map(float, told.split())
    if status:
        raise RunError(_last_line(err.read_text(errors="replace")) or f"exit {status:.0f}")
    return Run(wall, user + system, peak / 1024), out.read_text() if keep else ""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def warm(files: Iterable[Path]) -> None:
    """Bring files into the page cache by reading them."""
    buffer = bytearray(1 << 20)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def drop(files: Iterable[Path]) -> None:
    """Drop files from this system's page cache; a host below it may keep its own."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cached_share(files: Iterable[Path]) -> float | None:
    """Return the part of the files' bytes that is in the page cache, where `fincore` can tell."""
    paths = [str(path) for path in files]
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES,SIZE", *paths]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    counts = [int(word) for word in told.split()]
    return min(1.0, sum(counts[::2]) / max(1, sum(counts[1::2])))
