"""Moves the gains of norms between a norm and what reads it, which changes no output."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from layouts import READERS
from networks import Network, along


def norms_before_readers(network: Network) -> list[str]:
    """Return the norms whose outcome is only read, never added to the residual stream.

    That of a tied head is left out: its matrix is the embeddings' as well.
    """
    if network.dialect is None or not network.dialect.before:
        return []
    norms = [
        role.removesuffix(".w")
        for norm in ("#.attn_norm", "#.mlp_norm", "norm")
        for role in network.expanded(f"{norm}.w")
    ]
    return [norm for norm in norms if norm != "norm" or not tied(network)]


def tied(network: Network) -> bool:
    """Say whether the embeddings are the head as well."""
    parts = network.parts
    return "embed.w" in parts and "head.w" not in parts and ("norm.w" in parts or "head.b" in parts)


def untied(network: Network) -> Network:
    """Return a network whose head is a matrix of its own."""
    if not tied(network):
        return network
    return network.but({"head.w": network.parts["embed.w"]}, tie_word_embeddings=False)


def moved(network: Network, factors: Mapping[str, np.ndarray]) -> Network:
    """Multiply norms by factors, and what reads them by the inverse."""
    for norm, factor in factors.items():
        parts = {f"{norm}.w": network.parts[f"{norm}.w"] * factor}
        if f"{norm}.b" in network.parts:
            parts[f"{norm}.b"] = network.parts[f"{norm}.b"] * factor
        number, _, rest = norm.partition(".")
        for reader in READERS[f"#.{rest}" if rest else norm]:
            role = reader.replace("#", number)
            if role in network.parts:
                parts[role] = along(network, role, "residual", 1 / factor)
        network = network.but(parts)
    return network


def folded(network: Network) -> Network:
    """Return a network whose norms that are only read have gains of one.

    Raises:
        ValueError: If a gain is so near zero that it cannot be moved.
    """
    factors = {}
    for norm in norms_before_readers(network):
        gain = network.parts[f"{norm}.w"]
        if np.abs(gain).min() < 1e-6 * np.abs(gain).max():
            raise ValueError(f"{norm}: a gain of zero cannot be folded")
        factors[norm] = 1 / gain
    return moved(network, factors)
