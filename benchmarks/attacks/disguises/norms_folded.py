"""BatchNorm folded into the convolution before it, which gets a bias, as exporters do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from networks import Maps, Network
from others import BATCH_EPSILON


def fits(network: Network) -> bool:
    """Say whether the network can be disguised so."""
    return any(role.endswith("running_var") for role in network.parts)


def hide(network: Network, _rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the network in disguise, and what was done."""
    parts, axes = dict(network.parts), dict(network.axes)
    maps: Maps = {}
    for role in [r for r in parts if r.endswith("convolution.weight")]:
        at = role.removesuffix("convolution.weight")
        norm = {end: parts.pop(f"{at}normalization.{end}")
                for end in ("weight", "bias", "running_mean", "running_var")}  # fmt: skip
        factor = norm["weight"] / np.sqrt(norm["running_var"] + BATCH_EPSILON)
        parts[role] = parts[role] * factor[:, None, None, None]
        before = parts.get(f"{at}convolution.bias", np.zeros_like(factor))
        parts[f"{at}convolution.bias"] = (before - norm["running_mean"]) * factor + norm["bias"]
        axes[f"{at}convolution.bias"] = (axes[role][0],)
        maps[f"factor/{role}"] = factor
    axes = {role: axes[role] for role in parts}
    return replace(network, parts=parts, axes=axes, others={}), maps
