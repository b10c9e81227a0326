"""Which models came neither from each other, but both from one that is not between them at hand.

Adapters of ranks r, s and t, merged into one model, leave differences of ranks r + s, r + t and
s + t between the three that are made so. Half of what two of these have more than the third is what
each model has of its own, from the middle of the three on. Where one of them is what another came
from, it lies in the middle itself and has nothing of its own, in no matrix. So if each has some, no
one of the three came from another by one step, and if no other model is in the middle, what they
came from is not at hand.

What hides ranks could feign this. Rounding hides weak directions, more of one difference than of
another: so only matrices count in which every singular value is well above the noise or in it.
Adapters that began at one draw and have not left it share what they read: the rank of their
difference is too low, but then that of all rows together and that of all columns are not the sum of
the three parts, as they are if nothing is hidden.

A model from which two others came through one that is not at hand has directions of its own as
well. It is told by energies: an adapter is orthogonal to what it is added to for the most part, so
that a model is longer than the middle by its way from there, and shorter by it where it is before.

The middle of three is where the distances of a tree meet (Buneman 1971).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.stacked import stored_share
from lineage.fingerprints.sketch import SIDE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from lineage.evidence.panel import Panel

    Arc = tuple[int, int]

_NOISE, _CLEAR = 1.15, 1.5
"""Over the largest singular value of white noise: what noise does not exceed, and what is clearly
above it. Where there is one between them a rank cannot be told."""

_MOST = SIDE - 4
"""Rank that a sketch can show."""

_ROUNDINGS = 4.0
"""Squared norm of what two models' rounding leaves, over one's: either may be rounded twice."""

_LEAST_MATRICES, _LOOKED_AT = 4, 28
"""In which each of the three must have something of its own, and at which is looked at most."""

_THIRDS = 4
"""Models that may tell of two others at most: the nearest."""

_HALFWAY = 0.5
"""How far energies may be from those of a model that came before the middle, in ways there and
back, and still tell of one."""


class Siblings:
    """Pairs of a panel's models of which neither came from the other, found when it is asked for.

    Attributes:
        found: bool, shape (models, models), symmetric.
    """

    def __init__(self, panel: Panel) -> None:
        self.found = np.zeros((len(panel), len(panel)), bool)
        self._panel = panel
        self._alike = _differ_in_some_matrices(panel)
        self._energy = np.sum([m.energy for m in panel.matrices], axis=0)
        self._ranks: dict[tuple[int, int, int], int | None] = {}
        self._asked: set[Arc] = set()

    @cached_property
    def _shares(self) -> list[NDArray[np.float64]]:
        """Of each matrix the share of its energy that storing it takes, of each model."""
        models = self._panel.models
        places = {tensor.name: n for n, tensor in enumerate(models[0].tensors)}
        return [
            np.array([stored_share(model.tensors[places[m.name]].dtype) for model in models])
            for m in self._panel.matrices
        ]

    def parted(self, arcs: Iterable[Arc]) -> set[Arc]:
        """Return all arcs, both ways, that are known not to be steps once some were asked about."""
        for a, b in arcs:
            self._ask(a, b)
        return {(int(a), int(b)) for a, b in np.argwhere(self.found)}

    def _ask(self, a: int, b: int) -> None:
        a, b = min(a, b), max(a, b)
        thirds = np.flatnonzero(self._alike[a] & self._alike[b])
        if not self._alike[a, b] or not len(thirds) or (a, b) in self._asked:
            return
        self._asked.add((a, b))
        squared = self._panel.pairs.squared
        near = thirds[np.argsort((squared[a] + squared[b])[thirds], kind="stable")][:_THIRDS]
        self.found[a, b] = self.found[b, a] = any(self._are_apart(a, b, int(c)) for c in near)

    def _are_apart(self, a: int, b: int, c: int) -> bool:
        """Whether each of three models has directions of its own, and neither of two came first."""
        unlike = [
            n for n, m in enumerate(self._panel.matrices) if len({*m.code[[a, b, c]].tolist()}) > 1
        ]
        looked = np.linspace(0, len(unlike) - 1, min(len(unlike), _LOOKED_AT)).round().astype(int)
        parts = (self._parts(unlike[n], a, b, c) for n in looked.tolist())
        own = np.array([part for part in parts if part is not None])
        if not len(own) or (own > 0).sum(axis=0).min() < _LEAST_MATRICES:
            return False
        return not (self._came_first(a, b, c) or self._came_first(b, a, c))

    def _parts(self, n: int, a: int, b: int, c: int) -> tuple[float, float, float] | None:
        """Return the rank that each of three has of its own in one matrix; None if not told."""
        ab, ac, bc = self._rank(n, a, b), self._rank(n, a, c), self._rank(n, b, c)
        if ab is None or ac is None or bc is None:
            return None
        own = (ab + ac - bc) / 2, (ab + bc - ac) / 2, (ac + bc - ab) / 2
        if min(own) > 0:
            core = self._panel.matrices[n].core().astype(np.float64)
            ways, noise = (core[a] - core[c], core[b] - core[c]), self._noise(n, a, b, c)
            rows, columns = (_rank(of(ways), noise) for of in (np.vstack, np.hstack))
            if rows != sum(own) or columns != sum(own):
                return None
        return own

    def _rank(self, n: int, a: int, b: int) -> int | None:
        """Return the rank of a difference; None where it cannot be told."""
        a, b = min(a, b), max(a, b)
        if (n, a, b) not in self._ranks:
            matrix = self._panel.matrices[n]
            is_same = matrix.code[a] == matrix.code[b]
            core = matrix.core()[[a, b]].astype(np.float64)
            noise = self._noise(n, a, b)
            self._ranks[n, a, b] = 0 if is_same else _rank(core[0] - core[1], noise)
        return self._ranks[n, a, b]

    def _noise(self, n: int, *models: int) -> float:
        """Return the mean square of what rounding leaves in a difference's sketch."""
        matrix = self._panel.matrices[n]
        left = float((self._shares[n] * matrix.energy)[list(models)].max())
        return _ROUNDINGS * left / matrix.cells

    def _came_first(self, a: int, b: int, c: int) -> bool:
        """Whether energies say that the first of three was there before the middle of them."""
        squared, energy = self._panel.pairs.squared, self._energy

        def way(x: int, y: int, z: int) -> float:
            return float(squared[x, y] + squared[x, z] - squared[y, z]) / 2

        back = 2 * way(a, b, c)
        middle = energy[a] - way(a, b, c)
        others = np.array([energy[b] - way(b, a, c), energy[c] - way(c, a, b)])
        return back > 0 and bool((np.abs((others - middle) / back - 1) < _HALFWAY).all())


def _rank(matrix: NDArray[np.float64], noise: float) -> int | None:
    """Count the singular values above noise of some mean square; None where it is unclear."""
    values = np.linalg.svd(matrix, compute_uv=False)
    over = values / (np.sqrt(matrix.shape).sum() * np.sqrt(noise) + 1e-300)
    rank = int((over > _NOISE).sum())
    return None if rank > _MOST or (over[:rank] < _CLEAR).any() else rank


def _differ_in_some_matrices(panel: Panel) -> NDArray[np.bool_]:
    """Say which models differ, in no vector and not in all matrices, as merged adapters do."""
    names = {m.name for m in panel.matrices}
    rests = (tuple(t.value for t in m.tensors if t.name not in names) for m in panel.models)
    codes: dict[tuple[bytes, ...], int] = {}
    code = np.array([codes.setdefault(rest, len(codes)) for rest in rests])
    pairs = panel.pairs
    found: NDArray[np.bool_] = (
        (code[:, None] == code) & (pairs.equal_share > 0) & (pairs.squared > 0)
    )
    return found
