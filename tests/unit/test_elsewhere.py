"""`compare` of two models that have nothing in common as they are stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_alignment import WIDTH, Model, everything, llama, tuned, units_moved
from test_alignment_places import UNITS, Array, mixture, single, with_experts_moved

import lineage
from lineage import fingerprint
from lineage.cli import run
from lineage.relation import Relation

BASE = llama()
HIDDEN = everything(tuned(BASE, 0.06, 1), 5)


def saved(path: Path, model: Model) -> str:
    save_file({name: np.ascontiguousarray(values) for name, values in model.items()}, path)
    return str(path)


def test_what_was_disguised_is_told_and_what_is_left() -> None:
    found = lineage.compare(BASE, HIDDEN)
    assert found.related and found.relation is Relation.REPARAMETRIZED
    assert found.change is not None and 0.03 < found.change < 0.12
    assert found.log10_p is not None and found.log10_p < -20
    assert "in other coordinates" in found.evidence[0].told("a", "b")


def test_strangers_stay_what_they_were() -> None:
    found = lineage.compare(BASE, everything(llama(1), 6))
    assert found.related is False and found.relation is None
    assert found.evidence[0].detector != "aligned-v1"


def test_units_that_were_moved_are_seen_where_the_rest_is_as_it_was() -> None:
    moved = units_moved(tuned(BASE, 0.06, 1), 7)
    assert lineage.compare(fingerprint(BASE), fingerprint(moved)).related is not True
    found = lineage.compare(BASE, moved)
    assert found.related and found.relation is Relation.REPARAMETRIZED and found.how == "permuted"


def test_units_of_experts_that_were_moved_are_no_strangers_parts() -> None:
    """What was not moved, attention, is less than half and looks like a copied part."""
    base = mixture(1, is_stacked=False)
    draw, moved = np.random.default_rng(2), dict(base)
    for name in base:
        if name.endswith("gate_proj.weight"):
            order, stem = draw.permutation(UNITS), name.removesuffix("gate_proj.weight")
            for one in ("gate", "up"):
                moved[f"{stem}{one}_proj.weight"] = moved[f"{stem}{one}_proj.weight"][order]
            moved[f"{stem}down_proj.weight"] = moved[f"{stem}down_proj.weight"][:, order]
    found = lineage.compare(single(base), single(moved))
    assert found.related and found.relation is Relation.REPARAMETRIZED and found.how == "permuted"
    other = mixture(5, is_stacked=False)
    copied = {n: base[n] if "self_attn" in n else values for n, values in other.items()}
    assert not lineage.compare(single(base), single(copied)).related


@pytest.mark.parametrize(("count", "related"), [(1, True), (4, None)])
def test_what_cannot_be_undone_denies_nothing(count: int, *, related: bool | None) -> None:
    """All blocks are the other's, and there are tensors of unknown use that are not."""

    def unknown(seed: int) -> dict[str, Array]:
        draw = np.random.default_rng(seed)
        return {f"tower.{n}.weight": draw.normal(0, 1, (200, 300)) for n in range(count)}

    base = mixture(1, is_stacked=False)
    moved = with_experts_moved(base, 3)
    found = lineage.compare(single(base | unknown(1)), single(moved | unknown(2)))
    assert found.related is related


def test_two_trainings_of_one_start_stay_what_they_are() -> None:
    found = lineage.compare(tuned(BASE, 1.2, 1), tuned(BASE, 1.2, 2))
    assert found.related is not True


def test_fingerprints_alone_say_what_they_said_before() -> None:
    found = lineage.compare(fingerprint(BASE), fingerprint(HIDDEN))
    assert found.related is False


def test_relatives_in_one_set_of_coordinates_are_not_looked_for_elsewhere() -> None:
    found = lineage.compare(BASE, tuned(BASE, 0.06, 1))
    assert found.relation is Relation.FINETUNE


@pytest.mark.parametrize("is_hidden", [True, False])
def test_the_command_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, is_hidden: bool
) -> None:
    a = saved(tmp_path / "a.safetensors", BASE)
    b = saved(tmp_path / "b.safetensors", HIDDEN if is_hidden else llama(1))
    status = run(["compare", a, b])
    told = capsys.readouterr().out
    assert status == (0 if is_hidden else 1)
    assert ("reparametrized" in told) is is_hidden


def shuffled(seed: int) -> Model:
    """Return a network of which names and shapes do not tell what feeds what."""
    draw = np.random.default_rng(seed)
    shapes = {"one": (24, 3, 3, 3), "two": (30, 12, 3, 3), "three": (20, 7, 3, 3)}
    return {f"{name}.weight": draw.normal(0, 1, s).astype("f4") for name, s in shapes.items()}


def test_convolutions_that_were_not_looked_at_are_not_denied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = lineage.compare(shuffled(1), shuffled(2))
    assert found.related is None and found.relation is None
    words = found.evidence[0].told("one", "two")
    assert "do not tell what feeds" in words and "the two were not compared" in words
    one, other = (
        {
            f"{name}.weight": np.random.default_rng(seed).normal(0, 1, shape).astype("f4")
            for name, shape in {
                "a": (24, 3, 3, 3),
                "b": (30, 24, 3, 3),
                "c": (20, 30, 3, 3),
            }.items()
        }
        for seed in (1, 2)
    )
    assert lineage.compare(one, other).related is False
    monkeypatch.setattr("lineage.graph.unlooked.MOST_OF_A_CHAIN", 0)
    monkeypatch.setattr("lineage.graph.rewriting.MOST_OF_A_CHAIN", 0)
    found = lineage.compare(one, other)
    assert found.related is None and "lineage align" in found.evidence[0].words


def narrowed(model: Model, width: int, seed: int) -> Model:
    """Leave numbers out of every vector of the stream."""
    whole = model["model.norm.weight"].shape[0]
    kept = np.sort(np.random.default_rng(seed).choice(whole, width, replace=False))
    made = {}
    for name, values in model.items():
        if values.ndim == 1:
            made[name] = values if name.endswith("bias") else values[kept]
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            made[name] = values[kept]
        else:
            made[name] = values[:, kept]
    return made


@pytest.mark.parametrize("size", [0, 0.06])
def test_a_stream_with_fewer_numbers_is_a_pruned_width(size: float) -> None:
    child = narrowed(tuned(BASE, size, 1) if size else BASE, WIDTH * 3 // 4, 2)
    found, back = lineage.compare(BASE, child), lineage.compare(child, BASE)
    assert (found.related, found.relation, found.how) == (True, Relation.PRUNED, "width")
    assert (found.direction, back.direction) == ("a->b", "b->a")
    assert "with fewer numbers" in found.evidence[0].told("a", "b")


def test_a_stranger_with_a_narrower_stream_is_none() -> None:
    assert not lineage.compare(BASE, narrowed(llama(1), WIDTH * 3 // 4, 2)).related
