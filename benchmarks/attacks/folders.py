"""Reads and writes model folders: `config.json`, `model.safetensors`, `vocab.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

Arrays = dict[str, np.ndarray]
Config = dict[str, Any]
Vocabulary = dict[str, int]

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8,
    "BOOL": np.bool_,
}  # fmt: skip
_CODES = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Folder:
    """What a model folder holds.

    Attributes:
        config: Of `config.json`; empty if there is none.
        arrays: Every tensor, in the dtype of the file.
        vocabulary: Token -> row of the embeddings; None where there are no tokens.
    """

    config: Config
    arrays: Arrays
    vocabulary: Vocabulary | None = None

    @property
    def dtype(self) -> str:
        """Return the code of the dtype that most numbers are stored in."""
        sizes: dict[str, int] = {}
        for array in self.arrays.values():
            if is_float(array):
                code = _CODES[array.dtype]
                sizes[code] = sizes.get(code, 0) + array.size
        return max(sizes, key=lambda code: sizes[code])


def is_float(array: np.ndarray) -> bool:
    """Say whether an array holds weights rather than counters."""
    return array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16


def stored(arrays: Mapping[str, np.ndarray], dtype: str) -> Arrays:
    """Return arrays rounded to a dtype, once; counters are left as they are."""
    to = _DTYPES[dtype]
    return {name: a.astype(to) if is_float(a) else a for name, a in arrays.items()}


def read(folder: Path) -> Folder:
    """Read a model folder, or a lone file of safetensors.

    Raises:
        ValueError: If it has no safetensors, or one with a dtype that is not known here.
    """
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else [folder]
    if not files:
        raise ValueError(f"{folder}: no safetensors")
    arrays: Arrays = {}
    for file in files:
        arrays |= _tensors(file)
    return Folder(_json(folder / "config.json") or {}, arrays, _json(folder / "vocab.json"))


def _json(file: Path) -> Any:
    return json.loads(file.read_text()) if file.is_file() else None


def _tensors(file: Path) -> Arrays:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    data = np.memmap(file, np.uint8, mode="r", offset=8 + length)
    found: Arrays = {}
    for name, told in header.items():
        if name == "__metadata__":
            continue
        if told["dtype"] not in _DTYPES:
            raise ValueError(f"{file}: tensor {name!r} has dtype {told['dtype']}")
        start, stop = told["data_offsets"]
        dtype = np.dtype(_DTYPES[told["dtype"]])
        found[name] = np.frombuffer(data[start:stop].tobytes(), dtype).reshape(told["shape"])
    return found


def write(folder: Path, model: Folder) -> None:
    """Write a model folder; what was there under the same names is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_tensors(folder / "model.safetensors", model.arrays)
    (folder / "config.json").write_text(json.dumps(model.config, indent=1) + "\n")
    if model.vocabulary is not None:
        told = json.dumps(model.vocabulary, ensure_ascii=False)
        (folder / "vocab.json").write_text(told + "\n")


def _write_tensors(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in sorted(arrays):
        array = arrays[name]
        told = {"dtype": _CODES[array.dtype], "shape": list(array.shape)}
        header[name] = told | {"data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("wb") as opened:
        opened.write(len(head).to_bytes(8, "little") + head)
        for name in sorted(arrays):
            opened.write(np.ascontiguousarray(arrays[name]).tobytes())
    partial.replace(file)
