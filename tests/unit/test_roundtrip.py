"""Adapters merged into rounded weights: no copy, no siblings, and the base is the parent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from test_structure import Model, network, tuned

from lineage import fingerprint, infer
from lineage.evidence import compare_fingerprints
from lineage.evidence.roundtrip import ROUNDED_ADAPTER

if TYPE_CHECKING:
    from makers import Array

    from lineage.evidence import Comparison

NF4 = np.array([
    -1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0,
    0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0,
])  # fmt: skip


def uneven(model: Model, seed: int) -> Model:
    """Give the rows of the layers' matrices unlike strengths, as trained ones have."""
    rng = np.random.default_rng([41, seed])
    return {
        name: (w * np.exp(rng.normal(0, 0.3, (len(w), 1)))).astype(np.float32)
        if w.ndim == 2 and "layers" in name
        else w
        for name, w in model.items()
    }


BASE = uneven(network(0), 0)


def nf4(weights: Array, block: int = 32) -> Array:
    parts = weights.reshape(-1, block)
    largest = np.abs(parts).max(axis=1, keepdims=True)
    code = np.abs(parts[..., None] / largest[..., None] - NF4).argmin(axis=-1)
    return (NF4[code] * largest).reshape(weights.shape)


def int8(weights: Array) -> Array:
    step = np.abs(weights).max(axis=1, keepdims=True) / 127
    return np.round(weights / step) * step


def adapted(model: Model, rounding: object, size: float, only: str = "layers") -> Model:
    """Round the layers' matrices, and add products of rank 4 to some of them."""
    rng = np.random.default_rng(42)
    made = {}
    for name, weights in model.items():
        if "layers" in name and weights.ndim == 2:
            norm = np.linalg.norm(weights)
            weights = rounding(weights.astype(np.float64))  # type: ignore[operator]
            step = rng.normal(size=(len(weights), 4)) @ rng.normal(size=(4, weights.shape[1]))
            if only in name:
                weights = weights + step * size * norm / np.linalg.norm(step)
        made[name] = weights.astype(np.float32)
    return made


def compared(a: Model, b: Model) -> Comparison:
    return compare_fingerprints(fingerprint(a), fingerprint(b))


@pytest.mark.parametrize(("rounding", "size"), [(nf4, 0.2), (nf4, 0.4), (int8, 0.05)])
@pytest.mark.parametrize("only", ["layers", "self_attn"])
def test_an_adapter_on_rounded_weights(rounding: object, size: float, only: str) -> None:
    child = adapted(BASE, rounding, size, only)
    found, back = compared(BASE, child), compared(child, BASE)
    assert (found.related, found.relation, found.how) == (True, "finetune", "low_rank")
    assert (found.direction, back.direction) == ("a->b", "b->a")
    assert found.evidence[0].detector == ROUNDED_ADAPTER


def test_an_adapter_that_is_lighter_than_the_rounding_leaves_the_direction_open() -> None:
    found = compared(BASE, adapted(BASE, nf4, 0.02))
    assert (found.related, found.relation, found.direction) == (True, "finetune", None)
    assert found.evidence[0].detector == ROUNDED_ADAPTER


@pytest.mark.parametrize("rounding", [nf4, int8])
def test_a_rounded_copy_has_no_adapter(rounding: object) -> None:
    found = compared(BASE, adapted(BASE, rounding, 0.0))
    assert (found.relation, found.direction) == ("quantized", "a->b")


@pytest.mark.parametrize("size", [0.05, 0.1, 0.3])
def test_a_training_of_everything_is_no_rounding(size: float) -> None:
    child = tuned(BASE, 3, size)
    for found in (compared(BASE, child), compared(child, BASE)):
        assert all(seen.detector != ROUNDED_ADAPTER for seen in found.evidence)


def test_what_was_trained_on_from_rounded_weights_has_other_gains() -> None:
    child = adapted(BASE, nf4, 0.2)
    name = next(name for name, weights in child.items() if weights.ndim == 1)
    child[name] = child[name] + np.linspace(0, 0.1, len(child[name]), dtype=np.float32)
    found = compared(BASE, child)
    assert all(seen.detector != ROUNDED_ADAPTER for seen in found.evidence)


def test_a_stranger_with_an_adapter_on_levels_is_a_stranger() -> None:
    other = uneven(network(7), 7)
    assert compared(BASE, adapted(other, nf4, 0.3)).related is False


def test_a_family_has_the_adapter_under_its_base_and_no_rounded_copy() -> None:
    """Some matrices are on levels next to those of a sibling as well, which is no source."""
    family = {"base": BASE, "one": tuned(BASE, 1, 0.05), "two": tuned(BASE, 2, 0.06)}
    graph = infer(family | {"child": adapted(BASE, nf4, 0.3, "self_attn")})
    found = [edge for edge in graph.edges if edge.child == "child"]
    assert [(edge.parent, edge.relation, edge.how) for edge in found] == [
        ("base", "finetune", "low_rank")
    ]
