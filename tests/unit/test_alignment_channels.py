"""Networks without a stream in other coordinates: found, undone, and strangers left alone."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lineage import infer
from lineage.alignment import (
    Chain,
    ChainAlignment,
    align,
    aligned,
    channels,
    described,
    solve,
)
from lineage.alignment.certificate import check, from_bytes, to_bytes
from lineage.alignment.normed import undone
from lineage.artifacts import read
from lineage.cli import run
from lineage.errors import ArchitectureError, FormatError
from lineage.evidence.weights import Weights as Stored
from lineage.fingerprints import fingerprint
from lineage.graph import infer_graph, rewriting

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Weights = dict[str, NDArray[Any]]
    Make = Callable[[int], Weights]
    Move = Callable[[Weights, np.random.Generator], Weights]

SCHEMA = json.loads((files("lineage") / "spec" / "commands-v1.schema.json").read_text())

EPSILON = 1e-5


def _norm(rng: np.random.Generator, name: str, size: int) -> Weights:
    return {
        f"{name}.weight": rng.uniform(0.5, 1.5, size).astype("f4"),
        f"{name}.bias": rng.normal(0, 0.3, size).astype("f4"),
        f"{name}.running_mean": rng.normal(0, 0.3, size).astype("f4"),
        f"{name}.running_var": rng.uniform(0.5, 2, size).astype("f4"),
    }


def residual(seed: int) -> Weights:
    """Return a residual network: a stem, a block without and one with a shortcut, a classifier."""
    rng = np.random.default_rng(seed)
    found: Weights = {}

    def layer(name: str, norm: str, out: int, into: int, size: int = 3) -> None:
        found[f"{name}.weight"] = rng.normal(0, 1, (out, into, size, size)).astype("f4")
        found.update(_norm(rng, norm, out))

    layer("conv1", "bn1", 24, 3)
    layer("layer1.0.conv1", "layer1.0.bn1", 20, 24)
    layer("layer1.0.conv2", "layer1.0.bn2", 24, 20)
    layer("layer2.0.conv1", "layer2.0.bn1", 32, 24)
    layer("layer2.0.conv2", "layer2.0.bn2", 32, 32)
    layer("layer2.0.downsample.0", "layer2.0.downsample.1", 32, 24, 1)
    found["fc.weight"] = rng.normal(0, 1, (10, 32)).astype("f4")
    found["fc.bias"] = rng.normal(0, 1, 10).astype("f4")
    return found


def plain(seed: int) -> Weights:
    """Return convolutions one after another, flattened for a classifier, without norms."""
    rng = np.random.default_rng(seed)
    found: Weights = {}
    for name, shape in {
        "features.0": (32, 1, 5, 5),
        "features.3": (32, 32, 3, 3),
        "features.6": (24, 32, 3, 3),
        "classifier": (12, 24 * 4),
    }.items():
        found[f"{name}.weight"] = rng.normal(0, 1, shape).astype("f4")
        found[f"{name}.bias"] = rng.normal(0, 1, shape[0]).astype("f4")
    return found


def dense(seed: int) -> Weights:
    """Return a classifier of nothing but linear layers."""
    rng = np.random.default_rng(seed)
    found: Weights = {}
    for number, shape in enumerate([(48, 60), (48, 48), (40, 48), (10, 40)]):
        found[f"{2 * number}.weight"] = rng.normal(0, 1, shape).astype("f4")
        found[f"{2 * number}.bias"] = rng.normal(0, 1, shape[0]).astype("f4")
    return found


def recurrent(seed: int) -> Weights:
    """Return a language model of two LSTM layers."""
    rng = np.random.default_rng(seed)
    found: Weights = {"embedding.weight": rng.normal(0, 1, (64, 24)).astype("f4")}
    for number, into in enumerate((24, 40)):
        for kind, width in (("ih", into), ("hh", 40)):
            found[f"lstm.weight_{kind}_l{number}"] = rng.normal(0, 1, (160, width)).astype("f4")
            found[f"lstm.bias_{kind}_l{number}"] = rng.normal(0, 1, 160).astype("f4")
    found["decoder.weight"] = rng.normal(0, 1, (64, 40)).astype("f4")
    found["decoder.bias"] = rng.normal(0, 1, 64).astype("f4")
    return found


def _rows(weights: Weights, names: tuple[str, ...], order: NDArray[np.intp]) -> None:
    for name in names:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            if f"{name}.{leaf}" in weights:
                weights[f"{name}.{leaf}"] = weights[f"{name}.{leaf}"][order]


def _columns(weights: Weights, names: tuple[str, ...], order: NDArray[np.intp]) -> None:
    for name in names:
        weights[f"{name}.weight"] = weights[f"{name}.weight"][:, order]


def moved_residual(weights: Weights, rng: np.random.Generator) -> Weights:
    """Permute every group of channels of `residual`, the added ones together."""
    found = dict(weights)
    stage, inner, hidden, last = (rng.permutation(n) for n in (24, 20, 32, 32))
    _rows(found, ("conv1", "bn1", "layer1.0.conv2", "layer1.0.bn2"), stage)
    _columns(found, ("layer1.0.conv1", "layer2.0.conv1", "layer2.0.downsample.0"), stage)
    _rows(found, ("layer1.0.conv1", "layer1.0.bn1"), inner)
    _columns(found, ("layer1.0.conv2",), inner)
    _rows(found, ("layer2.0.conv1", "layer2.0.bn1"), hidden)
    _columns(found, ("layer2.0.conv2",), hidden)
    both = ("layer2.0.conv2", "layer2.0.bn2", "layer2.0.downsample.0", "layer2.0.downsample.1")
    _rows(found, both, last)
    _columns(found, ("fc",), last)
    return found


def rescaled_residual(weights: Weights, rng: np.random.Generator) -> Weights:
    """Permute, multiply what norms write and divide where it is read, and what norms read."""
    found = moved_residual(weights, rng)
    by = np.exp(rng.normal(0, 1, 20)).astype("f4")
    found["layer1.0.bn1.weight"] = found["layer1.0.bn1.weight"] * by
    found["layer1.0.bn1.bias"] = found["layer1.0.bn1.bias"] * by
    found["layer1.0.conv2.weight"] = found["layer1.0.conv2.weight"] / by[:, None, None]
    before = np.exp(rng.normal(0, 0.5, 32)).astype("f4")
    found["layer2.0.conv1.weight"] = found["layer2.0.conv1.weight"] * before[:, None, None, None]
    found["layer2.0.bn1.running_mean"] = found["layer2.0.bn1.running_mean"] * before
    var = (found["layer2.0.bn1.running_var"] + EPSILON) * before**2 - EPSILON
    found["layer2.0.bn1.running_var"] = var
    return found


def layers_and_norms(weights: Weights) -> list[tuple[str, str]]:
    """Return the convolutions of `residual` that a norm follows, each with that norm."""
    norms = [n.removesuffix(".running_var") for n in weights if n.endswith("running_var")]
    return [(n.replace("bn", "conv").replace("downsample.1", "downsample.0"), n) for n in norms]


def before_norms(weights: Weights, rng: np.random.Generator, epsilon: float = EPSILON) -> Weights:
    """Multiply what norms read by factors of either sign, which the norms are told of."""
    found = dict(weights)
    for layer, norm in layers_and_norms(weights):
        by = np.exp(rng.normal(0, 0.5, len(found[f"{layer}.weight"])))
        by *= rng.choice([-1.0, 1.0], len(by))
        changed = {
            f"{layer}.weight": found[f"{layer}.weight"] * by[:, None, None, None],
            f"{norm}.running_mean": found[f"{norm}.running_mean"] * by,
            f"{norm}.running_var": (found[f"{norm}.running_var"] + epsilon) * by**2 - epsilon,
            f"{norm}.weight": found[f"{norm}.weight"] * np.sign(by),
        }
        found |= {name: w.astype("f4") for name, w in changed.items()}
    return found


def signed_residual(weights: Weights, rng: np.random.Generator) -> Weights:
    """Permute, rescale what norms write and read, the latter by factors of either sign."""
    return before_norms(rescaled_residual(weights, rng), rng)


def folded_residual(weights: Weights, rng: np.random.Generator) -> Weights:
    """Permute and fold all norms into the convolutions."""
    return folded(moved_residual(weights, rng))


def folded(weights: Weights) -> Weights:
    """Fold all norms into the convolutions."""
    found = dict(weights)
    for layer, norm in layers_and_norms(found):
        gain = found.pop(f"{norm}.weight") / np.sqrt(found.pop(f"{norm}.running_var") + EPSILON)
        found[f"{layer}.weight"] = found[f"{layer}.weight"] * gain[:, None, None, None]
        found[f"{layer}.bias"] = found.pop(f"{norm}.bias") - gain * found.pop(
            f"{norm}.running_mean"
        )
    return found


def moved_plain(weights: Weights, rng: np.random.Generator) -> Weights:
    """Permute and rescale the channels of `plain`; the last are flattened first."""
    found = dict(weights)
    readers = {"features.0": "features.3", "features.3": "features.6", "features.6": "classifier"}
    for name, reader in readers.items():
        size = len(found[f"{name}.weight"])
        order, by = rng.permutation(size), np.exp(rng.normal(0, 1, size)).astype("f4")
        _rows(found, (name,), order)
        found[f"{name}.weight"] = found[f"{name}.weight"] * by[:, None, None, None]
        found[f"{name}.bias"] = found[f"{name}.bias"] * by
        matrix = found[f"{reader}.weight"]
        blocks = matrix.reshape(len(matrix), size, -1)[:, order] / by[:, None]
        found[f"{reader}.weight"] = blocks.reshape(matrix.shape)
    return found


def moved_dense(weights: Weights, rng: np.random.Generator) -> Weights:
    """Permute and rescale the units of `dense`, as ReLU allows."""
    found = dict(weights)
    for name, reader in (("0", "2"), ("2", "4"), ("4", "6")):
        size = len(found[f"{name}.weight"])
        order, by = rng.permutation(size), np.exp(rng.normal(0, 1, size)).astype("f4")
        for leaf in ("weight", "bias"):
            values = found[f"{name}.{leaf}"][order]
            found[f"{name}.{leaf}"] = values * (by[:, None] if leaf == "weight" else by)
        found[f"{reader}.weight"] = found[f"{reader}.weight"][:, order] / by
    return found


def moved_recurrent(weights: Weights, rng: np.random.Generator) -> Weights:
    """Permute the units of `recurrent`, its embedding's coordinates and its gates."""
    found = dict(weights)
    word, *units = rng.permutation(24), rng.permutation(40), rng.permutation(40)
    found["embedding.weight"] = found["embedding.weight"][:, word]
    read = [word, units[0]]
    for number, order in enumerate(units):
        for name in [name for name in found if name.endswith(f"_l{number}")]:
            values = found[name].reshape(4, 40, -1)[[2, 0, 3, 1]][:, order]
            if "weight" in name:
                values = values[:, :, read[number] if "ih" in name else order]
            found[name] = values.reshape(found[name].shape)
    found["decoder.weight"] = found["decoder.weight"][:, units[1]]
    return found


DISGUISES = [
    pytest.param(residual, moved_residual, {"permuted"}, id="channels"),
    pytest.param(residual, rescaled_residual, {"permuted", "rescaled"}, id="scales"),
    pytest.param(residual, signed_residual, {"permuted", "rescaled"}, id="signs"),
    pytest.param(residual, before_norms, {"rescaled"}, id="signs-alone"),
    pytest.param(residual, folded_residual, {"permuted", "rescaled"}, id="folding"),
    pytest.param(plain, moved_plain, {"permuted", "rescaled"}, id="flattened"),
    pytest.param(dense, moved_dense, {"permuted", "rescaled"}, id="linear"),
    pytest.param(recurrent, moved_recurrent, {"permuted"}, id="units-and-gates"),
]


def written(a: Weights, b: Weights, found: ChainAlignment) -> Weights:
    """Return b in a's coordinates as arrays."""
    one, other = (described(read(w).items, name="w") for w in (a, b))
    moved = aligned(one, other, found)
    arrays = {}
    for item in moved.items:
        raw = item.source.piece(0, item.size_bytes, memoryview(bytearray(item.size_bytes)))
        arrays[item.name] = np.frombuffer(bytes(raw), "<f4").reshape(item.shape)
    return arrays


def noisy(weights: Weights, share: float, seed: int = 99) -> Weights:
    """Return weights as if trained on: changed by a share of their norm."""
    rng = np.random.default_rng(seed)
    return {
        name: (w + share * w.std() * rng.normal(size=w.shape) * (w.ndim > 1)).astype("f4")
        for name, w in weights.items()
    }


@pytest.mark.parametrize(("make", "move", "how"), DISGUISES)
def test_a_disguise_is_undone_to_rounding(make: Make, move: Move, how: set[str]) -> None:
    a = make(1)
    b = move(a, np.random.default_rng(2))
    found = align(a, b)
    assert found.related
    assert found.share == 1
    assert set(found.how) == how
    assert isinstance(found, ChainAlignment)
    back = written(a, b, found)
    assert set(back) == set(a)
    for name, weights in a.items():
        assert np.linalg.norm(back[name] - weights) <= 1e-5 * np.linalg.norm(weights), name


@pytest.mark.parametrize(("make", "move", "how"), DISGUISES)
def test_a_disguise_is_found_after_training_on(make: Make, move: Move, how: set[str]) -> None:
    a = make(1)
    b = move(noisy(a, 0.2), np.random.default_rng(3))
    found = align(a, b)
    assert found.related
    assert found.share == 1
    assert set(found.how) == how
    back = written(a, b, found)  # type: ignore[arg-type]
    for name, weights in a.items():
        assert np.linalg.norm(back[name] - weights) <= 0.3 * np.linalg.norm(weights), name


@pytest.mark.parametrize("make", [residual, plain, dense, recurrent])
def test_strangers_are_not_related(make: Make) -> None:
    for seed in range(10, 18):
        found = align(make(1), make(seed))
        assert not found.related
        assert found.share == 0
        assert found.agreement.log10_p > -4


@pytest.mark.parametrize("make", [residual, plain, dense, recurrent])
def test_what_was_trained_in_place_is_left_in_place(make: Make) -> None:
    a = make(1)
    found = align(a, noisy(a, 0.7))
    assert found.related
    assert found.how == ()


@pytest.mark.parametrize("epsilon", [0.0, 1e-3])
def test_rows_in_front_of_norms_are_undone_as_they_were_rescaled(epsilon: float) -> None:
    """Variances that were multiplied alone, and norms that add more to them than most."""
    a = residual(1)
    b = before_norms(moved_residual(a, np.random.default_rng(2)), np.random.default_rng(3), epsilon)
    found = align(a, b)
    assert isinstance(found, ChainAlignment)
    assert found.epsilon == epsilon
    for name, weights in written(a, b, found).items():
        assert np.linalg.norm(weights - a[name]) <= 1e-5 * np.linalg.norm(a[name]), name


def test_a_row_too_still_to_be_made_smaller_changes_its_sign_alone() -> None:
    by = np.array([-0.1, 0.5])
    values = {"var": np.array([[1e-8, 2.0]]), "mean": np.ones((1, 2)), "gain": np.ones((1, 2))}
    found = undone({**values, "weight": np.ones((1, 2, 1, 1))}, by, EPSILON)
    assert np.allclose(found["mean"], [[-1, 0.5]])
    assert np.allclose(found["gain"], [[-1, 1]])
    assert np.allclose(found["var"], [[1e-8, (2 + EPSILON) / 4 - EPSILON]], rtol=1e-12, atol=0)


def test_rows_that_training_made_longer_by_a_little_are_left_as_they_are() -> None:
    a = residual(1)
    b = moved_residual(noisy(a, 0.3), np.random.default_rng(2))
    assert align(a, b).how == ("permuted",)


def test_a_norm_is_folded_where_the_other_has_it_folded() -> None:
    a = residual(1)
    b = moved_residual(a, np.random.default_rng(2))
    target = folded_residual(a, np.random.default_rng(5))
    back = written(target, b, align(target, b))  # type: ignore[arg-type]
    assert set(back) == set(target)
    for name, weights in target.items():
        assert np.linalg.norm(back[name] - weights) <= 1e-5 * np.linalg.norm(weights), name


def test_channels_that_were_flattened_last_are_found_as_such() -> None:
    a = plain(1)
    rng = np.random.default_rng(4)
    b, order = dict(a), rng.permutation(24)
    _rows(b, ("features.6",), order)
    b["classifier.weight"] = a["classifier.weight"].reshape(12, 4, 24)[:, :, order].reshape(12, 96)
    found = align(a, b)
    assert isinstance(found, ChainAlignment)
    assert found.is_last
    for name, weights in written(a, b, found).items():
        assert np.linalg.norm(weights - a[name]) <= 1e-5 * np.linalg.norm(a[name]), name


@pytest.mark.parametrize(("make", "move", "how"), DISGUISES)
def test_the_certificate_is_read_as_it_was_written(make: Make, move: Move, how: set[str]) -> None:
    a = make(1)
    found = align(a, move(a, np.random.default_rng(2)))
    data = to_bytes(found, "one", "other")
    again = from_bytes(data, "one", "other")
    assert isinstance(found, ChainAlignment)
    assert isinstance(again, ChainAlignment)
    assert to_bytes(again, "one", "other") == data
    assert set(again.how) == how
    for x, y in zip(found.groups, again.groups, strict=True):
        assert np.array_equal(x.order, y.order)
    with pytest.raises(FormatError):
        from_bytes(data[:-9], "one", "other")


def test_the_groups_of_a_residual_network_are_told_from_names() -> None:
    chain = described(read(residual(1)).items, name="w")
    assert isinstance(chain, Chain)
    assert chain.sizes == (24, 20, 32, 32)
    groups = {layer.name: (layer.rows, layer.columns) for layer in chain.layers}
    assert groups["layer1.0.conv2"][0] == groups["conv1"][0]
    assert groups["layer2.0.downsample.0"] == (groups["layer2.0.conv2"][0], (groups["conv1"][0],))
    assert groups["fc"] == (None, (groups["layer2.0.conv2"][0],))


def test_scales_alone_are_found() -> None:
    a = plain(1)
    b = dict(a)
    by = np.exp(np.random.default_rng(2).normal(0, 1, 32)).astype("f4")
    b["features.0.weight"] = a["features.0.weight"] * by[:, None, None, None]
    b["features.0.bias"] = a["features.0.bias"] * by
    b["features.3.weight"] = a["features.3.weight"] / by[:, None, None]
    found = align(a, b)
    assert found.how == ("rescaled",)
    back = written(a, b, found)  # type: ignore[arg-type]
    for name, weights in a.items():
        assert np.linalg.norm(back[name] - weights) <= 1e-5 * np.linalg.norm(weights), name


def test_the_command_says_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = residual(1)
    moved = moved_residual(a, np.random.default_rng(2))
    models = {"a": a, "b": {k: v.copy() for k, v in moved.items()}, "c": residual(3)}
    for one, weights in models.items():
        save_file(weights, tmp_path / f"{one}.safetensors")
    first, second, third = (str(tmp_path / f"{one}.safetensors") for one in models)
    out, maps = str(tmp_path / "out.safetensors"), str(tmp_path / "maps.safetensors")
    assert run(["align", first, second, "--write", out, "--certificate", maps]) == 0
    said = capsys.readouterr().out
    assert "100% of its channels" in said
    assert "coordinates: permuted" in said
    for name, weights in load_file(out).items():
        assert np.array_equal(weights, a[name])
    assert run(["align", first, second, "--apply", maps, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, {**SCHEMA, "$ref": "#/$defs/align"})
    assert found["how"] == ["permuted"]
    assert len(found["channels"]) == 4
    assert found["left"]["relation"] == "identical"
    assert run(["align", first, third]) == 3
    assert "nothing of 4 groups of channels was found" in capsys.readouterr().out


def test_maps_of_channels_that_are_not_the_networks_are_refused() -> None:
    with read(residual(1)) as one, read(moved_residual(residual(1), _draw(2))) as other:
        a, b = described(one.items, name="a"), described(other.items, name="b")
        found = solve(a, b)
        assert isinstance(found, ChainAlignment)
        check(found, a, b)
        first = found.groups[0]
        short = replace(first, order=first.order[:-1])
        nothing = replace(first, scales=np.full(len(first.order), np.nan))
        for group, reason in ((short, "other sizes"), (nothing, "no scale")):
            with pytest.raises(FormatError, match=reason):
                check(replace(found, groups=(group, *found.groups[1:])), a, b)
        with pytest.raises(FormatError, match="other sizes"):
            check(replace(found, groups=found.groups[1:]), a, b)
        wrong = {
            "has no norm": {len(b.layers) - 1: np.ones(10)},
            "other rows": {0: np.ones(5)},
            "no scale": {0: np.zeros(24)},
        }
        for reason, before in wrong.items():
            with pytest.raises(FormatError, match=reason):
                check(replace(found, before=before), a, b)


def _draw(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_disguised_network_gets_its_true_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = residual(1)
    child = moved_residual(noisy(a, 0.05), np.random.default_rng(2))
    models = {"a": a, "child": {k: v.copy() for k, v in child.items()}, "c": residual(3)}
    paths = []
    for one, weights in models.items():
        paths.append(str(tmp_path / f"{one}.safetensors"))
        save_file(weights, paths[-1])
    prints = {path: fingerprint(path) for path in paths}
    stored = Stored({path: path for path in paths})
    graph = infer_graph(prints, weights=stored)
    (edge,) = graph.edges
    assert {edge.parent, edge.child} == set(paths[:2])
    assert edge.relation == "reparametrized"
    assert edge.how == "permuted"
    assert edge.then is not None
    monkeypatch.setattr(rewriting, "MOST_OF_A_CHAIN", 0)
    assert infer_graph(prints, weights=stored).edges == ()


def test_a_network_whose_rows_before_norms_were_rescaled_gets_its_parent() -> None:
    a = residual(1)
    kin = {"a": a, "sibling": noisy(a, 0.2, 98), "c": residual(3)}
    hidden = before_norms(noisy(a, 0.05), np.random.default_rng(2))
    (edge,) = infer({**kin, "hidden": hidden}).parents("hidden")
    assert (edge.parent, edge.relation, edge.how) == ("a", "reparametrized", "rescaled")
    assert edge.then == ("finetune", "full")
    assert (
        infer({**kin, "hidden": before_norms(a, np.random.default_rng(2))})
        .parents("hidden")[0]
        .then
        is None
    )


@pytest.mark.parametrize("make", [residual, plain])
def test_another_head_hides_nothing_and_makes_no_relatives(make: Make) -> None:
    a = make(1)
    move = moved_residual if make is residual else moved_plain
    head = "fc" if make is residual else "classifier"

    def headed(weights: Weights) -> Weights:
        rng, width = np.random.default_rng(8), weights[f"{head}.weight"].shape[1]
        new = {"weight": rng.normal(0, 1, (7, width)), "bias": rng.normal(0, 1, 7)}
        return weights | {f"{head}.{leaf}": w.astype("f4") for leaf, w in new.items()}

    found = align(a, move(headed(noisy(a, 0.1)), np.random.default_rng(2)))
    assert found.related
    assert found.share == 1
    for seed in range(10, 16):
        assert not align(a, headed(make(seed))).related


def test_a_vocabulary_that_grew_is_no_other_head() -> None:
    a = recurrent(1)
    b = moved_recurrent(noisy(a, 0.1), np.random.default_rng(2))
    more = np.random.default_rng(7).normal(0, 1, (6, 64)).astype("f4")
    b["embedding.weight"] = np.concatenate([b["embedding.weight"], more[:, :24]])
    b["decoder.weight"] = np.concatenate([b["decoder.weight"], more[:, :40]])
    b["decoder.bias"] = np.concatenate([b["decoder.bias"], more[:, 0]])
    found = align(a, b)
    assert found.share == 1
    back = written(a, b, found)  # type: ignore[arg-type]
    assert back["decoder.weight"].shape == (70, 40)
    near = np.linalg.norm(back["decoder.weight"][:64] - a["decoder.weight"])
    assert near < 0.2 * np.linalg.norm(a["decoder.weight"])


def test_both_directions_of_a_gru_are_aligned() -> None:
    rng = np.random.default_rng(1)
    a: Weights = {"embedding.weight": rng.normal(0, 1, (50, 20)).astype("f4")}
    for number, into in enumerate((20, 60)):
        for way in ("", "_reverse"):
            for kind, width in (("ih", into), ("hh", 30)):
                a[f"gru.weight_{kind}_l{number}{way}"] = rng.normal(0, 1, (90, width)).astype("f4")
    a["fc.weight"] = rng.normal(0, 1, (12, 60)).astype("f4")
    b = dict(a)
    read_as = np.arange(20)
    for number in (0, 1):
        orders = [rng.permutation(30), rng.permutation(30)]
        for way, order in zip(("", "_reverse"), orders, strict=True):
            for kind, columns in (("ih", read_as), ("hh", order)):
                name = f"gru.weight_{kind}_l{number}{way}"
                gates = a[name].reshape(3, 30, -1)[:, order][:, :, columns]
                b[name] = gates.reshape(a[name].shape)
        read_as = np.concatenate([orders[0], orders[1] + 30])
    b["fc.weight"] = a["fc.weight"][:, read_as]
    found = align(a, b)
    assert found.how == ("permuted",)
    assert found.share == 1
    for name, weights in written(a, b, found).items():  # type: ignore[arg-type]
        assert np.array_equal(weights, a[name]), name


def test_depthwise_convolutions_keep_their_channels() -> None:
    rng = np.random.default_rng(1)
    shapes = {"conv0": (24, 3, 3, 3), "conv1": (24, 1, 3, 3), "conv2": (32, 24, 1, 1)}
    a = {f"{name}.weight": rng.normal(0, 1, shape).astype("f4") for name, shape in shapes.items()}
    a["fc.weight"] = rng.normal(0, 1, (10, 32)).astype("f4")
    b, order = dict(a), rng.permutation(24)
    _rows(b, ("conv0", "conv1"), order)
    _columns(b, ("conv2",), order)
    found = align(a, b)
    assert found.how == ("permuted",)
    for name, weights in written(a, b, found).items():  # type: ignore[arg-type]
        assert np.allclose(weights, a[name], rtol=1e-5, atol=0), name


def test_linear_layers_that_do_not_feed_each_other_are_no_network() -> None:
    rng = np.random.default_rng(1)
    one = {"a.weight": rng.normal(0, 1, (8, 5)).astype("f4")}
    with pytest.raises(ArchitectureError, match="no linear layers one after another"):
        align(one, one)
    other = one | {"b.weight": rng.normal(0, 1, (4, 7)).astype("f4")}
    with pytest.raises(ArchitectureError, match="do not tell what feeds"):
        align(other, other)
    table = one | {"emb.weight": rng.normal(0, 1, (9, 5)).astype("f4")}
    with pytest.raises(ArchitectureError, match="embeddings and linear layers"):
        align(table, table)


def test_what_does_not_fit_is_refused() -> None:
    broken = residual(1)
    broken["layer2.0.conv1.weight"] = broken["layer2.0.conv1.weight"][:, :7]
    with pytest.raises(ArchitectureError, match="do not tell what feeds"):
        align(broken, broken)
    with pytest.raises(ArchitectureError):
        align(residual(1), plain(1))
    one, other = (described(read(w).items, name="w") for w in (residual(1), recurrent(1)))
    with pytest.raises(ArchitectureError):
        solve(one, other)


def depthwise(seed: int) -> Weights:
    """Return a network of MobileNet's kind: widened, filtered channel by channel, narrowed."""
    rng = np.random.default_rng(seed)
    found: Weights = {}

    def layer(stem: str, place: int, out: int, into: int, size: int) -> None:
        weight = rng.normal(0, 1, (out, into, size, size)).astype("f4")
        found[f"{stem}.{place}.weight"] = weight
        found.update(_norm(rng, f"{stem}.{place + 1}", out))

    layer("features.0", 0, 16, 3, 3)
    for n, (into, out) in enumerate([(16, 24), (24, 24), (24, 32)], 1):
        layer(f"features.{n}.conv.0", 0, 4 * into, into, 1)
        layer(f"features.{n}.conv.1", 0, 4 * into, 1, 3)
        layer(f"features.{n}.conv", 2, out, 4 * into, 1)
    found["classifier.1.weight"] = rng.normal(0, 1, (10, 32)).astype("f4")
    found["classifier.1.bias"] = rng.normal(0, 1, 10).astype("f4")
    return found


def _reordered(model: Weights, rng: np.random.Generator) -> Weights:
    """Change the order of the inner channels of every block, and of the last ones."""
    found = dict(model)
    for n in (1, 2, 3):
        stem = f"features.{n}.conv"
        order = rng.permutation(len(model[f"{stem}.0.0.weight"]))
        for name in model:
            if name.startswith((f"{stem}.0.", f"{stem}.1.")):
                found[name] = model[name][order]
        found[f"{stem}.2.weight"] = found[f"{stem}.2.weight"][:, order]
    order = rng.permutation(32)
    for name in model:
        if name.startswith(("features.3.conv.2.", "features.3.conv.3.")):
            found[name] = found[name][order]
    found["classifier.1.weight"] = model["classifier.1.weight"][:, order]
    return found


def test_filters_of_single_channels_go_with_their_channels() -> None:
    base = depthwise(1)
    hidden = _reordered(base, np.random.default_rng(2))
    with read(base) as one, read(hidden) as other:
        a, b = described(one.items, name="a"), described(other.items, name="b")
        found = solve(a, b)
        assert found.related
        assert found.how == ("permuted",)
        for item in aligned(a, b, found).items:
            raw = item.source.piece(0, item.size_bytes, memoryview(bytearray(item.size_bytes)))
            assert np.allclose(np.frombuffer(raw, "f4"), base[item.name].reshape(-1), atol=1e-6)


def test_strangers_with_filters_of_single_channels_stay_strangers() -> None:
    for seed in range(8):
        with read(depthwise(1)) as one, read(depthwise(20 + seed)) as other:
            a, b = described(one.items, name="a"), described(other.items, name="b")
            found = solve(a, b)
            assert not found.related
            assert found.log10_p > -4


def in_parts(seed: int) -> Weights:
    """Return a network of ResNeXt's kind: narrowed, filtered in eight parts, widened, added."""
    rng = np.random.default_rng(seed)
    found: Weights = {}

    def layer(name: str, norm: str, out: int, into: int, size: int) -> None:
        found[f"{name}.weight"] = rng.normal(0, 1, (out, into, size, size)).astype("f4")
        found.update(_norm(rng, norm, out))

    layer("conv1", "bn1", 24, 3, 3)
    for n in (0, 1):
        stem = f"layer1.{n}"
        layer(f"{stem}.conv1", f"{stem}.bn1", 32, 24 if n == 0 else 48, 1)
        layer(f"{stem}.conv2", f"{stem}.bn2", 32, 4, 3)
        layer(f"{stem}.conv3", f"{stem}.bn3", 48, 32, 1)
    layer("layer1.0.downsample.0", "layer1.0.downsample.1", 48, 24, 1)
    found["fc.weight"] = rng.normal(0, 1, (10, 48)).astype("f4")
    found["fc.bias"] = rng.normal(0, 1, 10).astype("f4")
    return found


def moved_in_parts(weights: Weights, rng: np.random.Generator) -> Weights:
    """Change the order of the parts of `in_parts`, and of channels within them on both sides."""
    found = dict(weights)
    for n in (0, 1):
        stem, parts = f"layer1.{n}", rng.permutation(8)
        read, write = ((parts[:, None] * 4 + rng.permuted(np.tile(np.arange(4), (8, 1)), axis=1)
                        ) for _ in range(2))  # fmt: skip
        within = read - parts[:, None] * 4
        _rows(found, (f"{stem}.conv1", f"{stem}.bn1"), read.reshape(-1))
        _rows(found, (f"{stem}.conv2", f"{stem}.bn2"), write.reshape(-1))
        matrix = found[f"{stem}.conv2.weight"]
        inner = np.repeat(within, 4, axis=0)[:, :, None, None]
        found[f"{stem}.conv2.weight"] = np.take_along_axis(matrix, inner, axis=1)
        _columns(found, (f"{stem}.conv3",), write.reshape(-1))
    last = rng.permutation(48)
    names = ("layer1.0.conv3", "layer1.0.bn3", "layer1.0.downsample.0", "layer1.0.downsample.1")
    _rows(found, (*names, "layer1.1.conv3", "layer1.1.bn3"), last)
    _columns(found, ("layer1.1.conv1", "fc"), last)
    return found


def test_convolutions_in_parts_are_found_and_undone() -> None:
    a = in_parts(1)
    chain = described(read(a).items, name="w")
    assert isinstance(chain, Chain)
    many = {layer.name: layer.parts["weight"].parts for layer in chain.layers}
    assert many["layer1.0.conv2"] == 8
    assert many["layer1.0.conv3"] == 1
    for model in (a, noisy(a, 0.3)):
        b = before_norms(moved_in_parts(model, np.random.default_rng(2)), np.random.default_rng(4))
        found = align(a, b)
        assert found.share == 1
        assert set(found.how) == {"permuted", "rescaled"}
        off = 1e-5 if model is a else 0.5
        for name, weights in written(a, b, found).items():  # type: ignore[arg-type]
            assert np.linalg.norm(weights - a[name]) <= off * np.linalg.norm(a[name]), name
    for seed in range(10, 14):
        assert not align(a, in_parts(seed)).related


def test_large_strangers_are_let_go_soon_and_relatives_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = {}
    for limit in (channels._LARGE, 0):
        monkeypatch.setattr(channels, "_LARGE", limit)
        for seed in (1, 20):
            other_model = _reordered(depthwise(seed), np.random.default_rng(2))
            with read(depthwise(1)) as one, read(other_model) as other:
                a, b = described(one.items, name="a"), described(other.items, name="b")
                found = solve(a, b)
                assert found.related == (seed == 1)
                looked[limit > 0, seed] = found.agreement.looked
    assert looked[False, 20] < looked[True, 20]
    assert looked[False, 1] == looked[True, 1]


def test_networks_of_two_makes_are_both_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(5)
    paths = []
    for name, widths in (("deep", (3, 16, 32)), ("wide", (3, 8, 32)), ("flat", (3, 16))):
        made = {
            f"conv{n}.weight": rng.normal(size=(rows, columns, 3, 3)).astype(np.float32)
            for n, (columns, rows) in enumerate(pairwise(widths))
        }
        made["fc.weight"] = rng.normal(size=(10, widths[-1])).astype(np.float32)
        paths.append(str(tmp_path / f"{name}.safetensors"))
        save_file(made, paths[-1])
    for other in paths[1:]:
        assert run(["align", paths[0], other]) == 3
        said = capsys.readouterr().err
        assert said == f"lineage: {other}: has not the layers of the other network ({paths[0]})\n"
