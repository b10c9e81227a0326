"""Are several matrices of one model, as the experts of a layer are, copies of one of the other's?

A dense layer becomes a mixture of experts by copying its feed-forward matrices once for each
expert; training then moves the copies apart, but not away from where they started. Experts that
were trained from the start have a cosine around 0, of standard deviation sqrt(1/k + 1/n) for
sketches of k numbers of n values.

Where the experts of a layer are stored as one tensor, expert by expert, a sketch of up to 36 of
them has one row and one exact energy for each: copies have equal energies, which sum up those of
the dense matrices they hold, and rows with a cosine of 1.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from lineage.artifacts.dialects import layered
from lineage.evidence.base import Evidence, Structure
from lineage.fingerprints.sketch import SIDE, Layout
from lineage.relation import Relation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lineage.evidence.base import Direction
    from lineage.evidence.matching import Table
    from lineage.evidence.pairing import Pairing

NEAR = 0.5
"""The least cosine of an expert and the matrix it was copied from."""

DEVIATIONS = 8.0
"""Standard deviations of chance that it must have besides."""

ROWS_NEAR = 0.8
"""The same where each expert is one row of a sketch: of 36 numbers, whose cosine is above this by
chance once in 10^9 times, for each two experts and each layer."""

ENERGY_NEAR = 0.25
"""Relative difference of an expert's energy and its source's that training may have made."""


def experts(pairing: Pairing) -> Structure | None:
    """Say which model has experts that are copies of one matrix of the other's."""
    found = []
    for forward in (True, False):
        copies, is_whole = _separate(pairing, forward=forward)
        if not copies:
            copies, is_whole = _stacked(pairing, forward=forward)
        if copies:
            found.append((forward, copies, is_whole))
    if len(found) != 1:
        return None
    forward, copies, is_whole = found[0]
    direction: Direction = "a->b" if forward else "b->a"
    child, parent = ("{b}", "{a}") if forward else ("{a}", "{b}")
    exactly = "equal" if is_whole else "near"
    words = (
        f"{len(copies)} matrices of {parent} have several copies each in one layer of {child}, "
        f"up to {max(copies)}, all {exactly}: experts"
    )
    evidence = Evidence("experts-v1", words, statistic=float(max(copies)))
    return Structure("experts", Relation.EXPANDED, "experts", direction, is_whole, evidence)


def _separate(pairing: Pairing, *, forward: bool) -> tuple[list[int], bool]:
    """Count, for each matrix of the parent, its copies among the child's tensors of one layer."""
    parent, child = _sides(pairing, forward=forward)
    left = set(child.left_over(pairing.b if forward else pairing.a))
    sources = _by_layer(parent, range(parent.whole), pairing, forward=forward)
    groups: dict[tuple[str, int, str], list[int]] = {}
    for place in child.left_over(()):
        at = layered(child.names[place])
        inner = None if at is None else layered(at.role)
        if at is not None and inner is not None and _is_usable(child, place):
            groups.setdefault((at.stack, at.number, f"{inner.stack}.{inner.role}"), []).append(
                place
            )
    copies, is_whole = [], True
    for (stack, number, _), places in groups.items():
        if len(places) < 2 or left.isdisjoint(places):
            continue
        best: tuple[int, bool] = (0, True)
        for source in sources.get((stack, number), ()):
            near = [_is_near(parent, source, child, place) for place in places]
            if (count := sum(n is not None for n in near)) > best[0]:
                best = count, all(near)
        if best[0] >= 2:
            copies.append(best[0])
            is_whole &= best[1] and best[0] == len(places)
    return copies, is_whole


def _by_layer(
    of: Table, places: Iterable[int], pairing: Pairing, *, forward: bool
) -> dict[tuple[str, int], list[int]]:
    """Return the parent's matrices by stack and the child's number of their layer."""
    numbers = {
        m.stack: {(i if forward else j): (j if forward else i) for i, j in m.pairs}
        for m in pairing.maps
    }
    found: dict[tuple[str, int], list[int]] = {}
    for place in places:
        at = layered(of.names[place])
        if at is not None and _is_usable(of, place):
            number = numbers.get(at.stack, {}).get(at.number, at.number)
            found.setdefault((at.stack, number), []).append(place)
    return found


def _sides(pairing: Pairing, *, forward: bool) -> tuple[Table, Table]:
    one, other = pairing.first, pairing.second
    return (one, other) if forward else (other, one)


def _is_usable(of: Table, place: int) -> bool:
    return bool(of.usable[place] and of.is_matrix[place]) and not of.is_flat[place]


def _is_near(parent: Table, source: int, child: Table, place: int) -> bool | None:
    """Whether two matrices have the same values; None where they are not even near."""
    one, other = parent.tensors[source], child.tensors[place]
    if one.value and one.value == other.value:
        return True
    a, b = Layout.of(one.shape), Layout.of(other.shape)
    if (a.rows, a.cols) not in {(b.rows, b.cols), (b.cols, b.rows)}:
        return None
    x, y = parent.matrix(source).astype(np.float64), child.matrix(place).astype(np.float64)
    both = float(np.linalg.norm(x) * np.linalg.norm(y))
    turned = [y] if (a.rows, a.cols) == (b.rows, b.cols) else []
    if parent.turns and child.turns and (a.rows, a.cols) == (b.cols, b.rows):
        turned.append(y.T)
    cosine = max((float(np.vdot(x, z)) / both for z in turned), default=0.0) if both else 0.0
    chance = DEVIATIONS * (1 / x.size + 1 / one.size) ** 0.5
    return False if cosine >= max(NEAR, chance) else None


def _stacked(pairing: Pairing, *, forward: bool) -> tuple[list[int], bool]:
    """Count the copies in tensors that hold a layer's experts one after the other."""
    parent, child = _sides(pairing, forward=forward)
    left = set(parent.left_over(pairing.a if forward else pairing.b))
    sources = _by_layer(parent, sorted(left), pairing, forward=forward)
    copies, is_whole = [], True
    for place in child.left_over(pairing.b if forward else pairing.a):
        shape, at = child.shapes[place], layered(child.names[place])
        if at is None or len(shape) != 3 or not 2 <= shape[0] <= SIDE:
            continue
        if not _is_usable(child, place):
            continue
        sketch = child.tensors[place].sketch
        assert sketch is not None
        energies = sketch.rows.astype(np.float64)
        rows = child.matrix(place).astype(np.float64)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        held = _held(parent, sources.get((at.stack, at.number), []), shape[1] * shape[2])
        if not held or not np.all(norms > 0):
            continue
        away = min((np.abs(energies / one - 1) for one in held), key=np.max)
        cosine = (rows / norms) @ (rows / norms).T
        if cosine.min() < ROWS_NEAR or away.max() > ENERGY_NEAR:
            continue
        copies.append(shape[0])
        is_whole &= bool(away.max() < 1e-5 and cosine.min() > 1 - 1e-5)
    return copies, is_whole


def _held(parent: Table, sources: list[int], size: int) -> list[float]:
    """Return the energies of the matrices, or pairs of matrices, of a layer with so many values."""
    halves = [i for i in sources if 2 * parent.sizes[i] == size]
    one = [float(parent.energy[i]) for i in sources if parent.sizes[i] == size]
    two = [float(parent.energy[i] + parent.energy[j]) for i, j in combinations(halves, 2)]
    return [energy for energy in one + two if energy > 0]
