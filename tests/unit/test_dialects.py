"""Names of one tensor in many dialects, and the parts of fused tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lineage import fingerprint
from lineage.artifacts import dialects
from lineage.artifacts.dialects import canonical_name, is_reordered_for_rotation, parts_of
from lineage.errors import FormatError
from lineage.fingerprints import from_bytes, to_bytes
from lineage.fingerprints.parts import may_be_fused

SAME = [
    "bert.encoder.layer.3.attention.self.query.weight blk.3.attn_q.weight",
    "tf_bert_model/bert/encoder/layer_._3/attention/self/query/kernel:0 blk.3.attn_q.weight",
    "0.auto_model.encoder.layer.3.output.LayerNorm.gamma blk.3.layer_output_norm.weight",
    "bert/encoder/layer_3/output/LayerNorm/beta blk.3.layer_output_norm.bias",
    "bert/embeddings/word_embeddings/embeddings:0 token_embd.weight",
    "base_model.model.model.layers.11.self_attn.q_proj.weight blk.11.attn_q.weight",
    "_orig_mod.module.layers.11.mlp.down_proj.weight blk.11.ffn_down.weight",
    "_fsdp_wrapped_module.h.3._checkpoint_wrapped_module.mlp.up_proj.weight blk.3.ffn_up.weight",
    "model.layers.3._fsdp_wrapped_module._checkpoint_wrapped_module.self_attn.q_proj.bias"
    " blk.3.attn_q.bias",
    "layers.11.feed_forward.w2.weight blk.11.ffn_down.weight",
    "model.layers.layers.2.mlp.up_proj.weight blk.2.ffn_up.weight",
    "transformer.h.0.attn.c_attn.weight blk.0.attn_qkv.weight",
    "h.0.ln_1.bias blk.0.attn_norm.bias",
    "transformer.wte.weight token_embd.weight",
    "vit.encoder.layer.1.attention.attention.value.bias blk.1.attn_v.bias",
    "blocks.1.attn.qkv.bias blk.1.attn_qkv.bias",
    "blocks.1.mlp.fc1.weight blk.1.ffn_up.weight",
    "vit.encoder.layer.1.intermediate.dense.weight blk.1.ffn_up.weight",
    "pos_embed position_embd.weight",
    "vit.embeddings.position_embeddings position_embd.weight",
    "visual.transformer.resblocks.4.attn.in_proj_weight v.blk.4.attn_qkv.weight",
    "vision_model.encoder.layers.4.self_attn.q_proj.weight v.blk.4.attn_q.weight",
    "visual.conv1.weight v.patch_embd.weight",
    "vision_model.embeddings.patch_embedding.weight v.patch_embd.weight",
    "conv1.weight conv1.weight",
    "text_model.encoder.layers.4.layer_norm1.weight blk.4.attn_norm.weight",
    "decoder.block.2.layer.0.SelfAttention.q.weight dec.blk.2.attn_q.weight",
    "encoder.layers.encoder_layer_5.self_attention.in_proj_bias blk.5.attn_qkv.bias",
    "model/conv1/conv1/kernel:0 conv1.weight",
    "conv1-BN/conv1-BN/moving_variance:0 conv1-BN.running_var",
    "onnx::MatMul_123 onnx::MatMul_123",
    "encoder.weight encoder.weight",
    "weight weight",
    "layer1.0.conv1.weight layer1.0.conv1.weight",
]


@pytest.mark.parametrize("both", SAME)
def test_a_name_says_the_same_in_every_dialect(both: str) -> None:
    name, canonical = both.split()
    assert canonical_name(name) == canonical
    assert canonical_name(canonical) == canonical


WORDS = (
    "model bert encoder layers layer h 0 3 attn self_attn qkv q weight bias gamma kernel conv1 v"
    " decoder visual head norm layer_ _3 layer_3 embeddings in_proj_weight x mlp 3 wte"
)


@given(
    st.lists(st.sampled_from(WORDS.split()) | st.text(max_size=3), min_size=1, max_size=6),
    st.sampled_from("./"),
)
@example([], ".")
@example(["0", "model", "0", "model"], ".")
def test_a_canonical_name_is_its_own(words: list[str], separator: str) -> None:
    once = canonical_name(separator.join(words))
    assert canonical_name(once) == once


@pytest.mark.parametrize(
    ("architecture", "roots"),
    [
        ("LLAMA", ("model.layers.5", "layers.5", "model")),
        ("BERT", ("encoder.layer.5", "embeddings")),
        ("GPT2", ("transformer.h.5", "h.5", "transformer")),
    ],
)
def test_the_gguf_packages_own_map_agrees(architecture: str, roots: tuple[str, ...]) -> None:
    import gguf

    names = gguf.TensorNameMap(getattr(gguf.MODEL_ARCH, architecture), 6).mapping
    unlike = {"model.embedding_norm", "model.layers.5.pre_moe_norm", "transformer.norm"}
    seen = set()
    roles = (
        "token_embd output_norm position_embd token_types token_embd_norm attn_norm ffn_norm attn_q"
        " attn_k attn_v attn_output attn_output_norm layer_output_norm ffn_gate ffn_up ffn_down"
    )
    for role in roles.split():
        for name, (_, found) in names.items():
            if found.split(".")[-1] != role or name in unlike:
                continue
            if not name.startswith(roots) or canonical_name(f"{name}.weight") == f"{name}.weight":
                continue
            if canonical_name(f"{name}.weight") == f"{found}.weight":
                seen.add(found)
            else:
                assert "." in name.removeprefix("model.layers.5"), name
    assert len(seen) >= {"LLAMA": 9, "BERT": 10, "GPT2": 8}[architecture], seen


def test_only_llama_cpps_queries_and_keys_are_in_another_order() -> None:
    theirs = "model.layers.0.self_attn.q_proj.weight"
    assert is_reordered_for_rotation("blk.0.attn_q.weight", theirs)
    assert is_reordered_for_rotation(theirs, "blk.0.attn_k.weight")
    assert not is_reordered_for_rotation("blk.0.attn_v.weight", theirs)
    assert not is_reordered_for_rotation("blk.0.attn_q.weight", "blk.0.attn_q.weight")


# Parts

FUSED = [
    ("h.0.attn.c_attn.weight", (8, 24), "attn_q attn_k attn_v", 1, (8, 16)),
    ("h.0.attn.c_attn.weight", (24, 8), "attn_q attn_k attn_v", 0, (8, 16)),
    ("h.0.attn.c_attn.bias", (24,), "attn_q attn_k attn_v", 0, (8, 16)),
    ("blocks.0.attn.qkv.weight", (24, 8), "attn_q attn_k attn_v", 0, (8, 16)),
    ("h.0.attn.in_proj_weight", (24, 8), "attn_q attn_k attn_v", 0, (8, 16)),
    ("layers.0.self_attn.qkv_proj.weight", (12, 8), "attn_q attn_k attn_v", 0, (8, 10)),
    ("layers.0.self_attn.qkv_proj.weight", (48, 8), "attn_q attn_k attn_v", 0, (16, 32)),
    ("layers.0.mlp.gate_up_proj.weight", (20, 8), "ffn_gate ffn_up", 0, (10,)),
    ("blk.0.attn_qkv.weight", (12, 8), "attn_q attn_k attn_v", 0, (8, 10)),
]


@pytest.mark.parametrize(("name", "shape", "roles", "axis", "cuts"), FUSED)
def test_a_fused_tensors_parts_follow_each_other(
    name: str, shape: tuple[int, ...], roles: str, axis: int, cuts: tuple[int, ...]
) -> None:
    parts = parts_of(name, shape)
    leaf = name.replace("in_proj_", "").rsplit(".", 1)[-1]
    assert [part.name for part in parts] == [f"blk.0.{role}.{leaf}" for role in roles.split()]
    assert {part.axis for part in parts} == {axis}
    assert [part.start for part in parts] == [0, *cuts]
    assert [part.stop for part in parts] == [*cuts, shape[axis]]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("h.0.self_attention.query_key_value.weight", (24, 8)),  # head by head
        ("backbone.layers.0.mixer.in_proj.weight", (24, 8)),  # a state space
        ("h.0.attn.c_attn.weight", (25, 7)),
        ("h.0.attn.c_attn.weight", (0, 7)),
        ("h.0.attn.c_attn.weight", (4, 24, 8)),
        ("h.0.attn.c_attn.weight", ()),
        ("layers.0.self_attn.q_proj.weight", (24, 8)),
        ("h.0.attn.c_attn.scale", (24,)),
        ("qkv", (24, 8)),
    ],
)
def test_other_tensors_have_no_parts(name: str, shape: tuple[int, ...]) -> None:
    assert parts_of(name, shape) == ()


def test_parts_outside_of_layers_keep_what_stands_before_them() -> None:
    names = [part.name for part in parts_of("pool.attn.qkv.weight", (24, 8))]
    assert names == [
        "pool.attn.attn_q.weight",
        "pool.attn.attn_k.weight",
        "pool.attn.attn_v.weight",
    ]
    assert parts_of("to_kv.weight", (16, 8))[0].name == "attn_k.weight"


@pytest.mark.parametrize("tier", ["full", "fast"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("h.0.attn.qkv.weight", (1500, 500)),
        ("h.0.attn.c_attn.weight", (500, 1500)),
        ("h.0.attn.c_attn.bias", (1500,)),
        ("h.0.attn.c_attn.bias", (900_000,)),
        ("blk.0.attn_qkv.weight", (800, 500)),
        ("layers.3.mlp.gate_up_proj.weight", (2000, 300)),
    ],
)
def test_a_part_is_sketched_as_the_split_tensor_is(
    name: str, shape: tuple[int, ...], dtype: Any, tier: str
) -> None:
    whole = np.random.default_rng(0).normal(size=shape).astype(dtype)
    made = fingerprint({name: whole}, tier=tier)
    again = from_bytes(to_bytes(made))
    assert to_bytes(again) == to_bytes(made)
    assert len(made.tensors[0].parts) in {2, 3}
    for one in again.tensors[0].parts:
        where = slice(one.part.start, one.part.stop)
        cut = whole[where] if one.part.axis == 0 else whole[:, where]
        assert one.part.shape(shape) == cut.shape
        alone = fingerprint({"w": np.ascontiguousarray(cut)}, tier=tier).tensors[0].sketch
        assert alone is not None
        scale = np.sqrt(alone.energy)
        assert np.allclose(one.sketch.core, alone.core, rtol=0, atol=1e-7 * scale)
        assert np.allclose(one.sketch.rows, alone.rows, rtol=1e-5)
        assert np.allclose(one.sketch.cols, alone.cols, rtol=1e-5)
        assert one.sketch.zeros == alone.zeros
        assert one.sketch.energy == pytest.approx(alone.energy, rel=1e-6)


def test_parts_change_no_identity() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(24, 8)).astype(np.float32)
    fused, plain = fingerprint({"attn.qkv.weight": weights}), fingerprint({"other.weight": weights})
    assert fused.tensors[0].parts
    assert not plain.tensors[0].parts
    assert fused.content_id == plain.content_id
    assert not fingerprint({"attn.qkv.weight": weights}, tier="exact").tensors[0].parts


LIES = [
    ("axis", 2, "a count"),
    ("axis", True, "a count"),
    ("start", 8, "a count"),
    ("start", -1, "a count"),
    ("stop", 25, "a count"),
    ("stop", 0, "a count"),
    ("name", 7, "name"),
    ("zeros", 65, "a count"),
    ("flat", 1, "flat"),
]


@pytest.mark.parametrize(("key", "value", "reason"), LIES)
def test_a_part_that_lies_is_refused(key: str, value: object, reason: str) -> None:
    def alter(row: dict[str, Any]) -> None:
        row["parts"][0][key] = value

    with pytest.raises(FormatError, match=reason):
        from_bytes(altered(alter))


def test_parts_without_sketches_are_refused() -> None:
    for value in ([], "x", 1, None, [[]], [None]):
        with pytest.raises(FormatError):
            from_bytes(altered(lambda row, value=value: row.__setitem__("parts", value)))
    with pytest.raises(FormatError, match="more sketches"):
        from_bytes(altered(lambda row: row.__delitem__("parts")))
    with pytest.raises(FormatError, match="vector or a matrix"):
        from_bytes(altered(lambda row: row.__setitem__("shape", [24, 4, 2])))


def altered(alter: Any) -> bytes:
    """A stored fingerprint whose one manifest row was changed."""
    import json

    from safetensors.numpy import load, save

    rng = np.random.default_rng(0)
    data = to_bytes(fingerprint({"attn.qkv.weight": rng.normal(size=(24, 8)).astype(np.float32)}))
    arrays = load(data)
    rows = json.loads(arrays["manifest"].tobytes())
    alter(rows[0])
    text = json.dumps(rows, sort_keys=True, separators=(",", ":"))
    arrays["manifest"] = np.frombuffer(text.encode(), np.uint8)
    length = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + length])["__metadata__"]
    return save(arrays, metadata=head)


def test_no_name_of_a_fused_tensor_is_passed_over_before_the_tables_are_loaded() -> None:
    assert all(may_be_fused(word) for word in dialects._FUSED)
    assert not may_be_fused("model.layers.0.mlp.up_proj.weight")
