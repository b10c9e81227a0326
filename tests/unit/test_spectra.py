"""In which directions steps lead, whatever took from norms."""

from __future__ import annotations

import numpy as np
import pytest

from lineage.evidence.spectra import Spectra, spectra

Matrices = list[np.ndarray]
SIZES = (4096.0, 2304.0)


def begun(seed: int = 0) -> Matrices:
    draw = np.random.default_rng([71, seed])
    return [draw.normal(size=shape) for shape in ((36, 36), (36, 24))]


def step(
    model: Matrices, seed: int, size: float, *, decay: float = 0.0, rank: int | None = None
) -> Matrices:
    """Take decay from matrices, and add noise, or what has few directions and is as long."""
    draw = np.random.default_rng([72, seed])
    found = []
    for w in model:
        r, c = w.shape
        new = draw.normal(size=w.shape)
        if rank is not None:
            new = draw.normal(size=(r, rank)) @ draw.normal(size=(rank, c)) / rank**0.5
        found.append((1 - decay) * w + size * new)
    return found


def of(*models: Matrices) -> Spectra:
    cores = [np.stack(of_all).astype(np.float32) for of_all in zip(*models, strict=True)]
    codes = [
        np.unique(one.reshape(len(models), -1), axis=0, return_inverse=True)[1] for one in cores
    ]
    return spectra(zip(SIZES, cores, codes, strict=True), len(models))


BASE = begun()


@pytest.mark.parametrize("decay", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("rank", [1, 4])
def test_a_step_leads_away_from_its_start_whatever_decay_takes(decay: float, rank: int) -> None:
    child = step(BASE, 1, 0.15, decay=decay, rank=rank)
    assert (np.linalg.norm(child[0]) > np.linalg.norm(BASE[0])) == (decay == 0)
    found = of(BASE, child)
    assert found.lead[0, 1] > 0.1
    assert found.lead_each[0, 1] > 0.03
    assert found.lead_sign[0, 1] > 0.9


def test_a_step_that_is_noise_leads_nowhere() -> None:
    noise, few = (of(BASE, step(BASE, 1, 0.15, rank=rank)) for rank in (None, 1))
    assert abs(noise.lead[0, 1]) < few.lead[0, 1] / 20


@pytest.mark.parametrize("size", [0.002, 0.02])
def test_light_noise_leads_nowhere_however_light(size: float) -> None:
    found = [of(BASE, step(BASE, seed, size)) for seed in range(20)]
    assert np.mean([abs(one.lead_sign[0, 1]) for one in found]) < 0.3
    assert np.mean([abs(one.lead_each[0, 1]) for one in found]) < 1e-3 / size


def test_the_way_back_has_the_other_sign() -> None:
    for one in of(BASE, step(BASE, 2, 0.1, rank=2), step(BASE, 3, 0.2)):
        np.testing.assert_allclose(one, -one.T, atol=1e-9)


def test_the_lead_by_hand() -> None:
    child = step(BASE, 4, 0.3, decay=0.1, rank=3)
    lead = each = 0.0
    for size, before, after in zip(SIZES, BASE, child, strict=True):
        p, c = before / np.linalg.norm(before), after / np.linalg.norm(after)
        u, s, v = np.linalg.svd(c - p)
        u, v = u[:, : len(s)], v[: len(s)]
        told = s**3 @ np.einsum("ik,ij,kj->k", u, c + p, v) / (s @ s) ** 1.5
        told *= told**2 / (told**2 + (4 / p.size) ** 2)
        lead += size**0.5 * told
        each += size**0.5 * told / (s @ s) ** 0.5
    weight = sum(size**0.5 for size in SIZES)
    found = of(BASE, child)
    assert found.lead[0, 1] == pytest.approx(min(8 * lead / weight, 3), rel=1e-4)
    assert found.lead_each[0, 1] == pytest.approx(each / weight, rel=1e-4)


def test_a_change_of_length_alone_tells_nothing() -> None:
    for one in of(BASE, [w * 1.25 for w in BASE]):
        np.testing.assert_allclose(one, 0)


def test_equal_empty_and_narrow_matrices_tell_nothing_and_fail_nothing() -> None:
    for one in of(BASE, BASE, BASE):
        assert not one.any()
    empty = [np.zeros_like(BASE[0]), BASE[1]]
    for one in of(BASE, empty):
        assert not one.any()
    narrow = np.ones((2, 5, 1), np.float32)
    narrow[1, 0] = 2
    for one in spectra([(5.0, narrow, np.arange(2))], 2):
        assert np.isfinite(one).all()
