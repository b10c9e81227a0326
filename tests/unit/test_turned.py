"""Orthogonal fine-tuning: rows keep their norms, and nothing else looks so."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from makers import Array
from test_structure import Model, network, tuned

from lineage import fingerprint
from lineage.evidence import Comparison, compare_fingerprints
from lineage.evidence.turned import TURNED


def rotated(model: Model, seed: int, angle: float, *, block: int = 32) -> Model:
    """Turn the columns of every layer's matrices, block by block."""
    rng = np.random.default_rng([41, seed])
    made = {}
    for name, weights in model.items():
        if "layers" in name and weights.ndim == 2:
            parts: list[Array] = []
            for start in range(0, weights.shape[1], block):
                part = weights[:, start : start + block].astype(np.float64)
                drawn = rng.normal(size=(part.shape[1],) * 2)
                skew = angle * (drawn - drawn.T) / 2 / part.shape[1] ** 0.5
                one = np.eye(part.shape[1])
                parts.append(part @ np.linalg.solve(one + skew, one - skew))
            weights = np.concatenate(parts, axis=1).astype(weights.dtype)
        made[name] = weights
    return made


def compared(a: Model, b: Model) -> Comparison:
    return compare_fingerprints(fingerprint(a), fingerprint(b))


def scaled(model: Model, seed: int) -> Model:
    """Columns of many sizes, as trained matrices have."""
    rng = np.random.default_rng([42, seed])
    made = {}
    for name, weights in model.items():
        size = np.exp(rng.normal(0, 0.4, weights.shape[-1])) if "layers" in name else 1
        made[name] = (weights * size).astype(np.float32) if weights.ndim == 2 else weights
    return made


BASE = scaled(network(0), 0)


@pytest.mark.parametrize("angle", [0.1, 0.3])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_turned_matrices_are_a_fine_tune_without_a_direction(angle: float, dtype: type) -> None:
    child = {name: w.astype(dtype) for name, w in rotated(BASE, 1, angle).items()}
    for found in (compared(BASE, child), compared(child, BASE)):
        assert (found.related, found.relation, found.how) == (True, "finetune", "partial")
        assert found.evidence[0].detector == TURNED
        assert found.direction is None


@pytest.mark.parametrize("size", [0.05, 0.2])
def test_steps_and_siblings_are_not_turned(size: float) -> None:
    one, two = tuned(BASE, 1, size), tuned(BASE, 2, size)
    for found in (compared(BASE, one), compared(one, two)):
        assert all(seen.detector != TURNED for seen in found.evidence)


def test_a_stranger_of_the_same_norms_is_no_relative() -> None:
    rng = np.random.default_rng(0)
    signs = {name: w * rng.choice([-1, 1], w.shape).astype(np.float32) for name, w in BASE.items()}
    assert compared(BASE, signs).related is False
