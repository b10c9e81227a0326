"""All pairs at once are what each pair is alone."""

from __future__ import annotations

import numpy as np
import pytest

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


def test_other_structures_are_refused(models: list[Fingerprint]) -> None:
    with pytest.raises(ValueError, match="same tensors"):
        Panel([models[0], fingerprint({"embed": np.ones((4, 4), np.float32)})])
