"""What speaks for one model of a family having come before another, for all ordered pairs at once.

A model has more than its parent of what training leaves: of energy, where steps were, and of
unevenness, in matrices (`growth`), of directions that lead (`spectra`), a longer course in vectors
(`course`), and more of what predicts tokens (`heads`). None of it makes a parent: siblings
are further on than each other in one thing or the other. What it is worth beside the other evidence
is fitted: see `graph.odds`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lineage.evidence.panel import Panel

__all__ = ["Gains", "gains"]

_LEAST = 1e-9
"""Ratio of squared lengths below which it matters no more how small it is."""

_MOST = 3.0
"""Bound of every ratio."""

_FAR = 5.0
"""Logarithm of such a ratio above which it matters no more how large it is."""

_NODE = (
    "pooled", "each", "sign", "slope", "rows", "columns", "kurtosis", "course", "along", "share",
    "step", "course_step", "course_length", "lead", "lead_each", "lead_sign",
    "head", "head_lead", "table", "table_lead",
)  # fmt: skip
"""Features whose mean over all others is one of a model that has no parent among them."""


class Gains(NamedTuple):
    """Features of arcs, and of having no parent.

    Attributes:
        arcs: float32, shape (models, models, features): [w, c] is of the step from w to c.
        nodes: float32, shape (models, features): of a model as the one before the others.
        names: Of the features of arcs.
    """

    arcs: NDArray[np.float32]
    nodes: NDArray[np.float32]
    names: tuple[str, ...]


def gains(panel: Panel) -> Gains:
    """Measure all ordered pairs of a panel's models."""
    pairs, steps = panel.pairs, panel.steps
    away = ~np.eye(len(panel), dtype=bool)
    energy = np.asarray(sum(m.energy for m in panel.matrices))
    values = float(panel.sizes.sum())
    step = pairs.squared / np.maximum((energy[:, None] + energy) / 2, 1e-300)
    found = {
        **panel.grown._asdict(),
        "course": steps.growth.clip(-_MOST, _MOST),
        "along": steps.along,
        "along_back": steps.along.T,
        "course_length": _log(steps.length / np.maximum(energy / values, 1e-300)[:, None]),
        "course_step": _log(steps.size),
        "step": _log(step),
        "share": pairs.share.clip(-1.2, 1.2),
        **panel.spectra._asdict(),
        **panel.heads._asdict(),
    }
    arcs = np.stack([np.where(away, one, 0) for one in found.values()], axis=-1)
    own = np.stack(
        [np.where(away, found[name], 0).sum(axis=1) / max(1, len(panel) - 1) for name in _NODE],
        axis=-1,
    )
    nodes = np.concatenate([own, own - own.max(axis=0)], axis=1)
    return Gains(arcs.astype(np.float32), nodes.astype(np.float32), tuple(found))


def _log(ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.log(ratio + _LEAST).clip(max=_FAR)
    return found
