"""Which of two models alone came first, by all that training leaves."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from lineage.evidence import alone, compare_fingerprints
from lineage.evidence.ancestry import evidence
from lineage.evidence.gains import gains
from lineage.evidence.pairing import pair
from lineage.evidence.panel import Panel
from lineage.fingerprints import fingerprint
from lineage.graph import infer_graph
from lineage.graph.tree import LONE, grow

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "quality"))

from cases import Family, shrunk, steps

Arrays = dict[str, np.ndarray]


def start() -> Arrays:
    draw = np.random.default_rng(1)
    shapes = {"a.0.up": (192, 96), "a.0.down": (96, 192), "a.1.up": (192, 96), "head": (64, 96)}
    return {name: draw.normal(size=shape).astype("f4") for name, shape in shapes.items()}


def trained(model: Arrays, seed: int, size: float = 0.1) -> Arrays:
    """Move along a few directions and, a little, along all; some rows more than others."""
    draw = np.random.default_rng([7, seed])
    found = {}
    for name, values in model.items():
        rows, columns = values.shape
        rows_move = draw.gamma(1.0, 1.0, (rows, 1))
        leads = draw.normal(size=(rows, 4)) @ draw.normal(size=(4, columns)) / 2
        step = rows_move * (leads + 0.5 * draw.normal(size=values.shape))
        found[name] = (values + size * step / np.sqrt((step**2).mean())).astype("f4")
    return found


PARENT, CHILD = fingerprint(start()), fingerprint(trained(start(), 1))


def test_the_way_back_has_the_opposite_odds() -> None:
    there, back = alone.first_of(pair(PARENT, CHILD)), alone.first_of(pair(CHILD, PARENT))
    assert there >= alone.SAID
    assert back == pytest.approx(-there, abs=1e-4)


def test_compare_and_infer_say_what_the_odds_say() -> None:
    assert compare_fingerprints(PARENT, CHILD).direction == "a->b"
    found = compare_fingerprints(CHILD, PARENT)
    assert found.direction == "b->a"
    assert any(seen.detector == alone.ALONE for seen in found.evidence)
    (edge,) = infer_graph({"child": CHILD, "parent": PARENT}).edges
    assert (edge.parent, edge.child) == ("parent", "child")
    odds = alone.first_of(pair(PARENT, CHILD))
    assert edge.probability == pytest.approx(min(LONE, 1 / (1 + np.exp(-odds))), abs=1e-3)


def test_names_and_a_matrix_of_its_own_do_not_matter() -> None:
    renamed = {f"model.{name}": values for name, values in trained(start(), 1).items()}
    more = renamed | {"extra": np.random.default_rng(3).normal(size=(64, 64)).astype("f4")}
    straight = alone.first_of(pair(PARENT, CHILD))
    assert alone.first_of(pair(PARENT, fingerprint(more))) == pytest.approx(straight, abs=0.5)


def test_nothing_is_said_where_most_lies_turned_or_nothing_moved() -> None:
    turned = {name: np.ascontiguousarray(v.T) for name, v in trained(start(), 1).items()}
    assert alone.first_of(pair(PARENT, fingerprint(turned))) == 0.0
    assert alone.first_of(pair(PARENT, PARENT)) == 0.0


def test_odds_lie_behind_the_gains() -> None:
    seen = gains(Panel([PARENT, CHILD, fingerprint(trained(start(), 2))]))
    odds = np.array([[0.0, 3.0, 20.0], [-3.0, 0.0, 0.5], [-20.0, -0.5, 0.0]])
    told = alone.with_odds(seen, odds)
    assert told.names[:-3] == seen.names
    np.testing.assert_array_equal(told.arcs[..., :-3], seen.arcs)
    chance = 1 / (1 + np.exp(-odds[0, 1]))
    assert told.arcs[0, 1, -3:] == pytest.approx([3.0, np.log(chance), np.log(1 - chance)])
    assert told.arcs[0, 2, -3] == 10.0
    own = told.nodes[:, seen.nodes.shape[1] :]
    assert own[:, 0] == pytest.approx([4.0, -1.25, -2.75])
    assert own[:, 2] == pytest.approx([3.0, -3.0, -10.0])
    assert own[:, 3:].max(axis=0) == pytest.approx(0.0)


def test_a_family_asks_what_two_alone_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    again = fingerprint(trained(trained(start(), 1), 2))
    seen = evidence(Panel([again, CHILD, PARENT]), {})
    with_them = grow(seen).roots
    monkeypatch.setattr(alone, "fitted", lambda: lambda gains: np.zeros((3, 3)))
    assert grow(seen).roots[2] < with_them[2] > 0.5


def test_networks_of_other_features_are_refused() -> None:
    fitted = alone.fitted()
    seen = gains(Panel([PARENT, CHILD]))
    with pytest.raises(ValueError, match="other features"):
        fitted(seen._replace(names=seen.names[:-1]))


def test_what_is_saved_says_the_same(tmp_path: Path) -> None:
    fitted = alone.fitted()
    alone.save(fitted, tmp_path / "again.npz")
    stored = np.load(tmp_path / "again.npz", allow_pickle=False)
    assert tuple(stored["names"].tolist()) == fitted.names
    assert stored["nets.linear"].shape == (len(fitted.nets), len(fitted.names))


def test_a_shrunk_family_is_shorter_and_has_the_same_steps() -> None:
    frozen = trained(start(), 2) | {"head": trained(start(), 1)["head"]}
    family = Family(
        "made",
        {
            "a": {"parents": [], "relation": None},
            "b": {"parents": ["a"], "relation": "finetune"},
            "c": {"parents": ["b"], "relation": "finetune"},
        },
        {"a": PARENT, "b": CHILD, "c": fingerprint(frozen)},
    )
    less = shrunk(family, np.random.default_rng(0))
    assert less.prints["a"].root == PARENT.root

    def lengths(model: str) -> dict[str, float]:
        before, after = (family.prints[model].tensors, less.prints[model].tensors)
        found = {}
        for one, other in zip(before, after, strict=True):
            assert one.sketch is not None
            assert other.sketch is not None
            found[one.name] = (other.sketch.energy / one.sketch.energy) ** 0.5
            assert other.sketch.rows.sum() == pytest.approx(other.sketch.energy, rel=1e-4)
            core = one.sketch.core * found[one.name]
            np.testing.assert_allclose(other.sketch.core, core, rtol=1e-5)
        return found

    b, c = lengths("b"), lengths("c")
    assert all(length < 1 for length in b.values())
    assert c["a.0.up"] < b["a.0.up"]
    assert c["head"] == pytest.approx(b["head"])  # nothing that stayed was against decay
    values = {m: {t.name: t.value for t in less.prints[m].tensors} for m in "bc"}
    assert values["b"]["head"] == values["c"]["head"]
    assert values["b"]["a.0.up"] != values["c"]["a.0.up"]
    assert len(list(steps(less))) == 2
