"""What is compared with what: one function per row of the benchmark."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import inputs
import machine
from inputs import Input, NoRoomError
from race import Entrant, Race, RunError, drop, race, run
from tools import OURS, PEERS, Tools, renamed

_COLD_GIGABYTES = 4.0
_STARTUP_ROUNDS = 4
"""Times the rounds of other rows."""

_MEMORY_SHARE = 0.8
"""An input larger than this part of the free memory cannot be warm."""


@dataclass(slots=True)
class Bench:
    """One run of the benchmark.

    Attributes:
        cache: Where inputs and peers are kept.
        tools: Makes commands.
        sizes: Gigabytes of the main row, ascending.
        rounds: Of every race.
        races: Row -> its races, with what they read.
        roots: Tier -> the root it gave, or why it gave none.
        notes: What was left out, and why.
        save: Called after every race.
    """

    cache: Path
    tools: Tools
    sizes: tuple[float, ...]
    rounds: int
    save: Callable[[], None] = lambda: None
    races: dict[str, list[tuple[Race, tuple[Input, ...]]]] = field(default_factory=dict)
    roots: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def side(self) -> float:
        """Gigabytes of the inputs beside the main row."""
        return min(1.0, self.sizes[0])

    def run(
        self, row: str, given: tuple[Input, ...], entrants: tuple[Entrant, ...],
        *, title: str = "", rounds: int = 0, cold: bool = False,
    ) -> None:  # fmt: skip
        """Hold a race, and leave the page cache to the next one."""
        result = Race(title or f"{given[0].size_bytes / 1e9:.3g} GB", entrants, {}, {})
        self.races.setdefault(row, []).append((result, given))
        files = [file for each in given for file in each.files]
        race(result, rounds or self.rounds, files, self.tools.work, inputs.SEED, cold=cold)
        drop(files)
        self.save()

    def made(self, make: Callable[[], Input]) -> Iterator[Input]:
        """Yield one input, or none where there is no room for it."""
        try:
            given = make()
            available = machine.available_bytes()
            if given.size_bytes > _MEMORY_SHARE * available:
                reason = f"{given.name} does not fit the page cache ({available / 1e9:.1f} GB free)"
                raise NoRoomError(reason)
        except NoRoomError as error:
            self.notes.append(f"Left out: {error}.")
            print(self.notes[-1], file=sys.stderr, flush=True)
        else:
            yield given


def same_root(bench: Bench) -> None:
    """Ask every tier for the root of one model: they must agree."""
    for given in bench.made(lambda: inputs.llama(bench.cache, bench.side)):
        for entrant in bench.tools.named(given, *OURS):
            saved = entrant.command.index("-o") if "-o" in entrant.command else None
            asked = renamed(entrant, entrant.name, {}, (*entrant.command[:saved], "--json"))
            try:
                told: dict[str, Any] = json.loads(run(asked, bench.tools.work, keep=True)[1])
                bench.roots[entrant.name] = told["fingerprints"][0]["id"]
            except (RunError, ValueError, LookupError) as error:
                bench.roots[entrant.name] = f"not supported: {error}"
    bench.save()


def main(bench: Bench) -> None:
    """Time ours and every peer on bf16 checkpoints of all sizes, page cache warm."""
    for size in bench.sizes:
        for given in bench.made(lambda size=size: inputs.llama(bench.cache, size)):  # type: ignore[misc]
            full = ("modeldna --full",) if size == bench.sizes[0] else ()
            entrants = bench.tools.named(given, *OURS, *PEERS, *full)
            bench.run("main", (given,), entrants)


def dtype(bench: Bench) -> None:
    """Time ours against `b3sum` on one file of each dtype."""
    names = ("b3sum", "lineage --exact", "lineage", "lineage --fast")
    for name in ("F32", "F16", "BF16", "F8_E4M3", "I8", "Q4_K"):
        for given in bench.made(lambda name=name: _of_dtype(bench, name)):  # type: ignore[misc]
            title = {"I8": "I8, a scale per row", "Q4_K": "Q4_K, GGUF"}.get(name, name)
            bench.run("dtype", (given,), bench.tools.named(given, *names), title=title)


def _of_dtype(bench: Bench, name: str) -> Input:
    if name == "Q4_K":
        return inputs.gguf(bench.cache, bench.side)
    return inputs.llama(bench.cache, bench.side, name, shards=1)


def many(bench: Bench) -> None:
    """Time ours on tensors of some 100 kB against the same bytes in 100 tensors."""
    count = max(200, round(bench.side * 10_000))
    for few in bench.made(lambda: inputs.plain(bench.cache, bench.side, 100)):
        for lots in bench.made(lambda: inputs.plain(bench.cache, bench.side, count)):
            entrants: list[Entrant] = []
            for given, label in ((few, "100"), (lots, str(count))):
                for each in bench.tools.named(given, "b3sum", "lineage --exact", "lineage"):
                    rivals = {
                        "b3sum": f"b3sum, {label} tensors",
                        "100 tensors": f"{each.name}, 100 tensors",
                    }
                    entrants.append(renamed(each, f"{each.name}, {label} tensors", rivals))
            bench.run("many", (few, lots), tuple(entrants))


def startup(bench: Bench) -> None:
    """Time what a small file costs, against starting Python with NumPy."""
    for given in bench.made(lambda: tiny(bench.cache)):
        against = {"import numpy": "import numpy"}
        entrants = [
            Entrant("bare Python", (str(bench.tools.python), "-c", "pass")),
            Entrant("import numpy", (str(bench.tools.python), "-c", "import numpy")),
            *bench.tools.named(given, "lineage --exact", "lineage", "lineage --fast"),
        ]
        named = tuple(renamed(each, each.name, against) for each in entrants)
        bench.run("startup", (given,), named, title="1 MB", rounds=_STARTUP_ROUNDS * bench.rounds)


def tiny(cache: Path) -> Input:
    """Make a file of 1 MB in four tensors."""
    return inputs.plain(cache, 0.001, 4)


def cold(bench: Bench) -> None:
    """Time reading from the disk: the page cache is dropped before every run."""
    for given in bench.made(lambda: inputs.llama(bench.cache, _moderate(bench))):
        names = ("b3sum", "cat", "lineage --exact", "lineage")
        entrants = bench.tools.named(given, *names)
        bench.run("cold", (given,), entrants, cold=True)


def cached(bench: Bench) -> None:
    """Time fingerprinting again what has been fingerprinted before."""
    for given in bench.made(lambda: inputs.llama(bench.cache, _moderate(bench))):
        b3sum, fresh = bench.tools.named(given, "b3sum", "lineage")
        command = tuple(word for word in fresh.command if word != "--no-cache")
        rivals = {"b3sum": "b3sum", "first time": "lineage"}
        again = renamed(fresh, "lineage, again", rivals, command)
        try:
            run(again, bench.tools.work)
        except RunError as error:
            again = replace(again, missing=str(error))
        bench.run("cached", (given,), (b3sum, fresh, again))


def _moderate(bench: Bench) -> float:
    """Return the largest size that a disk reads in seconds."""
    return max((size for size in bench.sizes if size <= _COLD_GIGABYTES), default=bench.sizes[0])


def settle(bench: Bench) -> str:
    """Run every tool once, so that no race pays for its compiling; name the kernel loaded."""
    given = tiny(bench.cache)
    for entrant in bench.tools.named(given, *OURS, *PEERS):
        try:
            run(entrant, bench.tools.work)
        except RunError as error:
            print(f"{entrant.name}, {given.name}: {error}", file=sys.stderr, flush=True)
    return machine.compiled_kernel(given.path, bench.tools.python, bench.tools.env)


ROWS: dict[str, tuple[str, Callable[[Bench], None]]] = {
    "main": ("bf16 checkpoints, page cache warm", main),
    "dtype": ("Dtypes, one file each", dtype),
    "many": ("Many small tensors", many),
    "startup": ("Start-up: a file of 1 MB", startup),
    "cold": ("Page cache cold", cold),
    "cached": ("Fingerprinting again, our cache on", cached),
    "roots": ("One root from every tier", same_root),
}
"""Name -> title and function, in the order they run."""
