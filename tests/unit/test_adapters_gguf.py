"""LoRA files of llama.cpp have the identity of the peft adapter that they were made of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from lineage.adapters import adapter_of
from lineage.adapters.base import Unread
from lineage.adapters.llama_cpp import REORDERED
from lineage.artifacts import read
from lineage.errors import FormatError
from lineage.evidence.contained import contained
from lineage.fingerprints import fingerprint

if TYPE_CHECKING:
    from pathlib import Path

HEADS, KV_HEADS, HEAD, WIDTH, RANK, ALPHA = 4, 2, 8, 32, 4, 6
MODULES = {
    "model.layers.0.self_attn.q_proj": ("blk.0.attn_q", HEADS * HEAD),
    "model.layers.0.self_attn.k_proj": ("blk.0.attn_k", KV_HEADS * HEAD),
    "model.layers.0.self_attn.v_proj": ("blk.0.attn_v", KV_HEADS * HEAD),
    "model.layers.1.mlp.down_proj": ("blk.1.ffn_down", 48),
}
Q = "blk.0.attn_q.weight.lora_b"


def random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def reordered(rows: Any, heads: int) -> Any:
    """Return rows as llama.cpp's converter orders those of queries and keys."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def as_peft(folder: Path) -> Path:
    tensors: dict[str, Any] = {}
    for seed, (module, (_, rows)) in enumerate(MODULES.items()):
        tensors[f"base_model.model.{module}.lora_A.weight"] = random(RANK, WIDTH, seed=seed)
        tensors[f"base_model.model.{module}.lora_B.weight"] = random(rows, RANK, seed=seed)
    stem = "base_model.model.model.embed_tokens.lora_embedding"
    tensors |= {f"{stem}_A": random(RANK, 50), f"{stem}_B": random(WIDTH, RANK)}
    tensors["base_model.model.model.norm.weight"] = random(WIDTH)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "modules_to_save": ["norm"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def factors(architecture: str = "llama") -> dict[str, Any]:
    found: dict[str, Any] = {}
    heads = {"blk.0.attn_q": HEADS, "blk.0.attn_k": KV_HEADS} if architecture == "llama" else {}
    for seed, (name, rows) in enumerate(MODULES.values()):
        found[f"{name}.weight.lora_a"] = random(RANK, WIDTH, seed=seed)
        b = random(rows, RANK, seed=seed)
        found[f"{name}.weight.lora_b"] = reordered(b, heads[name]) if name in heads else b
    found["token_embd.weight.lora_a"] = random(RANK, 50).T
    found["token_embd.weight.lora_b"] = random(WIDTH, RANK)
    found["output_norm.weight"] = random(WIDTH)
    return found


def written(
    path: Path,
    tensors: dict[str, Any],
    architecture: str = "llama",
    *,
    alpha: float | None = ALPHA,
    kind: str = "lora",
    is_adapter: bool = True,
    heads: tuple[Any, Any] | None = None,
    packed: gguf.GGMLQuantizationType | None = None,
) -> Path:
    """Write a file as llama.cpp's converters do, with its own writer."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER if is_adapter else gguf.GGUFType.MODEL)
    if is_adapter:
        writer.add_string(gguf.Keys.Adapter.TYPE, kind)
    if alpha is not None:
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    if heads is not None:
        writer.add_head_count(heads[0])
        writer.add_head_count_kv(heads[1])
    for name, tensor in tensors.items():
        values = np.ascontiguousarray(tensor)
        if packed is not None and values.ndim == 2 and values.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quantize(values, packed), raw_dtype=packed)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def identity(source: Any, base: Any = None) -> str:
    found = fingerprint(source, base=base).delta
    assert found is not None
    return found.id


def config_of_base(folder: Path, **settings: Any) -> Path:
    folder.mkdir()
    save_file({"model.norm.weight": random(WIDTH)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_a_file_of_llama_cpp_is_the_adapter_of_peft(tmp_path: Path) -> None:
    expected = identity(as_peft(tmp_path / "peft"))
    file = written(tmp_path / "lora.gguf", factors())
    model = {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS}
    bases = [
        config_of_base(tmp_path / "base", **model),
        config_of_base(tmp_path / "seeing", text_config=model),
        written(
            tmp_path / "base.gguf", {"output_norm.weight": random(WIDTH)}, alpha=None,
            is_adapter=False, heads=(HEADS, KV_HEADS),
        ),
    ]  # fmt: skip
    assert [identity(file, base) for base in bases] == [expected] * 3
    # Older converters wrote the heads into the adapter's own header.
    older = written(tmp_path / "older.gguf", factors(), heads=(HEADS, KV_HEADS))
    assert identity(older) == expected
    wrong = config_of_base(tmp_path / "wrong", num_attention_heads=2)
    assert identity(file, wrong) != expected


def test_where_nothing_was_reordered_no_base_is_asked_for(tmp_path: Path) -> None:
    expected = identity(as_peft(tmp_path / "peft"))
    assert identity(written(tmp_path / "a.gguf", factors("qwen2"), "qwen2")) == expected
    # The configuration that it was made of may lie beside it, and says nothing of its names.
    beside = written(tmp_path / "peft" / "a.gguf", factors("qwen2"), "qwen2")
    assert identity(beside) == expected


@pytest.mark.parametrize("architecture", sorted(REORDERED | {"llama4", "qwen3", "olmo2"}))
def test_rows_are_put_back_where_a_converter_moved_them(architecture: str, tmp_path: Path) -> None:
    """Which converters do is read in llama.cpp; that of llama was run (`benchmarks/formats.py`)."""
    expected = identity(as_peft(tmp_path / "peft"))
    assert architecture in {*gguf.MODEL_ARCH_NAMES.values(), "nanbeige"}  # the newest
    is_moved = architecture in REORDERED
    tensors = factors("llama" if is_moved else architecture)
    file = written(tmp_path / "a.gguf", tensors, architecture, heads=(HEADS, KV_HEADS))
    assert identity(file) == expected


def test_layers_may_have_other_numbers_of_heads(tmp_path: Path) -> None:
    expected = identity(as_peft(tmp_path / "peft"))
    file = written(tmp_path / "a.gguf", factors(), "deci")
    queries = {"num_attention_heads": HEADS}
    groups = [{"attention": {"n_heads_in_group": n}} for n in (HEADS // KV_HEADS, None)]
    known = [
        {**queries, "num_key_value_heads_per_layer": [KV_HEADS, 1]},
        {**queries, "block_configs": groups},
        {"n_heads": HEADS, "n_kv_heads": KV_HEADS},
    ]
    for number, config in enumerate(known):
        base = config_of_base(tmp_path / f"base-{number}", **config)
        assert identity(file, base) == expected
    heads = {"a": ([HEADS, 0], [KV_HEADS, 0]), "b": (HEADS, [KV_HEADS, 0])}
    norm = {"output_norm.weight": random(WIDTH)}
    for name, both in heads.items():  # a header's lists are not read, and nothing is made of them
        path = tmp_path / f"base-{name}.gguf"
        header = written(path, norm, "deci", alpha=None, is_adapter=False, heads=both)
        assert fingerprint(file, base=header).delta is None
    open_ = [
        {**queries, "num_key_value_heads_per_layer": []},
        {**queries, "num_key_value_heads_per_layer": [0, 2]},
        {**queries, "num_key_value_heads_per_layer": [-1]},
        {**queries, "block_configs": [{"attention": {}}]},
        {**queries, "block_configs": 3},
        {"block_configs": groups},
    ]
    for number, config in enumerate(open_):
        base = config_of_base(tmp_path / f"open-{number}", **config)
        assert fingerprint(file, base=base).delta is None


@pytest.mark.parametrize("base", [None, "memory", "empty"])
def test_heads_that_nobody_tells_leave_the_change_open(base: str | None, tmp_path: Path) -> None:
    file = written(tmp_path / "lora.gguf", factors())
    given = {None: None, "memory": {"x": random(2, 2)}, "empty": tmp_path / "base"}[base]
    config_of_base(tmp_path / "base", num_attention_heads="4")
    with read(file) as artifact:
        found = adapter_of(artifact, file, given)
    assert isinstance(found, Unread)
    assert "how many heads" in found.reason
    assert fingerprint(file, base=given).delta is None


def test_scales_and_types_are_those_of_llama_cpp(tmp_path: Path) -> None:
    name = "blk.1.ffn_down"
    tensors = {k: v for k, v in factors().items() if k.startswith(name)}
    norms = {}
    for case, alpha in (("none", None), ("zero", 0.0), ("eight", 2.0 * RANK)):
        found = fingerprint(written(tmp_path / f"{case}.gguf", tensors, alpha=alpha)).delta
        assert found is not None
        norms[case] = found.norm
    assert norms["none"] == norms["zero"] == pytest.approx(norms["eight"] / 2)
    plain = fingerprint(tmp_path / "none.gguf").delta
    coded = fingerprint(
        written(tmp_path / "q8.gguf", tensors, alpha=None, packed=gguf.GGMLQuantizationType.Q8_0)
    ).delta
    assert plain is not None
    assert coded is not None
    apart = np.linalg.norm(plain.changes[0].core - coded.changes[0].core)
    assert 0 < apart < 0.02 * np.linalg.norm(plain.changes[0].core)


BROKEN: dict[str, tuple[dict[str, Any], dict[str, Any], str | None, str]] = {
    "A without B": ({Q: None}, {}, "blk.0.attn_q.weight.lora_a", "no lora_B"),
    "B without A": ({"blk.0.attn_q.weight.lora_a": None}, {}, Q, "no lora_A"),
    "rows of no heads": ({Q: random(20, RANK)}, {}, Q, "20 rows are not those of 4 heads"),
    "ranks": ({Q: random(32, 3)}, {}, Q, "rank of 4"),
    "experts": ({Q: random(2, 32, RANK)}, {}, Q, "a stack of experts"),
    "NaN": ({Q: random(32, RANK) * np.nan}, {}, Q, "NaN"),
    "alpha": ({}, {"alpha": float("nan")}, None, "lora_alpha is nan"),
    "an unknown tensor": ({"blk.0.attn_q.bias": random(32)}, {}, "blk.0.attn_q.bias", "no table"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_in_words(case: str, tmp_path: Path) -> None:
    changed, settings, tensor, reason = BROKEN[case]
    tensors = {k: v for k, v in (factors() | changed).items() if v is not None}
    file = written(tmp_path / "x.gguf", tensors, heads=(HEADS, KV_HEADS), **settings)
    with pytest.raises(FormatError) as caught:
        fingerprint(file)
    assert reason in str(caught.value)
    assert "x.gguf" in str(caught.value)
    assert caught.value.tensor == tensor


def test_what_is_no_lora_file_is_none(tmp_path: Path) -> None:
    file = written(tmp_path / "a.gguf", factors("qwen2"), "qwen2", kind="other")
    with read(file) as artifact:
        found = adapter_of(artifact, file)
    assert isinstance(found, Unread)
    assert "type other" in found.reason
    model = written(tmp_path / "b.gguf", factors("qwen2"), "qwen2", is_adapter=False)
    assert fingerprint(model).delta is None


def test_an_adapter_is_found_in_what_it_was_merged_into(tmp_path: Path) -> None:
    """Of GGUF models all but the queries and keys, whose rows lie otherwise there."""
    low = fingerprint(written(tmp_path / "lora.gguf", factors(), heads=(HEADS, KV_HEADS))).delta
    assert low is not None
    base, merged = {"token_embd.weight": random(50, WIDTH)}, {}
    for name, rows in MODULES.values():
        base[f"{name}.weight"] = random(rows, WIDTH, seed=9)
    tensors, scale = factors(), np.float32(0.5 * ALPHA / RANK)
    for name, weight in base.items():
        a, b = (tensors[f"{name}.lora_{half}"] for half in "ab")
        change = a @ b.T if name.startswith("token") else b @ a
        merged[name] = weight + scale * change
    files = [
        written(tmp_path / f"{name}.gguf", model, alpha=None, is_adapter=False)
        for name, model in (("base", base), ("merged", merged))
    ]
    found = contained([low], *map(fingerprint, files))
    assert found is not None
    assert found.fit.shares[0].weight == pytest.approx(0.5, rel=1e-4)
    assert found.modules == 3
    assert found.is_all
