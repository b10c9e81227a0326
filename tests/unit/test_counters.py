"""Counters of batches: they tell which of two relatives came first, and make no relatives."""

from __future__ import annotations

import numpy as np
import pytest

from lineage.evidence import Comparison, compare_fingerprints
from lineage.evidence.counters import COUNTERS, Counted, counted, counts, order
from lineage.evidence.explained import explain
from lineage.fingerprints import fingerprint
from lineage.graph import compare, infer_graph
from lineage.relation import Relation

Arrays = dict[str, np.ndarray]
NORMS = ("one.norm", "two.norm")


def network(seed: int, batches: int = 100) -> Arrays:
    draw = np.random.default_rng([61, seed])
    found: Arrays = {f"{n}.weight": draw.normal(size=(96, 64)) for n in ("one", "two", "three")}
    found = {name: w.astype(np.float32) for name, w in found.items()}
    return found | statistics(seed, batches)


def statistics(seed: int, *batches: int) -> Arrays:
    draw = np.random.default_rng([62, seed])
    found: Arrays = {}
    for n, norm in enumerate(NORMS):
        found[f"{norm}.running_mean"] = draw.normal(size=96).astype(np.float32)
        found[f"{norm}.running_var"] = (0.5 + draw.random(96)).astype(np.float32)
        found[f"{norm}.num_batches_tracked"] = np.array(batches[n % len(batches)], np.int64)
    return found


def trained(model: Arrays, seed: int, *batches: int, size: float = 0.2, kept: float = 1) -> Arrays:
    """Take a step; `kept` of the weights is what decay leaves."""
    draw = np.random.default_rng([63, seed])
    moved = {
        n: (kept * w + size * draw.normal(size=w.shape)).astype(np.float32)
        for n, w in model.items()
        if w.ndim > 1
    }
    return moved | statistics(seed, *batches)


def seen(one: Arrays, other: Arrays) -> Counted | None:
    return counted(counts(fingerprint(one)), counts(fingerprint(other)))


def words(found: Comparison) -> list[str]:
    return [e.words for e in found.evidence if e.detector == COUNTERS]


BASE = network(0)
CHILD = trained(BASE, 1, 140, kept=0.9)  # decay makes it smaller: its norms say that it came first


def test_the_one_that_counted_further_came_later_whatever_norms_say() -> None:
    bare = [{n: w for n, w in m.items() if w.ndim > 1} for m in (BASE, CHILD)]
    assert compare(*bare).margin < 0
    found = compare(BASE, CHILD)
    assert found.relation is Relation.FINETUNE
    assert found.direction == "a->b"
    assert compare(CHILD, BASE).direction == "b->a"
    assert words(found) == [
        "{b} counted 40 batches more than {a} in each of 2 norms (100, 140): a count never falls "
        "along a line of descent, so {a} cannot come from it; it is a number in the file that "
        "anyone can write"
    ]


def test_a_change_too_light_for_norms_has_a_direction() -> None:
    light = trained(BASE, 2, 101, size=1e-3)
    assert compare(BASE, light).direction == "a->b"
    assert compare(BASE, trained(BASE, 2, 100, size=1e-3)).direction is None


def test_counts_that_are_equal_say_nothing() -> None:
    assert seen(BASE, trained(BASE, 1, 100)) is None
    assert words(compare(BASE, trained(BASE, 1, 100))) == []


@pytest.mark.parametrize("size", [1e5, 2**24 - 1, 2**24 + 2, 2**31])
def test_large_counts_are_read(size: float) -> None:
    told = counts(fingerprint(network(0, int(size))))
    assert told is not None
    assert set(told.batches.values()) == {int(size)}


def test_norms_that_were_frozen_count_as_before_and_the_others_tell() -> None:
    found = seen(BASE, trained(BASE, 1, 100, 130))
    assert found == Counted(30, False, 2, (100, 130), True)
    assert "in one of 2 norms (100, 130)" in words(compare(BASE, trained(BASE, 1, 100, 130)))[0]


def test_norms_that_do_not_agree_say_nothing() -> None:
    assert seen(BASE, trained(BASE, 1, 90, 130)) is None


def test_other_norms_say_nothing() -> None:
    child = {n: w for n, w in CHILD.items() if n != "two.norm.num_batches_tracked"}
    assert seen(BASE, child) is None
    assert counts(fingerprint({n: w for n, w in BASE.items() if w.ndim > 1})) is None


@pytest.mark.parametrize("counter", [np.float32(3), np.array([3, 4])])
def test_what_is_no_counter_by_its_values_is_not_taken_for_one(counter: np.ndarray) -> None:
    odd = BASE | {"one.norm.num_batches_tracked": np.asarray(counter)}
    assert counts(fingerprint(odd)) is None


def test_other_names_of_one_dialect_are_one() -> None:
    renamed = {f"module.{name}": w for name, w in CHILD.items()}
    assert compare(BASE, renamed).direction == "a->b"


def test_a_model_that_never_counted_was_counted_on_from_if_its_statistics_moved() -> None:
    base = network(0, 0)
    child = trained(base, 1, 40, kept=0.9)
    found = seen(base, child)
    assert found is not None
    assert not found.is_sure
    assert compare(base, child).direction == "a->b"
    assert (
        "{a} never counted, and was most likely counted on from" in words(compare(base, child))[0]
    )


def test_counters_set_anew_say_nothing_where_statistics_stayed() -> None:
    anew = {n: np.zeros_like(w) if n.endswith("tracked") else w for n, w in CHILD.items()}
    other = {n: w * np.float32(1.01) if w.ndim > 1 else w for n, w in CHILD.items()}
    assert seen(anew, other) is None
    assert seen(anew, {n: w for n, w in other.items() if "running" not in n}) is None


def test_strangers_that_counted_are_strangers() -> None:
    found = compare(network(1, 100), network(2, 140))
    assert found.related is False
    assert words(found) == []
    assert found.direction is None


def test_siblings_do_not_get_a_parent_by_counting_further() -> None:
    one, other = (trained(BASE, n, 100 + 20 * n, size=0.3) for n in (1, 2))
    found = compare(one, other)
    assert found.relation is not Relation.FINETUNE
    assert found.direction is None
    assert len(words(found)) == 1


def test_a_family_has_no_arc_from_one_that_counted_further() -> None:
    models = {
        "base": BASE,
        "one": trained(BASE, 1, 150, size=0.3, kept=0.95),
        "two": trained(BASE, 2, 150, size=0.3, kept=0.95),
        "three": trained(BASE, 3, 150, size=0.3, kept=0.95),
    }
    prints = {name: fingerprint(model) for name, model in models.items()}
    ruled_out, doubted = order([prints[name] for name in ("base", "one", "two", "three")])
    assert ruled_out == {(1, 0), (2, 0), (3, 0)}
    assert doubted == set()
    graph = infer_graph(prints)
    assert {(e.parent, e.child) for e in graph.edges} == {
        ("base", n) for n in models if n != "base"
    }


def test_a_pair_has_no_arc_from_one_that_counted_further() -> None:
    child = trained(BASE, 1, 140, kept=0.95)
    bare = [{n: w for n, w in m.items() if "tracked" not in n} for m in (BASE, child)]
    for models, is_turned in ((bare, True), ((BASE, child), False)):
        graph = infer_graph(dict(zip(("base", "child"), map(fingerprint, models), strict=True)))
        assert any(e.parent == "child" for e in graph.edges) == is_turned
        assert any(e.parent == "base" for e in graph.edges) != is_turned


def test_a_family_doubts_arcs_to_one_that_never_counted() -> None:
    models = [fingerprint(m) for m in (network(0, 0), trained(BASE, 1, 50))]
    assert order(models) == (set(), {(1, 0)})
    graph = infer_graph(dict(zip(("base", "child"), models, strict=True)))
    assert [(e.parent, e.child) for e in graph.edges] == [("base", "child")]


def test_the_explanation_names_the_counters_first() -> None:
    a, b = fingerprint(BASE), fingerprint(CHILD)
    lines = explain(a, b, compare_fingerprints(a, b)).direction
    assert lines[0] == (
        "{a} -> {b}: by the batches that both counted, which anyone can write anew, whatever is "
        "below"
    )
