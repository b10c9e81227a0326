"""What the weights add to their fingerprints, for the pairs of a family that matter.

Fingerprints suffice for most of a family. Reading some of the weights again tells four things
more: by the rows that no example touched, who is nobody's parent (`evidence.untouched`); which
merges took their values from whom (`evidence.masked`); whose least weights were set to zero
(`evidence.zeroed`); and which of three models on a line was computed (`evidence.computed`).
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.computed import is_computed
from lineage.evidence.deeper import COLS, ROWS, further
from lineage.evidence.masked import Values, masked_merge
from lineage.evidence.untouched import apart, decayed, in_common
from lineage.evidence.weights import rounding_of, some_rows
from lineage.evidence.zeroed import misplaced
from lineage.fingerprints.lattice import ROUNDING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from lineage.artifacts import Item
    from lineage.evidence.base import Merge
    from lineage.evidence.panel import Panel
    from lineage.evidence.stacked import Stack
    from lineage.evidence.weights import Weights

__all__ = ["Deep"]

_VALUES, _ALL_VALUES = 1 << 17, 1 << 26
"""Of a model, and of all models together, to see which are whose."""

_NEAREST = 40
"""Models that one may be merged from: those nearest to it."""

_MOST_AT_ONCE = 256
"""Models whose rows are compared with all others', at most."""

_PROBES, _GLANCE, _SOME = 6, (128, 256), 3
"""Models of which a matrix is looked at first, and rows and values of each; and rows in common from
which it is looked at in others."""

_LEAST_KEPT = 0.02
"""Of a masked merge's values, those that are its base's to the bit, at least."""

_MISPLACED, _FEWER = 0.01, 0.2
"""Of a pruned model's zeros, those that are not among a source's least weights, at most; and of
what the next best has, at most."""

_TOGETHER = 32
"""Pairs that are read together, at most."""


class Deep:
    """The weights of a panel's models, as far as they are at hand."""

    def __init__(self, weights: Weights, members: Sequence[str], panel: Panel) -> None:
        self._weights, self._members, self._panel = weights, members, panel
        self._names = [matrix.name for matrix in panel.matrices]
        self._order: dict[tuple[int, int], int] = {}  # 1 where the first decayed further

    def apart(self, merges: Iterable[int]) -> set[tuple[int, int]]:
        """Say of which ordered pairs the rows that no example touched rule out an arc.

        Args:
            merges: Places of models with more parents than one.
        """
        if self._common is None:
            return set()
        found = np.argwhere(apart(self._common, merges))
        return {(int(w), int(c)) for w, c in found}

    @cached_property
    def _telling(self) -> list[str]:
        """The matrices of which some rows were left alone, in a few pairs looked at."""
        known = [i for i, path in enumerate(self._members) if path in self._weights]
        if len(known) < 2:
            return []
        places = np.unique(np.linspace(0, len(known) - 1, _PROBES).astype(np.intp))
        found = []
        with self._opened(known[int(i)] for i in places) as models:
            for matrix in self._panel.matrices:
                rows = {
                    place: (some_rows(items[matrix.name], *_GLANCE), items[matrix.name].dtype)
                    for place, items in models.items()
                    if matrix.name in items
                }
                pairs = [p for p in combinations(rows, 2) if len(set(matrix.code[list(p)])) > 1]
                if any(_tells(*rows[a], *rows[b]) for a, b in pairs):
                    found.append(matrix.name)
        return found

    @cached_property
    def _common(self) -> NDArray[np.intp] | None:
        """Rows in common of all pairs, over all matrices."""
        if not 3 <= len(self._members) <= _MOST_AT_ONCE:
            return None
        if not all(path in self._weights for path in self._members):
            return None
        total = np.zeros((len(self._members),) * 2, np.intp)
        telling = set(self._telling)
        for matrix in self._panel.matrices:
            if matrix.name not in telling:
                total += np.where(matrix.code[:, None] == matrix.code, ROWS, 0)
                continue
            rows = {}
            for place, path in enumerate(self._members):
                with self._weights.opened(path) as items:
                    if matrix.name in items:
                        rows[place] = some_rows(items[matrix.name], ROWS, COLS)
            having = list(rows)
            total[np.ix_(having, having)] += in_common(np.stack(list(rows.values())))
        return total

    @contextmanager
    def _opened(self, places: Iterable[int]) -> Iterator[dict[int, dict[str, Item]]]:
        with ExitStack() as stack:
            yield {
                place: stack.enter_context(self._weights.opened(self._members[place]))
                for place in places
            }

    def not_from(self, pairs: Iterable[Sequence[int]]) -> set[tuple[int, int]]:
        """Say of which pairs the first cannot be an ancestor of the second, having decayed further.

        Args:
            pairs: Of places; the order within a pair does not matter.

        Returns:
            Pairs (later, earlier), of those that were asked for now or before.
        """
        asked = {(min(a, b), max(a, b)) for a, b in pairs} - self._order.keys()
        known = sorted(p for p in asked if all(self._members[i] in self._weights for i in p))
        for start in range(0, len(known), _TOGETHER):
            self._compare(known[start : start + _TOGETHER])
        told = self._order.items()
        return {(a, b) if sign > 0 else (b, a) for (a, b), sign in told if sign}

    def _compare(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Find for each pair whether the first (1) or the second (-1) decayed further."""
        telling = set(self._telling)
        if not telling:
            self._order.update(dict.fromkeys(pairs, 0))
            return
        codes = [(m.name, m.code) for m in self._panel.matrices if m.name in telling]
        with self._opened(sorted({place for pair in pairs for place in pair})) as models:
            for a, b in pairs:
                moved = [(name, name) for name, code in codes if code[a] != code[b]]
                found = further(models[a], models[b], moved)
                self._order[a, b] = 0 if found is None else 1 if found.factor > 1 else -1

    def merge_of(self, family: Stack, child: int, others: Sequence[int]) -> Merge | None:
        """Find the parents of a masked merge; see `evidence.masked`."""
        values = self._values
        if values is None:
            return None
        away = self._panel.pairs.squared[child]
        near = sorted(others, key=lambda place: (away[place], place))[:_NEAREST]
        return masked_merge(values, child, family.starts_of(near, len(near)))

    def is_computed(self, child: int, parents: Sequence[int], weights: Sequence[float]) -> bool:
        """Whether a model is the rounded sum of two others to the bit; see `evidence.computed`."""
        values = self._values
        if values is None:
            return False
        numbers = [values.numbers[place] for place in parents]
        rounding = float(values.rounding[child])
        return is_computed(values.numbers[child], numbers, weights, rounding)

    def has_no_mask(self, child: int) -> bool:
        """Whether a model has hardly a value of any other, as what a mask left alone would be.

        TIES and DARE leave most of a base's values as they were.

        Args:
            child: Place of what may be such a merge.
        """
        values = self._values
        if values is None or np.isnan(values.numbers[child]).any():
            return False
        kept = values.kept(child).mean(axis=1)
        kept[child] = 0
        return bool(kept.max() < _LEAST_KEPT)

    def pruned_from(self, child: int, others: Sequence[int]) -> list[int]:
        """Return the models whose weights of least magnitude are zero in a child.

        What came after pruning does not matter, as long as it left zeros alone. Of models that are
        the same but for rounding all are.

        Args:
            child: Place of a model with zeros.
            others: Places of those that may have been pruned.
        """
        values = self._values
        if values is None or np.isnan(values.numbers[child]).any():
            return []
        away = self._panel.pairs.squared[child]
        near = sorted(others, key=lambda place: (away[place], place))[:_NEAREST]
        off = {place: misplaced(values, child, place) for place in near}
        least = min(off.values(), default=1.0)
        found = [place for place in near if off[place] == least]
        rest = [one for one in off.values() if one > least]
        is_clear = least < _MISPLACED and least <= _FEWER * min(rest, default=1.0)
        return found if is_clear else []

    @cached_property
    def _values(self) -> Values | None:
        """Read some values of every model; those of a model that is not at hand are NaN."""
        known = [path in self._weights for path in self._members]
        if sum(known) < 3:
            return None
        budget = min(_VALUES, _ALL_VALUES // len(known)) // len(self._names)
        rows = max(1, budget // COLS)
        numbers: list[NDArray[np.float32] | None] = []
        rounding = np.full(len(known), ROUNDING["F32"])
        for place, path in enumerate(self._members):
            numbers.append(None)
            if not known[place]:
                continue
            with self._weights.opened(path) as items:
                if not all(name in items for name in self._names):
                    continue
                parts = [some_rows(items[name], rows, COLS).reshape(-1) for name in self._names]
                rounding[place] = max(ROUNDING[items[name].dtype] for name in self._names)
            sizes = [len(part) for part in parts]
            numbers[-1] = np.concatenate(parts)
        found = [one for one in numbers if one is not None]
        if len(found) < 3:
            return None
        nothing = np.full(len(found[0]), np.nan, np.float32)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.intp)
        return Values(np.stack([nothing if x is None else x for x in numbers]), starts, rounding)


def _tells(one: NDArray[np.float32], dtype: str, other: NDArray[np.float32], its: str) -> bool:
    """Whether two models have rows in common, up to one number each, or up to one for all."""
    if in_common(np.stack([one, other]))[0, 1] >= _SOME:
        return True
    return decayed(one, other, max(rounding_of(dtype), rounding_of(its))) is not None
