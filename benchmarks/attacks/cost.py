"""How long it takes to align two models of a real size.

    python benchmarks/attacks/cost.py [--width 4096] [--units 11008] [--blocks 4] [--json FILE]

Makes a model of random weights with Llama's shapes, hides it (stream rotated, units permuted and
rescaled, heads permuted and their values turned), and runs `lineage align` on the pair and on one
block of it. Needs twice the model's size on disk and nothing but the package.
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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Array = NDArray[np.float32]

_HERE = Path(__file__).resolve().parent
_LAYER = "model.layers.{}."


def main() -> int:
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for blocks in (1, options.blocks):
        one, other = _pair(options, blocks)
        rows.append(_timed(one, other, blocks))
        print(
            f"{blocks} of {options.width} x {options.units}: {rows[-1]['seconds']:.1f} s, "
            f"{rows[-1]['peak_mib']:.0f} MiB, related {rows[-1]['related']}, {rows[-1]['how']}"
        )
    if options.json:
        machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        shape = {"width": options.width, "units": options.units, "head": options.head}
        options.json.write_text(json.dumps({**machine, **shape, "rows": rows}, indent=2) + "\n")
    return 0 if all(row["related"] for row in rows) else 1


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
    return parser.parse_args()


def _timed(one: Path, other: Path, blocks: int) -> dict[str, Any]:
    """Run `lineage align` in a process of its own; its fingerprints are not cached."""
    command = [sys.executable, "-m", "lineage", "align", str(one), str(other), "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if not done.stdout:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {
        "blocks": blocks,
        "seconds": round(seconds, 2),
        "peak_mib": round(peak),  # of the largest process so far
        "related": found["related"],
        "how": found["how"],
        "blocks_found": [block["a"] for block in found["blocks"]],
        "left": found["left"],
    }


def _pair(options: argparse.Namespace, blocks: int) -> tuple[Path, Path]:
    """Write a model and the same in other coordinates; what is there already is kept."""
    name = f"{options.width}-{options.units}-{options.tokens}-{blocks}-{options.seed}"
    paths = options.work / f"{name}-a.safetensors", options.work / f"{name}-b.safetensors"
    if not all(path.is_file() for path in paths):
        draw = np.random.default_rng(options.seed)
        model = _model(options, blocks, draw)
        save_file(_stored(model), paths[0])
        model = {k: v.astype(np.float32) for k, v in load_file(paths[0]).items()}
        _hide(model, options, blocks, draw)
        save_file(_stored(model), paths[1])
    return paths


def _stored(model: dict[str, Array]) -> dict[str, NDArray[np.float16]]:
    return {name: np.ascontiguousarray(values, np.float16) for name, values in model.items()}


def _model(options: argparse.Namespace, blocks: int, draw: np.random.Generator) -> dict[str, Array]:
    width, units = options.width, options.units

    def matrix(rows: int, cols: int) -> Array:
        return draw.standard_normal((rows, cols), np.float32) * np.float32(0.02)

    def gain() -> Array:
        return draw.uniform(0.3, 0.7, width).astype(np.float32)

    model = {
        "model.embed_tokens.weight": matrix(options.tokens, width),
        "model.norm.weight": gain(),
    }
    for n in range(blocks):
        stem = _LAYER.format(n)
        model |= {
            f"{stem}{norm}.weight": gain()
            for norm in ("input_layernorm", "post_attention_layernorm")
        }
        model |= {f"{stem}self_attn.{x}_proj.weight": matrix(width, width) for x in "qkvo"}
        model |= {f"{stem}mlp.{x}_proj.weight": matrix(units, width) for x in ("gate", "up")}
        model[f"{stem}mlp.down_proj.weight"] = matrix(width, units)
    return model


def _hide(
    model: dict[str, Array], options: argparse.Namespace, blocks: int, draw: np.random.Generator
) -> None:
    """Rotate the stream, move and rescale units, move heads and turn their values, in place."""
    width, size = options.width, options.head
    turn = np.linalg.qr(draw.standard_normal((width, width), np.float32))[0]
    model["model.embed_tokens.weight"] = model["model.embed_tokens.weight"] @ turn
    for n in range(blocks):
        stem = _LAYER.format(n)
        for norm, readers in (
            ("input_layernorm", [f"self_attn.{x}_proj" for x in "qkv"]),
            ("post_attention_layernorm", ["mlp.gate_proj", "mlp.up_proj"]),
        ):
            for reader in readers:
                name = f"{stem}{reader}.weight"
                model[name] = (model[name] * model[f"{stem}{norm}.weight"]) @ turn
            model[f"{stem}{norm}.weight"] = np.ones(width, np.float32)
        for writer in ("self_attn.o_proj", "mlp.down_proj"):
            model[f"{stem}{writer}.weight"] = turn.T @ model[f"{stem}{writer}.weight"]
        order = draw.permutation(options.units)
        by = np.exp(draw.normal(0, 0.3, options.units)).astype(np.float32)
        model[f"{stem}mlp.gate_proj.weight"] = model[f"{stem}mlp.gate_proj.weight"][order]
        model[f"{stem}mlp.up_proj.weight"] = model[f"{stem}mlp.up_proj.weight"][order] * by[:, None]
        model[f"{stem}mlp.down_proj.weight"] = model[f"{stem}mlp.down_proj.weight"][:, order] / by
        heads = draw.permutation(width // size)
        rows = np.concatenate([np.arange(h * size, (h + 1) * size) for h in heads])
        for x in "qkv":
            name = f"{stem}self_attn.{x}_proj.weight"
            model[name] = model[name][rows]
        out = model[f"{stem}self_attn.o_proj.weight"][:, rows]
        value = model[f"{stem}self_attn.v_proj.weight"]
        for h in range(width // size):
            at = slice(h * size, (h + 1) * size)
            spun = np.linalg.qr(draw.standard_normal((size, size), np.float32))[0]
            value[at], out[:, at] = spun @ value[at], out[:, at] @ spun.T
        model[f"{stem}self_attn.o_proj.weight"] = out


if __name__ == "__main__":
    sys.exit(main())
