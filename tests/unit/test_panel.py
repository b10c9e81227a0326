"""All pairs at once are what each pair is alone."""

from __future__ import annotations

import numpy as np
import pytest

from lineage.evidence.ancestry import peculiar, way
from lineage.evidence.direction import orthogonality
from lineage.evidence.kinship import kinship
from lineage.evidence.pairing import pair
from lineage.evidence.panel import Panel
from lineage.fingerprints import Fingerprint, fingerprint

Arrays = dict[str, np.ndarray]


def base(seed: int) -> Arrays:
    draw = np.random.default_rng(seed)
    shapes = {"embed": (200, 48), "up": (96, 48), "down": (48, 96), "gain": (48,)}
    return {name: draw.normal(size=s).astype(np.float32) for name, s in shapes.items()}


def step(model: Arrays, seed: int, size: float, frozen: tuple[str, ...] = ()) -> Arrays:
    draw = np.random.default_rng([9, seed])
    return {
        name: w if name in frozen else (w + size * draw.normal(size=w.shape)).astype(np.float32)
        for name, w in model.items()
    }


@pytest.fixture(scope="module")
def models() -> list[Fingerprint]:
    start = base(0)
    middle = step(start, 1, 0.1)
    family = [start, middle, step(middle, 2, 0.1), step(start, 3, 0.2, ("up",)), base(7)]
    return [fingerprint(model) for model in family]


def test_the_arrays_hold_what_each_pair_has(models: list[Fingerprint]) -> None:
    pairs = Panel(models).pairs
    for i, one in enumerate(models):
        for j, other in enumerate(models):
            if i == j:
                continue
            alone = pair(one, other)
            kin, lean = kinship(alone), orthogonality(alone)
            assert pairs.cosine[i, j] == pytest.approx(kin.cosine, abs=1e-5)
            assert pairs.log10_p[i, j] == pytest.approx(kin.log10_p, rel=1e-3)
            assert pairs.others_cosine[i, j] == pytest.approx(kin.others_cosine, abs=1e-5)
            assert pairs.others_log10_p[i, j] == pytest.approx(kin.others_log10_p, rel=1e-3)
            assert pairs.equal_share[i, j] == pytest.approx(kin.equal_share)
            assert pairs.squared[i, j] == pytest.approx(alone.distance**2, rel=1e-4)
            assert pairs.margin[i, j] == pytest.approx(lean.margin, abs=1e-4)
            assert pairs.share[i, j] == pytest.approx(lean.share, abs=1e-3)


def test_some_of_the_models_have_the_same_numbers(models: list[Fingerprint]) -> None:
    some = Panel(models).pairs.among(np.array([3, 1]))
    np.testing.assert_allclose(some.squared, Panel([models[3], models[1]]).pairs.squared)


def test_other_structures_are_refused(models: list[Fingerprint]) -> None:
    with pytest.raises(ValueError, match="same tensors"):
        Panel([models[0], fingerprint({"embed": np.ones((4, 4), np.float32)})])


def test_a_grandchild_has_its_parents_step_and_a_sibling_has_not(
    models: list[Fingerprint],
) -> None:
    seen = way(Panel(models), 1, 0)
    assert seen.beta[2] == pytest.approx(1, abs=0.1)
    assert abs(seen.lean[2]) < 0.15
    assert seen.cosine[2] == pytest.approx(0.5**0.5, abs=0.1)
    assert abs(seen.beta[3]) < 0.3
    assert seen.lean[3] < -0.3


def test_what_two_alone_share_counts_as_shared(models: list[Fingerprint]) -> None:
    start = base(0)
    child = step(start, 3, 0.2, ("up",))
    grandchild = step(child, 4, 0.1, ("down", "up"))
    panel = Panel([fingerprint(m) for m in (start, child, grandchild, step(start, 5, 0.1))])
    seen = way(panel, 1, 0)
    share = 96 * 48 / (200 * 48 + 2 * 96 * 48)
    np.testing.assert_allclose(seen.shared[[2, 3]], [share, 0])


def test_a_regression_tells_whose_step_a_model_has(models: list[Fingerprint]) -> None:
    squared = Panel(models[:4]).pairs.squared
    found = peculiar(squared, 0, [1, 3], 2)
    assert found[0] == pytest.approx(1, abs=0.1)
    assert found[1] < 0.1
    assert len(peculiar(squared, 0, [], 2)) == 0
    assert (peculiar(squared, 0, [1], 0) == 0).all()
