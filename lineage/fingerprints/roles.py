"""What names alone leave open about roles, settled by what else is there: tables and shapes.

| layer has | then |
|---|---|
| `post_feedforward_layernorm`, as Gemma 2 and 3 and OLMo 2 | `post_attention_layernorm` is of what attention computed, and `pre_feedforward_layernorm` stands in front of the units |
| `final_layer_norm` and `self_attn_layer_norm`, as BART, OPT and Whisper | they stand in front of the units and of attention; behind them in models with norms after, where nothing but their order can be changed, so that it does not matter |
| a third norm, as T5's and PyTorch's decoders | the second is of the second attention, the third in front of the units |
| twice as many rows in `up` as columns in `down`, and no gate, as ChatGLM | the first half is the gate |
"""  # noqa: E501 - a table

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lineage.artifacts.dialects import layered
from lineage.fingerprints.places import CROSS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lineage.fingerprints.places import Place

__all__ = ["AFTER", "settled"]

AFTER = ("post_attention_norm", "post_ffw_norm")
"""Norms of what a branch computed, before it is added to the stream: GGUF's words."""

_BESIDE = {
    "post_self_attn_layernorm": AFTER[0], "post_mlp_layernorm": AFTER[1],
    "post_feedforward_layernorm": AFTER[1], "pre_feedforward_layernorm": "ffn_norm",
    "self_attn_layer_norm": "attn_norm", "final_layer_norm": "ffn_norm", "mlp_norm": "ffn_norm",
    "attention.LayerNorm": "attn_output_norm", "layer_norm": "attn_norm",
    "layer.1.layer_norm": "ffn_norm",
    "feed_forward.intermediate_dense": "ffn_up", "feed_forward.output_dense": "ffn_down",
    "mlp.Wi": "ffn_up", "mlp.Wo": "ffn_down",
}  # fmt: skip
"""Last words of names -> roles."""

_OUTSIDE = {"layer_norm": "output_norm", "final_norm": "output_norm", "ln_out": "output_norm"}
"""The same outside of the layers, where nothing else has that role."""

_TOWERS = frozenset({"", "dec", "v"})

_THIRD = {"layer.2.layer_norm": "layer.1.layer_norm", "norm3": "ffn_norm"}
"""What the third norm of a layer is called -> how the second was read."""

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
        if one is None:
            tower, _, last = stem.rpartition(".")
            other = ".".join(part for part in (tower, _OUTSIDE.get(last, last)) if part)
            is_free = tower in _TOWERS and f"{other}.weight" not in places
            found[f"{other}.{leaf}" if is_free and stem else role] = place
            continue
        prefix = role[: -len(one.role)]
        last = stem[len(prefix) :]
        if last == "ffn_norm" and f"{prefix}post_feedforward_layernorm.weight" in places:
            last = AFTER[0]
        third = next((w for w in _THIRD if f"{prefix}{w}.weight" in places), None)
        if third is not None and last in (third, _THIRD[third]):
            if last != third:
                prefix, last = f"{one.stack.removesuffix('blk')}{CROSS}.{one.number}.", "attn_norm"
            else:
                last = "ffn_norm"
        found[f"{prefix}{_BESIDE.get(last, last)}.{leaf}"] = place
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
            axis = 0 if both.whole[0] == 2 * units else 1
            for half, n in _FUSED_GATES.items():
                cut = replace(both, axis=axis, start=n * units, stop=(n + 1) * units)
                found[f"{stem}{half}.{leaf}"] = cut
    return found
