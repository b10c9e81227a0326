"""Asks `lineage` about pairs: its verbs `compare` and `align`, in processes that stay.

Each process runs `quality/many.py`: one command line after another is given to `lineage.cli.run`,
as if it were typed. They share one cache of fingerprints, as a user's commands do.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import found
import numpy as np
from pairs import Pair

HOME = Path(__file__).resolve().parents[2]
OURS = ("align", "compare")
MANY = HOME / "benchmarks" / "quality" / "many.py"


class Worker:
    """A process that runs one command of `lineage` after another; begun again if it ends."""

    def __init__(self, python: str, cache: Path) -> None:
        self._line = [python, "-P", str(MANY)]
        self._env = {
            **os.environ, "PYTHONPATH": str(HOME), "XDG_CACHE_HOME": str(cache),
            "HF_HUB_OFFLINE": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        self._process: subprocess.Popen[str] | None = None

    def run(self, words: Sequence[str]) -> dict[str, Any]:
        """Return what a command printed as JSON, with `seconds`; or why not, as `failed`.

        A command with which the process ends is run once more in another.
        """
        line = self._asked(words) or self._asked(words)
        if not line:
            return {"failed": "the process ended, and so did another", "seconds": None}
        return _document(json.loads(line))

    def _asked(self, words: Sequence[str]) -> str:
        if self._process is None:
            self._process = subprocess.Popen(
                self._line, env=self._env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(words) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.close()
        return line

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.communicate()
            self._process = None


def _document(told: Mapping[str, Any]) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads(told["out"])
    except json.JSONDecodeError:
        said = {"failed": told["last"]}
    return said | {"seconds": told["seconds"]}


def ask(
    pairs: Sequence[Pair], out: Path, python: str, cores: int,
    say: Callable[[str], None],
) -> Iterator[tuple[Pair, dict[str, Any]]]:  # fmt: skip
    """Yield what `lineage` says of each pair, as soon as it says it.

    Args:
        pairs: Of one family.
        out: Where the matrix lies.
        python: Runs `lineage`.
        cores: Processes at a time.
        say: Told how far it is.
    """
    own, workers = threading.local(), []

    def one(pair: Pair) -> tuple[Pair, dict[str, Any]]:
        if not hasattr(own, "worker"):
            own.worker = Worker(python, work / "cache")
            workers.append(own.worker)
        return pair, asked(pair, out / pair.family, own.worker)

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(cores) as pool:
        work = Path(folder)
        runs = [pool.submit(one, pair) for pair in pairs]
        try:
            for number, run in enumerate(as_completed(runs), 1):
                yield run.result()
                if number % 50 == 0 or number == len(pairs):
                    say(f"{pairs[0].family}: {number} of {len(pairs)} asked")
        finally:
            pool.shutdown(cancel_futures=True)
            for worker in workers:
                worker.close()


def asked(pair: Pair, place: Path, worker: Worker) -> dict[str, Any]:
    """Return what `compare` and `align` say of a pair, and how right that is."""
    a, b = str(place / pair.a), str(place / pair.b)
    compared = worker.run(["compare", a, b, "--json"])
    with tempfile.TemporaryDirectory() as folder:
        certificate, undone = Path(folder) / "maps.safetensors", Path(folder) / "undone.safetensors"
        more: list[str] = []
        if pair.is_positive and pair.role == "child":
            more = ["--certificate", str(certificate)]
            if pair.kind == "disguise":
                more += ["--write", str(undone)]
        aligned = worker.run(["align", a, b, "--json", *more])
        said = _said(compared, aligned)
        if pair.is_positive:
            said |= _judged(pair, place, aligned, certificate)
        if undone.is_file():
            said["undone"] = found.error(place / pair.a, undone)
    return said


def _said(compared: Mapping[str, Any], aligned: Mapping[str, Any]) -> dict[str, Any]:
    both = {"compare": compared, "align": aligned}
    log10_p = aligned.get("log10_p")
    return {
        "called": {name: told.get("related") for name, told in both.items()},
        "scores": {
            "compare": compared.get("score"), "align": None if log10_p is None else -log10_p,
        },
        "seconds": {name: told["seconds"] for name, told in both.items()},
        "log10_p": log10_p,
        "shares": {
            name: told["shares"]["share_b"]
            for name, told in both.items()
            if told.get("shares") is not None
        },
        "blocks": [block["a"] for block in aligned.get("blocks") or ()],
        "notes": [f"{name}: {told['failed']}" for name, told in both.items() if "failed" in told],
    }  # fmt: skip


def _judged(
    pair: Pair, place: Path, aligned: Mapping[str, Any], certificate: Path
) -> dict[str, Any]:
    """Compare layers, units and experts that were found with what was done."""
    maps = dict(np.load(place / f"{pair.b}.maps.npz"))
    before = dict(np.load(place / f"{pair.a}.maps.npz")) if pair.role == "mixture" else None
    blocks = aligned.get("blocks") or []
    told: dict[str, Any] = {"experts": found.experts(blocks, maps, before)}
    if "partial:share" in maps:
        told["share"] = float(maps["partial:share"])
    if blocks:
        told["layers"] = [block["a"] for block in blocks] == found.layers(maps, len(blocks))
    if certificate.is_file():
        told["units"] = found.units(certificate, maps)
    return told
