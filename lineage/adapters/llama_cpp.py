"""LoRA files of llama.cpp: what they say elsewhere, and lay out otherwise, is put back.

Names are those of its models with `.lora_a` and `.lora_b` behind, and alpha is in the header (0 is
a scale of 1). The factors are peft's but for two: an embedding's A is transposed; and of models
whose queries and keys llama.cpp's converters reorder, so that the halves which a rotary embedding
turns lie next to each other, the rows of B are in that order. How many heads they have is not in
the file, unless an older converter wrote it, so that these take the base. What a configuration says
of single modules, or of rsLoRA, has no place there: the change is what llama.cpp makes of the file.

Source: `convert_lora_to_gguf.py` and `llama_adapter_lora_weight::get_scale`,
https://github.com/ggml-org/llama.cpp; for the order of rows see `REORDERED`. What other converters
do to rows of other matrices (to fused ones, mostly) is not undone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lineage.adapters.base import Group, Unread
from lineage.adapters.settings import beside
from lineage.artifacts import read
from lineage.artifacts.gguf import read_header
from lineage.artifacts.opened import OpenFile
from lineage.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lineage.artifacts import Artifact

__all__ = ["config_of", "header_of", "put_back"]

REORDERED = frozenset(
    {
        "arcee", "arctic", "baichuan", "bailingmoe", "chameleon", "deci", "deepseek", "granite",
        "granitehybrid", "granitemoe", "internlm2", "llada", "llama", "llama-embed", "minicpm",
        "mistral3", "nanbeige", "olmo", "smollm3", "xverse",
    }
)  # fmt: skip
"""Architectures whose queries and keys the converters reorder.

Source: read in `conversion/*.py` of llama.cpp (2026): `LlamaModel.modify_tensors`, with
`undo_permute` true, does it for llama, arcee, llama-embed, mistral3, nanbeige, smollm3, granite and
its kin (not for llama4, apertus and afmoe); arctic, chameleon, internlm2, minicpm and olmo call its
`permute`; bailingmoe, deci, deepseek and llada have one like it; baichuan and xverse have
`_reverse_hf_permute`, the same where queries and keys have as many heads. What sounds like these
(olmo2, deepseek2, minicpm3, bailingmoe2, llada-moe) is left as it is.
"""

_HEADS = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}

_CONFIG = {
    "attn_q": ("num_attention_heads", "n_heads"),
    "attn_k": ("num_key_value_heads", "n_kv_heads"),
}

Heads = dict[str, int | list[int]]
"""How many queries and keys have: in every layer, or in each."""


def header_of(artifact: Artifact) -> dict[str, Any] | None:
    """Return the metadata of a GGUF file; None where it is none."""
    for file in artifact.watched:
        if isinstance(file, OpenFile) and file.size > 4 and file.read(0, 4) == b"GGUF":
            return read_header(file)[1]
    return None


def config_of(header: Mapping[str, Any], artifact: Artifact) -> dict[str, Any]:
    """Return the configuration that peft would have."""
    alpha = header.get("adapter.lora.alpha")
    norms = [item.name.rpartition(".")[0] for item in artifact.items if "_norm." in item.name]
    return {"peft_type": "LORA", "lora_alpha": alpha or None, "modules_to_save": norms}


def put_back(
    groups: Mapping[str, Group], header: Mapping[str, Any], base: Any
) -> dict[str, Group] | Unread:
    """Return the modules' factors as peft has them.

    Args:
        groups: As the file has them.
        header: The file's metadata.
        base: What the adapter was trained on, anything `read` takes, or None.

    Raises:
        FormatError: If a factor cannot be laid out so.
    """
    kind, architecture = header.get("adapter.type", "lora"), header.get("general.architecture")
    if kind != "lora":
        return Unread(f"what an adapter of the type {printable(str(kind), 40)} changes is not read")
    found = {}
    heads: Heads | None = None
    for module, group in groups.items():
        of = dict(group.tensors)
        role = module.rpartition(".")[2]
        for stored in of.values():
            if len(stored.shape) > 2:
                raise stored.fail(f"the shape {list(stored.shape)} is that of a stack of experts")
        if role == "token_embd" and {"A", "B"} <= of.keys():
            of = {"rows": replace(of["A"], is_turned=True), "cols": of["B"]}
        if role in _HEADS and architecture in REORDERED and "B" in of:
            heads = heads or _heads(header) or _heads_of(base)
            many = None if heads is None else _in_layer(heads[role], module)
            if many is None:
                return Unread(
                    "its queries and keys are in llama.cpp's order, and how many heads they have "
                    "is not in the file: they can be put back where its base is given"
                )
            rows = of["B"].shape[0] if of["B"].shape else 0
            if not rows or rows % (2 * many):
                raise of["B"].fail(f"{rows} rows are not those of {many} heads")
            of["B"] = replace(of["B"], heads=many)
        found[module] = replace(group, tensors=of)
    return found


def _in_layer(heads: int | list[int], module: str) -> int | None:
    """Return how many heads a layer has; None where it has none, or is not known."""
    if isinstance(heads, int):
        return heads
    layer = next((int(word) for word in module.split(".") if word.isdecimal()), len(heads))
    return heads[layer] or None if layer < len(heads) else None


def _heads(header: Mapping[str, Any]) -> Heads | None:
    """Return how many heads queries and keys have by a header; None where it does not say.

    Where layers differ it has lists, which `read_header` skips.
    """
    keys = {role: f"{header.get('general.architecture')}.{key}" for role, key in _HEADS.items()}
    if any(key in header and header[key] is None for key in keys.values()):
        return None
    return _both({role: header.get(key) for role, key in keys.items()})


def _heads_of(base: Any) -> Heads | None:
    """Return the same of a base, by its header or the configuration beside it."""
    if base is None:
        return None
    with read(base) as artifact:
        header = header_of(artifact)
    if header is not None:
        return _heads(header)
    config, _ = beside(base, "config.json")
    if not isinstance(config, dict):
        return None
    config = config.get("text_config", config)
    if not isinstance(config, dict):
        return None
    found = {
        role: next((config[key] for key in keys if key in config), None)
        for role, keys in _CONFIG.items()
    }
    if "num_key_value_heads_per_layer" in config:  # DeciLM
        found["attn_k"] = config["num_key_value_heads_per_layer"]
    elif "block_configs" in config:  # what was cut out of a Llama by it
        found["attn_k"] = _keys_of(config["block_configs"], found["attn_q"])
    return _both(found)


def _keys_of(blocks: Any, queries: Any) -> Any:
    """Return how many heads each block's keys have, by how many queries share one."""
    try:
        groups = [block["attention"]["n_heads_in_group"] for block in blocks]
        return [queries // group if group else 0 for group in groups]
    except (KeyError, TypeError):
        return "nobody knows"


def _both(found: Mapping[str, Any]) -> Heads | None:
    queries, keys = found["attn_q"], found["attn_k"]
    keys = queries if keys is None else keys
    for many in (queries, keys):
        counts = many if isinstance(many, list) else [many]
        least = 0 if isinstance(many, list) else 1
        if not all(type(n) is int and least <= n <= 1 << 20 for n in counts):
            return None
    return {"attn_q": queries, "attn_k": keys}
