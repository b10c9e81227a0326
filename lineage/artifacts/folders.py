"""Finds the weight files of a model in a folder, and the models in a folder of models.

Source: the index format of sharded checkpoints of huggingface_hub, and `model_index.json` of
diffusers.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from lineage import canonical
from lineage.artifacts.choice import (
    COMPONENTS,
    Choice,
    choose,
    choose_named,
    is_of_training,
    is_one,
    is_weights,
    sets,
)
from lineage.artifacts.opened import OpenFile, check_inside, is_file
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNREAD = {
    ".msgpack": "Flax weights", ".pkl": "a Python pickle", ".pb": "a TensorFlow graph",
    ".tflite": "TensorFlow Lite", ".mlmodel": "Core ML", ".ot": "a Rust checkpoint",
}  # fmt: skip

MAX_INDEX_BYTES = 64 << 20
"""The largest models' indexes take some megabytes."""


class Part(NamedTuple):
    """Files of a model that are read together.

    Attributes:
        files: In the order of their names.
        weight_map: Tensor -> file name, where an index says so.
        prefix: What the names of its tensors begin with in the whole model.
    """

    files: tuple[Path, ...]
    weight_map: dict[str, str] | None = None
    prefix: str = ""


def parts_of(path: Path, *, label: str) -> list[Part]:
    """Return the weight files of a model; of each of its components, where it is made of several.

    Args:
        path: A weight file, an index, or a folder with either or with components.
        label: How the caller named it.

    Raises:
        FormatError: If there are no weights, or it cannot be said which files are the model.
        OSError: If `path` is not there.
    """
    if not path.is_dir():
        path.stat()
        beside = names_in(path.parent, "") if path.suffix == ".gguf" else []
        chosen = choose_named(path.name, beside, label)
        if chosen.files == (path.name,):
            return [Part((path,))]  # the one that the caller named may be a link
        return [_part(chosen, path.parent, label)]
    components = components_of(path / COMPONENTS) if (path / COMPONENTS).is_file() else []
    chosen_all = choose(lambda folder: names_in(path, folder), components, label)
    if not chosen_all:
        raise no_weights(path, label)
    return [_part(choice, path, label) for choice in chosen_all]


def models_in(path: Path, label: str, depth: int, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the models at a path as the caller would name them: itself, or those in it.

    Links are followed, but never to a folder that is on the way here.
    """
    if not path.is_dir():
        path.stat()
        yield label
        return
    names = names_in(path, "")
    if is_cache(path) or is_one(names, names_in(path, "onnx")):
        yield label
        return
    splits = sets(name for name in names if name.endswith(".gguf"))
    later = {name for group in splits for name in group[1:]}
    above = (*above, os.path.realpath(path))
    for name in names:
        entry, named = path / name, f"{label.rstrip('/')}/{name}"  # a Path would drop a leading ./
        if entry.is_dir() and not name.startswith("."):
            if depth and os.path.realpath(entry) not in above:
                yield from models_in(entry, named, depth - 1, above)
        elif name not in later and (is_weights(name) or entry.suffix == ".lineage"):
            yield named


def names_in(path: Path, folder: str) -> list[str]:
    """Return the names in a folder of a model, in order; none if it is not there."""
    inner = path / folder
    return sorted(entry.name for entry in inner.iterdir()) if inner.is_dir() else []


def components_of(path: Path) -> list[str]:
    """Return the components that a `model_index.json` names: name -> [library, class]."""
    check_inside(path, path.parent, label=str(path))
    document = _document(path)
    if not isinstance(document, dict):
        raise FormatError("the index of components is not a JSON object", file=path)
    names = []
    for name, value in document.items():
        if not isinstance(value, list) or len(value) != 2 or None in value:
            continue  # a setting, or a component that is left out
        if not re.fullmatch(r"\w[\w.-]{0,62}", name):
            reason = f"names the component {printable(repr(name))}, which is not a plain name"
            raise FormatError(reason, file=path)
        names.append(name)
    return sorted(names)


def weight_map_of(index: Path) -> dict[str, str]:
    """Return an index's tensor -> file name, each a plain name."""
    document = _document(index)
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError("the index has no weight_map", file=index)
    names = {name for name in weight_map.values() if isinstance(name, str)}  # few, of many tensors
    plain = {name for name in names - {"", ".."} if PurePosixPath(name).name == name}
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or name not in plain:
            reason = f"the index names the file {printable(str(name))!r}, which is not a plain name"
            raise FormatError(reason, file=index, tensor=tensor)
    return weight_map


def _document(path: Path) -> Any:
    """Return the JSON in a file, which may be no pipe and not larger than an index needs to be."""
    file = OpenFile.open(path, label=str(path))
    try:
        if file.size > MAX_INDEX_BYTES:
            reason = f"{file.size} bytes, more than the {MAX_INDEX_BYTES} allowed of an index"
            raise FormatError(reason, file=path)
        return canonical.loads(file.read(0, file.size), file=path, floats=True)
    finally:
        file.close()


def is_cache(path: Path) -> bool:
    """Return whether a folder is one repository of the hub cache."""
    return (path / "snapshots").is_dir() and (path / "blobs").is_dir()


def no_weights(path: Path, label: str) -> FormatError:
    """Say what a folder without weights does hold."""
    names = names_in(path, "")
    if not names:
        return FormatError("the folder is empty", file=label)
    for name in names:
        kind = "the state of a training" if is_of_training(name) else None
        kind = kind or _UNREAD.get(PurePosixPath(name).suffix)
        if kind is not None:
            reason = f"the folder holds no weights that are read; {printable(name)} is {kind}"
            return FormatError(reason, file=label)
    return FormatError("the folder holds no weights", file=label)


def _part(choice: Choice, path: Path, label: str) -> Part:
    """Return the chosen files, all of them there and within the model's folder."""
    folder = path / choice.folder
    prefix = f"{choice.folder}/" if choice.folder not in {"", "onnx"} else ""
    if choice.index is None:
        files, weight_map = tuple(folder / name for name in choice.files), None
    else:
        check_inside(folder / choice.index, path, label=label)
        weight_map = weight_map_of(folder / choice.index)
        missing = {name for name in set(weight_map.values()) if not is_file(folder / name)}
        for tensor, name in weight_map.items():
            if name in missing:
                reason = f"its shard {printable(name)} is missing"
                raise FormatError(reason, file=label, tensor=tensor)
        files = tuple(folder / name for name in sorted(set(weight_map.values())))
    for file in files:
        check_inside(file, path, label=label)
    return Part(files, weight_map, prefix)
