"""All that was looked at between two models is told, and the controls are what they say."""

from __future__ import annotations

import json
from itertools import product

import ml_dtypes
import numpy as np
import pytest

from lineage import fingerprint
from lineage.evidence import compare_fingerprints
from lineage.evidence.controls import _log10_tail, controls, relatedness
from lineage.evidence.explained import Explanation, explain
from lineage.evidence.pairing import pair

Model = dict[str, np.ndarray]
SHAPES = {"q": (96, 96), "k": (96, 96), "up": (256, 96), "down": (96, 256)}


def network(seed: int, layers: int = 4) -> Model:
    draw = np.random.default_rng([1, seed])
    model = {"embed.weight": draw.normal(0, 0.02, (300, 96)).astype(np.float32)}
    for layer in range(layers):
        for name, shape in SHAPES.items():
            model[f"layers.{layer}.{name}.weight"] = draw.normal(0, 0.1, shape).astype(np.float32)
        model[f"layers.{layer}.norm.weight"] = np.ones(96, np.float32)
    return model


def stepped(model: Model, seed: int, size: float, rank: int | None = None) -> Model:
    draw = np.random.default_rng([2, seed])
    found = dict(model)
    for name, weights in model.items():
        if weights.ndim > 1 and (rank is None or "layers" in name):
            rows, cols = weights.shape
            few = draw.normal(size=(rows, rank or 3)) @ draw.normal(size=(rank or 3, cols))
            step = few if rank else few + draw.normal(size=weights.shape)
            step *= size * np.linalg.norm(weights) / np.linalg.norm(step)
            found[name] = weights + step.astype(np.float32)
    return found


def each(model: Model, alter: object) -> Model:
    return {n: alter(w).astype(w.dtype) if w.ndim > 1 else w for n, w in model.items()}  # type: ignore[operator]


def on_levels(weights: np.ndarray) -> np.ndarray:
    step = np.abs(weights).max(axis=1, keepdims=True) / 127
    return np.rint(weights / step) * step


def with_noise(weights: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(weights.size).normal(size=weights.shape)
    return weights + 0.01 * noise * np.linalg.norm(weights) / np.linalg.norm(noise)


BASE = network(0)
CHANGED = {
    "copy": {f"model.{name}": weights for name, weights in BASE.items()},
    "rounded copy": {name: w.astype(ml_dtypes.bfloat16) for name, w in BASE.items()},
    "structure": {n: w for n, w in BASE.items() if "layers.2" not in n},
    "levels": each(BASE, on_levels),
    "zeros": each(BASE, lambda w: np.where(np.abs(w) < np.quantile(np.abs(w), 0.4), 0, w)),
    "noise": each(BASE, with_noise),
    "low rank": stepped(BASE, 1, 0.1, rank=3),
}


def explained(a: Model, b: Model) -> Explanation:
    one, other = fingerprint(a), fingerprint(b)
    return explain(one, other, compare_fingerprints(one, other))


@pytest.mark.parametrize("name", CHANGED)
def test_what_was_done_is_found_and_nothing_else(name: str) -> None:
    found = explained(BASE, CHANGED[name])
    assert [p.name for p in found.patterns if p.found] == [name]
    assert [p.name for p in found.patterns if p.found is None] == []


def test_a_full_step_is_none_of_the_patterns_and_has_a_direction() -> None:
    child = stepped(BASE, 1, 0.3)
    found = explained(BASE, child)
    assert [p.name for p in found.patterns if p.found] == []
    assert found.test is not None
    assert found.test.agree == found.test.matrices == 17
    assert found.test.cosine > 0.9
    assert found.test.log10_p < -100
    assert found.direction[0].startswith("{a} -> {b}")
    assert "{a} came first" in found.direction[1]
    assert "in 17 of 17 matrices" in found.direction[2]
    assert explained(child, BASE).direction[0].startswith("{b} -> {a}")
    text = "\n".join(found.lines("mother", "daughter"))
    assert "mother -> daughter" in text
    assert "{" not in text
    assert "\0" not in text


def test_strangers_look_like_their_controls() -> None:
    found = explained(BASE, network(7))
    assert found.test is not None
    assert found.test.agree == 0
    assert abs(found.test.z) < 4
    assert found.test.log10_p > -4
    assert {p.found for p in found.patterns[-5:]} == {None}
    assert found.sizes == ()
    assert found.direction[0].startswith("not asked")
    for control in found.controls:
        assert abs(control.cosine) < 5 * control.deviation < 0.1


def test_controls_of_relatives_look_like_strangers() -> None:
    pairing = pair(fingerprint(BASE), fingerprint(stepped(BASE, 1, 0.3)))
    signs, swapped = controls(pairing)
    assert (signs.name, signs.draws, signs.matrices) == ("signs", 1000, 17)
    assert (swapped.name, swapped.draws, swapped.matrices) == (
        "swapped",
        1,
        16,
    )  # no two embeddings
    for control in (signs, swapped):
        assert 0 < abs(control.cosine) < 5 * control.deviation < 0.1
    assert controls(pairing) == (signs, swapped)  # the lots are of a seed


def test_likeness_by_convention_stays_when_matrices_change_places() -> None:
    # All values around one mean: two strangers look alike, and so does the control.
    one, other = (each(network(seed), lambda w: w + 0.2) for seed in (1, 2))
    pairing = pair(fingerprint(one), fingerprint(other))
    test, swapped = relatedness(pairing), controls(pairing)[1]
    assert test is not None
    assert test.cosine > 0.5
    assert swapped.cosine > 0.5


def test_matrices_of_one_of_a_kind_have_no_places_to_change() -> None:
    one = {"a": BASE["layers.0.q.weight"], "b": BASE["layers.0.up.weight"]}
    assert [c.name for c in controls(pair(fingerprint(one), fingerprint(one)))] == ["signs"]


def test_without_a_common_matrix_there_is_no_test() -> None:
    found = explained(BASE, {"v": np.arange(9.0, dtype=np.float32)})
    assert (found.test, found.controls, found.change) == (None, (), None)
    assert found.to_json()["relatedness"] is None
    assert "no matrix of one can be compared" in found.lines("a", "b")[1]


def test_the_bound_holds_and_is_near_for_every_sum_of_signs() -> None:
    numbers = np.random.default_rng(3).normal(size=14)
    sums = np.array([signs @ numbers for signs in map(np.array, product((-1, 1), repeat=14))])
    for reached in np.quantile(sums, [0.9, 0.99, 0.999, 1]):
        true = np.log10(np.mean(sums >= reached - 1e-12))
        bound = _log10_tail(numbers, float(reached))
        assert true <= bound + 1e-9
        assert bound < 0.3 * true
    assert _log10_tail(numbers, -1.0) == 0
    assert _log10_tail(np.zeros(3), 0.0) == 0


def test_equal_matrices_are_counted() -> None:
    child = {n: BASE[n] if "layers" in n else w for n, w in stepped(BASE, 1, 0.2).items()}
    found = explained(BASE, child)
    assert found.equal == 16
    sizes = {n: w.size for n, w in BASE.items() if w.ndim > 1}
    assert found.equal_share == pytest.approx(1 - sizes["embed.weight"] / sum(sizes.values()))


def test_sizes_are_what_such_roundings_change() -> None:
    weights = {"w": np.random.default_rng(5).normal(size=(512, 512)).astype(np.float32)}
    sizes = {size.name: size.change for size in explained(weights, stepped(weights, 1, 0.1)).sizes}
    w = weights["w"]
    made = {
        "bf16": w.astype(ml_dtypes.bfloat16), "fp16": w.astype(np.float16),
        "fp8 (E4M3)": w.astype(ml_dtypes.float8_e4m3fn), "int8, a scale a row": on_levels(w),
    }  # fmt: skip
    for name, rounded in made.items():
        change = np.linalg.norm(rounded.astype(np.float32) - w) / np.linalg.norm(w)
        assert sizes[name] == pytest.approx(change, rel=0.2), name


def test_the_json_form_is_plain() -> None:
    for other in (
        BASE,
        stepped(BASE, 1, 0.2),
        network(9),
        CHANGED["structure"],
        {"b": np.zeros(3)},
    ):
        document = explained(BASE, other).to_json()
        assert json.loads(json.dumps(document, allow_nan=False)) == document
