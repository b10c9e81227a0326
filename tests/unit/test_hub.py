"""Models are found by their repository's name: one set of weights, once, or one clear line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.utils
import numpy as np
import pytest
from fake_hub import FakeHub
from makers import model_bytes, shard_name, small_model, write_hub_cache, write_model

from lineage import fingerprint, read
from lineage.artifacts import models_in
from lineage.artifacts.hub import located, parsed
from lineage.errors import FormatError

WEIGHTS = model_bytes(small_model())
ROOT = fingerprint(small_model()).root


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as served:
        # huggingface_hub reads its environment as it is imported, and other tests import it first.
        assert "127.0.0.1" in huggingface_hub.constants.ENDPOINT
        told = {
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_TOKEN_PATH": str(tmp_path / "token"),
        }
        for name, value in told.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.chdir(tmp_path)
        yield served
        if hasattr(huggingface_hub, "close_session"):  # since 1.0
            huggingface_hub.close_session()
        else:
            huggingface_hub.utils._http.reset_sessions()


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def refusal(source: str) -> str:
    with pytest.raises((OSError, FormatError)) as caught:
        read(source)
    words = str(caught.value)
    assert words.isprintable()
    assert source in words
    return words


# What is fetched


def test_a_repository_is_fetched_once_and_read_from_the_cache_after(hub: FakeHub) -> None:
    files = {"model.safetensors": WEIGHTS, "config.json": b"{}", "README.md": b"hello"}
    hub.push("org/name", {**files, "pytorch_model.bin": b"no", "tokenizer.json": b"{}"})
    assert models_in("org/name") == ["org/name"]
    with read("org/name") as artifact:
        assert artifact.path == "org/name"
    assert hub.fetched() == sorted(files)
    hub.asked.clear()
    assert fingerprint("org/name").root == ROOT
    assert fingerprint(Path("org/name")).root == ROOT
    assert hub.asked == []


LISTINGS: dict[str, tuple[list[str], list[str] | str]] = {
    "safetensors before all": (
        ["a.onnx", "flax_model.msgpack", "model.fp16.safetensors", "model.safetensors",
         "pytorch_model.bin", "original/consolidated.00.pth", "tf_model.h5"],
        ["model.safetensors"],
    ),
    "numbered shards without an index": (
        [shard_name(1, 2), shard_name(2, 2), "pytorch_model.bin"],
        [shard_name(1, 2), shard_name(2, 2)],
    ),
    "pickles, but no trainer's": (
        ["pytorch_model.bin", "optimizer.pt", "training_args.bin", "scheduler.pt", "rng_state.pth"],
        ["pytorch_model.bin"],
    ),
    "an adapter": (
        ["adapter_config.json", "adapter_model.bin", "training_args.bin"],
        ["adapter_config.json", "adapter_model.bin"],
    ),
    "declarations": (
        ["model.safetensors", "mergekit_config.yml", "README.md", "merges.txt", "sub/README.md"],
        ["README.md", "mergekit_config.yml", "model.safetensors"],
    ),
    "one quantization": (["README.md", "m-Q4.gguf"], ["README.md", "m-Q4.gguf"]),
    "a split quantization": (
        ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"],
        ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"],
    ),
    "several quantizations": (["m-Q4.gguf", "m-Q8.gguf"], "(m-Q4.gguf, m-Q8.gguf)"),
    "two formats of equal standing": (["model.gguf", "tf.h5"], "(model.gguf, tf.h5)"),
    "ONNX and what lies outside it": (
        ["onnx/model.onnx", "onnx/model.onnx_data", "onnx/model_fp16.onnx", "config.json",
         "onnx/model_fp16.onnx_data", "onnx/tokenizer.json", "onnx/.hidden", "onnx/weights.pb"],
        ["config.json", "onnx/model.onnx", "onnx/model.onnx_data", "onnx/weights.pb"],
    ),
    "a missing shard": ([shard_name(1, 3), shard_name(3, 3)], "shard 2 of 00003 is missing"),
    "no weights": (["README.md", "data.csv"], "holds no weights"),
    "nothing": ([], "holds no weights"),
    "names that climb": (["../model.safetensors", "/model.safetensors"], "holds no weights"),
    "names that are patterns": (["*.safetensors", "a/b.safetensors"], ["*.safetensors"]),
}  # fmt: skip


@pytest.mark.parametrize("case", LISTINGS)
def test_one_set_of_weights_is_chosen_from_a_listing(hub: FakeHub, case: str) -> None:
    listing, expected = LISTINGS[case]
    hub.push("org/name", {name: name.encode() for name in listing})
    if isinstance(expected, str):
        with pytest.raises(FormatError) as caught:
            located("hf://org/name")
        assert expected in str(caught.value)
        assert hub.fetched() == []
    else:
        located("hf://org/name")
        assert hub.fetched() == sorted(expected)


def sharded(names: Mapping[str, str]) -> dict[str, bytes]:
    """Shards by these names, each with the tensor that the index places in it, and the index."""
    tensors = dict(zip(names, small_model().values(), strict=False))
    files = {names[t]: model_bytes({t: array}) for t, array in tensors.items()}
    return {**files, "model.safetensors.index.json": json.dumps({"weight_map": names}).encode()}


def test_an_index_says_which_shards_are_fetched(hub: FakeHub) -> None:
    files = sharded({"a": shard_name(1, 2), "b": shard_name(2, 2)})
    hub.push("org/name", {**files, "consolidated.safetensors": WEIGHTS, "odd.safetensors": b""})
    with read("hf://org/name") as artifact:
        assert [item.name for item in artifact.items] == ["a", "b"]
    assert hub.fetched() == sorted(files)
    del files[shard_name(2, 2)]
    hub.push("org/name", files)
    assert f"{shard_name(2, 2)} is missing" in refusal("hf://org/name")


def test_components_are_read_as_one_model(hub: FakeHub) -> None:
    unet, text = small_model(1), small_model(2)
    named = {
        "_class_name": "Pipeline", "safe": False, "feature_extractor": [None, None],
        "scheduler": ["diffusers", "DDIM"], "text_encoder": ["transformers", "CLIP"],
        "unet": ["diffusers", "UNet"],
    }  # fmt: skip
    files = {
        "model_index.json": json.dumps(named).encode(),
        "scheduler/scheduler_config.json": b"{}",
        "text_encoder/config.json": b"{ }",
        "text_encoder/model.safetensors": model_bytes(text),
        "unet/config.json": b"{  }",  # one blob may be several files
        "unet/diffusion_pytorch_model.safetensors": model_bytes(unet),
    }
    extra = {
        "unet/diffusion_pytorch_model.bin": b"",
        "sd.ckpt": b"",
        "safety/model.safetensors": b"",
    }
    hub.push("org/name", {**files, **extra})
    whole = {f"unet/{n}": a for n, a in unet.items()} | {
        f"text_encoder/{n}": a for n, a in text.items()
    }
    assert fingerprint("org/name").root == fingerprint(whole).root
    assert hub.fetched() == sorted(files)
    hub.asked.clear()
    assert fingerprint("org/name").root == fingerprint(whole).root
    assert hub.asked == []
    assert fingerprint("hf://org/name/unet").root == fingerprint(unet).root
    del files["unet/diffusion_pytorch_model.safetensors"]
    hub.push("org/name", files)
    assert "component unet has no weights" in refusal("hf://org/name")


def test_a_file_or_folder_of_a_repository_is_read_alone(hub: FakeHub) -> None:
    split = {f"Q4/m-0000{n}-of-00002.gguf": b"%d" % n for n in (1, 2)}
    files = {
        "a.safetensors": WEIGHTS, "b.safetensors": model_bytes(small_model(3)),
        "checkpoint-5/model.safetensors": model_bytes(small_model(5)), "optimizer.pt": b"",
        "checkpoint-5/config.json": b"{}", **split, "Q8.gguf": b"",
    }  # fmt: skip
    hub.push("org/name", files)
    assert "several weight files" in refusal("hf://org/name")
    assert fingerprint("hf://org/name/b.safetensors").root == fingerprint(small_model(3)).root
    assert hub.fetched() == ["b.safetensors"]
    assert models_in("hf://org/name/a.safetensors") == ["hf://org/name/a.safetensors"]
    for folder in ("hf://org/name/checkpoint-5", "hf://models/org/name@main/checkpoint-5/"):
        assert fingerprint(folder).root == fingerprint(small_model(5)).root
    hub.asked.clear()
    assert located("hf://org/name/Q4/m-00001-of-00002.gguf").name == "m-00001-of-00002.gguf"
    assert hub.fetched() == sorted(split)
    for absent in ("checkpoint", "Q4/none.gguf", "README.md"):
        assert "no such file" in refusal(f"hf://org/name/{absent}")


def test_an_index_named_alone_brings_its_shards(hub: FakeHub) -> None:
    hub.push("org/name", {**sharded({"a": shard_name(1, 1)}), "model.safetensors": WEIGHTS})
    with read("hf://org/name/model.safetensors.index.json") as artifact:
        assert [item.name for item in artifact.items] == ["a"]


# Revisions


def test_hf_asks_what_a_revision_is_now_and_a_plain_name_the_cache(hub: FakeHub) -> None:
    roots, commits = [], []
    for seed, revision in enumerate(["main", "v1", "refs/pr/3", "feature/x"]):
        tensors = small_model(seed)
        commits.append(hub.push("org/name", {"m.safetensors": model_bytes(tensors)}, revision))
        roots.append(fingerprint(tensors).root)
    names = [
        "hf://org/name",
        "hf://org/name@v1",
        "hf://org/name@refs/pr/3",
        "hf://org/name@feature%2Fx",
    ]
    assert [fingerprint(name).root for name in names] == roots
    assert fingerprint("org/name@refs/pr/3").root == roots[2]
    newest = hub.push("org/name", {"m.safetensors": model_bytes(small_model(9))})
    assert fingerprint("org/name").root == roots[0]
    assert fingerprint("hf://org/name").root == fingerprint(small_model(9)).root
    hub.asked.clear()
    assert fingerprint(f"hf://org/name@{newest}").root == fingerprint(small_model(9)).root
    assert fingerprint(f"org/name@{commits[1]}").root == roots[1]
    assert hub.asked == []


def test_a_revision_that_moves_meanwhile_is_refused(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push("org/name", {"m.safetensors": WEIGHTS})
    fetch = huggingface_hub.snapshot_download

    def later(*args: Any, **how: Any) -> str:
        hub.push("org/name", {"m.safetensors": model_bytes(small_model(1))})
        return fetch(*args, **how)

    monkeypatch.setattr("huggingface_hub.snapshot_download", later)
    assert "moved while it was fetched" in refusal("hf://org/name")


# Tokens and other refusals


def test_a_token_opens_what_is_private_or_gated(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.push("org/private", {"m.safetensors": WEIGHTS}, token="hf_right")
    hub.push("org/gated", {"m.safetensors": WEIGHTS}, token="hf_right", gated=True)
    assert "no such repository, or a private one; for that, give a token" in refusal(
        "hf://org/private"
    )
    assert "gated: ask its owner for access, then give a token" in refusal("hf://org/gated")
    with pytest.raises(PermissionError):
        read("hf://org/gated")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "private" in refusal("hf://org/private")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert fingerprint("hf://org/private").root == fingerprint("hf://org/gated").root == ROOT
    assert "no such repository" in refusal("hf://org/absent")
    assert "private" not in refusal("hf://org/absent")  # a hub says so to whom it knows
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text("hf_right")
    hub.push("org/private", {"m.safetensors": model_bytes(small_model(1))})
    assert fingerprint("hf://org/private").root == fingerprint(small_model(1)).root


def test_what_the_hub_says_becomes_one_line(hub: FakeHub) -> None:
    hub.push("org/name", {"m.safetensors": WEIGHTS})
    with pytest.raises(FileNotFoundError, match="no such repository"):
        read("hf://org/absent")
    with pytest.raises(FileNotFoundError, match="the repository has no revision v9"):
        read("hf://org/name@v9")
    for status, words in ((500, "the hub answers 500"), (403, r"refuses \(403\): give a token")):
        hub.fail = status
        with pytest.raises(OSError, match=words) as caught:
            read("hf://org/name")
        assert caught.value.filename == "hf://org/name"
    hub.fail, hub.fail_files = 0, 403
    with pytest.raises(PermissionError, match=r"refuses \(403\): give a token"):
        read("hf://org/name")


def test_a_hub_that_cannot_be_reached_is_a_connection_error(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push("org/name", {"m.safetensors": WEIGHTS})
    assert fingerprint("hf://org/name").root == ROOT
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # discard: nobody listens
    with pytest.raises(ConnectionError, match="the hub cannot be reached"):
        read("hf://org/name")  # what it is now cannot be known; the cache may be stale
    assert fingerprint("org/name").root == ROOT
    with pytest.raises(ConnectionError, match="no such path; as a repository: the hub cannot"):
        read("org/other")


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"[]",
        b"\xff",
        b'{"sha": 1}',
        b'{"id": "org/name", "siblings": [{}]}',
        b'{"id": "org/name", "siblings": 3}',
        b'{"id": "org/name", "sha": "../../x", "siblings": [{"rfilename": "m.safetensors"}]}',
        b'{"id": "org/name", "siblings": [{"rfilename": "m.safetensors"}]}',
        b'{"id": "org/name", "sha": "c0ffee", "siblings": [{"rfilename": 5}]}',
    ],
)
def test_a_server_that_is_no_hub_is_refused(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        assert "the hub's answer" in refusal("hf://org/name")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_disk_that_refuses_is_told_as_it_is(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device", "blob")

    hub.push("org/name", {"m.safetensors": WEIGHTS})
    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(OSError, match="No space left"):
        read("org/name")


# Broken and missing connections


def test_a_broken_download_goes_on_where_it_broke(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 512)
    hub.push("org/name", {"m.safetensors": WEIGHTS})
    hub.cut = {"m.safetensors"}
    try:
        found = fingerprint("hf://org/name")
    except ConnectionError:  # huggingface_hub before 1.0 goes on only when it is asked again
        found = fingerprint("hf://org/name")
    assert found.root == ROOT
    ranges = [
        r for method, path, r in hub.asked if method == "GET" and path.endswith("m.safetensors")
    ]
    assert ranges[0] is None
    assert len(ranges) == 2
    assert ranges[1] is not None
    start = int(ranges[1].removeprefix("bytes=").rstrip("-"))
    assert 0 < start <= len(WEIGHTS) // 2


def test_offline_only_the_cache_is_read(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.push("org/name", {"m.safetensors": WEIGHTS, "README.md": b"", "other.txt": b""})
    fingerprint("hf://org/name")
    hub.push("org/half", {**sharded({"a": shard_name(1, 2), "b": shard_name(2, 2)})})
    half = located("hf://org/half")
    (half / shard_name(2, 2)).unlink()
    hub.asked.clear()
    go_offline(monkeypatch)
    assert fingerprint("hf://org/name").root == ROOT
    assert fingerprint("hf://org/name/m.safetensors").root == ROOT
    assert fingerprint("org/name").root == ROOT
    for absent, reason in (
        ("hf://org/absent", "it is not there"),
        ("hf://org/name@v1", "it is not there"),
        ("hf://org/name/other.txt", "it is not there"),
        ("hf://org/half", f"its shard {shard_name(2, 2)} is missing"),
        ("models/foo", "no such path; in the hub cache it is not there"),
    ):
        with pytest.raises(FileNotFoundError, match="and HF_HUB_OFFLINE is set") as caught:
            read(absent)
        assert reason in str(caught.value)
    assert hub.asked == []


def test_half_of_a_model_in_the_cache_is_completed(hub: FakeHub) -> None:
    files = sharded({"a": shard_name(1, 2), "b": shard_name(2, 2)})
    hub.push("org/name", {**files, "config.json": b"{}"})
    huggingface_hub.snapshot_download(
        "org/name", allow_patterns=["config.json"], endpoint=hub.endpoint
    )
    assert hub.fetched() == ["config.json"]
    with read("org/name") as artifact:
        assert len(artifact.items) == 2
    (located("org/name") / shard_name(1, 2)).unlink()
    with read("org/name") as artifact:
        assert len(artifact.items) == 2


def test_a_link_to_a_blob_that_is_gone_is_mended(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push("org/name", {"m.safetensors": WEIGHTS})
    (located("org/name") / "m.safetensors").resolve().unlink()
    with monkeypatch.context() as offline:
        go_offline(offline)
        assert "its m.safetensors is gone" in refusal("org/name")
    assert fingerprint("org/name").root == ROOT


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/name", ("org/name", None, "")),
        ("org/na.me-1.5@v1.0", ("org/na.me-1.5", "v1.0", "")),
        ("hf://org/name", ("org/name", None, "")),
        ("hf:/org/name", ("org/name", None, "")),
        ("hf://models/org/name@a%2Fb/x/y.bin", ("org/name", "a/b", "x/y.bin")),
        ("hf://models/name", ("models/name", None, "")),
        ("hf://org/name@refs/pr/3/x.bin", ("org/name", "refs/pr/3", "x.bin")),
        ("hf://org/name@refs/convert/v-1.2", ("org/name", "refs/convert/v-1.2", "")),
        ("hf://org/name.safetensors", ("org/name.safetensors", None, "")),
    ],
)
def test_names_of_repositories(name: str, expected: tuple[str, str | None, str]) -> None:
    found = parsed(name)
    assert found is not None
    assert (found.id, found.revision, found.path) == expected


@pytest.mark.parametrize(
    "name",
    [
        "name", "./org", "../name", "a/b/c", "org/name/", "/org/name", "org/-name", "org/na--me",
        "org/na..me", "org/näme", "org/m.safetensors", "org/m.gguf", "org/m.pt", "org/m.lineage",
        "out/model.safetensors.index.json", "org/name@", "org\\name", "C:/name", "org/name\n",
    ],
)  # fmt: skip
def test_a_name_that_can_only_be_a_path_asks_no_hub(hub: FakeHub, name: str) -> None:
    assert parsed(name) is None
    with pytest.raises(FileNotFoundError):
        read(name)
    assert hub.asked == []


@pytest.mark.parametrize(
    "name",
    [
        "hf://", "hf://org", "hf://org/", "hf:///name", "hf://datasets/org/name", "hf://org/na--me",
        "hf://spaces/org/name/x.bin", "hf://org/name@", "hf://org/name@v1@v2", "hf://org/name/../x",
        "hf://org/name//x", "hf://org/name/./x", "hf://org/name@..", "hf://org/name@a%2F..%2Fb",
        "hf://org/name/a\\b", "hf://org/name@%00", "hf://../name", "hf://org/näme",
    ],
)  # fmt: skip
def test_a_name_that_is_no_repository_is_refused(hub: FakeHub, name: str) -> None:
    with pytest.raises(FormatError) as caught:
        read(name)
    assert caught.value.file == name
    assert hub.asked == []


def test_an_empty_name_is_no_path() -> None:
    with pytest.raises(FileNotFoundError, match="the path is empty"):
        located("")


def test_a_path_that_is_there_wins(hub: FakeHub) -> None:
    hub.push("org/name", {"m.safetensors": WEIGHTS})
    write_model(Path("org/name/model.safetensors"), small_model(3))
    assert fingerprint("org/name").root == fingerprint(small_model(3)).root
    assert hub.asked == []
    assert fingerprint("hf://org/name").root == ROOT


def test_a_slip_in_a_path_is_told_with_what_the_hub_said(hub: FakeHub) -> None:
    words = refusal("models/foo")
    assert "no such path; as a repository: no such repository" in words
    with pytest.raises(FileNotFoundError):
        models_in("models/foo")


# Layouts of the cache


def test_blobs_may_lie_in_the_store_that_a_cache_shares(tmp_path: Path) -> None:
    cache = write_hub_cache(tmp_path, {"model.safetensors": WEIGHTS, "config.json": b"{}"})
    store = tmp_path / "blobs" / "ab"
    store.mkdir(parents=True)
    blob = (cache / "snapshots" / "c0ffee" / "model.safetensors").resolve()
    blob.rename(store / "abcdef")
    blob.symlink_to(Path("..") / ".." / "blobs" / "ab" / "abcdef")
    with pytest.raises(FormatError, match="outside the model's folder"):
        read(cache)
    (tmp_path / "blobs" / ".huggingface-shared-blobs").write_text("1\n")
    assert fingerprint(cache).root == ROOT
    other = write_model(tmp_path / "other.safetensors", small_model(4))
    blob.unlink()
    blob.symlink_to(other)
    with pytest.raises(FormatError, match="outside the model's folder"):
        read(cache)


def test_a_folder_within_a_snapshot_may_link_to_its_blobs(tmp_path: Path) -> None:
    cache = write_hub_cache(tmp_path, {"model.safetensors": WEIGHTS})
    snapshot = cache / "snapshots" / "c0ffee"
    (snapshot / "unet").mkdir()
    (snapshot / "model.safetensors").rename(snapshot / "unet" / "x")
    blob = next((cache / "blobs").iterdir())
    (snapshot / "unet" / "x").unlink()
    (snapshot / "unet" / "first").symlink_to(Path("../../../blobs") / blob.name)
    (snapshot / "unet" / "model.safetensors").symlink_to("first")  # a link to a link
    assert fingerprint(snapshot / "unet").root == ROOT


def test_a_download_into_a_folder_of_its_own_is_read(hub: FakeHub, tmp_path: Path) -> None:
    hub.push("org/name", {"model.safetensors": WEIGHTS, "config.json": b"{}"})
    folder = huggingface_hub.snapshot_download(
        "org/name", local_dir=tmp_path / "mine", endpoint=hub.endpoint
    )
    assert (Path(folder) / ".cache" / "huggingface").is_dir()
    assert fingerprint(folder).root == ROOT
    assert models_in(folder) == [folder]


# Progress bars


class Terminal:
    """A stream that says it is a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("watched", [True, False])
def test_progress_is_shown_on_a_terminal_only(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, watched: bool
) -> None:
    hub.push("org/name", {"m.safetensors": WEIGHTS})
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(out, "isatty", lambda: watched)
    fingerprint("hf://org/name")
    assert out.text == ""
    assert bool(err.text) == watched


def test_the_command_line_prints_the_result_alone(hub: FakeHub, tmp_path: Path) -> None:
    hub.push("org/name", {"m.safetensors": WEIGHTS, "config.json": b"{}"}, token="hf_right")
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_right"}

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lineage", "fingerprint", "hf://org/name"]
        return subprocess.run(command, env={**env, **more}, capture_output=True, text=True)

    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(ROOT)
    assert (tmp_path / "home" / "hub" / "models--org--name").is_dir()
    asked = len(hub.asked)
    assert run(HF_HUB_OFFLINE="1").stdout == done.stdout
    assert len(hub.asked) == asked
    lost = run(HF_TOKEN="hf_wrong")
    assert lost.returncode == 3
    assert lost.stdout == ""
    assert lost.stderr.count("\n") == 1
    assert "token" in lost.stderr


def test_every_tensor_of_every_shape_survives_the_way(hub: FakeHub) -> None:
    tensors = {"scalar": np.float32(2).reshape(()), "none": np.zeros((0, 3), np.float16)}
    hub.push("org/name", {"m.safetensors": model_bytes(tensors)})
    assert fingerprint("org/name").root == fingerprint(tensors).root
