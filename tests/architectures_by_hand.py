"""How architectures are made and named, one line a part: the table that `by_hand` writes by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dialect:
    """How one architecture is made and named.

    Attributes:
        names: Part -> name, `#` a layer's number; `N.qkv` and `N.halves` hold several.
        heads: Of queries.
        groups: Of keys and values.
        is_centred: Whether norms take the mean away, and everything has a bias.
        is_gated: Whether feed-forward units have gates.
        fused: How `N.qkv` holds the three: `by head` or `blocks`.
        has_one_norm: Whether attention and units read through one norm.
        is_turned: Whether matrices are stored inputs first.
        adds_one: Whether gains are stored less one.
        is_tied: Whether embeddings are the head.
        has_after: Whether what a branch computes passes a norm before it is added.
        norms_in_heads: Whether queries and keys pass norms: of each head, or of all together.
    """

    names: dict[str, str]
    heads: int = 4
    groups: int = 4
    is_centred: bool = True
    is_gated: bool = False
    fused: str = ""
    has_one_norm: bool = False
    is_turned: bool = False
    adds_one: bool = False
    is_tied: bool = False
    has_after: bool = False
    norms_in_heads: str = ""


def _both(names: dict[str, str]) -> dict[str, str]:
    """Return weights and biases of modules."""
    return {
        f"{part}{end}": f"{name}.{leaf}"
        for part, name in names.items()
        for end, leaf in (("", "weight"), (".bias", "bias"))
    }


_NEOX = _both({
    "embed": "gpt_neox.embed_in", "norm": "gpt_neox.final_layer_norm", "head": "embed_out",
    "#.attn_norm": "gpt_neox.layers.#.input_layernorm",
    "#.mlp_norm": "gpt_neox.layers.#.post_attention_layernorm",
    "#.qkv": "gpt_neox.layers.#.attention.query_key_value",
    "#.o": "gpt_neox.layers.#.attention.dense",
    "#.up": "gpt_neox.layers.#.mlp.dense_h_to_4h",
    "#.down": "gpt_neox.layers.#.mlp.dense_4h_to_h",
})  # fmt: skip

_FALCON = _both({
    "embed": "transformer.word_embeddings", "norm": "transformer.ln_f", "head": "lm_head",
    "#.attn_norm": "transformer.h.#.ln_attn", "#.mlp_norm": "transformer.h.#.ln_mlp",
    "#.qkv": "transformer.h.#.self_attention.query_key_value",
    "#.o": "transformer.h.#.self_attention.dense",
    "#.up": "transformer.h.#.mlp.dense_h_to_4h",
    "#.down": "transformer.h.#.mlp.dense_4h_to_h",
})  # fmt: skip

_FALCON_OLD = {
    part: name.replace("ln_attn", "input_layernorm")
    for part, name in _FALCON.items()
    if "mlp_norm" not in part
}

_BLOOM = {
    part: name.replace("ln_attn", "input_layernorm").replace("ln_mlp", "post_attention_layernorm")
    for part, name in _FALCON.items()
}

_LLAMA = _both({
    "embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head",
    "#.attn_norm": "model.layers.#.input_layernorm",
    "#.mlp_norm": "model.layers.#.post_attention_layernorm",
    "#.q": "model.layers.#.self_attn.q_proj", "#.k": "model.layers.#.self_attn.k_proj",
    "#.v": "model.layers.#.self_attn.v_proj", "#.o": "model.layers.#.self_attn.o_proj",
    "#.gate": "model.layers.#.mlp.gate_proj", "#.up": "model.layers.#.mlp.up_proj",
    "#.down": "model.layers.#.mlp.down_proj",
})  # fmt: skip

_PHI3 = {
    part: name
    for part, name in _LLAMA.items()
    if part.removesuffix(".bias") not in ("#.q", "#.k", "#.v", "#.gate", "#.up")
} | {
    "#.qkv": "model.layers.#.self_attn.qkv_proj.weight",
    "#.halves": "model.layers.#.mlp.gate_up_proj.weight",
}

_GPTJ = _both({
    "embed": "transformer.wte", "norm": "transformer.ln_f", "head": "lm_head",
    "#.attn_norm": "transformer.h.#.ln_1",
    "#.q": "transformer.h.#.attn.q_proj", "#.k": "transformer.h.#.attn.k_proj",
    "#.v": "transformer.h.#.attn.v_proj", "#.o": "transformer.h.#.attn.out_proj",
    "#.up": "transformer.h.#.mlp.fc_in", "#.down": "transformer.h.#.mlp.fc_out",
})  # fmt: skip

_PHI = _both({
    "embed": "model.embed_tokens", "norm": "model.final_layernorm", "head": "lm_head",
    "#.attn_norm": "model.layers.#.input_layernorm",
    "#.q": "model.layers.#.self_attn.q_proj", "#.k": "model.layers.#.self_attn.k_proj",
    "#.v": "model.layers.#.self_attn.v_proj", "#.o": "model.layers.#.self_attn.dense",
    "#.up": "model.layers.#.mlp.fc1", "#.down": "model.layers.#.mlp.fc2",
})  # fmt: skip

_GPT2 = _both({
    "embed": "transformer.wte", "norm": "transformer.ln_f", "head": "lm_head",
    "#.attn_norm": "transformer.h.#.ln_1", "#.mlp_norm": "transformer.h.#.ln_2",
    "#.qkv": "transformer.h.#.attn.c_attn", "#.o": "transformer.h.#.attn.c_proj",
    "#.up": "transformer.h.#.mlp.c_fc", "#.down": "transformer.h.#.mlp.c_proj",
})  # fmt: skip

_MPT = _both({
    "embed": "transformer.wte", "norm": "transformer.norm_f", "head": "lm_head",
    "#.attn_norm": "transformer.blocks.#.norm_1", "#.mlp_norm": "transformer.blocks.#.norm_2",
    "#.qkv": "transformer.blocks.#.attn.Wqkv", "#.o": "transformer.blocks.#.attn.out_proj",
    "#.up": "transformer.blocks.#.ffn.up_proj", "#.down": "transformer.blocks.#.ffn.down_proj",
})  # fmt: skip

_TIMM = _both({
    "norm": "norm", "head": "head",
    "#.attn_norm": "blocks.#.norm1", "#.mlp_norm": "blocks.#.norm2",
    "#.qkv": "blocks.#.attn.qkv", "#.o": "blocks.#.attn.proj",
    "#.up": "blocks.#.mlp.fc1", "#.down": "blocks.#.mlp.fc2",
}) | {"embed": "pos_embed"}  # fmt: skip

_OPT = _both({
    "embed": "model.decoder.embed_tokens", "norm": "model.decoder.final_layer_norm",
    "head": "lm_head",
    "#.attn_norm": "model.decoder.layers.#.self_attn_layer_norm",
    "#.mlp_norm": "model.decoder.layers.#.final_layer_norm",
    "#.q": "model.decoder.layers.#.self_attn.q_proj",
    "#.k": "model.decoder.layers.#.self_attn.k_proj",
    "#.v": "model.decoder.layers.#.self_attn.v_proj",
    "#.o": "model.decoder.layers.#.self_attn.out_proj",
    "#.up": "model.decoder.layers.#.fc1", "#.down": "model.decoder.layers.#.fc2",
})  # fmt: skip

_OWN_WORD = _both({
    "embed": "nobodys.item_embed", "norm": "nobodys.layer_norm", "head": "classifier",
    "#.attn_norm": "nobodys.encoder.layer.#.norm1", "#.mlp_norm": "nobodys.encoder.layer.#.norm2",
    "#.q": "nobodys.encoder.layer.#.attention.q_proj",
    "#.k": "nobodys.encoder.layer.#.attention.k_proj",
    "#.v": "nobodys.encoder.layer.#.attention.v_proj",
    "#.o": "nobodys.encoder.layer.#.attention.o_proj",
    "#.up": "nobodys.encoder.layer.#.mlp.fc1", "#.down": "nobodys.encoder.layer.#.mlp.fc2",
})  # fmt: skip

_TORCH = {
    part: name.replace("in_proj.", "in_proj_")
    for part, name in _both({
        "embed": "embedding", "norm": "encoder.norm", "head": "head",
        "#.attn_norm": "encoder.layers.#.norm1", "#.mlp_norm": "encoder.layers.#.norm2",
        "#.qkv": "encoder.layers.#.self_attn.in_proj", "#.o": "encoder.layers.#.self_attn.out_proj",
        "#.up": "encoder.layers.#.linear1", "#.down": "encoder.layers.#.linear2",
    }).items()
}  # fmt: skip

_INTERNLM2 = {
    part: f"{name}.weight"
    for part, name in {
        "embed": "model.tok_embeddings", "norm": "model.norm", "head": "output",
        "#.attn_norm": "model.layers.#.attention_norm", "#.mlp_norm": "model.layers.#.ffn_norm",
        "#.qkv": "model.layers.#.attention.wqkv", "#.o": "model.layers.#.attention.wo",
        "#.gate": "model.layers.#.feed_forward.w1", "#.up": "model.layers.#.feed_forward.w3",
        "#.down": "model.layers.#.feed_forward.w2",
    }.items()
}  # fmt: skip

_CHATGLM = {
    part: name
    for part, name in _both({
        "embed": "transformer.embedding.word_embeddings",
        "norm": "transformer.encoder.final_layernorm", "head": "transformer.output_layer",
        "#.attn_norm": "transformer.encoder.layers.#.input_layernorm",
        "#.mlp_norm": "transformer.encoder.layers.#.post_attention_layernorm",
        "#.qkv": "transformer.encoder.layers.#.self_attention.query_key_value",
        "#.o": "transformer.encoder.layers.#.self_attention.dense",
        "#.halves": "transformer.encoder.layers.#.mlp.dense_h_to_4h",
        "#.down": "transformer.encoder.layers.#.mlp.dense_4h_to_h",
    }).items()
    if not part.endswith("halves.bias")
}  # fmt: skip

_GEMMA2 = _LLAMA | {
    "#.after_attn": "model.layers.#.post_attention_layernorm.weight",
    "#.mlp_norm": "model.layers.#.pre_feedforward_layernorm.weight",
    "#.after_mlp": "model.layers.#.post_feedforward_layernorm.weight",
}

_QWEN3 = _LLAMA | {
    "#.q_norm": "model.layers.#.self_attn.q_norm.weight",
    "#.k_norm": "model.layers.#.self_attn.k_norm.weight",
}

_OLMO2 = {
    part: name
    for part, name in (_GEMMA2 | _QWEN3).items()
    if part.removesuffix(".bias") not in ("#.attn_norm", "#.mlp_norm")
}

DIALECTS = {
    "neox": Dialect(_NEOX, fused="by head"),
    "bloom": Dialect(_BLOOM, fused="by head"),
    "falcon": Dialect(_FALCON, groups=2, fused="by head"),
    "falcon-7b": Dialect(_FALCON_OLD, groups=1, fused="by head", has_one_norm=True),
    "chatglm": Dialect(_CHATGLM, groups=2, fused="blocks", is_centred=False, is_gated=True),
    "internlm2": Dialect(_INTERNLM2, groups=2, fused="by head", is_centred=False, is_gated=True),
    "phi-3": Dialect(_PHI3, groups=2, fused="blocks", is_centred=False, is_gated=True),
    "gpt-j": Dialect(_GPTJ, has_one_norm=True),
    "phi": Dialect(_PHI, has_one_norm=True),
    "gpt-2": Dialect(_GPT2, fused="blocks", is_turned=True),
    "mpt": Dialect(_MPT, fused="blocks"),
    "timm": Dialect(_TIMM, fused="blocks"),
    "opt": Dialect(_OPT),
    "torch": Dialect(_TORCH, fused="blocks"),
    "a name of its own": Dialect(_OWN_WORD),
    "gemma": Dialect(_LLAMA, groups=2, is_centred=False, is_gated=True, adds_one=True),
    "gemma-2": Dialect(
        _GEMMA2, groups=2, is_centred=False, is_gated=True, adds_one=True, has_after=True
    ),
    "gemma-3": Dialect(
        _GEMMA2 | _QWEN3 | {"#.mlp_norm": _GEMMA2["#.mlp_norm"]},
        groups=2,
        is_centred=False,
        is_gated=True,
        adds_one=True,
        has_after=True,
        norms_in_heads="each",
    ),
    "qwen-3": Dialect(_QWEN3, groups=2, is_centred=False, is_gated=True, norms_in_heads="each"),
    "olmo-2": Dialect(
        _OLMO2, groups=2, is_centred=False, is_gated=True, has_after=True, norms_in_heads="all"
    ),
}
