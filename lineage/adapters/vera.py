"""VeRA: two vectors for each module around two projections that all of them share.

A module uses as many rows and columns of the projections as it has. How many columns that is its
file does not say, so its change has all of them here; the projections themselves are in the file
only where they were saved, and else are drawn anew (`lineage.adapters.projections`).

Source: Kopiczko, Blankevoort and Asano (2024); `VeraLayer` of peft.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from lineage.adapters.base import Change
from lineage.adapters.matrices import Product

if TYPE_CHECKING:
    from lineage.adapters.base import Group, Matrix, Scaling
    from lineage.adapters.tensors import Stored

ROLES = {
    r"\.vera_lambda_b(?:\.\w+)?": "b", r"\.vera_lambda_d(?:\.\w+)?": "d",
    r"(?:^|\.)vera_A(?:\.\w+)?": "shared_A", r"(?:^|\.)vera_B(?:\.\w+)?": "shared_B",
}  # fmt: skip


def changes(group: Group, scaling: Scaling) -> Iterator[Change]:
    """Yield what a module's vectors change.

    Raises:
        FormatError: If one of the two is missing, or does not fit the projections.
    """
    of = group.tensors
    for here, there in (("b", "d"), ("d", "b")):
        if here in of and there not in of:
            raise of[here].fail(f"it has no vera_lambda_{there} beside it")
    if "b" not in of:
        return
    outer, inner, left, right = of["b"], of["d"], of["shared_B"], of["shared_A"]
    if len(outer.shape) != 1 or len(left.shape) != 2 or outer.shape[0] > left.shape[0]:
        raise outer.fail(f"the shape {list(outer.shape)} does not fit one of {list(left.shape)}")
    if len(right.shape) != 2 or inner.shape != right.shape[:1] or left.shape[1:] != inner.shape:
        raise inner.fail(f"the shape {list(inner.shape)} does not fit one of {list(right.shape)}")
    rank, rows = right.shape[0], outer.shape[0]
    scaling.of(group, rank, tensor=inner.name)
    name = outer.sole(group.module)
    load = partial(_loaded, outer, inner, left, right)
    turned = scaling.said(group, "fan_in_fan_out") is True
    yield Change(f"{name}.weight", "delta", (rows, right.shape[1]), rank, load, turned)


def _loaded(outer: Stored, inner: Stored, left: Stored, right: Stored) -> Matrix:
    gains = outer.values()
    scaled = left.values()[: gains.size] * gains[:, None] * inner.values()
    return Product(scaled, right.values())
