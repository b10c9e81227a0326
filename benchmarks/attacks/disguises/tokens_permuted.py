"""The vocabulary in another order: rows of embeddings and head, and the tokens' numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from networks import Maps, Network, reordered

from disguises import drawing


def fits(network: Network) -> bool:
    """Say whether the network can be disguised so."""
    return "tokens" in network.spaces and network.vocabulary is not None


def hide(network: Network, rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the network in disguise, and what was done."""
    order = drawing.order(rng, network.spaces["tokens"])
    return renumbered(network, order), {"order/tokens": order}


def renumbered(network: Network, order: np.ndarray) -> Network:
    """Return the network with row i of its vocabulary from row `order[i]`."""
    moved = reordered(network, "tokens", order)
    place = {int(old): new for new, old in enumerate(order)}
    words = {t: place[row] for t, row in (network.vocabulary or {}).items() if row in place}
    named = {k: place[v] for k, v in network.config.items() if _is_token(k, v) and v in place}
    return replace(moved, vocabulary=words, config={**moved.config, **named})


def _is_token(name: str, value: object) -> bool:
    return name.endswith("_token_id") and isinstance(value, int)
