"""The same random amount added to all coordinates of what is written to the residual stream.

LayerNorm takes the mean away, so nobody reads it.
"""

from __future__ import annotations

import numpy as np
from layouts import WRITERS
from networks import Maps, Network

from disguises import gains

_SHARE = 3.0
"""Spread of the amounts, over that of the weights."""


def fits(network: Network) -> bool:
    """Say whether the network can be disguised so."""
    return network.dialect is not None and network.dialect.centred


def hide(network: Network, rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the network in disguise, and what was done."""
    parts, maps = {}, {}
    for role in [role for template in WRITERS for role in network.expanded(template)]:
        if role == "embed.w" and gains.tied(network):
            continue  # a head reads its own mean
        value, axis = network.parts[role], network.axes[role].index("residual")
        amount = _SHARE * value.std() * rng.normal(size=value.sum(axis, keepdims=True).shape)
        parts[role], maps[f"shift/{role}"] = value + amount, amount
    return network.but(parts), maps
