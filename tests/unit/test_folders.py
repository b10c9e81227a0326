"""Which files of a folder are the model: one format, one set, nothing from elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from makers import model_bytes, shard_name, small_model, write_model

from lineage import fingerprint, read
from lineage.artifacts import READERS, models_in
from lineage.artifacts.choice import FORMATS
from lineage.artifacts.folders import parts_of
from lineage.errors import FormatError

BIN = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
SPLIT = ("m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf")
SHARDS = (shard_name(1, 2), shard_name(2, 2))


def lay(folder: Path, names: Iterable[str]) -> Path:
    """Files by these names; an index places tensor n in the nth shard of its kind."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
        if name.endswith(".index.json"):
            stem, suffix = name.removesuffix(".index.json").rsplit(".", 1)
            shards = {str(n): f"{stem}-{n:05}-of-00002.{suffix}" for n in (1, 2)}
            path.write_text(json.dumps({"weight_map": shards}))
    return folder


def chosen(path: Path) -> list[str]:
    """The files that are read, below the folder."""
    found = parts_of(path, label="the model")
    return [os.path.relpath(file, path) for part in found for file in part.files]


def refusal(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        parts_of(path, label="the model")
    assert str(caught.value).isprintable()
    assert caught.value.file is not None
    return str(caught.value)


def test_every_format_that_is_read_has_a_place() -> None:
    assert {suffix for group in FORMATS for suffix in group} >= READERS.keys()


CHOICES: dict[str, tuple[list[str], list[str]]] = {
    "safetensors before pickles": (
        ["model.safetensors", "pytorch_model.bin"],
        ["model.safetensors"],
    ),
    "any safetensors before the usual pickle": (
        ["x.safetensors", "pytorch_model.bin"],
        ["x.safetensors"],
    ),
    "pickles before other exports": (
        ["pytorch_model.bin", "model.onnx", "tf_model.h5", "a.gguf", "b.gguf"],
        ["pytorch_model.bin"],
    ),
    "an index of pickles": (["pytorch_model.bin.index.json", *BIN, "extra.pt"], list(BIN)),
    "an index before the usual name": (
        ["model.safetensors.index.json", *SHARDS, "model.safetensors"],
        list(SHARDS),
    ),
    "the usual index of two": (
        ["consolidated.safetensors.index.json", "model.safetensors.index.json", *SHARDS],
        list(SHARDS),
    ),
    "an index of another variant": (
        ["model.safetensors.index.fp16.json", "model.safetensors"],
        ["model.safetensors"],
    ),
    "shards of pickles without an index": ([*BIN, "config.json"], list(BIN)),
    "a split GGUF": ([*SPLIT], list(SPLIT)),
    "a whole model and variants of it": (
        ["model.safetensors", "model.fp16.safetensors", "model.non_ema.safetensors"],
        ["model.safetensors"],
    ),
    "an adapter": (
        ["adapter_config.json", "adapter_model.safetensors"],
        ["adapter_model.safetensors"],
    ),
    "an adapter in a pickle": (
        ["adapter_config.json", "adapter_model.bin", "optimizer.pt"],
        ["adapter_model.bin"],
    ),
    "what a trainer leaves": (
        [
            "pytorch_model.bin",
            "optimizer.pt",
            "optimizer.bin",
            "optimizer_1.bin",
            "scheduler.pt",
            "rng_state.pth",
            "rng_state_0.pth",
            "training_args.bin",
            "scaler.pt",
            "sampler.bin",
            "random_states_0.pkl",
            "trainer_state.json",
            "zero_pp_rank_0_mp_rank_00_optim_states.pt",
        ],
        ["pytorch_model.bin"],
    ),
    "a model with any name beside a trainer's": (["my.pt", "optimizer.pt"], ["my.pt"]),
    "a name that only begins like a trainer's": (["scheduled.pt"], ["scheduled.pt"]),
    "Keras": (["model.keras", "notes.txt"], ["model.keras"]),
    "NumPy": (["weights.npz"], ["weights.npz"]),
    "ONNX beside nothing": (
        ["onnx/model.onnx", "onnx/model_q4.onnx", "config.json"],
        ["onnx/model.onnx"],
    ),
    "ONNX beside more": (["onnx/model.onnx", "model.safetensors"], ["model.safetensors"]),
    "subfolders are other models": (
        ["a.safetensors", "checkpoint-5/b.safetensors"],
        ["a.safetensors"],
    ),
}


@pytest.mark.parametrize("case", CHOICES)
def test_one_format_and_one_set_of_files(tmp_path: Path, case: str) -> None:
    names, expected = CHOICES[case]
    assert chosen(lay(tmp_path / "m", names)) == expected


REFUSALS = {
    "several pickles": (
        ["a.pt", "b.pt"],
        "several weight files and no index (a.pt, b.pt); name one",
    ),
    "several quantizations": (
        ["m-Q4.gguf", "m-Q8.gguf", "config.json"],
        "no index (m-Q4.gguf, m-Q8.gguf)",
    ),
    "a split one and another": ([*SPLIT, "m-Q8.gguf"], f"({SPLIT[0]}, m-Q8.gguf)"),
    "formats that none is before": (["m.onnx", "m.h5"], "(m.h5, m.onnx)"),
    "many": ([f"{n}.npz" for n in range(9)], "(0.npz, 1.npz, 2.npz, 3.npz and 5 more)"),
    "several in onnx": (["onnx/a.onnx", "onnx/b.onnx"], "(onnx/a.onnx, onnx/b.onnx)"),
    "two sets of shards": ([*BIN, "a-00001-of-00001.bin"], "several weight files"),
    "a shard too many": (
        [*BIN, "pytorch_model-00007-of-00002.bin"],
        "has 3 shards that say there are 00002",
    ),
    "a shard numbered beyond": (["a-00001-of-00001.bin", "a-00000-of-00001.bin"], "has 2 shards"),
    "a missing split": ([SPLIT[0], SPLIT[2]], "shard 2 of 00003 is missing"),
    "a missing pickle": (
        ["pytorch_model.bin.index.json", BIN[0]],
        f"its shard {BIN[1]} is missing",
    ),
    "no shard, but another format": (
        ["model.safetensors.index.json", "pytorch_model.bin"],
        f"its shard {SHARDS[0]} is missing",
    ),
    "only a trainer's": (
        ["optimizer.pt", "rng_state.pth"],
        "optimizer.pt is the state of a training",
    ),
    "only Flax": (["flax_model.msgpack"], "flax_model.msgpack is Flax weights"),
    "two indexes": (["a.bin.index.json", "b.bin.index.json"], "several weight files"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_told_is_refused(tmp_path: Path, case: str) -> None:
    names, reason = REFUSALS[case]
    assert reason in refusal(lay(tmp_path / "m", names))


def test_a_file_that_is_named_is_what_is_read(tmp_path: Path) -> None:
    folder = lay(tmp_path, [*SPLIT, *SHARDS, "optimizer.pt", "model.safetensors.index.json"])
    for name in (SHARDS[0], "optimizer.pt"):
        assert parts_of(folder / name, label="m")[0].files == (folder / name,)
    for name in SPLIT:  # a split GGUF is one file in pieces
        assert [f.name for f in parts_of(folder / name, label="m")[0].files] == list(SPLIT)
    found = parts_of(folder / "model.safetensors.index.json", label="m")[0]
    assert [file.name for file in found.files] == list(SHARDS)
    (folder / SPLIT[1]).unlink()
    with pytest.raises(FormatError, match="shard 2 of 00003 is missing"):
        parts_of(folder / SPLIT[0], label="m")
    with pytest.raises(FileNotFoundError):
        parts_of(folder / SPLIT[1], label="m")


# Components


def pipeline(folder: Path, index: object, names: Iterable[str]) -> Path:
    lay(folder, names)
    folder.mkdir(exist_ok=True)
    text = index if isinstance(index, str) else json.dumps(index)
    (folder / "model_index.json").write_text(text)
    return folder


NAMED = {
    "_class_name": "Pipeline",
    "_diffusers_version": "0.30",
    "scale": 0.18,
    "force": False,
    "scheduler": ["diffusers", "DDIM"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet"],
    "vae": ["diffusers", "VAE"],
    "safety": [None, None],
    "size": [512, 512, 3],
}
HELD = [
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "vae/config.json",
    "unet/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "safety/model.safetensors",
    "sd.ckpt",
]


def test_components_are_one_model_whose_names_say_where(tmp_path: Path) -> None:
    folder = pipeline(tmp_path / "m", NAMED, HELD)
    found = parts_of(folder, label="m")
    assert chosen(folder) == [
        "unet/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert [part.prefix for part in found] == ["unet/", "vae/"]
    assert models_in(folder) == [str(folder)]
    assert models_in(tmp_path) == [str(folder)]


def test_a_component_s_tensors_are_prefixed_and_its_index_is_its_own(tmp_path: Path) -> None:
    index = {"unet": ["diffusers", "UNet"], "text": ["transformers", "CLIP"]}
    folder = pipeline(tmp_path / "m", index, [])
    first, second = small_model(1), small_model(2)
    write_model(folder / "unet" / "model.safetensors", first)
    names = dict.fromkeys(second, "part.safetensors")
    write_model(folder / "text" / "part.safetensors", second)
    (folder / "text" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    whole = {f"unet/{n}": a for n, a in first.items()} | {f"text/{n}": a for n, a in second.items()}
    assert fingerprint(folder).root == fingerprint(whole).root


@pytest.mark.parametrize(
    ("index", "names", "reason"),
    [
        (NAMED, [n for n in HELD if "unet/d" not in n], "its component unet has no weights"),
        (NAMED, [n for n in HELD if "unet" not in n], "its component unet has no weights"),
        (
            NAMED,
            [*HELD, "unet/model.fp16.bin", "unet/a.safetensors", "unet/b.safetensors"],
            "(unet/a.safetensors, unet/b.safetensors)",
        ),
        ({"../unet": ["diffusers", "UNet"]}, HELD, "not a plain name"),
        ({"a/b": ["diffusers", "UNet"]}, HELD, "not a plain name"),
        ({"": ["diffusers", "UNet"]}, HELD, "not a plain name"),
        ([], HELD, "not a JSON object"),
        ("{", HELD, "not JSON"),
        ({"scheduler": ["diffusers", "DDIM"]}, ["scheduler/scheduler_config.json"], "no weights"),
    ],
)
def test_components_that_are_not_there_are_named(
    tmp_path: Path, index: object, names: list[str], reason: str
) -> None:
    assert reason in refusal(pipeline(tmp_path / "m", index, names))


# Links


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        SHARDS[0],
        "model.safetensors.index.json",
        "unet/model.safetensors",
        "model_index.json",
    ],
)
@pytest.mark.parametrize("steps", [1, 2])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, name: str, steps: int) -> None:
    folder = lay(tmp_path / "m", [name, *(SHARDS if "-of-" in name or "index" in name else ())])
    if "unet" in name:
        pipeline(folder, {"unet": ["diffusers", "UNet"]}, ["unet/config.json"])
    (folder / name).rename(tmp_path / "elsewhere")
    target = tmp_path / "elsewhere"
    if steps == 2:
        (folder / "between").symlink_to(target)
        target = folder / "between"
    (folder / name).symlink_to(target)
    assert "links to a file outside the model's folder" in refusal(folder)


def test_a_component_that_links_out_is_refused(tmp_path: Path) -> None:
    lay(tmp_path / "other", ["model.safetensors"])
    folder = pipeline(tmp_path / "m", {"unet": ["diffusers", "UNet"]}, [])
    (folder / "unet").symlink_to(tmp_path / "other")
    assert "outside the model's folder" in refusal(folder)


def test_links_within_a_folder_and_to_what_the_caller_names_are_followed(tmp_path: Path) -> None:
    model = write_model(tmp_path / "real" / "weights" / "w1", small_model())
    (tmp_path / "real" / "model.safetensors").symlink_to(model)
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "mine.safetensors").symlink_to(model)
    root = fingerprint(small_model()).root
    for path in ("folder", "mine.safetensors", "folder/model.safetensors"):
        assert fingerprint(tmp_path / path).root == root


def test_splits_that_link_out_are_refused_but_for_the_one_that_is_named(tmp_path: Path) -> None:
    folder = lay(tmp_path / "m", SPLIT)
    (folder / SPLIT[1]).rename(tmp_path / "elsewhere")
    (folder / SPLIT[1]).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FormatError, match="outside the model's folder"):
        parts_of(folder / SPLIT[0], label="m")


def test_a_link_that_goes_in_a_circle_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").symlink_to("model.safetensors")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        read(tmp_path / "m")


# Folders of models


def found_in(path: Path) -> list[str]:
    return [os.path.relpath(name, path) for name in models_in(path)]


def test_models_of_all_formats_are_found(tmp_path: Path) -> None:
    lay(tmp_path, ["a.pt", "b.onnx", "c.npz", "d.keras", "e.gguf", "f.safetensors", "g.lineage"])
    lay(tmp_path, ["optimizer.pt", "training_args.bin", "notes.txt", "h.msgpack", "i.json"])
    assert found_in(tmp_path) == [
        "a.pt",
        "b.onnx",
        "c.npz",
        "d.keras",
        "e.gguf",
        "f.safetensors",
        "g.lineage",
    ]


def test_one_model_s_exports_beside_its_configuration_are_one(tmp_path: Path) -> None:
    exports = ["model.safetensors", "pytorch_model.bin", "tf_model.h5", "onnx/model.onnx"]
    lay(tmp_path / "one", ["config.json", "optimizer.pt", *exports])
    lay(tmp_path / "adapter", ["adapter_config.json", "adapter_model.bin"])
    lay(tmp_path / "bins", BIN)
    lay(tmp_path / "indexed", ["pytorch_model.bin.index.json", *BIN, "other.pt"])
    lay(tmp_path / "exported", ["config.json", "onnx/model.onnx", "onnx/model_q4.onnx"])
    lay(tmp_path / "loose", exports)
    lay(tmp_path / "words", ["config.json", "README.md"])
    assert found_in(tmp_path) == [
        "adapter",
        "bins",
        "exported",
        "indexed",
        "loose/model.safetensors",
        "loose/onnx/model.onnx",
        "loose/pytorch_model.bin",
        "loose/tf_model.h5",
        "one",
    ]


def test_quantizations_are_several_models(tmp_path: Path) -> None:
    lay(tmp_path / "q", ["config.json", "README.md", "m-Q4.gguf", "m-Q8.gguf", *SPLIT])
    assert found_in(tmp_path) == [f"q/{name}" for name in (SPLIT[0], "m-Q4.gguf", "m-Q8.gguf")]
    lay(tmp_path / "q", ["model.safetensors"])
    assert found_in(tmp_path) == ["q"]
    split = lay(tmp_path / "split", SPLIT)
    assert models_in(split) == [str(split)]
    alone = lay(tmp_path / "alone", ["config.json", "m.gguf"])
    assert models_in(alone) == [str(alone)]


def test_a_hub_cache_of_many_models_holds_each(tmp_path: Path) -> None:
    for name in ("models--a--b", "models--c--d"):
        lay(tmp_path / name, ["blobs/x", "refs/main", "snapshots/c0ffee/m.safetensors"])
    lay(tmp_path, ["blobs/ab/abcd", ".locks/x"])
    assert found_in(tmp_path) == ["models--a--b", "models--c--d"]


def test_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        lay(tmp_path / one, ["m.safetensors"])
        for n in range(40):
            (tmp_path / one / f"to-{n:02}").symlink_to(tmp_path / other)
            (tmp_path / one / f"up-{n:02}").symlink_to(tmp_path)
            (tmp_path / one / f"self-{n:02}").symlink_to(".")
    found = found_in(tmp_path)
    assert {"a/m.safetensors", "b/m.safetensors"} <= set(found)
    assert not any("up-" in name or "self-" in name for name in found)
    assert all(name.count("to-") <= 1 for name in found)


def test_a_folder_with_the_name_of_a_weight_file_is_a_folder(tmp_path: Path) -> None:
    lay(tmp_path / "v1.pt", ["config.json", "model.safetensors"])
    (tmp_path / "v1.pt" / "model.safetensors").write_bytes(model_bytes(small_model()))
    assert found_in(tmp_path) == ["v1.pt"]
    assert fingerprint(tmp_path / "v1.pt").root == fingerprint(small_model()).root
