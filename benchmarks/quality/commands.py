"""Asks the public commands under names that tell nothing.

`infer` runs in a process of its own; many pairs of models share a process for each core, since to
start one takes longer than to compare two small models.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from time import perf_counter
from typing import Any

from scores import Answer, Said

HOME = Path(__file__).resolve().parent.parent.parent
_WEIGHTS = {".safetensors", ".gguf", ".bin", ".pt", ".pth", ".npz", ".h5", ".onnx"}
_TELLING = ("_name_or_path", "base_model_name_or_path", "name_or_path", "revision")
"""Fields of a configuration that may name a parent."""


class CommandError(Exception):
    """A command that gave no answer."""


class Nameless:
    """A folder of models whose names and order say nothing of how they were made.

    Files are linked, not copied, and links are hard, so that nothing leads back to their names.
    Of what lies beside the weights only configurations are kept, without the fields that name a
    parent; no card.

    Args:
        folder: Made anew.
        models: Model -> where it is.
        seed: Of the order.
        folders_only: Whether a lone file gets a folder, for tools that read nothing else.

    Attributes:
        folder: Where the models are.
        paths: Model -> its path there.
    """

    def __init__(
        self, folder: Path, models: Mapping[str, Path], *, seed: int, folders_only: bool = False
    ) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        order = sorted(models)
        random.Random(seed).shuffle(order)
        width = len(str(len(order) - 1))
        self.folder = folder
        self.paths = {
            name: _placed(models[name], folder / f"m{number:0{width}d}", folders_only)
            for number, name in enumerate(order)
        }
        self._names = {path.name: name for name, path in self.paths.items()}

    def name(self, path: str) -> str | None:
        """Return the model at a path, or of a file in it; None for what is not of this folder."""
        try:
            inside = PurePath(path).relative_to(self.folder)
        except ValueError:
            return None
        return self._names.get(inside.parts[0]) if inside.parts else None


def _placed(source: Path, target: Path, folders_only: bool) -> Path:
    """Link a model under another name and return its path."""
    if source.is_file() and folders_only:
        target.mkdir()
        _link(source, target / f"model{source.suffix}")
        return target
    if source.is_file():
        target = target.with_suffix(source.suffix)
        _link(source, target)
        return target
    target.mkdir()
    for file in sorted(source.iterdir()):
        if file.suffix in _WEIGHTS or file.name.endswith(".index.json"):
            _link(file, target / file.name)
        elif file.suffix == ".json" and file.name.endswith("config.json"):
            told = json.loads(file.read_text())
            kept = {k: v for k, v in told.items() if k not in _TELLING}
            (target / file.name).write_text(json.dumps(kept))
    return target


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


class Lineage:
    """Runs `python -m lineage`.

    Attributes:
        seconds: What each run of `infer` took, with the number of models.
        notes: What the commands said on stderr, and how they failed.
    """

    def __init__(self, work: Path, *, seed: int, deep: bool = False) -> None:
        self._work = work
        self._more = ("--deep",) if deep else ()
        self._seed = seed
        self.seconds: list[dict[str, Any]] = []
        self.notes: list[str] = []

    def infer(self, title: str, models: Mapping[str, Path]) -> tuple[Answer, Nameless]:
        """Infer who came from whom among some models.

        Raises:
            CommandError: If the command gives no answer.
        """
        place = Nameless(self._work / f"run-{len(self.seconds)}", models, seed=self._seed)
        started = perf_counter()
        told = self._run("infer", str(place.folder), *self._more)
        took = perf_counter() - started
        self.seconds.append({"title": title, "models": len(models), "seconds": round(took, 2)})
        missing = models.keys() - {place.name(m["path"]) for m in told["models"]}
        if missing:
            self.notes.append(f"{title}: not in the answer: {', '.join(sorted(missing))}")
        return answer(place, told), place

    def compare(
        self, place: Nameless, pairs: Iterable[tuple[str, str]]
    ) -> dict[tuple[str, str], dict[str, Any]]:
        """Compare pairs of models, each alone; which comes first is drawn by lot."""
        chance = random.Random(self._seed)
        turned = [(a, b) if chance.random() < 0.5 else (b, a) for a, b in sorted(pairs)]
        return self._each("compare", place, turned)

    def infer_alone(
        self, place: Nameless, pairs: Iterable[tuple[str, str]]
    ) -> dict[tuple[str, str], Answer]:
        """Infer who came from whom among two models, pair by pair."""
        found = self._each("infer", place, sorted(pairs))
        return {pair: answer(place, told) for pair, told in found.items()}

    def _each(
        self, command: str, place: Nameless, pairs: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], dict[str, Any]]:
        """Return what a command says of each pair, without those that it says nothing of."""
        cores = os.cpu_count() or 1
        shares = [pairs[start::cores] for start in range(min(cores, len(pairs)))]
        found: dict[tuple[str, str], dict[str, Any]] = {}
        with ThreadPoolExecutor(max_workers=cores) as pool:
            asked = pool.map(lambda share: self._many(command, place, share), shares)
            for share, told in zip(shares, asked, strict=True):
                for (a, b), line in zip(share, told, strict=True):
                    try:
                        found[a, b] = _document(line["out"], line["last"])
                    except CommandError as error:
                        self.notes.append(f"{command} {a} {b}: {error}")
        return {pair: found[pair] for pair in pairs if pair in found}

    def _many(
        self, command: str, place: Nameless, pairs: Sequence[tuple[str, str]]
    ) -> list[dict[str, str]]:
        """Run a command on pairs in one process; where that ends early, it says so of the rest."""
        lines = [
            json.dumps([command, str(place.paths[a]), str(place.paths[b]), "--json", *self._more])
            for a, b in pairs
        ]
        done = self._python(str(Path(__file__).with_name("many.py")), words="\n".join(lines))
        told: list[dict[str, str]] = [json.loads(line) for line in done.stdout.splitlines()]
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return told + [{"out": "", "last": last}] * (len(pairs) - len(told))

    def _run(self, *arguments: str) -> dict[str, Any]:
        done = self._python("-m", "lineage", *arguments, "--json")
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return _document(done.stdout, last)

    def _python(self, *arguments: str, words: str = "") -> subprocess.CompletedProcess[str]:
        env = {
            **os.environ, "PYTHONPATH": str(HOME), "XDG_CACHE_HOME": str(self._work / "cache"),
            "HF_HUB_OFFLINE": "1", "OPENBLAS_NUM_THREADS": "1",
        }  # fmt: skip
        return subprocess.run(
            [sys.executable, "-P", *arguments], env=env, input=words, capture_output=True,
            text=True, check=False,
        )  # fmt: skip


def _document(out: str, last: str) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(out)
    except json.JSONDecodeError:
        raise CommandError(last) from None
    return told


def answer(place: Nameless, told: Mapping[str, Any]) -> Answer:
    """Turn what `lineage infer --json` prints into an answer about the models by their names.

    Edges from or to a parent that it proposes and that is not at hand are left out.
    """
    edges = []
    for edge in told["edges"]:
        parent, child = place.name(edge["parent"]), place.name(edge["child"])
        if parent is not None and child is not None:
            known = {k: edge.get(k) for k in ("relation", "how", "coefficient", "probability")}
            edges.append(Said(parent, child, **known))
    pairs = {
        frozenset((str(place.name(p["a"])), str(place.name(p["b"])))): p for p in told["pairs"]
    }
    return Answer(
        tuple(edges),
        {ends: pair["score"] for ends, pair in pairs.items()},
        {ends: pair["related"] for ends, pair in pairs.items()},
    )
