"""Maps that are told exactly although an adapter changed what they map."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lineage.alignment.maps import sharper, undone
from lineage.alignment.spared import told

Array = NDArray[np.float64]


def mapped(
    rng: np.random.Generator, shape: tuple[int, ...], rank: int, share: float = 0.05
) -> tuple[Array, Array, Array]:
    """Return rows, those that maps and then an adapter made of them, and the maps back."""
    rows = rng.normal(size=shape)
    maps = rng.normal(size=(shape[0], shape[2], shape[2])) + 2 * np.eye(shape[2])
    step = rng.normal(size=(rows[..., 0].size, rank)) @ rng.normal(size=(rank, shape[3]))
    step *= share * np.linalg.norm(rows) / max(np.linalg.norm(step), 1e-30)
    return rows, np.linalg.inv(maps)[:, None] @ rows + step.reshape(shape), maps


@pytest.mark.parametrize(
    ("shape", "rank"),
    [
        pytest.param((4, 1, 16, 64), 4, id="keys"),
        pytest.param((2, 2, 16, 64), 8, id="queries of two heads to each of keys"),
        pytest.param((96, 1, 1, 48), 2, id="units"),
        pytest.param((4, 1, 8, 400), 4, id="a wide stream"),
    ],
)
def test_maps_are_told_by_what_an_adapter_spared(shape: tuple[int, ...], rank: int) -> None:
    for seed in range(3):
        ours, theirs, maps = mapped(np.random.default_rng(seed), shape, rank)
        found = told(ours, theirs)
        assert found is not None
        assert found.rank == rank
        assert np.linalg.norm(found.maps - maps) < 1e-4 * np.linalg.norm(maps)


def test_maps_of_what_was_left_alone_are_of_no_rank() -> None:
    ours, theirs, maps = mapped(np.random.default_rng(0), (4, 1, 16, 64), 0)
    found = told(ours, theirs)
    assert found is not None
    assert found.rank == 0
    assert np.allclose(found.maps, maps)


def test_a_training_of_everything_tells_no_maps() -> None:
    rng = np.random.default_rng(1)
    for size in (0.01, 0.1, 1.0):
        ours, theirs, _ = mapped(rng, (4, 1, 16, 64), 0)
        assert told(ours, theirs + size * rng.normal(size=theirs.shape)) is None


def test_the_side_that_was_changed_less_tells_the_maps() -> None:
    rng = np.random.default_rng(2)
    keys_a, keys_b, maps = mapped(rng, (4, 1, 16, 64), 0)
    queries_a = rng.normal(size=keys_a.shape)
    plain = np.linalg.inv(undone(maps))[:, None] @ queries_a
    changed = plain + 0.05 * rng.normal(size=plain.shape)
    off = maps + 0.01 * rng.normal(size=maps.shape)
    assert np.allclose(sharper(off, (keys_a, keys_b), (queries_a, changed)), maps, atol=1e-8)
    back = sharper(undone(off), (queries_a, changed), (keys_a, keys_b))
    assert np.allclose(undone(back), maps, atol=1e-8)
    noisy = keys_b + 0.05 * rng.normal(size=keys_b.shape)
    assert sharper(off, (keys_a, noisy), (queries_a, changed)) is off
    assert sharper(maps, (keys_a, keys_b), (queries_a, plain)) is maps
