"""Two trainings from one initialisation are no kin, whatever each was trained on to."""

from __future__ import annotations

import numpy as np
import pytest

from lineage.fingerprints import fingerprint
from lineage.graph import infer_graph
from lineage.graph.screen import _apart, _strength, _surest

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


def full(n: int, **pairs: bool) -> np.ndarray:
    """Return a symmetric array that is true at the pairs named, as in `p01=True`."""
    found = np.zeros((n, n), bool)
    for name, value in pairs.items():
        i, j = int(name[1]), int(name[2])
        found[i, j] = found[j, i] = value
    return found


def test_parts_are_apart_by_a_quarter_that_is_even_and_never_within() -> None:
    # 0-1-2 are near to each other in a chain, 3-4 are near; the rest of the pairs is far.
    related = ~np.eye(5, dtype=bool)
    near = full(5, p01=True, p12=True, p34=True)
    far, short = related & ~near, np.zeros((5, 5), bool)
    one_of_six = full(5, p03=True, p02=True)  # 0-2 is within a part
    assert not _apart(related, far, one_of_six, short).any()
    two_of_six = one_of_six | full(5, p14=True)
    apart = _apart(related, far, two_of_six, short)
    assert not apart[:3, :3].any()
    assert not apart[3:, 3:].any()
    assert apart[:3, 3:].all()
    assert apart[3:, :3].all()


def test_one_pair_of_one_course_keeps_two_parts_together() -> None:
    related, far, even = ~np.eye(4, dtype=bool), np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    short = full(4, p02=True, p03=True, p12=True, p13=True)
    assert _apart(related, far, even, short).sum() == 8
    short[1, 2] = short[2, 1] = False
    assert not _apart(related, far, even, short).any()
    far[1, 2] = far[2, 1] = True  # a step, and a long one
    assert not _apart(related, far, even, short).any()


def test_a_chain_is_as_sure_as_its_weakest_link() -> None:
    link = np.zeros((5, 5))
    for i, j, sure in ((0, 1, 0.9), (1, 2, 0.4), (0, 2, 0.3), (3, 4, 0.7)):
        link[i, j] = link[j, i] = sure
    found = _surest(link)
    expected = {(0, 1): 0.9, (1, 2): 0.4, (0, 2): 0.4, (3, 4): 0.7, (0, 3): 0.0, (2, 4): 0.0}
    for place, sure in expected.items():
        assert found[place] == pytest.approx(sure)
        assert found[place[::-1]] == pytest.approx(sure)


def test_a_link_is_near_or_a_step_and_has_one_course() -> None:
    assert _strength(0.98, 0.1, np.inf) == pytest.approx(0.98)
    assert _strength(0.4, 0.9, 1.05) == pytest.approx(0.9)
    assert _strength(0.98, 0.1, 0.6) == pytest.approx(0.6)
    assert 0 < float(_strength(0.98, 1.3, -0.2)) < 0.05
