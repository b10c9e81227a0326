"""LoHa: the entries of two products of low rank, multiplied with each other.

Sources: Hyeon-Woo, Ye-Bin and Oh (2022); `LohaModule` of LyCORIS, `LoHaLayer` of peft.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from lineage.adapters.base import Change
from lineage.adapters.matrices import Hadamard, Product
from lineage.adapters.names import extents_of, modules_of
from lineage.adapters.vectors import vector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lineage.adapters.base import Group, Matrix, Scaling
    from lineage.adapters.tensors import Stored

ROLES = {
    **{rf"\.hada_w{n}_{half}(?:\.\w+)?": f"w{n}_{half}" for n in (1, 2) for half in "ab"},
    **{rf"\.hada_t{n}(?:\.\w+)?": f"t{n}" for n in (1, 2)},
}
_OWN = frozenset(ROLES.values())
NEEDED = ("w1_a", "w1_b", "w2_a", "w2_b")


def changes(group: Group, scaling: Scaling) -> Iterator[Change]:
    """Yield what a module's factors change.

    Raises:
        FormatError: If a factor is missing, or the shapes do not go together.
    """
    of = group.tensors
    present = next((of[role] for role in of if role in _OWN), None)
    if present is None:
        return
    for role in NEEDED:
        if role not in of:
            raise present.fail(f"it has no hada_{role} beside it")
    if ("t1" in of) != ("t2" in of):
        raise present.fail("it has one of hada_t1 and hada_t2, not both")
    shapes = {_shape(of, n) for n in (1, 2)}
    if len(shapes) > 1:
        raise present.fail(f"its two products have the shapes {sorted(shapes)}")
    ((rows, cols),) = shapes
    rank = of["w1_b"].shape[0]
    scale = scaling.of(group, rank, tensor=of["w1_b"].name)
    names = modules_of(group.module)
    extents = extents_of(len(names), rows, cols)
    if extents is None:
        raise present.fail(f"{rows} rows are not those of the {len(names)} tensors it stands for")
    start = 0
    for name, extent in zip(names, extents, strict=True):
        load = partial(_loaded, group, scale, start, start + extent)
        yield Change(f"{name}.weight", "delta", (extent, cols), rank, load)
        start += extent
    if "magnitude" in of:
        along = (rows,) if prod(of["magnitude"].shape) == rows else (cols,)
        yield from vector(of["magnitude"], names, "weight", "magnitude", along, cols)


def _shape(of: Mapping[str, Stored], n: int) -> tuple[int, int]:
    one, other, core = of[f"w{n}_a"], of[f"w{n}_b"], of.get(f"t{n}")
    for factor in (one, other):
        if len(factor.shape) != 2 or 0 in factor.shape:
            raise factor.fail(f"the shape {list(factor.shape)} is not that of a factor")
    if core is None:
        if one.shape[1] != other.shape[0]:
            reason = f"the shape {list(one.shape)} does not fit a rank of {other.shape[0]}, which"
            raise one.fail(f"{reason} '{other.name}' has")
        return one.shape[0], other.shape[1]
    if len(core.shape) < 2 or core.shape[:2] != (one.shape[0], other.shape[0]):
        reason = f"the shape {list(core.shape)} does not go between factors of ranks"
        raise core.fail(f"{reason} {one.shape[0]} and {other.shape[0]}")
    return one.shape[1], other.shape[1] * prod(core.shape[2:])


def _loaded(group: Group, scale: float, start: int, stop: int) -> Matrix:
    products = []
    for n in (1, 2):
        one, other = (group.tensors[f"w{n}_{half}"].values() for half in "ab")
        core = group.tensors.get(f"t{n}")
        if core is not None:
            one = one.T
            kernel = core.values().reshape(*core.shape[:2], -1)
            other = np.einsum("ijk,jr->irk", kernel, other).reshape(core.shape[0], -1)
        products.append(Product(one[start:stop], other, scale if n == 1 else 1.0))
    return Hadamard(*products)
