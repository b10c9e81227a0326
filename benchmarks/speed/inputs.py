"""The files that are fingerprinted: checkpoints with Llama's shapes, and some unlike them.

Each is made once and kept in the cache folder, with a note beside it that tells its seed and the
BLAKE3 digest of its files.

Sources: the formats of safetensors (https://github.com/huggingface/safetensors#format) and GGUF
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from blake3 import blake3
from values import KINDS, Values

SEED = 20
_MAKER = 1
"""Counts up whenever what is made from the same seed changes."""

_SHARD_BYTES = 4_000_000_000
_VOCABULARY = 32_000
_WIDTHS = ((4e7, 256, 768), (3e8, 1024, 2816), (8e8, 1536, 4096), (5e9, 2560, 6912),
           (math.inf, 4096, 11008))  # fmt: skip
"""Up to so many weights: hidden size, feed-forward size. The last is that of Llama models of 7
billion weights, the others keep its proportions."""

Tensor = tuple[str, str, tuple[int, ...]]
"""Name, dtype, shape."""


class NoRoomError(Exception):
    """The disk or the memory is too small for an input."""


@dataclass(frozen=True, slots=True)
class Input:
    """A model on disk.

    Attributes:
        name: For tables.
        path: What is given to tools that take a model: a folder, or the only file.
        files: The weight files.
        digests: File name -> BLAKE3.
    """

    name: str
    path: Path
    files: tuple[Path, ...]
    digests: dict[str, str]

    @property
    def size_bytes(self) -> int:
        """Bytes of all weight files."""
        return sum(file.stat().st_size for file in self.files)


def llama(cache: Path, gigabytes: float, dtype: str = "BF16", *, shards: int = 0) -> Input:
    """Make a checkpoint of about this size, in two shards or more unless `shards` says how many."""
    size = int(gigabytes * 1e9)
    shards = shards or max(2, -(-size // _SHARD_BYTES))
    tensors, config = _llama(size, dtype)
    name = f"llama-{dtype.lower()}-{gigabytes:g}GB-in-{shards}"
    return _kept(cache, name, tensors, config, shards)


def gguf(cache: Path, gigabytes: float) -> Input:
    """Make one GGUF file of about this size, its matrices Q4_K and its vectors F32."""
    tensors, config = _llama(int(gigabytes * 1e9), "Q4_K")
    return _kept(cache, f"llama-q4_k-{gigabytes:g}GB", tensors, config, 0)


def plain(cache: Path, gigabytes: float, count: int) -> Input:
    """Make one file of `count` bf16 matrices of random shapes, about `gigabytes` together."""
    draw = Values(SEED + count)
    mean = gigabytes * 1e9 / 2 / count
    tensors: list[Tensor] = []
    for index in range(count):
        weights = int(mean * draw.integers(50, 151) / 100)
        rows = draw.integers(8, max(9, math.isqrt(weights)))
        tensors.append((f"layers.{index}.weight", "BF16", (rows, max(1, weights // rows))))
    return _kept(cache, f"{count}-tensors-{gigabytes:g}GB", tensors, {}, 1)


def _llama(size: int, dtype: str) -> tuple[list[Tensor], dict[str, Any]]:
    """Return as many layers as fill `size` bytes, and the configuration that tells of them."""
    kind = KINDS[dtype]
    budget = size * kind.values // kind.size_bytes
    hidden, inner = next((h, i) for most, h, i in _WIDTHS if budget <= most)
    layer = 4 * hidden * hidden + 3 * hidden * inner
    layers = max(1, round((budget - 2 * _VOCABULARY * hidden) / layer))
    tensors = _matrix("model.embed_tokens", dtype, _VOCABULARY, hidden)
    vector = "F32" if dtype == "Q4_K" else "BF16" if dtype in {"I8", "F8_E4M3"} else dtype
    for index in range(layers):
        at = f"model.layers.{index}"
        tensors.append((f"{at}.input_layernorm.weight", vector, (hidden,)))
        for part in "qkvo":
            tensors += _matrix(f"{at}.self_attn.{part}_proj", dtype, hidden, hidden)
        tensors.append((f"{at}.post_attention_layernorm.weight", vector, (hidden,)))
        tensors += _matrix(f"{at}.mlp.gate_proj", dtype, inner, hidden)
        tensors += _matrix(f"{at}.mlp.up_proj", dtype, inner, hidden)
        tensors += _matrix(f"{at}.mlp.down_proj", dtype, hidden, inner)
    tensors.append(("model.norm.weight", vector, (hidden,)))
    tensors += _matrix("lm_head", dtype, _VOCABULARY, hidden)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "vocab_size": _VOCABULARY,
        "num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 64,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip
    return tensors, config


def _matrix(name: str, dtype: str, rows: int, cols: int) -> list[Tensor]:
    """Return a matrix and, for integers, the scales of its rows."""
    weight: Tensor = (f"{name}.weight", dtype, (rows, cols))
    return [weight, (f"{name}.weight_scale", "F32", (rows, 1))] if dtype == "I8" else [weight]


def _size(tensor: Tensor) -> int:
    kind = KINDS[tensor[1]]
    return math.prod(tensor[2]) // kind.values * kind.size_bytes


def _kept(
    cache: Path, name: str, tensors: list[Tensor], config: dict[str, Any], shards: int
) -> Input:
    """Return the input of this name, made now if it is not there; no shards means GGUF."""
    folder, note = cache / name, cache / f"{name}.json"
    told = {"maker": _MAKER, "seed": SEED, "tensors": len(tensors), "shards": shards}
    known = json.loads(note.read_text()) if note.exists() else {}
    if {key: known.get(key) for key in told} != told or not folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        _check_room(cache, sum(map(_size, tensors)))
        partial = cache / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        known = told | {"blake3": _write(partial, tensors, config, shards)}
        partial.rename(folder)
        note.write_text(json.dumps(known, indent=1))
    files = tuple(folder / file for file in sorted(known["blake3"]))
    return Input(name, folder if shards != 0 else files[0], files, known["blake3"])


def _check_room(cache: Path, size: int) -> None:
    free = shutil.disk_usage(cache).free
    if size * 1.05 + 2e9 > free:
        raise NoRoomError(
            f"needs {size / 1e9:.1f} GB and 2 to spare, the disk has {free / 1e9:.1f}"
        )


def _write(
    folder: Path, tensors: list[Tensor], config: dict[str, Any], shards: int
) -> dict[str, str]:
    """Write a model's files; return the BLAKE3 of those with weights."""
    draw = Values(SEED)
    if shards == 0:
        return {"model.gguf": _write_gguf(folder / "model.gguf", tensors, config, draw)}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    if shards == 1:
        return {"model.safetensors": _write_shard(folder / "model.safetensors", tensors, draw)}
    digests: dict[str, str] = {}
    places: dict[str, str] = {}
    for index, part in enumerate(_parts(tensors, shards), 1):
        file = f"model-{index:05}-of-{shards:05}.safetensors"
        digests[file] = _write_shard(folder / file, part, draw)
        places |= {name: file for name, _, _ in part}
    index_file = {"metadata": {"total_size": sum(map(_size, tensors))}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_file, indent=2))
    return digests


def _parts(tensors: list[Tensor], count: int) -> list[list[Tensor]]:
    """Cut a list of tensors, in order, into parts of about the same bytes."""
    parts: list[list[Tensor]] = [[] for _ in range(count)]
    whole, before = sum(map(_size, tensors)), 0
    for tensor in tensors:
        parts[before * count // whole].append(tensor)
        before += _size(tensor)
    return parts


def _write_shard(path: Path, tensors: list[Tensor], draw: Values) -> str:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, shape in tensors:
        begin, end = end, end + _size((name, dtype, shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return _write_all(path, len(text).to_bytes(8, "little") + text, tensors, draw)


def _write_gguf(path: Path, tensors: list[Tensor], config: dict[str, Any], draw: Values) -> str:
    """Write GGUF version 3: metadata, infos of tensors, and their bytes at multiples of 32."""

    def u32(number: int) -> bytes:
        return number.to_bytes(4, "little")

    def u64(number: int) -> bytes:
        return number.to_bytes(8, "little")

    def text(words: str) -> bytes:
        return u64(len(words)) + words.encode()

    facts = {"llama.block_count": config["num_hidden_layers"], "general.quantization_version": 2,
             "llama.embedding_length": config["hidden_size"]}  # fmt: skip
    head = b"GGUF" + u32(3) + u64(len(tensors)) + u64(1 + len(facts))
    head += text("general.architecture") + u32(8) + text("llama")
    for key, number in facts.items():
        head += text(key) + u32(4) + u32(number)
    offset = 0
    for name, dtype, shape in tensors:
        extents = b"".join(map(u64, reversed(shape)))
        number = {"F32": 0, "Q4_K": 12}[dtype]
        head += text(_gguf_name(name)) + u32(len(shape)) + extents + u32(number) + u64(offset)
        offset += -(-_size((name, dtype, shape)) // 32) * 32
    return _write_all(path, head + bytes(-len(head) % 32), tensors, draw, align=32)


def _gguf_name(name: str) -> str:
    """Return ggml's name of one of Llama's tensors."""
    for ours, theirs in (
        ("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output"),
        ("model.layers", "blk"), ("self_attn.", "attn_"), ("mlp.", "ffn_"), ("_proj", ""),
        ("attn_o.", "attn_output."), ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attn_norm"),
    ):  # fmt: skip
        name = name.replace(ours, theirs)
    return name


def _write_all(
    path: Path, head: bytes, tensors: Iterable[Tensor], draw: Values, align: int = 1
) -> str:
    """Write the head and every tensor's bytes, down to the disk; return their BLAKE3."""
    hasher = blake3(max_threads=blake3.AUTO)
    with path.open("wb") as file:
        _put(file, hasher, head)
        for tensor in tensors:
            for piece in draw.pieces(tensor[1], _size(tensor)):
                _put(file, hasher, piece.data)
            _put(file, hasher, bytes(-_size(tensor) % align))
        file.flush()
        os.fsync(file.fileno())
    return str(hasher.hexdigest())


def _put(file: BinaryIO, hasher: blake3, piece: bytes | memoryview) -> None:
    file.write(piece)
    hasher.update(piece)
