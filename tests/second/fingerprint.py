"""Fingerprints a second time, from the page alone: plain and slow, and nothing of `lineage`.

Rule numbers are those of `fingerprint-v1.md`. What it leaves to writers (`lattice`, `parts`) is
left out; parts in a stored form are read.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from blake3 import blake3

Array = np.ndarray[Any, Any]

TYPE = "urn:model-lineage:fingerprint:v1"
FULL = "bilinear-v1/side=36/vector=4x144/seed=blake3"
SCHEMES = {"full": FULL, "fast": FULL + "/rows=1in8", "exact": "none"}

NUMPY: dict[str, Any] = {
    "BOOL": "u1", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8",
    "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16,
    "F8_E5M2": ml_dtypes.float8_e5m2, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu, "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
}  # fmt: skip

HELD = ["F8_E5M2", "F8_E4M3", "BF16", "F16", "F32"]
TRIED = {
    "F64": HELD, "F32": HELD[:4], "F16": HELD[:3], "F8_E8M0": HELD[:3], "F8_E5M2FNUZ": HELD[:3],
    "F8_E4M3FNUZ": HELD[:3], "BF16": HELD[:2], "F8_E4M3": HELD[:1],
}  # fmt: skip
ROUNDED = {"F64": ["BF16", "F16", "F32"], "F32": ["BF16", "F16"], "F16": ["BF16"]}

SIGNS = np.unpackbits(
    np.frombuffer(blake3(b"lineage/sketch-signs/v1").digest(1 << 16), np.uint8), bitorder="little"
)


def behind_length(part: bytes) -> bytes:
    """The part behind its length."""
    return struct.pack("<Q", len(part)) + part


def content_digest(dtype: str, shape: list[int], data: bytes) -> str:
    """Rule 1."""
    extents = struct.pack(f"<{len(shape)}Q", *shape)
    parts = [dtype.encode(), extents, data]
    return blake3(b"lineage/content/v1\0" + b"".join(map(behind_length, parts))).hexdigest()


def leaf(name: str, content: str) -> bytes:
    """Rule 2."""
    parts = [name.encode(), bytes.fromhex(content)]
    return blake3(b"lineage/leaf/v1\0" + b"".join(map(behind_length, parts))).digest()


def tree(leaves: list[bytes]) -> bytes:
    """Rule 3: left of the split is the largest power of two below the number of leaves."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while 2 * split < len(leaves):
        split *= 2
    return blake3(b"\x01" + tree(leaves[:split]) + tree(leaves[split:])).digest()


def unordered_id(tag: bytes, digests: list[str]) -> str:
    """Rule 4."""
    parts = [behind_length(bytes.fromhex(digest)) for digest in digests]
    return tree(sorted(blake3(tag + b"\0" + part).digest() for part in parts)).hex()


def values_of(dtype: str, data: bytes) -> Array:
    """The stored values."""
    return np.frombuffer(data, NUMPY[dtype])


def cast(values: Array, dtype: str) -> Array:
    """The values rounded to another dtype: F64 at once but to BF16, all else by way of F32."""
    with np.errstate(all="ignore"):
        if values.dtype != "<f8" or dtype == "BF16":
            values = values.astype("<f4")
        return values.astype(NUMPY[dtype])


def holds(values: Array, dtype: str) -> bool:
    """Whether a dtype holds these values bit for bit, and none is NaN."""
    with np.errstate(all="ignore"):
        exact = values.astype("<f8") if values.dtype == "<f8" else cast(values, "F32").astype("<f8")
        back = cast(cast(values, dtype), "F32").astype("<f8")
    return not np.isnan(exact).any() and exact.tobytes() == back.tobytes()


def value_digest(dtype: str, shape: list[int], data: bytes) -> str:
    """Rule 5."""
    for other in TRIED.get(dtype, []):
        values = values_of(dtype, data)
        if holds(values, other):
            return content_digest(other, shape, cast(values, other).tobytes())
    return content_digest(dtype, shape, data)


def rounded_digests(dtype: str, shape: list[int], data: bytes) -> dict[str, str]:
    """Rule 6, for a tensor whose numbers are all counted."""
    values = values_of(dtype, data) if dtype in ROUNDED else np.zeros(0)
    return {
        other: content_digest(other, shape, cast(values, other).tobytes())
        for other in ROUNDED.get(dtype, [])
        if not holds(values, other)
    }


def layout(shape: list[int]) -> tuple[int, int, int]:
    """Rows, columns and row buckets, by rule 9."""
    size = math.prod(shape)
    if len(shape) >= 2:
        return shape[0], size // shape[0], 36
    return (1, size, 4) if size < 144 else (-(-size // 144), 144, 4)


def is_sketched(dtype: str, shape: list[int]) -> bool:
    """Rule 12, for the dtypes safetensors has."""
    return math.prod(shape) > 0 and dtype in NUMPY


def sketched_shape(shape: list[int]) -> tuple[int, int]:
    """A core's rows and columns."""
    rows, cols, buckets = layout(shape)
    return min(rows, buckets), min(cols, 36)


def scale_of(name: str, model: dict[str, Any]) -> Array | None:
    """The scale of rule 12: one number, one a row, or one for each value, of its block."""
    dtype, shape, _ = model[name]
    if dtype not in ("I8", "F8_E4M3", "F8_E5M2") or len(shape) != 2:
        return None
    scb = name.removesuffix("weight") + "SCB" if name.endswith("weight") else None
    for other, unit in ((scb, 127), (name + ".scale", 1), (name + "_scale", 1)):
        kind, extents, data = model.get(other, ("", None, b""))
        fits = extents in ([], [1], [shape[0]], [shape[0], 1])
        if kind in ("F16", "BF16", "F32") and fits:
            return values_of(kind, data).astype("<f4").reshape(-1, 1) / np.float32(unit)
    kind, extents, data = model.get(name + "_scale_inv", ("", None, b""))
    if kind in ("F16", "BF16", "F32") and extents == [-(-extent // 128) for extent in shape]:
        blocks = values_of(kind, data).astype("<f4").reshape(extents)
        return np.kron(blocks, np.ones((128, 128), "<f4"))[: shape[0], : shape[1]]
    return None


def numbers_of(name: str, model: dict[str, Any]) -> Array:
    """What a tensor stands for: a float32 matrix laid out by rule 9, NaN where it is filled up."""
    dtype, shape, data = model[name]
    rows, cols, _ = layout(shape)
    scale = scale_of(name, model)
    with np.errstate(all="ignore"):
        flat = values_of(dtype, data).astype("<f4")
        matrix = np.append(flat, np.full(rows * cols - flat.size, np.nan, "<f4"))
        matrix = matrix.reshape(rows, cols)
        return matrix if scale is None else matrix * scale


def sketch_of(name: str, model: dict[str, Any], scheme: str) -> dict[str, Any]:
    """Rules 8 to 13."""
    shape = model[name][1]
    matrix, buckets = numbers_of(name, model), layout(shape)[2]
    size = math.prod(shape)
    i, j = np.arange(matrix.shape[0])[:, None], np.arange(matrix.shape[1])[None, :]
    taken = np.broadcast_to(i // buckets % 8 == 0, matrix.shape) | (not scheme.endswith("1in8"))
    taken = taken & (np.arange(matrix.size).reshape(matrix.shape) < size)
    counted = taken & (np.abs(np.nan_to_num(matrix, nan=np.inf)) <= 2.0**40)
    exact = np.where(counted, matrix, 0).astype("<f8")
    signs = 1.0 - 2.0 * SIGNS
    signed = exact * signs[i // buckets] * signs[j // 36]
    core, squares = np.zeros(sketched_shape(shape)), np.zeros(sketched_shape(shape))
    np.add.at(core, (i % buckets, j % 36), signed)
    np.add.at(squares, (i % buckets, j % 36), exact**2)
    left = exact[counted & (matrix != 0)]
    return {
        "core": core.astype("<f4"),
        "rows": squares.sum(axis=1).astype("<f4"),
        "cols": squares.sum(axis=0).astype("<f4"),
        "energy": math.fsum((exact**2).flat),
        "fourth": math.fsum(((exact**2) ** 2).flat),  # no power: processors differ in its last bit
        "zeros": int((counted & (matrix == 0)).sum()),
        "flat": len(set(left.tolist())) <= 1,
        "nonfinite": int((taken & ~counted).sum()),
    }


def read_safetensors(data: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """A file's tensors (dtype, shape, bytes) by name, and its metadata."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = header.pop("__metadata__", {})
    return {
        name: (entry["dtype"], entry["shape"], body[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }, metadata


def write_safetensors(tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> bytes:
    """A file of tensors (dtype, shape, bytes), in the order given."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    body = b""
    for name, (dtype, shape, data) in tensors.items():
        ends = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": ends}
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    return behind_length(text + b" " * (-len(text) % 8)) + body


def fingerprint(file: bytes, tier: str = "full") -> dict[str, Any]:
    """The fingerprint of a safetensors file."""
    model, _ = read_safetensors(file)
    tensors = [of_tensor(name, model, SCHEMES[tier]) for name in sorted(model, key=str.encode)]
    return {"scheme": SCHEMES[tier], "size_bytes": sum(len(d) for *_, d in model.values())} | {
        "tensors": tensors,
        **identities(tensors),
    }


def identities(tensors: list[dict[str, Any]]) -> dict[str, str]:
    """Root, content id and value id."""
    contents, values = ([tensor[key] for tensor in tensors] for key in ("content", "value"))
    return {
        "root": tree([leaf(tensor["name"], tensor["content"]) for tensor in tensors]).hex(),
        "content_id": unordered_id(b"lineage/content-leaf/v1", contents),
        "value_id": unordered_id(b"lineage/value-leaf/v1", values),
    }


def of_tensor(name: str, model: dict[str, Any], scheme: str) -> dict[str, Any]:
    """All that is kept of one tensor."""
    dtype, shape, data = model[name]
    sketched = scheme != "none" and is_sketched(dtype, shape)
    sketch = sketch_of(name, model, scheme) if sketched else None
    nonfinite = sketch.pop("nonfinite") if sketch else 0
    whole = scheme == FULL and not nonfinite
    return {
        "name": name,
        "dtype": dtype,
        "shape": shape,
        "content": content_digest(dtype, shape, data),
        "value": value_digest(dtype, shape, data),
        "rounded": rounded_digests(dtype, shape, data) if whole else {},
        "nonfinite": nonfinite,
        "sketch": sketch,
    }


def load(path: Path, tier: str = "full") -> dict[str, Any]:
    """The fingerprint of the safetensors file at a path."""
    return fingerprint(path.read_bytes(), tier)
