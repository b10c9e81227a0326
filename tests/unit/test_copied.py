"""Parts of a model that are another's: a layer, embeddings, a tower, and what share they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from makers import write_model

from lineage.audit import measure
from lineage.cli import run
from lineage.fingerprints import fingerprint
from lineage.graph import LineageGraph, compare, infer

Model = dict[str, np.ndarray]
WIDTH, LAYERS, TOKENS = 48, 4, 160


def tower(seed: int, width: int = WIDTH, layers: int = LAYERS, *, prefix: str = "model.") -> Model:
    draw = np.random.default_rng(seed)

    def matrix(*shape: int) -> np.ndarray:
        return (draw.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32)

    found: Model = {}
    for k in range(layers):
        stem = f"{prefix}layers.{k}"
        for part in "qkvo":
            found[f"{stem}.self_attn.{part}_proj.weight"] = matrix(width, width)
        found[f"{stem}.mlp.up_proj.weight"] = matrix(2 * width, width)
        found[f"{stem}.mlp.down_proj.weight"] = matrix(width, 2 * width)
        found[f"{stem}.input_layernorm.weight"] = 1 + matrix(width) / 9
    return found


def network(seed: int) -> Model:
    draw = np.random.default_rng(1000 + seed)
    common = np.random.default_rng(5).standard_normal((1, WIDTH))
    table, head = draw.standard_normal((2, TOKENS, WIDTH)).astype(np.float32) / 6
    return {
        "model.embed_tokens.weight": table,
        **tower(seed),
        "lm_head.weight": (head + common / 2).astype(np.float32),  # as unseen tokens are
    }


def tuned(model: Model, seed: int, by: float = 0.1) -> Model:
    draw = np.random.default_rng([seed, 2])
    found = {}
    for name, value in model.items():
        if value.ndim == 1:
            found[name] = value + draw.standard_normal(value.shape).astype(np.float32) / 100
            continue
        low = draw.standard_normal((len(value), 6)) @ draw.standard_normal((6, value.shape[1]))
        size = by * np.linalg.norm(value) / np.linalg.norm(low)
        found[name] = (value + size * low).astype(np.float32)
    return found


def with_part(model: Model, source: Model, is_in: Callable[[str], bool]) -> Model:
    return {name: source[name] if is_in(name) else value for name, value in model.items()}


def share(model: Model, is_in: Callable[[str], bool]) -> float:
    return sum(v.size for n, v in model.items() if is_in(n)) / sum(v.size for v in model.values())


def layer(*numbers: int) -> Callable[[str], bool]:
    return lambda name: any(f".layers.{n}." in name for n in numbers)


def embedding(name: str) -> bool:
    return "embed_tokens" in name


BASE, OTHER = network(0), network(1)
FAMOUS, STRANGER = tuned(BASE, 3), tuned(OTHER, 4)
CASES = {"layer": layer(2), "two layers": layer(0, 1), "embedding": embedding}


def told(graph: LineageGraph) -> dict[tuple[str, str], tuple[str, str | None, float | None]]:
    return {(e.parent, e.child): (str(e.relation), e.how, e.coefficient) for e in graph.edges}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("by", [0.0, 0.3])
def test_a_copied_part_is_said_with_its_share_and_no_more(case: str, by: float) -> None:
    is_in = CASES[case]
    child = with_part(STRANGER, tuned(FAMOUS, 8, by), is_in)
    if not by:
        child = with_part(STRANGER, FAMOUS, is_in)
    found = compare(FAMOUS, child)
    assert found.related is None
    assert (found.relation, found.how) == ("merge", "passthrough")
    assert found.shares is not None
    assert found.shares.share_b == pytest.approx(share(child, is_in), abs=1e-6)
    assert all(part.is_equal == (by == 0) for part in found.shares.parts)
    back = compare(child, FAMOUS).shares
    assert back == found.shares.reversed()


def test_strangers_share_nothing_though_their_heads_lean_one_way() -> None:
    found = compare(FAMOUS, STRANGER)
    assert found.related is False
    assert found.to_json()["shares"] is None
    assert compare({**BASE}, STRANGER).to_json()["shares"] is None


def test_most_of_a_model_is_related_and_says_its_share() -> None:
    child = with_part(FAMOUS, STRANGER, layer(2))
    found = compare(FAMOUS, child)
    assert found.shares is not None
    assert found.shares.share_b == pytest.approx(1 - share(child, layer(2)), abs=1e-6)
    assert found.related is not False


def test_torn_layers_are_no_copied_parts() -> None:
    child = with_part(STRANGER, FAMOUS, lambda name: "self_attn" in name)
    found = compare(FAMOUS, child)
    assert found.relation is None or found.related


@pytest.mark.parametrize("name", ["filters", "filters.0.weight"])
def test_one_fixed_table_of_both_is_no_copy(name: str) -> None:
    table = np.random.default_rng(6).standard_normal((64, 64)).astype(np.float32)
    found = compare({**FAMOUS, name: table}, {**STRANGER, name: table})
    assert found.to_json()["shares"] is None
    assert found.relation is None


@pytest.mark.parametrize("case", CASES)
def test_infer_gives_both_sources_and_keeps_families_apart(case: str) -> None:
    is_in = CASES[case]
    child = with_part(STRANGER, FAMOUS, is_in)
    models = {"base": BASE, "famous": FAMOUS, "other": OTHER, "child": child}
    graph = infer(models)
    part = share(child, is_in)
    edges = told(graph)
    assert edges["famous", "child"] == ("merge", "passthrough", pytest.approx(part, abs=1e-6))
    assert edges["other", "child"][2] == pytest.approx(1 - part, abs=1e-6)
    assert graph.family("famous") != graph.family("other") == graph.family("child")
    assert {p.related for p in graph.pairs if {p.a, p.b} == {"famous", "child"}} == {None}
    assert {p.related for p in graph.pairs if {p.a, p.b} == {"famous", "other"}} == {False}


def test_a_part_of_two_strangers_without_relatives_has_no_first() -> None:
    child = with_part(STRANGER, FAMOUS, layer(2))
    graph = infer({"famous": FAMOUS, "child": child})
    assert not graph.edges
    assert "which had them first" in graph.undetermined[0].why


def test_a_model_of_halves_of_two_families_is_of_neither() -> None:
    child = with_part(STRANGER, FAMOUS, layer(0, 1))
    child["model.embed_tokens.weight"] = network(7)["model.embed_tokens.weight"]
    graph = infer(
        {"famous": FAMOUS, "base": BASE, "stranger": STRANGER, "other": OTHER, "c": child}
    )
    edges = told(graph)
    assert edges["famous", "c"][2] == pytest.approx(share(child, layer(0, 1)), abs=1e-6)
    rest = share(child, layer(2, 3)) + share(child, lambda name: "lm_head" in name)
    assert edges["stranger", "c"][2] == pytest.approx(rest, abs=1e-6)
    assert len({graph.family(name) for name in ("famous", "stranger", "c")}) == 3


def test_a_trained_part_does_not_weld_two_families() -> None:
    child = with_part(STRANGER, tuned(FAMOUS, 8, 0.2), layer(0, 1))
    graph = infer({"base": BASE, "famous": FAMOUS, "other": OTHER, "child": child})
    assert graph.family("famous") != graph.family("other") == graph.family("child")
    assert ("famous", "child") in told(graph)


@pytest.mark.parametrize("by", [0.0, 0.15])
def test_a_model_of_two_towers_has_both_as_sources(by: float) -> None:
    vision = {
        **{n.replace("model.", "vit.encoder.", 1): v for n, v in tower(20, 32, 3).items()},
        "vit.embeddings.patch_embeddings.projection.weight": np.random.default_rng(3)
        .standard_normal((32, 3, 4, 4)).astype(np.float32),
    }  # fmt: skip
    language = network(21)
    inner = tuned(vision_matrices(vision), 30, by) if by else vision
    composed = {
        **{f"vision_tower.{n.removeprefix('vit.')}": v.reshape(vision[n].shape)
           for n, v in inner.items()},
        "multi_modal_projector.linear_1.weight": np.random.default_rng(4)
        .standard_normal((WIDTH, 32)).astype(np.float32),
        **{f"language_model.{n}": v for n, v in language.items()},
    }  # fmt: skip
    graph = infer({"vision": vision, "language": language, "composed": composed})
    edges = told(graph)
    size = sum(v.size for v in composed.values())
    for name, model in (("vision", vision), ("language", language)):
        relation, how, part = edges[name, "composed"]
        assert (relation, how) == ("merge", "passthrough")
        assert part == pytest.approx(sum(v.size for v in model.values()) / size, abs=0.02)
    assert graph.family("vision") != graph.family("language")


def vision_matrices(model: Model) -> Model:
    return {name: value.reshape(len(value), -1) if value.ndim > 2 else value
            for name, value in model.items()}  # fmt: skip


def test_a_claim_gets_the_share_as_its_coefficient() -> None:
    child = with_part(STRANGER, FAMOUS, layer(2))
    (found,) = measure(fingerprint(child), [fingerprint(FAMOUS)], is_only=True)
    assert found.measurement.related is None
    assert (found.measurement.relation, found.measurement.how) == ("merge", "passthrough")
    assert found.coefficient == pytest.approx(share(child, layer(2)), abs=1e-6)


def test_commands_say_the_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (
        str(write_model(tmp_path / f"{name}.safetensors", model))
        for name, model in (("a", FAMOUS), ("b", with_part(STRANGER, FAMOUS, layer(2))))
    )
    assert run(["compare", a, b]) == 3
    said = capsys.readouterr().out
    assert "related in parts" in said
    assert "blk.2 is blk.2: the same" in said
    assert run(["align", a, b]) == 0
    assert "blk.2 is blk.2: the same" in capsys.readouterr().out
