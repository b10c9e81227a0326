"""Architectures that families drawn by lot may have besides: odds are fitted on them, too.

They are there so that what is fitted knows more ways to build a network: an encoder with a decoder,
positions learned, as slopes and turned, tokens that are scaled, gates that recur, convolutions for
each channel alone, and layers that mix patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from layout import Architecture, language
from recipes import Shape
from torch import nn


def _opt(shape: Shape, settings: Mapping[str, Any]) -> nn.Module:
    sizes = language(shape, settings)
    config = transformers.OPTConfig(
        **sizes,
        ffn_dim=shape.mlp,
        word_embed_proj_dim=sizes["hidden_size"],
        dropout=0.0,
        attention_dropout=0.0,
        pad_token_id=0,
    )
    return transformers.OPTForCausalLM(config)


def _bloom(shape: Shape, settings: Mapping[str, Any]) -> nn.Module:
    dropout = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
    config = transformers.BloomConfig(
        vocab_size=shape.vocabulary, n_layer=shape.layers, pad_token_id=0, **dropout, **settings
    )
    return transformers.BloomForCausalLM(config)


def _phi(shape: Shape, settings: Mapping[str, Any]) -> nn.Module:
    return transformers.PhiForCausalLM(transformers.PhiConfig(**language(shape, settings)))


def _gemma(shape: Shape, settings: Mapping[str, Any]) -> nn.Module:
    config = transformers.GemmaConfig(**language(shape, settings), pad_token_id=0)
    return transformers.GemmaForCausalLM(config)


class _Denoiser(transformers.BartForConditionalGeneration):
    """BART that is given one text: both to read and, a token late, to write."""

    def forward(self, input_ids: torch.Tensor, **given: Any) -> Any:
        """Return logits, shape (batch, length, vocabulary), in what BART wraps them in."""
        late = input_ids.roll(1, dims=1)
        late[:, 0] = self.config.decoder_start_token_id
        return super().forward(input_ids=input_ids, decoder_input_ids=late, **given)


def _bart(shape: Shape, settings: Mapping[str, Any]) -> nn.Module:
    ends = dict.fromkeys(("bos", "eos", "pad", "decoder_start", "forced_eos"), 0)
    config = transformers.BartConfig(
        vocab_size=shape.vocabulary,
        encoder_layers=shape.layers,
        decoder_layers=shape.layers,
        encoder_ffn_dim=shape.mlp,
        decoder_ffn_dim=shape.mlp,
        max_position_embeddings=128,
        dropout=0.0,
        use_cache=False,
        **{f"{end}_token_id": at for end, at in ends.items()},
        **settings,
    )
    return _Denoiser(config)


class _Gated(nn.Module):
    """A GRU over bytes, the tokens it reads and those it predicts in one matrix."""

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, width)
        self.gru = nn.GRU(width, width, shape.layers, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.decoder = nn.Linear(width, shape.vocabulary, bias=False)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.decoder.weight = self.embedding.weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (batch, length, vocabulary)."""
        hidden, _ = self.gru(self.embedding(input_ids))
        return self.decoder(self.norm(hidden))


def _convnext(shape: Shape, settings: Mapping[str, Any]) -> nn.Module:
    sizes = {name: list(value) if isinstance(value, tuple) else value
             for name, value in settings.items()}  # fmt: skip
    config = transformers.ConvNextConfig(
        num_channels=1, num_stages=shape.layers, depths=[1] * shape.layers, **sizes
    )
    return transformers.ConvNextForImageClassification(config)


class _Mixing(nn.Module):
    """One layer of an MLP-Mixer (Tolstikhin et al. 2021)."""

    def __init__(self, patches: int, width: int, mlp: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across1, self.across2 = (
            nn.Linear(patches, 4 * patches),
            nn.Linear(4 * patches, patches),
        )
        self.fc1, self.fc2 = nn.Linear(width, mlp), nn.Linear(mlp, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return as much as it is given, shape (batch, patches, width)."""
        over = self.norm1(x).transpose(1, 2)
        x = x + self.across2(nn.functional.gelu(self.across1(over))).transpose(1, 2)
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))


class _Mixer(nn.Module):
    """An MLP-Mixer over pictures of one channel."""

    def __init__(
        self, shape: Shape, width: int, image_size: int, patch_size: int, num_labels: int
    ) -> None:
        super().__init__()
        patches = (image_size // patch_size) ** 2
        self.stem = nn.Conv2d(1, width, patch_size, patch_size)
        self.layers = nn.ModuleList(_Mixing(patches, width, shape.mlp) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_labels)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (batch, labels), of pictures of shape (batch, 1, size, size)."""
        x = self.stem(pictures).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.classifier(self.norm(x).mean(1))


OTHERS: dict[str, Architecture] = {
    "opt": Architecture(
        task="next",
        build=_opt,
        layer=r"model\.decoder\.layers\.(\d+)\.",
        matrices=r"(_proj|fc1|fc2)\.weight$",
        attention=("q_proj", "v_proj"),
        linear=("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        tokens=("model.decoder.embed_tokens.weight",),
    ),
    "bloom": Architecture(
        task="next",
        build=_bloom,
        layer=r"transformer\.h\.(\d+)\.",
        matrices=r"(query_key_value|dense|dense_h_to_4h|dense_4h_to_h)\.weight$",
        attention=("query_key_value",),
        linear=("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
        tokens=("transformer.word_embeddings.weight",),
    ),
    "phi": Architecture(
        task="next",
        build=_phi,
        layer=r"model\.layers\.(\d+)\.",
        matrices=r"(_proj|dense|fc1|fc2)\.weight$",
        attention=("q_proj", "v_proj"),
        linear=("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"),
        tokens=("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"),
    ),
    "gemma": Architecture(
        task="next",
        build=_gemma,
        layer=r"model\.layers\.(\d+)\.",
        matrices=r"_proj\.weight$",
        attention=("q_proj", "v_proj"),
        linear=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        tokens=("model.embed_tokens.weight",),
    ),
    "bart": Architecture(
        task="masked",
        build=_bart,
        layer=r"model\.decoder\.layers\.(\d+)\.",
        matrices=r"layers.*(_proj|fc1|fc2)\.weight$",
        attention=("q_proj", "v_proj"),
        linear=("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        tokens=("model.shared.weight",),
    ),
    "gru": Architecture(
        task="next",
        build=lambda shape, settings: _Gated(shape, **settings),
        layer=r"gru\.\w+_l(\d+)$",
        matrices=r"weight_[ih]h_l\d+$",
        attention=("decoder",),
        linear=("decoder",),
        tokens=("embedding.weight",),
        head=r"^norm\.",
    ),
    "convnext": Architecture(
        task="images",
        build=_convnext,
        layer=r"convnext\.encoder\.stages\.(\d+)\.",
        matrices=r"stages.*(dwconv|pwconv1|pwconv2|downsampling_layer\.1)\.weight$",
        attention=("pwconv1",),
        linear=("pwconv1", "pwconv2"),
    ),
    "mixer": Architecture(
        task="images",
        build=lambda shape, settings: _Mixer(shape, **settings),
        layer=r"layers\.(\d+)\.",
        matrices=r"layers.*(across|fc)[12]\.weight$",
        attention=("across1", "across2"),
        linear=("across1", "across2", "fc1", "fc2"),
    ),
}
