"""LoKr: the Kronecker product of two matrices, either of which may be a product of low rank.

Sources: `LokrModule` of LyCORIS, `LoKrLayer` of peft.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from lineage.adapters.base import Change
from lineage.adapters.matrices import Kronecker
from lineage.adapters.vectors import vector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lineage.adapters.base import Group, Matrix, Scaling
    from lineage.adapters.tensors import Stored

ROLES = {
    **{rf"\.lokr_w{n}(?:\.(?!weight)\w+)?": f"w{n}" for n in (1, 2)},
    **{rf"\.lokr_w{n}_{half}(?:\.\w+)?": f"w{n}_{half}" for n in (1, 2) for half in "ab"},
    r"\.lokr_t2(?:\.\w+)?": "t2",
}
_OWN = frozenset(ROLES.values())


def changes(group: Group, scaling: Scaling) -> Iterator[Change]:
    """Yield what a module's factors change.

    Raises:
        FormatError: If a factor is missing, or the shapes do not go together.
    """
    of = group.tensors
    present = next((of[role] for role in of if role in _OWN), None)
    if present is None:
        return
    one, other = _shape(of, 1, present), _shape(of, 2, present)
    if len(one) != 2:
        raise present.fail("the first of its factors has a kernel")
    name = present.sole(group.module)
    rows, cols = one[0] * other[0], one[1] * prod(other[1:])
    ranks = [of[role].shape[0] for role in ("w1_b", "w2_b") if role in of]
    # LyCORIS sets alpha to the rank where no factor is of low rank; peft scales all the same.
    scale = scaling.of(group, min(ranks, default=None), tensor=present.name)
    load = partial(_loaded, of, scale)
    yield Change(f"{name}.weight", "delta", (rows, cols), min(ranks, default=None), load)
    if "magnitude" in of:
        along = (rows,) if prod(of["magnitude"].shape) == rows else (cols,)
        yield from vector(of["magnitude"], (name,), "weight", "magnitude", along, cols)


def _shape(of: Mapping[str, Stored], n: int, present: Stored) -> tuple[int, ...]:
    if f"w{n}" in of:
        whole = of[f"w{n}"]
        if len(whole.shape) < 2 or 0 in whole.shape:
            raise whole.fail(f"the shape {list(whole.shape)} is not that of a factor")
        return whole.shape
    for half in "ab":
        if f"w{n}_{half}" not in of:
            raise present.fail(f"it has neither lokr_w{n} nor lokr_w{n}_{half} beside it")
    left, right, core = of[f"w{n}_a"], of[f"w{n}_b"], of.get("t2") if n == 2 else None
    for factor in (left, right):
        if len(factor.shape) < 2 or 0 in factor.shape:
            raise factor.fail(f"the shape {list(factor.shape)} is not that of a factor")
    if core is None:
        if left.shape[1] != right.shape[0]:
            reason = f"the shape {list(left.shape)} does not fit a rank of {right.shape[0]}, which"
            raise left.fail(f"{reason} '{right.name}' has")
        return left.shape[0], *right.shape[1:]
    if len(core.shape) < 2 or core.shape[:2] != (left.shape[0], right.shape[0]):
        reason = f"the shape {list(core.shape)} does not go between factors of ranks"
        raise core.fail(f"{reason} {left.shape[0]} and {right.shape[0]}")
    return left.shape[1], right.shape[1], *core.shape[2:]


def _loaded(of: Mapping[str, Stored], scale: float) -> Matrix:
    left = of["w1"].matrix() if "w1" in of else of["w1_a"].matrix() @ of["w1_b"].matrix()
    if "w2" in of:
        right = of["w2"].matrix()
    elif "t2" in of:
        core, one, other = (of[role].values() for role in ("t2", "w2_a", "w2_b"))
        kernel = core.reshape(*core.shape[:2], -1)
        right = np.einsum("ijk,ip,jr->prk", kernel, one, other, optimize=True)
        right = right.reshape(right.shape[0], -1)
    else:
        right = of["w2_a"].matrix() @ of["w2_b"].matrix()
    return Kronecker(left * scale, right)
