"""Three quarters of the residual stream's coordinates are left, drawn by lot.

Only where the configuration can say that heads are wider than the stream.
"""

from __future__ import annotations

import numpy as np
from networks import Maps, Network, heads_of, reordered

_LEFT = 0.75


def fits(network: Network) -> bool:
    """Say whether the network can be reshaped so."""
    return network.config.get("model_type") in ("llama", "qwen2")


def reshape(network: Network, rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the narrower network, and which coordinates are left, in their order."""
    assert network.dialect is not None
    _, _, inside = heads_of(network.config, network.dialect)
    size = network.spaces["residual"]
    kept = np.sort(rng.permutation(size)[: 4 * round(_LEFT * size / 4)])
    narrow = reordered(network, "residual", kept)
    return narrow.but({}, hidden_size=len(kept), head_dim=inside), {"order/residual": kept}
