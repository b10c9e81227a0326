"""Models beyond two others: which of three on a line was made of the other two."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from test_evidence import Model, cast, tuned
from test_merging import FAMILY, added, linear

from lineage import infer
from lineage.evidence.computed import is_computed
from lineage.fingerprints.lattice import ROUNDING

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


# What rounding left tells which of three was made, where it shows


STORED = {name: cast(model, ml_dtypes.bfloat16) for name, model in MODELS.items()}


def sure(models: dict[str, Model], *, deep: bool = False) -> dict[tuple[str, str], float]:
    """Return (parent, child) -> probability, of all merges."""
    edges = infer(models, deep=deep).edges
    return {(e.parent, e.child): e.probability for e in edges if e.relation == "merge"}


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("beyond", [0.25, 1.0])
def test_in_half_precision_the_extrapolation_is_told_from_the_mean(
    dtype: type, beyond: float
) -> None:
    stored = {name: cast(model, dtype) for name, model in MODELS.items()}
    models = stored | {"x": cast(added([1 + beyond], stored["base"], stored["a"]), dtype)}
    assert sure(models) == {("base", "x"): 0.99, ("a", "x"): 0.99}
    share = 1 / (1 + beyond)
    models["x"] = cast(linear([1 - share, share], stored["base"], stored["a"]), dtype)
    assert sure(models) == {("base", "x"): 0.99, ("a", "x"): 0.99}


@pytest.mark.parametrize("away", [0.25, 0.3])
def test_in_half_precision_so_is_a_light_negation(away: float) -> None:
    dtype = ml_dtypes.bfloat16
    models = STORED | {"x": cast(added([-away], STORED["base"], STORED["a"]), dtype)}
    assert sure(models) == {("base", "x"): 0.99, ("a", "x"): 0.99}


@pytest.mark.parametrize("beyond", [0.25, 1.0])
def test_where_rounding_does_not_show_no_reading_is_sure(beyond: float) -> None:
    models = MODELS | {"x": added([1 + beyond], MODELS["base"], MODELS["a"])}
    found = sure(models)
    assert len(found) == 2 and set(found.values()) == {0.6}


@pytest.mark.parametrize("beyond", [0.25, 1.0])
def test_the_weights_tell_which_of_three_was_computed(beyond: float) -> None:
    models = MODELS | {"x": added([1 + beyond], MODELS["base"], MODELS["a"])}
    assert sure(models, deep=True) == {("base", "x"): 0.99, ("a", "x"): 0.99}
    share = 1 / (1 + beyond)
    models["x"] = linear([1 - share, share], MODELS["base"], MODELS["a"])
    assert sure(models, deep=True) == {("base", "x"): 0.99, ("a", "x"): 0.99}


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("share", [0.25, 0.8, -0.5, 1 / 3])
def test_only_what_was_computed_is_the_sum_to_the_bit(dtype: str, share: float) -> None:
    stored = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}[dtype]

    def kept(values: np.ndarray) -> np.ndarray:
        return values.astype(stored).astype(np.float32)

    rng = np.random.default_rng(0)
    one = kept(rng.normal(0, 0.02, 4000))
    other = kept(one + rng.normal(0, 0.002, 4000))
    rounding = ROUNDING[dtype]
    for made in (
        kept(np.float32(share) * one + np.float32(1 - share) * other),
        kept(other + np.float32(share) * (one - other)),
    ):
        assert is_computed(made, [one, other], [share + 1e-5, 1 - share - 1e-5], rounding)
        assert is_computed(made, [other, one], [1 - share, share], rounding)
        back = [(1 / share), 1 - 1 / share]
        if abs(back[0]) >= 1.25:  # else what lies between is its neighbours' sum as well
            assert not is_computed(one, [made, other], back, rounding)
    moved = kept(made + rng.normal(0, 1e-4, 4000))
    assert not is_computed(moved, [one, other], [share, 1 - share], rounding)
    assert not is_computed(made[:100], [one[:100], other[:100]], [share, 1 - share], rounding)
    assert not is_computed(made, [one, other], [share, 1 - share], 2.0**-4)


def test_nothing_hangs_under_a_merge_that_it_is_further_from_than_from_its_parents() -> None:
    """A light negation is next to its start, and trainings of that are not its own."""
    for away in (0.1, 0.25):
        models = ALIKE | {"x": added([-away], ALIKE["base"], ALIKE["a"])}
        for edge in infer(models).edges:
            assert edge.parent != "x"
