"""What the real packages write is read as what they compute: peft's adapters, diffusers' tables."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lineage.adapters import adapter_of
from lineage.adapters.applied import Whole
from lineage.adapters.base import Adapter
from lineage.adapters.names import modules_of
from lineage.adapters.projections import drawn
from lineage.artifacts import read
from lineage.errors import FormatError
from lineage.evidence.contained import contained
from lineage.evidence.weights import Weights
from lineage.fingerprints import fingerprint

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


def dense(source: Any) -> dict[tuple[str, str], Any]:
    """Every change as a dense matrix."""
    with read(source) as artifact:
        found = adapter_of(artifact, source)
        assert isinstance(found, Adapter)
        matrices = {(c.name, c.kind): c.load() for c in found.changes}
        return {key: m.folded(Whole(m.shape)) for key, m in matrices.items()}


def network() -> Any:
    torch.manual_seed(0)
    module = torch.nn.Module()
    module.emb = torch.nn.Embedding(50, 24)
    module.q = torch.nn.Linear(24, 40)
    module.up = torch.nn.Linear(40, 24)
    module.conv = torch.nn.Conv2d(8, 12, 3)
    module.point = torch.nn.Conv2d(8, 12, 1)
    module.head = torch.nn.Linear(24, 5)
    return module


ALL = ["q", "up", "conv", "point"]
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "patterns": (
        "LoraConfig",
        {
            "r": 4, "lora_alpha": 6, "target_modules": [*ALL, "emb"], "use_rslora": True,
            "rank_pattern": {"up": 3}, "alpha_pattern": {"q": 5}, "bias": "lora_only",
            "modules_to_save": ["head"],
        },
    ),
    "dora": ("LoraConfig", {"r": 4, "target_modules": ["q", "conv"], "use_dora": True}),
    "biases": ("LoraConfig", {"r": 4, "target_modules": ["q", "up"], "lora_bias": True}),
    "loha": ("LoHaConfig", {"r": 4, "alpha": 6, "target_modules": ALL}),
    "loha with cores": (
        "LoHaConfig", {"r": 4, "alpha": 6, "target_modules": ALL, "use_effective_conv2d": True},
    ),
    "lokr": ("LoKrConfig", {"r": 2, "alpha": 6, "target_modules": ALL, "decompose_both": True}),
    "lokr with cores": (
        "LoKrConfig", {"r": 1, "alpha": 6, "target_modules": ALL, "use_effective_conv2d": True},
    ),
    "lokr of full factors": (
        "LoKrConfig", {"r": 100, "alpha": 6, "target_modules": ALL, "rank_pattern": {"q": 2}},
    ),
    "vera": ("VeraConfig", {"r": 4, "target_modules": ["q"], "save_projection": True}),
}  # fmt: skip


def saved(config: Any, folder: Path) -> Any:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(network(), config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter) * 0.3
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("case", CONFIGS)
def test_peft_computes_what_is_read(case: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    kind, settings = CONFIGS[case]
    model = saved(getattr(peft, kind)(**settings), tmp_path)
    modules = dict(model.base_model.model.named_modules())
    found = dense(tmp_path)
    for name in settings["target_modules"]:
        expected = modules[name].get_delta_weight("default").detach().double().numpy()
        change = found[f"{name}.weight", "delta"]
        expected = expected.reshape(change.shape)
        np.testing.assert_allclose(change, expected, atol=1e-6 * np.abs(expected).max())
    kinds = {kind for _, kind in found}
    assert ("magnitude" in kinds) == bool(settings.get("use_dora"))
    assert ("whole" in kinds) == ("modules_to_save" in settings)
    assert (("q.bias", "delta") in found) == bool(settings.get("lora_bias"))
    assert fingerprint(tmp_path).delta is not None


def test_gains_of_peft(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.IA3Config(target_modules=["q", "up"], feedforward_modules=["up"])
    model = saved(config, tmp_path)
    gains = {n: p for n, p in model.named_parameters() if "ia3_l" in n}
    found = dense(tmp_path)
    for (name, kind), module in ((("q.weight", "gain_out"), "q"), (("up.weight", "gain_in"), "up")):
        (gain,) = (p for n, p in gains.items() if f".{module}." in n)
        expected = gain.detach().double().numpy().reshape(-1) - 1
        np.testing.assert_allclose(found[name, kind].reshape(-1), expected)


@pytest.mark.parametrize("key", [0, 7])
def test_projections_that_were_not_saved_are_drawn_anew(key: int, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    targets = {"target_modules": ["q", "up"], "r": 4, "projection_prng_key": key}
    for name, is_saved in (("with", True), ("without", False)):
        config = peft.VeraConfig(**targets, save_projection=is_saved)
        torch.manual_seed(3)
        model = saved(config, tmp_path / name)
    base = network().state_dict()
    one, other = fingerprint(tmp_path / "with"), fingerprint(tmp_path / "without", base=base)
    assert one.delta is not None
    assert other.delta is not None
    assert one.delta.id == other.delta.id
    assert one.delta.features == other.delta.features
    a, b = drawn(key, 4, rows=40, cols=40)
    np.testing.assert_array_equal(model.base_model.vera_A["default"].numpy(), a)
    np.testing.assert_array_equal(model.base_model.vera_B["default"].numpy(), b)
    assert fingerprint(tmp_path / "without").delta is None


BASE = {"q.weight": np.zeros((40, 24), "f4"), "up.weight": np.zeros((24, 40), "f4")}
UNDRAWN: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no seed": (BASE, {"projection_prng_key": "7"}, "no seed"),
    "a seed too long": (BASE, {"projection_prng_key": 1 << 64}, "beyond 2^53"),
    "another base": ({"v.weight": np.zeros((40, 24), "f4")}, {}, "no matrix is called q"),
    "a base of other rows": (BASE | {"q.weight": np.zeros((8, 24), "f4")}, {}, "of 8 outputs"),
    "two ranks": (BASE, {"r": 2}, "says 2"),
}


@pytest.mark.parametrize("case", UNDRAWN)
def test_projections_that_cannot_be_drawn_are_refused(case: str, tmp_path: Path) -> None:
    base, changed, reason = UNDRAWN[case]
    tensors = {"base_model.model.q.vera_lambda_b": np.ones(40, "f4")}
    tensors |= {"base_model.model.q.vera_lambda_d": np.ones(4, "f4")}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "VERA", "r": 4, "target_modules": ["q"], **changed}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError) as caught:
        fingerprint(tmp_path, base=base)
    assert reason in str(caught.value)


def test_a_base_that_lies_transposed_gives_its_inputs(tmp_path: Path) -> None:
    config = {"peft_type": "VERA", "r": 4, "target_modules": ["q"], "fan_in_fan_out": True}
    tensors = {"base_model.model.q.vera_lambda_b": np.ones(40, "f4")}
    tensors |= {"base_model.model.q.vera_lambda_d": np.ones(4, "f4")}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    found = fingerprint(tmp_path, base={"q.weight": np.zeros((24, 40), "f4")}).delta
    assert found is not None
    assert found.changes[0].shape == (40, 24)


def test_the_bin_of_older_versions_is_the_same(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q"])
    model = saved(config, tmp_path / "new")
    model.save_pretrained(tmp_path / "old", safe_serialization=False)
    one, other = fingerprint(tmp_path / "new").delta, fingerprint(tmp_path / "old").delta
    assert one is not None
    assert other is not None
    assert one.id == other.id


def converters() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("diffusers.loaders.lora_conversion_utils")


def kohya(modules: dict[str, tuple[int, int]], rank: int = 4) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, (rows, cols) in modules.items():
        found[f"{name}.lora_down.weight"] = torch.randn(rank, cols, generator=generator)
        found[f"{name}.lora_up.weight"] = torch.randn(rows, rank, generator=generator)
        found[f"{name}.alpha"] = torch.tensor(2.0)
    return found


def copied(tensors: dict[str, Any]) -> dict[str, Any]:
    """Converters scale in place."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_same(ours: dict[tuple[str, str], Any], theirs: dict[tuple[str, str], Any]) -> None:
    assert ours.keys() == theirs.keys()
    for key, change in ours.items():
        np.testing.assert_allclose(change, theirs[key], rtol=1e-5, atol=1e-5)


def test_flux_as_diffusers_converts_it() -> None:
    width = 3072
    shapes = {"img_attn_qkv": 3 * width, "img_attn_proj": width, "txt_attn_qkv": 3 * width,
              "txt_attn_proj": width, "img_mlp_0": 4 * width, "txt_mlp_0": 4 * width,
              "img_mod_lin": 6 * width, "txt_mod_lin": 6 * width}  # fmt: skip
    modules = {f"lora_unet_double_blocks_0_{name}": (rows, width) for name, rows in shapes.items()}
    modules |= {"lora_unet_double_blocks_0_img_mlp_2": (width, 4 * width),
                "lora_unet_double_blocks_0_txt_mlp_2": (width, 4 * width),
                "lora_unet_single_blocks_5_linear1": (7 * width, width),
                "lora_unet_single_blocks_5_linear2": (width, 5 * width),
                "lora_unet_single_blocks_5_modulation_lin": (3 * width, width)}  # fmt: skip
    original = kohya(modules, rank=1)
    converted = converters()._convert_kohya_flux_lora_to_diffusers(copied(original))
    one, other = fingerprint(original).delta, fingerprint(copied(converted)).delta
    assert one is not None
    assert other is not None
    assert [c.key for c in one.changes] == [c.key for c in other.changes]
    assert one.id == other.id
    assert len(one.changes) == 20


def test_wan_as_diffusers_converts_it() -> None:
    names = [f"blocks_0_{a}_attn_{o}" for a in ("self", "cross") for o in "qkvo"]
    names += ["blocks_0_cross_attn_k_img", "blocks_0_cross_attn_v_img"]
    modules = {f"lora_unet_{name}": (24, 24) for name in names}
    modules |= {"lora_unet_blocks_0_ffn_0": (96, 24), "lora_unet_blocks_0_ffn_2": (24, 96)}
    original = kohya(modules)
    converted = converters()._convert_musubi_wan_lora_to_diffusers(copied(original))
    assert_same(dense(original), dense(converted))
    dotted = {
        f"diffusion_model.{key.replace('lora_unet_', '').replace('_attn_', '_attn.')}": value
        for key, value in original.items()
    }
    dotted = {
        k.replace("blocks_0_", "blocks.0.").replace("ffn_", "ffn."): v for k, v in dotted.items()
    }
    converted = converters()._convert_non_diffusers_wan_lora_to_diffusers(copied(dotted))
    assert_same(dense(dotted), dense(converted))
    assert_same(dense(dotted), dense(original))


SD = [
    "input_blocks_4_1_transformer_blocks_0_attn1_to_q", "input_blocks_4_1_proj_in",
    "middle_block_1_transformer_blocks_3_ff_net_0_proj", "input_blocks_3_0_op",
    "output_blocks_5_1_transformer_blocks_0_attn2_to_out_0", "input_blocks_1_0_in_layers_2",
    "output_blocks_2_0_out_layers_3", "output_blocks_2_0_skip_connection",
    "middle_block_2_emb_layers_1",
]  # fmt: skip


def test_sdxl_as_diffusers_converts_it() -> None:
    class Unet:
        layers_per_block = 2

    modules = {f"lora_unet_{name}": (24, 24) for name in SD}
    modules |= {f"lora_te1_text_model_encoder_layers_0_{name}": (24, 24)
                for name in ("self_attn_q_proj", "self_attn_out_proj", "mlp_fc1")}  # fmt: skip
    original = kohya(modules)
    library = converters()
    mapped = library._maybe_map_sgm_blocks_to_diffusers(copied(original), Unet())
    converted, alphas = library._convert_non_diffusers_lora_to_diffusers(mapped)
    for name, alpha in alphas.items():
        module = name.removesuffix(".alpha").removesuffix(".down.weight")
        module = module.removesuffix(".lora").removesuffix(".lora_linear_layer")
        converted[f"{module}.alpha"] = torch.tensor(float(alpha))
    assert_same(dense(original), dense(converted))


def test_names_that_diffusers_writes_are_names_already() -> None:
    utils = pytest.importorskip("diffusers.utils.state_dict_utils")
    for theirs, new in utils.UNET_TO_DIFFUSERS.items():
        if ".lora_" in theirs:
            continue
        module = f"unet.mid_block.attentions.0{theirs.rsplit('.', 1)[0]}"
        expected = f"unet.mid_block.attentions.0{new.rsplit('.', 1)[0]}"
        assert modules_of(module) == modules_of(expected)


def merged_by_peft(config: Any, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a network as it was and with an adapter merged in, which is saved."""
    peft = pytest.importorskip("peft")
    start = network()
    base = {name: value.numpy().copy() for name, value in start.state_dict().items()}
    model = peft.get_peft_model(start, config)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            scale = 1.05 if parameter.ndim == 1 else 1.0
            parameter.data = scale * parameter.data + torch.randn_like(parameter) * 0.02
    model.save_pretrained(folder)
    whole = model.merge_and_unload().state_dict()
    return base, {name: value.numpy() for name, value in whole.items()}


APPLIED: dict[str, tuple[str, dict[str, Any]]] = {
    "dora": ("LoraConfig", {"r": 4, "target_modules": ["q", "up", "conv"], "use_dora": True}),
    "dora of embeddings": ("LoraConfig", {"r": 4, "target_modules": ["emb"], "use_dora": True}),
    "vera": ("VeraConfig", {"target_modules": ["q", "up"], "r": 4}),
    "gains": ("IA3Config", {"target_modules": ["q", "up"], "feedforward_modules": ["up"]}),
    "saved whole": ("LoraConfig", {"r": 4, "target_modules": ["q"], "modules_to_save": ["head"]}),
}


@pytest.mark.parametrize("case", APPLIED)
def test_what_is_no_difference_is_one_on_a_base(case: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    kind, settings = APPLIED[case]
    base, whole = merged_by_peft(getattr(peft, kind)(**settings), tmp_path / "low")
    half = {name: base[name] + 0.4 * (whole[name] - base[name]) for name in base}
    weights = Weights.of({"low": tmp_path / "low", "base": base})
    delta = weights.applied("low", "base")
    assert delta is not None
    assert {change.kind for change in delta.changes} == {"delta"}
    for model, weight in ((whole, 1.0), (half, 0.4)):
        found = contained([delta], fingerprint(base), fingerprint(model))
        assert found is not None
        assert found.fit.shares[0].weight == pytest.approx(weight, abs=1e-3)
        assert found.is_all
    narrow = {name: value[:-1] for name, value in base.items()}
    assert Weights.of({"low": tmp_path / "low", "base": narrow}).applied("low", "base") is None
    assert Weights.of({"low": tmp_path / "low"}).applied("low", "base") is None


def test_sketches_alone_tell_the_product_of_a_dora_and_not_its_magnitudes(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q", "up"], use_dora=True)
    base, whole = merged_by_peft(config, tmp_path)
    delta = fingerprint(tmp_path).delta
    assert delta is not None
    found = contained([delta], fingerprint(base), fingerprint(whole))
    assert found is not None
    assert not found.is_all
