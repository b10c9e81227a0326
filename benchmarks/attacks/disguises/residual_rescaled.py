"""The residual stream multiplied by a number, and gains moved into what reads the norms.

Norms undo the number; what they add to the variance is rescaled with it in the configuration.
RMSNorm also passes on a sign for every coordinate; LayerNorm does not, since signs change means.
"""

from __future__ import annotations

import numpy as np
from layouts import WRITERS
from networks import Maps, Network, along

from disguises import drawing, gains

_READERS = ("#.q.w", "#.k.w", "#.v.w", "#.gate.w", "#.up.w", "decode.w", "classes.w")


def fits(network: Network) -> bool:
    """Say whether the network can be disguised so."""
    return network.kind == "transformer"


def hide(network: Network, rng: np.random.Generator) -> tuple[Network, Maps]:
    """Return the network in disguise, and what was done."""
    assert network.dialect is not None
    number = float(np.abs(drawing.factors(rng, 1))[0]) * 3
    width = network.spaces["residual"]
    if not network.dialect.before:
        return _between_norms(network, number), {"factor/residual": np.full(width, number)}
    moved = {norm: drawing.factors(rng, width) for norm in gains.norms_before_readers(network)}
    network = gains.moved(network, moved)
    signs = np.ones(width) if network.dialect.centred else rng.choice([-1.0, 1.0], width)
    network = network.but(
        {
            role: along(network, role, "residual", signs)
            for role in network.touching("residual")
            if not role.endswith("norm.w")
        }
    )
    scaled = _times(network, WRITERS, number)
    if gains.tied(network):
        scaled |= _times(network, ("norm.w", "norm.b"), 1 / number)
    name = network.dialect.epsilon
    network = network.but(scaled, **{name: network.config[name] * number**2})
    factors = {f"factor/{norm}": factor for norm, factor in moved.items()}
    return network, {"factor/residual": signs * number} | factors


def _between_norms(network: Network, number: float) -> Network:
    """Rescale what flows between norms whose outcome is added to, as in BERT.

    What they add to the variance is left: 1e-12 there.
    """
    norms = tuple(f"{n}.{end}" for n in ("#.attn_norm", "#.mlp_norm", "embed_norm") for end in "wb")
    written = ("#.o.w", "#.o.b", "#.down.w", "#.down.b")
    return network.but(
        _times(network, norms + written, number) | _times(network, _READERS, 1 / number)
    )


def _times(network: Network, roles: tuple[str, ...], number: float) -> dict[str, np.ndarray]:
    return {r: network.parts[r] * number for role in roles for r in network.expanded(role)}
