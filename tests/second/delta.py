"""Deltas a second time, from the page alone: changes are formed whole, and nothing of `lineage`.

Rule numbers are those of `delta-v1.md`. Readers of dialects are left out: a case says its changes.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import rfc8785
from blake3 import blake3
from second.fingerprint import SIGNS, behind_length

Array = np.ndarray[Any, Any]

SCHEME = "delta-v1/features=20/fine=64/norm=128/coarse=4/codes=32"
GROUP = {
    "delta": "delta", "gain_in": "gain", "gain_out": "gain", "magnitude": "magnitude",
    "whole": "whole",
}  # fmt: skip
GROUPS = ("delta", "gain", "magnitude", "whole")


LEAST = 2.0**-200
"""Energy of a change that is one."""


def sign(place: int) -> int:
    """Sign number `place` of the one stream."""
    return -1 if SIGNS[place] else 1


def core_of(values: Array) -> Array:
    """Rule 6: entry by entry."""
    buckets = 36
    if values.ndim == 1:
        buckets, width = 4, min(values.size, 144)
        rows = -(-values.size // width)
        values = np.concatenate([values, np.zeros(rows * width - values.size)]).reshape(rows, width)
    core = np.zeros((buckets, 36))
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            core[i % buckets, j % 36] += sign(i // buckets) * sign(j // 36) * value
    return core[: min(buckets, values.shape[0]), : min(36, values.shape[1])]


def key_of(change: dict[str, Any]) -> tuple[str, str]:
    """Rule 5."""
    return change["name"].replace(".", "_"), change["kind"]


def features_of(changes: list[dict[str, Any]]) -> list[float]:
    """Rules 7 and 8."""
    changes = [change for change in changes if change["energy"] > 0]
    norms = {
        group: math.sqrt(sum(c["energy"] for c in changes if GROUP[c["kind"]] == group))
        for group in GROUPS
    }
    found = [0.0] * 20
    for change in changes:
        name, kind = key_of(change)
        shape = struct.pack(f"<{len(change['shape'])}Q", *change["shape"])
        parts = b"".join(map(behind_length, [name.encode(), kind.encode(), shape]))
        core = change["core"]
        stream = blake3(b"lineage/delta-signs/v1\0" + parts).digest(-(-20 * core.size // 8))
        bits = np.unpackbits(np.frombuffer(stream, np.uint8), bitorder="little")
        for k in range(20):
            signs = 1 - 2 * bits[k * core.size : (k + 1) * core.size].astype(float)
            found[k] += math.fsum(signs * core.reshape(-1)) / norms[GROUP[kind]]
    return found + [math.log(norms[group]) for group in GROUPS if norms[group]]


def digest(tag: bytes, changes: list[dict[str, Any]], cells: list[int]) -> str:
    """What rules 10 and 11 share, with rule 9."""
    modules = rfc8785.dumps([[*key_of(c), c["shape"]] for c in changes if c["energy"] > 0])
    numbers = struct.pack(f"<{len(cells)}q", *cells)
    parts = b"".join(map(behind_length, [SCHEME.encode(), modules, numbers]))
    return blake3(tag + b"\0" + parts).hexdigest()


def delta(values: dict[tuple[str, str], Array]) -> dict[str, Any]:
    """All that is kept of changes that are given whole, by name and kind."""
    changes = [
        {
            "name": name, "kind": kind, "shape": list(array.shape), "core": core_of(array),
            "energy": math.fsum((array**2).reshape(-1)),
        }
        for (name, kind), array in values.items()
    ]  # fmt: skip
    for change in changes:
        if change["energy"] < LEAST:
            change.update(core=np.zeros_like(change["core"]), energy=0.0)
    changes.sort(key=key_of)
    features = features_of(changes)
    return {"changes": changes, "features": features, **names_of(changes, features)}


def names_of(changes: list[dict[str, Any]], features: list[float]) -> dict[str, Any]:
    """Rules 10 and 11."""
    steps = [64] * 20 + [128] * (len(features) - 20)
    scaled = [x * step + 0.5 for x, step in zip(features, steps, strict=True)]
    ids = [[]]
    for x, step in zip(scaled, steps, strict=True):
        sides = {math.floor(x + side * step / 2**17) for side in (-1, 0, 1)}
        own = [math.floor(x)]
        ids = [[*one, cell] for one in ids for cell in own + sorted(sides - {*own})]
    if len(ids) > 64:
        ids = ids[:1]
    found = [digest(b"lineage/delta-id/v1", changes, cells) for cells in ids]
    return {
        "delta_id": found[0],
        "delta_ids": found,
        "delta_codes": [
            digest(
                b"lineage/delta-code/v1",
                changes,
                [grid, *(math.floor(x * 4 + grid / 32) for x in features)],
            )[:32]
            for grid in range(32)
        ],
    }


def entry_of(made: dict[str, Any], family: str) -> dict[str, Any]:
    """What the stored form's metadata says of a delta."""
    rows = [{key: c[key] for key in ("name", "kind", "shape")} for c in made["changes"]]
    ranked = [row | {"rank": 4 if row["kind"] == "delta" else None} for row in rows]
    return {"scheme": SCHEME, "family": family, "changes": ranked, "says": {}}


def arrays_of(made: dict[str, Any]) -> tuple[bytes, bytes]:
    """Its cores and sums."""
    cores = b"".join(c["core"].astype("<f4").tobytes() for c in made["changes"])
    return cores, np.array([*(c["energy"] for c in made["changes"]), *made["features"]]).tobytes()


def check_stored(entry: Any, cores: Any, sums: Any) -> dict[str, Any]:
    """Rule 15; what it returns is what `delta` made, but for float32 cores."""
    present = [one is not None for one in (entry, cores, sums)]
    require(all(present) or not any(present), "one without the others")
    if entry is None:
        return {}
    require(cores[0] == "F32" and sums[0] == "F64", "other dtypes")
    numbers, totals = np.frombuffer(cores[2], "<f4"), np.frombuffer(sums[2], "<f8")
    require(entry["scheme"] == SCHEME, "another scheme")
    require(bool(np.isfinite(numbers).all() and np.isfinite(totals).all()), "not finite")
    changes = [dict(row) for row in entry["changes"]]
    keys = [key_of(change) for change in changes]
    require(keys == sorted(set(keys)), "out of order, or repeated")
    require(len(totals) >= len(changes), "too few sums")
    for change, energy in zip(changes, totals, strict=False):
        shape = change["shape"]
        require(change["kind"] in GROUP, "an unknown kind")
        require(len(shape) in (1, 2) and all(type(n) is int and n > 0 for n in shape), "a shape")
        if len(shape) == 1:
            size = min(4, -(-shape[0] // 144)), min(36, shape[0])
        else:
            size = min(36, shape[0]), min(36, shape[1])
        count = size[0] * size[1]
        require(len(numbers) >= count, "cores too short")
        change["core"], numbers = numbers[:count].reshape(size).astype("<f8"), numbers[count:]
        change["energy"] = float(energy)
        require(energy > 0 or (energy == 0 and not change["core"].any()), "an energy")
    require(not len(numbers), "cores too long")
    features, expected = list(map(float, totals[len(changes) :])), features_of(changes)
    require(len(features) == len(expected), "features too few or too many")
    off = [abs(x - y) for x, y in zip(features, expected, strict=True)]
    require(max(off, default=0) <= 1e-3, "features of other cores")
    return {"changes": changes, "features": features, **names_of(changes, features)}


class RefusedError(ValueError):
    """A stored delta that a reader must refuse, with the reason."""


def require(fine: bool, reason: str) -> None:
    if not fine:
        raise RefusedError(reason)
