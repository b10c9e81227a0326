"""One run of the public commands over one folder, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parent.parent


class Job:
    """One run of the commands over one folder.

    Attributes:
        folder: Where models, fingerprints, keys, claims and the log are.
        seconds: Stage -> wall time.
        failures: What must never fail and did.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.failures: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage's wall time."""
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)
        say(f"{name}: {self.seconds[name]:.1f} s")

    def run(self, *arguments: str) -> tuple[int, dict[str, Any], str]:
        """Run one command in the folder; return its exit status, its JSON and its last words."""
        command = [sys.executable, "-m", "lineage", *arguments, "--json"]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(HOME)},
        )  # fmt: skip
        try:
            document = json.loads(done.stdout or "{}")
        except json.JSONDecodeError:
            document = {}
            self.fail(f"{' '.join(command[2:])}: stdout is not JSON")
        words = done.stderr.strip().splitlines()
        return done.returncode, document, words[-1] if words else ""

    def must(self, *arguments: str) -> dict[str, Any]:
        """Run a command that must succeed."""
        status, document, words = self.run(*arguments)
        if status:
            self.fail(f"lineage {' '.join(arguments)}: exit {status}: {words}")
        return document

    def refused(self, what: str, *arguments: str) -> dict[str, Any]:
        """Run a command that must say No with exit status 1."""
        status, _, words = self.run(*arguments)
        if status != 1:
            self.fail(f"{what}: expected exit 1, got {status}: {words}")
        return {"what": what, "exit": status, "words": words}

    def fail(self, reason: str) -> None:
        """Note what must not happen."""
        self.failures.append(reason)
        say(f"FAILED: {reason}")


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def saved(name: str) -> str:
    """Return where a model's saved fingerprint is."""
    return f"prints/{name}.lineage"
