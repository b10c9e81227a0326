"""What the weights tell besides their fingerprints: decayed rows, and merges value by value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from makers import Array
from safetensors.numpy import save_file
from test_evidence import Model, cast, network, tuned
from test_merging import BASE, PARTS, dropped, elected

from lineage import compare, fingerprint, infer
from lineage.artifacts import read
from lineage.cli import run
from lineage.errors import FormatError
from lineage.evidence.explained import explain
from lineage.evidence.pairing import ROUNDING_RMS
from lineage.evidence.panel import Panel
from lineage.evidence.untouched import apart, decayed, in_common
from lineage.evidence.weights import Weights, some_rows
from lineage.fingerprints import save
from lineage.fingerprints.lattice import ROUNDING
from lineage.graph.deep import Deep

DTYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def embedding(rows: int = 200, cols: int = 64, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 0.02, (rows, cols)).astype(np.float32)


def trained(table: Array, seen: int, seed: int, decay: float = 0.0, size: float = 0.1) -> Array:
    """Train the first rows of a table, with decoupled decay of all."""
    draw = np.random.default_rng([7, seed])
    found = table.astype(np.float64) * (1 - decay)
    found[:seen] += draw.normal(0, size * 0.02, (seen, table.shape[1]))
    return found.astype(np.float32)


def stored(table: Array, dtype: str) -> Array:
    return table.astype(DTYPES[dtype]).astype(np.float32)


def rounding(dtype: str) -> float:
    return ROUNDING_RMS * ROUNDING[dtype]


# Decayed rows


@pytest.mark.parametrize(("dtype", "decay"), [("F32", 1e-4), ("F16", 0.003), ("BF16", 0.02)])
@pytest.mark.parametrize("seen", [0, 40, 150])
def test_rows_that_no_example_touched_tell_who_decayed_further(
    dtype: str, decay: float, seen: int
) -> None:
    one = stored(embedding(), dtype)
    other = stored(trained(one, seen, 1, decay), dtype)
    found, back = decayed(one, other, rounding(dtype)), decayed(other, one, rounding(dtype))
    assert found is not None
    assert back is not None
    assert found.factor == pytest.approx(1 - decay, abs=decay / 10)
    assert back.factor == pytest.approx(1 / (1 - decay), abs=decay / 10)
    assert found.rows > 0.9 * (len(one) - seen)


def test_siblings_have_an_order_of_their_own() -> None:
    one, other = trained(embedding(), 60, 1, 0.01), trained(embedding(), 90, 2, 0.03)
    found = decayed(one, other, rounding("F32"))
    assert found is not None
    assert found.factor == pytest.approx(0.97 / 0.99, abs=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_were_trained_say_nothing(dtype: str) -> None:
    one = stored(embedding(), dtype)
    for seed, (seen, decay, size) in enumerate(
        [(200, 0.02, 0.1), (60, 0.0, 0.1), (195, 0.02, 0.1), (200, 0.0, 1e-4), (200, 1e-5, 1e-3)]
    ):
        other = stored(trained(one, seen, seed, decay, size), dtype)
        assert decayed(one, other, rounding(dtype)) is None


def test_rows_that_are_all_pushed_one_way_say_nothing() -> None:
    draw = np.random.default_rng(3)
    way = draw.normal(0, 1, 64)
    one = (draw.uniform(0.9, 1.1, (200, 1)) * way + draw.normal(0, 0.02, (200, 64))).astype("f4")
    other = (one + 0.02 * draw.uniform(0.99, 1.01, (200, 1)) * way).astype(np.float32)
    assert decayed(one, other, rounding("F32")) is None


@pytest.mark.parametrize("shape", [(0, 8), (4, 64), (100, 4)])
def test_small_tables_say_nothing(shape: tuple[int, int]) -> None:
    one = np.ones(shape, np.float32) * np.arange(1, shape[1] + 1, dtype=np.float32)
    assert decayed(one, one * np.float32(0.9), rounding("F32")) is None


def test_rows_with_values_that_are_not_finite_are_left_out() -> None:
    one = embedding()
    other = trained(one, 50, 1, 0.01)
    other[60, 3], other[61, 0] = np.nan, np.inf
    found = decayed(one, other, rounding("F32"))
    assert found is not None
    assert found.rows == 148


# Rows in common


def grown(seed: int, count: int, dtype: str, decay: float) -> tuple[Array, list[int]]:
    """Grow a tree of tables, each step touching some rows; return them and the parents."""
    draw = np.random.default_rng([11, seed])
    tables, above = [stored(embedding(240, 32, seed), dtype)], [-1]
    for number in range(1, count):
        parent = int(draw.integers(number))
        table = tables[parent].astype(np.float64) * (1 - decay * draw.integers(2))
        touched = draw.random(len(table)) < draw.uniform(0.02, 0.5)
        table[touched] += draw.normal(0, 0.002, (int(touched.sum()), table.shape[1]))
        tables.append(stored(table.astype(np.float32), dtype))
        above.append(parent)
    return np.stack(tables), above


@pytest.mark.parametrize(("dtype", "decay"), [("F32", 0.0), ("F32", 0.003), ("BF16", 0.0)])
@pytest.mark.parametrize("seed", range(4))
def test_rows_in_common_part_those_that_are_not_parent_and_child(
    dtype: str, decay: float, seed: int
) -> None:
    tables, above = grown(seed, 14, dtype, decay)
    common = in_common(tables)
    assert np.array_equal(common, common.T)
    assert np.all(np.diag(common) == tables.shape[1])
    found = apart(common)
    is_step = np.zeros_like(found)
    for child, parent in enumerate(above[1:], start=1):
        is_step[parent, child] = is_step[child, parent] = True
    assert not np.any(found & is_step)
    assert np.count_nonzero(found) > 0.8 * (found.size - len(found) - np.count_nonzero(is_step))


def test_what_has_two_parents_is_between_nobody() -> None:
    base = embedding(240, 32)
    child = trained(base, 200, 1)
    both = np.concatenate([base[:120], child[120:]])
    common = in_common(np.stack([base, child, both]))
    assert apart(common)[0, 1]
    assert not apart(common, leave_out=[2])[0, 1]


def test_rows_of_nothing_and_of_what_is_not_finite_are_in_common_with_none() -> None:
    tables = np.stack([embedding(20, 8)] * 2)
    tables[:, 0], tables[:, 1, 0], tables[:, 2, 0] = 0, np.nan, np.inf
    tables[1, 3] *= -1
    assert in_common(tables)[0, 1] == 16


# Two models


def words(model: Model, seed: int, decay: float, seen: int = 30) -> Model:
    """Tune a model: of its table only some rows, besides decay, and everything else."""
    order = np.random.default_rng([13, seed]).permutation(len(model["embed.weight"]))
    table = np.empty_like(model["embed.weight"])
    table[order] = trained(model["embed.weight"][order], seen, seed, decay)
    return {**tuned(model, seed, 0.03), "embed.weight": table}


def test_compare_reads_rows_for_the_direction_when_it_is_asked_to() -> None:
    base = network(3)
    child = words(base, 1, 0.01)
    child["layers.0.q.weight"] = base["layers.0.q.weight"] * np.float32(0.9)  # as if it led back
    shallow, deep = compare(base, child), compare(base, child, deep=True)
    assert deep.direction == "a->b"
    assert compare(child, base, deep=True).direction == "b->a"
    assert deep.evidence[0].detector == "decay-v1"
    told = deep.evidence[0].told("A", "B")
    assert told.startswith("66 of the rows looked at are in B those of A")
    assert all(e.detector != "decay-v1" for e in shallow.evidence)
    prints = fingerprint(base), fingerprint(child)
    assert compare(*prints, deep=True) == compare(*prints)
    assert explain(*prints, deep).direction[0].startswith("{a} -> {b}: by the rows")
    assert not explain(*prints, shallow).direction[0].endswith("below")


def test_what_is_not_related_stays_so() -> None:
    assert compare(network(1), network(2), deep=True) == compare(network(1), network(2))


# A family


def test_who_decayed_further_is_nobodys_ancestor() -> None:
    base = network(4)
    models = {"base": base}
    for seed, parent in enumerate(["base", "base", "base", "1", "2", "4"], start=1):
        models[str(seed)] = words(models[parent], seed, 0.004, seen=20 + 4 * seed)
    found = infer(models, deep=True)
    depth = {"base": 0, "1": 1, "2": 1, "3": 1, "4": 2, "5": 2, "6": 3}
    assert len(found.edges) >= 5
    assert all(depth[edge.parent] < depth[edge.child] for edge in found.edges)


def test_a_member_without_plain_values_is_no_hindrance() -> None:
    base = network(7)
    models = {"base": base}
    for seed, parent in enumerate(["base", "base", "1"], start=1):
        models[str(seed)] = words(models[parent], seed, 0.004, seen=20 + 4 * seed)
    models["coarse"] = cast(models["2"], ml_dtypes.float8_e4m3fn)
    found = infer(models, deep=True)
    assert ("2", "coarse") in {(edge.parent, edge.child) for edge in found.edges}
    values = {**models["3"], "embed.weight": models["3"]["embed.weight"].astype(np.float64)}
    infer({**models, "wide": values}, deep=True)
    for seed in range(4, 14):
        models[str(seed)] = words(base, seed, 0.004)
    for name in ("1", "2", "3"):  # whichever of them are looked at first
        odd = tuned(models[name], 99, 0.02)
        odd["embed.weight"] = odd["embed.weight"].astype(ml_dtypes.float8_e5m2)
        found = infer(models | {"odd": odd}, deep=True)
        assert len(found.nodes) == 16


def test_of_two_alone_the_order_is_told() -> None:
    base = network(5)
    models = {"one": words(base, 1, 0.01), "other": base}
    (edge,) = infer(models, deep=True).edges
    assert (edge.parent, edge.child) == ("other", "one")


def test_a_chain_is_not_hung_on_its_first() -> None:
    base = network(8)
    models = {"base": base, "one": words(base, 1, 0.0, seen=50)}
    for seed, (child, parent) in enumerate([("two", "one"), ("three", "two"), ("side", "base")], 2):
        models[child] = words(models[parent], seed, 0.0, seen=50 + 8 * seed)
    found = {edge.child: edge.parent for edge in infer(models, deep=True).edges}
    assert found == {"one": "base", "two": "one", "three": "two", "side": "base"}


def parents(models: Model | dict[str, Model], child: str) -> dict[str, tuple[str, str | None]]:
    found = infer(models, deep=True)
    assert found.to_json() == infer(dict(reversed(models.items())), deep=True).to_json()
    return {e.parent: (str(e.relation), e.how) for e in found.edges if e.child == child}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("merge", "kept", "weights", "how"),
    [
        (dropped, 0.4, (0.5, 0.5), "dare"),
        (dropped, 0.7, (0.3, 0.6), "dare"),
        (elected, 0.4, (0.5, 0.5), "ties"),
        (elected, 0.6, (0.7, 0.3), "ties"),
    ],
)
def test_parents_of_a_masked_merge_are_seen_value_by_value(
    dtype: str, merge: Any, kept: float, weights: tuple[float, float], how: str
) -> None:
    family = {"base": BASE, **PARTS}
    family = {name: cast(model, DTYPES[dtype]) for name, model in family.items()}
    made = merge(weights, kept, *(cast(family[n], np.float32) for n in ("base", "b", "d")))
    family["made"] = cast(made, DTYPES[dtype])
    found = parents(family, "made")
    assert found == {"b": ("merge", how), "d": ("merge", how)}


def test_a_merge_of_three_is_seen() -> None:
    family = {"base": BASE, **PARTS}
    family["made"] = dropped((0.4, 0.4, 0.3), 0.5, BASE, PARTS["a"], PARTS["b"], PARTS["c"])
    assert set(parents(family, "made")) == {"a", "b", "c"}


def test_what_was_trained_or_frozen_in_part_is_no_merge() -> None:
    half = {n: w if "layers.0" in n or "layers.1" in n else PARTS["a"][n] for n, w in BASE.items()}
    chain = tuned(PARTS["a"], 21, 0.02)
    family = {"base": BASE, **PARTS, "half": half, "chain": chain}
    for dtype in DTYPES.values():
        models = {name: cast(model, dtype) for name, model in family.items()}
        relations = {(e.child, str(e.relation)) for e in infer(models, deep=True).edges}
        assert not {child for child, relation in relations if relation == "merge"} - {"half"}


def test_what_came_from_a_merge_is_none() -> None:
    made = dropped((0.5, 0.5), 0.5, BASE, PARTS["a"], PARTS["b"])
    family = {"base": BASE, **PARTS, "made": made, "after": tuned(made, 31, 0.04)}
    assert parents(family, "after") == {"made": ("finetune", "full")}


# Files


def write(models: dict[str, Model], folder: Path) -> None:
    for name, model in models.items():
        save_file(
            {k: np.ascontiguousarray(v) for k, v in model.items()}, folder / f"{name}.safetensors"
        )


def test_saved_fingerprints_have_no_weights_to_read(tmp_path: Path) -> None:
    family = {"base": BASE, **PARTS, "made": elected((0.5, 0.5), 0.4, BASE, PARTS["a"], PARTS["b"])}
    for name, model in family.items():
        save(fingerprint(model), tmp_path / f"{name}.lineage")
    assert infer([tmp_path], deep=True).to_json() == infer([tmp_path]).to_json()


def test_the_commands_read_weights_when_they_are_asked_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = network(6)
    write({"base": base, "child": words(base, 1, 0.01)}, tmp_path)
    ends = [str(tmp_path / f"{name}.safetensors") for name in ("child", "base")]
    assert run(["compare", *ends, "--deep", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["direction"] == "b->a"
    assert told["evidence"][0]["detector"] == "decay-v1"
    assert run(["infer", str(tmp_path), "--deep", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (edge,) = told["edges"]
    assert [edge["parent"], edge["child"]] == ends[::-1]


def test_rows_are_read_from_where_they_lie(tmp_path: Path) -> None:
    table = np.arange(3000, dtype=np.float32).reshape(100, 10, 3)
    write({"one": {"w": table, "n": np.arange(4)}}, tmp_path)
    weights = Weights({"one": tmp_path / "one.safetensors"})
    with weights.opened("one") as items:
        assert set(items) == {"w"}
        assert np.array_equal(some_rows(items["w"], 1000, 1000), table.reshape(100, 30))
        assert np.array_equal(some_rows(items["w"], 3, 4), table.reshape(100, 30)[[0, 49, 99], :4])


def test_a_model_that_is_gone_or_cut_is_named(tmp_path: Path) -> None:
    write({"one": network(0)}, tmp_path)
    path = tmp_path / "one.safetensors"
    weights = Weights({"one": path})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FormatError, match=r"one\.safetensors"), weights.opened("one"):
        pass


def test_both_readings_of_a_model_are_of_one_file(tmp_path: Path) -> None:
    write({"one": network(0)}, tmp_path)
    path = tmp_path / "one.safetensors"
    with pytest.raises(FormatError, match="changed"), Weights({"one": path}).opened("one"):
        path.write_bytes(path.read_bytes())
    with read(path) as artifact:
        assert len(artifact.items) == len(network(0))


# Pruned, and trained on with the zeros kept


def pruned_and_trained(by_rows: bool, like: Model) -> Model:
    """Set half of the base's weights to zero, the least, and train the others as `like` was."""
    found = {}
    for name, weights in BASE.items():
        size = np.abs(weights)
        least = np.median(size, axis=-1, keepdims=True) if by_rows else np.median(size)
        is_kept = (size > least) if weights.ndim > 1 else np.ones(weights.shape, bool)
        trained = weights + 0.9 * (like[name] - weights) + 0.01 * size.mean()
        found[name] = np.where(is_kept, trained, 0).astype(np.float32)
    return found


def test_zeros_name_the_source_of_what_was_trained_on_as_a_sibling_was() -> None:
    sibling = tuned(BASE, 11, 0.1)
    models = {"base": BASE, "sibling": sibling, "other": tuned(BASE, 12, 0.1)}
    models["child"] = pruned_and_trained(by_rows=False, like=sibling)
    (edge,) = infer(models, deep=True).parents("child")
    assert (edge.parent, edge.relation, edge.probability) == ("base", "pruned", 0.95)
    (edge,) = infer(models).parents("child")
    assert edge.probability == 0.6  # no fingerprint tells


def test_zeros_by_another_rule_name_nobody() -> None:
    sibling = tuned(BASE, 11, 0.1)
    models = {"base": BASE, "sibling": sibling, "other": tuned(BASE, 12, 0.1)}
    models["child"] = pruned_and_trained(by_rows=True, like=sibling)
    (edge,) = infer(models, deep=True).parents("child")
    assert edge.probability == 0.6


# Masks


def test_what_has_no_value_of_another_is_no_masked_merge() -> None:
    models = {"base": BASE, **PARTS}
    models["merge"] = dropped([0.5, 0.5], 0.4, BASE, PARTS["a"], PARTS["b"])
    models["trained"] = tuned(BASE, 14, 0.1)
    paths = list(models)
    panel = Panel([fingerprint(model) for model in models.values()])
    deep = Deep(Weights.of(models), paths, panel)
    assert not deep.has_no_mask(paths.index("merge"))
    assert deep.has_no_mask(paths.index("trained"))
