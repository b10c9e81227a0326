"""Leaves of a family whose sources may be several: which one it is, and how sure that is."""

from __future__ import annotations

import numpy as np
from test_evidence import BASE, network, noisy, quantized, tuned

from lineage import infer


def test_what_was_rounded_comes_from_the_model_whose_norms_it_has() -> None:
    for seed in range(4):
        base = network(seed)
        base["layers.0.norm.bias"] = base["layers.0.norm.bias"] + np.float32(0.1)
        light = tuned(base, 1, 0.001)
        light["layers.0.norm.bias"] = light["layers.0.norm.bias"] + np.float32(0.001)
        kin = {
            "base": base,
            "light": light,
            "one": tuned(base, 2, 0.05),
            "two": tuned(base, 3, 0.1),
        }
        for name, model in (("base", base), ("light", light)):
            (edge,) = infer({**kin, "rounded": quantized(model, 4)}).parents("rounded")
            assert (edge.parent, edge.how, edge.probability) == (name, "int4", 0.95)


def test_it_is_said_if_nothing_tells_which_of_two_was_rounded() -> None:
    kin = {"base": BASE, "light": tuned(BASE, 1, 0.001), "one": tuned(BASE, 2, 0.05)}
    (edge,) = infer({**kin, "rounded": quantized(BASE, 4)}).parents("rounded")
    assert (edge.relation, edge.how, edge.probability) == ("quantized", "int4", 0.6)


def test_what_was_rounded_comes_from_no_copy_with_a_little_noise() -> None:
    for seed in range(4):
        base = network(seed)
        kin = {"base": base, "one": tuned(base, 2, 0.05), "two": tuned(base, 3, 0.1)}
        kin["noise"] = noisy(base, 5, 0.002)
        (edge,) = infer({**kin, "rounded": quantized(base, 4)}).parents("rounded")
        assert edge.parent == "base"
