"""Writes a fingerprint as bytes: a safetensors file, so that any language can read it.

`lineage/spec/fingerprint-v1.md` is the format in words. The container is put together here, and not
by the safetensors package, so that saving needs no NumPy.
"""

from __future__ import annotations

import json
import struct
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from lineage import canonical
from lineage.artifacts.base import BITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lineage.fingerprints.base import Fingerprint, PartPrint, TensorPrint
    from lineage.fingerprints.sketch import Sketch

    _Bytes = bytes | memoryview

TYPE = "urn:model-lineage:fingerprint:v1"


def to_bytes(fingerprint: Fingerprint) -> bytes:
    """Return the stored form; the same fingerprint always gives the same bytes."""
    return b"".join(chunks_of(fingerprint))


def chunks_of(fingerprint: Fingerprint) -> list[bytes | memoryview]:
    """Return the stored form in pieces: joining them costs as much as making them."""
    sketches: list[Sketch] = []
    for tensor in fingerprint.tensors:
        if tensor.sketch is not None:
            sketches.append(tensor.sketch)
        if tensor.parts:
            sketches += [one.sketch for one in tensor.parts]
    sums = [*chain.from_iterable(map(attrgetter("energy", "fourth"), sketches))]
    cores, energies = zip(*_memory(sketches), strict=True)
    # Widest first, as safetensors' own writer orders them.
    arrays: list[tuple[str, str, list[_Bytes]]] = [
        ("sums", "F64", [struct.pack(f"<{len(sums)}d", *sums)]),
        ("cores", "F32", [*cores]),
        ("energies", "F32", [*energies]),
        ("manifest", "U8", [_manifest(fingerprint.tensors)]),
    ]
    head: dict[str, Any] = {
        "_type": TYPE,
        "root": fingerprint.root,
        "scheme": fingerprint.scheme,
        "size_bytes": str(fingerprint.size_bytes),
    }
    if fingerprint.neurons is not None:
        arrays.append(("neurons", "U8", [fingerprint.neurons.raw]))
        head["neurons"] = fingerprint.neurons.to_json()
    if fingerprint.delta is not None:
        from lineage.fingerprints.delta import arrays_of

        cores_of_changes, sums_of_changes = arrays_of(fingerprint.delta)
        arrays.insert(1, ("delta_sums", "F64", [sums_of_changes]))
        arrays.insert(2, ("delta_cores", "F32", [cores_of_changes]))
        head["delta"] = fingerprint.delta.to_json()
    return _container(arrays, {"lineage": canonical.dumps(head).decode()})


def _memory(sketches: Iterable[Sketch]) -> Iterator[tuple[_Bytes, _Bytes]]:
    """Yield the bytes of cores, and of energies: those of neighbours in one piece."""
    raw, begin, end = (b"", b""), (0, 0), (0, 0)
    for sketch in sketches:
        if sketch.raw is not raw or sketch.start != end:
            yield memoryview(raw[0])[begin[0] : end[0]], memoryview(raw[1])[begin[1] : end[1]]
            raw, begin = sketch.raw, sketch.start
        height, width = sketch.shape
        at, sides = sketch.start
        end = at + 4 * height * width, sides + 4 * (height + width)
    yield memoryview(raw[0])[begin[0] : end[0]], memoryview(raw[1])[begin[1] : end[1]]


def _container(
    arrays: Sequence[tuple[str, str, list[bytes | memoryview]]], metadata: dict[str, str]
) -> list[bytes | memoryview]:
    """Return a safetensors file of flat arrays, each a name, a dtype and little-endian bytes."""
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, dtype, chunks in arrays:
        size = sum(map(len, chunks))
        shape = [size * 8 // BITS[dtype]]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return [head, *chain.from_iterable(chunks for *_, chunks in arrays)]


def _manifest(tensors: Sequence[TensorPrint]) -> bytes:
    """Return a row of each tensor, as canonical JSON.

    Most rows are plain, and put together here: to ask of each value of ten thousand rows whether
    JSON can hold it takes longer.
    """
    names = "".join(map(attrgetter("name"), tensors))
    if not names.isascii() or not names.isprintable() or '"' in names or "\\" in names:
        return canonical.dumps([_row(tensor) for tensor in tensors])
    rows = [_plain_row(tensor) or canonical.dumps(_row(tensor)).decode() for tensor in tensors]
    return f"[{','.join(rows)}]".encode()


def _plain_row(tensor: TensorPrint) -> str | None:
    """Return the row of a tensor with a plain name, as canonical JSON; None where it has more.

    It has values, so that no number of them is as large as integers in JSON may not be.
    """
    if tensor.parts or 0 in tensor.shape:
        return None
    sketch, content, value = tensor.sketch, tensor.content.hex(), ""
    flat = lattice = nonfinite = rounded = zeros = ""
    if tensor.value != tensor.content:
        value = f',"value":"{tensor.value.hex()}"'
    if tensor.rounded:
        pairs = (f'"{dtype}":"{digest.hex()}"' for dtype, digest in sorted(tensor.rounded))
        rounded = f'"rounded":{{{",".join(pairs)}}},'
    if tensor.nonfinite:
        nonfinite = f'"nonfinite":{tensor.nonfinite},'
    if tensor.lattice.bits:
        lattice = f'"lattice":[{tensor.lattice.bits},{tensor.lattice.group}],'
    if sketch is not None:
        flat, zeros = '"flat":true,' if sketch.is_flat else "", f',"zeros":{sketch.zeros}'
    return (
        f'{{"content":"{content}","dtype":"{tensor.dtype}",{flat}{lattice}"name":"{tensor.name}",'
        f'{nonfinite}{rounded}"shape":[{",".join(map(str, tensor.shape))}]{value}{zeros}}}'
    )


def _row(tensor: TensorPrint) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "content": tensor.content.hex(),
    }
    if tensor.value != tensor.content:
        row["value"] = tensor.value.hex()
    if tensor.rounded:
        row["rounded"] = {dtype: digest.hex() for dtype, digest in tensor.rounded}
    if tensor.nonfinite:
        row["nonfinite"] = tensor.nonfinite
    if tensor.lattice.bits:
        row["lattice"] = [tensor.lattice.bits, tensor.lattice.group]
    if tensor.sketch is not None:
        row |= _counts(tensor.sketch)
    if tensor.parts:
        row["parts"] = [_part_row(one) for one in tensor.parts]
    return row


def _counts(sketch: Sketch) -> dict[str, Any]:
    return {"zeros": sketch.zeros} | ({"flat": True} if sketch.is_flat else {})


def _part_row(one: PartPrint) -> dict[str, Any]:
    part = one.part
    row = {"name": part.name, "axis": part.axis, "start": part.start, "stop": part.stop}
    return row | _counts(one.sketch)
