"""Differences stored whole, of weights, biases and norms.

Source: `FullModule` and `NormModule` of LyCORIS, and the extracted adapters that use their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lineage.adapters.names import modules_of
from lineage.adapters.vectors import tensor, vector

if TYPE_CHECKING:
    from lineage.adapters.base import Change, Group, Scaling

ROLES = {
    r"\.diff": "diff", r"\.diff_b": "diff_b", r"\.w_norm": "w_norm", r"\.b_norm": "b_norm",
}  # fmt: skip

_LEAVES = {"diff": "weight", "diff_b": "bias", "w_norm": "weight", "b_norm": "bias"}


def changes(group: Group, scaling: Scaling) -> Iterator[Change]:  # noqa: ARG001
    """Yield the differences of a module.

    Raises:
        FormatError: If it is one of several tensors, which no table divides.
    """
    for role, leaf in _LEAVES.items():
        if role in group.tensors:
            stored = group.tensors[role]
            names = modules_of(group.module)
            if len(names) == 3 and len(stored.shape) == 1:
                yield from vector(stored, names, leaf, "delta", stored.shape, 0)
                continue
            yield from tensor(stored, f"{stored.sole(group.module)}.{leaf}", "delta")
