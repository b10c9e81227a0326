"""What a step adds to matrices and to the course of vectors, and which way that points."""

from __future__ import annotations

import numpy as np
import pytest

from lineage.evidence import alone
from lineage.evidence.alone import with_odds
from lineage.evidence.course import steps
from lineage.evidence.gains import gains
from lineage.evidence.growth import Grown, Growth
from lineage.evidence.panel import Panel
from lineage.fingerprints import fingerprint
from lineage.graph.odds import fitted

Arrays = dict[str, np.ndarray]
SHAPES = {"a": (96, 64), "b": (64, 96), "c": (128, 48), "d": (48, 128)}
BIASES = ("a.bias", "b.bias")


def begun(seed: int = 0) -> Arrays:
    draw = np.random.default_rng([61, seed])
    start = {f"{name}.weight": draw.normal(size=shape) for name, shape in SHAPES.items()}
    start |= {name: np.zeros(96) for name in BIASES} | {"norm.weight": np.ones(96)}
    return {name: w.astype(np.float32) for name, w in start.items()}


def step(
    model: Arrays, seed: int, size: float, *, decay: float = 0.0, uneven: float = 0.0
) -> Arrays:
    """Take decay from matrices, and add noise: more to each matrix, and to rows where uneven."""
    draw = np.random.default_rng([62, seed])
    found = {}
    for number, (name, w) in enumerate(model.items()):
        noise = size * draw.normal(size=w.shape)
        if w.ndim == 2:
            noise *= (number + 1) * np.exp(uneven * draw.normal(size=(len(w), 1)))
        found[name] = ((1 - decay * (w.ndim == 2)) * w + noise).astype(np.float32)
    return found


def panel(*models: Arrays) -> Panel:
    return Panel([fingerprint(model) for model in models])


def grown(*models: Arrays) -> Grown:
    return panel(*models).grown


BASE = step(begun(), 1, 0.05)
CHILD = step(BASE, 2, 0.05)


def test_a_step_gains_its_own_energy_and_loses_it_on_the_way_back() -> None:
    found = grown(BASE, CHILD)
    for gain in (found.pooled, found.each, found.slope):
        assert gain[0, 1] == pytest.approx(1, abs=0.3)
    assert found.sign[0, 1] == 1
    for gain in found:
        np.testing.assert_allclose(gain, -gain.T, atol=1e-9)


def test_decay_turns_what_is_pooled_and_not_the_slope() -> None:
    decayed = grown(BASE, step(BASE, 3, 0.03, decay=0.02))
    assert decayed.pooled[0, 1] < 0
    assert decayed.slope[0, 1] > 0.5


def test_one_matrix_that_moved_most_outweighs_many_that_decayed() -> None:
    moved = {n: w * np.float32(0.999) if w.ndim == 2 else w for n, w in BASE.items()}
    moved["d.weight"] = CHILD["d.weight"]
    found = grown(BASE, moved)
    assert found.pooled[0, 1] > 0.5
    assert found.sign[0, 1] < 0


def test_uneven_steps_make_rows_less_alike_and_tails_longer() -> None:
    found = grown(BASE, step(BASE, 4, 0.1, uneven=1.0))
    assert found.rows[0, 1] > 0.1
    assert found.kurtosis[0, 1] > 0.1
    assert found.kurtosis_sign[0, 1] == 1
    even = grown(BASE, CHILD)
    assert abs(even.kurtosis[0, 1]) < found.kurtosis[0, 1] / 2


def test_the_sums_by_hand() -> None:
    growth = Growth(2)
    buckets = (np.ones((2, 8), np.float32), np.ones((2, 8), np.float32))
    squared = np.array([[0.0, 2.0], [2.0, 0.0]])
    cores = np.zeros((2, 8, 8), np.float32)
    four, nine = (np.array(of) for of in ([4.0, 7.0], [9.0, 8.0]))
    growth.add(4.0, np.array([4.0, 5.0]), four, buckets, squared, cores, is_in_layer=True)
    squared = np.array([[0.0, 1.0], [1.0, 0.0]])
    growth.add(9.0, np.array([9.0, 8.0]), nine, buckets, squared, cores, is_in_layer=False)
    found = growth.finish()
    assert found.pooled[0, 1] == 0
    assert found.each[0, 1] == pytest.approx((2 * 0.5 + 3 * -1) / 5)
    assert found.sign[0, 1] == pytest.approx((2 - 3) / 5)
    assert found.rows[0, 1] == found.columns[0, 1] == 0
    assert found.row_slope[0, 1] == found.column_slope[0, 1] == 0
    assert found.inside[0, 1] == pytest.approx(1 / (2 * np.sqrt(2 * 4.5)))
    assert found.outside[1, 0] == pytest.approx(1 / (2 * np.sqrt(8.5)))
    assert found.slope[0, 1] == pytest.approx((1 / 4.5 + 1 / 8.5) / (2 / 4.5 - 1 / 8.5))


@pytest.mark.parametrize("decay", [0.0, 0.1, 0.3])
def test_rows_that_moved_more_grew_more_whatever_the_decay(decay: float) -> None:
    found = grown(BASE, step(BASE, 6, 0.4, decay=decay, uneven=1.0))
    assert found.row_slope[0, 1] > 0.2
    assert found.row_slope[1, 0] == pytest.approx(-found.row_slope[0, 1])


def test_equal_models_gain_nothing() -> None:
    for gain in grown(BASE, BASE, BASE):
        assert not gain.any()


def test_one_matrix_has_no_slope() -> None:
    one, other = ({"a": model["a.weight"]} for model in (BASE, CHILD))
    assert grown(one, other).slope[0, 1] == 0


def test_a_new_step_is_orthogonal_to_the_course_and_adds_to_it() -> None:
    found = panel(BASE, CHILD).steps
    assert found.growth[0, 1] == pytest.approx(1, abs=0.5)
    assert found.growth[1, 0] == pytest.approx(-found.growth[0, 1])
    assert abs(found.along[0, 1]) < 0.3
    assert found.along[1, 0] < -0.5


def test_a_run_leads_on_the_way_it_took() -> None:
    start, end = begun(), step(begun(), 5, 0.1)
    half, most = (
        {name: (w + share * (end[name] - w)).astype(np.float32) for name, w in start.items()}
        for share in (0.5, 0.9)
    )
    found = panel(half, most).steps
    assert found.along[0, 1] == pytest.approx(1, abs=0.01)
    assert found.along[1, 0] == pytest.approx(-1, abs=0.01)
    assert found.growth[0, 1] == pytest.approx((0.9**2 - 0.5**2) / 0.4**2, rel=0.4)  # sketched
    assert found.size[0, 1] == pytest.approx(0.4**2 / (0.9**2 + 0.5**2), rel=0.05)


def test_vectors_that_begin_at_zero_count_by_their_exact_norms() -> None:
    cores = np.array([[3.0, -4.0] * 18, [4.0, -3.0] * 18], np.float32)
    found = steps([(36.0, cores, np.array([450.0, 468.0]))], 2)
    assert found.growth[0, 1] == pytest.approx(18 / 36)
    assert found.along[0, 1] == pytest.approx((432 - 450) / (36 * 450) ** 0.5)
    assert found.length[0, 1] == pytest.approx(450 / 36)


def test_no_vectors_tell_nothing() -> None:
    bare = [{n: w for n, w in m.items() if w.ndim == 2} for m in (BASE, CHILD)]
    for one in panel(*bare).steps:
        assert not one.any()
    assert np.isfinite(gains(panel(*bare)).arcs).all()


@pytest.mark.parametrize("models", [(BASE, CHILD), (BASE, BASE), (BASE, BASE, CHILD)])
def test_features_are_finite_and_those_that_were_fitted(models: tuple[Arrays, ...]) -> None:
    found = gains(panel(*models))
    assert np.isfinite(found.arcs).all()
    assert np.isfinite(found.nodes).all()
    told = with_odds(found, alone.fitted()(found))
    for look in fitted():
        assert look.gained(told).shape == (len(models) + 1, len(models))


def test_the_order_of_models_is_the_order_of_the_gains() -> None:
    models = (BASE, CHILD, step(CHILD, 6, 0.02), step(BASE, 7, 0.2))
    order = [2, 0, 3, 1]
    found, turned = gains(panel(*models)), gains(panel(*(models[i] for i in order)))
    np.testing.assert_allclose(turned.arcs, found.arcs[np.ix_(order, order)], atol=1e-4)
    np.testing.assert_allclose(turned.nodes, found.nodes[order], atol=1e-4)
