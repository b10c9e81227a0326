"""Other shapes that take some of what there is, or take it twice. One file each; this is the table.

Each has `fits(network)` and `reshape(network, rng)`, which returns the network and its maps, as the
disguises do: `order/SPACE` says which place of the old axis each place of the new one comes from.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from networks import Maps, Network

from reshapes import heads_cut, tokens_cut, units_cut, units_split, width_cut


class Reshape(Protocol):
    """What a file here offers."""

    def fits(self, network: Network) -> bool:
        """Say whether the network can be reshaped so."""

    def reshape(self, network: Network, rng: np.random.Generator, /) -> tuple[Network, Maps]:
        """Return the network in another shape, and where everything in it comes from."""


RESHAPES: dict[str, Reshape] = {
    "units-cut": units_cut,
    "units-split": units_split,
    "heads-cut": heads_cut,
    "width-cut": width_cut,
    "tokens-cut": tokens_cut,
}
