"""What a sketch promises: linear, exact in energy, and near in distance at the stated rate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import Array

from lineage import fingerprint
from lineage.fingerprints.sketch import SIDE, Sketch

shapes = st.one_of(
    st.tuples(st.integers(1, 90), st.integers(1, 300)),
    st.tuples(st.integers(1, 900)),
    st.tuples(st.integers(1, 40), st.integers(1, 6), st.integers(1, 5), st.integers(1, 5)),
)


def sketch_of(array: Array) -> Sketch:
    found = fingerprint({"w": array}).tensors[0].sketch
    assert found is not None
    return found


@settings(max_examples=80, deadline=None)
@given(shape=shapes, seed=st.integers(0, 2**32 - 1), a=st.integers(-9, 9), b=st.integers(-9, 9))
def test_a_sketch_is_linear_to_rounding(shape: tuple[int, ...], seed: int, a: int, b: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, *shape))
    mixed = sketch_of(a * x + b * y)
    want = a * sketch_of(x).core.astype(float) + b * sketch_of(y).core.astype(float)
    scale = abs(a) * np.linalg.norm(x) + abs(b) * np.linalg.norm(y)
    np.testing.assert_allclose(mixed.core, want, rtol=0, atol=2e-6 * scale)


@settings(max_examples=80, deadline=None)
@given(shape=shapes, seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1e-4, 1e-2, 1.0]))
def test_the_polarisation_identity_holds(shape: tuple[int, ...], seed: int, size: float) -> None:
    # <c - p, p> = (|c|^2 - |p|^2 - |c - p|^2) / 2, from exact energies alone.
    rng = np.random.default_rng(seed)
    p = rng.normal(size=shape)
    d = size * rng.normal(size=shape)
    parent, child, change = sketch_of(p), sketch_of(p + d), sketch_of(d)
    inner = (child.energy - parent.energy - change.energy) / 2
    exact = float((d * p).sum())
    assert inner == pytest.approx(exact, abs=1e-6 * parent.energy + 1e-6 * child.energy)


def low_rank(rng: np.random.Generator, shape: tuple[int, int], rank: int) -> Array:
    return rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))


KINDS: dict[str, Any] = {
    # kind of difference -> how it is drawn, and the relative standard error stated for it
    "full rank": (lambda rng, shape: rng.normal(size=shape), 2**0.5 / SIDE),
    "rank one": (lambda rng, shape: low_rank(rng, shape, 1), ((1 + 2 / SIDE) ** 2 - 1) ** 0.5),
    "one row": (
        lambda rng, shape: np.eye(shape[0])[:, :1] * rng.normal(size=(1, shape[1])),
        (2 / SIDE) ** 0.5,
    ),
    "sparse": (
        lambda rng, shape: rng.normal(size=shape) * (rng.random(shape) < 0.02),
        2**0.5 / SIDE,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_distances_are_estimated_at_the_stated_rate(kind: str) -> None:
    draw, stated = KINDS[kind]
    rng = np.random.default_rng(31)
    shape, draws = (240, 300), 240
    base = rng.normal(size=shape)
    of_base = sketch_of(base).core.astype(float)
    ratios = []
    for _ in range(draws):
        change = draw(rng, shape)
        other = sketch_of(base + change).core.astype(float)
        ratios.append(float(((other - of_base) ** 2).sum() / (change**2).sum()))
    errors = np.array(ratios) - 1
    # 240 draws: the mean is known to stated / 15, the spread to a share of 1 / 22.
    assert abs(errors.mean()) < 4 * stated / draws**0.5
    assert errors.std() < 1.2 * stated
    assert errors.std() > 0.5 * stated  # the bound is no idle one
    assert np.mean(np.abs(errors) < 2 * stated) > 0.9


def test_the_error_is_a_share_of_the_difference() -> None:
    # A change ten thousand times smaller than the weights is measured as well as a large one.
    rng = np.random.default_rng(32)
    base, change = rng.normal(size=(2, 200, 300))
    of_base = sketch_of(base).core.astype(float)
    for size in (1.0, 1e-2, 1e-4):
        other = sketch_of(base + size * change).core.astype(float)
        estimate = float(((other - of_base) ** 2).sum() / ((size * change) ** 2).sum())
        assert estimate == pytest.approx(1, abs=0.15)


def arrays_of(sketch: Sketch) -> list[list[float]]:
    return [part.ravel().tolist() for part in (sketch.core, sketch.rows, sketch.cols)]


@pytest.mark.parametrize("tier", ["full", "fast"])
def test_the_fast_tier_sees_its_rows_and_no_others(tier: str) -> None:
    rng = np.random.default_rng(33)
    array = rng.normal(size=(900, 50)).astype(np.float32)
    taken = np.arange(900) // SIDE % 8 == 0
    hidden, seen = array.copy(), array.copy()
    hidden[~taken] += 1
    seen[taken] += 1
    one, unseen, other = (
        fingerprint({"w": w}, tier=tier).tensors[0].sketch for w in (array, hidden, seen)
    )
    assert one is not None
    assert unseen is not None
    assert other is not None
    assert arrays_of(one) != arrays_of(other)
    assert (arrays_of(one) == arrays_of(unseen)) == (tier == "fast")
    if tier == "fast":
        assert one.energy == pytest.approx(float((array[taken].astype(float) ** 2).sum()), rel=1e-6)
