"""The stored form a second time, from the page alone: what is written, and what must be refused."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import rfc8785
from second.delta import check_stored
from second.fingerprint import (
    FULL,
    ROUNDED,
    SCHEMES,
    TYPE,
    identities,
    is_sketched,
    read_safetensors,
    sketched_shape,
    write_safetensors,
)
from second.neurons import SCHEME as NEURONS

ARRAYS = {"cores": "F32", "energies": "F32", "sums": "F64", "manifest": "U8"}

MORE = {"neurons": "U8", "delta_cores": "F32", "delta_sums": "F64"}


class RefusedError(ValueError):
    """A stored form that a reader must refuse, with the reason."""


def to_bytes(made: dict[str, Any]) -> bytes:
    """The stored form."""
    sketches = [tensor["sketch"] for tensor in made["tensors"] if tensor["sketch"]]
    manifest = rfc8785.dumps([entry_of(tensor) for tensor in made["tensors"]])
    held: dict[str, bytes] = {
        "cores": b"".join(sketch["core"].tobytes() for sketch in sketches),
        "energies": b"".join(s["rows"].tobytes() + s["cols"].tobytes() for s in sketches),
        "sums": b"".join(np.array([s["energy"], s["fourth"]], "<f8").tobytes() for s in sketches),
        "manifest": manifest,
    }
    if "neurons" in made:
        held["neurons"] = made["neurons"]["data"]
    if "delta" in made:
        held["delta_cores"], held["delta_sums"] = made["delta"]["arrays"]
    return write_safetensors(
        {
            name: (dtype, [len(held[name]) // {"F32": 4, "F64": 8, "U8": 1}[dtype]], held[name])
            for name, dtype in (ARRAYS | MORE).items()
            if name in held
        },
        {"lineage": rfc8785.dumps(metadata_of(made)).decode()},
    )


def metadata_of(made: dict[str, Any]) -> dict[str, Any]:
    """The metadata entry."""
    return {
        "_type": TYPE,
        "root": made["root"],
        "scheme": made["scheme"],
        "size_bytes": str(made["size_bytes"]),
        **{key: made[key]["entry"] for key in ("neurons", "delta") if key in made},
    }


def entry_of(tensor: dict[str, Any]) -> dict[str, Any]:
    """A tensor's entry in the manifest."""
    entry = {key: tensor[key] for key in ("name", "dtype", "shape", "content")}
    if tensor["value"] != tensor["content"]:
        entry["value"] = tensor["value"]
    entry |= {key: tensor[key] for key in ("rounded", "nonfinite") if tensor[key]}
    if tensor["sketch"]:
        entry["zeros"] = tensor["sketch"]["zeros"]
        entry |= {"flat": True} if tensor["sketch"]["flat"] else {}
    return entry


def parts_of(file: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A stored form's metadata entry and manifest, as they are."""
    tensors, metadata = read_safetensors(file)
    return json.loads(metadata["lineage"]), json.loads(tensors["manifest"][2])


def from_bytes(file: bytes) -> dict[str, Any]:
    """Read a stored form by rule 16."""
    held, _ = read_safetensors(file)
    metadata, manifest = parts_of(file)
    check(metadata["_type"] == TYPE, "another type")
    check(metadata["scheme"] in SCHEMES.values(), "a scheme it does not know")
    neurons = neurons_of(metadata.get("neurons"), held.pop("neurons", None))
    changes = check_stored(
        metadata.get("delta"), held.pop("delta_cores", None), held.pop("delta_sums", None)
    )
    check({name: dtype for name, (dtype, *_) in held.items()} == ARRAYS, "other arrays")
    names = [entry["name"].encode() for entry in manifest]
    check(names == sorted(set(names)) != [], "names out of order, repeated or none")
    arrays = {
        name: np.frombuffer(held[name][2], "<f8" if name == "sums" else "<f4")
        for name in ("cores", "energies", "sums")
    }
    tensors = [tensor_of(entry, metadata["scheme"], arrays) for entry in manifest]
    check(not any(array.size for array in arrays.values()), "arrays longer than the manifest asks")
    found = identities(tensors)
    check(found["root"] == metadata["root"], "a root that is not the root of the leaves")
    size = int(metadata["size_bytes"])
    made = {"scheme": metadata["scheme"], "size_bytes": size, "tensors": tensors, **found}
    return made | neurons | ({"changed": changes} if changes else {})


def neurons_of(entry: Any, held: Any) -> dict[str, Any]:
    """The neuron sketch, by rule 23; nothing where there is none."""
    check((entry is None) == (held is None), "a neuron sketch without its entry, or the reverse")
    if entry is None:
        return {}
    check(entry["scheme"] == NEURONS, "another neuron scheme")
    check(entry["labels"] in (["numbers"], ["tokens", "numbers"]), "other labels")
    check(entry["gated"] in (True, False) and type(entry["gated"]) is bool, "gated or not")
    blocks, places = entry["blocks"], [tuple(block[:2]) for block in entry["blocks"]]
    check(0 < len(blocks) <= 8 and places == sorted(set(places)), "blocks")
    check(all(1 <= units <= 128 for *_, units in blocks), "a count of units")
    size = 32 * len(entry["labels"]) * sum(units for *_, units in blocks)
    check(held[0] == "U8" and len(held[2]) == size, "a tensor of another length")
    return {"neurons": {"entry": entry, "data": held[2]}}


def tensor_of(entry: dict[str, Any], scheme: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """One tensor of a stored form; takes its numbers from the front of `arrays`."""
    size, shape = math.prod(entry["shape"]), entry["shape"]
    rounded = entry.get("rounded", {})
    digests = [entry["content"], entry.get("value", entry["content"]), *rounded.values()]
    check(all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests), "a bad digest")
    check(set(rounded) <= set(ROUNDED.get(entry["dtype"], [])), "rounded to another dtype")
    counts = [entry.get(key, 0) for key in ("zeros", "nonfinite")]
    check(all(0 <= count <= size for count in counts), "a count below 0 or above the values")
    sketched = scheme != "none" and is_sketched(entry["dtype"], shape)
    sketch = take(entry, sketched_shape(shape), arrays) if sketched else None
    for part in entry.get("parts", []):
        take(part, sketched_shape(part_shape(shape, part)), arrays)
    return {key: entry[key] for key in ("name", "dtype", "shape", "content")} | {
        "value": digests[1],
        "rounded": rounded,
        "nonfinite": entry.get("nonfinite", 0),
        "sketch": sketch,
    }


def part_shape(shape: list[int], part: dict[str, Any]) -> list[int]:
    """The shape of a part, by rule 15."""
    start, stop, axis = part["start"], part["stop"], part["axis"]
    check(len(shape) <= 2 and axis < len(shape), "a part of a tensor that has none")
    check(0 <= start < stop <= shape[axis], "a part that reaches outside the tensor")
    return [stop - start if place == axis else extent for place, extent in enumerate(shape)]


def take(entry: dict[str, Any], shape: tuple[int, int], arrays: dict[str, Any]) -> dict[str, Any]:
    """A sketch from the front of the arrays."""
    rows, cols = shape
    core, energies = front(arrays, "cores", rows * cols), front(arrays, "energies", rows + cols)
    sums = front(arrays, "sums", 2)
    check(all(np.isfinite(array).all() for array in (core, energies, sums)), "not finite")
    check((energies >= 0).all() and (sums >= 0).all(), "negative energies")
    check("zeros" in entry, "no count of zeros")
    for part in (energies[:rows], energies[rows:]):
        off = abs(math.fsum(part.tolist()) - sums[0])
        check(off <= max(1e-5 * sums[0], 2.0**-120), "energies that do not add up")
    return {
        "core": core.reshape(shape),
        "rows": energies[:rows],
        "cols": energies[rows:],
        "energy": float(sums[0]),
        "fourth": float(sums[1]),
        "zeros": entry["zeros"],
        "flat": entry.get("flat", False),
    }


def front(arrays: dict[str, Any], name: str, count: int) -> Any:
    """Take so many numbers from the front of an array."""
    check(arrays[name].size >= count, f"{name} shorter than the manifest asks")
    taken, arrays[name] = arrays[name][:count], arrays[name][count:]
    return taken


def check(holds: bool, reason: str) -> None:
    """Refuse unless it holds."""
    if not holds:
        raise RefusedError(reason)


__all__ = ["FULL", "RefusedError", "from_bytes", "parts_of", "to_bytes"]
