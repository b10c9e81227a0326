"""Makers of ordinary and hostile model files: every byte is the test's own choice."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from lineage.demo.family import Truth

Array = np.ndarray[Any, Any]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

SPELLED = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16",
    "uint32": "U32", "int32": "I32", "uint64": "U64", "int64": "I64",
    "float16": "F16", "float32": "F32", "float64": "F64", "bfloat16": "BF16",
    "float8_e5m2": "F8_E5M2", "float8_e4m3fn": "F8_E4M3", "complex64": "C64",
}  # fmt: skip


def entry(dtype: object, shape: object, begin: object, end: object) -> dict[str, object]:
    """One header entry, true or not."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def container(
    header: object, data: bytes = b"", *, length: int | None = None, pad: int = 0
) -> bytes:
    """A file with this header: a value to write as JSON, or the header's bytes themselves."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * pad
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def raw(array: Array) -> bytes:
    """An array's bytes, row-major and little-endian."""
    little = array.astype(array.dtype.newbyteorder("<")) if array.dtype.kind in "fiuc" else array
    return np.ascontiguousarray(little).tobytes()


def model_bytes(
    tensors: Mapping[str, Array],
    *,
    order: Sequence[str] | None = None,
    metadata: Mapping[str, str] | None = None,
    pad: int = 0,
) -> bytes:
    """An honest safetensors file, its tensors stored and listed in `order`."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    data = b""
    for name in order or list(tensors):
        array = tensors[name]
        bits = raw(array)
        spelled = SPELLED[array.dtype.name]
        header[name] = entry(spelled, list(array.shape), len(data), len(data) + len(bits))
        data += bits
    return container(header, data, pad=pad)


def write_model(path: Path, tensors: Mapping[str, Array], **how: Any) -> Path:
    """Write an honest file, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model_bytes(tensors, **how))
    return path


def shard_name(number: int, total: int, stem: str = "model") -> str:
    """The hub's name for one shard, counted from 1."""
    return f"{stem}-{number:05}-of-{total:05}.safetensors"


def write_sharded(
    folder: Path, shards: Sequence[Mapping[str, Array]], *, index: bool = True
) -> Path:
    """Write one file per mapping, and an index that tells the truth."""
    folder.mkdir(parents=True, exist_ok=True)
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        name = shard_name(number, len(shards))
        write_model(folder / name, tensors)
        weight_map |= dict.fromkeys(tensors, name)
    if index:
        write_index(folder, weight_map)
    return folder


def write_index(folder: Path, weight_map: object) -> Path:
    """Write an index with this map, true or not."""
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1.5}, "weight_map": weight_map}))
    return path


def write_hub_cache(
    root: Path, files: Mapping[str, bytes], *, commits: Iterable[str] = ("c0ffee",), main: str = ""
) -> Path:
    """Lay files out as the hub's cache does: blobs by digest, snapshots of symbolic links."""
    cache = root / "models--org--name"
    (cache / "blobs").mkdir(parents=True)
    (cache / "refs").mkdir()
    for commit in commits:
        snapshot = cache / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for number, (name, data) in enumerate(files.items()):
            blob = cache / "blobs" / f"{commit}{number:04x}"
            blob.write_bytes(data)
            (snapshot / name).symlink_to(Path("..") / ".." / "blobs" / blob.name)
    if main:
        (cache / "refs" / "main").write_text(main)
    return cache


def small_model(seed: int = 0, dtype: Any = np.float32) -> dict[str, Array]:
    """Three tensors that no other seed has: two matrices and a vector."""
    rng = np.random.default_rng(seed)
    return {
        "embed.weight": rng.normal(size=(40, 24)).astype(dtype),
        "layer.0.weight": rng.normal(size=(24, 24)).astype(dtype),
        "norm.weight": (1 + 0.1 * rng.normal(size=24)).astype(dtype),
    }


def as_bfloat16(array: Array) -> Array:
    """The array's values rounded to bfloat16."""
    return array.astype(BFLOAT16)


_TRAIN = """
import pickle, sys
from pathlib import Path
from lineage.demo.family import MINIATURE, make_family
truth = make_family(Path(sys.argv[1]), seed=int(sys.argv[2]), recipe=MINIATURE)
sys.stdout.buffer.write(pickle.dumps((truth.seed, dict(truth.members))))
"""


def train_family(folder: Path, seed: int) -> Truth:
    """Train the demonstration's miniature family, in a process of its own.

    Its matrices are so small that several BLAS threads only wait for each other, ten times longer
    on a busy machine, and their number can be chosen only before NumPy is loaded.
    """
    from lineage.demo.family import Truth

    alone = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "MKL", "OMP")}
    done = subprocess.run(
        [sys.executable, "-c", _TRAIN, str(folder), str(seed)],
        env={**os.environ, **alone},
        check=True,
        capture_output=True,
    )
    return Truth(*pickle.loads(done.stdout))
