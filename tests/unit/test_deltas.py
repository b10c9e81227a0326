"""What adapters are to each other, to their bases and to what they were merged into."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lineage.artifacts.dialects import canonical_name
from lineage.evidence.contained import contained, fits, merged
from lineage.evidence.deltas import combined
from lineage.evidence.weights import Weights
from lineage.fingerprints import fingerprint
from lineage.fingerprints.delta import Delta
from lineage.graph import compare, infer, infer_graph

if TYPE_CHECKING:
    from pathlib import Path

Arrays = dict[str, np.ndarray]
NAMES = [f"model.layers.{k}.self_attn.{part}_proj" for k in range(3) for part in "qv"]


def base(seed: int) -> Arrays:
    draw = np.random.default_rng(seed)
    return {
        f"{name}.weight": draw.standard_normal((80, 64)).astype(np.float32) * np.float32(0.05)
        for name in [*NAMES, "lm_head"]
    }


def adapter(seed: int, rank: int = 4, *, prefix: str = "base_model.model.") -> Arrays:
    draw = np.random.default_rng(100 + seed)
    found = {}
    for name in NAMES:
        found[f"{prefix}{name}.lora_A.weight"] = draw.standard_normal((rank, 64))
        found[f"{prefix}{name}.lora_B.weight"] = draw.standard_normal((80, rank)) * 0.01
    return {name: value.astype(np.float32) for name, value in found.items()}


def with_merged(model: Arrays, low: Arrays, scale: float) -> Arrays:
    found = dict(model)
    for name in NAMES:
        a, b = (low[f"base_model.model.{name}.lora_{half}.weight"] for half in "AB")
        found[f"{name}.weight"] = model[f"{name}.weight"] + np.float32(scale) * (b @ a)
    return found


def delta(model: Arrays) -> Delta:
    found = fingerprint(model).delta
    assert found is not None
    return found


def test_an_adapter_is_known_by_its_factors() -> None:
    found = delta(adapter(0, 8))
    assert found.rank == 8
    assert {c.name for c in found.changes} == {canonical_name(f"{name}.weight") for name in NAMES}
    assert fingerprint(base(0)).delta is None


def test_the_core_of_the_product_is_the_product_of_the_cores() -> None:
    low = adapter(1, 50)
    cores = {change.name: change.core for change in delta(low).changes}
    for name in NAMES:
        a, b = (low[f"base_model.model.{name}.lora_{half}.weight"] for half in "AB")
        whole = fingerprint({"w": (b.astype(np.float64) @ a).astype(np.float32)}).tensors[0].sketch
        assert whole is not None
        core = cores[canonical_name(f"{name}.weight")]
        np.testing.assert_allclose(core, whole.core, atol=1e-5 * np.abs(whole.core).max())


@pytest.mark.parametrize("scale", [0.25, 2.0])
def test_the_merged_model_tells_base_and_scale(scale: float) -> None:
    low, start = adapter(2), base(2)
    found = delta(low)
    child = fingerprint(with_merged(start, low, scale))
    seen = merged(found, fingerprint(start), child)
    assert seen is not None
    assert seen.scale == pytest.approx(scale, rel=1e-3)
    backwards = merged(found, child, fingerprint(start))
    assert backwards is not None
    assert backwards.scale < 0


def test_others_are_not_merged() -> None:
    low, other = adapter(3), adapter(4)
    found = delta(low)
    start = fingerprint(base(3))
    assert merged(found, start, fingerprint(with_merged(base(3), other, 1.0))) is None
    assert merged(found, start, fingerprint(base(5))) is None
    assert merged(found, start, start) is None


def test_shapes_alone_say_what_it_fits() -> None:
    found = delta(adapter(5))
    assert fits(found, fingerprint(base(6))).is_whole
    smaller = fits(found, fingerprint({name: value[:, :32] for name, value in base(6).items()}))
    assert len(smaller.misshapen) == len(NAMES)
    other = fits(found, fingerprint({"lm_head.weight": base(6)["lm_head.weight"]}))
    assert len(other.missing) == len(NAMES)


def test_wrapped_and_default_names_are_the_same_modules() -> None:
    plain = adapter(7, prefix="")
    renamed = {name.replace("lora_A.", "lora_A.default."): v for name, v in plain.items()}
    assert delta(renamed).id == delta(plain).id


def test_infer_hangs_an_adapter_of_another_dialect_on_its_base() -> None:
    low, start = adapter(8), base(8)
    flat = {
        f"lycoris_{name.replace('.', '_')}.lora_{flat_half}.weight": low[
            f"base_model.model.{name}.lora_{half}.weight"
        ]
        for name in NAMES
        for half, flat_half in (("A", "down"), ("B", "up"))
    }
    models = {
        "base": start,
        "child": with_merged(start, low, 1.0),
        "adapter": flat,
        "other": adapter(9),
        "stranger": base(10),
    }
    graph = infer(models)
    assert edges_of(graph) == {("base", "adapter")}
    # The other one fits both bases, and nothing was made with it.
    assert {(u.a, u.b) for u in graph.undetermined} == {("base", "other"), ("stranger", "other")}
    assert "it fits" in graph.undetermined[0].why


def edges_of(graph: Any) -> set[tuple[str, str]]:
    return {(e.parent, e.child) for e in graph.edges if e.relation == "adapter"}


def test_infer_finds_adapters_that_were_merged_together() -> None:
    low, other, start = adapter(50), adapter(51), base(50)
    child = with_merged(with_merged(start, low, 0.7), other, 0.4)
    models = {"base": start, "child": child, "low": low, "other": other, "third": adapter(52)}
    graph = infer(models)
    assert edges_of(graph) == {("base", "low"), ("base", "other")}
    assert {(u.a, u.b) for u in graph.undetermined} == {("base", "third")}
    assert graph.family("low") == graph.family("child")


def test_infer_names_the_base_that_an_adapter_declares(tmp_path: Path) -> None:
    for name, seed in (("mine", 53), ("theirs", 54)):
        (tmp_path / name).mkdir()
        save_file(base(seed), tmp_path / name / "model.safetensors")
    (tmp_path / "lora").mkdir()
    save_file(adapter(53), tmp_path / "lora" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": "me/mine"}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config))
    (said,) = infer([str(tmp_path)]).undetermined
    assert (said.a, said.b) == (
        str(tmp_path / "mine" / "model.safetensors"),
        str(tmp_path / "lora"),
    )
    assert said.why.startswith("it declares this name, and it fits")


def test_adapters_are_not_looked_for_in_other_coordinates() -> None:
    models = {"base": base(61), "stranger": base(62), "one": adapter(61), "other": adapter(62)}
    said: dict[str, list[str]] = {}
    for names in (("base", "stranger", "one", "other"), ("base", "one", "other")):
        some = {name: models[name] for name in names}
        prints = {name: fingerprint(model) for name, model in some.items()}
        seen: list[str] = []
        infer_graph(prints, weights=Weights.of(some), watch=seen.append)
        said[" ".join(names)] = seen
    assert said["base stranger one other"]
    assert not said["base one other"]


def test_an_adapter_beside_a_base_is_denied_by_shapes_alone() -> None:
    low, start = adapter(55), base(55)
    for one, other in ((low, start), (start, low)):
        seen = compare(one, other)
        assert (seen.related, seen.relation) == (None, None)
        assert "as it fits any model" in seen.evidence[0].words
    narrow = {name: value[:, :32] for name, value in start.items()}
    seen = compare(narrow, low)
    assert seen.related is False
    assert "{b} is an adapter, and {a} not its base: 6 tensors have another" in (
        seen.evidence[0].words
    )
    few = {name: value for name, value in start.items() if ".layers.0." in name}
    assert compare(low, few).related is False
    assert compare(low, {"x": start["lm_head.weight"]}).related is None


def test_a_part_of_a_pipeline_may_be_the_base() -> None:
    names = ("te1_text_model_encoder_layers_0_mlp_fc1", "unet_mid_block_attentions_0_proj_in")
    draw = np.random.default_rng(63)
    low = {
        f"lora_{name}.lora_{half}.weight": draw.standard_normal(shape)
        for name in names
        for half, shape in (("down", (2, 12)), ("up", (8, 2)))
    }
    unet = {"mid_block.attentions.0.proj_in.weight": draw.standard_normal((8, 12))}
    seen = fits(delta(low), fingerprint(unet))
    assert (len(seen.missing), len(seen.places), seen.is_denied) == (1, 1, False)
    assert "the base has not 1 tensors" in str(seen)
    assert compare(low, unet).related is None
    other = {"mid_block.attentions.1.proj_in.weight": draw.standard_normal((8, 12))}
    assert not fits(delta(low), fingerprint(other)).is_denied
    more = {
        f"lora_unet_{n}.lora_{h}.weight": v
        for n in ("conv_in", "mid_block_attentions_0_proj_in")
        for h, v in (("down", draw.standard_normal((2, 12))), ("up", draw.standard_normal((8, 2))))
    }
    assert fits(delta(more), fingerprint(unet)).is_denied


def test_what_was_sketched_in_part_is_not_held_against_adapters(tmp_path: Path) -> None:
    low, start = adapter(56), base(56)
    paths = []
    for name, model in (("base", start), ("child", with_merged(start, low, 1.0))):
        save_file(model, tmp_path / f"{name}.safetensors")
        paths.append(tmp_path / f"{name}.safetensors")
    assert contained([delta(low)], *map(fingerprint, paths)) is not None
    assert contained([delta(low)], *(fingerprint(p, tier="fast") for p in paths)) is None


def rotated(low: Arrays, dtype: str = "f4", seed: int = 0) -> Arrays:
    """The same change in other factors."""
    draw = np.random.default_rng(seed)
    found = dict(low)
    for name in NAMES:
        down, up = (f"base_model.model.{name}.lora_{half}.weight" for half in "AB")
        turn = np.linalg.qr(draw.standard_normal((low[down].shape[0],) * 2))[0]
        found[up] = (low[up].astype("f8") @ turn).astype(dtype)
        found[down] = (turn.T @ low[down].astype("f8")).astype(dtype)
    return found


def trained(low: Arrays, by: float, seed: int) -> Arrays:
    """An adapter after more steps."""
    draw = np.random.default_rng(seed)
    return {
        k: (v + by * v.std() * draw.standard_normal(v.shape)).astype(v.dtype)
        for k, v in low.items()
    }


def joined(*weighted: tuple[float, Arrays]) -> Arrays:
    """A weighted sum of adapters, their factors side by side."""
    found = {}
    for name in NAMES:
        down, up = (f"base_model.model.{name}.lora_{half}.weight" for half in "AB")
        found[down] = np.concatenate([low[down] for _, low in weighted])
        found[up] = np.concatenate([np.float32(w) * low[up] for w, low in weighted], axis=1)
    return found


def test_what_adapters_are_to_each_other() -> None:
    low = adapter(20)
    same = compare(low, rotated(low))
    assert (same.relation, same.how, same.related) == ("identical", "converted", True)
    half = compare(low, rotated(low, "f2"))
    assert (half.relation, half.how, half.direction) == ("quantized", "fp16", "a->b")
    more = trained(low, 0.3, 1)
    step = compare(low, more)
    assert (step.relation, step.direction) == ("finetune", "a->b")
    back = compare(more, low)
    assert (back.relation, back.direction) == ("finetune", "b->a")
    siblings = compare(trained(low, 0.5, 2), trained(low, 0.5, 3))
    assert (siblings.related, siblings.relation) == (True, None)
    assert compare(low, adapter(21)).related is False
    twice = {k: v * (2 if "lora_B" in k else 1) for k, v in low.items()}
    assert "times 2" in compare(low, twice).evidence[0].words
    wide = compare(low, joined((0.5, low), (0.5, adapter(22))))
    assert (wide.related, wide.relation) == (True, None)
    elsewhere = {k.replace("layers", "others"): v for k, v in low.items()}
    assert compare(low, elsewhere).related is None


def test_a_step_of_one_in_a_hundred_is_no_rounding() -> None:
    low = adapter(23)
    found = compare(low, trained(low, 0.01, 1))
    assert (found.related, found.relation) == (True, None)  # kin, and too near to tell the order
    assert found.change == pytest.approx(0.014, rel=0.2)


def test_a_sum_of_adapters_tells_its_weights() -> None:
    low, other, third = adapter(24), adapter(25), adapter(26)
    found = combined(
        delta(joined((0.7, low), (0.3, other))), [delta(x) for x in (low, other, third)]
    )
    assert found is not None
    assert [share.weight for share in found.shares] == pytest.approx([0.7, 0.3, 0], abs=1e-4)
    assert [share.present for share in found.shares] == [True, True, False]
    assert found.left < 1e-9
    twins = combined(delta(low), [delta(low), delta(rotated(low))])
    assert twins is not None
    assert [share.present for share in twins.shares] == [None, None]


@pytest.mark.parametrize("dtype", ["f4", "f2"])
def test_a_merged_model_tells_which_adapters_are_in_it(dtype: str) -> None:
    low, other, third = adapter(27, 16), adapter(28, 16), adapter(29, 16)
    start = base(27)
    grown = with_merged(with_merged(start, low, 0.8), other, 0.4)
    one, model = (fingerprint({k: v.astype(dtype) for k, v in m.items()}) for m in (start, grown))
    found = contained([delta(x) for x in (low, other, third)], one, model)
    assert found is not None
    assert [share.present for share in found.fit.shares] == [True, True, False]
    weights = [share.weight for share in found.fit.shares]
    error = 5 * max(share.error for share in found.fit.shares) + 1e-7
    assert weights == pytest.approx([0.8, 0.4, 0], abs=error)
    assert weights == pytest.approx([0.8, 0.4, 0], abs=0.02)
    assert found.fit.left < 0.01
    assert found.outside == 0
    assert contained([delta(low)], fingerprint({"x": start["lm_head.weight"]}), model) is None
    moved = {k: v * np.float32(3) if k == "lm_head.weight" else v for k, v in grown.items()}
    elsewhere = contained([delta(low)], fingerprint(start), fingerprint(moved))
    assert elsewhere is not None
    assert elsewhere.outside > 0.01


def test_an_adapter_that_is_not_in_a_model_is_not_found_there() -> None:
    start = base(30)
    model = fingerprint(with_merged(start, adapter(30), 1.0))
    found = contained([delta(adapter(31))], fingerprint(start), model)
    assert found is not None
    assert found.fit.shares[0].present is False
    assert found.fit.left > 0.9


def test_small_and_large_adapters_are_told_apart_alike() -> None:
    low, other = adapter(32), adapter(33)
    tiny = {k: v * np.float32(1e-5 if "lora_B" in k else 1) for k, v in other.items()}
    found = combined(delta(joined((1.0, low), (1.0, other))), [delta(low), delta(tiny)])
    assert found is not None
    assert [share.weight for share in found.shares] == pytest.approx([1, 1e5], rel=1e-3)
    assert [share.present for share in found.shares] == [True, True]


def test_adapters_of_two_kinds_are_far_apart() -> None:
    low = adapter(34)
    gains = {f"{name}.ia3_l": np.full((80, 1), 1.5, np.float32) for name in NAMES}
    found = compare(low, gains)
    assert (found.related, found.change) == (None, None)
    more = {**low, **{f"base_model.model.{n}.diff_b": np.ones(80, np.float32) for n in NAMES}}
    assert compare(low, more).related is True
    magnitudes = {
        f"base_model.model.{n}.lora_magnitude_vector": np.ones(80, np.float32) for n in NAMES
    }
    stronger = compare(low, {**low, **magnitudes})
    assert stronger.change is None
    assert stronger.to_json()["change"] is None


def test_a_base_may_keep_the_transpose_and_hold_modules_together() -> None:
    """GPT-2 keeps the transpose; a fused base holds the query, key and value that are adapted."""
    draw = np.random.default_rng(40)
    up, down = draw.standard_normal((48, 4)), draw.standard_normal((4, 32))
    low = {"h.0.mlp.c_fc.lora_B.weight": up, "h.0.mlp.c_fc.lora_A.weight": down}
    start = {"h.0.mlp.c_fc.weight": draw.standard_normal((32, 48)) * 3}
    grown = {"h.0.mlp.c_fc.weight": start["h.0.mlp.c_fc.weight"] + (up @ down).T}
    seen = merged(delta(low), fingerprint(start), fingerprint(grown))
    assert seen is not None
    assert seen.scale == pytest.approx(1, abs=1e-5)
    square = {"x.lora_B.weight": up[:32], "x.lora_A.weight": down}
    start = {"x.weight": draw.standard_normal((32, 32)) * 3}
    seen = merged(
        delta(square),
        fingerprint(start),
        fingerprint({"x.weight": start["x.weight"] + (up[:32] @ down).T}),
    )
    assert seen is not None
    assert seen.scale == pytest.approx(1, abs=1e-5)
    fused = {"h.0.attn.qkv.weight": draw.standard_normal((96, 32)) * 3}
    low = {"h.0.attn.q.lora_B.weight": up[:32], "h.0.attn.q.lora_A.weight": down}
    grown = {"h.0.attn.qkv.weight": fused["h.0.attn.qkv.weight"].copy()}
    grown["h.0.attn.qkv.weight"][:32] += up[:32] @ down
    found = contained([delta(low)], fingerprint(fused), fingerprint(grown))
    assert found is not None
    assert found.fit.shares[0].weight == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_compared_is_not() -> None:
    low, start = adapter(41), base(41)
    one, model = fingerprint(start), fingerprint(with_merged(start, low, 1.0))
    wider = {k: np.pad(v, ((0, 0), (0, 4))) for k, v in with_merged(start, low, 1.0).items()}
    assert contained([delta(low)], one, fingerprint(wider)) is None
    assert contained([delta(low)], one, fingerprint({"x": start["lm_head.weight"]})) is None
    broken = {k: np.where(v > 0.1, np.nan, v).astype(np.float32) for k, v in start.items()}
    assert contained([delta(low)], one, fingerprint(broken)) is None
    gains = {f"{NAMES[0]}.ia3_l": np.full((80, 1), 1.5, np.float32)}
    assert contained([delta(gains)], one, model) is None
    assert combined(delta(gains), [delta(low)]) is None
    assert fits(delta(gains), one).is_whole
    inner = {f"{NAMES[0]}.ia3_l": np.full((1, 64), 1.5, np.float32)}
    assert fits(delta(inner), one).is_whole


def test_the_projections_of_vera_may_be_wider_than_a_base() -> None:
    draw = np.random.default_rng(42)
    name = NAMES[0]
    tensors = {
        f"{name}.vera_lambda_b": draw.standard_normal(80),
        f"{name}.vera_lambda_d": draw.standard_normal(4),
        "base_model.vera_A": draw.standard_normal((4, 100)),
        "base_model.vera_B": draw.standard_normal((90, 4)),
    }
    found = delta(tensors)
    assert fits(found, fingerprint(base(42))).is_whole
    assert contained([found], fingerprint(base(42)), fingerprint(base(43))) is None


def with_magnitudes(start: Arrays, low: Arrays) -> tuple[Arrays, Arrays]:
    """A DoRA, and the model that it is merged into: rows have the norms that it says."""
    draw = np.random.default_rng(60)
    found, model = dict(low), with_merged(start, low, 1.0)
    for name in NAMES:
        weight = model[f"{name}.weight"]
        norms = np.linalg.norm(start[f"{name}.weight"], axis=1) * draw.uniform(0.8, 1.2, 80)
        scales = norms / np.linalg.norm(weight, axis=1)
        model[f"{name}.weight"] = weight * scales[:, None].astype(np.float32)
        found[f"base_model.model.{name}.lora_magnitude_vector"] = norms.astype(np.float32)
    return found, model


def test_a_dora_in_a_model_takes_the_weights_of_its_base() -> None:
    start = base(57)
    dora, model = with_magnitudes(start, adapter(57))
    models = {"base": start, "child": model, "dora": dora}
    assert edges_of(infer(models)) == set()
    assert edges_of(infer(models, deep=True)) == {("base", "dora")}
    assert compare(dora, model, base=start).related is None
    seen = compare(model, dora, base=start, deep=True)
    assert seen.related is True
    assert "is the base with {b} merged into it, 1 times" in seen.evidence[0].words
    other, _ = with_magnitudes(start, adapter(58))
    assert edges_of(infer({**models, "dora": other}, deep=True)) == set()


def test_what_differs_in_shape_or_place_is_not_applied() -> None:
    start = base(59)
    dora, _ = with_magnitudes(start, adapter(59))
    short, flat = ({k: v[at] for k, v in start.items()} for at in (slice(-1), 0))
    for changed in ({"x": start["lm_head.weight"]}, short, flat):
        assert Weights.of({"a": dora, "b": changed}).applied("a", "b") is None
    assert Weights.of({"a": start, "b": start}).applied("a", "b") is None
    turned = {k: np.ascontiguousarray(v.T) for k, v in start.items()}
    assert Weights.of({"a": dora, "b": turned}).applied("a", "b") is None
