"""Writes the files that a fuzzer starts from, by the formats' own libraries.

python tests/fuzz/seeds.py READER FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "family")]

import adapters
import numpy as np
import record_seeds
import records
from formats import TARGETS
from makers import Array, model_bytes, shard_name
from writers import WRITERS

from lineage import fingerprint
from lineage.fingerprints import to_bytes

_SHARD = shard_name(1, 2), shard_name(2, 2)


def main(reader: str, folder: Path) -> None:
    """Write seeds of one reader into `folder`/seeds, and what lies beside every input into
    `folder`/beside.
    """
    seeds, beside = folder / "seeds", folder / "beside"
    seeds.mkdir(parents=True, exist_ok=True)
    beside.mkdir(exist_ok=True)
    by_hand = {"index": _index, "folder": _folder, "torchscript": _torchscript}
    if reader in records.TARGETS:
        made = record_seeds.seeds(reader, beside)
    elif reader in adapters.TARGETS:
        made = adapters.seeds()
    else:
        made = by_hand.get(reader, list)()
    for number, data in enumerate(made):
        (seeds / f"hand-{number}").write_bytes(data)
    (beside / _SHARD[0]).write_bytes(model_bytes({"a": np.zeros(2, np.float32)}))
    (beside / _SHARD[1]).write_bytes(model_bytes({"b": np.ones((2, 2), np.float32)}))
    (beside / "a.safetensors").write_bytes(model_bytes({"a": np.zeros(2, np.float32)}))
    for name in TARGETS[reader].writers:
        writer = WRITERS[name]
        for number, tensors in enumerate(_models()):
            held = writer.fitting(tensors)
            if not held:
                continue
            path = beside / f"model{writer.suffix}"
            made = writer.write(path, held)
            kept = seeds / f"{name.replace(', ', '-').replace(' ', '-')}-{number}"
            if TARGETS[reader].is_stored:
                kept.write_bytes(to_bytes(fingerprint(made)))
            else:
                path.rename(kept)


def _models() -> list[dict[str, Array]]:
    """Two tensors; one of each dtype, some whole, some bits; odd shapes."""
    rng = np.random.default_rng(0)
    first = {"w": rng.normal(size=(3, 4)).astype(np.float32), "b": np.arange(5, dtype=np.int8)}
    dtypes = ("float64", "float16", "int64", "uint8", "bool", "complex64")
    second = {f"x.{d}": np.arange(6).reshape(2, 3).astype(d) for d in dtypes}
    odd = {"s": np.array(1.5, np.float32), "none": np.zeros((0, 4), np.float32),
           "five": np.ones((2, 1, 3, 2, 1), np.float32)}  # fmt: skip
    return [first, second, odd, {"wide": np.zeros((40, 30), np.float32)}]


def _index() -> list[bytes]:
    whole = {"metadata": {"total_size": 24}, "weight_map": {"a": _SHARD[0], "b": _SHARD[1]}}
    return [json.dumps(whole).encode(), json.dumps({"weight_map": {"a": _SHARD[0]}}).encode()]


def _folder() -> list[bytes]:
    index = json.dumps({"weight_map": {"a": "model.safetensors"}}).encode()
    parts = json.dumps({"unet": ["diffusers", "Unet"], "_class_name": "x"}).encode()
    return [
        b"mmodel.safetensors\nmconfig.json",
        b"mx-00001-of-00002.gguf\nmx-00002-of-00002.gguf",
        b"jmodel.safetensors.index.json\nlmodel.safetensors\n\n" + index,
        b"jmodel_index.json\ndunet\n\n" + parts,
        b"fmodel.safetensors\nopytorch_model.bin\ndonnx",
        b"fmodel.safetensors.index.json\nmmodel.safetensors",
    ]


def _torchscript() -> list[bytes]:
    """Archives of `torch.jit`: a module, a frozen one whose tensors are constants."""
    import io

    import torch
    from torch import nn

    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    scripted = torch.jit.script(module)
    made = []
    for one in (scripted, torch.jit.freeze(scripted, optimize_numerics=False)):
        out = io.BytesIO()
        torch.jit.save(one, out)
        made.append(out.getvalue())
    return made


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
