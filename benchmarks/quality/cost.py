"""How long inference takes over N saved fingerprints of one family, as a picture.

    python benchmarks/quality/cost.py [--models 10 30 100 300 1000] [--json FILE] [--svg FILE]

The family is made up: a tree grown by small changes of one small transformer's weights, each
child's in a few strong directions of its own with noise beside them, as gradients leave. It is for
time alone: how many of the edges said are right is printed to show that inference had a tree to
find, but random changes are no training. Fingerprints are kept in the work folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import plots
from commands import HOME

LIMITS = ((100, 10.0), (1000, 600.0))
"""Models and the seconds that they must not take."""

_WIDTH, _HIDDEN, _LAYERS, _VOCABULARY = 64, 176, 4, 512
_CHANGE = 0.1
"""Norm of a step over the norm of the matrix it changes."""

_STRENGTHS = np.array([1.5, 1.0, 0.7, 0.5, 0.3])
"""Of the strong directions of a step, beside noise of strength 1 in every value."""

_TRUTH = "truth.json"

_BRANCHES = 4
"""Mean number of children of a model that has any."""

Array = np.ndarray


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the tensors of a small model laid out as Llama is."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (_VOCABULARY, _WIDTH)}
    for layer in range(_LAYERS):
        name = f"model.layers.{layer}."
        for part in "qkvo":
            found[f"{name}self_attn.{part}_proj.weight"] = (_WIDTH, _WIDTH)
        for part in ("gate", "up"):
            found[f"{name}mlp.{part}_proj.weight"] = (_HIDDEN, _WIDTH)
        found[f"{name}mlp.down_proj.weight"] = (_WIDTH, _HIDDEN)
        for part in ("input", "post_attention"):
            found[f"{name}{part}_layernorm.weight"] = (_WIDTH,)
    return {**found, "model.norm.weight": (_WIDTH,), "lm_head.weight": (_VOCABULARY, _WIDTH)}


def grow(count: int, seed: int) -> list[tuple[int | None, dict[str, Array]]]:
    """Return models and, of each, the place of its parent in the list."""
    draw = np.random.default_rng(seed)
    root = {
        name: np.ones(shape, np.float32) if len(shape) == 1
        else (0.02 * draw.standard_normal(shape)).astype(np.float32)
        for name, shape in shapes().items()
    }  # fmt: skip
    family: list[tuple[int | None, dict[str, Array]]] = [(None, root)]
    for number in range(1, count):
        parent = int(draw.integers((number - 1) // _BRANCHES + 1))
        child = {name: _moved(values, draw) for name, values in family[parent][1].items()}
        family.append((parent, child))
    return family


def _moved(values: Array, draw: np.random.Generator) -> Array:
    if values.ndim == 1:
        return values
    rows, cols = values.shape
    few = draw.standard_normal((rows, len(_STRENGTHS))) * _STRENGTHS
    step = few @ draw.standard_normal((len(_STRENGTHS), cols)) + draw.standard_normal(values.shape)
    scale = _CHANGE * np.linalg.norm(values) / np.linalg.norm(step)
    return (values + scale * step).astype(np.float32)


def save_all(folder: Path, count: int, seed: int) -> None:
    """Write the fingerprints of a family, without its weights."""
    from lineage import fingerprint
    from lineage.fingerprints import save

    folder.mkdir(parents=True)
    order = np.random.default_rng(seed + 1).permutation(count)
    names = [f"m{number:04d}" for number in order]
    parents = {}
    for name, (parent, model) in zip(names, grow(count, seed), strict=True):
        save(fingerprint(model), folder / f"{name}.lineage")
        parents[name] = None if parent is None else names[parent]
    (folder / _TRUTH).write_text(json.dumps(parents))


def timed(folder: Path) -> dict[str, Any]:
    """Infer over a folder of fingerprints, in a process of its own."""
    started = perf_counter()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "lineage", "infer", str(folder), "--json"],
        env={**os.environ, "PYTHONPATH": str(HOME)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = perf_counter() - started
    if done.returncode != 0:
        raise RuntimeError(f"infer failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    told = json.loads(done.stdout)
    parents = json.loads((folder / _TRUTH).read_text())
    right = sum(parents[Path(e["child"]).stem] == Path(e["parent"]).stem for e in told["edges"])
    return {"models": len(told["models"]), "edges": len(told["edges"]), "right": right,
            "seconds": round(seconds, 3)}  # fmt: skip


def main() -> int:
    sys.path.insert(0, str(HOME))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path, default=Path(__file__).with_name("cost.svg"))
    cache = HOME / "benchmarks" / ".cache" / "quality" / "cost"
    parser.add_argument("--work", type=Path, default=cache)
    parser.add_argument("--prepare", action="store_true", help="only make the fingerprints")
    options = parser.parse_args()
    rows = []
    for count in sorted(set(options.models)):
        folder = options.work / f"{count}-{options.seed}"
        if not (folder / _TRUTH).exists():
            shutil.rmtree(folder, ignore_errors=True)
            print(f"making {count} fingerprints", file=sys.stderr, flush=True)
            save_all(folder, count, options.seed)
        if not options.prepare:
            rows.append(timed(folder))
            print(rows[-1], file=sys.stderr, flush=True)
    if not rows:
        return 0
    print("| models | edges said | of them right | seconds |\n| --- | --- | --- | --- |")
    for row in rows:
        print(f"| {row['models']} | {row['edges']} | {row['right']} | {row['seconds']:.2f} |")
    if options.json:
        told = {"seed": options.seed, "tensors": len(shapes()), "rows": rows}
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    if len(rows) > 1:
        points = [(row["models"], row["seconds"]) for row in rows]
        options.svg.write_text(plots.growth(points, LIMITS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
