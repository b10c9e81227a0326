"""The disguises: each changes weights and no output. One file each; this is the table.

A disguise has `fits(network)` and `hide(network, rng)`, which returns the network and its maps:

    order/SPACE    new[i] = old[order[i]]
    turn/SPACE     new = turn @ old, one matrix or one for each key head; keys get the inverse of
                   the transpose, and what reads values or the embedding the inverse
    factor/SPACE   new = factor * old along that axis for what writes it; what reads it is divided.
                   Of a norm, its gain is multiplied; of a convolution, its output channels
    shift/ROLE     what was added
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from networks import Maps, Network

from disguises import (
    cells_flipped,
    cells_permuted,
    channels_permuted,
    channels_rescaled,
    embedding_turned,
    gates_reordered,
    heads_permuted,
    norms_folded,
    queries_turned,
    residual_permuted,
    residual_rescaled,
    residual_rotated,
    residual_shifted,
    tokens_permuted,
    units_permuted,
    units_rescaled,
    values_turned,
)


class Disguise(Protocol):
    """What a file here offers."""

    def fits(self, network: Network) -> bool:
        """Say whether the network can be disguised so."""

    def hide(self, network: Network, rng: np.random.Generator, /) -> tuple[Network, Maps]:
        """Return the network in disguise, and what was done."""


DISGUISES: dict[str, Disguise] = {
    "tokens-permuted": tokens_permuted,
    "residual-permuted": residual_permuted,
    "units-permuted": units_permuted,
    "heads-permuted": heads_permuted,
    "units-rescaled": units_rescaled,
    "values-turned": values_turned,
    "queries-turned": queries_turned,
    "residual-rotated": residual_rotated,
    "residual-rescaled": residual_rescaled,
    "residual-shifted": residual_shifted,
    "channels-permuted": channels_permuted,
    "channels-rescaled": channels_rescaled,
    "norms-folded": norms_folded,
    "cells-permuted": cells_permuted,
    "cells-flipped": cells_flipped,
    "embedding-turned": embedding_turned,
    "gates-reordered": gates_reordered,
}
"""Permutations first, so that maps of several compose in this order."""

OTHER_NAMES = ("gates-reordered",)
"""Disguises after which the network is in another format, so that nothing can follow."""


def everything(network: Network) -> list[str]:
    """Return all disguises that fit a network and can be worn together, in order."""
    return [n for n, one in DISGUISES.items() if n not in OTHER_NAMES and one.fits(network)]


def hide(network: Network, names: Sequence[str], rng: np.random.Generator) -> tuple[Network, Maps]:
    """Wear some disguises, one after another.

    Returns:
        The network and all maps, each under `NAME:` and its own key.

    Raises:
        ValueError: If one does not fit.
    """
    maps: Maps = {}
    for name in names:
        if not DISGUISES[name].fits(network):
            raise ValueError(f"{name} does not fit this network")
        network, done = DISGUISES[name].hide(network, rng)
        maps |= {f"{name}:{key}": value for key, value in done.items()}
    return network, maps
