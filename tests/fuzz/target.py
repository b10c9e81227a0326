"""One fuzzing process: python tests/fuzz/target.py READER FOLDER [libFuzzer's own options].

Everything but a return and a `FormatError` (and what a target itself lets pass) is a finding, and
so is a refusal that is not one short line, a descriptor left open, more than `MEMORY` bytes beyond
what was taken before, and an input that takes `SLOW` seconds. Findings are written to
FOLDER/findings, one of each kind, and the fuzzer goes on.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import atheris

with atheris.instrument_imports(include=["lineage"]):
    import lineage
    from lineage import adapters, artifacts, claims, datasets, fingerprints, manifests
    from lineage.datasets import building, conventions, readers

    for _floor in (
        adapters,
        artifacts,
        fingerprints,
        datasets,
        readers,
        conventions,
        manifests,
        claims,
    ):  # all of them now: what is imported later is not seen
        for _module in iter_modules(_floor.__path__, f"{_floor.__name__}."):
            import_module(_module.name)
    from lineage.errors import FormatError

from formats import TARGETS, Target

MEMORY = 256 << 20
SLOW = 2.0
_PIECE, _MOST = 1 << 16, 4 << 20

_ANCHORED = 1000
"""The limit of memory is set anew after so many inputs: the fuzzer itself grows meanwhile."""


class Leak(Exception):
    """A descriptor was left open."""


class Untidy(Exception):
    """A refusal that is not one short printable line."""


class Slow(Exception):
    """An input took too long."""


class Harness:
    """Runs inputs, and keeps one input of each kind of finding."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self.findings = folder / "findings"
        self.findings.mkdir(exist_ok=True)
        self.place = Path(os.environ["LINEAGE_FUZZ_PLACE"])
        for path in (folder / "beside").iterdir():
            (self.place / path.name).write_bytes(path.read_bytes())
        self.lowest = self._descriptor()
        self.runs = 0
        self.scratch = memoryview(bytearray(_PIECE))

    def __call__(self, data: bytes) -> None:
        if self.runs % _ANCHORED == 0:
            limit_memory()
        self.runs += 1
        begun = time.process_time()
        try:
            self._open(data)
            if self._descriptor() != self.lowest:
                raise Leak
            if time.process_time() - begun > SLOW:
                raise Slow
        except Exception as error:  # noqa: BLE001  (that is the question)
            self._keep(error, data)

    def _open(self, data: bytes) -> None:
        given = self.target.lay(self.place, data)
        try:
            (self.target.read or self._read)(given, data)
        except FormatError as error:
            words = str(error)
            if not words.isprintable() or len(words) > 1500:
                raise Untidy(words[:200]) from error

    def _read(self, given: Path, data: bytes) -> None:
        with lineage.read(given) as artifact:
            left = _MOST
            for item in artifact.items:
                for start in range(0, item.size_bytes, _PIECE):
                    size = min(_PIECE, item.size_bytes - start)
                    assert len(item.source.piece(start, size, self.scratch)) == size
                    left -= size
                    if left < 0:
                        break
        if left >= 0 and len(data) % 8 == 0:  # the whole way, with its threads, now and then
            lineage.fingerprint(given)

    def _descriptor(self) -> int:
        descriptor = os.open(os.devnull, os.O_RDONLY)
        os.close(descriptor)
        return descriptor

    def _keep(self, error: Exception, data: bytes) -> None:
        told = "".join(traceback.format_exception(error))
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(__file__).parent != Path(frame.filename).parent
        ]
        place = f"{Path(frames[-1].filename).stem}-{frames[-1].lineno}" if frames else "whole"
        name = f"{type(error).__name__}-{place}"
        path = self.findings / name
        if not path.exists() or path.stat().st_size > len(data):
            path.write_bytes(data)
            path.with_suffix(".txt").write_text(told)


def main() -> None:
    """Fuzz one reader."""
    reader, folder = sys.argv[1], Path(sys.argv[2])
    building.WORTH_PROCESSES = sys.maxsize  # what other processes do is not seen, and takes seconds
    target = TARGETS[reader]
    harness = Harness(target, folder)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        def raw(part: bytes) -> bytes:
            changed: bytes = atheris.Mutate(part, max(len(part) + 64, 128))
            return changed

        return target.mutate(data, random.Random(seed), raw)[:max_size]

    options: dict[str, Any] = {"custom_mutator": mutate}
    atheris.Setup([sys.argv[0], *sys.argv[3:]], harness, **options)
    atheris.Fuzz()


def limit_memory() -> None:
    """Leave `MEMORY` bytes beyond what is taken already."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
