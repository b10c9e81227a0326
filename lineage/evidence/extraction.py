"""Was an adapter extracted from a full fine-tune: the largest directions of what it changed?

Extraction takes the difference D of a fine-tune and its base apart, D = U S V', and keeps some of
the directions: B A = U_r S_r V_r'. So what is left, R = D - s B A, is orthogonal to B on the left
and to A on the right, and <B A, D> = s |B A|^2 with one s for all modules, whatever the ranks, the
factorisation and alpha (which the weights do not hold, and s takes in). That tells extraction

- from a merge, F = W + s B A, which leaves nothing but rounding;
- from an adapter that was trained on the same base: its share in D is another in each module;
- from an adapter of a sibling, for the same reason.

Sketches give each module's s, with an error that is known: the sketches of B A and of a residual
that is orthogonal to it on both sides have an inner product of 0 with a deviation of |B A| |R| / k,
k = 36. They do not tell whether R is orthogonal to B and A exactly: an adapter that was merged, and
the model trained on a little or rounded, looks the same. That takes the weights (`cut_out`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lineage.evidence.contained import fits
from lineage.evidence.matching import table
from lineage.fingerprints.sketch import SCHEME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from lineage.evidence.matching import Table
    from lineage.fingerprints import Fingerprint
    from lineage.fingerprints.delta import ChangePrint, Delta

Key = tuple[str, str]

__all__ = ["Extracted", "Held", "changes_more", "extracted", "is_told"]

NULL = "an adapter that knows nothing of the change: in each module the sketches' cosine is 0"

LEAST_KEPT = 0.04
"""Share of the change's squared norm that the adapter must hold: of less, chance is too near."""

_LEAST_LEFT = 1e-4
"""Share of it that must be left: of less, the adapter was merged."""

_MOST_SPREAD = 1.6
"""Of the modules' factors, over what sketches leave: at most 1.1 for extracted adapters of the
tuning families, at least 2.0 for trained ones and pairs of other models."""

_FEWEST = 8
"""Modules that have one factor, at least: four of a trained adapter have had one by chance."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """What sketches tell of an adapter that fits an extraction.

    Attributes:
        scale: What B A is multiplied with.
        kept: Share of the change's squared norm that the adapter holds.
        spread: Of the modules' factors, over what sketches leave: near 1 or below.
        modules: How many modules.
        log10_p: Of as much in common by chance, under `NULL`.
    """

    scale: float
    kept: float
    spread: float
    modules: int
    log10_p: float


class Held:
    """An adapter held against many models: what it has in common with the weights of each.

    As sketches are linear, what it has in common with a difference is the difference of that.

    Attributes:
        paths: Of the models that it fits.
    """

    def __init__(self, adapter: Delta, models: Mapping[str, Fingerprint]) -> None:
        """Take the inner product with every module of every model that it fits."""
        self._low = products(adapter)
        self._energy = np.array([float(np.vdot(c.core, c.core)) for c in self._low])
        found: dict[str, list[float]] = {}
        for path in sorted(models):
            cores = _cores(adapter, models[path])
            if cores is not None:
                pairs = zip(self._low, cores, strict=True)
                found[path] = [float(np.vdot(change.core, core)) for change, core in pairs]
        self.paths = tuple(found)
        self._inner = np.array(list(found.values())).reshape(len(found), len(self._energy))

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Yield base and child of which the adapter may have been extracted, as a first look."""
        found: dict[tuple[int, int], None] = {}
        for part in _parts(self._low):
            energy = self._energy * part
            total = float((energy * part).sum())
            if total <= 0:
                return
            for i in range(len(self.paths)):
                step = self._inner - self._inner[i]
                mean = (step * part).sum(axis=1) / total
                rest = ((step - mean[:, None] * energy) ** 2 / self._energy).sum(axis=1)
                close = (mean > 0) & (rest <= _GLANCE * mean**2 * total)
                found.update(((i, int(j)), None) for j in np.flatnonzero(close) if j != i)
        for i, j in found:
            yield self.paths[i], self.paths[j]


_GLANCE = 0.1
"""Variance of the modules' factors over their mean's square, up to which a pair is looked at."""


def products(adapter: Delta) -> list[ChangePrint]:
    """Return the changes that are products of two factors: an adapter's modules.

    None are where norms are set besides (DoRA), and the product is not what is added.
    """
    if not set(adapter.family.split("+")) <= {"lora", "full"} or _has_magnitudes(adapter):
        return []
    return [c for c in adapter.changes if c.kind == "delta" and c.rank is not None and c.energy > 0]


def _has_magnitudes(adapter: Delta) -> bool:
    return any(change.kind == "magnitude" for change in adapter.changes)


def _parts(low: Sequence[ChangePrint]) -> list[NDArray[np.float64]]:
    """Return how the modules' factors may differ: not at all, or as one alpha over each rank.

    Where nothing says alpha, the change as it is read has the factors alone.
    """
    ranks = np.array([change.rank for change in low], np.float64)
    is_one = len(set(ranks.tolist())) <= 1
    return [np.ones_like(ranks)] if is_one else [np.ones_like(ranks), ranks.mean() / ranks]


def _cores(adapter: Delta, model: Fingerprint) -> list[NDArray[np.float64]] | None:
    """Return the cores of a model's modules, each as the adapter has it; None if it does not fit.

    Square modules lie as the others do.
    """
    low, of = products(adapter), table(model)
    places = places_of(adapter, model)
    if places is None or not low:
        return None
    turned = is_turned_in(low, of, places)
    cores = [of.matrix(places[change.key]).astype(np.float64) for change in low]
    cores = [core.T if turned else core for core in cores]
    if any(core.shape != change.core.shape for core, change in zip(cores, low, strict=True)):
        return None
    return cores


def places_of(adapter: Delta, model: Fingerprint) -> Mapping[Key, int] | None:
    """Return where a model has an adapter's modules; None where it has not all of them in full."""
    fitting, usable = fits(adapter, model), table(model).usable
    if model.scheme != SCHEME or not fitting.is_whole:
        return None
    return fitting.places if all(usable[place] for place in fitting.places.values()) else None


def is_turned_in(low: Sequence[ChangePrint], of: Table, places: Mapping[Key, int]) -> bool:
    """Return whether a model has modules the other way round than the adapter."""
    extents = [(c, of.shapes[places[c.key]]) for c in low]
    return any(c.turned or (shape[0], math.prod(shape[1:])) != c.shape for c, shape in extents)


def extracted(adapter: Delta, base: Fingerprint, model: Fingerprint) -> Extracted | None:
    """Say whether an adapter may be extracted from a model, as a fine-tune of `base`.

    Args:
        adapter: Of at least eight modules.
        base: What the model was made from.
        model: The fine-tune.
    """
    from scipy.special import log_ndtr

    ours, theirs = _cores(adapter, base), _cores(adapter, model)
    if ours is None or theirs is None or len(ours) < _FEWEST:
        return None
    low = products(adapter)
    deltas = [change.core for change in low]
    steps = [other - one for one, other in zip(ours, theirs, strict=True)]
    energy = np.array([float(np.vdot(d, d)) for d in deltas])
    inner = np.array([float(np.vdot(d, s)) for d, s in zip(deltas, steps, strict=True)])
    whole = np.array([float(np.vdot(s, s)) for s in steps])
    cells = np.array([d.size for d in deltas], np.float64)
    if inner.sum() <= 0:
        return None
    kept = float(inner.sum() ** 2 / (energy.sum() * whole.sum()))
    for part in _parts(low):
        factors = inner / (energy * part)
        scale = float(inner.sum() / (energy * part).sum())
        left = np.maximum(whole - 2 * scale * part * inner + (scale * part) ** 2 * energy, 0)
        error = (left + 1e-9 * energy) / (energy * cells) / part**2
        mean = float((factors / error).sum() / (1 / error).sum())
        spread = float(((factors - mean) ** 2 / error).sum() / (len(factors) - 1))
        share = float(left.sum() / whole.sum())
        if mean > 0 and spread <= _MOST_SPREAD and kept >= LEAST_KEPT and share >= _LEAST_LEFT:
            sigma = float(np.sqrt((energy * whole / cells).sum()))
            log10_p = float(log_ndtr(-inner.sum() / sigma) / np.log(10))
            return Extracted(mean, 1 - share, spread, len(factors), log10_p)
    return None


def is_told(adapter: Delta) -> bool:
    """Whether sketches can tell of an adapter: of enough modules."""
    return len(products(adapter)) >= _FEWEST


def changes_more(adapter: Delta, base: Fingerprint, model: Fingerprint) -> bool:
    """Whether a model differs from a base outside of an adapter's modules, which a merge does not.

    Of models of other names this says no.
    """
    one, other = table(base), table(model)
    places = set(fits(adapter, base).places.values())
    places |= {whole for whole, parts in one.parts.items() if places & set(parts)}
    inside = {one.names[place] for place in places}
    values = {t.name: t.value for t in other.tensors[: other.whole]}
    return any(
        tensor.name not in inside and values.get(tensor.name, tensor.value) != tensor.value
        for tensor in one.tensors[: one.whole]
    )
