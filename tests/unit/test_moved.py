"""Scales moved from gains into columns: the same model, though its weights and gains moved far."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from makers import Array
from test_structure import D, Model, network, tuned

from lineage import fingerprint, infer
from lineage.evidence import Comparison, compare_fingerprints
from lineage.evidence.moved import MOVED

READS = ("q_proj", "k_proj", "gate_proj", "up_proj")


def with_scales(model: Model, seed: int, spread: float = 0.3) -> Model:
    """Divide the gains of each layer by scales, and multiply what reads them by the same."""
    rng = np.random.default_rng([51, seed])
    made = dict(model)
    for name in [n for n in model if "input_layernorm" in n]:
        scales = np.exp(rng.normal(0, spread, D)).astype(np.float32)
        stem = name.removesuffix("input_layernorm.weight")
        made[name] = model[name] / scales
        for key in model:
            if key.startswith(stem) and any(part in key for part in READS):
                made[key] = model[key] * scales
    return made


def transposed(model: Model) -> Model:
    """Lay every matrix of a layer out with its inputs as rows."""
    return {n: w.T.copy() if "layers" in n and w.ndim == 2 else w for n, w in model.items()}


def rounded(model: Model, bits: int = 4, group: int = 32) -> Model:
    """Round the matrices of the layers to levels, in groups along rows."""
    made = {}
    for name, weights in model.items():
        if "layers" in name and weights.ndim == 2:
            parts = weights.reshape(-1, group)
            step = np.abs(parts).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
            weights = (np.round(parts / step) * step).reshape(weights.shape)
        made[name] = weights.astype(np.float32)
    return made


def compared(a: Model, b: Model) -> Comparison:
    return compare_fingerprints(fingerprint(a), fingerprint(b))


BASE = network(0)
FAMILY = {"base": BASE, "one": tuned(BASE, 1, 0.06), "two": tuned(BASE, 2, 0.08)}


@pytest.mark.parametrize("layout", [dict, transposed])
def test_moved_scales_are_the_same_model(layout: Callable[[Model], Model]) -> None:
    found = compared(layout(BASE), layout(with_scales(BASE, 1)))
    assert (found.related, found.relation, found.how) == (True, "reparametrized", "rescaled")
    assert found.evidence[0].detector == MOVED
    assert found.direction is None


def test_on_levels_it_is_a_rounded_copy() -> None:
    child = rounded(with_scales(BASE, 1))
    found, back = compared(BASE, child), compared(child, BASE)
    assert (found.related, found.relation, found.how) == (True, "quantized", "int4")
    assert (found.direction, back.direction) == ("a->b", "b->a")


@pytest.mark.parametrize("source", FAMILY)
def test_a_family_tells_whose_copy_it_is(source: str) -> None:
    graph = infer(FAMILY | {"copy": rounded(with_scales(FAMILY[source], 1))})
    assert all(pair.related for pair in graph.pairs)
    (edge,) = graph.parents("copy")
    assert (edge.parent, edge.relation, edge.how) == (source, "quantized", "int4")


def test_gains_that_move_by_themselves_are_no_moved_scales() -> None:
    rng = np.random.default_rng(3)
    other: dict[str, Array] = {}
    for name, weights in BASE.items():
        scales = np.exp(rng.normal(0, 0.3, weights.shape[-1])).astype(np.float32)
        other[name] = weights * scales if "layers" in name else weights
    assert all(seen.detector != MOVED for seen in compared(BASE, other).evidence)
    assert all(seen.detector != MOVED for seen in compared(BASE, tuned(BASE, 4, 0.2)).evidence)


def test_a_stranger_with_such_gains_is_none_the_less() -> None:
    assert compared(BASE, with_scales(network(7), 1)).related is False
