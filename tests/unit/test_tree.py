"""The sum over all trees against counting them one by one."""

from itertools import product

import networkx as nx
import numpy as np
import pytest

from lineage.graph.tree import LONE, Tree, marginals


def counted(score: np.ndarray) -> np.ndarray:
    """The same by listing every choice of one parent a model."""
    n = score.shape[1]
    total, found = 0.0, np.zeros((n, n))
    for parents in product(range(n + 1), repeat=n):
        graph = nx.DiGraph((p, c) for c, p in enumerate(parents))
        if any(p == c for c, p in enumerate(parents)) or not nx.is_directed_acyclic_graph(graph):
            continue
        weight = float(np.prod([np.exp(score[p, c]) for c, p in enumerate(parents)]))
        total += weight
        for c, p in enumerate(parents):
            if p < n:
                found[p, c] += weight
    return found / total


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_an_arcs_probability_is_its_share_of_all_forests(n: int) -> None:
    for seed in range(10):
        score = np.random.default_rng(seed).normal(scale=2, size=(n + 1, n))
        np.testing.assert_allclose(marginals(score), counted(score), atol=1e-9)


def test_what_is_ruled_out_has_no_probability() -> None:
    score = np.zeros((4, 3))
    score[:-1, 0] = -np.inf
    score[1, 2] = -np.inf
    found = marginals(score)
    assert found[:, 0].max() == 0
    assert found[1, 2] == 0
    np.testing.assert_allclose(found[0, 1], counted(score)[0, 1], atol=1e-9)


def test_the_best_arcs_make_a_forest() -> None:
    arcs = np.array([[0, 0.9, 0.2], [0.8, 0, 0.7], [0.1, 0.05, 0]])
    tree = Tree(np.zeros(3), arcs, arcs)
    assert tree.best(0.15) == [(0, 1, 0.9), (1, 2, 0.7)]  # 1 -> 0 would close a ring
    assert tree.best(0.75) == [(0, 1, 0.9)]


def test_which_arcs_are_said_is_asked_of_the_likeliest_root_and_how_sure_of_all() -> None:
    arcs = np.array([[0, 0.4, 0.3], [0.5, 0, 0.3], [0.1, 0.1, 0]])
    rooted = np.array([[0, 0.8, 0.1], [0, 0, 0.8], [0, 0.1, 0]])
    assert Tree(np.array([0.4, 0.3, 0.3]), arcs, rooted).best(0.35) == [(0, 1, 0.4), (1, 2, 0.3)]


def test_extreme_scores_stay_probabilities() -> None:
    score = np.random.default_rng(0).normal(scale=300, size=(7, 6))
    found = marginals(score)
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert found.sum(axis=0).max() <= 1 + 1e-9


@pytest.mark.parametrize(("there", "back"), [(0.5, 0.1), (0.4, 0.3), (0.6, 0.0), (0.35, 0.35)])
def test_of_two_alone_the_direction_is_weighed_as_if_one_came_from_the_other(
    there: float, back: float
) -> None:
    arcs = np.array([[0, there], [back, 0]])
    tree = Tree(np.zeros(2), arcs, arcs)
    found = tree.alone(0, 1)
    assert found == pytest.approx(min(LONE, there / (there + back)))
    assert tree.alone(1, 0) <= 0.5 <= found <= LONE < 0.9
