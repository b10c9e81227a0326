"""The search vector: near for relatives in any format, far for strangers."""

from __future__ import annotations

import numpy as np
import pytest
from makers import Array, small_model
from test_pairing import FORMATS, bert, moved

from lineage import fingerprint
from lineage.fingerprints.search import DIM, _summed, search_vector

Model = dict[str, Array]


def vector(model: Model) -> Array:
    found = search_vector(fingerprint(model))
    assert found.dtype == np.float32
    assert found.shape == (DIM,)
    return found


@pytest.mark.parametrize("name", ["keras", "torch", "gpt2", "onnx"])
def test_formats_do_not_move_it(name: str) -> None:
    one, other = vector(bert(0)), vector(FORMATS[name](bert(0)))
    assert np.allclose(one, other, atol=1e-5)
    assert np.linalg.norm(one) == pytest.approx(1, rel=1e-6)


def test_wrappers_precision_and_order_do_not_move_it() -> None:
    base = bert(0)
    wrapped = {f"module._orig_mod.{name}": weights for name, weights in reversed(base.items())}
    assert np.array_equal(vector(base), vector(wrapped))
    half = {name: weights.astype(np.float16) for name, weights in base.items()}
    assert float(vector(base) @ vector(half)) > 0.9999
    scaled = {name: 3 * weights for name, weights in base.items()}
    assert np.allclose(vector(base), vector(scaled), atol=1e-6)


def test_a_finetune_stays_near_and_a_stranger_is_far() -> None:
    base = vector(bert(0))
    for size, least in ((0.01, 0.999), (0.1, 0.99), (0.4, 0.9)):
        assert float(base @ vector(moved(bert(0), size))) > least
    strangers = [float(base @ vector(bert(seed))) for seed in range(1, 40)]
    assert np.max(np.abs(strangers)) < 0.2
    assert np.std(strangers) == pytest.approx(DIM**-0.5, rel=0.4)


def test_it_is_linear_up_to_the_norms() -> None:
    one, other = small_model(1), small_model(2)
    units = [{n: w / np.linalg.norm(w) for n, w in m.items()} for m in (one, other)]
    both = {name: units[0][name] + units[1][name] for name in one}
    expected = vector(one).astype(float) + vector(other)
    cosine = float(expected @ vector(both)) / float(np.linalg.norm(expected))
    assert cosine > 0.999


def test_a_model_without_matrices_has_none() -> None:
    flat = {"ones": np.ones((20, 20)), "bias": np.arange(99.0), "small": np.eye(3)}
    bad = {"w": np.full((20, 20), np.nan)}
    assert not np.any(vector({**flat, **bad}))
    exact = fingerprint(bert(0), tier="exact")
    assert not np.any(search_vector(exact))


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (40, 40), (80, 3, 2)])
def test_it_is_what_the_specification_says(shape: tuple[int, ...]) -> None:
    from blake3 import blake3

    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    made = fingerprint({"a": weights, "ones": np.ones(shape, np.float32)})
    core, ones = (t.sketch.core.astype(float) for t in made.tensors if t.sketch is not None)
    core = core - ones * np.vdot(core, ones) / np.vdot(ones, ones)
    rows, cols = shape[0], int(np.prod(shape[1:]))
    core = core + core.T if rows == cols else core.T if rows > cols else core
    extents = min(rows, cols).to_bytes(8, "little") + max(rows, cols).to_bytes(8, "little")
    drawn = blake3(b"lineage/search/v1\0" + extents).digest(length=2 * core.size)
    expected = np.zeros(DIM)
    for place, number in enumerate(core.reshape(-1)):
        bits = int.from_bytes(drawn[2 * place : 2 * place + 2], "little")
        expected[bits & 511] += -float(number) if bits >> 9 & 1 else float(number)
    assert np.allclose(vector({"w": weights}), expected / np.linalg.norm(expected), atol=1e-6)


def test_a_common_mean_does_not_make_relatives() -> None:
    def biased(seed: int) -> Model:
        rng = np.random.default_rng(seed)
        return {str(n): (0.3 + rng.normal(size=(90, 200))).astype(np.float32) for n in range(40)}

    assert abs(float(vector(biased(1)) @ vector(biased(2)))) < 0.2


def test_a_matrix_whose_signs_cancel_has_no_mean_to_take_out() -> None:
    found = [rows for rows in range(2, 400) if not np.any(_summed(rows))]
    assert found
    weights = np.random.default_rng(0).normal(size=(found[0], 50)).astype(np.float32)
    assert np.linalg.norm(vector({"w": weights})) == pytest.approx(1, rel=1e-6)
