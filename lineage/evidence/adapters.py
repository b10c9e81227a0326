"""Whose adapter is this? A low-rank adapter held against models, from fingerprints alone.

An adapter holds B (out by r) and A (r by in) for each module it changes, and adds s B A to the
module's weight. Rows of A and columns of B are folded into buckets in the same order with the same
signs, and a rank of at most 36 needs no two in one bucket. So the sketch of the product is exactly
the product of the sketches, and whether a model is another one with this adapter merged into it is
a question about sketches: one factor s for every module, and nothing left but rounding.

Without a merged model at hand, only names and shapes can be held against a base. They say which
bases the adapter fits, never which of them it was trained on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lineage.artifacts.dialects import canonical_name
from lineage.evidence.matching import table
from lineage.fingerprints.sketch import SIDE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lineage.evidence.matching import Table
    from lineage.fingerprints import Fingerprint

__all__ = ["Adapter", "Merged", "adapter_of", "fits", "merged"]

_FACTOR = re.compile(r"^(.*)\.(?:lora_(A|B|down|up)|(down|up))(?:\.\w+)?\.weight$")
"""PEFT (`lora_A.weight`, `lora_A.default.weight`), kohya and diffusers (`lora_down`, `down`)."""

_MAGNITUDE = re.compile(r"magnitude|dora_scale")
"""What the norms of DoRA's columns are called."""

_PREFIXES = ("base_model.model.", "base_model.")

_MOST_LEFT = 0.02
"""Share of the difference's squared norm that may be left beside rounding: a rounded scale, a
dropped module's worth of nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A low-rank adapter's modules.

    Attributes:
        deltas: Module name -> the core of B A, float64; of modules of a rank of at most 36.
        shapes: Module name -> (out, in).
        ranks: Module name -> rank.
        factors: Module name -> what B and A are called.
        has_more: Whether it holds tensors besides: magnitudes, biases, whole modules.
        has_magnitudes: Whether these are magnitudes (DoRA): then B A is not all that it adds.
    """

    deltas: Mapping[str, NDArray[np.float64]]
    shapes: Mapping[str, tuple[int, int]]
    ranks: Mapping[str, int]
    factors: Mapping[str, tuple[str, str]]
    has_more: bool
    has_magnitudes: bool

    @property
    def rank(self) -> int:
        """The commonest rank."""
        return int(np.bincount(list(self.ranks.values())).argmax())


@dataclass(frozen=True, slots=True)
class Merged:
    """A model that is another one with an adapter merged into it.

    Attributes:
        scale: What B A was multiplied with: alpha over rank, times a weight.
        left: Share of the difference's squared norm that this does not explain.
        modules: How many modules changed.
    """

    scale: float
    left: float
    modules: int


def adapter_of(model: Fingerprint) -> Adapter | None:
    """Return a model's adapter, or None where it is none: where most tensors are no such factors.

    The sketches of ranks above 36 fold, so that their product's core is not known.
    """
    of = table(model)
    halves: dict[str, dict[str, int]] = {}
    used = 0
    for place, name in enumerate(of.names[: of.whole]):
        found = _FACTOR.match(name)
        if found and of.usable[place] and len(of.shapes[place]) == 2:
            half = "A" if (found[2] or found[3]) in {"A", "down"} else "B"
            halves.setdefault(_module(found[1]), {})[half] = place
            used += 1
    whole = {m: pair for m, pair in halves.items() if len(pair) == 2 and _is_pair(of, pair)}
    if not whole or 2 * used < of.whole:
        return None
    deltas, shapes, ranks, factors = {}, {}, {}, {}
    for module, pair in whole.items():
        rank = of.shapes[pair["A"]][0]
        if rank <= SIDE:
            one, other = of.matrix(pair["B"]), of.matrix(pair["A"])
            deltas[module] = one.astype(np.float64) @ other.astype(np.float64)
        shapes[module] = of.shapes[pair["B"]][0], of.shapes[pair["A"]][1]
        ranks[module] = rank
        factors[module] = of.names[pair["B"]], of.names[pair["A"]]
    magnitudes = any(_MAGNITUDE.search(name) for name in of.names[: of.whole])
    return Adapter(deltas, shapes, ranks, factors, used < of.whole, magnitudes)


def _module(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name.removesuffix(".lora")


def _is_pair(of: Table, pair: Mapping[str, int]) -> bool:
    return of.shapes[pair["A"]][0] == of.shapes[pair["B"]][1]


def fits(adapter: Adapter, model: Fingerprint) -> dict[str, int] | None:
    """Return the place of each module's weight in a model's table; None where one is missing."""
    return _places(adapter, table(model))


def _places(adapter: Adapter, of: Table) -> dict[str, int] | None:
    named = {name: place for place, name in enumerate(of.names)}
    in_words = {canonical_name(name): place for name, place in named.items()}
    found: dict[str, int] = {}
    for module, shape in adapter.shapes.items():
        name = f"{module}.weight"
        place = named.get(name, in_words.get(canonical_name(name)))
        if place is None or of.shapes[place] not in {shape, shape[::-1]} or not of.usable[place]:
            return None
        found[module] = place
    return found


def merged(adapter: Adapter, base: Fingerprint, model: Fingerprint) -> Merged | None:
    """Say whether a model is `base` with the adapter merged into it.

    Derivation: least squares for the one factor s over all modules; what is left of the difference
    must be what rounding to the stored dtype leaves, and every other matrix must be the same. For
    another adapter of the same base the share left is 1, and s is 0 to within 1 / (rank * modules).
    """
    one, other = table(base), table(model)
    ours, theirs = _places(adapter, one), _places(adapter, other)
    if ours is None or theirs is None:
        return None
    across = along = whole = 0.0
    if adapter.deltas.keys() != adapter.shapes.keys():
        return None
    for module, delta in adapter.deltas.items():
        i, j = ours[module], theirs[module]
        if one.shapes[i] != other.shapes[j]:
            return None
        step = other.matrix(j).astype(np.float64) - one.matrix(i)
        is_turned = one.shapes[i] != adapter.shapes[module] or _is_nearer_turned(step, delta)
        core = delta.T if is_turned else delta
        if core.shape != step.shape:
            return None
        across += float(np.vdot(core, step))
        along += float(np.vdot(core, core))
        whole += float(np.vdot(step, step))
    if along == 0 or whole == 0:
        return None
    scale = across / along
    left = max(0.0, 1 - across**2 / (along * whole))
    return Merged(scale, left, len(adapter.deltas)) if left <= _MOST_LEFT else None


def _is_nearer_turned(step: NDArray[np.float64], delta: NDArray[np.float64]) -> bool:
    """Whether the transpose explains more: a square weight may be stored either way."""
    if step.shape != delta.shape or step.shape[0] != step.shape[1]:
        return False
    return abs(float(np.vdot(delta.T, step))) > abs(float(np.vdot(delta, step)))
