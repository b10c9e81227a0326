"""The networks of the zoo: how each is built, and what its tensors are called.

A network is small but is the real thing: for transformers and ResNets the code of the
`transformers` library, with its own names of tensors. `Shape` holds the sizes that a
descendant may change. Those of `others` are only in families drawn by lot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import transformers
from layout import Architecture, language
from others import OTHERS
from plain import convolutions, perceptron
from recipes import Shape
from torch import nn


def _llama(shape: Shape, settings: Mapping[str, Any]) -> nn.Module:
    config = transformers.LlamaConfig(**language(shape, settings))
    return transformers.LlamaForCausalLM(config)


def _qwen2(shape: Shape, settings: Mapping[str, Any]) -> nn.Module:
    tied = {"tie_word_embeddings": True, **settings}
    config = transformers.Qwen2Config(**language(shape, tied))
    return transformers.Qwen2ForCausalLM(config)


def _neox(shape: Shape, settings: Mapping[str, Any]) -> nn.Module:
    dropout = {"attention_dropout": 0.0, "hidden_dropout": 0.0}
    config = transformers.GPTNeoXConfig(
        **language(shape, settings), **dropout, use_parallel_residual=True
    )
    return transformers.GPTNeoXForCausalLM(config)


def _gpt2(shape: Shape, settings: Mapping[str, Any]) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=shape.vocabulary,
        n_layer=shape.layers,
        n_inner=shape.mlp,
        n_positions=128,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        **settings,
    )
    return transformers.GPT2LMHeadModel(config)


def _bert(shape: Shape, settings: Mapping[str, Any]) -> nn.Module:
    dropout = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    config = transformers.BertConfig(**language(shape, settings), **dropout)
    return transformers.BertForMaskedLM(config)


def _sentences(shape: Shape, settings: Mapping[str, Any]) -> nn.Module:
    dropout = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    sizes = {**language(shape, settings), "max_position_embeddings": 512}
    return transformers.BertModel(transformers.BertConfig(**sizes, **dropout))


def _vit(shape: Shape, settings: Mapping[str, Any]) -> nn.Module:
    config = transformers.ViTConfig(
        num_hidden_layers=shape.layers, intermediate_size=shape.mlp, num_channels=1, **settings
    )
    return transformers.ViTForImageClassification(config)


def _resnet(shape: Shape, settings: Mapping[str, Any]) -> nn.Module:
    sizes = dict(settings)
    sizes["depths"] = [sizes.pop("depth")] * shape.layers
    sizes["hidden_sizes"] = list(sizes["hidden_sizes"])
    config = transformers.ResNetConfig(num_channels=1, layer_type="basic", **sizes)
    return transformers.ResNetForImageClassification(config)


class _Translator(transformers.T5ForConditionalGeneration):
    """T5 that is given one text: both to read and, a token late, to write."""

    def forward(self, input_ids: torch.Tensor, **given: Any) -> Any:
        """Return logits, shape (batch, length, vocabulary), in what T5 wraps them in."""
        late = self._shift_right(input_ids)
        return super().forward(input_ids=input_ids, decoder_input_ids=late, **given)


def _t5(shape: Shape, settings: Mapping[str, Any]) -> nn.Module:
    config = transformers.T5Config(
        vocab_size=shape.vocabulary,
        num_layers=shape.layers,
        d_ff=shape.mlp,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        use_cache=False,
        **settings,
    )
    return _Translator(config)


def _mixtral(shape: Shape, settings: Mapping[str, Any]) -> nn.Module:
    config = transformers.MixtralConfig(**language(shape, settings))
    return transformers.MixtralForCausalLM(config)


def _mamba(shape: Shape, settings: Mapping[str, Any]) -> nn.Module:
    config = transformers.MambaConfig(
        vocab_size=shape.vocabulary, num_hidden_layers=shape.layers, use_cache=False, **settings
    )
    return transformers.MambaForCausalLM(config)


def _swin(shape: Shape, settings: Mapping[str, Any]) -> nn.Module:
    sizes = dict(settings)
    sizes["depths"] = [sizes.pop("depth")] * shape.layers
    sizes["num_heads"] = list(sizes["num_heads"])
    config = transformers.SwinConfig(num_channels=1, drop_path_rate=0.0, **sizes)
    return transformers.SwinForImageClassification(config)


class _Recurrent(nn.Module):
    """An LSTM over bytes, with an output layer of its own."""

    def __init__(self, shape: Shape, width: int, embedding: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, width, shape.layers, batch_first=True)
        self.project = nn.Linear(width, width)
        self.decoder = nn.Linear(width, shape.vocabulary)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (batch, length, vocabulary)."""
        hidden, _ = self.lstm(self.embedding(input_ids))
        return self.decoder(torch.tanh(self.project(hidden)))


class _Crepe(nn.Module):
    """The smallest CREPE (Kim et al. 2018): 1,024 samples of sound to 360 pitches of 20 cents."""

    _WIDTHS = (128, 16, 16, 16, 32, 64)

    def __init__(self) -> None:
        super().__init__()
        before = 1
        for number, width in enumerate(self._WIDTHS, 1):
            kernel, stride = (512, 4) if number == 1 else (64, 1)
            conv = nn.Conv2d(before, width, (kernel, 1), (stride, 1))
            setattr(self, f"conv{number}", conv)
            setattr(self, f"conv{number}_BN", nn.BatchNorm2d(width, eps=0.0010000000474974513))
            before = width
        self.classifier = nn.Linear(256, 360)

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (batch, 360), of frames of shape (batch, 1024)."""
        x = sound[:, None, :, None]
        for number in range(1, len(self._WIDTHS) + 1):
            around = (254, 254) if number == 1 else (31, 32)
            x = nn.functional.pad(x, (0, 0, *around))
            x = torch.relu(getattr(self, f"conv{number}")(x))
            x = nn.functional.max_pool2d(getattr(self, f"conv{number}_BN")(x), (2, 1))
        return self.classifier(x.permute(0, 2, 1, 3).reshape(len(x), -1))


_LLAMA_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_LLAMA = Architecture(
    task="next",
    build=_llama,
    layer=r"model\.layers\.(\d+)\.",
    matrices=r"_proj\.weight$",
    attention=("q_proj", "v_proj"),
    linear=_LLAMA_LINEAR,
    mlp_in=("gate_proj.weight", "up_proj.weight"),
    mlp_out=("down_proj.weight",),
    tokens=("model.embed_tokens.weight", "lm_head.weight"),
)

ARCHITECTURES: dict[str, Architecture] = {
    "llama": _LLAMA,
    "smollm2": replace(_LLAMA, task="words", tokens=("model.embed_tokens.weight",)),
    "qwen2": Architecture(
        task="next",
        build=_qwen2,
        layer=_LLAMA.layer,
        matrices=_LLAMA.matrices,
        attention=_LLAMA.attention,
        linear=_LLAMA.linear,
        mlp_in=_LLAMA.mlp_in,
        mlp_out=_LLAMA.mlp_out,
        tokens=("model.embed_tokens.weight",),
    ),
    "gpt2": Architecture(
        task="next",
        build=_gpt2,
        layer=r"transformer\.h\.(\d+)\.",
        matrices=r"(c_attn|c_proj|c_fc)\.weight$",
        attention=("c_attn",),
        linear=("c_attn", "c_proj", "c_fc"),
        mlp_in=("mlp.c_fc.weight", "mlp.c_fc.bias"),
        mlp_out=("mlp.c_proj.weight",),
        tokens=("transformer.wte.weight",),
        turned=True,
    ),
    "neox": Architecture(
        task="next",
        build=_neox,
        layer=r"gpt_neox\.layers\.(\d+)\.",
        matrices=r"(query_key_value|dense|dense_h_to_4h|dense_4h_to_h)\.weight$",
        attention=("query_key_value",),
        linear=("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
        mlp_in=("dense_h_to_4h.weight", "dense_h_to_4h.bias"),
        mlp_out=("dense_4h_to_h.weight",),
        tokens=("gpt_neox.embed_in.weight", "lm_head.weight"),
    ),
    "t5": Architecture(
        task="masked",
        build=_t5,
        layer=r"decoder\.block\.(\d+)\.",
        matrices=r"block.*\.(q|k|v|o|wi|wo)\.weight$",
        attention=("q", "v"),
        linear=("q", "k", "v", "o", "wi", "wo"),
        tokens=("shared.weight",),
    ),
    "mixtral": Architecture(
        task="next",
        build=_mixtral,
        layer=_LLAMA.layer,
        matrices=r"(_proj\.weight|experts.*_proj)$",
        attention=_LLAMA.attention,
        linear=("q_proj", "k_proj", "v_proj", "o_proj"),
        tokens=_LLAMA.tokens,
    ),
    "mamba": Architecture(
        task="next",
        build=_mamba,
        layer=r"backbone\.layers\.(\d+)\.",
        matrices=r"(in|x|dt|out)_proj\.weight$",
        attention=("in_proj",),
        linear=("in_proj", "x_proj"),  # PEFT refuses the others
        tokens=("backbone.embeddings.weight",),
    ),
    "bert": Architecture(
        task="masked",
        build=_bert,
        layer=r"bert\.encoder\.layer\.(\d+)\.",
        matrices=r"encoder.*(query|key|value|dense)\.weight$",
        attention=("query", "value"),
        linear=("query", "key", "value", "intermediate.dense", "output.dense"),
        mlp_in=("intermediate.dense.weight", "intermediate.dense.bias"),
        mlp_out=(r"[0-9].output.dense.weight",),
        tokens=("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"),
        head=r"^cls\.",
    ),
    "sentences": Architecture(
        task="sentences",
        build=_sentences,
        layer=r"encoder\.layer\.(\d+)\.",
        matrices=r"encoder.*(query|key|value|dense)\.weight$",
        attention=("query", "value"),
        linear=("query", "key", "value", "attention.output.dense", "intermediate.dense"),
        mlp_in=("intermediate.dense.weight", "intermediate.dense.bias"),
        mlp_out=(r"[0-9].output.dense.weight",),
        tokens=("embeddings.word_embeddings.weight",),
        head=r"^pooler\.",
    ),
    "vit": Architecture(
        task="images",
        build=_vit,
        layer=r"vit\.layers\.(\d+)\.",
        matrices=r"layers.*(_proj|fc1|fc2)\.weight$",
        attention=("q_proj", "v_proj"),
        linear=("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"),
        mlp_in=("mlp.fc1.weight", "mlp.fc1.bias"),
        mlp_out=("mlp.fc2.weight",),
    ),
    "swin": Architecture(
        task="images",
        build=_swin,
        layer=r"swin\.encoder\.layers\.(\d+)\.",
        matrices=r"encoder.*(_proj|fc1|fc2|reduction)\.weight$",
        attention=("q_proj", "v_proj"),
        linear=("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"),
    ),
    "resnet": Architecture(
        task="images",
        build=_resnet,
        layer=r"resnet\.encoder\.stages\.(\d+)\.",
        matrices=r"stages.*convolution\.weight$",
        attention=("layer.1.convolution",),
        linear=("layer.0.convolution", "layer.1.convolution", "classifier.1"),
    ),
    "lstm": Architecture(
        task="next",
        build=lambda shape, settings: _Recurrent(shape, **settings),
        layer=r"lstm\.\w+_l(\d+)$",
        matrices=r"(weight_[ih]h_l\d+|project\.weight)$",
        attention=("project",),
        linear=("project", "decoder"),
        tokens=("embedding.weight", "decoder.weight", "decoder.bias"),
        head=r"^(project|decoder)\.",
    ),
    "perceptron": Architecture(
        task="images",
        build=lambda shape, settings: perceptron(shape, **settings),
        layer=r"(?:fc|norm)(\d+)\.",
        matrices=r"fc\d+\.weight$",
        attention=("fc1",),
        linear=("fc0", "fc1", "head"),
        head=r"^head\.",
    ),
    "convolutions": Architecture(
        task="images",
        build=lambda shape, settings: convolutions(shape, **settings),
        layer=r"(?:conv|norm)(\d+)\.",
        matrices=r"conv\d+\.weight$",
        attention=("conv1",),
        linear=("conv0", "conv1", "head"),
        head=r"^head\.",
    ),
    "crepe": Architecture(
        task="tones",
        build=lambda _shape, _settings: _Crepe(),
        layer=r"conv(\d)",
        matrices=r"conv[1-6]\.weight$|classifier\.weight$",
        attention=("conv2", "conv3"),
        linear=("conv2", "conv3", "conv4", "conv5", "conv6", "classifier"),
    ),
    **OTHERS,
}
