"""Models in other coordinates: what was done is found and undone, and never seen in strangers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from makers import Array
from safetensors.numpy import load, load_file, save, save_file

from lineage import fingerprint, infer
from lineage.alignment import Alignment, Stream, align, head_rows, neurons, solve, turning
from lineage.alignment.applied import aligned
from lineage.alignment.certificate import check, from_bytes, to_bytes
from lineage.alignment.turning import fitted
from lineage.artifacts import read
from lineage.artifacts.tokens import tokens_of
from lineage.cli import run
from lineage.errors import ArchitectureError, FormatError, VerificationError
from lineage.fingerprints.agreement import Agreement
from lineage.fingerprints.measure import Pass
from lineage.graph import rewriting

Model = dict[str, Array]

SCHEMA = json.loads((files("lineage") / "spec" / "commands-v1.schema.json").read_text())

WIDTH, UNITS, HEADS, GROUPS, SIZE, LAYERS, TOKENS = 48, 96, 4, 2, 12, 3, 160


def llama(seed: int = 0, *, groups: int = GROUPS, layers: int = LAYERS) -> Model:
    """A model of Llama's shapes, with gains that are not one."""
    draw = np.random.default_rng([seed, 1])

    def matrix(rows: int, cols: int) -> Array:
        return draw.normal(0, 0.05, (rows, cols))

    model = {"model.embed_tokens.weight": matrix(TOKENS, WIDTH)}
    for n in range(layers):
        stem = f"model.layers.{n}."
        model |= {
            f"{stem}input_layernorm.weight": draw.uniform(0.5, 1.5, WIDTH),
            f"{stem}post_attention_layernorm.weight": draw.uniform(0.5, 1.5, WIDTH),
            f"{stem}self_attn.q_proj.weight": matrix(HEADS * SIZE, WIDTH),
            f"{stem}self_attn.k_proj.weight": matrix(groups * SIZE, WIDTH),
            f"{stem}self_attn.v_proj.weight": matrix(groups * SIZE, WIDTH),
            f"{stem}self_attn.o_proj.weight": matrix(WIDTH, HEADS * SIZE),
            f"{stem}self_attn.q_proj.bias": draw.normal(0, 0.05, HEADS * SIZE),
            f"{stem}mlp.gate_proj.weight": matrix(UNITS, WIDTH),
            f"{stem}mlp.up_proj.weight": matrix(UNITS, WIDTH),
            f"{stem}mlp.down_proj.weight": matrix(WIDTH, UNITS),
        }
    model["model.norm.weight"] = draw.uniform(0.5, 1.5, WIDTH)
    model["lm_head.weight"] = matrix(TOKENS, WIDTH)
    return stored(model)


def stored(model: Model) -> Model:
    return {name: np.ascontiguousarray(values, np.float32) for name, values in model.items()}


def wide(model: Model) -> Model:
    return {name: values.astype(np.float64) for name, values in model.items()}


READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


def layers_of(model: Model) -> range:
    return range(sum(name.endswith("mlp.up_proj.weight") for name in model))


def rotated(model: Model, seed: int) -> Model:
    """Fold the norms' gains and turn the stream."""
    model = wide(model)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)))[0]
    for n in layers_of(model):
        stem = f"model.layers.{n}."
        for norm, readers in READERS.items():
            gain = model[f"{stem}{norm}.weight"]
            for reader in readers:
                model[f"{stem}{reader}.weight"] = (model[f"{stem}{reader}.weight"] * gain) @ turn
            model[f"{stem}{norm}.weight"] = np.ones(WIDTH)
        for writer in ("self_attn.o_proj", "mlp.down_proj"):
            model[f"{stem}{writer}.weight"] = turn.T @ model[f"{stem}{writer}.weight"]
    model["lm_head.weight"] = (model["lm_head.weight"] * model["model.norm.weight"]) @ turn
    model["model.norm.weight"] = np.ones(WIDTH)
    model["model.embed_tokens.weight"] = model["model.embed_tokens.weight"] @ turn
    return stored(model)


def permuted(model: Model, seed: int) -> Model:
    """Change the order of the stream's coordinates, and the signs of some."""
    model = wide(model)
    draw = np.random.default_rng(seed)
    order = draw.permutation(WIDTH)
    sign = draw.choice([-1.0, 1.0], WIDTH)
    for name, values in model.items():
        if "norm" in name:
            model[name] = values[order]
        elif name.endswith("bias"):
            continue
        elif "o_proj" in name or "down_proj" in name:
            model[name] = values[order] * sign[:, None]
        else:
            model[name] = values[:, order] * sign
    return stored(model)


def rescaled(model: Model, seed: int) -> Model:
    """Make the stream three times as large; norms take that away."""
    del seed
    model = wide(model)
    for name in model:
        if name.endswith(("o_proj.weight", "down_proj.weight", "embed_tokens.weight")):
            model[name] = model[name] * 3
    return stored(model)


def units_moved(model: Model, seed: int) -> Model:
    """Change the order of units, and multiply what they read by what they are divided by later."""
    model = wide(model)
    draw = np.random.default_rng(seed)
    for n in layers_of(model):
        stem = f"model.layers.{n}.mlp."
        order = draw.permutation(UNITS)
        by = np.exp(draw.normal(0, 0.5, UNITS)) * draw.choice([-1.0, 1.0], UNITS)
        model[f"{stem}gate_proj.weight"] = model[f"{stem}gate_proj.weight"][order]
        model[f"{stem}up_proj.weight"] = model[f"{stem}up_proj.weight"][order] * by[:, None]
        model[f"{stem}down_proj.weight"] = model[f"{stem}down_proj.weight"][:, order] / by
    return stored(model)


def heads_turned(model: Model, seed: int) -> Model:
    """Change the order of heads and groups, turn values, and queries as rotary embeddings allow."""
    model = wide(model)
    draw = np.random.default_rng(seed)
    for n in layers_of(model):
        stem = f"model.layers.{n}.self_attn."
        q, k, v = (model[f"{stem}{x}_proj.weight"].reshape(-1, SIZE, WIDTH) for x in "qkv")
        bias = model[f"{stem}q_proj.bias"].reshape(-1, SIZE)
        o = model[f"{stem}o_proj.weight"].T.reshape(-1, SIZE, WIDTH)
        each = len(q) // len(k)
        for g in range(len(k)):
            turn = np.linalg.qr(draw.normal(size=(SIZE, SIZE)))[0] @ np.diag(
                draw.uniform(0.5, 2, SIZE)
            )
            v[g] = turn @ v[g]
            phase = np.exp(draw.normal(0, 0.3, SIZE // 2) + 1j * draw.uniform(0, 6, SIZE // 2))
            k[g] = on_pairs(k[g], 1 / phase.conj())
            for h in range(g * each, (g + 1) * each):
                o[h] = np.linalg.inv(turn).T @ o[h]
                q[h] = on_pairs(q[h], phase)
                bias[h] = on_pairs(bias[h][:, None], phase)[:, 0]
        groups = draw.permutation(len(k))
        order = np.concatenate([g * each + draw.permutation(each) for g in groups])
        model[f"{stem}q_proj.weight"] = q[order].reshape(-1, WIDTH)
        model[f"{stem}q_proj.bias"] = bias[order].reshape(-1)
        model[f"{stem}k_proj.weight"] = k[groups].reshape(-1, WIDTH)
        model[f"{stem}v_proj.weight"] = v[groups].reshape(-1, WIDTH)
        model[f"{stem}o_proj.weight"] = o[order].reshape(-1, WIDTH).T
    return stored(model)


def on_pairs(rows: Array, by: Array) -> Array:
    half = SIZE // 2
    both = (rows[:half] + 1j * rows[half:]) * by[:, None]
    return np.concatenate([both.real, both.imag])


def everything(model: Model, seed: int) -> Model:
    return rotated(heads_turned(units_moved(rescaled(model, seed), seed), seed), seed)


def tuned(model: Model, size: float, seed: int = 5) -> Model:
    draw = np.random.default_rng([seed, 2])
    return stored({
        name: values + size * np.std(values) * draw.normal(size=values.shape)
        for name, values in model.items()
    })  # fmt: skip


DISGUISES: dict[str, tuple[Callable[[Model, int], Model], set[str]]] = {
    "rotated": (rotated, {"rotated"}),
    "permuted": (permuted, {"permuted"}),
    "rescaled": (rescaled, {"rescaled"}),
    "units": (units_moved, {"permuted", "rescaled"}),
    "heads": (heads_turned, {"rotated"}),
    "everything": (everything, {"rotated", "permuted", "rescaled"}),
}


def solved(a: Model, b: Model) -> tuple[Alignment, Model]:
    """Align b with a; return the alignment and b in a's coordinates."""
    with read(a) as one, read(b) as other:
        first, second = Stream.of(one.items, name="a"), Stream.of(other.items, name="b")
        found = solve(first, second)
        return found, values_of(aligned(first, second, found))


def values_of(artifact: Any) -> Model:
    found = {}
    for item in artifact.items:
        raw = item.source.piece(0, item.size_bytes, memoryview(bytearray(item.size_bytes)))
        found[item.name] = np.frombuffer(bytes(raw), np.float32).reshape(item.shape)
    return found


def furthest(a: Model, b: Model) -> float:
    """The largest relative difference of any tensor."""
    return max(float(np.linalg.norm(a[n] - b[n]) / np.linalg.norm(a[n])) for n in a)


@pytest.mark.parametrize("groups", [GROUPS, HEADS])
@pytest.mark.parametrize("name", DISGUISES)
def test_a_disguise_is_found_and_undone_to_rounding(name: str, groups: int) -> None:
    base = llama(groups=groups)
    hide, how = DISGUISES[name]
    hidden = hide(base, 3)
    found, undone = solved(base, hidden)
    assert found.related
    assert set(found.how) == how
    assert [block.a for block in found.blocks] == [("blk", n) for n in range(LAYERS)]
    assert furthest(base, hidden) > 0.3
    assert furthest(base, undone) < 1e-5


@pytest.mark.parametrize("name", DISGUISES)
def test_what_came_after_a_disguise_is_what_is_left(name: str) -> None:
    base = llama()
    hidden = tuned(DISGUISES[name][0](base, 3), 0.05)
    found, undone = solved(base, hidden)
    assert found.related
    assert 0.01 < furthest(base, undone) < 0.25


def test_nothing_was_done_to_a_plain_child() -> None:
    base = llama()
    child = tuned(base, 0.3)
    found, undone = solved(base, child)
    assert found.related
    assert found.how == ()
    assert furthest(child, undone) == 0


@pytest.mark.parametrize("seed", range(20))
def test_strangers_stay_strangers(seed: int) -> None:
    found, _ = solved(llama(0), everything(llama(100 + seed), seed))
    assert not found.related
    assert found.share == 0
    assert found.agreement.share < 0.05
    assert found.agreement.log10_p > -6


def test_strangers_with_one_embedding_stay_strangers() -> None:
    base, other = llama(0), llama(1)
    other["model.embed_tokens.weight"] = base["model.embed_tokens.weight"]
    found, _ = solved(base, rotated(other, 2))
    assert not found.related


def test_layers_in_other_places_are_told() -> None:
    base = llama(layers=4)
    places = [0, 2, 1, 2, 3]
    child = {name: values for name, values in base.items() if ".layers." not in name}
    for to, came in enumerate(places):
        for name, values in base.items():
            if name.startswith(f"model.layers.{came}."):
                child[name.replace(f".{came}.", f".{to}.", 1)] = values
    found, _ = solved(base, everything(child, 1))
    assert [block.a and block.a[1] for block in found.blocks] == places


def test_blocks_of_a_stranger_are_reported_as_that_share_and_no_more() -> None:
    base, child = llama(0, layers=4), llama(1, layers=4)
    for name, values in base.items():
        if name.startswith("model.layers.2.") or "embed" in name:
            child[name] = values
    found, _ = solved(base, everything(child, 1))
    assert [block.a is not None for block in found.blocks] == [False, False, True, False]
    assert found.share == pytest.approx(0.25)


def test_units_that_were_left_out_are_told() -> None:
    base = llama()
    kept = np.sort(np.random.default_rng(0).permutation(UNITS)[:60])
    child = dict(base)
    for n in range(LAYERS):
        stem = f"model.layers.{n}.mlp."
        child[f"{stem}gate_proj.weight"] = base[f"{stem}gate_proj.weight"][kept]
        child[f"{stem}up_proj.weight"] = base[f"{stem}up_proj.weight"][kept]
        child[f"{stem}down_proj.weight"] = base[f"{stem}down_proj.weight"][:, kept]
    found, _ = solved(base, tuned(rotated(stored(child), 4), 0.05))
    assert found.related
    for block in found.blocks:
        assert np.array_equal(np.sort(block.mlps[0].units.a), kept)


def test_a_dense_block_is_found_in_experts() -> None:
    base = llama()
    child = {name: values for name, values in base.items() if ".mlp." not in name}
    names = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    for n in range(LAYERS):
        for expert in range(3):
            stem = f"model.layers.{n}.block_sparse_moe.experts.{expert}."
            for name, short in names.items():
                dense = base[f"model.layers.{n}.mlp.{name}.weight"]
                child[f"{stem}{short}.weight"] = tuned({"w": dense}, 0.1, seed=expert)["w"]
    found, _ = solved(base, child)
    assert found.related
    for block in found.blocks:
        assert [mlp.b for mlp in block.mlps] == ["0", "1", "2"]
        assert all(mlp.a == "" for mlp in block.mlps)


def gpt2(seed: int = 0) -> Model:
    """A model of GPT-2's shapes: layer norms, fused queries, matrices stored inputs first."""
    draw = np.random.default_rng([seed, 9])

    def matrix(rows: int, cols: int) -> Array:
        return draw.normal(0, 0.05, (rows, cols))

    model = {
        "wte.weight": matrix(TOKENS, WIDTH),
        "wpe.weight": matrix(40, WIDTH),
        "ln_f.weight": draw.uniform(0.5, 1.5, WIDTH),
        "ln_f.bias": draw.normal(0, 0.1, WIDTH),
    }
    for n in range(LAYERS):
        stem = f"h.{n}."
        for norm in ("ln_1", "ln_2"):
            model[f"{stem}{norm}.weight"] = draw.uniform(0.5, 1.5, WIDTH)
            model[f"{stem}{norm}.bias"] = draw.normal(0, 0.1, WIDTH)
        model[f"{stem}attn.c_attn.weight"] = matrix(WIDTH, 3 * WIDTH)
        model[f"{stem}attn.c_attn.bias"] = draw.normal(0, 0.05, 3 * WIDTH)
        model[f"{stem}attn.c_proj.weight"] = matrix(WIDTH, WIDTH)
        model[f"{stem}attn.c_proj.bias"] = draw.normal(0, 0.05, WIDTH)
        model[f"{stem}mlp.c_fc.weight"] = matrix(WIDTH, UNITS)
        model[f"{stem}mlp.c_fc.bias"] = draw.normal(0, 0.05, UNITS)
        model[f"{stem}mlp.c_proj.weight"] = matrix(UNITS, WIDTH)
        model[f"{stem}mlp.c_proj.bias"] = draw.normal(0, 0.05, WIDTH)
    return stored(model)


def gpt2_permuted(model: Model, seed: int) -> Model:
    model = wide(model)
    draw = np.random.default_rng(seed)
    order, units = draw.permutation(WIDTH), draw.permutation(UNITS)
    for name, values in model.items():
        if "c_fc.weight" in name:
            model[name] = values[order][:, units]
        elif "c_fc.bias" in name:
            model[name] = values[units]
        elif "mlp.c_proj.weight" in name:
            model[name] = values[units][:, order]
        elif "c_attn.weight" in name:
            model[name] = values[order]
        elif "c_attn.bias" not in name:
            model[name] = values[..., order]
    return stored(model)


def test_layer_norms_and_matrices_stored_inputs_first() -> None:
    base = gpt2()
    found, undone = solved(base, gpt2_permuted(base, 2))
    assert found.related
    assert set(found.how) == {"permuted"}
    assert furthest(base, undone) < 1e-5
    assert not solved(base, gpt2_permuted(gpt2(1), 2))[0].related


def with_tokens(folder: Path, model: Model, tokens: list[str]) -> str:
    folder.mkdir()
    save_file(model, folder / "model.safetensors")
    numbers = {token: n for n, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(numbers))
    return str(folder)


def test_tokens_that_were_numbered_anew_are_known_by_their_strings(tmp_path: Path) -> None:
    base = llama()
    order = np.random.default_rng(0).permutation(TOKENS)
    hidden = rotated(base, 1)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        hidden[name] = hidden[name][order]
    names = [f"token {n}" for n in range(TOKENS)]
    a = with_tokens(tmp_path / "a", base, names)
    b = with_tokens(tmp_path / "b", hidden, [names[n] for n in order])
    found = align(a, b)
    assert found.related
    assert found.tokens is not None
    out = tmp_path / "out.safetensors"
    assert run(["align", a, b, "--write", str(out)]) == 0
    assert furthest(base, load_file(out)) < 1e-5
    (tmp_path / "b" / "vocab.json").unlink()
    assert not align(a, b).related  # nothing says which row is which


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("vocab.json", '{"b": 1, "a": 0}', ("a", "b")),
        ("vocab.json", '{"b": 0, "a": 0}', None),
        ("vocab.txt", "a\nb\n", ("a", "b")),
        (
            "tokenizer.json",
            '{"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"content": "c", "id": 3}]}',
            ("a", "b", "", "c"),
        ),
        ("tokenizer.json", '{"model": {"vocab": [["a", -1.5], ["b", -2]]}}', ("a", "b")),
    ],
)
def test_tokens_are_read_in_the_order_of_their_numbers(
    tmp_path: Path, name: str, text: str, expected: tuple[str, ...] | None
) -> None:
    (tmp_path / name).write_text(text)
    assert tokens_of(tmp_path) == expected


@pytest.mark.parametrize("text", ["{", '{"a": -1}', '{"a": "b"}', '["a"]', '{"a": 1e99}'])
def test_a_list_of_tokens_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "vocab.json").write_text(text)
    with pytest.raises(FormatError, match=r"vocab\.json: is no list of tokens"):
        tokens_of(tmp_path)


def test_only_a_path_has_tokens_beside_it(tmp_path: Path) -> None:
    assert tokens_of({"w": np.zeros(2)}) is None
    assert tokens_of(tmp_path) is None


def test_an_unknown_architecture_is_said_to_be_unknown() -> None:
    draw = np.random.default_rng(0)
    plain = {"layer.weight": draw.normal(size=(8, 8)).astype(np.float32)}
    with pytest.raises(ArchitectureError, match="no norms"):
        align(plain, plain)
    nothing = {**plain, "a_norm.weight": np.ones(8, np.float32)}
    with pytest.raises(ArchitectureError, match="no embeddings or no feed-forward blocks"):
        align(nothing, nothing)


def test_streams_of_two_widths_are_compared_but_not_written() -> None:
    base = llama()
    kept = np.arange(0, WIDTH, 2)
    narrow = {
        name: values[kept]
        if "norm" in name or name.endswith(("o_proj.weight", "down_proj.weight"))
        else values
        if name.endswith("bias")
        else values[:, kept]
        for name, values in base.items()
    }
    with read(base) as one, read(stored(narrow)) as other:
        first, second = Stream.of(one.items, name="a"), Stream.of(other.items, name="b")
        found = solve(first, second)
        assert found.related
        assert found.turn.order is not None
        assert np.array_equal(found.turn.order, kept)
        with pytest.raises(ArchitectureError, match="24 numbers and the other's 48"):
            aligned(first, second, found)


def test_a_certificate_is_applied_by_others_and_to_no_other_models(tmp_path: Path) -> None:
    base = llama()
    paths = {}
    for name, model in {"a": base, "b": everything(base, 7), "c": llama(5)}.items():
        paths[name] = str(tmp_path / f"{name}.safetensors")
        save_file(model, paths[name])
    maps, out = str(tmp_path / "maps"), str(tmp_path / "out.safetensors")
    assert run(["align", paths["a"], paths["b"], "--certificate", maps]) == 0
    assert run(["align", paths["a"], paths["b"], "--apply", maps, "--write", out]) == 0
    assert furthest(base, load_file(out)) < 1e-5
    assert run(["align", paths["a"], paths["c"], "--apply", maps]) == 1
    data = Path(maps).read_bytes()
    roots = fingerprint(paths["a"]).root, fingerprint(paths["b"]).root
    again = from_bytes(data, *roots)
    assert to_bytes(again, *roots) == data
    with pytest.raises(VerificationError, match="two other models"):
        from_bytes(data, roots[1], roots[0])
    for cut in (0, 7, 40, len(data) // 2, len(data) - 1):
        with pytest.raises(FormatError):
            from_bytes(data[:cut], *roots)
    with pytest.raises(FormatError, match="no alignment"):
        from_bytes(Path(paths["a"]).read_bytes(), *roots)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"turn": "wide"}, "other widths"),
        ({"turn": "twice"}, "two coordinates to one place"),
        ({"scale": 0.0}, "its scale is none"),
        ({"scale": float("nan")}, "its scale is none"),
        ({"blocks": ()}, "its blocks are others"),
        ({"tokens": np.zeros(TOKENS, np.intp)}, "its tokens are no order"),
        ({"a": ("blk", 99)}, "one that is not there"),
        ({"unit": UNITS}, "units that are not there"),
        ({"unit": -1}, "units that are not there"),
        ({"scales": np.zeros(UNITS)}, "a unit without a scale"),
    ],
)
def test_maps_that_are_not_of_the_models_are_refused(change: dict[str, Any], reason: str) -> None:
    base = llama()
    with read(base) as one, read(permuted(units_moved(base, 1), 1)) as other:
        a, b = Stream.of(one.items, name="a"), Stream.of(other.items, name="b")
        found = solve(a, b)
        check(found, a, b)
        block = found.blocks[0]
        mlp = block.mlps[0]
        match change:
            case {"turn": "wide"}:
                change = {"turn": replace(found.turn, matrix=np.eye(WIDTH + 1))}
            case {"turn": "twice"}:
                change = {"turn": replace(found.turn, order=np.zeros(WIDTH, np.intp))}
            case {"a": where}:
                change = {"blocks": (replace(block, a=where), *found.blocks[1:])}
            case {"unit": place}:
                moved = replace(mlp.units, b=np.append(mlp.units.b[:-1], place))
                wrong = replace(block, mlps=(replace(mlp, units=moved),))
                change = {"blocks": (wrong, *found.blocks[1:])}
            case {"scales": scales}:
                moved = replace(mlp.units, scales=scales)
                wrong = replace(block, mlps=(replace(mlp, units=moved),))
                change = {"blocks": (wrong, *found.blocks[1:])}
        with pytest.raises(FormatError, match=reason):
            check(replace(found, **change), a, b)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"outer": np.arange(HEADS + 1)}, "other heads"),
        ({"inside": np.zeros((GROUPS, SIZE + 1, SIZE + 1))}, "maps of other heads"),
        ({"values": np.full((GROUPS, SIZE, SIZE), np.nan)}, "maps of other heads"),
    ],
)
def test_maps_of_other_heads_are_refused(change: dict[str, Any], reason: str) -> None:
    base = llama()
    with read(base) as one, read(heads_turned(base, 3)) as other:
        a, b = Stream.of(one.items, name="a"), Stream.of(other.items, name="b")
        found = solve(a, b)
        check(found, a, b)
        block = found.blocks[0]
        assert block.heads is not None
        assert block.heads.inside is not None
        assert block.heads.inside.shape == (GROUPS, SIZE, SIZE)  # a map a head, and no whole matrix
        wrong = replace(block, heads=replace(block.heads, **change))
        with pytest.raises(FormatError, match=reason):
            check(replace(found, blocks=(wrong, *found.blocks[1:])), a, b)


@pytest.mark.parametrize(
    "change",
    [
        {"outer": np.zeros(HEADS, np.int64)},
        {"outer": np.arange(HEADS + 1)},
        {"inner": None},
        {"inside": None},
        {"values": np.zeros((GROUPS + 1, SIZE, SIZE))},
    ],
)
def test_certificates_with_maps_of_no_heads_are_refused(change: dict[str, Array | None]) -> None:
    base = llama()
    hidden = heads_turned(base, 3)
    data = to_bytes(align(base, hidden), "a", "b")
    arrays = load(data)
    text = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["lineage"]
    for part, array in change.items():
        del arrays[f"block.0.heads.{part}"]
        if array is not None:
            arrays[f"block.0.heads.{part}"] = array
    with pytest.raises(FormatError, match="no alignment"):
        from_bytes(save(arrays, {"lineage": text}), "a", "b")


def test_heads_are_found_wherever_they_were_turned() -> None:
    base = llama(layers=7)
    turned = heads_turned(base, 3)
    hidden = {n: turned[n] if ".layers.6." in n else array for n, array in wide(base).items()}
    found, undone = solved(base, hidden)
    assert [block.heads.kind for block in found.blocks if block.heads] == ["same"] * 6 + ["rotated"]
    assert furthest(base, undone) < 1e-5


def test_a_wide_stream_is_looked_at_along_some_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    base = llama()
    hidden = everything(base, 7)
    for module, name, most in (
        (turning, "_WIDE", 40), (head_rows, "_PROJECTED", 36), (head_rows, "_FEW", 8),
        (head_rows, "_FITTED", 40),
        (neurons, "_PROJECTED", 108), (neurons, "_MEASURED", 50), (neurons, "_AT_ONCE", 960),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, most)
    found, undone = solved(base, hidden)
    assert set(found.how) == {"rotated", "permuted", "rescaled"}
    assert furthest(base, undone) < 1e-5
    assert not solved(base, everything(llama(5), 7))[0].related


def test_a_hidden_child_hangs_on_its_parent() -> None:
    base = llama()
    models = {
        "base": base,
        "child": tuned(base, 0.05, 1),
        "other child": tuned(base, 0.1, 2),
        "hidden": everything(base, 3),
        "hidden and tuned": tuned(everything(base, 3), 0.05, 4),
        "moved": units_moved(tuned(base, 0.05, 1), 4),
        "stranger": llama(1),
    }
    graph = infer(models)
    families = {node.path: node.family for node in graph.nodes}
    assert len({families[name] for name in models if name != "stranger"}) == 1
    assert families["stranger"] != families["base"]
    hidden = {"hidden", "hidden and tuned", "moved"}
    across = [e for e in graph.edges if len({e.parent in hidden, e.child in hidden}) == 2]
    assert across
    assert all(e.relation == "reparametrized" and e.how in {"rotated", "permuted"} for e in across)
    (moved,) = graph.parents("moved")
    assert (moved.parent, moved.then) == ("child", None)
    assert "then" not in moved.to_json()
    assert any(
        e.then is not None and e.to_json()["then"]["relation"] == "finetune" for e in across
    ) or (graph.parents("hidden and tuned")[0].parent == "hidden")
    ids = {node.path: node.id for node in graph.nodes}
    assert ids["hidden"] == fingerprint(models["hidden"]).root  # as it is, not as it was written
    assert not any(e.relation == "reparametrized" for e in infer({k: models[k] for k in (
        "base", "child", "other child", "stranger")}).edges)  # fmt: skip


def test_large_models_are_sketched_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    base = llama()
    models = {"base": base, "hidden": everything(base, 3), "stranger": everything(llama(1), 2)}
    expected = infer(models).edges
    asked = []

    def solved_once(a: Any, b: Any) -> Any:
        asked.append(1)
        return solve(a, b)

    monkeypatch.setattr(rewriting, "LARGE", 0)
    monkeypatch.setattr(rewriting, "solve", solved_once)
    assert infer(models).edges == expected
    assert len(asked) <= 3  # to find it, and to say what is left; the stranger is never read


def test_aligned_tensors_are_made_piece_by_piece() -> None:
    base = llama()
    with read(base) as one, read(rotated(base, 1)) as other:
        first, second = Stream.of(one.items, name="a"), Stream.of(other.items, name="b")
        moved = aligned(first, second, solve(first, second))
        whole = values_of(moved)
        item = next(i for i in moved.items if i.name == "lm_head.weight")
        pieces = [
            item.source.piece(s, 1000, memoryview(b"")) for s in range(0, item.size_bytes, 1000)
        ]
        assert b"".join(bytes(p) for p in pieces)[: item.size_bytes] == whole[item.name].tobytes()
        assert Pass("full").over(moved).root == fingerprint(whole).root


def test_a_turn_is_told_from_a_permutation_and_from_nothing() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(200, 30)).astype(np.float32)
    order = draw.permutation(30)
    assert fitted([(rows, rows)]).kind == "same"
    assert fitted([(rows, -2 * rows[:, order])]).kind == "permuted"
    assert fitted([(rows, -2 * rows[:, order])]).scale == pytest.approx(0.5)
    spun = np.linalg.qr(draw.normal(size=(30, 30)))[0].astype(np.float32)
    assert fitted([(rows, rows @ spun)]).kind == "rotated"
    assert not fitted([(rows[:10], rows[:10] @ spun)]).is_whole


def test_what_rounding_left_of_means_turns_no_direction() -> None:
    draw = np.random.default_rng(0)
    ones = np.full(48, 48**-0.5)
    basis = np.linalg.qr(np.column_stack([ones, draw.normal(size=(48, 47))]))[0][:, 1:]
    vectors = draw.normal(size=(400, 47))
    vectors[:, 0] = 0.02  # a quiet direction
    spun = np.linalg.qr(draw.normal(size=(47, 47)))[0]
    a = (vectors @ basis.T).astype(np.float32)
    b = (vectors @ spun @ basis.T + 3e-7).astype(np.float32)
    turned = ones @ fitted([(a, b)]).matrix
    assert np.linalg.norm(turned - ones * np.sign(turned @ ones)) < 1e-6


def test_agreement_adds_up_and_its_p_never_is_zero() -> None:
    both = Agreement(3, 100, 1.0) + Agreement(0, 100, 1.0)
    assert (both.agreed, both.looked, both.expected) == (3, 200, 2.0)
    assert Agreement(0, 100, 1.0).log10_p == 0
    assert -np.inf < Agreement(512, 512, 1.0).log10_p < -1000
    assert Agreement(60, 512, 1.0).tells()
    assert not Agreement(50, 512, 1.0).tells()  # beyond chance, but too few
    assert not Agreement(4, 20, 1.0).tells()  # enough, but it may be chance
    assert Agreement(13, 100, 1.0).tells()
    assert not Agreement(13, 100, 1.0).tells(10**6)


def test_the_command_says_what_was_undone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = llama()
    paths = []
    for name, model in {"a": base, "b": everything(base, 7), "c": llama(5)}.items():
        paths.append(str(tmp_path / f"{name}.safetensors"))
        save_file(model, paths[-1])
    a, b, c = paths
    assert run(["align", a, b]) == 0
    text = capsys.readouterr().out
    assert (
        "has 100% of its blocks from a.safetensors; coordinates: rotated, permuted, rescaled"
        in text
    )
    assert "block 1 is 1: 96 of 96 units agree, heads rotated" in text
    assert run(["align", a, c, "--json"]) == 3
    unsure = json.loads(capsys.readouterr().out)
    jsonschema.validate(unsure, {**SCHEMA, "$ref": "#/$defs/align"})
    assert unsure["related"] is None
    assert run(["align", a, c]) == 3
    assert "which is no proof that they are independent" in capsys.readouterr().out
    assert run(["align", a, b, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, {**SCHEMA, "$ref": "#/$defs/align"})
    assert document["stream"]["kind"] == "rotated"
    assert document["left"]["change"] < 1e-5
    assert document["left"]["relation"] == "identical"


def test_a_few_blocks_decide_and_nothing_else_is_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = llama(layers=7)
    hidden = everything(base, 7)
    for name in list(hidden):
        if ".layers.1." in name or ".layers.3." in name:
            hidden[name] = hidden[name] + np.float32(np.nan)  # no block that is asked about
    paths = []
    for name, model in {"a": base, "b": hidden, "c": everything(llama(5, layers=7), 3)}.items():
        paths.append(str(tmp_path / f"{name}.safetensors"))
        save_file(model, paths[-1])
    a, b, c = paths
    assert run(["align", a, b, "--decide", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, {**SCHEMA, "$ref": "#/$defs/align"})
    assert [(block["b"], block["a"]) for block in document["blocks"]] == [
        (0, 0), (2, 2), (4, 4), (6, 6),
    ]  # fmt: skip
    assert (document["how"], document["left"]) == (["rotated"], None)
    assert run(["align", a, b, "--decide"]) == 0
    text = capsys.readouterr().out
    assert "has 100% of the looked-at blocks from a.safetensors" in text
    assert "block 4 is 4\n" in text
    assert run(["align", a, c, "--decide"]) == 3
    assert "nothing of 4 blocks was found" in capsys.readouterr().out
    assert run(["align", a, b, "--decide", "--write", str(tmp_path / "out")]) == 2
    assert "no way to write" in capsys.readouterr().err


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused_by_name(value: float) -> None:
    broken = llama()
    broken["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    with pytest.raises(FormatError, match=r"tensor 'model\.layers\.1\.mlp\.up_proj\.weight': 1 of"):
        align(llama(), broken)


NAMES = [
    "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight",
    *(f"model.layers.0.{name}" for name in (
        "input_layernorm.weight", "input_layernorm.bias", "post_attention_layernorm.weight",
        "self_attn.q_proj.weight", "self_attn.q_proj.bias", "self_attn.k_proj.weight",
        "self_attn.v_proj.weight", "self_attn.o_proj.weight", "mlp.gate_proj.weight",
        "mlp.up_proj.weight", "mlp.up_proj.bias", "mlp.down_proj.weight", "mlp.down_proj.bias",
    )),
]  # fmt: skip


def odd_model(draw: np.random.Generator) -> Model:
    """A model of some of the tensors above, a few with other shapes, without values, or huge."""
    found = {}
    for name in draw.permutation(NAMES)[: draw.integers(6, len(NAMES) + 1)]:
        shape = (8,) if "norm" in name or "bias" in name else (8, 8)
        if draw.random() < 0.1:
            shape = tuple(draw.choice([1, 4, 8, 12], draw.integers(1, 4)))
        scale = draw.choice([0.0, 1.0, 1.0, 1.0, 1e30])
        found[str(name)] = (draw.normal(size=shape) * scale).astype(np.float32)
    return found


@pytest.mark.parametrize("seed", range(100))
def test_models_of_any_shapes_are_aligned_or_refused(seed: int) -> None:
    draw = np.random.default_rng([seed, 11])
    try:
        found, _ = solved(odd_model(draw), odd_model(draw))
    except (ArchitectureError, FormatError):
        return
    assert not found.related


def test_a_pair_that_is_hidden_in_part_alone_is_told() -> None:
    base = llama()
    (edge,) = infer({"base": base, "moved": heads_turned(base, 3)}).edges
    assert (edge.relation, edge.then) == ("reparametrized", None)
