"""What adapters call the modules they change, in whichever dialect: tables, no numbers.

Denoisers (the U-Nets and transformers of image and video models) go by the names of diffusers,
everything else by those of `lineage.artifacts.dialects`. kohya's files turn dots into underscores;
which words had underscores before that is a table, and where it lacks one, `slug` makes both
spellings one all the same.

Sources: the key tables of diffusers (`lora_conversion_utils`, `state_dict_utils`) and of peft.
Tests hold this page against the packages themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from lineage.artifacts.dialects import canonical_name

__all__ = ["DENOISER", "extents_of", "modules_of", "slug"]

DENOISER = "denoiser."
"""What the names of a denoiser's modules begin with, whatever it is made of."""

_WRAPPERS = re.compile(r"^(?:base_model\.model\.|base_model\.)+")

_FLAT = re.compile(r"^(?:lora|lycoris|oft)_(te1|te2|te3|te|unet|transformer)_|^lycoris_")

_COMPONENTS = {
    "te": "te.", "te1": "te.", "te2": "te2.", "te3": "te3.",
    "text_encoder": "te.", "text_encoder_2": "te2.", "text_encoder_3": "te3.",
    "unet": DENOISER, "transformer": DENOISER, "diffusion_model": DENOISER,
}  # fmt: skip

_DOTTED = re.compile(
    r"^(?:model\.)?(text_encoder_2|text_encoder_3|text_encoder|unet|transformer|diffusion_model)[./]"
)

_ROOTS = re.compile(
    r"(?:down_blocks|up_blocks|mid_block|input_blocks|middle_block|output_blocks|double_blocks"
    r"|single_blocks|transformer_blocks|single_transformer_blocks|conv_in|conv_out|time_embed"
    r"|time_embedding|add_embedding|condition_embedder|proj_out|proj_in|norm_out|x_embedder"
    r"|context_embedder|time_text_embed|blocks|img_in|txt_in|head)(?:[./_]|$)"
)
"""What a denoiser's own names begin with; those of language models may have `transformer.` too."""

_SURE_ROOTS = re.compile(
    r"(?:down_blocks|up_blocks|mid_block|input_blocks|middle_block|output_blocks|double_blocks"
    r"|single_blocks|transformer_blocks|single_transformer_blocks)[./]"
)

_WORDS = """
    text_model self_attn cross_attn q_proj k_proj v_proj out_proj text_projection token_embedding
    position_embedding final_layer_norm layer_norm1 layer_norm2
    down_blocks up_blocks mid_block transformer_blocks single_transformer_blocks
    proj_in proj_out proj_mlp to_q to_k to_v to_out to_add_out add_q_proj add_k_proj add_v_proj
    ff_context norm1_context time_emb_proj conv_shortcut conv_in conv_out conv_norm_out
    time_embedding linear_1 linear_2 add_embedding
    input_blocks middle_block output_blocks in_layers out_layers emb_layers skip_connection
    time_embed label_emb
    double_blocks single_blocks img_attn txt_attn img_mlp txt_mlp img_mod txt_mod img_in txt_in
    time_in vector_in guidance_in in_layer out_layer final_layer adaLN_modulation
    k_img v_img img_emb text_embedding time_projection
    time_text_embed x_embedder context_embedder timestep_embedder text_embedder guidance_embedder
    norm_out norm_q norm_k condition_embedder time_embedder time_proj image_embedder
    up_proj gate_proj down_proj o_proj embed_tokens lm_head
"""
"""Words of dotted names that have an underscore in them."""

_BY_LENGTH = sorted((word.split("_") for word in _WORDS.split()), key=len, reverse=True)

_ENDINGS = [
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\.processor\.", "."),
        (r"\.base_layer$", ""),
        (r"(?<=[._])(to_[qkv])_lora$", r"\1"),
        (r"(?<=[._])to_out_lora$", "to_out.0"),
        (r"\.(?:lora|lora_linear_layer)$", ""),
    )
]
"""What older diffusers files put between a module's name and its factors."""

_OF_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out.0": "out_proj"}
"""What the oldest diffusers files called the attention of text encoders."""

Rule = tuple[str, "str | tuple[str, ...] | Callable[[re.Match[str]], str]"]


def _input(found: re.Match[str]) -> str:
    block, layer = divmod(int(found[1]) - 1, 3)
    if found[3].startswith("op"):
        return f"down_blocks.{block}.downsamplers.0.conv{found[3][2:]}"
    return f"down_blocks.{block}.{_inner(found[2])}.{layer}.{found[3]}"


def _output(found: re.Match[str]) -> str:
    block, layer = divmod(int(found[1]), 3)
    if found[2] == "2" or found[3] == "conv":
        return f"up_blocks.{block}.upsamplers.0.{found[3]}"
    return f"up_blocks.{block}.{_inner(found[2])}.{layer}.{found[3]}"


def _middle(found: re.Match[str]) -> str:
    inner, number = {"0": ("resnets", 0), "1": ("attentions", 0)}.get(found[1], ("resnets", 1))
    return f"mid_block.{inner}.{number}.{found[2]}"


def _inner(number: str) -> str:
    return {"0": "resnets", "1": "attentions"}.get(number, f"inner_{number}")


def _attention(kind: str) -> tuple[Rule, ...]:
    """Wan's attention: `self_attn` is `attn1`, `cross_attn` is `attn2`."""
    number = {"self": 1, "cross": 2}[kind]
    ends = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
    ends |= {"k_img": "add_k_proj", "v_img": "add_v_proj"}
    return tuple(
        (rf"blocks\.(\d+)\.{kind}_attn\.{theirs}", rf"blocks.\1.attn{number}.{ours}")
        for theirs, ours in ends.items()
    )


def _double(
    stream: str, heads: tuple[str, ...], out: str, feed: str, norm: str
) -> tuple[Rule, ...]:
    """One stream of a double block of Flux."""
    ours = r"transformer_blocks.\1"
    qkv = tuple(f"{ours}.attn.{head}" for head in heads)
    number = {"img": "1", "txt": "2"}[stream]
    here = r"double_blocks\.(\d+)\."
    return (
        (rf"{here}(?:{stream}_attn\.qkv|qkv_lora{number})", qkv),
        (rf"{here}(?:{stream}_attn\.proj|proj_lora{number})", f"{ours}.attn.{out}"),
        (rf"{here}{stream}_mlp\.0", f"{ours}.{feed}.net.0.proj"),
        (rf"{here}{stream}_mlp\.2", f"{ours}.{feed}.net.2"),
        (rf"{here}{stream}_mod\.lin", f"{ours}.{norm}.linear"),
    )


_SINGLE = r"single_transformer_blocks.\1"
_RULES: tuple[Rule, ...] = (
    # The U-Net as Stable Diffusion's own code has it.
    (r"input_blocks\.0\.0", "conv_in"),
    (r"input_blocks\.(\d+)\.(\d)\.(.+)", _input),
    (r"middle_block\.([012])\.(.+)", _middle),
    (r"output_blocks\.(\d+)\.(\d)\.(.+)", _output),
    (r"(.+\.resnets\.\d+)\.in_layers\.0", r"\1.norm1"),
    (r"(.+\.resnets\.\d+)\.in_layers\.2", r"\1.conv1"),
    (r"(.+\.resnets\.\d+)\.out_layers\.0", r"\1.norm2"),
    (r"(.+\.resnets\.\d+)\.out_layers\.3", r"\1.conv2"),
    (r"(.+\.resnets\.\d+)\.emb_layers\.1", r"\1.time_emb_proj"),
    (r"(.+\.resnets\.\d+)\.skip_connection", r"\1.conv_shortcut"),
    (r"time_embed\.0", "time_embedding.linear_1"),
    (r"time_embed\.2", "time_embedding.linear_2"),
    (r"label_emb\.0\.0", "add_embedding.linear_1"),
    (r"label_emb\.0\.2", "add_embedding.linear_2"),
    (r"out\.0", "conv_norm_out"),
    (r"out\.2", "conv_out"),
    # Flux, as its makers and XLabs have it.
    *_double("img", ("to_q", "to_k", "to_v"), "to_out.0", "ff", "norm1"),
    *_double("txt", ("add_q_proj", "add_k_proj", "add_v_proj"), "to_add_out", "ff_context",
             "norm1_context"),
    (r"single_blocks\.(\d+)\.linear1",
     (f"{_SINGLE}.attn.to_q", f"{_SINGLE}.attn.to_k", f"{_SINGLE}.attn.to_v",
      f"{_SINGLE}.proj_mlp")),
    (r"single_blocks\.(\d+)\.qkv_lora",
     (f"{_SINGLE}.attn.to_q", f"{_SINGLE}.attn.to_k", f"{_SINGLE}.attn.to_v")),
    (r"single_blocks\.(\d+)\.(?:linear2|proj_lora)", f"{_SINGLE}.proj_out"),
    (r"single_blocks\.(\d+)\.modulation\.lin", f"{_SINGLE}.norm.linear"),
    (r"guidance_in\.in_layer", "time_text_embed.guidance_embedder.linear_1"),
    (r"guidance_in\.out_layer", "time_text_embed.guidance_embedder.linear_2"),
    (r"time_in\.in_layer", "time_text_embed.timestep_embedder.linear_1"),
    (r"time_in\.out_layer", "time_text_embed.timestep_embedder.linear_2"),
    (r"vector_in\.in_layer", "time_text_embed.text_embedder.linear_1"),
    (r"vector_in\.out_layer", "time_text_embed.text_embedder.linear_2"),
    (r"img_in", "x_embedder"),
    (r"txt_in", "context_embedder"),
    (r"final_layer\.linear", "proj_out"),
    # Wan, as its makers have it.
    *_attention("self"),
    *_attention("cross"),
    (r"blocks\.(\d+)\.ffn\.0", r"blocks.\1.ffn.net.0.proj"),
    (r"blocks\.(\d+)\.ffn\.2", r"blocks.\1.ffn.net.2"),
    (r"time_projection\.1", "condition_embedder.time_proj"),
    (r"head\.head", "proj_out"),
    (r"text_embedding\.0", "condition_embedder.text_embedder.linear_1"),
    (r"text_embedding\.2", "condition_embedder.text_embedder.linear_2"),
    (r"time_embedding\.0", "condition_embedder.time_embedder.linear_1"),
    (r"time_embedding\.2", "condition_embedder.time_embedder.linear_2"),
    (r"img_emb\.proj\.1", "condition_embedder.image_embedder.ff.net.0.proj"),
    (r"img_emb\.proj\.3", "condition_embedder.image_embedder.ff.net.2"),
)  # fmt: skip
"""A denoiser's names to those of diffusers: the whole name, then what becomes of it. Several names
are the tensors that a fused one holds one after the other."""

_COMPILED = tuple((re.compile(pattern), by) for pattern, by in _RULES)


@lru_cache(maxsize=1 << 16)
def modules_of(name: str) -> tuple[str, ...]:
    """Return what a module of an adapter is called in one dialect; several where it holds several.

    The same for a name that is one already, and for the name of a base's module.

    Example:
        >>> modules_of("base_model.model.model.layers.3.self_attn.q_proj")
        ('blk.3.attn_q',)
        >>> modules_of("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q")
        ('denoiser.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q',)
        >>> len(modules_of("lora_unet_double_blocks_7_img_attn_qkv"))
        3
    """
    component, path = _component(_WRAPPERS.sub("", name))
    for pattern, by in _ENDINGS:
        path = pattern.sub(by, path)
    if component != DENOISER:
        for theirs, ours in _OF_TEXT.items():
            if component and path.endswith(f".self_attn.{theirs}"):
                path = path.removesuffix(theirs) + ours
        return (component + _unwrapped(path),)
    found: tuple[str, ...] = (path,)
    for _ in range(2):  # a block, then what is in it
        found = tuple(one for path in found for one in _ruled(path))
    return tuple(DENOISER + one for one in found)


def _component(name: str) -> tuple[str, str]:
    """Return the part of a pipeline that a name is of, and the dotted path in it."""
    if name.startswith(DENOISER):
        return DENOISER, name.removeprefix(DENOISER)
    if (found := re.match(r"te[23]?\.", name)) is not None:
        return found[0], name[found.end() :]
    if (found := _FLAT.match(name)) is not None:
        path = _unflattened(name[found.end() :])
        if found[1] is None:
            return (DENOISER if _SURE_ROOTS.match(path) else ""), path
        return _COMPONENTS[found[1]], path
    found = _DOTTED.match(name)
    if found is not None:
        component, path = _COMPONENTS[found[1]], name[found.end() :]
        if found[1] != "transformer" or _ROOTS.match(path):
            return component, path
    return (DENOISER if _SURE_ROOTS.match(name) else ""), name


def _unflattened(flat: str) -> str:
    """Put the dots back that became underscores: the longest known word first."""
    parts, words, at = flat.split("_"), [], 0
    while at < len(parts):
        known = next((w for w in _BY_LENGTH if parts[at : at + len(w)] == w), parts[at : at + 1])
        words.append("_".join(known))
        at += len(known)
    return ".".join(words)


def _unwrapped(path: str) -> str:
    """Return a name in the words of `canonical_name`, which are of tensors."""
    return canonical_name(f"{path}.weight").removesuffix(".weight")


def _ruled(path: str) -> tuple[str, ...]:
    for pattern, by in _COMPILED:
        found = pattern.fullmatch(path)
        if found is not None:
            if callable(by):
                return (by(found),)
            return tuple(found.expand(one) for one in ((by,) if isinstance(by, str) else by))
    return (path,)


def extents_of(count: int, rows: int, cols: int) -> tuple[int, ...] | None:
    """Return how many rows each of `count` tensors has that a fused one of this shape holds.

    Three are equal; of four (Flux: query, key, value and what feeds forward) the first three are
    square. None where the rows cannot be told apart so.
    """
    if count == 4:
        return (cols, cols, cols, rows - 3 * cols) if rows > 3 * cols else None
    return (rows // count,) * count if rows % count == 0 else None


def slug(name: str) -> str:
    """Return a module's name with nothing left of how its words were joined."""
    return name.replace(".", "_")
