"""LoRA: a product of two factors, with what DoRA, biases, embeddings and convolutions add.

Sources: `LoraLayer.get_delta_weight` of peft (linear, convolution, embedding), `LoConModule` of
LyCORIS (with a core between the factors), Liu et al. (2024) for DoRA's magnitudes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from lineage.adapters.base import Change
from lineage.adapters.matrices import Product
from lineage.adapters.names import extents_of, modules_of
from lineage.adapters.vectors import vector

if TYPE_CHECKING:
    from lineage.adapters.base import Group, Matrix, Scaling
    from lineage.adapters.tensors import Stored

ROLES = {
    r"\.lora_A(?:\.\w+)?\.weight": "A", r"\.lora_B(?:\.\w+)?\.weight": "B",
    r"\.lora_A": "A", r"\.lora_B": "B",
    r"\.weight\.lora_a": "A", r"\.weight\.lora_b": "B",
    r"\.lora_B(?:\.\w+)?\.bias": "bias",
    r"\.lora_embedding_A(?:\.\w+)?": "rows", r"\.lora_embedding_B(?:\.\w+)?": "cols",
    r"\.lora_magnitude_vector(?:\.\w+)?(?:\.weight)?": "magnitude",
    r"\.lora_down\.weight": "A", r"\.lora_up\.weight": "B", r"\.lora_mid\.weight": "mid",
    r"\.dora_scale": "magnitude",
    r"(?:\.lora|\.lora_linear_layer)\.down\.weight": "A",
    r"(?:\.lora|\.lora_linear_layer)\.up\.weight": "B",
    r"(?<=_lora)\.down\.weight": "A", r"(?<=_lora)\.up\.weight": "B",
    r"(?<=_lora[12])\.down\.weight": "A", r"(?<=_lora[12])\.up\.weight": "B",
}  # fmt: skip
"""What the name of a tensor ends in -> what it is to its module. `rows` and `cols` are the factors
of an embedding, whose weight has a token a row."""

PAIRS = (("A", "B"), ("B", "A"), ("rows", "cols"), ("cols", "rows"))
"""What must not be there without the other."""


def changes(group: Group, scaling: Scaling) -> Iterator[Change]:
    """Yield what a module's factors change.

    Raises:
        FormatError: If a factor is missing, or the shapes do not go together.
    """
    of = group.tensors
    for here, there in PAIRS:
        if here in of and there not in of:
            kind = "embedding_" if here in {"rows", "cols"} else ""
            letter = {"A": "B", "B": "A", "rows": "B", "cols": "A"}[here]
            raise of[here].fail(f"it has no lora_{kind}{letter} beside it")
    if "rows" in of:
        yield from _embedding(group, scaling)
    elif "A" in of:
        yield from _product(group, scaling)
    elif extra := next((of[role] for role in ("mid", "bias") if role in of), None):
        raise extra.fail("it has no factors beside it")


def _product(group: Group, scaling: Scaling) -> Iterator[Change]:
    down, up, mid = group.tensors["A"], group.tensors["B"], group.tensors.get("mid")
    rank = _common_rank(down, up)
    cols = prod(down.shape[1:])
    if mid is not None:
        if len(mid.shape) < 2 or mid.shape[:2] != (rank, rank):
            raise mid.fail(
                f"the shape {list(mid.shape)} does not go between factors of rank {rank}"
            )
        if prod(down.shape[2:]) != 1:
            raise down.fail("it has a kernel, and so has the core between the factors")
        cols *= prod(mid.shape[2:])
    rows = up.shape[0]
    scale = scaling.of(group, rank, tensor=down.name)
    turned = scaling.said(group, "fan_in_fan_out") is True
    names = modules_of(group.module)
    extents = extents_of(len(names), rows, cols)
    if extents is None:
        raise up.fail(f"{rows} rows are not those of the {len(names)} tensors it stands for")
    start = 0
    for name, extent in zip(names, extents, strict=True):
        load = partial(_loaded, down, up, mid, scale, start, start + extent)
        yield Change(f"{name}.weight", "delta", (extent, cols), rank, load, turned)
        start += extent
    yield from _beside(group, scaling, rows, cols, scale)


def _loaded(
    down: Stored, up: Stored, mid: Stored | None, scale: float, start: int, stop: int
) -> Matrix:
    left, right = up.matrix()[start:stop], down.matrix()
    if mid is not None:
        right = np.einsum("pqk,qi->pik", mid.values().reshape(*mid.shape[:2], -1), right)
        right = right.reshape(right.shape[0], -1)
    return Product(left, right, scale)


def _common_rank(down: Stored, up: Stored) -> int:
    for one in (down, up):
        if len(one.shape) < 2 or 0 in one.shape:
            raise one.fail(f"the shape {list(one.shape)} is not that of a factor")
    if up.shape[1] != down.shape[0] or prod(up.shape[2:]) != 1:
        reason = f"the shape {list(up.shape)} does not fit a rank of {down.shape[0]}, which"
        raise up.fail(f"{reason} '{down.name}' has")
    return down.shape[0]


def _beside(group: Group, scaling: Scaling, rows: int, cols: int, scale: float) -> Iterator[Change]:
    """Yield a bias and magnitudes; of a fused module they too are those of several."""
    bias, magnitude = group.tensors.get("bias"), group.tensors.get("magnitude")
    names = modules_of(group.module)
    asked = scaling.said(group, "lora_bias")
    if asked is not None and asked != (bias is not None):
        stored = group.tensors["A"] if bias is None else bias
        reason = f"the configuration says lora_bias is {str(asked).lower()}"
        raise stored.fail(f"{reason}, and it has {'no' if bias is None else 'a'} bias beside it")
    if bias is not None:
        yield from vector(bias, names, "bias", "delta", (rows,), cols, scale)
    if magnitude is not None:
        if scaling.said(group, "use_dora") is False:
            raise magnitude.fail("a magnitude, but the configuration says use_dora is false")
        along = (rows,) if prod(magnitude.shape) == rows else (cols,)
        yield from vector(magnitude, names, "weight", "magnitude", along, cols)
    elif scaling.said(group, "use_dora") is True:
        reason = "the configuration says use_dora, but it has no lora_magnitude_vector beside it"
        raise group.tensors["A"].fail(reason)


def _embedding(group: Group, scaling: Scaling) -> Iterator[Change]:
    """An embedding's factors: (rank, tokens) and (width, rank)."""
    tokens, width = group.tensors["rows"], group.tensors["cols"]
    rank = _common_rank(tokens, width)
    scale = scaling.of(group, rank, tensor=tokens.name)
    name = tokens.sole(group.module)

    def load() -> Matrix:
        return Product(tokens.matrix().T, width.matrix().T, scale)

    shape = tokens.shape[1], width.shape[0]
    yield Change(f"{name}.weight", "delta", shape, rank, load)
    magnitude = group.tensors.get("magnitude")
    if magnitude is not None:
        along = (prod(magnitude.shape),)
        yield from vector(magnitude, (name,), "weight", "magnitude", along, 0)
