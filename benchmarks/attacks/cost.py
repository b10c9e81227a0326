"""What it costs to align two models of a real size, and whether what is found is right.

    python benchmarks/attacks/cost.py [--width 4096] [--units 11008] [--blocks 4] [--json FILE]

Makes models of random weights with Llama's shapes and hides them: stream rotated, units permuted
and rescaled, heads permuted and their values turned. Then, each in a process of its own:

1. one block pair is solved: turn of the stream, units, heads, without writing anything;
2. `lineage align --decide` says of a pair of several blocks whether the one is the other;
3. the same of a stranger, to whose vectors no turn leads, so that one is fitted the long way.

Stands beside these: how long a product of two matrices of the stream's width takes in the same
run, and how many such products it takes to turn one block once, which is the least that writing it
in other coordinates costs. Needs twice the models' size on disk and nothing but the package.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.fft import dct

Array = NDArray[np.float32]
Order = NDArray[np.intp]

_HERE = Path(__file__).resolve().parent
_LAYER = "model.layers.{}."
_BLOCK = ("input_layernorm", "post_attention_layernorm")

_RIGHT = 5e-3
"""Relative error of maps from which they are wrong: storing weights in float16 leaves less."""


def main() -> int:
    options = _options()
    if options.solve:
        return _solve(*options.solve)
    options.work.mkdir(parents=True, exist_ok=True)
    floor = _product(options.width)
    one = (4 * options.width + 3 * options.units) / options.width
    print(f"a product of two {options.width} x {options.width} matrices: {floor:.2f} s")
    print(f"to turn a block once: {one:.1f} of them, {one * floor:.1f} s", flush=True)
    rows = []
    for ask in (_solved, partial(_decided, is_own=True), partial(_decided, is_own=False)):
        row = ask(options)
        row["products"] = round(row["seconds"] / floor, 1)
        rows.append(row)
        right = "right" if row["right"] else "WRONG"
        cost = (
            f"{row['seconds']:.1f} s ({row['products']} products), CPU {row['cpu_seconds']:.1f} s"
        )
        print(f"{row['what']}: {cost}, {row['peak_mib']} MiB, {right} ({row['found']})", flush=True)
    if options.json:
        head = {
            "machine": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "shape": {x: getattr(options, x) for x in ("width", "units", "head", "tokens")},
            "product_seconds": round(floor, 3),
            "products_to_turn_a_block": round(one, 2),
        }
        options.json.write_text(json.dumps({**head, "rows": rows}, indent=2) + "\n")
    return 0 if all(row["right"] for row in rows) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--units", type=int, default=11008)
    parser.add_argument("--head", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=32000)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path, default=_HERE.parent / ".cache" / "attacks-cost")
    parser.add_argument("--solve", nargs=3, metavar=("A", "B", "OUT"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _product(width: int) -> float:
    """Return the seconds of a product in single precision; the second of two, which is warm."""
    matrix = np.random.default_rng(0).standard_normal((width, width), np.float32)
    matrix @ matrix
    started = time.perf_counter()
    matrix @ matrix
    return time.perf_counter() - started


def _solve(a: str, b: str, out: str) -> int:
    """Solve a pair, say what it cost, and leave the maps to be looked at."""
    from lineage.alignment import described, solve
    from lineage.alignment.certificate import to_bytes
    from lineage.artifacts import read

    started = time.perf_counter()
    with read(a) as first, read(b) as second:
        found = solve(described(first.items, name=a), described(second.items, name=b))
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": used.ru_maxrss}))
    Path(out).write_bytes(to_bytes(found, "a", "b"))
    return 0


def _solved(options: argparse.Namespace) -> dict[str, Any]:
    """Solve one block pair and hold the maps against what was done."""
    from lineage.alignment.certificate import from_bytes

    one, other = _model(options, 1, options.seed), _hidden(options, 1, options.seed)
    out = options.work / "maps.safetensors"
    told = json.loads(_run([str(Path(__file__)), "--solve", str(one), str(other), str(out)]).stdout)
    off = _errors(from_bytes(out.read_bytes(), "a", "b"), Disguise.drawn(options, 1, options.seed))
    return {
        "what": "one block pair solved",
        "seconds": round(told["seconds"], 2),
        "cpu_seconds": round(told["cpu"], 2),
        "peak_mib": round(told["peak"] / 1024),
        "right": all(error < _RIGHT for error in off.values()),
        "found": ", ".join(f"{name} off by {error:.1e}" for name, error in off.items()),
    }


def _decided(options: argparse.Namespace, *, is_own: bool) -> dict[str, Any]:
    """Ask whether a hidden model is the one that it was made of, or a stranger of one block."""
    one = _model(options, options.blocks, options.seed)
    if not is_own:
        one = _model(options, 1, options.seed + 1)
    other = _hidden(options, options.blocks, options.seed)
    started = time.perf_counter()
    done = _run(["-m", "lineage", "align", str(one), str(other), "--decide", "--json"])
    seconds = time.perf_counter() - started
    found = json.loads(done.stdout)
    blocks = [block["a"] for block in found["blocks"]]
    return {
        "what": f"{len(blocks)} blocks decided, {'hidden' if is_own else 'of a stranger'}",
        "seconds": round(seconds, 2),
        "cpu_seconds": round(done.cpu, 2),
        "peak_mib": round(done.peak / 1024),
        "right": blocks == [block["b"] if is_own else None for block in found["blocks"]],
        "found": f"related: {found['related']}, {found['units_share']:.3f} of units agree, "
        f"p 10^{found['log10_p']:.0f}",
    }


@dataclass(frozen=True)
class _Done:
    stdout: str
    cpu: float
    peak: int


def _run(arguments: list[str]) -> _Done:
    """Run Python in a process of its own and see how large it became."""
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    text = child.stdout.read()
    _, _, used = os.wait4(child.pid, 0)
    if not text:
        raise SystemExit(f"{arguments} said nothing")
    return _Done(text, used.ru_utime + used.ru_stime, used.ru_maxrss)


@dataclass(frozen=True)
class Disguise:
    """What is done to a model, drawn by lot.

    Attributes:
        signs: Two lots of signs for the stream's coordinates; between the cosine transforms that
            go with them it is put in another order.
        order: That order.
        units: New unit i of a block is the old one of this number.
        factors: What it is multiplied by where it reads.
        heads: New head i is the old one of this number.
        spun: And its values are multiplied by this rotation.
    """

    signs: Array
    order: Order
    units: tuple[Order, ...]
    factors: tuple[Array, ...]
    heads: tuple[Order, ...]
    spun: tuple[Array, ...]

    @classmethod
    def drawn(cls, options: argparse.Namespace, blocks: int, seed: int) -> Disguise:
        """Draw one for a model of some blocks."""
        draw = np.random.default_rng([seed, 1])
        signs = draw.choice(np.array([-1, 1], np.float32), (2, options.width))
        order = draw.permutation(options.width)
        count = options.width // options.head
        shape = count, options.head, options.head
        rest = [
            (
                draw.permutation(options.units),
                np.exp(draw.normal(0, 0.3, options.units)).astype(np.float32),
                draw.permutation(count),
                np.linalg.qr(draw.standard_normal(shape, np.float32))[0],
            )
            for _ in range(blocks)
        ]
        return cls(signs, order, *(tuple(part) for part in zip(*rest, strict=True)))  # type: ignore[arg-type]

    def turned(self, rows: Array) -> Array:
        """Return vectors of the stream, a row each, rotated."""
        once = dct(rows * self.signs[0], norm="ortho", axis=1)[:, self.order]
        found: Array = dct(once * self.signs[1], norm="ortho", axis=1)
        return found


def _errors(found: Any, truth: Disguise) -> dict[str, float]:
    """Return by what maps are off what was done: relative, or a share of what is elsewhere."""
    turn = truth.turned(np.eye(len(truth.order), dtype=np.float32)).T
    (block,) = found.blocks
    (mlp,) = block.mlps
    units, heads = mlp.units, block.heads
    scales = np.ones(len(units.b)) if units.scales is None else units.scales
    off = {
        "the turn is": float(np.linalg.norm(found.turn.matrix - turn) / len(turn) ** 0.5),
        "units are": float(np.mean(truth.units[0][units.b] != units.a)),
        "their scales are": float(np.median(np.abs(scales * truth.factors[0][units.b] - 1))),
    }
    if heads is None or heads.values is None or heads.inner is None or heads.inside is None:
        return {**off, "heads are": 1.0}
    back = truth.spun[0][heads.inner].transpose(0, 2, 1)
    count = len(back) * back.shape[1]
    return {
        **off,
        "heads are": float(np.mean(truth.heads[0][heads.inner] != np.arange(len(heads.inner)))),
        "their values are": float(np.linalg.norm(heads.values - back) / count**0.5),
    }


def _model(options: argparse.Namespace, blocks: int, seed: int) -> Path:
    """Write a model; what is there already is kept."""
    path = _path(options, blocks, seed, "plain")
    if path.is_file():
        return path
    draw = np.random.default_rng([seed, 0])
    width, units = options.width, options.units

    def matrix(rows: int, cols: int) -> NDArray[np.float16]:
        drawn = draw.standard_normal((rows, cols), np.float32) * np.float32(0.02)
        return drawn.astype(np.float16)

    def gain() -> NDArray[np.float16]:
        return draw.uniform(0.3, 0.7, width).astype(np.float16)

    model = {
        "model.embed_tokens.weight": matrix(options.tokens, width),
        "model.norm.weight": gain(),
    }
    for n in range(blocks):
        stem = _LAYER.format(n)
        model |= {f"{stem}{norm}.weight": gain() for norm in _BLOCK}
        model |= {f"{stem}self_attn.{x}_proj.weight": matrix(width, width) for x in "qkvo"}
        model |= {f"{stem}mlp.{x}_proj.weight": matrix(units, width) for x in ("gate", "up")}
        model[f"{stem}mlp.down_proj.weight"] = matrix(width, units)
    save_file(model, path)
    return path


def _path(options: argparse.Namespace, blocks: int, seed: int, kind: str) -> Path:
    shape = f"{options.width}-{options.units}-{options.head}-{options.tokens}"
    return Path(options.work) / f"{shape}-{blocks}-{seed}-{kind}.safetensors"


def _hidden(options: argparse.Namespace, blocks: int, seed: int) -> Path:
    """Write the same model in other coordinates; what is there already is kept."""
    path = _path(options, blocks, seed, "hidden")
    if path.is_file():
        return path
    model: dict[str, Any] = load_file(_model(options, blocks, seed))
    todo = Disguise.drawn(options, blocks, seed)

    def take(name: str, gain: Array | float = 1.0) -> Array:
        return model[f"{name}.weight"].astype(np.float32) * gain

    def put(name: str, values: Array) -> None:
        model[f"{name}.weight"] = np.ascontiguousarray(values, np.float16)

    put("model.embed_tokens", todo.turned(take("model.embed_tokens")))
    for n in range(blocks):
        stem = _LAYER.format(n)
        attention, mlp = f"{stem}self_attn.", f"{stem}mlp."
        first, second = (take(f"{stem}{norm}") for norm in _BLOCK)
        for norm in _BLOCK:
            put(f"{stem}{norm}", np.ones(options.width, np.float32))
        units, by = todo.units[n], todo.factors[n][:, None]
        put(f"{mlp}gate_proj", todo.turned(take(f"{mlp}gate_proj", second)[units]))
        put(f"{mlp}up_proj", todo.turned(take(f"{mlp}up_proj", second)[units]) * by)
        put(f"{mlp}down_proj", (todo.turned(take(f"{mlp}down_proj").T[units]) / by).T)
        for x in "qkvo":
            rows = take(f"{attention}o_proj").T if x == "o" else take(f"{attention}{x}_proj", first)
            heads = todo.turned(rows).reshape(len(todo.heads[n]), -1, options.width)
            heads = heads[todo.heads[n]]
            if x in "vo":
                heads = todo.spun[n] @ heads
            rows = heads.reshape(-1, options.width)
            put(f"{attention}{x}_proj", rows.T if x == "o" else rows)
    save_file(model, path)
    return path


if __name__ == "__main__":
    sys.exit(main())
