"""How each architecture lays out its tensors: a table of roles a dialect.

A role is what a tensor does: `2.k.w` is the weight of the keys of layer 2. Its axes have names, and
every axis of one name holds the same things in the same order, so that what is done to the residual
stream or to the units of a layer is done to all tensors that touch it:

    tokens           rows of the vocabulary
    residual         coordinates of the residual stream
    units.2          neurons of the MLP of layer 2
    groups.2         key and value heads of layer 2
    members.2        query heads that share one of them
    inside.2         coordinates within a query or key head
    value.2          coordinates within a value head
    own              what no other tensor has, such as the sides of a kernel

`#` stands for the number of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

AXES: Mapping[str, tuple[str, ...]] = {
    "embed.w": ("tokens", "residual"),
    "positions.w": ("positions", "residual"),
    "types.w": ("types", "residual"),
    "class.w": ("own", "own", "residual"),
    "sites.w": ("own", "sites", "residual"),
    "patch.w": ("residual", "own", "own", "own"),
    "patch.b": ("residual",),
    "embed_norm.w": ("residual",),
    "embed_norm.b": ("residual",),
    "#.attn_norm.w": ("residual",),
    "#.attn_norm.b": ("residual",),
    "#.q.w": ("groups.#", "members.#", "inside.#", "residual"),
    "#.q.b": ("groups.#", "members.#", "inside.#"),
    "#.k.w": ("groups.#", "inside.#", "residual"),
    "#.k.b": ("groups.#", "inside.#"),
    "#.v.w": ("groups.#", "value.#", "residual"),
    "#.v.b": ("groups.#", "value.#"),
    "#.o.w": ("residual", "groups.#", "members.#", "value.#"),
    "#.o.b": ("residual",),
    "#.mlp_norm.w": ("residual",),
    "#.mlp_norm.b": ("residual",),
    "#.gate.w": ("units.#", "residual"),
    "#.up.w": ("units.#", "residual"),
    "#.up.b": ("units.#",),
    "#.down.w": ("residual", "units.#"),
    "#.down.b": ("residual",),
    "norm.w": ("residual",),
    "norm.b": ("residual",),
    "decode.w": ("residual", "residual"),
    "decode.b": ("residual",),
    "decode_norm.w": ("residual",),
    "decode_norm.b": ("residual",),
    "head.w": ("tokens", "residual"),
    "head.b": ("tokens",),
    "classes.w": ("classes", "residual"),
    "classes.b": ("classes",),
}

READERS: Mapping[str, tuple[str, ...]] = {
    "#.attn_norm": ("#.q.w", "#.k.w", "#.v.w"),
    "#.mlp_norm": ("#.gate.w", "#.up.w"),
    "norm": ("head.w", "classes.w"),
}
"""Norm before something -> the matrices that read what it gives."""

WRITERS = (
    "embed.w", "positions.w", "types.w", "class.w", "sites.w", "patch.w", "patch.b",
    "#.o.w", "#.o.b", "#.down.w", "#.down.b",
)  # fmt: skip
"""What is added to the residual stream."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one family of transformers names and shapes what it holds.

    Attributes:
        names: Role -> name of the tensor; `qkv` holds queries, keys and values together.
        turned: The matrices of layers are stored (in, out), as Conv1D does.
        fused: `blocks` of all queries, all keys, all values, or the three for each of the `heads`.
        centred: Norms subtract the mean (LayerNorm); RMSNorm does not.
        before: Norms stand before what reads them, and what they give is not added to.
        rotary: Share of a head's coordinates that positions turn; 0 where positions are added.
        epsilon: The configuration's name of what norms add to the variance.
        heads: The configuration's name of the number of heads.
        width: The configuration's name of the width of the residual stream.
    """

    names: Mapping[str, str]
    turned: bool = False
    fused: str | None = None
    centred: bool = True
    before: bool = True
    rotary: float = 0.0
    epsilon: str = "layer_norm_eps"
    heads: str = "num_attention_heads"
    width: str = "hidden_size"


def _pairs(names: Mapping[str, str], ends: tuple[str, ...] = ("w", "b")) -> dict[str, str]:
    """Return role -> tensor for modules that have a weight and a bias."""
    words = {"w": "weight", "b": "bias"}
    return {f"{role}.{end}": f"{name}.{words[end]}" for role, name in names.items() for end in ends}


_LLAMA = Dialect(
    _pairs(
        {
            "embed": "model.embed_tokens",
            "#.attn_norm": "model.layers.#.input_layernorm",
            "#.q": "model.layers.#.self_attn.q_proj",
            "#.k": "model.layers.#.self_attn.k_proj",
            "#.v": "model.layers.#.self_attn.v_proj",
            "#.o": "model.layers.#.self_attn.o_proj",
            "#.mlp_norm": "model.layers.#.post_attention_layernorm",
            "#.gate": "model.layers.#.mlp.gate_proj",
            "#.up": "model.layers.#.mlp.up_proj",
            "#.down": "model.layers.#.mlp.down_proj",
            "norm": "model.norm",
            "head": "lm_head",
        }
    ),
    centred=False,
    rotary=1.0,
    epsilon="rms_norm_eps",
)

_GPT2 = Dialect(
    _pairs(
        {
            "embed": "transformer.wte",
            "positions": "transformer.wpe",
            "#.attn_norm": "transformer.h.#.ln_1",
            "#.qkv": "transformer.h.#.attn.c_attn",
            "#.o": "transformer.h.#.attn.c_proj",
            "#.mlp_norm": "transformer.h.#.ln_2",
            "#.up": "transformer.h.#.mlp.c_fc",
            "#.down": "transformer.h.#.mlp.c_proj",
            "norm": "transformer.ln_f",
            "head": "lm_head",
        }
    ),
    turned=True,
    fused="blocks",
    epsilon="layer_norm_epsilon",
    heads="n_head",
    width="n_embd",
)

_NEOX = Dialect(
    _pairs(
        {
            "embed": "gpt_neox.embed_in",
            "#.attn_norm": "gpt_neox.layers.#.input_layernorm",
            "#.qkv": "gpt_neox.layers.#.attention.query_key_value",
            "#.o": "gpt_neox.layers.#.attention.dense",
            "#.mlp_norm": "gpt_neox.layers.#.post_attention_layernorm",
            "#.up": "gpt_neox.layers.#.mlp.dense_h_to_4h",
            "#.down": "gpt_neox.layers.#.mlp.dense_4h_to_h",
            "norm": "gpt_neox.final_layer_norm",
            "head": "lm_head",
        }
    ),
    fused="heads",
    rotary=0.25,
)

_ENCODER = {
    "embed": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "embed_norm": "embeddings.LayerNorm",
    "#.q": "encoder.layer.#.attention.self.query",
    "#.k": "encoder.layer.#.attention.self.key",
    "#.v": "encoder.layer.#.attention.self.value",
    "#.o": "encoder.layer.#.attention.output.dense",
    "#.attn_norm": "encoder.layer.#.attention.output.LayerNorm",
    "#.up": "encoder.layer.#.intermediate.dense",
    "#.down": "encoder.layer.#.output.dense",
    "#.mlp_norm": "encoder.layer.#.output.LayerNorm",
}

_BERT = Dialect(
    _pairs({role: f"bert.{name}" for role, name in _ENCODER.items()})
    | _pairs(
        {
            "decode": "cls.predictions.transform.dense",
            "decode_norm": "cls.predictions.transform.LayerNorm",
        }
    )
    | {"head.b": "cls.predictions.bias"},
    before=False,
)

_SENTENCES = Dialect(_pairs(_ENCODER | {"classes": "pooler.dense"}), before=False)

_VIT = Dialect(
    _pairs(
        {
            "patch": "vit.embeddings.patch_embeddings.projection",
            "#.attn_norm": "vit.layers.#.layernorm_before",
            "#.q": "vit.layers.#.attention.q_proj",
            "#.k": "vit.layers.#.attention.k_proj",
            "#.v": "vit.layers.#.attention.v_proj",
            "#.o": "vit.layers.#.attention.o_proj",
            "#.mlp_norm": "vit.layers.#.layernorm_after",
            "#.up": "vit.layers.#.mlp.fc1",
            "#.down": "vit.layers.#.mlp.fc2",
            "norm": "vit.layernorm",
            "classes": "classifier",
        }
    )
    | {"class.w": "vit.embeddings.cls_token", "sites.w": "vit.embeddings.position_embeddings"},
)

DIALECTS: dict[str, tuple[Dialect, ...]] = {
    "llama": (_LLAMA,),
    "qwen2": (_LLAMA,),
    "gpt2": (_GPT2,),
    "gpt_neox": (_NEOX,),
    "bert": (_BERT, _SENTENCES),
    "vit": (_VIT,),
}
"""`model_type` -> dialects; the first in which every tensor has a role is the right one."""
