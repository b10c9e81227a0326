"""How long the identity of an adapter takes: rank 64 on every matrix of a 7B model's layers.

    python benchmarks/deltas.py [--folder DIR] [--rank 64] [--layers 32] [--runs 3] [--json FILE]

The adapter is made once (seeded, bfloat16, as peft saves it) and kept. Timed are, each in a process
of its own and after one run that is thrown away: reading the file's bytes, `lineage fingerprint` of
it, and within a process the delta alone. Progress goes to stderr, the table to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).parent
WIDTH, FEED = 4096, 11008
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (WIDTH, WIDTH),
    "self_attn.v_proj": (WIDTH, WIDTH), "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (FEED, WIDTH), "mlp.up_proj": (FEED, WIDTH), "mlp.down_proj": (WIDTH, FEED),
}  # fmt: skip
"""Rows and columns of a layer's matrices, as those of Llama 7B."""

READ = """
import sys, time
started = time.perf_counter()
buffer = bytearray(1 << 22)
with open(sys.argv[1], "rb", buffering=0) as file:
    while file.readinto(buffer):
        pass
print(time.perf_counter() - started)
"""

ALONE = """
import sys, time
from lineage.adapters import adapter_of
from lineage.artifacts import read
from lineage.fingerprints.delta import delta_of
started = time.perf_counter()
with read(sys.argv[1]) as artifact:
    found = delta_of(adapter_of(artifact, sys.argv[1])).id
print(time.perf_counter() - started)
"""

WHOLE = """
import sys, time
started = time.perf_counter()
from lineage.cli import run
sys.stdout, out = open("/dev/null", "w"), sys.stdout
assert run(["fingerprint", sys.argv[1], "--no-cache"]) == 0
print(time.perf_counter() - started, file=out)
"""

STAGES = {
    "reading the file": READ,
    "the delta alone: read, checked, identified": ALONE,
    "lineage fingerprint: root, sketches and delta": WHOLE,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=HERE / ".cache" / "deltas")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="Write what was measured here too.")
    options = parser.parse_args()
    folder = options.folder / f"rank-{options.rank}-layers-{options.layers}"
    if not (folder / "adapter_config.json").is_file():
        print(f"making {folder} ...", file=sys.stderr)
        make(folder, options.rank, options.layers)
    file = folder / "adapter_model.safetensors"
    seconds: dict[str, list[float]] = {}
    for name, code in STAGES.items():
        target = file if code is READ else folder
        timed(code, target)
        seconds[name] = [timed(code, target) for _ in range(options.runs)]
        print(f"{name}: {seconds[name]}", file=sys.stderr)
    result: dict[str, Any] = {
        "adapter": {"rank": options.rank, "layers": options.layers, "bytes": file.stat().st_size},
        "machine": machine(),
        "seconds": seconds,
    }
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"rank {options.rank}, {options.layers} layers, {file.stat().st_size:,} bytes; {machine()}"
    )
    print("\n| what | seconds | spread |\n|---|---|---|")
    for name, found in seconds.items():
        print(f"| {name} | {statistics.median(found):.2f} | {max(found) - min(found):.2f} |")
    return 0


def make(folder: Path, rank: int, layers: int) -> None:
    """Write the adapter; the configuration last, so that half an adapter is made again."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    tensors = {}
    for layer in range(layers):
        for name, (rows, cols) in SHAPES.items():
            key = f"base_model.model.model.layers.{layer}.{name}"
            for half, shape in (("A", (rank, cols)), ("B", (rows, rank))):
                values = draw.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
                tensors[f"{key}.lora_{half}.weight"] = values.astype(ml_dtypes.bfloat16)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank,
        "target_modules": sorted(name.rpartition(".")[2] for name in SHAPES),
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


def timed(code: str, target: Path) -> float:
    """Run one stage in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path[1:]])},
    )  # fmt: skip
    return float(done.stdout.split()[-1])


def machine() -> str:
    """Name the machine, the commit and the day."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True,
        check=False,
    ).stdout.strip()  # fmt: skip
    day = time.strftime("%Y-%m-%d")
    return f"{cpu}, {len(os.sched_getaffinity(0))} cores, commit {head}, {day}"


if __name__ == "__main__":
    sys.exit(main())
