"""An alignment as a file: anyone can apply it again and see the weights coincide.

A safetensors file. Its metadata has one entry, `lineage`: RFC 8785 JSON with `_type`, the exact
roots of both models, and for every block of b the block of a it is, or of networks without a
stream what was found of each group of channels. Its tensors are the maps.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from lineage import canonical
from lineage.alignment.base import (
    EPSILON,
    Aligned,
    Alignment,
    BlockMatch,
    ChainAlignment,
    Group,
    MlpMatch,
)
from lineage.alignment.head_rows import Heads
from lineage.alignment.misfits import is_order, misfits
from lineage.alignment.neurons import Units
from lineage.alignment.turning import Turn
from lineage.errors import FormatError, VerificationError
from lineage.fingerprints.agreement import Agreement
from lineage.fingerprints.fused import WAYS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lineage.alignment.chain import Chain
    from lineage.fingerprints.stream import Stream

__all__ = ["TYPE", "check", "from_bytes", "to_bytes"]

TYPE = "urn:model-lineage:alignment:v1"

_ORDERS, _MAPS = ("inner", "outer"), ("inside", "values")
"""Of heads: what is stored as numbers of blocks, and what as matrices."""


def to_bytes(found: Aligned, root_a: str, root_b: str) -> bytes:
    """Return the stored form.

    Args:
        found: The alignment.
        root_a: Exact identity of the model whose coordinates are taken.
        root_b: Of the one that is written in them.
    """
    from safetensors.numpy import save

    arrays: dict[str, NDArray[Any]] = {}
    if isinstance(found, ChainAlignment):
        body = _chain(found, arrays)
    elif isinstance(found, Alignment):
        body = _of_stream(found, arrays)
    else:
        raise TypeError(f"is no alignment: {type(found).__name__}")
    head = {"_type": TYPE, "a": root_a, "b": root_b, **body}
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return bytes(save(plain, {"lineage": canonical.dumps(head).decode()}))


def from_bytes(data: bytes, root_a: str, root_b: str, *, file: object = None) -> Aligned:
    """Read an alignment of two models.

    Raises:
        FormatError: If the bytes are none.
        VerificationError: If it is of other models.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(data)
        size = int.from_bytes(data[:8], "little")
        head = canonical.loads(json.loads(data[8 : 8 + size])["__metadata__"]["lineage"].encode())
        if not isinstance(head, dict) or head.get("_type") != TYPE:
            raise FormatError("is no alignment", file=file)
        if (head["a"], head["b"]) != (root_a, root_b):
            raise VerificationError("the alignment is of two other models")
        return _read_chain(head, arrays) if "groups" in head else _read_stream(head, arrays)
    except (SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
        raise FormatError(f"is no alignment ({type(error).__name__})", file=file) from error


def check(found: Aligned, a: Stream | Chain, b: Stream | Chain, *, file: object = None) -> None:
    """Hold an alignment from elsewhere against the two models it is applied to.

    Raises:
        FormatError: If its maps are not of their sizes.
    """
    reason = next(misfits(found, a, b), None)
    if reason is not None:
        raise FormatError(f"is no alignment of these models: {reason}", file=file)


def _chain(found: ChainAlignment, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    rows = []
    for i, group in enumerate(found.groups):
        arrays[f"group.{i}.order"] = group.order.astype(np.int64)
        if group.scales is not None:
            arrays[f"group.{i}.scales"] = group.scales
        if group.turn is not None:
            arrays[f"group.{i}.turn"] = group.turn
        row: dict[str, Any] = {
            "name": group.name,
            "found": group.is_found,
            "values": str(group.values),
            **({"tokens": True} if group.of_tokens else {}),
        }
        rows.append(row | _agreement(group.agreement))
    gates = None if found.gates is None else list(found.gates)
    for place, before in found.before.items():
        arrays[f"layer.{place}.before"] = before
    if found.tokens is not None:
        arrays["tokens"] = found.tokens.astype(np.int64)
    return {
        **({} if found.candidate is None else {"candidate": found.candidate}),
        **({"epsilon": found.epsilon.hex()} if found.before or found.epsilon != EPSILON else {}),
        "folded": found.is_folded,
        "gates": gates,
        "groups": rows,
        "last": found.is_last,
        **({"swapped": True} if found.is_swapped else {}),
    }


def _read_chain(head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> ChainAlignment:
    groups, total = [], Agreement(0, 0, 0.0)
    for i, row in enumerate(head["groups"]):
        order = arrays[f"group.{i}.order"].astype(np.intp)
        scales, turn = arrays.get(f"group.{i}.scales"), arrays.get(f"group.{i}.turn")
        if not np.array_equal(np.sort(order), np.arange(len(order))):
            raise ValueError("an order is none")
        if scales is not None and (scales.shape != order.shape or not np.all(scales != 0)):
            raise ValueError("channels and their scales are not as many")
        if turn is not None and turn.shape != (len(order), len(order)):
            raise ValueError("a turn has another width than its channels")
        seen, of_tokens = _read_agreement(row), row.get("tokens") is True
        total += Agreement(0, 0, 0.0) if of_tokens else seen
        is_found, values = bool(row["found"]), int(row["values"])
        name = str(row["name"])
        groups.append(Group(name, order, scales, seen, values, is_found, turn, of_tokens))
    gates = None if head["gates"] is None else tuple(int(one) for one in head["gates"])
    if gates is not None and sorted(gates) != list(range(len(gates))):
        raise ValueError("the order of gates is none")
    candidate = None if head.get("candidate") is None else int(head["candidate"])
    tokens = arrays.get("tokens")
    before = {
        int(name.split(".")[1]): array
        for name, array in arrays.items()
        if name.startswith("layer.")
    }
    epsilon = float.fromhex(head["epsilon"]) if before or "epsilon" in head else EPSILON
    if not 0 <= epsilon < 1:
        raise ValueError("what is added to variances is none")
    return ChainAlignment(
        tuple(groups),
        gates,
        total,
        bool(head["last"]),
        bool(head["folded"]),
        before,
        epsilon,
        candidate,
        None if tokens is None else tokens.astype(np.intp),
        is_swapped=head.get("swapped") is True,
    )


def _agreement(seen: Agreement) -> dict[str, Any]:
    return {"agreed": seen.agreed, "expected": seen.expected.hex(), "looked": seen.looked}


def _read_agreement(row: Mapping[str, Any]) -> Agreement:
    return Agreement(int(row["agreed"]), int(row["looked"]), float.fromhex(row["expected"]))


def _of_stream(found: Alignment, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    if found.turn.order is not None and found.turn.signs is not None:
        arrays["turn.order"] = found.turn.order.astype(np.int64)
        arrays["turn.signs"] = found.turn.signs.astype(np.int8)
    else:
        arrays["turn.matrix"] = found.turn.matrix
    if found.tokens is not None:
        arrays["tokens"] = found.tokens.astype(np.int64)
    rows = [_block(found.blocks[i], f"block.{i}", arrays) for i in range(len(found.blocks))]
    return {
        "blocks": rows,
        "scale": found.scale.hex(),
        **({"shifted": True} if found.is_shifted else {}),
        "turn": {
            "kind": found.turn.kind,
            "rank": found.turn.rank,
            "width": found.turn.matrix.shape[1],
        },
        "tried": found.tried,
    }


def _read_stream(head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Alignment:
    blocks = tuple(_match(row, f"block.{i}", arrays) for i, row in enumerate(head["blocks"]))
    total = best = Agreement(0, 0, 0.0)
    for block in blocks:
        for mlp in block.mlps:
            total += mlp.agreement
            best = min(best, mlp.agreement, key=lambda one: one.log10_p)
    scale = float.fromhex(head["scale"])
    tokens = arrays.get("tokens")
    order = None if tokens is None else tokens.astype(np.intp)
    turn = _turn(head["turn"], arrays)
    tried, is_shifted = int(head["tried"]), head.get("shifted") is True
    return Alignment(turn, scale, blocks, total, best, tried, order, is_shifted)


def _block(block: BlockMatch, name: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    for mlp in block.mlps:
        stem = f"{name}.mlp.{mlp.b}"
        arrays[f"{stem}.a"] = mlp.units.a.astype(np.int64)
        arrays[f"{stem}.b"] = mlp.units.b.astype(np.int64)
        if mlp.units.scales is not None:
            arrays[f"{stem}.scales"] = mlp.units.scales
    heads = block.heads
    for part in (*_ORDERS, *_MAPS):
        array = None if heads is None else getattr(heads, part)
        if array is not None:
            arrays[f"{name}.heads.{part}"] = array.astype(np.int64) if part in _ORDERS else array
    return {
        "a": None if block.a is None else list(block.a),
        "b": list(block.b),
        "heads": None if heads is None else _heads_row(heads),
        "mlps": [_mlp(mlp) for mlp in block.mlps],
        "values": str(block.values),
    }


def _heads_row(heads: Heads) -> dict[str, Any]:
    way = {} if heads.way is None else {"way": heads.way}
    return {"kind": heads.kind, "size": heads.size, **way}


def _mlp(mlp: MlpMatch) -> dict[str, Any]:
    seen = mlp.agreement
    return {
        "a": mlp.a,
        "b": mlp.b,
        **_agreement(seen),
        "likeness": mlp.units.likeness.hex(),
    }


def _match(row: Mapping[str, Any], name: str, arrays: Mapping[str, NDArray[Any]]) -> BlockMatch:
    mlps = []
    for one in row["mlps"]:
        stem = f"{name}.mlp.{one['b']}"
        scales = arrays.get(f"{stem}.scales")
        at_a, at_b = arrays[f"{stem}.a"], arrays[f"{stem}.b"]
        if len(at_a) != len(at_b) or (scales is not None and len(scales) != len(at_a)):
            raise ValueError("units and their partners are not as many")
        units = Units(
            at_a.astype(np.intp),
            at_b.astype(np.intp),
            scales,
            float.fromhex(one["likeness"]),
            1.0,
            1.0,
        )
        seen = _read_agreement(one)
        mlps.append(MlpMatch(one["b"], one["a"], seen, units))
    heads = None
    if row["heads"] is not None:
        heads = _heads(row["heads"], f"{name}.heads", arrays)
    where = None if row["a"] is None else (str(row["a"][0]), int(row["a"][1]))
    own = (str(row["b"][0]), int(row["b"][1]))
    return BlockMatch(own, where, tuple(mlps), heads, int(row["values"]))


def _heads(row: Mapping[str, Any], name: str, arrays: Mapping[str, NDArray[Any]]) -> Heads:
    """Read how heads were moved and mapped."""
    orders, maps = ([arrays.get(f"{name}.{part}") for part in parts] for parts in (_ORDERS, _MAPS))
    inner, outer = (None if one is None else one.astype(np.intp) for one in orders)
    if (inner is None) != (outer is None) or (maps[0] is None) != (maps[1] is None):
        raise ValueError("of heads a part is missing")
    if inner is not None and outer is not None:
        if not (is_order(inner, len(inner)) and is_order(outer, len(outer)) and len(inner)):
            raise ValueError("an order of heads is none")
        if len(outer) % len(inner):
            raise ValueError("heads of queries and of keys do not go together")
    for one in maps:
        if one is not None and (
            inner is None or one.ndim != 3 or one.shape[1] != one.shape[2] or len(one) != len(inner)
        ):
            raise ValueError("maps are not as many as heads")
    inside, values = maps
    size, way = row["size"], row.get("way")
    if way is not None and (way not in WAYS or not isinstance(size, int) or size < 1):
        raise ValueError("how one matrix holds heads is not known")
    return Heads(str(row["kind"]), inner, outer, inside, values, size, way)


def _turn(row: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Turn:
    width = int(row["width"])
    if "turn.matrix" in arrays:
        matrix = arrays["turn.matrix"].astype(np.float32)
        if matrix.ndim != 2 or matrix.shape[1] != width:
            raise ValueError("the turn has another width")
        return Turn(matrix, 1.0, str(row["kind"]), None, None, int(row["rank"]), None)
    order, signs = arrays["turn.order"].astype(np.intp), arrays["turn.signs"].astype(np.float64)
    matrix = np.zeros((len(order), width), np.float32)
    matrix[np.arange(len(order)), order] = signs
    return Turn(matrix, 1.0, str(row["kind"]), order, signs, int(row["rank"]), None)
