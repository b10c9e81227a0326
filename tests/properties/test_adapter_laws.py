"""Whatever is done to an adapter's tensors and configuration, it is read or refused in words."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lineage.errors import FormatError
from lineage.fingerprints import fingerprint, from_bytes, to_bytes

Arrays = dict[str, np.ndarray[Any, Any]]
Q, CONV = "base_model.model.model.layers.0.self_attn.q_proj", "lora_unet_conv_in"
QKV = "lora_unet_double_blocks_0_img_attn_qkv"


def drawn(*shape: int) -> Any:
    return np.random.default_rng(list(shape)).standard_normal(shape).astype(np.float32)


ADAPTERS: tuple[tuple[Arrays, dict[str, Any]], ...] = (
    ({f"{Q}.lora_A.weight": drawn(2, 6), f"{Q}.lora_B.weight": drawn(8, 2),
      f"{Q}.lora_magnitude_vector": drawn(8), f"{Q}.lora_B.bias": drawn(8)},
     {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "use_dora": True,
      "rank_pattern": {}, "layers_to_transform": [0], "layer_replication": [[0, 1]],
      "lora_bias": True, "exclude_modules": [], "modules_to_save": ["score"]}),
    ({"model.embed_tokens.lora_embedding_A": drawn(2, 9), "score.weight": drawn(3, 3),
      "model.embed_tokens.lora_embedding_B": drawn(6, 2)},
     {"peft_type": "LORA", "modules_to_save": ["score"]}),
    ({f"{CONV}.lora_down.weight": drawn(2, 4, 1, 1), f"{CONV}.lora_up.weight": drawn(5, 2, 1, 1),
      f"{CONV}.lora_mid.weight": drawn(2, 2, 3, 3), f"{CONV}.alpha": drawn(),
      f"{QKV}.lora_down.weight": drawn(2, 4), f"{QKV}.lora_up.weight": drawn(12, 2)}, {}),
    ({f"{CONV}.hada_w{n}_{h}": drawn(2, 5 if h == "a" else 6) for n in (1, 2) for h in "ab"}
     | {f"{CONV}.hada_t{n}": drawn(2, 2, 3, 3) for n in (1, 2)}, {}),
    ({f"{CONV}.lokr_w1": drawn(3, 2), f"{CONV}.lokr_w2_a": drawn(2, 4),
      f"{CONV}.lokr_w2_b": drawn(2, 5), f"{CONV}.lokr_t2": drawn(2, 2, 3, 3)}, {}),
    ({f"{Q}.ia3_l": drawn(8, 1), f"{CONV}.on_input": np.array(True), f"{CONV}.weight": drawn(5)},
     {"peft_type": "IA3", "feedforward_modules": ["up"]}),
    ({f"{Q}.vera_lambda_b": drawn(8), f"{Q}.vera_lambda_d": drawn(2),
      "base_model.vera_A": drawn(2, 6), "base_model.vera_B": drawn(9, 2)},
     {"peft_type": "VERA", "r": 2}),
    ({f"{CONV}.diff": drawn(5, 4), f"{CONV}.diff_b": drawn(5), f"{QKV}.diff_b": drawn(6)}, {}),
)  # fmt: skip

NAMES = sorted(name for one, _ in ADAPTERS for name in one)
MODULES = [Q, CONV, QKV, "model.embed_tokens", "base_model"]
ENDINGS = sorted({name.removeprefix(m) for name in NAMES for m in MODULES if name.startswith(m)})

SHAPES = st.lists(st.integers(0, 9), max_size=4)
DTYPES = st.sampled_from(["f4", "f2", "f8", "i8", "u1", "?", ml_dtypes.bfloat16])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats(allow_nan=False)
    | st.text(max_size=4)
    | st.sampled_from(["LORA", "LOHA", "VERA", "q_proj", ".*", "(", "(a+)+", "all-linear"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


def changed(data: st.DataObject, tensors: Arrays, config: dict[str, Any]) -> None:
    """Change one thing."""
    name = data.draw(st.sampled_from(sorted(tensors)))
    what = data.draw(st.sampled_from(["drop", "shape", "dtype", "value", "rename", "config"]))
    if what == "drop" and len(tensors) > 1:
        del tensors[name]
    elif what == "shape":
        tensors[name] = np.ones(data.draw(SHAPES), np.float32)
    elif what == "dtype":
        tensors[name] = np.asarray(np.abs(tensors[name])).astype(data.draw(DTYPES))
    elif what == "value":
        value = data.draw(st.sampled_from([np.nan, np.inf, 0.0, 3e38, -1e-40]))
        tensors[name] = np.full_like(tensors[name], value if tensors[name].dtype.kind == "f" else 0)
    elif what == "rename":
        module, ending = (data.draw(st.sampled_from(of)) for of in (MODULES, ENDINGS))
        tensors[module + ending] = tensors.pop(name)
    else:
        keys = sorted({key for _, one in ADAPTERS for key in one} | {"save_projection", "alpha"})
        config[data.draw(st.sampled_from(keys))] = data.draw(JSON)


@settings(max_examples=300)
@given(st.data())
def test_a_changed_adapter_is_read_or_refused(data: st.DataObject) -> None:
    tensors, config = (dict(one) for one in data.draw(st.sampled_from(ADAPTERS)))
    with np.errstate(all="ignore"):
        for _ in range(data.draw(st.integers(0, 3))):
            changed(data, tensors, config)
    with tempfile.TemporaryDirectory() as folder:
        arrays = {name: np.asarray(value) for name, value in tensors.items()}
        save_file(arrays, Path(folder) / "adapter_model.safetensors")
        if config:
            (Path(folder) / "adapter_config.json").write_text(json.dumps(config))
        try:
            found = fingerprint(folder)
        except FormatError as error:
            assert "\n" not in str(error)
            assert folder in str(error) or error.tensor is not None
            return
    if found.delta is not None:
        again = from_bytes(to_bytes(found)).delta
        assert again is not None
        assert again.id == found.delta.id
