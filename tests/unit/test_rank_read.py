"""Ranks of adapters from the differences themselves, where rounding hides them from sketches."""

from __future__ import annotations

from collections.abc import Iterable

import ml_dtypes
import numpy as np
import pytest

from lineage.evidence.deeper import RANK
from lineage.evidence.low_rank import LowRank
from lineage.evidence.low_rank import rank_of as rank_under
from lineage.graph import compare

Arrays = dict[str, np.ndarray]
SIDE, LAYERS = 160, 6


def weights(seed: int) -> Arrays:
    draw = np.random.default_rng([71, seed])
    found = {f"layers.{n}.up.weight": draw.normal(size=(SIDE, SIDE)) for n in range(LAYERS)}
    found |= {f"layers.{n}.norm.weight": 1 + 0.1 * draw.normal(size=SIDE) for n in range(LAYERS)}
    return {name: w.astype(np.float32) for name, w in found.items()}


def as_bf16(w: np.ndarray) -> np.ndarray:
    return w.astype(ml_dtypes.bfloat16)


def low(seed: int, rank: int, size: float) -> np.ndarray:
    """Return a product of two factors whose directions weaken to a tenth."""
    draw = np.random.default_rng([72, seed])
    down, up = draw.normal(size=(rank, SIDE)), draw.normal(size=(SIDE, rank))
    found: np.ndarray = size * (up * np.geomspace(1, 0.1, rank)) @ down / rank**0.5
    return found


def noise(seed: int, shape: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    return np.random.default_rng([73, seed]).normal(size=shape)


def merged(base: Arrays, rank: int, size: float) -> Arrays:
    return {
        name: (w.astype(np.float32) + low(n, rank, size)).astype(np.float32) if w.ndim > 1 else w
        for n, (name, w) in enumerate(base.items())
    }


def rank_of(differences: Iterable[np.ndarray], left: float = 1.0) -> LowRank | None:
    """Where rounding leaves so much a value."""
    return rank_under((difference, left**2 * difference.size) for difference in differences)


@pytest.mark.parametrize("rank", [1, 4, 16, 32])
def test_the_rank_is_read_under_noise_that_hides_it_from_a_sketch(rank: int) -> None:
    found = rank_of(low(n, rank, 1) + 0.005 * noise(n) for n in range(LAYERS))
    assert found is not None
    assert (found.rank, found.modules) == (rank, LAYERS)


def test_an_exact_difference_has_its_rank() -> None:
    found = rank_of(low(n, 3, 1) for n in range(LAYERS))
    assert found is not None
    assert found.rank == 3


def test_noise_and_what_fills_a_matrix_have_none() -> None:
    assert rank_of(noise(n) for n in range(LAYERS)) is None
    full = (noise(n) @ np.diag(np.geomspace(1, 1e-3, SIDE)) for n in range(LAYERS))
    assert rank_of(full) is None


def test_more_than_rounding_behind_the_gap_is_no_adapter() -> None:
    some = [low(n, 4, 1) + 0.02 * noise(n) for n in range(LAYERS)]
    assert rank_of(some, 0.02) is not None
    assert rank_of(some, 0.01) is None


def test_matrices_that_have_each_another_rank_have_none() -> None:
    assert rank_of(low(n, 3 + 4 * n, 1) + 0.002 * noise(n) for n in range(LAYERS)) is None


def test_a_few_matrices_with_less_of_it_are_no_matter() -> None:
    some = [low(n, 8 if n else 5, 1) + 0.005 * noise(n) for n in range(LAYERS)]
    found = rank_of(some)
    assert found is not None
    assert found.rank == 8


def test_few_or_small_matrices_and_what_is_no_number_say_nothing() -> None:
    assert rank_of([low(0, 3, 1)] * 3) is None
    assert rank_of([low(0, 3, 1)[:8]] * LAYERS) is None
    assert rank_of([np.full((SIDE, SIDE), np.nan)] * LAYERS) is None


def test_deep_finds_an_adapter_that_bfloat16_hides() -> None:
    base = {name: as_bf16(w) for name, w in weights(0).items()}
    child = {name: as_bf16(w) for name, w in merged(base, 12, 0.016).items()}
    plain, deep = compare(base, child), compare(base, child, deep=True)
    assert plain.rank != 12
    assert (deep.rank, deep.how) == (12, "low_rank")
    assert any(e.detector == RANK for e in deep.evidence)


def test_deep_finds_none_where_vectors_moved_too() -> None:
    base = weights(0)
    child = merged(base, 12, 0.016)
    child["layers.0.norm.weight"] = child["layers.0.norm.weight"] + np.float32(0.01)
    deep = compare(base, child, deep=True)
    assert not any(e.detector == RANK for e in deep.evidence)


def test_deep_finds_none_in_a_light_training_of_all_that_bfloat16_hides() -> None:
    base = {name: as_bf16(w) for name, w in weights(0).items()}
    child = {
        name: as_bf16(w.astype(np.float64) + 0.002 * noise(n)) if w.ndim > 1 else w
        for n, (name, w) in enumerate(base.items())
    }
    assert compare(base, child, deep=True).rank is None
