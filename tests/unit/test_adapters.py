"""Which base is an adapter's: only a merged model tells, and it tells surely."""

from __future__ import annotations

import numpy as np
import pytest

from lineage.evidence.adapters import adapter_of, fits, merged
from lineage.fingerprints import fingerprint
from lineage.graph import infer

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


def test_an_adapter_is_known_by_its_factors() -> None:
    found = adapter_of(fingerprint(adapter(0, 8)))
    assert found is not None
    assert found.rank == 8
    assert set(found.deltas) == set(NAMES)
    assert not found.has_more
    assert adapter_of(fingerprint(base(0))) is None


def test_the_core_of_the_product_is_the_product_of_the_cores() -> None:
    low = adapter(1, 36)
    found = adapter_of(fingerprint(low))
    assert found is not None
    for name in NAMES:
        a, b = (low[f"base_model.model.{name}.lora_{half}.weight"] for half in "AB")
        whole = fingerprint({"w": (b.astype(np.float64) @ a).astype(np.float32)}).tensors[0].sketch
        assert whole is not None
        np.testing.assert_allclose(
            found.deltas[name], whole.core, atol=1e-4 * np.abs(whole.core).max()
        )


@pytest.mark.parametrize("scale", [0.25, 2.0])
def test_the_merged_model_tells_base_and_scale(scale: float) -> None:
    low, start = adapter(2), base(2)
    found = adapter_of(fingerprint(low))
    assert found is not None
    child = fingerprint(with_merged(start, low, scale))
    seen = merged(found, fingerprint(start), child)
    assert seen is not None
    assert seen.scale == pytest.approx(scale, rel=1e-3)
    backwards = merged(found, child, fingerprint(start))
    assert backwards is not None
    assert backwards.scale < 0


def test_others_are_not_merged() -> None:
    low, other = adapter(3), adapter(4)
    found = adapter_of(fingerprint(low))
    assert found is not None
    start = fingerprint(base(3))
    assert merged(found, start, fingerprint(with_merged(base(3), other, 1.0))) is None
    assert merged(found, start, fingerprint(base(5))) is None
    assert merged(found, start, start) is None


def test_shapes_alone_say_what_it_fits() -> None:
    found = adapter_of(fingerprint(adapter(5)))
    assert found is not None
    assert fits(found, fingerprint(base(6))) is not None
    smaller = {name: value[:, :32] for name, value in base(6).items()}
    assert fits(found, fingerprint(smaller)) is None
    assert fits(found, fingerprint({"lm_head.weight": base(6)["lm_head.weight"]})) is None


def test_wrapped_and_default_names_are_the_same_modules() -> None:
    plain = adapter(7, prefix="")
    renamed = {name.replace("lora_A.", "lora_A.default."): v for name, v in plain.items()}
    found = adapter_of(fingerprint(renamed))
    assert found is not None
    assert set(found.deltas) == set(NAMES)


def test_infer_hangs_an_adapter_on_the_base_it_was_merged_into() -> None:
    low, start = adapter(8), base(8)
    models = {
        "base": start,
        "child": with_merged(start, low, 1.0),
        "adapter": low,
        "other": adapter(9),
        "stranger": base(10),
    }
    edges = [(e.parent, e.child) for e in infer(models).edges if e.relation == "adapter"]
    assert edges == [("base", "adapter")]
