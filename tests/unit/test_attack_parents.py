"""How `benchmarks/attacks --parents` holds what `infer` says against the truth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "attacks"))

import parents

TRUTH = {
    "family": "f",
    "models": [
        {"path": "base", "id": "1", "roots": ["r"]},
        {"path": "child", "id": "2", "roots": ["r"]},
        {"path": "other", "id": "3", "roots": ["s"]},
    ],
    "made": [
        {"path": "everything", "kind": "disguise", "sources": ["2"], "follow_up": "none"},
        {"path": "everything+int4", "kind": "disguise", "sources": ["2"], "follow_up": "int4"},
        {"path": "layers-dropped", "kind": "shape", "sources": ["2"], "follow_up": "none"},
        {"path": "layers-dropped+everything", "kind": "shape", "sources": ["2"],
         "follow_up": "none"},
    ],
}  # fmt: skip


def edge(parent: str, child: str, relation: str, how: str, then: Any = None) -> dict[str, Any]:
    found = {"parent": parent, "child": child, "relation": relation, "how": how, "probability": 0.9}
    if then is not None:
        found["then"] = {"relation": then[0], "how": then[1]}
    return found


def judged(path: str, edges: list[dict[str, Any]], related: tuple[str, ...] = ()) -> parents.Child:
    (child,) = parents.children_of(TRUTH, [path])
    pairs = [{"a": path, "b": other, "related": True} for other in related]
    graph = {"edges": edges, "pairs": pairs}
    parents.judge(child, TRUTH, {"graph": graph, "seconds": 1.0}, lambda name: name)
    return child


def test_what_is_right_is_counted_so() -> None:
    found = judged("everything", [edge("child", "everything", "reparametrized", "rotated")])
    assert (found.parent, found.direction, found.way, found.accused) == (True, True, True, [])
    then = ("quantized", "int4")
    path = "everything+int4"
    found = judged(path, [edge("child", path, "reparametrized", "rotated", then)], ("child",))
    assert (found.parent, found.way, found.steps) == (True, True, "everything")
    found = judged("layers-dropped", [edge("child", "layers-dropped", "pruned", "depth")])
    assert found.way
    path = "layers-dropped+everything"
    found = judged(path, [edge("child", path, "reparametrized", "rotated", ("pruned", "depth"))])
    assert found.way


@pytest.mark.parametrize(
    ("edges", "parent", "direction", "way"),
    [
        ([], False, True, None),
        ([edge("base", "everything", "reparametrized", "rotated")], False, True, True),
        ([edge("child", "everything", "finetune", "full")], True, True, False),
        (
            [edge("child", "everything", "reparametrized", "rotated", ("finetune", "full"))],
            True,
            True,
            False,
        ),
        ([edge("everything", "child", "reparametrized", "rotated")], False, False, None),
    ],
)
def test_what_is_wrong_is_counted_so(
    edges: list[dict[str, Any]], parent: bool, direction: bool, way: bool | None
) -> None:
    found = judged("everything", edges)
    assert (found.parent, found.direction, found.way) == (parent, direction, way)


def test_strangers_that_are_accused_are_named() -> None:
    found = judged("everything", [edge("other", "everything", "finetune", "full")], ("other",))
    assert found.accused == ["other"]
    told = parents.markdown([found])
    assert "| disguise, then none | 0/1 | 1/1 | 0/1 | 1 | 1.0 |" in told
    assert "- f/everything: other -> everything finetune full (0.9); accused: other" in told


def test_a_run_that_failed_is_no_answer() -> None:
    (child,) = parents.children_of(TRUTH, ["everything"])
    parents.judge(child, TRUTH, {"failed": "why"}, lambda name: name)
    assert not child.parent
    assert "- f/everything: why" in parents.markdown([child])
