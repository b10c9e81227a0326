"""One writer for each format that is read: what `test_readers.py` puts through the same laws.

To add a format, write a function of (path, tensors) that makes the file with the format's real
library, imported inside the function, and add one line to `WRITERS`:

    "torch zip": Writer(".pt", _torch, TORCH, needs_torch=True),
    "onnx": Writer(".onnx", _onnx, EVERY - {"bool"}, scalars=False),

The other fields say what the format cannot hold; the laws then leave it out, and nothing else.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers import SPELLED, Array, write_model

PLAIN = frozenset(SPELLED) - {"bfloat16", "float8_e5m2", "float8_e4m3fn"}
"""What NumPy has by itself, by NumPy's names."""

EVERY = frozenset(SPELLED)


@dataclass(frozen=True, slots=True)
class Writer:
    """How the files of one format are made, and what they can hold.

    Attributes:
        suffix: Of the file; none for what is no file.
        write: Makes the file; returns what `fingerprint` is to be given: the path, as a rule.
        dtypes: NumPy names (and those of ml_dtypes) that come back as they were written.
        most_dims: The most dimensions a tensor may have.
        most_tensors: The most tensors a file may have.
        scalars: Whether a tensor may have no dimensions.
        empty: Whether a tensor may have no values.
        named: What the reader calls the tensor written under a name. Shapes have no such field:
            they come back as they were written, whatever order a format keeps them in.
        is_raw: Whether the file holds each tensor's little-endian row-major bytes in one run.
        needs_torch: Whether torch must be there to write.
    """

    suffix: str
    write: Callable[[Path, dict[str, Array]], Any]
    dtypes: frozenset[str]
    most_dims: int = 64
    most_tensors: int = 1000
    scalars: bool = True
    empty: bool = True
    named: Callable[[str], str] = str
    is_raw: bool = True
    needs_torch: bool = False

    def fitting(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Those of `tensors` that the format can hold."""
        held = {
            name: array
            for name, array in tensors.items()
            if array.dtype.name in self.dtypes
            and array.ndim <= self.most_dims
            and (self.scalars or array.ndim)
            and (self.empty or array.size)
        }
        return dict(list(held.items())[: self.most_tensors])

    def as_read(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """`tensors` under the names the reader gives them."""
        return {self.named(name): array for name, array in tensors.items()}


def _memory(path: Path, tensors: dict[str, Array]) -> dict[str, Array]:
    return tensors


def _gguf(path: Path, tensors: dict[str, Array]) -> Path:
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_token_list(["<s>", "</s>", "word"])
    for name, array in tensors.items():
        if array.dtype.name == "bfloat16":
            kind = GGMLQuantizationType.BF16
            writer.add_tensor(name, array.view(np.uint16), raw_shape=array.shape, raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _onnx(path: Path, tensors: dict[str, Array]) -> Path:
    import onnx

    onnx.save(_onnx_model(tensors), path)
    return path


def _onnx_typed(path: Path, tensors: dict[str, Array]) -> Path:
    import onnx

    model = _onnx_model(tensors)
    for tensor in model.graph.initializer:
        field = onnx.helper.tensor_dtype_to_field(tensor.data_type)
        numbers = {"float_data": "<f4", "double_data": "<f8"}.get(field)
        if numbers is None:  # whole numbers, and the bits of what has no field of its own
            array = tensors[tensor.name]
            numbers = array.dtype if array.dtype.kind in "iu" else f"<u{array.itemsize}"
        getattr(tensor, field).extend(np.frombuffer(tensor.raw_data, numbers).tolist())
        tensor.ClearField("raw_data")
    onnx.save(model, path)
    return path


def _onnx_beside(path: Path, tensors: dict[str, Array]) -> Path:
    import onnx

    location = f"{path.name}.data"
    path.with_name(location).unlink(missing_ok=True)
    onnx.save(
        _onnx_model(tensors), path, save_as_external_data=True, location=location, size_threshold=0
    )
    return path


def _onnx_model(tensors: dict[str, Array]) -> Any:
    from onnx import helper, numpy_helper

    held = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    return helper.make_model(helper.make_graph([], "model", [], [], initializer=held))


GGUF = frozenset(("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64"))


def _npy(path: Path, tensors: dict[str, Array]) -> Path:
    for array in tensors.values():
        np.save(path, array)
    return path


def _npz(path: Path, tensors: dict[str, Array]) -> Path:
    np.savez(path, **tensors)
    return path


def _npz_turned(path: Path, tensors: dict[str, Array]) -> Path:
    # Compressed, in Fortran order and big-endian: all that a reader has to undo.
    turned = {
        name: np.asarray(array, order="F").astype(array.dtype.newbyteorder(">"), order="K")
        for name, array in tensors.items()
    }
    np.savez_compressed(path, **turned)
    return path


def _hdf5(path: Path, tensors: dict[str, Array]) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in tensors.items():
            file[name] = array
    return path


def _hdf5_chunked(path: Path, tensors: dict[str, Array]) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in tensors.items():
            how: dict[str, Any] = {}
            if array.size and array.ndim:
                chunks = tuple(min(n, max(2, n // 3)) for n in array.shape)
                how = {"chunks": chunks, "compression": "gzip", "shuffle": True, "fletcher32": True}
            file.create_dataset(name, data=array, **how)
    return path


def _hdf5_turned(path: Path, tensors: dict[str, Array]) -> Path:
    return _hdf5(path, {n: a.astype(a.dtype.newbyteorder(">")) for n, a in tensors.items()})


def _keras(path: Path, tensors: dict[str, Array]) -> Path:
    held = _hdf5(path.with_suffix(".h5"), tensors)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.write(held, "model.weights.h5")
    held.unlink()
    return path


HDF5 = PLAIN | {"bfloat16"}


WRITERS: dict[str, Writer] = {
    "memory": Writer("", _memory, EVERY),
    "safetensors": Writer(".safetensors", write_model, EVERY),
    "gguf": Writer(".gguf", _gguf, GGUF, most_dims=4),
    "npy": Writer(".npy", _npy, PLAIN, most_tensors=1, named=lambda name: "array"),
    "npz": Writer(".npz", _npz, PLAIN),
    "npz turned": Writer(".npz", _npz_turned, PLAIN, is_raw=False),
    "onnx": Writer(".onnx", _onnx, EVERY),
    "onnx, typed": Writer(".onnx", _onnx_typed, EVERY, is_raw=False),
    "onnx, beside": Writer(".onnx", _onnx_beside, EVERY, is_raw=False),
    "hdf5": Writer(".h5", _hdf5, HDF5, most_dims=32),
    "hdf5 chunked": Writer(".hdf5", _hdf5_chunked, HDF5, most_dims=32, is_raw=False),
    "hdf5 turned": Writer(".h5", _hdf5_turned, PLAIN, most_dims=32, is_raw=False),
    "keras": Writer(".keras", _keras, HDF5, most_dims=32),
}


def every_writer(wanted: Callable[[Writer], Any] = bool) -> pytest.MarkDecorator:
    """A test once for each writer that is wanted, as its argument `writer`."""
    cases = [
        pytest.param(writer, id=name, marks=[pytest.mark.torch] if writer.needs_torch else [])
        for name, writer in WRITERS.items()
        if wanted(writer)
    ]
    return pytest.mark.parametrize("writer", cases)


def is_file(writer: Writer) -> bool:
    """Whether it writes a file."""
    return bool(writer.suffix)
