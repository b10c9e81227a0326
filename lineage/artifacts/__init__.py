"""From bytes to named tensors: `read` opens any artifact this library understands."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from lineage.artifacts.base import Affine, Artifact, Item, in_name_order
from lineage.artifacts.folders import Part, parts_of
from lineage.artifacts.hub import located, models_in
from lineage.artifacts.opened import Opener
from lineage.errors import FormatError, printable

if TYPE_CHECKING:
    from lineage.artifacts.opened import OpenFile

__all__ = ["Affine", "Artifact", "Item", "models_in", "read"]

READERS = {
    ".safetensors": "safetensors",
    ".gguf": "gguf",
    ".npy": "numpy_files",
    ".npz": "numpy_files",
    ".onnx": "onnx",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".keras": "hdf5",
    ".pt": "torch_files",
    ".pth": "torch_files",
    ".bin": "torch_files",
    ".ckpt": "torch_files",
    ".jit": "torch_files",
    ".torchscript": "torch_files",
    ".pt2": "torch_files",
}
"""The reader of each kind of file: a module of this folder whose `items_of` takes an `OpenFile`
(and, for formats that keep data in several files, the `Opener`) and returns its tensors."""


def read(source: str | PathLike[str] | Any) -> Artifact:
    """Open a model for reading; no tensor is loaded.

    Args:
        source: A weight file, the index of a sharded one, a hub-style folder, a folder of
            the hub cache (snapshot or repository), `org/name[@revision]` or
            `hf://org/name[@revision][/path]` of a model repository, which is fetched where the hub
            cache lacks it, a `torch.nn.Module`, or a mapping of names to torch tensors, NumPy
            arrays or mappings of these.

    Returns:
        The artifact, its tensors in name order. Close it, or use it in a `with` statement.

    Raises:
        FormatError: If a header lies, a shard is missing or there are no weights.
        OSError: If the path cannot be opened.
        TypeError: If `source` is none of the above.
    """
    if not isinstance(source, str | PathLike):
        from lineage.artifacts.memory import items_of

        return Artifact("memory", in_name_order(items_of(source), path="memory"))
    label = fspath(source)
    parts = parts_of(located(source), label=label)
    opener = Opener()
    with opener.stack as stack:
        items = [item for part in parts for item in _items_of_part(part, opener, label)]
        for file in opener.files:
            file.check_written()
        ordered = in_name_order(items, path=label)
        return Artifact(label, ordered, tuple(opener.files), stack.pop_all())


def _items_of_part(part: Part, opener: Opener, label: str) -> list[Item]:
    """Return the tensors of files that are read together, named as in the whole model."""
    items: list[Item] = []
    for path in part.files:
        found = _items_of(opener.open(path, label=str(path)), opener)
        items.extend(found)
        if part.weight_map is not None:
            _check_shard(found, path.name, part.weight_map, label=str(path))
    if part.weight_map is not None and len(part.weight_map) > len(items):
        missing = min(part.weight_map.keys() - {item.name for item in items})
        reason = f"the index places it in {printable(part.weight_map[missing])}, which lacks it"
        raise FormatError(reason, file=label, tensor=missing)
    return [replace(i, name=part.prefix + i.name) for i in items] if part.prefix else items


def _items_of(file: OpenFile, opener: Opener) -> list[Item]:
    """Return a file's tensors, read by the reader for its kind."""
    if file.location.suffix not in READERS:
        kinds = ", ".join(READERS)
        raise FormatError(f"not a kind of file that is read ({kinds})", file=file.path)
    module = import_module(f"lineage.artifacts.{READERS[file.location.suffix]}")
    items: list[Item] = module.items_of(file, opener)
    return items


def _check_shard(found: list[Item], name: str, weight_map: dict[str, str], *, label: str) -> None:
    """Raise if a shard holds a tensor that the index does not place in it."""
    for item in found:
        if weight_map.get(item.name) != name:
            where = printable(weight_map.get(item.name, "no file"))
            raise FormatError(f"the index places it in {where}", file=label, tensor=item.name)
