"""Matrices cut down to their largest directions: the child is the one with fewer, not with less."""

from __future__ import annotations

import numpy as np
import pytest
from makers import Array
from test_structure import Model, network

from lineage import fingerprint, infer
from lineage.evidence import Comparison, compare_fingerprints
from lineage.evidence.truncated import TRUNCATED


def decaying(model: Model) -> Model:
    """Give the matrices singular values that fall off, as trained ones have."""
    made = {}
    for name, weights in model.items():
        if weights.ndim == 2:
            left, values, right = np.linalg.svd(weights, full_matrices=False)
            fall = np.exp(-np.arange(len(values)) / 40)
            weights = (left * (values * fall) @ right).astype(np.float32)
        made[name] = weights
    return made


def stepped(model: Model, seed: int, size: float, rank: int = 6) -> Model:
    """Move the matrices in some directions, by `size` of their norms."""
    rng = np.random.default_rng([31, seed])
    made = {}
    for name, weights in model.items():
        step: Array = rng.normal(size=weights.shape)
        if weights.ndim == 2:
            left, right = (
                rng.normal(size=(len(weights), rank)),
                rng.normal(size=(rank, weights.shape[1])),
            )
            step = left @ right + 0.5 * step
            step += 0.2 * weights * np.linalg.norm(step) / np.linalg.norm(weights)
        step *= size * np.linalg.norm(weights) / np.linalg.norm(step)
        made[name] = (weights + step).astype(np.float32)
    return made


def cut(model: Model, rank: int, dtype: type = np.float32) -> Model:
    """Keep the largest directions of every layer's matrices."""
    made = {}
    for name, weights in model.items():
        if "layers" in name and weights.ndim == 2:
            left, values, right = np.linalg.svd(weights.astype(np.float64), full_matrices=False)
            weights = (left[:, :rank] * values[:rank]) @ right[:rank]
        made[name] = weights.astype(dtype)
    return made


BASE = decaying(network(0))
FAMILY = {"base": BASE, "one": stepped(BASE, 1, 0.1), "two": stepped(BASE, 2, 0.15)}


def compared(a: Model, b: Model) -> Comparison:
    return compare_fingerprints(fingerprint(a), fingerprint(b))


@pytest.mark.parametrize("rank", [8, 16, 24])
def test_the_child_has_fewer_directions(rank: int) -> None:
    found, back = compared(BASE, cut(BASE, rank)), compared(cut(BASE, rank), BASE)
    assert (found.related, found.relation, found.direction) == (True, "pruned", "a->b")
    assert (back.relation, back.direction) == ("pruned", "b->a")
    assert found.evidence[0].detector == TRUNCATED


@pytest.mark.parametrize("size", [0.1, 0.3, 0.6])
def test_a_step_is_no_truncation_either_way(size: float) -> None:
    for found in (compared(BASE, stepped(BASE, 3, size)), compared(stepped(BASE, 3, size), BASE)):
        assert found.relation in {"finetune", None}


def test_less_of_every_value_is_no_truncation() -> None:
    faded = {name: np.float32(0.8) * weights for name, weights in BASE.items()}
    assert compared(BASE, faded).relation != "pruned"


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("parent", FAMILY)
def test_a_truncated_model_hangs_on_the_one_it_was_cut_from(parent: str, dtype: type) -> None:
    graph = infer(FAMILY | {"cut": cut(FAMILY[parent], 16, dtype)})
    found = {(e.parent, e.child): str(e.relation) for e in graph.edges}
    assert found[parent, "cut"] == "pruned"
    assert set(found) == {("base", "one"), ("base", "two"), (parent, "cut")}


def test_what_was_trained_on_from_a_truncated_model_hangs_on_that() -> None:
    child = cut(BASE, 16)
    graph = infer(FAMILY | {"cut": child, "next": stepped(child, 5, 0.08)})
    found = {(e.parent, e.child) for e in graph.edges}
    assert {("base", "one"), ("base", "two"), ("cut", "next")} <= found
    assert ("cut", "base") not in found
