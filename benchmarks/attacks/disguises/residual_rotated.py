"""The residual stream turned by a random orthogonal matrix.

Gains are folded into what reads the norms first; a tied head gets a matrix of its own. RMSNorm
passes on any rotation. LayerNorm passes on those that keep the vector of ones, since these commute
with taking away the mean; so no mean need be taken out of the writers first, as SliceGPT (Ashkboos
et al. 2024) does to turn LayerNorm into RMSNorm, and the architecture still holds the outcome.
Where what norms give is added to (BERT), gains cannot be folded and nothing but permutations,
and one sign for all, is left.
"""

from __future__ import annotations

import numpy as np
from networks import Maps, Network, along

from disguises import drawing, gains


def fits(network: Network) -> bool:
    """Say whether the network can be disguised so."""
    return network.dialect is not None and network.dialect.before


def hide(network: Network, rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the network in disguise, and what was done."""
    assert network.dialect is not None
    network = gains.folded(gains.untied(network))
    draw = drawing.keeping_ones if network.dialect.centred else drawing.orthogonal
    turn = draw(rng, network.spaces["residual"])
    turned = {
        role: along(network, role, "residual", turn)
        for role in network.touching("residual")
        if not role.endswith("norm.w")
    }
    return network.but(turned), {"turn/residual": turn}
