"""What the family tells about each arc, and the trees that follow."""

from __future__ import annotations

import numpy as np
import pytest

from lineage.evidence import alone
from lineage.evidence.ancestry import Evidence, _affine, evidence, in_view_of
from lineage.evidence.panel import Panel
from lineage.fingerprints import fingerprint
from lineage.graph.odds import fitted
from lineage.graph.tree import grow

Arrays = dict[str, np.ndarray]
SHAPES = {"embed": (200, 48), "up": (96, 48), "down": (48, 96), "gain": (48,)}


def step(model: Arrays, seed: int, size: float, frozen: tuple[str, ...] = ()) -> Arrays:
    """Add noise; what is frozen stays."""
    draw = np.random.default_rng([9, seed])
    return {
        name: w if name in frozen else (w + size * draw.normal(size=w.shape)).astype(np.float32)
        for name, w in model.items()
    }


def family() -> dict[str, Arrays]:
    base = {n: np.ones(s, np.float32) for n, s in SHAPES.items()}
    base = step(base, 0, 1.0)
    found = {"base": base, "middle": step(base, 1, 0.1)}
    found["deep"] = step(found["middle"], 2, 0.1)
    found["frozen"] = step(base, 3, 0.2, ("up",))
    found["frozen on"] = step(found["frozen"], 4, 0.1, ("up", "down"))
    found["light"] = step(base, 5, 0.02)
    return found


MODELS = family()
PLACE = {name: place for place, name in enumerate(MODELS)}
PANEL = Panel([fingerprint(model) for model in MODELS.values()])
SEEN = evidence(PANEL, {})


def of(seen: Evidence, name: str) -> np.ndarray:
    return seen.arcs[..., seen.names.index(name)]


def at(name: str, parent: str, child: str) -> float:
    return float(of(SEEN, name)[PLACE[parent], PLACE[child]])


@pytest.mark.parametrize(
    ("parent", "child"), [("middle", "deep"), ("frozen", "frozen on"), ("base", "light")]
)
def test_a_child_has_what_is_peculiar_to_its_parent(parent: str, child: str) -> None:
    assert at("peculiar", parent, child) == pytest.approx(1, abs=0.25)
    assert at("best_peculiar", parent, child) > 0


def test_a_sibling_has_nothing_peculiar_of_another() -> None:
    assert abs(at("peculiar", "middle", "frozen")) < 0.2
    assert abs(at("peculiar", "frozen", "deep")) < 0.2


def test_ways_from_a_parent_part_and_ways_from_a_leaf_do_not() -> None:
    assert abs(at("turn", "base", "middle")) < 0.4
    assert at("turn", "deep", "middle") > 0.5
    assert at("turn_back", "middle", "deep") == at("turn", "deep", "middle")


def test_equal_values_speak_for_whom_they_are_most_shared_with() -> None:
    assert at("equal_most", "frozen", "frozen on") == 1
    assert at("equal_most", "base", "frozen on") == 0
    assert at("equal_short", "base", "frozen on") > 0.3


def test_the_order_of_models_is_the_order_of_the_answer() -> None:
    order = np.array([3, 0, 5, 1, 4, 2])
    seen = evidence(Panel([PANEL.models[i] for i in order]), {})
    np.testing.assert_allclose(seen.arcs, SEEN.arcs[np.ix_(order, order)], atol=1e-4)
    np.testing.assert_allclose(seen.nodes, SEEN.nodes[order], atol=1e-4)


def test_a_merge_does_not_hide_whose_step_a_model_has() -> None:
    both = {n: (MODELS["middle"][n] + MODELS["frozen"][n]) / 2 for n in SHAPES}
    panel = Panel([*PANEL.models, fingerprint(both)])
    merge, parents = len(MODELS), [PLACE["middle"], PLACE["frozen"]]
    seen = evidence(panel, {merge: parents})
    at = PLACE["middle"], PLACE["deep"]
    assert of(seen, "peculiar")[at] == pytest.approx(of(SEEN, "peculiar")[at], abs=0.05)
    assert grow(seen, {merge: parents}).arcs[:, merge].max() == 0


@pytest.mark.parametrize("names", [("base", "light"), ("base", "base", "middle", "middle")])
def test_few_models_and_equal_ones_have_finite_features(names: tuple[str, ...]) -> None:
    seen = evidence(Panel([fingerprint(MODELS[name]) for name in names]), {})
    assert np.isfinite(seen.arcs).all()
    assert np.isfinite(seen.nodes).all()
    arcs = grow(seen).arcs
    assert arcs.sum(axis=0).max() <= 1 + 1e-9


@pytest.mark.parametrize("size", [0.0, 1e-7, 1e-5])
def test_models_that_differ_by_next_to_nothing_have_finite_features(size: float) -> None:
    models = []
    for seed in range(12):
        model = step(MODELS["base"], seed, size)
        models.append(model | {"gain": MODELS["base"]["gain"] + seed})
    for some in (models, [*models, MODELS["deep"]], [*models, MODELS["deep"], MODELS["frozen"]]):
        seen = evidence(Panel([fingerprint(model) for model in some]), {})
        assert np.isfinite(seen.arcs).all()
        assert np.isfinite(grow(seen).arcs).all()


def test_distances_that_are_rounding_alone_tell_nothing_and_fail_nothing() -> None:
    draw = np.random.default_rng(0)
    for scale in (1e-30, 1e-8, 1.0):
        squared = scale * np.abs(draw.normal(size=(20, 20)))
        squared += squared.T
        np.fill_diagonal(squared, 0)
        assert np.isfinite(_affine(squared)).all()


def test_the_tree_of_noise_is_found() -> None:
    tree = grow(SEEN)
    names = list(MODELS)
    found = {(names[w], names[c]) for w, c, _ in tree.best(0.5)}
    assert ("middle", "deep") in found
    assert ("frozen", "frozen on") in found
    assert ("base", "light") in found
    assert tree.roots.argmax() == PLACE["base"]


def test_what_is_known_otherwise_holds() -> None:
    base, light = PLACE["base"], PLACE["light"]
    with_root = grow(SEEN, root=light)
    assert with_root.arcs[:, light].max() == 0
    others = np.arange(len(MODELS)) != light
    np.testing.assert_allclose(with_root.arcs.sum(axis=0)[others], 1, atol=1e-6)
    with_leaf = grow(SEEN, leaf=base)
    assert with_leaf.arcs[base].max() == 0
    assert with_leaf.arcs[:, base].sum() == pytest.approx(1, abs=1e-6)


def test_the_second_look_asks_whether_a_parents_step_is_there() -> None:
    arcs = np.zeros((len(MODELS), len(MODELS)))
    for w, c in (("base", "middle"), ("middle", "deep"), ("base", "frozen"), ("base", "light")):
        arcs[PLACE[w], PLACE[c]] = 1.0
    seen = in_view_of(SEEN, arcs)
    beta, lean = of(seen, "beta"), of(seen, "lean")
    assert beta[PLACE["middle"], PLACE["deep"]] == pytest.approx(0, abs=0.1)
    assert beta[PLACE["middle"], PLACE["frozen"]] == pytest.approx(-1, abs=0.2)
    assert abs(lean[PLACE["middle"], PLACE["deep"]]) < 0.15
    assert lean[PLACE["middle"], PLACE["frozen"]] < -0.3
    assert of(seen, "upstream")[PLACE["base"], PLACE["deep"]] > 0.9
    assert of(seen, "above")[PLACE["middle"], PLACE["light"]] > 0.9


def test_the_networks_were_fitted_on_these_features() -> None:
    first, second = fitted()
    again = in_view_of(SEEN, grow(SEEN).arcs)
    for look, seen in ((first, SEEN), (second, again)):
        nets, score = look.seen, look(seen, alone.fitted()(seen.gains))
        assert score.shape == (len(MODELS) + 1, len(MODELS))
        assert np.isneginf(np.diagonal(score)).all()
        for net, features in (*((n, seen.arcs) for n in nets.arcs), (nets.nodes[0], seen.nodes)):
            assert net.linear.shape == features.shape[-1:]


def test_other_features_are_refused() -> None:
    first, _ = fitted()
    names = ("another", *SEEN.names[1:])
    with pytest.raises(ValueError, match="other features"):
        first(SEEN._replace(names=names), alone.fitted()(SEEN.gains))
