"""What names alone leave open about roles, settled by what else is there: tables and shapes.

| layer has | then |
|---|---|
| `post_feedforward_layernorm`, as Gemma 2 and 3 and OLMo 2 | `post_attention_layernorm` is of what attention computed, and `pre_feedforward_layernorm` stands in front of the units |
| twice as many rows in `up` as columns in `down`, and no gate, as ChatGLM | the first half is the gate |
"""  # noqa: E501 - a table

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lineage.artifacts.dialects import layered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lineage.fingerprints.stream import Place

__all__ = ["AFTER", "settled"]

AFTER = ("post_attention_norm", "post_ffw_norm")
"""Norms of what a branch computed, before it is added to the stream: GGUF's words."""

_BESIDE = {
    "post_self_attn_layernorm": AFTER[0], "post_mlp_layernorm": AFTER[1],
    "post_feedforward_layernorm": AFTER[1], "pre_feedforward_layernorm": "ffn_norm",
}  # fmt: skip
"""Last words of norms' names -> roles."""

_FUSED_GATES = {"ffn_gate": 0, "ffn_up": 1}


def settled(places: Mapping[str, Place], width: int) -> dict[str, Place]:
    """Return roles and places as what else is there says they are.

    Args:
        places: As names alone say.
        width: Of the stream.
    """
    return _halved(_renamed(places), width)


def _renamed(places: Mapping[str, Place]) -> dict[str, Place]:
    found = {}
    for role, place in places.items():
        stem, _, leaf = role.rpartition(".")
        one = layered(role)
        prefix = "" if one is None else role[: -len(one.role)]
        last = stem[len(prefix) :]
        if last == "ffn_norm" and f"{prefix}post_feedforward_layernorm.weight" in places:
            last = AFTER[0]
        found[f"{prefix}{_BESIDE.get(last, last)}.{leaf}" if prefix else role] = place
    return found


def _halved(places: Mapping[str, Place], width: int) -> dict[str, Place]:
    found = dict(places)
    for role, place in places.items():
        stem = role.removesuffix("ffn_up.weight")
        down = places.get(f"{stem}ffn_down.weight")
        if stem == role or down is None or f"{stem}ffn_gate.weight" in places:
            continue
        units = down.size // width
        if place.axis is not None or place.size != 2 * units * width:
            continue
        for leaf in ("weight", "bias"):
            both = places.get(f"{stem}ffn_up.{leaf}")
            if both is None:
                continue
            axis = 0 if both.item.shape[0] == 2 * units else 1
            for half, n in _FUSED_GATES.items():
                cut = replace(both, axis=axis, start=n * units, stop=(n + 1) * units)
                found[f"{stem}{half}.{leaf}"] = cut
    return found
