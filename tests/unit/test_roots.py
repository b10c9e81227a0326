"""The parts of families that are asked for their roots, and how what is said is counted."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "quality"))

from roots import calibration, cut, line, parts, record
from scores import Answer, Said
from truth import Model, Truth

FULL, ON = (("finetune", "full"),), (("finetune", "continued"), ("finetune", "full"))
TRUTH = Truth(
    [
        Model("early"),
        Model("middle", ("early",), ON),
        Model("late", ("middle",), ON),
        Model("one", ("late",), FULL),
        Model("two", ("late",), FULL),
        Model("secret", ("late",), FULL, is_hidden=True),
        Model("of secret", ("secret",), FULL),
        Model("also of secret", ("secret",), FULL),
        Model("small", ("late",), (("quantized", "int8"),)),
    ]
)


def answer(*edges: tuple[str, str, float]) -> Answer:
    return Answer(tuple(Said(p, c, "finetune", "full", None, chance) for p, c, chance in edges))


def test_parts_have_a_root_but_siblings() -> None:
    found = list(parts(TRUTH, random.Random(0)))
    by_kind = {kind: [members for k, members in found if k == kind] for kind, _ in found}
    assert sorted(by_kind["pair"]) == [
        ("early", "middle"), ("late", "one"), ("late", "two"), ("middle", "late"),
    ]  # fmt: skip
    assert ("early", "middle", "late") in by_kind["chain"]
    assert by_kind["fork"] == [("late", "one", "two")]
    assert by_kind["run"] == [("early", "middle", "late")]
    ((*run, one, two),) = by_kind["run and more"]
    assert (run, {one, two}) == (["early", "middle", "late"], {"one", "two"})
    assert ("also of secret", "of secret") in by_kind["siblings"]
    assert "small" not in {name for _, members in found for name in members}


def test_a_part_hangs_on_the_nearest_at_hand() -> None:
    truth = cut(TRUTH, ["early", "late", "of secret"])
    assert truth.models["early"].parents == ()
    assert truth.models["late"].parents == ("early",)
    assert truth.models["of secret"].parents == ("late",)


def test_the_root_said_is_held_against_the_part() -> None:
    members = ("early", "middle", "late")
    right = answer(("early", "middle", 0.9), ("early", "late", 0.6))
    told = record(TRUTH, "run", members, right)
    assert (told["said"], told["right"], told["probability"]) == ("early", True, 0.6)
    wrong = record(TRUTH, "run", members, answer(("late", "early", 0.7), ("late", "middle", 0.8)))
    assert (wrong["said"], wrong["right"]) == ("late", False)
    open_ = record(TRUTH, "run", members, answer())
    assert (open_["said"], open_["right"], open_["probability"]) == (None, False, None)
    apart = record(TRUTH, "siblings", ("one", "two"), answer(("one", "two", 0.5)))
    assert apart["said"]


def test_figures_by_hand() -> None:
    told = [
        {"said": "a", "right": True, "probability": 0.95},
        {"said": "a", "right": False, "probability": 0.75},
        {"said": None, "right": False, "probability": None},
    ]
    assert calibration(told) == pytest.approx((0.05 + 0.75) / 2)
    row = line("all", told)
    assert row.startswith("| all | 0.333 (")
    assert "0.667 (" in row
    assert "0.500 (" in row
    assert row.endswith(" 0.400 |")
