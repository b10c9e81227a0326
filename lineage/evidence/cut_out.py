"""Was an adapter extracted from a full fine-tune, by the weights: is what it left orthogonal to it?

`extraction` says what that tells, and asks the sketches first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lineage.adapters.matrices import Product
from lineage.evidence.extraction import LEAST_KEPT, is_turned_in, places_of, products
from lineage.evidence.matching import table
from lineage.evidence.weights import some_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lineage.adapters.base import Change
    from lineage.artifacts import Item
    from lineage.evidence.extraction import Key
    from lineage.fingerprints import Fingerprint
    from lineage.fingerprints.delta import ChangePrint, Delta

__all__ = ["InWeights", "in_weights"]

_ANYTHING_LEFT = 1e-9
"""Share of the change that must be left where weights tell that it has no part along the adapter,
as rounding has."""

_ALL, _SOME = 1 << 31, 12
"""Bytes of a model's modules above which only so many of them are read."""

_MOST_INSIDE = 0.2
"""Share of the residual's energy along B or A, over that of a residual without a direction: 0 of an
extraction, 1 of a rounding, more of a training. Rounding the adapter leaves about .001."""


@dataclass(frozen=True, slots=True)
class InWeights:
    """What the weights tell.

    Attributes:
        scale: What B A is multiplied with, in the middle module.
        kept: Share of the change's squared norm that the adapter holds.
        inside: Energy of what is left along B or A, over what a residual without a direction has.
        off: The same energy, over that of the adapter.
        modules: How many modules were read.
    """

    scale: float
    kept: float
    inside: float
    off: float
    modules: int

    @property
    def is_extracted(self) -> bool:
        """Whether what is left is orthogonal to the adapter, and more than rounding is left."""
        is_apart = self.inside <= _MOST_INSIDE
        return is_apart and self.kept >= LEAST_KEPT / 4 and 1 - self.kept >= _ANYTHING_LEFT


def in_weights(
    adapter: Delta,
    prints: tuple[Fingerprint, Fingerprint],
    changes: Mapping[Key, Change],
    base: Mapping[str, Item],
    model: Mapping[str, Item],
) -> InWeights | None:
    """Hold an adapter's factors against what a model changed, in the weights themselves.

    Args:
        adapter: Of any ranks.
        prints: Of the base and of the model, by which the modules are found.
        changes: The adapter's, open for reading.
        base: The base's.
        model: The model's.
    """
    low = products(adapter)
    ours, theirs = (places_of(adapter, model) for model in prints)
    if ours is None or theirs is None:
        return None
    places, tables = (ours, theirs), (table(prints[0]), table(prints[1]))
    turned = [is_turned_in(low, t, p) for t, p in zip(tables, places, strict=True)]
    scales = []
    energy = whole = along = inside = expected = 0.0
    for change in _chosen(low):
        pair = [of.names[p[change.key]] for of, p in zip(tables, places, strict=True)]
        if pair[0] not in base or pair[1] not in model or change.key not in changes:
            return None
        ends = zip((base[pair[0]], model[pair[1]]), turned, strict=True)
        one, other = (_whole(item).T if is_turned else _whole(item) for item, is_turned in ends)
        step = other - one
        product = changes[change.key].load()
        if not isinstance(product, Product) or step.shape != product.shape:
            return None
        if (module := _module(product, step)) is None:
            return None
        scales.append(module.scale)
        energy += module.energy
        along += module.along
        whole += module.whole
        inside += module.inside
        expected += module.expected
    if not scales or min(scales) <= 0 or expected <= 0:
        return None
    return InWeights(
        float(np.median(scales)), along / whole, inside / expected, inside / energy, len(scales)
    )


@dataclass(frozen=True, slots=True)
class _Module:
    """A module's change beside the adapter's product there.

    Attributes:
        scale: What B A is multiplied with.
        energy: Squared norm of the product, so multiplied.
        along: The product's inner product with the change.
        whole: Squared norm of the change.
        inside: That of what is left along B or A.
        expected: The same of as much that has no direction.
    """

    scale: float
    energy: float
    along: float
    whole: float
    inside: float
    expected: float


def _module(product: Product, step: NDArray[np.float64]) -> _Module | None:
    """Hold a product against a change; None where one of the two is nothing.

    Derivation: with orthonormal P for the columns of B and Q for the rows of A, the part of the
    residual R along either is |P'R|^2 + |R Q|^2 - |P'R Q|^2. An independent R of m by n has r (m +
    n - r) / (m n) of its energy there, an extraction nothing.
    """
    left, right = product.left * product.scale, product.right
    p, upper = np.linalg.qr(left)
    q, lower = np.linalg.qr(right.T)
    middle = upper @ lower.T
    down, across = p.T @ step, step @ q
    both = down @ q
    own = float(np.vdot(middle, middle))
    inner = float(np.vdot(middle, both))
    if own <= 0 or not np.any(step):
        return None
    scale = inner / own
    whole = float(np.vdot(step, step))
    rest = whole - 2 * scale * inner + scale**2 * own
    apart = float(
        np.vdot(down, down) + np.vdot(across, across) - np.vdot(both, both)
        - 2 * scale * inner + scale**2 * own
    )  # fmt: skip
    m, n = step.shape
    rank = min(left.shape[1], m, n)
    return _Module(
        scale,
        scale**2 * own,
        scale * inner,
        whole,
        max(apart, 0.0),
        max(rest, 0.0) * rank * (m + n - rank) / (m * n),
    )


def _chosen(low: Sequence[ChangePrint]) -> Sequence[ChangePrint]:
    """Return the modules to read: all, or some of those of a large model, evenly spread."""
    if sum(4 * math.prod(change.shape) for change in low) <= _ALL:
        return low
    some = np.unique(np.linspace(0, len(low) - 1, _SOME).astype(np.intp))
    return [low[n] for n in some]


def _whole(item: Item) -> NDArray[np.float64]:
    return some_rows(item, item.shape[0], 1 << 62).astype(np.float64)
