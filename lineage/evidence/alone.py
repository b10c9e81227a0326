"""Which of two models came first, if nothing is at hand but the two?

Everything that training leaves (`gains`) is weighed at once: of energy, in matrices whole, by rows
and by columns; of the directions that lead; of the courses of vectors; of what predicts tokens. A
few small networks were fitted to it on steps of training of many small models, and on the same
steps as they would be against more decay, so that length alone, from which decay takes, does not
decide (`benchmarks/quality/fit.py`). What they say of a pair is the logarithm of odds that the
first came first; of the same pair the other way round it is the opposite.

Siblings are further on than each other in one thing or the other: this tells who came first of two
of which one came from the other, and not that one did.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lineage.evidence.gains import Gains, gains
from lineage.evidence.nets import Net, fields_of, nets_of
from lineage.evidence.panel import Panel
from lineage.fingerprints.base import Fingerprint

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from lineage.evidence.pairing import Pairing

__all__ = ["ALONE", "SAID", "WEIGHTS", "Alone", "first_of", "fitted", "save", "with_odds"]

ALONE = "alone-v1"
"""The detector's name."""

WEIGHTS = "alone.npz"
"""The fitted networks, beside this file."""

SAID = 2.75
"""Logarithm of the odds from which the direction of a lone pair is said: 16 to 1. Of steps of small
networks like those that the odds were fitted on .99 were right above it, and .95 of plain ones."""

_MOST, _MOST_MEAN = 10.0, 5.0
"""Bounds of such a logarithm where it is weighed beside the gains, by itself and in a mean."""

_MOST_OF_IT = 0.5
"""Share of the values that moved that must lie alike in both."""


class Alone(NamedTuple):
    """The networks, which are averaged.

    Attributes:
        nets: Of the gains of an arc.
        names: Of these, as they were when the networks were fitted.
    """

    nets: tuple[Net, ...]
    names: tuple[str, ...]

    def __call__(self, seen: Gains) -> NDArray[np.float64]:
        """Return the logarithm of the odds that each model came before each other.

        Returns:
            float64, shape (models, models), [w, c] the opposite of [c, w].

        Raises:
            ValueError: If the networks were fitted on other features.
        """
        if seen.names != self.names:
            raise ValueError(f"{WEIGHTS} was fitted on other features than these")
        there = np.mean([net(seen.arcs) for net in self.nets], axis=0)
        found: NDArray[np.float64] = there - there.T
        return found


def save(alone: Alone, path: Path) -> None:
    """Write networks, as `fitted` reads them."""
    arrays = fields_of(alone.nets, "nets")
    np.savez_compressed(path, allow_pickle=False, names=np.array(alone.names), **arrays)


@cache
def fitted() -> Alone:
    """Return the networks."""
    with (files("lineage.evidence") / WEIGHTS).open("rb") as stream:
        stored = dict(np.load(stream, allow_pickle=False))
    return Alone(nets_of(stored, "nets"), tuple(stored["names"].tolist()))


def with_odds(seen: Gains, odds: NDArray[np.float64]) -> Gains:
    """Put what these odds say of a family's members behind its gains, to be weighed with them.

    Args:
        seen: The gains.
        odds: Of the same models, [w, c] the logarithm of the odds that w came before c.

    Returns:
        The gains, with the odds, and with the logarithms of the chances that w came before c and
        that c came before w; of models those of the first, over all others on average, and the
        odds at worst.
    """
    away = ~np.eye(len(odds), dtype=bool)
    others = max(1, len(odds) - 1)
    odds = odds.clip(-_MOST, _MOST)
    chance = -np.logaddexp(0, -odds)
    own = np.stack([
        np.where(away, odds.clip(-_MOST_MEAN, _MOST_MEAN), 0).sum(axis=1) / others,
        np.where(away, chance, 0).sum(axis=1) / others,
        np.where(away, odds, _MOST).min(axis=1),
    ], axis=-1)  # fmt: skip
    arcs = np.stack([odds, chance, chance.T], axis=-1).astype(np.float32)
    nodes = np.concatenate([own, own - own.max(axis=0)], axis=1).astype(np.float32)
    return Gains(
        np.concatenate([seen.arcs, arcs], axis=-1),
        np.concatenate([seen.nodes, nodes], axis=-1),
        (*seen.names, "alone", "alone_chance", "alone_chance_back"),
    )


def first_of(pairing: Pairing) -> float:
    """Return the logarithm of the odds that a came before b; 0 where too little lies alike.

    Args:
        pairing: Of two relatives. Tensors that lie turned, and parts of fused ones, are left out.
    """
    first, second = pairing.first, pairing.second
    lies_alike = np.array([
        way == "straight" and i < first.whole and j < second.whole
        and first.shapes[i] == second.shapes[j]
        for i, j, way in zip(pairing.a, pairing.b, pairing.way, strict=True)
    ], np.bool_)  # fmt: skip
    moved = pairing.size * (pairing.is_matrix & ~pairing.same)
    if not moved.sum() or moved[lies_alike].sum() < _MOST_OF_IT * moved.sum():
        return 0.0
    use = sorted(
        {first.tensors[pairing.a[n]].name: n for n in np.flatnonzero(lies_alike)}.items()
    )  # fmt: skip
    panel = Panel([
        Fingerprint(tuple(first.tensors[pairing.a[n]] for _, n in use), "", 0),
        Fingerprint(
            tuple(replace(second.tensors[pairing.b[n]], name=name) for name, n in use), "", 0
        ),
    ])  # fmt: skip
    return float(fitted()(gains(panel))[0, 1]) if panel.matrices else 0.0
