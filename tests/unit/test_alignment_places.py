"""What names and shapes tell together: own words, second attentions, experts, heads."""

from __future__ import annotations

import numpy as np
import pytest
from makers import Array
from test_alignment_dialects import furthest, solved

from lineage.alignment import Stream
from lineage.artifacts import read
from lineage.errors import ArchitectureError
from lineage.fingerprints.places import places_of

WIDTH, UNITS, HEADS, SIZE, TOKENS, EXPERTS = 48, 80, 4, 12, 160, 4


def roles(*names: str, shape: tuple[int, ...] = (3, 3)) -> set[str]:
    with read({name: np.zeros(shape, np.float32) for name in names}) as model:
        return set(places_of(model.items))


def test_a_word_of_the_models_own_is_taken_off() -> None:
    found = roles("zork.encoder.layer.0.attention.q_proj.weight", "zork.embeddings.norm.weight")
    assert found == {"blk.0.attn_q.weight", "token_embd_norm.weight"}


def test_a_word_that_tells_two_halves_apart_is_left() -> None:
    found = roles("zork.layers.0.mlp.fc1.weight", "layers.0.mlp.fc1.weight")
    assert found == {"zork.layers.0.mlp.fc1.weight", "blk.0.ffn_up.weight"}


def test_a_word_in_front_of_no_layers_is_left() -> None:
    assert roles("zork.fc.weight", "layers.0.mlp.fc1.weight") == {
        "zork.fc.weight", "blk.0.ffn_up.weight",
    }  # fmt: skip


def test_a_decoder_alone_is_the_model() -> None:
    found = roles("model.decoder.embed_tokens.weight", "model.decoder.layers.0.fc1.weight")
    assert found == {"token_embd.weight", "blk.0.ffn_up.weight"}
    both = roles("model.decoder.layers.0.fc1.weight", "model.encoder.layers.0.fc1.weight")
    assert both == {"dec.blk.0.ffn_up.weight", "blk.0.ffn_up.weight"}


@pytest.mark.parametrize(
    "name",
    [
        "model.decoder.layers.1.encoder_attn.q_proj.weight",
        "decoder.block.1.layer.1.EncDecAttention.q.weight",
        "bert.encoder.layer.1.crossattention.self.query.weight",
    ],
)
def test_a_second_attention_is_a_block_of_its_own(name: str) -> None:
    found = roles(name, "decoder.layers.0.fc1.weight", "encoder.layers.0.fc1.weight")
    assert {one.removeprefix("dec.") for one in found} >= {"cross.1.attn_q.weight"}


def test_the_parts_of_a_second_attention_are_its_own() -> None:
    found = roles(
        "decoder.layers.0.multihead_attn.in_proj_weight",
        "decoder.layers.0.self_attn.in_proj_weight",
        "encoder.layers.0.self_attn.in_proj_weight",
        shape=(9, 3),
    )
    assert found == {
        f"{stack}.0.attn_{one}.weight" for stack in ("blk", "dec.blk", "dec.cross") for one in "qkv"
    }


def test_each_matrix_of_a_stack_of_experts_has_a_place() -> None:
    name = "model.layers.0.mlp.experts.down_proj"
    with read({name: np.arange(24, dtype=np.float32).reshape(2, 3, 4)}) as model:
        found = places_of(model.items)
    assert set(found) == {f"blk.0.expert.{e}.ffn_down.weight" for e in (0, 1)}
    assert [place.layer for place in found.values()] == [0, 1]
    assert found["blk.0.expert.1.ffn_down.weight"].size == 12


def encoder_and_decoder(seed: int) -> dict[str, Array]:
    """Make a T5 with two layers a half."""
    draw = np.random.default_rng([seed, 5])
    made = {"shared.weight": draw.normal(0, 1, (TOKENS, WIDTH))}
    for half, parts in (("encoder", ("Self",)), ("decoder", ("Self", "EncDec"))):
        for n in range(2):
            for at, kind in enumerate(parts):
                stem = f"{half}.block.{n}.layer.{at}"
                for one in "qkvo":
                    made[f"{stem}.{kind}Attention.{one}.weight"] = draw.normal(0, 0.1, (48, 48))
                made[f"{stem}.layer_norm.weight"] = draw.uniform(0.5, 1.5, WIDTH)
            stem = f"{half}.block.{n}.layer.{len(parts)}"
            made[f"{stem}.DenseReluDense.wi.weight"] = draw.normal(0, 0.1, (UNITS, WIDTH))
            made[f"{stem}.DenseReluDense.wo.weight"] = draw.normal(0, 0.1, (WIDTH, UNITS))
            made[f"{stem}.layer_norm.weight"] = draw.uniform(0.5, 1.5, WIDTH)
        made[f"{half}.final_layer_norm.weight"] = draw.uniform(0.5, 1.5, WIDTH)
        name = f"{half}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        made[name] = draw.normal(0, 1, (32, HEADS))
    return made


def moved(made: dict[str, Array], seed: int) -> dict[str, Array]:
    """Permute stream and heads, and turn the values of second attentions."""
    draw = np.random.default_rng([seed, 6])
    stream = draw.permutation(WIDTH)
    heads = {half: draw.permutation(HEADS) for half in ("encoder", "decoder")}
    made = {name: values.copy() for name, values in made.items()}
    for name, values in made.items():
        half = name.split(".")[0]
        order = heads.get(half, np.arange(HEADS))
        rows = (order[:, None] * SIZE + np.arange(SIZE)).reshape(-1)
        if name.endswith((".q.weight", ".k.weight", ".v.weight")):
            made[name] = values[rows][:, stream]
        elif name.endswith("Attention.o.weight"):
            made[name] = values[stream][:, rows]
        elif "relative" in name:
            made[name] = values[:, order]
        elif name.endswith(("wo.weight", "norm.weight")):
            made[name] = values[stream]
        else:
            made[name] = values[:, stream]
    for n in range(2):
        stem = f"decoder.block.{n}.layer.1.EncDecAttention"
        for h in range(HEADS):
            at = slice(h * SIZE, (h + 1) * SIZE)
            turn = draw.normal(0, 1, (SIZE, SIZE))
            made[f"{stem}.v.weight"][at] = turn @ made[f"{stem}.v.weight"][at]
            made[f"{stem}.o.weight"][:, at] = made[f"{stem}.o.weight"][:, at] @ np.linalg.inv(turn)
    return made


def single(made: dict[str, Array]) -> dict[str, Array]:
    return {name: np.ascontiguousarray(values, np.float32) for name, values in made.items()}


def test_a_decoders_second_attention_is_undone() -> None:
    base = encoder_and_decoder(1)
    found, undone = solved(single(base), single(moved(base, 3)))
    assert found.related
    assert found.share == 1
    assert furthest(single(base), single(moved(base, 3))) > 0.1
    assert furthest(single(base), undone) < 1e-5


def test_a_stranger_with_a_second_attention_stays_one() -> None:
    for seed in range(3):
        other = moved(encoder_and_decoder(10 + seed), seed)
        found, _ = solved(single(encoder_and_decoder(1)), single(other))
        assert not found.related


def mixture(seed: int, *, is_stacked: bool) -> dict[str, Array]:
    draw = np.random.default_rng([seed, 8])
    made = {
        "model.embed_tokens.weight": draw.normal(0, 1, (TOKENS, WIDTH)),
        "model.norm.weight": draw.uniform(0.5, 1.5, WIDTH),
    }
    for n in range(2):
        stem = f"model.layers.{n}"
        for one in ("input_layernorm", "post_attention_layernorm"):
            made[f"{stem}.{one}.weight"] = draw.uniform(0.5, 1.5, WIDTH)
        for one in "qkvo":
            made[f"{stem}.self_attn.{one}_proj.weight"] = draw.normal(0, 0.1, (48, 48))
        made[f"{stem}.mlp.gate.weight"] = draw.normal(0, 0.1, (EXPERTS, WIDTH))
        both = draw.normal(0, 0.1, (EXPERTS, 2 * UNITS, WIDTH))
        down = draw.normal(0, 0.1, (EXPERTS, WIDTH, UNITS))
        if is_stacked:
            made[f"{stem}.mlp.experts.gate_up_proj"] = both
            made[f"{stem}.mlp.experts.down_proj"] = down
            continue
        for e in range(EXPERTS):
            at = f"{stem}.mlp.experts.{e}"
            made[f"{at}.gate_proj.weight"] = both[e, :UNITS]
            made[f"{at}.up_proj.weight"] = both[e, UNITS:]
            made[f"{at}.down_proj.weight"] = down[e]
    return made


def with_experts_moved(made: dict[str, Array], seed: int) -> dict[str, Array]:
    """Rotate the stream, gains folded, and put experts in another order with their rows."""
    draw = np.random.default_rng([seed, 9])
    turn, _ = np.linalg.qr(draw.normal(0, 1, (WIDTH, WIDTH)))
    order = draw.permutation(EXPERTS)
    found = {}
    for name, values in made.items():
        stem = ".".join(name.split(".")[:3])
        if name.endswith("norm.weight"):
            found[name] = np.ones(WIDTH)
            continue
        norm = "input_layernorm" if "self_attn" in name else "post_attention_layernorm"
        gain = made.get(f"{stem}.{norm}.weight", np.ones(WIDTH))
        if name.endswith(("o_proj.weight", "down_proj.weight", "down_proj")):
            found[name] = turn @ values
        elif "embed" in name:
            found[name] = values @ turn.T
        else:
            found[name] = (values * gain) @ turn.T
        if name.endswith(("mlp.gate.weight", "gate_up_proj", "experts.down_proj")):
            found[name] = found[name][order]
    for name in found:
        if ".experts." in name and name.endswith(".weight"):
            head, _, tail = name.partition(".experts.")
            number, _, last = tail.partition(".")
            came = f"{head}.experts.{order[int(number)]}.{last}"
            found[name] = _turned(made, came, turn)
    return found


def _turned(made: dict[str, Array], name: str, turn: Array) -> Array:
    if name.endswith("down_proj.weight"):
        found: Array = turn @ made[name]
        return found
    stem = ".".join(name.split(".")[:3])
    read: Array = (made[name] * made[f"{stem}.post_attention_layernorm.weight"]) @ turn.T
    return read


@pytest.mark.parametrize("is_stacked", [False, True])
def test_experts_and_their_router_are_put_back(is_stacked: bool) -> None:
    base = mixture(1, is_stacked=is_stacked)
    other = with_experts_moved(base, 3)
    found, undone = solved(single(base), single(other))
    assert found.related
    assert furthest(single(base), single(other)) > 0.1
    assert furthest(single(base), undone) < 1e-5


@pytest.mark.parametrize("is_stacked", [False, True])
def test_another_mixtures_experts_are_nobodys(is_stacked: bool) -> None:
    base = mixture(1, is_stacked=is_stacked)
    other = with_experts_moved(mixture(12, is_stacked=is_stacked), 3)
    assert not solved(single(base), single(other))[0].related


def test_what_no_table_knows_is_moved_if_that_fits() -> None:
    """A vector and a matrix of unknown use, one along the stream and one not."""
    base = encoder_and_decoder(1)
    draw = np.random.default_rng(4)
    base["decoder.gauge"] = draw.normal(0, 1, WIDTH)
    base["decoder.other.weight"] = draw.normal(0, 1, (WIDTH, WIDTH))
    other = moved({n: v for n, v in base.items() if n not in ("decoder.gauge",)}, 3)
    stream = np.random.default_rng([3, 6]).permutation(WIDTH)
    other["decoder.gauge"] = base["decoder.gauge"][stream]
    other["decoder.other.weight"] = base["decoder.other.weight"]
    _, undone = solved(single(base), single(other))
    assert furthest(single(base), undone) < 1e-5


def test_the_largest_half_is_aligned_where_two_have_other_widths() -> None:
    """As in CLIP: a tower of another width is left as it is, and refuses nothing."""
    draw = np.random.default_rng(2)
    base = encoder_and_decoder(1)
    for name, shape in (("mlp.fc1", (20, 16)), ("mlp.fc2", (16, 20))):
        base[f"vision_model.encoder.layers.0.{name}.weight"] = draw.normal(0, 1, shape)
    base["vision_model.encoder.layers.0.layer_norm1.weight"] = np.ones(16)
    base["classifier.weight"] = draw.normal(0, 1, (7, 2 * WIDTH))
    plain = [n for n in base if n.startswith(("vision", "classifier"))]
    other = moved({n: v for n, v in base.items() if n not in plain}, 3)
    stream = np.random.default_rng([3, 6]).permutation(WIDTH)
    other |= {n: base[n] for n in plain}
    both = base["classifier.weight"].reshape(7, 2, WIDTH)[:, :, stream]
    other["classifier.weight"] = both.reshape(7, 2 * WIDTH)
    found, undone = solved(single(base), single(other))
    assert found.related
    assert furthest(single(base), undone) < 1e-5


def test_nothing_is_an_embedding_by_its_width_alone() -> None:
    base = encoder_and_decoder(1)
    base["whatever.weight"] = base.pop("shared.weight")
    with read(single(base)) as model, pytest.raises(ArchitectureError, match="no embeddings"):
        Stream.of(model.items, name="a")
