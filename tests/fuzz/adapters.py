"""What is fuzzed of adapters: a folder's configuration and the names and shapes of its tensors."""

from __future__ import annotations

import json
import random
from pathlib import Path

import mutators
from targets import Target

CUT = b"\n\0\n"
"""Between the configuration and the weights of an input."""

WORDS = (
    b'"LORA"', b'"LOHA"', b'"LOKR"', b'"IA3"', b'"VERA"', b'"peft_type"', b'"r"', b'"lora_alpha"',
    b'"rank_pattern"', b'"alpha_pattern"', b'"use_dora"', b'"use_rslora"', b'"fan_in_fan_out"',
    b'"target_modules"', b'"modules_to_save"', b'"layers_to_transform"', b'"layer_replication"',
    b'"lora_bias"', b'"all-linear"', b'"(a+)+$"', b'"["', b"1e300", b"-1", b"0", b"null", b"true",
)  # fmt: skip
NAMES = (
    b"lora_A.weight", b"lora_B.weight", b"lora_B.bias", b"lora_magnitude_vector",
    b"lora_embedding_A", b"lora_unet_", b"lora_te1_", b"lora_down.weight", b"lora_up.weight",
    b"lora_mid.weight",
    b".alpha", b"hada_w1_a", b"hada_t1", b"lokr_w1", b"lokr_w2_b", b"ia3_l", b"on_input",
    b"vera_lambda_b", b"vera_lambda_d", b"dora_scale", b"diff_b", b".diff", b"base_model.model.",
    b"unet.", b"text_encoder.", b"to_q", b"q_proj", b"attn_q", b"0", b"4", b"F16", b"BF16", b"I8",
    b'"__metadata__"', b'"ss_network_dim"', b'"lora_adapter_metadata"',
)  # fmt: skip

_config = mutators.words(mutators.json_text, WORDS)
_weights = mutators.words(mutators.safetensors, NAMES)


def _mutate(data: bytes, rng: random.Random, raw: mutators.Raw) -> bytes:
    config, _, weights = data.partition(CUT)
    if rng.random() < 0.5:
        config = _config(config, rng, raw)
    else:
        weights = _weights(weights, rng, raw)
    return config + CUT + weights


def _lay(folder: Path, data: bytes) -> Path:
    config, _, weights = data.partition(CUT)
    inner = folder / "adapter"
    inner.mkdir(exist_ok=True)
    (inner / "adapter_config.json").write_bytes(config)
    (inner / "adapter_model.safetensors").write_bytes(weights)
    return inner


def _read(given: Path, data: bytes) -> None:
    import lineage
    from lineage.fingerprints import from_bytes, to_bytes

    from_bytes(to_bytes(lineage.fingerprint(given)), file="model.lineage")


def seeds() -> list[bytes]:
    """Return adapters of every family, each with the configuration that it would have."""
    import numpy as np
    from safetensors.numpy import save

    draw = np.random.default_rng(0)

    def of(config: object, **shapes: tuple[int, ...]) -> bytes:
        tensors = {k: draw.standard_normal(v).astype(np.float32) for k, v in shapes.items()}
        return json.dumps(config).encode() + CUT + save(tensors)

    q = "base_model.model.model.layers.0.self_attn.q_proj"
    lora = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    pair = {f"{q}.lora_A.weight": (2, 6), f"{q}.lora_B.weight": (8, 2)}
    kohya = "lora_unet_down_blocks_0_attentions_0_proj_in"
    return [
        of(lora, **pair),
        of(
            lora | {"use_dora": True, "use_rslora": True, "rank_pattern": {"q_proj": 2}},
            **pair, **{f"{q}.lora_magnitude_vector": (8,)},
        ),
        of(
            lora | {"lora_bias": True, "modules_to_save": ["lm_head"]},
            **pair, **{f"{q}.lora_B.bias": (8,), "base_model.model.lm_head.weight": (5, 6)},
        ),
        of(lora | {"target_modules": ["x"]}, **{"base_model.model.x.lora_embedding_A": (2, 9),
                    "base_model.model.x.lora_embedding_B": (6, 2)}),
        of({}, **{f"{kohya}.lora_down.weight": (2, 4, 3, 3),
                  f"{kohya}.lora_up.weight": (8, 2, 1, 1), f"{kohya}.alpha": ()}),
        of({}, **{f"{kohya}.hada_w1_a": (8, 2), f"{kohya}.hada_w1_b": (2, 6),
                  f"{kohya}.hada_w2_a": (8, 2), f"{kohya}.hada_w2_b": (2, 6)}),
        of({}, **{f"{kohya}.lokr_w1": (2, 3), f"{kohya}.lokr_w2_a": (4, 2),
                  f"{kohya}.lokr_w2_b": (2, 2)}),
        of({"peft_type": "IA3", "feedforward_modules": ["fc"]},
           **{"base_model.model.k.ia3_l": (8, 1), "base_model.model.fc.ia3_l": (1, 6)}),
        of({"peft_type": "VERA", "r": 2, "projection_prng_key": 0},
           **{f"{q}.vera_lambda_b": (8,), f"{q}.vera_lambda_d": (2,)}),
        of({}, **{f"{kohya}.diff": (4, 4), f"{kohya}.diff_b": (4,)}),
    ]  # fmt: skip


TARGETS = {"adapter": Target(_lay, _mutate, read=_read)}
