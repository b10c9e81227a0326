"""What an adapter comes to on one base: whatever it does to a weight, as one difference.

A magnitude (DoRA) sets the norms of the rows of W + s B A, a gain (IA3) multiplies what is there,
and a tensor that was saved whole takes W's place. So these are no difference by themselves, and the
sketch of W does not give the one that they make: rows are folded together in it, each of which is
scaled by another number. With the base's weights they do: W' - W, and that is an adapter whose
changes can all be added.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lineage.adapters.base import Adapter, Change
from lineage.adapters.matrices import Dense, Product
from lineage.adapters.names import modules_of, slug
from lineage.adapters.tensors import Stored
from lineage.adapters.vectors import in_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from lineage.adapters.base import Kind, Matrix
    from lineage.artifacts import Item

__all__ = ["Whole", "applied", "is_plain"]


class Kinded(Protocol):
    """Something of a kind of change: a change, or what is kept of one."""

    @property
    def kind(self) -> Kind:
        """See `KINDS`."""
        ...


def is_plain(family: str, changes: Iterable[Kinded]) -> bool:
    """Whether changes are differences of a base's tensors already.

    VeRA's are as wide as its projections, of which a tensor uses the columns that it has.
    """
    return family != "vera" and all(change.kind == "delta" for change in changes)


def applied(adapter: Adapter, base: Mapping[str, Item], *, file: str) -> Adapter | None:
    """Return the differences that an adapter makes of a base.

    Args:
        adapter: Open for reading.
        base: The base's tensors by name, as stored, open for reading.
        file: What errors call the base.

    Returns:
        None where the base has not what is changed, in its shape. A tensor that the adapter brings
        whole and the base has not is left out.
    """
    tensors = {_slug(name): Stored(item, file) for name, item in base.items()}
    by_name: dict[str, list[Change]] = {}
    for change in adapter.changes:
        by_name.setdefault(slug(change.name), []).append(change)
    found: list[Change] = []
    for changes in by_name.values():
        if is_plain(adapter.family, changes):
            found += changes
            continue
        stored = tensors.get(slug(changes[0].base or changes[0].name))
        if stored is not None and adapter.family == "vera":
            changes = [_cut(change, stored) for change in changes]
        is_new = any(change.kind == "whole" for change in changes)
        if stored is None and is_new:
            continue
        first = next((c for c in changes if c.kind == "delta"), changes[0])
        if stored is None or not _fit(changes, stored, is_turned=first.turned):
            return None
        height, width = stored.shape[0], int(np.prod(stored.shape[1:]))
        shape = (width, height) if first.turned else (height, width)
        if len(stored.shape) == 1:
            shape = (height,)  # type: ignore[assignment]
        load = partial(_difference, changes, stored, is_turned=first.turned)
        found.append(replace(first, kind="delta", shape=shape, rank=None, load=load))
    return replace(adapter, changes=tuple(found))


def _cut(change: Change, stored: Stored) -> Change:
    """Return a change with the columns that a tensor has, if these are fewer."""
    if change.kind != "delta" or len(stored.shape) != 2 or len(change.shape) != 2:
        return change
    rows, cols = stored.shape[::-1] if change.turned else stored.shape
    if rows != change.shape[0] or cols > change.shape[1]:
        return change

    def load() -> Matrix:
        whole = change.load()
        assert isinstance(whole, Product)
        return Product(whole.left, whole.right[:, :cols], whole.scale)

    return replace(change, shape=(rows, cols), load=load)


def _slug(name: str) -> str:
    stem, _, leaf = name.rpartition(".")
    names = modules_of(stem or leaf)
    return slug(f"{names[0]}.{leaf}" if stem and len(names) == 1 else name)


def _fit(changes: Sequence[Change], stored: Stored, *, is_turned: bool) -> bool:
    """Whether changes are of a tensor of this shape."""
    if not stored.shape:
        return False
    rows, cols = stored.shape[0], int(np.prod(stored.shape[1:]))
    if is_turned:
        rows, cols = cols, rows
    for change in changes:
        places = {"gain_in": (cols,), "gain_out": (rows,), "magnitude": (rows, cols)}
        if change.kind in places:
            if change.shape[0] not in places[change.kind]:
                return False
        elif change.shape not in {(rows, cols), (rows,) if cols == 1 else ()}:
            return False
    return True


def _difference(changes: Sequence[Change], stored: Stored, *, is_turned: bool) -> Matrix:
    """Return W' - W, as the adapter has it."""
    weight = stored.matrix()
    weight = weight.T if is_turned else weight
    made = weight
    of = {change.kind: change for change in changes}
    if "whole" in of:
        made = _entries(of["whole"]).reshape(weight.shape)
    if "delta" in of:
        made = made + _entries(of["delta"]).reshape(weight.shape)
    if "gain_in" in of:
        made = made * (1 + _entries(of["gain_in"]))
    if "gain_out" in of:
        made = made * (1 + _entries(of["gain_out"]))[:, None]
    if "magnitude" in of:
        norms = _entries(of["magnitude"])
        axis = 1 if norms.size == weight.shape[0] else 0
        lengths = np.linalg.norm(made, axis=axis)
        scales = np.divide(norms, lengths, out=np.ones_like(norms), where=lengths > 0)
        made = made * (scales[:, None] if axis else scales)
    step = made - weight
    if len(stored.shape) == 1:
        return in_rows(step.reshape(-1))
    return Dense(step)


def _entries(change: Change) -> NDArray[np.float64]:
    """Return all values of a change."""
    matrix = change.load()
    whole = matrix.folded(Whole(matrix.shape))
    return whole if len(change.shape) == 2 else whole.reshape(-1)[: change.shape[0]]


@dataclass(frozen=True, slots=True)
class Whole:
    """A fold into as many buckets as there are places: it puts blocks where they belong."""

    shape: tuple[int, int]

    def rows(self, matrix: NDArray[np.float64], start: int = 0) -> NDArray[np.float64]:
        """Return the matrix among zeros; see `Fold`."""
        whole = np.zeros((self.shape[0], matrix.shape[1]))
        whole[start : start + matrix.shape[0]] = matrix
        return whole

    def cols(self, matrix: NDArray[np.float64], start: int = 0) -> NDArray[np.float64]:
        """Return the same of columns."""
        return Whole(self.shape[::-1]).rows(matrix.T, start).T
