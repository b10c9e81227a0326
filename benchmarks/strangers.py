"""Whether networks that share everything but their first weights are called related.

    python benchmarks/strangers.py [--kinds lm cnn tones] [--count 101] [--json FILE]

Of each kind many small networks are trained on the same batches in the same order by the same
recipe; the seed chooses the initial weights and nothing else. The files hold what such networks
have in common: causal masks, sine positions, fixed filters, statistics of batch normalisation,
counters, gains that began as ones, matrices that began as zeros. Some are stopped after a few
steps. Beside them a few are trained on, as a control: a test that finds nothing may be blind.

Exit status 1 if a pair of strangers is called related, or a control is not; 3 if it cannot run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from nets import KINDS, train
from safetensors.torch import load_file, save_file
from torch import nn

HOME = Path(__file__).resolve().parents[1]
VERSION = 1
"""Of all in `nets.py` that decides a network's weights: others are made anew."""

SHORT_STEPS = (0, 1, 4, 16)
"""Where the networks that are stopped early are stopped, in turn."""

CONTROLS, CONTROL_STEPS = 5, 40
"""Networks of each kind that are trained on with other batches, and for how long."""


def make(kind: str, number: int, steps: int, file: Path) -> tuple[str, float]:
    """Train one network from its own first weights and save it."""
    torch.set_num_threads(1)
    torch.manual_seed(1_000_000 + number)
    module = KINDS[kind].build()
    loss = train(kind, module, steps, seed=0)
    _save(module, file)
    return file.stem, loss


def make_control(kind: str, source: Path, file: Path) -> tuple[str, float]:
    """Train a network on with other batches and save it."""
    torch.set_num_threads(1)
    module = KINDS[kind].build()
    module.load_state_dict(load_file(source))
    loss = train(kind, module, CONTROL_STEPS, seed=1)
    _save(module, file)
    return file.stem, loss


def _save(module: nn.Module, file: Path) -> None:
    weights = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    part = file.with_suffix(".part")
    save_file(weights, part)
    part.replace(file)


def family(kind: str, count: int, short: int, folder: Path, workers: int) -> dict[str, list[str]]:
    """Make what is missing of a kind and return the names by what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    full = {f"full-{n:03d}": (n, KINDS[kind].steps) for n in range(count)}
    brief = {
        f"short-{n:03d}-{SHORT_STEPS[n % len(SHORT_STEPS)]}":
            (count + n, SHORT_STEPS[n % len(SHORT_STEPS)])
        for n in range(short)
    }  # fmt: skip
    controls = {f"control-{n:03d}": f"full-{n:03d}" for n in range(min(CONTROLS, count))}
    with ProcessPoolExecutor(workers) as pool:
        made = [
            pool.submit(make, kind, number, steps, folder / f"{name}.safetensors")
            for name, (number, steps) in {**full, **brief}.items()
            if not (folder / f"{name}.safetensors").exists()
        ]
        _wait(kind, made)
        made = [
            pool.submit(make_control, kind, folder / f"{source}.safetensors",
                        folder / f"{name}.safetensors")
            for name, source in controls.items()
            if not (folder / f"{name}.safetensors").exists()
        ]  # fmt: skip
        _wait(kind, made)
    return {"full": list(full), "short": list(brief), "control": list(controls)}


def _wait(kind: str, made: Sequence[Any]) -> None:
    for number, future in enumerate(made):
        name, loss = future.result()
        if number % 20 == 0:
            print(f"{kind}: {name}, loss {loss:.3f}", file=sys.stderr, flush=True)


def inferred(paths: Sequence[Path]) -> dict[str, Any]:
    """Return what `lineage infer` prints about some models, from a process of its own."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "lineage", "infer", *map(str, paths), "--json"],
        env={**os.environ, "PYTHONPATH": str(HOME)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or ["infer failed"])[-1])
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def compared(paths: Sequence[Path]) -> Iterator[tuple[str, str, Any]]:
    """Yield what `compare` says of every pair, each alone."""
    from lineage.evidence import compare_fingerprints
    from lineage.fingerprints import fingerprint

    prints = {path.stem: fingerprint(path) for path in paths}
    for a, b in combinations(prints, 2):
        yield a, b, compare_fingerprints(prints[a], prints[b])


def _unequal(paths: Sequence[Path]) -> Iterator[float]:
    """Yield the cosine of every pair over the matrices that are not equal."""
    from lineage.evidence.kinship import kinship
    from lineage.evidence.pairing import pair
    from lineage.fingerprints import fingerprint

    prints = [fingerprint(path) for path in paths]
    for one, other in combinations(prints, 2):
        found = kinship(pair(one, other)).others_cosine
        if found is not None:
            yield found


def shared(one: Path, other: Path) -> float:
    """Return the share of the values in matrices that two networks have in common."""
    from lineage.evidence.kinship import kinship
    from lineage.evidence.pairing import pair
    from lineage.fingerprints import fingerprint

    return kinship(pair(fingerprint(one), fingerprint(other))).equal_share


def measured(kind: str, folder: Path, names: dict[str, list[str]]) -> dict[str, Any]:
    """Count what is said of all pairs of strangers, and of the controls with their models."""
    from scipy.special import ndtri_exp

    strangers = [folder / f"{name}.safetensors" for name in (*names["full"], *names["short"])]
    controls = [folder / f"{name}.safetensors" for name in names["control"]]
    sources = {name: name.replace("control", "full") for name in names["control"]}
    everything = strangers + controls

    def is_kin(a: str, b: str) -> bool:
        return sources.get(a, a) == sources.get(b, b)

    started = perf_counter()
    told = inferred(everything)
    seconds = perf_counter() - started
    stems = {str(path): path.stem for path in everything}
    pairs = [(stems[p["a"]], stems[p["b"]], p) for p in told["pairs"]]
    apart = [p for a, b, p in pairs if not is_kin(a, b)]
    kin = [p for a, b, p in pairs if is_kin(a, b)]
    edges = [e for e in told["edges"] if not is_kin(stems[e["parent"]], stems[e["child"]])]
    alone = [(found, is_kin(a, b)) for a, b, found in compared(everything)]
    others = [found for found, kin_ in alone if not kin_]
    unequal = np.array(list(_unequal(strangers)))
    logs = np.array([found.log10_p for found in others if found.log10_p is not None])
    return {
        "kind": kind, "networks": len(strangers), "fully trained": len(names["full"]),
        "steps": KINDS[kind].steps, "pairs": len(apart), "seconds of infer": round(seconds, 2),
        "infer related": sum(p["related"] is True for p in apart),
        "infer open": sum(p["related"] is None for p in apart),
        "infer edges": len(edges),
        "compare related": sum(f.related is True for f in others),
        "compare open": sum(f.related is None for f in others),
        "compare relation": sum(f.relation is not None for f in others),
        "largest score": max(f.score for f in others),
        "largest cosine of unequal matrices": float(unequal.max()),
        "one in a hundred above": float(np.quantile(unequal, 0.99)),
        "smallest log10_p": float(logs.min()) if len(logs) else None,
        "deviates rms": float(np.sqrt(np.mean(ndtri_exp(logs * np.log(10)) ** 2)))
        if len(logs) else None,
        "equal share": shared(*strangers[:2]),
        "controls": len(kin), "controls infer related": sum(p["related"] is True for p in kin),
        "controls compare related": sum(f.related is True for f, k in alone if k),
        "least score of a control": min(f.score for f, k in alone if k),
    }  # fmt: skip


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| | " + " | ".join(row["kind"] for row in rows) + " |",
        "| --- |" + " --- |" * len(rows),
    ]
    for name in [name for name in rows[0] if name != "kind"]:
        shown = (f"{v:.3g}" if isinstance(v := row[name], float) else str(v) for row in rows)
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> int:
    sys.path.insert(0, str(HOME))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=list(KINDS))
    parser.add_argument("--count", type=int, default=101, help="fully trained, of each kind")
    parser.add_argument("--short", type=int, default=20, help="stopped early, of each kind")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, metavar="FILE")
    cached = HOME / "benchmarks" / ".cache" / f"strangers-{VERSION}"
    parser.add_argument("--work", type=Path, default=cached, metavar="DIR")
    options = parser.parse_args()
    if options.count < 2:
        parser.error("--count is at least 2")
    rows = []
    for kind in options.kinds:
        names = family(kind, options.count, options.short, options.work / kind, options.workers)
        rows.append(measured(kind, options.work / kind, names))
    print(_table(rows))
    if options.json:
        options.json.write_text(json.dumps({"version": VERSION, "rows": rows}, indent=1) + "\n")
    is_wrong = any(
        row["infer related"] or row["compare related"] or row["infer edges"]
        or row["controls infer related"] < row["controls"]
        or row["controls compare related"] < row["controls"]
        for row in rows
    )  # fmt: skip
    return 1 if is_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
