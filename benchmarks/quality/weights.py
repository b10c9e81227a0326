"""Reads weights for the baselines: safetensors files, with NumPy and nothing of `lineage`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
}  # fmt: skip

_LAYER = re.compile(r"(?<![0-9])[0-9]+(?![0-9])")


class Weights:
    """The float tensors of one model, mapped and not read until asked for."""

    def __init__(self, path: Path) -> None:
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        files = [file for file in files if file.suffix == ".safetensors"]
        if not files:
            raise ValueError(f"{path.name}: no safetensors")
        self._at: dict[str, tuple[np.ndarray, np.dtype, tuple[int, ...]]] = {}
        for file in files:
            self._open(file)

    def _open(self, file: Path) -> None:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length))
        data = np.memmap(file, np.uint8, mode="r", offset=8 + length)
        for name, told in header.items():
            if name != "__metadata__" and told["dtype"] in _DTYPES:
                start, stop = told["data_offsets"]
                dtype = np.dtype(_DTYPES[told["dtype"]])
                self._at[name] = data[start:stop], dtype, tuple(told["shape"])

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Return the shape of each tensor."""
        return {name: shape for name, (_, _, shape) in self._at.items()}

    def read(self, name: str) -> np.ndarray:
        """Return one tensor in float32."""
        data, dtype, shape = self._at[name]
        return np.frombuffer(data.tobytes(), dtype).astype(np.float32).reshape(shape)


def open_all(paths: Mapping[str, Path]) -> dict[str, Weights]:
    """Return the models that can be read."""
    found = {}
    for name, path in paths.items():
        try:
            found[name] = Weights(path)
        except ValueError:
            continue
    return found


def tensors(
    models: Mapping[str, Weights],
) -> Iterator[tuple[str, tuple[int, ...], Sequence[str], np.ndarray]]:
    """Yield name, shape, the models that have it so, and their values, a flat row each."""
    owners: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for model, weights in models.items():
        for name, shape in weights.shapes.items():
            owners.setdefault((name, shape), []).append(model)
    for (name, shape), having in sorted(owners.items()):
        if len(having) > 1:
            rows = np.stack([models[model].read(name).ravel() for model in having])
            yield name, shape, having, rows


def kind_of(name: str) -> str:
    """Return a tensor's name with its layer's number left open.

    Example:
        >>> kind_of("model.layers.12.mlp.up_proj.weight")
        'model.layers.#.mlp.up_proj.weight'
    """
    return _LAYER.sub("#", name)


def layer_of(name: str) -> int:
    """Return the number of a tensor's layer; 0 if it has none."""
    found = _LAYER.search(name)
    return int(found[0]) if found else 0
