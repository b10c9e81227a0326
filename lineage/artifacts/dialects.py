"""What frameworks call the same tensor, and which tensors hold several others: tables, no numbers.

A name is a hint and never evidence: whoever pairs tensors by these names must look at the shapes
first and at the values afterwards. The words on the right are those of GGUF, the one dialect that
every family of language models is already translated to.

Sources: the parameter names of Hugging Face transformers, PyTorch (`in_proj_weight`), timm,
open_clip, Keras (`kernel:0`), Flax, the original BERT (`gamma`, `beta`) and GPT-2 releases, and
`TensorNameMap` of the package gguf.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

__all__ = [
    "Layered", "Part", "canonical_name", "is_known_word", "is_no_weight",
    "is_reordered_for_rotation", "layered", "parts_of",
]  # fmt: skip


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_WRAPPERS = _set(
    "module model _model base_model transformer encoder enc backbone network net _orig_mod"
    " language_model text_model llm bert tf_bert_model roberta distilbert electra deberta albert"
    " vit deit clip gpt_neox auto_model transformer_encoder params state_dict"
)
"""What is put before a model's own names, in any number and order."""

_WRAPPED = _set("_orig_mod _fsdp_wrapped_module _checkpoint_wrapped_module")
"""What PyTorch puts around a module of any depth: compiled, sharded, or computed anew backwards."""

_TOWERS = {
    "visual": "v", "vision_model": "v", "vision_tower": "v", "v": "v",
    "decoder": "dec", "dec": "dec",
}  # fmt: skip
"""The other half of a model with two of them: its layers are counted from 0 as well."""

_STACKS = _set("layers layer h blk blocks block resblocks encoder_layers")
_NUMBERED = re.compile(r"(?:encoder_)?(?:layer|block|h)(?:_\._|_)(\d+)")

_LEAVES = {
    "weight": "weight", "kernel": "weight", "gamma": "weight", "depthwise_kernel": "weight",
    "bias": "bias", "beta": "bias",
    "running_mean": "running_mean", "moving_mean": "running_mean",
    "running_var": "running_var", "moving_variance": "running_var",
}  # fmt: skip
"""Last words; they change only behind another word. What is not here is a name's own last word."""

_JOINED_LEAVES = re.compile(r"(in_proj)_(weight|bias)")


def _under(parents: str, children: dict[str, str]) -> dict[str, str]:
    """Return `parent.child` for all parents and for the words that mean one thing."""
    return {
        f"{parent}.{word}".removeprefix("-."): role
        for parent in parents.split()
        for role, words in children.items()
        for word in words.split()
    }


_IN_LAYER = {
    **_under(
        "self_attn attention.self attention attn attn.attention attention.attn self_attention"
        " SelfAttention layer.0.SelfAttention norm_attn_norm.attn mixer multi_head_attention",
        {
            "attn_q": "q query q_proj query_proj q_lin wq to_q q_proj_no_perm",
            "attn_k": "k key k_proj key_proj k_lin wk to_k k_proj_no_perm",
            "attn_v": "v value v_proj value_proj v_lin wv to_v",
            "query_key_value": "wqkv",
            "attn_qkv": "qkv qkv_proj Wqkv c_attn in_proj to_qkv",
            "attn_output": "o o_proj out_proj wo Wo dense proj c_proj out_lin output.dense out"
            " to_out.0 linear",
            "attn_q_norm": "q_norm q_layernorm query_layernorm q_ln",
            "attn_k_norm": "k_norm k_layernorm key_layernorm k_ln",
        },
    ),
    **_under(
        "mlp ffn feed_forward DenseReluDense layer.1.DenseReluDense layer.2.DenseReluDense -",
        {
            "ffn_up": "up_proj fc1 fc_in c_fc dense_h_to_4h lin1 wi wi_1 fc11 fc_up linear1"
            " intermediate.dense",
            "ffn_gate": "gate_proj wi_0 fc12 c_fc_0 c_fc2",
            "ffn_down": "down_proj fc2 fc_out c_proj dense_4h_to_h lin2 wo linear2 proj_2",
        },
    ),
    **_under("feed_forward", {"ffn_gate": "w1", "ffn_down": "w2", "ffn_up": "w3"}),
    **_under(
        "-",
        {
            "attn_norm": "input_layernorm ln_1 ln1 norm_1 norm1 layer_norm1 layernorm_before"
            " attention_norm attn_norm ln_attn layer.0.layer_norm norm_attn_norm.norm_1",
            "ffn_norm": "post_attention_layernorm ln_2 ln2 norm_2 norm2 layer_norm2"
            " layernorm_after ffn_norm ln_mlp",
            "attn_output_norm": "attention.output.LayerNorm sa_layer_norm",
            "layer_output_norm": "output.LayerNorm output_layer_norm",
            "ffn_down": "output.dense mlp.3",
            "ffn_up": "intermediate.dense mlp.0",
        },
    ),
}
"""What stands behind a layer's number."""

_ELSEWHERE = _under(
    "-",
    {
        "token_embd": "embed_tokens wte word_embeddings embeddings.word_embeddings tok_embeddings"
        " embeddings.tok_embeddings embeddings.token_embedding token_embedding embed_in shared"
        " embedding.word_embeddings",
        "position_embd": "wpe embeddings.position_embeddings embeddings.position_embedding"
        " pos_embed positional_embedding embed_positions embeddings.pos_embedding",
        "token_types": "embeddings.token_type_embeddings",
        "token_embd_norm": "embeddings.LayerNorm embeddings.norm emb_ln word_embeddings_layernorm",
        "output": "lm_head embed_out output_layer",
        "output_norm": "norm ln_f final_layernorm final_layer_norm norm_f layernorm ln_final",
        "class_embd": "cls_token embeddings.cls_token embeddings.class_embedding class_embedding",
        "patch_embd": "patch_embed.proj embeddings.patch_embeddings.projection"
        " embeddings.patch_embedding conv1 conv_proj",
        "pre_ln": "ln_pre pre_layrnorm",
        "post_ln": "ln_post post_layernorm",
        "classifier": "head classifier",
    },
)
"""Names outside of the layers."""

_OF_A_TOWER = {"patch_embd": {"conv1", "conv_proj"}}
"""Words that mean this only in the half that looks at pictures."""


@lru_cache(maxsize=1 << 16)
def canonical_name(name: str) -> str:
    """Return what a tensor of this name is called once dialect and wrappers are taken off.

    The same for a name that is canonical already. An unknown name stays, without its wrappers.

    Example:
        >>> canonical_name("bert.encoder.layer.3.attention.self.query.weight")
        'blk.3.attn_q.weight'
        >>> canonical_name("model/dense_1/kernel:0")
        'dense_1.weight'
    """
    for _ in range(8):  # what is taken off may bare more
        name, before = _bared(name), name
        if name == before:
            break
    return name


def is_known_word(word: str) -> bool:
    """Whether a table has a first word of names: a wrapper, a half of a model or a stack."""
    return word in _WRAPPERS or word in _TOWERS or word in _STACKS or bool(_NUMBERED.match(word))


def _bared(name: str) -> str:
    words, leaf = _words(name)
    if not words:
        return name
    tower = _strip(words)
    number, body = _layer(words)
    if number is not None:
        role = _IN_LAYER.get(".".join(body), ".".join(body))
        return ".".join(part for part in (tower, "blk", number, role, leaf) if part)
    joined = ".".join(words)
    role = _ELSEWHERE.get(joined, joined)
    if joined in _OF_A_TOWER.get(role, ()) and tower != "v":
        role = joined
    if not leaf and joined in _ELSEWHERE:
        leaf = "weight"
    return ".".join(part for part in (tower, role, leaf) if part)


def _words(name: str) -> tuple[list[str], str]:
    """Split a name at its dots and slashes into words and a known last word, if it has one."""
    text = re.sub(r":\d+$", "", name).replace("/", ".")
    text = _JOINED_LEAVES.sub(r"\1.\2", text)
    words: list[str] = []
    for word in text.split("."):
        if word and word not in _WRAPPED and (not words or words[-1] != word or word.isdigit()):
            words.append(word)
    words = _rejoined(words)
    if len(words) > 1 and words[-1] in _LEAVES:
        return words[:-1], _LEAVES[words[-1]]
    if len(words) > 1 and words[-1] in {"embeddings", "embedding"}:  # Keras, Flax
        return words[:-1], "weight"
    return words, ""


def _rejoined(words: list[str]) -> list[str]:
    """Put `layer_._3`, which the dots have split, together again."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in {"layer_", "h_", "block_"} and re.fullmatch(r"_\d+", word):
            joined[-1] += "." + word
        else:
            joined.append(word)
    return joined


def _strip(words: list[str]) -> str:
    """Take wrappers off the front, never the last word; return the half of the model they name."""
    tower = ""
    while len(words) > 1:
        if words[0] in _TOWERS and not tower:
            tower = _TOWERS[words[0]]
        elif words[0] not in _WRAPPERS and not (words[0] == "0" and words[1] in _WRAPPERS):
            break
        del words[0]
    return tower


def _layer(words: list[str]) -> tuple[str | None, list[str]]:
    """Return the number of the layer that the words begin with, and the rest."""
    if len(words) > 2 and words[0] in _STACKS:
        if words[1].isdigit():
            return words[1], words[2:]
        words = words[1:]
    found = _NUMBERED.fullmatch(words[0]) if len(words) > 1 else None
    return (found[1], words[1:]) if found else (None, words)


class Layered(NamedTuple):
    """A canonical name, taken apart at its first number."""

    stack: str
    number: int
    role: str


_LAYERED = re.compile(r"(?:(.*?)\.)?(\d{1,6})\.(.+)", re.DOTALL)


def layered(name: str) -> Layered | None:
    """Take a tensor's name apart where it is one of a numbered layer.

    Example:
        >>> layered("model.layers.3.mlp.up_proj.weight")
        Layered(stack='blk', number=3, role='ffn_up.weight')
    """
    found = _LAYERED.fullmatch(canonical_name(name))
    return Layered(found[1] or "", int(found[2]), found[3]) if found else None


_NO_WEIGHT = re.compile(
    r"(?:.*[./])?(?:optimizer|optim|optimizer_states?|optimizer_state_dict|exp_avg|exp_avg_sq"
    r"|max_exp_avg_sq|momentum_buffer|inv_freq|cos_cached|sin_cached|rotary_emb|position_ids"
    r"|num_batches_tracked|relative_position_index)(?:[./].*)?",
    re.DOTALL,
)


def is_no_weight(name: str) -> bool:
    """Whether a name is of optimizer state, or of a table that a constructor or data filled.

    Such tensors are alike between strangers: second moments are all positive, tables all the same.
    """
    return bool(_NO_WEIGHT.fullmatch(name))


_GGUF = re.compile(r"blk\.\d+\.attn_[qk]\.(?:weight|bias)", re.ASCII)


def is_reordered_for_rotation(name: str, other: str) -> bool:
    """Whether two names are of a query or key that one of the two holds with its rows reordered.

    llama.cpp's converters lay the rows of llama's queries and keys out in another order, in which
    the two halves that a rotary embedding turns lie next to each other.
    """
    return bool(_GGUF.fullmatch(name)) != bool(_GGUF.fullmatch(other))


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows or columns of a tensor that are a tensor of their own in other dialects.

    Attributes:
        name: Its canonical name.
        axis: 0 for rows (or places of a vector), 1 for columns.
        start: First row or column.
        stop: The one after the last.
    """

    name: str
    axis: int
    start: int
    stop: int

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """Return its shape, given that of the tensor it is part of."""
        extent = self.stop - self.start
        return (extent, *whole[1:]) if self.axis == 0 else (whole[0], extent)


_QKV, _KV, _HALVES = ("attn_q", "attn_k", "attn_v"), ("attn_k", "attn_v"), ("ffn_gate", "ffn_up")

_FUSED = {
    "qkv": _QKV, "qkv_proj": _QKV, "Wqkv": _QKV, "c_attn": _QKV, "in_proj": _QKV, "to_qkv": _QKV,
    "attn_qkv": _QKV, "W_pack": _QKV,
    "kv": _KV, "kv_proj": _KV, "to_kv": _KV,
    "gate_up_proj": _HALVES, "w12": _HALVES,
}  # fmt: skip
"""The last word of a tensor that holds others one after the other -> what they are. Those that
interleave them head by head (`query_key_value` of NeoX, BLOOM and Falcon) stay whole."""

_MAYBE_FUSED = re.compile("|".join(_FUSED))
"""What the name of a fused tensor has somewhere: most names are told from it at once."""

_ATTENTION = re.compile(r"attn|attention|mha|in_proj_", re.IGNORECASE)
"""What a name has somewhere if its `in_proj` is one of attention, and not of a state space."""


def parts_of(name: str, shape: tuple[int, ...]) -> tuple[Part, ...]:
    """Return the tensors that a fused one holds, in their order; none where it is not one.

    Example:
        >>> [part.name for part in parts_of("h.0.attn.c_attn.bias", (9,))]
        ['blk.0.attn_q.bias', 'blk.0.attn_k.bias', 'blk.0.attn_v.bias']
    """
    if not _MAYBE_FUSED.search(name):
        return ()
    words, leaf = _words(name)
    roles = _FUSED.get(words[-1], ()) if words else ()
    if not roles or leaf not in {"weight", "bias"} or not 1 <= len(shape) <= 2 or 0 in shape:
        return ()
    if words[-1] == "in_proj" and not _ATTENTION.search(name):
        return ()
    axis, extents = _extents(roles, shape)
    stem = canonical_name(name).removesuffix(f".{leaf}")
    stem = stem[: stem.rindex(".") + 1] if "." in stem else ""
    if (layer := re.match(r"(?:\w+\.)?blk\.\d+\.", stem)) is not None:
        stem = layer[0]
    parts, start = [], 0
    for role, extent in zip(roles, extents, strict=False):
        parts.append(Part(f"{stem}{role}.{leaf}", axis, start, start + extent))
        start += extent
    return tuple(parts)


def _extents(roles: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Return along which axis a fused tensor's parts follow each other, and how far each goes.

    Equal parts where one side is that many times the other; a square query with fewer keys and
    values (rows = columns + 2 each) where it is a whole number; else equal parts along the rows.
    """
    count, rows = len(roles), shape[0]
    if not count:
        return 0, ()
    if len(shape) == 2:
        cols = shape[1]
        if rows != count * cols and cols == count * rows:
            return 1, (rows,) * count
        if roles == _QKV and cols < rows < 3 * cols and (rows - cols) % 2 == 0:
            return 0, (cols, (rows - cols) // 2, (rows - cols) // 2)
    return (0, (rows // count,) * count) if rows % count == 0 else (0, ())
