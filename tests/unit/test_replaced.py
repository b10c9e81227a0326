"""Vocabularies and heads that were made anew: norms say nothing there, but who has which does."""

from __future__ import annotations

import numpy as np
import pytest
from makers import Array
from test_structure import TOKENS, D, Model, network, tuned

from lineage import fingerprint, infer
from lineage.evidence import compare_fingerprints
from lineage.evidence.matching import table
from lineage.evidence.replaced import DRAWN, is_drawn
from lineage.graph import LineageGraph

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
LAWS = {
    "normal": lambda rng, shape: rng.normal(0, 0.02, shape),
    "uniform": lambda rng, shape: rng.uniform(-0.1, 0.1, shape),
    "clipped": lambda rng, shape: rng.normal(0, 0.02, shape).clip(-0.04, 0.04),
}

BASE = network(0)
ONE, TWO = tuned(BASE, 1, 0.12), tuned(BASE, 2, 0.2)


def with_vocabulary(model: Model, seed: int, tokens: int = TOKENS) -> Model:
    """Draw embedding and head anew."""
    rng = np.random.default_rng([21, seed])
    drawn = {
        name: rng.normal(0, 0.02, (tokens, D)).astype(np.float32) for name in (EMBEDDING, HEAD)
    }
    return model | drawn


def shuffled(model: Model) -> Model:
    """Give the tokens other numbers."""
    order = np.random.default_rng(22).permutation(TOKENS)
    return model | {name: model[name][order] for name in (EMBEDDING, HEAD)}


def has_drawn(weights: Array) -> bool:
    of = table(fingerprint({HEAD: weights.astype(np.float32)}))
    return is_drawn(of, 0)


def edges(graph: LineageGraph) -> dict[tuple[str, str], str | None]:
    return {(e.parent, e.child): e.how for e in graph.edges}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("shape", [(300, 64), (10, 64), (1000, 48), (40, 700)])
def test_a_matrix_as_it_was_drawn(law: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    assert sum(has_drawn(LAWS[law](rng, shape)) for _ in range(20)) >= 19


def test_a_trained_matrix_is_not_as_it_was_drawn() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.normal(0, 0.02, (300, 64))
    assert has_drawn(drawn)
    assert not has_drawn(drawn * np.exp(rng.normal(0, 0.3, 64)))
    assert not has_drawn(drawn * np.exp(rng.normal(0, 0.3, (300, 1))))
    assert not has_drawn(drawn + rng.normal(0, 0.02, (300, 1)) @ rng.normal(0, 1, (1, 64)))
    assert not has_drawn(np.full((300, 64), 0.5))


@pytest.mark.parametrize("tokens", [TOKENS, TOKENS + 40])
@pytest.mark.parametrize("size", [0, 0.1])
def test_who_has_a_new_vocabulary_is_the_child(tokens: int, size: float) -> None:
    child = with_vocabulary(tuned(BASE, 3, size), 1, tokens)
    a, b = fingerprint(BASE), fingerprint(child)
    found, back = compare_fingerprints(a, b), compare_fingerprints(b, a)
    assert (found.related, found.relation, found.direction) == (True, "finetune", "a->b")
    assert back.direction == "b->a"
    assert found.evidence[0].detector == DRAWN
    assert found.how == ("full" if size else "partial")


def test_neither_is_said_to_be_the_child_where_both_are_drawn_or_none() -> None:
    first, second = with_vocabulary(BASE, 1), with_vocabulary(BASE, 2)
    assert compare_fingerprints(fingerprint(first), fingerprint(second)).direction is None
    found = compare_fingerprints(fingerprint(BASE), fingerprint(shuffled(BASE)))
    assert (found.related, found.direction) == (True, None)
    assert "in another order" in found.evidence[-1].words


def test_a_vocabulary_alone_makes_no_relatives() -> None:
    stranger = network(5)
    taken = stranger | {EMBEDDING: BASE[EMBEDDING], HEAD: BASE[HEAD]}
    assert not compare_fingerprints(fingerprint(BASE), fingerprint(taken)).related
    drawn = with_vocabulary(stranger, 1)
    assert compare_fingerprints(fingerprint(BASE), fingerprint(drawn)).related is False


@pytest.mark.parametrize("tokens", [TOKENS, TOKENS + 40])
@pytest.mark.parametrize("size", [0, 0.1])
def test_a_family_with_a_new_vocabulary(tokens: int, size: float) -> None:
    child = with_vocabulary(tuned(BASE, 3, size), 1, tokens)
    models = {"base": BASE, "one": ONE, "two": TWO, "child": child, "next": tuned(child, 4, 0.1)}
    found = edges(infer(models))
    how = "full" if size else "partial"
    assert found == {
        ("base", "one"): "full", ("base", "two"): "full",
        ("base", "child"): how, ("child", "next"): "full",
    }  # fmt: skip


def test_the_family_tells_whose_tokens_got_other_numbers() -> None:
    found = infer({"base": BASE, "one": ONE, "two": TWO, "moved": shuffled(BASE)})
    assert set(edges(found)) == {("base", "one"), ("base", "two"), ("base", "moved")}
    (alone,) = infer({"base": BASE, "moved": shuffled(BASE)}).edges
    assert alone.probability == 0.5


def test_a_head_that_was_made_anew_in_two_children() -> None:
    rng = np.random.default_rng(3)
    heads = [rng.normal(0, 0.02, (TOKENS, D)).astype(np.float32) for _ in range(2)]
    models = {"base": BASE, "one": ONE | {HEAD: heads[0]}, "two": TWO | {HEAD: heads[1]}}
    assert set(edges(infer(models))) == {("base", "one"), ("base", "two")}


def test_where_norms_alone_were_trained_the_family_tells_which_model() -> None:
    rng = np.random.default_rng(4)
    moved = {
        name: (w + rng.normal(0, 0.1, w.shape)).astype(np.float32) if w.ndim == 1 else w
        for name, w in BASE.items()
    }
    models = {"base": BASE, "one": ONE, "two": TWO, "norms": moved, "next": tuned(moved, 5, 0.1)}
    found = infer(models)
    assert set(edges(found)) == {
        ("base", "one"), ("base", "two"), ("base", "norms"), ("norms", "next"),
    }  # fmt: skip


def test_a_table_of_positions_in_one_row_is_no_head_that_was_made_anew() -> None:
    """Image models hold theirs as 1 by N by D: without its largest direction nothing is left."""
    rng = np.random.default_rng(6)
    positions = rng.normal(0, 0.02, (1, 17, D)).astype(np.float32)
    head = rng.normal(0, 0.1, (10, D)).astype(np.float32)
    names = "vit.embeddings.position_embeddings", "classifier.weight"

    def with_both(model: Model, seed: int) -> Model:
        own = {names[0]: positions, names[1]: head}
        return model | (tuned(own, seed, 0.05) if seed else own)

    models = {"base": with_both(BASE, 0), "one": with_both(ONE, 1), "two": with_both(TWO, 2)}
    moved = models["one"] | {names[1]: models["one"][names[1]][rng.permutation(10)]}
    found = infer(models | {"moved": moved})
    assert set(edges(found)) == {("base", "one"), ("base", "two"), ("one", "moved")}
    (edge,) = (edge for edge in found.edges if edge.child == "moved")
    assert edge.probability == 0.95
