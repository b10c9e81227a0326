"""Says from names alone which files are a model: no file is opened here.

So a repository's listing is chosen from exactly as a folder is. One format is read where a model
comes in several, and one set of files of it. What cannot be told apart is refused and named.

Source: the names that transformers, diffusers and peft give weights and their indexes, the split
files of llama.cpp, and what the trainers of transformers, accelerate and DeepSpeed leave beside.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FORMATS = (
    (".safetensors",),
    (".bin", ".pt", ".pth", ".ckpt", ".jit", ".torchscript", ".pt2"),
    (".gguf", ".onnx", ".h5", ".hdf5", ".keras", ".npz", ".npy"),
)
"""Suffixes of weight files. A group before another is preferred; within one nothing is."""

CONFIGURATIONS = ("config.json", "adapter_config.json")
"""A folder with one of these beside its weights is one model."""

COMPONENTS = "model_index.json"
"""Names the folders of a model that is made of several."""

_USUAL = (
    "model.safetensors", "diffusion_pytorch_model.safetensors", "adapter_model.safetensors",
    "pytorch_model.bin", "diffusion_pytorch_model.bin", "adapter_model.bin",
    "model.onnx", "tf_model.h5",
)  # fmt: skip
"""Names that say "this is the model" where others lie beside it (variants, extra adapters)."""

_INDEX = ".index.json"
_SHARD = r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<suffix>\.[a-z0-9]+)"
_TRAINING = (
    "optimizer", "scheduler", "scaler", "sampler", "rng_state", "random_states", "training_args",
    "trainer_state",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Choice:
    """The files of one model, or of one component of it, by their names in `folder`.

    Attributes:
        folder: Below the model's own folder; "" is that folder.
        files: Its weight files; none where an index names them.
        index: The index file, if there is one.
    """

    folder: str
    files: tuple[str, ...]
    index: str | None = None


def choose(
    tree: Callable[[str], Iterable[str]], components: Iterable[str], label: str
) -> list[Choice]:
    """Return which files are the model; none if there are no weights.

    Args:
        tree: Gives the names in a folder of the model: "" is its own, "unet" one below it.
        components: The folders of a model made of several, each of which holds one.
        label: How the caller named it.

    Raises:
        FormatError: If it cannot be said.
    """
    chosen = []
    for name in components:
        inner = sorted(tree(name))
        found = _chosen(inner, name, label)
        if found is not None:
            chosen.append(found)
        elif not inner or "config.json" in inner:  # tokenizers and schedulers have other files
            raise FormatError(f"its component {printable(name)} has no weights", file=label)
    if chosen:
        return chosen
    found = _chosen(sorted(tree("")), "", label) or _chosen(sorted(tree("onnx")), "onnx", label)
    return [] if found is None else [found]


def choose_named(name: str, beside: Iterable[str], label: str) -> Choice:
    """Return the files that one name stands for: an index its shards, a split GGUF the others.

    Raises:
        FormatError: If one of the others is missing.
    """
    if is_index(name):
        return Choice("", (), name)
    if name.endswith(".gguf"):
        for group in sets([other for other in beside if other.endswith(".gguf")]):
            if name in group:
                return Choice("", _whole(group, label))
    return Choice("", (name,))


def is_index(name: str) -> bool:
    """Return whether a file of this name is the index of a sharded set."""
    stem = name.removesuffix(_INDEX)
    return stem != name and stem.endswith((".safetensors", ".bin", ".h5"))


def is_weights(name: str) -> bool:
    """Return whether a file of this name may hold a model."""
    return _rank(name) is not None and not is_of_training(name)


def is_of_training(name: str) -> bool:
    """Return whether a trainer gives this name to its own state."""
    begins = any(
        name == word or name.startswith((f"{word}.", f"{word}_", f"{word}-")) for word in _TRAINING
    )
    return begins or name.endswith("_optim_states.pt")


def is_one(names: Iterable[str], onnx: Iterable[str]) -> bool:
    """Return whether a folder with these names is one model, and not a folder of models.

    An index, a configuration or a set of shards says so. Several GGUF files are quantizations to
    choose from even beside a configuration.
    """
    names = list(names)
    if COMPONENTS in names or any(is_index(name) for name in names):
        return True
    level = preferred(names)
    groups = sets(level)
    if any(name in names for name in CONFIGURATIONS):
        several = len(groups) > 1 and all(name.endswith(".gguf") for name in level)
        return not several if level else bool(preferred(onnx))
    return len(groups) == 1 and _sharded(level[0]) is not None


def preferred(names: Iterable[str]) -> list[str]:
    """Return the weight files and indexes of the first format that is there."""
    ranked: dict[int, list[str]] = {}
    for name in names:
        rank = _rank(name.removesuffix(_INDEX) if is_index(name) else name)
        if rank is not None and not is_of_training(name):
            ranked.setdefault(rank, []).append(name)
    return sorted(ranked[min(ranked)]) if ranked else []


def sets(files: Iterable[str]) -> list[list[str]]:
    """Return the files grouped into models: numbered shards together, any other by itself."""

    def key(name: str) -> tuple[str, str, str]:
        match = _sharded(name)
        return (match["stem"], match["total"], match["suffix"]) if match else (name, "", "")

    ordered = sorted(files, key=lambda name: (key(name), name))
    return [list(group) for _, group in groupby(ordered, key=key)]


def _chosen(names: list[str], folder: str, label: str) -> Choice | None:
    """Return the files of the one model among these; None if there are no weights."""
    level = preferred(names)
    indexes = [name for name in level if is_index(name)]
    usual = [name for name in _USUAL if f"{name}.index.json" in indexes]
    if len(indexes) == 1 or usual:
        return Choice(folder, (), f"{usual[0]}.index.json" if usual else indexes[0])
    if indexes:
        raise _ambiguous(indexes, folder, label)
    for name in _USUAL:
        if name in level:
            return Choice(folder, (name,))
    groups = sets(level)
    if len(groups) > 1:
        raise _ambiguous([group[0] for group in groups], folder, label)
    return Choice(folder, _whole(groups[0], label)) if groups else None


def _sharded(name: str) -> re.Match[str] | None:
    return re.fullmatch(_SHARD, name)


def _rank(name: str) -> int | None:
    suffix = PurePosixPath(name).suffix
    return next((rank for rank, suffixes in enumerate(FORMATS) if suffix in suffixes), None)


def _whole(group: list[str], label: str) -> tuple[str, ...]:
    """Return a set of shards if each number is there once."""
    matches = [match for match in map(_sharded, group) if match is not None]
    if matches:
        total, numbers = matches[0]["total"], {int(match["number"]) for match in matches}
        missing = next((n for n in range(1, int(total) + 1) if n not in numbers), None)
        if missing is not None:
            raise FormatError(f"shard {missing} of {total} is missing", file=label)
        if len(numbers) > int(total):
            raise FormatError(f"has {len(numbers)} shards that say there are {total}", file=label)
    return tuple(group)


def _ambiguous(names: list[str], folder: str, label: str) -> FormatError:
    shown = ", ".join(printable(f"{folder}/{name}".lstrip("/")) for name in names[:4])
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return FormatError(f"several weight files and no index ({shown}{more}); name one", file=label)
