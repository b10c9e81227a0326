"""Makers of torch files, byte by byte: no torch, and no pickler that would refuse to lie."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

MAGIC = 0x1950A86A20F9469CFC6C
REBUILD = "torch._utils._rebuild_"


class Ops(bytes):
    """Opcodes that leave one value on the stack."""


def ops(value: Any) -> bytes:
    """The opcodes of a plain value; `Ops` are taken as they are."""
    if isinstance(value, Ops):
        return value
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode()
        return b"X" + struct.pack("<I", len(data)) + data
    if isinstance(value, bytes):
        return b"C" + bytes([len(value)]) + value
    if isinstance(value, tuple):
        return b"(" + b"".join(map(ops, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(ops, value)) + b"e"
    return b"}(" + b"".join(ops(k) + ops(v) for k, v in value.items()) + b"u"


def pickle(value: Any) -> bytes:
    """A whole pickle of protocol 2."""
    return b"\x80\x02" + ops(value) + b"."


def named(name: str) -> Ops:
    """A class or function."""
    module, _, last = name.rpartition(".")
    return Ops(f"c{module}\n{last}\n".encode())


def call(name: str, *arguments: Any) -> Ops:
    """A call."""
    return Ops(named(name) + ops(arguments) + b"R")


def storage(key: Any = "0", count: Any = 6, kind: str = "torch.FloatStorage", *part: Any) -> Ops:
    """A persistent id of a storage."""
    return Ops(ops(("storage", named(kind), key, "cpu", count, *part)) + b"Q")


def tensor(
    shape: Any = (2, 3), strides: Any = (3, 1), offset: Any = 0, stored: Any = None, *more: Any
) -> Ops:
    """A tensor, by default all of a storage of six floats."""
    hooks = call("collections.OrderedDict")
    given = (stored or storage(), offset, shape, strides, False, hooks)
    return call(f"{REBUILD}tensor_v2", *given, *more)


def floats(count: int = 6) -> bytes:
    """Bytes of the floats 0, 1, 2 ..."""
    return struct.pack(f"<{count}f", *range(count))


def archive(
    data: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    root: str = "model",
    more: Mapping[str, bytes] | None = None,
    packed: bool = False,
) -> bytes:
    """A zip archive with this data.pkl."""
    held = {f"{root}/data.pkl": data}
    held |= {f"{root}/data/{k}": v for k, v in ({"0": floats()} | dict(storages or {})).items()}
    held |= {f"{root}/{k}": v for k, v in (more or {}).items()}
    return zipped(held, packed=packed)


def zipped(held: Mapping[str, bytes], *, packed: bool = False) -> bytes:
    """A zip archive of these members."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as made:
        for name, data in held.items():
            made.writestr(zipfile.ZipInfo(name), data, made.compression)
    return out.getvalue()


def saved(value: Any, storages: Mapping[str, bytes] | None = None, **how: Any) -> bytes:
    """A zip archive of this value."""
    return archive(pickle(value), storages, **how)


def legacy(
    value: Any,
    storages: Sequence[tuple[str, int, bytes]] = (("0", 6, floats()),),
    *,
    version: int = 1001,
    keys: Any = None,
    after: bytes = b"",
) -> bytes:
    """A file of torch before 1.6; each storage has a key, a number of values and its bytes."""
    named = [key for key, _, _ in storages] if keys is None else keys
    parts = (MAGIC, version, {"little_endian": True}, value, named)
    data = b"".join(count.to_bytes(8, "little") + bits for _, count, bits in storages)
    return b"".join(map(pickle, parts)) + data + after


@contextmanager
def within(limit: int) -> Iterator[None]:
    """Check that no more than so many bytes were in use at any time inside."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit
