"""Says what was measured and on what: machine, versions, commit, the compiled kernel."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from tools import HOME

_BUSY = 0.5
"""A load average above which figures are no results."""

_MAPPED = """
import sys
from lineage.fingerprints import fingerprint
fingerprint(sys.argv[1])
with open("/proc/self/maps") as maps:
    mapped = {line.split(maxsplit=5)[-1].strip() for line in maps}
print("\\n".join(path for path in sorted(mapped) if ".so" in path.rpartition("/")[2]))
"""


def machine() -> dict[str, str]:
    """Describe the processor, the memory and the system."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of what our own commands stand on."""
    found = {"python": platform.python_version()}
    for name in ("model-lineage", "numpy", "blake3", "safetensors", "torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """Return the commit of the checkout, and say if files differ from it."""
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--", "lineage")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head} and uncommitted changes" if changed else head


def compiled_kernel(model: Path, python: Path, env: dict[str, str]) -> str:
    """Return the compiled code of ours that a fingerprint loads, or "none"."""
    done = subprocess.run(
        [str(python), "-P", "-c", _MAPPED, str(model)],
        env={**os.environ, **env}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    names = {
        Path(path).name for path in done.stdout.splitlines() if Path(path).match("lineage/*/*.so")
    }
    return ", ".join(sorted(names)) or "none"


def load() -> float:
    """Return the load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def busy() -> str:
    """Return a warning if something else is running, or nothing."""
    now = load()
    if now <= _BUSY:
        return ""
    return f"The load average was {now} at the start: these figures are no results."


def available_bytes() -> int:
    """Return the memory that the page cache could take."""
    return int(_field("/proc/meminfo", "MemAvailable").split()[0]) * 1024


def _field(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(HOME), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
