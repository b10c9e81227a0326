"""Which parts of one model are parts of another: layers, embeddings, a tower; and what share.

A part is a numbered layer of a stack, or a matrix outside of all. It is the other's where most of
its values are: equal, or with a cosine that strangers never reach (see `layers`). Outside of the
layers strangers of one kind of data come to have one large direction in common (tokens that never
occur are pushed one way, and a head of .8 has been seen), so that there both matrices must be alike
without their largest direction too.

Two networks of which some parts are one and the rest are strangers' are no relatives: a part was
copied. So it is with a model that was built around another. A layer of which only some matrices are
alike is no copied part: its coordinates were changed, or it was trained in part.

Lone tables that are equal to the bit, outside of the layers or as layers of their own, may be fixed
ones (filters, bases) that both hold. They count only where they have a known name, of tokens or
patches, were trained on, or where layers of several matrices, or three, are copied too.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from lineage.artifacts.dialects import is_no_weight, layered
from lineage.evidence.base import MOST, Copied, Part
from lineage.evidence.layers import DEVIATIONS, NEAR
from lineage.evidence.matching import COUNTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from lineage.evidence.matching import Table
    from lineage.evidence.pairing import Pairing

__all__ = ["bound", "copied", "likeness", "may_be_parts", "without_largest"]

APART = 0.1
"""Pooled cosine below which the rest of two models is strangers'; see `kinship.UNRELATED`."""

_MOST_OF_A_LAYER, _LITTLE = 0.8, 0.1
"""Share of a layer's values that must be alike for it to be the other's, and that may be by chance;
between them it is torn."""

_LEAST_TOWER = 0.03
"""Share of a model's values that a stack of layers has at least, to be no head."""

_MANY_LAYERS = 3
"""Layers of one matrix each that are no fixed tables any more."""

_TRAINED = 1 - 1e-4
"""Cosine of two tables above which they may be one fixed table, stored twice."""

_KNOWN = ("token_embd", "output", "patch_embd")


@dataclass(slots=True)
class _Sum:
    """What was added up of one layer, or of one matrix outside.

    Attributes:
        alike: Values of matrices that are alike.
        looked: Values of matrices that were compared.
        near: Cosines of those that are alike, weighted by the root of the size; `weight` these.
        rest: The same of those that are not; `rest_weight` these.
        places: In the pairing, of all that both have.
        same: Whether all that are alike are the same.
        is_layer: Whether it is a layer.
        matrices: How many are alike.
        is_doubtful: Whether it may be one fixed table.
    """

    a: str
    b: str
    alike: float = 0.0
    looked: float = 0.0
    near: float = 0.0
    weight: float = 0.0
    rest: float = 0.0
    rest_weight: float = 0.0
    places: tuple[int, ...] = ()
    same: bool = True
    is_layer: bool = True
    matrices: int = 0
    is_doubtful: bool = False

    @property
    def share(self) -> float:
        return self.alike / self.looked if self.looked else 0.0


def copied(pairing: Pairing) -> Copied:
    """Find which parts of the two models of a pairing are one."""
    sums = _sums(pairing)
    kept = [one for one in sums.values() if one.share >= _MOST_OF_A_LAYER]
    if not _has_layers(kept):
        kept = [one for one in kept if not one.is_doubtful]
    torn = [one for one in sums.values() if _LITTLE < one.share < _MOST_OF_A_LAYER]
    others = [one for one in sums.values() if one.share < _MOST_OF_A_LAYER]
    weight = sum(one.rest_weight for one in others)
    rest = sum(one.rest for one in others) / weight if weight else None
    both_have = any(m.only_a and m.only_b for m in pairing.maps)
    first, second = pairing.first, pairing.second
    wholes = _whole(first), _whole(second)
    parts, used_a, used_b = [], set(), set()
    for one in kept:
        values = 0
        for n in one.places:
            i, j = pairing.a[n], pairing.b[n]
            values += int(second.sizes[j])
            used_a.add(i)
            used_b.add(j)
        parts.append((min(pairing.b[n] for n in one.places), one, values))
    parts.sort(key=lambda part: part[0])
    shares = _share(first, used_a, wholes[0]), _share(second, used_b, wholes[1])
    larger, used = (first, used_a) if shares[0] < shares[1] else (second, used_b)
    return Copied(
        parts=tuple(
            Part(one.a, one.b, values, one.same, one.near / one.weight) for _, one, values in parts
        ),
        share_a=shares[0],
        share_b=shares[1],
        rest=rest,
        is_torn=bool(torn),
        has_own=_has_own_stack(larger, used),
        is_apart=both_have if rest is None else rest < APART,
        places=tuple(sorted(n for one in kept for n in one.places)),
    )


def may_be_parts(pairing: Pairing) -> bool:
    """Whether it is worth to ask: some matrices are alike, others are not, or compare to none.

    Little of a layer may be unlike by chance; a matrix that stands by itself has its own reason.
    """
    use = pairing.is_matrix & (pairing.energy_a > 0) & (pairing.energy_b > 0)
    alike = use & (pairing.same | (pairing.cosine >= NEAR))
    if not np.any(alike):
        return False
    have = float(pairing.size[alike].sum())
    far = float(pairing.size[use & ~alike].sum())
    if far > _LITTLE * have or have <= MOST * max(_whole(pairing.first), _whole(pairing.second)):
        return True
    return any(
        layered(pairing.second.names[pairing.b[int(n)]]) is None
        for n in np.flatnonzero(use & ~alike)
    )


def _sums(pairing: Pairing) -> Mapping[tuple[str, str], _Sum]:
    """Add up, part by part, what is alike; vectors go with the matrices of their layer."""
    first, second = pairing.first, pairing.second
    found: dict[tuple[str, str], _Sum] = {}
    for n, (i, j) in enumerate(zip(pairing.a, pairing.b, strict=True)):
        if not (_is_weight(first, i) and _is_weight(second, j)):
            continue
        ours, theirs = _part(first, i), _part(second, j)
        one = found.setdefault((ours, theirs), _Sum(ours, theirs))
        one.is_layer = layered(second.names[j]) is not None
        one.places += (n,)
        if not pairing.is_matrix[n]:
            continue
        size = float(pairing.size[n])
        one.looked += size
        cosine = likeness(pairing, n)
        is_alike = bool(pairing.same[n]) or cosine >= bound(pairing, n)
        if is_alike:
            one.matrices += 1
            one.is_doubtful = one.matrices == 1 and not _is_telling(pairing, n)
            one.alike += size
            one.near += size**0.5 * cosine
            one.weight += size**0.5
            one.same &= bool(pairing.same[n])
        else:
            one.rest += size**0.5 * cosine
            one.rest_weight += size**0.5
    return found


def bound(pairing: Pairing, n: int) -> float:
    """Return the likeness from which two matrices are one."""
    chance = (1 / pairing.cells[n] + 1 / pairing.size[n]) ** 0.5
    return max(NEAR, DEVIATIONS * float(chance))


def likeness(pairing: Pairing, n: int) -> float:
    """Return the cosine of two matrices; outside of layers the lesser of two, see above."""
    is_layer = layered(pairing.second.names[pairing.b[n]]) is not None
    if pairing.same[n]:
        return 1.0
    plain = float(pairing.cosine[n])
    if is_layer or abs(plain) < APART or pairing.way[n] == "reordered":
        return plain
    one = pairing.first.matrix(pairing.a[n]).astype(np.float64)
    other = one + pairing.difference(n)
    one, other = without_largest(one), without_largest(other)
    norms = float(np.linalg.norm(one) * np.linalg.norm(other))
    return min(plain, float(np.vdot(one, other)) / norms) if norms else 0.0


def without_largest(cores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a core, or a stack of cores, without its largest direction; one row has no other."""
    if min(cores.shape[-2:]) < 2:
        return cores
    left, values, right = np.linalg.svd(cores, full_matrices=False)
    rest: NDArray[np.float64] = cores - (left[..., :1] * values[..., None, :1]) @ right[..., :1, :]
    return rest


def _is_telling(pairing: Pairing, n: int) -> bool:
    """Whether a matrix outside of layers that is alike cannot be a fixed table of both."""
    label = pairing.second.labels[pairing.b[n]]
    is_known = any(word in label.split(".") for word in _KNOWN)
    return is_known or float(pairing.cosine[n]) < _TRAINED


def _part(of: Table, place: int) -> str:
    at = layered(of.names[place])
    if at is not None:
        return f"{at.stack}.{at.number}" if at.stack else str(at.number)
    return of.labels[place].removesuffix(".weight").removesuffix(".bias")


def _is_weight(of: Table, place: int) -> bool:
    tensor = of.tensors[place]
    is_counted = tensor.dtype in COUNTS or is_no_weight(tensor.name)
    return prod(tensor.shape) > 1 and not is_counted


def _has_layers(parts: Iterable[_Sum]) -> bool:
    """Whether there are layers that are no fixed tables: of several matrices, or so many."""
    layers = [one for one in parts if one.is_layer]
    return len(layers) >= _MANY_LAYERS or not all(one.is_doubtful for one in layers)


def _has_own_stack(of: Table, used: set[int]) -> bool:
    """Whether a model has layers, in a stack of which nothing is used: a tower, and no head."""
    for stack in of.layers.values():
        places = {place for layer in stack.values() for place in layer.values()}
        if len(stack) > 1 and not places & used:
            size = sum(float(of.sizes[place]) for place in places if of.is_matrix[place])
            if size >= _LEAST_TOWER * _whole(of):
                return True
    return False


def _whole(of: Table) -> float:
    """Return how many values all weights have; what is stored twice counts once."""
    sizes = {
        of.tensors[place].value or of.names[place]: float(of.sizes[place])
        for place in range(of.whole)
        if _is_weight(of, place)
    }
    return sum(sizes.values())


def _share(of: Table, used: Iterable[int], whole: float) -> float:
    """Return the share of all values that some tensors have."""
    sizes = {of.tensors[place].value or of.names[place]: float(of.sizes[place]) for place in used}
    return min(1.0, sum(sizes.values()) / whole) if whole else 0.0
