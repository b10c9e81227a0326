"""What the evidence about a family's members is worth: how well each arc speaks for itself.

A few small networks turn the features of an arc, and of a model without a parent, into the
logarithms of weights; `tree` makes probabilities of them. There are some for a first look and some
for a second. To those of both looks smaller ones add what gains, and what two models alone tell,
are worth, fitted after them on what they leave open of families that they were not fitted on. They
were fitted by `python benchmarks/quality/fit.py`: the weight of all trees that are right, and of
all trees of the right root, over that of all trees, in the tuning families of `benchmarks/zoo`, in
families drawn by lot and in families of drawn numbers, whole and in parts.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

import networkx as nx
import numpy as np

from lineage.evidence.alone import with_odds
from lineage.evidence.nets import Net, fields_of, nets_of

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from numpy.typing import NDArray

    from lineage.evidence.ancestry import Evidence
    from lineage.evidence.gains import Gains

__all__ = ["WEIGHTS", "Look", "Nets", "fitted", "save"]

WEIGHTS = "odds.npz"
"""The fitted networks, beside this file."""


class Nets(NamedTuple):
    """The networks of one look, which are averaged.

    Attributes:
        arcs: Of the features of arcs.
        nodes: Of those of models without a parent.
        names: Of the arcs' features, as they were when the networks were fitted.
    """

    arcs: tuple[Net, ...]
    nodes: tuple[Net, ...]
    names: tuple[str, ...]

    def __call__(self, seen: Evidence | Gains) -> NDArray[np.float64]:
        """Return the logarithm of every arc's weight.

        Returns:
            float64, shape (models + 1, models): [w, c] of the arc w -> c, and in the last row that
            of c having no parent among the models.

        Raises:
            ValueError: If the networks were fitted on features that are not there.
        """
        if not set(self.names) <= set(seen.names):
            raise ValueError(f"{WEIGHTS} was fitted on other features than these")
        known = seen.arcs[..., [seen.names.index(name) for name in self.names]]
        of_arcs = sum(net(known) for net in self.arcs) / len(self.arcs)
        of_nodes = sum(net(seen.nodes) for net in self.nodes) / len(self.nodes)
        found: NDArray[np.float64] = np.vstack([of_arcs, of_nodes])
        np.fill_diagonal(found, -np.inf)
        return found


class Look(NamedTuple):
    """What is worth what in one look.

    Attributes:
        seen: Of the evidence.
        gained: Of the gains, and what two models alone tell, beside it.
    """

    seen: Nets
    gained: Nets

    def __call__(
        self,
        seen: Evidence,
        odds: NDArray[np.float64],
        thin: Collection[tuple[int, int]] = (),
    ) -> NDArray[np.float64]:
        """Return the logarithm of every arc's weight; see `Nets`.

        Args:
            seen: The evidence.
            odds: [w, c], the logarithm of the odds that w came before c, by the two alone.
            thin: Arcs of which gains say no direction, nor which of the two has no parent.
        """
        gained = self.gained(with_odds(seen.gains, odds))
        for w, c in thin:
            gained[w, c] = gained[c, w] = (gained[w, c] + gained[c, w]) / 2
        for alike in nx.connected_components(nx.Graph(list(thin))):
            gained[-1, list(alike)] = gained[-1, list(alike)].mean()
        found: NDArray[np.float64] = self.seen(seen) + gained
        np.fill_diagonal(found, -np.inf)
        return found


def save(looks: tuple[Look, Look], path: Path) -> None:
    """Write networks, as `fitted` reads them."""
    parts = {f"{number}.{part}": nets for number, look in enumerate(looks)
             for part, nets in look._asdict().items()}  # fmt: skip
    arrays = {
        name: array
        for part, both in parts.items()
        for kind, nets in (("arcs", both.arcs), ("nodes", both.nodes))
        for name, array in fields_of(nets, f"{part}.{kind}").items()
    }
    names = {f"{part}.names": np.array(both.names) for part, both in parts.items()}
    np.savez_compressed(path, allow_pickle=False, **arrays, **names)


@cache
def fitted() -> tuple[Look, Look]:
    """Return the networks of the first look and those of the second."""
    with (files("lineage.graph") / WEIGHTS).open("rb") as stream:
        stored = dict(np.load(stream, allow_pickle=False))

    def nets(at: str) -> Nets:
        names = tuple(stored[f"{at}.names"].tolist())
        return Nets(nets_of(stored, f"{at}.arcs"), nets_of(stored, f"{at}.nodes"), names)

    first, second = (Look(nets(f"{look}.seen"), nets(f"{look}.gained")) for look in range(2))
    return first, second
