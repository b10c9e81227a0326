"""Asks the peers about pairs: those of `peers.py` in processes, `modeldna` in its environment."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from math import isnan
from pathlib import Path
from typing import Any

import folders
import peers
from asking import MANY
from networks import Network
from others import apart
from pairs import Pair

_KEPT = 60
"""Networks that are kept taken apart, in each process."""
_AT_ONCE = 20


def ask(
    pairs: Sequence[Pair], out: Path, cores: int, say: Callable[[str], None]
) -> Iterator[tuple[Pair, dict[str, Any]]]:
    """Yield what every peer says of each pair, as soon as some are done."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = "1"
    near = sorted(pairs, key=lambda pair: (pair.family, pair.a))
    lots = [near[start : start + _AT_ONCE] for start in range(0, len(near), _AT_ONCE)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, mp_context=context) as pool:
        runs = {
            pool.submit(
                asked, [(str(out / p.family / p.a), str(out / p.family / p.b)) for p in lot]
            ): lot
            for lot in lots
        }
        done = 0
        for run in as_completed(runs):
            yield from zip(runs[run], run.result(), strict=True)
            done += len(runs[run])
            if done % 200 < _AT_ONCE or done == len(pairs):
                say(f"{pairs[0].family}: {done} of {len(pairs)} asked of peers")


def asked(paths: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return what every peer says of pairs of folders."""
    told = []
    for a, b in paths:
        begun = time.process_time()
        one, other = _network(a), _network(b)
        scores = {} if one is None or other is None else peers.scores(one, other)
        found = {name: scores.get(name, float("nan")) for name in peers.PEERS}
        told.append(
            {
                "scores": {name: None if isnan(v) else v for name, v in found.items()},
                "seconds": {"peers": round(time.process_time() - begun, 3)},
            }
        )
    return told


@functools.lru_cache(_KEPT)
def _network(path: str) -> Network | None:
    try:
        return apart(folders.read(Path(path)))
    except (ValueError, KeyError):
        return None


def ask_modeldna(
    pairs: Sequence[Pair], out: Path, python: str
) -> Iterator[tuple[Pair, dict[str, Any]]]:
    """Yield how probably `modeldna` calls each pair related; ties go by its sampled cosine.

    Args:
        pairs: Of one family.
        out: Where the matrix lies.
        python: Of an environment that has it.

    Raises:
        OSError: If it ends without an answer.
    """
    names = sorted({name for pair in pairs for name in (pair.a, pair.b)})
    paths = {name: str(out / pairs[0].family / name) for name in names}
    done = subprocess.run(
        [python, str(MANY.with_name("dna_pairs.py"))], input=json.dumps(paths),
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise OSError(f"modeldna: {last}")
    told: Mapping[frozenset[str], float] = {
        frozenset((said["a"], said["b"])): said["probability"] + 1e-3 * (said["cosine"] or 0.0)
        for said in json.loads(done.stdout)
        if said["probability"] is not None
    }
    for pair in pairs:
        yield pair, {"scores": {"modeldna": told.get(frozenset((pair.a, pair.b)))}}
