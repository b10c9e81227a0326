"""Transformers by hand: one model as parts, disguised as such, then written as a dialect names it.

A model is a table of parts in float64. Of what is read or written the stream is the last axis:

    embed (tokens, width) · head (tokens, width) · norm (width) · norm.bias
    N.q (heads, size, width) · N.k N.v (groups, size, width) · N.o (heads, size, width)
    N.q.bias (heads, size) ... · N.o.bias (width)
    N.up N.gate N.down (units, width) · N.up.bias (units) · N.down.bias (width)
    N.q_norm N.k_norm (size), or (heads, size) and (groups, size)
    N.attn_norm N.mlp_norm (width), with .bias · N.after_attn N.after_mlp: of what was computed

`N` is the number of a layer.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from architectures_by_hand import Dialect
from makers import Array

Parts = dict[str, Array]

WIDTH, UNITS, SIZE, LAYERS, TOKENS = 48, 96, 12, 3, 160


def drawn(kind: Dialect, seed: int) -> Parts:
    """Draw a model."""
    draw = np.random.default_rng([seed, 77])

    def matrix(*shape: int) -> Array:
        return draw.normal(0, 0.05, shape)

    def gain() -> Array:
        return draw.uniform(0.5, 1.5, WIDTH)

    parts = {"embed": matrix(TOKENS, WIDTH), "norm": gain()}
    if not kind.is_tied:
        parts["head"] = matrix(TOKENS, WIDTH)
    for n in map(str, range(LAYERS)):
        parts |= {
            f"{n}.q": matrix(kind.heads, SIZE, WIDTH),
            f"{n}.k": matrix(kind.groups, SIZE, WIDTH),
            f"{n}.v": matrix(kind.groups, SIZE, WIDTH),
            f"{n}.o": matrix(kind.heads, SIZE, WIDTH),
            f"{n}.up": matrix(UNITS, WIDTH),
            f"{n}.down": matrix(UNITS, WIDTH),
            f"{n}.attn_norm": gain(),
        }
        if kind.is_gated:
            parts[f"{n}.gate"] = matrix(UNITS, WIDTH)
        if not kind.has_one_norm:
            parts[f"{n}.mlp_norm"] = gain()
        if kind.has_after:
            parts |= {f"{n}.after_attn": gain(), f"{n}.after_mlp": gain()}
        for one, count in (("q_norm", kind.heads), ("k_norm", kind.groups)):
            if kind.norms_in_heads:
                shape = (SIZE,) if kind.norms_in_heads == "each" else (count, SIZE)
                parts[f"{n}.{one}"] = draw.uniform(0.5, 1.5, shape)
    if kind.is_centred:
        for name in list(parts):
            if name in ("embed", "head"):
                continue
            last = name.rsplit(".", 1)[-1]
            shape = parts[name].shape[:-1] if last in ("q", "k", "v", "up", "gate") else (WIDTH,)
            parts[f"{name}.bias"] = matrix(*shape)
    return parts


READERS = {
    "attn_norm": ("q", "k", "v"),
    "mlp_norm": ("up", "gate"),
}
WRITERS = ("embed", "o", "down", "o.bias", "down.bias")


def role(name: str) -> str:
    return name.split(".", 1)[1] if name[0].isdigit() else name


def layers(parts: Parts) -> list[str]:
    return sorted({name.split(".")[0] for name in parts if name[0].isdigit()}, key=int)


def folded(parts: Parts) -> Parts:
    """Multiply gains into what reads behind them."""
    parts = dict(parts)

    def fold(norm: str, readers: tuple[str, ...]) -> None:
        gain, bias = parts[norm], parts.get(f"{norm}.bias")
        for one in readers:
            if one in parts:
                if bias is not None:
                    parts[f"{one}.bias"] = parts[f"{one}.bias"] + parts[one] @ bias
                parts[one] = parts[one] * gain
        parts[norm] = np.ones(WIDTH)
        if bias is not None:
            parts[f"{norm}.bias"] = np.zeros(WIDTH)

    for n in layers(parts):
        shared = f"{n}.mlp_norm" not in parts
        for norm, readers in READERS.items():
            if f"{n}.{norm}" not in parts:
                continue
            both = (*readers, *READERS["mlp_norm"]) if shared else readers
            fold(f"{n}.{norm}", tuple(f"{n}.{one}" for one in both))
    return parts


def rotated(parts: Parts, kind: Dialect, draw: np.random.Generator) -> Parts:
    """Fold the gains of all norms and turn the stream; the last norm keeps its bias out of it."""
    parts = folded(parts)
    turn = np.linalg.qr(draw.normal(size=(WIDTH, WIDTH)))[0]
    if kind.is_centred:  # the mean must stay where it is
        ones = np.full((WIDTH, 1), WIDTH**-0.5)
        basis = np.linalg.qr(np.column_stack([ones, draw.normal(size=(WIDTH, WIDTH - 1))]))[0]
        inner = np.linalg.qr(draw.normal(size=(WIDTH - 1, WIDTH - 1)))[0]
        whole = np.eye(WIDTH)
        whole[1:, 1:] = inner
        turn = basis @ whole @ basis.T
        for name in parts:
            if role(name) in WRITERS:
                parts[name] = parts[name] - parts[name].mean(axis=-1, keepdims=True)
    parts["head"] = parts["head"] * parts["norm"]
    parts["norm"] = np.ones(WIDTH)
    if "norm.bias" in parts:
        parts["norm.bias"] = np.zeros(WIDTH)  # a constant of the answers, of which there is no part
    for name, values in parts.items():
        if role(name) in (*WRITERS, "head", "q", "k", "v", "up", "gate"):
            parts[name] = values @ turn
    return parts


def permuted(parts: Parts, kind: Dialect, draw: np.random.Generator) -> Parts:
    """Change the order of the stream's coordinates, and where the mean stays so their signs."""
    order = draw.permutation(WIDTH)
    sign = np.ones(WIDTH) if kind.is_centred else draw.choice([-1.0, 1.0], WIDTH)
    found = dict(parts)
    for name, values in parts.items():
        if values.shape[-1] == WIDTH and not name.endswith(("q.bias", "k.bias", "v.bias")):
            is_norm = "norm" in name or "after" in name
            found[name] = values[..., order] * (1.0 if is_norm else sign)
    return found


def units_moved(parts: Parts, kind: Dialect, draw: np.random.Generator) -> Parts:
    """Change the order of units; behind gates multiply what they read."""
    parts = dict(parts)
    for n in layers(parts):
        order = draw.permutation(UNITS)
        by = np.exp(draw.normal(0, 0.5, UNITS)) if kind.is_gated else np.ones(UNITS)
        for one in ("up", "gate", "down", "up.bias", "gate.bias"):
            if f"{n}.{one}" in parts:
                parts[f"{n}.{one}"] = parts[f"{n}.{one}"][order]
        parts[f"{n}.up"] = parts[f"{n}.up"] * by[:, None]
        parts[f"{n}.down"] = parts[f"{n}.down"] / by[:, None]
        if f"{n}.up.bias" in parts:
            parts[f"{n}.up.bias"] = parts[f"{n}.up.bias"] * by
    return parts


def heads_permuted(parts: Parts, kind: Dialect, draw: np.random.Generator) -> Parts:
    """Change the order of groups, and of the heads in each."""
    parts = dict(parts)
    each = kind.heads // kind.groups
    for n in layers(parts):
        groups = draw.permutation(kind.groups)
        heads = np.concatenate([g * each + draw.permutation(each) for g in groups])
        for one, order in (("q", heads), ("k", groups), ("v", groups), ("o", heads)):
            parts[f"{n}.{one}"] = parts[f"{n}.{one}"][order]
            if kind.norms_in_heads == "all" and f"{n}.{one}_norm" in parts:
                parts[f"{n}.{one}_norm"] = parts[f"{n}.{one}_norm"][order]
            if one != "o" and f"{n}.{one}.bias" in parts:
                parts[f"{n}.{one}.bias"] = parts[f"{n}.{one}.bias"][order]
    return parts


def values_turned(parts: Parts, kind: Dialect, draw: np.random.Generator) -> Parts:
    """Put any map between values and output, of each group of heads its own."""
    parts = {name: values.copy() for name, values in parts.items()}
    each = kind.heads // kind.groups
    for n in layers(parts):
        for g in range(kind.groups):
            turn = np.linalg.qr(draw.normal(size=(SIZE, SIZE)))[0]
            turn = turn @ np.diag(draw.uniform(0.5, 2, SIZE))
            parts[f"{n}.v"][g] = turn @ parts[f"{n}.v"][g]
            if f"{n}.v.bias" in parts:
                parts[f"{n}.v.bias"][g] = turn @ parts[f"{n}.v.bias"][g]
            for h in range(g * each, (g + 1) * each):
                parts[f"{n}.o"][h] = np.linalg.inv(turn).T @ parts[f"{n}.o"][h]
    return parts


def queries_turned(parts: Parts, kind: Dialect, draw: np.random.Generator) -> Parts:
    """Turn queries and keys as rotary embeddings allow: each pair of coordinates together."""
    parts = {name: values.copy() for name, values in parts.items()}
    each, half = kind.heads // kind.groups, SIZE // 2

    def on_pairs(rows: Array, by: Array) -> Array:
        flat = rows.reshape(SIZE, -1)
        both = (flat[:half] + 1j * flat[half:]) * by[:, None]
        return np.concatenate([both.real, both.imag]).reshape(rows.shape)

    for n in layers(parts):
        for g in range(kind.groups):
            by = np.exp(draw.normal(0, 0.3, half) + 1j * draw.uniform(0, 6, half))
            for one, at, factor in (
                ("k", [g], 1 / by.conj()), ("q", range(g * each, (g + 1) * each), by)
            ):  # fmt: skip
                for h in at:
                    for name in (f"{n}.{one}", f"{n}.{one}.bias"):
                        if name in parts:
                            parts[name][h] = on_pairs(parts[name][h], factor)
    return parts


def shifted(parts: Parts, kind: Dialect, draw: np.random.Generator) -> Parts:
    """Add an amount to all coordinates of each row of what is written."""
    del kind
    return {
        name: values + 3 * values.std() * draw.normal(size=(*values.shape[:-1], 1))
        if role(name) in WRITERS
        else values
        for name, values in parts.items()
    }


Disguise = Callable[[Parts, Dialect, np.random.Generator], Parts]

DISGUISES: dict[str, Disguise] = {
    "units": units_moved,
    "heads": heads_permuted,
    "values": values_turned,
    "queries": queries_turned,
    "permuted": permuted,
    "rotated": rotated,
    "shifted": shifted,
}


def hidden(parts: Parts, kind: Dialect, seed: int, *names: str) -> Parts:
    """Wear some disguises, one after the other."""
    for name in names:
        parts = DISGUISES[name](parts, kind, np.random.default_rng([seed, len(name)]))
    return parts


def tuned(parts: Parts, size: float, seed: int) -> Parts:
    """Add noise, as a fine-tune would."""
    draw = np.random.default_rng([seed, 2])
    return {n: v + size * np.std(v) * draw.normal(size=v.shape) for n, v in parts.items()}


def written(parts: Parts, kind: Dialect) -> dict[str, Array]:
    """Return the tensors as the architecture names and stores them."""
    made: dict[str, Array] = {}
    for template, name in kind.names.items():
        for n in layers(parts) if "#" in template else [""]:
            part = template.replace("#", n)
            if (values := _values(parts, kind, part)) is not None:
                made[name.replace("#", n)] = np.ascontiguousarray(values, np.float32)
    return made


def _values(parts: Parts, kind: Dialect, part: str) -> Array | None:
    n, _, what = part.partition(".") if part[0].isdigit() else ("", "", part)
    stem, is_bias = what.removesuffix(".bias"), what.endswith(".bias")
    end = ".bias" if is_bias else ""
    if stem == "qkv":
        three = [parts.get(f"{n}.{one}{end}") for one in "qkv"]
        if three[0] is None or three[1] is None or three[2] is None:
            return None
        q, k, v = (one.reshape(-1, *one.shape[2:]) for one in three if one is not None)
        if kind.fused == "by head":
            cut = [one.reshape(kind.groups, -1, *one.shape[1:]) for one in (q, k, v)]
            values = np.concatenate(cut, axis=1).reshape(-1, *q.shape[1:])
        else:
            values = np.concatenate([q, k, v])
    elif stem == "halves":
        values = np.concatenate([parts[f"{n}.gate"], parts[f"{n}.up"]])
    else:
        found = parts.get(part)
        if found is None:
            return None
        values = found
        if stem in ("q", "k", "v") or (stem == "o" and not is_bias):
            values = values.reshape(-1, *values.shape[2:])
        if stem in ("q_norm", "k_norm"):
            values = values.reshape(-1)
        if ("norm" in stem or stem.startswith("after")) and not is_bias and kind.adds_one:
            values = values - 1
    if not is_bias and n and values.ndim == 2:
        writes = stem in ("o", "down")
        return values.T if writes != kind.is_turned else values
    return values
