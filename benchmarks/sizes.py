"""How large a stored fingerprint is for models of known shapes, computed from the scheme alone.

    python benchmarks/sizes.py [--json sizes.json]

No weights are made: each tensor's stored sketch depends on its shape only, and the rest of the file
is the manifest, written here with digests of zeros. Shapes are those of the public configurations
of Llama-like models (SmolLM2-135M, Llama 2 7B and 70B, Llama 3.1 405B).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

from lineage.fingerprints import Fingerprint, TensorPrint, to_bytes
from lineage.fingerprints.sketch import SCHEME, Layout, Sketch

LIMIT_7B = 1_500_000


@dataclass(frozen=True, slots=True)
class Llama:
    """Shapes of a Llama-like model."""

    name: str
    layers: int
    hidden: int
    inner: int
    keys: int
    vocabulary: int
    is_tied: bool = False


MODELS = (
    Llama("135M", 30, 576, 1536, 192, 49152, is_tied=True),
    Llama("7B", 32, 4096, 11008, 4096, 32000),
    Llama("70B", 80, 8192, 28672, 1024, 32000),
    Llama("405B", 126, 16384, 53248, 1024, 128256),
)


def shapes(model: Llama) -> dict[str, tuple[int, ...]]:
    """Return every tensor's name and shape."""
    h, inner, keys = model.hidden, model.inner, model.keys
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (model.vocabulary, h)}
    for n in range(model.layers):
        stem = f"model.layers.{n}"
        for name, shape in (
            ("self_attn.q_proj", (h, h)), ("self_attn.k_proj", (keys, h)),
            ("self_attn.v_proj", (keys, h)), ("self_attn.o_proj", (h, h)),
            ("mlp.gate_proj", (inner, h)), ("mlp.up_proj", (inner, h)),
            ("mlp.down_proj", (h, inner)), ("input_layernorm", (h,)),
            ("post_attention_layernorm", (h,)),
        ):  # fmt: skip
            found[f"{stem}.{name}.weight"] = shape
    found["model.norm.weight"] = (h,)
    if not model.is_tied:
        found["lm_head.weight"] = (model.vocabulary, h)
    return found


def stored_bytes(model: Llama) -> int:
    """Return the size of the stored fingerprint of a bfloat16 model of these shapes."""
    tensors = []
    for name, shape in sorted(shapes(model).items()):
        height, width = Layout.of(shape).core_shape
        raw = bytes(4 * height * width), bytes(4 * (height + width))
        sketch = Sketch((height, width), raw, (0, 0), 0.0, 0.0, 0, is_flat=False)
        digest = bytes(32)
        tensors.append(TensorPrint(name, "BF16", shape, digest, digest, (), sketch))
    size = sum(2 * prod(shape) for shape in shapes(model).values())
    return len(to_bytes(Fingerprint(tuple(tensors), SCHEME, size)))


def main() -> int:
    """Print the table; exit 1 if the 7B model's fingerprint is above its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    for model in MODELS:
        found = shapes(model)
        values = sum(prod(shape) for shape in found.values())
        stored = stored_bytes(model)
        rows.append({"model": model.name, "tensors": len(found), "values": values, "bytes": stored})
    print(f"scheme {SCHEME}\n")
    print("| model | tensors | weights | bf16 | fingerprint | share |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        weights, stored = int(row["values"]), int(row["bytes"])
        share = f"1 / {2 * weights // stored:,}"
        print(
            f"| {row['model']} | {row['tensors']} | {weights / 1e9:.2f} G "
            f"| {2 * weights / 1e9:.1f} GB | {stored / 1e6:.2f} MB | {share} |"
        )
    if given.json is not None:
        given.json.write_text(json.dumps({"scheme": SCHEME, "rows": rows}, indent=1) + "\n")
    return int(next(int(r["bytes"]) for r in rows if r["model"] == "7B") > LIMIT_7B)


if __name__ == "__main__":
    raise SystemExit(main())
