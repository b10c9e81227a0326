"""Was a model put together from whole layers of several others, none of them changed?

Every weight tensor of the child must be one of some parent's, digest for digest, every layer must
be wholly one parent's, and three layers in four must be one parent's alone: a fine-tune
with frozen tensors has some that are nobody's, and two in a row that trained two small parts agree
in all the rest. There is no error rate: a digest either is one of the other's or is not.

Where all that the parents have is in the child, the child is no merge of them but what they were
cut from: one lost the layers at the top, another those at the bottom. So it is where others were
cut from it and one of its own form holds the layers that they lost: that was trained with these
frozen. A child that has layers twice was put together all the same.

What it cannot tell: whether a model in the middle of two steps, of which one trained the first half
of the layers and the other the second half, is a child or the first step.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lineage.artifacts.dialects import layered
from lineage.evidence.matching import COUNTS, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lineage.evidence.matching import Table
    from lineage.fingerprints import Fingerprint


@dataclass(frozen=True, slots=True)
class Passthrough:
    """A model that is made of others' layers.

    Attributes:
        parents: Places in the list of the others, the smallest share first.
        shares: Of the child's weights, one per parent; they sum to 1. What several of the parents
            have alike is shared among them.
    """

    parents: tuple[int, ...]
    shares: tuple[float, ...]


_Unit = tuple[str, int] | str
"""A layer, or a tensor outside of all layers."""


def passthrough(child: Fingerprint, others: Sequence[Fingerprint]) -> Passthrough | None:
    """Find the fewest models of which every layer of a model is one's own, if they are several."""
    of = table(child)
    units: dict[_Unit, list[int]] = {}
    for place in range(of.whole):
        if _is_weight(of, place):
            units.setdefault(_unit(of, place), []).append(place)
    if len(units) < 2:
        return None
    held = [frozenset(tensor.value for tensor in other.tensors) for other in others]
    owners = {
        unit: frozenset(
            n for n, values in enumerate(held) if all(of.tensors[i].value in values for i in places)
        )
        for unit, places in units.items()
    }
    if not all(owners.values()) or frozenset.intersection(*owners.values()):
        return None  # something is its own, or one parent explains it all
    size = {unit: sum(of.sizes[i] for i in places) for unit, places in units.items()}
    parents = _cover(owners, size)
    alone = {u: owner for u, who in owners.items() if len(owner := who & parents) == 1}
    layers: list[_Unit] = [u for u in units if isinstance(u, tuple)] or list(units)
    if 4 * sum(unit in alone for unit in layers) < 3 * len(layers):
        return None
    if frozenset().union(*(alone[unit] for unit in layers if unit in alone)) != parents:
        return None
    mine = frozenset(tensor.value for tensor in child.tensors)
    rest = [others[p] for p in parents if not _weights(others[p]) <= mine]
    is_whole = len(rest) < 2 and all(_form(other) == _form(child) for other in rest)
    if is_whole and not _repeats(of, units):
        return None  # the others were cut from it, and what is left was trained with frozen layers
    total = sum(size.values())
    shares = {
        p: sum(size[u] / len(who & parents) for u, who in owners.items() if p in who) / total
        for p in parents
    }
    chosen = sorted(parents, key=lambda p: (shares[p], p))
    return Passthrough(tuple(chosen), tuple(float(shares[p]) for p in chosen))


def held_by_others(models: Sequence[Fingerprint]) -> list[int]:
    """Return the places of the models of which each weight tensor is another one's too."""
    holders = Counter(value for model in models for value in {t.value for t in model.tensors})
    found = []
    for number, of in enumerate(map(table, models)):
        places = [place for place in range(of.whole) if _is_weight(of, place)]
        if places and all(holders[of.tensors[place].value] > 1 for place in places):
            found.append(number)
    return found


def _weights(model: Fingerprint) -> frozenset[bytes]:
    of = table(model)
    return frozenset(of.tensors[n].value for n in range(of.whole) if _is_weight(of, n))


def _form(model: Fingerprint) -> frozenset[tuple[str, tuple[int, ...]]]:
    return frozenset((tensor.name, tensor.shape) for tensor in model.tensors)


def _repeats(of: Table, units: Mapping[_Unit, Sequence[int]]) -> bool:
    """Whether two layers of a model have the same weights."""
    layers = [
        frozenset(of.tensors[n].value for n in places)
        for unit, places in units.items()
        if isinstance(unit, tuple)
    ]
    return len(set(layers)) < len(layers)


def _is_weight(of: Table, place: int) -> bool:
    tensor = of.tensors[place]
    return tensor.size > 1 and tensor.dtype not in COUNTS and not of.is_flat[place]


def _unit(of: Table, place: int) -> _Unit:
    at = layered(of.names[place])
    return of.names[place] if at is None else (at.stack, at.number)


def _cover(owners: Mapping[_Unit, frozenset[int]], size: Mapping[_Unit, float]) -> frozenset[int]:
    """Return those that alone have something, and of the others the largest until all is had."""
    chosen = {owner for who in owners.values() if len(who) == 1 for owner in who}
    while left := [unit for unit, who in owners.items() if not who & chosen]:
        every = {owner for unit in left for owner in owners[unit]}
        chosen.add(max(every, key=lambda p: (sum(size[u] for u in left if p in owners[u]), -p)))
    return frozenset(chosen)
