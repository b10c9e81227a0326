"""Whose adapter is this, and what is in that merged model? Adapters held against models.

A merge adds s times an adapter's change to a base. Sketches are linear, so the sketch of the merged
model is the base's plus s times the change's: which adapters are in a model, and with what weight,
is a question about sketches, and nothing is left but rounding.

Without a merged model at hand, only names and shapes can be held against a base. They say which
bases the adapter fits, never which of them it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lineage.adapters.names import modules_of, slug
from lineage.artifacts.dialects import is_reordered_for_rotation
from lineage.errors import printable
from lineage.evidence.base import Comparison, Evidence
from lineage.evidence.fitting import Fit, fit
from lineage.evidence.matching import table
from lineage.evidence.pairing import rounding_of
from lineage.fingerprints.sketch import SCHEME

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from numpy.typing import NDArray

    from lineage.evidence.matching import Table
    from lineage.fingerprints import Fingerprint
    from lineage.fingerprints.delta import ChangePrint, Delta

__all__ = ["MOST_LEFT", "Contained", "Fits", "Merged", "beside", "contained", "fits", "merged"]

MOST_LEFT = 0.02
"""Share of a model's difference from a base that may be something else than the adapters in it: a
module that was left out, a merge that was rounded twice."""

_SHOWN = 3

_SAME = 1e-6
"""Share of a matrix's squared norm by which it may differ and be called the same."""


@dataclass(frozen=True, slots=True)
class Fits:
    """How an adapter fits a base, by names and shapes.

    Attributes:
        places: Change's key -> place of the base's tensor in its table.
        missing: Names of tensors that the base has not.
        misshapen: Names of tensors that it has in another shape.
    """

    places: Mapping[tuple[str, str], int]
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether the base has all that the adapter changes."""
        return not (self.missing or self.misshapen)

    @property
    def is_denied(self) -> bool:
        """Whether it is no base of the adapter.

        That stays open where no name is known of what lacks: of a pipeline a base may be a part.
        """
        known = {_component(key) for key, _ in self.places}
        return bool(self.misshapen) or any(_component(slug(n)) in known for n in self.missing)

    def __str__(self) -> str:
        """Say how, in one line."""
        if self.is_whole:
            return "it fits by names and shapes, as it fits any model of this architecture"
        if not (self.places or self.misshapen):
            return "no tensor that it changes is known in the base by name"
        names = self.misshapen or self.missing
        shown = ", ".join(map(printable, names[:_SHOWN]))
        if self.misshapen:
            return f"{len(names)} tensors have another shape in the base ({shown})"
        return f"the base has not {len(names)} tensors that it changes ({shown})"


def _component(key: str) -> str:
    """Return which part of a pipeline a tensor is of: a denoiser, a text encoder, or neither."""
    first = key.partition("_")[0]
    return first if first in {"denoiser", "te", "te2", "te3"} else ""


@dataclass(frozen=True, slots=True)
class Merged:
    """A model that is another one with an adapter merged into it.

    Attributes:
        scale: What the change was multiplied with.
        left: Share of the difference's squared norm that this does not explain.
        modules: How many modules changed.
    """

    scale: float
    left: float
    modules: int


@dataclass(frozen=True, slots=True)
class Contained:
    """What adapters are in a model that was made of a base.

    Attributes:
        fit: Their weights.
        modules: How many of the base's tensors they change.
        outside: Share of the model's squared distance from the base that is in other tensors.
    """

    fit: Fit
    modules: int
    outside: float

    @property
    def is_all(self) -> bool:
        """Whether every adapter is in there, and hardly anything besides."""
        is_little = self.fit.left <= MOST_LEFT and self.outside <= MOST_LEFT
        return is_little and all(share.present for share in self.fit.shares)


def fits(adapter: Delta, model: Fingerprint) -> Fits:
    """Hold an adapter's names and shapes against a model's."""
    of = table(model)
    named = _named(of)
    places, missing, misshapen = {}, [], []
    for change in adapter.changes:
        if change.energy == 0 or change.kind == "whole":
            continue
        place = named.get(slug(change.base or change.name))
        if place is None:
            missing.append(change.name)
        elif not _has_shape(change, of, place, is_cut=adapter.family == "vera"):
            misshapen.append(change.name)
        else:
            places[change.key] = place
    return Fits(places, tuple(missing), tuple(misshapen))


def _named(of: Table) -> dict[str, int]:
    """Return the places of a model's tensors, and of those that fused ones hold, by slug."""
    found: dict[str, int] = {}
    for place in reversed(range(len(of.names))):
        stem, _, leaf = of.names[place].rpartition(".")
        names = modules_of(stem or leaf)
        if len(names) == 1:
            found[slug(f"{names[0]}.{leaf}" if stem else names[0])] = place
    return found


def _has_shape(change: ChangePrint, of: Table, place: int, *, is_cut: bool) -> bool:
    """Whether a tensor may be what is changed; of VeRA's projections it may use fewer columns."""
    shape = of.shapes[place]
    extents = shape[0] if shape else 1, int(np.prod(shape[1:]))
    if is_cut:
        (rows, cols), (here, across) = change.shape, extents
        return (rows == here and across <= cols) or (rows == across and here <= cols)
    if len(change.shape) == 2:
        return change.shape in {extents, extents[::-1]}
    if change.kind in {"gain_in", "magnitude"}:
        return change.shape[0] in extents
    return change.shape[0] == extents[0] or (
        change.kind == "gain_out" and change.shape[0] in extents
    )


def beside(first: Fingerprint, second: Fingerprint) -> Comparison | None:
    """Say whether an adapter fits a model; None where not just one of the two is an adapter.

    That they fit says nothing of whether they are related: only that they do not is an answer.
    """
    if (first.delta is None) == (second.delta is None):
        return None
    if first.delta is not None:
        adapter, model, names = first.delta, second, ("{a}", "{b}")
    else:
        assert second.delta is not None
        adapter, model, names = second.delta, first, ("{b}", "{a}")
    seen = fits(adapter, model)
    words = f"{names[0]} is an adapter, {names[1]} a base that it may be of: {seen}"
    if seen.is_denied:
        words = f"{names[0]} is an adapter, and {names[1]} not its base: {seen}"
    return Comparison(False if seen.is_denied else None, evidence=(Evidence("fits-v1", words),))


def merged(adapter: Delta, base: Fingerprint, model: Fingerprint) -> Merged | None:
    """Say whether a model is `base` with the adapter merged into it.

    What is left of the difference must be what rounding to the stored dtype leaves. For another
    adapter of the same base the share left is 1.
    """
    found = contained([adapter], base, model)
    if found is None or found.fit.left > MOST_LEFT or found.fit.shares[0].weight == 0:
        return None
    return Merged(found.fit.shares[0].weight, found.fit.left, found.modules)


def contained(adapters: Sequence[Delta], base: Fingerprint, model: Fingerprint) -> Contained | None:
    """Say which adapters were merged into `base` to make a model, and with what weights.

    Returns:
        None where an adapter does not fit the base, the model is not laid out as the base is, one
        of the two was not sketched in full, or nothing that they change differs between them.
    """
    if base.scheme != SCHEME or model.scheme != SCHEME:
        return None
    one, other = table(base), table(model)
    twins = _named(other)
    names = {place: name for name, place in _named(one).items()}
    steps: dict[int, NDArray[np.float64]] = {}
    noise: dict[int, float] = {}
    unknown: set[int] = set()
    parts: list[dict[int, NDArray[np.float64]]] = []
    for adapter in adapters:
        fitting = fits(adapter, base)
        changes = {c.key: c for c in adapter.changes if c.kind == "delta" and c.energy > 0}
        if not changes or not fitting.is_whole:
            return None
        part: dict[int, NDArray[np.float64]] = {}
        for key, change in changes.items():
            place = fitting.places[key]
            twin = twins.get(names[place])
            if twin is None or one.shapes[place] != other.shapes[twin]:
                return None
            if not (one.usable[place] and other.usable[twin]):
                return None
            if not _has_shape(change, one, place, is_cut=False):
                return None
            if place < one.whole and is_reordered_for_rotation(one.names[place], ""):
                unknown.add(place)  # of a GGUF file rows of queries and keys may lie otherwise
                continue
            if place not in steps:
                steps[place] = other.matrix(twin).astype(np.float64) - one.matrix(place)
                noise[place] = rounding_of(one, place) + rounding_of(other, twin)
            core = _laid_out(change, steps[place])
            if core is None:
                return None
            part[place] = part[place] + core if place in part else core
        parts.append(part)
    found = fit(steps, parts, noise) if steps else None
    if found is None:
        return None
    inside = sum(float(np.vdot(step, step)) for step in steps.values())
    outside = _outside(one, other, twins, names, steps.keys() | unknown)
    return Contained(found, len(steps), outside / (inside + outside))


def _laid_out(change: ChangePrint, step: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return a change's core as the base lies; a square weight may be stored either way."""
    core = change.core
    if change.turned or core.shape != step.shape:
        return core.T if core.T.shape == step.shape else None
    is_square = core.shape[0] == core.shape[1] and change.shape[0] == change.shape[-1]
    if is_square and abs(float(np.vdot(core.T, step))) > 2 * abs(float(np.vdot(core, step))):
        return core.T
    return core


def _outside(
    one: Table,
    other: Table,
    twins: Mapping[str, int],
    names: Mapping[int, str],
    inside: Container[int],
) -> float:
    """Return the squared distance in matrices that no adapter changes, but for rounding."""
    total = 0.0
    for place, name in names.items():
        twin = twins.get(name)
        if place in inside or twin is None or not one.is_matrix[place]:
            continue
        if one.shapes[place] != other.shapes[twin]:
            continue
        if place < one.whole and place in one.parts:
            continue  # its parts are counted
        if not (one.usable[place] and other.usable[twin]):
            continue
        step = other.matrix(twin).astype(np.float64) - one.matrix(place)
        energy = float(np.vdot(step, step))
        rounded = rounding_of(one, place) + rounding_of(other, twin)
        if energy > max(2 * rounded, _SAME * float(one.energy[place])):
            total += energy
    return total
