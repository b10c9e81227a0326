"""VeRA's projections where they were not saved: drawn anew from the key in the configuration.

peft draws both from one generator of torch's on the CPU, seeded with `projection_prng_key`, in
float32: A (rank by the most inputs that a target has), then B (the most outputs by rank), each
uniform between -b and b, b = sqrt(3) sqrt(2) / sqrt(n), n being the columns of the matrix. The most
inputs are in no file of the adapter, so it takes the base; numbers drawn are torch's affair, so it
takes torch.

Source: `VeraModel._init_vera_A_vera_B` and `_kaiming_init` of peft.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lineage.adapters.base import Unread
from lineage.adapters.names import modules_of, slug
from lineage.adapters.tensors import Stored
from lineage.artifacts import read
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from lineage.adapters.base import Group

__all__ = ["drawn", "projections"]


def projections(
    groups: Mapping[str, Group], config: Any, base: Any, *, where: str
) -> dict[str, Stored] | Unread:
    """Return the projections that the modules of an adapter share, by role.

    Args:
        groups: The modules, each with its two vectors.
        config: The configuration, or None.
        base: What the adapter was trained on, anything `read` takes, or None.
        where: What errors call the configuration.

    Raises:
        FormatError: If the configuration names no key, or the base has not what the modules change.
    """
    lacking = "its projections were not saved with it (save_projection)"
    if not isinstance(config, dict):
        return Unread(f"{lacking}, and no configuration says how they were drawn")
    if config.get("save_projection") is True:
        reason = "the configuration says save_projection, but the projections are not there"
        raise FormatError(reason, file=where)
    if base is None:
        return Unread(f"{lacking}: they can be drawn anew where its base is given")
    if find_spec("torch") is None:
        return Unread(f"{lacking}, and to draw them anew takes torch, which is not installed")
    key = config.get("projection_prng_key", 0)
    if not isinstance(key, int) or isinstance(key, bool):
        raise FormatError(f"projection_prng_key is {printable(repr(key), 40)}, no seed", file=where)
    ranks = {group.tensors["d"].shape for group in groups.values() if "d" in group.tensors}
    if len(ranks) != 1 or len(shape := ranks.pop()) != 1:
        raise FormatError("its modules have not one rank", file=where)
    rows, cols = _extents(groups, base, is_turned=config.get("fan_in_fan_out") is True)
    a, b = drawn(key, shape[0], rows, cols)
    with read({"vera_A": a, "vera_B": b}) as made:
        roles = {"vera_A": "shared_A", "vera_B": "shared_B"}
        return {roles[item.name]: Stored(item, where) for item in made.items}


def drawn(
    key: int, rank: int, rows: int, cols: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what peft draws from a key: (rank, cols), then (rows, rank)."""
    import torch

    generator = torch.Generator("cpu").manual_seed(key)

    def uniform(*shape: int) -> NDArray[np.float32]:
        bound = math.sqrt(3.0) * (math.sqrt(2) / math.sqrt(shape[1]))
        empty = torch.empty(shape, dtype=torch.float32, device="cpu")
        found: NDArray[np.float32] = empty.uniform_(-bound, bound, generator=generator).numpy()
        return found

    return uniform(rank, cols), uniform(rows, rank)


def _extents(groups: Mapping[str, Group], base: Any, *, is_turned: bool) -> tuple[int, int]:
    """Return the most outputs and the most inputs of the modules, as the base has them."""
    with read(base) as artifact:
        shapes = {}
        for item in artifact.items:
            stem, _, leaf = item.name.rpartition(".")
            if leaf == "weight" and len(item.shape) == 2 and len(names := modules_of(stem)) == 1:
                shapes[slug(names[0])] = item.shape
        file = artifact.path
    most = (0, 0)
    for group in groups.values():
        outputs = group.tensors.get("b")
        shape = shapes.get(slug(modules_of(group.module)[0]))
        if shape is None:
            reason = f"no matrix is called {printable(group.module)}, which the adapter changes"
            raise FormatError(reason, file=file)
        rows, cols = shape[::-1] if is_turned else shape
        if outputs is not None and outputs.shape != (rows,):
            reason = f"the shape {list(outputs.shape)} is not that of {rows} outputs, which {file}"
            raise outputs.fail(f"{reason} has")
        most = max(most[0], rows), max(most[1], cols)
    return most
