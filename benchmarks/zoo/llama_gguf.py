"""Reads a Llama and its tokenizer out of a GGUF file, under the names `transformers` gives them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}
"""What llama.cpp calls a module -> what it is called in a layer, or in the model."""


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors in fp32, the rows of queries and keys in the order they are trained in."""
    reader = gguf.GGUFReader(path)
    heads = {
        "attn_q": _field(reader, "llama.attention.head_count"),
        "attn_k": _field(reader, "llama.attention.head_count_kv"),
    }
    read: dict[str, torch.Tensor] = {}
    for tensor in reader.tensors:
        module, _, kind = tensor.name.rpartition(".")
        place = re.fullmatch(r"blk\.(\d+)\.(\w+)", module)
        module = place[2] if place else module
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if module in heads:
            values = _halves(values, heads[module])
        layer = f"model.layers.{place[1]}." if place else ""
        read[f"{layer}{_NAMES[module]}.{kind}"] = torch.from_numpy(values)
    return read


def _halves(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Undo the order of llama.cpp, which puts the two numbers that are turned together in pairs."""
    pairs = matrix.reshape(heads, -1, 2, matrix.shape[-1])
    return pairs.swapaxes(1, 2).reshape(matrix.shape).copy()


def tokenizer(path: Path) -> Tokenizer:
    """Return the file's byte-level BPE, which takes digits one by one as that of SmolLM does."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    reader = gguf.GGUFReader(path)
    words = {word: number for number, word in enumerate(_field(reader, "tokenizer.ggml.tokens"))}
    merges = [tuple(m.split(" ")) for m in _field(reader, "tokenizer.ggml.merges")]
    made = Tokenizer(models.BPE(words, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return made


def _field(reader: gguf.GGUFReader, name: str) -> Any:
    return reader.fields[name].contents()
