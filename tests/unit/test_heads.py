"""What predicts tokens grows on the way from parent to child."""

from __future__ import annotations

import numpy as np
import pytest

from lineage.evidence.panel import Panel
from lineage.fingerprints import fingerprint

Arrays = dict[str, np.ndarray]
TABLE, BLOCK = "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"
NEVER = slice(100, 160)
"""Tokens that never occur."""


def begun(head: str | None) -> Arrays:
    draw = np.random.default_rng(81)
    names = [TABLE, BLOCK, *([head] if head else [])]
    return {name: draw.normal(size=(160, 48)).astype(np.float32) for name in names}


def tuned(model: Arrays, seed: int, predicts: str | None) -> Arrays:
    """Take decay, add noise, and push down the tokens that never occur, all along one direction."""
    draw = np.random.default_rng([82, seed])
    found = {n: 0.995 * w + 0.002 * draw.normal(size=w.shape) for n, w in model.items()}
    if predicts:
        found[predicts][NEVER] -= 0.2 * np.random.default_rng(83).choice([-1.0, 1.0], 48)
    return {n: w.astype(np.float32) for n, w in found.items()}


def run(head: str | None, predicts: str | None) -> list[Arrays]:
    models = [begun(head)]
    for seed in range(4):
        models.append(tuned(models[-1], seed, predicts))
    return models[1:]


def seen(models: list[Arrays]) -> Panel:
    return Panel([fingerprint(model) for model in models])


@pytest.mark.parametrize(
    "name", ["lm_head.weight", "decoder.weight", "embed_out.weight", "lm_head.decoder.weight"]
)
def test_a_head_grows_where_all_else_decays(name: str) -> None:
    panel = seen(run(name, name)[1:])
    found = panel.heads
    assert (found.head[np.triu_indices(3, 1)] > 0.1).all()
    assert (found.head_lead[np.triu_indices(3, 1)] > 0.1).all()
    assert not found.table.any()
    assert not found.table_lead.any()
    assert panel.grown.sign[0, 2] < 0
    for one in found:
        np.testing.assert_allclose(one, -one.T, atol=1e-9)


TABLES = (
    TABLE, "model.decoder.embed_tokens.weight", "backbone.embeddings.weight",
    "rwkv.embeddings.weight", "embedding.weight",
)  # fmt: skip
"""As Llama, OPT, Mamba and RWKV call it, and who writes a network on an afternoon."""


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_asked_where_nothing_else_predicts(name: str) -> None:
    models = [{name: model[TABLE], BLOCK: model[BLOCK]} for model in run(None, TABLE)[1:]]
    found = seen(models).heads
    assert (found.table[np.triu_indices(3, 1)] > 0.1).all()
    assert not found.head.any()


def test_the_table_of_what_predicts_nothing_decays() -> None:
    found = seen(run(None, None)).heads
    assert (found.table[np.triu_indices(4, 1)] < 0).all()


def test_without_tokens_and_without_steps_nothing_is_said() -> None:
    bare = [{BLOCK: model[BLOCK], "classifier.weight": model[TABLE]} for model in run(None, TABLE)]
    for one in (*seen(bare).heads, *seen([begun(TABLE)] * 2).heads):
        assert not one.any()
