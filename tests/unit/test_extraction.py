"""What an adapter was cut out of: the main directions of a full fine-tune's change, or nothing."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from makers import write_model

from lineage.cli import run
from lineage.evidence.cut_out import in_weights
from lineage.evidence.extraction import Held, extracted
from lineage.evidence.weights import Weights
from lineage.fingerprints import fingerprint
from lineage.graph import compare, infer

Arrays = dict[str, np.ndarray]
NAMES = [f"model.layers.{k}.self_attn.{part}_proj" for k in range(4) for part in "qv"]


def base(seed: int) -> Arrays:
    draw = np.random.default_rng(seed)
    return {
        f"{name}.weight": draw.standard_normal((80, 64)).astype(np.float32) * np.float32(0.05)
        for name in [*NAMES, "lm_head"]
    }


def tuned(model: Arrays, seed: int, *, common: int | None = None) -> Arrays:
    """Change every matrix by outer products of falling size, some of them another's."""
    found = dict(model)
    for place, (name, weight) in enumerate(model.items()):
        draw = np.random.default_rng([seed, place])
        shared = np.random.default_rng([common or seed, place, 1])
        sizes = 0.02 * 0.93 ** np.arange(60)
        left, right = draw.standard_normal((80, 60)), draw.standard_normal((60, 64))
        left[:, :6], right[:6] = shared.standard_normal((80, 6)), shared.standard_normal((6, 64))
        step = (left * sizes) @ right * draw.uniform(0.1, 0.3)
        found[name] = (weight + step / 8).astype(np.float32)
    return found


def cut_out(
    start: Arrays,
    child: Arrays,
    rank: int = 0,
    *,
    least: float = 0.5,
    scale: float = 1.0,
    alpha: float = 0.0,
) -> Arrays:
    """Return the largest directions of a change, some or those above a share of the largest."""
    found = {}
    for name in NAMES:
        step = child[f"{name}.weight"].astype(np.float64) - start[f"{name}.weight"]
        u, s, v = np.linalg.svd(step, full_matrices=False)
        kept = rank or int((s > least * s[0]).sum())
        found[f"base_model.model.{name}.lora_A.weight"] = np.sqrt(s[:kept])[:, None] * v[:kept]
        found[f"base_model.model.{name}.lora_B.weight"] = (
            u[:, :kept] * np.sqrt(s[:kept]) / (alpha / kept if alpha else scale)
        )
    return {name: value.astype(np.float32) for name, value in found.items()}


def trained_like(adapter: Arrays, seed: int) -> Arrays:
    """Return an adapter with much in common with another, as one trained on the same data has."""
    found = {}
    for place, (name, value) in enumerate(adapter.items()):
        draw = np.random.default_rng([seed, place])
        size = float(np.sqrt(np.mean(value**2)))
        found[name] = value + draw.uniform(0.5, 1.5) * size * draw.standard_normal(value.shape)
    return {name: value.astype(np.float32) for name, value in found.items()}


def sources(graph: object) -> set[tuple[str, str, str | None]]:
    edges = graph.edges  # type: ignore[attr-defined]
    return {(e.parent, e.child, e.how) for e in edges if e.relation == "adapter"}


START = base(0)
FULL, SIBLING = tuned(START, 1, common=7), tuned(START, 2, common=7)


@pytest.mark.parametrize(
    "how", ["rank 4", "threshold", "alpha", "one alpha", "bfloat16", "rank 38"]
)
def test_infer_ties_an_adapter_to_the_fine_tune_it_was_cut_out_of(how: str) -> None:
    low = {
        "rank 4": lambda: cut_out(START, FULL, 4),
        "threshold": lambda: cut_out(START, FULL),
        "alpha": lambda: cut_out(START, FULL, 4, scale=0.25),
        "one alpha": lambda: cut_out(START, FULL, alpha=16.0),
        "bfloat16": lambda: cut_out(START, FULL, 4),
        "rank 38": lambda: cut_out(START, FULL, 38),
    }[how]()
    if how == "bfloat16":
        low = {name: value.astype(ml_dtypes.bfloat16) for name, value in low.items()}
    models = {"base": START, "full": FULL, "sibling": SIBLING, "stranger": base(3), "low": low}
    answer = {("base", "low", None), ("full", "low", "extracted")}
    assert sources(infer(models, deep=True)) == answer
    assert sources(infer(models)) == answer


def test_a_rounded_fine_tune_is_a_source_too() -> None:
    rounded = {n: v.astype(ml_dtypes.bfloat16) for n, v in FULL.items()}
    wide = {n: v.astype(np.float32) for n, v in rounded.items()}
    models = {"base": START, "full": rounded, "low": cut_out(START, wide, 6)}
    assert ("full", "low", "extracted") in sources(infer(models))
    assert ("full", "low", "extracted") in sources(infer(models, deep=True))


def test_nobody_is_the_source_of_a_trained_adapter_or_of_a_siblings() -> None:
    own = cut_out(START, FULL, 6)
    models = {
        "base": START, "full": FULL, "stranger": base(3),
        "trained": trained_like(own, 5), "siblings": cut_out(START, SIBLING, 6),
        "cut": {n: v[:3] if "_A" in n else v[:, :3] for n, v in trained_like(own, 6).items()},
    }  # fmt: skip
    for deep in (False, True):
        assert not {edge for edge in sources(infer(models, deep=deep)) if edge[2] == "extracted"}


def test_few_modules_take_the_weights() -> None:
    low = {n: v for n, v in cut_out(START, FULL, 6).items() if ".layers.0." in n}
    models = {"base": START, "full": FULL, "low": low}
    assert sources(infer(models)) == set()
    assert sources(infer(models, deep=True)) == {
        ("base", "low", None), ("full", "low", "extracted"),
    }  # fmt: skip
    assert compare(low, FULL, base=START).related is None
    assert compare(low, FULL, base=START, deep=True).how == "extracted"


def test_what_was_merged_is_not_extracted() -> None:
    low = cut_out(START, FULL, 6)
    child = dict(START)
    for name in NAMES:
        a, b = (low[f"base_model.model.{name}.lora_{half}.weight"] for half in "AB")
        child[f"{name}.weight"] = START[f"{name}.weight"] + b @ a
    models = {"base": START, "child": child, "low": low}
    assert sources(infer(models, deep=True)) == {("base", "low", None)}
    seen = compare(low, child, base=START)
    assert (seen.related, seen.relation) == (True, None)


def test_only_weights_tell_a_merge_that_was_rounded_from_an_extraction() -> None:
    low = cut_out(START, FULL, 6)
    draw = np.random.default_rng(9)
    child = {
        n: v + 1e-3 * draw.standard_normal(v.shape).astype(np.float32) for n, v in START.items()
    }
    for name in NAMES:
        a, b = (low[f"base_model.model.{name}.lora_{half}.weight"] for half in "AB")
        child[f"{name}.weight"] = child[f"{name}.weight"] + b @ a
    assert compare(low, child, base=START).how == "extracted"
    assert compare(low, child, base=START, deep=True).related is None
    assert compare(low, FULL, base=START, deep=True).how == "extracted"


def test_the_factor_of_every_module_is_that_of_all() -> None:
    low = cut_out(START, FULL, 6, scale=2.0)
    adapter = fingerprint(low).delta
    assert adapter is not None
    prints = fingerprint(START), fingerprint(FULL)
    seen = extracted(adapter, *prints)
    assert seen is not None
    assert seen.scale == pytest.approx(2.0, rel=0.05)
    assert seen.log10_p < -100
    held = Held(adapter, {"base": prints[0], "full": prints[1], "sibling": fingerprint(SIBLING)})
    assert ("base", "full") in set(held.pairs())
    weights = Weights({"low": low, "base": START, "full": FULL})
    with weights.adapter("low") as x, weights.opened("base") as y, weights.opened("full") as z:
        told = in_weights(adapter, prints, x, y, z)
    assert told is not None
    assert told.scale == pytest.approx(2.0, rel=1e-4)
    assert told.off < 1e-6
    true = [
        np.linalg.svd(FULL[f"{n}.weight"] - START[f"{n}.weight"], compute_uv=False) for n in NAMES
    ]
    kept = sum((s[:6] ** 2).sum() for s in true) / sum((s**2).sum() for s in true)
    assert told.kept == pytest.approx(kept, rel=1e-3)
    assert seen.kept == pytest.approx(kept, abs=0.05)


def test_a_base_is_of_use_for_adapters_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="one of the two is an adapter"):
        compare(FULL, SIBLING, base=START)
    paths = [
        str(write_model(tmp_path / f"{name}.safetensors", model))
        for name, model in (("x", cut_out(START, FULL, 6)), ("f", FULL), ("b", START))
    ]
    assert run(["compare", *paths[:2], "--base", paths[2], "--deep"]) == 0
    assert "adapter (extracted): " in capsys.readouterr().out
    assert run(["compare", paths[1], paths[1], "--base", paths[2]]) == 2
    assert "adapter" in capsys.readouterr().err
