"""Two trainings from one initialisation are no kin, whatever each was trained on to."""

from __future__ import annotations

import numpy as np

from lineage.fingerprints import fingerprint
from lineage.graph import infer_graph

Arrays = dict[str, np.ndarray]


def step(model: Arrays, seed: int, size: float) -> Arrays:
    draw = np.random.default_rng([3, seed])
    return {n: (w + size * draw.normal(size=w.shape)).astype(np.float32) for n, w in model.items()}


def grown() -> dict[str, Arrays]:
    """One family with an early checkpoint, and one that began where it did."""
    start = {n: np.zeros(s, np.float32) for n, s in (("up", (96, 64)), ("down", (64, 96)))}
    start = step(start, 0, 1.0)
    early = step(start, 1, 0.8)
    base = step(early, 2, 0.3)
    other = step(start, 3, 0.9)
    models = {"early": early, "base": base, "tuned": step(base, 4, 0.3), "far": step(base, 5, 0.9)}
    return models | {"other": other, "other tuned": step(other, 6, 0.3)}


def related() -> dict[frozenset[str], bool | None]:
    graph = infer_graph({name: fingerprint(model) for name, model in grown().items()})
    return {frozenset((pair.a, pair.b)): pair.related for pair in graph.pairs}


def test_some_pairs_tell_of_all_that_came_from_two() -> None:
    found = related()
    one, two = ("early", "base", "tuned", "far"), ("other", "other tuned")
    assert {found[frozenset((a, b))] for a in one for b in two} == {False}
    within = [frozenset((a, b)) for a in one for b in one if a != b]
    assert {found[pair] for pair in (*within, frozenset(two))} == {True}
