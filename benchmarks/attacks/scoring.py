"""Asks about all pairs of a made matrix, and goes on where it was interrupted.

What was said is kept in a file of JSON lines, one answer after the other; what stands there is not
asked again, unless the code that answers or the matrix is another.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asking
import asking_peers
import counting
import pictures
from answers import Answers, digest
from pairs import Pair, pairs_of

PYTHON = sys.executable
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Questions:
    """What to ask, and of whom.

    Attributes:
        out: Where the matrix lies.
        families: Their names.
        rows: Which of the models that were made; all if there are none.
        strangers: How many negative pairs of each family.
        seed: Of the lot that draws them.
        cores: Processes at a time.
        ours: Whether to ask `lineage`.
        peers: Whether to ask the peers.
        modeldna: Runs that peer; None leaves it out.
    """

    out: Path
    families: Sequence[str]
    rows: Sequence[str] = ()
    strangers: int = 600
    seed: int = 0
    cores: int = 2
    ours: bool = True
    peers: bool = True
    modeldna: str | None = None


def score(asked: Questions, answers: Answers, say: Callable[[str], None]) -> list[Pair]:
    """Ask about every family of a made matrix what is not known yet, and return all pairs."""
    everything: list[Pair] = []
    for name in asked.families:
        truth = asked.out / name / "truth.json"
        pairs = pairs_of(json.loads(truth.read_text()), asked.strangers, asked.seed)
        pairs = [p for p in pairs if not (asked.rows and p.is_positive) or p.b in asked.rows]
        for asker, files, ask in _askers(asked, say):
            by = digest([*files, truth])
            left = answers.take(asker, by, pairs)
            say(f"{name}: {asker}: {len(pairs) - len(left)} of {len(pairs)} pairs are known")
            for pair, said in ask(left) if left else ():
                answers.keep(asker, by, pair, said)
        everything += pairs
    return everything


Ask = Callable[[Sequence[Pair]], Iterator[tuple[Pair, dict[str, Any]]]]


def _askers(asked: Questions, say: Callable[[str], None]) -> Iterator[tuple[str, list[Path], Ask]]:
    """Yield who is asked, the files of code that the answers rest on, and how."""
    out, cores = asked.out, asked.cores
    if asked.ours:
        code = [*(asking.HOME / "lineage").rglob("*.py"), _HERE / "asking.py", _HERE / "found.py"]
        yield "lineage", code, lambda left: asking.ask(left, out, PYTHON, cores, say)
    if asked.peers:
        code = [_HERE / name for name in ("peers.py", "networks.py", "others.py", "layouts.py")]
        yield "peers", code, lambda left: asking_peers.ask(left, out, cores, say)
    if asked.modeldna is not None:
        code, python = [asking.MANY.with_name("dna_pairs.py")], asked.modeldna
        yield "modeldna", code, lambda left: asking_peers.ask_modeldna(left, out, python)


def document(asked: Questions, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return what was said of every pair, for JSON."""
    return {
        "_type": "lineage-attacks-v2",
        "commit": _commit(),
        "strangers_per_family": asked.strangers,
        "seed": asked.seed,
        "truth": {name: digest([asked.out / name / "truth.json"]) for name in asked.families},
        "pairs": [pair.to_json() for pair in pairs],
    }


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(asking.HOME), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "lineage")
        return git("rev-parse", "HEAD") + (" and uncommitted changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def draw(pairs: Sequence[Pair], folder: Path) -> list[Path]:
    """Write every picture, and return where."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, picture in pictures.all_of(pairs).items():
        (folder / name).write_text(picture)
        drawn.append(folder / name)
    return drawn


def markdown(pairs: Sequence[Pair]) -> str:
    """Return all tables."""
    return counting.markdown(pairs)


def families(out: Path, only: Sequence[str]) -> list[str]:
    """Return the families that were made."""
    return list(only) or sorted(path.parent.name for path in out.glob("*/truth.json"))
