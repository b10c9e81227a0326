"""Adapters in every dialect are read as the same changes, and broken ones are refused in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lineage.adapters import adapter_of, is_adapter
from lineage.adapters.applied import Whole
from lineage.adapters.base import Adapter, Unread
from lineage.adapters.matrices import Dense, Hadamard, Kronecker, Product
from lineage.adapters.names import extents_of, modules_of, slug
from lineage.artifacts import read
from lineage.errors import FormatError
from lineage.fingerprints import fingerprint
from lineage.fingerprints.delta import _Fold
from lineage.fingerprints.sketch import Layout

if TYPE_CHECKING:
    from pathlib import Path

Arrays = dict[str, np.ndarray[Any, Any]]
PEFT = "base_model.model."


def random(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def factors(rank: int = 4, rows: int = 40, cols: int = 24, seed: int = 0) -> Any:
    return random(rows, rank, seed=seed), random(rank, cols, seed=seed)


def changes_of(source: Any) -> dict[tuple[str, str], np.ndarray[Any, Any]]:
    """Every change as a dense matrix."""
    with read(source) as artifact:
        found = adapter_of(artifact, source)
        assert isinstance(found, Adapter)
        matrices = {(c.name, c.kind): c.load() for c in found.changes}
        dense = {key: m.folded(Whole(m.shape)) for key, m in matrices.items()}
        for key, matrix in matrices.items():
            assert matrix.energy() == pytest.approx(float((dense[key] ** 2).sum()))
        return dense


def peft(folder: Path, tensors: Arrays, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
Q = "model.layers.0.self_attn.q_proj"


def lora(module: str = Q, seed: int = 0, **other: Any) -> Arrays:
    b, a = factors(seed=seed)
    return {f"{PEFT}{module}.lora_A.weight": a, f"{PEFT}{module}.lora_B.weight": b, **other}


SAME = [
    ("base_model.model.down_blocks.0.attentions.0.proj_in", "lora_unet_down_blocks_0_attentions_0_proj_in"),
    ("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0", "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_out_0"),
    ("unet.up_blocks.1.resnets.2.conv_shortcut", "lora_unet_output_blocks_5_0_skip_connection"),
    ("unet.down_blocks.0.downsamplers.0.conv", "model.diffusion_model.input_blocks.3.0.op"),
    ("unet/conv_in", "model.diffusion_model.input_blocks.0.0"),
    ("unet.up_blocks.0.upsamplers.0.conv", "lora_unet_output_blocks_2_1_conv"),
    ("text_encoder.text_model.encoder.layers.3.mlp.fc1", "lora_te1_text_model_encoder_layers_3_mlp_fc1"),
    ("text_encoder_2.text_model.encoder.layers.3.self_attn.out_proj", "lora_te2_text_model_encoder_layers_3_self_attn_out_proj"),
    ("transformer.transformer_blocks.7.attn.to_add_out", "lora_unet_double_blocks_7_txt_attn_proj"),
    ("transformer.transformer_blocks.7.ff_context.net.0.proj", "diffusion_model.double_blocks.7.txt_mlp.0"),
    ("transformer.single_transformer_blocks.7.proj_out", "lora_unet_single_blocks_7_linear2"),
    ("transformer.transformer_blocks.7.attn.to_out.0", "double_blocks.7.processor.proj_lora1"),
    ("transformer.blocks.2.attn2.add_k_proj", "lora_unet_blocks_2_cross_attn_k_img"),
    ("transformer.blocks.2.ffn.net.2", "diffusion_model.blocks.2.ffn.2"),
    ("transformer.h.3.mlp.c_fc", "base_model.model.transformer.h.3.mlp.c_fc"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_dialects_name_one_module(one: str, other: str) -> None:
    assert modules_of(one) == modules_of(other)
    assert modules_of(modules_of(one)[0]) == modules_of(one)


def test_words_no_table_knows_are_one_module_however_joined() -> None:
    one, other = (
        modules_of("unet.some_new.block_of.kind"),
        modules_of("lora_unet_some_new_block_of_kind"),
    )
    assert one != other
    assert slug(one[0]) == slug(other[0])


def test_a_language_model_is_no_denoiser() -> None:
    assert modules_of("transformer.h.3.attn.c_attn") == ("blk.3.attn_qkv",)


def test_fused_modules_are_divided() -> None:
    assert len(modules_of("lora_unet_single_blocks_0_linear1")) == 4
    assert extents_of(4, 70, 10) == (10, 10, 10, 40)
    assert extents_of(4, 30, 10) is None
    assert extents_of(3, 70, 10) is None


def test_peft_scales_by_alpha_over_rank(tmp_path: Path) -> None:
    b, a = factors()
    found = changes_of(peft(tmp_path / "a", lora(), **LORA))
    np.testing.assert_allclose(found["blk.0.attn_q.weight", "delta"], 2 * b.astype("f8") @ a)
    found = changes_of(peft(tmp_path / "b", lora(), **LORA, use_rslora=True))
    np.testing.assert_allclose(found["blk.0.attn_q.weight", "delta"], 4 * b.astype("f8") @ a)
    config = {
        **LORA,
        "r": 9,
        "rank_pattern": {"self_attn.q_proj": 4},
        "alpha_pattern": {"q_proj": 2},
    }
    found = changes_of(peft(tmp_path / "c", lora(), **config))
    np.testing.assert_allclose(found["blk.0.attn_q.weight", "delta"], 0.5 * b.astype("f8") @ a)
    found = changes_of(tmp_path / "c" / "adapter_model.safetensors")
    np.testing.assert_allclose(found["blk.0.attn_q.weight", "delta"], 0.5 * b.astype("f8") @ a)


def test_kohya_scales_by_its_alphas_and_diffusers_by_metadata(tmp_path: Path) -> None:
    b, a = factors()
    name = "lora_unet_mid_block_attentions_0_proj_in"
    kohya = {
        f"{name}.lora_down.weight": a,
        f"{name}.lora_up.weight": b,
        f"{name}.alpha": np.float32(2),
    }
    key = "denoiser.mid_block.attentions.0.proj_in.weight", "delta"
    np.testing.assert_allclose(changes_of(kohya)[key], 0.5 * b.astype("f8") @ a)
    new = "unet.mid_block.attentions.0.proj_in"
    tensors = {f"{new}.lora_A.weight": a, f"{new}.lora_B.weight": b}
    np.testing.assert_allclose(changes_of(tensors)[key], b.astype("f8") @ a)
    said = json.dumps({"unet.r": 4, "unet.lora_alpha": 2, "unet.target_modules": ["proj_in"]})
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(tensors, path, {"lora_adapter_metadata": said})
    np.testing.assert_allclose(changes_of(path)[key], 0.5 * b.astype("f8") @ a)


def test_a_fused_module_is_the_modules_it_holds() -> None:
    b, a = factors(rows=72)
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    fused = changes_of({f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b})
    for place, head in enumerate("qkv"):
        found = fused[f"denoiser.transformer_blocks.0.attn.to_{head}.weight", "delta"]
        np.testing.assert_allclose(found, b[24 * place : 24 * place + 24].astype("f8") @ a)


def test_older_names_of_diffusers_and_xlabs() -> None:
    b, a = factors()
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora"
    found = changes_of({f"{name}.down.weight": a, f"{name}.up.weight": b})
    assert list(found) == [
        ("denoiser.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight", "delta")
    ]
    name = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer"
    found = changes_of({f"{name}.down.weight": a, f"{name}.up.weight": b})
    assert list(found) == [("te.blk.0.attn_q.weight", "delta")]
    name = "double_blocks.0.processor.proj_lora1"
    found = changes_of({f"{name}.down.weight": a, f"{name}.up.weight": b})
    assert list(found) == [("denoiser.transformer_blocks.0.attn.to_out.0.weight", "delta")]


def test_kernels_and_cores_between_the_factors() -> None:
    b, a = random(12, 4, 1, 1), random(4, 8, 3, 3)
    name = "lora_unet_conv_in"
    key = "denoiser.conv_in.weight", "delta"
    found = changes_of({f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b})
    np.testing.assert_allclose(found[key], b.reshape(12, 4).astype("f8") @ a.reshape(4, 72))
    a, mid = random(4, 8, 1, 1), random(4, 4, 3, 3)
    tensors = {
        f"{name}.lora_down.weight": a,
        f"{name}.lora_up.weight": b,
        f"{name}.lora_mid.weight": mid,
    }
    expected = np.einsum("op,pqxy,qi->oixy", b[:, :, 0, 0], mid, a[:, :, 0, 0], dtype="f8")
    np.testing.assert_allclose(
        changes_of(tensors)[key], expected.reshape(12, 72), rtol=1e-5, atol=1e-5
    )


def test_differences_norms_and_gains_of_lycoris() -> None:
    tensors = {
        "lora_unet_conv_in.diff": random(6, 4, 3, 3), "lora_unet_conv_in.diff_b": random(6),
        "lora_unet_conv_norm_out.w_norm": random(7), "lora_unet_conv_norm_out.b_norm": random(7),
        "lora_unet_conv_out.weight": random(5), "lora_unet_conv_out.on_input": np.array(True),
        "lora_unet_mid_block_attentions_0_proj_in.weight": random(6),
        "lora_unet_mid_block_attentions_0_proj_in.on_input": np.array(False),
    }  # fmt: skip
    kinds = {name.removeprefix("denoiser."): kind for name, kind in changes_of(tensors)}
    assert kinds == {
        "conv_in.weight": "delta", "conv_in.bias": "delta", "conv_norm_out.weight": "delta",
        "conv_norm_out.bias": "delta", "conv_out.weight": "gain_in",
        "mid_block.attentions.0.proj_in.weight": "gain_out",
    }  # fmt: skip


def test_what_peft_saves_beside_the_factors(tmp_path: Path) -> None:
    more = {
        f"{PEFT}score.weight": random(3, 24), f"{PEFT}{Q}.base_layer.bias": random(40),
        f"{PEFT}model.embed_tokens.weight": random(9, 24),
    }  # fmt: skip
    path = peft(tmp_path, lora(**more), **LORA, modules_to_save=["score"], bias="lora_only")
    assert set(changes_of(path)) == {
        ("blk.0.attn_q.weight", "delta"), ("score.weight", "whole"),
        ("blk.0.attn_q.bias", "whole"), ("token_embd.weight", "whole"),
    }  # fmt: skip


def test_repeated_layers_name_the_bases(tmp_path: Path) -> None:
    path = peft(tmp_path, lora(Q.replace(".0.", ".3.")), **LORA, layer_replication=[[0, 3], [1, 4]])
    with read(path) as artifact:
        found = adapter_of(artifact, path)
        assert isinstance(found, Adapter)
        assert [(c.name, c.base) for c in found.changes] == [
            ("blk.3.attn_q.weight", "blk.1.attn_q.weight")
        ]


def test_what_is_no_adapter_is_left_alone(tmp_path: Path) -> None:
    model = {f"layers.{n}.mlp.down.weight": random(8, 8) for n in range(3)}
    assert not is_adapter(model)
    with read({**model, **lora()}) as artifact:
        assert adapter_of(artifact) is None
    assert fingerprint(model).delta is None
    path = peft(tmp_path, {f"{PEFT}x.lora_A.weight": random(2, 2)}, peft_type="OFT")
    with read(path) as artifact:
        assert isinstance(adapter_of(artifact, path), Unread)


def vera() -> Arrays:
    return {f"{PEFT}{Q}.vera_lambda_b": random(40), f"{PEFT}{Q}.vera_lambda_d": random(4)}


def test_vera_needs_its_projections(tmp_path: Path) -> None:
    config = {"peft_type": "VERA", "r": 4, "target_modules": ["q_proj"]}
    path = peft(tmp_path / "a", vera(), **config)
    with read(path) as artifact:
        found = adapter_of(artifact, path)
        assert isinstance(found, Unread)
        assert "save_projection" in found.reason
    shared = {"base_model.vera_A": random(4, 24), "base_model.vera_B": random(64, 4)}
    found = changes_of(peft(tmp_path / "b", vera() | shared, **config))
    expected = (
        np.diag(random(40).astype("f8")) @ random(64, 4)[:40] @ np.diag(random(4)) @ random(4, 24)
    )
    np.testing.assert_allclose(
        found["blk.0.attn_q.weight", "delta"], expected, rtol=1e-5, atol=1e-5
    )


B, A = f"{PEFT}{Q}.lora_B.weight", f"{PEFT}{Q}.lora_A.weight"
LOHA = {
    f"x.hada_w{n}_{half}": random(*(9, 2)[:: 1 if half == "a" else -1])
    for n in (1, 2)
    for half in "ab"
}
LOKR = {"x.lokr_w1": random(3, 2), "x.lokr_w2_a": random(4, 2), "x.lokr_w2_b": random(2, 5)}

BROKEN: dict[str, tuple[Arrays, dict[str, Any] | None, str, str]] = {
    "A without B": ({A: lora()[A]}, None, A, "no lora_B"),
    "B without A": ({B: lora()[B]}, None, B, "no lora_A"),
    "ranks": (lora() | {B: random(40, 3)}, None, B, "rank of 4"),
    "NaN": (lora() | {A: np.full((4, 24), np.nan, np.float32)}, None, A, "NaN"),
    "an empty factor": (lora() | {A: np.zeros((0, 24), np.float32), B: np.zeros((40, 0), np.float32)}, None, A, "not that of a factor"),
    "a vector": (lora() | {A: random(4)}, None, A, "not that of a factor"),
    "rank of the configuration": (lora(), {**LORA, "r": 8}, A, "says 8"),
    "another family": (LOHA, LORA, "", "says LORA, but the tensors are those of loha"),
    "not a target": (lora(), {**LORA, "target_modules": ["k_proj"]}, A, "a target"),
    "not by the pattern": (lora(), {**LORA, "target_modules": ".*k_proj"}, A, "a target"),
    "no pattern": (lora(), {**LORA, "target_modules": "*"}, "", "regular expression"),
    "a pattern without end": (lora(), {**LORA, "target_modules": "(a+)+b"}, "", "for ever"),
    "a pattern of a rank without end": (lora(), {**LORA, "rank_pattern": {"(x|y)*": 3}}, "", "for ever"),
    "a rank by a broken pattern": (lora(), {**LORA, "rank_pattern": {"(": 3}}, "", "no regular expression"),
    "a projection of nothing": (vera() | {"base_model.vera_A": np.ones((), np.float32), "base_model.vera_B": random(50, 4)}, None, f"{PEFT}{Q}.vera_lambda_d", "does not fit"),
    "another layer": (lora(), {**LORA, "layers_to_transform": [1, 2]}, A, "layers [1, 2], not 0"),
    "no magnitude": (lora(), {**LORA, "use_dora": True}, A, "use_dora"),
    "a magnitude": (lora() | {f"{PEFT}{Q}.lora_magnitude_vector": random(40)}, {**LORA, "use_dora": False}, f"{PEFT}{Q}.lora_magnitude_vector", "use_dora"),
    "a short magnitude": (lora() | {f"{PEFT}{Q}.lora_magnitude_vector": random(39)}, None, f"{PEFT}{Q}.lora_magnitude_vector", "places"),
    "an unknown module": (lora() | {f"{PEFT}model.other.weight": random(3)}, LORA, f"{PEFT}model.other.weight", "no configuration asks"),
    "an unknown tensor": (lora() | {"x.lora_C.weight": random(3)}, None, "x.lora_C.weight", "no table"),
    "twice": (lora() | {f"{Q}.lora_down.weight": random(4, 24)}, None, f"{Q}.lora_down.weight", "same factor"),
    "one under two names": (lora() | {f"lycoris_{Q.replace('.', '_')}.{k}.weight": v for k, v in zip(("lora_down", "lora_up"), factors()[::-1], strict=True)}, None, "", "twice"),
    "alpha alone": (lora() | {"y.alpha": np.ones((), np.float32)}, None, "y.alpha", "no factors"),
    "alphas": (lora() | {f"{PEFT}{Q}.alpha": random(2)}, None, f"{PEFT}{Q}.alpha", "one number"),
    "alpha in words": (lora(), {**LORA, "lora_alpha": "8"}, "", "not a number"),
    "loha without a half": ({k: v for k, v in LOHA.items() if k != "x.hada_w2_b"}, None, "x.hada_w1_a", "no hada_w2_b"),
    "loha of two shapes": (LOHA | {"x.hada_w2_a": random(8, 2)}, None, "x.hada_w1_a", "shapes"),
    "loha's ranks": (LOHA | {"x.hada_w2_a": random(9, 3)}, None, "x.hada_w2_a", "rank of 2"),
    "loha with one core": (LOHA | {"x.hada_t1": random(2, 2, 3, 3)}, None, "x.hada_t1", "not both"),
    "loha with bad cores": (LOHA | {f"x.hada_t{n}": random(3, 2, 3, 3) for n in (1, 2)}, None, "x.hada_t1", "between factors"),
    "loha of vectors": (LOHA | {"x.hada_w1_a": random(9)}, None, "x.hada_w1_a", "not that of a factor"),
    "loha of a fused module": ({k.replace("x.", "lora_unet_double_blocks_0_img_attn_qkv."): random(*(10, 2)[:: 1 if k.endswith("a") else -1]) for k in LOHA}, None, "", "10 rows are not those of the 3"),
    "a core of another rank": (lora() | {f"{PEFT}{Q}.lora_mid.weight": random(3, 4, 3, 3)}, None, f"{PEFT}{Q}.lora_mid.weight", "between factors"),
    "a kernel and a core": ({A: random(4, 6, 3, 3), B: random(9, 4, 1, 1), f"{PEFT}{Q}.lora_mid.weight": random(4, 4, 3, 3)}, None, A, "has a kernel"),
    "a fused module of odd rows": ({f"lora_unet_double_blocks_0_img_attn_qkv.lora_{k}.weight": v for k, v in zip(("up", "down"), factors(), strict=True)}, None, "", "40 rows are not those of the 3"),
    "a magnitude alone": (lora() | {"y.dora_scale": random(3)}, None, "y.dora_scale", "no factors"),
    "a bias alone": (lora() | {"y.lora_B.bias": random(3)}, None, "y.lora_B.bias", "no factors"),
    "a difference of a fused module": ({"lora_unet_double_blocks_0_img_attn_qkv.diff": random(9, 4)}, None, "", "the 3 tensors of a fused one"),
    "a gain without its vector": ({"x.on_input": np.array(True)}, None, "x.on_input", "no weight"),
    "a gain of a fused module's inputs": ({"lora_unet_double_blocks_0_img_attn_qkv.ia3_l": random(1, 9)}, None, "", "the 3 tensors of a fused one"),
    "a dtype of no factors": (lora() | {A: np.ones((4, 24), np.uint8)}, None, A, "not a dtype"),
    "lokr of a vector": (LOKR | {"x.lokr_w1": random(3)}, None, "x.lokr_w1", "not that of a factor"),
    "lokr with two kernels": (LOKR | {"x.lokr_w1": random(3, 2, 3, 3)}, None, "", "has a kernel"),
    "lokr of a vector of low rank": (LOKR | {"x.lokr_w2_a": random(4)}, None, "x.lokr_w2_a", "not that of a factor"),
    "lokr with a bad core": (LOKR | {"x.lokr_t2": random(3, 2, 3, 3)}, None, "x.lokr_t2", "between factors"),
    "lokr of a fused module": ({k.replace("x.", "lora_unet_double_blocks_0_img_attn_qkv."): v for k, v in LOKR.items()}, None, "", "the 3 tensors of a fused one"),
    "an embedding of a fused module": ({f"lora_unet_double_blocks_0_img_attn_qkv.lora_embedding_{k}": random(*shape) for k, shape in (("A", (2, 9)), ("B", (6, 2)))}, None, "", "the 3 tensors of a fused one"),
    "vera of a fused module": ({k.replace(f"{PEFT}{Q}", "lora_unet_double_blocks_0_img_attn_qkv"): v for k, v in vera().items()} | {"base_model.vera_A": random(4, 9), "base_model.vera_B": random(50, 4)}, None, "", "the 3 tensors of a fused one"),
    "lokr without a half": ({k: v for k, v in LOKR.items() if k != "x.lokr_w2_b"}, None, "x.lokr_w1", "neither"),
    "lokr's ranks": (LOKR | {"x.lokr_w2_a": random(4, 3)}, None, "x.lokr_w2_a", "rank of 2"),
    "a gain that is a matrix": ({"x.ia3_l": random(3, 3)}, None, "x.ia3_l", "not that of a gain"),
    "a gain of the other side": ({f"{PEFT}{Q}.ia3_l": random(1, 9)}, {"peft_type": "IA3", "target_modules": ["q_proj"], "feedforward_modules": ["up_proj"]}, f"{PEFT}{Q}.ia3_l", "is not in"),
    "vera without a half": ({f"{PEFT}{Q}.vera_lambda_b": random(40), "base_model.vera_A": random(4, 9), "base_model.vera_B": random(50, 4)}, None, f"{PEFT}{Q}.vera_lambda_b", "no vera_lambda_d"),
    "one projection": (vera() | {"base_model.vera_A": random(4, 9)}, None, "base_model.vera_A", "no vera_B"),
    "a projection that is called a module's": (vera() | {"base_model.vera_lambda_d": random(4), "base_model.vera_B": random(50, 4)}, None, "base_model.vera_B", "no vera_A"),
    "projections that were to be saved": (vera(), {"peft_type": "VERA", "r": 4, "save_projection": True}, "", "says save_projection"),
    "vera too long": (vera() | {"base_model.vera_A": random(4, 9), "base_model.vera_B": random(30, 4)}, None, f"{PEFT}{Q}.vera_lambda_b", "does not fit"),
    "repeated layers in words": (lora(), {**LORA, "layer_replication": [[3, 1]]}, "", "no list of"),
    "too few repeated layers": (lora(Q.replace(".0.", ".9.")), {**LORA, "layer_replication": [[0, 3]]}, "", "makes 3 layers"),
    "left out": (lora(), {**LORA, "exclude_modules": ["q_proj"]}, A, "leaves the module"),
    "left out by a pattern": (lora(), {**LORA, "exclude_modules": ".*q_proj"}, A, "leaves the module"),
    "a bias that is not said": (lora() | {f"{PEFT}{Q}.lora_B.bias": random(40)}, {**LORA, "lora_bias": False}, f"{PEFT}{Q}.lora_B.bias", "has a bias"),
    "a bias that is not there": (lora(), {**LORA, "lora_bias": True}, A, "has no bias"),
    "targets that are no names": (lora(), {**LORA, "target_modules": [1]}, "", "target_modules is [1], not names"),
    "a table of ranks that is none": (lora(), {**LORA, "rank_pattern": [1]}, "", "rank_pattern is [1], not a JSON object"),
    "a flag in words": (lora(), {**LORA, "use_rslora": "yes"}, "", "use_rslora is 'yes', not true or false"),
    "layers in words": (lora(), {**LORA, "layers_to_transform": "0"}, "", "layers_to_transform is '0', not layers"),
    "modules in one word": (lora(), {**LORA, "modules_to_save": "head"}, "", "modules_to_save is 'head', not a list"),
    "a type that is no text": (lora(), {"peft_type": 7}, "", "peft_type is 7, not text"),
    "a product without end": ({f"x.hada_w{n}_{h}": np.ones((1, 1 << 19)[:: -1 if h == "a" else 1], np.float32) for n in (1, 2) for h in "ab"}, None, "", "more values than any model"),
    "a Kronecker product without end": ({"x.lokr_w1": np.ones((1, 1 << 19), np.float32), "x.lokr_w2": np.ones((1 << 19, 1), np.float32)}, None, "", "more values than any model"),
    "a list for a configuration": (lora(), [], "", "not a JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_adapters_are_refused_in_words(case: str, tmp_path: Path) -> None:
    tensors, config, tensor, reason = BROKEN[case]
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    if config is not None:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError) as caught:
        fingerprint(tmp_path)
    assert reason in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    if tensor:
        assert caught.value.tensor == tensor


def test_products_and_kernels_of_lycoris() -> None:
    key = "denoiser.conv_in.weight", "delta"
    name = "lora_unet_conv_in"
    first, second, core = random(2, 9), random(2, 6, seed=1), random(2, 2, 3, 3)
    tensors = {f"{name}.hada_w{n}_a": first.copy() for n in (1, 2)}
    tensors |= {f"{name}.hada_w{n}_b": second.copy() for n in (1, 2)}
    tensors |= {f"{name}.hada_t{n}": core.copy() for n in (1, 2)} | {
        f"{name}.dora_scale": random(9, 1)
    }
    part = np.einsum("ijkl,ip,jr->prkl", core, first, second, dtype="f8").reshape(9, 54)
    found = changes_of(tensors)
    np.testing.assert_allclose(found[key], part * part, rtol=1e-5, atol=1e-5)
    assert ("denoiser.conv_in.weight", "magnitude") in found
    left, other = random(3, 2), random(2, 4)
    tensors = {
        f"{name}.lokr_w1_a": left, f"{name}.lokr_w1_b": other, f"{name}.lokr_w2_a": first,
        f"{name}.lokr_w2_b": second, f"{name}.lokr_t2": core, f"{name}.dora_scale": random(27, 1),
    }  # fmt: skip
    found = changes_of(tensors)
    expected = np.kron(left.astype("f8") @ other, part)
    np.testing.assert_allclose(found[key], expected, rtol=1e-5, atol=1e-5)
    assert ("denoiser.conv_in.weight", "magnitude") in found


@pytest.mark.parametrize("of", ["loha", "lokr"])
def test_norms_and_gains_stand_beside_products(of: str) -> None:
    """LyCORIS trains norms along with any of its kinds, and kinds may differ by module."""
    product = {"loha": LOHA, "lokr": LOKR}[of]
    beside = {
        "lora_unet_conv_norm_out.w_norm": random(7), "lora_unet_conv_norm_out.b_norm": random(7),
        "lora_unet_conv_out.weight": random(5), "lora_unet_conv_out.on_input": np.array(True),
    }  # fmt: skip
    assert set(changes_of(product | beside)) == {
        ("x.weight", "delta"), ("denoiser.conv_norm_out.weight", "delta"),
        ("denoiser.conv_norm_out.bias", "delta"), ("denoiser.conv_out.weight", "gain_in"),
    }  # fmt: skip


def test_biases_and_embeddings_of_fused_and_plain_modules() -> None:
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    found = changes_of({f"{name}.diff_b": random(60)})
    assert {key for key, _ in found} == {
        f"denoiser.transformer_blocks.0.attn.to_{head}.bias" for head in "qkv"
    }
    tensors = {
        "model.embed_tokens.lora_embedding_A": random(2, 30),
        "model.embed_tokens.lora_embedding_B": random(8, 2),
        "model.embed_tokens.lora_magnitude_vector": random(30),
    }
    found = changes_of(tensors)
    assert found["token_embd.weight", "delta"].shape == (30, 8)
    assert ("token_embd.weight", "magnitude") in found


@pytest.mark.parametrize(
    "shapes",
    [
        ((7, 3), (5, 80)),
        ((3, 7), (80, 5)),
        ((200, 1), (200, 1)),
        ((1, 200), (1, 200)),
        ((90, 1), (1, 90)),
        ((1, 90), (90, 1)),
    ],
)
def test_kronecker_products_fold_either_way(shapes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = (random(*shape, seed=3).astype("f8") for shape in shapes)
    whole = np.kron(left, right)
    one, side = Kronecker(left, right), Layout.of(whole.shape).side
    expected = Dense(whole).folded(_Fold(side))
    for values in (1 << 20, 500):
        monkeypatch.setattr("lineage.adapters.matrices._VALUES", values)
        np.testing.assert_allclose(one.folded(_Fold(side)), expected, atol=1e-9)
    assert one.energy() == pytest.approx(float((whole**2).sum()))


def test_a_rank_above_both_extents_takes_no_more_than_the_product() -> None:
    up, down = random(3, 5000), random(5000, 2)
    found = Product(up.astype("f8"), down.astype("f8")).energy()
    assert found == pytest.approx(float(((up.astype("f8") @ down) ** 2).sum()))


SPECIAL = {
    "target_parameters": ["experts.gate_up_proj"], "trainable_token_indices": [5, 7],
    "use_qalora": True, "use_bdlora": {"nblocks": 2}, "kasa_config": {"beta": 1},
}  # fmt: skip


@pytest.mark.parametrize("key", SPECIAL)
def test_factors_that_mean_something_else_leave_the_change_open(key: str, tmp_path: Path) -> None:
    path = peft(tmp_path, lora(), **LORA, **{key: SPECIAL[key]})
    with read(path) as artifact:
        found = adapter_of(artifact, path)
    assert isinstance(found, Unread)
    assert key in found.reason
    plain = peft(tmp_path / "plain", lora(), **LORA, **{key: None})
    assert fingerprint(plain).delta is not None


def test_large_products_are_summed_in_blocks() -> None:
    for rank, rows, cols in ((130, 300, 200), (64, 128, 4000), (600, 700, 20)):
        up, down = (random(*shape).astype("f8") for shape in ((rows, rank), (rank, cols)))
        found = Product(up, down, 0.5).energy()
        assert found == pytest.approx(float(((0.5 * up @ down) ** 2).sum()), rel=1e-12)
    one = Hadamard(Product(up, down, 0.5), Product(up, down))
    expected = 0.5 * (up @ down) ** 2
    np.testing.assert_allclose(one.folded(Whole(one.shape)), expected, rtol=1e-9, atol=1e-9)


def test_hadamard_products_come_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lineage.adapters.matrices._VALUES", 100)
    up, down = random(30, 3).astype("f8"), random(3, 40).astype("f8")
    one = Hadamard(Product(up, down), Product(up, down))
    np.testing.assert_allclose(one.folded(Whole(one.shape)), (up @ down) ** 2)
    assert one.energy() == pytest.approx(float(((up @ down) ** 4).sum()))


def test_many_modules_measured_on_threads_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors: Arrays = {}
    for layer in range(6):
        tensors |= lora(Q.replace(".0.", f".{layer}."), seed=layer)
    one = fingerprint(tensors).delta
    monkeypatch.setattr("lineage.fingerprints.delta._SMALL", 0)
    other = fingerprint(tensors).delta
    assert one is not None
    assert other is not None
    assert one.features == other.features
