"""What two models share of their courses: one course with descent, two after a common start."""

from __future__ import annotations

import numpy as np
import pytest

from lineage.evidence import compare_fingerprints
from lineage.evidence.course import SHORT_COURSE, course, courses
from lineage.evidence.pairing import pair
from lineage.fingerprints import fingerprint
from lineage.graph import compare, infer_graph
from lineage.relation import Relation

Arrays = dict[str, np.ndarray]

BIASES, GAINS = ("one.bias", "two.bias", "three.bias"), ("one.gain", "two.gain")


def begun(seed: int, width: int = 96) -> Arrays:
    """Initial weights: matrices at random, biases at 0 and gains at 1."""
    draw = np.random.default_rng([41, seed])
    start: Arrays = {f"{n}.weight": draw.normal(size=(width, 64)) for n in ("one", "two")}
    start |= dict.fromkeys(BIASES, np.zeros(width)) | dict.fromkeys(GAINS, np.ones(width))
    return {name: w.astype(np.float32) for name, w in start.items()}


def trained(model: Arrays, seed: int, matrices: float, vectors: float) -> Arrays:
    """Take a step of so much a value, in matrices and in vectors."""
    draw = np.random.default_rng([42, seed])
    size = {1: vectors, 2: matrices}
    return {
        n: (w + size[w.ndim] * draw.normal(size=w.shape)).astype(np.float32)
        for n, w in model.items()
    }


def shared(one: Arrays, other: Arrays) -> float:
    found = course(pair(fingerprint(one), fingerprint(other)))
    assert found == pytest.approx(course(pair(fingerprint(other), fingerprint(one))))
    return found


START = begun(0)
BASE, TWIN = trained(START, 1, 0.1, 0.05), trained(START, 2, 0.1, 0.05)
CHILD = trained(BASE, 3, 0.05, 0.02)


def test_the_share_is_a_regression_on_the_shorter_course() -> None:
    x, y = np.array([3.0, -4.0] * 18), np.array([4.0, -3.0] * 18)
    found = courses([(36.0, np.stack([x, 2 * y]).astype(np.float32))], 2)
    assert found == pytest.approx(np.array([[1, 48 / 25], [48 / 25, 1]]))
    found = courses([(36.0, np.stack([x, -x]).astype(np.float32))], 2)
    assert found[0, 1] == pytest.approx(-1)


def test_vectors_count_by_the_root_of_their_size_whatever_their_scale() -> None:
    x = np.ones(16, np.float32) * np.tile([1, -1], 8)
    apart = np.repeat([1, -1], 8).astype(np.float32)  # orthogonal to x
    both = [(16.0, np.stack([x, x])), (16.0, 1000 * np.stack([x, apart]))]
    assert courses(both, 2)[0, 1] == pytest.approx(0.5)


def test_a_descendant_has_the_whole_course_and_a_twin_has_not() -> None:
    assert shared(BASE, CHILD) == pytest.approx(1, abs=0.15)
    assert shared(BASE, trained(CHILD, 4, 0.05, 0.02)) == pytest.approx(1, abs=0.2)
    assert shared(BASE, TWIN) < 0.3
    assert shared(CHILD, TWIN) < 0.3


def test_gains_alone_and_biases_alone_tell() -> None:
    for kept in (BIASES, GAINS):
        base, child, twin = (
            {n: w for n, w in m.items() if n.endswith("weight") or n in kept}
            for m in (BASE, CHILD, TWIN)
        )
        assert shared(base, twin) < 0.5 < SHORT_COURSE < shared(base, child)


def test_long_vectors_tell_within_the_error_of_their_sketches() -> None:
    start = begun(7, 3000)
    base = trained(start, 1, 0.1, 0.05)
    assert shared(base, trained(base, 3, 0.05, 0.02)) == pytest.approx(1, abs=0.1)
    assert shared(base, trained(start, 2, 0.1, 0.05)) < 0.3
    one, other = (fingerprint(model, tier="fast") for model in (trained(start, 2, 0.1, 0.05), base))
    assert course(pair(one, other)) == np.inf  # of which some rows alone are sketched


def test_where_nothing_was_trained_or_nothing_is_there_nothing_follows() -> None:
    matrices = {n: w for n, w in BASE.items() if w.ndim > 1}
    assert shared(matrices, {n: w for n, w in TWIN.items() if w.ndim > 1}) == np.inf
    frozen = BASE | {n: w for n, w in START.items() if w.ndim == 1}
    assert shared(frozen, TWIN) == np.inf  # a model that is still where it began


def test_what_batches_had_on_the_way_is_no_course() -> None:
    draw = np.random.default_rng(43)
    one, other = (
        {"bn.running_mean": draw.normal(size=96), "bn.running_var": draw.random(96)}
        for _ in range(2)
    )
    assert shared(BASE | one, CHILD | other) == pytest.approx(shared(BASE, CHILD))


def test_two_trainings_that_stayed_near_are_told_by_their_courses() -> None:
    found = compare(BASE, TWIN)
    assert found.related is False
    assert found.relation is Relation.SHARED_INIT
    assert found.evidence[0].detector == "course-v1"
    assert found.score == pytest.approx(found.evidence[-1].statistic / 2, abs=0.01)
    assert compare(BASE, CHILD).relation is Relation.FINETUNE


def test_a_family_takes_two_near_trainings_apart_and_scores_them_below_all_kin() -> None:
    models = {
        "base": BASE, "child": CHILD, "grandchild": trained(CHILD, 4, 0.3, 0.02),
        "twin": TWIN, "twin's": trained(TWIN, 5, 0.05, 0.02), "stranger": begun(1),
    }  # fmt: skip
    prints = {name: fingerprint(model) for name, model in models.items()}
    nearest = compare_fingerprints(prints["base"], prints["twin"]).evidence[-1].statistic
    assert nearest is not None
    assert nearest > 0.95  # the matrices alone call them one family
    graph = infer_graph(prints)
    kin = [{"base", "child", "grandchild"}, {"twin", "twin's"}]
    scores: dict[str, list[float]] = {"kin": [], "twins": [], "strangers": []}
    for found in graph.pairs:
        ends = {found.a, found.b}
        is_kin = any(ends <= some for some in kin)
        assert found.related is is_kin
        scores["strangers" if "stranger" in ends else "kin" if is_kin else "twins"].append(
            found.score
        )
    assert max(scores["strangers"]) < min(scores["twins"])
    assert max(scores["twins"]) <= 0.5 < min(scores["kin"])


def test_a_long_step_that_was_extrapolated_is_no_second_training() -> None:
    """Its vectors went back some of the way that they had come, and beyond."""
    step = trained({n: 0 * w for n, w in BASE.items()}, 3, 0.4, 0.05)
    for name in (*BIASES, *GAINS):
        step[name] -= 0.25 * (BASE[name] - START[name])
    beyond = {n: (w + 1.3 * step[n]).astype(np.float32) for n, w in BASE.items()}
    assert 0.7 < shared(BASE, beyond) < SHORT_COURSE
    assert compare(BASE, beyond).relation is Relation.FINETUNE
    # Two trainings that leaned on their start alike are told by as much as before.
    assert compare(BASE, TWIN).relation is Relation.SHARED_INIT
