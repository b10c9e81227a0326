"""Neuron sketches a second time, from the page alone, of models whose tensors have GGUF's names."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
from blake3 import blake3
from second.fingerprint import values_of

Array = np.ndarray[Any, Any]

SCHEME = "neurons-v1/blocks=8/units=128/labels=256/bits=128/seed=blake3"
LABELLED = ("position_embd", "token_types", "class_embd", "patch_embd")
BLOCK = re.compile(r"(\w+)\.(\d+)\.ffn_down\.weight")


def sketch(model: dict[str, Any], tokens: list[str] | None = None) -> dict[str, Any]:
    """The metadata entry and the bytes of rule 22."""
    arrays = {
        name: values_of(dtype, data).astype("<f8").reshape(shape)
        for name, (dtype, shape, data) in model.items()
    }
    norms = [a.size for name, a in arrays.items() if name.endswith("norm.weight")]
    width = Counter(norms).most_common(1)[0][0]
    kinds = {"tokens": labels_of(tokens, arrays), "numbers": numbered(arrays, width)}
    planes = {kind: plane(labels, arrays, width) for kind, labels in kinds.items() if labels}
    planes = {kind: found for kind, found in planes.items() if found is not None}
    blocks = spread(sorted((m[1], int(m[2])) for name in arrays if (m := BLOCK.fullmatch(name))))
    gated = all(f"{stack}.{n}.ffn_gate.weight" in arrays for stack, n in blocks)
    pairs = [looks(f"{stack}.{n}.", arrays, gated=gated) for stack, n in blocks]
    return {
        "entry": {
            "scheme": SCHEME,
            "labels": list(planes),
            "gated": gated,
            "blocks": [[*b, len(pair[0])] for b, pair in zip(blocks, pairs, strict=True)],
        },
        "data": b"".join(
            np.packbits(look @ columns < 0, axis=1, bitorder="little").tobytes()
            for columns in planes.values()
            for pair in pairs
            for look in pair
        ),
    }


def labels_of(tokens: list[str] | None, arrays: dict[str, Array]) -> list[Any]:
    """Rule 17: the labels of tokens by their strings, with role and number."""
    count = len(arrays.get("token_embd.weight", ()))
    return [
        (b"token\0" + token.encode(), "token_embd", number)
        for number, token in enumerate((tokens or [])[:count])
        if token
    ]


def rows_of(role: str, arrays: dict[str, Array], width: int) -> Array:
    """A role's labelled vectors, all of them."""
    whole = arrays[f"{role}.weight"]
    return whole.reshape(-1, width) if whole.shape[-1] == width else whole.reshape(width, -1).T


def numbered(arrays: dict[str, Array], width: int) -> list[Any]:
    """Rule 17: the labels by numbers."""
    roles = ["token_embd"] if "token_embd.weight" in arrays else LABELLED
    return [
        (f"{role}\0{number}".encode(), role, number)
        for role in roles
        if f"{role}.weight" in arrays
        for number in range(len(rows_of(role, arrays, width)))
    ]


def is_centred(arrays: dict[str, Array]) -> bool:
    """Whether means are taken off, in models whose norms do not stand in the stream."""
    return any(name.endswith("norm.bias") for name in arrays)


def plane(labels: list[Any], arrays: dict[str, Array], width: int) -> Array | None:
    """Rule 18."""
    digest = {label: blake3(b"lineage/neurons/v1\0" + label).digest() for label, *_ in labels}
    taken = sorted(labels, key=lambda one: digest[one[0]])[:256]
    rows = np.stack([rows_of(role, arrays, width)[n] for _, role, n in taken])
    rows = np.nan_to_num(rows, nan=0, posinf=0, neginf=0)
    if is_centred(arrays):
        rows = rows - rows.mean(axis=1, keepdims=True)
    for role in {role for _, role, _ in taken}:
        own = [place for place, one in enumerate(taken) if one[1] == role]
        rows[own] /= np.sqrt((rows[own] ** 2).sum(axis=1).mean())
    left, values, right = np.linalg.svd(rows, full_matrices=False)
    used = int((values**2 > 1e-8 * values[0] ** 2).sum())
    half = (used + 1) // 2
    if half < 8:
        return None
    quiet, directions = left[:, used - half : used], right[used - half : used]
    signs = [np.frombuffer(digest[label][16:], np.uint8) for label, *_ in taken]
    signs = 1.0 - 2.0 * np.unpackbits(np.stack(signs), axis=1, bitorder="little")
    found: Array = directions.T @ (quiet.T @ signs)
    return found


def spread(blocks: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Rule 19's blocks."""
    count = min(len(blocks), 8)
    return [blocks[i * (len(blocks) - 1) // (count - 1)] for i in range(count)]


def looks(stem: str, arrays: dict[str, Array], *, gated: bool) -> list[Array]:
    """The rows of rules 19 and 20: a unit each."""
    first, second = ("ffn_gate", "ffn_up") if gated else ("ffn_up", "ffn_down")
    norm = f"{stem}ffn_norm.weight"
    gain = arrays[norm if norm in arrays else f"{stem}attn_norm.weight"]
    rows = [arrays[f"{stem}{first}.weight"] * gain, arrays[f"{stem}{second}.weight"]]
    rows[1] = rows[1] * gain if gated else rows[1].T
    if is_centred(arrays):
        rows = [one - one.mean(axis=1, keepdims=True) for one in rows]
    norms, others = (np.linalg.norm(one, axis=1) for one in rows)
    alive = [unit for unit in range(len(norms)) if norms[unit] > 0 and others[unit] > 0]
    norms = norms if gated else norms * others
    taken = sorted(sorted(alive, key=lambda unit: -norms[unit])[:128])
    return [one[taken] for one in rows]
