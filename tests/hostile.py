"""Makers of hostile files: each is one way to run code, take memory or time, or leave a folder.

`HOSTILE` is the table: of each file its maker, the tensor that its one error names, and a part of
the reason. They are those that cost something or need a file system; lies that cost nothing, told
by a few bytes of a header, stand with their readers: `LIES` in `test_artifacts.py`,
`test_gguf.py`, `test_numpy_files.py`, `test_onnx.py`, `test_hdf5.py`, `test_zipped.py` and
`test_torch_files.py`; links and folders in `test_folders.py`.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from makers import container, entry, model_bytes, small_model, write_hub_cache, write_index
from torch_bytes import (
    REBUILD,
    Ops,
    archive,
    call,
    legacy,
    named,
    ops,
    pickle,
    saved,
    storage,
    tensor,
    zipped,
)  # fmt: skip

from lineage.artifacts.torch_tensors import LISTS
from lineage.artifacts.torch_tree import MODEL_KEYS

GIB = 1 << 30
CANARY = "canary"
"""The file that a hostile pickle would make beside itself."""


@dataclass(frozen=True, slots=True)
class Hostile:
    """A hostile model.

    Attributes:
        make: Lays it out in an empty folder; returns what `fingerprint` is to be given.
        reason: A part of the reason of its one error.
        tensor: The tensor that the error names.
    """

    make: Callable[[Path], Path]
    reason: str
    tensor: str | None = None


def in_file(name: str, data: Callable[[Path], bytes]) -> Callable[[Path], Path]:
    """A maker of one file, whose bytes may depend on its folder."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data(folder))
        return path

    return make


# Pickles that run code


def shell(folder: Path) -> str:
    """A command that leaves the canary."""
    return f"touch '{folder / CANARY}'"


def _text(value: str) -> bytes:
    return f"V{value}\n".encode()


def system(folder: Path) -> Ops:
    return call("os.system", shell(folder))


def nested(folder: Path) -> Ops:
    """getattr(__import__("os"), "system")(command)."""
    imported = call("builtins.__import__", "os")
    found = Ops(named("builtins.getattr") + ops((imported, "system")) + b"R")
    return Ops(found + ops((shell(folder),)) + b"R")


def instance(folder: Path) -> bytes:
    """INST: a call by name, of protocol 0."""
    return b"(" + _text(shell(folder)) + b"ios\nsystem\n."


def object_of(folder: Path) -> bytes:
    """OBJ: the class is on the stack, under the arguments."""
    return b"\x80\x02(cos\nsystem\n" + ops(shell(folder)) + b"o."


def stacked(folder: Path) -> bytes:
    """STACK_GLOBAL whose two names were kept apart and recalled."""
    kept = ops("system") + b"q\1" + ops("os") + b"q\0" + b"00"
    return b"\x80\x04" + kept + b"h\0h\1\x93" + ops((shell(folder),)) + b"R."


def built(folder: Path) -> Ops:
    """BUILD: a state that says what a call of no arguments will do."""
    made = call("functools.partial", named("os.system"))
    return Ops(made + ops((named("os.system"), (shell(folder),), {}, {})) + b"b)R")


def object_array(folder: Path) -> bytes:
    """A `.npy` of objects: a header, and a pickle."""
    text = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    head = b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text
    return head + pickle(system(folder))


def scripted(folder: Path, where: str) -> bytes:
    """A TorchScript archive, one of whose pickles runs a command."""
    data = pickle(system(folder) if where == "data" else tensor())
    constants = pickle((system(folder),) if where == "constants" else ())
    return archive(data, more={"constants.pkl": constants, "code/__torch__.py": b"import os"})


ALONE: tuple[Callable[[Path], bytes], ...] = (
    lambda folder: pickle(system(folder)),
    lambda folder: pickle(nested(folder)),
    lambda folder: pickle(built(folder)),
    instance, object_of, stacked,
)  # fmt: skip
"""Those of these that Python's own unpickler would run as they are."""

RUNS = "needs full unpickling"

PICKLES = {
    "os.system": Hostile(in_file("m.pt", lambda f: saved(system(f))), RUNS),
    "os.system, deflated": Hostile(in_file("m.pt", lambda f: saved(system(f), packed=True)), RUNS),
    "os.system beside a tensor": Hostile(
        in_file("m.bin", lambda f: saved({"w": tensor(), "x": system(f)})), RUNS
    ),
    "os.system in an old file": Hostile(in_file("m.pth", lambda f: legacy(system(f))), RUNS),
    "os.system for an old file's version": Hostile(
        in_file("m.ckpt", lambda f: legacy(tensor(), version=system(f))), RUNS
    ),
    "builtins.eval": Hostile(
        in_file("m.pt", lambda f: saved(call("builtins.eval", f"open({str(f / CANARY)!r}, 'w')"))),
        RUNS,
    ),
    "a call of a call": Hostile(in_file("m.pt", lambda f: saved(nested(f))), RUNS),
    "INST": Hostile(in_file("m.pt", lambda f: archive(instance(f))), "which weight files do not"),
    "OBJ": Hostile(in_file("m.pt", lambda f: archive(object_of(f))), RUNS),
    "STACK_GLOBAL": Hostile(in_file("m.pt", lambda f: archive(stacked(f))), RUNS),
    "BUILD": Hostile(in_file("m.pt", lambda f: saved(built(f))), RUNS),
    "a pickle in a .npy": Hostile(in_file("m.npy", object_array), "Python objects", "array"),
    "a pickle in a .npz": Hostile(
        in_file("m.npz", lambda f: zipped({"w.npy": object_array(f)})), "Python objects", "w"
    ),
    "a pickle that is all": Hostile(
        in_file("m.bin", lambda f: pickle(system(f))), "a pickle that torch did not write"
    ),
    "TorchScript, its data": Hostile(in_file("m.pt", lambda f: scripted(f, "data")), RUNS),
    "TorchScript, its constants": Hostile(
        in_file("m.jit", lambda f: scripted(f, "constants")), RUNS
    ),
}

# Numbers and structures that take memory or time


def many_tensors(count: int) -> bytes:
    each = b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    return container(b"{" + b",".join(each % n for n in range(count)) + b"}")


def lists(count: int) -> bytes:
    """Empty lists: three bytes of JSON for seventy of memory."""
    return b'{"a":[' + b"[]," * count + b"[]]}"


def again(value: bytes, count: int) -> bytes:
    """OrderedDict called with the same value, six bytes a time."""
    calls = b"h\1h\0\x85R" * count
    return archive(b"\x80\x02" + value + b"q\0ccollections\nOrderedDict\nq\1(" + calls + b"t.")


def numbered(count: int) -> bytes:
    return b"}(" + b"".join(b"J" + struct.pack("<i", n) + b"N" for n in range(count)) + b"u"


def sharing(before: Any, key: Callable[[int], bytes], count: int, size: int) -> bytes:
    """A dict of `count` lists that all hold one list of `size`, and no tensor in any."""
    shared = b"](" + b"N" * size + b"eq\0"
    entries = b"".join(key(n) + b"](h\0e" for n in range(count))
    return archive(b"\x80\x02" + shared + b"0}(" + before + entries + b"u.")


def none(count: int) -> bytes:
    """A model beside a list of a byte for each of its entries."""
    model = ops("w") + ops(tensor()) + ops("x")
    return archive(b"\x80\x02}(" + model + b"](" + b"N" * count + b"eu.")


def wrapped(levels: int, size: int) -> bytes:
    """A model under a model's name in a dict, again and again; a list of `size` lies under all
    the other names that a model may have, each time.
    """
    made = ops({"w": tensor()})
    for _ in range(levels):
        beside = b"".join(ops(key) + b"}(" + ops("x") + b"h\0u" for key in MODEL_KEYS[1:])
        made = b"}(" + ops(MODEL_KEYS[0]) + made + beside + b"u"
    return archive(b"\x80\x02](" + b"N" * size + b"eq\0" + b"0" + made + b".")


def listed(count: int, size: int) -> bytes:
    """A list of `size` that many calls of TorchScript are given, five bytes a time."""
    kept = b"](" + b"N" * size + b"e\x85q\0" + b"0" + named(LISTS[0]) + b"q\1" + b"0"
    model = ops("w") + ops(tensor()) + ops("x")
    return archive(b"\x80\x02" + kept + b"}(" + model + b"](" + b"h\1h\0R" * count + b"eu.")


def many_scales(count: int, size: int) -> bytes:
    """Quantized tensors of `size` rows that all name one list of scales."""
    scheme = (named("torch.per_channel_affine"), Ops(b"h\0"), Ops(b"h\0"), 0)
    stored = storage("0", size + count, "torch.QInt8Storage")
    tensors = {
        f"w{n}": call(f"{REBUILD}qtensor", stored, n, (size,), (1,), scheme, False, {})
        for n in range(count)
    }
    kept = b"](" + b"K\1" * size + b"eq\0" + b"0"
    return archive(b"\x80\x02" + kept + ops(tensors) + b".", {"0": bytes(size + count)})


def views(count: int, size: int) -> bytes:
    """Numbers at the end of a deflated storage: each must inflate it by itself."""
    numbers = [tensor((1,), (1,), size // 4 - 1 - n, storage("0", size // 4)) for n in range(count)]
    return archive(pickle(numbers), {"0": bytes(size)}, packed=True)


def turned(edge: int) -> bytes:
    """A transposed matrix in a deflated storage, inflated again for every part of it."""
    stored = tensor((edge, edge), (1, edge), 0, storage("0", edge * edge))
    return archive(pickle({"w": stored}), {"0": bytes(4 * edge * edge)}, packed=True)


def wide_row(width: int) -> bytes:
    """A compressed array in Fortran order whose two rows are all of it."""
    out = io.BytesIO()
    np.savez_compressed(out, w=np.zeros((2, width), np.float32, order="F"))
    return out.getvalue()


def wide_slab(rows: int) -> bytes:
    """An HDF5 file with a chunk that inflates to a thousand times the file."""
    import h5py

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        zeros = np.zeros((rows, 1 << 20), np.uint8)
        file.create_dataset("w", data=zeros, chunks=zeros.shape, compression=9)
    return out.getvalue()


def with_extras(count: int) -> bytes:
    """A zip archive whose entries carry 64 KB of empty fields each."""
    data, directory = bytearray(), bytearray()
    for number in range(count):
        name = b"%d.npy" % number
        facts = (20, 0, 0, 0, 33, 0, 0, 0, len(name))
        directory += struct.pack(
            "<4sH5H3I5H2I", b"PK\1\2", 20, *facts, 65532, 0, 0, 0, 0, len(data)
        )
        directory += name + b"\2\0\0\0" * 16383
        data += struct.pack("<4s5H3I2H", b"PK\3\4", *facts, 0) + name
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), len(data), 0)
    return bytes(data + directory + end)


def part(number: int, content: bytes | int) -> bytes:
    """A field of a protobuf message."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    head = bytes([value & 0x7F | (0x80 if value > 0x7F else 0)])
    return head + (varint(value >> 7) if value > 0x7F else b"")


def onnx_of(*parts: bytes) -> bytes:
    return part(7, b"".join(parts))


def long_names(count: int) -> bytes:
    """Tensors of ten bytes in a graph inside a node, whose name begins all of theirs."""
    each = b"".join(part(5, part(8, b"%d" % n) + part(1, 0) + part(2, 1)) for n in range(count))
    node = part(2, b"n" * 990) + part(5, part(1, b"a") + part(6, each))
    return onnx_of(part(1, node))


def beside(location: str) -> bytes:
    """A model whose one tensor lies in another file."""
    away = part(13, part(1, b"location") + part(2, location.encode()))
    return onnx_of(part(5, part(8, b"w") + part(1, 4) + part(2, 1) + part(14, 1) + away))


def scaled(nodes: int, scales: int) -> bytes:
    """A quantized weight whose million scales every one of many nodes names."""

    def stored(name: str, kind: int, *dims: int) -> bytes:
        shape = b"".join(part(1, n) for n in dims)
        return part(5, shape + part(2, kind) + part(8, name.encode()) + part(9, bytes(scales)))

    node = part(1, b"w") + part(1, b"s") + part(4, b"DequantizeLinear")
    node += part(5, part(1, b"axis") + part(3, 0))
    return onnx_of(stored("w", 3, scales, 1), stored("s", 3, scales), part(1, node) * nodes)


def nesting(folder: Path) -> bytes:
    """An archive in an archive in an archive: a quine would go on for ever."""
    data = b""
    for _ in range(50):
        data = zipped({"inner.npz": data}, packed=True)
    return data


def over_each_other(folder: Path) -> bytes:
    """A hundred names for one stream that inflates to a megabyte."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = squeeze.compress(bytes(1 << 20)) + squeeze.flush()
    facts = (20, 0, 8, 0, 33, zlib.crc32(bytes(1 << 20)), len(body), 1 << 20, 5)
    data = struct.pack("<4s5H3I2H", b"PK\3\4", *facts, 0) + b"a.npy" + body
    entry = struct.pack("<4sH5H3I5H2I", b"PK\1\2", 20, *facts, 0, 0, 0, 0, 0, 0) + b"a.npy"
    size = 100 * len(entry)
    return data + entry * 100 + struct.pack(
        "<4s4H2IH", b"PK\5\6", 0, 0, 100, 100, size, len(data), 0
    )  # fmt: skip


TOO_MANY = "brackets and commas"
TOO_MADE = "makes more values than its bytes can mean"
TOO_OFTEN = "inflated many times over"

BOMBS = {
    "a header of 2^63 bytes": Hostile(
        in_file("m.safetensors", lambda f: (2**63).to_bytes(8, "little") + b"{}"), "claims 92233"
    ),
    "JSON 10^6 deep": Hostile(
        in_file("m.safetensors", lambda f: container(b'{"a":' * 10**6)), "nested"
    ),
    "half a million tensors": Hostile(
        in_file("m.safetensors", lambda f: many_tensors(500_000)), TOO_MANY
    ),
    "a header of 4 million lists": Hostile(
        in_file("m.safetensors", lambda f: container(lists(4_000_000))), TOO_MANY
    ),
    "a key of 50 MB": Hostile(
        in_file("m.safetensors", lambda f: container({"\x1b" * 8_000_000: entry("U8", [1], 0, 0)})),
        "takes 1 bytes", "\x1b" * 8_000_000,
    ),
    "24 bytes that ask for 137 GB": Hostile(
        in_file("m.gguf", lambda f: b"GGUF" + struct.pack("<IQQ", 3, 2**32, 0)), "4294967296"
    ),
    "a list for a dict, again": Hostile(
        in_file("m.pt", lambda f: again(b"](" + b"N" * 900_000 + b"e", 100_000)), TOO_MADE
    ),
    "a copy of a dict, again": Hostile(
        in_file("m.pt", lambda f: again(numbered(200_000), 100_000)), TOO_MADE
    ),
    "one list under many keys": Hostile(
        in_file("m.pt", lambda f: sharing(
            b"", lambda n: b"G" + struct.pack(">d", n + 0.5), 60_000, 900_000
        )),
        "holds no tensors",
    ),
    "one list beside a model": Hostile(
        in_file("m.pt", lambda f: sharing(
            ops("model") + ops({}) + ops("net") + ops({"w": tensor(offset=9)}),
            lambda n: b"J" + struct.pack("<i", n), 60_000, 900_000,
        )),
        "of its storage", "w",
    ),
    "many tensors with the same scales": Hostile(
        in_file("m.pt", lambda f: many_scales(20, 1_000_000)), "name the same scales", "w1"
    ),
    "many views of a deflated storage": Hostile(
        in_file("m.pt", lambda f: views(1000, 100_000_000)), TOO_OFTEN, "10"
    ),
    "a transposed deflated matrix": Hostile(
        in_file("m.pt", lambda f: turned(7000)), TOO_OFTEN, "w"
    ),
    "a wide array in Fortran order": Hostile(
        in_file("m.npz", lambda f: wide_row(20_000_000)), TOO_OFTEN, "w"
    ),
    "a chunk of 200 MB in a small file": Hostile(
        in_file("m.h5", lambda f: wide_slab(200)), "bytes must be held at once", "w"
    ),
    "empty fields in a directory": Hostile(
        in_file("m.npz", lambda f: with_extras(300)), "magic", "0"
    ),
    "archives in archives": Hostile(in_file("m.npz", nesting), "is not a .npy file"),
    "members over each other": Hostile(in_file("m.npz", over_each_other), "comes twice"),
    "names that begin with a name": Hostile(
        in_file("m.onnx", lambda f: long_names(50_000)), "letters"
    ),
}  # fmt: skip


# Files that are mostly not there


def sparse(name: str, begin: bytes, size: int = 8 * GIB) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(begin)
            file.truncate(size)
        return path

    return make


WHOLE = container({"w": entry("U8", [8 * GIB], 0, 8 * GIB)})


def sparse_index(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "model.safetensors").write_bytes(model_bytes(small_model()))
        sparse(name, b"{")(folder)
        return folder

    return make


def sparse_reference(folder: Path) -> Path:
    """A hub cache whose reference is 8 GiB long."""
    cache = write_hub_cache(folder, {"model.safetensors": b"x"}, commits=("a", "b"), main="a")
    sparse("refs/main", b"a" * 300)(cache)
    return cache


HOLES = {
    "a lie before 8 GiB": Hostile(
        sparse("m.safetensors", (8 * GIB).to_bytes(8, "little")), "the header claims 8589934592"
    ),
    "a header of 8 GiB": Hostile(
        sparse("m.safetensors", (8 * GIB - 8).to_bytes(8, "little")), "100000000 allowed"
    ),
    "a good header before 8 GiB": Hostile(
        sparse("m.safetensors", WHOLE, len(WHOLE) + 8 * GIB), "were never written"
    ),
    "a GGUF of zeros": Hostile(
        sparse("m.gguf", b"GGUF" + struct.pack("<IQQ", 3, 1 << 18, 0)), "overlaps", ""
    ),
    "an HDF5 of zeros": Hostile(sparse("m.h5", b"\x89HDF\r\n\x1a\n"), "addresses of 0"),
    "an ONNX of zeros": Hostile(sparse("m.onnx", b""), "no field's tag"),
    "a zip of zeros": Hostile(sparse("m.npz", b"PK\3\4"), "no zip archive"),
    "an index of 8 GiB": Hostile(
        sparse_index("model.safetensors.index.json"), "allowed of an index"
    ),
    "an index of components of 8 GiB": Hostile(
        sparse_index("model_index.json"), "allowed of an index"
    ),
    "a reference of 8 GiB": Hostile(sparse_reference, "2 snapshots"),
}


# Places that are no files, or not the model's


def pipe(name: str) -> Callable[[Path], Path]:
    """A folder with a pipe of this name, which nobody writes to."""

    def make(folder: Path) -> Path:
        os.mkfifo(folder / name)
        return folder

    return make


def pipe_beside(folder: Path) -> Path:
    os.mkfifo(folder / "data")
    return in_file("m.onnx", lambda _: beside("data"))(folder)


def folder_named(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).mkdir()
        (folder / "config.json").write_text("{}")
        return folder

    return make


def linked(name: str, target: str, data: bytes | None = None) -> Callable[[Path], Path]:
    """A folder in a folder, with a link; `data` is what a `secret` outside holds."""

    def make(folder: Path) -> Path:
        inner = folder / "model"
        inner.mkdir()
        (inner / "config.json").write_text("{}")  # so that the folder is one model
        (folder / "secret").write_bytes(data or model_bytes(small_model()))
        (inner / name).symlink_to(target)
        return inner

    return make


def linked_beside(folder: Path) -> Path:
    inner = linked("data", "../secret")(folder)
    return in_file("m.onnx", lambda _: beside("data"))(inner)


def linked_split(folder: Path) -> Path:
    inner = linked("m-00002-of-00002.gguf", "../secret")(folder)
    (inner / "m-00001-of-00002.gguf").write_bytes(b"GGUF")
    return inner


def index_of(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "model.safetensors").write_bytes(model_bytes(small_model()))
        write_index(folder, {"w": name})
        return folder

    return make


OUTSIDE = "links to a file outside the model's folder"

PLACES = {
    "a pipe": Hostile(lambda f: pipe("m.safetensors")(f) / "m.safetensors", "not a regular file"),
    "a pipe in a folder": Hostile(pipe("model.safetensors"), "not a regular file"),
    "a pipe for an index": Hostile(pipe("model.safetensors.index.json"), "not a regular file"),
    "a pipe beside a model": Hostile(pipe_beside, "its file data is missing", "w"),
    "a folder for a file": Hostile(folder_named("model.bin"), "not a regular file"),
    "a folder for an index": Hostile(
        folder_named("model.safetensors.index.json"), "not a regular file"
    ),
    "a device": Hostile(lambda f: Path(os.devnull), "not a regular file"),
    "a link to a device": Hostile(linked("model.safetensors", "/dev/zero"), OUTSIDE),
    "a link out": Hostile(linked("model.safetensors", "../secret"), OUTSIDE),
    "a link to a place": Hostile(linked("model.safetensors", "/etc/hostname"), OUTSIDE),
    "a link for an index": Hostile(
        linked("model.safetensors.index.json", "../secret", json.dumps({"a": 1}).encode()), OUTSIDE
    ),
    "a link for an index of components": Hostile(linked("model_index.json", "../secret"), OUTSIDE),
    "a link among splits": Hostile(linked_split, OUTSIDE),
    "a link beside a model": Hostile(linked_beside, OUTSIDE, "w"),
    "../ in an index": Hostile(index_of("../secret"), "not a plain name", "w"),
    "/ in an index": Hostile(index_of("/etc/hostname"), "not a plain name", "w"),
    "300 letters in an index": Hostile(index_of("a" * 300), "is missing", "w"),
    "../ in external data": Hostile(
        in_file("m.onnx", lambda f: beside("../secret")), "not a place beside it", "w"
    ),
    "/ in external data": Hostile(
        in_file("m.onnx", lambda f: beside("/etc/hostname")), "not a place beside it", "w"
    ),
    "300 letters in external data": Hostile(
        in_file("m.onnx", lambda f: beside("a" * 300)), "is missing", "w"
    ),
}

COSTLY = {
    "a hundred thousand tensors": in_file("m.safetensors", lambda f: many_tensors(100_000)),
    "scales named by many nodes": in_file("m.onnx", lambda f: scaled(100_000, 1_000_000)),
    "eight million times None": in_file("m.pt", lambda f: none(8_000_000)),
    "models in models": in_file("m.pt", lambda f: wrapped(60, 300_000)),
    "one list in many lists": in_file("m.pt", lambda f: listed(50_000, 300_000)),
}
"""What is odd but no lie: it is read, and must not cost much more than its size."""

HOSTILE = PICKLES | BOMBS | HOLES | PLACES
