"""IA3: gains for the columns or the rows of a weight.

What is kept of a gain is by how much it differs from 1, so that one that changes nothing is 0.

Sources: Liu et al. (2022); `IA3Layer` of peft; `IA3Module` of LyCORIS, which stores just that.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

from lineage.adapters.names import modules_of
from lineage.adapters.vectors import vector

if TYPE_CHECKING:
    from lineage.adapters.base import Change, Group, Kind, Scaling
    from lineage.adapters.tensors import Stored

ROLES = {
    r"\.ia3_l(?:\.\w+)?": "l",
    r"\.on_input": "on_input",
}


def changes(group: Group, scaling: Scaling) -> Iterator[Change]:
    """Yield the gain of a module.

    Raises:
        FormatError: If its shape is that of no gain, or not of the one its configuration names.
    """
    if "l" in group.tensors:
        stored = group.tensors["l"]
        if len(stored.shape) < 2 or stored.shape.count(1) < len(stored.shape) - 1:
            raise stored.fail(f"the shape {list(stored.shape)} is not that of a gain")
        is_of_inputs = stored.shape[0] == 1 and prod(stored.shape) > 1
        said = scaling.said(group, "feedforward_modules")
        if isinstance(said, list) and prod(stored.shape) > 1:
            is_said = any(f".{group.module}".endswith(f".{name}") for name in said)
            if is_said != is_of_inputs:
                where = "is" if is_said else "is not"
                reason = f"the module {where} in the configuration's feedforward_modules"
                raise stored.fail(f"the shape {list(stored.shape)}, but {reason}")
        yield from _gain(stored, group.module, is_of_inputs=is_of_inputs, less=1.0)
    elif "on_input" in group.tensors:
        flag = group.tensors["on_input"]
        if "weight" not in group.tensors:
            raise flag.fail("it has no weight beside it")
        yield from _gain(
            group.tensors["weight"], group.module, is_of_inputs=flag.number() != 0, less=0.0
        )


def _gain(stored: Stored, module: str, *, is_of_inputs: bool, less: float) -> Iterator[Change]:
    names = modules_of(module)
    kind: Kind = "gain_in" if is_of_inputs else "gain_out"
    if is_of_inputs:
        names = (stored.sole(module),)
    yield from vector(stored, names, "weight", kind, (prod(stored.shape),), 0, less=less)
