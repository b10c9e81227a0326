"""The demonstration's network really learns, and its family is what its truth says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lineage.demo import family
from lineage.demo.network import (
    ALPHABET,
    Schedule,
    Shape,
    encode,
    initial,
    loss_and_gradients,
    loss_on,
    projections,
    train,
    train_low_rank,
)

SMALL = Shape(width=16, layers=2, heads=2, hidden=24, context=12)


def test_every_gradient_agrees_with_numerical_differences() -> None:
    rng = np.random.default_rng(1)
    weights = {n: w.astype(np.float64) for n, w in initial(SMALL, rng).items()}
    tokens = rng.integers(0, len(ALPHABET), (3, SMALL.context + 1))
    _, gradients = loss_and_gradients(weights, tokens, SMALL)
    assert gradients.keys() == weights.keys()
    for name, value in weights.items():
        direction = rng.normal(size=value.shape)
        up, down = (
            loss_and_gradients({**weights, name: value + e * direction}, tokens, SMALL)[0]
            for e in (1e-5, -1e-5)
        )
        expected = float((gradients[name] * direction).sum())
        assert (up - down) / 2e-5 == pytest.approx(expected, rel=1e-5, abs=1e-9), name


def test_attention_never_looks_ahead() -> None:
    rng = np.random.default_rng(2)
    weights = {n: w.astype(np.float64) for n, w in initial(SMALL, rng).items()}

    def log_probability(tokens: list[int]) -> float:
        mean, _ = loss_and_gradients(weights, np.array([tokens]), SMALL)
        return -mean * (len(tokens) - 1)

    # A prefix is as probable as all its continuations together; were a position to see the next
    # input, appending a character would change what is said of the prefix.
    prefix = [5, 17, 60, 2, 33]
    whole = log_probability(prefix)
    parts = [log_probability([*prefix, token]) for token in range(len(ALPHABET))]
    assert np.log(np.exp(parts).sum()) == pytest.approx(whole, abs=1e-9)


def test_the_loss_falls_well_below_that_of_letter_frequencies() -> None:
    text = encode("the quick brown fox jumps over the lazy dog; " * 40)
    rng = np.random.default_rng(3)
    start = initial(SMALL, rng)
    trained, losses = train(start, text, SMALL, Schedule(steps=120, rate=1e-2), rng)
    counts = np.bincount(text)
    frequencies = counts[counts > 0] / len(text)
    entropy: float = float(-(frequencies * np.log(frequencies)).sum())
    assert losses[0] > entropy
    assert loss_on(trained, text, SMALL) < 0.5 * entropy
    assert len(losses) == 120
    assert all(w.dtype == np.float32 for w in trained.values())


def test_training_leaves_its_start_alone_and_repeats_itself() -> None:
    text = encode("abcdefgh" * 20)
    start = initial(SMALL, np.random.default_rng(4))
    kept = {n: w.copy() for n, w in start.items()}
    one, two = (
        train(start, text, SMALL, Schedule(steps=3, rate=1e-2), np.random.default_rng(5))[0]
        for _ in range(2)
    )
    for name in start:
        np.testing.assert_array_equal(start[name], kept[name])
        np.testing.assert_array_equal(one[name], two[name])
        assert not np.array_equal(one[name], start[name])


def test_weight_decay_shrinks_matrices_only() -> None:
    text = encode("abcdefgh" * 20)
    start = initial(SMALL, np.random.default_rng(6))
    schedule = Schedule(steps=5, rate=1e-3)
    plain, decayed = (
        train(start, text, SMALL, replace(schedule, decay=d), np.random.default_rng(7))[0]
        for d in (0.0, 50.0)
    )
    name = "model.layers.0.mlp.up_proj.weight"
    assert np.linalg.norm(decayed[name]) < 0.95 * np.linalg.norm(plain[name])
    assert decayed["model.norm.weight"].mean() == pytest.approx(1, abs=0.02)


def test_a_merged_adapter_has_its_rank_and_touches_projections_only() -> None:
    text = encode("pack my box with five dozen liquor jugs. " * 20)
    rng = np.random.default_rng(8)
    start = initial(SMALL, rng)
    before = loss_on(start, text, SMALL)
    merged, _ = train_low_rank(start, text, SMALL, Schedule(steps=40, rate=1e-2), rng, rank=4)
    names = {name for name, _ in projections(SMALL)}
    for name, value in start.items():
        delta = merged[name] - value
        if name in names:
            singular = np.linalg.svd(delta.astype(np.float64), compute_uv=False)
            assert singular[3] > 1e-3 * singular[0] > 1e3 * singular[4], name
        else:
            assert not delta.any(), name
    assert loss_on(merged, text, SMALL) < before - 0.3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, family.Truth]:
    out = tmp_path_factory.mktemp("family")
    return out, family.make_family(out, seed=3, recipe=family.MINIATURE)


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model.safetensors")


def test_every_model_is_a_folder_and_the_truth_lies_outside(
    made: tuple[Path, family.Truth],
) -> None:
    out, truth = made
    assert sorted(p.name for p in out.iterdir()) == sorted([*truth.members, "truth.json"])
    assert len(truth.members) == 11
    assert json.loads((out / "truth.json").read_text())["models"].keys() == truth.members.keys()
    for name, member in truth.members.items():
        card = out / name / "README.md"
        assert card.exists() == (name != "base-mirror")
        named = [p for p in truth.members if card.exists() and f" {p}\n" in card.read_text()]
        assert sorted(set(named) - {name}) == sorted(member.declared)


def test_fine_tunes_learn_and_change_as_much_as_real_ones(
    made: tuple[Path, family.Truth],
) -> None:
    out, truth = made
    trained = {n: m for n, m in truth.members.items() if m.losses}
    assert len(trained) == 8
    for name, member in trained.items():
        assert member.losses is not None
        assert member.losses[1] < member.losses[0] - 0.1, name
        if member.parents:
            assert member.change == pytest.approx(
                family.relative_change(
                    weights_of(out / name), weights_of(out / member.parents[0].name)
                )
            )
            assert 0.08 < (member.change or 0) < 0.5, name


def test_the_blend_and_the_mirror_are_what_the_truth_says(
    made: tuple[Path, family.Truth],
) -> None:
    out, truth = made
    parents = [(weights_of(out / p.name), p.coefficient) for p in truth.members["blend"].parents]
    for name, value in weights_of(out / "blend").items():
        mixed = sum(w[name].astype(np.float64) * (c or 0) for w, c in parents)
        np.testing.assert_allclose(value, mixed, rtol=1e-6, atol=1e-7)

    index = json.loads((out / "base-mirror" / "model.safetensors.index.json").read_text())
    shards = {f: load_file(out / "base-mirror" / f) for f in set(index["weight_map"].values())}
    assert len(shards) == 3
    together = {name: shards[file][name] for name, file in index["weight_map"].items()}
    assert sum(map(len, shards.values())) == len(together)
    assert index["metadata"]["total_size"] == sum(w.nbytes for w in together.values())
    base = weights_of(out / "base")
    renamed = {"transformer." + name.removeprefix("model."): w for name, w in base.items()}
    assert together.keys() == renamed.keys()
    for name, value in renamed.items():
        np.testing.assert_array_equal(together[name], value)


def test_int8_rows_lie_on_a_lattice_of_their_own(made: tuple[Path, family.Truth]) -> None:
    out, _ = made
    original = weights_of(out / "base-sft-docs")
    rounded = weights_of(out / "base-sft-docs-int8")
    quantized = {name for name, _ in projections(family.MINIATURE.shape)}
    for name, value in rounded.items():
        if name not in quantized:
            np.testing.assert_array_equal(value, original[name])
            continue
        step = np.abs(value).max(axis=1, keepdims=True) / 127
        codes = value / step
        np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
        assert np.all(np.abs(value - original[name]) <= 0.5001 * step)
        assert all(len(np.unique(row)) <= 255 for row in value)


def test_zero_rows_survive_rounding() -> None:
    weights = initial(SMALL, np.random.default_rng(9))
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name][3] = 0
    rounded = family.round_to_int8(weights, replace(family.MINIATURE, shape=SMALL))
    assert not rounded[name][3].any()
    assert rounded[name].dtype == np.float32


def test_true_edges_name_models_of_the_family(made: tuple[Path, family.Truth]) -> None:
    _, truth = made
    edges = truth.edges()
    assert len(edges) == 9
    assert {"stranger", "false-heir"}.isdisjoint({name for edge in edges for name in edge})
    assert ("base-sft-docs", "false-origin") in edges
    assert truth.members["false-origin"].declared == ("stranger",)
