"""The search vector: near for relatives in any format, far for strangers."""

from __future__ import annotations

import numpy as np
import pytest
from makers import Array, small_model
from test_pairing import FORMATS, bert, moved

from lineage import fingerprint
from lineage.fingerprints.search import DIM, search_vector

Model = dict[str, Array]


def vector(model: Model) -> Array:
    found = search_vector(fingerprint(model))
    assert found.dtype == np.float32
    assert found.shape == (DIM,)
    return found


@pytest.mark.parametrize("name", ["keras", "torch", "gpt2"])
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


def test_it_is_what_the_specification_says() -> None:
    from blake3 import blake3

    weights = np.random.default_rng(0).normal(size=(12, 7)).astype(np.float32)
    sketch = fingerprint({"w": weights}).tensors[0].sketch
    assert sketch is not None
    drawn = blake3(b"lineage/search/v1\0w").digest(length=2 * 84)
    expected = np.zeros(DIM)
    for place, number in enumerate(sketch.core.T.reshape(-1)):
        bits = int.from_bytes(drawn[2 * place : 2 * place + 2], "little")
        expected[bits & 511] += -float(number) if bits >> 9 & 1 else float(number)
    assert np.allclose(vector({"w": weights}), expected / np.linalg.norm(expected), atol=1e-6)
