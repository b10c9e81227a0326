"""What is fuzzed: each reader, the files it starts from, and how they are changed."""

from __future__ import annotations

import contextlib
import os
import pickle as op
from pathlib import Path

import adapters
import mutators
import records
from targets import Target, one_file


def _index(folder: Path, data: bytes) -> Path:
    (folder / "model.safetensors.index.json").write_bytes(data)
    return folder


def _listing(folder: Path, data: bytes) -> Path:
    """A folder whose names the bytes choose: a line each, its first letter says what it is."""
    inner = folder / "listed"
    _emptied(inner)
    inner.mkdir()
    listed, _, document = data.partition(b"\n\n")
    for line in listed.split(b"\n")[:40]:
        name = line[1:200].replace(b"/", b"").replace(b"\0", b"").strip(b".")
        place = os.path.join(os.fsencode(inner), name)  # noqa: PTH118  (names are bytes here)
        if not name or os.path.lexists(place):
            continue
        kind = line[:1]
        if kind == b"d":
            Path(os.fsdecode(place)).mkdir()
        elif kind == b"f":
            os.mkfifo(place)
        elif kind == b"l":
            Path(os.fsdecode(place)).symlink_to("../a.safetensors")
        elif kind == b"o":
            Path(os.fsdecode(place)).symlink_to("/dev/zero")
        elif kind == b"j":
            Path(os.fsdecode(place)).write_bytes(document)
        else:
            Path(os.fsdecode(place)).write_bytes((folder / "a.safetensors").read_bytes())
    return inner


def _emptied(folder: Path) -> None:
    if folder.is_dir():
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                entry.rmdir()
            else:
                entry.unlink()
        folder.rmdir()


OPCODES = tuple(
    value for name, value in vars(op).items() if name.isupper() and isinstance(value, bytes)
)
_NAMES = tuple(
    f"c{module}\n{name}\n".encode()
    for module, name in (
        ("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_tensor_v3"), ("torch._utils", "_rebuild_parameter"),
        ("torch._utils", "_rebuild_qtensor"), ("torch", "FloatStorage"), ("torch", "Size"),
        ("torch", "per_channel_affine"), ("torch", "per_tensor_affine"), ("torch", "qint8"),
        ("torch._tensor", "_rebuild_from_type_v2"), ("torch", "QInt8Storage"),
        ("torch.jit._pickle", "build_tensorlist"), ("__torch__", "M"), ("os", "system"),
        ("builtins", "eval"), ("_codecs", "encode"), ("torch.storage", "UntypedStorage"),
    )
)  # fmt: skip
PICKLE = (*OPCODES, *_NAMES, b"X\7\0\0\0storage", b"K\0", b"M\xff\xff", b"J\xff\xff\xff\x7f")
NPY = (b"'<f4'", b"'>f8'", b"'|O'", b"'|b1'", b"'<c16'", b"True", b"False", b"(", b")", b",",
       b"'descr'", b"'fortran_order'", b"'shape'", b"[('a', '<f4')]", b"1, 2")  # fmt: skip
JSON = (b'{"', b'":', b"[", b"]", b"{", b"}", b",", b'"', b"null", b"true", b"0", b"1e9", b"NaN",
        b'"F32"', b'"shape"', b'"dtype"', b'"data_offsets"', b'"__metadata__"', b"\\ud800",
        b'"F4"', b'"BF16"', b'"weight_map"', b"../",
        b"model-00001-of-00002.safetensors")  # fmt: skip
HDF5 = (b"TREE", b"HEAP", b"SNOD", b"OHDR", b"OCHK", b"\xff" * 8, b"\0" * 8, b"\x10\0", b"\x0b\0")
ZIP = (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"\xff\xff\xff\xff", b"\xff\xff",
       b"\1\0\x10\0", b"data.pkl", b".npy", b"model.weights.h5", b"../")  # fmt: skip
GGUF = (b"GGUF", b"general.alignment", b"\x08\0\0\0", b"\x09\0\0\0", b"\x04\0\0\0",
        b"\xff" * 8, b"\0" * 8, b"\x20\0\0\0\0\0\0\0")  # fmt: skip
ONNX = (b"location", b"offset", b"length", b"model.onnx.data", b"../x", b"DequantizeLinear",
        b"QLinearConv", b"MatMulInteger", b"value", b"axis", b"_quantized", b"_scale",
        b"_zero_point", b"\x70\1", b"\xff" * 9)  # fmt: skip


def _stored(given: Path, data: bytes) -> None:
    from lineage.errors import SchemeError
    from lineage.fingerprints import from_bytes

    with contextlib.suppress(SchemeError):
        from_bytes(data, file="model.lineage")


_pickled = mutators.words(mutators.blind, PICKLE)

TARGETS: dict[str, Target] = {
    "safetensors": Target(
        one_file(".safetensors"), mutators.words(mutators.safetensors, JSON), ("safetensors",)
    ),
    "index": Target(_index, mutators.words(mutators.json_text, JSON)),
    "folder": Target(_listing, mutators.words(mutators.blind, (
        b"\nm", b"\nd", b"\nf", b"\nl", b"\no", b"\nj", b"\n\n", b".safetensors", b".bin", b".gguf",
        b"-00001-of-00002", b"-00002-of-00002", b".index.json", b"model_index.json", b"model",
        b"config.json", b"pytorch_model", b"onnx", b"unet", b"optimizer", b"\xff\xfe", b"\x1b[2J",
        b'{"weight_map": {"a": "', b'{"unet": ["a", "b"]}', b'"}}',
    ))),
    "gguf": Target(
        one_file(".gguf"), mutators.numbers(mutators.words(mutators.blind, GGUF)), ("gguf",)
    ),
    "npy": Target(one_file(".npy"), mutators.words(mutators.npy, NPY), ("npy",)),
    "npz": Target(
        one_file(".npz"),
        mutators.numbers(mutators.zipped(mutators.words(mutators.npy, NPY))),
        ("npz", "npz turned"),
    ),
    "onnx": Target(
        one_file(".onnx"),
        mutators.words(mutators.protobuf, ONNX),
        ("onnx", "onnx, typed", "onnx, beside"),
    ),
    "torch zip": Target(
        one_file(".pt"),
        mutators.numbers(mutators.zipped(_pickled, suffix=".pkl")),
        ("torch", "torch, turned"),
    ),
    "torch legacy": Target(
        one_file(".bin"), mutators.numbers(_pickled), ("torch, old",)
    ),
    "torchscript": Target(
        one_file(".pt2"), mutators.numbers(mutators.zipped(_pickled, suffix=".pkl"))
    ),
    "hdf5": Target(
        one_file(".h5"),
        mutators.numbers(mutators.words(mutators.blind, HDF5)),
        ("hdf5", "hdf5 chunked", "hdf5 turned"),
    ),
    "keras": Target(
        one_file(".keras"),
        mutators.numbers(mutators.zipped(mutators.numbers(mutators.blind), suffix=".h5")),
        ("keras",),
    ),
    "lineage": Target(
        one_file(".lineage"), mutators.words(mutators.fingerprint, JSON), ("memory",),
        read=_stored, is_stored=True,
    ),
    **records.TARGETS,
    **adapters.TARGETS,
}  # fmt: skip
"""By the name that `run.py` takes."""
