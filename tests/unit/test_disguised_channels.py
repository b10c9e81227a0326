"""A family of ConvNets one of which has other channels: whose child it is, and what came after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from test_alignment_channels import (
    before_norms,
    folded,
    folded_residual,
    moved_residual,
    rescaled_residual,
    residual,
    signed_residual,
)

from lineage import compare, infer

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Weights = dict[str, NDArray[Any]]


def trained(weights: Weights, share: float, seed: int) -> Weights:
    """Return weights as if trained on: along a few directions, rows longer or shorter too."""
    rng = np.random.default_rng(seed)
    found = dict(weights)
    for name, w in weights.items():
        if w.ndim > 1:
            rows = w.reshape(len(w), -1)
            step = rng.normal(size=(len(rows), 6)) @ rng.normal(size=(6, rows.shape[1]))
            by = np.exp(rng.normal(0, share, (len(rows), 1)))
            moved = by * (rows + share * w.std() * step / step.std())
            found[name] = moved.reshape(w.shape).astype("f4")
    return found


BASE = residual(1)
MIDDLE = trained(BASE, 0.1, 11)
FAMILY = {
    "base": BASE,
    "touched": trained(BASE, 0.01, 12),
    "middle": MIDDLE,
    "heavy": trained(BASE, 0.2, 13),
    "stranger": residual(3),
}


def rounded(weights: Weights) -> Weights:
    """Round every row of the convolutions to int8."""
    found = dict(weights)
    for name, w in weights.items():
        if w.ndim == 4:
            rows = w.reshape(len(w), -1)
            step = np.abs(rows).max(axis=1, keepdims=True) / 127
            found[name] = (np.round(rows / step) * step).reshape(w.shape).astype("f4")
    return found


@pytest.mark.parametrize(
    "hide", [moved_residual, rescaled_residual, signed_residual, before_norms, folded_residual]
)
@pytest.mark.parametrize(
    ("follow", "then"),
    [
        (dict, None),
        (lambda w: trained(w, 0.02, 21), ("finetune", "full")),
        (rounded, ("quantized", "int8")),
    ],
    ids=["none", "trained", "int8"],
)
def test_a_disguised_convnet_hangs_on_its_source_among_siblings(
    hide: Callable[[Weights, np.random.Generator], Weights],
    follow: Callable[[Weights], Weights],
    then: tuple[str, str] | None,
) -> None:
    hidden = follow(hide(MIDDLE, np.random.default_rng(2)))
    graph = infer({**FAMILY, "hidden": hidden})
    (edge,) = graph.parents("hidden")
    assert (edge.parent, edge.relation, edge.then) == ("middle", "reparametrized", then)
    assert not [e for e in graph.edges if e.parent == "hidden"]
    assert not [e for e in graph.edges if "stranger" in (e.parent, e.child)]


def test_norms_that_were_folded_in_place_are_seen_within_the_family() -> None:
    (edge,) = infer({**FAMILY, "hidden": folded(MIDDLE)}).parents("hidden")
    assert (edge.parent, edge.relation, edge.how) == ("middle", "reparametrized", "rescaled")
    assert edge.then is None


def test_compare_says_that_norms_were_folded() -> None:
    found = compare(MIDDLE, folded(MIDDLE))
    assert (found.relation, found.how, found.change) == ("reparametrized", "rescaled", 0)
    assert compare(MIDDLE, folded(residual(3))).related is not True
