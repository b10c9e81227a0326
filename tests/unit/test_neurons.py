"""The neuron sketch: one in all coordinates, another in other models, and what is made of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers import Array
from safetensors.numpy import save_file

from lineage import Fingerprint, compare, fingerprint, infer
from lineage.artifacts import read
from lineage.audit import measure
from lineage.cli import run
from lineage.evidence.neurons import LEAST_SCORE, MOST_SCORE, SURE_SHARE, common_units
from lineage.evidence.weights import Weights
from lineage.fingerprints import save
from lineage.fingerprints.agreement import LEAST_SHARE
from lineage.fingerprints.neurons import BLOCKS, UNITS, Neurons, neurons
from lineage.graph import infer_graph
from lineage.relation import Relation

Model = dict[str, Array]

WIDTH, TOKENS, LAYERS, MANY = 48, 160, 3, 200

READ, WRITE = ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj"


def llama(seed: int, *, layers: int = LAYERS, tokens: int = TOKENS) -> Model:
    """What of a Llama the sketch reads, with more units than it keeps, and some attention."""
    draw = np.random.default_rng([seed, 7])
    model = {"model.embed_tokens.weight": draw.normal(0, 0.1, (tokens, WIDTH))}
    for n in range(layers):
        stem = f"model.layers.{n}."
        model[f"{stem}post_attention_layernorm.weight"] = draw.uniform(0.5, 1.5, WIDTH)
        for name, shape in zip(
            (*READ, WRITE), ((MANY, WIDTH), (MANY, WIDTH), (WIDTH, MANY)), strict=True
        ):
            sizes = draw.lognormal(0, 0.3, MANY)
            by_unit = sizes[:, None] if name in READ else sizes
            model[f"{stem}{name}.weight"] = draw.normal(0, 0.1, shape) * by_unit
    return stored(model)


def stored(model: Model) -> Model:
    return {name: np.ascontiguousarray(values, np.float32) for name, values in model.items()}


def disguised(model: Model, seed: int) -> Model:
    """Turn and scale the stream, fold the gains; move units, rescale them, negate some."""
    draw = np.random.default_rng([seed, 8])
    turn = np.linalg.qr(draw.normal(size=(WIDTH, WIDTH)))[0]
    made: Model = {"model.embed_tokens.weight": 3 * model["model.embed_tokens.weight"] @ turn}
    for n in range(sum(WRITE in name for name in model)):
        stem = f"model.layers.{n}."
        norm = f"{stem}post_attention_layernorm.weight"
        order = draw.permutation(MANY)
        scale = draw.uniform(0.25, 4, MANY) * draw.choice([-1.0, 1.0], MANY)
        gate, up = (model[f"{stem}{name}.weight"] * model[norm] @ turn for name in READ)
        made[norm] = np.ones(WIDTH)
        made[f"{stem}{READ[0]}.weight"] = gate[order]
        made[f"{stem}{READ[1]}.weight"] = (up * scale[:, None])[order]
        down = 3 * turn.T @ model[f"{stem}{WRITE}.weight"] / scale
        made[f"{stem}{WRITE}.weight"] = down[:, order]
    return stored(made)


def changed(model: Model, by: float, seed: int = 0) -> Model:
    """Add noise to all but vectors, of a share of each matrix's norm."""
    draw = np.random.default_rng([seed, 9])
    return stored(
        {
            name: values
            + (by * values.std() * draw.normal(size=values.shape) if values.ndim > 1 else 0)
            for name, values in model.items()
        }
    )


def gpt2(seed: int) -> Model:
    """What of a GPT-2 the sketch reads: norms with biases, matrices inputs by outputs, no gates."""
    draw = np.random.default_rng([seed, 10])
    model = {
        "wte.weight": draw.normal(0, 0.1, (TOKENS, WIDTH)),
        "wpe.weight": draw.normal(0, 0.1, (32, WIDTH)),
    }
    for n in range(LAYERS):
        stem = f"h.{n}."
        model[f"{stem}ln_2.weight"] = draw.uniform(0.5, 1.5, WIDTH)
        model[f"{stem}ln_2.bias"] = draw.normal(0, 0.1, WIDTH)
        model[f"{stem}mlp.c_fc.weight"] = draw.normal(0, 0.1, (WIDTH, MANY))
        model[f"{stem}mlp.c_proj.weight"] = draw.normal(0, 0.1, (MANY, WIDTH))
    return stored(model)


def permuted(model: Model, seed: int) -> Model:
    """Change the order of a GPT-2's coordinates, and of its units."""
    draw = np.random.default_rng([seed, 11])
    order = draw.permutation(WIDTH)
    made: Model = {}
    for n in range(LAYERS):
        units = draw.permutation(MANY)
        made[f"h.{n}.mlp.c_fc.weight"] = model[f"h.{n}.mlp.c_fc.weight"][order][:, units]
        made[f"h.{n}.mlp.c_proj.weight"] = model[f"h.{n}.mlp.c_proj.weight"][:, order][units]
    return stored(made | {name: v[..., order] for name, v in model.items() if name not in made})


def of(model: Model, tokens: tuple[str, ...] | None = None) -> Neurons:
    with read(model) as artifact:
        found = neurons(artifact, tokens)
    assert found is not None
    return found


def share(a: Neurons, b: Neurons) -> float:
    found = common_units(a, b)
    assert found is not None
    return found.best.share


def sketched(model: Model) -> Fingerprint:
    return fingerprint(model, neurons=True)


def test_the_sketch_is_the_same_in_other_coordinates() -> None:
    one, other = of(llama(0)), of(disguised(llama(0), 1))
    assert one.blocks == other.blocks == tuple(("blk", n, UNITS) for n in range(LAYERS))
    found = common_units(one, other)
    assert found is not None
    assert found.related
    assert (found.blocks, found.of, found.labels) == (LAYERS, LAYERS, "numbers")
    assert found.best.share > 0.98
    assert found.log10_p < -100


def test_what_was_changed_since_is_found_and_a_stranger_is_not() -> None:
    base = of(llama(0))
    assert share(base, of(disguised(changed(llama(0), 0.1), 1))) > 0.7
    assert share(base, of(disguised(changed(llama(0), 0.2), 1))) > 0.3
    for seed in range(1, 9):
        found = common_units(base, of(disguised(llama(seed), seed)))
        assert found is not None
        assert not found.related
        assert found.best.share < 0.07
        assert found.score == 0


def test_strangers_whose_units_know_the_same_tokens_are_strangers() -> None:
    """Units of both read alike where embeddings are large, which models of one kind of data do."""
    draw = np.random.default_rng(3)
    loud = 12
    embeddings = draw.normal(0, 0.1, (TOKENS, WIDTH)) * np.where(np.arange(WIDTH) < loud, 10, 1)
    common = {name: draw.normal(0, 1, (MANY, loud)) for name in READ}
    models = [llama(1), llama(2)]
    for model in models:
        model["model.embed_tokens.weight"] = embeddings.astype(np.float32)
        for n in range(LAYERS):
            for name in READ:
                model[f"model.layers.{n}.{name}.weight"][:, :loud] += common[name]
    found = common_units(*map(of, models))
    assert found is not None
    assert not found.related


def dead(model: Model, name: str, units: int) -> Model:
    """Set what some units read to zero."""
    made = {n: values.copy() for n, values in model.items()}
    for n, values in made.items():
        if name in n:
            values[-units:] = 0
    return made


@pytest.mark.parametrize("name", READ)
def test_units_that_read_nothing_join_nobody(name: str) -> None:
    found = common_units(of(dead(llama(1), name, 150)), of(dead(llama(2), name, 150)))
    assert found is not None
    assert not found.related
    assert found.best.looked == MANY - 150
    assert fingerprint(dead(llama(0), name, MANY), neurons=True).neurons is None


def test_order_does_not_matter_and_nothing_is_compared_with_nothing() -> None:
    one, other = of(llama(0)), of(disguised(changed(llama(0), 0.2), 1))
    assert common_units(one, other) == common_units(other, one)
    assert common_units(one, None) is None
    assert common_units(None, one) is None
    assert common_units(one, of(gpt2(0))) is None


def test_without_gates_and_with_centred_norms() -> None:
    one = of(gpt2(0))
    assert not one.is_gated
    assert share(one, of(permuted(gpt2(0), 1))) > 0.98
    shifted = {n: v + 3 if n in {"wte.weight", "wpe.weight"} else v for n, v in gpt2(0).items()}
    assert share(one, of(stored(shifted))) > 0.98  # what all coordinates have is not seen
    found = common_units(one, of(gpt2(1)))
    assert found is not None
    assert not found.related


def test_tokens_in_another_order_are_known_by_their_strings() -> None:
    tokens = tuple(f"t{n}" for n in range(TOKENS))
    order = np.random.default_rng(0).permutation(TOKENS)
    moved = disguised(llama(0), 1)
    moved["model.embed_tokens.weight"] = moved["model.embed_tokens.weight"][order]
    one = of(llama(0), tokens)
    assert one.kinds == ("tokens", "numbers")
    found = common_units(one, of(moved, tuple(tokens[n] for n in order)))
    assert found is not None
    assert found.labels == "tokens"
    assert found.best.share > 0.98
    assert share(one, of(moved)) < 0.07  # by numbers it is hidden
    assert share(one, of(llama(0))) == share(of(llama(0)), of(llama(0)))


def test_a_false_list_of_tokens_hides_nothing() -> None:
    tokens = tuple(f"t{n}" for n in range(TOKENS))
    found = common_units(of(llama(0), tokens), of(disguised(llama(0), 1), tokens[::-1]))
    assert found is not None
    assert found.labels == "numbers"
    assert found.best.share > 0.98


def test_other_tokens_beside_them_change_little() -> None:
    small, grown = llama(0, tokens=2000), llama(0, tokens=2000)
    more = np.random.default_rng(1).normal(0, 0.1, (40, WIDTH)).astype(np.float32)
    grown["model.embed_tokens.weight"] = np.concatenate([grown["model.embed_tokens.weight"], more])
    assert share(of(small), of(disguised(grown, 1))) > 0.5


def test_some_blocks_of_many_are_sketched_from_the_first_to_the_last() -> None:
    found = of(llama(0, layers=21))
    assert [number for _, number, _ in found.blocks] == [0, 2, 5, 8, 11, 14, 17, 20]
    assert len(found.blocks) == BLOCKS
    assert len(found.raw) == BLOCKS * UNITS * 32


def test_copied_blocks_among_a_strangers_are_found() -> None:
    stranger = llama(5)
    for name, values in llama(0).items():
        if ".layers.1." in name or "embed" in name:
            stranger[name] = values
    found = common_units(of(llama(0)), of(disguised(stranger, 1)))
    assert found is not None
    assert (found.blocks, found.of) == (1, LAYERS)


def without_stream(model: Model) -> Model:
    return {f"x{n}": values for n, values in enumerate(model.values())}


def few(model: Model) -> Model:
    return model | {"model.embed_tokens.weight": model["model.embed_tokens.weight"][:9]}


def no_embeddings(model: Model) -> Model:
    return model | {"model.embed_tokens.weight": np.full((TOKENS, WIDTH), np.nan, np.float32)}


def misshapen(model: Model) -> Model:
    return model | {n: v[:, :-1] for n, v in model.items() if READ[0] in n}


def longer(model: Model) -> Model:
    return model | {n: np.ones(3, np.float32) for n in model if "layernorm" in n and ".0." in n}


@pytest.mark.parametrize("change", [without_stream, few, no_embeddings, misshapen])
def test_what_is_no_transformer_has_no_sketch(change: Any) -> None:
    made = fingerprint(change(llama(0)), neurons=True)
    assert made.neurons is None
    assert made.root == fingerprint(change(llama(0))).root


def test_a_block_that_does_not_fit_is_left_out() -> None:
    assert [number for _, number, _ in of(longer(llama(0))).blocks] == [1, 2]


def test_values_that_are_none_count_as_nothing() -> None:
    holed = llama(0)
    for name in ("model.embed_tokens.weight", "model.layers.0.mlp.gate_proj.weight"):
        holed[name][::50, 0] = np.inf
    assert share(of(llama(0)), of(holed)) > 0.7


def test_it_is_asked_for_and_kept() -> None:
    assert fingerprint(llama(0)).neurons is None
    made = sketched(llama(0))
    assert made.neurons is not None
    assert made.root == fingerprint(llama(0)).root


def test_relatives_in_other_coordinates_are_told_from_fingerprints() -> None:
    one, other = sketched(llama(0)), sketched(disguised(changed(llama(0), 0.05), 1))
    found = compare(one, other)
    assert (found.related, found.relation, found.how) == (True, Relation.REPARAMETRIZED, None)
    assert found.direction is None
    assert LEAST_SCORE < found.score <= MOST_SCORE
    assert found.evidence[0].detector == "neurons-v1"
    assert found.evidence[0].statistic is not None
    assert found.evidence[0].statistic > 0.5
    assert found.log10_p is not None
    assert found.log10_p < -50
    assert compare(one, replace(other, neurons=None)).related is False
    stranger = compare(one, sketched(disguised(llama(1), 1)))
    assert (stranger.related, stranger.relation) == (False, None)


def test_weights_that_tell_are_believed_first() -> None:
    found = compare(sketched(llama(0)), sketched(changed(llama(0), 0.1)))
    assert found.relation is not Relation.REPARAMETRIZED
    assert found.evidence[0].detector != "neurons-v1"


def test_a_claim_is_not_told_what_a_sketch_does_not_tell() -> None:
    child = sketched(disguised(changed(llama(0), 0.05), 1))
    seen = measure(child, [sketched(llama(0))], is_only=True)[0].measurement
    assert (seen.related, seen.relation, seen.direction) == (True, None, None)


def test_what_may_be_one_start_alone_is_left_open() -> None:
    """Far apart, but not by chance: trainings of one initialisation are so, and very long ones."""
    one, other = sketched(llama(0)), sketched(disguised(changed(llama(0), 0.65), 1))
    seen = common_units(one.neurons, other.neurons)
    assert seen is not None
    assert LEAST_SHARE < seen.best.share < SURE_SHARE
    found = compare(one, other)
    assert (found.related, found.relation) == (None, None)
    assert "one initialisation" in found.evidence[0].words
    graph = infer_graph({"one": one, "other": other})
    assert [pair.related for pair in graph.pairs] == [None]
    assert "one initialisation" in graph.undetermined[0].why
    assert graph.pairs[0].score > LEAST_SCORE


def family() -> dict[str, Fingerprint]:
    """A base, what was tuned from it, both disguised alike, and two strangers."""
    tuned = changed(llama(0), 0.05)
    return {
        "base": sketched(llama(0)),
        "tuned": sketched(tuned),
        "hidden": sketched(disguised(tuned, 1)),
        "stranger": sketched(llama(1)),
        "other": sketched(disguised(llama(2), 3)),
    }


def test_a_graph_says_so_without_an_edge() -> None:
    models = family()
    graph = infer_graph(models)
    related = {frozenset((p.a, p.b)): p for p in graph.pairs if p.related}
    assert related.keys() == {
        frozenset(pair) for pair in (("base", "tuned"), ("base", "hidden"), ("hidden", "tuned"))
    }
    by_weights, by_units = (
        related[frozenset(pair)].score for pair in (("base", "tuned"), ("base", "hidden"))
    )
    assert max(p.score for p in graph.pairs if not p.related) < by_units < by_weights
    assert not any("hidden" in (edge.parent, edge.child) for edge in graph.edges)
    said = [u for u in graph.undetermined if "hidden" in (u.a, u.b)]
    assert len(said) == 1
    assert "in other coordinates" in said[0].why
    assert graph.family("hidden") != graph.family("base")
    assert graph.between("base", "hidden").relation is Relation.REPARAMETRIZED
    assert graph.between("base", "stranger").related is False
    turned = infer_graph(dict(reversed(models.items())))
    assert turned.to_json() == graph.to_json()
    bare = {path: replace(model, neurons=None) for path, model in models.items()}
    assert sum(p.related is True for p in infer_graph(bare).pairs) == 1


def test_sketches_spare_reading_weights_of_strangers() -> None:
    weights = Weights({"a": llama(0), "b": disguised(llama(0), 1)})
    models = {name: sketched(source) for name, source in weights.sources.items()}
    graph = infer_graph(models, weights=weights)
    assert [edge.relation for edge in graph.edges] == [Relation.REPARAMETRIZED]
    assert graph.family("a") == graph.family("b")
    models["b"] = replace(models["b"], neurons=of(llama(1)))
    assert not infer_graph(models, weights=weights).edges  # its weights were not asked


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = {"base": llama(0), "hidden": disguised(llama(0), 1), "other": llama(1)}
    for name, model in sources.items():
        save_file(model, tmp_path / f"{name}.safetensors")
        args = ["fingerprint", str(tmp_path / f"{name}.safetensors"), "--neurons"]
        assert run([*args, "-o", str(tmp_path / f"{name}.lineage")]) == 0
    capsys.readouterr()
    saved = [str(tmp_path / f"{name}.lineage") for name in sources]
    assert run(["compare", saved[0], saved[1], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["related"], found["relation"], found["direction"]) == (
        True,
        "reparametrized",
        None,
    )
    assert run(["compare", saved[0], saved[2]]) == 1
    capsys.readouterr()
    assert run(["infer", *saved, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [pair["related"] for pair in found["pairs"]] == [True, False, False]
    assert (found["edges"], len(found["undetermined"])) == ([], 1)


def test_the_command_line_says_what_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(without_stream(llama(0)), tmp_path / "m.safetensors")
    assert run(["fingerprint", str(tmp_path / "m.safetensors"), "--neurons"]) == 0
    assert "no neuron sketch" in capsys.readouterr().err


def test_a_list_of_tokens_that_is_none_does_not_matter(tmp_path: Path) -> None:
    save_file(llama(0), tmp_path / "model.safetensors")
    (tmp_path / "vocab.json").write_text("[]")
    found = fingerprint(tmp_path, neurons=True).neurons
    assert found is not None
    assert found.kinds == ("numbers",)
    saved = tmp_path / "m.lineage"
    save(fingerprint(tmp_path, neurons=True), saved)
    assert infer([saved]).nodes[0].id == fingerprint(saved).root
