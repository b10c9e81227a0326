"""An eighth of the vocabulary is gone, and the rest in another order; tokens keep their words."""

from __future__ import annotations

import numpy as np
from disguises.tokens_permuted import fits as fits
from disguises.tokens_permuted import renumbered
from networks import Maps, Network

_GONE = 8


def reshape(network: Network, rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the network with fewer tokens, and which row each of its rows comes from."""
    size = network.spaces["tokens"]
    kept = rng.permutation(size)[: size - size // _GONE]
    cut = renumbered(network, kept)
    return cut.but({}, vocab_size=len(kept)), {"order/tokens": kept}
