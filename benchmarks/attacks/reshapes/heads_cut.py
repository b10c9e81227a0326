"""Half of the key heads is left, drawn by lot, with their queries; the stream keeps its width.

Only where the configuration can say that heads are fewer than the width would hold.
"""

from __future__ import annotations

import numpy as np
from networks import Maps, Network, heads_of, reordered


def fits(network: Network) -> bool:
    """Say whether the network can be reshaped so."""
    return network.config.get("model_type") in ("llama", "qwen2")


def reshape(network: Network, rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the network with fewer heads, and which are left, in their order."""
    assert network.dialect is not None
    groups, members, inside = heads_of(network.config, network.dialect)
    maps = {}
    for layer in network.layers:
        kept = np.sort(rng.permutation(groups)[: max(1, groups // 2)])
        maps[f"order/groups.{layer}"] = kept
        network = reordered(network, f"groups.{layer}", kept)
    left = len(kept)
    heads = {"num_attention_heads": left * members, "num_key_value_heads": left}
    return network.but({}, **heads, head_dim=inside), maps
