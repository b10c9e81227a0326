"""`modeldna` from PyPI, in an environment of its own.

It says of two models how probably one is derived from the other, and neither which nor through
whom. So each family it finds is made a tree by the surest links, hung from the true root. The
links are ordered by its probability and, where that is the same, by its sampled cosine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import networkx as nx
from scores import Answer, Said
from truth import Truth

PINNED = "modeldna==0.1.0"
THRESHOLD = 0.9
"""Its own, from which it calls two models related."""


class DnaError(Exception):
    """Why there is no answer of `modeldna`."""


class Dna:
    """Runs it on folders of models."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not (folder / "pinned.txt").exists():
            self._install()

    def _install(self) -> None:
        print("making an environment for modeldna", file=sys.stderr, flush=True)
        try:
            venv.create(self._folder, with_pip=True, clear=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise DnaError(f"no environment for modeldna: {error}") from error
        python = str(self._folder / "bin" / "python")
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", PINNED],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise DnaError((done.stderr.strip().splitlines() or ["pip failed"])[-1])
        (self._folder / "pinned.txt").write_text(PINNED + "\n")

    def pairs(self, paths: Mapping[str, Path]) -> list[dict[str, Any]]:
        """Return what it says of every pair of models that it can read."""
        done = subprocess.run(
            [str(self._folder / "bin" / "python"), str(Path(__file__).with_name("dna_pairs.py"))],
            input=json.dumps({name: str(path) for name, path in paths.items()}),
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise DnaError((done.stderr.strip().splitlines() or ["modeldna failed"])[-1])
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found


def answer(truth: Truth, found: list[dict[str, Any]]) -> Answer:
    """Turn what it says of pairs into an answer."""
    graph = nx.Graph()
    scores, related = {}, {}
    for pair in found:
        ends = frozenset((pair["a"], pair["b"]))
        if pair["probability"] is not None:
            scores[ends] = pair["probability"] + 1e-3 * (pair["cosine"] or 0.0)
            related[ends] = pair["probability"] >= THRESHOLD
            if related[ends]:
                graph.add_edge(pair["a"], pair["b"], weight=scores[ends])
    said: list[Said] = []
    for members in nx.connected_components(graph):
        tree = nx.maximum_spanning_tree(graph.subgraph(members))
        root = min(members, key=lambda name: (_age(truth, name), name))
        said += [Said(p, c) for p, c in nx.bfs_edges(tree, root)]
    return Answer(tuple(said), scores, related)


def _age(truth: Truth, name: str) -> tuple[int, bool]:
    standing = truth.standing_for(name)
    return len(truth.ancestors(standing)), name != standing


def unread(truth: Truth, found: list[dict[str, Any]]) -> list[str]:
    """Return the models of which it can say nothing."""
    read = {name for pair in found if pair["probability"] is not None
            for name in (pair["a"], pair["b"])}  # fmt: skip
    return [name for name in truth.published if name not in read]
