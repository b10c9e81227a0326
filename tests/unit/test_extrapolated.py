"""Models beyond two others: which of three on a line was made of the other two."""

from __future__ import annotations

import numpy as np
import pytest
from test_evidence import tuned
from test_merging import FAMILY, added, linear

from lineage import infer

MODELS = {name: FAMILY[name] for name in ("base", "a", "b", "c")}
COMMON = tuned(MODELS["base"], 31, 0.05)
"""What all trainings of a family do alike."""


def leaning(name: str) -> dict[str, np.ndarray]:
    """A model with a part of its step in common with the others'."""
    model, base = MODELS[name], MODELS["base"]
    return {key: model[key] + COMMON[key] - base[key] for key in model}


ALIKE = {"base": MODELS["base"], **{name: leaning(name) for name in ("a", "b", "c")}}


Found = dict[str, dict[str, tuple[str | None, float]]]


def made(models: dict[str, dict[str, np.ndarray]]) -> Found:
    """Return child -> parent -> how and share, of all merges."""
    found: Found = {}
    for edge in infer(models).edges:
        if edge.relation == "merge" and edge.coefficient is not None:
            found.setdefault(edge.child, {})[edge.parent] = edge.how, round(edge.coefficient, 2)
    return found


@pytest.mark.parametrize("beyond", [0.3, 0.5, 0.8])
def test_an_extrapolation_comes_from_the_two_that_it_goes_beyond(beyond: float) -> None:
    models = MODELS | {"x": added([1 + beyond], MODELS["base"], MODELS["a"])}
    how = "task_arithmetic"
    expected = {"x": {"base": (how, -beyond), "a": (how, 1 + beyond)}}
    assert made(models) == expected
    assert made({name: models[name] for name in ("base", "a", "x")}) == expected


@pytest.mark.parametrize("away", [0.5, 1.0])
def test_a_negation_comes_from_the_start_and_what_it_goes_away_from(away: float) -> None:
    models = ALIKE | {"x": added([-away], ALIKE["base"], ALIKE["a"])}
    how = "task_arithmetic"
    assert made(models) == {"x": {"base": (how, 1 + away), "a": (how, -away)}}


@pytest.mark.parametrize("share", [0.2, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("ends", [("base", "a"), ("a", "b")])
def test_a_mean_of_two_is_no_extrapolation(share: float, ends: tuple[str, str]) -> None:
    models = ALIKE | {"x": linear([1 - share, share], *(ALIKE[end] for end in ends))}
    first, second = ends
    expected = {first: ("linear", round(1 - share, 2)), second: ("linear", share)}
    assert made(models) == {"x": expected}
    del models["c"]
    assert made(models) == {"x": expected}


def test_two_thirds_of_siblings_are_a_mean() -> None:
    models = ALIKE | {"x": linear([2 / 3, 1 / 3], ALIKE["a"], ALIKE["b"])}
    assert set(made(models)) == {"x"}
    assert set(made({name: models[name] for name in ("a", "b", "x")})) == {"x"}
